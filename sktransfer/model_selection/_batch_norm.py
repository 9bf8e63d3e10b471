"""What a network's BatchNorm layers remember of the images it was trained on, against what they
are given now. It must not know images, thresholds or advice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from sktransfer._backbones import Backbone


@dataclass(frozen=True)
class NormLayer:
    """A BatchNorm layer with running statistics: its name, its stage, the module."""

    name: str
    stage: str
    module: nn.modules.batchnorm._BatchNorm


def norm_layers(backbone: Backbone) -> list[NormLayer]:
    """BatchNorm layers of the stages, in the order they stand in the network."""
    return [
        NormLayer(f"{stage.name}.{name}" if name else stage.name, stage.name, module)
        for stage in backbone.stages
        for name, module in stage.module.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
    ]


class MomentRecorder:
    """Runs a network and gives, for each image, mean and variance of what BatchNorm is given.

    Parameters
    ----------
    backbone : Backbone
        In eval mode, on ``device``; nothing in it is changed.
    layers : sequence of NormLayer
    device : str
    """

    def __init__(self, backbone: Backbone, layers: list[NormLayer], device: str) -> None:
        self._backbone = backbone
        self._layers = layers
        self._device = device
        self.width = 2 * sum(layer.module.num_features for layer in layers)

    def __call__(self, batch: Tensor) -> np.ndarray:
        """Means of all channels, then variances over positions, shape (n, width)."""
        seen: dict[str, tuple[Tensor, Tensor]] = {}

        def watch(name: str) -> Any:
            def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
                x = inputs[0].flatten(2) if inputs[0].ndim > 2 else inputs[0][..., None]
                variance, mean = torch.var_mean(x, dim=2, correction=0)
                seen[name] = (mean, variance)

            return hook

        hooks = [
            layer.module.register_forward_pre_hook(watch(layer.name)) for layer in self._layers
        ]
        try:
            with torch.inference_mode():
                x = batch.to(self._device)
                for stage in self._backbone.stages:
                    x = stage.module(x)
        finally:
            for hook in hooks:
                hook.remove()
        means, variances = zip(*(seen[layer.name] for layer in self._layers), strict=True)
        return torch.cat([*means, *variances], dim=1).float().cpu().numpy()


def shift(
    means: np.ndarray,
    variances: np.ndarray,
    source_mean: np.ndarray,
    source_variance: np.ndarray,
    *,
    correction: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Squared Wasserstein distance between two normal distributions, channel by channel.

    In units of the source's variance: ``(m - mu)^2 / s^2`` and ``(sqrt(v / s^2) - 1)^2``.

    Parameters
    ----------
    means, variances : ndarray of shape (n, channels)
        Of each image, over its positions.
    source_mean, source_variance : ndarray of shape (channels,)
    correction : bool
        Whether what a mean of n images would be off by chance is taken from the first part.

    Returns
    -------
    mean_part, spread_part : ndarray of shape (channels,)
    """
    means, variances = means.astype(np.float64), variances.astype(np.float64)
    m = means.mean(axis=0)
    between = means.var(axis=0)
    v = variances.mean(axis=0) + between
    mean_part = (m - source_mean) ** 2 / source_variance
    if correction:
        n = len(means)
        mean_part = mean_part - between / (n - 1) / source_variance
    return mean_part, (np.sqrt(v / source_variance) - 1) ** 2


def batch_norm_profile(
    rows: np.ndarray, layers: list[NormLayer], *, correction: bool
) -> pd.DataFrame:
    """Shift of every layer, from the rows of a :class:`MomentRecorder`."""
    half = rows.shape[1] // 2
    table = []
    start = 0
    for layer in layers:
        stop = start + layer.module.num_features
        assert layer.module.running_mean is not None
        assert layer.module.running_var is not None
        mean_part, spread_part = shift(
            rows[:, start:stop],
            rows[:, half + start : half + stop],
            layer.module.running_mean.double().cpu().numpy(),
            layer.module.running_var.double().cpu().numpy() + layer.module.eps,
            correction=correction,
        )
        table.append((layer.name, layer.stage, stop - start, mean_part.mean(), spread_part.mean()))
        start = stop
    return profile_table(table)


def profile_table(rows: list[tuple[str, str, int, float, float]]) -> pd.DataFrame:
    """Layers in order, with the two parts of their shift and the sum."""
    table = pd.DataFrame(rows, columns=["layer", "stage", "n_channels", "mean_part", "spread_part"])
    table["distance"] = table["mean_part"] + table["spread_part"]
    return table
