"""SaliencyDisplay: maps drawn on the images people know; it must not know how maps are made."""

from __future__ import annotations

from typing import Any

import numpy as np

from sktransfer._utils.config import import_optional
from sktransfer.inspection._maps import placed_maps
from sktransfer.inspection._methods import method_named

# One strong pixel of a gradient would leave nothing else to be seen.
_WHITE_AT = 99.5
_STRONGEST = 0.85


class SaliencyDisplay:
    """Images, and alongside each what a classifier's score depends on.

    Make one with :meth:`from_estimator`. Needs matplotlib (extra ``plot``) to plot. The map lies on
    the image as it is in the file: cropping and resizing are undone, and what was cropped away,
    which the network never saw, is pale.

    Read more in the :ref:`User Guide <seeing-saliency>`.

    Parameters
    ----------
    images : list of ndarray of shape (h, w, 3)
        Values from 0 to 1.
    maps : list of ndarray of shape (h, w)
        Of the same sizes; NaN where the network sees nothing.
    signed : bool, default=False
        Whether negative values mean something of their own.
    titles : list of str or None, default=None
        Of the images.
    label : str or None, default=None
        What the maps show. None: nothing is written.

    Attributes
    ----------
    figure_ : matplotlib Figure or SubFigure
    axes_ : ndarray of matplotlib Axes, shape (n, 2)
        Image, and map on image.
    images_ : list of matplotlib AxesImage
        The maps.
    colorbars_ : list of matplotlib Colorbar

    See Also
    --------
    saliency_maps : The maps alone.

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
        images: list[np.ndarray],
        maps: list[np.ndarray],
        signed: bool = False,
        titles: list[str] | None = None,
        label: str | None = None,
    ) -> None:
        self.images = images
        self.maps = maps
        self.signed = signed
        self.titles = titles
        self.label = label

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
        X : collection of images, n rows
            A handful.
        y : array-like of shape (n,) or None, default=None
            The class of each row whose score is looked at. None: the one that is predicted.
        method : {"gradient", "integrated_gradients", "grad_cam", "occlusion"}, default="gradient"
            As for :func:`saliency_maps`.
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
        shown = method_named(method)
        images, maps = placed_maps(estimator, X, y, method=method, **kwargs)
        display = cls(
            images=images,
            maps=maps,
            signed=shown.signed,
            titles=None if y is None else [str(label) for label in y],
            label=shown.label,
        )
        return display.plot(figure=figure)

    def plot(self, *, figure: Any = None, cmap: str | None = None) -> SaliencyDisplay:
        """Plot a row for each image.

        Parameters
        ----------
        figure : matplotlib Figure or SubFigure or None, default=None
            Where to plot. None makes a new one.
        cmap : str or None, default=None
            Colors of the maps. None: "inferno", or "PuOr_r" for maps with a sign.

        Returns
        -------
        SaliencyDisplay
        """
        pyplot = import_optional("matplotlib.pyplot", extra="plot", purpose="SaliencyDisplay.plot")
        n = len(self.images)
        if figure is None:
            figure = pyplot.figure(figsize=(6.2, 2.8 * n), layout="constrained")
        self.figure_ = figure
        self.axes_ = figure.subplots(n, 2, squeeze=False)
        self.images_, self.colorbars_ = [], []
        for row, (image, own) in enumerate(zip(self.images, self.maps, strict=True)):
            left, right = self.axes_[row]
            strength = np.abs(own)
            top = float(np.nanpercentile(strength, _WHITE_AT)) or 1.0
            left.imshow(image)
            # Pale where nothing is seen, gray below the colors of the map.
            gray = np.repeat(image.mean(2, keepdims=True), 3, axis=2)
            gray = np.where(np.isnan(own)[:, :, None], 0.75 + 0.25 * gray, gray)
            right.imshow(gray)
            pil_image = right.imshow(
                own,
                cmap=cmap or ("PuOr_r" if self.signed else "inferno"),
                vmin=-top if self.signed else 0.0,
                vmax=top,
                alpha=np.nan_to_num((strength / top).clip(0, 1) ** 0.5 * _STRONGEST),
            )
            self.images_.append(pil_image)
            self.colorbars_.append(figure.colorbar(pil_image, ax=right, fraction=0.046, pad=0.03))
            for axes in (left, right):
                axes.set(xticks=[], yticks=[])
            if self.titles is not None:
                left.set_title(self.titles[row], fontsize="medium")
            if row == 0 and self.label is not None:
                right.set_title(self.label, fontsize="medium")
        return self
