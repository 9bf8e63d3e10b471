"""Slope and intercept of the calibration of probabilities."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit, ndtri
from sklearn.exceptions import UndefinedMetricWarning

from sktransfer.metrics._labels import (
    Interval,
    binary_scores,
    check_confidence,
    check_probabilities,
)

# Newton's method doubles its digits at each step; far more steps than it ever needs.
_MAX_STEPS = 100


def calibration_slope(
    y_true: ArrayLike,
    y_proba: ArrayLike,
    *,
    pos_label: Any = None,
    confidence_level: float = 0.95,
    groups: ArrayLike | None = None,
) -> Interval:
    """Compute the slope of a logistic regression of labels on the log odds of probabilities.

    1 is ideal; less means that the probabilities are too extreme, as those of an overfit model are;
    more, that they are not extreme enough [1]_.

    Parameters
    ----------
    y_true : array-like of shape (n,)
        True labels of two classes.
    y_proba : array-like of shape (n,)
        Probabilities of the positive class. 0 and 1 count as the nearest numbers between them.
    pos_label : int, float, bool, str or None, default=None
        The positive class. None: 1, where the labels are 0 and 1 or -1 and 1.
    confidence_level : float, default=0.95
        Level of the interval.
    groups : array-like of shape (n,) or None, default=None
        Patients: the variance then is robust to rows of one patient being alike.

    Returns
    -------
    interval : tuple of float
        Named tuple ``(estimate, low, high)``.

    Warns
    -----
    UndefinedMetricWarning
        If the probabilities separate the classes, or are all the same: there is no finite slope.

    References
    ----------
    .. [1] Van Calster, McLernon, van Smeden, Wynants, Steyerberg: Calibration: the Achilles heel of
       predictive analytics. BMC Medicine 17 (2019).

    Examples
    --------
    >>> import numpy as np
    >>> from sktransfer.metrics import calibration_slope
    >>> rng = np.random.default_rng(0)
    >>> log_odds = rng.normal(size=5000)
    >>> y = rng.random(5000) < 1 / (1 + np.exp(-log_odds))
    >>> overconfident = 1 / (1 + np.exp(-2 * log_odds))
    >>> round(calibration_slope(y, overconfident).estimate, 1)
    0.5
    """
    positive, x, codes = _log_odds(y_true, y_proba, pos_label, groups)
    low, high = x[positive], x[~positive]
    if low.min() >= high.max() or low.max() <= high.min():
        warnings.warn(
            "The probabilities separate the classes or are all the same: there is no finite slope.",
            UndefinedMetricWarning,
            stacklevel=2,
        )
        if x.min() == x.max():
            return Interval(np.nan, np.nan, np.nan)
        slope = np.inf if low.min() >= high.max() else -np.inf
        return Interval(slope, np.nan, np.nan)
    return _logistic(
        positive, np.column_stack([x, np.ones_like(x)]), np.zeros_like(x), codes, confidence_level
    )


def calibration_intercept(
    y_true: ArrayLike,
    y_proba: ArrayLike,
    *,
    pos_label: Any = None,
    confidence_level: float = 0.95,
    groups: ArrayLike | None = None,
) -> Interval:
    """Compute what to add to the log odds so that they are correct on average.

    This is calibration in the large: 0 is ideal; less means that the probabilities are too high,
    more that they are too low. The slope is held at 1.

    Parameters
    ----------
    y_true : array-like of shape (n,)
        True labels of two classes.
    y_proba : array-like of shape (n,)
        Probabilities of the positive class. 0 and 1 count as the nearest numbers between them.
    pos_label : int, float, bool, str or None, default=None
        The positive class. None: 1, where the labels are 0 and 1 or -1 and 1.
    confidence_level : float, default=0.95
        Level of the interval.
    groups : array-like of shape (n,) or None, default=None
        Patients: the variance then is robust to rows of one patient being alike.

    Returns
    -------
    interval : tuple of float
        Named tuple ``(estimate, low, high)``.

    Examples
    --------
    >>> import numpy as np
    >>> from sktransfer.metrics import calibration_intercept
    >>> y = np.repeat([0, 1], [80, 20])
    >>> round(calibration_intercept(y, np.full(100, 0.5)).estimate, 3)
    -1.386
    """
    positive, x, codes = _log_odds(y_true, y_proba, pos_label, groups)
    return _logistic(positive, np.ones((len(x), 1)), x, codes, confidence_level)


def _log_odds(
    y_true: ArrayLike, y_proba: ArrayLike, pos_label: Any, groups: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return which rows are positive, the log odds, and the groups numbered from 0."""
    kind = np.asarray(y_proba).dtype
    positive, proba, codes = binary_scores(
        y_true, y_proba, pos_label=pos_label, groups=groups, name="y_proba"
    )
    check_probabilities(proba, len(positive))
    # The distance of 1 to the number before it, at the precision they were given in.
    margin = float(np.finfo(kind).epsneg) if np.issubdtype(kind, np.floating) else 2.0**-53
    return positive, logit(proba.clip(margin, 1 - margin)), codes


def _logistic(
    positive: np.ndarray,
    design: np.ndarray,
    offset: np.ndarray,
    codes: np.ndarray | None,
    confidence_level: float,
) -> Interval:
    """Return the first coefficient of an unpenalized logistic regression, by Newton's method."""
    check_confidence(confidence_level)
    beta = np.zeros(design.shape[1])

    def loss(beta: np.ndarray) -> float:
        z = design @ beta + offset
        return float(np.logaddexp(0, np.where(positive, -z, z)).sum())

    value = loss(beta)
    for _ in range(_MAX_STEPS):
        mean = expit(design @ beta + offset)
        information = design.T @ (design * (mean * (1 - mean))[:, None])
        step = np.linalg.lstsq(information, design.T @ (positive - mean), rcond=None)[0]
        size = 1.0
        while loss(beta + size * step) > value and size > 1e-10:
            size /= 2  # a full step may overshoot where probabilities are extreme
        beta = beta + size * step
        new = loss(beta)
        if value - new <= 1e-14 * abs(value):
            break
        value = new
    mean = expit(design @ beta + offset)
    information = design.T @ (design * (mean * (1 - mean))[:, None])
    covariance = np.linalg.pinv(information)
    if codes is not None:
        scores = design * (positive - mean)[:, None]
        sums = np.stack([np.bincount(codes, weights=column) for column in scores.T], axis=1)
        n_groups = len(sums)
        meat = n_groups / max(n_groups - 1, 1) * (sums.T @ sums)
        covariance = covariance @ meat @ covariance
    half = ndtri(0.5 + confidence_level / 2) * np.sqrt(covariance[0, 0])
    return Interval(float(beta[0]), float(beta[0] - half), float(beta[0] + half))
