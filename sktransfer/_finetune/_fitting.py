"""How a fine-tune runs: from rows of images to a trained suffix.

It must not know scikit-learn's surface (parameters, predictions); see ``_estimator``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from sktransfer._backbones import tensor_bytes
from sktransfer._base import failed_rows_frame, n_decoding_threads
from sktransfer._finetune._checkpoint import SILENT, Checkpoints, identity
from sktransfer._finetune._datasets import ActivationRows
from sktransfer._finetune._gathering import Labeled, gather
from sktransfer._finetune._head import solve_linear
from sktransfer._finetune._keeping import from_array
from sktransfer._finetune._loop import Schedule
from sktransfer._finetune._parts import HEAD_PHASE, MAIN_PHASE, SPLIT, VIEWS, Parts
from sktransfer._finetune._rows import Rows, read_labels, split_rows
from sktransfer._images import resolve_augmentation


class Fitting(Parts):
    """The steps of ``fit``."""

    def _read(
        self, X: Any, y: Any, sample_weight: Any, groups: Any, classes: Any, *, reset: bool
    ) -> Rows:
        source = self._image_source(X, reset=reset)
        rows, found = read_labels(y, source, sample_weight, groups, classes, self)
        if reset:
            self._classes = found
            self._failed_rows = failed_rows_frame([])
        return rows

    def _start(self) -> None:
        self.initialized_ = False
        self.__dict__.pop("_prefix_", None)
        self._prepare()
        self.initialize()

    def _run(self, rows: Rows, X: Any, y: Any, *, go_on: bool, declared: bool = False) -> None:
        """Train; ``go_on`` from the present weights, ``declared`` if classes were given."""
        if go_on:
            self._check_still_that_network()
            self.module_.to(self.device_)
            self._ready_again()
        try:
            with self._as_torch_says():
                self.notify("on_train_begin", X=X, y=y)
                self._learn(rows, go_on=go_on, one_class=go_on or declared)
                self.notify("on_train_end", X=X, y=y)
        except BaseException:
            if not go_on:  # a head of random numbers is not to be predicted with
                self.initialized_ = False
            raise

    def _learn(self, rows: Rows, *, go_on: bool, one_class: bool) -> None:
        """Train on ``rows``; ``go_on`` leaves the head as it is."""
        with self._datasets_of(rows, one_class=one_class) as (plain, fresh, held_out):
            solved = False if go_on else self._start_head(plain, held_out)
            if not solved:
                self._train(fresh, held_out, rows, go_on=go_on)
        self._set_training(False)

    @contextmanager
    def _until_training(self, X: Any, y: Any, sample_weight: Any) -> Iterator[tuple[Any, bool]]:
        """Everything that comes before the trained stages are: their rows, and whether none is."""
        self._check_parameters()
        rows = self._read(X, y, sample_weight, None, None, reset=True)
        self._start()
        with self._datasets_of(rows, one_class=False) as (plain, fresh, _):
            yield fresh, self._start_head(plain, None)

    @contextmanager
    def _datasets_of(self, rows: Rows, *, one_class: bool) -> Iterator[tuple[Any, Any, Any]]:
        """Rows as they are, as they are drawn, and those held out (or None)."""
        n_threads = n_decoding_threads(self.n_jobs)
        found = gather(
            self._prefix,
            rows.source,
            resolve_augmentation(self.augmentation),
            self.augment_views,
            self._seed_of(VIEWS),
            self._budget,
            n_threads=n_threads,
            on_error=self.on_error,
            progress=bool(self.verbose),
        )
        rows.leave_out(found.failures)
        self._note_failures(found.failures, len(rows.y), "left out of training")
        train, valid = split_rows(
            rows, self.validation_fraction, self.train_split, self._seed_of(SPLIT), self._classes
        )
        if len(np.unique(rows.y[train])) < 2 and not one_class:
            raise ValueError(
                "The rows to train on are of one class: hold out less, or give more rows."
            )
        self.train_indices_ = train
        self.valid_indices_ = np.empty(0, dtype=np.intp) if valid is None else valid

        def labeled(chosen: np.ndarray) -> Labeled:
            return chosen, rows.y[chosen], rows.weights(chosen, self.class_weight, self._classes)

        with threads(n_threads) as map_:
            plain = found.as_they_are(labeled(train), map_)
            fresh = found.as_drawn(labeled(train), map_, len(self._classes))
            held_out = None if valid is None else found.as_they_are(labeled(valid), map_)
            yield plain, fresh, held_out

    def _start_head(self, plain: Any, held_out: Any) -> bool:
        """Phase one, the head; whether that was all there is to do."""
        linear = self.module_.linear()
        exact = self._solves_head
        if exact and linear is None:
            raise ValueError(
                f"head_init='logistic' solves a linear head; head={self.head!r} is not one. Use "
                "head_init='random' (or 'auto') with head_epochs."
            )
        if exact:
            assert linear is not None
            embeddings, y, weight = self._embeddings(plain)
            coefficients, intercepts = solve_linear(
                embeddings, y, weight, len(self._classes), self.head_C
            )
            done = self._nothing_but_solved()
            if done:
                # Applied as it was solved: float32 would round away what the solver found.
                self.module_.head.double()
            with torch.no_grad():
                linear.weight.copy_(torch.from_numpy(coefficients))
                linear.bias.copy_(torch.from_numpy(intercepts))
            if done:
                self._record_solved(plain, held_out)
                return True
        epochs = self.head_epochs
        if epochs is None:
            epochs = 0 if exact or self._prefix.cut.head_only else 5
        if epochs:
            self._train_head(plain, held_out, epochs)
        return False

    def _nothing_but_solved(self) -> bool:
        """Whether logistic regression was the whole task, and not only its beginning."""
        return (
            self._prefix.cut.head_only
            and self.augmentation is None
            and self.loss == "cross_entropy"
            and not self.label_smoothing
            and not self.dropout
        )

    @torch.no_grad()
    def _embeddings(self, dataset: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        self._set_training(False)
        parts = [
            self.module_.features(inputs["x"].to(self.device_)).cpu().double().numpy()
            for inputs, _ in self.get_iterator(dataset)
        ]
        # As they were given: a row of weight two is, to the penalty too, the same as two rows.
        return np.concatenate(parts), dataset.y.numpy(), dataset.given_weight

    def _train_head(self, plain: Any, held_out: Any, epochs: int) -> None:
        """Some epochs of the head alone, on embeddings that are computed once."""
        head_set = self._embedded(plain)
        held_set = None if held_out is None else self._embedded(held_out)
        whole_optimizer, self.phase_ = self.optimizer_, "head"
        try:
            self.optimizer_ = self._optimizer_of(
                [("head", self.module_.head, self._head_rates[0])], self.head_optimizer
            )
            self.train_phase(
                head_set,
                held_set,
                Schedule(epochs, "constant", restore_best=False),
                seed=self._seed_of(HEAD_PHASE),
            )
        finally:
            self.optimizer_, self.phase_ = whole_optimizer, "all"

    def _embedded(self, dataset: Any) -> ActivationRows:
        embeddings, y, weight = self._embeddings(dataset)
        dtype = np.float64 if self.precision == "float64" else np.float32
        return ActivationRows(from_array(embeddings.astype(dtype)), np.arange(len(y)), y, weight)

    def _train(self, fresh: Any, held_out: Any, rows: Rows, *, go_on: bool) -> None:
        """Phase two, everything that is not frozen."""
        before = len(self.history) if go_on else 0
        checkpoints = None
        if self.checkpoint_dir is not None:
            checkpoints = Checkpoints(
                self.checkpoint_dir,
                self._fingerprint(rows, fresh, go_on=go_on),
                self.checkpoint_every,
            )
        progress = self.train_phase(
            fresh,
            held_out,
            Schedule(
                self.max_epochs,
                self.lr_schedule,
                self.warmup_epochs,
                self.early_stopping,
                self.restore_best,
                self.ema_decay,
            ),
            seed=self._seed_of(MAIN_PHASE),
            checkpoints=checkpoints,
            epochs_before=before,
        )
        self.n_epochs_, self.best_epoch_ = progress.epoch, progress.best_epoch

    def _record_solved(self, plain: Any, held_out: Any) -> None:
        """One line of history: the loss and accuracy of the solution."""
        self._set_training(False)
        self.history.new_epoch()
        self.history.record("epoch", 1)
        self.history.record("phase", "solved")
        for name, dataset in (("train", plain), ("valid", held_out)):
            if dataset is None:
                continue
            losses, right, sizes = [], [], []
            for batch in self.get_iterator(dataset):
                step = self.validation_step(batch)
                losses.append(step["loss"].item())
                right.append((step["y_pred"].argmax(1).cpu() == batch[1]).double().mean().item())
                sizes.append(len(batch[1]))
            self.history.record(f"{name}_loss", float(np.average(losses, weights=sizes)))
            self.history.record(f"{name}_acc", float(np.average(right, weights=sizes)))
        self.n_epochs_, self.best_epoch_ = 0, 0

    def _fingerprint(self, rows: Rows, dataset: Any, *, go_on: bool) -> str:
        """Of everything that decides what training comes to."""
        settings = {
            name: value for name, value in self.get_params(deep=False).items() if name not in SILENT
        }
        digest = hashlib.blake2b(digest_size=16)
        for part in (identity(settings, "a parameter"), repr(self.reference_)):
            digest.update(part.encode())
        digest.update(repr(self._classes.tolist()).encode())
        digest.update(b"".join(rows.digests))
        digest.update(rows.y.tobytes() + dataset.weight.numpy().tobytes())
        # What is held out chooses the epoch, and another split trains on other rows: groups may
        # have changed, or a train_split that draws.
        for numbers in (self.train_indices_, self.valid_indices_, rows.weight):
            digest.update(numbers.tobytes())
        if go_on:  # another place to start from is another training
            for tensor in self.module_.saved().values():
                digest.update(tensor_bytes(tensor))
        return digest.hexdigest()


@contextmanager
def threads(n: int) -> Any:
    """``map`` that decodes in ``n`` threads, for as long as rows are read."""
    with ThreadPoolExecutor(n, thread_name_prefix="sktransfer-decode") as pool:
        yield pool.map
