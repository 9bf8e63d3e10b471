"""Cuts any network of timm into a chain and keeps a cut only if it computes the very same numbers;
it must not know weights, files or names of networks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sktransfer.backbones._chain import Layout, Neck, Stage

# Children that come after the features, in whatever order they were made.
_HEAD_NAMES = frozenset(
    "global_pool head head_drop head_dist fc fc_norm classifier classif last_linear pre_logits "
    "flatten heads pre_classifier attn_pool".split()
)
# Children that hold a sequence of stages rather than being one.
_CONTAINERS = frozenset(
    "stages layers blocks features levels transformers dense_stages body network".split()
)


@dataclass(frozen=True)
class Chain:
    """What :class:`Backbone` is made of, besides names and weights."""

    stages: tuple[Stage, ...]
    neck: Neck
    classifier: nn.Module | None
    n_features: int
    classifier_takes_map: bool = False


@torch.inference_mode()
def cut(model: Any, image_size: int) -> Chain:
    """Cut a network of timm (eval mode, on the CPU) into stages.

    The finest cut is tried first: the trunk as a vision transformer or as its children in order,
    the head as pooling and what surrounds it. Whatever does not reproduce the network's own
    results bit for bit on a test picture is dropped for something coarser, in the end for one
    single stage.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, image_size, image_size, generator=generator)
    features = model.forward_features(x.clone())
    embedding = model.forward_head(features, pre_logits=True) if _is_map(features) else None
    if _is_map(embedding) and embedding.ndim == 2:
        trunk = _first(_trunks(model), lambda t: _trunk_agrees(t, x, features))
        if trunk is not None:
            scores = model(x.clone())
            head = _first(_heads(model), lambda h: _head_agrees(h, features, embedding, scores))
            if head is not None:
                if head.takes_map:  # such a classifier takes what the last stage returns
                    trunk = _with_norm_inside(trunk)
                return Chain(
                    _with_layouts(trunk.stages, model, x),
                    _joined(trunk.norm, head.neck).eval(),
                    head.classifier.eval(),
                    embedding.shape[1],
                    head.takes_map,
                )
    return _in_one_stage(model, x)


# --- trunks ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Trunk:
    """Stages, and the last norm apart: it belongs to the neck."""

    stages: tuple[Stage, ...]
    norm: nn.Module


def _trunks(model: Any) -> Iterator[Callable[[], _Trunk]]:
    yield lambda: _transformer_trunk(model)
    yield lambda: _children_trunk(model)
    whole = Part(model, ("forward_features",), without=_split(model)[1])
    yield lambda: _Trunk((Stage("forward_features", whole),), nn.Identity())


def _split(model: nn.Module) -> tuple[list[str], list[str]]:
    """Names of the children that make the features, and of those that come after."""
    names = [name for name, _ in model.named_children()]
    # Whatever stands behind the pooling works on vectors (MobileNetV3's last convolution).
    end = names.index("global_pool") if "global_pool" in names else len(names)
    trunk = [name for name in names[:end] if name not in _HEAD_NAMES]
    return trunk, [name for name in names if name not in trunk]


def _transformer_trunk(model: Any) -> _Trunk:
    """Patches and positions, then one stage a block (VisionTransformer and its like)."""
    embed = Part(
        model,
        ("patch_embed", "_pos_embed", "patch_drop", "norm_pre"),
        without=[*_split(model)[1], "blocks", "norm"],
    )
    blocks = [Stage(f"blocks.{i}", block) for i, block in enumerate(model.blocks)]
    return _Trunk((Stage("patch_embed", embed), *blocks), model.norm)


def _children_trunk(model: nn.Module) -> _Trunk:
    """The children one after the other, those without weights of their own put to the one before.

    True of most convolutional networks, and of those transformers that keep no tokens.
    """
    trunk, _ = _split(model)
    pieces = [piece for name in trunk for piece in _opened(name, getattr(model, name))]
    norm: nn.Module = nn.Identity()
    # timm puts an empty norm where there is none.
    while pieces and isinstance(pieces[-1][1], nn.Identity):
        pieces.pop()
    if len(pieces) > 1 and _is_plain_norm(pieces[-1][1]):
        norm = pieces.pop()[1]
    groups: list[tuple[str, list[nn.Module]]] = []
    for name, module in pieces:
        starts = _has_weights(module) and not _is_norm(module)
        # What comes before the first weights (a space-to-depth, say) joins the first stage.
        if groups and (not starts or not any(map(_has_weights, groups[-1][1]))):
            groups[-1][1].append(module)
        else:
            groups.append((name, [module]))
    stages = tuple(
        Stage(name, modules[0] if len(modules) == 1 else nn.Sequential(*modules).eval())
        for name, modules in groups
    )
    return _Trunk(stages, norm)


