"""H-score: how much of the features' variance the classes explain; it must not know where the
features come from.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from sktransfer.model_selection._features import check_labeled, left_singular


def h_score(F: ArrayLike, y: ArrayLike, *, regularized: bool = True) -> float:
    """Trace of the between-class covariance in units of the whole covariance.

    Parameters
    ----------
    F : array-like of shape (n, d)
        Features; they are centerd here.
    y : array-like of shape (n,)
        Labels.
    regularized : bool, default=True
        Whether the covariance is shrunk as Ledoit and Wolf have it [2]_. Not shrunk, the score is
        Pillai's trace [1]_, and with d >= n - 1 it is the number of classes minus one whatever the
        labels are.

    Returns
    -------
    float
        Larger is better. With d < n, labels at random give about (n_classes - 1) d / (n - 1) where
        it is not regularized: scores of networks of different widths are not comparable then.

    Notes
    -----
    Of one singular value decomposition of the features; no covariance is formed.

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
    centerd = data.F - data.F.mean(axis=0)
    U, s = left_singular(centerd)
    # Squared length of each direction's class means, weighted by the sizes of the classes.
    sums = data.onehot.T @ U
    between = (sums**2 / data.onehot.sum(axis=0)[:, None]).sum(axis=0)
    if not regularized:
        return float(between.sum())
    n, d = centerd.shape
    shrinkage = _ledoit_wolf(centerd, s)
    prior = float((s**2).sum()) / (n * d)
    whole = (1 - shrinkage) * s**2 / n + shrinkage * prior
    return float((1 - shrinkage) / (n - 1) * (s**2 / whole * between).sum())


def _ledoit_wolf(centerd: np.ndarray, s: np.ndarray) -> float:
    """scikit-learn's ``ledoit_wolf_shrinkage`` of centerd rows, from their singular values."""
    n, d = centerd.shape
    if d == 1:
        return 0.0  # one variance is what it would be shrunk to; the rest would be rounding
    trace = float((s**2).sum()) / n
    square = float((s**4).sum()) / n**2
    fourth = float(((centerd**2).sum(axis=1) ** 2).sum())
    apart = (square - trace**2 / d) / d
    noise = (fourth / n - square) / (d * n)
    return 0.0 if apart <= 0 else min(noise, apart) / apart
