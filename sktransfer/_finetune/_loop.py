"""skorch's training loop on prepared rows: seeds, rates, best weights, checkpoints.

It must not know images, labels or backbones: it is given datasets, a module and a plan.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, ClassVar

import numpy as np
import torch
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback, EpochTimer, LRScheduler, PassthroughScoring, PrintLog
from skorch.utils import to_numpy
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from sktransfer._base import derived_seed
from sktransfer._finetune._callbacks import BatchAccuracy, Labels
from sktransfer._finetune._checkpoint import Checkpoints
from sktransfer._finetune._datasets import whole
from sktransfer._finetune._losses import WeightedLoss, make_loss
from sktransfer._finetune._memory import Portion, within_memory
from sktransfer._finetune._network import Suffix
from sktransfer._finetune._optimizers import make_optimizer, parameter_groups, schedule_factor
from sktransfer._finetune._phase import Progress, Schedule
from sktransfer._utils.random import draws_in_training

_HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class TrainingLoop(NeuralNetClassifier):
    """A skorch net whose constructor stores nothing but parameters.

    What skorch's constructor would set besides stands here, as class attributes, so that
    scikit-learn finds in an instance what was passed to it and nothing else.
    """

    prefixes_: ClassVar[list[str]] = [
        *("iterator_train", "iterator_valid", "callbacks", "optimizer", "loss")
    ]
    cuda_dependent_attributes_: ClassVar[list[str]] = []
    _modules: ClassVar[list[str]] = ["module"]
    _criteria: ClassVar[list[str]] = ["criterion"]
    _optimizers: ClassVar[list[str]] = ["optimizer"]
    _params_to_validate: frozenset[str] = frozenset()
    history_: Any = None
    initialized_ = False
    virtual_params_: ClassVar[dict[str, Any]] = {}

    module = Suffix
    criterion = WeightedLoss
    iterator_train = DataLoader
    iterator_valid = DataLoader
    dataset = Dataset
    predict_nonlinearity = "auto"
    compile = False
    use_caching = "auto"
    torch_load_kwargs = None
    classes = None
    phase_ = "all"  # or "head"
    callbacks: Any
    callbacks_: list[tuple[str, Callback]]
    _made_with: dict[str, Any]
    _scaler: torch.amp.GradScaler | None = None

    # --- what skorch asks for --------------------------------------------------------------------

    @property
    def _default_callbacks(self) -> list[tuple[str, Callback]]:
        found: list[tuple[str, Callback]] = [
            ("epoch_timer", EpochTimer()),
            ("batch_acc", BatchAccuracy()),
            ("train_loss", PassthroughScoring(name="train_loss", on_train=True)),
            ("train_acc", PassthroughScoring("train_acc", on_train=True, lower_is_better=False)),
            ("valid_loss", PassthroughScoring(name="valid_loss")),
            ("valid_acc", PassthroughScoring(name="valid_acc", lower_is_better=False)),
        ]
        return [*found, ("print_log", PrintLog())] if self.verbose else found

    def initialize(self) -> TrainingLoop:
        """Make the module, the loss, the optimizer and the callbacks again."""
        self.check_training_readiness()
        self._initialize_virtual_params()
        self._initialize_callbacks()
        for part in ("module", "criterion", "optimizer"):
            with self._current_init_context(part):
                getattr(self, f"initialize_{part}")()
        self.history_ = None
        self._initialize_history()
        self.initialized_ = True
        return self

    def initialize_criterion(self) -> TrainingLoop:
        """Make the loss."""
        made = make_loss(self.loss, self.label_smoothing, **self.get_params_for("loss"))
        self.criterion_ = made.to(self.device_)
        return self

    def initialize_optimizer(self, triggered_directly: Any = None) -> TrainingLoop:
        """Make the optimizer, with a group of parameters per stage that is trained."""
        self.optimizer_ = self._optimizer_of(self._blocks())
        # Small gradients vanish in float16, whose range is short; not in bfloat16.
        half = self.precision == "float16"
        self._scaler = torch.amp.GradScaler(torch.device(self.device_).type) if half else None
        self._portion = Portion()
        return self

    def _optimizer_of(self, blocks: Any, other: Any = None) -> torch.optim.Optimizer:
        groups = parameter_groups(blocks, self.weight_decay)
        if other is not None:
            return make_optimizer(other, groups)
        return make_optimizer(self.optimizer, groups, **self.get_params_for("optimizer"))

    def _blocks(self) -> list[tuple[str, nn.Module, float]]:
        return self.module_.blocks(self.lr, self._head_rates[1], self.layer_decay)

    def _initialize_callbacks(self) -> TrainingLoop:
        """As skorch's; scores are of class labels, which datasets hold as codes."""
        given = self.callbacks
        # skorch's "disable" would leave no losses in the history; it is the printing that goes.
        self.callbacks = None if given == "disable" else given
        try:
            super()._initialize_callbacks()
        finally:
            self.callbacks = given
        if given == "disable":
            self.callbacks_ = [each for each in self.callbacks_ if each[0] != "print_log"]
        known = {name for name, _ in self.callbacks_}
        for setting in self.get_params_for("callbacks"):
            if setting.partition("__")[0] not in known:
                raise ValueError(
                    f"callbacks__{setting}: there is no callback of that name; there are "
                    f"{', '.join(sorted(known))}."
                )
        for name, callback in self.callbacks_:
            if isinstance(callback, LRScheduler):
                raise ValueError(
                    f"callbacks: {name!r} would not count, since every step sets the rates again: "
                    "leave LRScheduler out, and set lr_schedule, lr_final and warmup_epochs."
                )
            extractor = getattr(callback, "target_extractor", None)
            if extractor is to_numpy or isinstance(extractor, Labels):
                callback.target_extractor = Labels(self.classes_)
        return self

    @property
    def _solves_head(self) -> bool:
        """Whether the head begins as a logistic regression."""
        linear = self.module_.linear() is not None
        return self.head_init == "logistic" or (self.head_init == "auto" and linear)

    @property
    def _head_rates(self) -> tuple[float, float]:
        """Of the head while it is trained alone, and after."""
        if self.head_lr is None:
            return self.lr * 10, self.lr * (1 if self._solves_head else 10)
        if isinstance(self.head_lr, (tuple, list)):
            first, second = self.head_lr
            return first, second
        return self.head_lr, self.head_lr

    def _set_training(self, training: bool = True) -> None:
        self.module_.train(training)
        loss = getattr(self, "criterion_", None)  # a pickle does not carry it
        if loss is not None:
            loss.train(training)

    def get_all_learnable_params(self) -> Iterator[tuple[str, Tensor]]:
        """Names and parameters that take gradients."""
        for name, parameter in self.module_.named_parameters():
            if parameter.requires_grad:
                yield name, parameter

    def infer(self, x: Any, **fit_params: Any) -> Tensor:
        """Logits of a batch, float32 or wider whatever the precision."""
        x = (x["x"] if isinstance(x, Mapping) else torch.as_tensor(x)).to(self.device_)
        half = _HALF.get(self._made_with["precision"])
        context = (
            nullcontext()
            if half is None
            else torch.autocast(torch.device(self.device_).type, dtype=half)
        )
        with context:
            logits = self._forward(x if half is None else x.float())
        return logits.float() if logits.dtype in _HALF.values() else logits

    @property
    def _forward(self) -> Callable[[Tensor], Tensor]:
        return self.module_.head if self.phase_ == "head" else self.module_

    def get_loss(self, y_pred: Tensor, y_true: Tensor, X: Any = None, training: bool = False):
        """The loss of a batch, weighted by row; mixed rows have their own targets."""
        weight = X["weight"].to(self.device_) if isinstance(X, Mapping) else None
        target = X.get("target", y_true) if isinstance(X, Mapping) else y_true
        return self.criterion_(y_pred, target.to(self.device_), weight)

    def train_step_single(self, batch: Any, **fit_params: Any) -> dict[str, Any]:
        """Loss and gradients of a batch, shortened if ``max_grad_norm`` says so."""
        self._set_training(True)
        step = within_memory(batch, self._gradients, self._zero_grad_optimizer, self._portion)
        if self.max_grad_norm is not None:
            if self._scaler is not None:
                self._scaler.unscale_(self.optimizer_)
            parameters = [p for group in self.optimizer_.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, self.max_grad_norm)
        return step

    def _gradients(self, batch: Any, share: float) -> dict[str, Any]:
        """Loss and logits of a batch, and its share of the gradients."""
        inputs, labels = batch
        logits = self.infer(inputs)
        loss = self.get_loss(logits, labels, X=inputs, training=True)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"The training loss became {loss.item()} in epoch {len(self.history)}: the "
                f"learning rate is too high for this network and data. Lower lr (now {self.lr}) or "
                "head_lr, set max_grad_norm, or use warmup_epochs."
            )
        scaled = loss * share
        (scaled if self._scaler is None else self._scaler.scale(scaled)).backward()
        return {"loss": loss.detach(), "y_pred": logits.detach()}

    def _step_optimizer(self, step_fn: Any) -> None:
        """As skorch's; half precision needs gradients that were scaled."""
        if self._scaler is None:
            super()._step_optimizer(step_fn)
            return
        step_fn()
        self._scaler.step(self.optimizer_)
        self._scaler.update()

    def get_iterator(self, dataset: Any, training: bool = False) -> Any:
        """Batches of a dataset, in an order of its own when training."""
        kind = "iterator_train" if training else "iterator_valid"
        own = self.get_params_for(kind)
        # Even without workers, an iteration draws a seed, from the global state if from no other.
        settings = {
            "batch_size": self.batch_size,
            "collate_fn": whole,
            "generator": torch.Generator(),
            **own,
        }
        if settings.get("num_workers") and "fork" in multiprocessing.get_all_start_methods():
            # Rows are not pickled: joblib's workers, and Python from 3.14 on, would else do that.
            settings.setdefault("multiprocessing_context", "fork")
        if training:
            self._order = torch.Generator()
            rest = len(dataset) % settings["batch_size"]
            self._set_training(True)
            # A batch of one has no variance for BatchNorm to take.
            lonely = rest == 1 and len(dataset) > 1 and self.module_.normalizes_batches
            order = {"shuffle": True, "generator": self._order, "drop_last": lonely}
            settings = {**settings, **order, **own}
        return getattr(self, kind)(dataset, **settings)

    # --- a phase of training ---------------------------------------------------------------------

    def train_phase(
        self,
        dataset_train: Any,
        dataset_valid: Any,
        schedule: Schedule,
        *,
        seed: int,
        checkpoints: Checkpoints | None = None,
        epochs_before: int = 0,
    ) -> Progress:
        """Train for some epochs; every epoch draws from its own seed, so it can be taken up again.

        Parameters
        ----------
        dataset_train, dataset_valid : Dataset
            The second one may be None.
        schedule : Schedule
        seed : int
        checkpoints : Checkpoints or None
            Where to go on from, and what to write.
        epochs_before : int
            Epochs of earlier calls, whose draws are not to be repeated.

        Returns
        -------
        Progress
        """
        loader = self.get_iterator(dataset_train, training=True)
        valid = None if dataset_valid is None else self.get_iterator(dataset_valid)
        per_epoch = max(1, len(loader))
        factor = schedule_factor(
            schedule.rates,
            schedule.epochs * per_epoch,
            round(schedule.warmup_epochs * per_epoch),
            final=self.lr_final,
        )
        progress = Progress() if checkpoints is None else checkpoints.load(self, Progress)
        notified = {"dataset_train": dataset_train, "dataset_valid": dataset_valid}
        # As in skorch: whoever stops the training (Ctrl-C, a callback) keeps what there is.
        with suppress(KeyboardInterrupt):
            while progress.epoch < schedule.epochs:
                if schedule.patience is not None and (
                    progress.epoch - progress.best_epoch >= schedule.patience
                ):
                    break
                epoch = epochs_before + progress.epoch
                dataset_train.epoch = epoch
                with self._drawing(seed, epoch):
                    self.notify("on_epoch_begin", **notified)
                    self.run_single_epoch(
                        loader,
                        training=True,
                        prefix="train",
                        step_fn=lambda batch: self._scheduled(batch, factor, progress, schedule),
                    )
                    with self._averaged(progress):
                        self.run_single_epoch(
                            valid, training=False, prefix="valid", step_fn=self.validation_step
                        )
                        # Noted before the callbacks, one of which may end the training.
                        progress.epoch += 1
                        self._judge(progress, schedule, valid is not None)
                    self.notify("on_epoch_end", **notified)
                if checkpoints is not None:
                    checkpoints.save(self, progress, last=progress.epoch == schedule.epochs)
        self._finish(progress)
        return progress

    def _scheduled(
        self, batch: Any, factor: Callable[[int], float], progress: Progress, schedule: Schedule
    ) -> Any:
        for group in self.optimizer_.param_groups:
            group["lr"] = group["initial_lr"] * factor(progress.step) * progress.plateau
        step = self.train_step(batch)
        progress.step += 1
        if schedule.ema_decay is not None:
            # Early on the average is of few steps; a fixed decay would be of the start for long.
            decay = min(schedule.ema_decay, progress.step / (progress.step + 9))
            for name, tensor in self.module_.learned().items():
                kept = progress.average.get(name)
                if kept is None or not tensor.is_floating_point():
                    progress.average[name] = tensor.clone()
                else:
                    kept = progress.average[name] = kept.to(tensor.device)
                    kept.mul_(decay).add_(tensor, alpha=1 - decay)
        return step

    def _judge(self, progress: Progress, schedule: Schedule, validated: bool) -> None:
        """Keep the best epoch; lower the rates where nothing gets better."""
        losses = self.history[-1]["batches"]
        key, size = ("valid_loss", "valid_batch_size")
        if not validated:
            key, size = ("train_loss", "train_batch_size")
        rows = [(row[key], row[size]) for row in losses if key in row]
        loss = float(np.average([r[0] for r in rows], weights=[r[1] for r in rows]))
        if loss < progress.best_loss - 1e-6:
            progress.best_loss, progress.best_epoch = loss, progress.epoch
            progress.plateau_since = progress.epoch
            if schedule.restore_best and validated:
                progress.best = {k: t.clone() for k, t in self.module_.saved().items()}
        elif schedule.rates == "plateau" and progress.epoch - progress.plateau_since >= 3:
            progress.plateau *= 0.1
            progress.plateau_since = progress.epoch

    @contextmanager
    def _averaged(self, progress: Progress) -> Iterator[None]:
        """Validate, and keep, the moving average where there is one."""
        if not progress.average:
            yield
            return
        raw = {name: tensor.clone() for name, tensor in self.module_.learned().items()}
        self.module_.restore(progress.average)
        try:
            yield
        finally:
            self.module_.restore(raw)

    def _finish(self, progress: Progress) -> None:
        if progress.best is not None:
            self.module_.restore(progress.best)
        elif progress.average:
            self.module_.restore(progress.average)
        self._set_training(False)

    @contextmanager
    def _drawing(self, seed: int, epoch: int) -> Iterator[None]:
        """Dropout and the order of rows of one epoch, whatever was drawn before; others' draws are
        left alone.
        """
        draw = derived_seed(seed, epoch)
        self._order.manual_seed(draw)
        # Threads that train at once share torch's generator: it is not touched where nothing draws.
        own = self.callbacks is None or self.callbacks == "disable"
        if own and not draws_in_training([self.module_, self.criterion_]):
            yield
            return
        devices = [self.device_] if self.device_.startswith("cuda") else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(draw)
            yield
