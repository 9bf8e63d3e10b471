"""The file of the directory store: its tables and records, how it is opened, and what its errors
mean. It must not know what a store is used for.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

# The number rises when the meaning of the tables changes; files of other numbers are left alone.
_NUMBER = 2
FILE_NAME = f"activations-{_NUMBER}.sqlite"
_APPLICATION = 0x736B7478
_TABLES = {
    "rows": (
        "CREATE TABLE rows (key BLOB PRIMARY KEY, dtype BLOB NOT NULL, value BLOB NOT NULL, "
        "digest BLOB NOT NULL, used REAL NOT NULL)"
    ),
    "by_use": "CREATE INDEX by_use ON rows (used)",
    "claims": (
        "CREATE TABLE claims (key BLOB PRIMARY KEY, owner TEXT NOT NULL, host TEXT NOT NULL, "
        "pid INTEGER NOT NULL, expires REAL NOT NULL)"
    ),
    "totals": "CREATE TABLE totals (name TEXT PRIMARY KEY, value INTEGER NOT NULL)",
}
# SQLite's own files next to it: the write-ahead log, its index, the rollback journal.
_COMPANIONS = ("-wal", "-shm", "-journal")
# What a row may be of: text in a file must not decide which of numpy's types are made.
_DTYPES = {
    np.dtype(order + kind).str.encode(): np.dtype(order + kind)
    for order in "<>"
    for kind in ("f2", "f4", "f8")
}
# File systems whose locks and shared memory do not reach other machines: no write-ahead log there.
_NETWORK_FILE_SYSTEMS = ("nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "fuse.sshfs", "9p")


def pack(key: bytes, row: np.ndarray) -> tuple[bytes, bytes, bytes, bytes]:
    """Return what is written of a row: key, dtype, values and the digest of all three."""
    dtype, value = row.dtype.str.encode(), np.ascontiguousarray(row).tobytes()
    return key, dtype, value, _digest(key, dtype, value)


def unpack(key: bytes, dtype: Any, value: Any, digest: Any) -> np.ndarray | None:
    """Return the row of a record, or None if the record is not what was written under this key."""
    if not isinstance(dtype, bytes) or not isinstance(value, bytes) or dtype not in _DTYPES:
        return None
    if _digest(key, dtype, value) != digest or len(value) % _DTYPES[dtype].itemsize:
        return None
    return np.frombuffer(value, dtype=_DTYPES[dtype])


def _digest(key: bytes, dtype: bytes, value: bytes) -> bytes:
    """Return a digest of all that belongs together: a value under another key is damage too."""
    hasher = blake2b(digest_size=16)
    for part in (key, dtype, value):
        hasher.update(len(part).to_bytes(8, "little") + part)
    return hasher.digest()


def open_file(directory: Path) -> tuple[sqlite3.Connection, bool]:
    """Open the file in a directory; both are made if need be. Returns whether it can be written to.

    Nothing waits for a lock that another program holds: ``SQLITE_BUSY`` is raised at once. Raises
    OSError where there is no such directory, or something else under the name of the file.
    """
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / FILE_NAME
    for name in (FILE_NAME, *(FILE_NAME + companion for companion in _COMPANIONS)):
        try:  # a pipe or a device would keep the reader waiting
            regular = stat.S_ISREG((directory / name).stat().st_mode)
        except FileNotFoundError:
            regular = not (directory / name).is_symlink()
        if not regular:
            raise OSError(f"{name} is not a regular file")
    if file.exists() and not (_may_write(directory) and _may_write(file)):
        return _open_read_only(file), False
    connection = _connect(file)
    try:
        mode, filled = "delete" if _on_network(directory) else "wal", _check_tables(connection)
        try:
            _set_journal(connection, mode)
        except sqlite3.OperationalError as error:
            # Another program may be at work in the mode that there is.
            if not (filled and is_busy(error)) or mode == "delete":
                raise
        if not filled:
            _make_tables(connection)
        # With the write-ahead log, a killed process loses nothing that was committed; a power cut
        # may lose the last seconds, never the file.
        connection.execute("PRAGMA synchronous = NORMAL")
    except BaseException:
        connection.close()
        raise
    return connection, True


def _connect(file: Path, query: str = "") -> sqlite3.Connection:
    """Connect to a file. Text comes as bytes, since damaged text may be no text at all."""
    connection = sqlite3.connect(
        f"{file.as_uri()}{query}" if query else file,
        timeout=0,
        check_same_thread=False,
        isolation_level=None,
        uri=bool(query),
    )
    connection.text_factory = bytes
    connection.execute("PRAGMA cell_size_check = ON")
    return connection


def _open_read_only(file: Path) -> sqlite3.Connection:
    """Open a file to which, or next to which, nothing can be written."""
    with open(file, "rb") as content:
        logs = content.read(20)[18:19] == b"\2"
    # Without its log a file is whole, but SQLite would still want to make one. Where the log is
    # there and cannot be read, the rows in it are missed, and digests tell torn pages.
    whole = logs and not file.with_name(f"{FILE_NAME}-wal").exists()
    for query in ("?immutable=1",) if whole else ("?mode=ro&readonly_shm=1", "?immutable=1"):
        connection, filled = _connect(file, query), False
        try:
            filled = _check_tables(connection)
        except sqlite3.OperationalError as error:
            if query == "?immutable=1" or is_busy(error):
                raise
        finally:
            if not filled:
                connection.close()
        if filled:
            return connection
    raise OSError("it holds no rows, and it is read-only")


def _check_tables(connection: sqlite3.Connection) -> bool:
    """Return whether the tables are there; False if the file is empty."""
    found = dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))
    if all(found.get(name.encode()) == sql.encode() for name, sql in _TABLES.items()):
        return True
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (number,) = connection.execute("PRAGMA user_version").fetchone()
    if application == _APPLICATION and number <= _NUMBER:
        raise sqlite3.DatabaseError("its tables are not those that were written")
    if found:
        whose = "a newer version of sktransfer" if application == _APPLICATION else "others"
        raise OSError(f"{FILE_NAME} is a database of {whose}")
    return False


def _make_tables(connection: sqlite3.Connection) -> None:
    """Make the tables, unless another process is faster."""
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        if not _check_tables(connection):
            for sql in _TABLES.values():
                connection.execute(sql)
            connection.execute("INSERT INTO totals VALUES ('bytes', 0)")
            connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            connection.execute(f"PRAGMA user_version = {_NUMBER}")


def _set_journal(connection: sqlite3.Connection, mode: str) -> None:
    """Set the mode of the journal, which the file then keeps."""
    (current,) = connection.execute("PRAGMA journal_mode").fetchone()
    if current.decode() != mode:
        connection.execute(f"PRAGMA journal_mode = {mode}")


def _may_write(path: Path) -> bool:
    """Return whether this process may write to a path; root may not on a read-only disk."""
    return os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def _on_network(path: Path) -> bool:
    """Return whether a path is on a file system of a network."""
    try:
        mounts = Path("/proc/self/mounts").read_text(errors="replace").splitlines()
    except OSError:
        return False
    path, best, kind = path.resolve(), "", ""
    for line in mounts:
        fields = line.split()
        point = fields[1].replace("\\040", " ")
        if len(point) >= len(best) and path.is_relative_to(point):
            best, kind = point, fields[2]
    return kind.startswith(_NETWORK_FILE_SYSTEMS)


def is_busy(error: BaseException) -> bool:
    """Return whether an error means that another program holds the file just now."""
    return _name(error).startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL"))


def is_damage(error: BaseException) -> bool:
    """Return whether an error means that the file is not as it was written.

    A number where bytes should be, for example, is found by Python only.
    """
    if not isinstance(error, sqlite3.Error):
        return isinstance(error, TypeError | ValueError | ArithmeticError)
    if isinstance(error, sqlite3.ProgrammingError | sqlite3.InterfaceError):
        return False
    name = _name(error)
    if name == "SQLITE_ERROR":
        return str(error).startswith(("no such", "unsupported file format", "malformed"))
    kinds = ("CORRUPT", "NOTADB", "FORMAT", "SCHEMA", "MISMATCH", "TOOBIG", "CONSTRAINT")
    return name.startswith(tuple(f"SQLITE_{kind}" for kind in kinds)) or (
        not name and not isinstance(error, sqlite3.OperationalError)
    )


def _name(error: BaseException) -> str:
    """Return SQLite's name of an error, "" if it is not SQLite's."""
    return getattr(error, "sqlite_errorname", None) or ""


def identity(directory: Path) -> tuple[int, int] | None:
    """Return what tells the file from another one of its name; None if there is none."""
    try:
        status = os.stat(directory / FILE_NAME)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def set_aside(directory: Path) -> None:
    """Rename the file and what belongs to it."""
    stamp = f"damaged-{time.time_ns()}"
    for name in (FILE_NAME, *(FILE_NAME + companion for companion in _COMPANIONS)):
        with suppress(FileNotFoundError):
            os.rename(directory / name, directory / f"{name}.{stamp}")


def may_live(pid: int) -> bool:
    """Return whether a process of this machine may still be running."""
    if os.name == "nt":  # where signal 0 would interrupt it
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    try:  # killed, and its parent has not asked yet
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return True


def who_else_writes(path: Path) -> str | None:
    """Return who but this user and root may change a path, as a clause; None for nobody."""
    if not hasattr(os, "geteuid"):
        return None
    status = path.stat()
    if status.st_uid not in (0, os.geteuid()):
        return f"belongs to another user (number {status.st_uid})"
    if status.st_mode & stat.S_IWOTH:
        return "can be written to by every user of this machine"
    # Many systems have a group for each user, of the same number.
    if status.st_mode & stat.S_IWGRP and status.st_gid not in (0, os.geteuid()):
        return f"can be written to by a group (number {status.st_gid})"
    return None
