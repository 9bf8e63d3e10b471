"""Measures of several labels a row: each label by itself, and their mean, with intervals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import expit, logit, xlogy
from scipy.stats import t as student
from sklearn.utils import check_consistent_length, check_random_state

from sktransfer._utils.multilabel import label_scores, read_indicators
from sktransfer.metrics._labels import Interval, among, check_level, check_scores, group_codes
from sktransfer.metrics._rates import rate_interval, rate_of
from sktransfer.metrics._roc import roc_auc_interval, weighted_area, whole

MACRO = "macro average"
MEASURES = (
    *("roc_auc", "average_precision", "sensitivity", "specificity", "log_loss", "brier_score"),
)
# Resamples computed at once; a block takes 1 kB for each row.
_BLOCK = 128


class Label(NamedTuple):
    """One label on the rows where it is known."""

    name: Any
    rows: np.ndarray
    positive: np.ndarray
    score: np.ndarray
    threshold: float

    @property
    def has_both(self) -> bool:
        """Return whether there are rows with the label and rows without it."""
        return bool(self.positive.any() and not self.positive.all())


def multilabel_report(
    y_true: Any,
    y_score: Any,
    *,
    threshold: Any = 0.5,
    labels: Sequence[Any] | None = None,
    groups: ArrayLike | None = None,
    confidence_level: float = 0.95,
    n_resamples: int = 1000,
    random_state: Any = 0,
) -> pd.DataFrame:
    """Tabulate how well each of several labels is predicted, and the means, with intervals.

    Read more in the :ref:`User Guide <findings>`.

    Parameters
    ----------
    y_true : array-like or DataFrame of shape (n, n_labels), or list of sets
        1 where a row has a label, 0 where it has not, NaN where that is unknown. Such a row does
        not count for that label, and counts for the others.
    y_score : array-like of shape (n, n_labels), or list of arrays of shape (n, 2)
        Probabilities or other scores of each label, as ``predict_proba`` gives them.
    threshold : float, array-like of shape (n_labels,) or mapping of labels to float, default=0.5
        A label is predicted where its score is at least this.
    labels : sequence or None, default=None
        Names of the labels in the order of the columns of ``y_score``. None: the columns of
        ``y_true``.
    groups : array-like of shape (n,) or None, default=None
        Patients. All intervals then take into account that their rows are alike.
    confidence_level : float, default=0.95
        Level of the intervals.
    n_resamples : int, default=1000
        Number of resamples of the bootstrap.
    random_state : int, RandomState instance or None, default=0
        Seed of the bootstrap.

    Returns
    -------
    report : DataFrame
        A row for each label and one for their mean, "macro average", over the labels that have rows
        with and without them. Columns "n" and "n_positive" (of the rows where the label is known),
        "prevalence", "threshold", and "roc_auc", "average_precision", "sensitivity", "specificity",
        "log_loss" and "brier_score", each with its ``_low`` and ``_high``. The last two are NaN for
        a label with scores outside [0, 1].

    See Also
    --------
    multilabel_score : One number, for ``scoring=``.
    MultilabelRocDisplay : Plot the ROC curve of each label.
    sklearn.metrics.classification_report : Measures of predicted labels, without intervals.

    Notes
    -----
    The intervals of the area under the curve of one label are those of :func:`roc_auc_interval`,
    and those of its rates are exact. All others, and those of the means, are from one Bayesian
    bootstrap over rows or patients [1]_, which keeps the correlation of labels and never loses a
    rare one; they are symmetric on the scale of the logit, or of the logarithm for the log loss.
    Coverage in 1000 repeats with five correlated labels and 200 rows, 0.95 being stated:

    =================  ===========  ===========
    mean over labels   10 positive  40 positive
    =================  ===========  ===========
    ROC AUC            0.940        0.960
    average precision  0.873        0.933
    sensitivity        0.956        0.952
    log loss           0.956        0.954
    =================  ===========  ===========

    References
    ----------
    .. [1] Rubin: The Bayesian bootstrap. Annals of Statistics 9 (1981).

    Examples
    --------
    >>> import numpy as np
    >>> from sktransfer.metrics import multilabel_report
    >>> rng = np.random.default_rng(0)
    >>> y = (rng.random((300, 2)) < [0.3, 0.1]).astype(float)
    >>> proba = 1 / (1 + np.exp(2 - rng.normal(3 * y)))
    >>> y[:50, 1] = np.nan  # unknown
    >>> report = multilabel_report(y, proba, labels=["Effusion", "Mass"])
    >>> report[["n", "n_positive", "roc_auc", "roc_auc_low"]].round(2)
                     n  n_positive  roc_auc  roc_auc_low
    Effusion       300          78     0.98         0.95
    Mass           250          23     0.98         0.95
    macro average  550         101     0.98         0.96
    """
    check_level(confidence_level)
    found, codes, n = read_labels(y_true, y_score, labels, threshold, groups)
    units = np.arange(n) if codes is None else codes
    draws: dict[str, list[np.ndarray]] = {measure: [] for measure in MEASURES}
    for weight in _weights(units, n_resamples, random_state):
        each = [_measures(label, weight) for label in found]
        for measure in MEASURES:
            draws[measure].append(np.array([own[measure] for own in each]))
    rows, drawn, spare = [], {}, {}
    for place, label in enumerate(found):
        groups_of = among(codes, label.rows)
        for name, value in _measures(label).items():
            n_units = _n_units(label, name, groups_of)
            own = np.concatenate([part[place] for part in draws[name]])
            # The variance of a Bayesian bootstrap is that of n + 1 units, with n as divisor.
            drawn[name, place] = value + (own - value) * np.sqrt((n_units + 1) / (n_units - 1))
            spare[name, place] = n_units - 1
        rows.append(
            {
                name: _of_label(
                    *(label, name, float(value[0]), drawn[name, place], spare[name, place]),
                    *(groups_of, confidence_level, random_state),
                )
                for name, value in _measures(label).items()
            }
        )
    both = [place for place, label in enumerate(found) if label.has_both]
    mean = {
        name: _of_mean(
            name,
            [rows[place][name] for place in both],
            [drawn[name, place] for place in both],
            sum(spare[name, place] for place in both),
            confidence_level,
        )
        for name in MEASURES
    }
    return _table(found, [*rows, mean])


def multilabel_score(
    y_true: Any,
    y_score: Any,
    *,
    measure: str = "roc_auc",
    threshold: Any = 0.5,
    average: str | None = "macro",
) -> Any:
    """Score several labels a row, each on the rows where it is known.

    Parameters
    ----------
    y_true : array-like or DataFrame of shape (n, n_labels), or list of sets
        1 where a row has a label, 0 where it has not, NaN where that is unknown.
    y_score : array-like of shape (n, n_labels), or list of arrays of shape (n, 2)
        Probabilities or other scores of each label.
    measure : {"roc_auc", "average_precision", "sensitivity", "specificity", "log_loss", \
            "brier_score"}, default="roc_auc"
        What is computed of each label.
    threshold : float, array-like of shape (n_labels,) or mapping of labels to float, default=0.5
        A label is predicted where its score is at least this.
    average : {"macro"} or None, default="macro"
        The mean over the labels that have rows with and without them, or one value for each, NaN
        for the others.

    Returns
    -------
    score : float or ndarray of shape (n_labels,)
        The score.

    See Also
    --------
    multilabel_report : All measures, with intervals.

    Examples
    --------
    >>> from sktransfer.metrics import multilabel_score
    >>> y = [[1, 0], [0, 1], [1, float("nan")], [0, 0]]
    >>> multilabel_score(y, [[0.9, 0.1], [0.2, 0.7], [0.6, 0.9], [0.3, 0.8]])
    0.75

    For ``scoring=`` of a search or a cross-validation:

    >>> def macro_auc(estimator, X, y):
    ...     return multilabel_score(y, estimator.predict_proba(X))
    """
    for name, value, options in (
        ("measure", measure, MEASURES),
        ("average", average, ("macro", None)),
    ):
        if value not in options:
            raise ValueError(f"{name} must be one of {options}; got {value!r}.")
    found, _, _ = read_labels(y_true, y_score, None, threshold)
    values = np.array([_measures(label)[measure][0] for label in found])
    if average is None:
        return values
    both = [label.has_both for label in found]
    return float(values[both].mean()) if any(both) else float("nan")


def read_labels(
    y_true: Any,
    y_score: Any,
    labels: Sequence[Any] | None = None,
    threshold: Any = 0.5,
    groups: ArrayLike | None = None,
) -> tuple[list[Label], np.ndarray | None, int]:
    """Return labels on the rows where they are known, groups of all rows, and how many rows."""
    truth, names = read_indicators(y_true, labels, name="y_true")
    scores = check_scores(label_scores(y_score, len(names)))
    check_consistent_length(truth, scores)
    if isinstance(threshold, Mapping):
        threshold = [threshold[name] for name in names.tolist()]
    cuts = np.broadcast_to(np.asarray(threshold, dtype=float), (len(names),))
    found = []
    for place, name in enumerate(names.tolist()):
        rows = np.flatnonzero(~np.isnan(truth[:, place]))
        own = truth[rows, place] == 1
        found.append(Label(name, rows, own, scores[rows, place], float(cuts[place])))
    return found, group_codes(groups, len(truth)), len(truth)


def _weights(units: np.ndarray, n_resamples: int, random_state: Any) -> Iterator[np.ndarray]:
    """Yield the weight of each row in blocks of shape (resamples, n)."""
    random = check_random_state(random_state)
    for start in range(0, n_resamples, _BLOCK):
        shape = (min(_BLOCK, n_resamples - start), int(units.max()) + 1)
        yield random.standard_exponential(shape)[:, units]


def _measures(label: Label, weight: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Return each measure for each row of weights, NaN where it is not defined."""
    positive, score = label.positive, label.score
    weight = np.ones((1, len(score))) if weight is None else weight[:, label.rows]
    nothing = np.full(len(weight), np.nan)
    found = dict.fromkeys(MEASURES, nothing)
    if not len(score):
        return found
    called = score >= label.threshold
    for name, own, right in (
        ("sensitivity", positive, called & positive),
        ("specificity", ~positive, ~called & ~positive),
    ):
        if own.any():
            found[name] = weight @ right / (weight @ own)
    if label.has_both:
        found["roc_auc"] = whole(weighted_area(positive, score, weight))
        found["average_precision"] = whole(_average_precision(positive, score, weight))
    if score.min() >= 0 and score.max() <= 1:
        total = weight.sum(axis=1)
        certain = np.clip(score, np.finfo(float).eps, 1 - np.finfo(float).eps)
        loss = -xlogy(positive, certain) - xlogy(~positive, 1 - certain)
        found["log_loss"] = weight @ loss / total
        found["brier_score"] = weight @ (score - positive) ** 2 / total
    return found


