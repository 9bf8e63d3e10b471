"""Images that candidates of a search share, and one pass that brings them to every cut.

It must not know folds, nor what anything costs.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sktransfer._finetune import Trial
from sktransfer._frozen import ROW_OVERHEAD, OneCut, run_together
from sktransfer._images import ImageSource
from sktransfer.exceptions import ImageDecodeError


@dataclass
class Digests:
    """Names of images, and of the kept views of each, as the store has them.

    Parameters
    ----------
    images : list of bytes or None
        None: it cannot be read.
    views : list of list of bytes
        Of each image; empty without views.
    views_last : bool
        Whether another fit asks for the same views.
    """

    images: list[bytes | None]
    views: list[list[bytes]] = field(default_factory=list)
    views_last: bool = True

    def of(self, rows: Any) -> list[bytes]:
        """Of some rows, without views."""
        return [each for row in rows if (each := self.images[row]) is not None]

    def of_training(self, rows: Any) -> list[bytes]:
        """Of some rows, with their views."""
        found = self.of(rows)
        return found + [each for row in rows for each in self.views[row]] if self.views else found


@dataclass
class _Pass:
    """Images to be brought to some cuts of one network."""

    trial: Trial
    images: ImageSource
    cuts: dict[bytes, OneCut] = field(default_factory=dict)


class Sharing:
    """What the candidates of a search ask of the store, between them."""

    def __init__(self) -> None:
        self._digests: dict[tuple, Digests] = {}
        self._passes: dict[tuple, _Pass] = {}
        self._n_bytes: dict[tuple, int] = {}

    @property
    def n_bytes(self) -> int:
        """Of all activations that are shared, with their keys."""
        return sum(self._n_bytes.values())

    def add(self, trial: Trial, images: ImageSource) -> Digests:
        """Take note of a candidate; the names of the images it asks for."""
        digests = self._named(trial, images)
        fingerprint = trial.fingerprint
        if fingerprint is None:
            return digests
        sources = [(images, frozenset(each for each in digests.images if each is not None))]
        views = trial.views_of(images)
        if views is not None and digests.views_last:
            sources.append((views, frozenset(each for row in digests.views for each in row)))
        cut = trial.cut
        frozen = cut.frozen
        for source, names in sources:
            where = (
                *(repr(trial.clf.cache), frozen.plan.info.reference, frozen.recipe),
                *(frozen.preprocessing.fingerprint, names),
            )
            self._passes.setdefault(where, _Pass(trial, source)).cuts[fingerprint] = cut
            # With their keys, which take room in a store too.
            row = trial.prefix.n_bytes + ROW_OVERHEAD
            self._n_bytes[*where, fingerprint] = len(names) * row
        return digests

    def bring(self, *, progress: bool = False) -> None:
        """Bring all images to all cuts; those that are there already are left alone."""
        for each in self._passes.values():
            run_together(
                list(each.cuts.values()),
                each.images,
                cache=each.trial.clf.cache,
                n_threads=each.trial.n_threads,
                progress=progress,
            )

    def _named(self, trial: Trial, images: ImageSource) -> Digests:
        if not trial.frozen:
            return Digests([])
        views = trial.views_of(images)
        drawn = None if views is None else (repr(trial.clf.augmentation), trial.n_views)
        key = (id(images), drawn, None if views is None else trial.views_seed)
        if key not in self._digests:
            with ThreadPoolExecutor(trial.n_threads) as pool:
                found = Digests(_read(images, pool))
                if views is not None:
                    every = np.array(_read(views, pool), dtype=object).reshape(len(images), -1)
                    found.views = [[each for each in row if each is not None] for row in every]
                    found.views_last = trial.views_last(views)
            self._digests[key] = found
        return self._digests[key]


def _read(images: ImageSource, pool: ThreadPoolExecutor) -> list[bytes | None]:
    def digest(row: int) -> bytes | None:
        try:
            return images.open(row).digest
        except ImageDecodeError:
            return None

    return list(pool.map(digest, range(len(images))))
