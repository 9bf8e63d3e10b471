"""Optimizers and learning-rate schedules by name, and which parameter has which rate and decay.

It must not know skorch or estimators.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, {}),
    "momentum": (torch.optim.SGD, {"momentum": 0.9}),
    "nesterov": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "rmsprop": (torch.optim.RMSprop, {}),
    "adagrad": (torch.optim.Adagrad, {}),
    "adam": (torch.optim.Adam, {}),
    "adamw": (torch.optim.AdamW, {}),
}
# Those that torch has a fused step for, on CPUs and GPUs.
_FUSED = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
# Settings that the training loop uses, and torch's optimizers do not have.
_OF_THE_LOOP = ("ema_decay", "max_grad_norm")
SCHEDULES: tuple[str, ...] = ("constant", "cosine", "linear", "step", "one_cycle", "plateau")

# Every norm's scale and shift, and every bias, is left out of weight decay: pulling them to zero
# is no prior that anybody holds.
_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm)


def make_optimizer(
    optimizer: Any,
    blocks: Iterable[tuple[str, nn.Module, float]],
    weight_decay: float,
    settings: dict[str, Any],
) -> torch.optim.Optimizer:
    """Make an optimizer of blocks (name, module, rate), with torch's defaults beyond ``settings``.

    Parameters that take no gradient are in no group, and biases and norms have no decay.
    """
    groups: list[dict[str, Any]] = []
    for name, module, rate in blocks:
        bare = {
            id(parameter)
            for part in module.modules()
            for key, parameter in part.named_parameters(recurse=False)
            if isinstance(part, _NORMS) or key == "bias"
        }
        trainable = [p for p in module.parameters() if p.requires_grad]
        for suffix, decay, chosen in (
            ("", weight_decay, [p for p in trainable if id(p) not in bare]),
            (" (bias, norm)", 0.0, [p for p in trainable if id(p) in bare]),
        ):
            if chosen:
                group = {"params": chosen, "lr": rate, "initial_lr": rate, "weight_decay": decay}
                groups.append({**group, "name": name + suffix})
    settings = {name: value for name, value in settings.items() if name not in _OF_THE_LOOP}
    if not isinstance(optimizer, str):
        return optimizer(groups, **settings)
    found, defaults = OPTIMIZERS[optimizer]
    settings = {**defaults, **settings}
    devices = {p.device.type for group in groups for p in group["params"]}
    if found in _FUSED and devices <= {"cpu", "cuda"} and not {"foreach", "fused"} & {*settings}:
        settings["fused"] = True  # one pass over the parameters, not one for each term
    return found(groups, **settings)


def schedule_factor(
    schedule: str, step: int, *, n_steps: int, n_warmup: int, final: float = 0.0
) -> float:
    """Return what the rates are multiplied with at a step."""
    if step < n_warmup:
        return (step + 1) / (n_warmup + 1)
    left = n_steps - n_warmup
    done = min(1.0, (step - n_warmup) / left) if left > 0 else 1.0
    if schedule == "cosine":
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done))
    if schedule == "linear":
        return final + (1 - final) * (1 - done)
    if schedule == "step":  # tenfold down after a half and three quarters
        return 0.1 ** (int(done >= 0.5) + int(done >= 0.75))
    if schedule == "one_cycle":  # up over three tenths, then down (Smith & Topin, 2018)
        if done < 0.3:
            return 0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * done / 0.3))
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * (done - 0.3) / 0.7))
    return 1.0
