"""The rows of ``X``, in whichever accepted form it is; none is read or decoded here."""

from __future__ import annotations

import math
import os
import sys
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from numbers import Number
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from scipy import sparse
from sklearn.utils import check_array

from sktransfer._images._values import (
    CHANNELS,
    OTHER_CHANNELS,
    ValueScale,
    check_batch_range,
    not_numeric,
    tensor_to_array,
)

# A sequence of single rows, or a checked array of shape (n, H, W[, C]); and how many columns X has
# if it is two-dimensional.
Rows: TypeAlias = tuple[Sequence[Any] | np.ndarray, int | None]

_ENCODED = (str, bytes, bytearray, memoryview, os.PathLike, Image.Image)
_COLUMN_TRANSFORMER = (
    "Give each kind of column its own transformer: "
    'ColumnTransformer([("image", extractor, ["image"]), ("table", StandardScaler(), ["age"])]).'
)


def rows_of(X: Any, image_shape: Any, scale: ValueScale | None) -> Rows:
    """Find out which form ``X`` has, and check it as a whole."""
    if isinstance(X, np.ma.MaskedArray):
        if np.ma.is_masked(X):
            rows = np.flatnonzero(np.ma.getmaskarray(X).reshape(len(X), -1).any(axis=1))
            raise ValueError(
                f"X is a masked array with masked values in {len(rows)} of {len(X)} rows, the "
                f"first in row {rows[0]}. Leave these rows out, or fill them: X.filled(value)."
            )
        X = X.data
    if isinstance(X, np.ndarray):
        return _array_rows(X, image_shape, scale)
    if isinstance(X, list | tuple):
        return _list_rows(X, image_shape, scale)
    if isinstance(X, torch.Tensor):
        return _tensor_rows(X, image_shape, scale)
    if is_instance(X, "pandas", "DataFrame"):
        return _dataframe_rows(X, image_shape, scale)
    if is_instance(X, "pandas", "Series"):
        return _column_rows(X.to_numpy(dtype=None if _is_number_column(X) else object))
    if sparse.issparse(X):
        check_array(X)  # raises scikit-learn's own TypeError
    if _is_image(X):
        kind = "a path" if isinstance(X, str | os.PathLike) else f"one {type(X).__name__}"
        raise TypeError(f"X is {kind}, not a batch of images. Wrap it in a list: [X].")
    if is_instance(X, "polars", "Series"):
        return _list_rows(X.to_list(), image_shape, scale)
    if is_instance(X, "pyarrow", "Array") or is_instance(X, "pyarrow", "ChunkedArray"):
        return _list_rows(X.to_pylist(), image_shape, scale)
    # Tables of other libraries, of one column; numpy reads those of numbers.
    if is_instance(X, "polars", "DataFrame") and X.width == 1 and not X.dtypes[0].is_numeric():
        return _column_rows(_objects(X.to_series().to_list()), 1)
    if is_instance(X, "pyarrow", "Table") and X.num_columns == 1:
        column = X.column(0).to_pylist()
        if not all(isinstance(cell, Number) for cell in column):
            return _column_rows(_objects(column), 1)
    if isinstance(X, Sequence):
        return _list_rows(X, image_shape, scale)
    if isinstance(X, Mapping):
        raise TypeError(
            f"X must have one image a row; got {type(X).__name__} with the keys {list(X)[:5]}. "
            "Pass one of its values, X[key]."
        )
    if hasattr(X, "__array__"):
        return _array_rows(np.asarray(X), image_shape, scale)
    raise TypeError(
        f"X must be a list, an array, a tensor, a Series or a DataFrame with one image a row; "
        f"got {type(X).__name__}. " + ("Use list(X)." if hasattr(X, "__iter__") else "")
    )


def is_instance(row: Any, module: str, name: str) -> bool:
    """Return whether a row is of a library's class; the library is not imported to find out."""
    library = sys.modules.get(module)
    return library is not None and isinstance(row, getattr(library, name))


def is_opener(row: Any) -> bool:
    """Return whether a row is a file in an archive, or one that the user's fsspec opens."""
    return isinstance(row, zipfile.Path) or is_instance(row, "fsspec.core", "OpenFile")


