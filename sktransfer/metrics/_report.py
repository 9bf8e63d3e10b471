"""What a threshold does: counts, rates and ratios with their intervals.

It must not know how the threshold was chosen.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

from sktransfer.metrics._labels import (
    BinaryScores,
    Interval,
    binary_scores,
    check_confidence,
    positive_label,
)
from sktransfer.metrics._rates import effective_trials, rate_of


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold and what comes of it on some rows.

    Attributes
    ----------
    threshold : float
        A row is called positive where its score is at least this.
    pos_label : int, float, bool or str
        The positive class.
    confidence_level : float
        Level of the intervals.
    tp, fn, fp, tn : int
        Rows called correctly and wrongly.
    sensitivity, specificity : Interval
        ``(estimate, low, high)``.
    ppv, npv : Interval
        Share of those called positive that are, of those called negative that are. They hold where
        as many rows are positive as here.
    positive_likelihood_ratio, negative_likelihood_ratio : Interval
        By how much a call multiplies the odds of being positive.
    prevalence : float
        Share of positive rows.
    group_sensitivity, group_specificity : Interval or None
        Share of the groups (patients) *all* of whose positive rows are called positive, or all of
        whose negative rows negative. None without groups.
    """

    threshold: float
    pos_label: Any
    confidence_level: float
    tp: int
    fn: int
    fp: int
    tn: int
    sensitivity: Interval
    specificity: Interval
    ppv: Interval
    npv: Interval
    positive_likelihood_ratio: Interval
    negative_likelihood_ratio: Interval
    prevalence: float
    group_sensitivity: Interval | None = None
    group_specificity: Interval | None = None

    @property
    def n_positive(self) -> int:
        """Positive rows."""
        return self.tp + self.fn

    @property
    def n_negative(self) -> int:
        """Negative rows."""
        return self.fp + self.tn

    def __str__(self) -> str:
        lines = [
            f"score >= {self.threshold:.4g} is called {self.pos_label!r}",
            f"{self.n_positive} positive and {self.n_negative} negative rows: "
            f"TP {self.tp}, FN {self.fn}, FP {self.fp}, TN {self.tn}",
        ]
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Interval):
                label = field.name.replace("_", " ")
                lines.append(
                    f"{label:<25} {value.estimate:.3f} "
                    f"({100 * self.confidence_level:g} %: {value.low:.3f} to {value.high:.3f})"
                )
        return "\n".join(lines)


