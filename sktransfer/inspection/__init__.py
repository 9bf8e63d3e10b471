"""Maps, embeddings, training histories and errors, drawn in the style of scikit-learn."""

from sktransfer.inspection._augmentation import AugmentationDisplay
from sktransfer.inspection._confusion_examples import ConfusionExamplesDisplay
from sktransfer.inspection._deletion_insertion import (
    DeletionInsertionCurves,
    deletion_insertion_curves,
)
from sktransfer.inspection._deletion_insertion_display import DeletionInsertionDisplay
from sktransfer.inspection._embedding import EmbeddingDisplay
from sktransfer.inspection._error_gallery import ErrorGalleryDisplay
from sktransfer.inspection._grad_cam import grad_cam
from sktransfer.inspection._gradient import input_gradient
from sktransfer.inspection._history import HistoryDisplay
from sktransfer.inspection._images import as_shown, image_reader, images_of
from sktransfer.inspection._integrated_gradients import integrated_gradients
from sktransfer.inspection._maps import saliency_maps
from sktransfer.inspection._occlusion import occlusion
from sktransfer.inspection._randomization import RandomizationTest, saliency_randomization_test
from sktransfer.inspection._saliency import SaliencyDisplay
from sktransfer.inspection._similar import similar_images

__all__ = [
    "AugmentationDisplay",
    "ConfusionExamplesDisplay",
    "DeletionInsertionCurves",
    "DeletionInsertionDisplay",
    "EmbeddingDisplay",
    "ErrorGalleryDisplay",
    "HistoryDisplay",
    "RandomizationTest",
    "SaliencyDisplay",
    "as_shown",
    "image_reader",
    "deletion_insertion_curves",
    "grad_cam",
    "input_gradient",
    "integrated_gradients",
    "occlusion",
    "images_of",
    "saliency_maps",
    "saliency_randomization_test",
    "similar_images",
]
