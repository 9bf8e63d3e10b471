"""How a fine-tune runs: from rows of pictures to a trained suffix.

It must not know scikit-learn's surface (parameters, predictions); see ``_estimator``.
"""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from sktransfer._base import (
    ImageInputMixin,
    derived_seed,
    n_decoding_threads,
    resolve_device,
    seed_from,
)
from sktransfer._finetune._activations import (
    ActivationRows,
    LabelledRows,
    PictureRows,
    Prefix,
    activation_shape,
)
from sktransfer._finetune._checkpoint import Checkpoints
from sktransfer._finetune._depth import resolve_freeze_depth
from sktransfer._finetune._head import make_head, solve_linear
from sktransfer._finetune._loop import Schedule, TrainingLoop
from sktransfer._finetune._network import Suffix
from sktransfer._finetune._rows import Rows, split_rows
from sktransfer._persistence import PackedWeights, found_source, request_source
from sktransfer.backbones import Backbone
from sktransfer.exceptions import ImageDecodeError
from sktransfer.frozen import (
    NetworkInfo,
    NetworkSource,
    Recipe,
    digest_mismatch,
    resolve_engine,
)
from sktransfer.images import ImageSource, resolve_augmentation

# The last whole network that was loaded: the next fold or candidate copies its stages.
_last: dict[tuple, Backbone] = {}
_last_lock = threading.Lock()

# Seeds of the parts of a fit.
_SPLIT, _HEAD, _HEAD_PHASE, _MAIN_PHASE, VIEWS = range(5)


def whole_backbone(source: NetworkSource) -> Backbone:
    """The network of ``source`` with all its stages; do not change it."""
    with _last_lock:
        found = _last.get(source.key)
        if found is None:
            found = source.load()
            if source.reference is not None and source.reference.digest != found.reference.digest:
                raise digest_mismatch(source.reference.digest, found.reference)
            _last.clear()
            _last[source.key] = found
        return found


