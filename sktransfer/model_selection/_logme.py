"""LogME: the evidence of features for labels, maximized exactly; it must not know where the
features come from.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar

from sktransfer.model_selection._features import check_labeled, left_singular

# Ratios of signal to noise looked through before the best one is refined, as powers of ten,
# relative to the largest singular value squared.
_DECADES = np.linspace(-10, 10, 81)


def logme_score(F: ArrayLike, y: ArrayLike) -> float:
    """Logarithm of the maximum evidence of the features for the labels, per row.

    For every class, the labels as 0 and 1 are taken for a draw of a linear model of the features
    with normal weights and normal noise; their two variances are those that make the labels most
    likely. The score is the mean over classes of that log-likelihood, divided by n [1]_.

    Parameters
    ----------
    F : array-like of shape (n, d)
        Features, neither centerd nor scaled here.
    y : array-like of shape (n,)
        Labels.

    Returns
    -------
    float
        Larger is better. How much larger says nothing of how much better a classifier would be.

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
