"""The two parts of a network that is fine-tuned: the frozen one and the one that is trained.

It must not know rows, labels, or how training goes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from sktransfer._backbones import Backbone
from sktransfer._base import ImageInputMixin, derived_seed, resolve_device, seed_from
from sktransfer._finetune._activations import Prefix, activation_shape, kept_as
from sktransfer._finetune._depth import resolve_freeze_depth
from sktransfer._finetune._head import make_head
from sktransfer._finetune._keeping import Budget
from sktransfer._finetune._loop import TrainingLoop
from sktransfer._finetune._network import Suffix
from sktransfer._frozen import (
    NetworkInfo,
    NetworkSource,
    resolve_engine,
)
from sktransfer._persistence import PackedWeights, found_source, lasting, request_source

# The last whole network that was loaded: the next fold or candidate copies its stages.
_last: dict[tuple, Backbone] = {}
_last_lock = threading.Lock()

# Parameters that a fitted network stands on: what is set later counts from the next fit on.
MADE_WITH = (
    *("backbone", "weights", "freeze_depth", "head", "dropout", "freeze_batch_norm", "precision"),
    *("activation_dtype", "preprocessing", "image_size", "scaled_decoding"),
)

# Seeds of the parts of a fit.
SPLIT, HEAD, HEAD_PHASE, MAIN_PHASE, VIEWS, TEST_VIEWS = range(6)


def whole_backbone(source: NetworkSource) -> Backbone:
    """The network of ``source`` with all its stages; do not change it."""
    with _last_lock:
        found = _last.get(source.key)
    if found is None:
        # Not under the lock: a network that was fine-tuned itself is loaded by coming here again.
        found = source.checked()
        with _last_lock:
            _last.clear()
            _last[source.key] = found
    return found


class Parts(ImageInputMixin, TrainingLoop):
    """Finds a network, cuts it, and finds it again."""

    _prefix_: Prefix
    device: Any

    @property
    def device_(self) -> str:
        """The device that is computed on."""
        return resolve_device(self.device, self._made_with["precision"])

    def _requested(self) -> NetworkSource:
        seed = self._seed if self.weights is None else 0
        return request_source(self.backbone, self.weights, seed)

    def _found(self) -> NetworkSource:
        """The network that was fitted, to be found again."""
        return found_source(self.reference_, self._packed, self._found_as)

    def _make_prefix(self, source: NetworkSource, backbone: Backbone) -> Prefix:
        info = NetworkInfo.of(backbone)
        made = self._made_with
        cut = resolve_freeze_depth(made["freeze_depth"], info)
        if not info.embedding_trained:
            raise ValueError(
                f"The weights {info.reference.weights} of {info.reference.name} hold trained "
                "convolutions only: the layers that make its embedding are untrained. Choose other "
                "weights."
            )
        device = self.device_
        precision = made["precision"]
        engine = resolve_engine(self.engine, precision, device)
        preprocessing = self._preprocessing_for(info.input_spec, made)
        # What is loaded already is not loaded again for the frozen part.
        shared = NetworkSource(source.key, lambda: whole_backbone(source), source.reference)
        dtype = kept_as(made["activation_dtype"], precision, cut)
        prefix = Prefix(shared, info, cut, precision, device, engine, preprocessing, dtype)
        network = None if cut.depth == 0 else prefix.frozen().network()
        prefix.shape = activation_shape(network, cut, preprocessing.size)
        return prefix

    @property
    def _prefix(self) -> Prefix:
        """The frozen part; looked for again after unpickling."""
        if "_prefix_" not in vars(self) or self._prefix_.device != self.device_:
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

    def initialize_module(self) -> Parts:
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
        prefix, made = self._prefix, self._made_with
        head = make_head(
            made["head"],
            backbone.n_features,
            len(self._classes),
            made["dropout"],
            self._seed_of(HEAD),
        )
        module = Suffix(
            backbone,
            prefix.cut,
            head,
            freeze_batch_norm=made["freeze_batch_norm"],
            shape=prefix.shape,
        )
        if any(tensor.is_meta for tensor in module.state_dict().values()):
            module.to_empty(device="cpu")  # an architecture alone; its values come next
        dtype = torch.float64 if made["precision"] == "float64" else torch.float32
        # A layout, not a change of numbers: convolutions need not bring their weights into the one
        # that images have, in every step.
        module = module.to(device=self.device_, dtype=dtype)
        return module.to(memory_format=torch.channels_last)

    def _check_still_that_network(self) -> None:
        """Raise ValueError where training cannot go on because parameters ask for another one."""
        for name, before in self._made_with.items():
            now = getattr(self, name)
            if now is not before and not _equal(now, before):
                raise ValueError(
                    f"{name} is {now!r} now, and the network that training is to go on with was "
                    f"made with {before!r}. Set it back, or fit again (warm_start=False)."
                )

    @contextmanager
    def _as_torch_says(self) -> Iterator[None]:
        """While skorch asks for the device: torch knows no "auto"."""
        given = self.device
        self.device = self.device_
        try:
            yield
        finally:
            self.device = given

    @property
    def _budget(self) -> Budget:
        return Budget(self.memory_budget, self.disk_budget, self.cache)

    def _seed_of(self, part: int) -> int:
        return derived_seed(self._seed, part)

    def _prepare(self) -> None:
        """Find the network and resolve where it is cut; nothing is trained."""
        self._seed = seed_from(self.random_state)
        self._found_as = lasting(self.backbone)
        self._made_with = {name: getattr(self, name) for name in MADE_WITH}
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


def _equal(a: Any, b: Any) -> bool:
    try:
        return type(a) is type(b) and bool(a == b)
    except ValueError:  # arrays
        return False
