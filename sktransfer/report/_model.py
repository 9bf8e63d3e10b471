"""The section on the model: its steps, digests of its weights, versions of packages."""

from __future__ import annotations

import inspect
import os
import platform
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator

from sktransfer._utils.classes import fitted_steps
from sktransfer._utils.versions import versions_by_name
from sktransfer._version import __version__
from sktransfer.deploy._identity import learned_digest, pretrained_digests
from sktransfer.report._section import NOTHING, Section

_PACKAGES = ("scikit-learn", "torch", "torchvision", "skorch", "numpy", "pandas")
# Parameters that do not change the result.
_IRRELEVANT = {"cache", "n_jobs", "verbose", "store_weights", "on_error"}


def model_section(estimator: Any, *, identify: bool, file_digest: str | None = None) -> Section:
    """Write steps, digests and versions."""
    section = Section("model", "Model")
    described = [_described(step, identify) for step in fitted_steps(estimator)]
    digests = {f"Pretrained {name}": own for name, own in pretrained_digests(estimator).items()}
    learned = learned_digest(estimator)
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
    found |= versions_by_name(*_PACKAGES)
    found["System"] = f"{platform.system()} on {platform.machine()}"
    if torch.cuda.is_available():
        found["GPU"] = torch.cuda.get_device_name()
    return found
