"""integrated_gradients: shares of a score for each number of an input, by captum; never sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from sktransfer._utils.config import import_optional
from sktransfer.inspection._routes import Route, route_of
from sktransfer.inspection._targets import Explain, explained

# Points of a small batch that go through the network together.
_AT_ONCE = 16


def integrated_gradients(
    estimator: Any,
    X: Any,
    y: Any = None,
    *,
    baseline: float | str = 0.0,
    n_steps: int = 50,
    batch_size: int = 16,
) -> np.ndarray:
    """Share of each number of the network's input in a classifier's score [1]_.

    The gradient is averaged on the way from an image without content to the image, and
    multiplied by their difference. So the shares of an image add up to the difference between its
    score and that of the empty one. Needs captum (extra ``explain``).

    Read more in the :ref:`User Guide <seeing-saliency>`.

    Parameters
    ----------
    estimator : FineTuneClassifier or Pipeline
        Fitted; differentiable as for :func:`input_gradient`.
    X : collection of images, n rows
        In any of the :ref:`accepted forms <accepted-inputs>`.
    y : array-like of shape (n,) or None, default=None
        The class of each row whose score is looked at. None: the one that is predicted.
    baseline : float or "mean", default=0.0
        The gray of the empty image, from 0 (black) to 1 (white); or the mean of each channel of
        each image. What has the color of the baseline gets no share, whatever it means to the
        model.
    n_steps : int, default=50
        Points on the way, at each of which the gradient is computed.
    batch_size : int, default=16
        Images per pass.

    Returns
    -------
    ndarray of shape (n, 3, side, side), float32 or float64
        In the frame of the network, as those of :func:`input_gradient`. Negative where a number
        spoke against the class.

    Raises
    ------
    MissingDependencyError
        Without captum.
    TypeError
        If a step is not differentiable; :func:`occlusion` is possible for any.
    ValueError
        If labels are unknown, or a parameter makes no sense.
    ImageDecodeError
        For the first row that cannot be read.

    See Also
    --------
    saliency_maps : Maps on the images.
    input_gradient : One pass instead of ``n_steps``.

    References
    ----------
    .. [1] Sundararajan, M., Taly, A., & Yan, Q. (2017). "Axiomatic attribution for deep networks".
       ICML.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sktransfer import PretrainedFeatureExtractor
    >>> from sktransfer.inspection import integrated_gradients
    >>> X, y = load_digits(return_X_y=True)
    >>> feat = PretrainedFeatureExtractor(
    ...     "squeezenet1_1", weights=None, image_size=32, value_range=(0, 16)
    ... )
    >>> pipe = make_pipeline(feat, LogisticRegression(max_iter=1000)).fit(X[:50], y[:50])
    >>> integrated_gradients(pipe, X[:2]).shape
    (2, 3, 32, 32)
    """
    explain = integrated_explainer(baseline=baseline, n_steps=n_steps)
    return explained(route_of(estimator), X, y, explain, batch_size=batch_size)


def integrated_explainer(*, baseline: float | str = 0.0, n_steps: int = 50) -> Explain:
    """:func:`integrated_gradients` of batches, shape (n, 3, S, S)."""
    attr = import_optional("captum.attr", extra="explain", purpose="integrated_gradients")
    if isinstance(baseline, str) and baseline != "mean":
        raise ValueError(f'baseline must be "mean" or a gray from 0 to 1; got {baseline!r}.')
    if not isinstance(baseline, str) and not 0 <= baseline <= 1:
        raise ValueError(f"baseline must be a gray from 0 (black) to 1 (white); got {baseline!r}.")
    if n_steps < 1:
        raise ValueError(f"n_steps must be 1 or more; got {n_steps!r}.")

    def explain(route: Route, batch: Tensor, codes: Tensor) -> Tensor:
        method = attr.IntegratedGradients(route.decision)
        found = method.attribute(
            batch,
            _empty(route, batch, baseline),
            additional_forward_args=(codes,),
            n_steps=n_steps,
            # Each point of a row is a row of its own.
            internal_batch_size=max(len(batch), _AT_ONCE),
        )
        return found.detach().to(batch.dtype)

    return explain


def _empty(route: Route, batch: Tensor, baseline: float | str) -> Tensor:
    """Images without content, as the network would be given them."""
    if isinstance(baseline, str):
        return batch.mean((2, 3), keepdim=True).expand_as(batch).clone()
    level = round(255 * baseline)
    side = route.preprocessing.min_decode_side or 256
    image = Image.new("RGB", (side, side), (level,) * 3)
    preprocessing = route.preprocessing
    return preprocessing.to_batch([preprocessing(image)]).to(batch).expand_as(batch).clone()
