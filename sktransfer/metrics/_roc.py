"""ROC curves: areas with intervals, their differences, and bands about the curve."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit, ndtri
from scipy.stats import norm, rankdata
from scipy.stats import t as student
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.utils import check_random_state

from sktransfer.metrics._labels import (
    Interval,
    among,
    binary_scores,
    check_level,
    group_codes,
    one_vs_rest,
)

# Resamples computed at once; a block takes 1 kB for each row.
_BLOCK = 128


class AucDifference(NamedTuple):
    """A difference of two areas, the ends of its interval, and the p-value of no difference."""

    estimate: float
    low: float
    high: float
    pvalue: float


def roc_auc_interval(
    y_true: ArrayLike,
    y_score: ArrayLike,
    *,
    confidence_level: float = 0.95,
    groups: ArrayLike | None = None,
    method: str = "auto",
    scale: str = "logit",
    pos_label: Any = None,
    labels: ArrayLike | None = None,
    average: str | None = "macro",
    n_resamples: int = 1000,
    random_state: Any = 0,
) -> Any:
    """Compute the area under the ROC curve with a confidence interval.

    Parameters
    ----------
    y_true : array-like of shape (n,)
        True labels.
    y_score : array-like of shape (n,) or (n, n_classes)
        Scores of the positive class; or a column for each class, each taken against the rest.
    confidence_level : float, default=0.95
        Level of the interval.
    groups : array-like of shape (n,) or None, default=None
        Patients, whose rows resemble each other: an interval that ignores this is too short.
    method : {"auto", "delong", "bootstrap"}, default="auto"
        "delong": the variance by DeLong [1]_; with groups, by Obuchowski [2]_. "bootstrap": of rows
        or whole patients, within each class. "auto": the bootstrap with groups, else DeLong.
    scale : {"logit", "linear"}, default="logit"
        Scale on which the interval is symmetric. "logit" takes quantiles of Student's t [3]_ and
        adds the variance of a single pair to that of DeLong, for coverage near 1 and with few rows
        (see Notes). "linear" is the interval of [1]_, which covers less and may end above 1.
    pos_label : int, float, bool, str or None, default=None
        The positive class of two. None: 1, where the labels are 0 and 1 or -1 and 1.
    labels : array-like of shape (n_classes,) or None, default=None
        Classes in the order of the columns. None: those of ``y_true``, sorted.
    average : {"macro"} or None, default="macro"
        What to make of several classes: the interval of their mean area, or a list of intervals.
    n_resamples : int, default=1000
        Number of resamples of the bootstrap.
    random_state : int, RandomState instance or None, default=0
        Seed of the bootstrap.

    Returns
    -------
    interval : tuple of float, or list of these
        Named tuple ``(estimate, low, high)``. Where every positive row is above every negative one
        (or below) the variance is zero; the interval then is the exact one of as many pairs of
        rows, or of patients, as can be formed, each used once.

    See Also
    --------
    roc_auc_difference : The paired difference of two areas.
    ReaderStudyDisplay : Plots the curve with a band of intervals.

    Notes
    -----
    Coverage in 4000 repeats of normal scores, 0.95 being stated:

    ====================  =======  ========
    area, rows by class   "logit"  "linear"
    ====================  =======  ========
    0.802, 20 and 80      0.960    0.929
    0.961, 20 and 80      0.954    0.859
    0.961, 100 and 400    0.946    0.924
    0.993, 20 and 80      0.980    0.831
    ====================  =======  ========

    References
    ----------
    .. [1] DeLong, DeLong, Clarke-Pearson: Comparing the areas under two or more correlated
       receiver operating characteristic curves. Biometrics 44 (1988).
    .. [2] Obuchowski: Nonparametric analysis of clustered ROC curve data. Biometrics 53 (1997).
    .. [3] Perme, Manevski: Confidence intervals for the Mann-Whitney test. Statistical Methods in
       Medical Research 28 (2019).

    Examples
    --------
    >>> import numpy as np
    >>> from sktransfer.metrics import roc_auc_interval
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat([0, 1], [80, 20])
    >>> auc, low, high = roc_auc_interval(y, rng.normal(1.5 * y))
    >>> f"{auc:.2f} ({low:.2f} to {high:.2f})"
    '0.83 (0.71 to 0.90)'
    """
    check_level(confidence_level)
    for name, value, options in (
        ("method", method, ("auto", "delong", "bootstrap")),
        ("scale", scale, ("logit", "linear")),
        ("average", average, ("macro", None)),
    ):
        if value not in options:
            raise ValueError(f"{name} must be one of {options}; got {value!r}.")
    positive, score, codes = _columns(y_true, y_score, labels, pos_label, groups)
    by_bootstrap = method == "bootstrap" or (method == "auto" and codes is not None)

    def interval(columns: slice) -> Interval:
        freedom = np.inf
        own_positive, own_score = positive[:, columns], score[:, columns]
        areas, parts = _areas(own_positive, own_score)
        area = float(areas.mean())
        if by_bootstrap:
            error = _bootstrap_error(
                own_positive, own_score, codes, scale, n_resamples, random_state
            )
        else:
            variance, freedom = _variance(parts, _strata(own_positive), codes)
            if scale == "logit" and 0 < area < 1:
                variance += _of_one_pair(areas, own_positive, codes)
                error = float(np.sqrt(variance)) / (area * (1 - area))
            else:
                error = float(np.sqrt(variance))
        if area in (0.0, 1.0):
            return _separated(area, own_positive, codes, confidence_level)
        return _symmetric(area, error, freedom, scale, confidence_level)

    k = positive.shape[1]
    if k == 1 or average == "macro":
        return interval(slice(None))
    return [interval(slice(i, i + 1)) for i in range(k)]


def roc_auc_difference(
    y_true: ArrayLike,
    y_score_a: ArrayLike,
    y_score_b: ArrayLike,
    *,
    confidence_level: float = 0.95,
    groups: ArrayLike | None = None,
    pos_label: Any = None,
    labels: ArrayLike | None = None,
) -> AucDifference:
    """Compare the areas under two ROC curves on the same rows: ``a`` minus ``b``.

    Parameters
    ----------
    y_true : array-like of shape (n,)
        True labels.
    y_score_a, y_score_b : array-like of shape (n,) or (n, n_classes)
        Scores by two models; with several classes, areas are means of each against the rest.
    confidence_level : float, default=0.95
        Level of the interval.
    groups : array-like of shape (n,) or None, default=None
        Patients: the variance then is Obuchowski's for clusters.
    pos_label : int, float, bool, str or None, default=None
        The positive class of two. None: 1, where the labels are 0 and 1 or -1 and 1.
    labels : array-like of shape (n_classes,) or None, default=None
        Classes in the order of the columns. None: those of ``y_true``, sorted.

    Returns
    -------
    difference : tuple of float
        Named tuple ``(estimate, low, high, pvalue)`` of DeLong's two-sided paired test (1988).

    Warns
    -----
    UndefinedMetricWarning
        If the areas differ and the variance is zero: there is no test.

    See Also
    --------
    roc_auc_interval : Compute the area of one classifier with its interval.

    Examples
    --------
    >>> import numpy as np
    >>> from sktransfer.metrics import roc_auc_difference
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat([0, 1], [200, 100])
    >>> good, poor = rng.normal(2 * y), rng.normal(y)
    >>> difference = roc_auc_difference(y, good, poor)
    >>> bool(difference.low > 0), difference.pvalue < 0.05
    (True, True)
    """
    check_level(confidence_level)
    if np.shape(y_score_a) != np.shape(y_score_b):
        raise ValueError(
            "y_score_a and y_score_b must be of the same rows and classes; got shapes "
            f"{np.shape(y_score_a)} and {np.shape(y_score_b)}."
        )
    positive, a, codes = _columns(y_true, y_score_a, labels, pos_label, groups)
    _, b, _ = _columns(y_true, y_score_b, labels, pos_label, None)
    areas_a, parts_a = _areas(positive, a)
    areas_b, parts_b = _areas(positive, b)
    difference = float(areas_a.mean() - areas_b.mean())
    error = float(np.sqrt(_variance(parts_a - parts_b, _strata(positive), codes)[0]))
    if error == 0:
        if difference != 0:
            warnings.warn(
                "The two areas differ and their variance is zero; there is no test.",
                UndefinedMetricWarning,
                stacklevel=2,
            )
            return AucDifference(difference, np.nan, np.nan, np.nan)
        return AucDifference(0.0, 0.0, 0.0, 1.0)
    low, high = norm.interval(confidence_level, difference, error)
    pvalue = 2 * norm.sf(abs(difference) / error)
    return AucDifference(difference, float(low), float(high), float(pvalue))


def _columns(
    y_true: ArrayLike,
    y_score: ArrayLike,
    labels: ArrayLike | None,
    pos_label: Any,
    groups: ArrayLike | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return which rows are positive and their scores, a column for each problem, and groups."""
    if np.ndim(y_score) == 2:
        positive, score = one_vs_rest(y_true, y_score, labels)
        return positive, score, group_codes(groups, len(positive))
    positive, score, codes = binary_scores(y_true, y_score, pos_label=pos_label, groups=groups)
    return positive[:, None], score[:, None], codes


