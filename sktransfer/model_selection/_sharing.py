"""Pictures that candidates of a search share, and one pass that brings them to every cut.

It must not know folds, nor what anything costs.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sktransfer._finetune import Trial
from sktransfer.exceptions import ImageDecodeError
from sktransfer.frozen import ROW_OVERHEAD, OneCut, run_together
from sktransfer.images import ImageSource


@dataclass
class Digests:
    """Names of pictures, and of the kept views of each, as the store has them.

    Parameters
    ----------
    pictures : list of bytes or None
        None: it cannot be read.
    views : list of list of bytes
        Of each picture; empty without views.
    views_last : bool
        Whether another fit asks for the same views.
    """

    pictures: list[bytes | None]
    views: list[list[bytes]] = field(default_factory=list)
    views_last: bool = True

    def of(self, rows: Any) -> list[bytes]:
        """Of some rows, without views."""
        return [each for row in rows if (each := self.pictures[row]) is not None]

    def of_training(self, rows: Any) -> list[bytes]:
        """Of some rows, with their views."""
        found = self.of(rows)
        return found + [each for row in rows for each in self.views[row]] if self.views else found


@dataclass
class _Pass:
    """Pictures to be brought to some cuts of one network."""

    trial: Trial
    pictures: ImageSource
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

    def add(self, trial: Trial, pictures: ImageSource) -> Digests:
        """Take note of a candidate; the names of the pictures it asks for."""
        digests = self._named(trial, pictures)
        fingerprint = trial.fingerprint
        if fingerprint is None:
            return digests
        sources = [(pictures, frozenset(each for each in digests.pictures if each is not None))]
        views = trial.views_of(pictures)
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
        """Bring all pictures to all cuts; those that are there already are left alone."""
        for each in self._passes.values():
            run_together(
                list(each.cuts.values()),
                each.pictures,
                cache=each.trial.clf.cache,
                n_threads=each.trial.n_threads,
                progress=progress,
            )

    def _named(self, trial: Trial, pictures: ImageSource) -> Digests:
        if not trial.frozen:
            return Digests([])
        views = trial.views_of(pictures)
        drawn = None if views is None else (repr(trial.clf.augmentation), trial.n_views)
        key = (id(pictures), drawn, None if views is None else trial.views_seed)
        if key not in self._digests:
            with ThreadPoolExecutor(trial.n_threads) as pool:
                found = Digests(_read(pictures, pool))
                if views is not None:
                    every = np.array(_read(views, pool), dtype=object).reshape(len(pictures), -1)
                    found.views = [[each for each in row if each is not None] for row in every]
                    found.views_last = trial.views_last(views)
            self._digests[key] = found
        return self._digests[key]


def _read(pictures: ImageSource, pool: ThreadPoolExecutor) -> list[bytes | None]:
    def digest(row: int) -> bytes | None:
        try:
            return pictures.open(row).digest
        except ImageDecodeError:
            return None

    return list(pool.map(digest, range(len(pictures))))
