"""Images that can be written on, and the scores of an estimator; it must not know what for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from sktransfer._images import resolve_image_shape
from sktransfer.inspection._images import image_reader, images_of


def scorer(
    estimator: Any,
    response_method: str,
    auto: Sequence[str] = ("decision_function", "predict_proba", "predict"),
) -> Callable[[Any], np.ndarray]:
    """Scores of rows, (n, n_classes), or (n, 1) of a regressor; the first of ``auto`` there is."""
    if response_method not in ("auto", *auto):
        raise ValueError(
            f"response_method must be 'auto' or one of {', '.join(auto)}; got {response_method!r}."
        )
    known = auto if response_method == "auto" else (response_method,)
    name = next((each for each in known if hasattr(estimator, each)), None)
    if name is None or (name == "predict" and hasattr(estimator, "classes_")):
        raise ValueError(
            f"{type(estimator).__name__} has no {' or '.join(known[:2])}, so it has no score that "
            "could fall."
        )
    method = getattr(estimator, name)

    def score(X: Any) -> np.ndarray:
        values = np.asarray(method(X), dtype=np.float64)
        if values.ndim == 2:
            return values
        if name == "decision_function":
            return np.stack([-values, values], axis=1)
        return values[:, None]

    return score


@dataclass(frozen=True)
class Rows:
    """Images that can be written on, and the way back to what the estimator reads.

    Attributes
    ----------
    pixels : sequence of ndarray of shape (h, w) or (h, w, c)
    rebuilt : callable
        From a list of such arrays to an ``X``.
    """

    pixels: Any
    rebuilt: Callable[[list[np.ndarray]], Any]


def rows_of(estimator: Any, X: Any, image_shape: Any) -> Rows:
    reader = image_reader(estimator)
    if isinstance(X, torch.Tensor) and X.ndim == 4:
        dtype = X.dtype
        return Rows(
            X.detach().cpu().numpy().transpose(0, 2, 3, 1),
            lambda arrays: torch.from_numpy(np.stack(arrays).transpose(0, 3, 1, 2)).to(dtype),
        )
    if isinstance(X, pd.DataFrame) and all(kind.kind in "buif" for kind in X.dtypes):
        columns, table = X.columns, X.to_numpy()
        inner = _raveled(table, image_shape, reader)
        return Rows(inner.pixels, lambda arrays: pd.DataFrame(inner.rebuilt(arrays), None, columns))
    if isinstance(X, np.ndarray) and X.dtype.kind in "buif":
        if X.ndim == 2:
            return _raveled(X, image_shape, reader)
        if X.ndim in (3, 4):
            return Rows(X, np.stack)
    return _decoded(estimator, X, reader)


def _raveled(table: np.ndarray, image_shape: Any, reader: Any) -> Rows:
    shape = image_shape if image_shape is not None else getattr(reader, "image_shape", None)
    full = resolve_image_shape(shape, table.shape[1])
    return Rows(
        table.reshape(len(table), *full),
        lambda arrays: np.stack(arrays).reshape(len(arrays), -1),
    )


def _decoded(estimator: Any, X: Any, reader: Any) -> Rows:
    """Files, Pillow images and lists of arrays."""
    if isinstance(X, pd.DataFrame) and X.shape[1] != 1:
        raise ValueError(
            f"X is a table of {X.shape[1]} columns; occlusion knows tables of pixels, or of one "
            "column of images."
        )
    values = X.iloc[:, 0] if isinstance(X, pd.DataFrame) else X
    arrays = all(isinstance(row, np.ndarray) and row.ndim in (2, 3) for row in values)
    if arrays:
        pixels = list(values)
    else:
        source = images_of(estimator, X)
        images = [source.open(row).decode() for row in range(len(source))]
        if any(isinstance(each, np.ndarray) for each in images) and (
            getattr(reader, "value_range", None) is not None
        ):
            raise ValueError(
                "X has files deeper than 8 bits and the estimator a value_range, so they cannot be "
                "given to it covered in the same form; pass them as arrays of numbers."
            )
        pixels = [np.asarray(each) for each in images]

    def rebuilt(edited: list[np.ndarray]) -> Any:
        eight = not arrays and edited[0].dtype == np.uint8
        rows: list[Any] = [Image.fromarray(each) for each in edited] if eight else edited
        if isinstance(X, (pd.DataFrame, pd.Series)):
            column = pd.Series([*rows, None], dtype=object)[:-1]
            return column.to_frame(X.columns[0]) if isinstance(X, pd.DataFrame) else column
        return rows

    return Rows(pixels, rebuilt)
