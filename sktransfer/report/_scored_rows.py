"""The test rows of a report with their scores, names of classes, and the threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from sktransfer._utils.classes import names_of_model, positive_class
from sktransfer._utils.identifiers import read_groups
from sktransfer._utils.sklearn_compat import _num_samples, _safe_indexing, decider, own_positive
from sktransfer.datasets._levels import read_columns
from sktransfer.deploy._predicting import threshold_of
from sktransfer.metrics._labels import check_labels, check_readings
from sktransfer.novelty._gate import gate_with_rows
from sktransfer.report._class_names import check_names

_METHODS = ("predict_proba", "decision_function")


@dataclass(frozen=True)
class Novelty:
    """What a gate says of all rows that can be read, ``X`` as it gets them.

    ``there`` are their positions among the rows given; ``y`` has the names of their classes.
    """

    gate: Any
    X: Any
    novel: np.ndarray
    there: np.ndarray
    y: np.ndarray
    groups: np.ndarray | None

    @property
    def n_refused(self) -> int:
        """Return how many rows have no score because they are novel."""
        return 0 if self.gate.on_novel == "flag" else int(self.novel.sum())


@dataclass(frozen=True)
class ScoredRows:
    """Test rows that a model has scored.

    ``y`` has the names of the true classes, ``negative`` or ``positive``; ``score`` and ``proba``
    (None where the estimator has none) are of the positive class, which the estimator calls
    ``pos_label``. A row is predicted positive if its score is at least ``threshold``, whose origin
    ``threshold_source`` says in words. Rows without a score are left out: ``kept`` are the
    positions of the others among the ``n_given`` rows.

    ``novelty`` is of an estimator with a ``NoveltyGate``; rows that the gate refuses have no score.
    """

    estimator: Any
    X: Any
    y: np.ndarray
    score: np.ndarray
    proba: np.ndarray | None
    groups: np.ndarray | None
    negative: str
    positive: str
    classes: np.ndarray
    pos_label: Any
    threshold: float
    threshold_source: str
    kept: np.ndarray
    n_given: int
    confidence_level: float
    novelty: Novelty | None = None

    @property
    def is_positive(self) -> np.ndarray:
        """Return which rows are of the positive class."""
        return self.y == self.positive

    @property
    def predicted(self) -> np.ndarray:
        """Return which rows are predicted positive."""
        return self.score >= self.threshold

    @property
    def settings(self) -> dict[str, Any]:
        """Return the parameters of metrics and displays."""
        return {"pos_label": self.positive, "groups": self.groups}

    @property
    def interval_settings(self) -> dict[str, Any]:
        """Return the parameters of intervals."""
        return {**self.settings, "confidence_level": self.confidence_level}

    def named(self, given: Any, what: str) -> np.ndarray:
        """Return labels of the estimator as names; missing ones stay missing."""
        names = (self.negative, self.positive)
        return _class_names(given, self.classes, self.pos_label, names, what)

    def columns(self, given: Any, what: str) -> pd.DataFrame:
        """Select the rows of the report from named columns for all rows given."""
        return read_columns(given, self.n_given, what).iloc[self.kept].reset_index(drop=True)

    def of(self, values: Any, what: str) -> Any:
        """Select the rows of the report from values for all rows given."""
        n = len(values)
        if n != self.n_given:
            raise ValueError(f"{what} has {n} rows for {self.n_given} rows of X.")
        return np.asarray(values)[self.kept]


def score_rows(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    groups: Any = None,
    pos_label: Any = None,
    target_names: Mapping[Any, str] | Sequence[str] | None = None,
    threshold: float | None = None,
    confidence_level: float = 0.95,
) -> ScoredRows:
    """Score rows with a fitted classifier; labels, groups and rows must fit."""
    check_is_fitted(estimator)
    if not hasattr(estimator, "classes_"):
        raise TypeError(
            f"estimator must be a fitted classifier; {type(estimator).__name__} has no classes_. "
            "For numbers, sklearn.metrics and PredictionErrorDisplay say what a report would."
        )
    labels = np.asarray(estimator.classes_)
    own = own_positive(estimator)
    names = check_names(target_names, labels.tolist(), names_of_model(estimator) or {})
    label = positive_class(
        labels,
        own if pos_label is None else pos_label,
        names=dict(zip(labels.tolist(), names, strict=True)),
    )
    truth = _known(y, labels)
    method = method_of(decider(estimator))
    if len(truth) != _num_samples(X):
        raise ValueError(f"y has {len(truth)} labels for {_num_samples(X)} rows of X.")
    patients = None if groups is None else read_groups(groups, n=len(truth))
    negative, positive = _names(labels, label, names)
    named = _class_names(truth, labels, label, (negative, positive), "y").astype(str)
    novelty = _novelty(estimator, X, named, patients)
    score = np.full(len(truth), np.nan)
    asked = _answered(novelty, len(truth))
    score[asked] = _scores(estimator, _rows(X, asked), method, labels, label)
    kept = np.flatnonzero(~np.isnan(score))
    if len(kept) < len(score):
        X, named, score = _safe_indexing(X, kept), named[kept], score[kept]
        patients = None if patients is None else patients[kept]
    proba: np.ndarray | None = score if method == "predict_proba" else None
    if proba is None and hasattr(estimator, "predict_proba"):
        proba = _scores(estimator, X, "predict_proba", labels, label)
    if threshold is None:
        threshold, source = threshold_of(decider(estimator), method, label, own, labels)
    else:
        source = "It was given to the report."
    if len(np.unique(named)) < 2:
        rest = [] if len(named) else ["the model answers for none of them"]
        what = ", ".join([*map(repr, np.unique(named).tolist()), *rest])
        raise ValueError(f"The test rows are all of one class, {what}; pass rows of both classes.")
    return ScoredRows(
        estimator=estimator,
        X=X,
        y=named,
        score=score,
        proba=proba,
        groups=patients,
        negative=negative,
        positive=positive,
        classes=labels,
        pos_label=label,
        threshold=float(threshold),
        threshold_source=source,
        kept=kept,
        n_given=len(y),
        confidence_level=confidence_level,
        novelty=novelty,
    )


def _known(y: Any, labels: np.ndarray) -> np.ndarray:
    """Return labels of rows, all of them the estimator's."""
    truth = check_labels(y, name="y")
    unknown = np.setdiff1d(truth, labels)
    if len(unknown):
        raise ValueError(
            f"y has labels that the estimator does not know: {unknown[:5].tolist()}; its classes "
            f"are {labels.tolist()}."
        )
    return truth


