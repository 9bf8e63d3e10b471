"""Pictures of what was done and learned, in the style of scikit-learn's displays."""

from sktransfer.inspection._augmentation import AugmentationDisplay
from sktransfer.inspection._freeze_depth import FreezeDepthDisplay

__all__ = ["AugmentationDisplay", "FreezeDepthDisplay"]
