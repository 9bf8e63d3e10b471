"""Maps, embeddings, training histories and errors, drawn in the style of scikit-learn."""

from sktransfer.inspection._augmentation import AugmentationDisplay
from sktransfer.inspection._deletion_insertion import (
    DeletionInsertionCurves,
    DeletionInsertionDisplay,
    deletion_insertion_curves,
)
from sktransfer.inspection._embedding import EmbeddingDisplay, similar_images
from sktransfer.inspection._error_displays import ConfusionExamplesDisplay, ErrorGalleryDisplay
from sktransfer.inspection._gradient_maps import grad_cam, input_gradient, integrated_gradients
from sktransfer.inspection._history import HistoryDisplay
from sktransfer.inspection._learning_rate import LearningRateDisplay
from sktransfer.inspection._occlusion import occlusion
from sktransfer.inspection._randomization_test import saliency_randomization_test
from sktransfer.inspection._saliency import SaliencyDisplay, saliency_maps

__all__ = [
    "AugmentationDisplay",
    "ConfusionExamplesDisplay",
    "DeletionInsertionCurves",
    "DeletionInsertionDisplay",
    "EmbeddingDisplay",
    "ErrorGalleryDisplay",
    "HistoryDisplay",
    "LearningRateDisplay",
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
