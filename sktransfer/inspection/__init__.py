"""Pictures of what was done and learned, in the style of scikit-learn's displays."""

from sktransfer.inspection._augmentation import AugmentationDisplay
from sktransfer.inspection._calibration import CalibrationDisplay
from sktransfer.inspection._confusion import ConfusionPairDisplay
from sktransfer.inspection._confusion_examples import ConfusionExamplesDisplay
from sktransfer.inspection._decision_curve import DecisionCurveDisplay
from sktransfer.inspection._deletion_insertion import (
    DeletionInsertionCurves,
    deletion_insertion_curves,
)
from sktransfer.inspection._deletion_insertion_display import DeletionInsertionDisplay
from sktransfer.inspection._embedding import EmbeddingDisplay
from sktransfer.inspection._error_gallery import ErrorGalleryDisplay
from sktransfer.inspection._freeze_depth import FreezeDepthDisplay
from sktransfer.inspection._grad_cam import grad_cam
from sktransfer.inspection._gradient import input_gradient
from sktransfer.inspection._history import HistoryDisplay
from sktransfer.inspection._integrated_gradients import integrated_gradients
from sktransfer.inspection._maps import saliency_maps
from sktransfer.inspection._occlusion import occlusion
from sktransfer.inspection._pictures import as_shown, image_reader, pictures_of
from sktransfer.inspection._randomization import RandomizationTest, saliency_randomization_test
from sktransfer.inspection._reader_study import Reader, ReaderStudyDisplay
from sktransfer.inspection._saliency import SaliencyDisplay
from sktransfer.inspection._score_distribution import ScoreDistributionDisplay
from sktransfer.inspection._similar import similar_images

__all__ = [
    "AugmentationDisplay",
    "CalibrationDisplay",
    "ConfusionExamplesDisplay",
    "ConfusionPairDisplay",
    "DecisionCurveDisplay",
    "DeletionInsertionCurves",
    "DeletionInsertionDisplay",
    "EmbeddingDisplay",
    "ErrorGalleryDisplay",
    "FreezeDepthDisplay",
    "HistoryDisplay",
    "RandomizationTest",
    "Reader",
    "ReaderStudyDisplay",
    "SaliencyDisplay",
    "ScoreDistributionDisplay",
    "as_shown",
    "image_reader",
    "deletion_insertion_curves",
    "grad_cam",
    "input_gradient",
    "integrated_gradients",
    "occlusion",
    "pictures_of",
    "saliency_maps",
    "saliency_randomization_test",
    "similar_images",
]
