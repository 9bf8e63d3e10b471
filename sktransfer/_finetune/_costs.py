"""Seconds of the pieces of a fit, measured on a handful of images, and what a fit comes to.

It must not know searches, nor write to any store but its own.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sktransfer._finetune._datasets import ActivationRows, ImageRows
from sktransfer._finetune._fitting import threads
from sktransfer._finetune._head import solve_linear
from sktransfer._finetune._keeping import Place, from_array
from sktransfer._finetune._loop import Schedule
from sktransfer._finetune._trial import Trial
from sktransfer._frozen import DirectoryStore, MemoryStore, Store, TieredStore, store_for
from sktransfer._images import ImageSelection, ImageSource, resolve_augmentation

# A training step is measured on as large a batch as this allows.
_STEP_SECONDS = 0.5
# Rows that a logistic regression is timed on, at most; it is linear in them.
_SOLVED_ROWS = 1000


@dataclass(frozen=True)
class Costs:
    """Seconds.

    Parameters
    ----------
    start : float
        Of a fit before it looks at an image.
    run : float
        Of an image decoded and run through the frozen part.
    fetch : float
        Of an image that is found in the store.
    read : float
        Of an image decoded for training, where nothing is frozen.
    draw : float
        Of an image decoded, drawn and run through the frozen part.
    step, row : float
        Of a training step, and of each row in it.
    forward : float
        Of a row through the trained part, without gradient.
    solve : float
        Of a row in the logistic regression of the head.
    head_row : float
        Of a row in an epoch of the head alone.
    """

    start: float
    run: float
    fetch: float
    read: float
    draw: float
    step: float
    row: float
    forward: float
    solve: float
    head_row: float


@dataclass(frozen=True)
class Bill:
    """Seconds of a fit or a prediction, and images run through the frozen part in it."""

    frozen: float = 0.0
    train: float = 0.0
    predict: float = 0.0
    n_runs: int = 0


def fit_bill(trial: Trial, costs: Costs, n: int, n_new: int) -> Bill:
    """What a fit comes to.

    Parameters
    ----------
    trial : Trial
    costs : Costs
    n : int
        Rows.
    n_new : int
        Images and draws of them that the store does not have.
    """
    clf, depth = trial.clf, trial.prefix.cut.depth
    n_asked = n * (1 + trial.n_views)
    place = trial.place(n_asked) if trial.frozen else Place.MEMORY
    n_valid = round(n * (clf.validation_fraction or 0))
    n_train = n - n_valid
    done = trial.only_solved
    epochs = 0 if done else clf.max_epochs
    head_epochs = _head_epochs(trial)
    solved = trial.solves_head
    head_passes = int(solved or head_epochs > 0)
    recorded = int(done)

    # Rows that are read again, whenever they are looked at.
    looked_plain = n_train * (head_passes + recorded) + n_valid * (epochs + recorded)
    looked_train = n_train * epochs
    if trial.draws_anew:
        n_drawn, n_again = looked_train, looked_plain
    else:
        n_drawn, n_again = 0, looked_plain + looked_train
    runs = n_new if place is not Place.NOWHERE else 0
    frozen = runs * costs.run + n_drawn * (costs.draw if depth else 0.0)
    train = costs.start
    if depth == 0:
        train += n_again * costs.read + n_drawn * costs.draw
        n_drawn = 0
    elif place is Place.NOWHERE:
        frozen += n_again * costs.run
        runs += n_again
    else:
        train += (n_asked - n_new) * costs.fetch
        if place is Place.STORE:
            train += n_again * costs.fetch

    steps = epochs * -(-n_train // clf.batch_size)
    train += steps * costs.step + n_train * epochs * costs.row
    train += looked_plain * costs.forward
    train += n_train * (costs.solve * solved + costs.head_row * head_epochs)
    return Bill(frozen=frozen, train=train, n_runs=runs + n_drawn)


def predict_bill(trial: Trial, costs: Costs, n: int, n_new: int) -> Bill:
    """What a prediction comes to; the parameters are those of :func:`fit_bill`."""
    drawn = n * ((trial.clf.test_time_views or 1) - 1)
    seconds = (n + drawn) * costs.forward
    if not trial.frozen:
        return Bill(predict=seconds + n * costs.read + drawn * costs.draw)
    return Bill(
        frozen=n_new * costs.run + drawn * costs.draw,
        predict=seconds + (n - n_new) * costs.fetch,
        n_runs=n_new + drawn,
    )


def measure(trial: Trial, images: ImageSource, y: np.ndarray, rows: Sequence[int]) -> Costs:
    """Time the pieces of a fit.

    Parameters
    ----------
    trial : Trial
    images : ImageSource
    y : ndarray of int
        Codes of the classes, of all images.
    rows : sequence of int
        Images to measure on; they can be read.
    """
    clf = trial.clf
    clf._start()
    start = _seconds(clf._start, trial)
    some = ImageSelection(images, rows)
    with threads(trial.n_threads) as map_:
        run = fetch = read = draw = 0.0
        if trial.frozen:
            views = trial.views_of(some)
            # Draws are most of what runs, where they are kept.
            activations, run, fetch = _brought(trial, some if views is None else views)
        else:
            plain = _images(trial, some, None, map_)
            read = _seconds(lambda: plain.__getitems__(range(len(rows))), trial) / len(rows)
            activations = plain.__getitems__(range(len(rows)))[0]["x"].cpu().numpy()
        if trial.draws_anew:
            drawn = _images(trial, some, resolve_augmentation(clf.augmentation), map_)
            drawn.__getitems__(range(min(2, len(rows))))
            draw = _seconds(lambda: drawn.__getitems__(range(len(rows))), trial) / len(rows)
    bench = _Bench(trial, activations)
    step, row = (0.0, 0.0) if trial.only_solved else bench.step()
    forward, embeddings = bench.forward()
    solve = (
        _solve_seconds(embeddings, y, len(clf._classes), clf.head_C) if trial.solves_head else 0.0
    )
    head_row = bench.head_row(forward) if _head_epochs(trial) else 0.0
    trial.let_go()
    return Costs(start, run, fetch, read, draw, step, row, forward, solve, head_row)


def _head_epochs(trial: Trial) -> int:
    clf = trial.clf
    if clf.head_epochs is not None:
        return clf.head_epochs
    return 0 if trial.solves_head or trial.prefix.cut.head_only else 5


def _brought(trial: Trial, some: ImageSource) -> tuple[np.ndarray, float, float]:
    """Activations, and seconds of an image that is run and of one that is found again."""
    prefix = trial.prefix
    frozen = prefix.frozen()

    def bring(images: ImageSource, store: Store | None) -> np.ndarray:
        return frozen.run(
            images,
            (prefix.width,),
            dtypes=(prefix.dtype,),
            cache=None,
            n_threads=trial.n_threads,
            store=store,
        ).rows

    bring(
        ImageSelection(some, range(min(2, len(some)))), None
    )  # engines, threads and caches warm up
    n_asked = len(some)
    with _store_like(trial) as store:
        run = _seconds(lambda: bring(some, store), trial) / n_asked
        rows = []
        fetch = _seconds(lambda: rows.append(bring(some, store)), trial) / n_asked
    return rows[0], run, fetch


@contextmanager
def _store_like(trial: Trial) -> Iterator[Store | None]:
    """An empty store of the same kind as the user's, that goes away."""
    real = store_for(trial.clf.cache)
    if real is None:
        yield None
    elif isinstance(real, MemoryStore):
        yield MemoryStore()
    else:
        with tempfile.TemporaryDirectory(prefix="sktransfer-") as folder:
            far = DirectoryStore(folder)
            yield TieredStore(MemoryStore(), far) if isinstance(real, TieredStore) else far
            far.close()


