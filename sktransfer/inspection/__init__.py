"""Maps, embeddings, training histories and errors, drawn in the style of scikit-learn."""

from sktransfer.inspection._augmentation import AugmentationDisplay
from sktransfer.inspection._confusion_examples import ConfusionExamplesDisplay
from sktransfer.inspection._deletion_insertion import (
    DeletionInsertionCurves,
    DeletionInsertionDisplay,
    deletion_insertion_curves,
)
from sktransfer.inspection._embedding import EmbeddingDisplay
from sktransfer.inspection._error_gallery import ErrorGalleryDisplay
from sktransfer.inspection._gradient_maps import grad_cam, input_gradient, integrated_gradients
from sktransfer.inspection._history import HistoryDisplay
from sktransfer.inspection._occlusion import occlusion
from sktransfer.inspection._randomization_test import saliency_randomization_test
from sktransfer.inspection._saliency import SaliencyDisplay, saliency_maps
from sktransfer.inspection._similar import similar_images

__all__ = [
    "AugmentationDisplay",
    "ConfusionExamplesDisplay",
    "DeletionInsertionCurves",
    "DeletionInsertionDisplay",
    "EmbeddingDisplay",
    "ErrorGalleryDisplay",
    "HistoryDisplay",
    "SaliencyDisplay",
    "deletion_insertion_curves",
    "grad_cam",
    "input_gradient",
    "integrated_gradients",
    "occlusion",
    "saliency_maps",
    "saliency_randomization_test",
    "similar_images",
]
