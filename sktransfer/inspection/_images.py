"""Images as an estimator reads them, whatever they are in; it must not know networks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.pipeline import Pipeline

from sktransfer._base import ImageInputMixin
from sktransfer._images import DecodedImage, ImageSource, as_image_source
from sktransfer.exceptions import ImageDecodeError

# Attributes that hold the estimator which another one stands for.
_INNER = ("best_estimator_", "estimator_", "estimator")


def image_reader(estimator: Any) -> ImageInputMixin | None:
    """What reads images inside pipelines and wrappers; None where nothing of ours does."""
    return next(_readers(estimator), None)


def _readers(estimator: Any) -> Iterator[ImageInputMixin]:
    if isinstance(estimator, ImageInputMixin):
        yield estimator
    elif isinstance(estimator, Pipeline):
        for _, step in estimator.steps:
            yield from _readers(step)
    else:
        for name in _INNER:
            inner = getattr(estimator, name, None)
            if inner is not None and not isinstance(inner, str):
                yield from _readers(inner)
                return


def images_of(
    estimator: Any, X: Any, image_shape: Any = None, value_range: Any = None
) -> ImageSource:
    """``X`` as the estimator reads it: its ``image_shape``, ``value_range`` and ``dicom``.

    What none of our estimators reads has no scale of its own: arrays are shown from their least
    value to their largest. An ``ImageSource`` is taken as it is, and ``image_shape`` and
    ``value_range`` that are given go before the estimator's.
    """
    if isinstance(X, ImageSource):
        return X
    reader = image_reader(estimator)
    if reader is None and value_range is None:
        numbers = isinstance(X, (np.ndarray, pd.DataFrame)) and np.asarray(X).dtype.kind in "buif"
        low, high = (float(np.min(X)), float(np.max(X))) if numbers else (0.0, 0.0)
        return as_image_source(
            X, image_shape=image_shape, value_range=(low, high) if low < high else None
        )
    if reader is None:
        return as_image_source(X, image_shape=image_shape, value_range=value_range)
    return as_image_source(
        X,
        image_shape=reader.image_shape if image_shape is None else image_shape,
        value_range=reader.value_range if value_range is None else value_range,
        dicom=reader.dicom,
    )


def as_shown(image: DecodedImage) -> np.ndarray:
    """An image as matplotlib shows it: (h, w, 3), floats from 0 to 1."""
    values = np.asarray(image)
    if isinstance(image, Image.Image):
        values = values / 255.0
    if values.ndim == 2:
        values = np.repeat(values[:, :, None], 3, axis=2)
    return values.clip(0, 1)


def shown_small(source: ImageSource, row: int, most: int = 256) -> np.ndarray | None:
    """A row as matplotlib shows it, its longer side about ``most`` pixels at the most.

    None if it cannot be read: a figure of many images does without one of them.
    """
    try:
        image = source.open(row).decode()
    except ImageDecodeError:
        return None
    return as_shown(small(image, most))


def small(image: DecodedImage, most: int) -> DecodedImage:
    """A copy with a longer side of not much more than ``most`` pixels."""
    if isinstance(image, np.ndarray):
        step = max(1, max(image.shape[:2]) // most)
        return image[::step, ::step]
    image = image.copy()
    image.thumbnail((most, most))
    return image
