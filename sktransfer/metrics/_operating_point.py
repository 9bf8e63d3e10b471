"""What a threshold does on some rows: counts, rates and ratios with their intervals."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

from sktransfer.metrics._labels import (
    Interval,
    among,
    binary_scores,
    check_level,
    positive_label,
)
from sktransfer.metrics._rates import effective_trials, rate_of

# A rate that leaves a threshold without use, and the usual bar of a positive likelihood ratio from
# which a finding rules a disease in.
_FEW, _RULES_IN = 0.1, 10


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold and what it does on some rows; :func:`operating_point` lists the attributes."""

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
    def warning(self) -> str | None:
        """What makes the threshold useless, in words; None if nothing does."""
        return doubt_about(self, repr(self.pos_label))

    @property
    def n_positive(self) -> int:
        """Number of positive rows."""
        return self.tp + self.fn

    @property
    def n_negative(self) -> int:
        """Number of negative rows."""
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
        if self.warning is not None:
            lines.append(f"Warning: {self.warning}")
        return "\n".join(lines)


def doubt_about(point: OperatingPoint, called: str) -> str | None:
    """Return what makes a threshold useless; ``called`` is the positive class in messages.

    A strict threshold that finds few is of use where those few are nearly all positive.
    """
    found, spared = point.sensitivity.estimate, point.specificity.estimate
    above, below = point.positive_likelihood_ratio, point.negative_likelihood_ratio
    rates = f"sensitivity {found:.3f}, specificity {spared:.3f}"
    if spared < _FEW:
        return (
            f"This threshold is of no use: it calls nearly every row {called}, also {point.fp} of "
            f"the {point.n_negative} that are not ({rates})."
        )
    if found < _FEW and above.low < _RULES_IN:
        return (
            f"This threshold is of no use: it calls hardly any row {called}, only {point.tp} of "
            f"the {point.n_positive} that are ({rates})."
        )
    if above.high < 1:
        return (
            f"This threshold is worse than chance: rows that are not {called} are called so more "
            f"often than those that are ({rates}). Labels or classes may be swapped."
        )
    if above.low <= 1 and below.high >= 1:
        return (
            f"This threshold is no better than chance on these rows: {rates}, and the interval of "
            f"the positive likelihood ratio, {above.low:.2f} to {above.high:.2f}, includes 1."
        )
    return None


