"""Which of the accepted forms ``X`` is, and its rows; it must not read or decode any of them."""

from __future__ import annotations

import math
import os
import sys
import zipfile
from collections.abc import Sequence, Sized
from numbers import Number
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from scipy import sparse
from sklearn.utils import check_array

from sktransfer._images._arrays import (
    CHANNELS,
    OTHER_CHANNELS,
    ValueScale,
    check_batch_range,
    check_numeric,
    tensor_to_array,
)
from sktransfer._images._dicom_dataset import is_dataset

_ENCODED = (str, bytes, bytearray, memoryview, os.PathLike, Image.Image)
_COLUMN_TRANSFORMER = (
    "Give each kind of column its own transformer: "
    'ColumnTransformer([("image", extractor, ["path"]), ("table", StandardScaler(), ["age"])]).'
)


class Table(NamedTuple):
    """The rows of ``X``, and how many columns it has if it is two-dimensional.

    ``rows`` is a sequence of single rows, or a checked array of shape (n, H, W[, C]).
    """

    rows: Sequence[Any] | np.ndarray
    n_columns: int | None = None


def table_of(X: Any, image_shape: Any, value_range: ValueScale | None) -> Table:
    """Find out which form ``X`` has, and check it as a whole."""
    if isinstance(X, _ENCODED) or is_dataset(X) or is_opener(X):
        kind = "a path" if isinstance(X, str | os.PathLike) else f"one {type(X).__name__}"
        raise TypeError(f"X is {kind}, not a batch of images. Wrap it in a list: [X].")
    if sparse.issparse(X):
        check_array(X)  # raises scikit-learn's own TypeError
    if _is_pandas(X, "DataFrame"):
        return _dataframe_rows(X, image_shape, value_range)
    if _is_pandas(X, "Series"):
        return _column_rows(X.to_numpy(dtype=object) if not _is_number_column(X) else X.to_numpy())
    if isinstance(X, torch.Tensor):
        return _tensor_rows(X, image_shape, value_range)
    if isinstance(X, np.ndarray):
        return _array_rows(X, image_shape, value_range)
    if isinstance(X, Sequence):
        return _list_rows(X, image_shape, value_range)
    if hasattr(X, "__array__"):
        return _array_rows(np.asarray(X), image_shape, value_range)
    raise TypeError(
        f"X must be a list, an array, a tensor, a Series or a DataFrame with one image a row; "
        f"got {type(X).__name__}. " + ("Use list(X)." if hasattr(X, "__iter__") else "")
    )


def is_opener(row: Any) -> bool:
    """Whether a row is a file in an archive, or one that the user's fsspec opens."""
    if isinstance(row, zipfile.Path):
        return True
    fsspec = sys.modules.get("fsspec")  # not imported: then it cannot be one of its objects
    return fsspec is not None and isinstance(row, fsspec.core.OpenFile)


def is_missing(row: Any) -> bool:
    """Whether a cell is empty: None, NaN, pandas' NA or NaT."""
    if row is None or (isinstance(row, float) and math.isnan(row)):
        return True
    return type(row).__name__ in ("NAType", "NaTType")


def _is_pandas(X: Any, name: str) -> bool:
    pandas = sys.modules.get("pandas")  # not imported: then X cannot be one of its objects
    return pandas is not None and isinstance(X, getattr(pandas, name))


def _is_number_column(column: Any) -> bool:
    import pandas as pd

    return pd.api.types.is_numeric_dtype(column.dtype)


def _is_image(row: Any) -> bool:
    if isinstance(row, np.ndarray | torch.Tensor):
        return row.ndim >= 2
    return isinstance(row, _ENCODED) or is_dataset(row) or is_opener(row)


def _holds_images(items: Sequence[Any] | np.ndarray) -> bool:
    """Whether a column holds images, rather than numbers; one of empty cells alone does too."""
    if any(_is_image(item) for item in items):
        return True
    return len(items) > 0 and all(is_missing(item) for item in items)


