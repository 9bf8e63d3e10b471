"""From ``X`` to pictures and from pictures to batches; it must not know networks or estimators."""

from sktransfer.images._arrays import Picture
from sktransfer.images._preprocess import Preprocessing, make_preprocessing
from sktransfer.images._source import EncodedPicture, ImageSource, as_image_source

__all__ = [
    "EncodedPicture",
    "ImageSource",
    "Picture",
    "Preprocessing",
    "as_image_source",
    "make_preprocessing",
]
