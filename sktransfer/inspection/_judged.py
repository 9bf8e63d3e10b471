"""What a classifier called each row, and how sure it was; it must not know images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils.multiclass import unique_labels
from sklearn.utils.validation import check_consistent_length, column_or_1d

from sktransfer.metrics._labels import check_scores

_METHODS = ("predict_proba", "decision_function")


@dataclass(frozen=True)
class Judged:
    """Rows with what is true of them and what was said.

    Attributes
    ----------
    y_true, y_pred : ndarray of shape (n,)
    confidence : ndarray of float64, shape (n,)
        The score of the class that was predicted.
    classes : ndarray of shape (n_classes,)
    """

    y_true: np.ndarray
    y_pred: np.ndarray
    confidence: np.ndarray
    classes: np.ndarray

    @property
    def wrong(self) -> np.ndarray:
        """Which rows were predicted wrongly, as a mask."""
        return np.asarray(self.y_true != self.y_pred)


def judged_by(estimator: Any, X: Any, y: Any, response_method: str = "auto") -> Judged:
    """Rows as a fitted classifier judges them.

    Parameters
    ----------
    estimator : estimator instance
        What it predicts need not be the class with the highest score: it may have a threshold.
    X, y
        Rows and true labels.
    response_method : {"auto", "predict_proba", "decision_function"}, default="auto"
        Where confidence comes from. "auto": the first of the two that there is.

    Raises
    ------
    TypeError
        If there are no scores.
    """
    if response_method not in ("auto", *_METHODS):
        raise ValueError(
            f"response_method must be 'auto' or one of {_METHODS}; got {response_method!r}."
        )
    wanted = _METHODS if response_method == "auto" else (response_method,)
    method = next((each for each in wanted if hasattr(estimator, each)), None)
    if method is None or not hasattr(estimator, "classes_"):
        raise TypeError(
            f"estimator: a fitted classifier with {' or '.join(wanted)} is needed, as confidence "
            f"is a score; got {type(estimator).__name__}."
        )
    score = np.asarray(getattr(estimator, method)(X), dtype=np.float64)
    if score.ndim == 1:
        # Such as of a margin, whatever range its values happen to have.
        score = np.stack([-score, score], axis=1)
    return judged(y, score, y_pred=estimator.predict(X), labels=estimator.classes_)


def judged(y_true: Any, y_score: Any, *, y_pred: Any = None, labels: Any = None) -> Judged:
    """Rows from their labels and scores.

    Parameters
    ----------
    y_true : array-like of shape (n,)
    y_score : array-like of shape (n,) or (n, n_classes)
        A column for each class; or, of two classes, scores of the second: probabilities if all
        lie between 0 and 1, otherwise on either side of 0.
    y_pred : array-like of shape (n,) or None, default=None
        None: the class with the highest score.
    labels : array-like of shape (n_classes,) or None, default=None
        The classes, in the order of the columns. None: those in ``y_true``, sorted.

    Raises
    ------
    ValueError
        If lengths differ, columns and classes do not match, a score is NaN, or a predicted class
        is none of them.
    """
    truth = column_or_1d(y_true, warn=True)
    score = check_scores(y_score)
    check_consistent_length(truth, score, y_pred)
    classes = unique_labels(truth) if labels is None else np.asarray(labels)
    if score.ndim == 1:
        probabilities = len(score) > 0 and score.min() >= 0 and score.max() <= 1
        score = np.stack([1 - score if probabilities else -score, score], axis=1)
    if score.ndim != 2 or score.shape[1] != len(classes):
        raise ValueError(
            f"y_score has {score.shape[1]} columns, or one for two classes, and there are "
            f"{len(classes)} classes: {', '.join(map(str, classes[:10]))}. Give labels, one for "
            "each column."
        )
    if y_pred is None:
        places = score.argmax(axis=1)
        called = classes[places]
    else:
        called = column_or_1d(y_pred, warn=True)
        order = np.argsort(classes)
        places = order[np.searchsorted(classes[order], called).clip(0, len(classes) - 1)]
        unknown = classes[places] != called
        if unknown.any():
            raise ValueError(
                f"y_pred has {called[unknown].tolist()[0]!r}, which is none of the classes "
                f"{', '.join(map(str, classes[:10]))}; give labels."
            )
    return Judged(truth, called, score[np.arange(len(score)), places], classes)


def class_names(classes: np.ndarray, display_labels: Any = None) -> dict[Any, str]:
    """What each class is called in an image."""
    names = classes if display_labels is None else list(display_labels)
    if len(names) != len(classes):
        raise ValueError(
            f"display_labels: {len(classes)} names are needed, one for each of "
            f"{', '.join(map(str, classes[:10]))}; got {len(names)}."
        )
    return dict(zip(classes.tolist(), map(str, names), strict=True))


def confidence_text(value: float) -> str:
    """Two decimals; never 1.00 for what is less."""
    text = f"{value:.2f}"
    return ">0.99" if text == "1.00" and value < 1 else text
