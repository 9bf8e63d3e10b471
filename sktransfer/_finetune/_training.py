"""A phase of training: epochs with their rates, draws, best weights and checkpoints.

It must not know images, labels or backbones: it is given a net, datasets and a schedule.
"""

from __future__ import annotations

import itertools
import math
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from dis import opmap
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor

from sktransfer._base import derived_seed
from sktransfer._finetune._checkpoint import Checkpoints
from sktransfer._finetune._optimizers import schedule_factor
from sktransfer._frozen import is_out_of_memory

# A run of the range test ends where the loss of a batch is this many times what it was; every so
# many steps, the rows held out are looked at. Losses are smoothed over a tenth of the steps.
_DIVERGED, _CHECKED, _SMOOTHED = 4.0, 5, 0.1
# A fall is no descent unless it is this share of the loss before training. The rate to use is where
# the loss has fallen by this share of the fall, which benchmarks/lr_finder.py chose. It is doubtful
# where rows held out are told apart by less than this many standard deviations, or in the last
# fifth of the rates.
_LEAST_FALL, _SHARE, _TOLD_APART = 0.02, 0.2, 2.0

Tensors = dict[str, Tensor]  # by name

# How far weights may go from where a training started to where it ended.
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)

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
                    _record_rates(net)
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


def _record_rates(net: Any) -> None:
    """Write the rates of an epoch's last step: the largest, and that of each stage."""
    rates = {g["name"].partition(" (")[0]: float(g["lr"]) for g in net.optimizer_.param_groups}
    net.history.record("lr", max(rates.values()))
    net.history.record("lr_by_stage", rates)


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


# --- between where a training started and where it ended -----------------------------------------


def snapshot(net: Any) -> Tensors:
    """Return a copy of everything that training may have changed."""
    return {name: tensor.clone() for name, tensor in net.module_.saved().items()}


def between(start: Tensors, end: Tensors, share: float) -> Tensors:
    """Return ``start`` plus a share of the way to ``end`` [1]_.

    References
    ----------
    .. [1] Wortsman, M., et al. (2022). "Robust fine-tuning of zero-shot models". CVPR.
    """
    if not share:
        return start
    if share == 1:
        return end  # no digit of it is rounded
    return {
        name: tensor + share * (end[name].to(tensor) - tensor)
        if tensor.is_floating_point()
        else end[name]
        for name, tensor in start.items()
    }


@torch.no_grad()
def logits_of(net: Any, dataset: Any) -> np.ndarray:
    """Return the logits of rows in inference mode, in float64; those not finite stay so."""
    net._set_training(False)
    return np.concatenate(
        [net.infer(inputs).cpu().double().numpy() for inputs, _ in net.get_iterator(dataset)]
    )


def mean_loss(net: Any, dataset: Any) -> float:
    """Return the weighted mean of the losses of rows."""
    losses = net._target.log_losses(logits_of(net, dataset), dataset.y.numpy())
    return float(np.average(losses, weights=dataset.given_weight))


def choose_share(losses: dict[float, np.ndarray], weight: np.ndarray, units: np.ndarray) -> float:
    """Choose a share by the losses of rows: 0 unless another one is better beyond doubt.

    That is a one-sided test at 5 % of the differences by unit (rows of a unit are not independent).
    Of the shares that are no worse than the best within a standard error, it is the one nearest to
    a half, where the middle of the way usually is better than either end.
    """
    part = weight / weight.sum()
    judged = np.unique(units[weight > 0])

    def difference(a: float, b: float) -> tuple[float, float]:
        """Return how much higher the loss of one share is, and the standard error of that."""
        each = losses[a] - losses[b]
        mean = part @ each
        by_unit = np.bincount(units, part * (each - mean))
        return mean, math.sqrt(by_unit @ by_unit)

    shares = [share for share in losses if share]
    best = min(shares, key=lambda share: (part @ losses[share], share))
    gain, error = difference(0.0, best)
    if len(judged) < 2 or not gain > error * student.ppf(0.95, len(judged) - 1):
        return 0.0
    as_good = [a for a in shares if (d := difference(a, best))[0] <= d[1]]
    return min(as_good, key=lambda share: (abs(share - 0.5), share))


