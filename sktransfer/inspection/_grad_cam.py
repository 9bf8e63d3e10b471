"""grad_cam: which places of a stage's map a score depends on, by captum; never images' sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from sktransfer._backbones import find_stage
from sktransfer._utils.config import import_optional
from sktransfer.inspection._routes import Part, Route, route_of
from sktransfer.inspection._targets import Explain, explained

# What a stage that is no map gives, for people.
_LAYOUTS = {
    "NLC": "tokens, of shape (n, tokens, channels)",
    "NHWC": "a map with its channels last, of shape (n, height, width, channels)",
    "NC": "one vector, of shape (n, channels)",
}


def grad_cam(
    estimator: Any,
    X: Any,
    y: Any = None,
    *,
    layer: str | int | None = None,
    batch_size: int = 16,
) -> np.ndarray:
    """Places of a convolutional stage's map that speak for a class (Grad-CAM [1]_).

    Each channel of the map is weighted with the mean of the score's gradient over its places; what
    is positive of their sum is brought to the side of the network's input. Needs captum (extra
    ``explain``).

    Read more in the :ref:`User Guide <seeing-saliency>`.

    Parameters
    ----------
    estimator : FineTuneClassifier or Pipeline
        Fitted; differentiable as for :func:`input_gradient`, and of a network whose stages give
        maps of shape (n, channels, height, width). Transformers do not.
    X : collection of images, n rows
        In any of the :ref:`accepted forms <accepted-inputs>`.
    y : array-like of shape (n,) or None, default=None
        The class of each row whose score is looked at. None: the one that is predicted.
    layer : str, int or None, default=None
        A stage, by name or index, as :func:`sktransfer.describe_backbone` lists them. None: the
        last one that gives a map. Earlier ones have finer maps of simpler things.
    batch_size : int, default=16
        Images per pass.

    Returns
    -------
    ndarray of shape (n, side, side), float32 or float64
        In the frame of the network, 0 and more.

    Raises
    ------
    MissingDependencyError
        Without captum.
    TypeError
        If a step is not differentiable; :func:`occlusion` is possible for any.
    UnknownStageError
        If there is no stage ``layer`` on the way to the score.
    ValueError
        If the stage gives no map, or one of a single place; or labels are unknown.
    ImageDecodeError
        For the first row that cannot be read.

    See Also
    --------
    saliency_maps : Maps on the images.
    input_gradient, integrated_gradients : For any differentiable network.
    occlusion : For any estimator.

    Notes
    -----
    The map is as coarse as the stage's: 7 x 7 for most networks and images of 224 x 224. Where it
    is zero everywhere, no place spoke for the class.

    References
    ----------
    .. [1] Selvaraju, R. R., et al. (2017). "Grad-CAM: visual explanations from deep networks via
       gradient-based localization". ICCV.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sktransfer import PretrainedFeatureExtractor
    >>> from sktransfer.inspection import grad_cam
    >>> X, y = load_digits(return_X_y=True)
    >>> feat = PretrainedFeatureExtractor(
    ...     "squeezenet1_1", weights=None, image_size=64, value_range=(0, 16)
    ... )
    >>> pipe = make_pipeline(feat, LogisticRegression(max_iter=1000)).fit(X[:50], y[:50])
    >>> grad_cam(pipe, X[:2]).shape
    (2, 64, 64)
    """
    return explained(route_of(estimator), X, y, cam_explainer(layer=layer), batch_size=batch_size)


def cam_explainer(*, layer: str | int | None = None) -> Explain:
    """:func:`grad_cam` of batches, shape (n, S, S)."""
    attr = import_optional("captum.attr", extra="explain", purpose="grad_cam")

    def explain(route: Route, batch: Tensor, codes: Tensor) -> Tensor:
        part = _map_part(route, layer)
        found = attr.LayerGradCam(route.decision, part.module).attribute(
            batch, additional_forward_args=(codes,), relu_attributions=True
        )
        if found.ndim != 4:  # a chain that is not what it says it is
            raise _no_map(route, part.name, f"something of {found.ndim} axes")
        if found.shape[2:].numel() == 1:
            raise _no_map(
                route,
                part.name,
                f"one place for images of {batch.shape[-1]} x {batch.shape[-1]}",
                "Choose an earlier layer, or a larger image_size.",
            )
        return attr.LayerAttribution.interpolate(found, batch.shape[2:], "bilinear")[:, 0].detach()

    return explain


def _map_part(route: Route, layer: str | int | None) -> Part:
    """The stage that is looked at."""
    stages = [part for part in route.parts if part.layout is not None]
    if layer is None:
        # Behind the last map of some networks there are dense layers.
        chosen = next(part for part in reversed(stages) if part.layout != "NC")
    else:
        chosen = stages[find_stage(route.name, [part.name for part in stages], layer)]
    if chosen.layout != "NCHW":
        raise _no_map(route, chosen.name, _LAYOUTS[str(chosen.layout)])
    return chosen


def _no_map(route: Route, name: str, what: str, instead: str = "") -> ValueError:
    other = "For this one there are input_gradient, integrated_gradients and occlusion."
    return ValueError(
        "Grad-CAM needs a layer that gives a map of shape (n, channels, height, width), of more "
        f"than one place; {name!r} of {route.name} gives {what}. {instead or other}"
    )