def _average_precision(positive: np.ndarray, score: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the average precision for each row of weights."""
    order = np.argsort(-score, kind="stable")
    weight, own = weight[:, order], positive[order]
    levels = np.flatnonzero(np.r_[True, np.diff(score[order]) < 0])
    found = np.add.reduceat(weight * own, levels, axis=1)
    called = np.cumsum(np.add.reduceat(weight, levels, axis=1), axis=1)
    precision = np.cumsum(found, axis=1) / called
    return np.asarray((found * precision).sum(axis=1) / found.sum(axis=1))


def _n_units(label: Label, name: str, groups: np.ndarray | None) -> int:
    """Return how many rows or patients a measure is of, those of the rarer class; at least 2."""
    units = np.arange(len(label.rows)) if groups is None else groups
    sides = [label.positive, ~label.positive]
    if name in ("log_loss", "brier_score"):
        sides = [np.ones(len(units), dtype=bool)]
    elif name in ("sensitivity", "specificity"):
        sides = [sides[name == "specificity"]]
    return max(2, min(len(np.unique(units[side])) for side in sides))


def _of_label(
    label: Label,
    name: str,
    estimate: float,
    drawn: np.ndarray,
    spare: int,
    groups: np.ndarray | None,
    confidence_level: float,
    random_state: Any,
) -> Interval:
    """Return a measure of one label with its interval."""
    if np.isnan(estimate):
        return Interval(estimate, np.nan, np.nan)
    if name in ("sensitivity", "specificity"):
        own = label.positive == (name == "sensitivity")
        right = (label.score >= label.threshold) == label.positive
        return rate_of(right[own], among(groups, own), confidence_level)
    if name == "roc_auc":
        settings: dict[str, Any] = {"groups": groups, "confidence_level": confidence_level}
        settings |= {"pos_label": True, "random_state": random_state}
        return Interval(*roc_auc_interval(label.positive, label.score, **settings))
    if name == "average_precision" and np.isclose(
        estimate, 1
    ):  # every positive is found without an alarm
        return rate_interval(spare + 1, spare + 1, confidence_level=confidence_level)
    return _symmetric(name, estimate, drawn, spare, confidence_level)


def _of_mean(
    name: str,
    each: list[Interval],
    drawn: list[np.ndarray],
    spare: int,
    confidence_level: float,
) -> Interval:
    """Return the mean of a measure over labels with its interval."""
    if not each:
        return Interval(np.nan, np.nan, np.nan)
    estimate, low, high = (float(np.mean(ends)) for ends in zip(*each, strict=True))
    if np.isclose(estimate, [0, 1]).any() or np.isnan(
        estimate
    ):  # nothing varies; this is wider than needed
        return Interval(estimate, low, high)
    return _symmetric(name, estimate, np.mean(drawn, axis=0), spare, confidence_level)


def _symmetric(
    name: str, estimate: float, drawn: np.ndarray, spare: int, confidence_level: float
) -> Interval:
    """Return the interval that is symmetric on the scale of a measure."""
    # A resample may be free of errors; half a pair keeps it finite.
    smallest = 0.5 / (spare + 1) ** 2
    to, back, top = logit, expit, 1 - smallest
    if name == "log_loss":
        to, back, smallest, top = np.log, np.exp, np.finfo(float).tiny, np.inf
    error = to(drawn.clip(smallest, top)).std(ddof=1)
    half = student.ppf(0.5 + confidence_level / 2, spare) * error
    low, high = back(to(np.clip(estimate, smallest, top)) + np.array([-half, half]))
    return Interval(estimate, min(float(low), estimate), max(float(high), estimate))


def _table(labels: list[Label], rows: list[dict[str, Interval]]) -> pd.DataFrame:
    n = np.array([len(label.rows) for label in labels])
    n_positive = np.array([label.positive.sum() for label in labels])
    with np.errstate(invalid="ignore"):
        prevalence = n_positive / n
    columns: dict[str, Any] = {
        "n": [*n, n.sum()],
        "n_positive": [*n_positive, n_positive.sum()],
        "prevalence": [*prevalence, np.nanmean(prevalence) if n.any() else np.nan],
        "threshold": [*(label.threshold for label in labels), np.nan],
    }
    for name in MEASURES:
        for end, key in (("estimate", name), ("low", f"{name}_low"), ("high", f"{name}_high")):
            columns[key] = [getattr(row[name], end) for row in rows]
    return pd.DataFrame(columns, index=[*(label.name for label in labels), MACRO])
