"""The small pieces every torchvision family is cut into stages with; it must not know any family,
nor where weights come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from sktransfer._backbones._chain import Layout, Neck, Stage


@dataclass(frozen=True)
class Parts:
    """A network taken apart: what :class:`Backbone` needs besides names and weights.

    The modules are the original's own, not copies. Three rules hold for every family:

    - every stage has parameters, so ``freeze_depth=-1`` always leaves something to train;
    - the name of a stage is torchvision's path of the module whose output the stage returns
      (without the container, where the last word says it all: ``denseblock3``, ``block2``);
    - no stage writes into its input, so an activation may be kept while the chain runs on.
    """

    stages: tuple[Stage, ...]
    neck: Neck
    classifier: nn.Module
    n_features: int
    classifier_takes_map: bool = False


class InputRescaling(nn.Module):
    """From torchvision's normalization to the [-1, 1] one that GoogLeNet and Inception v3 know.

    Their published weights were ported from TensorFlow; torchvision's ``transform_input=True``
    does the same inside ``forward``. The arithmetic is repeated word for word: it must agree to
    the last bit.
    """

    def forward(self, x: Tensor) -> Tensor:
        red = torch.unsqueeze(x[:, 0], 1) * (0.229 / 0.5) + (0.485 - 0.5) / 0.5
        green = torch.unsqueeze(x[:, 1], 1) * (0.224 / 0.5) + (0.456 - 0.5) / 0.5
        blue = torch.unsqueeze(x[:, 2], 1) * (0.225 / 0.5) + (0.406 - 0.5) / 0.5
        return torch.cat((red, green, blue), 1)


class ExpectSize(nn.Module):
    """Lets images of one size through; says so when another comes (networks with fixed grids)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if height != self.size or width != self.size:
            raise ValueError(
                f"This network takes images of {self.size} x {self.size} pixels only (its "
                f"position embeddings are tied to that grid), got {height} x {width}. "
                f"Use image_size=None or image_size={self.size}."
            )
        return x

    def extra_repr(self) -> str:
        return str(self.size)


class SpatialMean(nn.Module):
    """Mean over height and width, written as MNASNet and ShuffleNet do (to the last bit)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean([2, 3])


def make_stage(name: str, *modules: nn.Module, layout: Layout = "NCHW") -> Stage:
    """Make a stage of modules run one after the other."""
    module = modules[0] if len(modules) == 1 else nn.Sequential(*modules)
    return Stage(name, module, layout=layout)


def slice_stages(
    container: nn.Sequential, starts: Sequence[int], prefix: str, layout: Layout = "NCHW"
) -> list[Stage]:
    """Cut a sequence of modules before each of ``starts``; stages are named after their last."""
    modules = list(container)
    bounds = [*starts, len(modules)]
    return [
        make_stage(f"{prefix}.{end - 1}", *modules[start:end], layout=layout)
        for start, end in pairwise(bounds)
    ]


def pooled(pool: nn.Module) -> nn.Sequential:
    """Pooling to one value per channel, and the flattening after it."""
    return nn.Sequential(pool, nn.Flatten(1))


def classifier_of(*modules: nn.Module) -> nn.Module:
    """Make the classifier: the last linear layer and the dropout ahead of it.

    In-place dropout would, when training, punch holes into an embedding that somebody still holds.
    """
    for module in modules:
        if isinstance(module, nn.Dropout):
            module.inplace = False
    return modules[0] if len(modules) == 1 else nn.Sequential(*modules)
