"""Rows of a training set, given to the training loop by the batch.

It must not know training, nor where activations are kept.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from skorch.dataset import Dataset
from torch import Tensor
from torch.utils.data import get_worker_info

from sktransfer._base import derived_seed
from sktransfer._finetune._activations import Prefix
from sktransfer._finetune._training import within_memory
from sktransfer._images import ImageSource
from sktransfer.exceptions import ImageDecodeError


@lru_cache(maxsize=4)  # of an epoch, batch after batch; several fits may run at once
def view_order(n_views: int, seed: int, epoch: int, n: int) -> np.ndarray:
    """Return which view each of ``n`` rows shows in an epoch: all in turn, in a seeded order."""
    cycle, turn = divmod(epoch, n_views)
    views = np.tile(np.arange(n_views), (n, 1))
    rng = np.random.default_rng(derived_seed(seed, cycle))
    return rng.permuted(views, axis=1)[:, turn]


class LabeledRows(Dataset):
    """Rows of activations, with encoded ``y`` and weights; an item is a whole batch.

    ``activations`` gives activations at the cut by row number, perhaps in half precision, and
    ``rows`` says which rows of it these are. ``views`` says, where there are several views of each,
    row after row, how many and the seed of the order in which they are shown.
    """

    def __init__(
        self,
        activations: Any,
        rows: np.ndarray,
        y: np.ndarray,
        weight: np.ndarray,
        views: tuple[int, int] | None = None,
    ) -> None:
        self.activations = activations
        self.rows = rows
        self.y = torch.from_numpy(np.ascontiguousarray(y))
        self.given_weight = np.asarray(weight, dtype=np.float64)
        # 1 on average, so that the size of a step does not depend on the weights' unit.
        self.weight = torch.from_numpy(self.given_weight / self.given_weight.mean())
        self.views = views
        self.epoch = 0
        self._len = len(self.y)  # what skorch's Dataset has for len()

    @property
    def X(self) -> LabeledRows:  # noqa: N802 - skorch's name
        """The dataset itself: skorch's callbacks predict its X and compare with its y."""
        return self

    def part(self, chosen: np.ndarray, weight: np.ndarray) -> LabeledRows:
        """Return some of the rows, with weights of their own."""
        some = copy.copy(self)
        some.rows, some.y, some.given_weight = self.rows[chosen], self.y[chosen], weight
        some.weight = torch.from_numpy(weight / weight.mean())
        some._len = len(chosen)
        return some

    def __getitem__(self, index: int | Sequence[int]) -> Any:
        return self.__getitems__([index] if isinstance(index, int) else index)

    def __getitems__(self, indices: Sequence[int]) -> Any:
        """Return a batch: inputs (activations ``x``, ``weight`` and maybe ``target``), labels."""
        chosen = np.asarray(indices, dtype=np.intp)
        places = self.rows[chosen]  # rows of the images or activations themselves
        if self.views is not None:
            shown = view_order(*self.views, self.epoch, len(self.y))
            places = places * self.views[0] + shown[chosen]
        y, weight = self.y[chosen], self.weight[chosen]
        if self.activations is None:
            return self._from_images(places, y, weight), y
        x = torch.from_numpy(np.ascontiguousarray(self.activations[places]))
        return {"x": x.float() if x.dtype == torch.float16 else x, "weight": weight}, y

    def _from_images(self, places: np.ndarray, y: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """Return the inputs of a batch whose activations are not kept."""
        raise NotImplementedError


class ImageRows(LabeledRows):
    """Rows as images, which are decoded, drawn and run through the frozen part in every epoch.

    ``map_`` is used like ``map``, maybe in threads; ``args`` are what :class:`LabeledRows` takes.
    ``target`` says what mixed rows are of (None: rows are not mixed), and ``by_content`` that a
    draw is of the image, whichever row it is in: in predictions.
    """

    _rows_at_once: int | None = None  # that the frozen part has memory for

    def __init__(
        self,
        source: ImageSource,
        prefix: Prefix,
        augmentation: Any,
        seed: int,
        map_: Callable[..., Any],
        *args: Any,
        target: Any = None,
        on_error: str = "raise",
        by_content: bool = False,
    ) -> None:
        super().__init__(None, *args)
        self.source = source
        self.prefix = replace(prefix)
        self.augmentation = augmentation
        self.seed = seed
        self.target = target
        self.on_error = on_error
        self.by_content = by_content
        self.failures: list[ImageDecodeError] = []
        self._map = map_

    def _from_images(self, places: np.ndarray, y: Tensor, weight: Tensor) -> dict[str, Tensor]:
        preprocessing = self.prefix.preprocessing
        # A worker process has none of the threads of the one it was forked from.
        map_ = self._map if get_worker_info() is None else map
        images = list(map_(self._prepared, places))
        device = self.prefix.device
        pinned = device.startswith("cuda") and get_worker_info() is None
        batch = preprocessing.stack(images, pinned=pinned).to(device, non_blocking=pinned)
        batch = preprocessing.normalize(batch)
        inputs = {"weight": weight}
        if self.target is not None and self.augmentation is not None and self.augmentation.mixes:
            seed = derived_seed(self.seed, self.epoch, *map(int, places))
            batch, mixed = self._mixed(batch, y, weight, seed)
            inputs |= mixed
        parts = within_memory(self, lambda rows: self.prefix.forward(batch[rows]), len(batch))
        return {"x": parts[0] if len(parts) == 1 else torch.cat(parts), **inputs}

    def _mixed(
        self, batch: Tensor, y: Tensor, weight: Tensor, seed: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return a mixed batch, its targets, and what its rows weigh then."""
        if bool((weight == 1).all()):
            batch, shares = self.augmentation.mix(batch, self.target.shares(y).to(batch), seed)
            return batch, {"target": shares}
        # Each label with the weight of its own row: that of a row of weight 0 counts nowhere.
        labels = torch.column_stack([self.target.shares(y).to(weight), torch.ones_like(weight)])
        batch, mixed = self.augmentation.mix(batch, (labels * weight[:, None]).to(batch), seed)
        total = mixed[:, -1]
        tiny = torch.finfo(total.dtype).tiny
        return batch, {"target": mixed[:, :-1] / total.clamp(min=tiny)[:, None], "weight": total}

    def _prepared(self, place: int) -> np.ndarray:
        row = int(place)
        preprocessing = self.prefix.preprocessing
        try:
            encoded = self.source.open(row)
            if self.augmentation is not None:
                # Of the row, not of its place in a batch: order and batch size do not matter.
                what = int.from_bytes(encoded.digest[:8]) if self.by_content else row
                seed = derived_seed(self.seed, self.epoch, what)
                encoded = replace(encoded, augmentation=self.augmentation, seed=seed)
            return encoded.prepare(preprocessing)
        except ImageDecodeError as error:
            if self.on_error == "raise":
                raise
            # Not the error itself, whose traceback would keep the whole file alive.
            self.failures.append(ImageDecodeError(error.reason, error.index, error.source))
            return np.full((3, preprocessing.size, preprocessing.size), np.nan, dtype=np.float32)
