"""What was computed once, kept for the next time: the memory tier of the activation store.

It must not know networks or pictures: keys are bytes, values are rows of numbers.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import NamedTuple

import numpy as np

from sktransfer import _config


class CacheInfo(NamedTuple):
    """Counters of a store: look-ups that hit and missed, rows and bytes held now."""

    hits: int
    misses: int
    n_rows: int
    n_bytes: int
    max_bytes: int


class MemoryStore:
    """A bounded dictionary of rows, safe for threads, that forgets the least recently used.

    Parameters
    ----------
    max_bytes : int
        Bound on the bytes of the rows held.
    """

    def __init__(self, max_bytes: int = _config.MEMORY_CACHE_BYTES) -> None:
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._rows: OrderedDict[bytes, np.ndarray] = OrderedDict()
        self._n_bytes = 0
        self._hits = 0
        self._misses = 0

    def get(self, key: bytes) -> np.ndarray | None:
        """The row under ``key`` (do not write to it), or None."""
        with self._lock:
            row = self._rows.get(key)
            if row is None:
                self._misses += 1
                return None
            self._hits += 1
            self._rows.move_to_end(key)
            return row

    def put(self, key: bytes, row: np.ndarray) -> None:
        """Keep a copy of ``row``; one too large for the whole store is not kept."""
        row = np.array(row)
        row.flags.writeable = False
        if row.nbytes > self.max_bytes:
            return
        with self._lock:
            old = self._rows.pop(key, None)
            if old is not None:
                self._n_bytes -= old.nbytes
            self._rows[key] = row
            self._n_bytes += row.nbytes
            while self._n_bytes > self.max_bytes:
                _, forgotten = self._rows.popitem(last=False)
                self._n_bytes -= forgotten.nbytes

    def info(self) -> CacheInfo:
        """Counters since the process started or the store was cleared."""
        with self._lock:
            return CacheInfo(
                self._hits, self._misses, len(self._rows), self._n_bytes, self.max_bytes
            )

    def clear(self) -> None:
        """Forget every row and set the counters back."""
        with self._lock:
            self._rows.clear()
            self._n_bytes = self._hits = self._misses = 0


# One per process: clones, folds and candidates of a search share it.
MEMORY_STORE = MemoryStore()
