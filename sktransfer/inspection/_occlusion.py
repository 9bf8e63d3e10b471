"""occlusion: what a score loses with each part of an image, for any estimator; never a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from sktransfer.inspection._editable import rows_of, scorer
from sktransfer.inspection._targets import class_codes

# Windows along the shorter side, where nothing is said.
_WINDOWS = 8


def occlusion(
    estimator: Any,
    X: Any,
    y: Any = None,
    *,
    patch: int | tuple[int, int] | None = None,
    stride: int | tuple[int, int] | None = None,
    fill: str | float = "mean",
    response_method: str = "auto",
    image_shape: tuple[int, ...] | None = None,
    batch_size: int = 64,
) -> list[np.ndarray]:
    """How much an estimator's score falls when a window of the image is covered [1]_.

    The estimator is only asked to predict, so it may be any: nothing has to be differentiable.

    Parameters
    ----------
    estimator : estimator instance
        Fitted classifier or regressor of images.
    X : collection of images, n rows
        In any of the :ref:`accepted forms <accepted-inputs>`. The estimator is given the covered
        images in the same form; files and Pillow images as Pillow images.
    y : array-like of shape (n,) or None, default=None
        The class of each row whose score is looked at. None: the one that is predicted.
    patch : int, (int, int) or None, default=None
        Height and width of the window in pixels of the image. None: an eighth of the shorter
        side.
    stride : int, (int, int) or None, default=None
        Steps of the window. None: half of it.
    fill : "mean" or float, default="mean"
        What covers: the mean of the image (of each channel), or a value as in ``X`` (of 0 to 255
        for files).
    response_method : {"auto", "decision_function", "predict_proba", "predict"}, default="auto"
        The score. "auto": the first of these that the estimator has. "predict" is for regressors.
    image_shape : tuple of int or None, default=None
        Of raveled images. None: that of the estimator, or square.
    batch_size : int, default=64
        Covered images per call.

    Returns
    -------
    list of ndarray of shape (height, width), float64
        For each row, in pixels of the image: the fall of the score, averaged over the windows
        that cover the pixel. Negative where the part spoke against the class.

    Raises
    ------
    ValueError
        If a parameter, or the form of ``X``, makes no sense; the message says what would.
    ImageDecodeError
        For the first row that cannot be read.

    See Also
    --------
    input_gradient : One pass per image, for what is differentiable.
    SaliencyDisplay : Maps drawn on the images.

    Notes
    -----
    Every covered image is a new one to an extractor, and goes into its store: set
    ``cache=False`` on the extractor, or call :func:`sktransfer.clear_cache`, where that matters.

    References
    ----------
    .. [1] Zeiler, M. D., & Fergus, R. (2014). "Visualizing and understanding convolutional
       networks". ECCV.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> from sktransfer.inspection import occlusion
    >>> X, y = load_digits(return_X_y=True)
    >>> forest = RandomForestClassifier(random_state=0).fit(X[:500], y[:500])
    >>> (fall,) = occlusion(forest, X[600:601], patch=2)
    >>> fall.shape
    (8, 8)
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more; got {batch_size!r}.")
    check_is_fitted(estimator)
    score = scorer(estimator, response_method)
    rows = rows_of(estimator, X, image_shape)
    codes = None
    if y is not None:
        if not hasattr(estimator, "classes_"):
            raise ValueError("y names classes, and a regressor has none; leave it None.")
        codes = class_codes(estimator.classes_, y, len(rows.pixels))
    maps = []
    for row, pixels in enumerate(rows.pixels):
        whole = score(rows.rebuilt([pixels]))[0]
        code = int(whole.argmax()) if codes is None else int(codes[row])

        def score_of(copies: list[np.ndarray], code: int = code) -> np.ndarray:
            return score(rows.rebuilt(copies))[:, code]

        maps.append(
            fall(pixels, whole[code], score_of, patch, stride, fill=fill, batch_size=batch_size)
        )
    return maps


def fall(
    pixels: np.ndarray,
    whole: float,
    score: Callable[[list[np.ndarray]], np.ndarray],
    patch: Any = None,
    stride: Any = None,
    *,
    fill: str | float = "mean",
    batch_size: int = 64,
) -> np.ndarray:
    """:func:`occlusion` of one array (h, w[, c]) with the score ``whole``."""
    height, width = pixels.shape[:2]
    window = _pair("patch", patch, (max(1, min(height, width) // _WINDOWS),) * 2)
    steps = _pair("stride", stride, (max(1, window[0] // 2), max(1, window[1] // 2)))
    places = [
        (slice(top, top + window[0]), slice(left, left + window[1]))
        for top in _starts(height, window[0], steps[0])
        for left in _starts(width, window[1], steps[1])
    ]
    cover = pixels.mean((0, 1)) if isinstance(fill, str) and fill == "mean" else fill
    if isinstance(cover, str):
        raise ValueError(f'fill must be "mean" or a number; got {fill!r}.')
    total, covered = np.zeros((height, width)), np.zeros((height, width))
    for low in range(0, len(places), batch_size):
        some = places[low : low + batch_size]
        copies = []
        for place in some:
            copy = pixels.copy()
            copy[place] = cover
            copies.append(copy)
        for place, value in zip(some, score(copies), strict=True):
            total[place] += whole - value
            covered[place] += 1
    # A stride longer than the window leaves gaps, of which nothing is known.
    return np.divide(total, covered, out=np.full_like(total, np.nan), where=covered > 0)


def _starts(length: int, window: int, step: int) -> Iterator[int]:
    """From edge to edge; the last window is moved back onto the image."""
    last = max(0, length - window)
    yield from range(0, last, step)
    yield last


def _pair(name: str, value: Any, default: tuple[int, int]) -> tuple[int, int]:
    if value is None:
        return default
    both = (value, value) if np.ndim(value) == 0 else tuple(value)
    if len(both) != 2 or any(int(each) != each or each < 1 for each in both):
        raise ValueError(f"{name} must be one or two positive numbers of pixels; got {value!r}.")
    return int(both[0]), int(both[1])
