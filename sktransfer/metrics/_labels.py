"""Labels, scores and groups, read and checked for the metrics."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.utils import check_array, check_consistent_length
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import column_or_1d

from sktransfer._utils.classes import positive_class
from sktransfer._utils.identifiers import read_groups
from sktransfer._utils.per_row import as_column, check_present


class Interval(NamedTuple):
    """An estimate and the ends of its confidence interval."""

    estimate: float
    low: float
    high: float


def check_level(level: float, name: str = "confidence_level") -> float:
    """Return the level of an interval or of a rate, which lies between 0 and 1."""
    if not 0 < level < 1:
        raise ValueError(f"{name} must be a share between 0 and 1, such as 0.95; got {level!r}.")
    return float(level)


def check_labels(y: ArrayLike, *, name: str = "y_true") -> np.ndarray:
    """Return labels as an array; a missing one is an error that names its row."""
    labels: np.ndarray = column_or_1d(as_column(check_present(y, name)))
    return labels


def check_readings(readings: Any, classes: np.ndarray, positive: Any, negative: Any) -> np.ndarray:
    """Return an expert's readings as labels, missing where an expert gave none or blanks.

    True and False are labels where classes are called so or are 1 and 0, else they mean the
    positive and the negative class.
    """
    column: np.ndarray = column_or_1d(as_column(readings))
    words = [None if str(each).strip() == "" else each for each in column.tolist()]
    given = np.array(words, dtype=object)
    called = [each for each in given[~pd.isna(given)] if not isinstance(each, (bool, np.bool_))]
    if called or classes.dtype == bool:
        return given
    named = {str(each): each for each in classes.tolist()}
    for yes, no in (("True", "False"), ("1", "0"), ("1.0", "0.0")):
        if set(named) == {yes, no}:
            positive, negative = named[yes], named[no]
    meaning: dict[Any, Any] = {True: positive, False: negative}
    return np.array([meaning.get(each) for each in words], dtype=object)


def check_scores(score: ArrayLike, *, name: str = "y_score") -> np.ndarray:
    """Return scores as float64; a missing one is an error that names its rows."""
    numbers = np.asarray(score, dtype=np.float64)
    rows = np.isnan(numbers if numbers.ndim == 1 else numbers.sum(axis=-1))
    if rows.any():
        first = ", ".join(map(str, np.flatnonzero(rows)[:5]))
        raise ValueError(
            f"{name} is NaN in {int(rows.sum())} of {len(rows)} rows (first: {first}). A row "
            "without a score is on no side of a threshold: leave these rows out of y and the "
            "scores, or read the images that failed."
        )
    return numbers


def check_probabilities(y_proba: ArrayLike, n: int) -> np.ndarray:
    """Return probabilities of one class as float64."""
    proba = check_scores(y_proba, name="y_proba")
    if proba.ndim != 1 or len(proba) != n:
        raise ValueError(
            f"y_proba must have one probability of the positive class for each of {n} rows; got "
            f"shape {proba.shape}. Take the column of that class from predict_proba."
        )
    if len(proba) and (proba.min() < 0 or proba.max() > 1):
        raise ValueError(
            f"Probabilities must lie in [0, 1]; got {proba.min():.3g} to {proba.max():.3g}. If "
            "these are scores of decision_function, calibrate them first, with "
            "sklearn.calibration.CalibratedClassifierCV."
        )
    return proba


def positive_label(y_true: ArrayLike, pos_label: Any = None) -> Any:
    """Return the positive class of two: ``pos_label``, or 1 where the labels leave no doubt."""
    y = check_labels(y_true)
    kind = type_of_target(y, input_name="y_true")
    if kind != "binary":
        raise ValueError(f"y_true must have two classes; got a target of type {kind!r}.")
    classes = np.unique(y)
    if len(classes) < 2 and pos_label is not None:
        return pos_label  # rows of the other class alone
    return positive_class(classes, pos_label)


def binary_labels(y_true: ArrayLike, pos_label: Any = None) -> np.ndarray:
    """Return which rows are of the positive class."""
    y = check_labels(y_true)
    return np.asarray(y == positive_label(y, pos_label))


def binary_scores(
    y_true: ArrayLike,
    y_score: ArrayLike,
    *,
    pos_label: Any = None,
    groups: ArrayLike | None = None,
    name: str = "y_score",
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return which rows are positive, their scores, and their groups numbered from 0.

    There must be rows of both classes, and every row needs a score.
    """
    score = column_or_1d(check_scores(y_score, name=name))
    positive = binary_labels(y_true, pos_label)
    check_consistent_length(positive, score)
    if positive.all() or not positive.any():
        raise ValueError(
            f"Rows of both classes are needed; got {int(positive.sum())} positive and "
            f"{int((~positive).sum())} negative ones."
        )
    return positive, score, group_codes(groups, len(positive))


def group_codes(groups: ArrayLike | None, n: int) -> np.ndarray | None:
    """Return groups numbered from 0."""
    if groups is None:
        return None
    return np.unique(read_groups(groups, n=n), return_inverse=True)[1]


def among(codes: np.ndarray | None, rows: np.ndarray) -> np.ndarray | None:
    """Return the groups of some rows."""
    return None if codes is None else codes[rows]


def group_weights(groups: ArrayLike) -> np.ndarray:
    """Return a weight for each row, so that every group weighs the same."""
    _, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    return 1 / sizes[codes]


def one_vs_rest(
    y_true: ArrayLike, y_score: ArrayLike, labels: ArrayLike | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return which rows are of each class, and their scores, a column for each class.

    ``labels`` are the classes in the order of the columns; None: those of ``y_true``, sorted.
    """
    y = check_labels(y_true)
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
            "There must be at least two classes with rows in y_true; without rows are "
            f"{classes[empty].tolist()} of {classes.tolist()}."
        )
    return positive, score
