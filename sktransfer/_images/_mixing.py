"""mixup and CutMix of a batch, by torchvision, with seeded draws. It must not know images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch


def _cut_box(share: float, center: np.ndarray, side: Sequence[int]) -> dict[str, Any]:
    """Return torchvision's parameters of one CutMix: the rectangle, and the share it leaves."""
    height, width = side
    x, y = int(center[0] * width), int(center[1] * height)
    half = 0.5 * math.sqrt(1.0 - share)
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
    from torchvision.transforms import v2

    coin = generator.random()
    use_mixup = not cutmix or (mixup and coin < 0.5)
    alpha = mixup if use_mixup else cutmix
    share = float(generator.beta(alpha, alpha))
    # torchvision's own draws come from torch's global generator, which belongs to the user.
    mix: Any = v2.MixUp(alpha=alpha) if use_mixup else v2.CutMix(alpha=alpha)
    if use_mixup:
        params: dict[str, Any] = {"lam": share}
    else:
        params = _cut_box(share, generator.random(2), batch.shape[-2:])
    mix.make_params = lambda flat_inputs: params
    mixed, soft = mix(batch, targets)
    return mixed, soft
