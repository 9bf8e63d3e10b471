"""Scores of predicting every row from the others: ridge regression and nearest neighbors."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from sktransfer._utils.resampling import members, score_held_out
from sktransfer.model_selection._labeled_features import (
    LabeledFeatures,
    check_labeled,
    left_singular,
    standardized,
)

# Penalties tried, as multiples of the mean squared singular value: from next to none to much more
# than any direction carries. Relative, so that the unit of the features does not matter.
_RELATIVE_PENALTIES = np.logspace(-4, 2, 13)
# Rows whose similarities to all others are held at a time.
_BLOCK = 1024


def loo_ridge_score(
    F: ArrayLike,
    y: ArrayLike,
    *,
    alpha: float | None = None,
    groups: ArrayLike | None = None,
    standardize: bool = True,
    scoring: str = "accuracy",
) -> float:
    """Score leave-one-out predictions of a ridge regression on features.

    The regression is of one column per class (1 for the class, -1 for the others) with an
    intercept that is not penalized. Nothing is fitted n times: what a regression without a row
    would predict for that row follows from the one with all rows [1]_.

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
    scoring : {"accuracy", "balanced_accuracy", "f1", "roc_auc"}, default="accuracy"
        Metric of the predictions.

    Returns
    -------
    score : float
        The score of all rows together.

    Raises
    ------
    ValueError
        If ``alpha`` is not positive, or features and labels are invalid.

    Notes
    -----
    Of features without information, the score is below chance, down to 0 with even classes:
    without a row its class is a little rarer, and the regression has nothing else to go by. Every
    leave-one-out that refits behaves so; a cross-validation with fewer folds is milder.

    References
    ----------
    .. [1] Allen, D. M. (1974). "The relationship between variable selection and data augmentation
       and a method for prediction". Technometrics, 16(1), 125-127.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sktransfer.model_selection import loo_ridge_score
    >>> round(loo_ridge_score(*load_iris(return_X_y=True)), 3)
    0.827
    """
    data = check_labeled(F, y, groups)
    if alpha is not None and not alpha > 0:
        raise ValueError(f"alpha is a penalty and must be above 0; got {alpha!r}.")
    decisions = ridge_decisions(data, alpha=alpha, standardize=standardize)
    return score_held_out(data.codes, decisions, scoring)


def ridge_decisions(
    data: LabeledFeatures, *, alpha: float | None = None, standardize: bool = True
) -> np.ndarray:
    """Predict every row without it: the largest of a row's values is the predicted class."""
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


def _left_out(
    U: np.ndarray,
    s: np.ndarray,
    target: np.ndarray,
    alpha: float,
    blocks: list[np.ndarray] | None,
) -> np.ndarray:
    """Predict rows that were left out, from the hat matrix of all rows."""
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
    """Return rows of the groups, those of one size together as an array (n_groups, size)."""
    if data.groups is None:
        return None
    sizes: dict[int, list[np.ndarray]] = {}
    for rows in members(data.groups):
        sizes.setdefault(len(rows), []).append(rows)
    return [np.stack(rows) for rows in sizes.values()]


def knn_score(
    F: ArrayLike,
    y: ArrayLike,
    *,
    n_neighbors: int = 5,
    metric: str = "cosine",
    groups: ArrayLike | None = None,
    standardize: bool = True,
    scoring: str = "accuracy",
) -> float:
    """Score the votes of the nearest other rows on each row.

    Parameters
    ----------
    F : array-like of shape (n, d)
        Features.
    y : array-like of shape (n,)
        Labels.
    n_neighbors : int, default=5
        Number of rows that vote.
    metric : {"cosine", "euclidean"}, default="cosine"
        Distance between rows.
    groups : array-like of shape (n,) or None, default=None
        Rows of one group (a patient) do not vote on each other.
    standardize : bool, default=True
        Whether columns are brought to mean 0 and variance 1 first.
    scoring : {"accuracy", "balanced_accuracy", "f1", "roc_auc"}, default="accuracy"
        Metric of the votes.

    Returns
    -------
    score : float
        The score of all rows together.

    Raises
    ------
    ValueError
        If there are fewer other rows than neighbors, or features and labels are invalid.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sktransfer.model_selection import knn_score
    >>> round(knn_score(*load_iris(return_X_y=True), n_neighbors=1, metric="euclidean"), 3)
    0.947
    """
    data = check_labeled(F, y, groups)
    decisions = knn_decisions(data, n_neighbors=n_neighbors, metric=metric, standardize=standardize)
    return score_held_out(data.codes, decisions, scoring)


def knn_decisions(
    data: LabeledFeatures,
    *,
    n_neighbors: int = 5,
    metric: str = "cosine",
    standardize: bool = True,
) -> np.ndarray:
    """Compute each class's share of the votes on every row; nearer voters resolve ties."""
    if metric not in ("cosine", "euclidean"):
        raise ValueError(f"metric must be 'cosine' or 'euclidean'; got {metric!r}.")
    n = len(data.codes)
    others = n - (1 if data.groups is None else int(np.bincount(data.groups).max()))
    if not 1 <= n_neighbors <= others:
        raise ValueError(
            f"n_neighbors={n_neighbors} must be from 1 to {others}, the rows that are left "
            "when a row (or its group) is left out."
        )
    features = standardized(data.F) if standardize else data.F
    if metric == "cosine":
        length = np.linalg.norm(features, axis=1, keepdims=True)
        features = np.divide(features, length, out=np.zeros_like(features), where=length > 0)
    square = (features**2).sum(axis=1)
    # Nearer voters count more by less than one vote in all: it resolves ties and nothing else.
    weight = 1 + 1e-3 * np.arange(n_neighbors, 0, -1) / n_neighbors**2
    votes = np.zeros((n, len(data.classes)))
    for start in range(0, n, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, n))
        apart = square[rows][:, None] + square[None, :] - 2 * features[rows] @ features.T
        if data.groups is None:
            apart[np.arange(len(rows)), rows] = np.inf
        else:
            apart[data.groups[rows][:, None] == data.groups[None, :]] = np.inf
        nearest = np.argpartition(apart, n_neighbors - 1, axis=1)[:, :n_neighbors]
        order = np.argsort(np.take_along_axis(apart, nearest, axis=1), axis=1, kind="stable")
        nearest = np.take_along_axis(nearest, order, axis=1)
        for place in range(n_neighbors):
            votes[rows, data.codes[nearest[:, place]]] += weight[place]
    return votes / weight.sum()
