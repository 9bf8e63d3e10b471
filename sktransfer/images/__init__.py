"""From ``X`` to pictures and from pictures to batches; it must not know networks or estimators."""

from sktransfer.images._arrays import Picture
from sktransfer.images._augmentation import ImageAugmentation
from sktransfer.images._augmentation_callables import CallableAugmentation, resolve_augmentation
from sktransfer.images._derived import PictureSelection, PictureViews
from sktransfer.images._preprocess import Preprocessing, make_preprocessing
from sktransfer.images._source import EncodedPicture, ImageSource, as_image_source
from sktransfer.images._tables import resolve_image_shape

__all__ = [
    "CallableAugmentation",
    "EncodedPicture",
    "ImageAugmentation",
    "ImageSource",
    "Picture",
    "PictureSelection",
    "PictureViews",
    "Preprocessing",
    "as_image_source",
    "make_preprocessing",
    "resolve_augmentation",
    "resolve_image_shape",
]
