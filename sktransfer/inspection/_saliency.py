"""saliency_maps and SaliencyDisplay: maps of any method in pixels of the image, and drawn on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor

from sktransfer._images import Preprocessing
from sktransfer._utils.plotting import new_panels
from sktransfer.inspection._differentiable import (
    DifferentiableClassifier,
    Explain,
    differentiable_shares,
    explained,
)
from sktransfer.inspection._estimator_images import as_shown, images_of
from sktransfer.inspection._gradient_maps import (
    explain_by_grad_cam,
    explain_by_gradient,
    explain_by_integrating,
)
from sktransfer.inspection._occlusion import fall, occlusion

# A single extreme pixel of a gradient would leave nothing else visible.
WHITE_AT = 99.5
MOST_OPAQUE = 0.85


def _explain_by_occlusion(**parameters: Any) -> Explain:
    """Return :func:`occlusion` of the network's normalized inputs, (n, side, side)."""

    def explain(classifier: DifferentiableClassifier, batch: Tensor, codes: Tensor) -> Tensor:
        def score(code: Tensor, copies: list[np.ndarray]) -> np.ndarray:
            covered = torch.from_numpy(np.stack(copies)).permute(0, 3, 1, 2).to(batch)
            with torch.no_grad():
                return classifier.decision(covered, code.expand(len(covered))).cpu().numpy()

        maps = [
            fall(image, partial(score, code), **parameters)
            for image, code in zip(batch.permute(0, 2, 3, 1).cpu().numpy(), codes, strict=True)
        ]
        return torch.from_numpy(np.stack(maps))

    return explain


class _Method(NamedTuple):
    """A method of saliency: how batches are explained, and reduced to a number for each pixel."""

    explain: Callable[..., Explain]
    reduce: Callable[[Tensor], Tensor]
    signed: bool
    label: str


_METHODS = {
    "gradient": _Method(explain_by_gradient, lambda x: x.abs().amax(1), False, "|gradient|"),
    "integrated_gradients": _Method(
        explain_by_integrating, lambda x: x.sum(1), True, "share of the score"
    ),
    "grad_cam": _Method(explain_by_grad_cam, lambda x: x, False, "Grad-CAM"),
    "occlusion": _Method(_explain_by_occlusion, lambda x: x, True, "fall of the score"),
}


def explain_by(method: Any, **parameters: Any) -> Explain:
    """Return the method of that name, reduced to maps (n, side, side)."""
    chosen = _METHODS[method]
    explain = chosen.explain(**parameters)
    return lambda classifier, batch, codes: chosen.reduce(explain(classifier, batch, codes))


def check_method(method: Any, *, also: str = "") -> None:
    """Raise a ValueError if there is no such method; ``also`` names what else is accepted."""
    if not isinstance(method, str) or method not in _METHODS:
        names = ", ".join(map(repr, _METHODS))
        raise ValueError(f"method must be one of {names}{also}; got {method!r}.")


def saliency_maps(
    estimator: Any, X: Any, y: Any = None, *, method: str = "gradient", **kwargs: Any
) -> list[np.ndarray]:
    """Compute what a classifier's score depends on, in pixels of the original images.

    Read more in the :ref:`User Guide <inspection-saliency>`.

    Parameters
    ----------
    estimator : FineTuneClassifier, Pipeline or other estimator instance
        Fitted classifier or regressor; of a regressor, maps are of the number it predicts.
    X : collection of images, n rows
        Images in any of the :ref:`accepted forms <accepted-inputs>`.
    y : array-like of shape (n,), label or None, default=None
        The class of each row whose score is explained, or one class (or finding) for all rows.
        None: the predicted class, of several findings the likeliest.
    method : {"gradient", "integrated_gradients", "grad_cam", "occlusion"}, default="gradient"
        :func:`input_gradient`, of which the largest absolute value over the channels is taken;
        :func:`integrated_gradients`, summed over them; :func:`grad_cam`; or :func:`occlusion`.
    **kwargs : dict
        Parameters of that function, such as ``smooth``, ``layer`` or ``patch``.

    Returns
    -------
    maps : list of ndarray of shape (height, width), float64
        A map for each row, with resizing and cropping undone and NaN where the network sees
        nothing; where ``preprocessing`` is a callable, that of the network's input, (side, side).

    See Also
    --------
    SaliencyDisplay : Draw maps on the images.
    saliency_randomization_test : Test whether a method's maps depend on what was learned.
    deletion_insertion_curves : Measure whether the score depends on what a map marks.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sktransfer import PretrainedFeatureExtractor
    >>> from sktransfer.inspection import saliency_maps
    >>> X, y = load_digits(return_X_y=True)
    >>> feat = PretrainedFeatureExtractor("squeezenet1_1", weights=None, image_size=32)
    >>> pipe = make_pipeline(feat, LogisticRegression(max_iter=1000)).fit(X[:50] / 16, y[:50])
    >>> [each.shape for each in saliency_maps(pipe, X[:2] / 16, smooth=4)]
    [(8, 8), (8, 8)]
    """
    return placed_maps(estimator, X, y, method=method, **kwargs)[1]


