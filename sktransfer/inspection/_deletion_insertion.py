"""Deletion and insertion curves: how a score changes as a map's most important parts come and go.

Any map and any estimator will do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter
from sklearn.utils import check_random_state

from sktransfer._utils.notebooks import card
from sktransfer._utils.plotting import finish_axes, new_panels, palette_color, styled
from sktransfer.inspection._estimator_images import scored_images
from sktransfer.inspection._saliency import saliency_maps

# Tiles along the shorter side; a blur as wide as a tile leaves little of what is in it.
_TILES = 16
_METHODS = ("predict_proba", "decision_function", "predict")
# Styles that differ on paper without colors.
_STYLES = ("-", "--", "-.", (0, (5, 1, 1, 1, 1, 1)))
_CHANCE = {"color": "0.35", "linestyle": ":"}
_PANELS = {
    "deletion": ("Deletion (lower is better)", "Share of the image deleted"),
    "insertion": ("Insertion (higher is better)", "Share of the image inserted"),
}


@dataclass(frozen=True)
class DeletionInsertionCurves:
    """Scores of images while parts are deleted, and inserted, in the order of a map.

    Parameters
    ----------
    fraction : ndarray of shape (n_steps + 1,)
        Share of the image that is deleted, or inserted, from 0 to 1.
    deletion, insertion : ndarray of shape (n, n_steps + 1)
        Scores of the rows while their images are deleted, and inserted.

    See Also
    --------
    deletion_insertion_curves : Compute the curves of a map.
    DeletionInsertionDisplay : Plot curves of several maps.

    Examples
    --------
    >>> import numpy as np
    >>> from sktransfer.inspection import DeletionInsertionCurves
    >>> curves = DeletionInsertionCurves(
    ...     fraction=np.array([0, 0.5, 1]),
    ...     deletion=np.array([[0.9, 0.3, 0.1]]),
    ...     insertion=np.array([[0.1, 0.7, 0.9]]),
    ... )
    >>> curves.deletion_area.round(2), curves.insertion_area.round(2)
    (array([0.4]), array([0.6]))
    """

    fraction: np.ndarray
    deletion: np.ndarray
    insertion: np.ndarray

    def _repr_html_(self) -> str:
        areas = {
            "deletion (lower is better)": self.deletion_area,
            "insertion (higher is better)": self.insertion_area,
        }
        rows = [(name, area.mean(), area.min(), area.max()) for name, area in areas.items()]
        table = pd.DataFrame(rows, columns=["curve", "mean area", "lowest", "highest"])
        lines = [f"{len(self.deletion)} images, {len(self.fraction) - 1} steps."]
        return card(type(self).__name__, lines, {"Areas under the curves": table})

    @property
    def deletion_area(self) -> np.ndarray:
        """Return the area under the deletion curve of each row, (n,): small for a good map."""
        return np.trapezoid(self.deletion, self.fraction, axis=1)

    @property
    def insertion_area(self) -> np.ndarray:
        """Return the area under the insertion curve of each row, (n,): large for a good map."""
        return np.trapezoid(self.insertion, self.fraction, axis=1)


def deletion_insertion_curves(
    estimator: Any,
    X: Any,
    y: Any = None,
    *,
    maps: str | Sequence[np.ndarray] = "gradient",
    patch: int | None = None,
    n_steps: int = 32,
    deletion_fill: str | float = "mean",
    insertion_fill: str | float = "blur",
    response_method: str = "auto",
    image_shape: tuple[int, ...] | None = None,
    batch_size: int = 64,
    random_state: int | np.random.RandomState | None = 0,
) -> DeletionInsertionCurves:
    """Compute how a score falls as the important parts of an image are deleted or inserted [1]_.

    A map is faithful to a model if the score falls sooner, and rises sooner, than in a random
    order: compare with ``maps="random"``. The estimator only predicts, so any estimator will do.

    Read more in the :ref:`User Guide <inspection-trust>`.

    Parameters
    ----------
    estimator : estimator instance
        Fitted classifier or regressor of images. An extractor in it caches the features of every
        edited image; where that matters, set its ``cache=False``.
    X : collection of images, n rows
        Images in any of the :ref:`accepted forms <accepted-inputs>`.
    y : array-like of shape (n,) or None, default=None
        The class of each row whose score is explained. None: the predicted class.
    maps : str or list of ndarray of shape (height, width), default="gradient"
        A map of the size of each image, where NaN comes last; or the ``method`` of
        :func:`saliency_maps` that computes them; or ``"random"``.
    patch : int or None, default=None
        Side in pixels of the tiles in which images are deleted and inserted, in the order of the
        tiles' means. None: a sixteenth of the shorter side. 1: pixel by pixel, as in [1]_, which
        flatters scattered orders, since the model has never seen such noise [2]_.
    n_steps : int, default=32
        Number of steps from the whole image to nothing.
    deletion_fill : {"mean", "blur"} or float, default="mean"
        What replaces deleted tiles: the mean of each channel, the blurred image (with a standard
        deviation of a sixteenth of the shorter side), or a value as in ``X`` (files: 0 to 255).
    insertion_fill : {"mean", "blur"} or float, default="blur"
        What an image is before anything is inserted, in the same terms.
    response_method : {"auto", "predict_proba", "decision_function", "predict"}, default="auto"
        The method that gives the score. "auto": the first of these that the estimator has.
        "predict" is for regressors.
    image_shape : tuple of int or None, default=None
        Shape of raveled images. None: that of the estimator, or square.
    batch_size : int, default=64
        Number of edited images per call of the estimator.
    random_state : int, RandomState instance or None, default=0
        Seed of the order of equal tiles, and of ``maps="random"``.

    Returns
    -------
    curves : DeletionInsertionCurves
        An object with the arrays ``fraction`` (n_steps + 1,), ``deletion`` and ``insertion``
        (n, n_steps + 1), ``deletion_area`` and ``insertion_area`` (n,).

    See Also
    --------
    DeletionInsertionDisplay : Plot curves of several maps.
    saliency_randomization_test : Test whether a method's maps depend on what was learned.

    References
    ----------
    .. [1] Petsiuk, V., Das, A., & Saenko, K. (2018). "RISE: randomized input sampling for
       explanation of black-box models". BMVC.
    .. [2] Samek, W., et al. (2017). "Evaluating the visualization of what a deep neural network has
       learned". IEEE Transactions on Neural Networks and Learning Systems, 28(11), 2660-2673.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> from sktransfer.inspection import deletion_insertion_curves
    >>> X, y = load_digits(return_X_y=True)
    >>> forest = RandomForestClassifier(random_state=0).fit(X[:500], y[:500])
    >>> curves, chance = (
    ...     deletion_insertion_curves(forest, X[600:620], maps=maps, patch=1, n_steps=16)
    ...     for maps in ("occlusion", "random")
    ... )
    >>> bool(curves.deletion_area.mean() < chance.deletion_area.mean())
    True
    """
    for name, value in (("n_steps", n_steps), ("batch_size", batch_size), ("patch", patch)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be 1 or more; got {value!r}.")
    images, scores = scored_images(
        estimator, X, y, response_method=response_method, auto=_METHODS, image_shape=image_shape
    )
    rng = check_random_state(random_state)
    own_maps = _maps_of(estimator, X, y, maps, images, image_shape, rng)
    deletion, insertion = np.empty((2, len(images), n_steps + 1))
    for row, (image, own, score) in enumerate(zip(images, own_maps, scores, strict=True)):
        ranks, n_tiles = _ranks(own, patch, rng)
        gone = _filled(image, "deletion_fill", deletion_fill)
        blank = _filled(image, "insertion_fill", insertion_fill)
        for low in range(0, n_steps + 1, batch_size):
            steps = np.arange(low, min(low + batch_size, n_steps + 1))
            limits = [round(step / n_steps * n_tiles) for step in steps]
            deletion[row, steps] = score([_edit(image, gone, ranks < n) for n in limits])
            insertion[row, steps] = score([_edit(blank, image, ranks < n) for n in limits])
    return DeletionInsertionCurves(np.linspace(0, 1, n_steps + 1), deletion, insertion)


def _maps_of(
    estimator: Any,
    X: Any,
    y: Any,
    maps: Any,
    images: Sequence[np.ndarray],
    image_shape: Any,
    rng: np.random.RandomState,
) -> Sequence[np.ndarray]:
    """Return a map of the size of each image: given, computed or random."""
    sizes = [image.shape[:2] for image in images]
    if isinstance(maps, str):
        if maps == "random":
            return [rng.uniform(size=size) for size in sizes]
        shape = {"image_shape": image_shape} if maps == "occlusion" else {}
        maps = saliency_maps(estimator, X, y, method=maps, **shape)
    if len(maps) != len(sizes):
        raise ValueError(f"maps: one for each of {len(sizes)} images is needed; got {len(maps)}.")
    for row, (own, size) in enumerate(zip(maps, sizes, strict=True)):
        if np.shape(own) != size:
            raise ValueError(
                f"maps: the map of row {row} is of shape {np.shape(own)}, but its image is of "
                f"shape {size}. Use saliency_maps, which computes maps in pixels of the image."
            )
    return maps


def _ranks(own: np.ndarray, patch: int | None, rng: np.random.RandomState) -> tuple[Any, int]:
    """Return the rank of each pixel's tile, (h, w), and the number of tiles."""
    height, width = own.shape
    side = max(1, min(height, width) // _TILES) if patch is None else patch
    down, across = -(-height // side), -(-width // side)
    tiles = (np.arange(height) // side)[:, None] * across + np.arange(width) // side
    known = np.isfinite(own)
    counts = np.bincount(tiles.ravel(), known.ravel(), down * across)
    sums = np.bincount(tiles.ravel(), np.where(known, own, 0).ravel(), down * across)
    means = np.divide(sums, counts, out=np.full(len(sums), -np.inf), where=counts > 0)
    # Equal tiles, of which coarse maps have many, in random order.
    order = np.lexsort((rng.permutation(len(means)), -means))
    return np.argsort(order)[tiles], len(means)


def _edit(before: np.ndarray, after: np.ndarray, where: np.ndarray) -> np.ndarray:
    return np.where(where if before.ndim == 2 else where[:, :, None], after, before)


def _filled(image: np.ndarray, name: str, fill: Any) -> np.ndarray:
    """Return an image without content, of the same shape and dtype."""
    if isinstance(fill, str) and fill == "blur":
        sigma = min(image.shape[:2]) / _TILES
        values = gaussian_filter(image.astype(np.float64), (sigma, sigma, 0)[: image.ndim])
    elif isinstance(fill, str) and fill == "mean":
        values = np.broadcast_to(image.mean((0, 1)), image.shape)
    elif isinstance(fill, str):
        raise ValueError(f'{name} must be "mean", "blur" or a number; got {fill!r}.')
    else:
        values = np.full(image.shape, fill, dtype=np.float64)
    return (np.rint(values) if image.dtype.kind in "bui" else values).astype(image.dtype)


@dataclass(kw_only=True, eq=False, repr=False)
class DeletionInsertionDisplay:
    """Plot of deletion and insertion curves of several kinds of maps.

    Use :meth:`from_estimator` to create one. Plotting needs matplotlib (extra ``plot``). Lines are
    means over the images; the legend has the mean area under each.

    Read more in the :ref:`User Guide <inspection-trust>`.

    Parameters
    ----------
    curves : dict of str to DeletionInsertionCurves
        Curves by the names of the maps. ``"random"`` is drawn as chance.

    Attributes
    ----------
    figure_, axes_ : matplotlib Figure and ndarray of Axes, shape (2,)
        The figure, and the axes of deletion and insertion.
    lines_ : dict of (name, "deletion" or "insertion") to matplotlib Line2D
        The mean curves.
    fill_between_ : dict of (name, "deletion" or "insertion") to matplotlib PolyCollection
        Intervals of the means; empty without them.

    See Also
    --------
    deletion_insertion_curves : Compute the curves of one kind of map.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> from sktransfer.inspection import DeletionInsertionDisplay
    >>> X, y = load_digits(return_X_y=True)
    >>> forest = RandomForestClassifier(random_state=0).fit(X[:500], y[:500])
    >>> display = DeletionInsertionDisplay.from_estimator(
    ...     forest, X[600:605], maps=["occlusion", "random"], patch=1, n_steps=8
    ... )
    >>> list(display.curves)
    ['occlusion', 'random']
    """

    curves: Mapping[str, DeletionInsertionCurves]

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any = None,
        *,
        maps: Sequence[str] | Mapping[str, Any] = ("gradient", "random"),
        figure: Any = None,
        show_interval: bool = True,
        line_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> DeletionInsertionDisplay:
        """Compute the curves of several kinds of maps, and plot them.

        Parameters
        ----------
        estimator : estimator instance
            Fitted classifier or regressor of images.
        X : collection of images, n rows
            Images in any of the :ref:`accepted forms <accepted-inputs>`.
        y : array-like of shape (n,) or None, default=None
            The class of each row whose score is explained. None: the predicted class.
        maps : sequence of str, or dict, default=("gradient", "random")
            Maps as for :func:`deletion_insertion_curves`; in a dict, by names for the legend.
        figure : matplotlib Figure or SubFigure or None, default=None
            Figure to plot into. None makes a new one.
        show_interval : bool, default=True
            Whether to show 95% intervals of the means (normal; over the images).
        line_kwargs : dict or None, default=None
            Keyword arguments for matplotlib's ``plot`` of the curves.
        **kwargs : dict
            Further parameters of :func:`deletion_insertion_curves`, such as ``patch``.

        Returns
        -------
        display : DeletionInsertionDisplay
            The display, plotted.
        """
        if isinstance(maps, str):
            maps = (maps,)
        named = maps if isinstance(maps, Mapping) else {name: name for name in maps}
        if not named:
            raise ValueError("maps must name at least one kind of map; got none.")
        curves = {
            str(name): deletion_insertion_curves(estimator, X, y, maps=own, **kwargs)
            for name, own in named.items()
        }
        display = cls(curves=curves)
        return display.plot(figure=figure, show_interval=show_interval, line_kwargs=line_kwargs)

    def plot(
        self,
        *,
        figure: Any = None,
        show_interval: bool = True,
        line_kwargs: dict[str, Any] | None = None,
    ) -> DeletionInsertionDisplay:
        """Plot two panels.

        Parameters
        ----------
        figure : matplotlib Figure or SubFigure or None, default=None
            Figure to plot into. None makes a new one.
        show_interval : bool, default=True
            Whether to show 95% intervals of the means (normal; over the images).
        line_kwargs : dict or None, default=None
            Keyword arguments for matplotlib's ``plot`` of the curves.

        Returns
        -------
        display : DeletionInsertionDisplay
            The display itself.
        """
        grid, self.figure_ = new_panels(figure, self, 1, 2, figsize=(8.8, 4.4), sharey=True)
        self.axes_ = grid[0]
        self.lines_: dict[tuple[str, str], Any] = {}
        self.fill_between_: dict[tuple[str, str], Any] = {}
        for ax, (part, (title, share)) in zip(self.axes_, _PANELS.items(), strict=True):
            for number, (name, curves) in enumerate(self.curves.items()):
                scores, area = getattr(curves, part), getattr(curves, f"{part}_area").mean()
                linestyle = _STYLES[number % len(_STYLES)]
                style: dict[str, Any] = {"color": palette_color(number), "linestyle": linestyle}
                own = _CHANCE if name == "random" else style
                style = styled(line_kwargs, label=f"{name} (area {area:.2f})", **own)
                mean = scores.mean(axis=0)
                (line,) = ax.plot(curves.fraction, mean, **style)
                self.lines_[name, part] = line
                if show_interval and len(scores) > 1:
                    wide = 1.96 * scores.std(axis=0, ddof=1) / np.sqrt(len(scores))
                    self.fill_between_[name, part] = ax.fill_between(
                        curves.fraction,
                        mean - wide,
                        mean + wide,
                        color=line.get_color(),
                        alpha=0.15,
                        linewidth=0,
                    )
            ax.set_title(title, fontsize="medium")
            # Below: curves pass through every corner of the panel.
            below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.17), "ncols": 2}
            finish_axes(ax, legend=below, xlabel=share, xlim=(0, 1))
        self.axes_[0].set_ylabel("Score of the class")
        return self
