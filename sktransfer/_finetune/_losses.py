"""Losses of logits, weighted by row; they must not know networks or estimators."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

LOSSES: tuple[str, ...] = ("cross_entropy", "focal")


class WeightedLoss(nn.Module):
    """Mean over a batch of a loss per row times the row's weight.

    Parameters
    ----------
    loss : {"cross_entropy", "focal"}
        ``"focal"`` multiplies the cross entropy by (1 - p)^gamma [1]_, p being the probability of
        the true class.
    label_smoothing : float
        As :func:`torch.nn.functional.cross_entropy`.
    gamma : float
        Of the focal loss.

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
        """Loss of a batch.

        Parameters
        ----------
        logits : Tensor of shape (n, k)
        target : Tensor of shape (n,), int64, or (n, k) of shares that sum to 1
        weight : Tensor of shape (n,) or None
            1 on average over the training rows, so that the size of a step does not depend on them.
        """
        each = cross_entropy(logits, target, reduction="none", label_smoothing=self.label_smoothing)
        if self.loss == "focal":
            # p from the unsmoothed likelihood: smoothing must not make an easy row a hard one.
            plain = cross_entropy(logits, target, reduction="none")
            each = each * (1 - torch.exp(-plain)).clamp(min=0) ** self.gamma
        if weight is not None:
            each = each * weight.to(each)
        return each.mean()


def check_loss(loss: Any, label_smoothing: float, head: Any) -> None:
    """Raise ValueError for what makes no loss, or none of what the head gives."""
    if isinstance(loss, nn.Module):
        raise ValueError(
            f"loss is a module, {type(loss).__name__}; give what makes one, such as the class, and "
            "its settings as loss__..."
        )
    # skorch's default. Of logits it has no lower bound: training would run away from the labels.
    if isinstance(loss, type) and issubclass(loss, nn.NLLLoss) and not callable(head):
        raise ValueError(
            "loss=NLLLoss is of log-probabilities, and the head gives logits: use "
            "loss='cross_entropy', or a head of your own that ends in LogSoftmax."
        )
    if label_smoothing and not isinstance(loss, str):
        raise ValueError(
            f"label_smoothing={label_smoothing} is of the losses that have a name; a loss of your "
            "own has its own: set loss__label_smoothing, say."
        )


def make_loss(loss: Any, label_smoothing: float, **settings: Any) -> nn.Module:
    """A loss from its name, or from a factory of modules of (logits, target, weight)."""
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise ValueError(
                f"loss must be one of {', '.join(LOSSES)}, or a factory; got {loss!r}."
            )
        return WeightedLoss(loss, label_smoothing, **settings)
    made = copy.deepcopy(loss(**settings))  # what a factory gives twice is not shared
    return made if isinstance(made, WeightedLoss) else _PerRow(made)


class _PerRow(nn.Module):
    """A torch loss of one's own, weighted by row if it says a loss per row."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.inner = loss
        if hasattr(loss, "reduction"):
            loss.reduction = "none"  # type: ignore[assignment]

    def forward(self, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        each = self.inner(logits, target)
        if each.ndim == 0:
            if weight is not None and not bool((weight == 1).all()):
                raise ValueError(
                    "The loss gives one number per batch, which cannot be weighted by row; let it "
                    "have a `reduction` attribute, or leave class_weight and sample_weight out."
                )
            return each
        return (each if weight is None else each * weight.to(each)).mean()