def _areas(positive: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the area of each column, and what each row contributes to their mean.

    The contributions are DeLong's structural components divided by the rows of their class: those
    of the positive rows of a column sum to its area, and so do those of the negative ones.
    """
    parts = np.empty(score.shape)
    for column in range(score.shape[1]):
        own, value = positive[:, column], score[:, column]
        m, n = int(own.sum()), int((~own).sum())
        rank = rankdata(value)
        parts[own, column] = (rank[own] - rankdata(value[own])) / (m * n)
        parts[~own, column] = 1 / n - (rank[~own] - rankdata(value[~own])) / (m * n)
    areas = whole(np.where(positive, parts, 0).sum(axis=0))
    return areas, parts.mean(axis=1)


def whole(areas: np.ndarray) -> np.ndarray:
    """Return areas, of which sums of many parts may miss 0 and 1 by a rounding error."""
    near = np.abs(areas - np.round(areas)) < 1e-12
    return np.where(near, np.round(areas), areas).clip(0, 1)


def _strata(positive: np.ndarray) -> np.ndarray:
    """Return the class of each row as a number."""
    return positive[:, 0].astype(int) if positive.shape[1] == 1 else positive.argmax(axis=1)


def _variance(
    parts: np.ndarray, strata: np.ndarray, codes: np.ndarray | None
) -> tuple[float, float]:
    """Return the variance of a sum of contributions, and its degrees of freedom.

    The numbers of rows in the classes are taken as given. Degrees of freedom are Satterthwaite's:
    few when most of the variance is of a small class.
    """
    counts = np.bincount(strata)
    residuals = parts - (np.bincount(strata, weights=parts) / counts)[strata]
    units = counts if codes is None else _groups_in(strata, codes)
    spare = np.maximum(units - 1, 1)
    residuals = residuals * np.sqrt(units / spare)[strata]
    if codes is None:
        by_class = np.bincount(strata, weights=residuals**2)
        variance = by_class.sum()
    else:
        # Rows of a patient count together, those of all classes: they are correlated.
        variance = (np.bincount(codes, weights=residuals) ** 2).sum()
        each = np.zeros((codes.max() + 1, len(counts)))
        np.add.at(each, (codes, strata), residuals)
        by_class = (each**2).sum(axis=0)
    spread = (by_class**2 / spare).sum()
    return float(variance), float(by_class.sum() ** 2 / spread) if spread > 0 else np.inf


def _of_one_pair(areas: np.ndarray, positive: np.ndarray, codes: np.ndarray | None) -> float:
    """Return the variance that a single pair of rows contributes.

    With a few rows in nearly perfect order, the variance is estimated from the one or two that are
    out of it, and is too small when by chance they are fewer. Adding this much corrects that, and
    is next to nothing with many rows.
    """
    columns = positive.T.astype(int)
    units = np.array(
        [np.bincount(c, minlength=2) if codes is None else _groups_in(c, codes) for c in columns]
    )
    return float((areas * (1 - areas) / units.prod(axis=1)).mean() / len(areas))


def _groups_in(strata: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return the number of groups with rows of each class."""
    return np.array([len(np.unique(codes[strata == each])) for each in range(strata.max() + 1)])


def _symmetric(
    area: float, error: float, freedom: float, scale: str, confidence_level: float
) -> Interval:
    """Return an interval that is symmetric on its scale."""
    if scale == "linear":
        half = ndtri(0.5 + confidence_level / 2) * error
        return Interval(area, float(area - half), float(area + half))
    half = student.ppf(0.5 + confidence_level / 2, freedom) * error
    low, high = expit(logit(area) + np.array([-half, half]))
    return Interval(area, float(low), float(high))


def _separated(
    area: float, positive: np.ndarray, codes: np.ndarray | None, confidence_level: float
) -> Interval:
    """Return the interval where no pair is out of order, or none in order.

    Pairs that share no row are independent, and each is in order with a probability that is the
    area; if all of them are, the area can hardly be small.
    """
    strata = _strata(positive)
    if codes is None:
        sides = [set(np.flatnonzero(strata == each)) for each in np.unique(strata)]
    else:
        sides = [set(codes[strata == each]) for each in np.unique(strata)]
    pairs = max(1, min(*map(len, sides), len(set.union(*sides)) // 2))
    bound = float(((1 - confidence_level) / 2) ** (1 / pairs))
    return Interval(1.0, bound, 1.0) if area == 1 else Interval(0.0, 0.0, 1 - bound)


def _bootstrap_error(
    positive: np.ndarray,
    score: np.ndarray,
    codes: np.ndarray | None,
    scale: str,
    n_resamples: int,
    random_state: Any,
) -> float:
    """Return the standard deviation of the area over resamples, on the scale of the interval."""
    strata = _strata(positive)
    areas = [
        np.mean(
            [weighted_area(p, s, weight) for p, s in zip(positive.T, score.T, strict=True)], axis=0
        )
        for weight in resample_counts(strata, codes, n_resamples, random_state)
    ]
    values = np.concatenate(areas)
    if scale == "logit":
        # A resample may be free of errors; half a pair keeps it finite.
        smallest = 0.5 / (np.bincount(strata).min() ** 2)
        values = logit(values.clip(smallest, 1 - smallest))
    return float(values.std(ddof=1))


def resample_counts(
    strata: np.ndarray, codes: np.ndarray | None, n_resamples: int, random_state: Any
) -> Iterator[np.ndarray]:
    """Yield how often each row is drawn, in blocks of shape (resamples, n)."""
    random = check_random_state(random_state)
    if codes is None:
        codes = np.arange(len(strata))
    # Patients are drawn among those with rows of the same classes, so that no class is lost.
    has = np.zeros((codes.max() + 1, strata.max() + 1), dtype=bool)
    has[codes, strata] = True
    _, kind = np.unique(has, axis=0, return_inverse=True)
    for start in range(0, n_resamples, _BLOCK):
        drawn = np.empty((min(_BLOCK, n_resamples - start), len(kind)))
        for each in range(kind.max() + 1):
            members = np.flatnonzero(kind == each)
            share = np.full(len(members), 1 / len(members))
            drawn[:, members] = random.multinomial(len(members), share, size=len(drawn))
        yield drawn[:, codes]


def weighted_area(positive: np.ndarray, score: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the area for each row of weights, which have the shape (resamples, n)."""
    order = np.argsort(score, kind="stable")
    weight, positive = weight[:, order], positive[order]
    levels = np.flatnonzero(np.r_[True, np.diff(score[order]) > 0])
    above = np.add.reduceat(weight * positive, levels, axis=1)
    below = np.add.reduceat(weight * ~positive, levels, axis=1)
    lower = np.cumsum(below, axis=1) - below / 2
    return (above * lower).sum(axis=1) / (above.sum(axis=1) * below.sum(axis=1))


def roc_curve_band(
    y_true: ArrayLike,
    y_score: ArrayLike,
    *,
    confidence_level: float,
    groups: ArrayLike | None,
    pos_label: Any,
    random_state: Any,
    n_points: int = 101,
    n_resamples: int = 500,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return false-positive rates and the ends of the interval of the sensitivity at each.

    Intervals are of each point on its own, not of the whole curve.
    """
    tail = (1 - check_level(confidence_level)) / 2
    positive, score, codes = binary_scores(y_true, y_score, pos_label=pos_label, groups=groups)
    order = np.argsort(-score, kind="stable")
    positive, score, codes = positive[order], score[order], among(codes, order)
    ends = np.flatnonzero(np.r_[np.diff(score) < 0, True])
    fpr = np.linspace(0, 1, n_points)
    curves = []
    strata = positive.astype(int)
    for weight in resample_counts(strata, codes, n_resamples, random_state):
        true = np.cumsum(weight * positive, axis=1)[:, ends]
        false = np.cumsum(weight * ~positive, axis=1)[:, ends]
        for t, f in zip(true / true[:, -1:], false / false[:, -1:], strict=True):
            curves.append(np.interp(fpr, np.r_[0.0, f], np.r_[0.0, t]))
    low, high = np.quantile(curves, [tail, 1 - tail], axis=0)
    return fpr, low, high
