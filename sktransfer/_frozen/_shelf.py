"""A run's view of the store: rows of several parts under one image's digest, and its claims.

It must not know images or networks.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable, Sequence

import numpy as np

from sktransfer._frozen._store import Store


class Shelf:
    """Where a run looks for rows and puts them.

    Parameters
    ----------
    store : Store or None
        None: nothing is found, everything may be computed.
    fingerprints : sequence of bytes, or None
        Of each part, of everything that changes it but the image; None is as no store.
    """

    def __init__(self, store: Store | None, fingerprints: Sequence[bytes] | None) -> None:
        self._store = None if fingerprints is None else store
        self._fingerprints = fingerprints or ()
        # Who a claim belongs to: this run, not this process, which may run several at once.
        self._owner = f"{os.getpid()}-{secrets.token_hex(8)}"
        self._claimed: set[bytes] = set()

    def fetch(self, digest: bytes) -> list[np.ndarray] | None:
        """The parts of an image's row; None if any of them is missing in the store."""
        if self._store is None:
            return None
        parts: list[np.ndarray] = []
        for own in self._fingerprints:
            part = self._store.get(_key(own, digest))
            if part is None:
                return None
            parts.append(part)
        return parts

    def holds(self, digest: bytes) -> bool:
        """Whether every part of an image's row is there; nothing is read, nothing is counted."""
        return self._store is not None and all(
            self._store.holds(_key(own, digest)) for own in self._fingerprints
        )

    def keep(self, rows: Iterable[tuple[bytes, Sequence[np.ndarray]]]) -> None:
        """Put the parts of computed rows into the store, and give back the claims on them."""
        if self._store is None:
            return
        rows = list(rows)
        self._store.put(
            [
                (_key(own, digest), part)
                for digest, parts in rows
                for own, part in zip(self._fingerprints, parts, strict=True)
            ]
        )
        self.release([digest for digest, _ in rows])

    def claim(self, digest: bytes, *, even_if_there: bool = False) -> bool:
        """Whether this run is to compute an image.

        False if another one is at it, or finished it since it was looked for.
        """
        if self._store is None:
            return True
        key = self._claim_key(digest)
        # Noted before it is made: an interrupt between the two must not leave it behind.
        self._claimed.add(key)
        rows = [] if even_if_there else [_key(own, digest) for own in self._fingerprints]
        if self._store.claim(key, self._owner, rows):
            return True
        self._claimed.discard(key)
        return False

    def release(self, digests: Sequence[bytes] | None = None) -> None:
        """Give back the claims on ``digests``, or all that are left."""
        if self._store is None:
            return
        wanted = self._claimed if digests is None else {self._claim_key(d) for d in digests}
        keys = list(wanted & self._claimed)
        if keys:
            self._store.release(keys, self._owner)
            self._claimed.difference_update(keys)

    def _claim_key(self, digest: bytes) -> bytes:
        return _key(b"".join(self._fingerprints), digest)


def _key(fingerprint: bytes, digest: bytes) -> bytes:
    return hashlib.blake2b(fingerprint + digest, digest_size=16).digest()
