"""Which look-ups of a search will find something: the store's rules, without its rows.

It must not know estimators or networks.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from sktransfer._frozen import ROW_OVERHEAD, Shelf, Store

# A run looks this many images ahead of the batch that it computes and then puts, as the runner
# does on a CPU: what it finds in the meantime counts as used.
_BATCH = 32
_AHEAD = 64


class StoreModel:
    """What a store holds, and will hold, going by keys and sizes alone.

    Nothing is read from the store or written to it, and its counters stay as they are.

    Parameters
    ----------
    store : Store or None
        None: nothing is found.
    """

    def __init__(self, store: Store | None) -> None:
        self._store = store
        self._rows: OrderedDict[tuple[bytes, bytes], int] = OrderedDict()
        self._asked: set[tuple[bytes, bytes]] = set()
        self._shelves: dict[bytes, Shelf] = {}
        self._n_bytes = 0

    @property
    def max_bytes(self) -> int:
        """What it may hold; of two tiers, the one that lasts."""
        return 0 if self._store is None else self._store.max_bytes

    @property
    def n_bytes(self) -> int:
        """What was asked of it so far and is still there."""
        return self._n_bytes

    def ask(self, fingerprint: bytes | None, digests: Iterable[bytes], n_bytes: int) -> int:
        """How many distinct images a run does not find; they are kept from now on.

        Parameters
        ----------
        fingerprint : bytes or None
            Of a cut; None where nothing is kept.
        digests : iterable of bytes
        n_bytes : int
            Of a row.
        """
        distinct = dict.fromkeys(digests)
        if fingerprint is None or self._store is None:
            return len(distinct)
        found_missing: list[tuple[bytes, bytes]] = []
        n_new = 0
        for digest in distinct:
            key = (fingerprint, digest)
            if key in self._rows:
                self._rows.move_to_end(key)
            elif self._was_there(key):
                self._put([key], n_bytes)
            else:
                n_new += 1
                found_missing.append(key)
            if len(found_missing) >= _AHEAD + _BATCH:
                self._put(found_missing[:_BATCH], n_bytes)
                del found_missing[:_BATCH]
        self._put(found_missing, n_bytes)
        return n_new

    def _put(self, keys: list[tuple[bytes, bytes]], n_bytes: int) -> None:
        size = n_bytes + ROW_OVERHEAD
        for key in keys:
            if size <= self.max_bytes:
                self._rows[key] = size
                self._n_bytes += size
        while self._n_bytes > self.max_bytes:
            _, freed = self._rows.popitem(last=False)
            self._n_bytes -= freed

    def _was_there(self, key: tuple[bytes, bytes]) -> bool:
        if key in self._asked:  # it was, and was driven out
            return False
        self._asked.add(key)
        fingerprint, digest = key
        if fingerprint not in self._shelves:
            self._shelves[fingerprint] = Shelf(self._store, (fingerprint,))
        return self._shelves[fingerprint].holds(digest)