def operating_point(
    y_true: ArrayLike,
    y_score: ArrayLike,
    threshold: float,
    *,
    pos_label: Any = None,
    groups: ArrayLike | None = None,
    confidence_level: float = 0.95,
) -> OperatingPoint:
    """Compute sensitivity, specificity, predictive values and likelihood ratios at a threshold.

    Parameters
    ----------
    y_true : array-like of shape (n,)
        True labels of two classes.
    y_score : array-like of shape (n,)
        Scores of the positive class. Labels that were predicted, or given by a reader, are scores
        too: ``operating_point(y_true, y_pred == pos_label, 1, pos_label=pos_label)``.
    threshold : float
        A row is called positive where its score is at least this.
    pos_label : int, float, bool, str or None, default=None
        The positive class. None: 1, where the labels are 0 and 1 or -1 and 1.
    groups : array-like of shape (n,) or None, default=None
        Patients. Intervals are then those of an effective number of rows [1]_.
    confidence_level : float, default=0.95
        Level of the intervals.

    Returns
    -------
    point : OperatingPoint
        Frozen dataclass that prints as a table. Each interval is a named tuple
        ``(estimate, low, high)``; those of rates are exact, those of ratios go by the logarithm
        [2]_, with half a row added to each cell of the table where one is empty. It has the
        attributes

        - ``threshold``, ``pos_label``, ``confidence_level``: what was given;
        - ``tp``, ``fn``, ``fp``, ``tn``, ``n_positive``, ``n_negative``: numbers of rows;
        - ``sensitivity``, ``specificity``: intervals of the share of positive rows that are called
          positive, and of negative rows that are called negative;
        - ``ppv``, ``npv``: intervals of the share of positive rows among those called positive, and
          of negative rows among those called negative. They hold where as many rows are positive
          as here: ``prevalence``, the share of positive rows;
        - ``positive_likelihood_ratio``, ``negative_likelihood_ratio``: intervals of the factor by
          which a call multiplies the odds of being positive;
        - ``group_sensitivity``, ``group_specificity``: with groups, intervals of the share of them
          *all* of whose positive rows are called positive, or all of whose negative rows negative;
        - ``warning``: None, or why the threshold is of no use: nearly every row is called positive,
          or hardly any, or it is no better than chance (both likelihood ratios may be 1).

    See Also
    --------
    imblearn.metrics.sensitivity_specificity_support : Rates of predicted labels, without intervals.
    sktransfer.model_selection.OperatingPointClassifier : A threshold that keeps a rate.

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
    Warning: This threshold is no better than chance on these rows: ... includes 1.
    """
    check_level(confidence_level)
    if np.isnan(threshold):
        raise ValueError("threshold must be a number; got NaN.")
    positive, score, codes = binary_scores(y_true, y_score, pos_label=pos_label, groups=groups)
    called = score >= threshold

    def rate(success: np.ndarray, rows: np.ndarray) -> Interval:
        return rate_of(success[rows], among(codes, rows), confidence_level)

    def trials(rows: np.ndarray) -> float:
        return effective_trials(called[rows], among(codes, rows), confidence_level)

    sensitivity, specificity = rate(called, positive), rate(~called, ~positive)
    found, alarms = sensitivity.estimate, 1 - specificity.estimate
    n_positive, n_negative = trials(positive), trials(~positive)
    return OperatingPoint(
        threshold=float(threshold),
        pos_label=positive_label(y_true, pos_label),
        confidence_level=confidence_level,
        tp=int((called & positive).sum()),
        fn=int((~called & positive).sum()),
        fp=int((called & ~positive).sum()),
        tn=int((~called & ~positive).sum()),
        sensitivity=sensitivity,
        specificity=specificity,
        ppv=rate(positive, called),
        npv=rate(~positive, ~called),
        positive_likelihood_ratio=_ratio(found, n_positive, alarms, n_negative, confidence_level),
        negative_likelihood_ratio=_ratio(
            1 - found, n_positive, specificity.estimate, n_negative, confidence_level
        ),
        prevalence=float(positive.mean()),
        group_sensitivity=_by_group(codes, positive, called, confidence_level),
        group_specificity=_by_group(codes, ~positive, ~called, confidence_level),
    )


def _by_group(
    codes: np.ndarray | None, rows: np.ndarray, right: np.ndarray, confidence_level: float
) -> Interval | None:
    """Return the share of the groups of ``rows`` in which all of these rows are right."""
    if codes is None:
        return None
    names, own = np.unique(codes[rows], return_inverse=True)
    wrong = np.bincount(own, weights=~right[rows], minlength=len(names))
    return rate_of(wrong == 0, None, confidence_level)


def _ratio(
    above: float, n_above: float, below: float, n_below: float, confidence_level: float
) -> Interval:
    """Return ``above / below``, two rates of independent rows, with Simel's interval."""
    estimate = above / below if below > 0 else np.inf if above > 0 else np.nan
    center = estimate
    if not (0 < above < 1 and 0 < below < 1):
        # Half a row more in each cell of the table.
        above, below = (
            (rate * n + 0.5) / (n + 1) for rate, n in ((above, n_above), (below, n_below))
        )
        n_above, n_below, center = n_above + 1, n_below + 1, above / below
    error = np.sqrt((1 - above) / (above * n_above) + (1 - below) / (below * n_below))
    factor = np.exp(ndtri(0.5 + confidence_level / 2) * error)
    # The half row may take the center past an estimate of 0 or infinity; fmin passes over NaN.
    low, high = np.fmin(center / factor, estimate), np.fmax(center * factor, estimate)
    return Interval(float(estimate), float(low), float(high))
