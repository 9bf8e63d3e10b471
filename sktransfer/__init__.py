"""Image transfer learning as scikit-learn estimators."""

from sktransfer._extractor import PretrainedFeatureExtractor
from sktransfer._version import __version__
from sktransfer.backbones import describe_backbone, list_backbones

__all__ = [
    "PretrainedFeatureExtractor",
    "__version__",
    "describe_backbone",
    "list_backbones",
]
