"""From a tapped activation to one vector per image; it must not know any network by name."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from sktransfer._backbones import Layout

Pooling = Literal["avg", "max", "avgmax", "gem", "flatten", "cls"]
POOLINGS: tuple[str, ...] = get_args(Pooling)

# Radenović, Tolias & Chum (2018) learn p per network and start from 3; a frozen network has
# nothing to learn it from, so the starting point is the value.
_GEM_POWER = 3.0
_GEM_FLOOR = 1e-6


def pool(x: Tensor, how: str, *, layout: Layout = "NCHW", n_prefix_tokens: int = 0) -> Tensor:
    """Pool an activation over its positions.

    Parameters
    ----------
    x : Tensor
        Activation of a batch: (n, c, h, w), (n, h, w, c), (n, tokens, c) or (n, c).
    how : {"avg", "max", "avgmax", "gem", "flatten", "cls"}
        ``"avgmax"`` is the mean of the average and the maximum (timm's name for it); ``"gem"`` the
        generalized mean with p = 3; ``"flatten"`` keeps every position, channel by channel as in
        (c, h, w); ``"cls"`` takes the class token.
    layout : {"NCHW", "NHWC", "NLC", "NC"}
        How to read the axes. A vector per image ("NC") has no positions and comes back as it is.
    n_prefix_tokens : int
        Tokens ahead of the patches ("NLC"); they are not positions and only ``"cls"`` reads them.

    Returns
    -------
    Tensor of shape (n, d)
        In float32, or float64 if ``x`` is float64. Never a view of ``x``.
    """
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    if how == "raw":  # not for users: to be given its shape back, and to go on from
        return x.to(wide).flatten(1).clone()
    if layout == "NC":
        return x.to(wide, copy=True)
    if how == "cls":
        return x[:, 0].to(wide, copy=True)
    if layout == "NCHW":
        positions = x.flatten(2)
    elif layout == "NHWC":
        positions = x.flatten(1, 2).transpose(1, 2)
    else:
        positions = x[:, n_prefix_tokens:].transpose(1, 2)
    # Sums over positions overflow float16 and lose digits in bfloat16: widen first.
    positions = positions.to(wide)
    if how == "flatten":
        return positions.flatten(1).clone()
    if how == "avg":
        return positions.mean(2)
    if how == "max":
        return positions.amax(2)
    if how == "avgmax":
        return 0.5 * (positions.mean(2) + positions.amax(2))
    if how == "gem":
        powered = positions.clamp(min=_GEM_FLOOR).pow(_GEM_POWER)
        return powered.mean(2).pow(1.0 / _GEM_POWER)
    raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}; got {how!r}.")
