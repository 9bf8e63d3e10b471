"""Networks that a study is made of: random, mixed, or drawn with the same mean and variance."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator
from torch import Tensor, nn

from sktransfer._backbones import (
    Backbone,
    draw_again,
    load_backbone,
    state_dict_digest,
    with_measured_scales,
    with_tensors,
)
from sktransfer._base import resolve_device
from sktransfer._image_rows import run_images
from sktransfer.exceptions import UnknownBackboneError

_BATCH_NORMS = nn.modules.batchnorm._BatchNorm


class GivenBackbone(BaseEstimator):
    """A network in the place of an estimator that was fine-tuned."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone

    def fit(self, X: Any, y: Any = None) -> GivenBackbone:
        """Do nothing."""
        return self

    def to_backbone(self) -> Backbone:
        """Return the network."""
        return self.backbone

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        return f"GivenBackbone({self.backbone.name})"


def given(backbone: Backbone) -> FrozenEstimator:
    """Return what the ``backbone`` parameter of an estimator takes for a network."""
    return FrozenEstimator(GivenBackbone(backbone))


def random_like(backbone: Backbone, seed: int) -> Backbone:
    """Return the same architecture with random weights, drawn as its publisher draws them.

    A network that is not in the catalog draws as its layers do.
    """
    try:
        fresh = load_backbone(backbone.name, weights=None, seed=seed)
    except UnknownBackboneError:
        fresh = replace(_copied(backbone), classifier=None)
        draw_again(fresh.modules(), backbone.name, seed)
        fresh = with_measured_scales(fresh)
    return _labeled(replace(fresh, classifier=None), f"random {seed}")


def _copied(backbone: Backbone) -> Backbone:
    """Copy the stages and the neck."""
    return replace(
        backbone,
        stages=tuple(replace(s, module=copy.deepcopy(s.module)) for s in backbone.stages),
        neck=copy.deepcopy(backbone.neck),
    )


def first_stages(source: Backbone, n_stages: int, rest: Backbone, label: str) -> Backbone:
    """Return the first ``n_stages`` stages of ``source`` with the others of ``rest``.

    Its digest is that of what is taken from ``source``, so that activations of a cut there are
    found in the store whatever comes after. ``label`` tells such networks apart. With all stages,
    the neck is taken too: its parameters are the last stage's.
    """
    parts = [f"stage{i}" for i in range(n_stages)]
    if n_stages == source.n_stages and source.neck is not None:
        parts.append("neck")
    modules = source.modules()
    tensors = {
        f"{part}.{name}": tensor
        for part in parts
        for name, tensor in modules[part].state_dict().items()
    }
    mixed = with_tensors(rest, tensors)
    kept = nn.ModuleDict({part: modules[part] for part in parts})
    reference = replace(
        source.reference,
        weights=f"{source.reference.weights}, first {n_stages} stages; {label}",
        digest=state_dict_digest(kept),
    )
    return replace(mixed, reference=reference)


def mean_and_variance(backbone: Backbone, seed: int) -> Backbone:
    """Draw weights from normal distributions with mean and variance of each pretrained tensor.

    Only the scale of the weights is left of pretraining then (Raghu et al., 2019). BatchNorm is
    that of a random network.
    """
    fresh = random_like(backbone, seed)
    generator = torch.Generator().manual_seed(seed)
    drawn: dict[str, Tensor] = {k: t.clone() for k, t in fresh.modules().state_dict().items()}
    for name, weights in backbone.modules().named_parameters():
        if name in drawn:
            noise = torch.randn(weights.shape, generator=generator)
            spread = weights.std(correction=0)
            drawn[name] = (weights.mean() + spread * noise).detach().to(weights.dtype)
    drawn_network = with_measured_scales(with_tensors(fresh, drawn))
    return _labeled(drawn_network, f"mean and variance {seed}")


def recalibrated(backbone: Backbone, estimator: Any, X: Any) -> Backbone:
    """Return the same weights with BatchNorm statistics of ``X``, read as ``estimator`` reads.

    Without them, a random network's activations shrink from layer to layer until nothing is left.
    """
    own = _copied(backbone)
    modules = own.modules()
    device = resolve_device(estimator.device, "float32")
    modules.to(device).eval()
    norms = [m for m in modules.modules() if isinstance(m, _BATCH_NORMS)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
    waiting: list[Tensor] = []
    seen = 0

    @torch.no_grad()
    def learn(batch: Tensor) -> None:
        nonlocal seen
        seen += len(batch)
        for norm in norms:
            norm.momentum = len(batch) / seen  # the mean over images
        x = batch.to(device)
        for stage in own.stages:
            x = stage.module(x)
        if own.neck is not None:
            own.neck(x)

    def watch(batch: Tensor) -> np.ndarray:
        waiting.append(batch.clone())
        if len(waiting) > 2:
            learn(waiting.pop(0))
        return np.zeros((len(batch), 1), dtype=np.float32)

    run_images(estimator, X, own.input_spec, watch, 1)
    # The last two batches as one: a single image has no variance.
    learn(torch.cat(waiting))
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    modules.eval().to("cpu")
    return _labeled(own, f"{backbone.reference.weights}, recalibrated")


def _labeled(backbone: Backbone, label: str) -> Backbone:
    """Give a network a reference of its own: a name, and the digest of its tensors."""
    digest = state_dict_digest(backbone.modules())
    reference = replace(backbone.reference, weights=label, seed=None, digest=digest)
    return replace(backbone, reference=reference)
