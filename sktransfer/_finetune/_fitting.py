"""How a fit runs, from top to bottom: read, find the network, embed, then ``_phases``.

It must not know predictions or files.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from sklearn.base import clone

from sktransfer._backbones import Backbone
from sktransfer._base import NO_FAILED_ROWS, derived_seed, n_decoding_threads, seed_from
from sktransfer._finetune._activations import ActivationStorage, Prefix, unreadable
from sktransfer._finetune._adapters import check_low_rank
from sktransfer._finetune._datasets import ImageRows, LabeledRows
from sktransfer._finetune._labels import Rows, split_rows
from sktransfer._finetune._network import (
    Cut,
    default_depth,
    head_inputs,
    resolve_freeze_depth,
    whole_backbone,
)
from sktransfer._finetune._parameters import check_parameters
from sktransfer._finetune._phases import (
    SPLIT,
    VIEWS,
    Data,
    adapted,
    start_head,
    train_and_interpolate,
)
from sktransfer._finetune._targets import KINDS_DIFFER
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
    known = net._target.classes if resume else classes
    rows = net._read_rows(y, source, sample_weight, groups, known)
    if resume and type(rows.target) is not type(net._target):
        raise ValueError(KINDS_DIFFER)
    if isinstance(net.loss, str):
        rows.target.loss_named(net.loss)  # raises for one that is not for such rows
    net._target = rows.target
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
            if resume or not start_head(net, data[0], data[2], rows):
                if train is None:
                    train_and_interpolate(net, data, rows, {"X": X, "y": y}, resume=resume)
                else:
                    with adapted(net):
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
    if net.verbose and net.engine == "auto":
        prefix.say_engine()
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
) -> Data:
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
    train, valid = _divide(net, rows, one_class=one_class)

    def plain(chosen: np.ndarray) -> LabeledRows:
        """Return rows without augmentation."""
        weight = rows.weights(chosen, net.class_weight)
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
        return as_is, ImageRows(*drawn, target=rows.target), held_out
    # Of these rows and no others: those held out are not shown as they are drawn.
    views = ImageViews(ImageSelection(images, train), augmentation, n_views, seed)
    of_views = (np.arange(len(train)), *labeled, (n_views, seed))
    if storage is None:
        return as_is, ImageRows(views, prefix, None, seed, map_, *of_views), held_out
    # Views are of images that could be read.
    return as_is, LabeledRows(storage.keep(views, on_error="raise")[0], *of_views), held_out


def _divide(net: Any, rows: Rows, *, one_class: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """Choose rows to train on and to hold out, and encode ``y`` by what it is on the former."""
    seed, share = derived_seed(net._seed, SPLIT), net.validation_fraction
    all_rows = rows.kept, None
    train, valid = all_rows if share is None else split_rows(rows, share, seed)
    lacking = "" if one_class else rows.target.lacking(rows.y[train])
    if lacking:
        raise ValueError(
            f"The {len(train)} rows to train on are of {lacking}: hold out less, or give more rows."
        )
    of_rows = rows.y[train], rows.weight[train], net.class_weight
    rows.target = net._target = rows.target.weighed(*of_rows)
    rows.y = rows.target.encoded(rows.y)
    net._tell_callbacks()
    net.train_indices_ = train
    net.valid_indices_ = np.empty(0, dtype=np.intp) if valid is None else valid
    return train, valid


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
