"""input_gradient, integrated_gradients and grad_cam: maps in the frame of the network."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.utils import check_random_state
from torch import Tensor

from sktransfer._backbones import find_stage
from sktransfer._utils.config import import_optional
from sktransfer.inspection._differentiable import (
    DifferentiableClassifier,
    Explain,
    Part,
    differentiable,
    explained,
)

# Points between baseline and image that go through the network together, at least.
_POINTS_AT_ONCE = 16
# What a stage without a map gives instead, by its layout.
_NO_MAPS = {
    "NLC": "tokens, of shape (n, tokens, channels)",
    "NHWC": "a map with its channels last, of shape (n, height, width, channels)",
    "NC": "one vector, of shape (n, channels)",
}


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
    """Compute the gradient of a classifier's score with respect to the network's input.

    Read more in the :ref:`User Guide <inspection-saliency>`.

    Parameters
    ----------
    estimator : FineTuneClassifier or Pipeline
        Fitted classifier. A Pipeline must consist of a PretrainedFeatureExtractor, any of
        StandardScaler, RobustScaler, MaxAbsScaler, MinMaxScaler, Normalizer, PCA, TruncatedSVD and
        feature selection, and a linear classifier. It, or the Pipeline, may be in a
        CalibratedClassifierCV (sigmoid, temperature), a search, or a classifier with a threshold.
    X : collection of images, n rows
        Images in any of the :ref:`accepted forms <accepted-inputs>`.
    y : array-like of shape (n,) or None, default=None
        The class of each row whose score is explained. None: the predicted class.
    objective : {"decision", "loss"}, default="decision"
        What is differentiated. ``"decision"``: the ``decision_function`` of that class (of two
        classes, its negative for the first), or the log-odds of a calibrated classifier.
        ``"loss"``: the cross-entropy [1]_, whose gradient almost vanishes where it is certain.
    smooth : int, default=0
        Number of noisy copies to average over (SmoothGrad [2]_). 0: the plain gradient [3]_.
    noise : float, default=0.15
        Standard deviation of that noise, as a share of each image's range.
    batch_size : int, default=16
        Number of images per pass.
    random_state : int, RandomState instance or None, default=0
        Seed of the noise.

    Returns
    -------
    gradient : ndarray of shape (n, 3, side, side), float32 or float64
        The gradient in the frame of the network: after resizing, cropping and normalizing. It is
        float64 with ``precision="float64"``. :class:`SaliencyDisplay` shows it on the image.

    Raises
    ------
    TypeError
        If a step is not differentiable; :func:`occlusion` explains any estimator.
    ValueError
        If labels are unknown, or the classifier has no probabilities for ``objective="loss"``.

    See Also
    --------
    occlusion : Explain any estimator.
    SaliencyDisplay : Draw maps on the images.

    Notes
    -----
    The network runs in torch, in float32 at least, without rounding activations at the cut, and
    without ``augmentation__test_time_views``.

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
    >>> feat = PretrainedFeatureExtractor("squeezenet1_1", weights=None, image_size=32)
    >>> pipe = make_pipeline(feat, LogisticRegression(max_iter=1000)).fit(X[:50] / 16, y[:50])
    >>> input_gradient(pipe, X[:2] / 16).shape
    (2, 3, 32, 32)
    """
    explain = explain_by_gradient(
        objective=objective, smooth=smooth, noise=noise, random_state=random_state
    )
    return explained(differentiable(estimator), X, y, explain, batch_size=batch_size)


def explain_by_gradient(
    *,
    objective: str = "decision",
    smooth: int = 0,
    noise: float = 0.15,
    random_state: int | np.random.RandomState | None = 0,
) -> Explain:
    """Return :func:`input_gradient` of batches, (n, 3, side, side)."""
    if objective not in ("decision", "loss"):
        raise ValueError(f'objective must be "decision" or "loss"; got {objective!r}.')
    if smooth < 0:
        raise ValueError(f"smooth must be 0 or more; got {smooth!r}.")
    rng = check_random_state(random_state)

    def explain(classifier: DifferentiableClassifier, batch: Tensor, codes: Tensor) -> Tensor:
        value = classifier.decision if objective == "decision" else partial(_loss, classifier)
        if not smooth:
            return _gradient(value, batch, codes)
        span = batch.amax((1, 2, 3), keepdim=True) - batch.amin((1, 2, 3), keepdim=True)
        total = torch.zeros_like(batch)
        for _ in range(smooth):
            drawn = torch.from_numpy(rng.standard_normal(tuple(batch.shape))).to(batch)
            total += _gradient(value, batch + noise * span * drawn, codes)
        return total / smooth

    return explain


def _gradient(value: Callable[[Tensor, Tensor], Tensor], batch: Tensor, codes: Tensor) -> Tensor:
    """Return the gradient of one number for each row with respect to the row."""
    batch = batch.detach().requires_grad_()
    with torch.enable_grad():
        # Rows do not see each other in evaluation mode: the gradient of the sum is that of each.
        (gradient,) = torch.autograd.grad(value(batch, codes).sum(), batch)
    return gradient.detach()


def _loss(classifier: DifferentiableClassifier, batch: Tensor, codes: Tensor) -> Tensor:
    _, log_proba = classifier.scores(batch)
    if log_proba is None:
        raise ValueError(
            'objective="loss" needs probabilities, and the classifier has none; use '
            'objective="decision".'
        )
    return -log_proba.gather(1, codes[:, None])[:, 0]


def integrated_gradients(
    estimator: Any,
    X: Any,
    y: Any = None,
    *,
    baseline: float | str = 0.0,
    n_steps: int = 50,
    batch_size: int = 16,
) -> np.ndarray:
    """Attribute a classifier's score to the numbers of the network's input [1]_.

    The gradient is averaged along the way from an image without content to the image, and
    multiplied by their difference. So the attributions of an image add up to the difference
    between its score and that of the empty image. Needs captum (extra ``explain``).

    Read more in the :ref:`User Guide <inspection-saliency>`.

    Parameters
    ----------
    estimator : FineTuneClassifier or Pipeline
        Fitted classifier, differentiable as for :func:`input_gradient`.
    X : collection of images, n rows
        Images in any of the :ref:`accepted forms <accepted-inputs>`.
    y : array-like of shape (n,) or None, default=None
        The class of each row whose score is explained. None: the predicted class.
    baseline : float or "mean", default=0.0
        The gray of the empty image, from 0 (black) to 1 (white); or the mean of each channel of
        each image. What has the color of the baseline gets no attribution, whatever it means.
    n_steps : int, default=50
        Number of points on the way at which the gradient is computed.
    batch_size : int, default=16
        Number of images per pass.

    Returns
    -------
    attributions : ndarray of shape (n, 3, side, side), float32 or float64
        Attributions in the frame of the network; negative ones are evidence against the class.

    See Also
    --------
    saliency_maps : Compute maps on the images.
    input_gradient : Compute the gradient, in one pass instead of ``n_steps``.

    References
    ----------
    .. [1] Sundararajan, M., Taly, A., & Yan, Q. (2017). "Axiomatic attribution for deep networks".
       ICML.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sktransfer import FineTuneClassifier
    >>> from sktransfer.inspection import integrated_gradients
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = FineTuneClassifier("squeezenet1_1", weights=None, image_size=32, max_epochs=1)
    >>> integrated_gradients(clf.fit(X[:50] / 16, y[:50]), X[:2] / 16).shape
    (2, 3, 32, 32)
    """
    explain = explain_by_integrating(baseline=baseline, n_steps=n_steps)
    return explained(differentiable(estimator), X, y, explain, batch_size=batch_size)


def explain_by_integrating(*, baseline: float | str = 0.0, n_steps: int = 50) -> Explain:
    """Return :func:`integrated_gradients` of batches, (n, 3, side, side)."""
    captum = import_optional("captum.attr", extra="explain", purpose="integrated_gradients")
    if isinstance(baseline, str) and baseline != "mean":
        raise ValueError(f'baseline must be "mean" or a gray from 0 to 1; got {baseline!r}.')
    if not isinstance(baseline, str) and not 0 <= baseline <= 1:
        raise ValueError(f"baseline must be a gray from 0 (black) to 1 (white); got {baseline!r}.")
    if n_steps < 1:
        raise ValueError(f"n_steps must be 1 or more; got {n_steps!r}.")

    def explain(classifier: DifferentiableClassifier, batch: Tensor, codes: Tensor) -> Tensor:
        if isinstance(baseline, str):
            empty = batch.mean((2, 3), keepdim=True)
        else:
            preprocessing = classifier.preprocessing
            side = preprocessing.min_decode_side or 256
            image = Image.new("RGB", (side, side), (round(255 * baseline),) * 3)
            empty = preprocessing.to_batch([preprocessing(image)]).to(batch)
        found = captum.IntegratedGradients(classifier.decision).attribute(
            batch,
            empty.expand_as(batch).clone(),
            additional_forward_args=(codes,),
            n_steps=n_steps,
            # Each point of a row is a row of its own.
            internal_batch_size=max(len(batch), _POINTS_AT_ONCE),
        )
        return found.detach().to(batch.dtype)

    return explain


def grad_cam(
    estimator: Any, X: Any, y: Any = None, *, layer: str | int | None = None, batch_size: int = 16
) -> np.ndarray:
    """Compute where a convolutional stage's map is evidence for a class (Grad-CAM [1]_).

    Each channel of the map is weighted by the mean of the score's gradient over its places; the
    positive part of their sum is interpolated to the size of the network's input. Needs captum
    (extra ``explain``).

    Read more in the :ref:`User Guide <inspection-saliency>`.

    Parameters
    ----------
    estimator : FineTuneClassifier or Pipeline
        Fitted classifier, differentiable as for :func:`input_gradient`, with a network whose stages
        give maps of shape (n, channels, height, width). Transformers do not.
    X : collection of images, n rows
        Images in any of the :ref:`accepted forms <accepted-inputs>`.
    y : array-like of shape (n,) or None, default=None
        The class of each row whose score is explained. None: the predicted class.
    layer : str, int or None, default=None
        A stage, by name or index, as :func:`sktransfer.describe_backbone` lists them. None: the
        last one that gives a map. Earlier ones have finer maps of simpler patterns.
    batch_size : int, default=16
        Number of images per pass.

    Returns
    -------
    maps : ndarray of shape (n, side, side), float32 or float64
        Maps in the frame of the network, 0 and more.

    Raises
    ------
    UnknownStageError
        If the network has no stage ``layer`` before the score.
    ValueError
        If the stage gives no map, or one of a single place.

    See Also
    --------
    saliency_maps : Compute maps on the images.
    input_gradient, integrated_gradients : Explain any differentiable network.
    occlusion : Explain any estimator.

    Notes
    -----
    The map is as coarse as the stage's: 7 x 7 for most networks and images of 224 x 224. Where it
    is zero everywhere, no place is evidence for the class.

    References
    ----------
    .. [1] Selvaraju, R. R., et al. (2017). "Grad-CAM: visual explanations from deep networks via
       gradient-based localization". ICCV.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sktransfer import FineTuneClassifier
    >>> from sktransfer.inspection import grad_cam
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = FineTuneClassifier("squeezenet1_1", weights=None, image_size=64, max_epochs=1)
    >>> grad_cam(clf.fit(X[:50] / 16, y[:50]), X[:2] / 16).shape
    (2, 64, 64)
    """
    explain = explain_by_grad_cam(layer=layer)
    return explained(differentiable(estimator), X, y, explain, batch_size=batch_size)


def explain_by_grad_cam(*, layer: str | int | None = None) -> Explain:
    """Return :func:`grad_cam` of batches, (n, side, side)."""
    captum = import_optional("captum.attr", extra="explain", purpose="grad_cam")

    def explain(classifier: DifferentiableClassifier, batch: Tensor, codes: Tensor) -> Tensor:
        stage = _map_stage(classifier, layer)
        found = captum.LayerGradCam(classifier.decision, stage.module).attribute(
            batch, additional_forward_args=(codes,), relu_attributions=True
        )
        if found.ndim != 4:  # a chain that is not what it says it is
            raise _no_map(classifier, stage.name, f"an output with {found.ndim} axes")
        if found.shape[2:].numel() == 1:
            raise _no_map(
                classifier,
                stage.name,
                f"one place for images of {batch.shape[-1]} x {batch.shape[-1]}",
                "Choose an earlier layer, or a larger image_size.",
            )
        return captum.LayerAttribution.interpolate(found, batch.shape[2:], "bilinear")[
            :, 0
        ].detach()

    return explain


def _map_stage(classifier: DifferentiableClassifier, layer: str | int | None) -> Part:
    """Return the stage whose map is used."""
    stages = [part for part in classifier.parts if part.layout is not None]
    if layer is None:
        # Behind the last map of some networks there are dense layers.
        chosen = next(part for part in reversed(stages) if part.layout != "NC")
    else:
        chosen = stages[find_stage(classifier.name, [part.name for part in stages], layer)]
    if chosen.layout != "NCHW":
        raise _no_map(classifier, chosen.name, _NO_MAPS[str(chosen.layout)])
    return chosen


def _no_map(
    classifier: DifferentiableClassifier,
    stage: str,
    what: str,
    instead: str = "Use input_gradient, integrated_gradients or occlusion for this network.",
) -> ValueError:
    return ValueError(
        "Grad-CAM needs a layer that gives a map of shape (n, channels, height, width), of more "
        f"than one place; {stage!r} of {classifier.name} gives {what}. {instead}"
    )
