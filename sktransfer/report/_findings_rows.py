"""The test rows of a report on several labels a row: each label where it is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from sktransfer._utils.identifiers import read_groups
from sktransfer._utils.multilabel import estimator_scores, names_of_labels, read_indicators
from sktransfer._utils.sklearn_compat import _safe_indexing, decider
from sktransfer.metrics import multilabel_report
from sktransfer.metrics._labels import Interval
from sktransfer.report._scored_rows import ScoredRows, method_of


@dataclass(frozen=True)
class Findings:
    """Test rows with several labels each: ``all`` of them, and for each label those it is known of.

    ``truth`` has 0, 1 and NaN under the names of the labels, which the estimator calls ``labels``;
    ``table`` is that of :func:`multilabel_report`.
    """

    labels: list[Any]
    all: ScoredRows
    each: dict[str, ScoredRows]
    truth: pd.DataFrame
    table: pd.DataFrame
    threshold_source: str

    @property
    def judged(self) -> dict[str, ScoredRows]:
        """Return the labels that have rows with and without them."""
        return {
            name: rows
            for name, rows in self.each.items()
            if rows.is_positive.any() and not rows.is_positive.all()
        }

    def measured(self, label: str, measure: str) -> Interval:
        """Return a measure of a label, or the mean, with its interval."""
        columns = (measure, f"{measure}_low", f"{measure}_high")
        return Interval(*(float(self.table.loc[label, name]) for name in columns))


def score_findings(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    groups: Any,
    target_names: Any,
    threshold: Any,
    confidence_level: float,
    random_state: Any,
) -> Findings:
    """Score rows with a fitted classifier of several labels; labels, groups and rows must fit."""
    check_is_fitted(estimator)
    classes = getattr(estimator, "classes_", None)
    known = None if classes is None else names_of_labels(estimator, len(classes))
    truth, labels = read_indicators(y, known)
    names = _names(target_names, labels.tolist())
    method = method_of(decider(estimator))
    score = estimator_scores(estimator, X, len(names), [method])
    if len(score) != len(truth):
        raise ValueError(f"y has {len(truth)} rows of labels for {len(score)} rows of X.")
    proba = score if method == "predict_proba" else None
    if proba is None and hasattr(estimator, "predict_proba"):
        proba = estimator_scores(estimator, X, len(names))
    cuts, source = _thresholds(estimator, threshold, labels.tolist(), method)
    patients = None if groups is None else read_groups(groups, n=len(truth))
    read = np.flatnonzero(~np.isnan(score).any(axis=1))

    def rows_of(place: int, kept: np.ndarray, positive: np.ndarray, name: str) -> ScoredRows:
        return ScoredRows(
            estimator=estimator,
            X=X if len(kept) == len(truth) else _safe_indexing(X, kept),
            y=np.where(positive[kept], name, f"not {name}"),
            score=score[kept, place],
            proba=None if proba is None else proba[kept, place],
            groups=None if patients is None else patients[kept],
            negative=f"not {name}",
            positive=name,
            classes=np.array([0, 1]),
            pos_label=1,
            threshold=float(cuts[place]),
            threshold_source=source,
            kept=kept,
            n_given=len(truth),
            confidence_level=confidence_level,
        )

    each = {
        name: rows_of(place, read[~np.isnan(truth[read, place])], truth[:, place] == 1, name)
        for place, name in enumerate(names)
    }
    whole = rows_of(0, read, (truth == 1).any(axis=1), "any finding")
    table = multilabel_report(
        truth[read],
        score[read],
        threshold=cuts,
        labels=names,
        groups=whole.groups,
        confidence_level=confidence_level,
        random_state=random_state,
    )
    shown = pd.DataFrame(truth[read], columns=names)
    found = Findings(labels.tolist(), whole, each, shown, table, source)
    if not found.judged:
        raise ValueError("No label of y has rows with it and rows without it, so none is judged.")
    return found


def _names(given: Any, labels: list[Any]) -> list[str]:
    if given is None:
        given = {}
    elif not isinstance(given, Mapping):
        given = dict(zip(labels, list(given), strict=True))
    names = [str(given.get(label, label)) for label in labels]
    if len(set(names)) < len(names):
        raise ValueError(f"target_names must be different for each label; got {names}.")
    return names


def _thresholds(
    estimator: Any, given: Any, labels: list[Any], method: str
) -> tuple[np.ndarray, str]:
    """Return the threshold of each label, and who chose them."""
    inner, n = decider(estimator), len(labels)
    own = getattr(inner, "threshold_", None)
    if given is not None:
        given = [given[label] for label in labels] if isinstance(given, Mapping) else given
        return np.broadcast_to(np.asarray(given, float), n), "They were given to the report."
    if own is None or np.shape(own) != (n,):
        usual = 0.5 if method == "predict_proba" else 0.0
        return np.full(n, usual), f"They are the usual {usual:g}: nobody has chosen any."
    goal = "the least expected cost"
    if inner.constraint != "cost":
        rate = inner.target_level
        goal = f"a {inner.constraint} of at least " + (
            "what was asked for each" if isinstance(rate, Mapping) else f"{rate:g}"
        )
        if inner.confidence_level is not None:
            whose = "all of them together" if inner.simultaneous else "each by itself"
            goal += f", with confidence {inner.confidence_level:g} for {whose}"
    who = type(inner).__name__
    return np.asarray(own), f"{who} chose them before these rows were seen, for {goal}."
