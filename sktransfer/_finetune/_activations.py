"""Images to activations at the cut, through the frozen runner and its store.

It must not know labels, training or estimators.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from sktransfer._finetune._depth import Cut
from sktransfer._frozen import (
    FrozenExtractor,
    FrozenNetwork,
    LayerOutput,
    NetworkInfo,
    NetworkSource,
)
from sktransfer._images import ImageSource, Preprocessing
from sktransfer.exceptions import ImageDecodeError


@dataclass
class Prefix:
    """The frozen part of a network and how images are brought to it.

    Parameters
    ----------
    source : NetworkSource
    info : NetworkInfo
    cut : Cut
    precision, device, engine : str
        As for :class:`FrozenExtractor`.
    preprocessing : Preprocessing
    dtype : numpy dtype
        Of activations, as they are kept and trained on.
    shape : tuple of int
        Of one image's activation at the cut.
    """

    source: NetworkSource
    info: NetworkInfo
    cut: Cut
    precision: str
    device: str
    engine: str
    preprocessing: Preprocessing
    dtype: np.dtype
    shape: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """Numbers per image."""
        return int(np.prod(self.shape))

    @property
    def n_bytes(self) -> int:
        """Bytes per image."""
        return self.width * self.dtype.itemsize

    def storable(self, augmentation: Any = None) -> bool:
        """Whether there is a name for what is done to images, to find its results by; and for
        the ``augmentation`` whose draws are kept.
        """
        done = [self.preprocessing] if augmentation is None else [self.preprocessing, augmentation]
        return all(each.fingerprint is not None for each in done)

    @property
    def last_stage(self) -> str:
        """Name of the last frozen stage, of a depth above 0."""
        return self.info.stages[self.cut.depth - 1].name

    @property
    def output(self) -> LayerOutput:
        """What is taken out: the embedding if everything is frozen, else the last frozen map."""
        return output_at(self.cut)

    def frozen(self) -> FrozenExtractor:
        """What runs; for as long as images are brought to the cut."""
        return FrozenExtractor(
            self.source,
            self.info,
            (self.output,),
            self.preprocessing,
            widths=(self.width,),
            dtypes=(self.dtype,),
            precision=self.precision,
            device=self.device,
            engine=self.engine,
        )

    def forward(self, batch: Tensor, frozen: FrozenExtractor) -> Tensor:
        """Raveled activations of a normalized batch; frozen, without gradient."""
        if self.cut.depth == 0:
            flat = batch.flatten(1)
            return flat.double() if self.precision == "float64" else flat
        (part,) = frozen.compute(batch)
        return part.clone()  # of inference mode no more

    def activations(
        self,
        images: ImageSource,
        *,
        cache: Any,
        n_threads: int,
        on_error: str,
        progress: bool = False,
        allocate: Callable[..., np.ndarray] = np.empty,
        of_bytes: int = 0,
    ) -> tuple[np.ndarray, list[ImageDecodeError]]:
        """Raveled activations of every row, each distinct image run once; not of depth 0.

        Rows are of shape (n, width), and NaN where an image could not be read with
        ``on_error="nan"``. The parameters are those of :meth:`FrozenExtractor.extract`.
        """
        return self.frozen().extract(
            images,
            cache=cache,
            n_threads=n_threads,
            on_error=on_error,
            progress=progress,
            allocate=allocate,
            total_bytes=of_bytes,
        )


def output_at(cut: Cut) -> LayerOutput:
    """What is taken out at a cut."""
    if cut.depth == cut.n_stages:
        return LayerOutput(None, None)
    return LayerOutput(cut.depth - 1, "raw")


def kept_as(activation_dtype: str, precision: str, cut: Cut) -> np.dtype:
    """The dtype activations at a cut are kept in: embeddings whole, maps by default in half."""
    whole = np.dtype(np.float64 if precision == "float64" else np.float32)
    if cut.head_only:
        return whole
    if activation_dtype == "auto":
        return whole if precision == "float64" else np.dtype(np.float16)
    return np.dtype(activation_dtype)


def activation_shape(network: FrozenNetwork | None, cut: Cut, side: int) -> tuple[int, ...]:
    """Shape of one image's activation at the cut, found by running a black one."""
    if network is None:  # nothing is frozen
        return (3, side, side)
    if cut.depth == cut.n_stages:
        return network.widths((output_at(cut),), side)
    return network.shape_after(cut.depth - 1, side)
