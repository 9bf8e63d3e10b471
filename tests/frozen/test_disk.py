"""The directory tier: shared, bounded, checked, and dispensable."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest

from sktransfer import cache_info, clear_cache
from sktransfer._frozen import DirectoryStore, MemoryStore, TieredStore, open_directory
from sktransfer._frozen._disk import FILE_NAME
from tests.stored import key, row


@pytest.fixture
def store(tmp_path):
    store = DirectoryStore(tmp_path / "store")
    yield store
    store.close()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_rows_are_returned_as_they_were_put(store, dtype):
    value = np.random.default_rng(0).normal(size=100).astype(dtype)
    store.put([(b"k", value)])
    store.close()
    again = DirectoryStore(store.path)
    assert again.get(b"k").dtype == dtype
    assert np.array_equal(again.get(b"k"), value)
    assert again.get(b"other") is None
    again.close()


def test_counts(store):
    store.put([(key(i), row(i)) for i in range(3)])
    store.put([(key(0), row(0))])  # again: nothing new
    store.get(key(0))
    store.get(key(9))
    info = store.info()
    assert (info.hits, info.misses, info.n_rows, info.n_bytes) == (1, 1, 3, 3 * 256)
    store.clear()
    assert store.info()[:4] == (0, 0, 0, 0)


def test_bounded_dropping_what_was_used_least_recently(tmp_path, monkeypatch):
    monkeypatch.setattr("sktransfer._frozen._disk._TOUCH_SECONDS", 0.0)
    store = DirectoryStore(tmp_path, max_bytes=10 * 256)
    for i in range(10):
        store.put([(key(i), row(i))])
    store.get(key(0))
    store.put([(key(10), row(10))])
    assert store.info().n_bytes <= 10 * 256
    assert store.get(key(0)) is not None
    assert store.get(key(1)) is None
    assert store.get(key(10)) is not None
    for i in range(11, 200):
        store.put([(key(i), row(i))])
        assert store.info().n_bytes <= 10 * 256
    store.close()
    # Freed pages are used again: the file stays small too.
    assert sum(f.stat().st_size for f in tmp_path.iterdir()) < 5_000_000


def test_the_bound_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("SKTRANSFER_CACHE_BYTES", "1000")
    assert DirectoryStore(tmp_path).max_bytes == 1000
    monkeypatch.setenv("SKTRANSFER_CACHE_BYTES", "much")
    with pytest.raises(
        ValueError, match=r"SKTRANSFER_CACHE_BYTES must be a whole number of bytes .*got 'much'"
    ):
        DirectoryStore(tmp_path)


def test_a_flipped_byte_in_a_row_is_a_miss_and_can_be_replaced(store):
    value = np.random.default_rng(0).normal(size=1000)
    store.put([(b"a", value), (b"b", value + 1)])
    store.close()
    file = store.path / FILE_NAME
    content = bytearray(file.read_bytes())
    position = content.find(value.tobytes()[:64])
    assert position > 0
    content[position + 20] ^= 4
    file.write_bytes(content)
    assert store.get(b"a") is None
    assert np.array_equal(store.get(b"b"), value + 1)
    assert store.info().n_rows == 1
    assert store.info().n_bytes == value.nbytes
    store.put([(b"a", value)])
    assert np.array_equal(store.get(b"a"), value)


def test_rows_that_were_exchanged_are_noticed(store):
    store.put([(b"a", row(1)), (b"b", row(2))])
    store.close()
    with sqlite3.connect(store.path / FILE_NAME) as connection:
        (value,) = connection.execute("SELECT value FROM rows WHERE key = ?", (b"b",)).fetchone()
        connection.execute("UPDATE rows SET value = ? WHERE key = ?", (value, b"a"))
    connection.close()
    assert store.get(b"a") is None
    assert store.get(b"b") is not None


@pytest.mark.parametrize("damage", ["zeros in the middle", "not a database", "cut short"])
def test_a_damaged_file_is_put_aside_with_one_warning(store, damage):
    store.put([(key(i), row(i, n=2000)) for i in range(50)])
    store.close()
    file = store.path / FILE_NAME
    content = bytearray(file.read_bytes())
    if damage == "not a database":
        content[:] = b"something else entirely" * 100
    elif damage == "cut short":
        del content[len(content) // 3 :]
    else:
        content[100:40_000] = bytes(39_900)
    file.write_bytes(content)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = [store.get(key(i)) for i in range(50)]
        store.put([(key(i), row(i, n=2000)) for i in range(50)])
        again = [store.get(key(i)) for i in range(50)]
    assert len(caught) <= 1
    for i in range(50):
        assert found[i] is None or np.array_equal(found[i], row(i, n=2000))
        assert np.array_equal(again[i], row(i, n=2000))


class Disk:
    """A connection whose writes fail as a full disk makes them fail."""

    in_transaction = False

    def __init__(self, connection):
        self.connection = connection

    def execute(self, command, *arguments):
        if command.startswith(("INSERT", "UPDATE", "BEGIN")):
            raise sqlite3.OperationalError("database or disk is full")
        return self.connection.execute(command, *arguments)

    def __enter__(self):
        return self.connection.__enter__()

    def __exit__(self, *error):
        return self.connection.__exit__(*error)

    def close(self):
        self.connection.close()


def test_a_full_disk_is_one_warning_and_no_store(store):
    store.put([(b"a", row(1))])
    store._connection = Disk(store._connection)
    with pytest.warns(RuntimeWarning, match=r"disk is full.*results are the same"):
        store.put([(key(0), row(0))])
    for i in range(5):  # the warning is not repeated: it would be an error here
        store.put([(key(i), row(i))])
        assert store.claim(key(i), "me")
        store.release([key(i)], "me")
    assert np.array_equal(store.get(b"a"), row(1))  # what is there can still be read
    assert store.get(key(0)) is None


def test_a_directory_that_cannot_be_made_is_one_warning(tmp_path):
    (tmp_path / "file").write_text("in the way")
    store = DirectoryStore(tmp_path / "file" / "store")
    with pytest.warns(RuntimeWarning, match="cannot be used"):
        assert store.get(b"a") is None
    store.put([(b"a", row(1))])
    assert store.info().n_rows == 0


# --- claims -----------------------------------------------------------------------------------


def test_a_claim_holds_for_others_until_given_back(store):
    other = DirectoryStore(store.path)
    assert store.claim(b"a", "me")
    assert store.claim(b"a", "me")
    assert not other.claim(b"a", "you")
    store.release([b"a"], "me")
    assert other.claim(b"a", "you")
    other.close()


def test_what_was_put_since_it_was_looked_for_is_not_claimed(store):
    store.put([(b"row", np.zeros(3, np.float32))])
    assert not store.claim(b"a", "me", [b"row"])
    assert store.claim(b"a", "me", [b"row", b"another part"])
    assert store.claim(b"b", "me")


def test_a_claim_of_a_dead_process_is_void(store):
    code = (
        "import sys; from sktransfer._frozen import DirectoryStore\n"
        "assert DirectoryStore(sys.argv[1]).claim(b'a', 'late')"
    )
    subprocess.run([sys.executable, "-c", code, store.path], check=True, timeout=300)
    assert store.claim(b"a", "me")


def test_a_claim_expires_unless_its_owner_renews_it(store, monkeypatch):
    other = DirectoryStore(store.path)
    assert store.claim(b"a", "me")
    assert store.claim(b"b", "me")
    now = time.time()
    monkeypatch.setattr("sktransfer._frozen._disk.time.time", lambda: now + 100)
    assert not other.claim(b"a", "you")
    store.release([b"b"], "me")  # renews the claim on a
    monkeypatch.setattr("sktransfer._frozen._disk.time.time", lambda: now + 200)
    assert not other.claim(b"a", "you")
    monkeypatch.setattr("sktransfer._frozen._disk.time.time", lambda: now + 300)
    assert other.claim(b"a", "you")
    other.close()


# --- several at once ------------------------------------------------------------------------------

WRITER = """
import sys, numpy as np
from sktransfer._frozen import DirectoryStore
store, low = DirectoryStore(sys.argv[1]), int(sys.argv[2])
print("ready", flush=True); sys.stdin.readline()
for i in range(low, low + 300):
    store.put([(i.to_bytes(16), np.full(500, i, dtype=np.float32))])
