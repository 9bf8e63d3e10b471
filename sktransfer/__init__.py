"""Image transfer learning as scikit-learn estimators."""

from sktransfer._channels import ImageChannels
from sktransfer._extractor import PretrainedFeatureExtractor
from sktransfer._finetune import FineTuneClassifier
from sktransfer._version import __version__
from sktransfer._whitening import ImageWhitening
from sktransfer.backbones import describe_backbone, list_backbones
from sktransfer.frozen import cache_info, clear_cache
from sktransfer.model_selection import OperatingPointClassifier

__all__ = [
    "FineTuneClassifier",
    "ImageChannels",
    "ImageWhitening",
    "OperatingPointClassifier",
    "PretrainedFeatureExtractor",
    "__version__",
    "cache_info",
    "clear_cache",
    "describe_backbone",
    "list_backbones",
]
