"""Which store an estimator's ``cache`` means. It must not know networks or images."""

from __future__ import annotations

import os

from sktransfer._frozen._disk import open_directory
from sktransfer._frozen._session import private_directory
from sktransfer._frozen._store import MEMORY_STORE, CacheInfo, Store, TieredStore


def store_for(cache: bool | str | os.PathLike[str] | None, n_bytes: int = 0) -> Store | None:
    """Return the store that an estimator's ``cache`` parameter means, or None for none.

    True is memory, and in worker processes the directory they share; a path is memory in front of
    that directory. ``n_bytes`` of rows are to be run: more than memory, or the directory, may hold
    would only drive each other, and everything else, out of it, and then it is left out.
    """
    directory: str | os.PathLike[str] | None
    if isinstance(cache, str | os.PathLike):
        directory = cache
    elif not cache:  # numpy's booleans come from searches over a grid
        return None
    else:
        directory = private_directory()
    tiers: list[Store] = [MEMORY_STORE]
    if directory is not None:
        tiers.append(open_directory(directory))
    tiers = [tier for tier in tiers if 0 < tier.max_bytes >= n_bytes]
    if len(tiers) == 2:
        return TieredStore(*tiers)
    return tiers[0] if tiers else None


def _named(cache: bool | str | os.PathLike[str]) -> Store:
    """Return the store that a user names."""
    if isinstance(cache, str | os.PathLike):
        return open_directory(cache)
    if isinstance(cache, bool) and cache:
        return MEMORY_STORE
    raise ValueError(
        f"cache={cache!r} names no store. Pass True for this process's memory, or the path of a "
        "directory that an estimator was given as cache."
    )


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

    Raises
    ------
    SkTransferError
        If the directory is locked by another process for 10 seconds, or cannot be written to.

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
