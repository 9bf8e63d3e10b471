"""Exact intervals of rates, of independent rows and of rows in groups."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri
from scipy.stats import beta
from scipy.stats import t as student

from sktransfer.metrics._labels import Interval, check_confidence


def rate_interval(
    k: float, n: float, *, confidence_level: float = 0.95, method: str = "exact"
) -> Interval:
    """Compute the confidence interval of a rate: ``k`` of ``n``.

    Parameters
    ----------
    k, n : int or float
        Successes and trials. They need not be whole: an effective number of trials is not.
    confidence_level : float, default=0.95
        Level of the interval.
    method : {"exact", "wilson"}, default="exact"
        "exact" [1]_ covers at least as often as it says; "wilson" [2]_ does so on average and is
        shorter.

    Returns
    -------
    interval : tuple of float
        Named tuple ``(estimate, low, high)``; without trials the estimate is NaN and the interval
        is [0, 1].

    See Also
    --------
    imblearn.metrics.sensitivity_specificity_support : The rates alone, for several classes too.

    References
    ----------
    .. [1] Clopper, Pearson: The use of confidence or fiducial limits illustrated in the case of
       the binomial. Biometrika 26 (1934).
    .. [2] Wilson: Probable inference, the law of succession, and statistical inference. JASA 22
       (1927).

    Examples
    --------
    >>> from sktransfer.metrics import rate_interval
    >>> rate, low, high = rate_interval(57, 60)
    >>> f"{rate:.3f} ({low:.3f} to {high:.3f})"
    '0.950 (0.861 to 0.990)'
    """
    tail = (1 - check_confidence(confidence_level)) / 2
    if not 0 <= k <= n:
        raise ValueError(f"A rate of k in n needs 0 <= k <= n; got k={k!r} and n={n!r}.")
    if method not in ("exact", "wilson"):
        raise ValueError(f"method must be 'exact' or 'wilson'; got {method!r}.")
    if n == 0:
        return Interval(float("nan"), 0.0, 1.0)
    rate = k / n
    if method == "exact":
        low = float(beta.ppf(tail, k, n - k + 1)) if k > 0 else 0.0
        high = float(beta.ppf(1 - tail, k + 1, n - k)) if k < n else 1.0
        return Interval(rate, low, high)
    z = ndtri(1 - tail)
    center = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    return Interval(
        rate, float(center - half) if k > 0 else 0.0, float(center + half) if k < n else 1.0
    )


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

    At most all of them, and as many as there are groups where the rows of each are alike. Few
    groups estimate the variance badly; the quantile of Student's t at ``confidence_level`` says how
    badly.
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
