"""How a module of any library is cut into stages: by its children, if these run in their order.

A cut is taken only if it computes the very same numbers as the module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sktransfer._backbones._chain import Layout, Neck, Parts, Stage
from sktransfer._backbones._state_dict import shortened
from sktransfer._backbones._timm_stages import (
    MeanToken,
    cut,
    has_weights,
    is_norm,
    layout_of,
)
from sktransfer._backbones._torchvision_stages import FAMILIES, SpatialMean

_Pieces = list[tuple[str, nn.Module]]

# What forward methods do between the features and the classifier, where no child does it.
_BRIDGES: tuple[Callable[[], nn.Module], ...] = (
    lambda: nn.Flatten(1),
    lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1)),
    SpatialMean,
    lambda: nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(1)),
)


# Children that hold a sequence of stages rather than being one.
_CONTAINERS = ("features", "layers", "blocks", "stages", "levels")
# What comes between maps and vectors.
_POOLINGS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Flatten, SpatialMean)


class Stages(nn.Sequential):
    """Stages that were given one by one."""


class ChannelsLastMean(nn.Module):
    """Average over height and width of a map whose channels come last."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((1, 2))


@torch.inference_mode()
def take_apart(net: nn.Module, name: str, side: int, *, listed: bool) -> Parts:
    """Cut a module (eval mode, on the CPU) into stages; raise ValueError where that cannot be."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, side, side, generator=generator, dtype=torch.float32)
    expected = _checked_output(net, name, x)
    if listed:
        return _grouped(list(net.named_children()), name, x, listed=True)
    library, _, family = type(net).__module__.rpartition(".")
    attempts: list[Callable[[], Parts]] = []
    if library == "torchvision.models" and family in FAMILIES:
        attempts.append(lambda: FAMILIES[family][1](net))
    elif library.split(".")[0] == "timm" and hasattr(net, "forward_head"):
        attempts.append(lambda: cut(net, side))
    for attempt in attempts:
        try:
            parts = attempt()
            if torch.equal(_scores(parts, x), expected):
                return parts
        except Exception:  # its classifier was replaced by something else, say
            continue
    pieces = _pieces(net)
    for found in (pieces, *_bridged(pieces, x, expected)):
        try:
            y = x
            for _, piece in found:
                y = piece(y)
            agrees = torch.equal(y, expected)
        except Exception:
            continue
        if agrees:
            return _grouped(found, name, x, listed=False)
    raise ValueError(
        f"{name} cannot be cut into stages: its children ({', '.join(n for n, _ in pieces)}), run "
        "one after the other, do not give what its forward gives. Name the stages that run in this "
        "order, as backbone=[('stem', net.stem), ('body', net.body)] or as an nn.Sequential of an "
        "OrderedDict. [('whole', net)] takes all of it as one stage."
    )


def _checked_output(net: nn.Module, name: str, x: Tensor) -> Tensor:
    """Run a module; raise where it cannot be a function of one image at a time."""
    try:
        expected = net(x.clone())
    except Exception as error:  # code of others
        side = x.shape[-1]
        raise ValueError(
            f"{name} cannot run on images of {side} x {side} pixels with three channels: "
            f"{type(error).__name__}: {shortened(error)}. Set image_size to the side that it was "
            "made for. A network of one channel needs a layer in front that makes one of three."
        ) from error
    if not isinstance(expected, Tensor):
        raise ValueError(
            f"{name} returns {type(expected).__name__}; a network, and each of its stages, has to "
            "return one tensor. Give the part that does, or wrap it in a module that does."
        )
    hooks = [h for m in net.modules() for h in (m._forward_hooks, m._forward_pre_hooks)]
    for held in hooks:
        for key, hook in list(held.items()):
            # Those of torch itself make weights; others would be called for every batch.
            if not (getattr(hook, "__module__", None) or "").startswith("torch."):
                del held[key]
    same = [torch.equal(net(x.clone()), expected) for _ in range(2)]
    if not all(same):
        raise ValueError(
            f"{name} does not give the same numbers for the same image again: it draws at random "
            "in eval mode, or a forward hook changes them. A frozen network must not; make what "
            "the hook does a layer."
        )
    alone = net(x[:1].clone())
    if alone.shape[1:] != expected.shape[1:] or not torch.allclose(
        alone, expected[:1], rtol=1e-2, atol=1e-3 * float(expected.abs().max())
    ):
        raise ValueError(
            f"What {name} gives for an image depends on the other images of its batch, as with "
            "BatchNorm that tracks no statistics; a frozen network must not."
        )
    return expected


def _scores(parts: Parts, x: Tensor) -> Tensor:
    """Return what the chain gives in the end."""
    for stage in parts.stages:
        x = stage.module.eval()(x)
    if parts.neck is not None and not parts.classifier_takes_map:
        x = parts.neck.eval()(x)
    return x if parts.classifier is None else parts.classifier.eval()(x)


def _pieces(net: nn.Module) -> _Pieces:
    """Return the children of a module; those of a sequence that holds features, or classifies."""
    children, prefix = list(net.named_children()), ""
    while len(children) == 1 and isinstance(children[0][1], (nn.Sequential, nn.ModuleList)):
        prefix += f"{children[0][0]}."
        children = list(children[0][1].named_children())
    last = [child for _, child in children if has_weights(child)][-1:]
    pieces: _Pieces = []
    for name, child in children:
        classifies = child in last and any(isinstance(m, nn.Linear) for m in child.children())
        opens = classifies or name in _CONTAINERS
        if isinstance(child, nn.ModuleList) or (opens and isinstance(child, nn.Sequential)):
            pieces += [(f"{prefix}{name}.{inner}", m) for inner, m in child.named_children()]
        else:
            pieces.append((prefix + name, child))
    return pieces


def _bridged(pieces: _Pieces, x: Tensor, expected: Tensor) -> list[_Pieces]:
    """Return pieces with a pooling or a flattening between, if that gives what is expected."""
    before = [x]
    for _, piece in pieces:
        try:
            before.append(piece(before[-1]))
        except Exception:  # this is where something is missing
            break
    for position in range(len(before)):
        if before[position].ndim != 4:
            continue
        for make in _BRIDGES:
            bridge = make()
            try:
                y = bridge(before[position])
                for _, piece in pieces[position:]:
                    y = piece(y)
            except Exception:
                continue
            if torch.equal(y, expected):
                return [[*pieces[:position], ("pool", bridge), *pieces[position:]]]
    return []


def _grouped(pieces: _Pieces, name: str, x: Tensor, *, listed: bool) -> Parts:
    """Make stages of pieces: each begins with weights, and pooling belongs to what comes after.

    A stage is named by its last piece. A linear layer at the end is the classifier, unless the
    stages were ``listed`` one by one.
    """
    classifier, end = None, len(pieces)
    weighted = [i for i, (_, piece) in enumerate(pieces) if has_weights(piece)]
    if not listed and weighted and isinstance(pieces[weighted[-1]][1], nn.Linear):
        end = weighted[-1]
        while end and isinstance(pieces[end - 1][1], (nn.Dropout, nn.Identity)):
            end -= 1
        classifier = _joined([piece for _, piece in pieces[end:]])
    groups: list[_Pieces] = [[]]
    layouts: list[Layout] = []
    shapes: list[Tensor] = [x]
    for path, piece in pieces[:end]:
        kept = x.clone()
        y = piece(x)
        if not isinstance(y, Tensor) or y.ndim not in (2, 3, 4) or len(y) != len(x):
            what = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise ValueError(
                f"The stage {path!r} of {name} returns {what}; it has to return a tensor "
                "(n, channels, height, width), (n, tokens, channels) or (n, channels)."
            )
        if not torch.equal(x, kept):
            raise ValueError(
                f"The stage {path!r} of {name} writes into its input, which may be somebody's "
                "activation: use x = x + y instead of x += y, and no in-place methods."
            )
        pools = not has_weights(piece) and isinstance(_first(piece), _POOLINGS)
        begins = (has_weights(piece) and (listed or not is_norm(piece))) or pools
        if begins and any(has_weights(m) for _, m in groups[-1]):
            groups.append([])
        groups[-1].append((path, piece))
        del layouts[len(groups) - 1 :], shapes[len(groups) :]
        layouts.append(layout_of(y, piece))
        shapes.append(y)
        x = y
    pool = [] if any(has_weights(m) for _, m in groups[-1]) else [m for _, m in groups.pop()]
    if not groups:
        raise ValueError(
            f"{name} has no stage: there are no weights before its last linear layer, which "
            "classifies and is left out. Give stages as a list, [('name', module)], to keep it."
        )
    stages = [
        Stage(group[-1][0], _joined([piece for _, piece in group]), layout)
        for group, layout in zip(groups, layouts, strict=False)
    ]
    owners = [{id(p) for p in stage.module.parameters()} for stage in stages]
    if len(set().union(*owners)) < sum(map(len, owners)):
        raise ValueError(f"Two stages of {name} share weights: put them into one stage.")
    neck = _neck(pool, stages[-1].layout, shapes[len(stages)])
    return Parts(tuple(stages), neck, classifier, neck(shapes[len(stages)]).shape[1])


def _neck(pool: Sequence[nn.Module], layout: Layout, last: Tensor) -> Neck:
    """Return the way from the last stage to the embedding: the module's own, or an average."""
    averages: dict[str, Any] = {
        "NCHW": None,
        "NHWC": ChannelsLastMean(),
        "NLC": MeanToken(0),
        "NC": nn.Identity(),
    }
    if not pool:
        return Neck(averages[layout], "none" if layout == "NC" else "avg")
    own = nn.Sequential(*pool, nn.Flatten(1))
    found, average = own(last), Neck(averages[layout]).pool(last)
    alike = found.shape == average.shape and torch.allclose(found, average, rtol=1e-4, atol=1e-6)
    return Neck(own, "avg" if alike and layout != "NC" else "none")


def _joined(modules: Sequence[nn.Module]) -> nn.Module:
    return modules[0] if len(modules) == 1 else nn.Sequential(*modules)


def _first(piece: nn.Module) -> nn.Module:
    """Return a layer, or the first one of a sequence."""
    return next((m for m in piece.modules() if not isinstance(m, nn.Sequential)), piece)
