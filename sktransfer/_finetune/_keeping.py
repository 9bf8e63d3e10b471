"""Where the activations of a training set are kept: memory, the store, a file, or nowhere.

It must not know labels, training or estimators.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sktransfer._finetune._activations import Prefix
from sktransfer._frozen import open_directory, store_for
from sktransfer._images import ImageSelection, ImageSource, portions
from sktransfer._utils import config as _config
from sktransfer.exceptions import ActivationBudgetWarning, ImageDecodeError

# Rows that are brought to the store at once, where they are not to be held.
_CHUNK = 256

# Fits whose activations the store had no room for, by what they are.
_LEFT_OUT: Counter[bytes] = Counter()


class Place(Enum):
    """Where activations are kept while they are trained on."""

    MEMORY = "memory"
    STORE = "store"
    FILE = "file"
    NOWHERE = "nowhere"


@dataclass(frozen=True)
class Budget:
    """What may be spent on keeping activations.

    Parameters
    ----------
    memory, disk : int or "auto"
        Bytes; "auto" is half of what is free.
    cache : bool, path-like or None
        As estimators have it.
    """

    memory: int | str
    disk: int | str
    cache: Any

    @property
    def memory_bytes(self) -> int:
        """Bytes of memory."""
        return _config.free_memory() // 2 if self.memory == "auto" else int(self.memory)

    @property
    def disk_bytes(self) -> int:
        """Bytes of temporary files."""
        free = shutil.disk_usage(tempfile.gettempdir()).free
        return free // 2 if self.disk == "auto" else min(int(self.disk), free)

    def place(self, n_bytes: int, *, storable: bool = True) -> Place:
        """The fastest place that has room; ``storable`` where rows have keys to be found by."""
        if n_bytes <= self.memory_bytes:
            return Place.MEMORY
        in_directory = storable and isinstance(self.cache, (str, os.PathLike))
        if in_directory and n_bytes <= open_directory(self.cache).max_bytes:
            return Place.STORE
        return Place.FILE if n_bytes <= self.disk_bytes else Place.NOWHERE

    def where_it_works(self) -> Budget:
        """Without a directory that cannot be written to: rows would be run again in every epoch."""
        if isinstance(self.cache, (str, os.PathLike)) and not open_directory(self.cache).usable:
            return replace(self, cache=True)
        return self

    def tell(self, place: Place, prefix: Prefix, n: int) -> None:
        """Say what was chosen and how to change it, where it was not memory."""
        if place is Place.MEMORY:
            self._tell_of_the_store(prefix, n)
            return
        what = {
            Place.STORE: f"they are read from {str(self.cache)!r} batch by batch.",
            Place.FILE: (
                f"they are kept in a temporary file in {tempfile.gettempdir()!r} while this fit "
                f"lasts; {self._how_to_keep()}"
            ),
            Place.NOWHERE: (
                "nor is there room for them on disk: the frozen part is run again in every epoch, "
                "which is slow. disk_budget bounds temporary files, "
                f"{_config.DIRECTORY_CACHE_VARIABLE} a directory given as cache."
            ),
        }[place]
        warnings.warn(
            f"{_how_much(prefix, n)} ({as_size(prefix.n_bytes)} each), more than the "
            f"{as_size(self.memory_bytes)} of memory they may (memory_budget={self.memory!r}): "
            f"{what} A later freeze_depth makes them smaller"
            + ("." if prefix.dtype.itemsize == 2 else ", and so does activation_dtype='float16'."),
            ActivationBudgetWarning,
            stacklevel=2,
        )

    def _how_to_keep(self) -> str:
        if not isinstance(self.cache, (str, os.PathLike)):
            return "cache='a/directory' would keep them for the next one."
        return (
            f"the directory given as cache keeps {_config.DIRECTORY_CACHE_VARIABLE} bytes at most, "
            "and none where preprocessing or augmentation is a callable without a fingerprint."
        )

    def _tell_of_the_store(self, prefix: Prefix, n: int) -> None:
        """Say that the store has no module, to the second fit that runs what the first one did."""
        n_bytes = n * prefix.n_bytes
        if not self.cache or store_for(self.cache, n_bytes) is not None:
            return
        (fingerprint,) = prefix.frozen().fingerprints() or (None,)
        if fingerprint is None:  # no store could keep it
            return
        _LEFT_OUT[fingerprint] += 1
        if _LEFT_OUT[fingerprint] != 2:
            return
        store = store_for(self.cache)
        assert store is not None
        warnings.warn(
            f"{_how_much(prefix, n)}, more than the "
            f"{as_size(store.max_bytes)} that the store (cache={self.cache!r}) may hold: they are "
            "kept for one fit, and every other fold and candidate runs the frozen part again. "
            f"cache='a/directory' holds more; {_config.MEMORY_CACHE_VARIABLE} (memory) and "
            f"{_config.DIRECTORY_CACHE_VARIABLE} (a directory) raise the bounds.",
            ActivationBudgetWarning,
            stacklevel=2,
        )


@dataclass
class Activations:
    """Activations of images, wherever they are kept, and the images that have none.

    Parameters
    ----------
    take : callable
        From row numbers to a tensor (m, width), float32 (float64 in that precision).
    failures : list of ImageDecodeError
    """

    take: Callable[[np.ndarray], Tensor]
    failures: list[ImageDecodeError] = field(default_factory=list)


def keep(
    prefix: Prefix,
    images: ImageSource,
    budget: Budget,
    place: Place,
    *,
    of_bytes: int,
    n_threads: int,
    on_error: str,
    progress: bool,
) -> Activations:
    """Bring images to the cut and keep what comes out.

    Parameters
    ----------
    prefix : Prefix
        Of a depth above 0.
    images : ImageSource
    budget : Budget
    place : Place
    of_bytes : int
        Of everything that is kept for this fit.
    n_threads, on_error, progress
        As in :meth:`Prefix.activations`.
    """
    settings: dict[str, Any] = {"n_threads": n_threads, "of_bytes": of_bytes}
    if place in (Place.MEMORY, Place.FILE):
        rows, failures = prefix.activations(
            images,
            cache=budget.cache if images.lasting else None,
            on_error=on_error,
            progress=progress,
            allocate=np.empty if place is Place.MEMORY else in_a_file,
            **settings,
        )
        return Activations(from_array(rows), failures)
    cache = budget.cache if place is Place.STORE else None
    failures = []
    if place is Place.STORE:
        for some in portions(images, _CHUNK):
            failures += prefix.activations(
                some, cache=cache, on_error=on_error, progress=progress, **settings
            )[1]
    elif on_error == "nan":
        failures = unreadable(images, prefix)

    def take(rows: np.ndarray) -> Tensor:
        some = ImageSelection(images, rows)
        found, _ = prefix.activations(some, cache=cache, on_error="raise", **settings)
        return _widened(found)

    return Activations(take, failures)


def from_array(rows: np.ndarray) -> Callable[[np.ndarray], Tensor]:
    """What takes rows out of an array, without another copy of it."""
    return lambda places: _widened(rows[places])


def unreadable(images: ImageSource, prefix: Prefix) -> list[ImageDecodeError]:
    """Rows that cannot be decoded."""
    failures = []
    for row in range(len(images)):
        try:
            images.open(row).decode(prefix.preprocessing.min_decode_side)
        except ImageDecodeError as error:
            failures.append(error)
    return failures


def in_a_file(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """As ``numpy.empty``, in a temporary file that nobody sees and that goes with the array."""
    with tempfile.TemporaryFile(prefix="sktransfer-") as file:
        n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if hasattr(os, "posix_fallocate"):
            # A mapped file that finds its disk full ends the process without a word.
            try:
                os.posix_fallocate(file.fileno(), 0, n_bytes)
            except OSError as error:
                raise OSError(
                    error.errno,
                    f"There is no room for {as_size(n_bytes)} of activations in "
                    f"{tempfile.gettempdir()!r} any more ({error.strerror}). Set TMPDIR to another "
                    "disk, or disk_budget=0 to run the frozen part in every epoch instead.",
                ) from error
        return np.memmap(file, dtype=dtype, mode="w+", shape=shape)


def _widened(rows: np.ndarray) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(rows))
    return tensor.float() if rows.dtype == np.float16 else tensor


def _how_much(prefix: Prefix, n: int) -> str:
    return (
        f"The activations of {n} images after {prefix.last_stage} of "
        f"{prefix.info.reference.name} take {as_size(n * prefix.n_bytes)}"
    )


def as_size(n_bytes: int) -> str:
    """Bytes as a person reads them."""
    value = float(n_bytes)
    for unit in ("bytes", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:.3g} GiB"
