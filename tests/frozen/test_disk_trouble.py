"""Trouble with the directory tier: locks, damage, other programs, other users, read-only disks."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import tempfile
import threading
import time
import warnings
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from sktransfer import cache_info, clear_cache
from sktransfer._frozen import (
    DirectoryStore,
    MemoryStore,
    TieredStore,
    _disk,
    _disk_file,
    store_for,
)
from sktransfer._frozen._disk import FILE_NAME
from sktransfer._utils import config
from sktransfer.exceptions import SkTransferError
from tests.stored import key, row

posix = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="owners and modes of POSIX")
root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can act as another user"
)


@pytest.fixture
def store(tmp_path):
    """A store of twenty rows, closed."""
    store = DirectoryStore(tmp_path / "store")
    store.put([(key(i), row(i)) for i in range(20)])
    store.close()
    yield store
    store.close()


def caught(action):
    """Return the warnings of an action."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        action()
    return [str(each.message) for each in found]


def right(store, n=20):
    """Return how many rows are found; none may be wrong."""
    found = [store.get(key(i)) for i in range(n)]
    assert all(each is None or np.array_equal(each, row(i)) for i, each in enumerate(found))
    return sum(each is not None for each in found)


# --- locks ----------------------------------------------------------------------------------------


def set_journal(store, mode):
    with closing(sqlite3.connect(store.path / FILE_NAME)) as other:
        other.execute(f"PRAGMA journal_mode = {mode}")


def hold(store, journal, lock):
    """Return a connection of another program that holds a lock."""
    other = sqlite3.connect(
        store.path / FILE_NAME, isolation_level=None, timeout=0, check_same_thread=False
    )
    if lock == "FOR ITSELF":
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute(f"PRAGMA journal_mode = {journal}")
    other.execute(f"BEGIN {'IMMEDIATE' if lock == 'FOR ITSELF' else lock}")
    other.execute("UPDATE totals SET value = value")
    return other


LOCKS = [("wal", "IMMEDIATE", 20), ("wal", "EXCLUSIVE", 20), ("wal", "FOR ITSELF", 0)]
LOCKS += [("delete", "IMMEDIATE", 20), ("delete", "EXCLUSIVE", 0)]


@pytest.mark.parametrize(("journal", "lock", "readable"), LOCKS)
@pytest.mark.parametrize("when", ["before it is opened", "after"])
def test_a_lock_that_is_never_released_is_waited_for_once(
    store, monkeypatch, journal, lock, readable, when
):
    monkeypatch.setattr(_disk, "_BUSY_SECONDS", 0.2)
    if when == "after" and lock != "FOR ITSELF":
        monkeypatch.setattr(_disk_file, "_set_journal", lambda *_: None)  # of the other's choice
        set_journal(store, journal)
        assert right(store) == 20
    other = hold(store, journal, lock)

    def work():
        began = time.perf_counter()
        for i in range(300):
            found = store.get(key(i))
            assert (found is not None) == (i < readable)
            if found is None:
                assert store.claim(key(1000 + i), "me")
                store.put([(key(i), row(i))], [key(1000 + i)], "me")
        store.release([b"a"], "me")
        assert store.info().max_bytes == store.max_bytes
        assert not store.usable
        took.append(time.perf_counter() - began)

    took: list[float] = []
    (said,) = caught(work)
    assert "has been locked by another process for 0 s" in said
    assert 0.2 <= took[0] < 2
    other.rollback()
    other.close()
    assert right(store) == 20  # read again at once, written to after the pause
    assert store.claim(b"a", "me")
    store._paused_until = 0.0
    store.put([(key(20), row(20))])
    assert right(store, 21) == 21


def test_a_lock_that_is_released_in_time_is_waited_for(store):
    other = hold(store, "wal", "IMMEDIATE")
    release = threading.Timer(0.2, other.rollback)
    release.start()
    assert caught(lambda: store.put([(key(20), row(20))])) == []
    release.join()
    other.close()
    assert right(store, 21) == 21


