"""Random weights that a network can compute with, whoever made its layers.

It must not know where a network comes from.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from sktransfer._backbones._chain import Backbone
from sktransfer._backbones._state_dict import private_seed, state_dict_digest

_BATCH_NORMS = nn.modules.batchnorm._BatchNorm

# What BatchNorm's outputs are spread to. Activations such as SiLU and gates such as EfficientNet's
# pass on more of what is larger; nearer to zero, that would add up from block to block.
_SPREAD = 4.0
# Sides of the random maps that an image of coarse noise is the sum of.
_NOISE_SIDES = (1, 2, 4, 8, 16, 32)


def draw_again(module: nn.Module, name: str, seed: int | None) -> None:
    """Let every layer of a module draw its parameters from a seed; raise where one cannot."""
    left = dict(module.named_parameters())
    with private_seed(seed):
        for path, layer in module.named_modules():
            draw: Any = getattr(layer, "reset_parameters", None)
            # torch's attention has it under a private name.
            draw = getattr(layer, "_reset_parameters", None) if draw is None else draw
            if draw is not None:
                draw()
                left = {k: p for k, p in left.items() if k.rpartition(".")[0] != path}
    if left:
        raise ValueError(
            f"{name} is not in the catalog, and no layer knows how to draw "
            f"{', '.join(sorted(left))} at random: they would stay as they were learned. Give the "
            "module that holds them a method reset_parameters()."
        )


def with_measured_scales(backbone: Backbone) -> Backbone:
    """Return a network of random weights whose activations neither explode nor vanish.

    The statistics of a BatchNorm that was never trained are 0 and 1: in eval mode it lets
    activations pass as they are, and from layer to layer they grow (Inception v3, ResNet-152) or
    shrink (EfficientNet, MobileNet) to nothing. Here its variance is measured on images of noise;
    and layers that take vectors, which nothing normalizes, are scaled. Both by powers of two, which
    is exact, and close enough that rounding, which differs between machines, does not make another
    network. But for that, weights stay as they were drawn.
    """
    scales: dict[str, Tensor] = {}
    names = {module: name for name, module in backbone.modules().named_modules()}

    def measure(norm: Any, inputs: tuple[Tensor, ...]) -> None:
        if norm.running_var is not None:
            norm.running_var.fill_(float((_power_of_two(inputs[0]) / _SPREAD) ** 2))
            scales[names[norm]] = norm.running_var[:1].clone()

    def divide(layer: Any, _: Any, output: Tensor) -> Tensor:
        if output.ndim == 4 and output.shape[2:] != (1, 1):
            return output
        scale = scales[names[layer]] = _power_of_two(output)
        for tensor in layer.parameters():
            tensor.div_(scale)
        return output / scale

    norms = [m for m in names if isinstance(m, _BATCH_NORMS)]
    hidden = [s.module for s in backbone.stages if s.layout == "NC"]
    if not norms and not hidden:
        return backbone
    layers: list[nn.Module] = [m for m in names if isinstance(m, nn.Conv2d)]
    layers += [m for module in hidden for m in module.modules() if isinstance(m, nn.Linear)]
    hooks = [norm.register_forward_pre_hook(measure) for norm in norms]
    hooks += [layer.register_forward_hook(divide) for layer in layers]
    try:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            x = _noise(backbone.input_spec.crop_size)
            for stage in backbone.stages:
                x = stage.module(x)
            if backbone.neck is not None:
                backbone.neck(x)
    finally:
        for hook in hooks:
            hook.remove()
    # Another network than the one that was drawn, in the store and in saved models.
    digest = state_dict_digest(scales, backbone.reference.digest)
    return replace(backbone, reference=replace(backbone.reference, digest=digest))


def _noise(side: int) -> Tensor:
    """Return images of noise: of one color, coarse as photographs are, and fine."""
    generator = torch.Generator().manual_seed(0)
    maps = [
        interpolate(torch.randn(1, 3, each, each, generator=generator, dtype=torch.float32), side)
        for each in (*_NOISE_SIDES, side)
    ]
    coarse = torch.stack(maps[:-1]).sum(0) / math.sqrt(len(_NOISE_SIDES))
    return torch.cat([maps[0], coarse, maps[-1]])


def _power_of_two(x: Tensor) -> Tensor:
    """Return the power of two next to the root mean square of a tensor; 1 if that is 0."""
    square = float(x.double().square().mean())
    exponent = round(math.log(square, 4)) if 0 < square < math.inf else 0
    return torch.tensor(2.0**exponent, dtype=torch.float32)
