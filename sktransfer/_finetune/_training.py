"""A phase of training: epochs with their rates, draws, best weights and checkpoints.

It must not know images, labels or backbones: it is given a net, datasets and a schedule.
"""

from __future__ import annotations

import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from dis import opmap
from typing import Any

import numpy as np
import torch
from sklearn.utils import Bunch
from torch import Tensor

from sktransfer._base import derived_seed
from sktransfer._finetune._checkpoint import Checkpoints
from sktransfer._finetune._optimizers import schedule_factor
from sktransfer._frozen import is_out_of_memory

# The range test smooths losses, and ends where one is this many times the lowest.
_SMOOTHING, _DIVERGED = 0.9, 4.0

# What modules call the share of what they drop, torch's, torchvision's and timm's.
_SHARES = ("p", "dropout", "dropout_p", "attention_dropout", "drop_rate", "drop_prob")
_KNOWN = ("torch.nn.", "torchvision.", "sktransfer.")


class TrainingStopped(KeyboardInterrupt):
    """A callback ends the training, for which skorch's callbacks raise KeyboardInterrupt."""


def raised_by_code(error: KeyboardInterrupt) -> bool:
    """Return whether a ``raise`` statement, and not a signal (Ctrl-C), raised an error."""
    trace = error.__traceback__
    assert trace is not None
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    if code is getattr(signal.getsignal(signal.SIGINT), "__code__", None):
        return False
    return code.co_code[trace.tb_lasti] == opmap["RAISE_VARARGS"]


@dataclass
class Schedule:
    """How long a phase is, and how its rates change."""

    epochs: int
    rates: str = "constant"  # one of ``_optimizers.SCHEDULES``
    final: float = 0.0  # share of the rates that some schedules end with
    warmup_epochs: float = 0.0
    patience: int | None = None  # epochs without a better validation loss before the phase ends
    restore_best: bool = False  # the weights of the best epoch are kept, if rows are held out
    ema_decay: float | None = None  # of the moving average of the weights, validated and kept


@dataclass
class Progress:
    """What a phase remembers from epoch to epoch; a checkpoint holds it."""

    epoch: int = 0
    step: int = 0
    best_loss: float = float("inf")
    best_epoch: int = 0
    best: dict[str, Tensor] | None = None
    average: dict[str, Tensor] = field(default_factory=dict)
    plateau: float = 1.0
    plateau_since: int = 0


def train_epochs(
    net: Any,
    dataset_train: Any,
    dataset_valid: Any,
    schedule: Schedule,
    *,
    seed: int,
    checkpoints: Checkpoints | None = None,
    epochs_before: int = 0,
) -> Progress:
    """Train for some epochs, each of which draws from its own seed, so that they can be resumed.

    ``epochs_before`` counts epochs of earlier calls, whose draws must not be repeated.
    """
    loader = net.get_iterator(dataset_train, training=True)
    valid = None if dataset_valid is None else net.get_iterator(dataset_valid)
    per_epoch = max(1, len(loader))
    length = {"n_steps": schedule.epochs * per_epoch}
    length["n_warmup"] = round(schedule.warmup_epochs * per_epoch)
    progress = Progress() if checkpoints is None else checkpoints.load(net, Progress)

    def step(batch: Any) -> Any:
        factor = schedule_factor(schedule.rates, progress.step, **length, final=schedule.final)
        for group in net.optimizer_.param_groups:
            group["lr"] = group["initial_lr"] * factor * progress.plateau
        done = net.train_step(batch)
        progress.step += 1
        _update_average(net, schedule, progress)
        return done

    notified = {"dataset_train": dataset_train, "dataset_valid": dataset_valid}
    # Ctrl-C goes on to whoever called, a search say, which must not take this for a result; in all
    # cases what was learned so far is ready for predictions.
    try:
        with suppress(TrainingStopped):
            while progress.epoch < schedule.epochs:
                waited = progress.epoch - progress.best_epoch
                if schedule.patience is not None and waited >= schedule.patience:
                    break
                epoch = epochs_before + progress.epoch
                dataset_train.epoch = epoch
                with _own_draws(net, derived_seed(seed, epoch)):
                    net.notify("on_epoch_begin", **notified)
                    net.history.record("phase", net.phase_)
                    net.run_single_epoch(loader, training=True, prefix="train", step_fn=step)
                    with _averaged(net, progress):
                        net.run_single_epoch(
                            valid, training=False, prefix="valid", step_fn=net.validation_step
                        )
                        # Noted before the callbacks, one of which may end the training.
                        progress.epoch += 1
                        _compare_with_best(net, progress, schedule, validated=valid is not None)
                    net.notify("on_epoch_end", **notified)
                if checkpoints is not None:
                    checkpoints.save(net, progress, last=progress.epoch == schedule.epochs)
    finally:
        if progress.best is not None:
            net.module_.restore(progress.best)
        elif progress.average:
            net.module_.restore(progress.average)
        net._set_training(False)
        whole = net.phase_ == "all"
        net.n_epochs_ = progress.epoch if whole else 0
        net.best_epoch_ = progress.best_epoch if whole else 0
    return progress


