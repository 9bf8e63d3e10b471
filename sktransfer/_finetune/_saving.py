"""Fitted estimators as bytes and files that hold what was learned, and no code.

It must not know how anything is trained.
"""

from __future__ import annotations

import json
import os
import pathlib
import warnings
from collections.abc import Mapping, Set
from enum import Enum
from typing import Any

import numpy as np
import torch
from sklearn.frozen import FrozenEstimator
from skorch.history import History
from torch import nn

from sktransfer._backbones import OWN, BackboneReference, OwnNetwork, is_own, load_strict
from sktransfer._base import NO_FAILED_ROWS
from sktransfer._finetune._adapters import merged
from sktransfer._finetune._checkpoint import plain_number
from sktransfer._finetune._network import make_head, whole_backbone
from sktransfer._finetune._parameters import check_parameters
from sktransfer._finetune._targets import Target, read_target
from sktransfer._images import DicomOptions, ImageAugmentation
from sktransfer._moving import arrive, given_places, without_folders
from sktransfer._persistence import (
    SCHEMA,
    PackedWeights,
    found_as_of,
    read_saved,
    seal,
    unseal,
)
from sktransfer._utils.writing import new_file, written_whole
from sktransfer._version import __version__
from sktransfer.exceptions import WeightsMismatchError

# Objects of parameters, whose parameters are written in their place.
OBJECTS: dict[str, Any] = {kind.__name__: kind for kind in (ImageAugmentation, DicomOptions)}
KEYS = {
    *("schema", "sktransfer", "estimator", "params", "classes", "reference", "seed", "history"),
    *("weight_interpolation", "interpolation_losses"),
    *("n_epochs", "best_epoch", "n_features_in", "feature_names_in", "made_with", "found_as"),
    "class_names",
}
_THRESHOLD = "operating_point"  # the key that a file of a classifier with thresholds has besides


def learned_bytes(net: Any) -> bytes:
    """Return what a fitted estimator has learned, sealed together with its classes."""
    if "_module_" not in vars(net):
        return net._learned
    return seal(merged(net._module_), net._target.written())


def packed_weights(net: Any, *, in_file: bool = False) -> PackedWeights | None:
    """Return the weights that a fitted estimator carries along, or None if it is not to.

    A file holds those of the user's own module always; a pickle holds the module.
    """
    own = isinstance(net._found_as, OwnNetwork)
    packed = net._packed
    if packed is None and (net.store_weights or (own and in_file)):  # set after fit
        backbone = whole_backbone(net._found())
        packed = PackedWeights.pack(backbone, net.reference_, net._prefix.cut.packed_depth)
        net._packed = None if own else packed
    return packed if net.store_weights or own else None


def learned_tensors(net: Any) -> dict[str, torch.Tensor]:
    """Return the tensors in the bytes that a fitted estimator came with."""
    source = f"this {type(net).__name__}"
    classes, tensors = unseal(net._learned, source)
    if classes != net._target.written():
        raise WeightsMismatchError(
            f"The classes of {source} are {net._target.classes.tolist()[:5]}, and not those that "
            "its weights were trained for: classes_ was changed, or the pickle was damaged or "
            "edited."
        )
    return tensors


def read_class_names(given: Any, classes: np.ndarray, what: str = "class_names") -> Any:
    """Return names of classes in their order: those given, else the labels if they are text."""
    labels = classes.tolist()
    are_text = all(isinstance(each, str) for each in labels)
    if given is None or (are_text and isinstance(given, list) and given == labels):
        return labels if are_text else None
    if hasattr(given, "to_dict"):  # a Series, whose index may be the labels in another order
        given = given.to_dict()
    if isinstance(given, Mapping) and set(given) == set(labels):
        given = [given[label] for label in labels]
    problem = ""
    if isinstance(given, (Mapping, str, bytes, Set)) or not hasattr(given, "__len__"):
        problem = "must be a list in the order of the classes, or a mapping with a name for each"
    elif len(given) != len(labels) or len(set(given)) < len(given):
        problem = "must be a different name for each class"
    elif not all(isinstance(name, str) and name.strip() for name in given):
        problem = "must be text"
    elif are_text and any(name in labels and labels[i] != name for i, name in enumerate(given)):
        problem = "must not call one class by the label of another"
    if problem:
        raise ValueError(f"{what} {problem}; the classes are {labels}, got {given!r}.")
    return [str(name) for name in given]


def save_estimator(
    net: Any,
    path: str | os.PathLike[str],
    class_names: Any,
    operating_point: dict[str, Any] | None = None,
    *,
    store_weights: bool = False,
) -> None:
    """Write a fitted estimator, and a threshold for it; see ``FineTuneClassifier.save``."""
    header, tensors = written(net, class_names, store_weights=store_weights)
    write_sealed(path, header, tensors, operating_point)


