"""SaliencyDisplay: maps drawn on the pictures people know; it must not know how maps are made."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.ndimage import map_coordinates

from sktransfer._config import import_optional
from sktransfer.inspection._gradient import gradients
from sktransfer.inspection._occlusion import occlusion
from sktransfer.inspection._pictures import as_shown, pictures_of
from sktransfer.inspection._routes import Route, route_of

# One strong pixel of a gradient would leave nothing else to be seen.
_WHITE_AT = 99.5
_STRONGEST = 0.85


class SaliencyDisplay:
    """Pictures, and beside each what a classifier's score hangs on.

    Make one with :meth:`from_estimator`. Needs matplotlib (extra ``plot``) to plot. The map lies on
    the picture as it is in the file: cropping and resizing are undone, and what was cropped away,
    which the network never saw, is pale.

    Read more in the :ref:`User Guide <seeing-saliency>`.

    Parameters
    ----------
    pictures : list of ndarray of shape (h, w, 3)
        Values from 0 to 1.
    maps : list of ndarray of shape (h, w)
        Of the same sizes; NaN where the network sees nothing.
    signed : bool, default=False
        Whether negative values mean something of their own.
    titles : list of str or None, default=None
        Of the pictures.

    Attributes
    ----------
    figure_ : matplotlib Figure or SubFigure
    axes_ : ndarray of matplotlib Axes, shape (n, 2)
        Picture, and map on picture.
    images_ : list of matplotlib AxesImage
        The maps.
    colorbars_ : list of matplotlib Colorbar

    See Also
    --------
    input_gradient, occlusion : The maps alone.

    Notes
    -----
    A map says what moves this model's score. It does not say where a disease is, nor what causes
    what, and a plausible map is no evidence that the model is right [1]_.

    References
    ----------
    .. [1] Adebayo, J., et al. (2018). "Sanity checks for saliency maps". NeurIPS.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sktransfer import PretrainedFeatureExtractor
    >>> from sktransfer.inspection import SaliencyDisplay
    >>> X, y = load_digits(return_X_y=True)
    >>> feat = PretrainedFeatureExtractor(
    ...     "squeezenet1_1", weights=None, image_size=32, value_range=(0, 16)
    ... )
    >>> pipe = make_pipeline(feat, LogisticRegression(max_iter=1000)).fit(X[:50], y[:50])
    >>> display = SaliencyDisplay.from_estimator(pipe, X[:2], y[:2])
    >>> display.maps[0].shape
    (8, 8)
    """

    def __init__(
        self,
        *,
        pictures: list[np.ndarray],
        maps: list[np.ndarray],
        signed: bool = False,
        titles: list[str] | None = None,
    ) -> None:
        self.pictures = pictures
        self.maps = maps
        self.signed = signed
        self.titles = titles

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any = None,
        *,
        method: str = "gradient",
        figure: Any = None,
        **kwargs: Any,
    ) -> SaliencyDisplay:
        """Make maps, and plot.

        Parameters
        ----------
        estimator : FineTuneClassifier, Pipeline or other estimator instance
            Fitted.
        X : collection of pictures, n rows
            A handful.
        y : array-like of shape (n,) or None, default=None
            The class of each row whose score is looked at. None: the one that is predicted.
        method : {"gradient", "occlusion"}, default="gradient"
            :func:`input_gradient`, of which the largest absolute value over the channels is shown;
            or :func:`occlusion`.
        figure : matplotlib Figure or SubFigure or None, default=None
            Where to plot. None makes a new one.
        **kwargs
            Of that function, such as ``smooth`` or ``patch``.

        Returns
        -------
        SaliencyDisplay

        Raises
        ------
        TypeError, ValueError
            As the function does.
        """
        if method not in ("gradient", "occlusion"):
            raise ValueError(f'method must be "gradient" or "occlusion"; got {method!r}.')
        titles = None if y is None else [str(label) for label in y]
        if method == "gradient":
            route = route_of(estimator)
            found = np.abs(gradients(route, X, y, **kwargs)).max(axis=1)
            placed = [_placed(route, X, row, own) for row, own in enumerate(found)]
            pictures, maps = [each for each, _ in placed], [each for _, each in placed]
        else:
            maps = occlusion(estimator, X, y, **kwargs)
            shape = {k: v for k, v in kwargs.items() if k == "image_shape"}
            source = pictures_of(estimator, X, **shape)
            pictures = [as_shown(source.open(row).decode()) for row in range(len(source))]
        display = cls(pictures=pictures, maps=maps, signed=method == "occlusion", titles=titles)
        return display.plot(figure=figure)

    def plot(self, *, figure: Any = None, cmap: str | None = None) -> SaliencyDisplay:
        """Plot a row for each picture.

        Parameters
        ----------
        figure : matplotlib Figure or SubFigure or None, default=None
            Where to plot. None makes a new one.
        cmap : str or None, default=None
            Colours of the maps. None: "inferno", or "PuOr_r" for maps with a sign.

        Returns
        -------
        SaliencyDisplay
        """
        pyplot = import_optional("matplotlib.pyplot", extra="plot", purpose="SaliencyDisplay.plot")
        n = len(self.pictures)
        if figure is None:
            figure = pyplot.figure(figsize=(6.2, 2.8 * n), layout="constrained")
        self.figure_ = figure
        self.axes_ = figure.subplots(n, 2, squeeze=False)
        self.images_, self.colorbars_ = [], []
        for row, (picture, own) in enumerate(zip(self.pictures, self.maps, strict=True)):
            left, right = self.axes_[row]
            strength = np.abs(own)
            top = float(np.nanpercentile(strength, _WHITE_AT)) or 1.0
            left.imshow(picture)
            # Pale where nothing is seen, grey below the colours of the map.
            grey = np.repeat(picture.mean(2, keepdims=True), 3, axis=2)
            grey = np.where(np.isnan(own)[:, :, None], 0.75 + 0.25 * grey, grey)
            right.imshow(grey)
            image = right.imshow(
                own,
                cmap=cmap or ("PuOr_r" if self.signed else "inferno"),
                vmin=-top if self.signed else 0.0,
                vmax=top,
                alpha=np.nan_to_num((strength / top).clip(0, 1) ** 0.5 * _STRONGEST),
            )
            self.images_.append(image)
            self.colorbars_.append(figure.colorbar(image, ax=right, fraction=0.046, pad=0.03))
            for axes in (left, right):
                axes.set(xticks=[], yticks=[])
            if self.titles is not None:
                left.set_title(self.titles[row], fontsize="medium")
            if row == 0:
                what = "fall of the score" if self.signed else "|gradient|"
                right.set_title(what, fontsize="medium")
        return self


def _placed(route: Route, X: Any, row: int, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A picture, and a map of the network's square on it."""
    source = route.pictures(X)
    picture = as_shown(source.open(row).decode())
    height, width = picture.shape[:2]
    box = route.preprocessing.box_in((width, height))
    if box is None:  # a callable made the input, and there is no telling where from
        values = route.batch(source, [row])[0].cpu().numpy().transpose(1, 2, 0)
        low, high = values.min(), values.max()
        return (values - low) / max(high - low, 1e-12), own
    return picture, on_picture(own, box, (width, height))


def on_picture(
    own: np.ndarray, box: tuple[float, float, float, float], size: tuple[int, int]
) -> np.ndarray:
    """A map of the network's square in pixels of the picture.

    Parameters
    ----------
    own : ndarray of shape (side, side)
    box : tuple of float
        As :meth:`sktransfer.images.Preprocessing.box_in` gives it.
    size : (width, height)

    Returns
    -------
    ndarray of shape (height, width)
        Linear between the square's pixels; NaN outside.
    """
    side = len(own)
    places = []
    for length, low, high in zip(size, box[:2], box[2:], strict=True):
        # Middles of the picture's pixels, in pixels of the square from its edge.
        places.append((np.arange(length) + 0.5 - low) * side / (high - low))
    x, y = np.meshgrid(*places)
    drawn = map_coordinates(own.astype(np.float64), [y - 0.5, x - 0.5], order=1, mode="nearest")
    drawn[(x < 0) | (x > side) | (y < 0) | (y > side)] = np.nan
    return drawn
