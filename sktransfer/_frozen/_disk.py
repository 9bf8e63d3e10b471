"""The directory tier of the activation store: one SQLite file that processes share.

It must not know networks or images. SQLite gives atomic transactions, locks between processes and
recovery after a kill; what is added here is a digest per row, a bound on size, claims on keys that
are being computed, and doing without the store where it cannot be used.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from sktransfer._frozen import _disk_file
from sktransfer._frozen._disk_file import FILE_NAME, is_busy, is_damage
from sktransfer._frozen._store import CacheInfo, Expected, Rows, Store, is_expected
from sktransfer._utils import config as _config
from sktransfer.exceptions import SkTransferError

T = TypeVar("T")

# How long a claim holds without news of its owner: longer than a slow batch takes.
_LEASE_SECONDS = 120.0
# A row's time of last use is written again only after this long: reading must not mean writing.
_TOUCH_SECONDS = 3600.0
# How long another program may hold the file before it counts as stuck, and how long nothing waits
# for it from then on.
_BUSY_SECONDS = 10.0
_PAUSE_SECONDS = 600.0
# Files that one process keeps open, with three descriptors each.
_MAX_OPEN = 8
# Errors of SQLite, of the disk, and of Python where a field is not what was written.
_TROUBLE = (sqlite3.Error, OSError, TypeError, ValueError, ArithmeticError, MemoryError)


class DirectoryStore(Store):
    """Rows in a directory, shared by every process that opens it, bounded, checked at every read.

    The directory is made if need be. ``max_bytes`` bounds the rows, of which the least recently
    used are dropped. None: ``SKTRANSFER_CACHE_BYTES``, or 20 GiB.
    """

    def __init__(self, path: str | os.PathLike[str], max_bytes: int | None = None) -> None:
        self.path = Path(path).absolute()
        variable = _config.DIRECTORY_CACHE_VARIABLE
        self.max_bytes = _config.cache_bytes(variable) if max_bytes is None else max_bytes
        self._shared = _config.shared_cache()
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._hits = self._misses = 0
        self._warned: set[str] = set()
        self._lock = threading.RLock()
        self._reset()

    def _reset(self) -> None:
        """Trust the file again."""
        # Given up for this process; may be written to, as far as is known; was replaced once.
        self._off, self._writable, self._replaced = False, True, False
        self._paused_until = 0.0

    # --- the protocol of a store -----------------------------------------------------------------

    def get(self, key: bytes, expected: Expected | None = None) -> np.ndarray | None:
        """Return the row under ``key``, or None if there is none, or another than was expected."""

        def read(connection: sqlite3.Connection) -> tuple[np.ndarray | None, Any] | None:
            found = connection.execute(
                "SELECT dtype, value, digest, used FROM rows WHERE key = ?", (key,)
            ).fetchone()
            return None if found is None else (_disk_file.unpack(key, *found[:3]), found[3])

        def drop(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE totals SET value = value - "
                "(SELECT COALESCE(SUM(LENGTH(value)), 0) FROM rows WHERE key = ?)",
                (key,),
            )
            connection.execute("DELETE FROM rows WHERE key = ?", (key,))

        def touch(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE rows SET used = ? WHERE key = ?", (time.time(), key))

        found = self._attempt(read)
        row, used = found or (None, None)
        if row is not None and not is_expected(row, expected):
            row = None
        if found is not None and row is None:
            self._attempt(drop, writing=True)  # what is computed again is to take its place
        # The time may be damaged, or of another clock.
        elif row is not None and not (
            isinstance(used, float) and abs(time.time() - used) <= _TOUCH_SECONDS
        ):
            self._attempt(touch, writing=True)
        with self._lock:
            self._misses += row is None
            self._hits += row is not None
        return row

    def put(self, rows: Rows, claims: Sequence[bytes] = (), owner: str = "") -> None:
        """Keep ``rows`` in one transaction, in which claims are given back and others renewed.

        When the disk refuses, warn once and do without.
        """
        records = [(*_disk_file.pack(key, np.asarray(row)), time.time()) for key, row in rows]

        def write(connection: sqlite3.Connection) -> None:
            added = 0
            for record in records:
                cursor = connection.execute(
                    "INSERT OR IGNORE INTO rows VALUES (?, ?, ?, ?, ?)", record
                )
                added += cursor.rowcount * len(record[2])
                if not cursor.rowcount and not _is_there(connection, record[0]):
                    raise sqlite3.DatabaseError("its index names rows that do not exist")
            if records:
                connection.execute("UPDATE totals SET value = value + ?", (added,))
                self._evict(connection)
            if claims:
                connection.executemany(
                    "DELETE FROM claims WHERE key = ? AND owner = ?",
                    [(claim, owner) for claim in claims],
                )
                connection.execute(
                    "UPDATE claims SET expires = ? WHERE owner = ?",
                    (time.time() + _LEASE_SECONDS, owner),
                )

        if records or claims:
            self._attempt(write, writing=True)

    def claim(self, key: bytes, owner: str, rows: Sequence[bytes] = ()) -> bool:
        """As :class:`Store`; claims of processes that are dead or silent for long do not count."""

        def write(connection: sqlite3.Connection) -> bool:
            now = time.time()
            held = connection.execute(
                "SELECT owner, host, pid, expires FROM claims WHERE key = ?", (key,)
            ).fetchone()
            if held is not None and held[0] != owner.encode() and _holds(now, *held[1:]):
                return False
            if rows and all(map(partial(_is_there, connection), rows)):
                return False
            connection.execute(
                "INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?, ?)",
                (key, owner, socket.gethostname(), os.getpid(), now + _LEASE_SECONDS),
            )
            return True

        granted = self._attempt(write, writing=True)
        return True if granted is None else granted

    def info(self) -> CacheInfo:
        """Return the look-ups of this process; rows and bytes of the directory."""

        def read(connection: sqlite3.Connection) -> tuple[int, int]:
            (n_rows,) = connection.execute("SELECT COUNT(*) FROM rows").fetchone()
            return n_rows, _total(connection)

        there = os.path.lexists(self.path)  # to look is not to make it
        n_rows, n_bytes = (self._attempt(read) if there else None) or (0, 0)
        return CacheInfo(self._hits, self._misses, n_rows, n_bytes, self.max_bytes)

    def clear(self) -> None:
        """Forget every row and give the space back, or raise SkTransferError."""

        def write(connection: sqlite3.Connection) -> bool:
            connection.execute("DELETE FROM rows")
            connection.execute("DELETE FROM claims")
            connection.execute("UPDATE totals SET value = 0")
            return True

        def shrink(connection: sqlite3.Connection) -> None:
            # Where another process is at work, the space is used again and not given back.
            with suppress(sqlite3.OperationalError):
                connection.execute("VACUUM")

        with self._lock:
            self._hits = self._misses = 0
            self._close()
            self._reset()
            cleared = self._attempt(write, writing=True)
            self._attempt(shrink)
        if not cleared:
            raise SkTransferError(
                f"The activation store in {str(self.path)!r} could not be cleared: it is locked by "
                "another process, or cannot be written to. End that process, or delete "
                f"{FILE_NAME!r} and the files that begin with this name."
            )

    @property
    def usable(self) -> bool:
        """Whether the directory can be written to, as far as is known; it is made if need be."""
        return self._attempt(lambda connection: True, writing=True) or False

    # --- the file --------------------------------------------------------------------------------

    def _evict(self, connection: sqlite3.Connection) -> None:
        """Drop the least recently used rows beyond the bound."""
        if _total(connection) <= self.max_bytes:
            return
        # Counted again: a total that is wrong must not empty the store.
        (n_bytes,) = connection.execute("SELECT TOTAL(LENGTH(value)) FROM rows").fetchone()
        # A tenth more than needed, so that the next batch does not have to do it again.
        surplus = n_bytes - 0.9 * self.max_bytes if n_bytes > self.max_bytes else 0
        freed, oldest = 0, []
        for rowid, size in connection.execute(
            "SELECT rowid, LENGTH(value) FROM rows ORDER BY used, rowid"
        ):
            if freed >= surplus:
                break
            freed += size
            oldest.append((rowid,))
        connection.executemany("DELETE FROM rows WHERE rowid = ?", oldest)
        connection.execute("UPDATE totals SET value = ?", (int(n_bytes) - freed,))

    def _attempt(
        self, action: Callable[[sqlite3.Connection], T], *, writing: bool = False
    ) -> T | None:
        """Run ``action``, which may be run again; on trouble warn once and return None, a miss.

        One that is ``writing`` is a transaction. Where another program holds the file, this waits;
        once that was in vain, nothing is written and nothing waits until the pause is over.
        """
        with self._lock:
            deadline = time.monotonic() + _BUSY_SECONDS
            delay = 0.001
            while not self._off:
                paused = time.monotonic() < self._paused_until
                if writing and (paused or not self._writable):
                    return None
                try:
                    connection = self._open()
                    if not writing:
                        return action(connection)
                    if self._writable:
                        with connection:
                            connection.execute("BEGIN IMMEDIATE")
                            return action(connection)
                except _TROUBLE as error:
                    if not is_busy(error):
                        if not self._continue_after(error, writing):
                            return None
                    elif paused:
                        return None
                    elif time.monotonic() > deadline:
                        self._paused_until = time.monotonic() + _PAUSE_SECONDS
                        self._warn(
                            "locked",
                            f"has been locked by another process for {_BUSY_SECONDS:.0f} s, which "
                            f"may have stopped (`fuser {FILE_NAME}` names it). For "
                            f"{_PAUSE_SECONDS / 60:.0f} minutes nothing is written to it, and rows "
                            "are read only where that is possible at once; results are the same.",
                        )
                        return None
                    else:  # here and not in SQLite, where Ctrl-C would wait too
                        time.sleep(delay)
                        delay = min(2 * delay, 0.05)
            return None

    def _continue_after(self, error: Exception, writing: bool) -> bool:
        """Decide about the store after an error; return whether to try the action again.

        A file whose structure is damaged is put aside, whole, once in a process.
        """
        opened, known = self._connection is not None, self._identity
        # Messages of SQLite that quote damaged text cannot be decoded.
        if is_damage(error) and (opened or isinstance(error, sqlite3.Error | UnicodeDecodeError)):
            self._close()
            if known is not None and known != _disk_file.identity(self.path):
                return True  # another process has done it already
            kind, what, first = "given up", f"is damaged ({error})", not self._replaced
            self._replaced = True
            if first and not self._writable:  # its owner may have written to it since it was opened
                return True
            if first:
                try:
                    _disk_file.set_aside(self.path)
                except OSError as refused:
                    what += f", cannot be renamed ({refused})"
                else:
                    self._warn("damaged", f"{what} and was renamed; its rows are computed again.")
                    return True
        elif opened and writing:  # full, for example: what is there may still be read
            self._writable = False
            self._warn("unusable", f"cannot be written to ({error}); results are the same.")
            return False
        else:
            kind, what = "unusable", f"cannot be used ({error})"
        self._off, self._writable = True, False
        self._close()
        self._warn(kind, f"{what} and is left alone by this process; results are the same.")
        return False

    def _open(self) -> sqlite3.Connection:
        """Return the connection, opened if need be, also where the file was removed meanwhile."""
        if self._connection is not None and self._identity != _disk_file.identity(self.path):
            self._close()
        if self._connection is None:
            self._identity = _disk_file.identity(self.path)
            connection, writable = _disk_file.open_file(self.path)
            self._connection, self._identity = connection, _disk_file.identity(self.path)
            if not writable:
                self._writable = False
                self._warn("read-only", "is read-only: its rows are used, and none are added.")
            self._warn_of_others()
        elif self._connection.in_transaction:  # an interrupt came at the worst moment
            self._connection.rollback()
        _note_use(self)
        return self._connection

    def _close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        with _OPENING:
            _RECENT.pop(self, None)
        if connection is not None:
            connection.close()

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self._lock:
            self._close()

    def _warn_of_others(self) -> None:
        """Say who else may change the rows, unless the user has said that this is intended."""
        paths = () if self._shared else (self.path, self.path / FILE_NAME)
        for others in filter(None, map(_disk_file.who_else_writes, paths)):
            self._warn(
                "shared",
                f"{others}: whoever can write there can change the activations that you get, "
                "though not run code. Name a directory that only you can write to, or set "
                f"{_config.SHARED_CACHE_VARIABLE}=1 if you trust all of them.",
            )

    def _warn(self, kind: str, what: str) -> None:
        """Warn, once for each kind of trouble."""
        if kind not in self._warned:
            self._warned.add(kind)
            place = f"The activation store in {str(self.path)!r}"
            warnings.warn(f"{place} {what}", RuntimeWarning, stacklevel=2)


def _total(connection: sqlite3.Connection) -> int:
    """Return how many bytes of rows are held, as far as was noted."""
    (n_bytes,) = connection.execute("SELECT value FROM totals").fetchone()
    if not isinstance(n_bytes, int) or n_bytes < 0:
        (n_bytes,) = connection.execute("SELECT TOTAL(LENGTH(value)) FROM rows").fetchone()
    return int(n_bytes)


def _is_there(connection: sqlite3.Connection, key: bytes) -> bool:
    """Return whether there is a row under ``key``."""
    # Not of a column that the index holds: it might be the index alone that has the row.
    return connection.execute("SELECT used FROM rows WHERE key = ?", (key,)).fetchone() is not None


def _holds(now: float, host: Any, pid: Any, expires: Any) -> bool:
    """Return whether a claim counts: its owner may live, and it does not last for too long.

    The clock of another machine may be ahead, but by no more than a lease.
    """
    if not isinstance(expires, float) or not isinstance(pid, int):
        return False
    if not now < expires < now + 2 * _LEASE_SECONDS:
        return False
    # Of processes on other machines only the lease tells.
    return host != socket.gethostname().encode() or _disk_file.may_live(pid)


# --- the stores of a process ----------------------------------------------------------------------

_OPEN: dict[Path, DirectoryStore] = {}
_OPENING = threading.Lock()
# Those with an open file, the most recently used last.
_RECENT: OrderedDict[DirectoryStore, None] = OrderedDict()
# Connections of the process that this one was forked from: to be neither used nor closed here.
_INHERITED: list[sqlite3.Connection | None] = []
# Those whose files are closed while this process is forked.
_HELD: list[DirectoryStore] = []
_FORK_SECONDS = 5.0


def open_directory(path: str | os.PathLike[str]) -> DirectoryStore:
    """Return the process's one store of a directory, which estimators with that cache share."""
    name = os.fspath(path)
    if not name.strip() or "://" in name:
        raise ValueError(
            f"cache={name!r} names no directory of this machine: give its path, True for memory, "
            "or False."
        )
    key = _config.expanded(name, "cache").absolute()
    with _OPENING:
        store = _OPEN.get(key)
        if store is None:
            store = _OPEN[key] = DirectoryStore(key)
        return store


