"""Where the activations of a training set are kept: memory, the store, a file, or nowhere.

It must not know labels, training or estimators.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sktransfer import _config
from sktransfer._finetune._activations import Prefix
from sktransfer.exceptions import ActivationBudgetWarning, ImageDecodeError
from sktransfer.frozen import open_directory
from sktransfer.images import ImageSource, PictureSelection, portions

# Rows that are brought to the store at once, where they are not to be held.
_CHUNK = 256


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
        if self.disk == "auto":
            return shutil.disk_usage(tempfile.gettempdir()).free // 2
        return int(self.disk)

    def place(self, n_bytes: int) -> Place:
        """The fastest place that has room."""
        if n_bytes <= self.memory_bytes:
            return Place.MEMORY
        if isinstance(self.cache, (str, os.PathLike)):
            if n_bytes <= open_directory(self.cache).max_bytes:
                return Place.STORE
        elif n_bytes <= self.disk_bytes:
            return Place.FILE
        return Place.NOWHERE

    def tell(self, place: Place, prefix: Prefix, n: int) -> None:
        """Say what was chosen and how to change it, where it was not memory."""
        if place is Place.MEMORY:
            return
        what = {
            Place.STORE: f"they are read from {str(self.cache)!r} batch by batch.",
            Place.FILE: (
                f"they are kept in a temporary file in {tempfile.gettempdir()!r} while this fit "
                "lasts; cache='a/directory' would keep them for the next one."
            ),
            Place.NOWHERE: (
                "nor is there room for them on disk: the frozen part is run again in every epoch, "
                "which is slow. disk_budget bounds temporary files, "
                f"{_config.DIRECTORY_CACHE_VARIABLE} a directory given as cache."
            ),
        }[place]
        last = prefix.info.stages[prefix.cut.depth - 1].name
        warnings.warn(
            f"The activations of {n} pictures after {last} of {prefix.info.reference.name} take "
            f"{as_size(n * prefix.n_bytes)} ({as_size(prefix.n_bytes)} each), more than the "
            f"{as_size(self.memory_bytes)} of memory they may (memory_budget={self.memory!r}): "
            f"{what} A later freeze_depth makes them smaller"
            + ("." if prefix.dtype.itemsize == 2 else ", and so does activation_dtype='float16'."),
            ActivationBudgetWarning,
            stacklevel=2,
        )


@dataclass
class Activations:
    """Activations of pictures, wherever they are kept, and the pictures that have none.

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
    pictures: ImageSource,
    budget: Budget,
    place: Place,
    *,
    of_bytes: int,
    n_threads: int,
    on_error: str,
    progress: bool,
) -> Activations:
    """Bring pictures to the cut and keep what comes out.

    Parameters
    ----------
    prefix : Prefix
        Of a depth above 0.
    pictures : ImageSource
    budget : Budget
    place : Place
    of_bytes : int
        Of everything that is kept for this fit.
    n_threads, on_error, progress
        As in :meth:`Prefix.activations`.
    """
    settings: dict[str, Any] = {"n_threads": n_threads, "of_bytes": of_bytes}
    if place in (Place.MEMORY, Place.FILE):
        outcome = prefix.activations(
            pictures,
            cache=budget.cache if pictures.lasting else None,
            on_error=on_error,
            progress=progress,
            allocate=np.empty if place is Place.MEMORY else in_a_file,
            **settings,
        )
        return Activations(from_array(outcome.rows), outcome.failures)
    cache = budget.cache if place is Place.STORE else None
    failures: list[ImageDecodeError] = []
    if place is Place.STORE:
        for some in portions(pictures, _CHUNK):
            outcome = prefix.activations(
                some, cache=cache, on_error=on_error, progress=progress, **settings
            )
            failures += outcome.failures
    elif on_error == "nan":
        failures = unreadable(pictures, prefix)

    def take(rows: np.ndarray) -> Tensor:
        some = PictureSelection(pictures, rows)
        outcome = prefix.activations(some, cache=cache, on_error="raise", **settings)
        return _widened(outcome.rows)

    return Activations(take, failures)


def from_array(rows: np.ndarray) -> Callable[[np.ndarray], Tensor]:
    """What takes rows out of an array, without another copy of it."""
    return lambda places: _widened(rows[places])


def unreadable(pictures: ImageSource, prefix: Prefix) -> list[ImageDecodeError]:
    """Rows that cannot be decoded."""
    failures = []
    for row in range(len(pictures)):
        try:
            pictures.open(row).decode(prefix.preprocessing.min_decode_side)
        except ImageDecodeError as error:
            failures.append(error)
    return failures


def in_a_file(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """As ``numpy.empty``, in a temporary file that nobody sees and that goes with the array."""
    with tempfile.TemporaryFile(prefix="sktransfer-") as file:
        return np.memmap(file, dtype=dtype, mode="w+", shape=shape)


def _widened(rows: np.ndarray) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(rows))
    return tensor.float() if rows.dtype == np.float16 else tensor


def as_size(n_bytes: int) -> str:
    """Bytes as a person reads them."""
    value = float(n_bytes)
    for unit in ("bytes", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:.3g} GiB"
