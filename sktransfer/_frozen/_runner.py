"""Rows of images in, rows of activations out: decoding overlapped with the network, each distinct
image at most once. It must not know estimators, nor which network it runs.
"""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from sktransfer._frozen._prefix import is_out_of_memory
from sktransfer._frozen._rows import RowBlock, as_stored
from sktransfer._frozen._shelf import Shelf
from sktransfer._frozen._store import Store
from sktransfer._images import EncodedImage, ImageSource, Preprocessing
from sktransfer.exceptions import ImageDecodeError

# Large enough that the fixed cost of a pass is spread, small enough that the first layer's
# activations of a batch fit a CPU's shared cache about as well as those of one image do.
_BATCH_CPU = 32
_BATCH_ACCELERATOR = 128

# How often a run looks whether another one has finished the images they share.
_POLL_SECONDS = 0.02


@dataclass
class Job:
    """Everything a run needs besides the images.

    Parameters
    ----------
    compute : callable
        Takes a normalized batch (n, 3, side, side) and returns one CPU array (n, d) per part.
    preprocessing : Preprocessing
    widths : sequence of int
        The d of each part; the parts stand side by side in the result.
    dtypes : sequence of numpy dtype
        Of each part, in the store. Parts are rounded to it whether there is one or not, so that a
        miss gives what a later hit gives; numbers too large for it stay as they are. The result is
        of the widest.
    fingerprints : sequence of bytes, or None
        For each part, of everything that changes it but the image; None where there is no
        telling (a preprocessing callable without a name): then nothing is stored.
    store : Store or None
    batch_size : int or "auto"
    device : str
        Where ``compute`` runs.
    n_threads : int
        Threads that read and decode.
    on_error : {"raise", "nan"}
    progress : str or None
        Title of a progress bar, or None for none.
    allocate : callable
        Makes the array of the result, as ``numpy.empty`` does.
    """

    compute: Callable[[Tensor], list[np.ndarray]]
    preprocessing: Preprocessing
    widths: Sequence[int]
    dtypes: Sequence[np.dtype]
    fingerprints: Sequence[bytes] | None
    store: Store | None
    batch_size: int | str = "auto"
    device: str = "cpu"
    n_threads: int = 1
    on_error: str = "raise"
    progress: str | None = None
    allocate: Callable[..., np.ndarray] = np.empty


@dataclass
class Outcome:
    """Rows of activations, in order, and the rows that could not be read."""

    rows: np.ndarray
    failures: list[ImageDecodeError] = field(default_factory=list)


def run(source: ImageSource, job: Job) -> Outcome:
    """Run ``job`` over every image of ``source``.

    Rows come back in order. Images with equal bytes are computed once, here and across calls if
    there is a store; whatever a run finished before it was interrupted is in the store.

    Raises
    ------
    ImageDecodeError
        For the first row that cannot be read, with ``on_error="raise"``.
    """
    run_ = _Run(source, job)
    with tqdm(
        total=len(source),
        desc=job.progress,
        unit="image",
        disable=job.progress is None,
        dynamic_ncols=True,
    ) as bar:
        run_.go(bar.update)
    return Outcome(run_.block.array, run_.failures)


