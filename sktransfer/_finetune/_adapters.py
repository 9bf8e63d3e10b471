"""Which weights of the trained stages are trained: all, scale and shift, or low-rank updates.

It must not know estimators, images or training. What is added while training lasts is merged into
the weights afterwards, so that nothing else knows of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sktransfer._backbones import private_seed
from sktransfer._finetune._network import Suffix

# What is multiplied with the rate of the stages: few weights, near one or zero, need longer steps.
RATES = {"all": 1.0, "affine": 100.0, "lora": 10.0}

# Every layer that normalizes, with a gain and a bias of its own.
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_LAYERS = (nn.modules.conv._ConvNd, nn.Linear)
# Weights of a layer, and of the projections of torch's attention.
_WEIGHTS = ("weight", "in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


class Scaled(nn.Module):
    """Multiply the weights of each output of a layer by a number that is learned (SSF)."""

    def __init__(self, tensor: Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(tensor.new_ones(len(tensor)))

    def forward(self, tensor: Tensor) -> Tensor:
        """Return what the layer computes with."""
        return tensor * self.scale.reshape(-1, *(1,) * (tensor.ndim - 1))


class Shifted(nn.Module):
    """Multiply the bias of a layer as its weights are, and add what is learned (SSF)."""

    def __init__(self, tensor: Tensor, scaled: Scaled) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros_like(tensor))
        self._scaled = [scaled]  # no part of this one: the weights have it

    def forward(self, tensor: Tensor) -> Tensor:
        """Return what the layer computes with."""
        return tensor * self._scaled[0].scale + self.shift


class LowRank(nn.Module):
    """Add a product of two thin matrices, which are learned, to the weights of a layer (LoRA)."""

    def __init__(self, tensor: Tensor, rank: int) -> None:
        super().__init__()
        n_out, n_in = tensor.shape
        rank = min(rank, n_out, n_in)
        self.down = nn.Parameter(torch.empty(rank, n_in, dtype=tensor.dtype))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))  # like a linear layer
        self.down.data = self.down.data.to(tensor.device)
        self.up = nn.Parameter(tensor.new_zeros(n_out, rank))

    def forward(self, tensor: Tensor) -> Tensor:
        """Return what the layer computes with."""
        return tensor + self.up @ self.down


def attach(module: Suffix, trainable: str, *, rank: int, seed: int) -> None:
    """Let training change what ``trainable`` says of the trained stages, and the head.

    "affine" is the gain and bias of the layers that normalize [1]_ [2]_, or where there are none, a
    scale and shift of what convolutions and linear layers return [3]_; "lora" is updates of low
    rank of the linear layers of stages [4]_.

    References
    ----------
    .. [1] Frankle, J., Schwab, D. J., & Morcos, A. S. (2021). "Training BatchNorm and only
       BatchNorm: on the expressive power of random features in CNNs". ICLR.
    .. [2] Kanavati, F., & Tsuneki, M. (2021). "Partial transfusion: on the expressive influence of
       trainable batch norm parameters for transfer learning". MIDL.
    .. [3] Lian, D., Zhou, D., Feng, J., & Wang, X. (2022). "Scaling & shifting your features: a new
       baseline for efficient model tuning". NeurIPS.
    .. [4] Hu, E. J., et al. (2022). "LoRA: low-rank adaptation of large language models". ICLR.
    """
    module.requires_grad_(True)
    if trainable == "all":
        return
    parts = [part.module for part in module.parts if part.trained]
    for part in parts:
        part.requires_grad_(False)
    if trainable == "lora":
        stages = [part.module for part in module.parts if part.trained and part.name != "neck"]
        with private_seed(seed):
            for layer, name, weight in _linear(stages):
                parametrize.register_parametrization(layer, name, LowRank(weight, rank))
        return
    norms = [m for part in parts for m in part.modules() if isinstance(m, NORMS)]
    for norm in norms:
        norm.requires_grad_(True)
    if not any(p.requires_grad for norm in norms for p in norm.parameters()):
        for layer in [m for part in parts for m in part.modules() if isinstance(m, _LAYERS)]:
            _attach_scale_and_shift(layer)


def _attach_scale_and_shift(layer: nn.Module) -> None:
    """Learn a scale and, where there is a bias to fold it into, a shift of a layer's output."""
    assert isinstance(layer.weight, Tensor)
    scaled = Scaled(layer.weight)
    parametrize.register_parametrization(layer, "weight", scaled)
    if isinstance(layer.bias, Tensor):
        parametrize.register_parametrization(layer, "bias", Shifted(layer.bias, scaled))


def _linear(stages: list[nn.Module]) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """Yield linear layers, and what attention has for the projections of its input."""
    for stage in stages:
        for layer in list(stage.modules()):
            if isinstance(layer, nn.Linear):
                yield layer, "weight", layer.weight
            elif isinstance(layer, nn.MultiheadAttention):
                for name in _WEIGHTS[1:]:
                    weight = getattr(layer, name)
                    if weight is not None:
                        yield layer, name, weight


def check_low_rank(module: Suffix, network: str) -> None:
    """Raise ValueError where "lora" has nothing to update in the stages that are trained."""
    stages = [part.module for part in module.parts if part.trained and part.name != "neck"]
    if stages and next(_linear(stages), None) is None:
        raise ValueError(
            f"trainable='lora' updates the linear layers of blocks of transformers, and the stages "
            f"of {network} that are trained have none. Use trainable='affine' for a convolutional "
            "network, or a transformer such as 'vit_b_16' or 'swin_t'."
        )


def merge(module: nn.Module) -> None:
    """Fold what :func:`attach` added into the weights."""
    module.requires_grad_(True)  # of what is not frozen
    for layer in list(module.modules()):
        for name in ("bias", *_WEIGHTS):  # a bias first: its scale is that of the weights
            if parametrize.is_parametrized(layer, name):
                parametrize.remove_parametrizations(layer, name, leave_parametrized=True)


def merged(module: Suffix) -> dict[str, Tensor]:
    """Return the tensors of ``module.saved()`` as they are after :func:`merge`, which waits."""
    tensors = {n: t for n, t in module.saved().items() if ".parametrizations." not in n}
    for name, layer in module.named_modules():
        for own in ("bias", *_WEIGHTS):
            if parametrize.is_parametrized(layer, own):
                tensors[f"{name}.{own}"] = getattr(layer, own).detach().cpu().contiguous()
    return tensors
