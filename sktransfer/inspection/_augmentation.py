"""AugmentationDisplay: one image under several random draws of an augmentation."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from sklearn.utils import check_random_state

from sktransfer._images import DecodedImage, as_image_source, resolve_augmentation
from sktransfer._utils.plotting import new_panels


@dataclass(kw_only=True, eq=False, repr=False)
class AugmentationDisplay:
    """Plot of an image and of several random draws of an augmentation of it.

    Use :meth:`from_augmentation` to create one. Plotting needs matplotlib (extra ``plot``).

    Parameters
    ----------
    original : PIL.Image.Image or ndarray
        The original image.
    images : list of PIL.Image.Image or ndarray
        The image under each draw.

    Attributes
    ----------
    figure_, axes_ : matplotlib Figure and ndarray of Axes, shape (n_draws + 1,)
        The figure, and the axes of each image, the original first.

    See Also
    --------
    sktransfer.preprocessing.ImageAugmentation : Random changes of training images.

    Examples
    --------
    >>> from sklearn.datasets import load_sample_image
    >>> from sktransfer.preprocessing import ImageAugmentation
    >>> from sktransfer.inspection import AugmentationDisplay
    >>> augmentation = ImageAugmentation(rotation_range=20, horizontal_flip=True)
    >>> display = AugmentationDisplay.from_augmentation(
    ...     augmentation, [load_sample_image("china.jpg")], n_draws=5
    ... )
    >>> len(display.axes_)
    6
    """

    original: DecodedImage
    images: list[DecodedImage]

    @classmethod
    def from_augmentation(
        cls,
        augmentation: Any,
        X: Any,
        *,
        row: int = 0,
        n_draws: int = 8,
        random_state: int | np.random.RandomState | None = 0,
        image_shape: tuple[int, ...] | None = None,
        value_range: tuple[float, float] | None = None,
        figure: Any = None,
    ) -> AugmentationDisplay:
        """Draw from an augmentation, and plot the draws.

        Parameters
        ----------
        augmentation : str, ImageAugmentation or callable
            Augmentation, as the parameter of :class:`~sktransfer.FineTuneClassifier`.
        X : collection of images, or a single path, ``bytes`` or Pillow image
            Images in any of the :ref:`accepted forms <accepted-inputs>`.
        row : int, default=0
            The image of ``X`` to show.
        n_draws : int, default=8
            Number of draws.
        random_state : int, RandomState instance or None, default=0
            Seed of the draws.
        image_shape, value_range : tuple or None, default=None
            Shape of raveled images, and values of black and white.
        figure : matplotlib Figure or SubFigure or None, default=None
            Figure to plot into. None makes a new one.

        Returns
        -------
        display : AugmentationDisplay
            The display, plotted.
        """
        if n_draws < 1:
            raise ValueError(f"n_draws must be at least 1; got {n_draws!r}.")
        if isinstance(X, (str, bytes, os.PathLike, Image.Image)):
            X = [X]
        source = as_image_source(X, image_shape=image_shape, value_range=value_range)
        if not -len(source) <= row < len(source):
            raise ValueError(f"row={row!r} is not in X, which has {len(source)} images.")
        resolved = resolve_augmentation(augmentation)
        if resolved is None:
            raise ValueError(
                "augmentation is None, so there is nothing to draw; pass a preset such as "
                "'light', an ImageAugmentation or a callable."
            )
        original = source.open(row % len(source)).decode()
        seeds = check_random_state(random_state).randint(np.iinfo(np.int32).max, size=n_draws)
        images = [resolved(original, int(seed)) for seed in seeds]
        return cls(original=original, images=images).plot(figure=figure)

    def plot(self, *, figure: Any = None, n_columns: int | None = None) -> AugmentationDisplay:
        """Plot the images in a grid.

        Parameters
        ----------
        figure : matplotlib Figure or SubFigure or None, default=None
            Figure to plot into. None makes a new one.
        n_columns : int or None, default=None
            Number of images in a row of the grid. None: a grid as square as possible.

        Returns
        -------
        display : AugmentationDisplay
            The display itself.
        """
        shown = [self.original, *self.images]
        columns = n_columns or math.ceil(math.sqrt(len(shown)))
        rows = math.ceil(len(shown) / columns)
        size = (2 * columns, 2.2 * rows)
        grid, self.figure_ = new_panels(figure, self, rows, columns, figsize=size)
        self.axes_ = grid.ravel()[: len(shown)]
        for axes in grid.ravel():
            axes.set_axis_off()
        for place, (axes, image) in enumerate(zip(self.axes_, shown, strict=True)):
            white = 255 if isinstance(image, Image.Image) else 1
            axes.imshow(np.asarray(image), cmap="gray", vmin=0, vmax=white)
            axes.set_title("original" if place == 0 else f"draw {place}", fontsize="small")
        return self