class _Run:
    """One run in progress. Only the calling thread touches its state; workers return values."""

    def __init__(self, source: ImageSource, job: Job) -> None:
        self.source = source
        self.job = job
        self.block = RowBlock(len(source), job.widths, np.result_type(*job.dtypes), job.allocate)
        self.shelf = Shelf(job.store, job.fingerprints)
        self.failures: list[ImageDecodeError] = []
        self.first_row: dict[bytes, int] = {}  # digest -> the row that computes it
        self.copies: list[tuple[int, int]] = []  # (row, the row it equals)
        self.failed: dict[int, ImageDecodeError] = {}
        self.elsewhere: dict[int, bytes] = {}  # row -> digest of what another run is computing
        default = _BATCH_CPU if job.device == "cpu" else _BATCH_ACCELERATOR
        self.batch_size = default if job.batch_size == "auto" else int(job.batch_size)
        self.told_memory = False

    def go(self, advance: Callable[[int], object]) -> None:
        executor = ThreadPoolExecutor(self.job.n_threads, thread_name_prefix="sktransfer-decode")
        try:
            self._pass(range(len(self.source)), executor, advance)
            while self.elsewhere:
                taken_over = self._look_elsewhere(advance)
                if taken_over:
                    self._pass(taken_over, executor, advance)
                elif self.elsewhere:
                    time.sleep(_POLL_SECONDS)
        finally:
            # On an error or Ctrl-C, what waits is dropped; what runs is an image or two.
            executor.shutdown(wait=True, cancel_futures=True)
            self.shelf.release()
        self._copy_duplicates()
        self.failures.sort(key=lambda failure: -1 if failure.index is None else failure.index)

    def _pass(
        self,
        rows: Sequence[int],
        executor: ThreadPoolExecutor,
        advance: Callable[[int], object],
    ) -> None:
        pending: list[tuple[int, bytes, np.ndarray]] = []
        for row, digest, image in self._decoded(rows, executor, advance):
            pending.append((row, digest, image))
            if len(pending) >= self.batch_size:
                self._compute(pending)
                advance(len(pending))
                pending = []
        if pending:
            self._compute(pending)
            advance(len(pending))

    def _look_elsewhere(self, advance: Callable[[int], object]) -> list[int]:
        """Rows whose computation by another run came to nothing, and is now up to this one."""
        taken_over = []
        for row, digest in list(self.elsewhere.items()):
            if self._fetch(row, digest):
                advance(1)
            elif self.shelf.claim(digest, even_if_there=True):
                # Put between the look and the claim, or there but unreadable: look again.
                if self._fetch(row, digest):
                    self.shelf.release([digest])
                    advance(1)
                else:
                    taken_over.append(row)
            else:
                continue
            del self.elsewhere[row]
        return taken_over

    def _decoded(
        self,
        rows: Sequence[int],
        executor: ThreadPoolExecutor,
        advance: Callable[[int], object],
    ) -> Iterator[tuple[int, bytes, np.ndarray]]:
        """Decoded images still to be computed, in row order, a bounded number ahead."""
        opening: deque[tuple[int, Future[EncodedImage]]] = deque()
        decoding: deque[tuple[int, bytes, Future[np.ndarray]]] = deque()
        ahead_of_us = deque(rows)
        while True:
            # Two steps, since only the digest can tell whether an image has to be decoded at
            # all, and the decision is made here, in row order: the same rows are computed and
            # the same row is named in an error whatever the threads do.
            ahead = 2 * self.batch_size + self.job.n_threads
            while ahead_of_us and len(opening) + len(decoding) < ahead:
                row = ahead_of_us.popleft()
                opening.append((row, executor.submit(self.source.open, row)))
            while opening and (opening[0][1].done() or not decoding):
                row, opened = opening.popleft()
                try:
                    encoded = opened.result()
                except ImageDecodeError as error:
                    # It waits its turn, so that the first bad row is the one an error names.
                    failed: Future[np.ndarray] = Future()
                    failed.set_exception(error)
                    decoding.append((row, b"", failed))
                    continue
                if self._known(row, encoded.digest):
                    advance(1)
                    continue
                if not self.shelf.claim(encoded.digest):
                    self.elsewhere[row] = encoded.digest
                    continue
                future = executor.submit(self._prepare, row, encoded)
                decoding.append((row, encoded.digest, future))
            if decoding:
                row, digest, decoded = decoding.popleft()
                try:
                    image = decoded.result()
                except ImageDecodeError as error:
                    self.shelf.release([digest])
                    self._fail(row, error)
                    advance(1)
                else:
                    yield row, digest, image
            elif not opening and not ahead_of_us:
                return

    def _prepare(self, row: int, encoded: EncodedImage) -> np.ndarray:
        image = encoded.decode(self.job.preprocessing.min_decode_side)
        try:
            return self.job.preprocessing(image)
        except Exception as error:  # a preprocessing callable's own: say at which image
            error.add_note(
                f"while preparing row {self.source.number(row)} ({self.source.describe(row)})"
            )
            raise

    def _known(self, row: int, digest: bytes) -> bool:
        """Whether the row is resolved by an equal image, in this run or an earlier one."""
        if self.first_row.setdefault(digest, row) != row:
            self.copies.append((row, self.first_row[digest]))
            return True
        return self._fetch(row, digest)

    def _fetch(self, row: int, digest: bytes) -> bool:
        parts = self.shelf.fetch(digest)
        if parts is not None:
            self.block.put(row, parts)
        return parts is not None

    def _fail(self, row: int, error: ImageDecodeError) -> None:
        # An equal row elsewhere may have been the one that was read: name this one.
        number = self.source.number(row)
        named = ImageDecodeError(error.reason, number, self.source.describe(row))
        if self.job.on_error == "raise":
            raise named from error
        self.block.lose(row)
        self.failed[row] = error
        self.failures.append(named)

    def _copy_duplicates(self) -> None:
        for row, original in self.copies:
            if original in self.failed:
                self._fail(row, self.failed[original])
            else:
                self.block.copy(row, original)

    def _compute(self, pending: Sequence[tuple[int, bytes, np.ndarray]]) -> None:
        values = self._within_memory([image for _, _, image in pending])
        done = []
        for (row, digest, _), value in zip(pending, values, strict=True):
            parts = [
                as_stored(value[columns], dtype)
                for columns, dtype in zip(self.block.columns, self.job.dtypes, strict=True)
            ]
            self.block.put(row, parts)
            done.append((digest, parts))
        # Flushed per batch: whatever happens next, this much is done.
        self.shelf.keep(done)

    def _within_memory(self, images: list[np.ndarray]) -> np.ndarray:
        """Compute a batch, in halves of halves if the device has no room for it."""
        while True:
            bounds = [*range(0, len(images), self.batch_size), len(images)]
            try:
                return np.concatenate(
                    [self._network(images[low:high]) for low, high in pairwise(bounds)]
                )
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or self.batch_size == 1:
                    raise
            # Outside the handler: the traceback would keep the failed batch's tensors alive.
            self.batch_size = max(1, min(self.batch_size, len(images)) // 2)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if not self.told_memory:
                self.told_memory = True
                warnings.warn(
                    f"{self.job.device} ran out of memory; going on with smaller batches "
                    f"(now {self.batch_size}). Set batch_size to avoid the failed attempt.",
                    RuntimeWarning,
                    stacklevel=2,
                )

    def _network(self, images: list[np.ndarray]) -> np.ndarray:
        stacked = self.job.preprocessing.stack(images)
        if self.job.device.startswith("cuda"):
            # Pinned memory lets the copy run alongside the previous batch's kernels; as uint8 it is
            # a quarter of the bytes, and the device normalizes.
            stacked = stacked.pin_memory().to(self.job.device, non_blocking=True)
        return np.hstack(self.job.compute(self.job.preprocessing.normalize(stacked)))
