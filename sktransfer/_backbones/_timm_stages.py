"""How any network of timm is cut into stages, by trying cuts and keeping one that is exact.

A cut is kept only if it computes the very same numbers as the network. To support a family that no
cut suits, add a function to ``_TRUNKS`` or ``_HEADS``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sktransfer._backbones._chain import Layout, Neck, Parts, Stage
from sktransfer._backbones._torchvision_stages import ClassToken

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
# Layers that do nothing in eval mode, to vectors.
_NO_WORK = (nn.Identity, nn.Dropout, nn.Flatten)


@torch.inference_mode()
def cut(model: Any, image_size: int) -> Parts:
    """Cut a network of timm (eval mode, on the CPU) into stages.

    The finest cut is tried first. Whatever does not reproduce the network's own results bit for
    bit on a test image is dropped for something coarser, in the end for one single stage.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 3, image_size, image_size, generator=generator)
    features = model.forward_features(x.clone())
    embedding = _attempt(lambda: model.forward_head(features.clone(), pre_logits=True))
    parts = None
    if isinstance(embedding, Tensor) and embedding.ndim == 2:
        parts = _trunk_and_head(model, x, features, embedding)
    if parts is None:
        parts = _one_stage(model, x)
    for module in (*(stage.module for stage in parts.stages), parts.neck, parts.classifier):
        if module is not None:
            module.eval()
    return parts


def _trunk_and_head(model: Any, x: Tensor, features: Tensor, embedding: Tensor) -> Parts | None:
    trunk = _first(_TRUNKS, model, lambda t: _agreeing_trunk(t, model, x, features))
    if trunk is None:
        return None
    scores = model(x.clone())
    head = _first(_HEADS, model, lambda h: _agreeing_head(h, features, embedding, scores))
    if head is None:
        return None
    (stages, norm), (neck, classifier, takes_map) = trunk, head
    if takes_map and not isinstance(norm, nn.Identity):
        # Such a classifier takes what the last stage returns.
        *stages, last = stages
        stages.append(replace(last, module=nn.Sequential(last.module, norm)))
        norm = nn.Identity()
    neck = Neck(neck.pool, neck.kind, norm=_unless_empty(norm), post=_unless_empty(neck.post))
    return Parts(tuple(stages), neck, classifier, embedding.shape[1], takes_map)


def _one_stage(model: Any, x: Tensor) -> Parts:
    """Take any network at all as one stage, out of which the embedding comes."""
    scores = model(x.clone())
    whole = Part(_without_classifier(model, model), ("forward_features", "pre_logits")).eval()
    embedding = whole(x.clone())
    if not isinstance(embedding, Tensor) or embedding.ndim != 2:
        raise NotImplementedError
    classifier = model.get_classifier()
    fits = _attempt(lambda: torch.equal(classifier(embedding), scores))
    stage = Stage("forward_features", whole, "NC")
    neck = Neck(nn.Identity(), "none")
    return Parts((stage,), neck, classifier if fits else None, embedding.shape[1])


# --- trunks: the stages, and the last norm apart, which belongs to the neck --------------------

_Trunk = tuple[Sequence[Stage], nn.Module]


def _split(model: nn.Module) -> tuple[list[str], list[str]]:
    """Return names of the children that make the features, and of those that come after."""
    names = [name for name, _ in model.named_children()]
    # What comes after the pooling works on vectors (MobileNetV3's last convolution).
    end = names.index("global_pool") if "global_pool" in names else len(names)
    trunk = [name for name in names[:end] if name not in _HEAD_NAMES]
    return trunk, [name for name in names if name not in trunk]


def _transformer_trunk(model: Any) -> _Trunk:
    """Make a stage of patches and positions, then one per block (VisionTransformer and others)."""
    rest = _stripped(model, [*_split(model)[1], "blocks", "norm"])
    embed = Part(rest, ("patch_embed", "_pos_embed", "patch_drop", "norm_pre"))
    blocks = [Stage(f"blocks.{i}", block) for i, block in enumerate(model.blocks)]
    return [Stage("patch_embed", embed), *blocks], model.norm