def _note_use(store: DirectoryStore) -> None:
    """Close files that were used least recently where too many are open."""
    with _OPENING:
        _RECENT[store] = None
        _RECENT.move_to_end(store)
        surplus = list(_RECENT)[:-_MAX_OPEN] if len(_RECENT) > _MAX_OPEN else ()
    for old in surplus:
        if old._lock.acquire(blocking=False):  # else a thread is using it
            try:
                old._close()
            finally:
                old._lock.release()


def _before_fork() -> None:
    """Close the files: a lock inside SQLite that a thread holds would never be free in the child.

    A thread that is reading or writing is waited for, but not for long.
    """
    for store in {*_RECENT, *_OPEN.values()}:
        if store._lock.acquire(timeout=_FORK_SECONDS):
            _HELD.append(store)
            store._close()


def _after_fork_in_parent() -> None:
    while _HELD:
        _HELD.pop()._lock.release()


def _after_fork_in_child() -> None:
    """Let the child open its own files, but for those that a thread of the parent was using."""
    global _OPENING
    _OPENING = threading.Lock()
    for store in {*_RECENT, *_OPEN.values()}:
        store._lock = threading.RLock()
        if store not in _HELD:
            _INHERITED.append(store._connection)
            store._connection, store._off = None, True
    _HELD.clear()
    _RECENT.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
