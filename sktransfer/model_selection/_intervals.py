"""cross_val_interval and cross_val_difference: cross-validated scores with their intervals."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from itertools import chain
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, logit
from scipy.stats import t as student
from sklearn.base import is_classifier
from sklearn.model_selection import GroupKFold, KFold, check_cv
from sklearn.utils import indexable
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import column_or_1d

from sktransfer._utils.identifiers import read_groups
from sktransfer._utils.multilabel import is_multilabel, read_indicators
from sktransfer._utils.notebooks import card
from sktransfer._utils.per_row import check_present
from sktransfer._utils.splitting import stratified_folds
from sktransfer.metrics._labels import check_level
from sktransfer.model_selection._fold_scores import (
    Scored,
    fit_params,
    held_out_parts,
    methods_of,
    scored_folds,
    scorer_of,
)
from sktransfer.model_selection._out_of_fold import _as_indices
from sktransfer.model_selection._split import MultilabelStratifiedGroupKFold

_FOLDS = 5
# Of the logarithms of two variances, what the second one counts: with it intervals cover without
# being wider than they have to be (benchmarks/intervals.py).
_WEIGHT = 0.475
_OPTIONS = ("auto", "jackknife", "corrected", "corrected_t")


@dataclass(frozen=True)
class CrossValInterval:
    """A cross-validated score with its interval; :func:`cross_val_interval` says what is in it."""

    score: float
    low: float
    high: float
    confidence_level: float
    standard_error: float
    scoring: str
    method: str
    n_rows: int
    n_groups: int | None
    folds: pd.DataFrame = field(repr=False, compare=False)
    pvalue: float | None = None

    def __str__(self) -> str:
        rows = f"{self.n_rows} rows" + (f" of {self.n_groups} groups" if self.n_groups else "")
        what = f"{self.scoring}, a difference" if self.pvalue is not None else self.scoring
        end = "" if self.pvalue is None else f", p = {self.pvalue:.3g}"
        return (
            f"{what}: {self.score:.3f} ({100 * self.confidence_level:g} %: {self.low:.3f} to "
            f"{self.high:.3f}{end}), {len(self.folds)} folds of {rows}, method {self.method!r}"
        )

    def _repr_html_(self) -> str:
        return card(type(self).__name__, [str(self)], {"Folds": self.folds})


def cross_val_interval(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    scoring: Any = "roc_auc",
    cv: Any = None,
    groups: Any = None,
    confidence_level: float = 0.95,
    method: str = "auto",
    n_repeats: int = 2,
    pos_label: Any = None,
    params: dict[str, Any] | None = None,
    n_jobs: int | None = None,
    random_state: int = 0,
) -> CrossValInterval:
    """Cross-validate an estimator, and give its score with a confidence interval.

    The interval is for the score that the estimator, fitted to all of these rows, has on new
    patients. The spread of the folds' scores does not give it: their training rows overlap, and an
    interval that ignores this covers too rarely. Read more in the :ref:`User Guide <intervals>`.

    Parameters
    ----------
    estimator : estimator instance
        Classifier or regressor; copies of it are fitted.
    X : array-like of shape (n, ...), list or DataFrame
        Whatever the estimator takes.
    y : array-like of shape (n,) or (n, n_labels)
        Labels or numbers; a column for each of several labels.
    scoring : str or callable, default="roc_auc"
        Name of a scorer of scikit-learn, one of "sensitivity", "specificity",
        "sensitivity_at_specificity" and "specificity_at_sensitivity" (at 0.95), or a scorer of
        ``make_scorer``. "roc_auc" of several classes is each against the rest, averaged.
    cv : int, splitter, iterable or None, default=None
        Number of folds, 5 for None: shuffled, stratified, and by group where there are groups. Or
        a splitter, whose groups must be these.
    groups : array-like of shape (n,) or None, default=None
        Patients: none is on both sides of a split, and the interval is one over patients. An
        estimator whose ``fit`` takes groups gets them.
    confidence_level : float, default=0.95
        Level of the interval.
    method : {"auto", "jackknife", "corrected", "corrected_t"}, default="auto"
        How the interval is made, see Notes. "auto": "jackknife" where each row is tested once in a
        repeat, else "corrected_t".
    n_repeats : int, default=2
        How often the rows are divided again, with ``cv`` a number or None.
    pos_label : int, float, bool, str or None, default=None
        The positive class of two. None: 1, where the labels are 0 and 1 or -1 and 1.
    params : dict or None, default=None
        Parameters for ``fit``, such as ``sample_weight``.
    n_jobs : int or None, default=None
        Number of fits at once.
    random_state : int, default=0
        Seed of the folds.

    Returns
    -------
    interval : CrossValInterval
        Frozen dataclass that prints as a line and has the attributes

        - ``score``, ``low``, ``high``, ``confidence_level``: the mean over folds, and its interval;
        - ``standard_error``: what the interval is made of;
        - ``scoring``, ``method``, ``n_rows``, ``n_groups``: what was computed, and on what;
        - ``folds``: DataFrame with ``repeat``, ``fold``, ``n_rows``, ``n_groups`` and ``score``;
        - ``pvalue``: None; of a difference, that of no difference.

    Raises
    ------
    ValueError
        If a score is not defined in a fold, a group is on both sides of a split, or there are too
        few folds for the method.

    See Also
    --------
    cross_val_difference : The difference of two estimators on the same folds.
    sktransfer.metrics.ForestDisplay : Plots intervals.
    sktransfer.metrics.roc_auc_interval : The interval for one model, as it is.

    Notes
    -----
    "jackknife" fits the estimator without each fold and without each pair of folds (15 fits for 5
    folds). Two variances come of it. Leaving out patients of a fold, with its model as it is, gives
    that of independent folds, which is too small [1]_. Leaving out a fold altogether, its rows
    among the training rows of the others too, gives one that is too large [2]_. The interval takes
    their geometric mean, in which the second one counts 0.475, and quantiles of Student's t on the
    logit scale for scores from 0 to 1. In simulations it covers where intervals of independent
    folds do not, and is narrower than the corrected ones. Nested cross-validation [4]_ has the same
    aim, and needs many repeats.

    "corrected" multiplies the first variance by the factor of Nadeau and Bengio [3]_: no more fits
    than folds, and wider where models are stable. "corrected_t" is their test, from the scores of
    splits alone; ten repeats or more make it as narrow.

    "sensitivity_at_specificity" and its counterpart choose a threshold. They are computed on the
    rows of all folds together, so that scores of different folds have to be comparable, as
    probabilities are.

    References
    ----------
    .. [1] LeDell, Petersen, van der Laan: Computationally efficient confidence intervals for
       cross-validated area under the ROC curve estimates. Electronic Journal of Statistics 9
       (2015).
    .. [2] Efron, Stein: The jackknife estimate of variance. Annals of Statistics 9 (1981).
    .. [3] Nadeau, Bengio: Inference for the generalization error. Machine Learning 52 (2003).
    .. [4] Bates, Hastie, Tibshirani: Cross-validation: what does it estimate and how well does it
       do it? Journal of the American Statistical Association 119 (2024).

    Examples
    --------
    >>> from sklearn.datasets import make_classification
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sktransfer.model_selection import cross_val_interval
    >>> X, y = make_classification(120, class_sep=0.8, random_state=0)
    >>> print(cross_val_interval(LogisticRegression(), X, y))
    roc_auc: 0.9... (95 %: 0.8... to 0.9...), 10 folds of 120 rows, method 'jackknife'
    """
    settings: dict[str, Any] = {"cv": cv, "method": method, "n_repeats": n_repeats}
    settings |= {"pos_label": pos_label, "params": params, "n_jobs": n_jobs}
    return _interval(
        (estimator,), X, y, scoring, groups, confidence_level, random_state, **settings
    )


def cross_val_difference(
    estimator_a: Any,
    estimator_b: Any,
    X: Any,
    y: Any,
    *,
    scoring: Any = "roc_auc",
    cv: Any = None,
    groups: Any = None,
    confidence_level: float = 0.95,
    method: str = "auto",
    n_repeats: int = 2,
    pos_label: Any = None,
    params: dict[str, Any] | None = None,
    n_jobs: int | None = None,
    random_state: int = 0,
) -> CrossValInterval:
    """Cross-validate two estimators on the same folds, and give the difference: ``a`` minus ``b``.

    It is narrower than the two intervals suggest: rows that are hard for one are often hard for
    the other.

    Parameters
    ----------
    estimator_a, estimator_b : estimator instance
        Two classifiers, or two regressors.
    X, y : array-like
        Rows and labels, as for :func:`cross_val_interval`.
    scoring, cv, groups : object
        As for :func:`cross_val_interval`.
    confidence_level : float, default=0.95
        Level of the interval.
    method, n_repeats, pos_label, params, n_jobs, random_state : object
        As for :func:`cross_val_interval`.

    Returns
    -------
    difference : CrossValInterval
        As :func:`cross_val_interval` gives it, with ``pvalue``, that of no difference.

    See Also
    --------
    cross_val_interval : The score of one estimator.

    Examples
    --------
    >>> from sklearn.datasets import make_classification
    >>> from sklearn.dummy import DummyClassifier
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sktransfer.model_selection import cross_val_difference
    >>> X, y = make_classification(120, class_sep=0.8, random_state=0)
    >>> difference = cross_val_difference(LogisticRegression(), DummyClassifier(), X, y)
    >>> difference.low > 0, difference.pvalue < 0.001
    (True, True)
    """
    settings: dict[str, Any] = {"cv": cv, "method": method, "n_repeats": n_repeats}
    settings |= {"pos_label": pos_label, "params": params, "n_jobs": n_jobs}
    both = (estimator_a, estimator_b)
    return _interval(both, X, y, scoring, groups, confidence_level, random_state, **settings)


def _interval(
    estimators: tuple[Any, ...],
    X: Any,
    y: Any,
    scoring: Any,
    groups: Any,
    confidence_level: float,
    random_state: int,
    *,
    cv: Any,
    method: str,
    n_repeats: int,
    pos_label: Any,
    params: dict[str, Any] | None,
    n_jobs: int | None,
) -> CrossValInterval:
    """Return the interval of the score of one estimator, or of the difference of two."""
    check_level(confidence_level)
    if method not in _OPTIONS:
        raise ValueError(f"method must be one of {_OPTIONS}; got {method!r}.")
    labels = read_indicators(y)[0] if is_multilabel(y) else column_or_1d(check_present(y))
    X, labels, groups = indexable(X, labels, groups)
    patients = None if groups is None else read_groups(groups)
    units = np.arange(len(labels)) if patients is None else patients
    scorer = scorer_of(scoring, estimators[0], labels, pos_label)
    repeats = _splits(estimators[0], labels, patients, cv, n_repeats, random_state)
    once = all(
        np.bincount(np.concatenate([test for _, test in splits])).max() == 1 for splits in repeats
    )
    if method == "auto":
        method = "jackknife" if once else "corrected_t"
    _check_method(method, once=once, n_splits=len(repeats[0]))
    given = fit_params(estimators, patients, params)
    scored = []
    for splits in repeats:
        parts, pairs = held_out_parts(
            *(estimators, X, labels, units, splits),
            methods=methods_of(scorer),
            pairs=method == "jackknife",
            params=given,
            n_jobs=n_jobs,
        )
        of_models = method != "corrected_t"
        scored.append(scored_folds(parts, pairs, scorer, seed=random_state, variances=of_models))
    share = float(np.mean([len(test) / len(train) for each in repeats for train, test in each]))
    sizes = _sizes(labels, units)
    score, error, freedom = _estimated(scored, method, share, min(sizes))
    alone = len(estimators) == 1
    pvalue = 2 * float(student.sf(abs(score) / error, freedom)) if error else float(score == 0)
    low, high = _ends(
        score, error, freedom, confidence_level, sizes if alone and _is_rate(scored) else None
    )
    return CrossValInterval(
        score=score,
        low=low,
        high=high,
        confidence_level=confidence_level,
        standard_error=error,
        scoring=scoring if isinstance(scoring, str) else getattr(scoring, "__name__", str(scoring)),
        method=method,
        n_rows=len(labels),
        n_groups=None if patients is None else len(np.unique(patients)),
        folds=_table(repeats, scored, patients),
        pvalue=None if alone else pvalue,
    )


def _splits(
    estimator: Any,
    y: np.ndarray,
    patients: np.ndarray | None,
    cv: Any,
    n_repeats: int,
    seed: int,
) -> list[list[tuple[np.ndarray, np.ndarray]]]:
    """Return the splits of each repeat; those of a splitter are one repeat."""
    if cv is None or isinstance(cv, Integral):
        n = _FOLDS if cv is None else int(cv)
        splitters = [
            _folds(estimator, y, n, grouped=patients is not None, seed=seed + repeat)
            for repeat in range(n_repeats)
        ]
    else:
        splitters = [check_cv(cv, y, classifier=is_classifier(estimator))]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The groups parameter is ignored")  # checked below
        repeats = [
            [
                (_as_indices(train), _as_indices(test))
                for train, test in splitter.split(np.zeros(len(y)), y, patients)
            ]
            for splitter in splitters
        ]
    units = np.arange(len(y)) if patients is None else patients
    for train, test in chain.from_iterable(repeats):
        both = np.intersect1d(units[train], units[test])
        if len(both):
            raise ValueError(
                f"cv puts rows of {len(both)} groups on both sides of a split, so that their "
                "scores are not those of unseen groups. Use StratifiedGroupKFold or GroupKFold, or "
                "leave cv out."
            )
    return repeats


def _folds(estimator: Any, y: np.ndarray, n: int, *, grouped: bool, seed: int) -> Any:
    """Return shuffled folds that suit the target."""
    if y.ndim == 2:
        return MultilabelStratifiedGroupKFold(n, shuffle=True, random_state=seed)
    if is_classifier(estimator):
        return stratified_folds(n, grouped=grouped, random_state=seed)
    return (GroupKFold if grouped else KFold)(n, shuffle=True, random_state=seed)


def _check_method(method: str, n_splits: int, *, once: bool) -> None:
    """Raise an error where a method cannot do with the splits."""
    if method in ("jackknife", "corrected") and not once:
        raise ValueError(
            f"method={method!r} is for splits that test each row once, and cv tests some more "
            "often: use method='corrected_t', or folds."
        )
    least = 3 if method == "jackknife" else 2
    if n_splits < least:
        raise ValueError(f"method={method!r} needs {least} splits or more; cv gives {n_splits}.")


def _sizes(y: np.ndarray, units: np.ndarray) -> tuple[int, int]:
    """Return how many patients have rows of the smallest class, and of all others."""
    n = len(np.unique(units))
    columns = y.T if y.ndim == 2 else y[None]
    if type_of_target(columns[0]) not in ("binary", "multiclass"):
        return n, n
    counts = [
        len(np.unique(units[own == label])) for own in columns for label in np.unique(own).tolist()
    ]
    return min(counts), max(1, n - min(counts))


def _estimated(
    scored: list[Scored], method: str, share: float, fewest: int
) -> tuple[float, float, float]:
    """Return the score, its standard error and the degrees of freedom of that.

    ``share`` is the number of test rows by that of training rows, ``fewest`` the number of patients
    of the smallest class.
    """
    score = float(np.mean([each.score for each in scored]))
    n = len(scored[0].folds)
    naive = float(np.mean([each.naive for each in scored]))
    freedom = float(max(1, fewest - 1))
    if method == "corrected_t":
        every = np.concatenate([each.folds for each in scored])
        variance = float(every.var(ddof=1)) * (1 / len(every) + share)
        freedom = len(every) - 1.0
    elif method == "corrected":
        variance = naive * (1 + n * share)
    else:
        jackknife = float(np.mean([each.jackknife for each in scored]))
        variance = naive ** (1 - _WEIGHT) * max(naive, jackknife) ** _WEIGHT
        # The variance of a logarithm of a variance is about 2 by its degrees of freedom.
        freedom = 1 / ((1 - _WEIGHT) ** 2 / freedom + _WEIGHT**2 / (n - 1))
    return score, float(np.sqrt(variance)), freedom


def _is_rate(scored: list[Scored]) -> bool:
    """Return whether scores look like those that lie between 0 and 1."""
    folds = np.concatenate([each.folds for each in scored])
    return bool((folds >= 0).all() and (folds <= 1).all())


def _ends(
    score: float,
    error: float,
    freedom: float,
    confidence_level: float,
    sizes: tuple[int, int] | None,
) -> tuple[float, float]:
    """Return the ends of an interval; of rates, on the logit scale, by the patients of classes."""
    quantile = float(student.ppf(0.5 + confidence_level / 2, freedom))
    if sizes is None:
        return score - quantile * error, score + quantile * error
    if score in (0.0, 1.0):  # as of patients none of whom is an error: the rule of three
        bound = float(((1 - confidence_level) / 2) ** (1 / min(sizes)))
        return (bound, 1.0) if score == 1 else (0.0, 1 - bound)
    # That of a single pair at least: near 1 it is of a few rows, and by chance too small.
    spread = score * (1 - score)
    half = quantile * max(error, np.sqrt(spread / np.prod(sizes))) / spread
    low, high = expit(logit(score) + np.array([-half, half]))
    return float(low), float(high)


def _table(
    repeats: list[list[tuple[np.ndarray, np.ndarray]]],
    scored: list[Scored],
    patients: np.ndarray | None,
) -> pd.DataFrame:
    """Return a row for each fold."""
    rows = [
        {
            "repeat": repeat,
            "fold": fold,
            "n_rows": len(test),
            "n_groups": None if patients is None else len(np.unique(patients[test])),
            "score": score,
        }
        for repeat, (splits, own) in enumerate(zip(repeats, scored, strict=True))
        for fold, ((_, test), score) in enumerate(zip(splits, own.folds, strict=True))
    ]
    return pd.DataFrame(rows)
