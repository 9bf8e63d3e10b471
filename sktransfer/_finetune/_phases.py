"""What a fit computes once rows are embedded: solve the head, train, interpolate.

It must not know predictions, files or images.
"""

from __future__ import annotations

import hashlib
import itertools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch

from sktransfer._base import derived_seed
from sktransfer._finetune._adapters import attach, merge
from sktransfer._finetune._checkpoint import Checkpoints, identities
from sktransfer._finetune._datasets import LabeledRows
from sktransfer._finetune._labels import Rows, halves, independent_units
from sktransfer._finetune._targets import CumulativeLink
from sktransfer._finetune._training import (
    SHARES,
    Schedule,
    Tensors,
    between,
    choose_share,
    logits_of,
    mean_history,
    mean_loss,
    snapshot,
    train_epochs,
    within_memory,
)

# Seeds of the parts of a fit.
SPLIT, HEAD, HEAD_PHASE, MAIN_PHASE, VIEWS, TEST_VIEWS, HALVES, ADAPTERS = range(8)

# A network that knows the rows it was trained on worse than the solved head knows others, by this
# factor, was destroyed by its training.
_DESTROYED = 1.2

# A half takes half of the steps: all of its way is half of that of all rows.
_HALF_WAY = tuple(share for share in SHARES if share <= 0.5)

# Rows as they are, as they are drawn, and those held out.
Data = tuple[LabeledRows, LabeledRows, LabeledRows | None]

# --- the head ------------------------------------------------------------------------------------


def start_head(net: Any, plain: LabeledRows, held_out: LabeledRows | None, rows: Rows) -> bool:
    """Solve or train the head alone; return whether that was all there is to do."""
    module, (solves, linear, _) = net.module_, net._head_plan
    trains_head_only = not module.cut.trained
    standardized, embeddings = module.head[0], None
    if solves or net.head__layers == "all":
        embeddings = embed_rows(net, plain)
        standardized.measure(embeddings, plain.given_weight)
    if solves:
        if linear is None:
            raise ValueError(
                f"head__init={net.head__init!r} solves a linear head; head={net.head!r} is not "
                "one. Use head__init='random' (or 'auto') with head__epochs."
            )
        assert embeddings is not None
        # Weights as they were given: a row of weight two is, to the penalty too, two rows.
        given = (embeddings, plain.y.numpy(), plain.given_weight, getattr(net, net._head_penalty))
        units = partial(independent_units, rows, plain.rows)
        coefficients, intercepts = net._target.solve(*given, units)
        done = (
            trains_head_only
            and net.augmentation is None
            and isinstance(net.loss, str)
            and net._target.loss_named(net.loss) == net._target.loss
            and not net.loss__label_smoothing
            and not net.head__dropout
        )
        if done:
            # Applied as it was solved: float32 would round away what the solver found.
            module.head.double()
            standardized.measure(embeddings, plain.given_weight)
        if isinstance(module.head[-1], CumulativeLink):
            intercepts = module.head[-1].absorb(intercepts)
        standardized.absorb(linear, coefficients, intercepts)
        if done:
            _record_solved(net, plain, held_out)
            return True
    epochs = net.head__epochs
    if epochs is None:
        epochs = 0 if solves or trains_head_only else 5
    if epochs:
        _train_head(net, plain, held_out, epochs, embeddings)
    return False


@torch.no_grad()
def embed_rows(net: Any, dataset: LabeledRows) -> np.ndarray:
    """Return the input of the head for every row, in float64."""
    net._set_training(False)
    module, device = net.module_, net.device_
    found: list[torch.Tensor] = []

    def embed(x: torch.Tensor, rows: slice) -> torch.Tensor:
        return module(x[rows].to(device), head=False).cpu()

    for inputs, labels in net.get_iterator(dataset):
        found += within_memory(net, partial(embed, inputs["x"]), len(labels))
    return torch.cat(found).double().numpy()


def _train_head(
    net: Any,
    plain: LabeledRows,
    held_out: LabeledRows | None,
    epochs: int,
    embeddings: np.ndarray | None,
) -> None:
    """Train the head alone for some epochs, on embeddings that are computed once."""
    dtype = np.float64 if net.precision == "float64" else np.float32
    embedded = []
    for dataset, known in ((plain, embeddings), (held_out, None)):
        if dataset is not None:
            own = (embed_rows(net, dataset) if known is None else known).astype(dtype)
            labeled = (np.arange(len(own)), dataset.y.numpy(), dataset.given_weight)
            embedded.append(LabeledRows(own, *labeled))
    whole_optimizer, net.phase_ = net.optimizer_, "head"
    try:
        net.optimizer_ = net._head_optimizer()
        train_epochs(
            net,
            embedded[0],
            None if held_out is None else embedded[1],
            Schedule(epochs),
            seed=derived_seed(net._seed, HEAD_PHASE),
        )
    finally:
        net.optimizer_, net.phase_ = whole_optimizer, "all"


