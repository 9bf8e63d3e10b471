"""Penalized logistic regression on standardized columns, solved in float64."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression

# Newton's method on all coefficients at once is exact to the last digits, and cubic in their
# number.
_NEWTON_COEFFICIENTS = 4096


def solve_linear(
    embeddings: np.ndarray, y: np.ndarray, weight: np.ndarray, n_classes: int, C: float
) -> tuple[np.ndarray, np.ndarray]:
    """Solve the linear head by logistic regression, in float64.

    Embeddings are centered and scaled to unit variance, column by column, as far as the penalty is
    concerned; the scaling is folded into what is returned.
    """
    keep = weight > 0
    X, y, weight = embeddings[keep].astype(np.float64), y[keep], weight[keep]
    share = weight / weight.sum()
    mean = share @ X
    deviation = np.sqrt(share @ (X - mean) ** 2)
    # A column that is constant on these rows says nothing about the classes.
    scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 1e-12)
    X = (X - mean) * scale
    present = np.unique(y)
    coefficients = np.zeros((n_classes, X.shape[1]))
    intercepts = np.zeros(n_classes)
    # Absent classes must lose, by a margin that is finite.
    intercepts[np.setdiff1d(np.arange(n_classes), present)] = -30.0
    if len(present) == 1:
        return coefficients, intercepts
    # The penalty keeps the solution in the span of the rows: few of them need few coefficients.
    basis = None
    if len(X) < X.shape[1]:
        basis, triangle = np.linalg.qr(X.T)
        X = triangle.T
    n_coefficients = X.shape[1] * (1 if len(present) == 2 else len(present))
    newton = n_coefficients <= _NEWTON_COEFFICIENTS
    solver = LogisticRegression(
        C=C,
        solver="newton-cholesky" if newton else "lbfgs",
        tol=1e-12 if newton else 1e-8,
        max_iter=200 if newton else 5000,
    ).fit(X, y, sample_weight=weight)
    solved, offset = solver.coef_, solver.intercept_
    if basis is not None:
        solved = solved @ basis.T
    if len(present) == 2:  # halves, so that neither class is privileged by a later decay
        solved, offset = (np.stack([-each[0], each[0]]) / 2 for each in (solved, offset))
    coefficients[present] = solved * scale
    intercepts[present] = offset - (solved * scale) @ mean
    return coefficients, intercepts


def cross_fitted_logits(
    F: np.ndarray,
    y: np.ndarray,
    weight: np.ndarray,
    n_classes: int,
    folds: Iterable[tuple[np.ndarray, np.ndarray]],
    C: Sequence[float],
) -> np.ndarray:
    """Return logits of rows by regressions that have not seen them, (len(C), n, n_classes).

    Columns are standardized with the rows of training only. Rows that no fold tests are NaN.
    """
    logits = np.full((len(C), len(F), n_classes), np.nan)
    for train, test in folds:
        for place, each in enumerate(C):
            solved, offset = solve_linear(F[train], y[train], weight[train], n_classes, each)
            logits[place, test] = F[test].astype(np.float64) @ solved.T + offset
    return logits
