"""input_gradient: how a score moves with a network's input; it must not know images' sizes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import Tensor

from sktransfer.inspection._routes import Route, route_of
from sktransfer.inspection._targets import Explain, explained


def input_gradient(
    estimator: Any,
    X: Any,
    y: Any = None,
    *,
    objective: str = "decision",
    smooth: int = 0,
    noise: float = 0.15,
    batch_size: int = 16,
    random_state: int | np.random.RandomState | None = 0,
) -> np.ndarray:
    """Gradient of a classifier's score with respect to the network's input.

    Read more in the :ref:`User Guide <seeing-saliency>`.

    Parameters
    ----------
    estimator : FineTuneClassifier or Pipeline
        Fitted. A Pipeline begins with a PretrainedFeatureExtractor and goes on with scalers
        (standard, robust, maximum, range), Normalizer, PCA, TruncatedSVD, feature selection, and a
        linear classifier, which may be in a CalibratedClassifierCV (sigmoid or temperature), a
        search, or a classifier with a threshold; these may be around the Pipeline as well.
    X : collection of images, n rows
        In any of the :ref:`accepted forms <accepted-inputs>`.
    y : array-like of shape (n,) or None, default=None
        The class of each row whose score is looked at. None: the one that is predicted.
    objective : {"decision", "loss"}, default="decision"
        ``"decision"``: the ``decision_function`` of that class (of two classes, its negative for
        the first); for a calibrated classifier, which has none, the log-odds. ``"loss"``: the cross
        entropy of the class, as in [1]_; where the classifier is sure, that is flat and its
        gradient all but zero.
    smooth : int, default=0
        Mean over that many copies with noise (SmoothGrad [2]_). 0: the plain gradient [3]_.
    noise : float, default=0.15
        Standard deviation of that noise, as a share of each image's range.
    batch_size : int, default=16
        Images per pass.
    random_state : int, RandomState instance or None, default=0
        Of the noise.

    Returns
    -------
    ndarray of shape (n, 3, side, side), float32 or float64
        In the frame of the network: after resizing, cropping and normalizing. float64 with
        ``precision="float64"``. :class:`SaliencyDisplay` brings it back onto the image.

    Raises
    ------
    TypeError
        If a step is not differentiable; :func:`occlusion` is possible for any.
    ValueError
        If labels are unknown, or ``objective="loss"`` of a classifier without probabilities.
    ImageDecodeError
        For the first row that cannot be read.

    See Also
    --------
    occlusion : For any estimator.
    SaliencyDisplay : Maps drawn on the images.

    Notes
    -----
    The network is run in torch, in float32 at least, without rounding activations at the cut, and
    without ``test_time_views``.

    References
    ----------
    .. [1] Esteva, A., et al. (2017). "Dermatologist-level classification of skin cancer with deep
       neural networks". Nature, 542, 115-118.
    .. [2] Smilkov, D., et al. (2017). "SmoothGrad: removing noise by adding noise".
       arXiv:1706.03825.
    .. [3] Simonyan, K., Vedaldi, A., & Zisserman, A. (2014). "Deep inside convolutional networks:
       visualizing image classification models and saliency maps". ICLR workshop.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sktransfer import PretrainedFeatureExtractor
    >>> from sktransfer.inspection import input_gradient
    >>> X, y = load_digits(return_X_y=True)
    >>> feat = PretrainedFeatureExtractor(
    ...     "squeezenet1_1", weights=None, image_size=32, value_range=(0, 16)
    ... )
    >>> pipe = make_pipeline(feat, LogisticRegression(max_iter=1000)).fit(X[:50], y[:50])
    >>> input_gradient(pipe, X[:2]).shape
    (2, 3, 32, 32)
    """
    explain = gradient_explainer(
        objective=objective, smooth=smooth, noise=noise, random_state=random_state
    )
    return explained(route_of(estimator), X, y, explain, batch_size=batch_size)


def gradient_explainer(
    *,
    objective: str = "decision",
    smooth: int = 0,
    noise: float = 0.15,
    random_state: int | np.random.RandomState | None = 0,
) -> Explain:
    """:func:`input_gradient` of batches, shape (n, 3, S, S)."""
    if objective not in ("decision", "loss"):
        raise ValueError(f'objective must be "decision" or "loss"; got {objective!r}.')
    if smooth < 0:
        raise ValueError(f"smooth must be 0 or more; got {smooth!r}.")
    rng = check_random_state(random_state)

    def explain(route: Route, batch: Tensor, codes: Tensor) -> Tensor:
        value = partial(_value, route, codes, objective)
        if not smooth:
            return gradient_of(value, batch)
        span = batch.amax((1, 2, 3), keepdim=True) - batch.amin((1, 2, 3), keepdim=True)
        total = torch.zeros_like(batch)
        for _ in range(smooth):
            drawn = torch.from_numpy(rng.standard_normal(tuple(batch.shape))).to(batch)
            total += gradient_of(value, batch + noise * span * drawn)
        return total / smooth

    return explain


def gradient_of(value: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
    """Of one number for each row, with respect to the rows."""
    batch = batch.detach().requires_grad_()
    with torch.enable_grad():
        # Rows do not see each other in evaluation mode: the gradient of the sum is that of each.
        (gradient,) = torch.autograd.grad(value(batch).sum(), batch)
    return gradient.detach()


def _value(route: Route, codes: Tensor, objective: str, batch: Tensor) -> Tensor:
    if objective == "decision":
        return route.decision(batch, codes)
    log_proba = route.scores(batch).log_proba
    if log_proba is None:
        raise ValueError(
            'objective="loss" needs probabilities, and the classifier has none; use '
            'objective="decision".'
        )
    return -log_proba.gather(1, codes[:, None])[:, 0]