def _record_solved(net: Any, plain: LabeledRows, held_out: LabeledRows | None) -> None:
    """Write one line of history: the loss and the accuracy of the solution."""
    net._set_training(False)
    net.history.new_epoch()
    net.history.record("epoch", 1)
    net.history.record("phase", "solved")
    for name, dataset in (("train", plain), ("valid", held_out)):
        if dataset is None:
            continue
        losses, accuracies, sizes = [], [], []
        for batch in net.get_iterator(dataset):
            step = net.validation_step(batch)
            losses.append(step["loss"].item())
            if net._has_accuracy:
                accuracies.append(net._target.correct(step["y_pred"], batch[1]))
            sizes.append(len(batch[1]))
        net.history.record(f"{name}_loss", float(np.average(losses, weights=sizes)))
        if accuracies:
            net.history.record(f"{name}_acc", float(np.average(accuracies, weights=sizes)))
    net.n_epochs_, net.best_epoch_ = 0, 0


# --- the stages that are trained -----------------------------------------------------------------


def train_and_interpolate(
    net: Any, data: Data, rows: Rows, told: dict[str, Any], *, resume: bool
) -> None:
    """Train, and go as far from the start to the end as ``weight_interpolation`` says.

    How far is chosen only between a solved head on pretrained stages and what these became: from
    other starts, the weights on the way are of no network that is worth anything.
    """
    plain, drawn, held_out = data
    asked, start = net.weight_interpolation, snapshot(net)
    chosen = asked == "auto" and not resume and net._head_plan[0] and net.weights is not None
    # Of other losses, logits may be something else than log-probabilities.
    chosen = chosen and isinstance(net.loss, str) and net.max_epochs > 0
    if chosen and held_out is None:
        _cross_fit(net, plain, drawn, rows, start, told)
        return
    _train_stages(net, drawn, held_out, rows, resume=resume)
    end = snapshot(net)
    share = 1.0 if asked == "auto" else float(asked)
    if chosen:
        assert held_out is not None
        logits = {}
        for share in SHARES:
            net.module_.restore(between(start, end, share))
            logits[share] = logits_of(net, held_out)
        share = _choose_share(net, logits, held_out, rows)
        if not share:
            _warn_if_destroyed(net, [(plain, end)])
    net.module_.restore(between(start, end, share))
    net.weight_interpolation_ = share


def _cross_fit(
    net: Any,
    plain: LabeledRows,
    drawn: LabeledRows,
    rows: Rows,
    start: Tensors,
    told: dict[str, Any],
) -> None:
    """Train on each half of the rows, and on all of them if the other halves say that it helps.

    How far to go is chosen on the rows that each training has not seen, from heads that have not
    seen them either.
    """
    seed = derived_seed(net._seed, HALVES)
    parts = halves(rows, net.train_indices_, net.class_weight, seed)
    if parts is None:
        _record_solved(net, plain, None)
        warnings.warn(
            f"Whether training helps cannot be seen on {len(plain)} rows with fewer than two "
            "independent ones of two classes: the solved head is kept. Give more rows, or set "
            "weight_interpolation=1 to keep what is trained.",
            stacklevel=4,
        )
        return
    before, seen = list(net.history), []
    runs: list[list[dict[str, Any]]] = []
    logits = {share: np.zeros((len(plain), net._target.n_outputs)) for share in _HALF_WAY}
    judged, end = np.zeros(len(plain)), start

    def begin_again() -> None:
        """Go back to before the training, for callbacks as well, as in every fit."""
        if runs:
            net.notify("on_train_end", **told)
            net.notify("on_train_begin", **told)
        net.module_.restore(start)
        net.initialize_optimizer()
        net.history[:] = []

    try:
        for half, (train, weight, test) in enumerate(parts, 1):
            begin_again()
            some = plain.part(train, weight)
            unseen = plain.part(test, plain.given_weight[test])
            data = (some, drawn.part(train, weight), unseen)
            end_of_half, found = _train_half(net, data, rows, half)
            runs.append(list(net.history))
            net.history[:] = []
            seen.append((some, end_of_half))
            judged[test] = unseen.given_weight
            for share, each in found.items():
                logits[share][test] = each
        every = plain.part(np.arange(len(plain)), judged)
        share = _choose_share(net, logits, every, rows)
        if share:
            begin_again()
            _train_stages(net, drawn, None, rows, resume=False)
            # Of more rows it may have come to grief where the halves did not.
            seen = [(plain, snapshot(net))]
            net.module_.restore(between(start, seen[0][1], share))
            if mean_loss(net, plain) <= net.interpolation_losses_[0.0]:
                net.weight_interpolation_, end = share, seen[0][1]
            runs = [list(net.history)]
        if not net.weight_interpolation_:
            _warn_if_destroyed(net, seen)
    except BaseException:
        net.history[:] = [*before, *itertools.chain(*runs), *net.history]
        raise
    finally:
        # What an interrupt leaves is the head of all rows, not that of half of them.
        net.module_.restore(between(start, end, net.weight_interpolation_))
    _record_epochs(net, before, mean_history(runs))
    if not net.weight_interpolation_:
        net.initialize_optimizer()  # its moments are of half of the rows


