"""Results of the folds of a long comparison in a directory, so that it can be resumed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.frozen import FrozenEstimator

from sktransfer._images import ImageSource

# Parameters that change nothing about a result.
_SILENT = ("verbose", "n_jobs", "cache", "checkpoint_dir", "checkpoint_every")
# What the repr of an object shows that has none of its own.
_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]+")


class FoldResults:
    """One JSON file per fold, named by everything that decides what is in it.

    Files hold probabilities and times; no image, no name, no label. The contents of the images of
    ``source`` and their labels are part of the key.
    """

    def __init__(self, directory: Path, source: ImageSource, y: np.ndarray) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        digest = hashlib.blake2b(digest_size=16)
        for row in range(len(source)):
            digest.update(source.open(row).digest)
        digest.update(repr(y.tolist()).encode())
        self._data = digest.digest()
        self._warned = False

    def recall(
        self, estimator: Any, train: np.ndarray, test: np.ndarray, run: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """Return what ``run`` returned for this fold before, or what it returns now.

        Where it cannot be known whether a parameter is what it was (a function), nothing is kept.
        """
        try:
            key = self._key(estimator, train, test)
        except _UnknownIdentityError as unknown:
            self._warn(unknown.value)
            return run()
        path = self._directory / f"{key}.json"
        record = self._read(path)
        if record is None:
            record = run()
            text = {**record, "probabilities": np.asarray(record["probabilities"]).tolist()}
            self._write(path, json.dumps(text))
        return {**record, "probabilities": np.asarray(record["probabilities"])}

    def _read(self, path: Path) -> dict[str, Any] | None:
        """Read a record; None if it is not there yet, or was damaged."""
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return record if isinstance(record, dict) and "probabilities" in record else None

    def _key(self, estimator: Any, train: np.ndarray, test: np.ndarray) -> str:
        digest = hashlib.blake2b(self._data, digest_size=16)
        digest.update(_identity(estimator).encode())
        digest.update(train.tobytes() + b"|" + test.tobytes())
        return digest.hexdigest()

    def _warn(self, value: Any) -> None:
        if not self._warned:
            warnings.warn(
                f"Nothing is kept in {self._directory} of estimators with {value!r}: whether it "
                "is the same in a later call is unknown. Give it an attribute fingerprint, a str "
                "that changes with what it does; as a seed, give a number.",
                UserWarning,
                stacklevel=4,
            )
        self._warned = True

    def _write(self, path: Path, text: str) -> None:
        # Whole or not at all: a kill in the middle leaves no half file under the name.
        handle, name = tempfile.mkstemp(dir=self._directory, suffix=".part")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(name, path)


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
