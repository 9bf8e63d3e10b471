"""Which store an estimator's ``cache`` means, and the private directory worker processes share.

It must not know networks or images.
"""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from sktransfer._frozen._disk import open_directory
from sktransfer._frozen._store import MEMORY_STORE, CacheInfo, Store, TieredStore
from sktransfer._utils import config as _config

_PREFIX = "sktransfer-session-"


def begin_session() -> None:
    """Name a directory in the environment, for worker processes to come (joblib's inherit it).

    Nothing is created before a worker needs it. Every image that ``cross_val_score(n_jobs=2)``
    shows to two workers is then embedded by one of them.
    """
    if _config.session() is not None:
        return  # a worker, or a process started by one
    name = f"{_PREFIX}{os.getpid()}-{secrets.token_hex(8)}"
    _config.set_session(os.getpid(), Path(tempfile.gettempdir()) / name)
    atexit.register(_end_session, os.getpid())


def _end_session(owner: int) -> None:
    """Remove the session's directory when the process that named it ends."""
    session = _config.session()
    # A forked child runs the parent's exit handlers too.
    if session is None or owner != os.getpid() or session.owner != owner:
        return
    if session.directory.is_dir():
        open_directory(session.directory).close()
        shutil.rmtree(session.directory, ignore_errors=True)


def store_for(cache: bool | str | os.PathLike[str] | None, n_bytes: int = 0) -> Store | None:
    """Return the store that an estimator's ``cache`` parameter means, or None for none.

    True is memory, and in worker processes the directory they share; a path is memory in front of
    that directory. ``n_bytes`` of rows are to be run: more than memory, or the directory, may hold
    would only drive each other, and everything else, out of it, and then it is left out.
    """
    directory, session = None, None
    if isinstance(cache, str | os.PathLike):
        directory = Path(cache)
    elif not cache:  # numpy's booleans come from searches over a grid
        return None
    else:
        session = _config.session()
    if session is not None:
        if session.owner != os.getpid():  # a worker
            with suppress(OSError):
                session.directory.mkdir(mode=0o700, exist_ok=True)
        # In a shared temporary folder, a directory of that name that is not ours is not used.
        if session.directory.is_dir() and (
            not hasattr(os, "getuid") or session.directory.stat().st_uid == os.getuid()
        ):
            directory = session.directory
    tiers: list[Store] = [MEMORY_STORE]
    if directory is not None:
        tiers.append(open_directory(directory))
    tiers = [tier for tier in tiers if n_bytes <= tier.max_bytes]
    if len(tiers) == 2:
        return TieredStore(*tiers)
    return tiers[0] if tiers else None


def _named(cache: bool | str | os.PathLike[str]) -> Store:
    """Return the store that a user names."""
    if isinstance(cache, bool):
        if not cache:
            raise ValueError(
                "cache=False names no store. Pass True for this process's memory, or the path of "
                "a directory that an estimator was given as cache."
            )
        return MEMORY_STORE
    return open_directory(cache)


def cache_info(cache: bool | str | os.PathLike[str] = True) -> CacheInfo:
    """Return the counters of a store of activations.

    Parameters
    ----------
    cache : True or path-like, default=True
        As given to an estimator: True for this process's memory, a path for a directory.

    Returns
    -------
    info : CacheInfo
        ``hits`` and ``misses`` of this process's look-ups, ``n_rows`` and ``n_bytes`` held,
        ``max_bytes`` allowed.

    See Also
    --------
    clear_cache : Forget what a store holds.

    Examples
    --------
    >>> import sktransfer
    >>> info = sktransfer.cache_info()
    >>> info.n_bytes <= info.max_bytes
    True
    """
    return _named(cache).info()


def clear_cache(cache: bool | str | os.PathLike[str] = True) -> None:
    """Forget the activations of a store and reset its counters.

    Parameters
    ----------
    cache : True or path-like, default=True
        As given to an estimator: True for this process's memory, a path for a directory (whose
        rows in memory are forgotten too).

    See Also
    --------
    cache_info : Count what a store holds.

    Examples
    --------
    >>> import sktransfer
    >>> sktransfer.clear_cache()
    >>> sktransfer.cache_info().n_rows
    0
    """
    _named(cache).clear()
    MEMORY_STORE.clear()
