"""occlusion: how much a score falls when parts of an image are covered, for any estimator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from sktransfer.inspection._estimator_images import Score, scored_images

# Windows along the shorter side, by default.
_WINDOWS = 8
_METHODS = ("decision_function", "predict_proba", "predict")


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
    """Compute how much an estimator's score falls when a window of the image is covered [1]_.

    The estimator only predicts, so any estimator will do: nothing has to be differentiable.

    Parameters
    ----------
    estimator : estimator instance
        Fitted classifier or regressor of images. An extractor in it caches the features of every
        covered image; where that matters, set its ``cache=False``.
    X : collection of images, n rows
        Images in any of the :ref:`accepted forms <accepted-inputs>`. The covered images are passed
        to the estimator in the same form; files and Pillow images as Pillow images.
    y : array-like of shape (n,) or None, default=None
        The class of each row whose score is explained. None: the predicted class.
    patch : int, (int, int) or None, default=None
        Height and width of the window in pixels. None: an eighth of the image's shorter side.
    stride : int, (int, int) or None, default=None
        Vertical and horizontal step of the window in pixels. None: half of the window.
    fill : "mean" or float, default="mean"
        What covers the window: the mean of each channel, or a value as in ``X`` (files: to 255).
    response_method : {"auto", "decision_function", "predict_proba", "predict"}, default="auto"
        The method that gives the score. "auto": the first of these that the estimator has.
        "predict" is for regressors.
    image_shape : tuple of int or None, default=None
        Shape of raveled images. None: that of the estimator, or square.
    batch_size : int, default=64
        Number of covered images per call of the estimator.

    Returns
    -------
    maps : list of ndarray of shape (height, width), float64
        The fall of the score at each pixel, averaged over the windows that cover it: negative
        where it is evidence against the class, NaN between windows that leave gaps.

    See Also
    --------
    input_gradient : Compute gradients, in one pass per image, where there are any.
    SaliencyDisplay : Draw maps on the images.

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
    images, scores = scored_images(
        estimator, X, y, response_method=response_method, auto=_METHODS, image_shape=image_shape
    )
    return [
        fall(image, score, patch=patch, stride=stride, fill=fill, batch_size=batch_size)
        for image, score in zip(images, scores, strict=True)
    ]


def fall(
    image: np.ndarray,
    score: Score,
    *,
    patch: Any = None,
    stride: Any = None,
    fill: str | float = "mean",
    batch_size: int = 64,
) -> np.ndarray:
    """Return :func:`occlusion` of one array (h, w[, c]), whose edited copies ``score`` scores."""
    height, width = image.shape[:2]
    window = _pair("patch", patch, (max(1, min(height, width) // _WINDOWS),) * 2)
    steps = _pair("stride", stride, (max(1, window[0] // 2), max(1, window[1] // 2)))
    places = [
        (slice(top, top + window[0]), slice(left, left + window[1]))
        for top in _starts(height, window[0], steps[0])
        for left in _starts(width, window[1], steps[1])
    ]
    cover = image.mean((0, 1)) if isinstance(fill, str) and fill == "mean" else fill
    if isinstance(cover, str):
        raise ValueError(f'fill must be "mean" or a number; got {fill!r}.')
    (whole,) = score([image])
    total, covered = np.zeros((height, width)), np.zeros((height, width))
    for low in range(0, len(places), batch_size):
        batch = places[low : low + batch_size]
        copies = []
        for place in batch:
            copies.append(image.copy())
            copies[-1][place] = cover
        for place, value in zip(batch, score(copies), strict=True):
            total[place] += whole - value
            covered[place] += 1
    # A stride longer than the window leaves gaps.
    return np.divide(total, covered, out=np.full_like(total, np.nan), where=covered > 0)


def _starts(length: int, window: int, step: int) -> Iterator[int]:
    """Yield where windows start; the last one is moved back onto the image."""
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
