"""Pieces that the chains of timm's networks are made of besides the networks' own modules; it must
not know how a network is cut.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

from torch import Tensor, nn


class FirstToken(nn.Module):
    """The class token."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0]


class MeanToken(nn.Module):
    """Mean over the tokens, without the first ``skip``."""

    def __init__(self, skip: int) -> None:
        super().__init__()
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.skip :].mean(dim=1)


class OnVector(nn.Module):
    """Layers written for maps of one pixel, applied to vectors."""

    def __init__(self, layers: Collection[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            # Convolutions and norms over channels want the two axes the pooling took away.
            x = layer(x[:, :, None, None] if _wants_map(layer) else x).flatten(1)
        return x


def _wants_map(module: nn.Module) -> bool:
    return any(
        isinstance(part, nn.Conv2d) or "2d" in type(part).__name__ for part in module.modules()
    )


# --- parts of a network that keeps its own methods ---------------------------------------------


class Part(nn.Module):
    """Some methods and children of a network, one after the other, without the rest of it."""

    def __init__(
        self, model: nn.Module, steps: tuple[str, ...], *, without: Collection[str]
    ) -> None:
        super().__init__()
        self.network = _stripped(model, without)
        self.steps = tuple(step for step in steps if hasattr(self.network, step))

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = getattr(self.network, step)(x)
        return x


class PreLogits(nn.Module):
    """A network's own way from the last map to what its classifier takes."""

    def __init__(self, model: Any, without: Collection[str]) -> None:
        super().__init__()
        self.network: Any = _without_classifier(_stripped(model, without), model)

    def forward(self, x: Tensor) -> Tensor:
        return self.network.forward_head(x, pre_logits=True)


class Embedding(nn.Module):
    """A whole network up to its classifier."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.network: Any = _without_classifier(model, model)

    def forward(self, x: Tensor) -> Tensor:
        features = self.network.forward_features(x)
        return self.network.forward_head(features, pre_logits=True)


def _stripped(model: nn.Module, without: Collection[str]) -> nn.Module:
    """A shallow copy that lacks some children; those it keeps are the same modules."""
    part = copy.copy(model)
    part.__dict__["_modules"] = {
        name: child for name, child in model._modules.items() if name not in without
    }
    # Tokens and positions belong to the beginning, which is where the patches are made.
    if "patch_embed" in without:
        part.__dict__["_parameters"] = {}
    return part


def _without_classifier(part: nn.Module, model: Any) -> nn.Module:
    """A shallow copy with nothing where the classifier was, so that nobody owns it twice."""
    found = model.get_classifier()
    targets = [m for m in (found if isinstance(found, tuple | list) else [found]) if m is not None]

    def stripped(module: nn.Module) -> nn.Module:
        if any(module is target for target in targets):
            return nn.Identity()
        if not any(child is target for child in module.modules() for target in targets):
            return module
        copied = copy.copy(module)
        copied.__dict__["_modules"] = {
            name: None if child is None else stripped(child)
            for name, child in module._modules.items()
        }
        return copied

    return stripped(part)
