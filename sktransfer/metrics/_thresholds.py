"""Thresholds that keep a rate, and what is lost by them.

A row is called positive where its score is at least the threshold.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binom, nbinom

from sktransfer.metrics._labels import binary_scores, check_level, one_vs_rest

# n * (1 - target_level) in floating point may fall just short of a whole number.
_ROUNDING = 1e-9


def allowed_misses(
    n: int, target_level: float = 0.95, *, confidence_level: float | None = 0.95
) -> int:
    """Count how many of ``n`` may be missed so that the true rate is at least ``target_level``.

    If the ``k`` lowest of ``n`` scores are below a threshold that is the next one, the share of
    *all* such scores at or above it is at least ``target_level`` with probability
    ``confidence_level``, by the order statistics [1]_.

    Parameters
    ----------
    n : int
        Rows of the class whose rate it is; independent, so one for each patient.
    target_level : float, default=0.95
        The rate to keep.
    confidence_level : float or None, default=0.95
        Probability with which it is kept. None: the rate among the ``n`` themselves is at least
        ``target_level``; that of new rows falls short in about every second case.

    Returns
    -------
    n_misses : int
        Number of rows; -1 where no threshold will do, as ``n`` is less than :func:`rows_needed`.

    See Also
    --------
    sktransfer.model_selection.OperatingPointClassifier : Chooses a threshold by this number.

    References
    ----------
    .. [1] Wilks: Determination of sample sizes for setting tolerance limits. Annals of
       Mathematical Statistics 12 (1941).

    Examples
    --------
    >>> from sktransfer.metrics import allowed_misses
    >>> allowed_misses(58), allowed_misses(59), allowed_misses(200)
    (-1, 0, 4)
    >>> allowed_misses(200, confidence_level=None)
    10
    """
    target_level = check_level(target_level, "target_level")
    if confidence_level is None:
        return math.floor(n * (1 - target_level) + _ROUNDING) if n else -1
    tail = 1 - check_level(confidence_level)
    # With k missed the rate of all is Beta(n - k, k + 1): below the target as often as k or fewer
    # of n are missed at a rate that is the target.
    k = np.arange(n - math.floor(n * target_level) + 1 if n else 0)
    below = binom.cdf(k[k < n], n, 1 - target_level)
    return int(np.count_nonzero(below <= tail + _ROUNDING)) - 1


def rows_needed(
    target_level: float = 0.95, *, confidence_level: float = 0.95, misses: int = 0
) -> int:
    """Count how many rows of a class it takes to guarantee a rate.

    Parameters
    ----------
    target_level, confidence_level : float, default=0.95
        The rate to keep, and the probability with which it is kept.
    misses : int, default=0
        How many of the rows may be missed.

    Returns
    -------
    n : int
        The least number of rows.

    See Also
    --------
    allowed_misses : How many of the rows at hand may be missed.

    Examples
    --------
    >>> from sktransfer.metrics import rows_needed
    >>> [rows_needed(0.95, misses=misses) for misses in (0, 1, 2, 5)]
    [59, 93, 124, 208]
    """
    check_level(target_level, "target_level")
    check_level(confidence_level)
    if misses < 0:
        raise ValueError(f"misses must be at least 0; got {misses!r}.")
    # Rows at a rate that is the target, until one more than these has been missed.
    hits = nbinom.ppf(confidence_level - _ROUNDING, misses + 1, 1 - target_level)
    return misses + 1 + int(hits)


def rate_threshold(
    scores: np.ndarray, target_level: float, *, confidence_level: float | None, above: bool
) -> float | None:
    """Return the threshold that keeps the rate of a class and gives the other class most.

    ``scores`` are of the rows of the class, one for each patient; they belong at or ``above`` the
    threshold (sensitivity) or below it (specificity). None: no threshold can guarantee the rate.
    """
    k = allowed_misses(len(scores), target_level, confidence_level=confidence_level)
    if k < 0:
        return None
    if above:
        return float(np.partition(scores, k)[k])
    # Just above the score that has to stay below.
    last = len(scores) - 1 - k
    return float(np.nextafter(np.partition(scores, last)[last], np.inf))


def worst_scores(score: np.ndarray, groups: np.ndarray | None, *, above: bool) -> np.ndarray:
    """Return for each group the score that is missed first; without groups, all scores.

    The rows are of one class and belong at or ``above`` a threshold, or below it.
    """
    if groups is None:
        return score
    names, codes = np.unique(groups, return_inverse=True)
    worst = np.full(len(names), np.inf if above else -np.inf)
    (np.minimum if above else np.maximum).at(worst, codes, score)
    return worst


def specificity_at_sensitivity(
    y_true: ArrayLike,
    y_score: ArrayLike,
    *,
    sensitivity: float = 0.95,
    pos_label: Any = None,
    labels: ArrayLike | None = None,
    average: str | None = "macro",
) -> Any:
    """Compute the greatest specificity of a threshold that has at least this sensitivity.

    A measure of ranking, like the area under the ROC curve. The threshold is chosen on the same
    rows: for one that holds on new rows see
    :class:`~sktransfer.model_selection.OperatingPointClassifier`.

    Parameters
    ----------
    y_true : array-like of shape (n,)
        True labels.
    y_score : array-like of shape (n,) or (n, n_classes)
        Scores of the positive class; or a column for each class, each taken against the rest.
    sensitivity : float, default=0.95
        Least sensitivity of the threshold.
    pos_label : int, float, bool, str or None, default=None
        The positive class of two. None: 1, where the labels are 0 and 1 or -1 and 1.
    labels : array-like of shape (n_classes,) or None, default=None
        Classes in the order of the columns. None: those of ``y_true``, sorted.
    average : {"macro"} or None, default="macro"
        What to make of several classes: their mean, or one value for each.

    Returns
    -------
    specificity : float or ndarray of shape (n_classes,)
        The specificity; an array with several classes and ``average=None``.

    See Also
    --------
    sensitivity_at_specificity : Fix the specificity instead.
    operating_point : Compute all rates at a threshold.

    Examples
    --------
    >>> from sklearn.metrics import make_scorer
    >>> from sktransfer.metrics import specificity_at_sensitivity
    >>> y, score = [0, 0, 0, 1, 1, 1], [0.1, 0.3, 0.6, 0.4, 0.7, 0.9]
    >>> round(specificity_at_sensitivity(y, score, sensitivity=1), 3)
    0.667

    For ``scoring=`` of a search or a cross-validation:

    >>> scorer = make_scorer(
    ...     specificity_at_sensitivity, sensitivity=0.9,
    ...     response_method=("decision_function", "predict_proba"),
    ... )
    """
    return _at_rate(y_true, y_score, sensitivity, "sensitivity", pos_label, labels, average)


def sensitivity_at_specificity(
    y_true: ArrayLike,
    y_score: ArrayLike,
    *,
    specificity: float = 0.95,
    pos_label: Any = None,
    labels: ArrayLike | None = None,
    average: str | None = "macro",
) -> Any:
    """Compute the greatest sensitivity of a threshold that has at least this specificity.

    The counterpart of :func:`specificity_at_sensitivity`.

    Parameters
    ----------
    y_true, y_score : array-like
        True labels and scores, as in :func:`specificity_at_sensitivity`.
    specificity : float, default=0.95
        Least specificity of the threshold.
    pos_label : int, float, bool, str or None, default=None
        The positive class of two. None: 1, where the labels are 0 and 1 or -1 and 1.
    labels : array-like of shape (n_classes,) or None, default=None
        Classes in the order of the columns. None: those of ``y_true``, sorted.
    average : {"macro"} or None, default="macro"
        What to make of several classes: their mean, or one value for each.

    Returns
    -------
    sensitivity : float or ndarray of shape (n_classes,)
        The sensitivity; an array with several classes and ``average=None``.

    See Also
    --------
    specificity_at_sensitivity : Fix the sensitivity instead.
    operating_point : Compute all rates at a threshold.

    Examples
    --------
    >>> from sktransfer.metrics import sensitivity_at_specificity
    >>> y, score = [0, 0, 0, 1, 1, 1], [0.1, 0.3, 0.6, 0.4, 0.7, 0.9]
    >>> round(sensitivity_at_specificity(y, score, specificity=0.95), 3)
    0.667
    """
    return _at_rate(y_true, y_score, specificity, "specificity", pos_label, labels, average)


def _at_rate(
    y_true: ArrayLike,
    y_score: ArrayLike,
    least: float,
    name: str,
    pos_label: Any,
    labels: ArrayLike | None,
    average: str | None,
) -> Any:
    """Return the other rate where the one with this name is at least ``least``."""
    if not 0 < least <= 1:
        raise ValueError(f"{name} must be a share above 0 and at most 1; got {least!r}.")
    if average not in ("macro", None):
        raise ValueError(f"average must be 'macro' or None; got {average!r}.")
    above = name == "sensitivity"
    if np.ndim(y_score) == 2:
        positive, score = one_vs_rest(y_true, y_score, labels)
        values = np.array(
            [_other_rate(s, p, least, above) for s, p in zip(score.T, positive.T, strict=True)]
        )
        return values if average is None else float(values.mean())
    positive, score, _ = binary_scores(y_true, y_score, pos_label=pos_label)
    return _other_rate(score, positive, least, above)


def _other_rate(score: np.ndarray, positive: np.ndarray, least: float, above: bool) -> float:
    """Return the best rate of the other class where that of one class is at least ``least``."""
    if not above:  # the specificity is the sensitivity of the other class
        score, positive = -score, ~positive
    own = score[positive]
    k = math.floor(len(own) * (1 - least) + _ROUNDING)
    return float((score[~positive] < np.partition(own, k)[k]).mean())
