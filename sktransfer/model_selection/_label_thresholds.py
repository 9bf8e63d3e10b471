"""A threshold for each of several labels a row, each with its guarantee."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from sktransfer._utils.identifiers import read_groups
from sktransfer._utils.multilabel import names_of_labels, read_indicators
from sktransfer.metrics import operating_point
from sktransfer.model_selection._guarantee import USUAL, refuse_certainty, warn_of_no_use
from sktransfer.model_selection._out_of_fold import label_scores, show_features, warn_of_ties


def fit_labels(clf: Any, X: Any, y: Any, groups: Any, params: dict[str, Any]) -> Any:
    """Score rows out of fold and choose the threshold of each label; see ``fit`` of ``clf``."""
    truth, names, y = read_for(clf, y)
    if clf.pos_label not in (None, 1):
        raise ValueError(
            f"With several labels a row, each is positive where it is 1; got pos_label="
            f"{clf.pos_label!r}."
        )
    patients = None if groups is None else read_groups(groups, n=len(truth))
    each = [_for_label(clf, names, place) for place in range(len(names))]
    for place, own in enumerate(each):
        kept = truth[:, place] == (own.constraint != "specificity")
        refuse_certainty(own, np.flatnonzero(kept), patients)
    lacking = ~((truth == 1).any(axis=0) & (truth == 0).any(axis=0))
    if lacking.any():
        raise ValueError(
            "A threshold needs rows with a label and rows known to be without it, and of "
            f"{names[lacking].tolist()[0]!r} there are none of one kind: leave the column out, or "
            "give more rows."
        )
    scored, score, refitted = clf._score_unseen(X, y, patients, params)
    if refitted and clf.confidence_level is not None and clf.constraint != "cost":
        warn_of_ties(score)
    for place, own in enumerate(each):
        _decide(own, truth[scored, place], score[:, place], patients, scored)
        own.operating_point_ = replace(own.operating_point_, pos_label=names.tolist()[place])
    clf.label_names_ = names
    clf.threshold_ = np.array([own.threshold_ for own in each])
    clf.operating_point_ = {
        name: own.operating_point_ for name, own in zip(names.tolist(), each, strict=True)
    }
    show_features(clf)
    return clf


def read_for(clf: Any, y: Any) -> tuple[np.ndarray, np.ndarray, Any]:
    """Return indicators, names of labels, and the labels in the form that estimators take."""
    fitted = names_of_labels(clf.estimator, len(getattr(clf.estimator, "classes_", ())))
    truth, names = read_indicators(y, fitted if isinstance(clf.cv, str) else None)
    matrix = truth if np.isnan(truth).any() else truth.astype(np.int64)
    if names.dtype.kind in "iu":
        return truth, names, matrix
    return truth, names, pd.DataFrame(matrix, columns=names.tolist())


def called_labels(clf: Any, X: Any) -> np.ndarray:
    """Return which labels of rows are called, 0 or 1."""
    score = label_scores(clf.estimator_, X, clf._get_response_method(), len(clf.threshold_))
    return (score >= clf.threshold_).astype(np.int64)


def _for_label(clf: Any, names: np.ndarray, place: int) -> Any:
    """Return a copy of a classifier that chooses the threshold of one label."""
    own, name = copy.copy(clf), names.tolist()[place]
    own.pos_label_, own._called = True, (repr(f"not {name}"), repr(name))
    own._positive_column = lambda: 1
    if isinstance(clf.target_level, Mapping):
        if name not in clf.target_level:
            raise ValueError(f"target_level has no rate for the label {name!r}.")
        own.target_level = clf.target_level[name]
    if clf.simultaneous and clf.confidence_level is not None:  # Bonferroni's inequality
        own.confidence_level = 1 - (1 - clf.confidence_level) / len(names)
    return own


def _decide(
    own: Any, truth: np.ndarray, score: np.ndarray, patients: np.ndarray | None, scored: np.ndarray
) -> None:
    """Choose the threshold of one label on the rows where it is known."""
    known = ~np.isnan(truth)
    positive, score = truth[known] == 1, score[known]
    whose = None if patients is None else patients[scored[known]]
    own.threshold_ = own._choose(positive, score, whose)
    level = own.confidence_level or USUAL
    own.operating_point_ = operating_point(
        positive, score, own.threshold_, pos_label=True, groups=whose, confidence_level=level
    )
    warn_of_no_use(own)
