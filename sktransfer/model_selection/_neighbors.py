"""Nearest neighbors among the other rows; it must not know where the features come from."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from sktransfer._utils.resampling import score_held_out
from sktransfer.model_selection._features import check_labeled, standardized

# Rows whose similarities to all others are held at a time.
_BLOCK = 1024


def knn_decisions(
    F: ArrayLike,
    y: ArrayLike,
    *,
    n_neighbors: int = 5,
    metric: str = "cosine",
    groups: ArrayLike | None = None,
    standardize: bool = True,
) -> np.ndarray:
    """Let the nearest other rows vote on each row.

    Parameters
    ----------
    F : array-like of shape (n, d)
        Features.
    y : array-like of shape (n,)
        Labels.
    n_neighbors : int, default=5
    metric : {"cosine", "euclidean"}, default="cosine"
    groups : array-like of shape (n,) or None, default=None
        Rows of one group (a patient) do not vote on each other.
    standardize : bool, default=True
        Whether columns are brought to mean 0 and variance 1 first.

    Returns
    -------
    ndarray of shape (n, n_classes), float64
        Shares of the votes; of equal shares that with the nearer voters is the larger by a little.

    Raises
    ------
    ValueError
        If there are fewer other rows than neighbors, or the data make no sense.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sktransfer.model_selection import knn_decisions
    >>> F, y = load_iris(return_X_y=True)
    >>> knn_decisions(F, y)[0].round(2).tolist()
    [1.0, 0.0, 0.0]
    """
    data = check_labeled(F, y, groups)
    if metric not in ("cosine", "euclidean"):
        raise ValueError(f"metric must be 'cosine' or 'euclidean'; got {metric!r}.")
    n = len(data.codes)
    others = n - (1 if data.groups is None else int(np.bincount(data.groups).max()))
    if not 1 <= n_neighbors <= others:
        raise ValueError(
            f"n_neighbors={n_neighbors} must be from 1 to {others}, the rows that are left "
            "when a row (or its group) is set aside."
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
    """Score of letting the nearest other rows vote on each row.

    Parameters
    ----------
    F, y, n_neighbors, metric, groups, standardize
        As for :func:`knn_decisions`.
    scoring : {"accuracy", "balanced_accuracy", "f1", "roc_auc"}, default="accuracy"

    Returns
    -------
    float

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sktransfer.model_selection import knn_score
    >>> round(knn_score(*load_iris(return_X_y=True), n_neighbors=1, metric="euclidean"), 3)
    0.947
    """
    decisions = knn_decisions(
        F, y, n_neighbors=n_neighbors, metric=metric, groups=groups, standardize=standardize
    )
    return score_held_out(np.unique(np.asarray(y), return_inverse=True)[1], decisions, scoring)
