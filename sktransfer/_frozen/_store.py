"""Computed rows, cached: the protocol of a store, and its memory tier.

It must not know networks or images: keys are bytes, values are rows of numbers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from sktransfer._utils import config as _config
from sktransfer._utils.forking import after_fork, new_lock

Rows = Iterable[tuple[bytes, np.ndarray]]  # by key
Expected = tuple[int, np.dtype]  # numbers in a row, and the narrowest dtype it may have

# What a key, an array's header and the dictionary's own slot take alongside the numbers.
ROW_OVERHEAD = 300


class CacheInfo(NamedTuple):
    """Counters of a store of activations.

    ``hits`` and ``misses`` are look-ups of this process, ``n_rows`` and ``n_bytes`` what is held,
    ``max_bytes`` the most that may be.
    """

    hits: int
    misses: int
    n_rows: int
    n_bytes: int
    max_bytes: int


class Store(Protocol):
    """Rows by key, and claims on keys that some run is computing right now.

    A claim keeps two threads or processes that meet the same image at the same time from both
    computing it. It is a courtesy, not a lock: a lost or outlived claim costs a second computation
    of the same numbers, never a wrong or missing row.
    """

    # Bytes it may hold; of two tiers, those of the one that lasts.
    max_bytes: int

    def get(self, key: bytes, expected: Expected | None = None) -> np.ndarray | None:
        """Return the row under ``key`` (do not write to it), or None.

        A row that is not as ``expected`` is none.
        """

    def put(self, rows: Rows, claims: Sequence[bytes] = (), owner: str = "") -> None:
        """Keep copies of ``rows``, all or (where that is impossible) none; release ``claims``."""

    def claim(self, key: bytes, owner: str, rows: Sequence[bytes] = ()) -> bool:
        """Return whether ``owner`` is to compute ``key``.

        False if another one is computing it, or has just put all of ``rows``.
        """

    def release(self, claims: Sequence[bytes], owner: str) -> None:
        """Give claims back, done or not."""
        self.put((), claims, owner)

    def info(self) -> CacheInfo:
        """Return the counters."""

    def clear(self) -> None:
        """Forget every row and set the counters back."""


def is_expected(row: np.ndarray, expected: Expected | None) -> bool:
    """Return whether a row is what the caller can use; one that is wider than expected is."""
    if expected is None:
        return True
    n, dtype = expected
    return row.shape == (n,) and row.dtype.itemsize >= dtype.itemsize


class MemoryStore(Store):
    """A bounded dictionary of rows, safe for threads, that forgets the least recently used.

    ``max_bytes`` counts keys and headers too. None: ``SKTRANSFER_MEMORY_BYTES``, or 512 MiB.
    """

    def __init__(self, max_bytes: int | None = None) -> None:
        variable = _config.MEMORY_CACHE_VARIABLE
        self.max_bytes = _config.cache_bytes(variable) if max_bytes is None else max_bytes
        self._lock = new_lock()
        after_fork(self._forget_claims)
        self._rows: OrderedDict[bytes, np.ndarray] = OrderedDict()
        self._claims: dict[bytes, str] = {}
        self._n_bytes = 0
        self._hits = 0
        self._misses = 0

    def _forget_claims(self) -> None:
        """Do not wait, in a forked child, for what threads of the parent were computing."""
        self._claims.clear()

    def get(self, key: bytes, expected: Expected | None = None) -> np.ndarray | None:
        with self._lock:
            row = self._rows.get(key)
            if row is None or not is_expected(row, expected):
                self._misses += 1
                return None
            self._hits += 1
            self._rows.move_to_end(key)
            return row

    def put(self, rows: Rows, claims: Sequence[bytes] = (), owner: str = "") -> None:
        """Keep copies of ``rows``; one too large for the whole store is not kept."""
        copies = [(key, np.array(row)) for key, row in rows]
        with self._lock:
            for key, row in copies:
                if row.nbytes + ROW_OVERHEAD > self.max_bytes:
                    continue
                row.flags.writeable = False
                old = self._rows.pop(key, None)
                self._n_bytes += row.nbytes + ROW_OVERHEAD
                if old is not None:
                    self._n_bytes -= old.nbytes + ROW_OVERHEAD
                self._rows[key] = row
            while self._n_bytes > self.max_bytes:
                _, forgotten = self._rows.popitem(last=False)
                self._n_bytes -= forgotten.nbytes + ROW_OVERHEAD
            for claim in claims:
                if self._claims.get(claim) == owner:
                    del self._claims[claim]

    def claim(self, key: bytes, owner: str, rows: Sequence[bytes] = ()) -> bool:
        with self._lock:
            if key not in self._claims and rows and all(row in self._rows for row in rows):
                return False
            return self._claims.setdefault(key, owner) == owner

    def info(self) -> CacheInfo:
        with self._lock:
            return CacheInfo(
                self._hits, self._misses, len(self._rows), self._n_bytes, self.max_bytes
            )

    def clear(self) -> None:
        with self._lock:
            self._rows.clear()
            self._n_bytes = self._hits = self._misses = 0


class TieredStore(Store):
    """Memory in front of a directory: what either has is a hit, what is computed goes to both.

    Claims are made in the far tier, which other processes see.
    """

    def __init__(self, near: Store, far: Store) -> None:
        self.near, self.far = near, far
        self.max_bytes = far.max_bytes

    def get(self, key: bytes, expected: Expected | None = None) -> np.ndarray | None:
        row = self.near.get(key, expected)
        if row is None:
            row = self.far.get(key, expected)
            if row is not None:
                self.near.put([(key, row)])
        return row

    def put(self, rows: Rows, claims: Sequence[bytes] = (), owner: str = "") -> None:
        rows = list(rows)
        self.near.put(rows)
        self.far.put(rows, claims, owner)

    def claim(self, key: bytes, owner: str, rows: Sequence[bytes] = ()) -> bool:
        return self.far.claim(key, owner, rows)

    def info(self) -> CacheInfo:
        """Return the counters of the far tier; a row that was found near is a hit too."""
        near, far = self.near.info(), self.far.info()
        return far._replace(hits=near.hits + far.hits)

    def clear(self) -> None:
        self.near.clear()
        self.far.clear()


# One per process: clones, folds and candidates of a search share it.
MEMORY_STORE = MemoryStore()
