"""The images behind an estimator's rows: as it reads them, to look at, and to edit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from sktransfer._base import ImageInputMixin
from sktransfer._images import DecodedImage, ImageSource, as_image_source, resolve_image_shape
from sktransfer._utils.per_row import check_present
from sktransfer.exceptions import ImageDecodeError

# Attributes in which wrappers keep an estimator, fitted ones first.
_WRAPPED = ("best_estimator_", "estimator_", "estimator")


def image_reader(estimator: Any) -> ImageInputMixin | None:
    """Return the step that reads images inside pipelines and wrappers, or None."""
    if isinstance(estimator, ImageInputMixin):
        return estimator
    if isinstance(estimator, Pipeline):
        readers = (image_reader(step) for _, step in estimator.steps)
        return next((reader for reader in readers if reader is not None), None)
    for name in _WRAPPED:
        inner = getattr(estimator, name, None)
        if inner is not None and not isinstance(inner, str):
            return image_reader(inner)
    return None


def images_of(
    estimator: Any, X: Any, image_shape: Any = None, value_range: Any = None
) -> ImageSource:
    """Open ``X`` as the estimator reads it: with its ``image_shape``, ``value_range``, ``dicom``.

    ``image_shape`` and ``value_range`` that are given have precedence, and an ``ImageSource`` is
    returned as it is. Where none of our estimators reads ``X``, arrays have no known range: they
    are scaled from their minimum to their maximum.
    """
    if isinstance(X, ImageSource):
        return X
    reader = image_reader(estimator)
    if reader is not None:
        return as_image_source(
            X,
            image_shape=reader.image_shape if image_shape is None else image_shape,
            value_range=reader.value_range if value_range is None else value_range,
            dicom=reader.dicom,
        )
    arrays = isinstance(X, (np.ndarray, pd.DataFrame)) and np.asarray(X).dtype.kind in "buif"
    if value_range is None and arrays:
        low, high = float(np.min(X)), float(np.max(X))
        value_range = (low, high) if low < high else None
    return as_image_source(X, image_shape=image_shape, value_range=value_range)


def as_shown(image: DecodedImage) -> np.ndarray:
    """Convert an image to what matplotlib shows: (h, w, 3), floats from 0 to 1."""
    values = np.asarray(image)
    if isinstance(image, Image.Image):
        values = values / 255.0
    if values.ndim == 2:
        values = np.repeat(values[:, :, None], 3, axis=2)
    return values.clip(0, 1)


def shown_small(source: ImageSource, row: int) -> np.ndarray | None:
    """Return a small copy of a row for matplotlib; None where it cannot be read.

    A figure of many images does without one of them.
    """
    for side in (None, 512):  # a fraction of a JPEG too large to be decoded whole
        try:
            return as_shown(thumbnail(source.open(row).decode(side), 256))
        except ImageDecodeError:
            continue
    return None


def thumbnail(image: DecodedImage, side: int) -> DecodedImage:
    """Return a copy whose longer side is not much more than ``side`` pixels."""
    if isinstance(image, np.ndarray):
        step = max(1, max(image.shape[:2]) // side)
        return image[::step, ::step]
    image = image.copy()
    image.thumbnail((side, side))
    return image


def class_codes(classes: np.ndarray, y: Any, n: int) -> np.ndarray:
    """Return the positions of ``n`` labels, or of one for all, or raise a ValueError."""
    labels = np.asarray(check_present(y))
    if not labels.ndim:
        labels = np.full(n, labels)
    if labels.shape != (n,):
        raise ValueError(
            f"y must be of shape ({n},), with a label for each row of X, or one label; got "
            f"{labels.shape}."
        )
    unknown = np.setdiff1d(labels, classes)
    if len(unknown):
        raise ValueError(
            f"y contains {unknown.tolist()[0]!r}, which is none of the classes {classes.tolist()}."
        )
    order = np.argsort(classes)  # findings are in the order of their columns
    return order[np.searchsorted(classes, labels, sorter=order)]


# From edited images to one score for each.
Score = Callable[[list[np.ndarray]], np.ndarray]


def scored_images(
    estimator: Any, X: Any, y: Any, *, response_method: str, auto: tuple[str, ...], image_shape: Any
) -> tuple[list[np.ndarray], list[Score]]:
    """Return images that can be edited, and how to score edited copies of each for its class.

    ``response_method="auto"`` is the first of the methods in ``auto`` that the estimator has.
    Without ``y``, the class is the predicted one.
    """
    check_is_fitted(estimator)
    respond = _responder(estimator, response_method, auto)
    images, rebuild = _editable(estimator, X, image_shape)
    images = list(images)
    if y is None:
        codes = [int(respond(rebuild([image]))[0].argmax()) for image in images]
    elif hasattr(estimator, "classes_"):
        codes = class_codes(estimator.classes_, y, len(images)).tolist()
    else:
        raise ValueError("y contains classes, but a regressor has none; use y=None.")

    def scoring(code: int) -> Score:
        return lambda edited: respond(rebuild(edited))[:, code]

    return images, [scoring(code) for code in codes]


def _responder(
    estimator: Any, response_method: str, auto: tuple[str, ...]
) -> Callable[[Any], np.ndarray]:
    """Return a function from rows to scores with a column for each class."""
    if response_method not in ("auto", *auto):
        raise ValueError(
            f"response_method must be 'auto' or one of {', '.join(auto)}; got {response_method!r}."
        )
    known = auto if response_method == "auto" else (response_method,)
    name = next((each for each in known if hasattr(estimator, each)), None)
    if name is None or (name == "predict" and hasattr(estimator, "classes_")):
        raise ValueError(
            f"{type(estimator).__name__} has no {' or '.join(known[:2])}, so there is no score "
            "that could change. Choose another response_method or a classifier with scores."
        )

    def respond(X: Any) -> np.ndarray:
        values = np.asarray(getattr(estimator, name)(X), dtype=np.float64)
        if values.ndim == 2:
            return values
        if name == "decision_function":
            return np.stack([-values, values], axis=1)
        return values[:, None]

    return respond


def _editable(
    estimator: Any, X: Any, image_shape: Any
) -> tuple[Any, Callable[[list[np.ndarray]], Any]]:
    """Return images (h, w) or (h, w, c), and a function from edited ones to the form of ``X``."""
    reader = image_reader(estimator)
    if isinstance(X, torch.Tensor) and X.ndim == 4:
        dtype = X.dtype
        return (
            X.detach().cpu().numpy().transpose(0, 2, 3, 1),
            lambda images: torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2)).to(dtype),
        )
    if isinstance(X, np.ndarray) and X.dtype.kind in "buif" and X.ndim in (3, 4):
        return X, np.stack
    numeric = isinstance(X, pd.DataFrame) and all(kind.kind in "buif" for kind in X.dtypes)
    if numeric or (isinstance(X, np.ndarray) and X.dtype.kind in "buif" and X.ndim == 2):
        table = np.asarray(X)
        given = image_shape if image_shape is not None else getattr(reader, "image_shape", None)
        shape = resolve_image_shape(given, table.shape[1])

        def raveled(images: list[np.ndarray]) -> Any:
            rows = np.stack(images).reshape(len(images), -1)
            return pd.DataFrame(rows, columns=X.columns) if numeric else rows

        return table.reshape(len(table), *shape), raveled
    return _decoded(estimator, X, reader)


def _decoded(estimator: Any, X: Any, reader: Any) -> tuple[Any, Callable[[list[np.ndarray]], Any]]:
    """Return the same for files, Pillow images and lists of arrays."""
    if isinstance(X, pd.DataFrame) and X.shape[1] != 1:
        raise ValueError(
            f"X is a table of {X.shape[1]} columns; expected a numeric table of pixels, or one "
            "column of images."
        )
    values = X.iloc[:, 0] if isinstance(X, pd.DataFrame) else X
    arrays = all(isinstance(row, np.ndarray) and row.ndim in (2, 3) for row in values)
    if arrays:
        pixels = list(values)
    else:
        source = images_of(estimator, X)
        images = [source.open(row).decode() for row in range(len(source))]
        deep = any(isinstance(each, np.ndarray) for each in images)
        if deep and getattr(reader, "value_range", None) is not None:
            raise ValueError(
                "X has files of more than 8 bits and the estimator has a value_range, so edited "
                "images cannot be passed to it as files; pass arrays instead."
            )
        pixels = [np.asarray(each) for each in images]

    def rebuild(edited: list[np.ndarray]) -> Any:
        eight_bit = not arrays and edited[0].dtype == np.uint8
        rows: list[Any] = [Image.fromarray(each) if eight_bit else each for each in edited]
        if isinstance(X, (pd.DataFrame, pd.Series)):
            # Without the None, pandas would make a table of arrays of one shape.
            column = pd.Series([*rows, None], dtype=object)[:-1]
            return column.to_frame(X.columns[0]) if isinstance(X, pd.DataFrame) else column
        return rows

    return pixels, rebuild