"""


def start(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_two_processes_writing_lose_nothing(store):
    writers = [start(WRITER, store.path, low) for low in (0, 150)]  # half of it both write
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.close()
    for writer in writers:
        assert writer.wait(60) == 0
        writer.stdout.close()
    for i in range(450):
        assert np.array_equal(store.get(key(i)), row(i, n=500)), i
    assert store.info().n_rows == 450
    assert store.info().n_bytes == 450 * 2000


def test_a_killed_writer_leaves_whole_rows(store):
    writer = start(WRITER.replace("300", "10**6"), store.path, 0)
    assert writer.stdout.readline() == "ready\n"
    writer.stdin.write("go\n")
    writer.stdin.flush()
    while store.get(key(50)) is None:
        assert writer.poll() is None
        time.sleep(0.01)
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait(60)
    writer.stdin.close()
    writer.stdout.close()
    n = store.info().n_rows
    assert n > 50
    for i in range(n):
        assert np.array_equal(store.get(key(i)), row(i, n=500))
    store.put([(key(n), row(n, n=500))])
    assert store.info().n_rows == n + 1


def test_threads_share_one_store(tmp_path):
    assert open_directory(tmp_path) is open_directory(str(tmp_path))
    store = open_directory(tmp_path)

    def work(seed):
        for i in np.random.default_rng(seed).integers(0, 50, 100):
            found = store.get(key(i))
            assert found is None or found[0] == i
            store.put([(key(i), row(i))])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.info().n_bytes == store.info().n_rows * 256
    store.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_opens_the_file_for_itself(store):
    store.put([(b"a", row(1))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python warns of fork with threads about
        pid = os.fork()
    if pid == 0:
        try:
            ok = np.array_equal(store.get(b"a"), row(1))
            store.put([(b"child", row(2))])
        except BaseException:
            ok = False
        os._exit(0 if ok else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert np.array_equal(store.get(b"child"), row(2))


# --- tiers and the public functions ---------------------------------------------------------------


def test_a_row_of_the_directory_moves_into_memory(store):
    near = MemoryStore()
    tiers = TieredStore(near, store)
    store.put([(b"a", row(1))])
    assert np.array_equal(tiers.get(b"a"), row(1))
    assert near.get(b"a") is not None
    tiers.put([(b"b", row(2))])
    assert np.array_equal(store.get(b"b"), row(2))
    assert tiers.get(b"c") is None
    tiers.clear()
    assert store.get(b"a") is None
    assert near.get(b"a") is None


def test_public_functions(tmp_path):
    open_directory(tmp_path).put([(b"a", row(1))])
    assert cache_info(tmp_path).n_rows == 1
    clear_cache(tmp_path)
    assert cache_info(tmp_path).n_rows == 0
    clear_cache()
    assert cache_info()[:4] == (0, 0, 0, 0)
    open_directory(tmp_path).close()