def placed_maps(
    estimator: Any, X: Any, y: Any, *, method: str, **kwargs: Any
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return images as matplotlib shows them, and :func:`saliency_maps` of the same sizes."""
    check_method(method)
    if method == "occlusion":
        maps = occlusion(estimator, X, y, **kwargs)
        source = images_of(estimator, X, kwargs.get("image_shape"))
        return [as_shown(source.open(row).decode()) for row in range(len(source))], maps
    batch_size = kwargs.pop("batch_size", 16)
    whole, members = differentiable_shares(estimator)
    if len(members) == 1:
        explain = explain_by(method, **kwargs)
        return _on_images(members[0], X, y, explain, batch_size)
    if y is None:  # the class that they predict together
        y = whole.classes_[whole.predict_proba(X).argmax(axis=1)]
    totals: list[np.ndarray] = []
    explain = _METHODS[method].explain(**kwargs)
    for member in members:
        images, maps = _on_images(member, X, y, explain, batch_size, unit_of=method)
        totals = [_sum(*pair) for pair in zip(totals, maps, strict=True)] if totals else maps
    reduce = _METHODS[method].reduce
    return images, [reduce(torch.from_numpy(own)[None])[0].numpy() for own in totals]


def _on_images(
    classifier: DifferentiableClassifier,
    X: Any,
    y: Any,
    explain: Explain,
    batch_size: int,
    *,
    unit_of: str | None = None,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return images, and maps on them, (h, w) or (channels, h, w) as ``explain`` gives.

    Maps of the method ``unit_of`` are in the unit that networks share.
    """
    source = images_of(classifier.reader, X)
    images, maps = [], []
    for row, own in enumerate(explained(classifier, X, y, explain, batch_size=batch_size)):
        image = as_shown(source.open(row).decode())
        height, width = image.shape[:2]
        box = classifier.preprocessing.box_in((width, height))
        if box is None:  # a callable made the input, and nobody knows from which pixels
            values = classifier.batch(source, [row])[0].cpu().numpy().transpose(1, 2, 0)
            low, high = values.min(), values.max()
            images.append((values - low) / max(high - low, 1e-12))
            maps.append(own.astype(np.float64))
        else:
            images.append(image)
            channels = own.reshape(-1, *own.shape[-2:])
            placed = np.stack([_on_image(each, box, (width, height)) for each in channels])
            if unit_of is not None:
                placed *= _common_unit(unit_of, classifier.preprocessing, box)
            maps.append(placed.reshape(*own.shape[:-2], height, width))
    return images, maps


def _common_unit(method: str, preprocessing: Preprocessing, box: Sequence[float]) -> Any:
    """Return what makes a map on the image one that can be added to that of another network.

    A gradient is then one for an intensity from 0 to 1, and gradients and shares of the score are
    those of a pixel of the image. Grad-CAM is a share of the score wherever it is averaged.
    """
    if method == "grad_cam":
        return 1.0
    pixels = preprocessing.size**2 / ((box[2] - box[0]) * (box[3] - box[1]))
    if method == "integrated_gradients":
        return pixels
    return pixels / np.reshape(preprocessing.std, (3, 1, 1))


def _sum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the sum of two maps; what only one network sees counts for that one."""
    if a.shape != b.shape:
        raise ValueError(
            "The networks make inputs of other sizes with this preprocessing, so that their maps "
            "cannot be added up. Explain one of estimators_, or use occlusion."
        )
    return np.where(np.isnan(a), b, np.where(np.isnan(b), a, a + b))


def _on_image(
    own: np.ndarray, box: tuple[float, float, float, float], size: tuple[int, int]
) -> np.ndarray:
    """Return a map of the network's square (in ``box``) in pixels of an image of (width, height).

    It is linear between the square's pixels, and NaN outside.
    """
    side = len(own)
    places = []
    for length, low, high in zip(size, box[:2], box[2:], strict=True):
        # Centers of the image's pixels, in pixels of the square from its edge.
        places.append((np.arange(length) + 0.5 - low) * side / (high - low))
    x, y = np.meshgrid(*places)
    drawn = map_coordinates(own.astype(np.float64), [y - 0.5, x - 0.5], order=1, mode="nearest")
    drawn[(x < 0) | (x > side) | (y < 0) | (y > side)] = np.nan
    return drawn


@dataclass(kw_only=True, eq=False, repr=False)
class SaliencyDisplay:
    """Plot of images, each alongside a map of what a classifier's score depends on.

    Use :meth:`from_estimator` to create one. Plotting needs matplotlib (extra ``plot``). The map
    lies on the original image: cropping and resizing are undone, and what was cropped away, which
    the network never sees, is pale.

    Read more in the :ref:`User Guide <inspection-saliency>`.

    Parameters
    ----------
    images : list of ndarray of shape (h, w, 3)
        Images with values from 0 to 1.
    maps : list of ndarray of shape (h, w)
        Maps of the same sizes; NaN where the network sees nothing.
    signed : bool, default=False
        Whether negative values are evidence against the class.
    titles : list of str or None, default=None
        Titles of the images.
    label : str or None, default=None
        Title of the maps. None: no title.

    Attributes
    ----------
    figure_, axes_ : matplotlib Figure and ndarray of Axes, shape (n, 2)
        The figure, and the axes of each image, and of its map on the image.
    images_, colorbars_ : list of matplotlib AxesImage and of Colorbar
        The maps, and the color bar of each.

    See Also
    --------
    saliency_maps : Compute the maps alone.

    Notes
    -----
    A map shows what changes this model's score. It does not show where a disease is, nor what
    causes what, and a plausible map is no evidence that the model is right [1]_.

    References
    ----------
    .. [1] Adebayo, J., et al. (2018). "Sanity checks for saliency maps". NeurIPS.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> from sktransfer.inspection import SaliencyDisplay
    >>> X, y = load_digits(return_X_y=True)
    >>> forest = RandomForestClassifier(random_state=0).fit(X[:500], y[:500])
    >>> display = SaliencyDisplay.from_estimator(
    ...     forest, X[600:602], y[600:602], method="occlusion", patch=2
    ... )
    >>> display.maps[0].shape
    (8, 8)
    """

    images: list[np.ndarray]
    maps: list[np.ndarray]
    signed: bool = False
    titles: list[str] | None = None
    label: str | None = None

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
        """Compute maps, and plot them.

        Parameters
        ----------
        estimator : FineTuneClassifier, Pipeline or other estimator instance
            Fitted classifier or regressor; of a regressor, maps are of the number it predicts.
        X : collection of images, n rows
            A few images in any of the :ref:`accepted forms <accepted-inputs>`.
        y : array-like of shape (n,) or None, default=None
            The class of each row whose score is explained. None: the predicted class.
        method : {"gradient", "integrated_gradients", "grad_cam", "occlusion"}, default="gradient"
            Method, as for :func:`saliency_maps`.
        figure : matplotlib Figure or SubFigure or None, default=None
            Figure to plot into. None makes a new one.
        **kwargs : dict
            Parameters of the method's function, such as ``smooth`` or ``patch``.

        Returns
        -------
        display : SaliencyDisplay
            Display with the images and maps.
        """
        images, maps = placed_maps(estimator, X, y, method=method, **kwargs)
        shown = _METHODS[method]
        display = cls(
            images=images,
            maps=maps,
            signed=shown.signed,
            titles=None if y is None else [str(label) for label in np.broadcast_to(y, len(images))],
            label=shown.label,
        )
        return display.plot(figure=figure)

    def plot(self, *, figure: Any = None, cmap: str | None = None) -> SaliencyDisplay:
        """Plot a row for each image.

        Parameters
        ----------
        figure : matplotlib Figure or SubFigure or None, default=None
            Figure to plot into. None makes a new one.
        cmap : str or None, default=None
            Colormap of the maps. None: "inferno", or "PuOr_r" for signed maps.

        Returns
        -------
        display : SaliencyDisplay
            The display itself.
        """
        n = len(self.images)
        self.axes_, self.figure_ = new_panels(figure, self, n, 2, figsize=(6.2, 2.8 * n))
        self.images_, self.colorbars_ = [], []
        for row, (image, own) in enumerate(zip(self.images, self.maps, strict=True)):
            left, right = self.axes_[row]
            strength = np.abs(own)
            top = float(np.nanpercentile(strength, WHITE_AT)) or 1.0
            left.imshow(image)
            # Pale where the network sees nothing, gray below the colors of the map.
            gray = np.repeat(image.mean(2, keepdims=True), 3, axis=2)
            gray = np.where(np.isnan(own)[:, :, None], 0.75 + 0.25 * gray, gray)
            right.imshow(gray)
            drawn = right.imshow(
                own,
                cmap=cmap or ("PuOr_r" if self.signed else "inferno"),
                vmin=-top if self.signed else 0.0,
                vmax=top,
                alpha=np.nan_to_num((strength / top).clip(0, 1) ** 0.5 * MOST_OPAQUE),
            )
            self.images_.append(drawn)
            self.colorbars_.append(self.figure_.colorbar(drawn, ax=right, fraction=0.046, pad=0.03))
            for axes in (left, right):
                axes.set(xticks=[], yticks=[])
            if self.titles is not None:
                left.set_title(self.titles[row], fontsize="medium")
            if row == 0 and self.label is not None:
                right.set_title(self.label, fontsize="medium")
        return self
