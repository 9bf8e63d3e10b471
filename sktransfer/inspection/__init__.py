"""Pictures of what was done and learned, in the style of scikit-learn's displays."""

from sktransfer.inspection._augmentation import AugmentationDisplay

__all__ = ["AugmentationDisplay"]
