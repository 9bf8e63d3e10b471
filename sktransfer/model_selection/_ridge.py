"""Leave-one-out ridge regression on features, exact and from one decomposition; it must not know
where the features come from.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from sktransfer._utils.resampling import members, score_held_out
from sktransfer.model_selection._features import (
    LabeledFeatures,
    check_labeled,
    left_singular,
    standardized,
)

# Penalties tried, as multiples of the mean squared singular value: from next to none to much more
# than any direction carries. Relative, so that the unit of the features does not matter.
_RELATIVE_PENALTIES = np.logspace(-4, 2, 13)


def loo_ridge_decisions(
    F: ArrayLike,
    y: ArrayLike,
    *,
    alpha: float | None = None,
    groups: ArrayLike | None = None,
    standardize: bool = True,
) -> np.ndarray:
    """Predict every row by a ridge regression that was fitted without it.

    The regression is of one column per class (1 for the class, -1 for the others) with an
    intercept that is not penalized. Nothing is fitted n times: what a regression without a row
    would say of that row follows from the one with all rows [1]_.

    Parameters
    ----------
    F : array-like of shape (n, d)
        Features.
    y : array-like of shape (n,)
        Labels.
    alpha : float or None, default=None
        Penalty. None: the one of 13 with the least squared error in these predictions.
    groups : array-like of shape (n,) or None, default=None
        Rows of one group (a patient) are left out together.
    standardize : bool, default=True
        Whether columns are brought to mean 0 and variance 1 first (over all rows).

    Returns
    -------
    ndarray of shape (n, n_classes), float64
        The largest value of a row is the predicted class, in the order of ``np.unique(y)``.

    Raises
    ------
    ValueError
        If ``alpha`` is not positive, or the data make no sense.

    References
    ----------
    .. [1] Allen, D. M. (1974). "The relationship between variable selection and data augmentation
       and a method for prediction". Technometrics, 16(1), 125-127.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sktransfer.model_selection import loo_ridge_decisions
    >>> F, y = load_iris(return_X_y=True)
    >>> loo_ridge_decisions(F, y).shape
    (150, 3)
    """
    data = check_labeled(F, y, groups)
    if alpha is not None and not alpha > 0:
        raise ValueError(f"alpha is a penalty and must be above 0; got {alpha!r}.")
    features = standardized(data.F) if standardize else data.F - data.F.mean(axis=0)
    U, s = left_singular(features)
    target = 2 * data.onehot - 1
    blocks = _blocks(data)
    if alpha is not None:
        return _left_out(U, s, target, alpha, blocks)
    best: tuple[float, np.ndarray] | None = None
    unit = float(np.mean(s**2)) if len(s) else 1.0
    for relative in _RELATIVE_PENALTIES:
        decisions = _left_out(U, s, target, relative * unit, blocks)
        error = float(np.mean((decisions - target) ** 2))
        if best is None or error < best[0]:
            best = (error, decisions)
    assert best is not None
    return best[1]


def loo_ridge_score(
    F: ArrayLike,
    y: ArrayLike,
    *,
    alpha: float | None = None,
    groups: ArrayLike | None = None,
    standardize: bool = True,
    scoring: str = "accuracy",
) -> float:
    """Score of predicting every row by a ridge regression that was fitted without it.

    Parameters
    ----------
    F, y, alpha, groups, standardize
        As for :func:`loo_ridge_decisions`.
    scoring : {"accuracy", "balanced_accuracy", "f1", "roc_auc"}, default="accuracy"

    Returns
    -------
    float

    Notes
    -----
    Of features that say nothing, the score is below chance, down to 0 with even classes: without a
    row its class is a little rarer, and then that is all a regression has to go by. So it is with
    every leave-one-out that refits; a cross-validation with fewer folds is milder.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sktransfer.model_selection import loo_ridge_score
    >>> round(loo_ridge_score(*load_iris(return_X_y=True)), 3)
    0.827
    """
    decisions = loo_ridge_decisions(F, y, alpha=alpha, groups=groups, standardize=standardize)
    return score_held_out(np.unique(np.asarray(y), return_inverse=True)[1], decisions, scoring)


def _left_out(
    U: np.ndarray,
    s: np.ndarray,
    target: np.ndarray,
    alpha: float,
    blocks: list[np.ndarray] | None,
) -> np.ndarray:
    """Predictions of rows that were not there, from the hat matrix of all rows."""
    n = len(target)
    shrink = s**2 / (s**2 + alpha)
    fitted = target.mean(axis=0) + (U * shrink) @ (U.T @ target)
    residual = target - fitted
    if blocks is None:
        leverage = 1 / n + (U**2) @ shrink
        return target - residual / (1 - leverage)[:, None]
    out = np.empty_like(target)
    for rows in blocks:
        part = U[rows]
        hat = 1 / n + (part * shrink) @ part.transpose(0, 2, 1)
        out[rows] = target[rows] - np.linalg.solve(np.eye(rows.shape[1]) - hat, residual[rows])
    return out


def _blocks(data: LabeledFeatures) -> list[np.ndarray] | None:
    """Rows of the groups, those of one size together as an array (n_groups, size)."""
    if data.groups is None:
        return None
    sizes: dict[int, list[np.ndarray]] = {}
    for rows in members(data.groups):
        sizes.setdefault(len(rows), []).append(rows)
    return [np.stack(rows) for rows in sizes.values()]
