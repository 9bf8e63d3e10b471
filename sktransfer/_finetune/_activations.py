"""Images to activations at the cut, and where those of a fit are kept.

It must not know labels, training or estimators.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sktransfer._finetune._network import Cut
from sktransfer._frozen import FrozenExtractor, open_directory, store_for
from sktransfer._images import ImageSelection, ImageSource, portions
from sktransfer._utils import config as _config
from sktransfer.exceptions import ActivationBudgetWarning, ImageDecodeError

# Rows that are brought to the store at once, where they are not to be held.
_CHUNK = 256

# Fits whose activations the store had no space for, by what they are.
_LEFT_OUT: Counter[bytes] = Counter()


@dataclass
class Prefix(FrozenExtractor):
    """The part of a network before the cut, which is frozen, and what comes out of it.

    That is the activation at the cut, raveled, and the pooled outputs of stages before it that the
    head sees. A copy (``dataclasses.replace``) holds the network no longer than images are brought
    to the cut.
    """

    cut: Cut = field(kw_only=True)  # at a depth of 0 images are trained on
    shape: tuple[int, ...] = ()  # of one image's activation at the cut
    pooled: tuple[int, ...] = ()  # stages after the cut that the head sees
    n_inputs: int = 0  # of the head

    def forward(self, batch: Tensor) -> Tensor:
        """Return what comes out of a normalized batch; frozen, without gradient."""
        if self.cut.depth == 0:
            flat = batch.flatten(1)
            return flat.double() if self.precision == "float64" else flat
        return torch.cat(self.compute(batch), dim=1).clone()  # of inference mode no more

    def extract(
        self, images: ImageSource, *, allocate: Callable[..., Any] = np.empty, **settings: Any
    ) -> tuple[Any, list[ImageDecodeError]]:
        """Return what comes out of images, each part in its own dtype, and rows that failed."""
        if len({*self.dtypes}) > 1:
            allocate = partial(_Parts, self.widths, self.dtypes, allocate)
        return super().extract(images, allocate=allocate, **settings)


class _Parts:
    """Columns of rows in arrays of their own dtypes, as far as an extraction takes one for one.

    Rows that are read are of the widest dtype. An array is widened for a row that asks for it.
    """

    def __init__(
        self,
        widths: Sequence[int],
        dtypes: Sequence[np.dtype],
        allocate: Callable[..., np.ndarray],
        shape: tuple[int, int],
        dtype: np.dtype,
    ) -> None:
        self.dtype, self.shape, self._allocate = dtype, shape, allocate
        columns = zip(widths, dtypes, strict=True)
        self._arrays = [allocate((shape[0], width), own) for width, own in columns]
        self._places = {start: place for place, start in enumerate(np.cumsum([0, *widths[:-1]]))}

    def __setitem__(self, where: Any, values: Any) -> None:
        if isinstance(where, tuple):  # one part of a row
            row, place = where[0], self._places[where[1].start]
            narrow = self._arrays[place]
            if values.dtype.itemsize > narrow.dtype.itemsize:
                self._arrays[place] = self._allocate(narrow.shape, values.dtype)
                self._arrays[place][:] = narrow
            self._arrays[place][row] = values
            return
        for array in self._arrays:  # a row that failed, or one of its own
            array[where] = array[values.row] if isinstance(values, _Row) else values

    def __getitem__(self, rows: Any) -> Any:
        if isinstance(rows, int):
            return _Row(rows)
        return np.concatenate([array[rows] for array in self._arrays], axis=1, dtype=self.dtype)


class _Row(NamedTuple):
    """A row of such arrays, to be copied into another one."""

    row: int


class ActivationStorage:
    """Keeps the activations of a fit in the fastest place that has space, and says if it is slow.

    ``n_images`` counts views too, and ``storable`` says whether rows have keys that they are found
    by in a directory. ``place`` is "memory", "directory", "file" or "nowhere".
    """

    def __init__(
        self,
        prefix: Prefix,
        n_images: int,
        *,
        cache: Any,
        memory_budget: int | str,
        disk_budget: int | str,
        storable: bool,
        n_threads: int,
        progress: bool,
    ) -> None:
        self.prefix = prefix
        self.cache = cache
        self.n_bytes = n_images * prefix.row_bytes
        self.n_threads = n_threads
        self.progress = progress
        memory = _config.free_memory() // 2 if memory_budget == "auto" else int(memory_budget)
        if self.n_bytes <= memory:
            self.place = "memory"
            if cache and store_for(cache, self.n_bytes) is None:
                self._warn_of_full_store(n_images)
            return
        self.place = self._place_on_disk(disk_budget, storable)
        half = prefix.dtypes[0].itemsize == 2
        later = "" if half else ", and so does cache__activation_dtype='float16'"
        warnings.warn(
            f"{self._how_much(n_images)} ({as_size(prefix.row_bytes)} each), more than the "
            f"{as_size(memory)} of memory they may (cache__memory_budget={memory_budget!r}): "
            f"{self._explanation()} A later freeze_depth makes them smaller{later}.",
            ActivationBudgetWarning,
            stacklevel=2,
        )

    def _how_much(self, n_images: int) -> str:
        info = self.prefix.info
        last = info.stages[self.prefix.cut.depth - 1].name
        return (
            f"The activations of {n_images} images after {last} of {info.reference.name} take "
            f"{as_size(self.n_bytes)}"
        )

    def _place_on_disk(self, disk_budget: int | str, storable: bool) -> str:
        if storable and isinstance(self.cache, (str, os.PathLike)):
            directory = open_directory(self.cache)
            if self.n_bytes <= directory.max_bytes:
                if directory.usable:
                    return "directory"
                self.cache = True  # rows would be run again in every epoch
        free = shutil.disk_usage(tempfile.gettempdir()).free
        budget = free // 2 if disk_budget == "auto" else min(int(disk_budget), free)
        return "file" if self.n_bytes <= budget else "nowhere"

    def _explanation(self) -> str:
        """Say what was chosen instead of memory, and how to change it."""
        if self.place == "directory":
            return f"they are read from {str(self.cache)!r} batch by batch."
        if self.place == "nowhere":
            return (
                "nor is there room for them on disk: the frozen part is run again in every epoch, "
                "which is slow. cache__disk_budget bounds temporary files, "
                f"{_config.DIRECTORY_CACHE_VARIABLE} a directory given as cache."
            )
        if isinstance(self.cache, (str, os.PathLike)):
            keep = (
                f"the directory given as cache keeps {_config.DIRECTORY_CACHE_VARIABLE} bytes at "
                "most, and none where preprocessing or augmentation is a callable without a "
                "fingerprint."
            )
        else:
            keep = "cache='a/directory' would keep them for the next one."
        return (
            f"they are kept in a temporary file in {tempfile.gettempdir()!r} while this fit lasts; "
            f"{keep}"
        )

    def _warn_of_full_store(self, n_images: int) -> None:
        """Say that the store has no space, to the second fit that runs what the first one did."""
        fingerprint, *_ = replace(self.prefix).fingerprints() or (None,)
        if fingerprint is None:  # no store could keep it
            return
        _LEFT_OUT[fingerprint] += 1
        if _LEFT_OUT[fingerprint] != 2:
            return
        store = store_for(self.cache)
        assert store is not None
        warnings.warn(
            f"{self._how_much(n_images)}, more than the {as_size(store.max_bytes)} that the store "
            f"(cache={self.cache!r}) may hold: they are kept for one fit, and every other fold and "
            f"candidate runs the frozen part again. cache='a/directory' holds more; "
            f"{_config.MEMORY_CACHE_VARIABLE} (memory) and {_config.DIRECTORY_CACHE_VARIABLE} (a "
            "directory) raise the bounds.",
            ActivationBudgetWarning,
            stacklevel=2,
        )

    def keep(self, images: ImageSource, *, on_error: str) -> tuple[Any, list[ImageDecodeError]]:
        """Bring images to the cut; return activations by row number, and rows that failed."""
        settings: dict[str, Any] = {"n_threads": self.n_threads, "total_bytes": self.n_bytes}
        told = {**settings, "on_error": on_error, "progress": self.progress}
        prefix = replace(self.prefix)
        if self.place in ("memory", "file"):
            cache = self.cache if images.lasting else None
            allocate = np.empty if self.place == "memory" else _in_a_file
            return prefix.extract(images, cache=cache, allocate=allocate, **told)
        cache = self.cache if self.place == "directory" else None
        failures: list[ImageDecodeError] = []
        if self.place == "directory":
            for some in portions(images, _CHUNK):
                failures += prefix.extract(some, cache=cache, **told)[1]
        elif on_error == "nan":
            failures = unreadable(images, prefix)
        return _Extracted(prefix, images, {"cache": cache, **settings}), failures


@dataclass
class _Extracted:
    """Activations that are read from the store, or computed, when their rows are asked for."""

    prefix: Prefix
    images: ImageSource
    settings: dict[str, Any]

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return self.prefix.extract(ImageSelection(self.images, rows), **self.settings)[0][:]


def unreadable(images: ImageSource, prefix: Prefix) -> list[ImageDecodeError]:
    """Return the errors of rows that cannot be decoded."""
    failures = []
    for row in range(len(images)):
        try:
            images.open(row).decode(prefix.preprocessing.min_decode_side)
        except ImageDecodeError as error:
            # Not the error itself, whose traceback would keep the whole file alive.
            failures.append(ImageDecodeError(error.reason, error.index, error.source))
    return failures


def _in_a_file(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Allocate like ``numpy.empty``, in an unnamed temporary file that goes with the array."""
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
                    "disk, or cache__disk_budget=0 to run the frozen part in every epoch instead.",
                ) from error
        return np.memmap(file, dtype=dtype, mode="w+", shape=shape)


def as_size(n_bytes: int) -> str:
    """Return a number of bytes as a person reads it."""
    value = float(n_bytes)
    for unit in ("bytes", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:.3g} GiB"
