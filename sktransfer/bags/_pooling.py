"""Poolings of the rows of bags: mean, maximum, log-sum-exp, generalized mean, attention.

It must not know where the rows come from.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Generalized means are of positive numbers; smaller ones count as this.
_SMALLEST = 1e-6


def pool(values: Tensor, sizes: Tensor, pooling: str, sharpness: float) -> Tensor:
    """Pool rows (n, d), column by column, to (n_bags, d); no bag is empty."""
    if pooling == "max":
        return _largest(values, sizes)
    if pooling == "gem":
        powers = values.clamp_min(_SMALLEST).log() * sharpness
        return (_log_mean_exp(powers, sizes) / sharpness).exp()
    if pooling == "lse":
        return _log_mean_exp(values * sharpness, sizes) / sharpness
    return _sums(values, sizes) / sizes[:, None]


def shares(values: Tensor, sizes: Tensor, pooling: str, sharpness: float) -> Tensor:
    """Return the part that each row has in the pooled value; those of a bag sum to one."""
    with torch.enable_grad():
        values = values.detach().requires_grad_()
        (found,) = torch.autograd.grad(pool(values, sizes, pooling, sharpness).sum(), values)
    return found


def attention(rows: Tensor, sizes: Tensor, gates: Sequence[Tensor]) -> Tensor:
    """Return weights (n, 1) by gated attention; those of a bag sum to one."""
    content, content_offset, gate, gate_offset, mix = gates
    hidden = torch.tanh(rows @ content + content_offset) * torch.sigmoid(rows @ gate + gate_offset)
    scores = (hidden @ mix)[:, None]
    raised = (scores - torch.repeat_interleave(_largest(scores.detach(), sizes), sizes, 0)).exp()
    return raised / torch.repeat_interleave(_sums(raised, sizes), sizes, 0)


def weighted(values: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
    """Return weighted sums over the rows of bags."""
    return _sums(weights * values, sizes)


def _bag_of_rows(sizes: Tensor) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(sizes)), sizes)


def _sums(values: Tensor, sizes: Tensor) -> Tensor:
    start = values.new_zeros(len(sizes), values.shape[1])
    return start.index_add(0, _bag_of_rows(sizes), values)


def _largest(values: Tensor, sizes: Tensor) -> Tensor:
    start = values.new_full((len(sizes), values.shape[1]), -torch.inf)
    return start.scatter_reduce(0, _bag_of_rows(sizes)[:, None].expand_as(values), values, "amax")


def _log_mean_exp(values: Tensor, sizes: Tensor) -> Tensor:
    largest = _largest(values.detach(), sizes)
    raised = (values - torch.repeat_interleave(largest, sizes, 0)).exp()
    return largest + (_sums(raised, sizes) / sizes[:, None]).log()
