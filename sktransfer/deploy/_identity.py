"""Which model it was: digests of a file, or of all that the steps of an estimator have learned."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import Any

import joblib
import numpy as np
import torch

from sktransfer._finetune import FineTuneClassifier
from sktransfer._utils.classes import fitted_steps


def file_digest(path: str | os.PathLike[str]) -> str:
    """Return the sha256 of a file."""
    with open(path, "rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def pretrained_digests(estimator: Any) -> dict[str, str]:
    """Return the digest of each pretrained network in a model, by the network's name."""
    references = [getattr(step, "reference_", None) for step in fitted_steps(estimator)]
    return {own.name: own.digest for own in references if own is not None}


def learned_digest(estimator: Any) -> str | None:
    """Return the sha256 of what scikit-learn steps and networks have learned, in their order."""
    digest = hashlib.sha256()
    found = False
    for step in fitted_steps(estimator):
        for name, array in _learned(step):
            found = True
            digest.update(f"{type(step).__name__}.{name}|{array.dtype.str}|{array.shape}|".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return f"sha256:{digest.hexdigest()}" if found else None


def model_digest(estimator: Any) -> str:
    """Return one digest of the pretrained networks in a model and of what it has learned."""
    parts = [*sorted(pretrained_digests(estimator).items()), learned_digest(estimator)]
    return f"sha256:{hashlib.sha256(repr(parts).encode()).hexdigest()}"


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
            elif not type(step).__module__.startswith("sktransfer."):  # trees, of a forest
                yield name, np.frombuffer(joblib.hash(value).encode(), dtype=np.uint8)