def _images(
    trial: Trial, some: ImageSource, augmentation: Any, map_: Callable[..., Any]
) -> ImageRows:
    n = len(some)
    labels, weight = np.arange(n) % len(trial.clf._classes), np.ones(n)
    rows = ImageRows(
        some, trial.prefix, augmentation, 0, map_, np.arange(n, dtype=np.intp), labels, weight
    )
    rows.n_classes = len(trial.clf._classes)
    return rows


class _Bench:
    """Times the trained part on the activations of a few images, again and again."""

    def __init__(self, trial: Trial, activations: np.ndarray) -> None:
        self.trial = trial
        self.clf = trial.clf
        self.activations = activations
        # Rates near zero: what is timed stays the same from step to step.
        for group in self.clf.optimizer_.param_groups:
            group["initial_lr"] = 1e-12

    def rows(self, n: int) -> ActivationRows:
        places = np.arange(n, dtype=np.intp)
        return ActivationRows(
            from_array(self.activations[places % len(self.activations)]),
            places,
            places % len(self.clf._classes),
            np.ones(n),
        )

    def step(self) -> tuple[float, float]:
        """Seconds of a training step, and of each row in it."""
        batch = self.clf.batch_size
        small = max(1, min(4, batch // 2))
        self._epoch(small)
        few = min(self._epoch(small), self._epoch(small))
        large = batch
        while large > 2 * small and few * large / small > _STEP_SECONDS:
            large //= 2
        many = min(self._epoch(large), self._epoch(large))
        if large <= small:
            return many, 0.0
        row = max(0.0, (many - few) / (large - small))
        return max(0.0, many - row * large), row

    def _epoch(self, n: int) -> float:
        dataset = self.rows(n)
        schedule = Schedule(1, "constant", restore_best=False)
        return _seconds(lambda: self.clf.train_phase(dataset, None, schedule, seed=0), self.trial)

    def forward(self) -> tuple[float, np.ndarray]:
        """Seconds of a row without gradient, and embeddings."""
        n = len(self.activations)
        dataset = self.rows(n)
        found: list[np.ndarray] = [self.clf._embeddings(dataset)[0]]
        seconds = min(_seconds(lambda: self.clf._embeddings(dataset), self.trial) for _ in range(2))
        return seconds / n, found[0]

    def head_row(self, forward: float) -> float:
        """Seconds of a row in an epoch of the head alone."""
        n = self.clf.batch_size
        dataset = self.rows(n)

        def train(epochs: int) -> float:
            return _seconds(lambda: self.clf._train_head(dataset, None, epochs), self.trial)

        once, thrice = train(1), train(3)
        return max(0.0, (thrice - once) / 2 / n)


def _solve_seconds(embeddings: np.ndarray, y: np.ndarray, n_classes: int, C: float) -> float:
    """Of each row of a logistic regression, on embeddings that resemble those measured."""
    n = min(len(y), _SOLVED_ROWS)
    rng = np.random.default_rng(0)
    labels = rng.choice(y, n)
    labels[: min(n, n_classes)] = np.unique(y)[: min(n, n_classes)]
    centers = embeddings[labels % len(embeddings)]
    X = centers + rng.normal(size=centers.shape) * (2 * embeddings.std(axis=0) + 1e-6)
    start = time.perf_counter()
    solve_linear(X, labels, np.ones(n), n_classes, C)
    return (time.perf_counter() - start) / n


def _seconds(work: Callable[[], Any], trial: Trial) -> float:
    start = time.perf_counter()
    work()
    if trial.clf.device_.startswith("cuda"):
        torch.cuda.synchronize(trial.clf.device_)
    return time.perf_counter() - start
