"""From ``X`` to images and from images to batches."""

from sktransfer._images._augmentation import ImageAugmentation
from sktransfer._images._augmentation_callables import CallableAugmentation, resolve_augmentation
from sktransfer._images._decode import encoded_kind
from sktransfer._images._dicom import (
    DicomFrame,
    DicomOptions,
    read_dicom_decisions,
    read_dicom_header,
)
from sktransfer._images._formats import identify, is_dicom
from sktransfer._images._preprocess import HUGE, Preprocessing, make_preprocessing
from sktransfer._images._rows import is_missing, resolve_image_shape
from sktransfer._images._source import (
    EncodedImage,
    ImageSelection,
    ImageSource,
    ImageViews,
    as_image_source,
    portions,
    read_file,
)
from sktransfer._images._values import DecodedImage

__all__ = [
    "HUGE",
    "CallableAugmentation",
    "DicomFrame",
    "DicomOptions",
    "EncodedImage",
    "ImageAugmentation",
    "ImageSource",
    "DecodedImage",
    "ImageSelection",
    "ImageViews",
    "Preprocessing",
    "as_image_source",
    "encoded_kind",
    "identify",
    "is_dicom",
    "is_missing",
    "make_preprocessing",
    "portions",
    "read_dicom_decisions",
    "read_dicom_header",
    "read_file",
    "resolve_augmentation",
    "resolve_image_shape",
]