def is_file(row: Any) -> bool:
    """Return whether a row is an open file, or something that can be read like one."""
    return hasattr(row, "read") and hasattr(row, "seek")


def is_record(row: Any) -> bool:
    """Return whether a row is a record of bytes and path, as data sets in Parquet files have."""
    return isinstance(row, Mapping) and len(row) > 0 and set(row) <= {"bytes", "path"}


def unwrapped(row: Any) -> Any:
    """Return what a scalar of pyarrow or numpy, or a record of bytes and path, holds."""
    if hasattr(row, "as_py"):
        row = row.as_py()
    if isinstance(row, np.void) and row.dtype.names is None:  # bytes, as HDF5 has them
        return row.tobytes()
    if is_record(row):
        return row.get("path") if row.get("bytes") is None else row["bytes"]
    return row


def is_missing(row: Any) -> bool:
    """Return whether a cell is empty: None, NaN, pandas' NA or NaT."""
    if row is None or (isinstance(row, float | np.floating) and math.isnan(row)):
        return True
    return type(row).__name__ in ("NAType", "NaTType")


def _is_number_column(column: Any) -> bool:
    import pandas as pd

    return pd.api.types.is_numeric_dtype(column.dtype)


def _is_image(row: Any) -> bool:
    row = unwrapped(row)
    if isinstance(row, np.ndarray | torch.Tensor):
        return row.ndim >= 2
    if isinstance(row, _ENCODED) or is_opener(row) or is_file(row):
        return True
    return is_instance(row, "pydicom", "Dataset")


def _holds_images(items: Sequence[Any] | np.ndarray) -> bool:
    """Return whether a column holds images, not numbers; one of empty cells alone does too."""
    if any(map(_is_image, items)):
        return True
    if len(items) and all(isinstance(item, Mapping) and not is_record(item) for item in items):
        raise TypeError(
            f"the rows of X are records with the keys {list(items[0])[:5]}; expected one image a "
            "row (a record of an image has the keys 'bytes' and 'path'). Pass one column, for "
            "example [row['image'] for row in X]."
        )
    return len(items) > 0 and all(is_missing(unwrapped(item)) for item in items)


def _objects(items: Iterable[Any]) -> np.ndarray:
    return np.fromiter(items, dtype=object)


def _no_rows(shape: tuple[int, ...]) -> ValueError:
    return ValueError(
        f"Found array with 0 sample(s) (shape={shape}) while a minimum of 1 is required."
    )


def _column_rows(column: np.ndarray, n_columns: int | None = None) -> Rows:
    """Return a one-dimensional X of images, or raise scikit-learn's error about a 1-D array."""
    if column.dtype.kind == "S":
        raise TypeError(
            "X is an array of fixed-width bytes, which loses the zeros at a file's end. Use "
            "np.array(X, dtype=object) or a list."
        )
    if column.dtype.names:
        raise TypeError(f"X has the fields {column.dtype.names[:5]}; pass one of them, X[field].")
    if column.dtype.kind not in "biufc":
        items = list(column)
        if not items:
            raise _no_rows((0,))
        if _holds_images(items):
            return items, n_columns
    check_array(column, input_name="X")  # raises: expected 2D array, or complex, or not a number
    raise TypeError(f"X of shape {column.shape} holds neither images nor numbers.")


def _dataframe_rows(X: Any, image_shape: Any, scale: ValueScale | None) -> Rows:
    numeric = [
        _is_number_column(X.iloc[:, j])
        or (
            X.dtypes.iloc[j].kind == "O"
            and all(isinstance(cell, Number) and not is_missing(cell) for cell in X.iloc[:, j])
        )
        for j in range(X.shape[1])
    ]
    if all(numeric):
        X = X.infer_objects()  # columns of Python numbers
        return _flat_rows(X, image_shape, scale)
    if X.shape[1] == 1:
        return _column_rows(X.iloc[:, 0].to_numpy(dtype=object), 1)
    other = [str(name) for name, is_number in zip(X.columns, numeric, strict=True) if not is_number]
    raise ValueError(
        f"X is a DataFrame of {X.shape[1]} columns, of which {other[:5]} hold no numbers. Expected "
        f"one column of images, or pixels in every column. {_COLUMN_TRANSFORMER}"
    )


