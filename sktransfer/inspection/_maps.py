"""saliency_maps: maps of any method in pixels of the image; it must not know drawing."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.ndimage import map_coordinates

from sktransfer.inspection._images import as_shown, images_of
from sktransfer.inspection._methods import method_named
from sktransfer.inspection._occlusion import occlusion
from sktransfer.inspection._routes import Route, route_of
from sktransfer.inspection._targets import explained


def saliency_maps(
    estimator: Any, X: Any, y: Any = None, *, method: str = "gradient", **kwargs: Any
) -> list[np.ndarray]:
    """What a classifier's score depends on, in pixels of the images as they are in their files.

    Read more in the :ref:`User Guide <seeing-saliency>`.

    Parameters
    ----------
    estimator : FineTuneClassifier, Pipeline or other estimator instance
        Fitted.
    X : collection of images, n rows
        In any of the :ref:`accepted forms <accepted-inputs>`.
    y : array-like of shape (n,) or None, default=None
        The class of each row whose score is looked at. None: the one that is predicted.
    method : {"gradient", "integrated_gradients", "grad_cam", "occlusion"}, default="gradient"
        :func:`input_gradient`, of which the largest absolute value over the channels is taken;
        :func:`integrated_gradients`, summed over them; :func:`grad_cam`; or :func:`occlusion`.
    **kwargs
        Of that function, such as ``smooth``, ``layer`` or ``patch``.

    Returns
    -------
    list of ndarray of shape (height, width), float64
        Resizing and cropping are undone; NaN where the network saw nothing. Where
        ``preprocessing`` is a callable there is no telling where from, and the map is that of the
        network's input, (side, side).

    Raises
    ------
    TypeError, ValueError
        As the function does.
    ImageDecodeError
        For the first row that cannot be read.

    See Also
    --------
    SaliencyDisplay : Draws them.
    saliency_randomization_test : Whether a method's maps depend on what was learned.
    deletion_insertion_curves : Whether the score depends on what a map says.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sktransfer import PretrainedFeatureExtractor
    >>> from sktransfer.inspection import saliency_maps
    >>> X, y = load_digits(return_X_y=True)
    >>> feat = PretrainedFeatureExtractor(
    ...     "squeezenet1_1", weights=None, image_size=32, value_range=(0, 16)
    ... )
    >>> pipe = make_pipeline(feat, LogisticRegression(max_iter=1000)).fit(X[:50], y[:50])
    >>> [each.shape for each in saliency_maps(pipe, X[:2], smooth=4)]
    [(8, 8), (8, 8)]
    """
    return placed_maps(estimator, X, y, method=method, **kwargs)[1]


def placed_maps(
    estimator: Any, X: Any, y: Any, *, method: str, **kwargs: Any
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Images as matplotlib shows them, and :func:`saliency_maps` of the same sizes."""
    chosen = method_named(method)
    if method == "occlusion":
        maps = occlusion(estimator, X, y, **kwargs)
        source = images_of(estimator, X, kwargs.get("image_shape"))
        return [as_shown(source.open(row).decode()) for row in range(len(source))], maps
    batch_size = kwargs.pop("batch_size", 16)
    explain = chosen.maps(**kwargs)
    route = route_of(estimator)
    found = explained(route, X, y, explain, batch_size=batch_size)
    placed = [_placed(route, X, row, own) for row, own in enumerate(found)]
    return [image for image, _ in placed], [own for _, own in placed]


def _placed(route: Route, X: Any, row: int, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An image, and a map of the network's square on it."""
    source = route.images(X)
    image = as_shown(source.open(row).decode())
    height, width = image.shape[:2]
    box = route.preprocessing.box_in((width, height))
    if box is None:  # a callable made the input, and there is no telling where from
        values = route.batch(source, [row])[0].cpu().numpy().transpose(1, 2, 0)
        low, high = values.min(), values.max()
        return (values - low) / max(high - low, 1e-12), own.astype(np.float64)
    return image, on_image(own, box, (width, height))


def on_image(
    own: np.ndarray, box: tuple[float, float, float, float], size: tuple[int, int]
) -> np.ndarray:
    """A map of the network's square in pixels of the image.

    Parameters
    ----------
    own : ndarray of shape (side, side)
    box : tuple of float
        As :meth:`sktransfer._images.Preprocessing.box_in` gives it.
    size : (width, height)

    Returns
    -------
    ndarray of shape (height, width)
        Linear between the square's pixels; NaN outside.
    """
    side = len(own)
    places = []
    for length, low, high in zip(size, box[:2], box[2:], strict=True):
        # Middles of the image's pixels, in pixels of the square from its edge.
        places.append((np.arange(length) + 0.5 - low) * side / (high - low))
    x, y = np.meshgrid(*places)
    drawn = map_coordinates(own.astype(np.float64), [y - 0.5, x - 0.5], order=1, mode="nearest")
    drawn[(x < 0) | (x > side) | (y < 0) | (y > side)] = np.nan
    return drawn
