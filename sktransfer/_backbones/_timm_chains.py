"""Cuts any network of timm into a chain and keeps a cut only if it computes the very same numbers;
it must not know weights, files or names of networks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sktransfer._backbones._chain import Layout, Neck, Stage
from sktransfer._backbones._timm_parts import (
    Embedding,
    FirstToken,
    MeanToken,
    OnVector,
    Part,
    PreLogits,
)

# Children that come after the features, in whatever order they were made.
_HEAD_NAMES = frozenset(
    {
        *("global_pool", "attn_pool", "fc_norm", "flatten", "pre_logits", "pre_classifier"),
        *("head", "heads", "head_drop", "head_dist"),
        *("fc", "classifier", "classif", "last_linear"),
    }
)
# Children that hold a sequence of stages rather than being one.
_CONTAINERS = frozenset(
    {"stages", "dense_stages", "layers", "blocks", "features", "levels", "body", "network"}
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
    results bit for bit on a test image is dropped for something coarser, in the end for one
    single stage.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 3, image_size, image_size, generator=generator)
    features = model.forward_features(x.clone())
    embedding = _tried(lambda: model.forward_head(features.clone(), pre_logits=True))
    if isinstance(embedding, Tensor) and embedding.ndim == 2:
        trunk = _first(_trunks(model), lambda t: _agreeing_trunk(t, model, x, features))
        if trunk is not None:
            scores = model(x.clone())
            head = _first(_heads(model), lambda h: _agreeing_head(h, features, embedding, scores))
            if head is not None:
                if head.takes_map:  # such a classifier takes what the last stage returns
                    trunk = _with_norm_inside(trunk)
                return Chain(
                    trunk.stages,
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
    yield lambda: _Head(Neck(PreLogits(model, trunk), "none"), model.get_classifier())
    # Two classifiers on two tokens (distilled networks): the scores need the map.
    scores = Part(model, ("forward_head",), without=trunk)
    yield lambda: _Head(Neck(PreLogits(model, trunk), "none"), scores, takes_map=True)


def _token_head(model: Any) -> _Head:
    """VisionTransformer: class token, or mean of the patches, then maybe a norm."""
    if getattr(model, "attn_pool", None) is not None:
        raise NotImplementedError
    post = _unless_empty(getattr(model, "fc_norm", nn.Identity()))
    if model.global_pool == "token":
        return _Head(Neck(FirstToken(), "cls", post=post), model.get_classifier())
    with_prefix = getattr(model, "pool_include_prefix", False)
    pool = MeanToken(0 if with_prefix else getattr(model, "num_prefix_tokens", 0))
    return _Head(Neck(pool, "avg", post=post), model.get_classifier())


def _pooling_module_head(model: Any) -> _Head:
    """A `head` that pools, normalizes and classifies (ConvNeXt, Swin, RegNet, ...)."""
    children = dict(model.head.named_children())
    return _around_pool(children.pop("global_pool"), children, model.get_classifier())


def _pooling_child_head(model: Any) -> _Head:
    """`global_pool`, maybe some layers, and a last linear layer, all children of the network."""
    children = list(model.named_children())
    position = [name for name, _ in children].index("global_pool")
    after = dict(children[position + 1 :])
    return _around_pool(model.global_pool, after, model.get_classifier())


def _around_pool(pool: nn.Module, after: dict[str, nn.Module], classifier: nn.Module) -> _Head:
    rest = [
        child
        for child in after.values()
        if child is not classifier and not isinstance(child, _NO_WORK)
    ]
    kind: Literal["avg", "none"] = "avg" if _is_average(pool) else "none"
    neck = Neck(nn.Sequential(pool, nn.Flatten(1)), kind, post=OnVector(rest) if rest else None)
    if isinstance(classifier, nn.Conv2d):
        classifier = OnVector([classifier])
    return _Head(neck, classifier)


# Layers that do nothing in eval mode, to vectors.
_NO_WORK = (nn.Identity, nn.Dropout, nn.Flatten)


def _is_average(pool: nn.Module) -> bool:
    named = getattr(pool, "pool_type", None)
    return named == "avg" if isinstance(named, str) else "avg" in type(pool).__name__.lower()


def _joined(norm: nn.Module, neck: Neck) -> Neck:
    return Neck(neck.pool, neck.kind, norm=_unless_empty(norm), post=_unless_empty(neck.post))


def _unless_empty(module: nn.Module) -> nn.Module | None:
    return None if isinstance(module, nn.Identity) else module


def _in_one_stage(model: Any, x: Tensor) -> Chain:
    """Any network at all: no cut inside, the embedding comes out of the one stage."""
    scores = model(x.clone())
    whole = Embedding(model).eval()
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


def _first(candidates: Iterator[Callable[[], Any]], checked: Callable[[Any], Any]) -> Any:
    """The first candidate that can be made and passes."""
    for make in candidates:
        found = _tried(partial(_made_and_checked, make, checked))
        if found is not None:
            return found
    return None


def _made_and_checked(make: Callable[[], Any], checked: Callable[[Any], Any]) -> Any:
    return checked(make())


def _tried(call: Callable[[], Any]) -> Any:
    """What a call returns, or None: a cut that does not suit a network may fail in any way."""
    try:
        return call()
    except Exception:
        return None


def _agreeing_trunk(trunk: _Trunk, model: Any, x: Tensor, features: Tensor) -> _Trunk | None:
    """The trunk with the layouts of its stages filled in, or None."""
    if not trunk.stages or len({stage.name for stage in trunk.stages}) < len(trunk.stages):
        return None
    stages = []
    x = x.clone()
    for stage in trunk.stages:
        if not _has_weights(stage.module):
            return None
        before = x.clone()
        y = stage.module.eval()(x)
        if not isinstance(y, Tensor) or not torch.equal(x, before):
            return None  # a stage must leave its input alone: it may be somebody's activation
        layout = _layout_of(y, model)
        n_prefix = getattr(model, "num_prefix_tokens", 0) if layout == "NLC" else 0
        stages.append(replace(stage, layout=layout, n_prefix_tokens=int(n_prefix)))
        x = y
    return _Trunk(tuple(stages), trunk.norm) if torch.equal(trunk.norm(x), features) else None


def _agreeing_head(
    head: _Head, features: Tensor, embedding: Tensor, scores: Tensor
) -> _Head | None:
    found = head.neck.eval()(features.clone())
    if not torch.equal(found, embedding):
        return None
    taken = features.clone() if head.takes_map else found
    return head if torch.equal(head.classifier.eval()(taken), scores) else None


def _layout_of(x: Tensor, model: Any) -> Layout:
    """How the axes of a stage's output are to be read; images are square, which tells most."""
    if x.ndim == 2:
        return "NC"
    if x.ndim == 3:
        return "NLC"
    if x.shape[1] == x.shape[2] != x.shape[3]:
        return "NHWC"
    if x.shape[1] != x.shape[2] == x.shape[3]:
        return "NCHW"
    return "NHWC" if getattr(model, "output_fmt", "NCHW") == "NHWC" else "NCHW"


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _is_norm(module: nn.Module) -> bool:
    # timm's own classes of norms may hold their activation as a child.
    known = isinstance(module, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm)
    return known or ("norm" in type(module).__name__.lower() and not list(module.children()))


def _is_plain_norm(module: nn.Module) -> bool:
    """A norm without an activation hidden in it."""
    return _is_norm(module) and isinstance(getattr(module, "act", nn.Identity()), nn.Identity)
