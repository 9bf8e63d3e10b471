"""A module of the user's own as a backbone: taken apart into stages that compute the same.

It must not know estimators, nor how its weights are kept.
"""

from __future__ import annotations

import copy
import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import CodeType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sktransfer._backbones._chain import Backbone, BackboneReference, InputSpec, Parts
from sktransfer._backbones._module_stages import Stages, take_apart
from sktransfer._backbones._random_weights import draw_again, with_measured_scales
from sktransfer._backbones._state_dict import (
    check_kinds,
    check_values,
    load_strict,
    read_state_dict,
    shortened,
    state_dict_digest,
)
from sktransfer._backbones._weights_files import looks_like_path, open_weights_path
from sktransfer._utils.versions import versions_of

# What the reference of a network has for weights that came with the user's module.
OWN = "own"
# The side of the images unless a module says another, and under what names it may.
_SIDE = 224
_SIDES = ("image_size", "img_size", "input_size")
# Wrappers around the network itself.
_WRAPPERS = {"DataParallel": "module", "DistributedDataParallel": "module"}
_WRAPPERS["OptimizedModule"] = "_orig_mod"


def is_own(backbone: object) -> bool:
    """Return whether ``backbone`` is a module, or a list of them, and no name or estimator."""
    return isinstance(backbone, (nn.Module, list, tuple))


@dataclass(frozen=True, eq=False)
class OwnNetwork:
    """A module that was given as a backbone, with its weights, and the side of its images."""

    module: Any  # as it was given: a module, or stages
    image_size: int | None = None
    weights: str | None = OWN
    seed: int | None = None

    @classmethod
    def of(cls, module: Any, weights: Any, seed: int, image_size: int | None) -> OwnNetwork:
        """Return a module with the weights it carries, those of a file, or random ones."""
        if isinstance(weights, str) and weights == "default":
            return cls(module, image_size)
        net, listed = _private(module)
        if weights is None:
            draw_again(net, _name(net), seed)
        elif looks_like_path(weights):
            load_strict(net, read_state_dict(open_weights_path(weights)), source=weights)
        else:
            raise ValueError(
                f"{_name(net)} has no weights {weights!r}. A module takes 'default' (those that it "
                "holds), the path of a file with its state dict, or None (random weights)."
            )
        given = list(net.named_children()) if listed else net
        if weights is None:
            return cls(given, image_size, None, seed)
        return cls(given, image_size)

    def to_backbone(self) -> Backbone:
        """Return the network as a chain; the module that was given is only read."""
        net, listed = _private(self.module)
        default = _default_spec(net)
        side = self.image_size or default.crop_size
        check_kinds(net.state_dict(), f"the module {_name(net)}", net.state_dict())
        check_values(net.state_dict(), f"the module {_name(net)}")
        header = f"{'stages' if listed else 'module'} {net!r}"
        digest = state_dict_digest(net, header)
        reference = BackboneReference(
            _name(net), self.weights, self.seed, digest, variant=_variant(net, side)
        )
        parts: Parts = take_apart(net, _name(net), side, listed=listed)
        if self.image_size is not None:
            resize = round(default.resize_size * side / default.crop_size)
            default = replace(default, crop_size=side, resize_size=resize)
        backbone = Backbone(reference, default, *parts)
        backbone.modules().eval().requires_grad_(False)
        return with_measured_scales(backbone) if self.weights is None else backbone


def _name(net: nn.Module) -> str:
    return type(net).__name__


def _private(given: Any) -> tuple[nn.Module, bool]:
    """Return a copy in eval mode, on the CPU, in float32; and whether it was a list of stages."""
    listed = isinstance(given, (list, tuple))
    net = _of_list(given) if listed else given
    while type(net).__name__ in _WRAPPERS:
        net = getattr(net, _WRAPPERS[type(net).__name__])
    if isinstance(net, (nn.ModuleList, nn.ModuleDict)):
        net = nn.Sequential(OrderedDict(net.named_children()))
    name = _name(net)
    if isinstance(net, torch.jit.ScriptModule):
        raise ValueError(
            f"{name} is TorchScript, which cannot be cut: give the module it was made of."
        )
    if any(map(is_lazy, (*net.parameters(), *net.buffers()))):
        raise ValueError(
            f"{name} has lazy layers that hold no weights yet: run it on one batch of images first."
        )
    try:
        net = copy.deepcopy(net)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{name} cannot be copied: {shortened(error)}") from error
    for layer in net.modules():
        if getattr(layer, "inplace", False) is True:
            layer.inplace = False
    return net.cpu().float().eval().requires_grad_(False), listed