def _column_rows(column: np.ndarray, n_columns: int | None = None) -> Table:
    """One-dimensional: images, or scikit-learn's error about a 1-D array."""
    if column.dtype.kind == "S":
        raise TypeError(
            "X is an array of fixed-width bytes, which loses the zeros at a file's end. Use "
            "np.array(X, dtype=object) or a list."
        )
    if column.dtype.kind not in "biufc":
        items = list(column)
        if not items or _holds_images(items):
            _check_rows(items)
            return Table(items, n_columns)
    check_array(column, input_name="X")  # raises: expected 2D array, or complex, or not a number
    raise TypeError(f"X of shape {column.shape} holds neither images nor numbers.")


def _check_rows(rows: Sized) -> None:
    if len(rows) == 0:
        shape = getattr(rows, "shape", (0,))
        raise ValueError(
            f"Found array with 0 sample(s) (shape={shape}) while a minimum of 1 is required."
        )


def _dataframe_rows(X: Any, image_shape: Any, value_range: ValueScale | None) -> Table:
    numeric = [
        _is_number_column(X.iloc[:, j])
        or (X.dtypes.iloc[j].kind == "O" and _is_numbers(X.iloc[:, j]))
        for j in range(X.shape[1])
    ]
    if all(numeric):
        X = X.infer_objects()  # columns of Python numbers
        return _flat_rows(X, image_shape, value_range)
    if X.shape[1] == 1:
        return _column_rows(X.iloc[:, 0].to_numpy(dtype=object), 1)
    other = [str(name) for name, is_number in zip(X.columns, numeric, strict=True) if not is_number]
    raise ValueError(
        f"X is a DataFrame of {X.shape[1]} columns, of which {other[:5]} hold no numbers. Expected "
        f"one column of images, or pixels in every column. {_COLUMN_TRANSFORMER}"
    )


def _is_numbers(items: Any) -> bool:
    return all(isinstance(item, Number) and not is_missing(item) for item in items)


def _list_rows(X: Sequence[Any], image_shape: Any, value_range: ValueScale | None) -> Table:
    items = list(X)
    _check_rows(items)
    if all(isinstance(item, list | tuple) and len(item) == 1 for item in items):
        column = [item[0] for item in items]  # [["a.png"], ["b.png"]]: one column
        if _holds_images(column):
            return Table(column, 1)
    if _holds_images(items):
        return Table(items)
    if any(isinstance(item, torch.Tensor) for item in items):
        items = [tensor_to_array(t) if isinstance(t, torch.Tensor) else t for t in items]
    try:
        array = np.asarray(items)
    except ValueError as exc:
        raise ValueError(
            "X is a list of rows of different lengths. Expected images (paths, bytes, Pillow "
            f"images, arrays of two or three axes) or rows of equally many numbers. {exc}"
        ) from exc
    return _array_rows(array, image_shape, value_range)


def _tensor_rows(X: torch.Tensor, image_shape: Any, value_range: ValueScale | None) -> Table:
    if X.ndim == 3:
        raise ValueError(
            f"X is a tensor of shape {tuple(X.shape)}; expected (n, C, H, W). If it is one "
            "image, pass X[None]; if it is a batch of gray images, pass X[:, None]."
        )
    array = tensor_to_array(X)
    if array.ndim == 4:
        if array.shape[1] not in CHANNELS:
            hint = " It looks channels-last: use X.permute(0, 3, 1, 2)."
            raise ValueError(
                f"X is a tensor of shape {array.shape} with {array.shape[1]} channels; expected "
                "(n, C, H, W) with C 1, 3 or 4." + (hint if array.shape[3] in CHANNELS else "")
            )
        array = np.moveaxis(array, 1, -1)
    return _array_rows(array, image_shape, value_range)


def _array_rows(X: np.ndarray, image_shape: Any, value_range: ValueScale | None) -> Table:
    if X.dtype.kind not in "biufc":
        _check_rows(X)
        if X.ndim == 1:
            return _column_rows(X)
        if X.ndim == 2 and X.shape[1] == 1 and (X.dtype.kind != "O" or _holds_images(X[:, 0])):
            return _column_rows(X[:, 0], 1)
        if X.ndim == 2 and _holds_images(X[0]):
            raise ValueError(
                f"X has {X.shape[1]} columns, not all of them numbers; expected one column of "
                f"images. {_COLUMN_TRANSFORMER}"
            )
        X = _as_numbers(X)
    if X.ndim <= 2:
        return _flat_rows(X, image_shape, value_range)
    check_numeric(X)
    _check_rows(X)
    _check_batch_shape(X)
    check_batch_range(X, value_range)
    return Table(X)


