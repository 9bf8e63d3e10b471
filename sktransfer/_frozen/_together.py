"""Several cuts of one network in one pass over the images, into the store and nowhere else.

It must not know estimators, nor what the cuts are wanted for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sktransfer._frozen._pass import FrozenPass
from sktransfer._frozen._plan import Plan
from sktransfer._images import ImageSource, portions
from sktransfer.exceptions import ImageDecodeError

# Bytes of activations that are on their way to the store at once.
_CHUNK_BYTES = 128 * 2**20
_CHUNK_ROWS = 256


@dataclass(frozen=True)
class OneCut:
    """One thing taken out of a network, and how it is stored.

    Parameters
    ----------
    frozen : FrozenPass
        Of one tap.
    width : int
    dtype : numpy dtype
    """

    frozen: FrozenPass
    width: int
    dtype: np.dtype

    @property
    def fingerprint(self) -> bytes | None:
        """As it stands in the store's keys; None where it cannot be stored."""
        found = self.frozen.fingerprints((self.dtype,))
        return None if found is None else found[0]


def run_together(
    cuts: Sequence[OneCut], images: ImageSource, *, cache: Any, n_threads: int, progress: bool
) -> list[ImageDecodeError]:
    """Bring images to every cut, each image that lacks one run once; the rest is left alone.

    Parameters
    ----------
    cuts : sequence of OneCut
        Of one network, recipe and preprocessing.
    images : ImageSource
    cache : bool or path-like
        As estimators have it.
    n_threads : int
    progress : bool

    Returns
    -------
    list of ImageDecodeError
        Images that could not be read.
    """
    if not cuts:
        return []
    n_bytes = sum(cut.width * cut.dtype.itemsize for cut in cuts)
    failures: list[ImageDecodeError] = []
    for group in _joint(cuts):
        frozen = _one_pass(group)
        widest = sum(cut.width for cut in group) * max(cut.dtype.itemsize for cut in group)
        step = max(1, min(_CHUNK_ROWS, _CHUNK_BYTES // widest))
        for some in portions(images, step):
            outcome = frozen.run(
                some,
                [cut.width for cut in group],
                dtypes=[cut.dtype for cut in group],
                cache=cache,
                n_threads=n_threads,
                on_error="nan",
                progress=progress,
                of_bytes=len(images) * n_bytes,
            )
            failures += outcome.failures
    return failures


def _one_pass(cuts: Sequence[OneCut]) -> FrozenPass:
    first = cuts[0].frozen
    taps = tuple(cut.frozen.plan.taps[0] for cut in cuts)
    return FrozenPass(first.source, Plan(first.plan.info, taps), first.recipe, first.preprocessing)


def _joint(cuts: Sequence[OneCut]) -> list[Sequence[OneCut]]:
    """All cuts in one pass, if they are stored under the keys that each has alone.

    They would not be where ``engine="auto"`` resolves otherwise for all of them than for one.
    """
    together = _one_pass(cuts).fingerprints([cut.dtype for cut in cuts])
    if together is not None and list(together) == [cut.fingerprint for cut in cuts]:
        return [cuts]
    return [[cut] for cut in cuts]