def _novelty(estimator: Any, X: Any, y: np.ndarray, groups: np.ndarray | None) -> Novelty | None:
    """Ask the gate of an estimator about the rows; None where it has none."""
    found = gate_with_rows(estimator, X)
    if found is None:
        return None
    gate, rows = found
    decision = np.asarray(gate.detector_.decision_function(rows))
    there = np.flatnonzero(~np.isnan(decision))
    groups = None if groups is None else groups[there]
    return Novelty(gate, _rows(rows, there), decision[there] < 0, there, y[there], groups)


def _answered(novelty: Novelty | None, n: int) -> np.ndarray:
    """Return which of n rows the gate of a model lets pass."""
    if novelty is None or not novelty.n_refused:
        return np.arange(n)
    return np.delete(np.arange(n), novelty.there[novelty.novel])


def _rows(X: Any, rows: np.ndarray) -> Any:
    return X if len(rows) == _num_samples(X) else _safe_indexing(X, rows)


def _class_names(
    given: Any, labels: np.ndarray, label: Any, names: tuple[str, str], what: str
) -> np.ndarray:
    """Return labels as the two names, an array of objects; missing ones are None."""
    other = next((each for each in labels if each != label), None)
    column = check_readings(given, labels, label, other)
    there = ~pd.isna(column)
    unknown = [each for each in pd.unique(column[there]).tolist() if each not in labels]
    if unknown:
        raise ValueError(
            f"{what}: {unknown[0]!r} is not one of the classes {labels.tolist()}, of which "
            f"{label!s} is {names[1]}."
        )
    named = np.where(column == label, names[1], names[0]).astype(object)
    named[~there] = None
    return named


def method_of(estimator: Any) -> str:
    """Return the method whose values the threshold applies to."""
    own = getattr(estimator, "response_method", "auto")
    for method in [own] if own in _METHODS else _METHODS:
        if hasattr(estimator, method):
            return method
    raise TypeError(
        f"{type(estimator).__name__} has neither predict_proba nor decision_function, so it has no "
        "scores. Use a classifier that has them, or wrap it in CalibratedClassifierCV."
    )


def _scores(estimator: Any, X: Any, method: str, labels: np.ndarray, label: Any) -> np.ndarray:
    values = np.asarray(getattr(estimator, method)(X), dtype=np.float64)
    column = int(np.flatnonzero(labels == label)[0])
    if values.ndim == 2:
        return values[:, column]
    return values if column == 1 else -values


def _names(labels: np.ndarray, label: Any, names: list[str]) -> tuple[str, str]:
    """Return the names of the negative and the positive class."""
    positive = labels == label
    (own,) = (name for name, its in zip(names, positive, strict=True) if its)
    others = [name for name, its in zip(names, positive, strict=True) if not its]
    return (others[0] if len(others) == 1 and others[0] != own else f"not {own}"), own