def mean_history(runs: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the epochs of several trainings as one: numbers are means, the rest is the first's."""
    longest = max(runs, key=len)
    epochs: list[dict[str, Any]] = []
    for i, row in enumerate(longest):
        same = [run[i] for run in runs if len(run) > i]
        numbers = {
            name: float(np.mean([each[name] for each in same]))
            for name, value in row.items()
            if isinstance(value, float) and all(isinstance(each.get(name), float) for each in same)
        }
        batches = [batch for each in same for batch in each["batches"]]
        epochs.append({**row, **numbers, "batches": batches})
    for name in ("train_loss", "train_acc"):
        sign = -1 if name == "train_acc" else 1
        values = [sign * row.get(name, np.nan) for row in epochs]
        for i, row in enumerate(epochs):
            if f"{name}_best" in row:
                row[f"{name}_best"] = values[i] <= min(values[: i + 1])
    return epochs


# --- the learning rate ---------------------------------------------------------------------------


def range_test(
    net: Any, dataset: Any, held_out: Any, rates: np.ndarray, n_runs: int
) -> dict[str, np.ndarray]:
    """Train while the rate rises, and return what that did to the loss [1]_.

    "before" and "train" are the losses of the batch of each step before any training, and in it:
    batches differ from each other by more than a step changes, so that only the difference says
    what was learned. "valid" is the mean loss of rows held out, after some of the steps, "told"
    whether they are told apart by then, and "valid_start" that loss before all. A run, which is a
    row, has NaN after it diverged. The net is left as it was.

    References
    ----------
    .. [1] Smith, L. N. (2017). "Cyclical learning rates for training neural networks". WACV.
    """
    start = {name: tensor.clone() for name, tensor in net.module_.state_dict().items()}
    loader = net.get_iterator(dataset, training=True)
    names = ("before", "train", "valid", "told")
    found = {name: np.full((n_runs, len(rates)), np.nan) for name in names}
    found["valid_start"] = np.array(_held_out(net, held_out)[0])
    for run in range(n_runs):
        before, train, valid, told = (found[name][run] for name in names)
        seed = derived_seed(net._seed, run)
        net._set_training(True)
        with torch.no_grad():
            for step, batch in enumerate(_batches(net, loader, dataset, seed, len(rates))):
                inputs, labels = batch
                before[step] = net.get_loss(net.infer(inputs), labels, X=inputs).item()
        net.module_.load_state_dict(start)  # BatchNorm may have seen batches
        net.initialize_optimizer()  # without the moments of the last run
        with suppress(FloatingPointError):
            for step, batch in enumerate(_batches(net, loader, dataset, seed, len(rates))):
                for group in net.optimizer_.param_groups:
                    group["lr"] = group["initial_lr"] / net.lr * rates[step]
                train[step] = net.train_step(batch)["loss"].item()
                if train[step] > _DIVERGED * max(1.0, before[step]):
                    break
                if step % _CHECKED == 0:
                    valid[step], told[step] = _held_out(net, held_out)
        net.module_.load_state_dict(start)
    return found


def _batches(net: Any, loader: Any, dataset: Any, seed: int, n: int) -> Iterator[Any]:
    """Yield ``n`` batches of one epoch after the other, each with draws of its own."""
    for epoch in itertools.count():
        dataset.epoch = epoch
        with _own_draws(net, derived_seed(seed, epoch)):
            for batch in loader:
                yield batch
                n -= 1
                if not n:
                    return


@torch.no_grad()
def _held_out(net: Any, dataset: Any) -> tuple[float, float]:
    """Return the mean loss in inference mode, and how well rows are told apart.

    That is how much larger the logits of the rows' own classes are than those of shuffled labels,
    in standard deviations of these (Hoeffding's of a permutation). Neither class weights nor too
    much confidence change it.
    """
    if dataset is None:
        return float("nan"), float("nan")
    net._set_training(False)
    parts = [
        (net.infer(inputs).cpu().double(), labels) for inputs, labels in net.get_iterator(dataset)
    ]
    logits, labels = (torch.cat(part) for part in zip(*parts, strict=True))
    labels = labels.cpu()
    own = net._target.affinity(logits, labels)
    own = own - own.mean(dim=0) - own.mean(dim=1, keepdim=True) + own.mean()
    spread = (own.square().sum() / (len(own) - 1)).sqrt()
    return net._target.mean_loss(logits, labels), (own.trace() / spread).item()


def read_range_test(rates: np.ndarray, found: dict[str, np.ndarray]) -> dict[str, Any]:
    """Smooth the losses of :func:`range_test`, and find the rate to use; NaN if they do not say.

    The exponential average of what was learned is corrected for its start, as Adam's are.
    """
    start = float(np.nanmean(found["before"]))
    keep = 1 - 1 / max(1.0, _SMOOTHED * len(rates))
    runs = np.full(found["train"].shape, np.nan)
    for run, changes in zip(runs, found["train"] - found["before"], strict=True):
        average = 0.0
        for i, change in enumerate(changes[np.isfinite(changes)]):
            average = keep * average + (1 - keep) * change
            run[i] = start + average / (1 - keep ** (i + 1))
    loss, valid, told = _median(runs), _median(found["valid"]), _median(found["told"])
    step, doubt = _foot_of_descent(rates, loss, start)
    seen = np.isfinite(valid)
    if step is not None and not doubt and seen.any() and told[np.nanargmin(valid)] < _TOLD_APART:
        doubt = (
            f"The suggestion, {rates[step]:.1e}, is doubtful: rows held out are told apart no "
            "better than by chance. Check the labels, or give more rows."
        )
    if doubt:
        warnings.warn(doubt, UserWarning, stacklevel=3)
    return {
        "suggestion": float("nan") if step is None else float(rates[step]),
        "lr": rates,
        "loss": loss,
        "runs": runs,
        "start": start,
        "valid_loss": valid,
        "valid_start": float(found["valid_start"]),
    }


def _median(runs: np.ndarray) -> np.ndarray:
    """Return the median of runs where most have a value, else NaN."""
    most = np.isfinite(runs).mean(axis=0) > 0.5
    median = np.full(runs.shape[1:], np.nan)
    median[most] = np.nanmedian(runs[:, most], axis=0)
    return median


def _foot_of_descent(rates: np.ndarray, loss: np.ndarray, start: float) -> tuple[int | None, str]:
    """Return the step where the loss has fallen a part of its way, and what is doubtful."""
    fall = start - loss[np.isfinite(loss)]
    low = int(fall.argmax()) if len(fall) else 0
    margin = max(1, len(rates) // 20)
    if not len(fall) or fall[low] < max(_LEAST_FALL * start, 1e-4):  # it may be 0 before
        span = f"from {rates[0]:.1e} to {rates[-1]:.1e}"
        if len(fall) < len(rates) or fall[-1] < 0:
            advice = (
                "and diverges. Lower lr_min if it does so from the start; else nothing is left to "
                "learn for the stages that are trained: keep the solved head "
                "(freeze_depth='all'), train more stages, or raise n_steps."
            )
        else:
            advice = "and does not diverge either: raise lr_max, to 1 for example, or n_steps."
        return None, f"There is no suggestion: the loss does not fall {span}, {advice}"
    first = int(np.argmax(fall >= _SHARE * fall[low]))
    doubt = ""
    if first < margin:
        doubt = "the loss falls from the first rates on; lower ones may be better: lower lr_min."
    elif first >= 0.8 * len(rates) and low >= len(rates) - margin:
        doubt = "the loss still falls at the last rates; higher ones may be better: raise lr_max."
    return first, doubt and f"The suggestion, {rates[first]:.1e}, is doubtful: {doubt}"