class Fitting(ImageInputMixin, TrainingLoop):
    """The steps of ``fit``."""

    # --- the network -----------------------------------------------------------------------------

    @property
    def device_(self) -> str:
        """The device that is computed on."""
        return resolve_device(self.device, self.precision)

    def _requested(self) -> NetworkSource:
        seed = self._seed if self.weights is None else 0
        return request_source(self.backbone, self.weights, seed)

    def _found(self) -> NetworkSource:
        """The network that was fitted, to be found again."""
        return found_source(self.reference_, self._packed, self.backbone)

    def _make_prefix(self, source: NetworkSource, backbone: Backbone) -> Prefix:
        info = NetworkInfo.of(backbone)
        cut = resolve_freeze_depth(self.freeze_depth, info)
        if not info.embedding_trained:
            raise ValueError(
                f"The weights {info.reference.weights} of {info.reference.name} hold trained "
                "convolutions only: the layers that make its embedding are untrained. Choose other "
                "weights."
            )
        device = self.device_
        recipe = Recipe(self.precision, device, resolve_engine(self.engine, self.precision, device))
        preprocessing = self._preprocessing_for(info.input_spec)
        # What is loaded already is not loaded again for the frozen part.
        shared = NetworkSource(source.key, lambda: whole_backbone(source), source.reference)
        prefix = Prefix(shared, info, cut, recipe, preprocessing, ())
        network = None if cut.depth == 0 else prefix.network()
        prefix.shape = activation_shape(network, cut, preprocessing.size)
        return prefix

    @property
    def _prefix(self) -> Prefix:
        """The frozen part; looked for again after unpickling."""
        if "_prefix_" not in vars(self):
            source = self._found()
            self._prefix_ = self._make_prefix(source, whole_backbone(source))
        return self._prefix_

    @property
    def module_(self) -> Suffix:
        """The part that was trained: stages after the cut, neck and head."""
        if "_module_" not in vars(self):
            if "_learned" not in vars(self):
                raise AttributeError(f"This {type(self).__name__} is not fitted yet: no module_.")
            self._module_ = self._rebuilt()
        return self._module_

    @module_.setter
    def module_(self, module: Suffix) -> None:
        self._module_ = module

    def initialize_module(self) -> Fitting:
        """Make the suffix with a random head."""
        if "_prefix_" not in vars(self) or "_classes" not in vars(self):
            raise AttributeError(
                f"{type(self).__name__} learns from X and y how large its network is; call fit, or "
                "partial_fit with classes=, instead of initialize."
            )
        backbone = whole_backbone(self._prefix_.source)
        self.module_ = self._suffix(backbone)
        return self

    def _suffix(self, backbone: Backbone) -> Suffix:
        prefix = self._prefix
        head = make_head(
            self.head,
            backbone.n_features,
            len(self._classes),
            self.dropout,
            self._seed_of(_HEAD),
        )
        module = Suffix(
            backbone,
            prefix.cut,
            head,
            freeze_batch_norm=self.freeze_batch_norm,
            shape=prefix.shape,
        )
        if any(tensor.is_meta for tensor in module.state_dict().values()):
            module.to_empty(device="cpu")  # an architecture alone; its values come next
        dtype = torch.float64 if self.precision == "float64" else torch.float32
        return module.to(device=self.device_, dtype=dtype)

    def _seed_of(self, part: int) -> int:
        return derived_seed(self._seed, part)

    # --- from rows to datasets -------------------------------------------------------------------

    def _activations(self, source: ImageSource, on_error: str) -> tuple[np.ndarray, list]:
        return self._prefix.activations(
            source,
            cache=self.cache,
            batch_size="auto",
            n_threads=n_decoding_threads(self.n_jobs),
            on_error=on_error,
            progress=self._prefix.info.reference.name if self.verbose else None,
        )

    def _pictures(
        self, rows: Rows, chosen: np.ndarray, weight: np.ndarray, augmentation: Any, map_: Any
    ) -> PictureRows:
        return PictureRows(
            rows.source,
            chosen,
            rows.y[chosen],
            weight,
            self._prefix,
            augmentation,
            self._seed_of(VIEWS),
            map_,
        )

    def _drop_unreadable(self, rows: Rows) -> np.ndarray | None:
        """Activations of all rows, where there is a frozen part; rows that cannot be read go."""
        activations: np.ndarray | None = None
        failures: list[ImageDecodeError] = []
        if self._prefix.cut.depth > 0:
            activations, failures = self._activations(rows.source, self.on_error)
        elif self.on_error == "nan":
            for row in range(len(rows.source)):
                try:
                    rows.source.open(row).decode(self._prefix.preprocessing.min_decode_side)
                except ImageDecodeError as error:
                    failures.append(error)
        bad = [failure.index for failure in failures if failure.index is not None]
        rows.kept = np.setdiff1d(np.arange(len(rows.y)), bad)
        self._note_failures(failures, len(rows.y), "left out of training")
        if not len(rows.kept):
            raise failures[0]
        return activations

    # --- the steps -------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Find the network and settle where it is cut; nothing is trained."""
        self._seed = seed_from(self.random_state)
        source = self._requested()
        backbone = whole_backbone(source)
        self._prefix_ = self._make_prefix(source, backbone)
        self.reference_ = backbone.reference
        self._packed = None
        if self.store_weights:
            cut = self._prefix_.cut
            # Frozen stages after the cut are not among what is learned.
            depth = cut.n_stages + 1 if cut.surgical or cut.head_only else cut.depth
            self._packed = PackedWeights.pack(backbone, backbone.reference, depth)
        self.__dict__.pop("_learned", None)  # of an earlier fit, before a pickle

    def _learn(self, rows: Rows, *, go_on: bool) -> None:
        """Train on ``rows``; ``go_on`` leaves the head as it is."""
        activations = self._drop_unreadable(rows)
        train, valid = split_rows(
            rows, self.validation_fraction, self.train_split, self._seed_of(_SPLIT), self._classes
        )
        if len(np.unique(rows.y[train])) < 2 and not go_on:
            raise ValueError(
                "The rows to train on are of one class: hold out less, or give more rows."
            )
        augmentation = resolve_augmentation(self.augmentation)
        self.train_indices_ = train
        self.valid_indices_ = np.empty(0, dtype=np.intp) if valid is None else valid
        with threads(n_decoding_threads(self.n_jobs)) as map_:

            def as_they_are(chosen: np.ndarray) -> LabelledRows:
                weight = rows.weights(chosen, self.class_weight, self._classes)
                if activations is None:
                    return self._pictures(rows, chosen, weight, None, map_)
                return ActivationRows(activations[chosen], rows.y[chosen], weight)

            plain = fresh = as_they_are(train)
            held = None if valid is None else as_they_are(valid)
            if augmentation is not None:
                fresh = self._pictures(rows, train, plain.given_weight, augmentation, map_)
                fresh.n_classes = len(self._classes)
            solved = False if go_on else self._start_head(plain, held)
            if not solved:
                self._train(fresh, held, rows)
        self._set_training(False)

    def _start_head(self, plain: Any, held: Any) -> bool:
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
                self._record_solved(plain, held)
                return True
        epochs = self.head_epochs
        if epochs is None:
            epochs = 0 if exact or self._prefix.cut.head_only else 5
        if epochs:
            self._train_head(plain, held, epochs)
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

    def _train_head(self, plain: Any, held: Any, epochs: int) -> None:
        """Some epochs of the head alone, on embeddings that are computed once."""
        head_set = self._embedded(plain)
        held_set = None if held is None else self._embedded(held)
        whole_optimizer, self.phase_ = self.optimizer_, "head"
        try:
            self.optimizer_ = self._optimizer_of(
                [("head", self.module_.head, self._head_rates[0])], self.head_optimizer
            )
            self.train_phase(
                head_set,
                held_set,
                Schedule(epochs, "constant", restore_best=False),
                seed=self._seed_of(_HEAD_PHASE),
            )
        finally:
            self.optimizer_, self.phase_ = whole_optimizer, "all"

    def _embedded(self, dataset: Any) -> ActivationRows:
        embeddings, y, weight = self._embeddings(dataset)
        dtype = np.float64 if self.precision == "float64" else np.float32
        return ActivationRows(embeddings.astype(dtype), y, weight)

    def _train(self, fresh: Any, held: Any, rows: Rows) -> None:
        """Phase two, everything that is not frozen."""
        checkpoints = None
        if self.checkpoint_dir is not None:
            checkpoints = Checkpoints(
                self.checkpoint_dir, self._fingerprint(rows, fresh), self.checkpoint_every
            )
        progress = self.train_phase(
            fresh,
            held,
            Schedule(
                self.max_epochs,
                self.lr_schedule,
                self.warmup_epochs,
                self.early_stopping,
                self.restore_best,
                self.ema_decay,
            ),
            seed=self._seed_of(_MAIN_PHASE),
            checkpoints=checkpoints,
        )
        self.n_epochs_, self.best_epoch_ = progress.epoch, progress.best_epoch

    def _record_solved(self, plain: Any, held: Any) -> None:
        """One line of history: the loss and accuracy of the solution."""
        self._set_training(False)
        self.history.new_epoch()
        self.history.record("epoch", 1)
        for name, dataset in (("train", plain), ("valid", held)):
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

    def _fingerprint(self, rows: Rows, dataset: Any) -> str:
        """Of everything that decides what training comes to."""
        silent = {"verbose", "checkpoint_dir", "checkpoint_every", "n_jobs", "cache", "callbacks"}
        settings = {k: v for k, v in self.get_params(deep=True).items() if k not in silent}
        digest = hashlib.blake2b(digest_size=16)
        for part in (sorted(settings.items(), key=lambda item: item[0]), self.reference_):
            digest.update(repr(part).encode())
        digest.update(repr(self._classes.tolist()).encode())
        for row in rows.kept:
            digest.update(rows.source.open(int(row)).digest)
        digest.update(rows.y.tobytes() + dataset.weight.numpy().tobytes())
        return digest.hexdigest()


@contextmanager
def threads(n: int) -> Any:
    """``map`` that decodes in ``n`` threads, for as long as rows are read."""
    with ThreadPoolExecutor(n, thread_name_prefix="sktransfer-decode") as pool:
        yield pool.map