def operating_point(
    y_true: ArrayLike,
    y_score: ArrayLike,
    threshold: float,
    *,
    pos_label: Any = None,
    groups: ArrayLike | None = None,
    confidence_level: float = 0.95,
) -> OperatingPoint:
    """Sensitivity, specificity, predictive values and likelihood ratios at a threshold.

    Parameters
    ----------
    y_true : array-like of shape (n,)
        True labels of two classes.
    y_score : array-like of shape (n,)
        Scores of the positive class.
    threshold : float
        A row is called positive where its score is at least this.
    pos_label : int, float, bool, str or None, default=None
        The positive class. None: 1, where the labels are 0 and 1 or -1 and 1.
    groups : array-like of shape (n,) or None, default=None
        Patients. Intervals are then those of an effective number of rows [1]_, and the share of
        patients without a mistake is given too.
    confidence_level : float, default=0.95

    Returns
    -------
    OperatingPoint
        Intervals of rates are exact, those of ratios by the logarithm [2]_; with a cell of the
        table empty, half a row is added to each for the latter.

    References
    ----------
    .. [1] Korn, Graubard: Confidence intervals for proportions with small expected number of
       positive counts estimated from survey data. Survey Methodology 24 (1998).
    .. [2] Simel, Samsa, Matchar: Likelihood ratios with confidence: sample size estimation for
       diagnostic test studies. Journal of Clinical Epidemiology 44 (1991).

    Examples
    --------
    >>> from sktransfer.metrics import operating_point
    >>> point = operating_point([0, 0, 0, 1, 1], [0.1, 0.2, 0.7, 0.6, 0.9], 0.5)
    >>> print(point)
    score >= 0.5 is called 1
    2 positive and 3 negative rows: TP 2, FN 0, FP 1, TN 2
    sensitivity               1.000 (95 %: 0.158 to 1.000)
    specificity               0.667 (95 %: 0.094 to 0.992)
    ppv                       0.667 (95 %: 0.094 to 0.992)
    npv                       1.000 (95 %: 0.158 to 1.000)
    positive likelihood ratio 3.000 (95 %: 0.569 to 8.681)
    negative likelihood ratio 0.000 (95 %: 0.000 to 3.743)
    """
    check_confidence(confidence_level)
    if np.isnan(threshold):
        raise ValueError("threshold is NaN.")
    rows = binary_scores(y_true, y_score, pos_label=pos_label, groups=groups)
    positive, groups = rows.positive, rows.groups
    called = rows.score >= threshold

    def rate(success: np.ndarray, among: np.ndarray) -> Interval:
        return rate_of(success[among], None if groups is None else groups[among], confidence_level)

    sensitivity, specificity = rate(called, positive), rate(~called, ~positive)
    tp, fn = int(called[positive].sum()), int((~called)[positive].sum())
    fp, tn = int(called[~positive].sum()), int((~called)[~positive].sum())
    n_positive = effective_trials(
        called[positive], None if groups is None else groups[positive], confidence_level
    )
    n_negative = effective_trials(
        called[~positive], None if groups is None else groups[~positive], confidence_level
    )
    false_alarms = 1 - specificity.estimate
    return OperatingPoint(
        threshold=float(threshold),
        pos_label=positive_label(y_true, pos_label),
        confidence_level=confidence_level,
        tp=tp,
        fn=fn,
        fp=fp,
        tn=tn,
        sensitivity=sensitivity,
        specificity=specificity,
        ppv=rate(positive, called),
        npv=rate(~positive, ~called),
        positive_likelihood_ratio=_ratio(
            sensitivity.estimate, n_positive, false_alarms, n_negative, confidence_level
        ),
        negative_likelihood_ratio=_ratio(
            1 - sensitivity.estimate, n_positive, specificity.estimate, n_negative, confidence_level
        ),
        prevalence=float(positive.mean()),
        group_sensitivity=_by_group(rows, called, confidence_level, True),
        group_specificity=_by_group(rows, ~called, confidence_level, False),
    )


def _by_group(
    rows: BinaryScores, right: np.ndarray, confidence_level: float, side: bool
) -> Interval | None:
    if rows.groups is None:
        return None
    own = rows.positive == side
    names, codes = np.unique(rows.groups[own], return_inverse=True)
    wrong = np.bincount(codes, weights=~right[own], minlength=len(names))
    return rate_of(wrong == 0, None, confidence_level)


def _ratio(above: float, n_above: float, below: float, n_below: float, level: float) -> Interval:
    """``above / below``, two rates of independent rows, with Simel's interval."""
    estimate = above / below if below > 0 else np.inf if above > 0 else np.nan
    center = estimate
    if not (0 < above < 1 and 0 < below < 1):
        # Half a row more in each cell of the table.
        above, below = (
            (rate * n + 0.5) / (n + 1) for rate, n in ((above, n_above), (below, n_below))
        )
        n_above, n_below, center = n_above + 1, n_below + 1, above / below
    error = np.sqrt((1 - above) / (above * n_above) + (1 - below) / (below * n_below))
    factor = np.exp(ndtri(0.5 + level / 2) * error)
    # The half row may take the center past an estimate of 0 or infinity; fmin passes over NaN.
    low, high = np.fmin(center / factor, estimate), np.fmax(center * factor, estimate)
    return Interval(float(estimate), float(low), float(high))
