"""Exact intervals of rates, of independent rows and of rows in groups."""

from __future__ import annotations

import numpy as np
from scipy.stats import beta
from scipy.stats import t as student

from sktransfer.metrics._labels import Interval, check_level


def rate_interval(k: float, n: float, *, confidence_level: float = 0.95) -> Interval:
    """Compute the exact confidence interval of a rate: ``k`` of ``n``.

    Parameters
    ----------
    k, n : int or float
        Successes and trials. They need not be whole: an effective number of trials is not.
    confidence_level : float, default=0.95
        Level of the interval, which covers the rate at least as often [1]_.

    Returns
    -------
    interval : tuple of float
        Named tuple ``(estimate, low, high)``; without trials it is ``(nan, 0, 1)``.

    See Also
    --------
    operating_point : Rates of rows and of patients, with their intervals.
    scipy.stats.binomtest : Other intervals, such as Wilson's, of whole numbers.

    References
    ----------
    .. [1] Clopper, Pearson: The use of confidence or fiducial limits illustrated in the case of
       the binomial. Biometrika 26 (1934).

    Examples
    --------
    >>> from sktransfer.metrics import rate_interval
    >>> rate, low, high = rate_interval(57, 60)
    >>> f"{rate:.3f} ({low:.3f} to {high:.3f})"
    '0.950 (0.861 to 0.990)'
    """
    tail = (1 - check_level(confidence_level)) / 2
    if not 0 <= k <= n:
        raise ValueError(f"A rate of k in n needs 0 <= k <= n; got k={k!r} and n={n!r}.")
    if n == 0:
        return Interval(float("nan"), 0.0, 1.0)
    low = float(beta.ppf(tail, k, n - k + 1)) if k > 0 else 0.0
    high = float(beta.ppf(1 - tail, k + 1, n - k)) if k < n else 1.0
    return Interval(k / n, low, high)


def rate_of(success: np.ndarray, groups: np.ndarray | None, confidence_level: float) -> Interval:
    """Return the rate of success with its exact interval, rows of one group counted together."""
    if not len(success):
        return rate_interval(0, 0, confidence_level=confidence_level)
    n = effective_trials(success, groups, confidence_level)
    return rate_interval(float(success.mean()) * n, n, confidence_level=confidence_level)


def effective_trials(
    success: np.ndarray, groups: np.ndarray | None, confidence_level: float = 0.95
) -> float:
    """Return how many independent rows a rate over groups is worth (Korn and Graubard, 1998).

    At most all of them, and as many as there are groups where the rows of each are alike. With few
    groups, whose variance is uncertain, quantiles of Student's t lower the number.
    """
    n = len(success)
    if groups is None or n == 0:
        return float(n)
    _, codes = np.unique(groups, return_inverse=True)
    n_groups = int(codes.max()) + 1
    rate = success.mean()
    if n_groups == 1:
        return 1.0
    if rate in (0.0, 1.0):
        return float(n_groups)
    residuals = np.bincount(codes, weights=success - rate)
    variance = n_groups / (n_groups - 1) * (residuals**2).sum() / n**2
    if variance == 0:
        return float(n)
    tail = (1 - confidence_level) / 2
    few = (student.ppf(tail, n - 1) / student.ppf(tail, n_groups - 1)) ** 2
    return float(min(n, rate * (1 - rate) / variance * few))
