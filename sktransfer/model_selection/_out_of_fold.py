"""Scores of rows by models that have not seen them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import expit
from sklearn import get_config
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import StratifiedGroupKFold, check_cv
from sklearn.utils.metadata_routing import process_routing
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_is_fitted, has_fit_parameter

from sktransfer._transfer import TransferClassifier
from sktransfer._utils.multilabel import estimator_scores
from sktransfer._utils.sklearn_compat import (
    _check_method_params,
    _check_response_method,
    _get_response_values_binary,
    _safe_indexing,
)
from sktransfer.metrics._labels import check_scores
from sktransfer.model_selection._split import MultilabelStratifiedGroupKFold

_DEFAULT_FOLDS = 5


def out_of_fold_scores(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    cv: Any,
    groups: np.ndarray | None,
    fit_params: dict[str, Any],
    split_params: dict[str, Any],
    score: Callable[[Any, Any], np.ndarray],
    own: Callable[[TransferClassifier], tuple[np.ndarray, np.ndarray]],
    n_jobs: int | None,
) -> tuple[Any, np.ndarray, np.ndarray, bool]:
    """Return an estimator for later, rows, their scores, and whether the estimator is another one.

    With a single split and with "prefit" the estimator is the one that gave the scores. ``cv`` may
    be None or an int: folds are stratified then, and grouped where there are groups. A
    TransferClassifier scores rows out of fold in its own ``fit``, which ``own`` takes for None.
    ``score`` gives the scores of rows by an estimator. With several labels a row, ``y`` is a matrix
    or table of them, and scores have a column for each.
    """
    if isinstance(cv, str):
        return estimator, np.arange(len(y)), score(estimator, X), False
    if cv is None and isinstance(estimator, TransferClassifier):
        fitted = clone(estimator).fit(X, y, **fit_params)
        return fitted, *own(fitted), True
    cv = _DEFAULT_FOLDS if cv is None else cv
    if isinstance(cv, (int, np.integer)) and np.ndim(y) == 2:
        cv = MultilabelStratifiedGroupKFold(int(cv))
        split_params = {} if groups is None else {"groups": groups}
    elif isinstance(cv, (int, np.integer)) and groups is not None:
        cv, split_params = StratifiedGroupKFold(int(cv)), {"groups": groups}
    splits = [
        (_as_indices(train), _as_indices(test))
        for train, test in check_cv(cv, y, classifier=True).split(X, y, **split_params)
    ]
    _check_splits(splits, groups, len(y))
    done = Parallel(n_jobs=n_jobs)(
        delayed(_fit_and_score)(
            clone(estimator), X, y, train, test, fit_params, score, len(splits) == 1
        )
        for train, test in splits
    )
    refitted = len(splits) > 1
    return (
        clone(estimator).fit(X, y, **fit_params) if refitted else done[0][0],
        np.concatenate([test for _, test in splits]),
        np.concatenate([scores for _, scores in done]),
        refitted,
    )


def routed_params(
    owner: Any, method: str, groups: np.ndarray | None, params: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return parameters for the ``fit`` of an owner's estimator, and for its splitter's ``split``.

    Without metadata routing groups go to both, as far as they have them.
    """
    given = {} if groups is None else {"groups": groups}
    if not get_config()["enable_metadata_routing"]:
        own = given if has_fit_parameter(owner.estimator, "groups") else {}
        return {**params, **own}, given
    routed = process_routing(owner, method, **params, **given)
    return routed.estimator.fit, routed.splitter.split if "splitter" in routed else {}


def show_features(owner: Any) -> None:
    """Show the number and the names of the features of an owner's fitted estimator as its own."""
    for name in ("n_features_in_", "feature_names_in_"):
        owner.__dict__.pop(name, None)
        if hasattr(owner.estimator_, name):
            setattr(owner, name, getattr(owner.estimator_, name))


