"""mixup and CutMix of a batch, by torchvision, with seeded draws. It must not know images."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torchvision.transforms import v2


class _MixUp(v2.MixUp):
    """torchvision's, with a generator of our own: torch's global one belongs to the user."""

    def __init__(self, alpha: float, generator: np.random.Generator) -> None:
        super().__init__(alpha=alpha)
        self.share = float(generator.beta(alpha, alpha))

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        return {"lam": self.share}


class _CutMix(v2.CutMix):
    """The same for CutMix: where the rectangle lies is drawn too."""

    def __init__(self, alpha: float, generator: np.random.Generator) -> None:
        super().__init__(alpha=alpha)
        self.share = float(generator.beta(alpha, alpha))
        self.center = generator.random(2)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = flat_inputs[0].shape[-2:]
        x, y = int(self.center[0] * width), int(self.center[1] * height)
        half = 0.5 * math.sqrt(1.0 - self.share)
        x1, x2 = max(x - int(half * width), 0), min(x + int(half * width), width)
        y1, y2 = max(y - int(half * height), 0), min(y + int(half * height), height)
        kept = 1.0 - (x2 - x1) * (y2 - y1) / (width * height)
        return {"box": (x1, y1, x2, y2), "lam_adjusted": kept}


def soft_targets(targets: torch.Tensor, n_classes: int | None) -> torch.Tensor:
    """Class indices (n,) or probabilities (n, k) as float probabilities (n, k)."""
    if targets.ndim == 2:
        return targets if targets.is_floating_point() else targets.float()
    if targets.ndim != 1 or targets.is_floating_point():
        raise ValueError(
            "targets must be class indices of shape (n,) or probabilities of shape (n, n_classes); "
            f"got a tensor of shape {tuple(targets.shape)} and dtype {targets.dtype}."
        )
    if n_classes is None:
        raise ValueError(
            "targets are class indices, and a batch need not hold every class: pass n_classes."
        )
    return torch.nn.functional.one_hot(targets.long(), n_classes).float()


def mix_batch(
    batch: torch.Tensor,
    targets: torch.Tensor,
    generator: np.random.Generator,
    *,
    mixup: float,
    cutmix: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each image mixed with its neighbor in the batch; where both are on, one of them.

    Parameters
    ----------
    batch : float tensor of shape (n, C, H, W)
    targets : float tensor of shape (n, n_classes)
    generator : numpy Generator
    mixup, cutmix : float
        The alpha of each, 0 for off; at least one is on.
    """
    if batch.ndim != 4 or not batch.is_floating_point() or len(batch) != len(targets):
        raise ValueError(
            "batch must be a float tensor of shape (n, channels, height, width) with as many rows "
            f"as targets; got shape {tuple(batch.shape)} and dtype {batch.dtype} for "
            f"{len(targets)} targets."
        )
    coin = generator.random()
    kind: type[_MixUp] | type[_CutMix]
    kind, alpha = (_MixUp, mixup) if not cutmix or (mixup and coin < 0.5) else (_CutMix, cutmix)
    mixed, soft = kind(alpha, generator)(batch, targets)
    return mixed, soft
