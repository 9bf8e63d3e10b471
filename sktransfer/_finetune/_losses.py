"""Losses of logits, weighted by row; they must not know networks or estimators."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

LOSSES: tuple[str, ...] = ("cross_entropy", "focal")


class WeightedLoss(nn.Module):
    """Average a loss per row, times the row's weight, over a batch.

    ``"focal"`` multiplies the cross entropy by (1 - p)^gamma [1]_, p being the probability of the
    true class.

    References
    ----------
    .. [1] Lin, T.-Y., Goyal, P., Girshick, R., He, K., & Dollár, P. (2017). "Focal loss for dense
       object detection". ICCV.
    """

    def __init__(
        self, loss: str = "cross_entropy", label_smoothing: float = 0.0, gamma: float = 2.0
    ) -> None:
        super().__init__()
        self.loss = loss
        self.label_smoothing = label_smoothing
        self.gamma = gamma

    def forward(self, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the loss of a batch."""
        each = cross_entropy(logits, target, reduction="none", label_smoothing=self.label_smoothing)
        if self.loss == "focal":
            # p from the unsmoothed likelihood: smoothing must not make an easy row a hard one.
            plain = cross_entropy(logits, target, reduction="none")
            each = each * (1 - torch.exp(-plain)).clamp(min=0) ** self.gamma
        if weight is not None:
            each = each * weight.to(each)
        return each.mean()


class PerRowLoss(nn.Module):
    """Weight a torch loss by row, if it can return one loss per row."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.inner = loss
        if hasattr(loss, "reduction"):
            loss.reduction = "none"  # type: ignore[assignment]

    def forward(self, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the loss of a batch."""
        each = self.inner(logits, target)
        if each.ndim == 0:
            if weight is not None and not bool((weight == 1).all()):
                raise ValueError(
                    f"The loss {type(self.inner).__name__} returns one number per batch, which "
                    "cannot be weighted by row: give it a `reduction` attribute, or leave "
                    "class_weight and sample_weight out."
                )
            return each
        return (each if weight is None else each * weight.to(each)).mean()
