"""What is done to images before or between networks: augmentation, channels, whitening, DICOM."""

from sktransfer._images import DicomOptions, ImageAugmentation
from sktransfer.preprocessing._channels import ImageChannels
from sktransfer.preprocessing._whitening import ImageWhitening

__all__ = ["DicomOptions", "ImageAugmentation", "ImageChannels", "ImageWhitening"]