def _with_norm_inside(trunk: _Trunk) -> _Trunk:
    if isinstance(trunk.norm, nn.Identity):
        return trunk
    *stages, last = trunk.stages
    last = replace(last, module=nn.Sequential(last.module, trunk.norm).eval())
    return _Trunk((*stages, last), nn.Identity())


def _opened(name: str, child: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    is_list = isinstance(child, nn.Sequential | nn.ModuleList)
    if is_list and (name in _CONTAINERS or isinstance(child, nn.ModuleList)):
        for inner, module in child.named_children():
            yield f"{name}.{inner}", module
    else:
        yield name, child


# --- heads -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Head:
    neck: Neck
    classifier: nn.Module
    takes_map: bool = False


def _heads(model: Any) -> Iterator[Callable[[], _Head]]:
    yield lambda: _token_head(model)
    yield lambda: _pooling_module_head(model)
    yield lambda: _pooling_child_head(model)
    trunk, _ = _split(model)
    yield lambda: _Head(Neck(_PreLogits(model, trunk), "none"), model.get_classifier())
    # Two classifiers on two tokens (distilled networks): the scores need the map.
    scores = Part(model, ("forward_head",), without=trunk)
    yield lambda: _Head(Neck(_PreLogits(model, trunk), "none"), scores, takes_map=True)


def _token_head(model: Any) -> _Head:
    """VisionTransformer: class token, or mean of the patches, then maybe a norm."""
    kind: Literal["avg", "cls"] = {"token": "cls", "avg": "avg"}[model.global_pool]  # type: ignore[assignment]
    if getattr(model, "attn_pool", None) is not None:
        raise NotImplementedError
    skip = 0 if getattr(model, "pool_include_prefix", False) else model.num_prefix_tokens
    pool = _FirstToken() if kind == "cls" else _MeanToken(skip)
    return _Head(Neck(pool, kind, post=_unless_empty(model.fc_norm)), model.head)


def _pooling_module_head(model: Any) -> _Head:
    """A `head` that pools, normalises and classifies (ConvNeXt, Swin, RegNet, ...)."""
    head = model.head
    rest = [
        child
        for name, child in head.named_children()
        if name not in ("global_pool", "fc", "drop", "flatten") and not isinstance(child, nn.Identity)
    ]
    pool = nn.Sequential(head.global_pool, nn.Flatten(1))
    post = _OnVector(rest) if rest else None
    return _Head(Neck(pool, _kind_of(head.global_pool), post=post), head.fc)


def _pooling_child_head(model: Any) -> _Head:
    """`global_pool`, maybe some layers, and a last linear layer, all children of the network."""
    classifier = model.get_classifier()
    children = list(model.named_children())
    names = [name for name, _ in children]
    after = children[names.index("global_pool") + 1 :]
    rest = [
        child
        for name, child in after
        if child is not classifier
        and name not in ("flatten", "head_drop")
        and not isinstance(child, nn.Identity)
    ]
    pool = nn.Sequential(model.global_pool, nn.Flatten(1))
    post = _OnVector(rest) if rest else None
    return _Head(Neck(pool, _kind_of(model.global_pool), post=post), classifier)


def _kind_of(pool: nn.Module) -> Literal["avg", "none"]:
    return "avg" if getattr(pool, "pool_type", None) == "avg" else "none"


def _joined(norm: nn.Module, neck: Neck) -> Neck:
    return Neck(neck.pool, neck.kind, norm=_unless_empty(norm), post=_unless_empty(neck.post))


def _unless_empty(module: nn.Module) -> nn.Module | None:
    return None if isinstance(module, nn.Identity) else module


class _FirstToken(nn.Module):
    """The class token."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0]


class _MeanToken(nn.Module):
    """Mean over the tokens, without the first ``skip``."""

    def __init__(self, skip: int) -> None:
        super().__init__()
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.skip :].mean(dim=1)


class _OnVector(nn.Module):
    """Layers written for maps of one pixel, applied to vectors."""

    def __init__(self, layers: Collection[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            # Convolutions and norms over channels want the two axes the pooling took away.
            as_map = x.ndim == 2 and (isinstance(layer, nn.Conv2d) or "2d" in type(layer).__name__)
            x = layer(x[:, :, None, None] if as_map else x)
            x = x.flatten(1)
        return x


# --- parts of a network that keeps its own methods ---------------------------------------------


class Part(nn.Module):
    """Some methods and children of a network, one after the other, without the rest of it."""

    def __init__(self, model: nn.Module, steps: tuple[str, ...], *, without: Collection[str]) -> None:
        super().__init__()
        self.network = _stripped(model, without)
        self.steps = tuple(step for step in steps if hasattr(self.network, step))

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = getattr(self.network, step)(x)
        return x


class _PreLogits(nn.Module):
    """A network's own way from the last map to what its classifier takes."""

    def __init__(self, model: Any, without: Collection[str]) -> None:
        super().__init__()
        self.network: Any = _stripped(model, without)

    def forward(self, x: Tensor) -> Tensor:
        return self.network.forward_head(x, pre_logits=True)


class _Embedding(nn.Module):
    """A whole network up to its classifier."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.network: Any = model

    def forward(self, x: Tensor) -> Tensor:
        features = self.network.forward_features(x)
        return self.network.forward_head(features, pre_logits=True)


def _stripped(model: nn.Module, without: Collection[str]) -> nn.Module:
    """A shallow copy that lacks some children; those it keeps are the same modules."""
    part = copy.copy(model)
    part.__dict__["_modules"] = {
        name: child for name, child in model._modules.items() if name not in without
    }
    # Tokens and positions belong to the beginning, which is where the patches are made.
    if "patch_embed" in without:
        part.__dict__["_parameters"] = {}
    return part


def _in_one_stage(model: Any, x: Tensor) -> Chain:
    """Any network at all: no cut inside, the embedding comes out of the one stage."""
    scores = model(x.clone())
    whole = _Embedding(model).eval()
    embedding = whole(x.clone())
    if not isinstance(embedding, Tensor) or embedding.ndim != 2:
        raise NotImplementedError
    classifier = model.get_classifier()
    fits = _tried(lambda: torch.equal(classifier(embedding), scores))
    return Chain(
        (Stage("forward_features", whole, "NC"),),
        Neck(nn.Identity(), "none").eval(),
        classifier if fits else None,
        embedding.shape[1],
    )


# --- does it compute the same? -----------------------------------------------------------------


def _first(candidates: Iterator[Callable[[], Any]], agrees: Callable[[Any], bool]) -> Any:
    for make in candidates:
        made = _tried(make)
        if made is not None and _tried(lambda made=made: agrees(made)):
            return made
    return None


def _tried(call: Callable[[], Any]) -> Any:
    """What a call returns, or None: a cut that does not suit a network may fail in any way."""
    try:
        return call()
    except Exception:
        return None


def _trunk_agrees(trunk: _Trunk, x: Tensor, features: Tensor) -> bool:
    if not trunk.stages or len({stage.name for stage in trunk.stages}) < len(trunk.stages):
        return False
    x = x.clone()
    for stage in trunk.stages:
        if not _has_weights(stage.module):
            return False
        before = x.clone()
        y = stage.module(x)
        if not isinstance(y, Tensor) or not torch.equal(x, before):
            return False  # a stage must leave its input alone: it may be somebody's activation
        x = y
    return torch.equal(trunk.norm(x), features)


def _head_agrees(head: _Head, features: Tensor, embedding: Tensor, scores: Tensor) -> bool:
    found = head.neck.eval()(features.clone())
    if not torch.equal(found, embedding):
        return False
    return torch.equal(head.classifier(features.clone() if head.takes_map else found), scores)


def _with_layouts(stages: tuple[Stage, ...], model: Any, x: Tensor) -> tuple[Stage, ...]:
    """Say of each stage how the axes of its output are to be read."""
    default: Layout = "NHWC" if getattr(model, "output_fmt", "NCHW") == "NHWC" else "NCHW"
    prefix = int(getattr(model, "num_prefix_tokens", 0) or 0)
    found = []
    for stage in stages:
        x = stage.module(x)
        layout: Layout = {2: "NC", 3: "NLC"}.get(x.ndim, default)  # type: ignore[assignment]
        if x.ndim == 4 and x.shape[1] == x.shape[2] != x.shape[3]:
            layout = "NHWC"
        elif x.ndim == 4 and x.shape[1] != x.shape[2] == x.shape[3]:
            layout = "NCHW"
        tokens = prefix if layout == "NLC" else 0
        found.append(replace(stage, layout=layout, n_prefix_tokens=tokens))
    return tuple(found)


def _is_map(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower() and not list(module.children()) or (
        # timm's norm layers may hold their activation.
        isinstance(module, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm)
    )


def _is_plain_norm(module: nn.Module) -> bool:
    """A norm without an activation hidden in it."""
    return _is_norm(module) and isinstance(getattr(module, "act", nn.Identity()), nn.Identity)
