"""AugmentationDisplay: one image under several draws; it must not know training."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
from PIL import Image
from sklearn.utils import check_random_state

from sktransfer._images import DecodedImage, as_image_source, resolve_augmentation
from sktransfer._utils.config import import_optional


class AugmentationDisplay:
    """One image as it is, and as several draws of an augmentation have it.

    Make one with :meth:`from_augmentation`. Needs matplotlib (extra ``plot``) to plot.

    Parameters
    ----------
    original : PIL.Image.Image or ndarray
        The image as it is.
    images : list of PIL.Image.Image or ndarray
        The image under each draw.

    Attributes
    ----------
    figure_ : matplotlib Figure or SubFigure
        What it was plotted into.
    axes_ : ndarray of matplotlib Axes, shape (n_draws + 1,)
        One for each image, the original first.

    See Also
    --------
    sktransfer.preprocessing.ImageAugmentation : What may be done to a training image.

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

    def __init__(self, *, original: DecodedImage, images: list[DecodedImage]) -> None:
        self.original = original
        self.images = images

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
        """Draw, and plot.

        Parameters
        ----------
        augmentation : str, ImageAugmentation or callable
            As the ``augmentation`` of an estimator.
        X : collection of images, or a single path, ``bytes`` or Pillow image
            Any form that the estimators accept.
        row : int, default=0
            Which image of ``X``.
        n_draws : int, default=8
            How many draws.
        random_state : int, RandomState instance or None, default=0
            Decides the draws.
        image_shape, value_range : default=None
            As in :class:`~sktransfer.PretrainedFeatureExtractor`.
        figure : matplotlib Figure or SubFigure or None, default=None
            Where to plot. None makes a new one.

        Returns
        -------
        AugmentationDisplay
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
            Where to plot. None makes a new one.
        n_columns : int or None, default=None
            Images in a row of the grid. None: a grid as square as can be.

        Returns
        -------
        AugmentationDisplay
        """
        pyplot = import_optional(
            "matplotlib.pyplot", extra="plot", purpose="AugmentationDisplay.plot"
        )
        shown = [self.original, *self.images]
        columns = n_columns or math.ceil(math.sqrt(len(shown)))
        rows = math.ceil(len(shown) / columns)
        if figure is None:
            figure = pyplot.figure(figsize=(2 * columns, 2.2 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in grid:
            axes.set_axis_off()
        for place, (axes, image) in enumerate(zip(grid, shown, strict=False)):
            white = 255 if isinstance(image, Image.Image) else 1
            axes.imshow(np.asarray(image), cmap="gray", vmin=0, vmax=white)
            axes.set_title("original" if place == 0 else f"draw {place}", fontsize="small")
        self.figure_, self.axes_ = figure, grid[: len(shown)]
        return self
