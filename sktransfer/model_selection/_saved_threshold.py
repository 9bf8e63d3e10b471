"""A threshold in the file of the network that it is for, as JSON; reading it runs no code."""

from __future__ import annotations

import os
from dataclasses import fields
from typing import Any

import numpy as np
from sklearn.frozen import FrozenEstimator

from sktransfer._finetune import FineTuneClassifier
from sktransfer._finetune._saving import load_estimator, save_estimator
from sktransfer._persistence import read_saved
from sktransfer._transfer import TransferClassifier
from sktransfer._transfer._saving import load_classifier, save_classifier
from sktransfer._version import __version__
from sktransfer.metrics._labels import Interval
from sktransfer.metrics._operating_point import OperatingPoint

# Parameters that say what the threshold is for; `estimator`, `cv` and `n_jobs` found it.
_PARAMETERS = (
    *("constraint", "target_level", "cost_matrix", "confidence_level", "unattainable"),
    "response_method",
)


def save_with_threshold(
    clf: Any, path: str | os.PathLike[str], class_names: Any, *, store_weights: bool = False
) -> None:
    """Write a fitted OperatingPointClassifier; see its ``save``."""
    frozen = isinstance(clf.estimator_, FrozenEstimator)
    net = clf.estimator_.estimator if frozen else clf.estimator_
    if not isinstance(net, (FineTuneClassifier, TransferClassifier)):
        raise TypeError(
            "save writes the threshold of a TransferClassifier or a FineTuneClassifier, and this "
            f"one is of a {type(net).__name__}. FineTuneClassifier(freeze_depth='all') is a frozen "
            "network with a logistic regression; anything else can be pickled (joblib.dump), which "
            "runs code when it is loaded."
        )
    params = {name: getattr(clf, name) for name in _PARAMETERS}
    if params["cost_matrix"] is not None:
        params["cost_matrix"] = np.asarray(params["cost_matrix"], dtype=float).tolist()
    for name in ("target_level", "confidence_level"):
        params[name] = None if params[name] is None else float(params[name])
    point = {each.name: getattr(clf.operating_point_, each.name) for each in fields(OperatingPoint)}
    del point["pos_label"]
    record = {
        "params": params,
        "threshold": float(clf.threshold_),
        "positive": int(np.flatnonzero(net.classes_ == clf.pos_label_)[0]),
        "operating_point": point,
    }
    write = save_classifier if isinstance(net, TransferClassifier) else save_estimator
    write(net, path, class_names, record, store_weights=store_weights)


def load_with_threshold(cls: Any, path: str | os.PathLike[str], params: dict[str, Any]) -> Any:
    """Return what a file holds: a ``cls`` with its network, or the network alone."""
    kind = read_saved(path)[0]["estimator"]
    if kind == TransferClassifier.__name__:
        net, record = load_classifier(TransferClassifier, path, params)
    else:
        net, record = load_estimator(FineTuneClassifier, path, params)
    if record is None:
        return net
    try:
        clf = cls(FrozenEstimator(net), cv="prefit", **record["params"])
        clf._validate_params()
        clf.estimator_ = clf.estimator
        clf.threshold_ = float(record["threshold"])
        clf.pos_label = clf.pos_label_ = net.classes_.tolist()[record["positive"]]
        point: dict[str, Any] = {
            name: Interval(*value) if isinstance(value, list) else value
            for name, value in record["operating_point"].items()
        }
        clf.operating_point_ = OperatingPoint(**point, pos_label=clf.pos_label_)
    except (TypeError, KeyError, AttributeError, ValueError, IndexError) as error:
        raise ValueError(
            f"{path} holds a threshold that sktransfer {__version__} cannot use: {error}"
        ) from error
    for name in ("n_features_in_", "feature_names_in_"):
        if hasattr(net, name):
            setattr(clf, name, getattr(net, name))
    return clf
