"""The private temporary directory that the worker processes of one process share.

It must not know networks or images. The process that names it, its owner, keeps a file next to it
locked as long as it lives: where that lock is free, the owner is dead, whatever has become of its
number, and the next process removes what it left behind.
"""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import stat
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path

from sktransfer._frozen._disk import open_directory
from sktransfer._utils import config as _config

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be removed
    fcntl = None  # type: ignore[assignment]

_PREFIX = "sktransfer-session-"
_LOCK = ".lock"


def begin_session() -> None:
    """Name a directory in the environment, for worker processes to come (joblib's inherit it).

    It is made when a worker needs it. Every image that ``cross_val_score(n_jobs=2)`` shows to two
    workers is then embedded by one of them.
    """
    given = os.environ.get(_config.SESSION_VARIABLE)
    if given is not None and (not given or _lasts(given.partition(":")[2])):
        return  # somebody who wants none, or a worker, or a process started by one
    with suppress(OSError):  # no temporary folder can be written to: no session
        folder = Path(tempfile.gettempdir())
        _remove_left_behind(folder)
        directory = folder / f"{_PREFIX}{os.getpid()}-{secrets.token_hex(8)}"
        lock = _hold(directory)
        os.environ[_config.SESSION_VARIABLE] = f"{os.getpid()}:{directory}"
        atexit.register(_end_session, os.getpid(), directory, lock)


def private_directory() -> Path | None:
    """Return the session's directory if this process is to use it; a worker makes it."""
    owner, _, name = os.environ.get(_config.SESSION_VARIABLE, "").partition(":")
    if not owner.isdigit() or not name:
        return None
    directory = Path(name)
    if owner != str(os.getpid()):
        if not _lasts(name):  # what is written from now on would never be removed
            return None
        with suppress(OSError):
            directory.mkdir(mode=0o700, exist_ok=True)
    try:
        status = directory.lstat()
    except OSError:
        return None
    # Windows has neither owners nor modes of this kind.
    private = not hasattr(os, "geteuid") or (
        status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    )
    if stat.S_ISDIR(status.st_mode) and private:
        return directory
    os.environ[_config.SESSION_VARIABLE] = ""  # said once
    warnings.warn(
        f"The temporary directory {name!r} is not this user's alone, so that "
        "processes do not share activations through it; results are the same. Set TMPDIR to a "
        "folder that others cannot write to.",
        RuntimeWarning,
        stacklevel=2,
    )
    return None


def _lasts(directory: str) -> bool:
    """Return whether a session has not ended, so that somebody will remove what it writes."""
    return os.path.exists(directory + _LOCK)


def _hold(directory: Path) -> int:
    """Lock the file next to a directory for the life of this process; return its descriptor."""
    lock = directory.with_name(directory.name + _LOCK)
    # Under another name until it is locked: nobody is to take it for one that was left behind.
    beginning = directory.with_name(f".{directory.name}")
    descriptor = os.open(beginning, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    if fcntl is None:
        os.close(descriptor)
        os.replace(beginning, lock)
        return os.open(lock, os.O_RDWR)
    with suppress(OSError):  # a file system without locks
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.replace(beginning, lock)
    return descriptor


def _end_session(owner: int, directory: Path, lock: int) -> None:
    """Remove the session's directory when the process that named it ends."""
    if owner != os.getpid():  # a forked child runs the parent's exit handlers too
        return
    if directory.is_dir():
        open_directory(directory).close()
        shutil.rmtree(directory, ignore_errors=True)
    with suppress(OSError):
        os.close(lock)
        directory.with_name(directory.name + _LOCK).unlink()


def _remove_left_behind(folder: Path) -> None:
    """Remove the directories of this user's sessions whose owners were killed."""
    for lock in folder.glob(f"{_PREFIX}*{_LOCK}"):
        directory = Path(str(lock).removesuffix(_LOCK))
        with suppress(OSError):
            if hasattr(os, "geteuid") and lock.lstat().st_uid != os.geteuid():
                continue
            if fcntl is None:
                lock.unlink()  # fails where it is open
                shutil.rmtree(directory, ignore_errors=True)
                continue
            descriptor = os.open(lock, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails where it is held
                shutil.rmtree(directory, ignore_errors=True)
                lock.unlink()
            finally:
                os.close(descriptor)
