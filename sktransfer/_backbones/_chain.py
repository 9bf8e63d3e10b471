"""A network as a chain of named stages that can be cut anywhere.

It must not know where weights come from, nor how images are read.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from sktransfer._backbones._state_dict import load_strict, state_dict_digest
from sktransfer.exceptions import UnknownStageError

# The axes of what a stage returns. NC: already one vector per image; L counts tokens.
Layout = Literal["NCHW", "NHWC", "NLC", "NC"]


@dataclass(frozen=True)
class InputSpec:
    """The transform that the weights were published with, as plain numbers.

    Sides are in pixels; ``mean`` and ``std`` are on the [0, 1] scale. ``resize_mode`` is
    ``"shortest"`` (the shorter side becomes ``resize_size``, the aspect ratio is kept) or
    ``"squash"`` (both sides do).
    """

    crop_size: int
    resize_size: int
    interpolation: Literal["bilinear", "bicubic", "nearest", "lanczos"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize_mode: Literal["shortest", "squash"] = "shortest"


@dataclass(frozen=True)
class BackboneReference:
    """What it takes to find the same network again without carrying its weights.

    ``digest`` is ``"sha256:<hex>"`` of the weights file, or ``"blake2b:<hex>"`` of the tensors
    where there is no file (random weights, a module of the user's own). ``weights`` names what was
    asked for, a file without its folders. ``size`` is the number of bytes of the file, if there is
    one. ``variant`` is a digest of what else the numbers of a module of the user's own depend on.
    """

    name: str
    weights: str | None
    seed: int | None
    digest: str
    # By which files are passed over in a search; it is no part of what a network is.
    size: int | None = field(default=None, compare=False, repr=False)
    variant: str = ""


@dataclass(frozen=True)
class Stage:
    """One link of the chain: its name in the field, its module, and the layout of its output."""

    name: str
    module: nn.Module
    layout: Layout = "NCHW"
    n_prefix_tokens: int = 0  # class and register tokens ahead of the patches (NLC only)


class Neck(nn.Sequential):
    """From the last stage's output to the embedding: ``norm``, then ``pool``, then ``post``.

    Parameters of ``norm`` and ``post`` belong to the last stage as far as freezing is concerned.
    ``kind`` says what ``pool`` is: a global average, the class token, or nothing to pool.
    """

    def __init__(
        self,
        pool: nn.Module | None = None,
        kind: Literal["avg", "cls", "none"] = "avg",
        *,
        norm: nn.Module | None = None,
        post: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.norm = nn.Identity() if norm is None else norm
        average = nn.Sequential(nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(1))
        self.pool = average if pool is None else pool
        self.post = nn.Identity() if post is None else post
        self.kind = kind


class Parts(NamedTuple):
    """A network taken apart; the modules are the network's own, not copies.

    Three rules hold for every family:

    - every stage has parameters, so ``freeze_depth=-1`` always leaves something to train;
    - the name of a stage is the network's path of the module whose output the stage returns
      (without the container, where the last word is enough: ``denseblock3``, ``block2``);
    - no stage writes into its input, so an activation may be kept while the chain runs on.
    """

    stages: tuple[Stage, ...]
    neck: Neck | None
    classifier: nn.Module | None
    n_features: int
    classifier_takes_map: bool = False


@dataclass(frozen=True)
class Backbone:
    """A pretrained network as stages, a neck and a classifier, all in eval mode.

    ``stages`` in order, then ``neck`` give the embedding; ``classifier`` takes the embedding, or
    the last stage's output where ``classifier_takes_map`` (SqueezeNet). A truncated backbone has
    neither neck nor classifier.
    """

    reference: BackboneReference
    input_spec: InputSpec
    stages: tuple[Stage, ...]
    neck: Neck | None
    classifier: nn.Module | None
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
        """Return the index of a stage, given by its name or an index that may be negative."""
        return find_stage(self.name, self.stage_names, layer)

    def truncated(self, n_stages: int) -> Backbone:
        """Return the first ``n_stages`` stages alone."""
        return replace(self, stages=self.stages[:n_stages], neck=None, classifier=None)

    def modules(self) -> nn.ModuleDict:
        """Return everything that holds tensors, under stable names (for state dicts and moves)."""
        parts: dict[str, nn.Module] = {
            f"stage{i}": stage.module for i, stage in enumerate(self.stages)
        }
        if self.neck is not None:
            parts["neck"] = self.neck
        if self.classifier is not None:
            parts["classifier"] = self.classifier
        return nn.ModuleDict(parts)

    def forward(self, x: Tensor) -> Tensor:
        """Compute class scores, bit-equal to the original network's forward."""
        if self.neck is None or self.classifier is None:
            raise RuntimeError(f"{self.name} was truncated: it has no classifier any more.")
        for stage in self.stages:
            x = stage.module(x)
        return self.classifier(x if self.classifier_takes_map else self.neck(x))

    @torch.inference_mode()
    def embed(self, x: Tensor) -> Tensor:
        """Compute the embedding, shape (n, n_features), plainly (the reference for engines)."""
        if self.neck is None:
            raise RuntimeError(f"{self.name} was truncated: it has no embedding any more.")
        for stage in self.stages:
            x = stage.module(x)
        return self.neck(x)


@runtime_checkable
class BackboneProvider(Protocol):
    """An estimator that, once fitted, has a network of its own to give."""

    def to_backbone(self) -> Backbone:
        """Return the network with all its stages: a copy, or one that is never changed again."""


def find_stage(network: str, names: Sequence[str], layer: str | int) -> int:
    """Return the index of a stage, given by its name or an index that may be negative."""
    if isinstance(layer, str):
        if layer in names:
            return list(names).index(layer)
    elif -len(names) <= layer < len(names):
        return int(layer) % len(names)
    lower = {name.lower(): name for name in names}
    # Keras counts the blocks of Inception v3 from "mixed0", which is Mixed_5b, to "mixed10".
    blocks = [name for name in names if name.startswith("Mixed_")]
    lower |= {f"mixed{i}": name for i, name in enumerate(blocks)}
    word = str(layer).lower()
    close = [word] if word in lower else difflib.get_close_matches(word, lower, 1, 0.75)
    hint = f" Did you mean {lower[close[0]]!r}?" if close else ""
    # Names of networks are lower-case, classes of modules are not.
    described = f'"{network}"' if network.islower() else "backbone"
    raise UnknownStageError(
        f"{network} has no stage {layer!r}.{hint} Its {len(names)} stages are: {', '.join(names)} "
        f"(or an index from {-len(names)} to {len(names) - 1}). "
        f"describe_backbone({described}) shows them with their sizes."
    )


def with_tensors(backbone: Backbone, tensors: Mapping[str, Tensor]) -> Backbone:
    """Return a copy of ``backbone`` in which some stages, and maybe the neck, hold other tensors.

    They are named as in :meth:`Backbone.modules` (``stage4.0.conv1.weight``,
    ``neck.norm.bias``); a part that is named is named whole, and the classifier's are left out.
    The copy has no classifier, and its digest is that of all its tensors.
    """
    tuned = replace(
        backbone,
        stages=tuple(replace(s, module=copy.deepcopy(s.module)) for s in backbone.stages),
        neck=copy.deepcopy(backbone.neck),
        classifier=None,
    )
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = tensor
    modules: dict[str, Any] = dict(tuned.modules().items())
    for part, own in parts.items():
        if part in modules:
            if any(tensor.is_meta for tensor in modules[part].state_dict().values()):
                modules[part].to_empty(device="cpu")  # a stage that was not packed
            source = f"the fine-tuned network ({part})"
            load_strict(modules[part], own, source=source)
    tuned.modules().eval().requires_grad_(False)
    digest = state_dict_digest(tuned.modules())
    reference = replace(backbone.reference, digest=digest, size=None)
    return replace(tuned, reference=reference)