def _children_trunk(model: nn.Module) -> _Trunk:
    """Make a stage of each child, with those after it that have no weights of their own."""
    trunk, _ = _split(model)
    pieces = [piece for name in trunk for piece in _opened(name, getattr(model, name))]
    norm: nn.Module = nn.Identity()
    # timm puts an empty norm where there is none.
    while pieces and isinstance(pieces[-1][1], nn.Identity):
        pieces.pop()
    if len(pieces) > 1 and is_norm(last := pieces[-1][1]):
        # One with an activation in it stays in the stage.
        norm = pieces.pop()[1] if isinstance(getattr(last, "act", norm), nn.Identity) else norm
    groups: list[tuple[str, list[nn.Module]]] = []
    for name, module in pieces:
        starts = has_weights(module) and not is_norm(module)
        # What comes before the first weights (a space-to-depth, say) joins the first stage.
        if groups and (not starts or not any(map(has_weights, groups[-1][1]))):
            groups[-1][1].append(module)
        else:
            groups.append((name, [module]))
    stages = [
        Stage(name, modules[0] if len(modules) == 1 else nn.Sequential(*modules))
        for name, modules in groups
    ]
    return stages, norm


def _whole_trunk(model: Any) -> _Trunk:
    """Make one stage of all features."""
    features = Part(_stripped(model, _split(model)[1]), ("forward_features",))
    return [Stage("forward_features", features)], nn.Identity()


_TRUNKS: tuple[Callable[[Any], _Trunk], ...] = (_transformer_trunk, _children_trunk, _whole_trunk)


def _opened(name: str, child: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    is_list = isinstance(child, nn.Sequential | nn.ModuleList)
    if is_list and (name in _CONTAINERS or isinstance(child, nn.ModuleList)):
        for inner, module in child.named_children():
            yield f"{name}.{inner}", module
    else:
        yield name, child


# --- heads: the neck, the classifier, and whether the classifier takes the map -----------------

_Head = tuple[Neck, nn.Module, bool]


def _token_head(model: Any) -> _Head:
    """Take the class token or the mean of the patches, then maybe a norm (VisionTransformer)."""
    if getattr(model, "attn_pool", None) is not None:
        raise NotImplementedError
    post = _unless_empty(getattr(model, "fc_norm", nn.Identity()))
    if model.global_pool == "token":
        return Neck(ClassToken(), "cls", post=post), model.get_classifier(), False
    with_prefix = getattr(model, "pool_include_prefix", False)
    pool = MeanToken(0 if with_prefix else getattr(model, "num_prefix_tokens", 0))
    return Neck(pool, "avg", post=post), model.get_classifier(), False


def _pooling_module_head(model: Any) -> _Head:
    """Take a `head` that pools, normalizes and classifies (ConvNeXt, Swin, RegNet and others)."""
    children = dict(model.head.named_children())
    return _around_pool(children.pop("global_pool"), children.values(), model.get_classifier())


def _pooling_child_head(model: Any) -> _Head:
    """Take `global_pool`, maybe some layers, and a linear layer, all children of the network."""
    children = list(model.named_children())
    position = [name for name, _ in children].index("global_pool")
    after = [child for _, child in children[position + 1 :]]
    return _around_pool(model.global_pool, after, model.get_classifier())


def _around_pool(pool: nn.Module, after: Collection[nn.Module], classifier: nn.Module) -> _Head:
    rest = [m for m in after if m is not classifier and not isinstance(m, _NO_WORK)]
    kind: Literal["avg", "none"] = "avg" if _is_average(pool) else "none"
    neck = Neck(nn.Sequential(pool, nn.Flatten(1)), kind, post=OnVector(rest) if rest else None)
    return neck, OnVector([classifier]) if isinstance(classifier, nn.Conv2d) else classifier, False


def _own_head(model: Any) -> _Head:
    """Keep the network's own way from the last map to what its classifier takes."""
    return _own_neck(model), model.get_classifier(), False


def _own_scores(model: Any) -> _Head:
    """Keep the network's own way to its scores: two classifiers on two tokens (distilled)."""
    return _own_neck(model), Part(_stripped(model, _split(model)[0]), ("forward_head",)), True


def _own_neck(model: Any) -> Neck:
    rest = _stripped(model, _split(model)[0])
    return Neck(Part(_without_classifier(rest, model), ("pre_logits",)), "none")


_HEADS: tuple[Callable[[Any], _Head], ...] = (
    *(_token_head, _pooling_module_head, _pooling_child_head, _own_head, _own_scores),
)


def _is_average(pool: nn.Module) -> bool:
    named = getattr(pool, "pool_type", None)
    return named == "avg" if isinstance(named, str) else "avg" in type(pool).__name__.lower()


def _unless_empty(module: nn.Module) -> nn.Module | None:
    return None if isinstance(module, nn.Identity) else module


# --- does it compute the same? -----------------------------------------------------------------


def _attempt(call: Callable[[], Any]) -> Any:
    """Return what a call returns, or None: a cut that does not suit may fail in any way."""
    try:
        return call()
    except Exception:
        return None


def _first(makers: Sequence[Callable[[Any], Any]], model: Any, check: Callable[[Any], Any]) -> Any:
    """Return what ``check`` returns for the first candidate that can be made and passes."""
    for make in makers:
        found = _attempt(lambda make=make: check(make(model)))  # type: ignore[misc]
        if found is not None:
            return found
    return None


def _agreeing_trunk(trunk: _Trunk, model: Any, x: Tensor, features: Tensor) -> _Trunk | None:
    """Return the trunk with the layouts of its stages filled in, or None."""
    stages, norm = trunk
    if not stages or len({stage.name for stage in stages}) < len(stages):
        return None
    filled = []
    x = x.clone()
    for stage in stages:
        if not has_weights(stage.module):
            return None
        before = x.clone()
        y = stage.module.eval()(x)
        if not isinstance(y, Tensor) or not torch.equal(x, before):
            return None  # a stage must leave its input alone: it may be somebody's activation
        layout = layout_of(y, model)
        n_prefix = getattr(model, "num_prefix_tokens", 0) if layout == "NLC" else 0
        filled.append(replace(stage, layout=layout, n_prefix_tokens=int(n_prefix)))
        x = y
    return (filled, norm) if torch.equal(norm(x), features) else None


def _agreeing_head(
    head: _Head, features: Tensor, embedding: Tensor, scores: Tensor
) -> _Head | None:
    """Return the head if it gives the network's own embedding and scores, or None."""
    neck, classifier, takes_map = head
    found = neck.eval()(features.clone())
    if not torch.equal(found, embedding):
        return None
    taken = features.clone() if takes_map else found
    return head if torch.equal(classifier.eval()(taken), scores) else None


def layout_of(x: Tensor, model: Any) -> Layout:
    """Tell how the axes of a stage's output are to be read; images are square, which tells most."""
    if x.ndim == 2:
        return "NC"
    if x.ndim == 3:
        return "NLC"
    if x.shape[1] == x.shape[2] != x.shape[3]:
        return "NHWC"
    if x.shape[1] != x.shape[2] == x.shape[3]:
        return "NCHW"
    return "NHWC" if getattr(model, "output_fmt", "NCHW") == "NHWC" else "NCHW"


def has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def is_norm(module: nn.Module) -> bool:
    # timm's own classes of norms may hold their activation as a child.
    known = isinstance(module, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm)
    return known or ("norm" in type(module).__name__.lower() and not list(module.children()))


# --- modules that networks do not have as such -------------------------------------------------


class MeanToken(nn.Module):
    """Average over the tokens, without the first ``skip``."""

    def __init__(self, skip: int) -> None:
        super().__init__()
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.skip :].mean(dim=1)


