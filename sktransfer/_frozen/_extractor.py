"""Images to activations of a frozen network: what the estimators stand on, in one place.

It must not know estimators, nor what the activations are for.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from sktransfer._frozen import _engines, _int8
from sktransfer._frozen._cache import store_for
from sktransfer._frozen._calibration import Calibration
from sktransfer._frozen._device import DeviceBatches
from sktransfer._frozen._extraction import Extraction
from sktransfer._frozen._layers import LayerOutput, NetworkInfo
from sktransfer._frozen._network import FrozenNetwork
from sktransfer._frozen._registry import REGISTRY, NetworkSource
from sktransfer._images import ImageSource, Preprocessing, portions
from sktransfer._utils.versions import versions_of
from sktransfer.exceptions import ImageDecodeError

# Part of every fingerprint: raised when the same parameters come to mean other numbers.
_NUMBERS_VERSION = 2  # integers of 16 and 32 bits in TIFF

# Bytes and rows of activations that are on their way to the store at once.
_CHUNK_BYTES = 128 * 2**20
_CHUNK_ROWS = 256


@dataclass
class FrozenExtractor:
    """What is taken out of a frozen network, and how: enough to run it, or to know it was.

    The network is found when it is needed, which it never is where every image is in the store.
    """

    source: NetworkSource
    info: NetworkInfo
    outputs: tuple[LayerOutput, ...]  # what is taken out, side by side
    preprocessing: Preprocessing
    widths: tuple[int, ...] = ()  # columns of each output
    dtypes: tuple[np.dtype, ...] = ()  # of each output, as it is stored and returned
    precision: str = "float32"
    device: str = "cpu"
    engine: str = "torch"
    calibration: Calibration | None = None  # with precision "int8"
    _network: FrozenNetwork | None = field(default=None, init=False, repr=False)
    _exact: FrozenNetwork | None = field(default=None, init=False, repr=False)

    @property
    def row_bytes(self) -> int:
        """Bytes of one image's outputs."""
        return sum(w * d.itemsize for w, d in zip(self.widths, self.dtypes, strict=True))

    def network(self) -> FrozenNetwork:
        """Return the network, which every extractor of the process shares."""
        if self._network is None:
            self._network = REGISTRY.get(
                self.source,
                self.info.depth(self.outputs),
                precision=self.precision,
                device=self.device,
                engine=self.engine,
                calibration=self.calibration,
            )
        return self._network

    def compute(self, batch: torch.Tensor) -> list[torch.Tensor]:
        """Compute the outputs of a normalized batch, on its device.

        Rows too large for half precision are computed again in float32.
        """
        *parts, finite = self._run(batch)
        return parts if finite else self._whole(batch, parts)

    def _run(self, batch: torch.Tensor) -> list[torch.Tensor]:
        """Compute the outputs of a normalized batch, and whether all of them are finite."""
        parts = self.network().run(batch, self.outputs)
        # The limits are NaN where one value is, and are found many times faster than isfinite is.
        limits = [each for part in parts for each in torch.aminmax(part)]
        return [*parts, torch.stack(limits).isfinite().all()]

    def _whole(self, batch: torch.Tensor, parts: list[torch.Tensor]) -> list[torch.Tensor]:
        """Return outputs that are finite, of which some are not; raise if they cannot be had."""
        if self.precision in ("float16", "bfloat16"):
            fits = torch.stack([part.isfinite().all(dim=1) for part in parts]).all(dim=0)
            if self._exact is None:
                warnings.warn(
                    f"Activations of {self.info.reference.name} do not fit {self.precision} for "
                    "some images; these are computed in float32.",
                    RuntimeWarning,
                    stacklevel=2,
                )
                depth = self.info.depth(self.outputs)
                self._exact = REGISTRY.get(self.source, depth, device=self.device)
            exact = self._exact.run(batch[~fits], self.outputs)
            parts = [part.clone() for part in parts]  # of inference mode, and not to be written
            for part, own in zip(parts, exact, strict=True):
                part[~fits] = own
        if not all(part.isfinite().all() for part in parts):
            raise FloatingPointError(
                f"{self.info.reference.name} computes NaN or infinity in {self.precision} for "
                f"images that can be read; its weights ({self.info.reference.weights}), not the "
                "files, are at fault."
            )
        return parts

    def fingerprints(self) -> tuple[bytes, ...] | None:
        """Return, for each output, a digest of everything but the image that changes its numbers.

        None where there is no telling what the preprocessing does: then nothing can be stored.
        """
        preprocessing, reference = self.preprocessing.fingerprint, self.info.reference
        if preprocessing is None:
            return None
        engine = self._engine_name()
        own: tuple[str, ...] = ()
        if self.calibration is not None:
            # Networks that were quantized elsewhere, or on other images, are others.
            side = self.preprocessing.size
            question = _int8.question_of(
                reference, self.outputs, side, calibration=self.calibration
            )
            digest = _int8.recall(question) or self.network().digest(self.outputs, side)
            own = (digest, _int8.rest_precision())
        # Kernels of another kind of device round differently; its number does not matter.
        kind = self.device.split(":")[0]
        versions = versions_of(network=(reference.name, engine))
        network = (reference.name, reference.digest, *filter(None, (reference.variant,)))
        shared = (_NUMBERS_VERSION, versions, *network, preprocessing)
        common = ", ".join(map(repr, (*shared, self.precision, *own, engine, kind)))
        texts = [  # as repr has a tuple
            f"({common}, {', '.join(map(repr, (*output, np.dtype(dtype).str)))})"
            for output, dtype in zip(self.outputs, self.dtypes, strict=True)
        ]
        return tuple(hashlib.blake2b(t.encode(), digest_size=16).digest() for t in texts)

    def _engine_name(self) -> str:
        """Return what runs the network; it is loaded only if that is not known yet."""
        if self.engine != "auto":
            return self.engine
        side = self.preprocessing.size
        known = _engines.recall(self.info.reference, self.precision, self.outputs, side)
        return known or self.network().engine_for(self.outputs, side)

    def say_engine(self) -> None:
        """Say, once in a process, which engine ``"auto"`` is, and what is faster."""
        name = self.info.reference.name
        _engines.say_once(self._engine_name(), name, self.precision, self.device)

    def extract(
        self,
        images: ImageSource,
        *,
        cache: Any,
        batch_size: int | str = "auto",
        n_threads: int = 1,
        on_error: str = "raise",
        progress: bool = False,
        allocate: Callable[..., np.ndarray] = np.empty,
        total_bytes: int = 0,
    ) -> tuple[np.ndarray, list[ImageDecodeError]]:
        """Return the outputs of every image side by side, and the rows that could not be read.

        Each distinct image is run at most once. ``cache`` is as for the estimators, ``total_bytes``
        the size of all rows that this and further calls run, where they are many; the rest is as
        for :class:`Extraction`.
        """
        batches: dict[str, Any] = {}
        if self.device.startswith("cuda"):
            on_device = DeviceBatches(self._steps, self.device)
            batches["begin"] = partial(self._begin, on_device)
            batches["halved"] = on_device.rest
        store = store_for(cache, total_bytes)
        return Extraction(
            images,
            lambda batch: [part.cpu().numpy() for part in self.compute(batch)],
            self.preprocessing,
            self.widths,
            self.dtypes,
            fingerprints=None if store is None else self.fingerprints(),
            store=store,
            batch_size=batch_size,
            device=self.device,
            n_threads=n_threads,
            on_error=on_error,
            progress=self.info.reference.name if progress else None,
            allocate=allocate,
            **batches,
        ).run()

    def _steps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Compute the outputs of a stacked batch on the device, and whether they are finite."""
        images = images.contiguous(memory_format=torch.channels_last)  # while it is small
        return self._run(self.preprocessing.normalize(images))

    def _begin(
        self, on_device: DeviceBatches, images: torch.Tensor
    ) -> Callable[[], list[np.ndarray]]:
        """Begin a stacked batch; return what waits for its outputs."""
        wait = on_device.begin(images)

        def finish() -> list[np.ndarray]:
            batch, (*parts, finite) = wait()
            if not finite:
                normalized = self.preprocessing.normalize(batch)
                parts = [
                    p.cpu() for p in self._whole(normalized, [p.to(batch.device) for p in parts])
                ]
            return [part.numpy() for part in parts]

        return finish


def store_together(
    extractors: Sequence[FrozenExtractor],
    images: ImageSource,
    *,
    cache: Any,
    n_threads: int,
    progress: bool,
) -> list[ImageDecodeError]:
    """Bring images to the store, for several extractors of one network in one pass.

    They differ in their outputs and in nothing else, and what several of them take out is computed
    once. What is in the store already is left alone; images that could not be read are returned.
    """
    if not extractors:
        return []
    parts = {
        (output, dtype): width
        for each in extractors
        for output, dtype, width in zip(each.outputs, each.dtypes, each.widths, strict=True)
    }
    outputs, dtypes = zip(*parts, strict=True)
    joint = replace(extractors[0], outputs=outputs, widths=(*parts.values(),), dtypes=dtypes)
    # The keys would be others where engine="auto" resolves otherwise for all than for one alone.
    # Quantized, each has a network of its own.
    passes: Sequence[FrozenExtractor] = extractors
    if joint.calibration is None:
        alone = {key for each in extractors for key in each.fingerprints() or (None,)}
        passes = [joint] if {*(joint.fingerprints() or ())} == alone else extractors
    failures: list[ImageDecodeError] = []
    for extractor in passes:
        widest = sum(extractor.widths) * max(dtype.itemsize for dtype in extractor.dtypes)
        for some in portions(images, max(1, min(_CHUNK_ROWS, _CHUNK_BYTES // widest))):
            failures += extractor.extract(
                some,
                cache=cache,
                n_threads=n_threads,
                on_error="nan",
                progress=progress,
                total_bytes=len(images) * joint.row_bytes,
            )[1]
    return failures
