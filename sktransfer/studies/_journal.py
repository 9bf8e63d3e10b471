"""Results of a long comparison in a directory, so that it can be taken up again; it must not know
what is compared.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.frozen import FrozenEstimator

from sktransfer.images import ImageSource

# Parameters that change nothing about a result.
_SILENT = ("verbose", "n_jobs", "cache", "checkpoint_dir", "checkpoint_every")


class Journal:
    """One JSON file per fold, named by everything that decides what is in it.

    Parameters
    ----------
    directory : Path
        Made if it is not there. Files hold probabilities and times; no picture, no name, no label.
    source : ImageSource
        The pictures: their contents are part of the key.
    y : ndarray of shape (n,)
    """

    def __init__(self, directory: Path, source: ImageSource, y: np.ndarray) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        digest = hashlib.blake2b(digest_size=16)
        for row in range(len(source)):
            digest.update(source.open(row).digest)
        digest.update(repr(y.tolist()).encode())
        self._data = digest.digest()

    def recall(
        self, estimator: Any, train: np.ndarray, test: np.ndarray, run: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """What ``run`` returned for this fold before, or what it returns now."""
        path = self._directory / f"{self._key(estimator, train, test)}.json"
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            record = None  # not there yet, or cut short by whoever wrote it
        if record is None:
            record = run()
            text = {**record, "probabilities": np.asarray(record["probabilities"]).tolist()}
            self._write(path, json.dumps(text))
        return {**record, "probabilities": np.asarray(record["probabilities"])}

    def _key(self, estimator: Any, train: np.ndarray, test: np.ndarray) -> str:
        digest = hashlib.blake2b(self._data, digest_size=16)
        for name, value in sorted(estimator.get_params(deep=True).items()):
            if name.rpartition("__")[2] in _SILENT:
                continue
            digest.update(f"{name}={_identity(value)};".encode())
        digest.update(train.tobytes() + b"|" + test.tobytes())
        return digest.hexdigest()

    def _write(self, path: Path, text: str) -> None:
        # Whole or not at all: a kill in the middle leaves no half file under the name.
        handle, name = tempfile.mkstemp(dir=self._directory, suffix=".part")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(name, path)


def _identity(value: Any) -> str:
    """A value's text, with the digest of a network that was fine-tuned in place of its address."""
    if isinstance(value, FrozenEstimator) and hasattr(value.estimator, "to_backbone"):
        return value.estimator.to_backbone().reference.digest
    if isinstance(value, (str, os.PathLike)) and Path(value).is_file():
        return hashlib.blake2b(Path(value).read_bytes(), digest_size=16).hexdigest()
    return repr(value)
