"""deletion_insertion_curves: a score while an image goes and comes back in a map's order.

Any map and any estimator; it must not know networks, nor how curves are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from sktransfer.inspection._editable import rows_of, scorer
from sktransfer.inspection._maps import saliency_maps
from sktransfer.inspection._targets import class_codes

# Tiles along the shorter side; as wide as a tile, a blur leaves little of what is in it.
_TILES = 16
_METHODS = ("predict_proba", "decision_function", "predict")


@dataclass(frozen=True)
class DeletionInsertionCurves:
    """Scores of images while a map says what is deleted, and what is inserted, first.

    Attributes
    ----------
    fraction : ndarray of shape (n_steps + 1,)
        Share of the image that is deleted, or inserted, from 0 to 1.
    deletion, insertion : ndarray of shape (n, n_steps + 1)
        Scores of the rows.
    """

    fraction: np.ndarray
    deletion: np.ndarray
    insertion: np.ndarray

    @property
    def deletion_area(self) -> np.ndarray:
        """Area under the deletion curve of each row, (n,): small for a good map."""
        return np.trapezoid(self.deletion, self.fraction, axis=1)

    @property
    def insertion_area(self) -> np.ndarray:
        """Area under the insertion curve of each row, (n,): large for a good map."""
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
    """How a score falls as what a map calls important is deleted, and rises as it is inserted [1]_.

    A map is faithful to a model if the score falls sooner, and rises sooner, than in a random
    order: compare with ``maps="random"``. The estimator is only asked to predict, so it may be any.

    Read more in the :ref:`User Guide <seeing-trust>`.

    Parameters
    ----------
    estimator : estimator instance
        Fitted classifier or regressor of images.
    X : collection of images, n rows
        In any of the :ref:`accepted forms <accepted-inputs>`.
    y : array-like of shape (n,) or None, default=None
        The class of each row whose score is looked at. None: the one that is predicted.
    maps : str or list of ndarray of shape (height, width), default="gradient"
        Of the sizes of the images, NaN where nothing is known, which comes last; or the
        ``method`` of :func:`saliency_maps` that makes them; or ``"random"``.
    patch : int or None, default=None
        Images are deleted and inserted in tiles of so many pixels a side, in the order of their
        means. None: a sixteenth of the shorter side. 1: pixel by pixel, as in [1]_; an order that
        scatters pixels then looks better than it is, since noise is what the model has never seen
        [2]_.
    n_steps : int, default=32
        Steps from the whole image to nothing.
    deletion_fill : {"mean", "blur"} or float, default="mean"
        What deleted tiles have instead: the mean of the image (of each channel), the blurred
        image, or a value as in ``X`` (of 0 to 255 for files).
    insertion_fill : {"mean", "blur"} or float, default="blur"
        What an image is before anything is inserted. Its blur has a standard deviation of a
        sixteenth of the shorter side.
    response_method : {"auto", "predict_proba", "decision_function", "predict"}, default="auto"
        The score. "auto": the first of these that the estimator has. "predict" is for regressors.
    image_shape : tuple of int or None, default=None
        Of raveled images. None: that of the estimator, or square.
    batch_size : int, default=64
        Edited images per call.
    random_state : int, RandomState instance or None, default=0
        Of the order of tiles that are equal, and of ``maps="random"``.

    Returns
    -------
    DeletionInsertionCurves

    Raises
    ------
    ValueError
        If a parameter makes no sense, or maps are not of the sizes of the images.
    TypeError
        As :func:`saliency_maps`.
    ImageDecodeError
        For the first row that cannot be read.

    See Also
    --------
    DeletionInsertionDisplay : Draws curves of several maps.
    saliency_randomization_test : Whether a method's maps depend on what was learned.

    Notes
    -----
    Every edited image is a new one to an extractor, and goes into its store: set ``cache=False``
    on the extractor, or call :func:`sktransfer.clear_cache`, where that matters.

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
    >>> bool(curves.insertion_area.mean() > chance.insertion_area.mean())
    True
    """
    for name, value in (("n_steps", n_steps), ("batch_size", batch_size), ("patch", patch)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be 1 or more; got {value!r}.")
    check_is_fitted(estimator)
    score = scorer(estimator, response_method, auto=_METHODS)
    rows = rows_of(estimator, X, image_shape)
    n = len(rows.pixels)
    codes = None
    if y is not None:
        if not hasattr(estimator, "classes_"):
            raise ValueError("y names classes, and a regressor has none; leave it None.")
        codes = class_codes(estimator.classes_, y, n)
    rng = check_random_state(random_state)
    own_maps = _maps_of(estimator, X, y, maps, rows.pixels, image_shape, rng)
    deletion, insertion = np.empty((2, n, n_steps + 1))
    for row, (pixels, own) in enumerate(zip(rows.pixels, own_maps, strict=True)):
        code = int(score(rows.rebuilt([pixels]))[0].argmax()) if codes is None else int(codes[row])
        ranks, n_tiles = _ranks(own, patch, rng)
        gone = [ranks < round(step / n_steps * n_tiles) for step in range(n_steps + 1)]

        def scores(make: Callable[[np.ndarray], np.ndarray], steps: list, code: int) -> np.ndarray:
            parts = []
            for low in range(0, len(steps), batch_size):
                edited = [make(where) for where in steps[low : low + batch_size]]
                parts.append(score(rows.rebuilt(edited))[:, code])
            return np.concatenate(parts)

        deletion[row] = scores(_mixer(pixels, "deletion_fill", deletion_fill, True), gone, code)
        insertion[row] = scores(_mixer(pixels, "insertion_fill", insertion_fill, False), gone, code)
    return DeletionInsertionCurves(np.linspace(0, 1, n_steps + 1), deletion, insertion)


def _maps_of(
    estimator: Any,
    X: Any,
    y: Any,
    maps: Any,
    pixels: Any,
    image_shape: Any,
    rng: np.random.RandomState,
) -> Sequence[np.ndarray]:
    sizes = [each.shape[:2] for each in pixels]
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
                f"maps: that of row {row} is of shape {np.shape(own)}, and its image of "
                f"{size}. saliency_maps makes maps in pixels of the image."
            )
    return maps


def _ranks(own: np.ndarray, patch: int | None, rng: np.random.RandomState) -> tuple[Any, int]:
    """For each pixel the place of its tile in the order, (h, w), and how many tiles there are."""
    height, width = own.shape
    side = max(1, min(height, width) // _TILES) if patch is None else patch
    down, across = -(-height // side), -(-width // side)
    tiles = (np.arange(height) // side)[:, None] * across + np.arange(width) // side
    known = np.isfinite(own)
    counts = np.bincount(tiles.ravel(), known.ravel(), down * across)
    sums = np.bincount(tiles.ravel(), np.where(known, own, 0).ravel(), down * across)
    means = np.divide(sums, counts, out=np.full(len(sums), -np.inf), where=counts > 0)
    # Equal tiles, of which coarse maps have many, in no order of their places.
    order = np.lexsort((rng.permutation(len(means)), -means))
    places = np.empty(len(order), dtype=int)
    places[order] = np.arange(len(order))
    return places[tiles], len(means)


def _mixer(
    pixels: np.ndarray, name: str, fill: Any, deletes: bool
) -> Callable[[np.ndarray], np.ndarray]:
    """From the places that were treated to the image as it is then."""
    other = _filled(pixels, name, fill)

    def mixed(treated: np.ndarray) -> np.ndarray:
        where = treated if pixels.ndim == 2 else treated[:, :, None]
        return np.where(where, other, pixels) if deletes else np.where(where, pixels, other)

    return mixed


def _filled(pixels: np.ndarray, name: str, fill: Any) -> np.ndarray:
    """An image without content, of the same shape and dtype."""
    if isinstance(fill, str) and fill == "blur":
        sigma = min(pixels.shape[:2]) / _TILES
        values = gaussian_filter(pixels.astype(np.float64), (sigma, sigma, 0)[: pixels.ndim])
    elif isinstance(fill, str) and fill == "mean":
        values = np.broadcast_to(pixels.mean((0, 1)), pixels.shape)
    elif isinstance(fill, str):
        raise ValueError(f'{name} must be "mean", "blur" or a number; got {fill!r}.')
    else:
        values = np.full(pixels.shape, fill, dtype=np.float64)
    return (np.rint(values) if pixels.dtype.kind in "bui" else values).astype(pixels.dtype)