def write_sealed(
    path: str | os.PathLike[str],
    header: dict[str, Any],
    tensors: dict[str, torch.Tensor],
    operating_point: dict[str, Any] | None,
) -> None:
    """Write the file of an estimator, or none if that fails, with a threshold if there is one."""
    if operating_point is not None:
        header[_THRESHOLD] = operating_point
    data = seal(tensors, header)
    with written_whole(new_file(path, "path", "model.safetensors")) as temporary:
        temporary.write_bytes(data)


def written(
    net: Any, class_names: Any, *, store_weights: bool = False
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return the header and the tensors of a fitted estimator's file."""
    if store_weights and not net.store_weights:
        net.store_weights = True
        try:
            return written(net, class_names)
        finally:
            net.store_weights = False
    params = {
        name: encode(value, name)
        for name, value in without_folders(net.get_params(deep=False)).items()
        if name != "callbacks" or value is not None
    }
    header = {
        **common_header(net, params, class_names),
        "made_with": {n: encode(value, n) for n, value in without_folders(net._made_with).items()},
        "found_as": written_found_as(net._found_as),
        "reference": vars(net.reference_),
        "seed": net._seed,
        "history": json.loads(json.dumps(list(net.history), default=plain_number)),
        "n_epochs": net.n_epochs_,
        "best_epoch": net.best_epoch_,
        "weight_interpolation": net.weight_interpolation_,
        "interpolation_losses": encode(net.interpolation_losses_, "interpolation_losses_"),
    }
    tensors = merged(net._module_) if "_module_" in vars(net) else learned_tensors(net)
    packed = packed_weights(net, in_file=True)
    if packed is not None:
        tensors = tensors | packed.tensors
        header["packed"] = packed.depth
    return header, tensors


def common_header(clf: Any, params: dict[str, Any], class_names: Any) -> dict[str, Any]:
    """Return what the file of any fitted classifier says of it."""
    classes = clf._target.classes
    try:
        read_target(clf._target.written())
    except ValueError as error:
        raise ValueError(
            f"Class labels of dtype {classes.dtype} cannot be written as JSON; train on "
            "y.astype(str), say, or pickle the estimator."
        ) from error
    names = getattr(clf, "feature_names_in_", None)
    return {
        "schema": SCHEMA,
        "sktransfer": __version__,
        "estimator": type(clf).__name__,
        "params": params,
        "classes": clf._target.written(),
        "class_names": read_class_names(
            clf.class_names_ if class_names is None else class_names, classes
        ),
        "n_features_in": getattr(clf, "n_features_in_", None),
        "feature_names_in": None if names is None else list(names),
    }


def written_found_as(found: Any) -> Any:
    if isinstance(found, OwnNetwork):
        return {OWN: type(found.module).__name__}
    return vars(found) if isinstance(found, BackboneReference) else str(found)


def load_estimator(
    cls: Any, path: str | os.PathLike[str], params: dict[str, Any]
) -> tuple[Any, dict[str, Any] | None]:
    """Read a fitted estimator, and the threshold that was saved with it, if there is one."""
    own = {name: value for name, value in params.items() if name != "weights"}
    check_parameters(cls(**own))  # before the file is held to be at fault
    header, tensors, operating_point = read_file(cls, path, keys=KEYS)
    weights = params.get("weights")  # where they are, and no parameter
    net = restored(cls, header, tensors, path, own)
    net._places = (*given_places(weights, net), pathlib.Path(path).absolute().parent)
    if arrive(net) is not None or "backbone" in params:
        net._found().load()  # by a download, or an error that says what is missing
    return net, operating_point


def reader_of(record: Any) -> str:
    """Return the class that wrote a file with this record of a threshold, and reads it."""
    # Files of the first of these classes do not name it.
    usual = "OperatingPointClassifier"
    return str(record.get("kind", usual)) if isinstance(record, dict) else usual


def without_threshold(clf: Any, path: str | os.PathLike[str], operating_point: Any) -> Any:
    """Return a loaded classifier, and warn of a threshold that it does not use."""
    if operating_point is not None:
        warnings.warn(
            f"{path} was saved with a decision threshold, which a {type(clf).__name__} does not "
            "use: it predicts the likeliest class. "
            f"sktransfer.model_selection.{reader_of(operating_point)}.load keeps the threshold.",
            stacklevel=3,
        )
    return clf


def read_file(
    cls: Any, path: str | os.PathLike[str], *, keys: Set[str]
) -> tuple[dict[str, Any], dict[str, torch.Tensor], dict[str, Any] | None]:
    """Read header, tensors and threshold of a file of ``cls``; raise if it is no such file."""
    header, tensors = read_saved(path)
    kind = header["estimator"]
    if kind != cls.__name__:
        readers = "sktransfer.model_selection.OperatingPointClassifier.load reads every classifier."
        if kind == "FineTuneRegressor":
            readers = (
                "sktransfer.FineTuneRegressor.load reads it. It predicts numbers: thresholds, "
                "reports and the command line are of classes."
            )
        raise ValueError(f"{path} holds no saved {cls.__name__}, but a saved {kind}. {readers}")
    operating_point = header.pop(_THRESHOLD, None)
    if set(header) - {"packed"} != keys:
        raise ValueError(
            f"{path} was written by sktransfer {header.get('sktransfer')}, with keys that this "
            f"version {__version__} does not know, or without some that it needs: "
            f"{', '.join(sorted(set(header) ^ keys))}. Load it with that version."
        )
    return header, tensors, operating_point


def restored(
    cls: Any,
    header: dict[str, Any],
    tensors: dict[str, torch.Tensor],
    path: str | os.PathLike[str],
    params: dict[str, Any],
) -> Any:
    """Return the estimator that :func:`written` has written, its network not found yet."""
    backbone = params.get("backbone")
    before = header["found_as"]
    given = is_own(backbone) and isinstance(before, dict) and OWN in before
    found_as: Any = None if given else found_as_of(params.get("backbone", before))
    try:
        net = _unpacked(cls, header, params)
        if given:
            net._made_with["backbone"] = backbone
            found_as = OwnNetwork(backbone, net._made_with["image_size"], net.reference_.weights)
        net._found_as = found_as
        net._packed = PackedWeights.of_file(header, tensors)
        _check_head(net, tensors, path)
    except WeightsMismatchError:
        raise
    except (TypeError, KeyError, AttributeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{path} holds something that sktransfer {__version__} cannot make an estimator "
            f"of: {error}"
        ) from error
    net._learned = seal(tensors, net._target.written())
    net._failed_rows = NO_FAILED_ROWS
    net.initialized_ = True
    return net


def _unpacked(cls: Any, header: dict[str, Any], params: dict[str, Any]) -> Any:
    """Make an estimator of the parameters and the learned facts in a file's header."""
    # Earlier versions wrote folders.
    params = {**without_folders({n: decode(v) for n, v in header["params"].items()}), **params}
    check_parameters(cls(**params))
    net = cls(**params)
    net._made_with = {name: decode(value) for name, value in header["made_with"].items()}
    net._target, net._class_names = read_common(net, header)
    net.reference_ = BackboneReference(**header["reference"])
    net.history_ = History(header["history"])
    net._seed, net.n_epochs_, net.best_epoch_, net.weight_interpolation_ = (
        header[name] for name in ("seed", "n_epochs", "best_epoch", "weight_interpolation")
    )
    net.interpolation_losses_ = decode(header["interpolation_losses"])
    return net


def read_common(clf: Any, header: dict[str, Any]) -> tuple[Target, list[str] | None]:
    """Return the target and names of its classes from a header; set the columns of ``X``."""
    if header["n_features_in"] is not None:
        clf.n_features_in_ = header["n_features_in"]
    if header["feature_names_in"] is not None:
        clf.feature_names_in_ = np.asarray(header["feature_names_in"], dtype=object)
    target = read_target(header["classes"])
    return target, read_class_names(header["class_names"], target.classes)


def _check_head(net: Any, tensors: Mapping[str, torch.Tensor], path: Any) -> None:
    """Raise where the head is not one for the classes."""
    head = {name: tensor for name, tensor in tensors.items() if name.startswith("head.")}
    widths = {int(name.split(".")[1]): t.shape[1] for name, t in head.items() if t.ndim == 2}
    if not widths:
        raise ValueError("there is no head among its tensors.")
    made, n_features = net._made_with, widths[min(widths)]
    of_head = (made["head__dropout"], 0, net._target.link())
    own = make_head(made["head"], n_features, net._target.width, *of_head)
    load_strict(nn.ModuleDict({"head": own}), head, source=path)


def encode(value: Any, name: str, kinds: Mapping[str, Any] = OBJECTS) -> Any:
    """Return a parameter as JSON has it; raise a ValueError if it is code.

    Objects of ``kinds`` are written by their parameters.
    """
    if name == "backbone" and is_own(value):  # it has to be given again
        return type(value).__name__
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (pathlib.PurePath, torch.device)):
        return str(value)
    if isinstance(value, Enum):
        return value.name
    if type(value) in kinds.values():  # a subclass may do something else
        params = without_folders(value.get_params(deep=False))
        inner = {k: encode(v, k, kinds) for k, v in params.items()}
        return {"type": type(value).__name__, "items": inner}
    if isinstance(value, (list, tuple, set, frozenset)):
        kind = type(value).__name__
        return {"type": kind, "items": [encode(each, name, kinds) for each in value]}
    if isinstance(value, dict):
        pairs = [[encode(k, name, kinds), encode(v, name, kinds)] for k, v in value.items()]
        return {"type": "dict", "items": pairs}
    if isinstance(value, np.ndarray):
        return encode(value.tolist(), name, kinds)
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


def decode(value: Any, kinds: Mapping[str, Any] = OBJECTS) -> Any:
    """Return the parameter of :func:`encode`."""
    if not isinstance(value, dict):
        return value
    kind, items = value["type"], value["items"]
    if kind in kinds:
        return kinds[kind](**{name: decode(each, kinds) for name, each in items.items()})
    if kind == "dict":
        return {decode(k, kinds): decode(v, kinds) for k, v in items}
    plain = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
    return plain[kind](decode(each, kinds) for each in items)
