"""From ``X`` to pictures and from pictures to batches; it must not know networks or estimators."""

from sktransfer.images._arrays import Picture
from sktransfer.images._augmentation import ImageAugmentation
from sktransfer.images._augmentation_callables import CallableAugmentation, resolve_augmentation
from sktransfer.images._decode import encoded_kind
from sktransfer.images._derived import PictureSelection, PictureViews, portions
from sktransfer.images._dicom import read_dicom_header
from sktransfer.images._dicom_options import DicomFrame, DicomOptions
from sktransfer.images._formats import is_dicom
from sktransfer.images._preprocess import Preprocessing, make_preprocessing
from sktransfer.images._source import (
    EncodedPicture,
    ImageSource,
    as_image_source,
    read_file,
)
from sktransfer.images._tables import resolve_image_shape

__all__ = [
    "CallableAugmentation",
    "DicomFrame",
    "DicomOptions",
    "EncodedPicture",
    "ImageAugmentation",
    "ImageSource",
    "Picture",
    "PictureSelection",
    "PictureViews",
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
