"""The section on the model: its steps, digests of its weights, versions of packages."""

from __future__ import annotations

import hashlib
import inspect
import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator

from sktransfer._finetune import FineTuneClassifier
from sktransfer._utils.classes import fitted_steps
from sktransfer._version import __version__
from sktransfer.report._section import NOTHING, Section

_PACKAGES = ("scikit-learn", "torch", "torchvision", "skorch", "numpy", "pandas")
# Parameters that do not change the result.
_IRRELEVANT = {"cache", "n_jobs", "verbose", "store_weights", "on_error"}


def model_section(estimator: Any, *, identify: bool, file_digest: str | None = None) -> Section:
    """Write steps, digests and versions."""
    section = Section("model", "Model")
    steps = list(fitted_steps(estimator))
    described = [_described(step, identify) for step in steps]
    references = [step.reference_ for step in steps if hasattr(step, "reference_")]
    digests = {f"Pretrained {own.name}": own.digest for own in references if own is not None}
    learned = _learned_digest(steps)
    if learned is not None:
        digests["Learned parameters, all steps"] = learned
    if file_digest is not None:
        digests["Model file"] = file_digest
    versions = _versions()
    section.data = {
        "steps": [{"name": name, "parameters": parameters} for name, parameters in described],
        "digests": digests,
        "versions": versions,
    }
    section.add_table(
        "Steps and the parameters that are not at their defaults",
        ["Step", "Parameters"],
        [
            [name, ", ".join(f"{key}={value}" for key, value in parameters.items()) or NOTHING]
            for name, parameters in described
        ],
    )
    section.add_table(
        "Weights",
        ["What", "Digest"],
        [[name, digest] for name, digest in digests.items()],
        "Different models have different digests. The digest of a published network is that of "
        "its file.",
    )
    section.add_table(
        "Versions", ["What", "Version"], [[name, own] for name, own in versions.items()]
    )
    return section


def _learned_digest(steps: list[Any]) -> str | None:
    """Return the sha256 of what scikit-learn steps and networks have learned, in their order."""
    digest = hashlib.sha256()
    found = False
    for step in steps:
        for name, array in _learned(step):
            found = True
            digest.update(f"{type(step).__name__}.{name}|{array.dtype.str}|{array.shape}|".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return f"sha256:{digest.hexdigest()}" if found else None


def _learned(step: Any) -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(step, FineTuneClassifier):
        for name, tensor in sorted(step.module_.state_dict().items()):
            yield name, tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        return
    for name, value in sorted(vars(step).items()):
        if name.endswith("_") and not name.startswith("_"):
            if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
                yield name, value
            elif isinstance(value, (float, np.floating)):
                yield name, np.asarray(value)


def _described(step: Any, identify: bool) -> tuple[str, dict[str, str]]:
    """Return the name of a step and its parameters that are not at their defaults."""
    if not hasattr(step, "get_params"):
        return type(step).__name__, {}
    signature = inspect.signature(type(step)).parameters.values()
    usual = {each.name: each.default for each in signature if each.default is not each.empty}
    parameters = {}
    for name, value in step.get_params(deep=False).items():
        if isinstance(value, BaseEstimator) or name.split("__")[0] in _IRRELEVANT:
            continue  # an inner estimator has a line of its own
        if name in usual and name != "backbone" and _same(value, usual[name]):
            continue
        parameters[name] = _shown(value, identify)
    return type(step).__name__, parameters


def _same(a: Any, b: Any) -> bool:
    try:
        return bool(a == b)
    except ValueError:  # arrays
        return False


def _shown(value: Any, identify: bool) -> str:
    """Write a parameter; a file's name may be a person's, and is left out unless asked for."""
    if isinstance(value, (str, os.PathLike)):
        text = os.fspath(value)
        text = text.decode() if isinstance(text, bytes) else text
        if not identify and (isinstance(value, os.PathLike) or _is_file(text)):
            return "(a file)"
        return repr(text)
    if value is None or isinstance(value, (bool, int, float, np.generic)):
        return str(value)
    if isinstance(value, (tuple, list)) and len(value) <= 6:
        shown = ", ".join(_shown(each, identify) for each in value)
        return f"({shown})" if isinstance(value, tuple) else f"[{shown}]"
    return type(value).__name__


def _is_file(text: str) -> bool:
    if text.startswith("timm/"):
        return False
    return os.sep in text or "/" in text or text.endswith((".pth", ".pt", ".safetensors"))


def _versions() -> dict[str, str]:
    found = {"Python": platform.python_version(), "sktransfer": __version__}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # installed without metadata
            continue
    found["System"] = f"{platform.system()} on {platform.machine()}"
    if torch.cuda.is_available():
        found["GPU"] = torch.cuda.get_device_name()
    return found
