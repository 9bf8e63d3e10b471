"""Labels and scores, read and checked for the metrics; it must not know estimators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import check_array, check_consistent_length
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import column_or_1d

from sktransfer._utils.sklearn_compat import _check_pos_label_consistency
from sktransfer._utils.splitting import read_groups


class Interval(NamedTuple):
    """An estimate and the ends of its confidence interval."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class BinaryScores:
    """Rows of a two-class problem.

    Attributes
    ----------
    positive : ndarray of bool, shape (n,)
    score : ndarray of float64, shape (n,)
    groups : ndarray of int, shape (n,), or None
        Codes from 0.
    """

    positive: np.ndarray
    score: np.ndarray
    groups: np.ndarray | None = None


def check_confidence(confidence_level: float) -> float:
    """The level of an interval, which lies between 0 and 1."""
    if not 0 < confidence_level < 1:
        raise ValueError(
            f"confidence_level is a share such as 0.95, between 0 and 1; got {confidence_level!r}."
        )
    return float(confidence_level)


def check_scores(score: ArrayLike, *, name: str = "y_score") -> np.ndarray:
    """Scores as float64; a missing one is an error that names its rows."""
    numbers = np.asarray(score, dtype=np.float64)
    rows = np.isnan(numbers if numbers.ndim == 1 else numbers.sum(axis=-1))
    if rows.any():
        first = ", ".join(map(str, np.flatnonzero(rows)[:5]))
        raise ValueError(
            f"{name} is NaN in {int(rows.sum())} of {len(rows)} rows (first: {first}). A row "
            "without a score has no side of a threshold: leave these rows out of y and the "
            "scores, or read the images that failed."
        )
    return numbers


def binary_labels(y_true: ArrayLike, pos_label: Any = None) -> np.ndarray:
    """Which rows are positive.

    Parameters
    ----------
    y_true : array-like of shape (n,)
        Labels of two classes at most.
    pos_label : int, float, bool, str or None, default=None
        None: 1, where the labels are 0 and 1 or -1 and 1.

    Raises
    ------
    ValueError
        If there are more than two classes, or the positive one is not known.
    """
    y: np.ndarray = column_or_1d(y_true)
    return np.asarray(y == positive_label(y, pos_label))


def positive_label(y_true: ArrayLike, pos_label: Any = None) -> Any:
    """The positive class of two; parameters and errors as of :func:`binary_labels`."""
    y: np.ndarray = column_or_1d(y_true)
    kind = type_of_target(y, input_name="y_true")
    if kind != "binary":
        raise ValueError(f"y_true must have two classes; got a target of type {kind!r}.")
    label = _check_pos_label_consistency(pos_label, y)
    classes = np.unique(y)
    if len(classes) == 2 and label not in classes:
        raise ValueError(
            f"pos_label={label!r} is not a label of y_true, which has {classes.tolist()}."
        )
    return label


def binary_scores(
    y_true: ArrayLike,
    y_score: ArrayLike,
    *,
    pos_label: Any = None,
    groups: ArrayLike | None = None,
    name: str = "y_score",
) -> BinaryScores:
    """Labels and scores of a two-class problem with rows of both classes.

    Raises
    ------
    ValueError
        If lengths differ, a score is missing, or a class has no rows.
    """
    score = column_or_1d(check_scores(y_score, name=name))
    positive = binary_labels(y_true, pos_label)
    check_consistent_length(positive, score)
    if positive.all() or not positive.any():
        raise ValueError(
            f"Rows of both classes are needed; got {int(positive.sum())} positive and "
            f"{int((~positive).sum())} negative ones."
        )
    return BinaryScores(positive, score, group_codes(groups, len(positive)))


def group_codes(groups: ArrayLike | None, n: int) -> np.ndarray | None:
    """Groups numbered from 0."""
    if groups is None:
        return None
    names = read_groups(groups)
    if len(names) != n:
        raise ValueError(f"groups has {len(names)} entries for {n} rows.")
    return np.unique(names, return_inverse=True)[1]


def shares_of_groups(groups: ArrayLike) -> np.ndarray:
    """Return a weight for each row, so that every group weighs the same."""
    _, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    return 1 / sizes[codes]


def one_vs_rest(
    y_true: ArrayLike, y_score: ArrayLike, labels: ArrayLike | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A problem of several classes as one of two classes for each.

    Parameters
    ----------
    y_true : array-like of shape (n,)
    y_score : array-like of shape (n, n_classes)
        A column for each class.
    labels : array-like of shape (n_classes,) or None
        The classes in the order of the columns. None: those of ``y_true``, sorted.

    Returns
    -------
    positive : ndarray of bool, shape (n, n_classes)
    score : ndarray of float64, shape (n, n_classes)
    classes : ndarray of shape (n_classes,)

    Raises
    ------
    ValueError
        If columns and classes do not match, or a class has no rows.
    """
    y: np.ndarray = column_or_1d(y_true)
    score = check_array(check_scores(y_score), ensure_all_finite=False, input_name="y_score")
    check_consistent_length(y, score)
    classes = np.unique(y) if labels is None else column_or_1d(labels)
    if score.shape[1] != len(classes):
        raise ValueError(
            f"y_score has {score.shape[1]} columns for {len(classes)} classes. It needs one for "
            "each; where y_true lacks a class, give all of them, in the order of the columns, as "
            "labels."
        )
    positive = y[:, None] == classes[None, :]
    empty = ~positive.any(axis=0)
    if empty.any() or len(classes) < 2:
        raise ValueError(
            "Every class needs rows, and there must be two at least; without rows are "
            f"{classes[empty].tolist()} of {classes.tolist()}."
        )
    return positive, score, classes
