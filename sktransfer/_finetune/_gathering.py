"""Pictures of a training set brought to the cut, once or per view, and datasets made of them.

It must not know the loop, nor how a network is found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sktransfer._finetune._activations import Prefix
from sktransfer._finetune._datasets import ActivationRows, LabelledRows, PictureRows, ViewOrder
from sktransfer._finetune._keeping import Activations, Budget, Place, keep, unreadable
from sktransfer.exceptions import ImageDecodeError
from sktransfer.images import ImageSource, PictureSelection, PictureViews

# (rows, labels, weights) of a dataset.
Labelled = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass
class Gathered:
    """A training set's pictures, and their activations where they are kept.

    Parameters
    ----------
    prefix : Prefix
    pictures : ImageSource
    augmentation : ImageAugmentation, CallableAugmentation or None
    seed : int
        Of draws.
    n_views : int or None
        Draws of each picture that are cycled through; None: they are drawn anew in each epoch.
    plain : Activations or None
        Of the pictures as they are; None where nothing is frozen.
    bring : callable or None
        From pictures to Activations that are kept; None where nothing is frozen.
    failures : list of ImageDecodeError
    """

    prefix: Prefix
    pictures: ImageSource
    augmentation: Any
    seed: int
    n_views: int | None
    plain: Activations | None = None
    bring: Callable[[ImageSource], Activations] | None = None
    failures: list[ImageDecodeError] = field(default_factory=list)

    def as_they_are(self, rows: Labelled, map_: Callable[..., Any]) -> LabelledRows:
        """Rows without augmentation."""
        if self.plain is not None:
            return ActivationRows(self.plain.take, *rows)
        return PictureRows(self.pictures, self.prefix, None, self.seed, map_, *rows)

    def as_drawn(self, rows: Labelled, map_: Callable[..., Any], n_classes: int) -> LabelledRows:
        """Rows with augmentation; as they are, where there is none."""
        if self.augmentation is None:
            return self.as_they_are(rows, map_)
        if self.n_views is None:
            drawn = PictureRows(
                self.pictures, self.prefix, self.augmentation, self.seed, map_, *rows
            )
            drawn.n_classes = n_classes
            return drawn
        chosen, y, weight = rows
        # Of these rows and no others: those held out are not shown as they are drawn.
        own = PictureSelection(self.pictures, chosen)
        views = PictureViews(own, self.augmentation, self.n_views, self.seed)
        order = ViewOrder(self.n_views, self.seed)
        places = np.arange(len(chosen))
        if self.bring is not None:
            return ActivationRows(self.bring(views).take, places, y, weight, order)
        return PictureRows(views, self.prefix, None, self.seed, map_, places, y, weight, order)


def gather(
    prefix: Prefix,
    pictures: ImageSource,
    augmentation: Any,
    n_views: int | None,
    seed: int,
    budget: Budget,
    *,
    n_threads: int,
    on_error: str,
    progress: bool,
) -> Gathered:
    """Run the frozen part over pictures; over ``n_views`` draws of each when these are asked for.

    Parameters
    ----------
    prefix : Prefix
    pictures : ImageSource
    augmentation, seed
        As in :class:`Gathered`.
    n_views : int or None
    budget : Budget
        What is kept, and where; it says so where that is not memory.
    n_threads, on_error, progress
        As in :meth:`Prefix.activations`.
    """
    found = Gathered(prefix, pictures, augmentation, seed, n_views)
    if prefix.cut.depth == 0:
        if on_error == "nan":
            found.failures = unreadable(pictures, prefix)
        return found
    n = len(pictures) * (1 + (n_views or 0))
    storable = prefix.storable(None if n_views is None else augmentation)
    place = budget.place(n * prefix.n_bytes, storable=storable)
    if place is Place.STORE:
        budget = budget.where_it_works()
        place = budget.place(n * prefix.n_bytes, storable=storable)
    budget.tell(place, prefix, n)
    settings: dict[str, Any] = {
        "of_bytes": n * prefix.n_bytes,
        "n_threads": n_threads,
        "progress": progress,
    }
    found.plain = keep(prefix, pictures, budget, place, on_error=on_error, **settings)
    found.failures = found.plain.failures
    # Draws are of pictures that could be read.
    found.bring = lambda views: keep(prefix, views, budget, place, on_error="raise", **settings)
    return found