def _as_numbers(X: np.ndarray) -> np.ndarray:
    """Python objects to the numbers they are, integers to integers; others are left alone."""
    try:
        array = np.asarray(X.tolist())
    except ValueError:  # not all of one kind: scikit-learn's check says which
        return X
    return array if array.dtype.kind in "biufc" else X


def _check_batch_shape(X: np.ndarray) -> None:
    shape = X.shape
    if X.ndim not in (3, 4):
        raise ValueError(
            f"X has shape {shape}; expected (n, height, width) or (n, height, width, channels)."
        )
    if 0 in shape:
        raise ValueError(f"X has shape {shape}: its images have no pixels.")
    if X.ndim == 3 and shape[2] in CHANNELS:
        raise ValueError(
            f"X has shape {shape}, which looks like a single image with its channels last. If "
            "it is one, pass X[None]; if it is a batch of narrow gray images, pass X[..., None]."
        )
    if X.ndim == 4 and shape[3] not in CHANNELS:
        hint = (
            " It looks channels-first: use X.transpose(0, 2, 3, 1)." if shape[1] in CHANNELS else ""
        )
        raise ValueError(
            f"X has shape {shape} with {shape[3]} channels on its last axis; expected 1 (gray), "
            f"3 (RGB) or 4 (RGBA).{hint or OTHER_CHANNELS}"
        )


def _flat_rows(X: Any, image_shape: Any, value_range: ValueScale | None) -> Table:
    """Flattened images, checked as scikit-learn checks any table of numbers."""
    array = check_array(X, input_name="X")
    shape = resolve_image_shape(image_shape, array.shape[1])
    check_batch_range(array, value_range)
    return Table(array.reshape(len(array), *shape), array.shape[1])


def resolve_image_shape(image_shape: Any, n_features: int) -> tuple[int, ...]:
    """Shape of one image of ``n_features`` numbers, by numpy's rules for -1.

    Parameters
    ----------
    image_shape : tuple of int or None
        (H, W) or (H, W, C); None infers square gray or RGB images.
    n_features : int

    Returns
    -------
    tuple of int
    """
    if image_shape is None:
        for channels in (1, 3):
            side = math.isqrt(n_features // channels)
            if side * side * channels == n_features:
                return (side, side) if channels == 1 else (side, side, channels)
        raise ValueError(
            f"X has {n_features} columns, which make neither a square gray nor a square RGB "
            "image. Pass image_shape=(height, width) or (height, width, channels)."
        )
    shape = _check_image_shape(image_shape)
    known = math.prod(side for side in shape if side != -1)
    if -1 in shape and n_features % known == 0:
        shape = tuple(n_features // known if side == -1 else side for side in shape)
    if math.prod(shape) != n_features:
        raise ValueError(
            f"X has {n_features} columns, which do not make images of image_shape={image_shape}."
        )
    if len(shape) == 3 and shape[2] not in CHANNELS:
        raise ValueError(
            f"image_shape={image_shape} means {shape[2]} channels with {n_features} columns; "
            "expected 1 (gray), 3 (RGB) or 4 (RGBA) on the last axis."
        )
    return shape


def _check_image_shape(image_shape: Any) -> tuple[int, ...]:
    try:
        shape = tuple(int(side) for side in image_shape)
        valid = shape == tuple(image_shape)
    except (TypeError, ValueError):
        shape, valid = (), False
    valid = valid and len(shape) in (2, 3) and shape.count(-1) <= 1
    if not valid or any(side < 1 and side != -1 for side in shape):
        raise ValueError(
            "image_shape must be (height, width) or (height, width, channels), positive integers "
            f"of which one may be -1; got {image_shape!r}."
        )
    return shape
