"""Distances of rows from those of a fit, stage by stage, each row judged without its own group.

It must not know images, networks or thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.fft import dct

# Ridge of a stage's covariance, in units of the mean variance of its standardized columns.
SHRINKAGE = 0.1
# Stages that are wider are rotated and cut to so many columns, which keeps a fit small.
WIDEST = 1024


class StageDistance:
    """Mahalanobis distance in the columns of one stage, with a ridge.

    ``arrays`` is all that a fit has learned: ``mean`` and ``scale`` of the columns, the principal
    axes (``basis``), and how much of a square along each is usual (``share``).
    """

    NAMES = ("mean", "scale", "basis", "share")

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.arrays = arrays

    @classmethod
    def fit(cls, rows: np.ndarray, units: list[np.ndarray]) -> tuple[StageDistance, np.ndarray]:
        """Fit to rows; return also the distance of each row from those of the other units."""
        rows = narrowed(rows)
        n = len(rows)
        mean = rows.mean(axis=0)
        variance = rows.var(axis=0)
        # A column that never moved in the fit counts, but not infinitely.
        scale = np.sqrt((variance + variance.mean()) / 2)
        scale[scale == 0] = 1.0
        own = (rows - mean) / scale
        ridge = max(n * SHRINKAGE * float(own.var(axis=0).mean()), np.finfo(float).eps)
        left, size, basis = _decomposed(own)
        share = size**2 / (size**2 + ridge)
        half = left * np.sqrt(share)
        squares = np.empty(n)
        for unit in units:
            squares[unit] = _left_out(half[unit], n)
        arrays = (mean, scale * np.sqrt(ridge / n), basis.astype(np.float32), share)
        return cls(dict(zip(cls.NAMES, arrays, strict=True))), np.sqrt(squares)

    def distance(self, rows: np.ndarray) -> np.ndarray:
        """Return the distance of new rows."""
        own = (narrowed(rows) - self.arrays["mean"]) / self.arrays["scale"]
        along = own @ self.arrays["basis"].T
        rest = (own**2).sum(axis=1) - along**2 @ self.arrays["share"]
        return np.sqrt(np.maximum(rest, 0))


def normalized(rows: np.ndarray, stages: Sequence[slice]) -> np.ndarray:
    """Return the columns of each stage with signed square roots, as vectors of length 1.

    Few strong activations then do not hide the many weak ones, and contrast not the pattern.
    Perronnin, Sánchez, Mensink: Improving the Fisher kernel for large-scale image classification.
    ECCV (2010).
    """
    out = np.sign(rows) * np.sqrt(np.abs(rows))
    for own in stages:
        length = np.linalg.norm(out[:, own], axis=1, keepdims=True)
        out[:, own] /= np.where(length == 0, 1.0, length)  # NaN stays NaN
    return out


def narrowed(rows: np.ndarray) -> np.ndarray:
    """Return rows with at most :data:`WIDEST` columns, distances between them nearly kept.

    Signs drawn once and a cosine transform spread what a column says over all of them [1]_.

    .. [1] Ailon, Chazelle: The fast Johnson-Lindenstrauss transform. SIAM Journal on Computing 39
       (2009).
    """
    rows = np.asarray(rows, dtype=np.float64)
    width = rows.shape[1]
    if width <= WIDEST:
        return rows
    random = np.random.RandomState(0)  # whose numbers are the same in every version
    signs = 2.0 * random.randint(2, size=width) - 1
    kept = np.sort(random.permutation(width)[:WIDEST])
    return dct(rows * signs, norm="ortho", axis=1)[:, kept] * np.sqrt(width / WIDEST)


def _decomposed(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the singular value decomposition of rows, by the smaller of the two squares."""
    n, width = rows.shape
    square = rows @ rows.T if n < width else rows.T @ rows
    values, vectors = np.linalg.eigh(square)
    there = values > len(values) * np.finfo(float).eps * max(values[-1], 0)
    size, vectors = np.sqrt(values[there]), vectors[:, there]
    if n < width:
        return vectors, size, (rows.T @ vectors / size).T
    return rows @ vectors / size, size, vectors.T


def _left_out(half: np.ndarray, n: int) -> np.ndarray:
    """Return squared distances of a unit's rows from the rest of ``n`` rows, without a new fit.

    ``half @ half.T`` are products of these rows in the metric of all rows. Removing the unit is a
    change of its own rank, and moves the mean by ``1 / (n - m)`` of the sum of its rows.
    """
    m = len(half)
    if m == n:
        raise ValueError("All rows are of one group: there is nothing to compare them with.")
    moved = np.eye(m) + 1 / (n - m)
    inner = half @ half.T
    squares = np.diag(moved @ np.linalg.solve(np.eye(m) - inner @ moved, inner) @ moved)
    return np.maximum(squares, 0) * (n - m)


def stages_of(widths: Sequence[int]) -> list[slice]:
    """Return the columns of each stage."""
    ends = np.cumsum(widths).tolist()
    return [slice(end - width, end) for end, width in zip(ends, widths, strict=True)]
