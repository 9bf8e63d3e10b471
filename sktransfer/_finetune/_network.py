"""The part of a network that is trained: stages after the cut, neck and head, as one module.

It must not know estimators, images, or where activations come from.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from sktransfer._backbones import Backbone
from sktransfer._finetune._depth import Cut

_BATCH_NORMS = nn.modules.batchnorm._BatchNorm


class Suffix(nn.Module):
    """What comes after the cut: some stages, the neck, the head.

    Frozen stages stay in eval mode and take no gradient whatever ``train`` and ``requires_grad_``
    are told.

    Parameters
    ----------
    backbone : Backbone
        Its stages after the cut are copied.
    cut : Cut
    head : nn.Module
        From the embedding to one logit per class.
    freeze_batch_norm : bool
        Whether BatchNorm in trained stages keeps the statistics it was published with; its scale
        and shift are trained all the same.
    shape : tuple of int
        Of one image's activation at the cut.
    """

    def __init__(
        self,
        backbone: Backbone,
        cut: Cut,
        head: nn.Module,
        *,
        freeze_batch_norm: bool,
        shape: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.cut = cut
        self.shape = shape
        self.freeze_batch_norm = freeze_batch_norm
        own = backbone.stages[cut.depth :]
        self.stages = nn.ModuleDict(
            {_key(i): copy.deepcopy(stage.module) for i, stage in enumerate(own, cut.depth)}
        )
        self.stage_names = {i: stage.name for i, stage in enumerate(own, cut.depth)}
        # Frozen whole, the network hands over its embedding: the neck was run before the cut.
        self.neck = copy.deepcopy(backbone.neck) if cut.depth < cut.n_stages else None
        self.head = head
        self.requires_grad_(True)
        self.train()

    @property
    def dtype(self) -> torch.dtype:
        """Of the head: float64 where it was solved exactly and nothing else is trained."""
        return next(self.head.parameters()).dtype

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape (n, n_classes), of activations at the cut, raveled or not."""
        return self.head(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """The head's input: everything but the head."""
        x = x.reshape(len(x), *self.shape)
        if x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        trained = next(self.stages.parameters(), None)
        if trained is not None:  # activations may be kept in fewer bits than are computed in
            x = x.to(trained.dtype)
        for stage in self.stages.values():
            x = stage(x)
        if self.neck is not None:
            x = self.neck(x).flatten(1)
        return x.to(self.dtype)

    def train(self, mode: bool = True) -> Suffix:
        """Set the mode; what is frozen stays in eval mode (C5)."""
        super().train(mode)
        for _, module, trained in self._parts():
            if not trained:
                module.eval()
        if self.freeze_batch_norm:
            for _, part, _ in self._parts():
                for module in part.modules():
                    if isinstance(module, _BATCH_NORMS):
                        module.eval()
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Suffix:
        """Let what is trained take gradients; what is frozen does not."""
        super().requires_grad_(requires_grad)
        for _, module, trained in self._parts():
            if not trained:
                module.requires_grad_(False)
        return self

    def _parts(self) -> Iterator[tuple[int, nn.Module, bool]]:
        """(stage, module, whether it is trained); the neck's parameters are the last stage's."""
        for i in self.stage_names:
            yield i, self.stages[_key(i)], i in self.cut.trained
        if self.neck is not None:
            last = self.cut.n_stages - 1
            yield last, self.neck, last in self.cut.trained

    def _named(self, stage: int, module: nn.Module) -> tuple[str, str]:
        """Names of a part: as users know it, and in a state dict."""
        if module is self.neck:
            return "neck", "neck"
        return self.stage_names[stage], f"stages.{_key(stage)}"

    def blocks(self, lr: float, head_lr: float, decay: float) -> list[tuple[str, nn.Module, float]]:
        """(name, module, rate) of what is trained, the rate falling by ``decay`` per stage."""
        last = self.cut.n_stages - 1
        blocks = [
            (self._named(i, module)[0], module, lr * decay ** (last - i))
            for i, module, trained in self._parts()
            if trained
        ]
        return [*blocks, ("head", self.head, head_lr)]

    def learned(self) -> dict[str, Tensor]:
        """Tensors that training may have changed, by name, as they are and where they are."""
        return {
            f"{prefix}.{name}": tensor.detach()
            for prefix, module in self._learned_modules()
            for name, tensor in module.state_dict().items()
        }

    def saved(self) -> dict[str, Tensor]:
        """The same, as a file holds it."""
        return {name: tensor.cpu().contiguous() for name, tensor in self.learned().items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Put back what :meth:`learned` gave."""
        for prefix, module in self._learned_modules():
            own = {
                name.removeprefix(f"{prefix}."): tensor
                for name, tensor in tensors.items()
                if name.startswith(f"{prefix}.")
            }
            floating = [tensor.dtype for tensor in own.values() if tensor.is_floating_point()]
            if prefix == "head" and floating:
                module.to(floating[0])
            module.load_state_dict(own)

    def _learned_modules(self) -> Iterator[tuple[str, nn.Module]]:
        for i, module, trained in self._parts():
            if trained:
                yield self._named(i, module)[1], module
        yield "head", self.head

    @property
    def normalizes_batches(self) -> bool:
        """Whether a part in training mode normalizes with the statistics of a batch."""
        return any(isinstance(m, _BATCH_NORMS) and m.training for m in self.modules())

    def linear(self) -> nn.Linear | None:
        """The head, where it is one linear layer with a bias, and nothing but dropout before it."""
        layers: list[Any] = [m for m in self.head.children() if not isinstance(m, nn.Dropout)]
        if len(layers) != 1 or not isinstance(layers[0], nn.Linear) or layers[0].bias is None:
            return None
        return layers[0]


def _key(index: int) -> str:
    return f"stage{index}"
