"""Pickles that carry what was learned and nothing else, and files without code in them.

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
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted
from skorch.history import History

from sktransfer._backbones import Backbone, BackboneReference, architecture
from sktransfer._base import failed_rows_frame
from sktransfer._finetune._checkpoint import plain_number
from sktransfer._finetune._network import Suffix
from sktransfer._finetune._parts import Parts, whole_backbone
from sktransfer._images import DicomOptions, ImageAugmentation
from sktransfer._persistence import SCHEMA, next_to, read_saved, tuned_backbone
from sktransfer._version import __version__

_PARTS = ("_prefix_", "_module_", "optimizer_", "criterion_", "callbacks_", "_order", "_scaler")
# Objects of parameters, whose parameters are written in their place.
_OBJECTS: dict[str, Any] = {kind.__name__: kind for kind in (ImageAugmentation, DicomOptions)}


class Saving(Parts):
    """Mixin: ``pickle``, :meth:`save` and :meth:`load`."""

    device: Any

    def __getstate__(self) -> dict[str, Any]:
        state = dict(BaseEstimator.__getstate__(self))
        if self.initialized_:
            # As bytes of a safetensors file: reading them runs no code.
            state["_learned"] = self._learned_bytes()
            state["_failed_rows"] = failed_rows_frame([])  # file names may be patients' names
        for name in (*_PARTS, "virtual_params_", "init_context_"):
            state.pop(name, None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        BaseEstimator.__setstate__(self, state)

    def _learned_bytes(self) -> bytes:
        if "_module_" not in vars(self):
            return self._learned
        return safetensors.torch.save(self._module_.saved())

    def _rebuilt(self) -> Suffix:
        """The trained part again: architecture, what was published, what was learned."""
        if self._prefix.cut.surgical:
            backbone = whole_backbone(self._found())
        else:
            backbone = architecture(self.reference_.name, weights=self.reference_.weights)
        module = self._suffix(backbone)
        module.restore(safetensors.torch.load(self._learned))
        return module.to(self.device_).eval()

    def to_backbone(self) -> Backbone:
        """The network as it was fine-tuned, without its head, for another estimator to start from.

        Returns
        -------
        Backbone
        """
        check_is_fitted(self)
        base = whole_backbone(self._found())
        return tuned_backbone(base, self.reference_, self.module_.saved())

    def _ready_again(self) -> None:
        """What training needs, as parameters are now; moments of the same optimizer stay."""
        before = vars(self).get("optimizer_")
        self._initialize_virtual_params()
        self._initialize_callbacks()
        self.initialize_criterion()
        self.initialize_optimizer()
        if type(before) is type(self.optimizer_):
            self.optimizer_.state.update(before.state)

    def load_params(self, *args: Any, **kwargs: Any) -> None:
        """As skorch's: what ``save_params`` wrote, into a net that is initialized."""
        with self._as_torch_says():
            super().load_params(*args, **kwargs)

    # --- files -----------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write parameters and what was learned, as JSON inside a safetensors file.

        Parameters
        ----------
        path : path-like
            The file; ``.safetensors`` is customary. No image's name or pixels are in it.

        Raises
        ------
        ValueError
            If a parameter is code (a callable, a class, callbacks), which such a file cannot hold;
            the message names it.
        """
        check_is_fitted(self)
        params = {
            name: _encode(value, name)
            for name, value in self.get_params(deep=False).items()
            if name != "callbacks" or value is not None
        }
        if self._classes.dtype.kind not in "biufUSO":
            raise ValueError(
                f"Class labels of dtype {self._classes.dtype} have no form in JSON; train on "
                "y.astype(str), say, or pickle the estimator."
            )
        made_with = {name: _encode(value, name) for name, value in self._made_with.items()}
        header = {
            "schema": SCHEMA,
            "sktransfer": __version__,
            "estimator": type(self).__name__,
            "params": params,
            "made_with": made_with,
            "found_as": _encode(self._found_as, "backbone"),
            "classes": {"dtype": self._classes.dtype.str, "values": self._classes.tolist()},
            "reference": vars(self.reference_),
            "seed": self._seed,
            "history": list(self.history),
            "n_epochs": self.n_epochs_,
            "best_epoch": self.best_epoch_,
            "n_features_in": getattr(self, "n_features_in_", None),
            "feature_names_in": _names(self),
        }
        tensors = safetensors.torch.load(self._learned_bytes())
        path = Path(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            safetensors.torch.save_file(
                tensors, temporary, {"sktransfer": json.dumps(header, default=plain_number)}
            )
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str], **params: Any) -> Any:
        """Read what :meth:`save` wrote; no code is run.

        Parameters
        ----------
        path : path-like
        **params : dict
            Parameters to take instead of those in the file (``device="cpu"``, say).

        Returns
        -------
        FineTuneClassifier
            Fitted. The pretrained part is found by its digest when it is first needed.

        Raises
        ------
        ValueError
            If it is another kind of file, or of a later version.
        """
        header, tensors = read_saved(path)
        known = {
            *("schema", "sktransfer", "estimator", "params", "classes", "reference", "seed"),
            *("history", "n_epochs", "best_epoch", "n_features_in", "feature_names_in"),
            *("made_with", "found_as"),
        }
        if header.get("estimator") != cls.__name__:
            raise ValueError(f"{path} holds no saved {cls.__name__}.")
        if set(header) != known:
            raise ValueError(
                f"{path} was written by sktransfer {header.get('sktransfer')}, with keys that this "
                f"version {__version__} does not know, or without some that it needs: "
                f"{', '.join(sorted(set(header) ^ known))}."
            )
        try:
            made = _restored(cls, header, params)
            made._found_as = next_to(path, header["found_as"])
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise ValueError(
                f"{path} holds something that sktransfer {__version__} cannot make an estimator "
                f"of: {error}"
            ) from error
        if header["n_features_in"] is not None:
            made.n_features_in_ = header["n_features_in"]
        if header["feature_names_in"] is not None:
            made.feature_names_in_ = np.asarray(header["feature_names_in"], dtype=object)
        made._learned = safetensors.torch.save(tensors)
        made._packed = None
        made._failed_rows = failed_rows_frame([])
        made.initialized_ = True
        return made


def _restored(cls: Any, header: dict[str, Any], params: dict[str, Any]) -> Any:
    """An estimator of the parameters and the learned facts in a file's header."""
    decoded = {name: _decode(value) for name, value in header["params"].items()}
    missing = set(cls().get_params(deep=False)) - set(decoded) - {"callbacks"}
    if missing:
        raise ValueError(f"the parameters {', '.join(sorted(missing))} are missing.")
    made = cls(**{**decoded, **params})
    made._check_parameters()
    labels = header["classes"]
    made._classes = np.asarray(labels["values"], dtype=np.dtype(labels["dtype"]))
    made.reference_ = BackboneReference(**header["reference"])
    made._made_with = {name: _decode(value) for name, value in header["made_with"].items()}
    made._seed = int(header["seed"])
    made.history_ = History(header["history"])
    made.n_epochs_, made.best_epoch_ = header["n_epochs"], header["best_epoch"]
    return made


def _names(estimator: Any) -> list[str] | None:
    names = getattr(estimator, "feature_names_in_", None)
    return None if names is None else list(names)


def _encode(value: Any, name: str) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, pathlib.PurePath):
        return str(value)
    if isinstance(value, torch.device):
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