def _update_average(net: Any, schedule: Schedule, progress: Progress) -> None:
    """Update the moving average of the weights, if one is asked for."""
    if schedule.ema_decay is None:
        return
    # Early on the average is of few steps; a fixed decay would be of the start for long.
    decay = min(schedule.ema_decay, progress.step / (progress.step + 9))
    for name, tensor in net.module_.learned().items():
        kept = progress.average.get(name)
        if kept is None or not tensor.is_floating_point():
            progress.average[name] = tensor.clone()
        else:
            kept = progress.average[name] = kept.to(tensor.device)
            kept.mul_(decay).add_(tensor, alpha=1 - decay)


def _compare_with_best(
    net: Any, progress: Progress, schedule: Schedule, *, validated: bool
) -> None:
    """Keep the best epoch; lower the rates of a plateau."""
    part = "valid" if validated else "train"
    batches = [row for row in net.history[-1]["batches"] if f"{part}_loss" in row]
    sizes = [row[f"{part}_batch_size"] for row in batches]
    loss = float(np.average([row[f"{part}_loss"] for row in batches], weights=sizes))
    if loss < progress.best_loss - 1e-6:
        progress.best_loss, progress.best_epoch = loss, progress.epoch
        progress.plateau_since = progress.epoch
        if schedule.restore_best and validated:
            progress.best = {k: t.clone() for k, t in net.module_.saved().items()}
    elif schedule.rates == "plateau" and progress.epoch - progress.plateau_since >= 3:
        progress.plateau *= 0.1
        progress.plateau_since = progress.epoch


@contextmanager
def _averaged(net: Any, progress: Progress) -> Iterator[None]:
    """Validate the moving average of the weights, where there is one."""
    if not progress.average:
        yield
        return
    raw = {name: tensor.clone() for name, tensor in net.module_.learned().items()}
    net.module_.restore(progress.average)
    try:
        yield
    finally:
        net.module_.restore(raw)


@contextmanager
def _own_draws(net: Any, seed: int) -> Iterator[None]:
    """Seed dropout and the order of rows of one epoch, and leave the draws of others alone."""
    net._order.manual_seed(seed)
    # Threads that train at once share torch's generator: it is not touched where nothing draws.
    # Dropout does, and callbacks and modules that others wrote may.
    own = net.callbacks is None or net.callbacks == "disable"
    parts = [*net.module_.modules(), *net.criterion_.modules()]
    shares = [getattr(part, name, None) for part in parts for name in _SHARES]
    if (
        own
        and all(f"{type(part).__module__}.".startswith(_KNOWN) for part in parts)
        and not any(isinstance(share, (int, float)) and share > 0 for share in shares)
    ):
        yield
        return
    devices = [net.device_] if net.device_.startswith("cuda") else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def within_memory(net: Any, run: Callable[[slice], Any], n: int) -> list[Any]:
    """Run the ``n`` rows of a batch, in halves of halves if memory is too small for all of them.

    ``net._rows_at_once`` remembers how many rows fit. After a failure, ``run`` is called again for
    all rows from the first one on.
    """
    while True:
        size = min(n, net._rows_at_once or n)
        try:
            return [run(slice(low, low + size)) for low in range(0, n, size)]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or size == 1:
                raise
        # Outside the handler: the traceback would keep the failed batch's tensors alive.
        if net._rows_at_once is None:
            warnings.warn(
                f"The device ran out of memory; continuing with parts of each batch (now "
                f"{size // 2} rows at once; gradients are added up). Set batch_size to avoid the "
                "failed attempt.",
                RuntimeWarning,
                stacklevel=2,
            )
        net._rows_at_once = size // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def range_test(net: Any, dataset: Any, rates: np.ndarray) -> Bunch:
    """Train while the rate rises, and watch the loss [1]_.

    References
    ----------
    .. [1] Smith, L. N. (2017). "Cyclical learning rates for training neural networks". WACV.
    """
    loader = net.get_iterator(dataset, training=True)
    seen: list[float] = []
    average, lowest, epoch = 0.0, float("inf"), 0
    diverged = False
    while len(seen) < len(rates) and not diverged:
        dataset.epoch = epoch
        with _own_draws(net, derived_seed(net._seed, epoch)):
            for batch in loader:
                for group in net.optimizer_.param_groups:
                    group["lr"] = group["initial_lr"] / net.lr * rates[len(seen)]
                try:
                    loss = net.train_step(batch)["loss"].item()
                except FloatingPointError:
                    loss = float("inf")
                average = _SMOOTHING * average + (1 - _SMOOTHING) * loss
                seen.append(average / (1 - _SMOOTHING ** (len(seen) + 1)))
                lowest = min(lowest, seen[-1])
                diverged = not seen[-1] < _DIVERGED * lowest
                if diverged or len(seen) == len(rates):
                    break
        epoch += 1
    rates, losses = rates[: len(seen)], np.array(seen)
    return Bunch(lr=rates, loss=losses, suggestion=_steepest(rates, losses))


def _steepest(rates: np.ndarray, losses: np.ndarray) -> float:
    """Return where the loss falls fastest, and at most a tenth of where it is lowest."""
    finite = np.isfinite(losses)
    rates, losses = rates[finite], losses[finite]
    low = int(losses.argmin())
    if low < 2:
        return float(rates[0])
    slope = np.gradient(losses[: low + 1], np.log(rates[: low + 1]))
    return float(min(rates[int(slope.argmin())], rates[low] / 10))
