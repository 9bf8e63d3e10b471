"""Images of a training set brought to the cut, once or per view, and datasets made of them.

It must not know the loop, nor how a network is found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sktransfer._finetune._activations import Prefix
from sktransfer._finetune._datasets import ActivationRows, ImageRows, LabeledRows, ViewOrder
from sktransfer._finetune._keeping import Activations, Budget, Place, keep, unreadable
from sktransfer._images import ImageSelection, ImageSource, ImageViews
from sktransfer.exceptions import ImageDecodeError

# (rows, labels, weights) of a dataset.
Labeled = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass
class Gathered:
    """A training set's images, and their activations where they are kept.

    Parameters
    ----------
    prefix : Prefix
    images : ImageSource
    augmentation : ImageAugmentation, CallableAugmentation or None
    seed : int
        Of draws.
    n_views : int or None
        Draws of each image that are cycled through; None: they are drawn again in each epoch.
    plain : Activations or None
        Of the images as they are; None where nothing is frozen.
    bring : callable or None
        From images to Activations that are kept; None where nothing is frozen.
    failures : list of ImageDecodeError
    """

    prefix: Prefix
    images: ImageSource
    augmentation: Any
    seed: int
    n_views: int | None
    plain: Activations | None = None
    bring: Callable[[ImageSource], Activations] | None = None
    failures: list[ImageDecodeError] = field(default_factory=list)

    def as_they_are(self, rows: Labeled, map_: Callable[..., Any]) -> LabeledRows:
        """Rows without augmentation."""
        if self.plain is not None:
            return ActivationRows(self.plain.take, *rows)
        return ImageRows(self.images, self.prefix, None, self.seed, map_, *rows)

    def as_drawn(self, rows: Labeled, map_: Callable[..., Any], n_classes: int) -> LabeledRows:
        """Rows with augmentation; as they are, where there is none."""
        if self.augmentation is None:
            return self.as_they_are(rows, map_)
        if self.n_views is None:
            drawn = ImageRows(self.images, self.prefix, self.augmentation, self.seed, map_, *rows)
            drawn.n_classes = n_classes
            return drawn
        chosen, y, weight = rows
        # Of these rows and no others: those held out are not shown as they are drawn.
        own = ImageSelection(self.images, chosen)
        views = ImageViews(own, self.augmentation, self.n_views, self.seed)
        order = ViewOrder(self.n_views, self.seed)
        places = np.arange(len(chosen))
        if self.bring is not None:
            return ActivationRows(self.bring(views).take, places, y, weight, order)
        return ImageRows(views, self.prefix, None, self.seed, map_, places, y, weight, order)


def gather(
    prefix: Prefix,
    images: ImageSource,
    augmentation: Any,
    n_views: int | None,
    seed: int,
    budget: Budget,
    *,
    n_threads: int,
    on_error: str,
    progress: bool,
) -> Gathered:
    """Run the frozen part over images; over ``n_views`` draws of each when these are asked for.

    Parameters
    ----------
    prefix : Prefix
    images : ImageSource
    augmentation, seed
        As in :class:`Gathered`.
    n_views : int or None
    budget : Budget
        What is kept, and where; it says so where that is not memory.
    n_threads, on_error, progress
        As in :meth:`Prefix.activations`.
    """
    found = Gathered(prefix, images, augmentation, seed, n_views)
    if prefix.cut.depth == 0:
        if on_error == "nan":
            found.failures = unreadable(images, prefix)
        return found
    n = len(images) * (1 + (n_views or 0))
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
    found.plain = keep(prefix, images, budget, place, on_error=on_error, **settings)
    found.failures = found.plain.failures
    # Draws are of images that could be read.
    found.bring = lambda views: keep(prefix, views, budget, place, on_error="raise", **settings)
    return found
