"""Scores of labeled features: held-out predictions, and closed forms of the literature."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar

from sktransfer._scoring.features import (
    LabeledFeatures,
    check_labeled,
    left_singular,
    ridge_decisions,
    standardized,
)
from sktransfer._utils.resampling import score_held_out

# Rows whose similarities to all others are held at a time.
_BLOCK = 1024
# Ratios of signal to noise looked through before the best one is refined, as powers of ten,
# relative to the largest singular value squared.
_DECADES = np.linspace(-10, 10, 81)


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

    See Also
    --------
    rank_backbones : Rank networks and layers by such a score.

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

    See Also
    --------
    rank_backbones : Rank networks and layers by such a score.

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
    data: LabeledFeatures, *, n_neighbors: int = 5, metric: str = "cosine", standardize: bool = True
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


def logme_score(F: ArrayLike, y: ArrayLike) -> float:
    """Compute LogME, the logarithm of the maximum evidence of features for labels, per row.

    For every class, the labels as 0 and 1 are modeled as a draw of a linear model of the features
    with normal weights and normal noise, with the two variances that make the labels most likely.
    The score is the mean over classes of that log-likelihood, divided by n [1]_.

    Parameters
    ----------
    F : array-like of shape (n, d)
        Features; they are neither centered nor scaled here.
    y : array-like of shape (n,)
        Labels.

    Returns
    -------
    score : float
        Larger is better. The size of a gap does not say how much better a classifier would be.

    See Also
    --------
    rank_backbones : Rank networks and layers by such a score.

    Notes
    -----
    The weights integrate out, which leaves labels that are normal with covariance
    ``noise * (I + ratio * F F')``. Given the ratio, the best noise is known, so that one number is
    left to be found, whatever n and d are. The iteration in the authors' code stops early, and for
    n < d misses a term.

    References
    ----------
    .. [1] You, K., Liu, Y., Wang, J., & Long, M. (2021). "LogME: practical assessment of
       pre-trained models for transfer learning". ICML.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.preprocessing import scale
    >>> from sktransfer.model_selection import logme_score
    >>> F, y = load_iris(return_X_y=True)
    >>> round(logme_score(scale(F), y), 4)
    -0.6392
    """
    data = check_labeled(F, y)
    U, s = left_singular(data.F)
    return float(np.mean([_evidence(U, s, t) for t in data.onehot.T]))


def _evidence(U: np.ndarray, s: np.ndarray, t: np.ndarray) -> float:
    """Maximize the log-evidence of one column of labels, per row."""
    n = len(t)
    inside = (U.T @ t) ** 2
    outside = max(0.0, float(t @ t - inside.sum()))
    signal = (s / s.max()) ** 2 if len(s) else s

    def negative(decade: float) -> float:
        spread = 1 + 10.0**decade * signal
        noise = (float((inside / spread).sum()) + outside) / n
        return 0.5 * (np.log(max(noise, 1e-300)) + np.log(spread).sum() / n)

    values = [negative(decade) for decade in _DECADES]
    best = int(np.argmin(values))
    step = _DECADES[1] - _DECADES[0]
    found = minimize_scalar(
        negative,
        bounds=(_DECADES[best] - step, _DECADES[best] + step),
        method="bounded",
        options={"xatol": 1e-9},
    )
    return -min(values[best], float(found.fun)) - 0.5 * (1 + np.log(2 * np.pi))


def h_score(F: ArrayLike, y: ArrayLike, *, regularized: bool = True) -> float:
    """Compute the H-score, the between-class covariance in units of the whole covariance.

    Parameters
    ----------
    F : array-like of shape (n, d)
        Features; they are centered here.
    y : array-like of shape (n,)
        Labels.
    regularized : bool, default=True
        Whether the covariance is shrunk as Ledoit and Wolf do it [2]_. Not shrunk, the score is
        Pillai's trace [1]_, and with d >= n - 1 it is the number of classes minus one whatever the
        labels are.

    Returns
    -------
    score : float
        Larger is better. With d < n, labels at random give about (n_classes - 1) d / (n - 1) where
        it is not regularized: scores of networks of different widths are not comparable then.

    See Also
    --------
    rank_backbones : Rank networks and layers by such a score.

    Notes
    -----
    It takes one singular value decomposition of the features; no covariance is formed.

    References
    ----------
    .. [1] Bao, Y., et al. (2019). "An information-theoretic approach to transferability in task
       transfer learning". ICIP.
    .. [2] Ibrahim, S., Ponomareva, N., & Mazumder, R. (2022). "Newer is not always better:
       rethinking transferability metrics, their peculiarities, stability and performance".
       ECML-PKDD.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sktransfer.model_selection import h_score
    >>> F, y = load_iris(return_X_y=True)
    >>> round(h_score(F, y, regularized=False), 4)
    1.1919
    """
    data = check_labeled(F, y)
    centered = data.F - data.F.mean(axis=0)
    U, s = left_singular(centered)
    # Squared length of each direction's class means, weighted by the sizes of the classes.
    sums = data.onehot.T @ U
    between = (sums**2 / data.onehot.sum(axis=0)[:, None]).sum(axis=0)
    if not regularized:
        return float(between.sum())
    n, d = centered.shape
    shrinkage = _ledoit_wolf(centered, s)
    prior = float((s**2).sum()) / (n * d)
    whole = (1 - shrinkage) * s**2 / n + shrinkage * prior
    return float((1 - shrinkage) / (n - 1) * (s**2 / whole * between).sum())


def _ledoit_wolf(centered: np.ndarray, s: np.ndarray) -> float:
    """Compute scikit-learn's ``ledoit_wolf_shrinkage`` of centered rows, from singular values."""
    n, d = centered.shape
    if d == 1:
        return 0.0  # one variance is what it would be shrunk to; the rest would be rounding
    trace = float((s**2).sum()) / n
    square = float((s**4).sum()) / n**2
    fourth = float(((centered**2).sum(axis=1) ** 2).sum())
    apart = (square - trace**2 / d) / d
    noise = (fourth / n - square) / (d * n)
    return 0.0 if apart <= 0 else min(noise, apart) / apart


def leep_score(theta: ArrayLike, y: ArrayLike) -> float:
    """Compute LEEP, the log-likelihood of labels given a network's own class probabilities.

    For each image, a source class is drawn from the network's own probabilities, and the new label
    from the labels that go with that source class in the data [1]_.

    Parameters
    ----------
    theta : array-like of shape (n, n_source_classes)
        Probabilities of the network's own classes; rows sum to 1.
    y : array-like of shape (n,)
        New labels.

    Returns
    -------
    score : float
        At most 0; larger is better.

    Raises
    ------
    ValueError
        If rows of ``theta`` are not probabilities.

    See Also
    --------
    rank_backbones : Rank networks and layers by such a score.

    References
    ----------
    .. [1] Nguyen, C. V., Hassner, T., Seeger, M., & Archambeau, C. (2020). "LEEP: a new measure to
       evaluate transferability of learned representations". ICML.

    Examples
    --------
    >>> from sktransfer.model_selection import leep_score
    >>> leep_score([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], ["a", "a", "b"])
    0.0
    """
    return float(leep_per_row(theta, y).mean())


def leep_per_row(theta: ArrayLike, y: ArrayLike) -> np.ndarray:
    """Compute the log-likelihood of each label, shape (n,); its mean is :func:`leep_score`."""
    data = check_labeled(theta, y, name="theta")
    total = data.F.sum(axis=1)
    if (data.F < 0).any() or not np.allclose(total, 1, atol=1e-3):
        raise ValueError(
            f"Rows of theta are probabilities of the source classes: not negative, and summing to "
            f"1; got values from {data.F.min():.3g} and sums from {total.min():.3g} to "
            f"{total.max():.3g}. Apply a softmax to logits first."
        )
    probabilities = data.F / total[:, None]
    joint = data.onehot.T @ probabilities
    marginal = joint.sum(axis=0)
    conditional = np.divide(joint, marginal, out=np.zeros_like(joint), where=marginal > 0)
    likelihood = (conditional[data.codes] * probabilities).sum(axis=1)
    return np.log(np.maximum(likelihood, np.finfo(np.float64).tiny))


def nce_score(z: ArrayLike, y: ArrayLike) -> float:
    """Compute the negative conditional entropy of labels given predicted source classes.

    Parameters
    ----------
    z : array-like of shape (n,)
        Source class predicted for each image, of any kind.
    y : array-like of shape (n,)
        New labels.

    Returns
    -------
    score : float
        At most 0; larger is better. It is :func:`leep_score` of probabilities of 0 and 1 [1]_.

    See Also
    --------
    rank_backbones : Rank networks and layers by such a score.

    References
    ----------
    .. [1] Tran, A. T., Nguyen, C. V., & Hassner, T. (2019). "Transferability and hardness of
       supervised classification tasks". ICCV.

    Examples
    --------
    >>> from sktransfer.model_selection import nce_score
    >>> round(nce_score([0, 0, 1, 1], ["a", "a", "a", "b"]), 4)
    -0.3466
    """
    source, codes = np.unique(np.asarray(z), return_inverse=True)
    return leep_score(np.eye(len(source))[codes], y)
