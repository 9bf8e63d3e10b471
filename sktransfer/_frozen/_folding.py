"""Folding BatchNorm into the convolution before it; it must not know which network it is given.

In eval mode BatchNorm is an affine map of constants, so a convolution followed by one is another
convolution. That saves a pass over every activation, which on a CPU is a third of the time of a
ResNet.
"""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# By exact type: a subclass (timm's BatchNormAct2d, a convolution with padding) may do more.
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def fold_batch_norm(
    module: nn.Module, example: Tensor | None, *, dtype: torch.dtype = torch.float32
) -> nn.Module:
    """A copy of ``module`` (in eval mode) in which convolutions have swallowed their BatchNorm.

    Who reads a convolution's output is watched while ``example`` runs through the module, and only
    where it is one BatchNorm and nobody else are the two made one. The algebra is done in float64
    and rounded once.

    Parameters
    ----------
    module : nn.Module
        In eval mode; it is not changed.
    example : Tensor or None
        An input, in float32. None, or one the module cannot run on: nothing is folded.
    dtype : torch.dtype
        What the network will run in. For float64 the folded weights are not rounded to float32.

    Returns
    -------
    nn.Module
        Slower where nothing could be folded, never different beyond rounding.
    """
    module = copy.deepcopy(module).eval().requires_grad_(False)
    if dtype == torch.float64:
        module = module.double()
    if example is None or not any(type(part) in _NORMS for part in module.modules()):
        return module
    own = torch.float64 if dtype == torch.float64 else torch.float32
    try:
        pairs = _pairs(module, example.to(own))
    except Exception:  # code that was not made for this may fail in any way at all
        return module
    for convolution, norm in pairs:
        conv, batch_norm = module.get_submodule(convolution), module.get_submodule(norm)
        folded = fuse_conv_bn_eval(
            copy.deepcopy(conv).double(),  # type: ignore[type-var]
            copy.deepcopy(batch_norm).double(),  # type: ignore[arg-type]
        )
        _replace(module, convolution, folded.to(own).requires_grad_(False))
        _replace(module, norm, nn.Identity())
    return module


def _pairs(module: nn.Module, example: Tensor) -> list[tuple[str, str]]:
    """Names of convolutions whose only reader is a BatchNorm, and of that BatchNorm."""
    watch = _Watch()
    handles = []
    for name, part in module.named_modules():
        if type(part) in _CONVOLUTIONS:
            handles.append(part.register_forward_hook(watch.made(name)))
        elif type(part) in _NORMS and part.track_running_stats:
            handles.append(part.register_forward_pre_hook(watch.enters(name)))
            handles.append(part.register_forward_hook(watch.leaves))
    try:
        with torch.inference_mode(), watch:
            output = module(example)
    finally:
        for handle in handles:
            handle.remove()
    watch.read(tree_leaves(output), "the module's output")
    return [
        (conv, norm)
        for norm, conv in watch.inputs.items()
        if watch.readers[conv] == {norm} and watch.calls[conv] == watch.calls[norm] == 1
    ]


class _Watch(TorchDispatchMode):
    """Sees every operation of this thread, and who reads what a convolution has made."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: dict[int, Tensor] = {}  # held, so that no identity is used again
        self.maker: dict[int, str] = {}
        self.inputs: dict[str, str] = {}  # BatchNorm -> the convolution whose output it was given
        self.readers: defaultdict[str, set[str]] = defaultdict(set)
        self.calls: Counter[str] = Counter()
        self.inside: str | None = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.read(tree_leaves((args, kwargs)), self.inside or "elsewhere")
        return func(*args, **(kwargs or {}))

    def read(self, values: list[Any], reader: str) -> None:
        """Note who reads, for every value that a convolution has made."""
        for value in values:
            if isinstance(value, Tensor) and id(value) in self.maker:
                self.readers[self.maker[id(value)]].add(reader)

    def made(self, name: str) -> Any:
        """A forward hook of the convolution ``name``."""

        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            self.calls[name] += 1
            self.tensors[id(output)] = output
            self.maker[id(output)] = name

        return hook

    def enters(self, name: str) -> Any:
        """A forward pre-hook of the BatchNorm ``name``."""

        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self.calls[name] += 1
            self.inside = name
            if id(inputs[0]) in self.maker:
                self.inputs[name] = self.maker[id(inputs[0])]

        return hook

    def leaves(self, *_: Any) -> None:
        """A forward hook of every BatchNorm."""
        self.inside = None


def _replace(root: nn.Module, target: str, new: nn.Module) -> None:
    parent, _, leaf = target.rpartition(".")
    setattr(root.get_submodule(parent), leaf, new)


def n_batch_norms(module: nn.Module) -> int:
    """How many BatchNorm layers are left (for tests and reports)."""
    return sum(isinstance(part, _NORMS) for part in module.modules())
