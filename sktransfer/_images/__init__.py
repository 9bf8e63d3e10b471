"""From ``X`` to images and from images to batches; it must not know networks or estimators."""

from sktransfer._images._arrays import DecodedImage
from sktransfer._images._augmentation import ImageAugmentation
from sktransfer._images._augmentation_callables import CallableAugmentation, resolve_augmentation
from sktransfer._images._decode import encoded_kind
from sktransfer._images._derived import ImageSelection, ImageViews, portions
from sktransfer._images._dicom import read_dicom_header
from sktransfer._images._dicom_options import DicomFrame, DicomOptions
from sktransfer._images._formats import is_dicom
from sktransfer._images._preprocess import Preprocessing, make_preprocessing
from sktransfer._images._source import (
    EncodedImage,
    ImageSource,
    as_image_source,
    read_file,
)
from sktransfer._images._tables import resolve_image_shape

__all__ = [
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
    "is_dicom",
    "make_preprocessing",
    "portions",
    "read_dicom_header",
    "read_file",
    "resolve_augmentation",
    "resolve_image_shape",
]
