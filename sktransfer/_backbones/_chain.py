"""A network as a chain of named stages that can be cut anywhere; it must not know where weights
come from, nor how images are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from sktransfer.exceptions import UnknownStageError

# How the axes of what a stage returns are to be read. NC: already a vector per image.
Layout = Literal["NCHW", "NHWC", "NLC", "NC"]


@dataclass(frozen=True)
class InputSpec:
    """What the weights want to be fed (their own transform, as plain numbers).

    Sides in pixels; ``mean`` and ``std`` on the [0, 1] scale. ``resize_mode`` is ``"shortest"``
    (shorter side to ``resize_size``, aspect ratio kept) or ``"squash"`` (both sides).
    """

    crop_size: int
    resize_size: int
    interpolation: Literal["bilinear", "bicubic", "nearest", "lanczos"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize_mode: Literal["shortest", "squash"] = "shortest"


@dataclass(frozen=True)
class BackboneReference:
    """How to find the same network again without carrying its weights.

    ``digest`` is ``"sha256:<hex>"`` of the weights file, or ``"blake2b:<hex>"`` of the tensors
    where there is no file (random weights).
    """

    name: str
    weights: str | None
    seed: int | None
    digest: str


@dataclass(frozen=True)
class Stage:
    """One link of the chain: a module, its name in the field, and the layout of what it returns."""

    name: str
    module: nn.Module
    layout: Layout = "NCHW"
    n_prefix_tokens: int = 0  # class and register tokens ahead of the patches (NLC only)


def find_stage(network: str, names: Sequence[str], layer: str | int) -> int:
    """Index of a stage from its name, or from an index that may be negative.

    Raises
    ------
    UnknownStageError
        Listing the stages there are.
    """
    if isinstance(layer, str):
        if layer in names:
            return list(names).index(layer)
    elif -len(names) <= layer < len(names):
        return int(layer) % len(names)
    raise UnknownStageError(
        f"{network} has no stage {layer!r}. Its {len(names)} stages are: {', '.join(names)} "
        f"(or an index from {-len(names)} to {len(names) - 1}). "
        f'describe_backbone("{network}") shows them with their sizes.'
    )


class Neck(nn.Module):
    """From the last stage's output to the embedding: ``post(pool(norm(x)))``.

    Parameters of ``norm`` and ``post`` belong to the last stage as far as freezing goes.

    Parameters
    ----------
    pool : nn.Module
        The network's own pooling, flatten included.
    kind : {"avg", "cls", "none"}
        What ``pool`` is: global average, class token, or nothing to pool.
    norm, post : nn.Module or None
        What the network applies before and after the pooling.
    """

    def __init__(
        self,
        pool: nn.Module,
        kind: Literal["avg", "cls", "none"],
        *,
        norm: nn.Module | None = None,
        post: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.norm = nn.Identity() if norm is None else norm
        self.pool = pool
        self.post = nn.Identity() if post is None else post
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        return self.post(self.pool(self.norm(x)))


@dataclass(frozen=True)
class Backbone:
    """A pretrained network as stages, a neck and a classifier, all in eval mode.

    ``stages`` in order, then ``neck`` give the embedding; ``classifier`` takes the embedding, or
    the last stage's output where ``classifier_takes_map`` (SqueezeNet). A truncated backbone has
    neither neck nor classifier.
    """

    reference: BackboneReference
    stages: tuple[Stage, ...]
    neck: Neck | None
    classifier: nn.Module | None
    input_spec: InputSpec
    n_features: int
    classifier_takes_map: bool = False
    # Weights published without a usable classifier (VGG16 "features" weights): no embedding.
    embedding_trained: bool = True

    @property
    def name(self) -> str:
        return self.reference.name

    @property
    def n_stages(self) -> int:
        return len(self.stages)

    @property
    def stage_names(self) -> list[str]:
        return [stage.name for stage in self.stages]

    def stage_index(self, layer: str | int) -> int:
        """Index of a stage from its name, or from an index that may be negative."""
        return find_stage(self.name, self.stage_names, layer)

    def truncated(self, n_stages: int) -> Backbone:
        """The first ``n_stages`` stages alone; what lies after them is let go."""
        return replace(self, stages=self.stages[:n_stages], neck=None, classifier=None)

    def modules(self) -> nn.ModuleDict:
        """Everything that holds tensors, under stable names (for state dicts and moves)."""
        parts: dict[str, nn.Module] = {
            f"stage{i}": stage.module for i, stage in enumerate(self.stages)
        }
        if self.neck is not None:
            parts["neck"] = self.neck
        if self.classifier is not None:
            parts["classifier"] = self.classifier
        return nn.ModuleDict(parts)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores, bit-equal to the original network's forward."""
        if self.neck is None or self.classifier is None:
            raise RuntimeError(f"{self.name} was truncated: it has no classifier any more.")
        for stage in self.stages:
            x = stage.module(x)
        return self.classifier(x if self.classifier_takes_map else self.neck(x))

    @torch.inference_mode()
    def embed(self, x: Tensor) -> Tensor:
        """The embedding, shape (n, n_features), computed plainly (the reference for engines)."""
        if self.neck is None:
            raise RuntimeError(f"{self.name} was truncated: it has no embedding any more.")
        for stage in self.stages:
            x = stage.module(x)
        return self.neck(x)
