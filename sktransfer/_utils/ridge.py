"""Ridge regression on standardized columns, whose penalty is chosen by leaving rows out.

What a row is predicted to be by a regression without it, and without the rows that belong to it,
follows from the regression with it: all penalties cost one decomposition.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.linalg import eigh

from sktransfer._utils.logistic import standardized_columns
from sktransfer._utils.threads import blas_threads

# Penalties to choose among, from strong to weak, as multiples of the mean square of a row.
_PENALTIES = np.logspace(4, -6, 41)
# Steps of reweighting in which the penalty is chosen, and all of them; and when they end.
_CHOOSING, _MOST_STEPS, _STILL = 3, 30, 1e-5
# Below this residual, in deviations of the target, an absolute error is taken for a squared one.
ABSOLUTE = 1e-3

# From residuals to losses.
Loss = Callable[[np.ndarray], np.ndarray]


def solve_ridge(
    embeddings: np.ndarray,
    targets: np.ndarray,
    weight: np.ndarray,
    units: np.ndarray,
    *,
    penalty: float | None = None,
    huber: float | None = None,
    floor: float = 0.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return coefficients (n_targets, d), intercepts and penalties of columns of ``targets``.

    Penalties are chosen for each target by leaving out each of the ``units``, which rows belong to,
    as scikit-learn's RidgeCV leaves out each row; or are ``penalty`` for all. The loss is the
    squared error, or with ``huber`` Huber's: absolute beyond that residual.
    """
    keep = weight > 0
    Y, weight = targets[keep], weight[keep].astype(np.float64)
    units = np.unique(units[keep], return_inverse=True)[1]
    if not units.any():  # nothing would be left
        units = np.arange(len(units))
    with blas_threads(*embeddings.shape):
        X, mean, scale = standardized_columns(embeddings[keep], weight, floor)
        tried = _PENALTIES * max(1.0, float(np.count_nonzero(scale)))
        if penalty is not None:
            tried = np.array([penalty])
        if huber is None:
            found = [_ridge(X, Y, weight, units, tried, np.square)]
        else:
            found = [_robust(X, y[:, None], weight, units, tried, huber) for y in Y.T]
    parts = zip(*found, strict=True)
    solved, intercepts, penalties = (np.concatenate(part, axis=-1) for part in parts)
    coefficients = solved.T * scale
    return coefficients, intercepts - coefficients @ mean, penalties


def _ridge(
    X: np.ndarray,
    Y: np.ndarray,
    weight: np.ndarray,
    units: np.ndarray,
    tried: np.ndarray,
    loss: Loss,
    judged: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return coefficients (d, n_targets), intercepts and penalties.

    Left out, rows are judged by their ``loss`` times ``judged``; None: their weight.
    """
    share, root = weight / weight.sum(), np.sqrt(weight)[:, None]
    center, middle = share @ X, share @ Y
    A, B = root * (X - center), root * (Y - middle)
    by_rows = len(A) <= A.shape[1]
    values, vectors = eigh(A @ A.T if by_rows else A.T @ A)
    used = values > 1e-12 * max(values.max(), np.finfo(float).tiny)
    values, vectors = values[used], vectors[:, used]
    U = vectors if by_rows else (A @ vectors) / np.sqrt(values)
    projected = U.T @ B
    chosen = np.zeros(Y.shape[1], dtype=int)
    if len(tried) > 1 and units.any():
        judged = weight if judged is None else judged
        left_out = _leaver(U, root / np.sqrt(weight.sum()), units)
        scores = []
        for penalty in tried:
            shrink = values / (values + penalty)
            errors = left_out(shrink, B - U @ (shrink[:, None] * projected)) / root
            scores.append(judged @ loss(errors))
        chosen = np.argmin(scores, axis=0)  # of equal ones the strongest
    penalties = tried[chosen]
    inner = projected / (values[:, None] + penalties)
    solved = A.T @ (U @ inner) if by_rows else vectors @ (np.sqrt(values)[:, None] * inner)
    return solved, middle - center @ solved, penalties


def _leaver(
    U: np.ndarray, constant: np.ndarray, units: np.ndarray
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return a function from shrinkage and residuals to residuals of units that are left out."""
    order, sizes = np.argsort(units, kind="stable"), np.bincount(units)
    starts = np.cumsum(sizes) - sizes
    blocks = [order[starts[sizes == size][:, None] + np.arange(size)] for size in np.unique(sizes)]

    def left_out(shrink: np.ndarray, residuals: np.ndarray) -> np.ndarray:
        found = np.empty_like(residuals)
        for rows in blocks:
            own, one = U[rows], constant[rows]
            hat = (own * shrink) @ own.transpose(0, 2, 1) + one @ one.transpose(0, 2, 1)
            rest = np.eye(rows.shape[1]) - hat
            rest += 1e-12 * np.eye(rows.shape[1])  # where a row is fitted whatever it is
            found[rows] = np.linalg.solve(rest, residuals[rows])
        return found

    return left_out


def _robust(
    X: np.ndarray,
    y: np.ndarray,
    weight: np.ndarray,
    units: np.ndarray,
    tried: np.ndarray,
    huber: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Solve for Huber's loss by ridge regressions with weights of the residuals of the last one."""

    def loss(errors: np.ndarray) -> np.ndarray:
        size = np.abs(errors)
        return np.where(size <= huber, size**2 / 2, huber * (size - huber / 2))

    residuals = y - np.median(y)
    for step in range(_MOST_STEPS):
        trust = np.minimum(1, huber / np.maximum(np.abs(residuals[:, 0]), 1e-300))
        before = residuals
        found = _ridge(X, y, weight * trust, units, tried, loss, weight)
        residuals = y - X @ found[0] - found[1]
        if step + 1 >= _CHOOSING:
            tried = found[2]
        if np.abs(residuals - before).max() < _STILL:
            break
    return found


def center_and_scale(
    targets: np.ndarray, weight: np.ndarray, *, robust: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and deviation of each target, or median and the deviation of the middle half."""
    kept, share = targets[weight > 0], weight[weight > 0] / weight.sum()
    center = share @ kept
    scale = np.sqrt(share @ np.square(kept - center))
    if robust:
        center = _median(kept, share)
        middle = 1.4826 * _median(np.abs(kept - center), share)  # of normal numbers the deviation
        scale = np.where(middle > 1e-12 * scale, middle, scale)
    return center, np.where(scale > 1e-12 * np.abs(center), scale, 1.0)


def _median(values: np.ndarray, share: np.ndarray) -> np.ndarray:
    order = np.argsort(values, axis=0)
    up_to = np.cumsum(share[order], axis=0)
    place = (up_to < 0.5 * up_to[-1]).sum(axis=0)
    return np.take_along_axis(values, np.take_along_axis(order, place[None], 0), 0)[0]
