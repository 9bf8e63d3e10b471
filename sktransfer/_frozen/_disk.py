"""The directory tier of the activation store: one SQLite file that processes share.

It must not know networks or images. SQLite gives atomic transactions, locks between processes and
recovery after a kill; what is added here is a checksum per row, a bound on size, claims on keys
that are being computed, and doing without the store when the disk fails.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from sktransfer._frozen._store import CacheInfo, Rows
from sktransfer._utils import config as _config

T = TypeVar("T")

# The number rises when the meaning of the tables changes; files of other numbers are left alone.
FILE_NAME = "activations-1.sqlite"
_TABLES = """
CREATE TABLE IF NOT EXISTS rows (
    key BLOB PRIMARY KEY, dtype TEXT NOT NULL, value BLOB NOT NULL, checksum INTEGER NOT NULL,
    used REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS by_use ON rows (used);
CREATE TABLE IF NOT EXISTS claims (
    key BLOB PRIMARY KEY, owner TEXT NOT NULL, host TEXT NOT NULL, pid INTEGER NOT NULL,
    expires REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS totals (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
INSERT OR IGNORE INTO totals VALUES ('bytes', 0);
"""
# How long a claim holds without news of its owner: longer than a slow batch takes.
_LEASE_SECONDS = 120.0
# A row's time of last use is written again only after this long: reading must not mean writing.
_TOUCH_SECONDS = 3600.0
_BUSY_SECONDS = 60.0
# File systems whose locks and shared memory do not reach other machines: no write-ahead log there.
_NETWORK_FILE_SYSTEMS = ("nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "fuse.sshfs", "9p")


class DirectoryStore:
    """Rows in a directory, shared by every process that opens it, bounded, checked at every read.

    The directory is made if need be. ``max_bytes`` bounds the rows, of which the least recently
    used are dropped. None: ``SKTRANSFER_CACHE_BYTES``, or 20 GiB.
    """

    def __init__(self, path: str | os.PathLike[str], max_bytes: int | None = None) -> None:
        self.path = Path(path).expanduser().absolute()
        variable = _config.DIRECTORY_CACHE_VARIABLE
        self.max_bytes = _config.cache_bytes(variable) if max_bytes is None else max_bytes
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._pid = os.getpid()
        self._hits = self._misses = 0
        self._warned, self._writable = False, True

    # --- the protocol of a store -----------------------------------------------------------------

    def get(self, key: bytes) -> np.ndarray | None:
        """Return the row under ``key``, or None if there is none or it is damaged."""

        def read(connection: sqlite3.Connection) -> np.ndarray | None:
            found = connection.execute(
                "SELECT dtype, value, checksum, used FROM rows WHERE key = ?", (key,)
            ).fetchone()
            if found is None:
                return None
            dtype, value, checksum, used = found
            if _checksum(key, dtype, value) != checksum:
                self._drop(connection, key)
                return None
            if self._writable and time.time() - used > _TOUCH_SECONDS:
                with connection:
                    connection.execute("UPDATE rows SET used = ? WHERE key = ?", (time.time(), key))
            return np.frombuffer(value, dtype=np.dtype(dtype))

        row = self._attempt(read)
        with self._lock:
            self._misses += row is None
            self._hits += row is not None
        return row

    def put(self, rows: Rows, claims: Sequence[bytes] = (), owner: str = "") -> None:
        """Keep ``rows`` in one transaction, in which claims are given back and others renewed.

        When the disk refuses, warn once and do without.
        """
        now = time.time()
        records = []
        for key, row in rows:
            dtype, value = np.asarray(row).dtype.str, np.ascontiguousarray(row).tobytes()
            records.append((key, dtype, value, _checksum(key, dtype, value), now))

        def write(connection: sqlite3.Connection) -> None:
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                added = 0
                for record in records:
                    cursor = connection.execute(
                        "INSERT OR IGNORE INTO rows VALUES (?, ?, ?, ?, ?)", record
                    )
                    added += cursor.rowcount * len(record[2])
                if records:
                    connection.execute("UPDATE totals SET value = value + ?", (added,))
                    self._evict(connection)
                connection.executemany(
                    "DELETE FROM claims WHERE key = ? AND owner = ?",
                    [(claim, owner) for claim in claims],
                )
                if claims:
                    connection.execute(
                        "UPDATE claims SET expires = ? WHERE owner = ?",
                        (time.time() + _LEASE_SECONDS, owner),
                    )

        if self._writable and (records or claims):
            self._attempt(write)

    def claim(self, key: bytes, owner: str, rows: Sequence[bytes] = ()) -> bool:
        """As :class:`Store`; claims of processes that are dead or silent for long do not count."""

        def write(connection: sqlite3.Connection) -> bool:
            now = time.time()
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                held = connection.execute(
                    "SELECT owner, host, pid, expires FROM claims WHERE key = ?", (key,)
                ).fetchone()
                if held is not None:
                    holder, host, pid, expires = held
                    if holder != owner and expires > now and _may_live(host, pid):
                        return False
                if rows and all(map(partial(_is_there, connection), rows)):
                    return False
                connection.execute(
                    "INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?, ?)",
                    (key, owner, socket.gethostname(), os.getpid(), now + _LEASE_SECONDS),
                )
            return True

        if not self._writable:
            return True
        granted = self._attempt(write)
        return True if granted is None else granted

    def release(self, keys: Sequence[bytes], owner: str) -> None:
        self.put((), keys, owner)

    def info(self) -> CacheInfo:
        """Return the look-ups of this process; rows and bytes of the directory."""

        def read(connection: sqlite3.Connection) -> tuple[int, int]:
            (n_rows,) = connection.execute("SELECT COUNT(*) FROM rows").fetchone()
            (n_bytes,) = connection.execute("SELECT value FROM totals").fetchone()
            return n_rows, n_bytes

        n_rows, n_bytes = self._attempt(read) or (0, 0)
        return CacheInfo(self._hits, self._misses, n_rows, n_bytes, self.max_bytes)

    def clear(self) -> None:
        """Forget every row and give the space back."""

        def write(connection: sqlite3.Connection) -> None:
            with connection:
                connection.execute("DELETE FROM rows")
                connection.execute("DELETE FROM claims")
                connection.execute("UPDATE totals SET value = 0")
            connection.execute("VACUUM")

        self._attempt(write)
        with self._lock:
            self._hits = self._misses = 0
            self._writable = True

    @property
    def usable(self) -> bool:
        """Whether the directory can be written to, as far as is known; it is made if need be."""
        self._attempt(lambda connection: None)
        return self._writable

    # --- the file --------------------------------------------------------------------------------

    def _evict(self, connection: sqlite3.Connection) -> None:
        """Drop the least recently used rows beyond the bound."""
        (n_bytes,) = connection.execute("SELECT value FROM totals").fetchone()
        if n_bytes <= self.max_bytes:
            return
        # A tenth more than needed, so that the next batch does not have to do it again.
        surplus = n_bytes - int(0.9 * self.max_bytes)
        freed, oldest = 0, []
        for rowid, size in connection.execute(
            "SELECT rowid, LENGTH(value) FROM rows ORDER BY used, rowid"
        ):
            if freed >= surplus:
                break
            freed += size
            oldest.append((rowid,))
        connection.executemany("DELETE FROM rows WHERE rowid = ?", oldest)
        connection.execute("UPDATE totals SET value = value - ?", (freed,))

    def _drop(self, connection: sqlite3.Connection, key: bytes) -> None:
        """Remove a damaged row, so that what is computed again can take its place."""
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            (size,) = connection.execute(
                "SELECT COALESCE(SUM(LENGTH(value)), 0) FROM rows WHERE key = ?", (key,)
            ).fetchone()
            connection.execute("DELETE FROM rows WHERE key = ?", (key,))
            connection.execute("UPDATE totals SET value = value - ?", (size,))

    def _attempt(self, action: Callable[[sqlite3.Connection], T]) -> T | None:
        """Run ``action``; on trouble with the disk warn once and return None, a miss."""
        with self._lock:
            try:
                return action(self._open())
            except sqlite3.OperationalError as error:
                if _is_damage(error):
                    return self._begin_again(action, error)
                # Full, read-only, gone, or locked for a minute: computing still works.
                self._writable = False
                self._warn(f"cannot be used ({error})")
            except sqlite3.DatabaseError as error:
                return self._begin_again(action, error)
            except OSError as error:
                self._writable = False
                self._warn(f"cannot be used ({error})")
            return None

    def _begin_again(
        self, action: Callable[[sqlite3.Connection], T], error: sqlite3.Error
    ) -> T | None:
        """Put a file whose structure is damaged aside, whole, and continue with an empty one."""
        self._warn(f"is damaged ({error}) and was put aside; what it held is computed again")
        self._close()
        stamp = f"damaged-{time.time_ns()}"
        try:
            for suffix in ("", "-wal", "-shm"):
                file = self.path / f"{FILE_NAME}{suffix}"
                if file.exists():
                    file.rename(file.with_name(f"{FILE_NAME}{suffix}.{stamp}"))
            return action(self._open())
        except (sqlite3.Error, OSError):
            self._writable = False
            return None

    def _open(self) -> sqlite3.Connection:
        """Return the connection of this process, opened if need be."""
        if self._connection is not None and self._pid == os.getpid():
            return self._connection
        # After a fork the parent's connection must be neither used nor closed here.
        self._pid = os.getpid()
        self.path.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(
            self.path / FILE_NAME,
            timeout=_BUSY_SECONDS,
            check_same_thread=False,
            isolation_level=None,
        )
        try:
            _set_journal(connection, "delete" if _on_network(self.path) else "wal")
            # With the write-ahead log, a killed process loses nothing that was committed; a power
            # cut may lose the last seconds, never the file.
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.executescript(f"BEGIN IMMEDIATE; {_TABLES} COMMIT;")
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def _close(self) -> None:
        """Close the connection, if it is this process's own."""
        if self._connection is not None and self._pid == os.getpid():
            self._connection.close()
        self._connection = None

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self._lock:
            self._close()

    def _warn(self, what: str) -> None:
        """Warn, once, that the store does not work as it should."""
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"The activation store in {str(self.path)!r} {what}. Activations are computed "
                "without it; results are the same.",
                RuntimeWarning,
                stacklevel=2,
            )


def _set_journal(connection: sqlite3.Connection, mode: str) -> None:
    """Set the journal's mode, once; SQLite does not wait for a lock here, so that we have to."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            (current,) = connection.execute("PRAGMA journal_mode").fetchone()
            if current != mode:
                connection.execute(f"PRAGMA journal_mode = {mode}")
            return
        except sqlite3.OperationalError as error:
            busy = getattr(error, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCK"))
            if not busy or time.monotonic() > deadline:
                raise
            time.sleep(0.005)


def _checksum(key: bytes, dtype: str, value: bytes) -> int:
    """Return a checksum of all that belongs together: a value under another key is damage too."""
    return zlib.crc32(value, zlib.crc32(dtype.encode(), zlib.crc32(key)))


def _is_damage(error: sqlite3.Error) -> bool:
    """Return whether an error means that the file's structure is damaged."""
    return getattr(error, "sqlite_errorname", "") in ("SQLITE_CORRUPT", "SQLITE_NOTADB")


def _is_there(connection: sqlite3.Connection, key: bytes) -> bool:
    """Return whether there is a row under ``key``."""
    return connection.execute("SELECT 1 FROM rows WHERE key = ?", (key,)).fetchone() is not None


def _may_live(host: str, pid: int) -> bool:
    """Return whether a process may still be running; of other machines only their lease tells."""
    if host != socket.gethostname():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    try:  # killed, and its parent has not asked yet
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return True


def _on_network(path: Path) -> bool:
    """Return whether a path is on a file system of a network."""
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return False
    best, kind = "", ""
    for line in mounts:
        fields = line.split()
        point = fields[1].replace("\\040", " ")
        if len(point) > len(best) and path.is_relative_to(point):
            best, kind = point, fields[2]
    return kind.startswith(_NETWORK_FILE_SYSTEMS)


_OPEN: dict[Path, DirectoryStore] = {}
_OPENING = threading.Lock()


def open_directory(path: str | os.PathLike[str]) -> DirectoryStore:
    """Return the process's one store of a directory, which estimators with that cache share."""
    key = Path(path).expanduser().absolute()
    with _OPENING:
        store = _OPEN.get(key)
        if store is None:
            store = _OPEN[key] = DirectoryStore(key)
        return store