def own_scores(
    clf: TransferClassifier, methods: list[str], pos_label: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that a classifier's own ``fit`` has scored out of fold, and their scores."""
    (column,) = np.flatnonzero(clf.classes_ == pos_label)
    rows, scores = own_class_scores(clf, methods)
    return rows, scores[:, column]


def own_class_scores(clf: TransferClassifier, methods: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the same rows with a score for each class."""
    rows = np.flatnonzero(np.isfinite(clf._out_of_fold).all(axis=1))
    logs = clf._out_of_fold[rows]
    if methods[0] == "predict_proba":
        return rows, np.exp(logs)
    return rows, logs - logs[:, ::-1] if logs.shape[1] == 2 else logs


def own_label_scores(clf: TransferClassifier, methods: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the same rows with a score for each of several labels, of which logits are kept."""
    rows = np.flatnonzero(np.isfinite(clf._out_of_fold).all(axis=1))
    logits = clf._out_of_fold[rows]
    return rows, expit(logits) if methods[0] == "predict_proba" else logits


def check_prefit(estimator: Any, classes: np.ndarray | None, *, most: int | None = None) -> None:
    """Raise an error if an estimator is not fitted, or was fitted to other or more classes."""
    try:
        check_is_fitted(estimator)
    except NotFittedError as error:
        raise NotFittedError(
            "With cv='prefit' the estimator must be fitted, and this one is not. Cloning empties "
            "it: where it may be cloned (cross_val_score, a grid), wrap it in "
            "sklearn.frozen.FrozenEstimator."
        ) from error
    if classes is None:
        return
    known = np.asarray(estimator.classes_)
    if len(known) > (most or len(known)) or not np.isin(classes, known).all():
        raise ValueError(
            f"The fitted estimator knows the classes {known.tolist()}; y has {classes.tolist()}."
        )


def _as_indices(part: Any) -> np.ndarray:
    part = np.asarray(part)
    return np.flatnonzero(part) if part.dtype == bool else part


def _check_splits(
    splits: list[tuple[np.ndarray, np.ndarray]], groups: np.ndarray | None, n: int
) -> None:
    """Check that every row is scored at most once, by a model that has not seen its group."""
    tested = np.bincount(np.concatenate([test for _, test in splits]), minlength=n)
    if tested.max() > 1:
        raise ValueError(
            f"cv tests {int((tested > 1).sum())} rows more than once; each row needs one score. "
            "Use a splitter without repetition, such as StratifiedGroupKFold, or one "
            "with a single split."
        )
    for train, test in splits:
        if len(np.intersect1d(train, test)):
            raise ValueError(
                "cv has rows in both the training and the test part of one split, so that their "
                "scores are not those of unseen rows. Use a splitter of scikit-learn."
            )
        if groups is not None:
            both = np.intersect1d(groups[train], groups[test])
            if len(both):
                raise ValueError(
                    f"cv puts rows of {len(both)} groups on both sides of a split, so that their "
                    "scores are not those of unseen groups. Use StratifiedGroupKFold or GroupKFold "
                    "(with metadata routing, one that requests groups), or leave cv out."
                )


def _fit_and_score(
    estimator: Any,
    X: Any,
    y: Any,
    train: np.ndarray,
    test: np.ndarray,
    fit_params: dict[str, Any],
    score: Callable[[Any, Any], np.ndarray],
    keep: bool,
) -> tuple[Any, np.ndarray]:
    """Return the estimator fitted to a training part, if kept, and scores of the test part."""
    params = _check_method_params(X, fit_params, indices=train)
    estimator.fit(_safe_indexing(X, train), _safe_indexing(y, train), **params)
    return estimator if keep else None, score(estimator, _safe_indexing(X, test))


def positive_scores(estimator: Any, X: Any, methods: list[str], pos_label: Any) -> np.ndarray:
    """Score the positive class with the first of the methods that the estimator has."""
    score, _ = _get_response_values_binary(estimator, X, methods, pos_label=pos_label)
    return check_scores(score, name="The score")


def label_scores(estimator: Any, X: Any, methods: list[str], n_labels: int) -> np.ndarray:
    """Score each of several labels that rows may have."""
    return check_scores(estimator_scores(estimator, X, n_labels, methods), name="The score")


def class_scores(estimator: Any, X: Any, methods: list[str], classes: np.ndarray) -> np.ndarray:
    """Score every class with the first of the methods that the estimator has.

    A class that the estimator has not seen has the lowest score there is.
    """
    respond = _check_response_method(estimator, methods)
    values = check_scores(respond(X), name="The score")
    if values.ndim == 1:
        values = np.column_stack([-values, values])
    known = np.asarray(estimator.classes_)
    if values.ndim != 2 or values.shape[1] != len(known):
        raise ValueError(
            f"{respond.__name__} of {type(estimator).__name__} has to give one score for each of "
            f"{len(known)} classes; got shape {values.shape}. An SVC has these with "
            "decision_function_shape='ovr'."
        )
    found = np.full((len(values), len(classes)), -np.inf)
    if respond.__name__ == "predict_proba":
        found[:] = 0.0
    places = {label: place for place, label in enumerate(np.asarray(classes).tolist())}
    found[:, [places[label] for label in known.tolist()]] = values
    return found


def warn_of_ties(score: np.ndarray) -> None:
    """Warn that a refitted model has ties elsewhere, where a step may fall below the threshold.

    Of several columns of scores those of the column with most ties are reported.
    """
    columns = score.reshape(len(score), -1).T
    distinct = min(len(np.unique(column)) for column in columns)
    if distinct < len(score) / 2:
        warnings.warn(
            f"The {len(score)} scores take {distinct} values only, and those of the model that is "
            "fitted to all rows will be others: what was guaranteed for the folds may not hold for "
            "it. With a single split, such as cv=ShuffleSplit(1), or cv='prefit' it does.",
            stacklevel=4,
        )
