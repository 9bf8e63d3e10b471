"""Checkpoints: states of training in a directory, one sub-directory per task, to resume from.

It must not know what is trained.
"""

from __future__ import annotations

import enum
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sktransfer._backbones import check_archive, shortened
from sktransfer._utils.writing import written_whole
from sktransfer.exceptions import WeightsMismatchError

_FILE = "training.pt"

# Parameters that do not decide the result of a training; backbone and weights are known by digest.
# What random_state gave is known as the seed.
_IRRELEVANT = {
    *("verbose", "checkpoint__dir", "checkpoint__every", "n_jobs", "cache", "callbacks"),
    *("cache__memory_budget", "cache__disk_budget", "backbone", "weights", "random_state"),
    "weight_interpolation",  # counts once the training has ended
}


def plain_number(value: Any) -> Any:
    """Turn what callbacks wrote into a history into what JSON can hold."""
    if isinstance(value, (np.generic, np.ndarray, torch.Tensor)):
        return value.tolist()
    raise TypeError(
        f"The history holds {value!r} of type {type(value).__name__}, which cannot be written as "
        "JSON: let callbacks record numbers, strings, lists and dicts."
    )


def identities(net: Any) -> dict[str, str]:
    """Return an identity of every parameter that decides the result of a training."""
    names = {*net._get_param_names(), *net._parameter_constraints} - _IRRELEVANT
    return {name: identity(getattr(net, name), name) for name in sorted(names)}


def identity(value: Any, name: str) -> str:
    """Return a text that is equal in every process for equal settings, and only for these."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return repr(value)
    if isinstance(value, np.ndarray):
        return f"array{value.dtype.str, value.tolist()}"
    if isinstance(value, (os.PathLike, torch.device, torch.dtype, enum.Enum)):
        return f"{type(value).__name__}({value})"
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__}{[identity(each, name) for each in value]}"
    if isinstance(value, (set, frozenset)):
        return f"set{sorted(identity(each, name) for each in value)}"
    if isinstance(value, dict):
        pairs = sorted((identity(k, name), identity(v, name)) for k, v in value.items())
        return f"dict{pairs}"
    if hasattr(value, "get_params") and not isinstance(value, type):
        return f"{_name(type(value))}{identity(value.get_params(deep=False), name)}"
    if isinstance(getattr(value, "fingerprint", None), str):
        return f"{_name(type(value))}({value.fingerprint})"
    if isinstance(value, nn.Module) and type(value).__module__ == "torchvision.transforms._presets":
        return repr(value)
    own = _name(value)
    if callable(value) and own is not None and "<" not in own:
        return own
    raise ValueError(
        f"checkpoint__dir resumes a training if every setting is the same, and there is no telling "
        f"whether {name}={value!r} is: use a function or a class that is defined in a module."
    )


def _name(value: Any) -> str | None:
    qualified = getattr(value, "__qualname__", None)
    return None if qualified is None else f"{value.__module__}.{qualified}"


class Checkpoints:
    """The states of one training, written every ``every`` epochs.

    ``fingerprint`` is a digest of everything that decides the result: other trainings (folds,
    candidates) write alongside this one.
    """

    def __init__(self, directory: str | os.PathLike[str], fingerprint: str, every: int) -> None:
        self.path = Path(directory) / fingerprint
        self.every = every

    def load(self, net: Any, make: type) -> Any:
        """Put the last state into ``net``; return its progress as what ``make`` makes."""
        file = self.path / _FILE
        if not file.is_file():
            return make()
        try:
            check_archive(file, "it")
            state = torch.load(file, map_location="cpu", weights_only=True)
            if state["fingerprint"] != self.path.name:
                raise ValueError("it is of another training.")
            net.module_.restore(state["learned"], file)
            net.optimizer_.load_state_dict(state["optimizer"])
            if state["scaler"] is not None and net._scaler is not None:
                net._scaler.load_state_dict(state["scaler"])
            # Whole: phases before this one were run again, and are in it too.
            net.history[:] = json.loads(state["history"])
            return make(**state["progress"])
        except MemoryError:
            raise
        except Exception as error:  # a damaged file may lead the reader anywhere
            raise WeightsMismatchError(
                f"The checkpoint {file} is damaged or was edited: {shortened(error)} Delete it to "
                "train from the first epoch again."
            ) from error

    def save(self, net: Any, progress: Any, *, last: bool) -> None:
        """Write a state if it is due; whole or not at all."""
        if not last and progress.epoch % self.every:
            return
        state = {
            "fingerprint": self.path.name,
            "learned": net.module_.saved(),
            "optimizer": net.optimizer_.state_dict(),
            "scaler": None if net._scaler is None else net._scaler.state_dict(),
            "history": json.dumps(list(net.history), default=plain_number),
            "progress": dict(vars(progress)),
        }
        self.path.mkdir(parents=True, exist_ok=True)
        with written_whole(self.path / _FILE) as temporary:
            torch.save(state, temporary)
