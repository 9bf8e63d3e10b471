"""Sensitivity and specificity of predicted labels, and exact intervals of rates.

It must not know scores or estimators.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri
from scipy.stats import beta
from scipy.stats import t as student
from sklearn.metrics import multilabel_confusion_matrix, recall_score
from sklearn.utils.multiclass import unique_labels

from sktransfer.metrics._labels import (
    Interval,
    binary_labels,
    check_confidence,
    group_codes,
    positive_label,
)


def sensitivity_score(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    labels: ArrayLike | None = None,
    pos_label: Any = 1,
    average: str | None = "binary",
    sample_weight: ArrayLike | None = None,
    zero_division: float | str = "warn",
) -> Any:
    """Share of the positive rows that are called positive.

    Another name of :func:`sklearn.metrics.recall_score`; parameters are the same.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n,)
        True and predicted labels.
    labels : array-like or None, default=None
        Classes to report, unless ``average="binary"``.
    pos_label : int, float, bool or str, default=1
        The positive class, with ``average="binary"``.
    average : {"binary", "macro", "micro", "weighted"} or None, default="binary"
        What to make of several classes, each against the rest. None: one value for each. "macro"
        is balanced accuracy, which the dermatology literature also calls accuracy.
    sample_weight : array-like of shape (n,) or None, default=None
    zero_division : {"warn", 0.0, 1.0, nan}, default="warn"
        What the score is without positive rows.

    Returns
    -------
    float or ndarray of shape (n_classes,)

    Examples
    --------
    >>> from sktransfer.metrics import sensitivity_score
    >>> sensitivity_score([1, 1, 1, 0, 0], [1, 1, 0, 0, 1])
    0.666...
    """
    return recall_score(
        y_true,
        y_pred,
        labels=labels,
        pos_label=pos_label,
        average=average,
        sample_weight=sample_weight,
        zero_division=zero_division,
    )


def specificity_score(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    labels: ArrayLike | None = None,
    pos_label: Any = 1,
    average: str | None = "binary",
    sample_weight: ArrayLike | None = None,
) -> Any:
    """Share of the negative rows that are called negative.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n,)
        True and predicted labels.
    labels : array-like or None, default=None
        Classes to report, unless ``average="binary"``.
    pos_label : int, float, bool or str, default=1
        The positive class, with ``average="binary"``.
    average : {"binary", "macro"} or None, default="binary"
        What to make of several classes, each against the rest. None: one value for each.
    sample_weight : array-like of shape (n,) or None, default=None

    Returns
    -------
    float or ndarray of shape (n_classes,)
        NaN where there are no negative rows.

    Examples
    --------
    >>> from sktransfer.metrics import specificity_score
    >>> specificity_score([1, 1, 1, 0, 0], [1, 1, 0, 0, 1])
    0.5
    >>> specificity_score([0, 1, 2, 2], [0, 2, 2, 2], average=None).round(2).tolist()
    [1.0, 1.0, 0.5]
    """
    if average not in ("binary", "macro", None):
        raise ValueError(f"average must be 'binary', 'macro' or None; got {average!r}.")
    if average == "binary":
        present = unique_labels(y_true, y_pred)
        if len(present) > 2:
            raise ValueError(
                f"y has {len(present)} classes; with more than two, give average='macro' or None."
            )
        if len(present) == 2 and pos_label not in present:
            raise ValueError(f"pos_label={pos_label!r} is not one of {present.tolist()}.")
        labels = [pos_label]
        if pos_label not in present:  # no row is positive and none is called so
            return 1.0
    tables = multilabel_confusion_matrix(y_true, y_pred, sample_weight=sample_weight, labels=labels)
    negatives = tables[:, 0, :].sum(axis=1)
    values = np.divide(
        tables[:, 0, 0], negatives, out=np.full(len(tables), np.nan), where=negatives > 0
    )
    if average is None:
        return values
    return float(values[0] if average == "binary" else values.mean())


def rate_interval(
    k: float, n: float, *, confidence_level: float = 0.95, method: str = "exact"
) -> Interval:
    """Confidence interval of a rate: ``k`` of ``n``.

    Parameters
    ----------
    k, n : int or float
        Successes and trials. They need not be whole: an effective number of trials is not.
    confidence_level : float, default=0.95
    method : {"exact", "wilson"}, default="exact"
        "exact" [1]_ covers at least as often as it says; "wilson" [2]_ does so on average and is
        shorter.

    Returns
    -------
    Interval
        ``(estimate, low, high)``; without trials the estimate is NaN and the interval [0, 1].

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
        raise ValueError(f"k of n needs 0 <= k <= n; got k={k!r}, n={n!r}.")
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


def effective_trials(
    success: np.ndarray, groups: np.ndarray | None, confidence_level: float = 0.95
) -> float:
    """How many independent rows a rate over groups is worth (Korn and Graubard, 1998).

    Parameters
    ----------
    success : ndarray of bool, shape (n,)
    groups : ndarray of int, shape (n,), or None
        None: rows are independent.
    confidence_level : float, default=0.95
        Of the interval that it is for: few groups estimate the variance badly, and the quantile of
        Student's t says how badly at this level.

    Returns
    -------
    float
        At most ``n``; the number of groups where all rows are alike.
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


def sensitivity_specificity(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    pos_label: Any = None,
    groups: ArrayLike | None = None,
    confidence_level: float = 0.95,
) -> tuple[Interval, Interval]:
    """Sensitivity and specificity of predicted labels, each with its exact interval.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n,)
        True and predicted labels of two classes: those of a reader, say.
    pos_label : int, float, bool, str or None, default=None
        The positive class. None: 1, where the labels are 0 and 1 or -1 and 1.
    groups : array-like of shape (n,) or None, default=None
        Patients. Intervals then are those of an effective number of rows [1]_.
    confidence_level : float, default=0.95

    Returns
    -------
    sensitivity, specificity : Interval
        Each ``(estimate, low, high)``.

    References
    ----------
    .. [1] Korn, Graubard: Confidence intervals for proportions with small expected number of
       positive counts estimated from survey data. Survey Methodology 24 (1998).

    Examples
    --------
    >>> from sktransfer.metrics import sensitivity_specificity
    >>> sensitivity, specificity = sensitivity_specificity([1, 1, 0, 0], [1, 0, 0, 0])
    >>> sensitivity.estimate, specificity.estimate
    (0.5, 1.0)
    """
    label = positive_label(y_true, pos_label)
    positive = binary_labels(y_true, label)
    called = np.asarray(y_pred) == label
    if called.shape != positive.shape:
        raise ValueError(f"y_pred has shape {called.shape} for {len(positive)} rows of y_true.")
    codes = group_codes(groups, len(positive))
    return tuple(
        rate_of(right[rows], None if codes is None else codes[rows], confidence_level)
        for right, rows in ((called, positive), (~called, ~positive))
    )  # type: ignore[return-value]


def rate_of(success: np.ndarray, groups: np.ndarray | None, confidence_level: float) -> Interval:
    """Rate of success with its exact interval, rows of one group together."""
    if not len(success):
        return rate_interval(0, 0, confidence_level=confidence_level)
    n = effective_trials(success, groups, confidence_level)
    return rate_interval(float(success.mean()) * n, n, confidence_level=confidence_level)
