"""Rows of images in, rows of activations out: decoding overlapped with the network, each distinct
image at most once. It must not know estimators, nor which network it runs.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sktransfer._frozen._network import is_out_of_memory
from sktransfer._frozen._store import Store
from sktransfer._images import EncodedImage, ImageSource, Preprocessing
from sktransfer._utils.memory import give_back_freed_memory
from sktransfer._utils.notebooks import progress_bar
from sktransfer._utils.threads import DecodingThreads
from sktransfer.exceptions import ImageDecodeError

# Large enough that the fixed cost of a pass is spread, small enough that the first layer's
# activations of a batch fit a CPU's shared cache about as well as those of one image do.
_BATCH_CPU = 32
_BATCH_ACCELERATOR = 128

# Bytes of images on their way to the network, read or prepared: large files are read fewer at a
# time than small ones. And bytes of a batch in float32, unless its size was asked for.
AHEAD_BYTES = 256 * 2**20
BATCH_BYTES = 512 * 2**20

# How often a run looks whether another one has finished the images they share.
_POLL_SECONDS = 0.02


_Image = tuple[int, bytes, np.ndarray]  # row, digest and pixels of one to be computed


@dataclass
class _Ahead:
    """Counts the bytes of images that are on their way; threads change it."""

    n_bytes: int = 0
    prepared: int = 0  # bytes of an image when it is ready, as far as is known
    lock: Any = field(default_factory=threading.Lock)

    def change(self, by: int, ready: Future[np.ndarray] | None = None) -> None:
        """Count some more bytes, or less, and those of an image that has become ready."""
        with self.lock:
            if ready is not None:
                with suppress(Exception):  # it failed, or was dropped
                    self.prepared = ready.result().nbytes
                    by += self.prepared
            self.n_bytes += by


@dataclass
class Extraction:
    """A run over images. Only the calling thread changes its state; workers return values.

    Parameters
    ----------
    images : ImageSource
        What is run.
    compute : callable
        Takes a normalized batch (n, 3, side, side) and returns one CPU array (n, d) per part.
    widths, dtypes : sequence
        Columns of each part, which stand side by side in the result, and their dtypes in the store.
        Parts are rounded whether there is a store or not, so that a miss gives what a later hit
        gives; numbers too large for it stay as they are. The result is of the widest dtype.
    fingerprints : sequence of bytes, or None
        For each part, of everything that changes it but the image; None where there is no
        telling (a preprocessing callable without a name): then nothing is stored.
    progress : str or None
        Title of a progress bar, or None for none.
    allocate : callable
        Makes the array of the result, as ``numpy.empty`` does.
    begin : callable or None
        Begins a stacked batch on a device and returns what waits for it and gives what ``compute``
        would: the next batch is brought meanwhile. None: batches are computed one by one.
    preprocessing, store, batch_size, device, n_threads, on_error
        As for the estimators, resolved.
    """

    images: ImageSource
    compute: Callable[[Tensor], list[np.ndarray]]
    preprocessing: Preprocessing
    widths: Sequence[int]
    dtypes: Sequence[np.dtype]
    fingerprints: Sequence[bytes] | None = None
    store: Store | None = None
    batch_size: int | str = "auto"
    device: str = "cpu"
    n_threads: int = 1
    on_error: str = "raise"
    progress: str | None = None
    allocate: Callable[..., np.ndarray] = np.empty
    begin: Callable[[Tensor], Callable[[], list[np.ndarray]]] | None = None
    halved: Callable[[], object] = lambda: None  # called when memory was too small

    def run(self) -> tuple[np.ndarray, list[ImageDecodeError]]:
        """Run every image, those with equal bytes once, here and across runs of one store.

        Returns rows (n, sum(widths)) in the order of the images, NaN where one could not be read,
        and a list of the failures; with ``on_error="raise"`` raises for the first row that cannot
        be read. Whatever was finished before an interruption is in the store.
        """
        n, default = len(self.images), _BATCH_CPU if self.device == "cpu" else _BATCH_ACCELERATOR
        self._limit = default if self.batch_size == "auto" else int(self.batch_size)
        self._warned = False
        # The batch that is running, and what waits for it.
        self._running: tuple[Sequence[_Image], Callable[[], list[np.ndarray]]] | None = None
        self._columns = [slice(*bounds) for bounds in pairwise(np.cumsum([0, *self.widths]))]
        self._rows = self.allocate((n, sum(self.widths)), np.result_type(*self.dtypes))
        self._failures: list[ImageDecodeError] = []
        self._failed: dict[int, ImageDecodeError] = {}
        self._first_row: dict[bytes, int] = {}  # digest -> the row that computes it
        self._copies: list[tuple[int, int]] = []  # (row, the row it equals)
        self._elsewhere: dict[int, bytes] = {}  # row -> digest of what another run is computing
        # Who a claim belongs to: this run, not this process, which may run several at once.
        self._owner = f"{os.getpid()}-{secrets.token_hex(8)}"
        # digest -> the key of the claim, and those of the parts
        self._claimed: dict[bytes, tuple[bytes, list[bytes]]] = {}
        with progress_bar(self.progress, total=n, unit="image") as bar:
            try:
                with DecodingThreads(self.images.n_threads(self.n_threads)) as threads:
                    todo: Sequence[int] = range(n)
                    while True:
                        pending: list[_Image] = []
                        for decoded in self._decoded(todo, threads, bar.update):
                            pending.append(decoded)
                            size = 4 * pending[0][2].size * (len(pending) + 1)
                            too_large = self.batch_size == "auto" and size > BATCH_BYTES
                            if too_large or len(pending) >= self._limit:
                                self._compute(pending, bar.update)
                                pending = []
                        self._compute(pending, bar.update, last=True)
                        if not self._elsewhere:
                            break
                        todo = self._look_elsewhere(bar.update)
            finally:
                if self._running is not None and self.begin is not None:
                    # An error elsewhere: what the device is computing is kept.
                    with suppress(Exception):
                        self._finish(bar.update)
                if self._claimed:
                    self._release(list(self._claimed))
        for row, original in self._copies:
            if original in self._failed:
                self._fail(row, self._failed[original])
            else:
                self._rows[row] = self._rows[original]
        self._failures.sort(key=lambda failure: -1 if failure.index is None else failure.index)
        return self._rows, self._failures

    def _decoded(
        self, rows: Sequence[int], threads: DecodingThreads, advance: Callable[[int], object]
    ) -> Iterator[tuple[int, bytes, np.ndarray]]:
        """Yield decoded images to be computed, in row order, a bounded number and size ahead."""
        opening: deque[tuple[int, int, Future[EncodedImage]]] = deque()
        decoding: deque[tuple[int, bytes, Future[np.ndarray]]] = deque()
        waiting, ahead = deque(rows), _Ahead()
        while waiting or opening or decoding:
            # Two steps, since only the digest can tell whether an image has to be decoded at
            # all, and the decision is made here, in row order: the same rows are computed and
            # the same row is named in an error whatever the threads do.
            while waiting and len(opening) + len(decoding) < 2 * self._limit + self.n_threads:
                size = max(self.images.size(waiting[0]), ahead.prepared)
                if (opening or decoding) and ahead.n_bytes + size > AHEAD_BYTES:
                    break  # one goes whatever its size
                row = waiting.popleft()
                ahead.change(size)
                opening.append((row, size, threads.submit(self.images.open, row)))
            while opening and (opening[0][2].done() or not decoding):
                row, size, opened = opening.popleft()
                try:
                    encoded = opened.result()
                except ImageDecodeError as error:
                    # It waits its turn, so that the first bad row is the one an error names.
                    ahead.change(-size)
                    failed: Future[np.ndarray] = Future()
                    failed.set_exception(error)
                    decoding.append((row, b"", failed))
                    continue
                digest = encoded.key
                n_read = len(encoded.content) if isinstance(encoded.content, bytes) else 0
                n_read = max(n_read, ahead.prepared)
                ahead.change(n_read - size)
                first = self._first_row.setdefault(digest, row)
                state = "copy" if first != row else self._look_up(row, digest)
                if state == "claimed":
                    future = threads.submit(encoded.prepare, self.preprocessing)
                    future.add_done_callback(partial(ahead.change, -n_read))
                    decoding.append((row, digest, future))
                    continue
                ahead.change(-n_read)
                if state == "elsewhere":
                    self._elsewhere[row] = digest
                    continue
                if state == "copy":
                    self._copies.append((row, first))
                advance(1)
            if decoding:
                row, digest, decoded = decoding.popleft()
                try:
                    image = decoded.result()
                except ImageDecodeError as error:
                    self._release([digest])
                    self._fail(row, error)
                    advance(1)
                else:
                    ahead.change(-image.nbytes)
                    yield row, digest, image

    def _look_elsewhere(self, advance: Callable[[int], object]) -> list[int]:
        """Fetch what other runs have finished; return rows they gave up, which are now ours."""
        taken_over = []
        for row, digest in list(self._elsewhere.items()):
            state = self._look_up(row, digest, even_if_there=True)
            if state == "claimed":
                # Put between the look and the claim, or there but unreadable: look again.
                state = self._look_up(row, digest, even_if_there=True)
                if state == "cached":
                    self._release([digest])
                else:
                    taken_over.append(row)
            if state == "cached":
                advance(1)
            if state != "elsewhere":
                del self._elsewhere[row]
        if not taken_over and self._elsewhere:
            time.sleep(_POLL_SECONDS)
        return taken_over

    def _look_up(self, row: int, digest: bytes, *, even_if_there: bool = False) -> str:
        """Fill a row from the store, or else claim its image.

        Returns "cached" or "claimed"; or "elsewhere" if another run is computing the image, or has
        finished it since it was looked for (which does not count with ``even_if_there``).
        """
        if self.store is None or self.fingerprints is None:
            return "claimed"
        # The key of a claim on all parts, and those of the parts.
        named = (b"".join(self.fingerprints), *self.fingerprints)
        claim, *keys = [hashlib.blake2b(each + digest, digest_size=16).digest() for each in named]
        parts: list[np.ndarray] = []
        for key, width, dtype in zip(keys, self.widths, self.dtypes, strict=True):
            part = self.store.get(key, (width, dtype))
            if part is None:
                break
            parts.append(part)
        else:
            self._fill(row, parts)
            return "cached"
        # Noted before it is made: an interrupt between the two must not leave it behind.
        self._claimed[digest] = (claim, keys)
        if self.store.claim(claim, self._owner, [] if even_if_there else keys):
            return "claimed"
        del self._claimed[digest]
        return "elsewhere"

    def _release(self, digests: Iterable[bytes]) -> None:
        """Give back the claims on images."""
        held = [digest for digest in digests if digest in self._claimed]
        if held and self.store is not None:
            self.store.release([self._claimed[digest][0] for digest in held], self._owner)
        for digest in held:
            del self._claimed[digest]

    def _fill(self, row: int, parts: Sequence[np.ndarray]) -> None:
        """Fill a row; the whole array is widened for a part that is wider."""
        for columns, part in zip(self._columns, parts, strict=True):
            if part.dtype.itemsize > self._rows.dtype.itemsize:
                narrow = self._rows
                self._rows = self.allocate(narrow.shape, part.dtype)
                self._rows[:] = narrow
            self._rows[row, columns] = part

    def _fail(self, row: int, error: ImageDecodeError) -> None:
        """Note a row that cannot be read, or raise."""
        # An equal row elsewhere may have been the one that was read: name this one.
        number = self.images.number(row)
        named = ImageDecodeError(error.reason, number, self.images.describe(row))
        if self.on_error == "raise":
            raise named from error
        self._rows[row] = np.nan
        # Not the error itself, whose traceback would keep the whole file alive.
        self._failed[row] = named
        self._failures.append(named)

    def _compute(
        self, pending: Sequence[_Image], advance: Callable[[int], object], *, last: bool = False
    ) -> None:
        """Begin batches, each when the one before it has begun, and finish that one.

        What does not fit in the memory of the device is begun again in smaller ones.
        """
        while pending or (last and self._running is not None):
            batch, begun = pending[: self._limit], None
            if batch:
                begun = self._if_it_fits(partial(self._begin, batch), len(batch))
                if begun is not None:
                    pending = pending[len(batch) :]
            pending = [*self._finish(advance), *pending]
            if begun is not None:
                self._running = batch, begun
                if self.begin is None:
                    pending = [*self._finish(advance), *pending]

    def _begin(self, batch: Sequence[_Image]) -> Callable[[], list[np.ndarray]]:
        """Begin a batch on its device; return what waits for it."""
        cuda = self.device.startswith("cuda")
        # Pinned memory lets the copy run alongside the previous batch's kernels; as uint8 it is a
        # quarter of the bytes, and the device normalizes.
        images = self.preprocessing.stack([image for _, _, image in batch], pinned=cuda)
        if self.begin is not None:
            return self.begin(images)
        images = images.to(self.device, non_blocking=True) if cuda else images
        return lambda: self.compute(self.preprocessing.normalize(images))

    def _if_it_fits(self, work: Callable[[], Any], n: int) -> Any:
        """Do some work on ``n`` images; return None if it takes more memory than there is."""
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or self._limit == 1:
                raise
        # Outside the handler: the traceback would keep the failed batch's tensors alive.
        self._halve(n)
        return None

    def _finish(self, advance: Callable[[int], object]) -> Sequence[_Image]:
        """Wait for the batch that is running, fill and store its rows; return it if it failed."""
        if self._running is None:
            return []
        (batch, finish), self._running = self._running, None
        parts = self._if_it_fits(finish, len(batch))
        if parts is None:
            return batch
        values = np.hstack(parts)
        columns = []
        for where, dtype in zip(self._columns, self.dtypes, strict=True):
            part = values[:, where]
            with np.errstate(over="ignore"):
                stored = part.astype(dtype, copy=False)
            if stored is part:
                columns.append([*part])
                continue
            # A row with a number too large for the dtype stays as it is.
            whole = (~np.isfinite(stored) & np.isfinite(part)).any(axis=1)
            columns.append([p if w else s for p, s, w in zip(part, stored, whole, strict=True)])
        rows: list[tuple[bytes, np.ndarray]] = []
        for (row, digest, _), *parts in zip(batch, *columns, strict=True):
            self._fill(row, parts)
            if digest in self._claimed:
                rows += zip(self._claimed[digest][1], parts, strict=True)
        if self.store is not None and rows:
            # Flushed per batch: whatever happens next, this much is done.
            claims = [self._claimed[digest][0] for _, digest, _ in batch]
            self.store.put(rows, claims, self._owner)
            for _, digest, _ in batch:
                del self._claimed[digest]
        advance(len(batch))
        give_back_freed_memory(len(batch))
        return []

    def _halve(self, n: int) -> None:
        """Halve the batch after one of ``n`` images did not fit in memory, and say so once."""
        self._limit = max(1, min(self._limit, n) // 2)
        self.halved()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{self.device} ran out of memory; continuing with smaller batches (now "
                f"{self._limit}). Set batch_size to avoid the failed attempt.",
                RuntimeWarning,
                stacklevel=2,
            )
