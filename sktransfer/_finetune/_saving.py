"""Fitted estimators as bytes and files that hold what was learned, and no code.

It must not know how anything is trained.
"""

from __future__ import annotations

import json
import os
import pathlib
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from sklearn.frozen import FrozenEstimator
from skorch.history import History

from sktransfer._backbones import BackboneReference
from sktransfer._base import NO_FAILED_ROWS
from sktransfer._finetune._checkpoint import plain_number
from sktransfer._finetune._parameters import check_parameters
from sktransfer._images import DicomOptions, ImageAugmentation
from sktransfer._persistence import SCHEMA, next_to, read_saved
from sktransfer._version import __version__

# Objects of parameters, whose parameters are written in their place.
_OBJECTS: dict[str, Any] = {kind.__name__: kind for kind in (ImageAugmentation, DicomOptions)}
_KEYS = {
    *("schema", "sktransfer", "estimator", "params", "classes", "reference", "seed", "history"),
    *("n_epochs", "best_epoch", "n_features_in", "feature_names_in", "made_with", "found_as"),
}


def learned_bytes(net: Any) -> bytes:
    """Return what a fitted estimator has learned, as a safetensors file holds it."""
    if "_module_" not in vars(net):
        return net._learned
    return safetensors.torch.save(net._module_.saved())


def save_estimator(net: Any, path: str | os.PathLike[str]) -> None:
    """Write a fitted estimator; see ``FineTuneClassifier.save``."""
    params = {
        name: _encode(value, name)
        for name, value in net.get_params(deep=False).items()
        if name != "callbacks" or value is not None
    }
    if net._classes.dtype.kind not in "biufUSO":
        raise ValueError(
            f"Class labels of dtype {net._classes.dtype} cannot be written as JSON; train on "
            "y.astype(str), say, or pickle the estimator."
        )
    names = getattr(net, "feature_names_in_", None)
    header = {
        "schema": SCHEMA,
        "sktransfer": __version__,
        "estimator": type(net).__name__,
        "params": params,
        "made_with": {name: _encode(value, name) for name, value in net._made_with.items()},
        "found_as": _encode(net._found_as, "backbone"),
        "classes": {"dtype": net._classes.dtype.str, "values": net._classes.tolist()},
        "reference": vars(net.reference_),
        "seed": net._seed,
        "history": list(net.history),
        "n_epochs": net.n_epochs_,
        "best_epoch": net.best_epoch_,
        "n_features_in": getattr(net, "n_features_in_", None),
        "feature_names_in": None if names is None else list(names),
    }
    tensors = safetensors.torch.load(learned_bytes(net))
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        metadata = {"sktransfer": json.dumps(header, default=plain_number)}
        safetensors.torch.save_file(tensors, temporary, metadata)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_estimator(cls: Any, path: str | os.PathLike[str], params: dict[str, Any]) -> Any:
    """Read a fitted estimator; see ``FineTuneClassifier.load``."""
    header, tensors = read_saved(path)
    if header.get("estimator") != cls.__name__:
        raise ValueError(f"{path} holds no saved {cls.__name__}.")
    if set(header) != _KEYS:
        raise ValueError(
            f"{path} was written by sktransfer {header.get('sktransfer')}, with keys that this "
            f"version {__version__} does not know, or without some that it needs: "
            f"{', '.join(sorted(set(header) ^ _KEYS))}. Load it with that version."
        )
    try:
        net = _restored(cls, header, params)
        net._found_as = next_to(path, header["found_as"])
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{path} holds something that sktransfer {__version__} cannot make an estimator "
            f"of: {error}"
        ) from error
    if header["n_features_in"] is not None:
        net.n_features_in_ = header["n_features_in"]
    if header["feature_names_in"] is not None:
        net.feature_names_in_ = np.asarray(header["feature_names_in"], dtype=object)
    net._learned = safetensors.torch.save(tensors)
    net._packed = None
    net._failed_rows = NO_FAILED_ROWS
    net.initialized_ = True
    return net


def _restored(cls: Any, header: dict[str, Any], params: dict[str, Any]) -> Any:
    """Make an estimator of the parameters and the learned facts in a file's header."""
    decoded = {name: _decode(value) for name, value in header["params"].items()}
    missing = set(cls().get_params(deep=False)) - set(decoded) - {"callbacks"}
    if missing:
        raise ValueError(f"the parameters {', '.join(sorted(missing))} are missing.")
    net = cls(**{**decoded, **params})
    check_parameters(net)
    labels = header["classes"]
    net._classes = np.asarray(labels["values"], dtype=np.dtype(labels["dtype"]))
    net.reference_ = BackboneReference(**header["reference"])
    net._made_with = {name: _decode(value) for name, value in header["made_with"].items()}
    net._seed = int(header["seed"])
    net.history_ = History(header["history"])
    net.n_epochs_, net.best_epoch_ = header["n_epochs"], header["best_epoch"]
    return net


def _encode(value: Any, name: str) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (pathlib.PurePath, torch.device)):
        return str(value)
    if isinstance(value, Enum):
        return value.name
    if type(value) in _OBJECTS.values():  # a subclass may do something else
        inner = {k: _encode(v, f"{name}__{k}") for k, v in value.get_params().items()}
        return {"type": type(value).__name__, "items": inner}
    if isinstance(value, (list, tuple, set, frozenset)):
        kind = type(value).__name__
        return {"type": kind, "items": [_encode(each, name) for each in value]}
    if isinstance(value, dict):
        pairs = [[_encode(k, name), _encode(v, name)] for k, v in value.items()]
        return {"type": "dict", "items": pairs}
    if isinstance(value, np.ndarray):
        return _encode(value.tolist(), name)
    if isinstance(value, FrozenEstimator):
        raise ValueError(
            f"{name} is a fitted estimator, which this file cannot hold: save that one to a file "
            "of its own, give the file's path as backbone, and fit again."
        )
    raise ValueError(
        f"{name}={value!r} is code, which a file of save cannot hold. Pickle the estimator "
        "(loading a pickle runs code, so only load what you trust), or set the parameter to "
        "something that has a name."
    )


def _decode(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    kind, items = value["type"], value["items"]
    if kind in _OBJECTS:
        return _OBJECTS[kind](**{name: _decode(each) for name, each in items.items()})
    if kind == "dict":
        return {_decode(k): _decode(v) for k, v in items}
    kinds = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
    return kinds[kind](_decode(each) for each in items)
