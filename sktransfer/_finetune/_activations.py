"""Pictures to activations at the cut, through the frozen runner and its store.

It must not know labels, training or estimators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sktransfer._base import derived_seed
from sktransfer._finetune._depth import Cut
from sktransfer.exceptions import ImageDecodeError
from sktransfer.frozen import (
    REGISTRY,
    FrozenNetwork,
    Job,
    NetworkInfo,
    NetworkSource,
    Plan,
    Recipe,
    Tap,
    fingerprints,
    run,
    settle,
    store_for,
)
from sktransfer.images import ImageSource, Preprocessing


@dataclass
class Prefix:
    """The frozen part of a network and how pictures are brought to it.

    Parameters
    ----------
    source : NetworkSource
    info : NetworkInfo
    cut : Cut
    recipe : Recipe
    preprocessing : Preprocessing
    shape : tuple of int
        Of one picture's activation at the cut.
    """

    source: NetworkSource
    info: NetworkInfo
    cut: Cut
    recipe: Recipe
    preprocessing: Preprocessing
    shape: tuple[int, ...]

    @property
    def taps(self) -> tuple[Tap, ...]:
        """What is taken out: the embedding if everything is frozen, else the last frozen map."""
        if self.cut.depth == self.cut.n_stages:
            return (Tap(None, None),)
        return (Tap(self.cut.depth - 1, "raw"),)

    def network(self) -> FrozenNetwork:
        """Of the process-wide registry."""
        depth = self.taps[0].depth(self.info)
        return REGISTRY.get(self.source, lambda _: depth, self.recipe)

    def forward(self, batch: Tensor) -> Tensor:
        """Ravelled activations of a normalised batch; frozen, without gradient."""
        if self.cut.depth == 0:
            return batch.flatten(1)
        (part,) = self.network().run(batch, self.taps)
        return part.clone()  # of inference mode no more

    def activations(
        self,
        source: ImageSource,
        *,
        cache: Any,
        batch_size: int | str,
        n_threads: int,
        on_error: str,
        progress: str | None,
    ) -> tuple[np.ndarray, list[ImageDecodeError]]:
        """Ravelled activations of every row, each distinct picture run once; not of depth 0.

        Returns
        -------
        rows : ndarray of shape (n, d), float32 (float64 in that precision)
            NaN where a picture could not be read, with ``on_error="nan"``.
        failures : list of ImageDecodeError
        """
        plan = Plan(self.info, self.taps)

        def compute(batch: Tensor) -> list[np.ndarray]:
            return [self.forward(batch).cpu().numpy()]

        job = Job(
            compute=compute,
            preprocessing=self.preprocessing,
            widths=(int(np.prod(self.shape)),),
            dtype=np.dtype(np.float64 if self.recipe.precision == "float64" else np.float32),
            fingerprints=fingerprints(
                plan,
                self.preprocessing.fingerprint,
                settle(plan, self.recipe, self.preprocessing.size, self.network),
            ),
            store=store_for(cache),
            batch_size=batch_size,
            device=self.recipe.device,
            n_threads=n_threads,
            on_error=on_error,
            progress=progress,
        )
        outcome = run(source, job)
        return outcome.rows, outcome.failures


def activation_shape(network: FrozenNetwork | None, cut: Cut, side: int) -> tuple[int, ...]:
    """Shape of one picture's activation at the cut, found by running a black one."""
    if network is None:  # nothing is frozen
        return (3, side, side)
    if cut.depth == cut.n_stages:
        return network.widths((Tap(None, None),), side)
    return network.shape_after(cut.depth - 1, side)


class LabelledRows(torch.utils.data.Dataset):
    """Rows of a training set that are handed out by the batch.

    Parameters
    ----------
    y, weight : ndarray of shape (n,)
    """

    def __init__(self, y: np.ndarray, weight: np.ndarray) -> None:
        self.y = torch.from_numpy(np.asarray(y, dtype=np.int64))
        self.given_weight = np.asarray(weight, dtype=np.float64)
        # 1 on average, so that the size of a step does not hang on the weights' unit.
        self.weight = torch.from_numpy(self.given_weight / self.given_weight.mean())
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Any:
        """A whole batch: ((activations, weights), labels)."""
        raise NotImplementedError


class PictureRows(LabelledRows):
    """Training rows as pictures, drawn anew in every epoch, and run through the frozen part.

    Parameters
    ----------
    source : ImageSource
    rows : ndarray of int
        Rows of ``source`` that can be read.
    y, weight : ndarray of shape (n,)
        For ``rows``.
    prefix : Prefix
    augmentation : callable or None
        Takes a picture and a seed.
    seed : int
    map_ : callable
        As ``map``, maybe in threads.
    """

    def __init__(
        self,
        source: ImageSource,
        rows: np.ndarray,
        y: np.ndarray,
        weight: np.ndarray,
        prefix: Prefix,
        augmentation: Any,
        seed: int,
        map_: Callable[..., Any],
    ) -> None:
        super().__init__(y, weight)
        self.source = source
        self.rows = rows
        self.prefix = prefix
        self.augmentation = augmentation
        self.seed = seed
        self.n_classes: int | None = None  # of mixed rows' targets
        self._map = map_
        # In predictions a draw is of the picture, whichever row it comes in.
        self.by_content = False
        self.on_error = "raise"
        self.failures: list[ImageDecodeError] = []

    def __getitems__(self, indices: Sequence[int]) -> Any:
        preprocessing = self.prefix.preprocessing
        pictures = list(self._map(self._prepared, indices))
        batch = preprocessing.normalize(preprocessing.stack(pictures).to(self.prefix.recipe.device))
        place = torch.as_tensor(list(indices))
        inputs = {"weight": self.weight[place]}
        if self.n_classes is not None and self.augmentation is not None and self.augmentation.mixes:
            draw = self._draw(*(int(self.rows[i]) for i in indices))
            batch, inputs["target"] = self.augmentation.mix(
                batch, self.y[place].to(batch.device), draw, n_classes=self.n_classes
            )
        return {"x": self.prefix.forward(batch), **inputs}, self.y[place]

    def _draw(self, *what: int) -> int:
        return derived_seed(self.seed, self.epoch, *what)

    def _prepared(self, index: int) -> np.ndarray:
        row = int(self.rows[index])
        preprocessing = self.prefix.preprocessing
        try:
            encoded = self.source.open(row)
            picture = encoded.decode(preprocessing.min_decode_side)
        except ImageDecodeError as error:
            if self.on_error == "raise":
                raise
            self.failures.append(error)
            return np.full((3, preprocessing.size, preprocessing.size), np.nan, dtype=np.float32)
        if self.augmentation is not None:
            # Of the row, not of its place in a batch: order and batch size do not matter.
            what = int.from_bytes(encoded.digest[:8]) if self.by_content else row
            picture = self.augmentation(picture, self._draw(what))
        return preprocessing(picture)


class ActivationRows(LabelledRows):
    """Rows as activations that are held already."""

    def __init__(self, x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> None:
        super().__init__(y, weight)
        self.x = torch.from_numpy(x)

    def __getitems__(self, indices: Sequence[int]) -> Any:
        place = torch.as_tensor(list(indices))
        return {"x": self.x[place], "weight": self.weight[place]}, self.y[place]


def whole(batch: Any) -> Any:
    """Collate function of datasets that give whole batches."""
    return batch
