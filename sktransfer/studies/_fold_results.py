"""Results of the folds of a long comparison in a directory, so that it can be resumed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.frozen import FrozenEstimator

from sktransfer._images import ImageSource
from sktransfer._utils.versions import versions_of
from sktransfer._utils.writing import written_whole

# Parameters that change nothing about a result.
_SILENT = ("verbose", "n_jobs", "cache", "checkpoint__dir", "checkpoint__every")
# A comparison never mixes what two versions of these computed.
_LIBRARIES = ("sktransfer", "scikit-learn", "torch", "torchvision", "timm", "pillow", "skorch")
# What the repr of an object shows that has none of its own.
_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]+")


def data_digest(source: ImageSource, y: np.ndarray) -> bytes:
    """Return a name of images, by their contents, and labels."""
    digest = hashlib.blake2b(digest_size=16)
    for row in range(len(source)):
        digest.update(source.open(row).digest)
    digest.update(repr(y.tolist()).encode())
    return digest.digest()


def recall(
    directory: Path,
    data: bytes,
    estimator: Any,
    train: np.ndarray,
    test: np.ndarray,
    run: Callable[[], dict[str, Any]],
) -> dict[str, Any]:
    """Return what ``run`` returned for this fold before, or what it returns now.

    A fold has one JSON file, named by everything that decides what is in it: probabilities and
    times; no image, no name, no label. Where it cannot be known whether a parameter is what it was
    (a function), nothing is kept.
    """
    try:
        identity = _identity(estimator)
    except _UnknownIdentityError as unknown:
        warnings.warn(
            f"Nothing is kept in {directory} of estimators with {unknown.value!r}: whether it is "
            "the same in a later call is unknown. Give it an attribute fingerprint, a str that "
            "changes with what it does; as a seed, give a number.",
            UserWarning,
            stacklevel=3,
        )
        return run()
    digest = hashlib.blake2b(data, digest_size=16)
    versions = repr(versions_of(*_LIBRARIES)).encode()
    digest.update(versions + identity.encode() + train.tobytes() + b"|" + test.tobytes())
    path = directory / f"{digest.hexdigest()}.json"
    record = _read(path)
    if record is None:
        record = run()
        text = {**record, "probabilities": np.asarray(record["probabilities"]).tolist()}
        with written_whole(path) as temporary:
            temporary.write_text(json.dumps(text), encoding="utf-8")
    return {**record, "probabilities": np.asarray(record["probabilities"])}


def _read(path: Path) -> dict[str, Any] | None:
    """Read a record; None if it is not there yet, or was damaged."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and "probabilities" in record else None


class _UnknownIdentityError(Exception):
    """Whether ``value`` is what it was in another process is unknown."""

    def __init__(self, value: Any) -> None:
        super().__init__(value)
        self.value = value


def _identity(value: Any) -> str:
    """Return a value's text, equal for what is equal in any process."""
    if isinstance(value, FrozenEstimator):
        if not hasattr(value.estimator, "to_backbone"):
            raise _UnknownIdentityError(value)  # what it learned is not among its parameters
        return value.estimator.to_backbone().reference.digest
    if hasattr(value, "get_params") and not isinstance(value, type):
        params = value.get_params(deep=False).items()
        inside = ";".join(f"{k}={_identity(v)}" for k, v in sorted(params) if k not in _SILENT)
        return f"{type(value).__module__}.{type(value).__qualname__}({inside})"
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_identity, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{k!r}:{_identity(v)}' for k, v in value.items())}}}"
    if isinstance(value, (str, os.PathLike)) and Path(value).is_file():
        return hashlib.blake2b(Path(value).read_bytes(), digest_size=16).hexdigest()
    if isinstance(value, np.ndarray) and value.dtype != object:  # repr leaves out its middle
        digest = hashlib.blake2b(np.ascontiguousarray(value).tobytes(), digest_size=16)
        return f"{value.dtype}{value.shape}{digest.hexdigest()}"
    own = getattr(value, "fingerprint", None)
    if isinstance(own, str):
        return own
    text = repr(value)
    if _ADDRESS.search(text):
        raise _UnknownIdentityError(value)
    return text