def _list_rows(X: Sequence[Any], image_shape: Any, scale: ValueScale | None) -> Rows:
    items = list(X)
    if not items:
        raise _no_rows((0,))
    if isinstance(items[0], list | tuple) and all(
        isinstance(item, list | tuple) and len(item) == 1 for item in items
    ):
        column = [item[0] for item in items]  # [["a.png"], ["b.png"]]: one column
        if _holds_images(column):
            return column, 1
    if _holds_images(items):
        return items, None
    if any(hasattr(item, "as_py") for item in items):  # of pyarrow
        items = [unwrapped(item) for item in items]
    if any(isinstance(item, torch.Tensor) for item in items):
        items = [tensor_to_array(t) if isinstance(t, torch.Tensor) else t for t in items]
    try:
        array = np.asarray(items)
    except ValueError as exc:
        raise ValueError(
            "X is a list of rows of different lengths. Expected images (paths, bytes, Pillow "
            f"images, arrays of two or three axes) or rows of equally many numbers. {exc}"
        ) from exc
    return _array_rows(array, image_shape, scale)


def _tensor_rows(X: torch.Tensor, image_shape: Any, scale: ValueScale | None) -> Rows:
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
    return _array_rows(array, image_shape, scale)


def _array_rows(X: np.ndarray, image_shape: Any, scale: ValueScale | None) -> Rows:
    if X.dtype.kind not in "biufc":
        if len(X) == 0:
            raise _no_rows(X.shape)
        if X.ndim == 1:
            return _column_rows(X)
        if X.ndim == 2 and X.shape[1] == 1 and (X.dtype.kind != "O" or _holds_images(X[:, 0])):
            return _column_rows(X[:, 0], 1)
        if X.ndim == 2 and _holds_images(X[0]):
            raise ValueError(
                f"X has {X.shape[1]} columns, not all of them numbers; expected one column of "
                f"images. {_COLUMN_TRANSFORMER}"
            )
        try:  # Python objects to the numbers they are, integers to integers
            array = np.asarray(X.tolist())
        except ValueError:  # not all of one kind: scikit-learn's check says which
            array = X
        X = array if array.dtype.kind in "biufc" else X
    if X.ndim <= 2:
        return _flat_rows(X, image_shape, scale)
    if X.dtype.kind not in "buif":
        raise ValueError(not_numeric(X))
    if len(X) == 0:
        raise _no_rows(X.shape)
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
    check_batch_range(X, scale)
    return X, None


def _flat_rows(X: Any, image_shape: Any, scale: ValueScale | None) -> Rows:
    """Return flattened images, checked as scikit-learn checks any table of numbers."""
    array = check_array(X, input_name="X")
    shape = resolve_image_shape(image_shape, array.shape[1])
    check_batch_range(array, scale)
    return array.reshape(len(array), *shape), array.shape[1]


def resolve_image_shape(
    image_shape: Any, n_features: int, channels: Sequence[int] | None = CHANNELS
) -> tuple[int, ...]:
    """Return the shape of one image of ``n_features`` numbers, by numpy's rules for -1.

    ``image_shape`` is (H, W) or (H, W, C); None infers square gray or RGB images. ``channels`` are
    the accepted numbers of channels, None for any.
    """
    if image_shape is None:
        for n_channels in (1, 3):
            side = math.isqrt(n_features // n_channels)
            if side * side * n_channels == n_features:
                return (side, side) if n_channels == 1 else (side, side, n_channels)
        raise ValueError(
            f"X has {n_features} columns, which make neither a square gray nor a square RGB "
            "image. Pass image_shape=(height, width) or (height, width, channels)."
        )
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
    known = math.prod(side for side in shape if side != -1)
    if -1 in shape and n_features % known == 0:
        shape = tuple(n_features // known if side == -1 else side for side in shape)
    if math.prod(shape) != n_features:
        raise ValueError(
            f"X has {n_features} columns, which do not make images of image_shape={image_shape}."
        )
    if len(shape) == 3 and channels is not None and shape[2] not in channels:
        raise ValueError(
            f"image_shape={image_shape} means {shape[2]} channels with {n_features} columns; "
            "expected 1 (gray), 3 (RGB) or 4 (RGBA) on the last axis."
        )
    return shape
