"""Pictures of a training set brought to the cut, once or per view, and datasets made of them.

It must not know the loop, nor how a network is found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sktransfer._finetune._activations import Prefix
from sktransfer._finetune._datasets import ActivationRows, LabelledRows, PictureRows, ViewOrder
from sktransfer._finetune._keeping import Activations, Budget, Place, keep, unreadable
from sktransfer.exceptions import ImageDecodeError
from sktransfer.images import ImageSource, PictureViews

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
    views : PictureViews or None
        The draws that are cycled through; None: they are drawn anew in each epoch.
    n_views : int
    plain, drawn : Activations or None
        Of the pictures as they are, and of ``views``; None where nothing is frozen.
    failures : list of ImageDecodeError
    """

    prefix: Prefix
    pictures: ImageSource
    augmentation: Any
    seed: int
    views: PictureViews | None
    n_views: int
    plain: Activations | None
    drawn: Activations | None
    failures: list[ImageDecodeError]

    def as_they_are(self, rows: Labelled, map_: Callable[..., Any]) -> LabelledRows:
        """Rows without augmentation."""
        if self.plain is not None:
            return ActivationRows(self.plain.take, *rows)
        return PictureRows(self.pictures, self.prefix, None, self.seed, map_, *rows)

    def as_drawn(self, rows: Labelled, map_: Callable[..., Any], n_classes: int) -> LabelledRows:
        """Rows with augmentation; as they are, where there is none."""
        if self.augmentation is None:
            return self.as_they_are(rows, map_)
        if self.views is None:
            drawn = PictureRows(
                self.pictures, self.prefix, self.augmentation, self.seed, map_, *rows
            )
            drawn.n_classes = n_classes
            return drawn
        order = ViewOrder(self.n_views, self.seed)
        if self.drawn is not None:
            return ActivationRows(self.drawn.take, *rows, order)
        return PictureRows(self.views, self.prefix, None, self.seed, map_, *rows, order)


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
    """Run the frozen part over pictures, and over ``n_views`` draws of each.

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
    views = None if n_views is None else PictureViews(pictures, augmentation, n_views, seed)
    found = Gathered(
        prefix, pictures, augmentation, seed, views, n_views or 1, None, None, failures=[]
    )
    if prefix.cut.depth == 0:
        if on_error == "nan":
            found.failures = unreadable(pictures, prefix)
        return found
    n = len(pictures) + (0 if views is None else len(views))
    storable = prefix.storable and (views is None or views.lasting)
    place = budget.place(n * prefix.n_bytes, storable=storable)
    if place is Place.STORE:
        budget = budget.where_it_works()
        place = budget.place(n * prefix.n_bytes, storable=storable)
    budget.tell(place, prefix, n)

    def kept(source: ImageSource) -> Activations:
        return keep(
            prefix,
            source,
            budget,
            place,
            of_bytes=n * prefix.n_bytes,
            n_threads=n_threads,
            on_error=on_error,
            progress=progress,
        )

    found.plain = kept(pictures)
    found.failures = found.plain.failures
    if views is not None:
        found.drawn = kept(views)
    return found
