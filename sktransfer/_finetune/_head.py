"""Heads, which come after the embedding and what else they see of a network, as modules.

It must not know backbones, images or skorch.
"""

from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sktransfer._backbones import private_seed
from sktransfer._utils.logistic import FLOOR, spread

# A column counts at most this many times as far from its center as in any row that was trained on.
_FARTHEST = 2.0
# A step of Adam moves every weight by the rate, and so a logit by as much as there are columns:
# more of them than these are made smaller, so that one rate suits all widths.
_MOST_COLUMNS = 512


class Standardized(nn.Module):
    """Inputs of a head, centered, scaled and bounded column by column.

    Columns of all layers differ in size by orders of magnitude, on which steps of one rate act very
    unequally. And one that hardly varies in training may be a thousand deviations away in images
    of another kind: it is scaled as if it varied by a share of the others, and none counts as
    farther than twice the farthest that training has seen.
    """

    center: Tensor
    scale: Tensor
    limit: Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(n_features))
        self.register_buffer("scale", torch.ones(n_features))
        self.register_buffer("limit", torch.full((n_features,), torch.finfo(torch.float32).max))

    @torch.no_grad()
    def measure(self, rows: np.ndarray, weight: np.ndarray) -> None:
        """Take the three of rows; those of weight 0 count nowhere."""
        rows, share = rows[weight > 0], weight[weight > 0] / weight.sum()
        center = share @ rows
        deviation = np.sqrt(share @ (rows - center) ** 2)
        # With the floor of the solver: its penalty and the steps of training see the same columns.
        useful, deviation = spread(center, deviation, FLOOR)
        scale = 1.0 / deviation if useful.any() else np.ones_like(deviation)
        scale *= min(1.0, _MOST_COLUMNS / len(scale))
        limit = _FARTHEST * np.abs(rows - center).max(axis=0) * scale
        for name, value in (("center", center), ("scale", scale), ("limit", limit)):
            getattr(self, name).copy_(torch.from_numpy(value))

    @torch.no_grad()
    def absorb(self, linear: nn.Linear, weight: np.ndarray, bias: np.ndarray) -> None:
        """Set the layer that comes next to what it is to be for inputs as they were."""
        center, scale = (each.double().cpu().numpy() for each in (self.center, self.scale))
        linear.weight.copy_(torch.from_numpy(weight / scale))
        linear.bias.copy_(torch.from_numpy(bias + weight @ center))

    def forward(self, x: Tensor) -> Tensor:
        z = (x - self.center) * self.scale
        if self.training and len(z):
            with torch.no_grad():
                torch.maximum(self.limit, _FARTHEST * z.abs().amax(0), out=self.limit)
        bounded = torch.maximum(torch.minimum(z, self.limit), -self.limit)
        return bounded + 0 * z  # infinity stays no number


def make_head(
    head: Any, n_features: int, n_classes: int, dropout: float, seed: int
) -> nn.Sequential:
    """Make a head with random weights; torch's global generator is left alone.

    Its inputs are :class:`Standardized`, which changes nothing until it has measured rows.
    ``"linear"`` is one linear layer; (1024, 256) two hidden layers with ReLU before it. A callable
    takes (n_features, n_classes) and returns a module. Dropout is before each linear layer.
    """
    with private_seed(seed):
        if callable(head):
            made = head(n_features, n_classes)
            if not isinstance(made, nn.Module):
                raise ValueError(
                    "head(n_features, n_classes) must return a torch.nn.Module; it returned "
                    f"{made!r}."
                )
            # A copy: what a factory gives twice must not be trained twice.
            return nn.Sequential(Standardized(n_features), copy.deepcopy(made))
        widths = [n_features, *(() if isinstance(head, str) else head), n_classes]
        layers: list[nn.Module] = [Standardized(n_features)]
        for i, (n_in, n_out) in enumerate(itertools.pairwise(widths)):
            layers += [nn.ReLU()] if i else []
            layers += [nn.Dropout(dropout)] if dropout else []
            layers.append(nn.Linear(n_in, n_out))
        return nn.Sequential(*layers)
