"""Thresholds in the file of the network that they are for, as JSON; reading it runs no code."""

from __future__ import annotations

import os
from dataclasses import fields
from typing import Any

import numpy as np
from sklearn.frozen import FrozenEstimator

from sktransfer._finetune import FineTuneClassifier
from sktransfer._finetune._saving import load_estimator, reader_of, save_estimator
from sktransfer._persistence import read_saved
from sktransfer._transfer import TransferClassifier
from sktransfer._transfer._saving import load_classifier, save_classifier
from sktransfer._version import __version__
from sktransfer.metrics._labels import Interval
from sktransfer.metrics._operating_point import OperatingPoint

# Parameters that say what the threshold is for; `estimator`, `cv` and `n_jobs` found it.
_PARAMETERS = (
    *("constraint", "target_level", "cost_matrix", "confidence_level", "unattainable"),
    *("response_method", "simultaneous"),
)


def save_with_threshold(
    clf: Any, path: str | os.PathLike[str], class_names: Any, *, store_weights: bool = False
) -> None:
    """Write a fitted classifier whose ``_record`` tells of its thresholds; see its ``save``."""
    frozen = isinstance(clf.estimator_, FrozenEstimator)
    net = clf.estimator_.estimator if frozen else clf.estimator_
    if not isinstance(net, (FineTuneClassifier, TransferClassifier)):
        raise TypeError(
            "save writes the threshold of a TransferClassifier or a FineTuneClassifier, and this "
            f"one is of a {type(net).__name__}. FineTuneClassifier(freeze_depth='all') is a frozen "
            "network with a logistic regression; anything else can be pickled (joblib.dump), which "
            "runs code when it is loaded."
        )
    write = save_classifier if isinstance(net, TransferClassifier) else save_estimator
    write(net, path, class_names, clf._record(net), store_weights=store_weights)


def load_with_threshold(
    classes: tuple[Any, ...], path: str | os.PathLike[str], params: dict[str, Any]
) -> Any:
    """Return what a file holds: one of the ``classes`` with its network, or the network alone."""
    kind = read_saved(path)[0]["estimator"]
    if kind == TransferClassifier.__name__:
        net, record = load_classifier(TransferClassifier, path, params)
    else:
        net, record = load_estimator(FineTuneClassifier, path, params)
    if record is None:
        return net
    cls = next((each for each in classes if each._kind == reader_of(record)), None)
    if cls is None:
        raise ValueError(
            f"{path} holds thresholds of another kind: {reader_of(record)}.load reads it."
        )
    try:
        clf = cls(FrozenEstimator(net), cv="prefit", **record["params"])
        clf._validate_params()
        clf.estimator_ = clf.estimator
        clf._restore(net, record)
    except (TypeError, KeyError, AttributeError, ValueError, IndexError) as error:
        raise ValueError(
            f"{path} holds a threshold that sktransfer {__version__} cannot use: {error}"
        ) from error
    for name in ("n_features_in_", "feature_names_in_"):
        if hasattr(net, name):
            setattr(clf, name, getattr(net, name))
    return clf


def plain_params(clf: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Return parameters as JSON has them."""
    params = {name: getattr(clf, name) for name in names}
    if params["cost_matrix"] is not None:
        params["cost_matrix"] = np.asarray(params["cost_matrix"], dtype=float).tolist()
    return {
        name: float(value) if isinstance(value, (np.integer, np.floating)) else value
        for name, value in params.items()
    }


def record_of_point(clf: Any, net: Any) -> dict[str, Any]:
    """Return what a file says of a threshold, or of those of several labels a row."""
    record = {"params": plain_params(clf, _PARAMETERS)}
    if isinstance(clf.operating_point_, dict):
        points = [_plain_point(point) for point in clf.operating_point_.values()]
        return {**record, "threshold": clf.threshold_.tolist(), "operating_point": points}
    return {
        **record,
        "threshold": float(clf.threshold_),
        "positive": int(np.flatnonzero(net.classes_ == clf.pos_label_)[0]),
        "operating_point": _plain_point(clf.operating_point_),
    }


def restore_point(clf: Any, net: Any, record: dict[str, Any]) -> None:
    """Give a classifier the threshold of a file, or those of several labels a row."""
    points = record["operating_point"]
    if isinstance(points, list):
        clf.label_names_ = net.classes_
        clf.threshold_ = np.array(record["threshold"], dtype=float)
        named = zip(net.classes_.tolist(), points, clf.threshold_, strict=True)
        clf.operating_point_ = {name: _point(point, name) for name, point, _ in named}
        return
    clf.threshold_ = float(record["threshold"])
    clf.pos_label = clf.pos_label_ = net.classes_.tolist()[record["positive"]]
    clf.operating_point_ = _point(points, clf.pos_label_)


def _plain_point(point: OperatingPoint) -> dict[str, Any]:
    names = [each.name for each in fields(OperatingPoint) if each.name != "pos_label"]
    return {name: getattr(point, name) for name in names}


def _point(plain: dict[str, Any], pos_label: Any) -> OperatingPoint:
    values: dict[str, Any] = {
        name: Interval(*value) if isinstance(value, list) else value
        for name, value in plain.items()
    }
    return OperatingPoint(**values, pos_label=pos_label)
