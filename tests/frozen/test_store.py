"""The memory store: bounded, copied, counted."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from sktransfer._frozen import DirectoryStore, MemoryStore, TieredStore
from sktransfer._frozen._store import ROW_OVERHEAD


def row(value, n=4):
    return np.full(n, value, dtype=np.float32)


def size(row):
    return row.nbytes + ROW_OVERHEAD


def test_keeps_a_copy_that_cannot_be_written():
    store = MemoryStore()
    mine = row(1)
    store.put([(b"a", mine)])
    mine[:] = 7
    kept = store.get(b"a")
    assert kept.tolist() == [1, 1, 1, 1]
    with pytest.raises(ValueError, match="read-only"):
        kept[0] = 3


def test_forgets_the_least_recently_used():
    store = MemoryStore(max_bytes=3 * size(row(0)))
    for key in b"abc":
        store.put([(bytes([key]), row(key))])
    store.get(b"a")
    store.put([(b"d", row(4))])
    assert store.get(b"b") is None
    assert store.get(b"a") is not None
    assert store.info().n_rows == 3
    assert store.info().n_bytes == 3 * size(row(0))


def test_what_is_larger_than_the_store_is_not_kept():
    store = MemoryStore(max_bytes=10)
    store.put([(b"a", row(1))])
    assert store.get(b"a") is None
    assert store.info().n_bytes == 0


def test_replacing_counts_bytes_once():
    store = MemoryStore()
    store.put([(b"a", row(1))])
    store.put([(b"a", row(2, n=8))])
    assert store.info().n_bytes == size(row(2, n=8))
    assert store.get(b"a").size == 8


def test_counters_and_clear():
    store = MemoryStore()
    store.put([(b"a", row(1))])
    store.get(b"a")
    store.get(b"b")
    assert (store.info().hits, store.info().misses) == (1, 1)
    store.clear()
    assert store.info()[:4] == (0, 0, 0, 0)
    assert store.get(b"a") is None


def test_many_threads():
    store = MemoryStore(max_bytes=50 * size(row(0)))

    def work(seed):
        for key in np.random.default_rng(seed).integers(0, 200, 500):
            found = store.get(int(key).to_bytes(2))
            assert found is None or found[0] == key
            store.put([(int(key).to_bytes(2), row(key))])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    info = store.info()
    assert info.n_bytes == info.n_rows * size(row(0)) <= info.max_bytes


def test_a_claim_is_one_owners_until_it_is_given_back():
    store = MemoryStore()
    assert store.claim(b"a", "me")
    assert store.claim(b"a", "me")
    assert not store.claim(b"a", "you")
    store.release([b"a"], "you")
    assert not store.claim(b"a", "you")
    store.release([b"a"], "me")
    assert store.claim(b"a", "you")


def test_what_was_put_since_it_was_looked_for_is_not_claimed():
    store = MemoryStore()
    store.put([(b"row", row(0))])
    assert not store.claim(b"a", "me", [b"row"])
    assert store.claim(b"a", "me", [b"row", b"another part"])


@pytest.mark.parametrize("tier", ["memory", "directory", "both"])
def test_the_bound_of_two_tiers_is_that_of_the_one_that_lasts(tmp_path, tier):
    memory, directory = MemoryStore(10**6), DirectoryStore(tmp_path / "store")
    store = {"memory": memory, "directory": directory, "both": TieredStore(memory, directory)}[tier]
    assert store.max_bytes == (memory if tier == "memory" else directory).max_bytes
    assert not (tmp_path / "store").exists()
