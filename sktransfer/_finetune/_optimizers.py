"""Losses, optimizers and schedules by name, and which parameter has which rate and decay.

It must not know skorch, networks or estimators.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from sktransfer._finetune._adapters import NORMS, Scaled, Shifted

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
_BARE = (*NORMS, Scaled, Shifted)


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
            if isinstance(part, _BARE) or key == "bias"
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


# --- losses --------------------------------------------------------------------------------------

LOSSES: tuple[str, ...] = ("cross_entropy", "binary_cross_entropy", "focal", "cumulative_link")


class WeightedLoss(nn.Module):
    """Average a loss per row, times the row's weight, over a batch.

    ``"focal"`` multiplies the cross entropy by (1 - p)^gamma [1]_, p being the probability of
    the true class. ``"cumulative_link"`` is the cross entropy of grades. The binary losses are
    of each finding by itself, and weights of rows and findings.

    References
    ----------
    .. [1] Lin, T.-Y., Goyal, P., Girshick, R., He, K., & Dollár, P. (2017). "Focal loss for dense
       object detection". ICCV.
    """

    def __init__(
        self, loss: str = "cross_entropy", label_smoothing: float = 0.0, gamma: float = 2.0
    ) -> None:
        super().__init__()
        self.loss = loss
        self.label_smoothing = label_smoothing
        self.gamma = gamma

    def forward(self, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the loss of a batch."""
        function = _binary if self.loss.startswith("binary") else cross_entropy
        each = function(logits, target, reduction="none", label_smoothing=self.label_smoothing)
        if self.loss.endswith("focal"):
            # p from the unsmoothed likelihood: smoothing must not make an easy row a hard one.
            plain = function(logits, target, reduction="none")
            each = each * (1 - torch.exp(-plain)).clamp(min=0) ** self.gamma
        if weight is not None:
            each = each * weight.to(each)
        return each.mean()


def _binary(
    logits: Tensor, target: Tensor, *, reduction: str, label_smoothing: float = 0.0
) -> Tensor:
    """Compute binary cross-entropies, with half of what is smoothed on each side."""
    smooth = target.to(logits) * (1 - label_smoothing) + label_smoothing / 2
    return binary_cross_entropy_with_logits(logits, smooth, reduction=reduction)


class PerRowLoss(nn.Module):
    """Weight a torch loss by row, if it can return one loss per row."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.inner = loss
        if hasattr(loss, "reduction"):
            loss.reduction = "none"  # type: ignore[assignment]

    def forward(self, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the loss of a batch."""
        each = self.inner(logits, target.to(logits) if target.is_floating_point() else target)
        if weight is not None and each.ndim < weight.ndim:
            if not bool((weight == 1).all()):
                raise ValueError(
                    f"The loss {type(self.inner).__name__} returns one number per "
                    f"{'row' if each.ndim else 'batch'}, which cannot be weighted by "
                    f"{'finding' if weight.ndim > 1 else 'row'}: give it a `reduction` attribute, "
                    "or leave class_weight, sample_weight and unknown findings out."
                )
            return each.mean()
        return (each if weight is None else each * weight.to(each)).mean()
