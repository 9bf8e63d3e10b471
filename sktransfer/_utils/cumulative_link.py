"""Penalized cumulative logit regression on standardized columns, for classes that have an order.

The logit of being in a class or in one below it is a threshold minus a score of the row [1]_. With
two classes it is the logistic regression.

References
----------
.. [1] McCullagh, P. (1980). "Regression models for ordinal data". Journal of the Royal Statistical
   Society B, 42(2), 109-142.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import cho_factor, cho_solve, eigh
from scipy.special import expit, logit

from sktransfer._utils.logistic import standardized_columns
from sktransfer._utils.threads import blas_threads

# Newton's method stops after a step that lowers the objective by at most this share of it.
_LEAST_DECREASE = 1e-14
_MOST_STEPS = 200
# Beyond a class at an end that is in no row of training, and of one between others, how wide.
_ABSENT, _NARROW = 30.0, 1e-9


def solve_cumulative_link(
    embeddings: np.ndarray,
    y: np.ndarray,
    weight: np.ndarray,
    n_classes: int,
    C: float,
    *,
    floor: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return coefficients (d,) and increasing thresholds (n_classes - 1,), in float64.

    The columns, ``C`` and ``floor`` are those of :func:`sktransfer._utils.logistic.solve_linear`;
    thresholds are not penalized.
    """
    keep = weight > 0
    y, weight = y[keep], weight[keep].astype(np.float64)
    with blas_threads(*embeddings.shape):
        X, mean, scale = standardized_columns(embeddings[keep], weight, floor)
        present, codes = np.unique(y, return_inverse=True)
        solved, thresholds = np.zeros(X.shape[1]), np.empty(0)
        if len(present) > 1:
            solved, thresholds = _solve(X, codes, C * weight, len(present))
    coefficients = solved * scale
    return coefficients, _with_absent(thresholds, present, n_classes) + coefficients @ mean


def _solve(
    X: np.ndarray, codes: np.ndarray, cost: np.ndarray, n_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Solve for classes that all have rows."""
    n, d = X.shape
    if n >= d:
        return _newton(X, codes, cost, n_classes)
    # The penalty keeps the solution in the span of the rows.
    values, vectors = eigh(X @ X.T)
    length = np.sqrt(values.clip(min=0))
    used = length > 1e-10 * length.max()
    solved, thresholds = _newton(vectors[:, used] * length[used], codes, cost, n_classes)
    return X.T @ (vectors[:, used] @ (solved / length[used])), thresholds


def _newton(
    X: np.ndarray, codes: np.ndarray, cost: np.ndarray, n_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    d, total = X.shape[1], np.bincount(codes, cost, n_classes)
    # Log-likelihood = log F(upper) + log F(-lower) + log(1 - exp(-gap)), of which the last depends
    # on thresholds alone: rows have the gradients of two logistic regressions.
    above = np.eye(n_classes)[codes][:, :-1]  # the threshold above each row's class, and below it
    below = np.eye(n_classes)[codes][:, 1:]

    def margins(point: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        edges = np.concatenate([[-np.inf], point[d:], [np.inf]])
        score = X @ point[:d]
        return edges[codes + 1] - score, score - edges[codes], np.diff(point[d:])

    def loss(point: np.ndarray) -> float:
        upper, lower, gaps = margins(point)
        if (gaps <= 0).any():
            return np.inf
        fit = cost @ (np.logaddexp(0, -upper) + np.logaddexp(0, -lower))
        return float(point[:d] @ point[:d] / 2 + fit - total[1:-1] @ np.log(-np.expm1(-gaps)))

    shares = np.cumsum(total)[:-1] / total.sum()
    here = np.concatenate([np.zeros(d), logit(shares)])
    now = loss(here)
    for _ in range(_MOST_STEPS):
        upper, lower, gaps = margins(here)
        up, low = cost * expit(-upper), cost * expit(-lower)
        inverse = 1 / np.expm1(gaps)
        gradient = np.concatenate([X.T @ (up - low) + here[:d], low @ below - up @ above])
        between = total[1:-1] * inverse
        gradient[d:] += np.append(between, 0) - np.insert(between, 0, 0)
        bent_up, bent_low = up * expit(upper), low * expit(lower)
        cross = -(bent_up[:, None] * above + bent_low[:, None] * below)
        curved = between * (1 + inverse)
        hessian = np.empty((len(here), len(here)))
        hessian[:d, :d] = X.T @ ((bent_up + bent_low)[:, None] * X)
        hessian[:d, :d].flat[:: d + 1] += 1
        hessian[:d, d:] = X.T @ cross
        hessian[d:, :d] = hessian[:d, d:].T
        diagonal = np.append(curved, 0) + np.insert(curved, 0, 0) - cross.sum(axis=0)
        hessian[d:, d:] = np.diag(diagonal) - np.diag(curved, 1) - np.diag(curved, -1)
        step = cho_solve(cho_factor(hessian, lower=True), -gradient)
        decrease, length = -float(gradient @ step), 1.0
        while (then := loss(here + length * step)) > now - 1e-4 * length * decrease:
            length /= 2
            if length < 1e-9:  # of rounding alone
                return here[:d], here[d:]
        here, now = here + length * step, then
        if decrease <= _LEAST_DECREASE * abs(now):
            break
    return here[:d], here[d:]


def _with_absent(thresholds: np.ndarray, present: np.ndarray, n_classes: int) -> np.ndarray:
    """Return thresholds of all classes: one that is in no row of training is not predicted."""
    ends = thresholds if len(thresholds) else np.zeros(1)
    every = np.concatenate([[ends[0] - _ABSENT], thresholds, [ends[-1] + _ABSENT]])
    numbers = np.arange(n_classes - 1)
    place = np.searchsorted(present, numbers, side="right")
    since = numbers - np.insert(present, 0, -1)[place]
    return every[place] + since * _NARROW
