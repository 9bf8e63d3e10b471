"""Giving freed memory back to the system, which the C library would rather keep.

A batch takes and frees large pieces; what is kept of it, rows of numbers, lies between them. glibc
then finds no room for the next batch, and takes more: a process that embeds 20,000 images, all of
whose rows together have 300 MB, would grow to 6 GB, most of it free. What is free can be given back
page by page, for a few milliseconds, wherever it lies.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Any

from sktransfer._utils.forking import new_lock

# Images after which freed memory is given back: some milliseconds in the seconds that these take.
_EVERY = 256
_counting = new_lock()
_counted: list[int] = []

# musl, macOS and Windows have none. jemalloc and tcmalloc, where they are loaded in front of glibc,
# give memory back by themselves after some seconds; then this finds little to do.
_trim: Any = None
with suppress(AttributeError, OSError, TypeError):
    _trim = ctypes.CDLL(None).malloc_trim
    _trim.argtypes, _trim.restype = [ctypes.c_size_t], ctypes.c_int


def give_back_freed_memory(n_images: int | None = None) -> None:
    """Return to the system what is free, where the C library can do that; it is taken again.

    With a number of images that were run, only after some hundreds of them.
    """
    if n_images is not None:
        with _counting:
            _counted.append(n_images)
            if sum(_counted) < _EVERY:
                return
            _counted.clear()
    if _trim is not None:
        _trim(0)
