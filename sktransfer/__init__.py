"""Image transfer learning as scikit-learn estimators."""

from sktransfer._backbones import describe_backbone, list_backbones
from sktransfer._extractor import PretrainedFeatureExtractor
from sktransfer._finetune import FineTuneClassifier
from sktransfer._frozen import cache_info, clear_cache
from sktransfer._version import __version__

__all__ = [
    "FineTuneClassifier",
    "PretrainedFeatureExtractor",
    "__version__",
    "cache_info",
    "clear_cache",
    "describe_backbone",
    "list_backbones",
]
