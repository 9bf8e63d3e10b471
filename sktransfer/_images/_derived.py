"""Images made of other images' rows: some of them, or several draws of each.

It must not know networks, nor how rows are read.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from sktransfer._images._arrays import DecodedImage
from sktransfer._images._source import EncodedImage, ImageSource


class ImageSelection(ImageSource):
    """Some rows of a source; errors go on naming them by their number there.

    Parameters
    ----------
    source : ImageSource
    rows : sequence of int
    """

    def __init__(self, source: ImageSource, rows: Sequence[int] | np.ndarray) -> None:
        super().__init__(rows, source.value_range)
        self._source = source

    def number(self, i: int) -> int:
        """Which row of the original it is."""
        return self._source.number(int(self._rows[i]))

    def describe(self, i: int) -> str:
        """As the source has it."""
        return self._source.describe(int(self._rows[i]))

    def open(self, i: int) -> EncodedImage:
        """As the source has it."""
        return self._source.open(int(self._rows[i]))


def portions(source: ImageSource, n: int) -> Iterator[ImageSelection]:
    """All rows of a source, ``n`` at a time."""
    for low in range(0, len(source), n):
        yield ImageSelection(source, range(low, min(low + n, len(source))))


@dataclass(frozen=True, eq=False)
class _EncodedView(EncodedImage):
    """An image that is decoded as one draw of an augmentation has it."""

    augmentation: Callable[[DecodedImage, int], DecodedImage] | None = None
    seed: int = 0

    def decode(self, min_side: int | None = None) -> DecodedImage:
        assert self.augmentation is not None
        return self.augmentation(super().decode(min_side), self.seed)


class ImageViews(ImageSource):
    """Several draws of each image: row ``i * n_views + k`` is draw ``k`` of row ``i``.

    A draw depends on the seed and on the image's content, not on its row: the same images have
    the same views in every fold.

    Parameters
    ----------
    source : ImageSource
    augmentation : ImageAugmentation or CallableAugmentation
    n_views : int
    seed : int
        Not negative.
    """

    def __init__(self, source: ImageSource, augmentation: Any, n_views: int, seed: int) -> None:
        super().__init__(range(len(source) * n_views), source.value_range)
        self._source = source
        self._augmentation = augmentation
        self._n_views = n_views
        self._seed = seed
        self.lasting = augmentation.fingerprint is not None
        self._header = repr(("view", augmentation.fingerprint, seed)).encode() + bytes([0])
        # There is no telling what a callable does: what it gave once is not what it gives again.
        self._token = b"" if self.lasting else secrets.token_bytes(16)

    def number(self, i: int) -> int:
        """Which row of the original it is a draw of."""
        return self._source.number(i // self._n_views)

    def describe(self, i: int) -> str:
        """As the source has it."""
        return self._source.describe(i // self._n_views)

    def open(self, i: int) -> EncodedImage:
        """Read a row; its digest is of the image and the draw."""
        row, view = divmod(range(len(self))[i], self._n_views)
        encoded = self._source.open(row)
        drawn = self._header + encoded.digest + view.to_bytes(8, "little")
        return _EncodedView(
            blake2b(drawn + self._token, digest_size=16).digest(),
            encoded.content,
            encoded.value_range,
            encoded.index,
            encoded.source,
            encoded.dicom,
            self._augmentation,
            int.from_bytes(blake2b(drawn, digest_size=8).digest(), "little"),
        )