def test_opening_a_store_takes_no_lock_of_a_writer(store, monkeypatch):
    monkeypatch.setattr(_disk, "_BUSY_SECONDS", 0.0)
    other = hold(store, "wal", "IMMEDIATE")
    assert right(DirectoryStore(store.path)) == 20
    other.close()


def test_a_locked_store_is_not_said_to_be_cleared(store, monkeypatch):
    monkeypatch.setattr(_disk, "_BUSY_SECONDS", 0.05)
    other = hold(store, "wal", "IMMEDIATE")
    with (
        pytest.raises(SkTransferError, match=r"could not be cleared: it is locked"),
        pytest.warns(RuntimeWarning, match="locked by another process"),
    ):
        clear_cache(store.path)
    other.close()
    clear_cache(store.path)
    assert cache_info(store.path).n_rows == 0
    _disk.open_directory(store.path).close()


def test_an_interrupt_in_a_transaction_does_not_end_the_store(store, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_disk.DirectoryStore, "_evict", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.put([(key(20), row(20))])
    store._connection.execute("BEGIN IMMEDIATE")  # as if the interrupt had come a little later
    assert caught(lambda: store.put([(key(21), row(21))])) == []
    assert store.get(key(20)) is None
    assert np.array_equal(store.get(key(21)), row(21))


# --- damage ---------------------------------------------------------------------------------------


def test_no_flipped_bit_gives_a_wrong_row_or_an_error(tmp_path):
    rng = np.random.default_rng(0)
    kinds = (np.float16, np.float32, np.float64)
    rows = [(key(i), rng.normal(size=40 + i).astype(kinds[i % 3])) for i in range(60)]
    whole = DirectoryStore(tmp_path / "whole")
    whole.put(rows)
    whole.claim(b"c", "somebody")
    whole.close()
    content = (whole.path / FILE_NAME).read_bytes()
    # Every byte of the header, and each of the pages: tables, index, rows, claims, total.
    places = [*range(100), *rng.choice(np.arange(100, len(content)), 250, replace=False)]
    n_said = 0
    for place in places:
        damaged = DirectoryStore(tmp_path / "damaged")
        damaged.path.mkdir()
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(rng.integers(8))
        (damaged.path / FILE_NAME).write_bytes(flipped)

        def work(store=damaged, place=place):
            for name, right in rows:
                found = store.get(name, (right.size, right.dtype))
                if found is None:
                    assert store.claim(name, "me"), place
                else:
                    assert found.dtype == right.dtype, place
                    assert np.array_equal(found, right), place
            store.claim(b"c", "me")
            store.put(rows, [name for name, _ in rows], "me")
            store.info()

        said = caught(work)
        assert len(said) <= 1, (place, said)
        n_said += len(said)
        # What was computed again is kept, unless the header says that nothing may be written; a
        # key in the index that is out of order may hide a row or two.
        damaged.put(rows)  # the damage may have been found by counting, just now
        again = [damaged.get(name) for name, _ in rows]
        for found, (_, right) in zip(again, rows, strict=True):
            assert found is None or np.array_equal(found, right), place
        if not any("readonly" in each for each in said):
            assert sum(found is None for found in again) <= 3, (place, said)
        damaged.close()
        shutil.rmtree(damaged.path)
    assert 20 < n_said < len(places) / 2


def test_a_second_damaged_file_is_left_alone(store):
    for _ in range(2):
        store.put([(key(i), row(i)) for i in range(20)])
        store.close()
        (store.path / FILE_NAME).write_bytes(b"something else entirely" * 100)
        said = caught(lambda: right(store))
        assert len(said) == 1
    assert "left alone" in said[0]
    began = time.perf_counter()
    assert right(store) == 0
    assert store.claim(b"a", "me")
    assert not store.usable
    assert time.perf_counter() - began < 0.1
    assert len(list(store.path.glob(f"{FILE_NAME}.damaged-*"))) == 1
    clear_again = DirectoryStore(store.path)
    with pytest.warns(RuntimeWarning, match="was renamed"):
        clear_again.clear()
    assert clear_again.usable
    clear_again.close()


def test_a_file_that_another_process_has_replaced_is_not_replaced_again(store):
    assert right(store) == 20
    assert store._connection is not None
    other = DirectoryStore(store.path)
    (store.path / FILE_NAME).rename(store.path / "aside")
    other.put([(key(30), row(30))])
    assert store._continue_after(sqlite3.DatabaseError("damaged"), writing=True)
    assert np.array_equal(store.get(key(30)), row(30))
    assert not list(store.path.glob("*.damaged-*"))
    other.close()


@pytest.mark.parametrize(
    "dtype", ["|O", "<U1000000", "|V4", "<i4", "<c8", "<f16", "f4", "", "\udcff"]
)
def test_a_record_of_any_other_type_is_a_miss(store, dtype):
    value, name = row(3).tobytes(), dtype.encode(errors="surrogateescape")
    digest = _disk_file._digest(b"k", name, value)
    record = (b"k", name, value, digest, time.time())
    right(store)
    store._connection.execute("INSERT INTO rows VALUES (?, ?, ?, ?, ?)", record)
    assert caught(lambda: store.get(b"k")) == []
    assert store.get(b"k") is None
    store.put([(b"k", row(3))])
    assert np.array_equal(store.get(b"k"), row(3))


@pytest.mark.parametrize(
    ("column", "value"),
    [("dtype", 3), ("dtype", "<f8"), ("value", "text"), ("value", 1.5), ("value", b"")]
    + [("value", bytes(255)), ("digest", 0), ("digest", "text"), ("digest", b"")],
)
def test_a_record_with_a_field_of_another_kind_is_a_miss(store, column, value):
    right(store)
    store._connection.execute(f"UPDATE rows SET {column} = ? WHERE key = ?", (value, key(3)))
    assert caught(lambda: store.get(key(3))) == []
    assert right(store) == 19
    store.put([(key(3), row(3))])
    assert right(store) == 20


@pytest.mark.parametrize("used", ["soon", b"", float("inf"), 0.0, 1e300])
def test_a_damaged_time_of_use_is_corrected(store, used):
    right(store)
    store._connection.execute("UPDATE rows SET used = ? WHERE key = ?", (used, key(3)))
    assert right(store) == 20
    (now,) = store._connection.execute("SELECT used FROM rows WHERE key = ?", (key(3),)).fetchone()
    assert abs(now - time.time()) < 100


@pytest.mark.parametrize("tiers", ["directory", "memory", "both"])
def test_a_row_of_another_width_or_narrower_is_a_miss_and_is_replaced(tmp_path, tiers):
    memory, directory = MemoryStore(), DirectoryStore(tmp_path)
    store = {"memory": memory, "directory": directory, "both": TieredStore(memory, directory)}[
        tiers
    ]
    store.put([(b"a", row(1, n=64))])
    expected = (64, np.dtype(np.float32))
    assert store.get(b"a", (64, np.dtype(np.float16))) is not None  # too large for half precision
    assert store.get(b"a", expected) is not None
    assert store.get(b"a", (63, expected[1])) is None
    store.put([(b"a", row(1, n=63))])
    assert store.get(b"a", (63, expected[1])) is not None
    assert store.get(b"a", (63, np.dtype(np.float64))) is None
    directory.close()


def test_no_memory_for_a_row_is_a_miss_and_the_file_is_kept(store, monkeypatch):
    def fails(*_):
        raise MemoryError

    monkeypatch.setattr(_disk_file, "unpack", fails)
    (said,) = caught(lambda: right(store))
    assert "left alone by this process" in said
    assert not list(store.path.glob("*.damaged-*"))


@pytest.mark.parametrize("total", [-(10**12), 10**15, "many", None])
def test_a_wrong_total_neither_empties_the_store_nor_stops_it(store, total):
    right(store)
    sql = "UPDATE totals SET value = ?"
    if total is None:
        sql, total = "UPDATE totals SET name = ?", "other"
    store._connection.execute(sql, (total,))
    store.put([(key(20), row(20))])
    assert right(store, 21) == 21


# --- other programs and other users ---------------------------------------------------------------


def obstacle(path, kind):
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            before = Path.cwd()
            os.chdir(path.parent)  # names of sockets are short
            server.bind(path.name)
            os.chdir(before)
    elif kind == "link to itself":
        path.symlink_to(path.name)
    elif kind == "link to nothing":
        path.symlink_to("nothing")


@posix
@pytest.mark.parametrize("name", [FILE_NAME, f"{FILE_NAME}-wal", f"{FILE_NAME}-journal"])
@pytest.mark.parametrize(
    "kind", ["directory", "pipe", "socket", "link to itself", "link to nothing"]
)
def test_what_is_no_file_is_left_alone(tmp_path, name, kind):
    obstacle(tmp_path / name, kind)
    store = DirectoryStore(tmp_path)
    (said,) = caught(lambda: store.put([(key(0), row(0))]))
    named = "Too many levels" if kind == "link to itself" else f"{name} is not a regular file"
    assert named in said
    assert right(store) == 0
    assert [each.name for each in tmp_path.iterdir()] == [name]


@posix
def test_a_directory_that_is_a_link_is_followed_and_one_to_itself_is_not(store, tmp_path):
    (tmp_path / "link").symlink_to(store.path)
    through = DirectoryStore(tmp_path / "link")
    assert right(through) == 20
    through.close()
    (tmp_path / "loop").symlink_to("loop")
    (said,) = caught(lambda: DirectoryStore(tmp_path / "loop").get(key(0)))
    assert "cannot be used" in said


def test_a_database_of_another_program_is_left_as_it_is(tmp_path):
    with sqlite3.connect(tmp_path / FILE_NAME) as other:
        other.execute("CREATE TABLE rows (key, price)")
    other.close()
    content = (tmp_path / FILE_NAME).read_bytes()
    store = DirectoryStore(tmp_path)
    (said,) = caught(lambda: [store.put([(key(0), row(0))]), store.get(key(0))])
    assert "is a database of others" in said
    assert (tmp_path / FILE_NAME).read_bytes() == content
    assert [each.name for each in tmp_path.iterdir()] == [FILE_NAME]


def test_a_store_of_a_newer_version_is_left_as_it_is(store):
    with sqlite3.connect(store.path / FILE_NAME) as newer:
        newer.execute("ALTER TABLE rows ADD COLUMN more")
        newer.execute("PRAGMA user_version = 99")
    newer.close()
    (said,) = caught(lambda: right(store))
    assert "is a database of a newer version of sktransfer" in said
    assert not list(store.path.glob("*.damaged-*"))


def test_rows_and_tables_of_others_do_not_matter(store):
    right(store)
    store._connection.execute("CREATE TABLE other (a)")
    for name in (b"", b"short", 3, "text", None, bytes(1000)):
        record = (name, "no type", 1.5, "no digest", 0)
        store._connection.execute("INSERT INTO rows VALUES (?, ?, ?, ?, ?)", record)
    store.close()
    assert caught(lambda: right(store)) == []
    assert right(store) == 20


def claim_of_another(store, **fields):
    claim = {"owner": "them", "host": socket.gethostname(), "pid": os.getpid()}
    claim = {**claim, "expires": time.time() + 60, **fields}
    right(store)
    store._connection.execute(
        "INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?, ?)", (b"a", *claim.values())
    )


def test_a_claim_of_another_machine_counts_for_a_lease(store):
    claim_of_another(store, host="elsewhere")
    assert not store.claim(b"a", "me")
    claim_of_another(store, host="elsewhere", expires=time.time() - 1)
    assert store.claim(b"a", "me")


@pytest.mark.parametrize(
    "fields",
    [{"expires": time.time() + 10**6}, {"expires": float("inf")}, {"expires": "never"}]
    + [{"expires": b""}, {"pid": "one"}, {"pid": b""}, {"pid": 2**62}],
)
def test_a_claim_that_lasts_too_long_or_makes_no_sense_is_void(store, fields):
    claim_of_another(store, **fields)
    assert caught(lambda: store.claim(b"a", "me")) == []
    assert not store.claim(b"a", "you")
    assert store.claim(b"a", "me")
    assert right(store) == 20


@posix
@pytest.mark.parametrize("what", ["directory", "file"])
def test_a_store_that_all_can_write_to_is_said_once_and_used(store, monkeypatch, what):
    path = store.path if what == "directory" else store.path / FILE_NAME
    path.chmod(0o1777)
    (said,) = caught(lambda: right(store))
    assert "can be written to by every user of this machine" in said
    assert "SKTRANSFER_SHARED_CACHE=1" in said
    store.close()
    assert caught(lambda: right(store)) == []
    monkeypatch.setenv("SKTRANSFER_SHARED_CACHE", "1")
    assert caught(lambda: right(DirectoryStore(store.path))) == []
    monkeypatch.setenv("SKTRANSFER_SHARED_CACHE", "perhaps")
    with pytest.raises(ValueError, match="SKTRANSFER_SHARED_CACHE must be 1 or 0"):
        DirectoryStore(store.path)


@root
def test_a_store_of_another_user_or_a_foreign_group_is_said(store):
    os.chown(store.path, 4321, -1)
    (said,) = caught(lambda: right(DirectoryStore(store.path)))
    assert "belongs to another user (number 4321)" in said
    os.chown(store.path, 0, 4321)
    assert caught(lambda: right(DirectoryStore(store.path))) == []
    store.path.chmod(0o775)
    (said,) = caught(lambda: right(DirectoryStore(store.path)))
    assert "can be written to by a group (number 4321)" in said


# --- read-only ------------------------------------------------------------------------------------


@pytest.fixture
def as_another_user():
    """A directory that everybody can reach, and a way to be nobody in particular."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    yield directory
    os.seteuid(0)
    shutil.rmtree(directory)


@root
@pytest.mark.parametrize("state", ["closed", "with its log", "in rollback mode", "file alone"])
def test_a_read_only_directory_gives_the_rows_it_holds(as_another_user, state):
    store = DirectoryStore(as_another_user / "store")
    store.put([(key(i), row(i)) for i in range(20)])
    if state != "with its log":
        store.close()
    if state == "in rollback mode":
        set_journal(store, "delete")
    if state == "file alone":
        os.chown(store.path, 65534, 65534)
    before = {each.name: each.read_bytes() for each in store.path.iterdir()}
    os.seteuid(65534)
    reader = DirectoryStore(store.path)

    def work():
        assert right(reader) == 20
        reader.put([(key(99), row(99))])
        assert reader.claim(b"a", "me")
        reader.release([b"a"], "me")
        assert reader.get(key(99)) is None
        assert reader.info().n_rows == 20
        assert not reader.usable

    (said,) = caught(work)
    assert "is read-only: its rows are used, and none are added" in said
    with pytest.raises(SkTransferError, match="cannot be written to"):
        reader.clear()
    reader.close()
    os.seteuid(0)
    after = {each.name: each.read_bytes() for each in store.path.iterdir()}
    assert {**after, f"{FILE_NAME}-shm": b""} == {**before, f"{FILE_NAME}-shm": b""} or (
        after == before
    )
    store.close()


@root
def test_damage_in_a_read_only_directory_is_a_miss(as_another_user):
    store = DirectoryStore(as_another_user / "store")
    store.put([(key(i), row(i, n=2000)) for i in range(50)])
    store.close()
    content = bytearray((store.path / FILE_NAME).read_bytes())
    content[20_000:60_000] = bytes(40_000)
    (store.path / FILE_NAME).write_bytes(content)
    os.seteuid(65534)
    reader = DirectoryStore(store.path)
    caught(lambda: [reader.get(key(i)) for i in range(50)])
    assert reader.get(key(0)) is None or np.array_equal(reader.get(key(0)), row(0, n=2000))
    os.seteuid(0)
    assert [each.name for each in store.path.iterdir()] == [FILE_NAME]


@root
def test_an_empty_read_only_directory_is_one_warning(as_another_user):
    os.seteuid(65534)
    store = DirectoryStore(as_another_user)
    assert len(caught(lambda: [store.get(key(0)), store.put([(key(0), row(0))])])) == 1


# --- what a user names ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "  ", "s3://bucket/x", "file:///tmp/x"])
def test_a_name_that_is_no_directory_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="names no directory of this machine"):
        cache_info(name)
    with pytest.raises(ValueError, match="names no directory of this machine"):
        store_for(name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [None, 3, b"x", False])
def test_what_is_no_name_at_all_is_refused(name):
    with pytest.raises(ValueError, match=r"cache=.* names no store"):
        cache_info(name)


@posix
def test_a_home_that_cannot_be_found_is_named(monkeypatch):
    with pytest.raises(ValueError, match=r"cache='~nosuchuser/x' begins with a home directory"):
        cache_info("~nosuchuser/x")
    for variable, read in (
        ("SKTRANSFER_WEIGHTS_DIR", config.weights_directory),
        ("SKTRANSFER_HOME", config.home_directory),
    ):
        monkeypatch.setenv(variable, "~nosuchuser/x")
        with pytest.raises(ValueError, match=f"{variable}='~nosuchuser/x' begins with a home"):
            read()


def test_to_look_at_a_directory_that_is_not_there_does_not_make_it(tmp_path):
    assert cache_info(tmp_path / "typo").n_rows == 0
    assert list(tmp_path.iterdir()) == []


@posix
@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_directory_that_is_removed_in_use_is_made_again(store, how):
    assert right(store) == 20
    shutil.rmtree(store.path)
    if how == "replaced":
        other = DirectoryStore(store.path)
        other.put([(key(i), row(i)) for i in range(5)])
        other.close()
    assert right(store) == (5 if how == "replaced" else 0)
    store.put([(key(10), row(10))])
    again = DirectoryStore(store.path)
    assert np.array_equal(again.get(key(10)), row(10))  # on the disk, not in a file without a name
    again.close()


# --- many directories -----------------------------------------------------------------------------


def test_files_used_least_recently_are_closed_and_opened_again(tmp_path):
    stores = [_disk.open_directory(tmp_path / str(i)) for i in range(20)]
    for _ in range(2):
        for i, store in enumerate(stores):
            store.put([(key(i), row(i))])
    assert sum(store._connection is not None for store in stores) == _disk._MAX_OPEN
    if Path("/proc/self/fd").is_dir():
        links = [os.readlink(each) for each in Path("/proc/self/fd").iterdir() if each.exists()]
        ours = [link for link in links if link.startswith(str(tmp_path))]
        assert len(ours) <= 3 * _disk._MAX_OPEN
    for i, store in enumerate(stores):
        assert np.array_equal(store.get(key(i)), row(i))
        store.close()
    assert not {*stores} & {*_disk._RECENT}


def test_threads_with_more_directories_than_are_kept_open(tmp_path):
    stores = [DirectoryStore(tmp_path / str(i)) for i in range(12)]
    wrong = []

    def work(seed):
        for i in np.random.default_rng(seed).integers(0, 12, 60):
            stores[i].put([(key(seed), row(i))])
            found = stores[i].get(key(seed))
            if found is None or not np.array_equal(found, row(i)):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    for store in stores:
        store.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_while_a_thread_works_on_a_store_does_not_hang_the_child(store, monkeypatch):
    monkeypatch.setattr(_disk, "_FORK_SECONDS", 0.1)
    assert right(store) == 20
    with store._lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python warns of fork with threads about
        pids = []
        fork = threading.Thread(target=lambda: pids.append(os.fork() or child(store)))
        fork.start()
        fork.join()
    assert os.waitpid(pids[0], 0)[1] == 0
    assert right(store) == 20


def child(store):
    """Use the store in a forked process, without the file that is in use, and end it."""
    other = DirectoryStore(store.path)
    ok = right(store) == 0 and store.claim(b"a", "me") and right(other) == 20
    os._exit(0 if ok else 1)
