"""Scores of held-out folds, and how much their mean would differ with other patients."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from operator import getitem
from typing import Any, NamedTuple

import numpy as np
from sklearn import get_config
from sklearn.base import clone, is_classifier
from sklearn.metrics import get_scorer, make_scorer, recall_score
from sklearn.utils import get_tags
from sklearn.utils.metadata_routing import get_routing_for_object
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import has_fit_parameter

from sktransfer._utils.resampling import resamples, score_held_out
from sktransfer._utils.sklearn_compat import (
    _BaseScorer,
    _check_method_params,
    _safe_indexing,
)
from sktransfer.metrics import sensitivity_at_specificity, specificity_at_sensitivity
from sktransfer.metrics._labels import positive_label

_METHODS = ("predict_proba", "decision_function", "predict")
# These choose a threshold, which the few rows of a fold cannot.
_AT_RATE = (sensitivity_at_specificity, specificity_at_sensitivity)
# Patients left out in turn, and resamples, are this many at most: more cost time alone.
_MOST_UNITS, _N_RESAMPLES = 100, 200


class Answers:
    """What a fitted model answers to rows, in place of the model: its ``X`` are places of rows."""

    def __init__(self, model: Any, given: dict[str, Any]) -> None:
        self._tags, self.given = get_tags(model), given
        if hasattr(model, "classes_"):
            self.classes_ = model.classes_
        for method, values in given.items():
            answer = partial(getitem, values)
            answer.__name__ = method  # type: ignore[attr-defined]  # which scorers ask for
            setattr(self, method, answer)

    def __sklearn_tags__(self) -> Any:
        return self._tags

    def of(self, *rows: tuple[Answers, np.ndarray]) -> Answers:
        """Return answers to some rows of some models, one after another."""
        return Answers(
            self,
            {
                method: np.concatenate([each.given[method][places] for each, places in rows])
                for method in self.given
            },
        )


@dataclass(frozen=True)
class Part:
    """Held-out rows: answers of one model, or of two that are compared, labels and patients."""

    answers: tuple[Answers, ...]
    y: np.ndarray
    units: np.ndarray

    def score(self, scorer: Callable[..., float], places: np.ndarray | None = None) -> float:
        """Score all rows, or those at some places; of two models the difference."""
        places = np.arange(len(self.y)) if places is None else places
        found = [float(scorer(each, places, self.y[places])) for each in self.answers]
        return found[0] - found[1] if len(found) == 2 else found[0]

    def rows(self, places: np.ndarray) -> Part:
        """Return some of the rows."""
        own = tuple(each.of((each, places)) for each in self.answers)
        return Part(own, self.y[places], self.units[places])


def joined(parts: list[Part]) -> Part:
    """Return the rows of all parts as one."""
    every = [[(each, np.arange(len(part.y))) for each in part.answers] for part in parts]
    answers = tuple(rows[0][0].of(*rows) for rows in zip(*every, strict=True))
    return Part(
        answers,
        np.concatenate([part.y for part in parts]),
        np.concatenate([part.units for part in parts]),
    )


class Scored(NamedTuple):
    """Scores of the folds and their mean, with two variances of it.

    ``naive`` takes models as given and folds as independent: too small. ``jackknife`` leaves out
    each fold altogether, so that models change too: too large (Efron and Stein, 1981).
    """

    score: float
    folds: list[float]
    naive: float
    jackknife: float


def scored_folds(
    parts: list[Part],
    pairs: dict[tuple[int, int], Part],
    scorer: Any,
    *,
    seed: int,
    variances: bool = True,
) -> Scored:
    """Score folds; ``pairs`` has the rows of a fold for models without that and another one."""
    pooled = getattr(scorer, "_score_func", None) in _AT_RATE
    n = len(parts)

    def total(those: list[Part]) -> float:
        if pooled:
            return joined(those).score(scorer)
        return float(np.mean([part.score(scorer) for part in those]))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scores that are not defined: NaN is an error below
        folds = [part.score(scorer) for part in parts]
        score, naive, left = total(parts), np.nan, []
        if variances and pooled:
            naive = _by_bootstrap(joined(parts), scorer, seed)
        elif variances:
            naive = sum(_by_leaving_out(part, scorer, seed) for part in parts) / n**2
        if pairs:
            left = [
                total([part for (_, without), part in pairs.items() if without == out])
                for out in range(n)
            ]
    if not np.isfinite([score, *left, *([naive] if variances else [])]).all():
        raise ValueError(
            f"The score is not defined in each of the {n} folds, or not once a patient is left out "
            "of it: a fold needs two patients or more of every class. Use fewer folds (cv=3), "
            "stratified ones, or another scoring."
        )
    return Scored(score, folds, naive, (n - 1) * float(np.var(left)) if left else np.nan)


def _by_leaving_out(part: Part, scorer: Any, seed: int) -> float:
    """Return the variance of a fold's score, by leaving out each patient (the jackknife)."""
    names, codes = np.unique(part.units, return_inverse=True)
    if len(names) > _MOST_UNITS:
        codes = np.random.default_rng(seed).permutation(len(names))[codes] % _MOST_UNITS
    n = int(codes.max()) + 1
    if n == 1:
        return np.nan

    def without(*units: int) -> float:
        return part.score(scorer, np.flatnonzero(~np.isin(codes, units)))

    left = np.array([without(unit) for unit in range(n)])
    one, other = _units_of_classes(part, codes, scorer)
    size = np.full(n, n)
    for own in (one, other):
        size[own] = len(own)
    variance = float(np.sum((1 - 1 / size) * (left - left.mean()) ** 2))
    a, b = len(one), len(other)
    if not 4 <= a * b <= _MOST_UNITS or a + b < n or 1 in (a, b):
        return variance
    # What a pair of patients adds to its parts is in each of both, and counted twice, which matters
    # in small folds alone. Of the area under the curve this is its unbiased variance.
    whole = part.score(scorer)
    row = [without(one[0], unit) for unit in other]
    if np.allclose(row, left[one[0]] + left[other] - whole, rtol=0, atol=1e-9):
        return variance  # a sum over classes, such as balanced accuracy
    both = np.array([row, *([without(first, second) for second in other] for first in one[1:])])
    pair = a * b * whole + (a - 1) * (b - 1) * both
    pair -= (a - 1) * b * left[one, None] + a * (b - 1) * left[other]
    pair += pair.mean() - pair.mean(axis=0) - pair.mean(axis=1, keepdims=True)
    return max(0.0, variance - float(np.sum(pair**2)) / ((a - 1) * (b - 1) * a * b))


