"""What the classes of a classifier are called, and which of them is the positive one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline

# Attributes in which an estimator keeps a fitted one.
_FITTED = ("best_estimator_", "estimator_")


def positive_class(
    classes: ArrayLike,
    pos_label: Any = None,
    *,
    names: Mapping[Any, str] | None = None,
    option: str = "pos_label=",
) -> Any:
    """Return the positive class: the one given, by its label or name, or 1 of 0 and 1 or -1 and 1.

    False and True are 0 and 1. Of others the last in sorted order could be either side: not to say
    which is an error, with the ``option`` to type.
    """
    labels = np.asarray(classes).tolist()
    names = names or {}
    if pos_label is not None:
        for label in labels:
            if label == pos_label and isinstance(label, str) == isinstance(pos_label, str):
                return label
        for label in labels:
            if label in names and names[label] == pos_label:
                return label
        listed = ", ".join(class_text(label, names) for label in labels)
        text = f"{option}{pos_label!r} is not one of the classes, which are {listed}."
        if isinstance(pos_label, str) and not any(isinstance(label, str) for label in labels):
            text += " Names of classes that are numbers are not known: give the number."
        raise ValueError(text)
    if labels and (set(labels) <= {0, 1} or set(labels) <= {-1, 1}):
        return type(labels[0])(1)
    if len(labels) > 2:
        listed = ", ".join(class_text(label, names) for label in labels)
        raise ValueError(
            f"There are {len(labels)} classes, {listed}, and this is about one of them against the "
            f"rest: say which with {option}{names.get(labels[0], labels[0])!r} or another."
        )
    listed = " and ".join(class_text(label, names) for label in labels)
    lines = " or ".join(f"{option}{names.get(label, label)!r}" for label in labels)
    raise ValueError(
        f"The classes are {listed}, and nothing says which is the positive one, the finding that "
        f"is looked for. Add {lines}."
    )


def class_text(label: Any, names: Mapping[Any, str] | None = None) -> str:
    """Return a class as messages have it: by its name in quotation marks, else by its label."""
    return repr((names or {}).get(label, label))


def refer_label_of(classes: ArrayLike, given: Any = None) -> Any:
    """Return the label of rows that are referred, which is none of the classes.

    None: "refer" among words; among numbers -1, or where that is a class the next lower number.
    """
    labels = np.asarray(classes)
    if given is None and labels.dtype.kind in "biuf":
        free = (label for label in range(-1, -len(labels) - 2, -1) if label not in labels.tolist())
        return labels.dtype.type(next(free)).item() if labels.dtype.kind == "f" else next(free)
    label = "refer" if given is None else given
    if label != label:
        raise ValueError("refer_label must be equal to itself; NaN is not. Choose another.")
    if any(label == each and isinstance(label, str) == isinstance(each, str) for each in labels):
        raise ValueError(
            f"refer_label={label!r} is one of the classes, which are {labels.tolist()}; rows that "
            "are referred need a label of their own: give another."
        )
    return label


def labels_with_referred(classes: ArrayLike, codes: np.ndarray, refer_label: Any) -> np.ndarray:
    """Return labels of the classes with these numbers, and ``refer_label`` where one is negative.

    Words stay words and numbers numbers (False and True are 0 and 1); both together are objects.
    """
    labels = np.asarray(classes)
    marker = np.asarray(refer_label)
    if (labels.dtype.kind in "biuf") != (marker.dtype.kind in "biuf") or labels.dtype.kind == "O":
        labels, marker = labels.astype(object), marker.astype(object)
    # A number may be outside the type of the classes, and a word longer than theirs.
    return np.append(labels, marker)[codes]


def names_of_model(estimator: Any, classes: ArrayLike | None = None) -> dict[Any, str] | None:
    """Return the names that a model was saved with, by label; None where labels are all there is.

    Those of an estimator inside it count if it has the same classes. ``classes`` are those of a
    model that is not fitted itself.
    """
    labels = np.asarray(estimator.classes_ if classes is None else classes)
    for step in fitted_steps(estimator):
        names = getattr(step, "class_names_", None)
        if names is not None and np.array_equal(np.asarray(step.classes_), labels):
            named = dict(zip(labels.tolist(), names, strict=True))
            return None if all(label == name for label, name in named.items()) else named
    return None


def fitted_steps(estimator: Any) -> Iterator[Any]:
    """Yield an estimator and the fitted ones inside it."""
    if isinstance(estimator, Pipeline):
        for _, step in estimator.steps:
            if isinstance(step, BaseEstimator):
                yield from fitted_steps(step)
        return
    yield estimator
    if isinstance(estimator, FrozenEstimator):  # it answers for the one inside
        yield from fitted_steps(estimator.estimator)
        return
    if hasattr(type(estimator), "_members"):  # a TransferClassifier, whose best one may not be one
        for member in estimator._members:
            yield from fitted_steps(member)
        return
    for name in _FITTED:
        inner = getattr(estimator, name, None)
        if isinstance(inner, BaseEstimator):
            yield from fitted_steps(inner)
            return
    members = getattr(estimator, "calibrated_classifiers_", None)
    if members is not None:
        for member in members:
            yield from fitted_steps(member.estimator)
            yield from member.calibrators
    elif isinstance(getattr(estimator, "estimator", None), BaseEstimator):
        yield from fitted_steps(estimator.estimator)
