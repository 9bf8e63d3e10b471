"""Giving freed memory back to the system, which the C library would rather keep.

A batch takes and frees large pieces; what is kept of it, rows of numbers, lies between them. glibc
then finds no room for the next batch, and takes more: a process that embeds 20,000 images, all of
whose rows together have 300 MB, would grow to 6 GB, most of it free. What is free can be given back
page by page, for a few milliseconds, wherever it lies.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

from sktransfer._utils.forking import new_lock

# Images after which freed memory is given back: some milliseconds in the seconds that these take.
_EVERY = 256
_counting = new_lock()
_counted: list[int] = []


def give_back_freed_memory() -> None:
    """Return to the system what is free, where the C library can do that; it is taken again."""
    trim = _trim()
    if trim is not None:
        trim(0)


def give_back_in_turn(n_images: int) -> None:
    """Count images that a process has run, and give back what they left after some hundreds."""
    with _counting:
        _counted.append(n_images)
        due = sum(_counted) >= _EVERY
        if due:
            _counted.clear()
    if due:
        give_back_freed_memory()


@cache
def _trim() -> Callable[[int], int] | None:
    """Return glibc's ``malloc_trim``; None with any other library.

    musl, macOS and Windows have none. jemalloc and tcmalloc, where they are loaded in front of
    glibc, give memory back by themselves after some seconds; then this finds little to do.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    return trim