class OnVector(nn.Module):
    """Apply layers that were written for maps of one pixel to vectors."""

    def __init__(self, layers: Collection[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            # Convolutions and norms over channels want the two axes the pooling took away.
            parts = list(layer.modules())
            on_map = any(isinstance(p, nn.Conv2d) or "2d" in type(p).__name__ for p in parts)
            x = layer(x[:, :, None, None] if on_map else x).flatten(1)
        return x


class Part(nn.Module):
    """Run some methods and children of a network one after the other, those that it has.

    ``"pre_logits"`` is its ``forward_head`` up to what the classifier takes.
    """

    def __init__(self, network: nn.Module, steps: Sequence[str]) -> None:
        super().__init__()
        self.network: Any = network
        self.steps = [step for step in steps if step == "pre_logits" or hasattr(network, step)]

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            if step == "pre_logits":
                x = self.network.forward_head(x, pre_logits=True)
            else:
                x = getattr(self.network, step)(x)
        return x


def _stripped(model: nn.Module, without: Collection[str]) -> nn.Module:
    """Make a shallow copy that lacks some children; those it keeps are the same modules."""
    part = copy.copy(model)
    part.__dict__["_modules"] = {
        name: child for name, child in model._modules.items() if name not in without
    }
    # Tokens and positions belong to the beginning, which is where the patches are made.
    if "patch_embed" in without:
        part.__dict__["_parameters"] = {}
    return part


def _without_classifier(part: nn.Module, model: Any) -> nn.Module:
    """Make a shallow copy with nothing where the classifier was, so that nobody owns it twice."""
    found = model.get_classifier()
    targets = [m for m in (found if isinstance(found, tuple | list) else [found]) if m is not None]

    def stripped(module: nn.Module) -> nn.Module:
        if any(module is target for target in targets):
            return nn.Identity()
        if not any(child is target for child in module.modules() for target in targets):
            return module
        copied = copy.copy(module)
        copied.__dict__["_modules"] = {
            name: None if child is None else stripped(child)
            for name, child in module._modules.items()
        }
        return copied

    return stripped(part)
