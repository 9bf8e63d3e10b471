"""How a fit runs, from top to bottom: read, find the network, embed, solve the head, train.

It must not know predictions or files.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.base import clone

from sktransfer._backbones import Backbone
from sktransfer._base import NO_FAILED_ROWS, derived_seed, n_decoding_threads, seed_from
from sktransfer._finetune._activations import ActivationStorage, Prefix, unreadable
from sktransfer._finetune._adapters import attach, check_low_rank, merge
from sktransfer._finetune._checkpoint import Checkpoints, identities
from sktransfer._finetune._datasets import ImageRows, LabeledRows
from sktransfer._finetune._labels import Rows, halves, read_labels, split_rows
from sktransfer._finetune._network import (
    Cut,
    default_depth,
    head_inputs,
    resolve_freeze_depth,
    whole_backbone,
)
from sktransfer._finetune._parameters import check_parameters
from sktransfer._finetune._training import (
    SHARES,
    Schedule,
    Tensors,
    between,
    choose_share,
    log_losses,
    mean_history,
    mean_loss,
    snapshot,
    train_epochs,
    within_memory,
)
from sktransfer._frozen import (
    FrozenExtractor,
    LayerOutput,
    NetworkInfo,
    NetworkSource,
    resolve_engine,
)
from sktransfer._images import ImageSelection, ImageSource, ImageViews, resolve_augmentation
from sktransfer._moving import is_place_of
from sktransfer._persistence import PackedWeights, request_source
from sktransfer._utils.logistic import FLOOR, solve_linear
from sktransfer._utils.threads import DecodingThreads
from sktransfer.exceptions import ImageDecodeError

# Parameters that a fitted network depends on: set later, they count from the next fit on.
MADE_WITH = (
    *("backbone", "weights", "freeze_depth", "head", "head__dropout", "module__freeze_batch_norm"),
    *("precision", "cache__activation_dtype", "preprocessing", "image_size", "scaled_decoding"),
    "head__layers",
)

# Kept with those: indices of the stages that fits before the last one have trained (warm starts).
LEARNED_STAGES = "learned_stages"

# Seeds of the parts of a fit.
SPLIT, HEAD, HEAD_PHASE, MAIN_PHASE, VIEWS, TEST_VIEWS, HALVES, ADAPTERS = range(8)

# A network that knows the rows it was trained on worse than the solved head knows others, by this
# factor, was destroyed by its training.
_DESTROYED = 1.2

# Rows as they are, as they are drawn, and those held out.
_Data = tuple[LabeledRows, LabeledRows, LabeledRows | None]


def run_fit(
    net: Any,
    X: Any,
    y: Any,
    sample_weight: Any,
    groups: Any,
    *,
    resume: bool,
    classes: Any = None,
    train: Callable[..., None] | None = None,
) -> None:
    """Train ``net`` on images, from scratch or from its present weights (``resume``).

    ``classes`` are all that there will be; None: those of ``y``. ``train`` trains the stages after
    the cut; None: the epochs that parameters ask for.
    """
    check_parameters(net)
    # Read the labels, and where images are; they are decoded later.
    source = net._image_source(X, reset=not resume)
    known = net._classes if resume else classes
    rows, found = read_labels(y, source, sample_weight, groups, known, net)
    net._classes = found
    net._failed_rows = NO_FAILED_ROWS
    if resume:
        _check_same_network(net)
        if net.freeze_depth != net._made_with["freeze_depth"]:
            _cut_elsewhere(net)
        net._make_ready_to_resume()
        prefix = net._prefix
    else:
        net.initialized_ = False
        prefix = find_network(net)
        net.initialize()
    device, net.device = net.device, net.device_  # skorch asks for it: "auto" is none of torch's
    try:
        with DecodingThreads(n_decoding_threads(net.n_jobs)) as pool:
            net.notify("on_train_begin", X=X, y=y)
            one_class = resume or classes is not None
            data = _embed(net, prefix, rows, pool.map, one_class=one_class)
            if net.trainable == "lora":
                check_low_rank(net.module_, prefix.info.reference.name)
            net.weight_interpolation_, net.interpolation_losses_ = 0.0, None
            if resume or not _start_head(net, data[0], data[2]):
                if train is None:
                    _train_and_interpolate(net, data, rows, {"X": X, "y": y}, resume=resume)
                else:
                    with _adapted(net):
                        train(net, *data[1:], rows, resume=resume)
            net._set_training(False)
            net.notify("on_train_end", X=X, y=y)
    except BaseException as error:
        # A head of random numbers is not to be predicted with; what an interrupt left may be.
        learned = _finished_epochs(net) if isinstance(error, KeyboardInterrupt) else 0
        if not resume and not learned:
            net.initialized_ = False
        raise
    finally:
        net.device = device


def _finished_epochs(net: Any) -> int:
    """Drop from the history an epoch that was interrupted; return how many there are."""
    while len(net.history) and "train_loss" not in net.history[-1]:
        del net.history[-1]
    return len(net.history)


# --- the network ---------------------------------------------------------------------------------


def find_network(net: Any) -> Prefix:
    """Find the network and resolve where it is cut; nothing is trained."""
    net._seed = seed_from(net.random_state)
    net._made_with = {name: getattr(net, name) for name in MADE_WITH}
    seed = net._seed if net.weights is None else 0
    source = request_source(net.backbone, net.weights, seed, net.image_size)
    net._found_as = source.found_as
    backbone = whole_backbone(source)
    net._prefix_ = prefix = make_prefix(net, source, backbone)
    net.reference_ = backbone.reference
    net._packed = None
    if net.store_weights:
        depth = prefix.cut.packed_depth
        net._packed = PackedWeights.pack(backbone, backbone.reference, depth)
    for earlier in ("_learned", "_class_names", "_places"):  # of a pickle or a file
        net.__dict__.pop(earlier, None)
    return prefix


def make_prefix(net: Any, source: NetworkSource, backbone: Backbone) -> Prefix:
    """Make the part before the cut, which is frozen."""
    info = NetworkInfo.of(backbone)
    made, device = net._made_with, net.device_
    cut = resolve_freeze_depth(made["freeze_depth"], info, partial(default_depth, backbone))
    if made.get(LEARNED_STAGES):
        cut = cut.after(made[LEARNED_STAGES])
    if not info.embedding_trained:
        raise ValueError(
            f"The weights {info.reference.weights} of {info.reference.name} hold trained "
            "convolutions only: the layers that make its embedding are untrained. Choose other "
            "weights."
        )
    precision = made["precision"]
    dtype = whole = np.dtype(np.float64 if precision == "float64" else np.float32)
    kept = made["cache__activation_dtype"]
    if cut.trained and (kept != "auto" or precision != "float64"):
        dtype = np.dtype("float16" if kept == "auto" else kept)  # vectors are kept whole
    seen, widths = head_inputs(made["head__layers"], backbone)
    n_before = sum(each.stage is not None and each.stage < cut.depth for each in seen)
    before = seen if cut.depth == cut.n_stages else seen[:n_before]
    raw = [LayerOutput(cut.depth - 1, "raw")] if 0 < cut.depth < cut.n_stages else []
    prefix = Prefix(
        # What is loaded already is not loaded again for the frozen part.
        NetworkSource(source.key, lambda: whole_backbone(source), source.reference),
        info,
        (*raw, *before),
        net._preprocessing_for(info.input_spec, made),
        precision=precision,
        device=device,
        engine=resolve_engine(net.engine, precision, device),
        cut=cut,
        pooled=tuple(each.stage for each in seen[len(before) :] if each.stage is not None),
        n_inputs=sum(widths),
    )
    side = prefix.preprocessing.size
    if cut.depth == 0:
        return replace(prefix, shape=(3, side, side))
    network = prefix.network()
    of_pooled = tuple(widths[: len(before)])
    if not raw:
        network.widths(prefix.outputs, side)  # raises where the network cannot run
        return replace(prefix, shape=(0,), widths=of_pooled, dtypes=(whole,) * len(before))
    shape = network.shape_after(cut.depth - 1, side)
    dtypes = (dtype, *(whole,) * len(before))
    return replace(prefix, shape=shape, widths=(math.prod(shape), *of_pooled), dtypes=dtypes)


def _check_same_network(net: Any) -> None:
    """Raise ValueError where training cannot resume because parameters ask for another network."""
    for name in MADE_WITH:
        before, now = net._made_with[name], getattr(net, name)
        try:
            equal = now is before or (type(now) is type(before) and bool(now == before))
        except ValueError:  # arrays
            equal = False
        same = equal or name == "freeze_depth"
        if not same and not (name == "weights" and is_place_of(now, net)):
            raise ValueError(
                f"{name} is {now!r} now, but the network that is to be trained further was made "
                f"with {before!r}. Set it back, or fit again (warm_start=False)."
            )


def _cut_elsewhere(net: Any) -> None:
    """Cut a network where ``freeze_depth`` is now; what was learned stays (gradual unfreezing)."""
    before, module, prefix = net._made_with, net.module_, net._prefix
    learned = prefix.cut.trained | prefix.cut.learned
    made = {**before, "freeze_depth": net.freeze_depth, LEARNED_STAGES: learned}
    tensors = {name: tensor.clone() for name, tensor in module.learned().items()}
    try:
        net._made_with = made
        net._prefix_ = make_prefix(net, prefix.source, whole_backbone(prefix.source))
        net.initialize_module()
    except BaseException:
        net._made_with, net._prefix_, net._module_ = before, prefix, module
        raise
    net.module_.restore(tensors)
    if net._prefix_.cut.trained and made["precision"] != "float64":
        net.module_.head.float()  # of a head that was solved exactly
    net.optimizer_ = None  # its moments are of other parameters


# --- embed ---------------------------------------------------------------------------------------


def _embed(
    net: Any, prefix: Prefix, rows: Rows, map_: Callable[..., Any], *, one_class: bool
) -> tuple[LabeledRows, LabeledRows, LabeledRows | None]:
    """Bring images to the cut; return training rows as they are and as drawn, and those held out.

    ``one_class`` says whether the rows to train on may be of one class only.
    """
    images = rows.source
    augmentation = resolve_augmentation(net.augmentation)
    n_views = net.augment_views or 0
    storage, activations = None, None
    failures: list[ImageDecodeError] = []
    if prefix.cut.depth > 0:
        done: list[Any] = [prefix.preprocessing, *([augmentation] if n_views else [])]
        storage = ActivationStorage(
            prefix,
            len(images) * (1 + n_views),
            cache=net.cache,
            memory_budget=net.cache__memory_budget,
            disk_budget=net.cache__disk_budget,
            storable=all(each.fingerprint is not None for each in done),
            n_threads=n_decoding_threads(net.n_jobs),
            progress=bool(net.verbose),
        )
        activations, failures = storage.keep(images, on_error=net.on_error)
    elif net.on_error == "nan":
        failures = unreadable(images, prefix)
    rows.kept = np.setdiff1d(rows.kept, [each.index for each in failures if each.index is not None])
    if not len(rows.kept):
        raise failures[0]
    if failures:
        net._note_failures(failures, len(rows.y), "left out of training")
    seed, share = derived_seed(net._seed, SPLIT), net.validation_fraction
    all_rows = rows.kept, None
    train, valid = all_rows if share is None else split_rows(rows, share, seed, net._classes)
    present = np.unique(rows.y[train])
    if len(present) < 2 and not one_class:
        raise ValueError(
            f"The {len(train)} rows to train on are of one class, "
            f"{net._classes[present].tolist()}: hold out less, or give more rows."
        )
    net.train_indices_ = train
    net.valid_indices_ = np.empty(0, dtype=np.intp) if valid is None else valid

    def plain(chosen: np.ndarray) -> LabeledRows:
        """Return rows without augmentation."""
        weight = rows.weights(chosen, net.class_weight, net._classes)
        labeled = (chosen, rows.y[chosen], weight)
        if activations is not None:
            return LabeledRows(activations, *labeled)
        return ImageRows(images, prefix, None, 0, map_, *labeled)

    as_is, held_out = plain(train), None if valid is None else plain(valid)
    if augmentation is None:
        return as_is, as_is, held_out
    # As the augmentation draws them: again in each epoch, or views that are kept.
    seed, labeled = derived_seed(net._seed, VIEWS), (rows.y[train], as_is.given_weight)
    if net.augment_views is None:
        drawn = (images, prefix, augmentation, seed, map_, train, *labeled)
        return as_is, ImageRows(*drawn, n_classes=len(net._classes)), held_out
    # Of these rows and no others: those held out are not shown as they are drawn.
    views = ImageViews(ImageSelection(images, train), augmentation, n_views, seed)
    of_views = (np.arange(len(train)), *labeled, (n_views, seed))
    if storage is None:
        return as_is, ImageRows(views, prefix, None, seed, map_, *of_views), held_out
    # Views are of images that could be read.
    return as_is, LabeledRows(storage.keep(views, on_error="raise")[0], *of_views), held_out


# --- the head ------------------------------------------------------------------------------------


def _start_head(net: Any, plain: LabeledRows, held_out: LabeledRows | None) -> bool:
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
                f"head__init='logistic' solves a linear head; head={net.head!r} is not one. Use "
                "head__init='random' (or 'auto') with head__epochs."
            )
        assert embeddings is not None
        # Weights as they were given: a row of weight two is, to the penalty too, two rows.
        labeled = (plain.y.numpy(), plain.given_weight, len(net._classes))
        coefficients, intercepts = solve_linear(embeddings, *labeled, net.head__C, floor=FLOOR)
        done = (
            trains_head_only
            and net.augmentation is None
            and net.loss == "cross_entropy"
            and not net.loss__label_smoothing
            and not net.head__dropout
        )
        if done:
            # Applied as it was solved: float32 would round away what the solver found.
            module.head.double()
            standardized.measure(embeddings, plain.given_weight)
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
            correct = step["y_pred"].argmax(1).cpu() == batch[1]
            losses.append(step["loss"].item())
            accuracies.append(correct.double().mean().item())
            sizes.append(len(batch[1]))
        net.history.record(f"{name}_loss", float(np.average(losses, weights=sizes)))
        net.history.record(f"{name}_acc", float(np.average(accuracies, weights=sizes)))
    net.n_epochs_, net.best_epoch_ = 0, 0


# --- the stages that are trained -----------------------------------------------------------------


def _train_and_interpolate(
    net: Any, data: _Data, rows: Rows, told: dict[str, Any], *, resume: bool
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
    changes = [(start, snapshot(net))]
    share = 1.0 if asked == "auto" else float(asked)
    if chosen:
        assert held_out is not None
        losses = _losses_by_share(net, held_out, *changes[0])
        share = _choose_share(net, losses, held_out.given_weight)
        if not share:
            net.module_.restore(changes[0][1])
            _warn_if_destroyed(net, mean_loss(net, plain))
    net.module_.restore(between(start, changes, share))
    net.weight_interpolation_ = share


def _cross_fit(
    net: Any,
    plain: LabeledRows,
    drawn: LabeledRows,
    rows: Rows,
    start: Tensors,
    told: dict[str, Any],
) -> None:
    """Train on each half of the rows, and add a share of the mean change to the start.

    The share is chosen on the rows that each training has not seen; the start is of all rows.
    """
    seed = derived_seed(net._seed, HALVES)
    parts = halves(rows, net.train_indices_, net.class_weight, net._classes, seed)
    if parts is None:
        _record_solved(net, plain, None)
        warnings.warn(
            f"Whether training helps cannot be seen on {len(plain)} rows with fewer than two "
            "independent ones of two classes: the solved head is kept. Give more rows, or set "
            "weight_interpolation=1 to keep what is trained.",
            stacklevel=4,
        )
        return
    before, runs, changes, learned = list(net.history), [], [], []
    losses = {share: np.zeros(len(plain)) for share in SHARES}
    judged = np.zeros(len(plain))
    try:
        for half, (train, weight, test) in enumerate(parts):
            if half:  # callbacks begin again, as in every fit
                net.notify("on_train_end", **told)
                net.notify("on_train_begin", **told)
            if net.verbose:
                print(f"Half {half + 1} of 2: training on {len(train)} rows")
            net.module_.restore(start)
            net.initialize_optimizer()
            net.history[:] = []
            some = plain.part(train, weight)
            _start_head(net, some, None)
            net.history[:] = []
            own = snapshot(net)
            _train_stages(net, drawn.part(train, weight), None, rows, resume=False, half=half)
            runs.append(list(net.history))
            net.history[:] = []
            changes.append((own, snapshot(net)))
            learned.append(mean_loss(net, some))
            unseen = plain.part(test, plain.given_weight[test])
            for share, each in _losses_by_share(net, unseen, *changes[-1]).items():
                losses[share][test] = each
            judged[test] = unseen.given_weight
        share = _choose_share(net, losses, judged)
        if not share:
            _warn_if_destroyed(net, min(learned))
        # The mean of trainings that went apart is no network: on rows that it has seen, it is worse
        # than each of them on rows that it has not.
        known = net.interpolation_losses_
        while share:
            net.module_.restore(between(start, changes, share))
            if mean_loss(net, plain) <= known[share]:
                break
            share = max(each for each in SHARES if each < share)
        net.weight_interpolation_ = share
    except BaseException:
        net.history[:] = [*before, *itertools.chain(*runs), *net.history]
        raise
    finally:
        # What an interrupt leaves is the head of all rows, not that of half of them.
        net.module_.restore(between(start, changes, net.weight_interpolation_))
    epochs = mean_history(runs)
    net.history[:] = [*before, *epochs]
    net.n_epochs_ = len(epochs)
    net.best_epoch_ = 1 + int(np.argmin([row["train_loss"] for row in epochs])) if epochs else 0
    net.initialize_optimizer()  # its moments are of half of the rows


def _losses_by_share(
    net: Any, dataset: LabeledRows, start: Tensors, end: Tensors
) -> dict[float, np.ndarray]:
    """Return the log loss of each row, by the share of the way from ``start`` to ``end``."""
    losses = {}
    for share in SHARES:
        net.module_.restore(between(start, [(start, end)], share))
        losses[share] = log_losses(net, dataset)
    return losses


def _choose_share(net: Any, losses: dict[float, np.ndarray], weight: np.ndarray) -> float:
    """Choose a share of the way, and note the mean losses."""
    net.interpolation_losses_ = {
        share: float(np.average(each, weights=weight)) for share, each in losses.items()
    }
    share = choose_share(losses, weight)
    if net.verbose:
        found = ", ".join(f"{a:g}: {loss:.4g}" for a, loss in net.interpolation_losses_.items())
        print(f"Log loss of unseen rows by weight_interpolation ({found}); chosen: {share:g}")
    return share


def _warn_if_destroyed(net: Any, learned: float) -> None:
    """Warn where training made even the rows that it saw worse than unseen ones were before."""
    if learned > _DESTROYED * net.interpolation_losses_[0.0]:
        warnings.warn(
            f"Training is not kept, since it destroyed what the network knew: the log loss of rows "
            f"that it saw is {learned:.3g} after it, and that of unseen rows was "
            f"{net.interpolation_losses_[0.0]:.3g} before. What is kept is the solved head. Lower "
            f"lr (now {net.lr}) or head__lr; find_lr suggests a rate.",
            stacklevel=5,
        )


@contextmanager
def _adapted(net: Any) -> Iterator[None]:
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
    with _adapted(net):
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
    for part in (identities(net), net._seed, net.reference_, net._classes.tolist()):
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


# --- the frozen part by itself -------------------------------------------------------------------


class FrozenPart:
    """What a fit of an estimator, which is cloned, runs through its frozen stages."""

    def __init__(self, estimator: Any) -> None:
        self._clf = clone(estimator)
        check_parameters(self._clf)
        self._prefix = find_network(self._clf)
        self.depth = self._prefix.cut.depth  # number of frozen stages
        self.info = self._prefix.info  # what is known of the whole network

    def extractor(self) -> FrozenExtractor | None:
        """Return what stores activations, or None if no other fit would ask for the same."""
        clf, prefix = self._clf, self._prefix
        drawn_network = clf.weights is None and clf.random_state is None
        if prefix.cut.depth == 0 or drawn_network or not clf.cache:
            return None
        return replace(prefix)

    def cut_at(self, freeze_depth: Any) -> Cut:
        """Return where the same network is cut at another depth."""
        backbone = whole_backbone(self._prefix.source)
        return resolve_freeze_depth(freeze_depth, self.info, partial(default_depth, backbone))

    def images(self, X: Any) -> ImageSource:
        """Return the images of X as this classifier reads them."""
        return self._clf._image_source(X, reset=True)

    def sources(self, images: ImageSource) -> dict[tuple, ImageSource]:
        """Return everything that is run: the images, and views of them that other fits share."""
        found: dict[tuple, ImageSource] = {(): images}
        clf, n_views = self._clf, self._clf.augment_views or 0
        if n_views and clf.random_state is not None:
            seed = derived_seed(clf._seed, VIEWS)
            views = ImageViews(images, resolve_augmentation(clf.augmentation), n_views, seed)
            if views.lasting:
                found[repr(clf.augmentation), n_views, seed] = views
        return found