def _units_of_classes(part: Part, codes: np.ndarray, scorer: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the units of a class and those of others; none where a score depends on their shares.

    Such as the area under the curve, it is then one of rows of either class, whose number is given.
    """
    nobody = np.zeros(0, dtype=int)
    if part.y.ndim > 1:
        return nobody, nobody
    of_class = part.y == part.y[0]
    twice = np.r_[np.arange(len(part.y)), np.flatnonzero(of_class)]
    if not np.isclose(part.score(scorer, twice), part.score(scorer), rtol=0, atol=1e-9):
        return nobody, nobody
    share = np.bincount(codes, of_class) / np.bincount(codes)
    return np.flatnonzero(share == 1), np.flatnonzero(share == 0)


def _by_bootstrap(part: Part, scorer: Any, seed: int) -> float:
    """Return the variance of a score over resamples of patients: quantiles ask for it."""
    codes = np.unique(part.units, return_inverse=True)[1]
    random = np.random.RandomState(seed)
    drawn = resamples(len(codes), codes, _N_RESAMPLES, random)
    return float(np.var([part.score(scorer, rows) for rows in drawn], ddof=1))


def held_out_parts(
    estimators: tuple[Any, ...],
    X: Any,
    y: np.ndarray,
    units: np.ndarray,
    splits: list[tuple[np.ndarray, np.ndarray]],
    *,
    methods: tuple[tuple[str, ...], bool],
    pairs: bool,
    params: dict[str, Any],
    n_jobs: int | None,
) -> tuple[list[Part], dict[tuple[int, int], Part]]:
    """Fit estimators without each fold, and if asked to without each pair of folds too."""
    twos = list(combinations(range(len(splits)), 2)) if pairs else []
    tasks = list(splits)
    for one, other in twos:
        both = np.concatenate([splits[one][1], splits[other][1]])
        tasks.append((np.intersect1d(splits[one][0], splits[other][0]), both))
    done = Parallel(n_jobs=n_jobs)(
        delayed(_answers)(estimator, X, y, train, test, params, methods)
        for train, test in tasks
        for estimator in estimators
    )
    k = len(estimators)
    parts = [
        Part(tuple(done[k * number : k * number + k]), y[test], units[test])
        for number, (_, test) in enumerate(tasks)
    ]
    of_pairs: dict[tuple[int, int], Part] = {}
    for (one, other), part in zip(twos, parts[len(splits) :], strict=True):
        first = len(splits[one][1])
        of_pairs[one, other] = part.rows(np.arange(first))
        of_pairs[other, one] = part.rows(np.arange(first, len(part.y)))
    return parts[: len(splits)], of_pairs


def _answers(
    estimator: Any,
    X: Any,
    y: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    params: dict[str, Any],
    methods: tuple[tuple[str, ...], bool],
) -> Answers:
    """Fit a copy of an estimator to rows and let it answer to others."""
    fitted = clone(estimator)
    own = _check_method_params(X, params, indices=train)
    fitted.fit(_safe_indexing(X, train), y[train], **own)
    names, first = methods
    there = [name for name in names if hasattr(fitted, name)]
    if not there:
        raise TypeError(f"{type(fitted).__name__} has none of the methods {', '.join(names)}.")
    rows = _safe_indexing(X, test)
    given = {name: getattr(fitted, name)(rows) for name in (there[:1] if first else there)}
    for name, values in given.items():
        if isinstance(values, list):  # of a forest, an array for each of several labels
            given[name] = np.stack([each[:, -1] for each in values], axis=1)
        else:
            given[name] = np.asarray(values)
    return Answers(fitted, given)


def methods_of(scorer: Any) -> tuple[tuple[str, ...], bool]:
    """Return the methods that a scorer asks for, and whether the first that there is will do."""
    if scorer is _area:
        return ("decision_function", "predict_proba"), True
    asked = getattr(scorer, "_response_method", None)
    if asked is None:
        return _METHODS, False
    return ((asked,) if isinstance(asked, str) else tuple(asked)), True


def fit_params(
    estimators: tuple[Any, ...], groups: np.ndarray | None, params: dict[str, Any] | None
) -> dict[str, Any]:
    """Return parameters of ``fit``, groups among them where each estimator has them."""
    given = dict(params or {})
    if groups is None:
        return given
    if get_config()["enable_metadata_routing"]:
        known = [
            get_routing_for_object(each).consumes("fit", ["groups"]) == {"groups"}
            for each in estimators
        ]
    else:
        known = [has_fit_parameter(each, "groups") for each in estimators]
    return {**given, "groups": groups} if all(known) else given


def scorer_of(scoring: Any, estimator: Any, y: np.ndarray, pos_label: Any) -> Any:
    """Return the scorer by its name; the library's own are about the positive class of two."""
    binary = is_classifier(estimator) and type_of_target(y) == "binary"
    rates = {each.__name__: each for each in _AT_RATE}
    if not isinstance(scoring, str) and not callable(scoring):
        raise ValueError(
            "scoring must be one score: a name of scikit-learn, 'sensitivity', 'specificity', "
            f"{', '.join(map(repr, rates))}, or a scorer of make_scorer; got {scoring!r}."
        )
    if scoring in ("sensitivity", "specificity"):
        label = positive_label(y, pos_label)
        other = next(each for each in np.unique(y).tolist() if each != label)
        own = label if scoring == "sensitivity" else other
        return make_scorer(recall_score, pos_label=own, zero_division=np.nan)
    if scoring in rates:
        given = {"pos_label": positive_label(y, pos_label)} if binary else {}
        asked = ("decision_function", "predict_proba")
        return make_scorer(rates[scoring], response_method=asked, **given)
    if scoring == "roc_auc" and binary:
        return _area
    if scoring == "roc_auc" and type_of_target(y) == "multiclass":
        scoring = "roc_auc_ovr"
    scorer = get_scorer(scoring)
    if pos_label is not None and isinstance(scorer, _BaseScorer) and binary:
        scorer = _of_positive(scorer, positive_label(y, pos_label))
    return scorer


def _area(answers: Answers, places: np.ndarray, y: np.ndarray) -> float:
    """Return what the scorer "roc_auc" does, at a tenth of its cost: it is asked for each patient.

    It does not depend on which class is the positive one.
    """
    (values,) = answers.given.values()
    classes = answers.classes_
    if len(classes) != 2:  # a model that has seen one class alone
        return np.nan
    score = values[places] if values.ndim == 1 else values[places, 1]
    decisions = np.column_stack([np.zeros(len(y)), score])
    return score_held_out((y == classes[1]).astype(int), decisions, "roc_auc")


def _of_positive(scorer: Any, label: Any) -> Any:
    """Return a scorer of the positive class, if it is about one."""
    if scorer._get_pos_label() is None:
        return scorer
    return make_scorer(
        scorer._score_func,
        greater_is_better=scorer._sign > 0,
        response_method=scorer._response_method,
        **{**scorer._kwargs, "pos_label": label},
    )