def _record_epochs(net: Any, before: list[dict[str, Any]], epochs: list[dict[str, Any]]) -> None:
    net.history[:] = [*before, *epochs]
    net.n_epochs_ = len(epochs)
    net.best_epoch_ = 1 + int(np.argmin([row["train_loss"] for row in epochs])) if epochs else 0


def _train_half(
    net: Any, data: Data, rows: Rows, half: int
) -> tuple[Tensors, dict[float, np.ndarray]]:
    """Train on a half of the rows; return what that ended with, and logits of the others by share.

    ``data`` are the half as it is and as it is drawn, and the other rows.
    """
    plain, drawn, unseen = data
    if net.verbose:
        print(f"Half {half} of 2: training on {len(plain)} rows")
    start_head(net, plain, None, rows)
    net.history[:] = []
    start = snapshot(net)
    _train_stages(net, drawn, None, rows, resume=False, half=half)
    end, logits = snapshot(net), {}
    for share in _HALF_WAY:
        net.module_.restore(between(start, end, 2 * share))
        logits[share] = logits_of(net, unseen)
    return end, logits


def _choose_share(
    net: Any, logits: dict[float, np.ndarray], dataset: LabeledRows, rows: Rows
) -> float:
    """Choose a share of the way, and note the mean losses."""
    y, weight = dataset.y.numpy(), dataset.given_weight
    net.interpolation_losses_ = {
        share: float(np.average(net._target.log_losses(each, y), weights=weight))
        for share, each in logits.items()
    }
    scaled = net._target.scaled_losses
    losses = {share: scaled(each, y, weight) for share, each in logits.items()}
    share = choose_share(losses, weight, independent_units(rows, dataset.rows))
    if net.verbose:
        found = ", ".join(f"{a:g}: {loss:.4g}" for a, loss in net.interpolation_losses_.items())
        print(f"Log loss of unseen rows by weight_interpolation ({found}); chosen: {share:g}")
    return share


def _warn_if_destroyed(net: Any, seen: list[tuple[LabeledRows, Tensors]]) -> None:
    """Warn where trainings made even the rows that they saw worse than unseen ones were before.

    ``seen`` are the rows of each training, and what it ended with.
    """
    losses = []
    for rows, end in seen:
        net.module_.restore(end)
        losses.append(mean_loss(net, rows))
    learned = min(losses)
    if learned > _DESTROYED * net.interpolation_losses_[0.0]:
        warnings.warn(
            f"Training is not kept, since it destroyed what the network knew: the log loss of rows "
            f"that it saw is {learned:.3g} after it, and that of unseen rows was "
            f"{net.interpolation_losses_[0.0]:.3g} before. What is kept is the solved head. Lower "
            f"lr (now {net.lr}) or head__lr; find_lr suggests a rate.",
            stacklevel=5,
        )


@contextmanager
def adapted(net: Any) -> Iterator[None]:
    """Add to the trained stages what ``trainable`` says, and merge it afterwards."""
    if net.trainable == "all":
        yield
        return
    before = net.optimizer_
    seed = derived_seed(net._seed, ADAPTERS)
    try:
        attach(net.module_, net.trainable, rank=net.trainable__rank, seed=seed)
        net.initialize_optimizer()
        if type(before) is type(net.optimizer_):  # of a training that is continued
            net.optimizer_.state.update(before.state)
        yield
    finally:
        merge(net.module_)


def _train_stages(
    net: Any,
    drawn: LabeledRows,
    held_out: LabeledRows | None,
    rows: Rows,
    *,
    resume: bool,
    half: int = 0,
) -> None:
    """Train everything that is not frozen, together with the head."""
    checkpoints = None
    if net.checkpoint__dir is not None:
        fingerprint = _fingerprint(net, rows, drawn, resume=resume)
        checkpoints = Checkpoints(net.checkpoint__dir, fingerprint, net.checkpoint__every)
    schedule = Schedule(
        net.max_epochs,
        net.lr_schedule,
        net.lr_schedule__final,
        net.lr_schedule__warmup,
        net.early_stopping,
        net.early_stopping__restore_best,
        net.optimizer__ema_decay,
    )
    phase = (MAIN_PHASE, half) if half else (MAIN_PHASE,)
    with adapted(net):
        train_epochs(
            net,
            drawn,
            held_out,
            schedule,
            seed=derived_seed(net._seed, *phase),
            checkpoints=checkpoints,
            epochs_before=len(net.history) if resume else 0,
        )


def _fingerprint(net: Any, rows: Rows, dataset: LabeledRows, *, resume: bool) -> str:
    """Return a digest of everything that decides the result of a training."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (identities(net), net._seed, net.reference_, net._target.written()):
        digest.update(repr(part).encode())
    digest.update(b"".join(rows.digests))
    digest.update(rows.y.tobytes() + dataset.weight.numpy().tobytes())
    # What is held out chooses the epoch, and another split trains on other rows: groups may
    # have changed, or a splitter that draws.
    for numbers in (net.train_indices_, net.valid_indices_, rows.weight, dataset.rows):
        digest.update(numbers.tobytes())
    if resume:  # another place to start from is another training
        for tensor in net.module_.saved().values():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
