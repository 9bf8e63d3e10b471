"""Heads, which come after the embedding, as modules with random weights.

It must not know backbones, images or skorch.
"""

from __future__ import annotations

import copy
import itertools
from typing import Any

from torch import nn

from sktransfer._backbones import private_seed


def make_head(
    head: Any, n_features: int, n_classes: int, dropout: float, seed: int
) -> nn.Sequential:
    """Make a head with random weights; torch's global generator is left alone.

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
            return nn.Sequential(copy.deepcopy(made))
        widths = [n_features, *(() if isinstance(head, str) else head), n_classes]
        layers: list[nn.Module] = []
        for i, (n_in, n_out) in enumerate(itertools.pairwise(widths)):
            layers += [nn.ReLU()] if i else []
            layers += [nn.Dropout(dropout)] if dropout else []
            layers.append(nn.Linear(n_in, n_out))
        return nn.Sequential(*layers)