def _of_list(given: Any) -> nn.Module:
    """Return stages that were given as (name, module) pairs, or as modules, one after the other."""
    named: OrderedDict[str, nn.Module] = OrderedDict()
    for position, each in enumerate(given):
        pair = each if isinstance(each, (list, tuple)) and len(each) == 2 else (str(position), each)
        name, module = pair
        if not isinstance(name, str) or not isinstance(module, nn.Module):
            raise ValueError(
                "backbone as a list holds the stages of a network in order, modules or pairs "
                f"('name', module); got {shortened(repr(each), 80)} at position {position}."
            )
        if name in named or not name or "." in name:
            raise ValueError(
                f"backbone as a list names each stage once, without a dot; got {name!r}."
            )
        named[name] = module
    if not named:
        raise ValueError("backbone is an empty list; it names at least one stage.")
    return Stages(named)


def _default_spec(net: nn.Module) -> InputSpec:
    """Return how images are prepared for a module: as its library does, or as it says itself."""
    library = type(net).__module__.split(".")[0]
    if library == "torchvision":
        side = 299 if _name(net) == "Inception3" else 224
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        return InputSpec(side, round(side * 256 / 224), "bilinear", mean, std)
    if library == "timm" and hasattr(net, "pretrained_cfg"):
        from sktransfer._backbones._timm import input_spec

        return input_spec(net)
    sides = [getattr(net, name, None) for name in _SIDES]
    sides = [side[-1] if isinstance(side, (list, tuple)) and side else side for side in sides]
    side = next((s for s in sides if isinstance(s, int) and not isinstance(s, bool)), _SIDE)
    return InputSpec(side, side, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "squash")


# --- what tells modules of equal weights apart --------------------------------------------------


def _variant(net: nn.Module, side: int) -> str:
    """Return a digest of the code and the settings of a module, by which results are stored."""
    classes = {type(m): None for m in net.modules()}
    packages = {each.__module__.split(".")[0] for each in classes}
    digest = hashlib.blake2b(repr((side, versions_of(*sorted(packages)))).encode(), digest_size=8)
    for path, layer in net.named_modules():
        kept = {k: v for k, v in vars(layer).items() if not k.startswith("_") and k != "training"}
        digest.update(repr((path, list(_described(kept, 0)))).encode())
    for own in sorted(classes, key=lambda each: each.__qualname__):
        for base in own.__mro__:
            if base.__module__.startswith(("torch.", "builtins")):
                continue
            for name, value in sorted(vars(base).items()):
                code = getattr(getattr(value, "__func__", value), "__code__", None)
                if isinstance(code, CodeType):
                    digest.update(repr((own.__qualname__, name, _code(code))).encode())
    return digest.hexdigest()


def _described(value: Any, depth: int) -> Iterator[Any]:
    """Yield what tells a setting from others of its kind."""
    if isinstance(value, (bool, int, float, complex, str, bytes, type(None), torch.dtype)):
        yield value
    elif isinstance(value, (Tensor, np.ndarray)):
        yield state_dict_digest({"": torch.as_tensor(value)})
    elif isinstance(value, Mapping) and depth < 5:
        yield from ((str(k), list(_described(v, depth + 1))) for k, v in value.items())
    elif isinstance(value, (list, tuple)) and depth < 5:
        yield [list(_described(each, depth + 1)) for each in value]
    elif isinstance(getattr(value, "__code__", None), CodeType):
        yield _code(value.__code__)
    else:
        yield getattr(value, "__qualname__", type(value).__qualname__)


def _code(code: CodeType) -> tuple[Any, ...]:
    """Return what code does, without where it was written."""
    constants = [
        _code(c)
        if isinstance(c, CodeType)
        # Sets have another order in each process.
        else sorted(map(repr, c))
        if isinstance(c, frozenset)
        else repr(c)
        for c in code.co_consts
    ]
    return code.co_code, code.co_names, code.co_varnames, constants
