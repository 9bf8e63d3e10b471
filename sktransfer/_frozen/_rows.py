"""What a run comes to: rows of several parts side by side, each rounded the way it is stored.

It must not know images, networks or stores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np


def columns_of(widths: Sequence[int]) -> list[slice]:
    """Where each of several parts of these widths stands in a row."""
    return [slice(*bounds) for bounds in pairwise(np.cumsum([0, *widths]))]


def as_stored(part: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """``part`` in ``dtype``; as it is, where a number of it is too large for that."""
    if part.dtype == dtype:
        return part
    with np.errstate(over="ignore"):
        stored = part.astype(dtype)
    lost = ~np.isfinite(stored)
    return part if lost.any() and np.isfinite(part[lost]).any() else stored


class RowBlock:
    """An array that is filled row by row.

    Parameters
    ----------
    n : int
        Rows.
    widths : sequence of int
        Columns of each part.
    dtype : numpy dtype
        Of the array, until a part comes that is wider.
    allocate : callable
        As ``numpy.empty``: takes a shape and a dtype.
    """

    def __init__(
        self,
        n: int,
        widths: Sequence[int],
        dtype: np.dtype,
        allocate: Callable[..., np.ndarray] = np.empty,
    ) -> None:
        self.columns = columns_of(widths)
        self._allocate = allocate
        self.array = allocate((n, sum(widths)), dtype)

    def put(self, row: int, parts: Sequence[np.ndarray]) -> None:
        """Fill a row."""
        for columns, part in zip(self.columns, parts, strict=True):
            if part.dtype.itemsize > self.array.dtype.itemsize:
                narrow = self.array
                self.array = self._allocate(narrow.shape, part.dtype)
                self.array[:] = narrow
            self.array[row, columns] = part

    def lose(self, row: int) -> None:
        """Fill a row with NaN."""
        self.array[row] = np.nan

    def copy(self, row: int, original: int) -> None:
        """Fill a row with another one."""
        self.array[row] = self.array[original]
