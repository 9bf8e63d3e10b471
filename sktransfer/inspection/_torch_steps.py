"""Fitted steps of scikit-learn as torch functions, for gradients; it must not know images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.feature_selection import SelectorMixin
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    RobustScaler,
    StandardScaler,
)
from torch import Tensor
from torch.nn import functional

from sktransfer._utils.sklearn_compat import is_linear_classifier

_NORMS = {"l1": 1.0, "l2": 2.0, "max": torch.inf}


@dataclass(frozen=True)
class Scores:
    """What a classifier says of rows.

    Attributes
    ----------
    decision : Tensor of shape (n,) or (n, n_classes)
        As ``decision_function`` gives it; log-odds for a classifier that has none.
    log_proba : Tensor of shape (n, n_classes) or None
        Logarithms of ``predict_proba``; None without one.
    """

    decision: Tensor
    log_proba: Tensor | None


Transform = Callable[[Tensor], Tensor]
Classify = Callable[[Tensor], Scores]


def no_gradient(estimator: Any, why: str = "") -> TypeError:
    """The error for what is not differentiable, or not known to be."""
    reason = f" ({why})" if why else ""
    return TypeError(
        f"No gradient goes through {type(estimator).__name__}{reason}. It does through "
        "FineTuneClassifier, and from PretrainedFeatureExtractor through scalers, PCA, selectors, "
        "linear classifiers and CalibratedClassifierCV of these (sigmoid or temperature). For any "
        "other estimator there is sktransfer.inspection.occlusion."
    )


def as_transform(step: Any) -> Transform:
    """``step.transform`` as a torch function.

    Raises
    ------
    TypeError
        If it is none of those that are known here.
    """
    if step is None or (isinstance(step, str) and step == "passthrough"):
        return lambda x: x
    if isinstance(step, StandardScaler):
        return _affine(shift=step.mean_, divide=step.scale_)
    if isinstance(step, RobustScaler):
        return _affine(shift=step.center_, divide=step.scale_)
    if isinstance(step, MaxAbsScaler) and not getattr(step, "clip", False):
        return _affine(divide=step.scale_)
    if isinstance(step, MinMaxScaler) and not step.clip:
        return _affine(times=step.scale_, add=step.min_)
    if isinstance(step, Normalizer):
        order = _NORMS[step.norm]
        return lambda x: functional.normalize(x, p=order, dim=1, eps=torch.finfo(x.dtype).tiny)
    if isinstance(step, PCA):
        scale = None
        if step.whiten:
            floor = np.finfo(step.explained_variance_.dtype).eps
            scale = np.maximum(np.sqrt(step.explained_variance_), floor)
        turned, divided = _linear(step.components_), _affine(divide=scale)
        shifted = _affine(shift=step.mean_)
        return lambda x: divided(turned(shifted(x)))
    if isinstance(step, TruncatedSVD):
        return _linear(step.components_)
    if isinstance(step, SelectorMixin):
        chosen = np.flatnonzero(step.get_support())
        return lambda x: x[:, torch.from_numpy(chosen).to(x.device)]
    if isinstance(step, FunctionTransformer) and step.func is None:
        return lambda x: x
    clipped = isinstance(step, (MinMaxScaler, MaxAbsScaler))
    raise no_gradient(step, "clip=True" if clipped else "")


def as_classifier(classifier: Any) -> Classify:
    """``decision_function`` and ``predict_proba`` of a linear classifier as one torch function.

    Raises
    ------
    TypeError
        If it is not linear.
    """
    if not is_linear_classifier(classifier) or not hasattr(classifier, "coef_"):
        raise no_gradient(classifier)
    weight = np.atleast_2d(classifier.coef_)  # RidgeClassifier has a vector for two classes
    linear = _linear(weight, classifier.intercept_)
    binary = len(weight) == 1
    log_proba = _log_proba(classifier)

    def classify(x: Tensor) -> Scores:
        decision = linear(x)
        return Scores(decision[:, 0] if binary else decision, log_proba(decision))

    return classify


def of_logits(logits: Tensor) -> Scores:
    """Of a network's logits, one for each class."""
    binary = logits.shape[1] == 2
    return Scores(
        logits[:, 1] - logits[:, 0] if binary else logits, functional.log_softmax(logits, dim=1)
    )


def as_calibrated(calibrated: CalibratedClassifierCV, inner: Sequence[Classify]) -> Classify:
    """A calibrated classifier from those inside it, in their order.

    Raises
    ------
    TypeError
        If it is calibrated by steps, which have no slope.
    """
    members = calibrated.calibrated_classifiers_
    for member in members:
        if member.method not in ("sigmoid", "temperature"):
            raise no_gradient(calibrated, f"method={member.method!r} calibrates by steps")

    def classify(x: Tensor) -> Scores:
        parts = [
            _calibrate(member, classify_inner(x).decision)
            for member, classify_inner in zip(members, inner, strict=True)
        ]
        # The mean of probabilities, from their logarithms.
        log_proba = torch.logsumexp(torch.stack(parts), dim=0) - float(np.log(len(parts)))
        if log_proba.shape[1] == 2:
            decision = log_proba[:, 1] - log_proba[:, 0]
        else:
            decision = log_proba - torch.log(-torch.expm1(log_proba))
        return Scores(decision, log_proba)

    return classify


def _calibrate(member: Any, decision: Tensor) -> Tensor:
    """Logarithms of probabilities of one member, (n, n_classes)."""
    if member.method == "temperature":
        logits = decision if decision.ndim == 2 else torch.stack([-decision, decision], dim=1)
        return functional.log_softmax(float(member.calibrators[0].beta_) * logits, dim=1)
    columns = decision[:, None] if decision.ndim == 1 else decision
    slopes = _tensor([each.a_ for each in member.calibrators], decision)
    offsets = _tensor([each.b_ for each in member.calibrators], decision)
    logits = -(slopes * columns + offsets)
    if decision.ndim == 1:
        return torch.stack(
            [functional.logsigmoid(-logits[:, 0]), functional.logsigmoid(logits[:, 0])], 1
        )
    if len(member.estimator.classes_) != len(member.classes):
        raise no_gradient(member.estimator, "it has not seen every class of the calibration")
    return functional.log_softmax(functional.logsigmoid(logits), dim=1)


def _log_proba(classifier: Any) -> Callable[[Tensor], Tensor | None]:
    sigmoid = isinstance(classifier, SGDClassifier) and classifier.loss == "log_loss"
    if not sigmoid and not isinstance(classifier, (LogisticRegression, LinearDiscriminantAnalysis)):
        return lambda decision: None

    def log_proba(decision: Tensor) -> Tensor:
        if decision.shape[1] == 1:
            return functional.logsigmoid(torch.cat([-decision, decision], dim=1))
        if sigmoid:  # one classifier for each class, shares of their sum
            decision = functional.logsigmoid(decision)
        return functional.log_softmax(decision, dim=1)

    return log_proba


def _affine(
    *, shift: Any = None, divide: Any = None, times: Any = None, add: Any = None
) -> Transform:
    def transform(x: Tensor) -> Tensor:
        x = x if shift is None else x - _tensor(shift, x)
        x = x if divide is None else x / _tensor(divide, x)
        x = x if times is None else x * _tensor(times, x)
        return x if add is None else x + _tensor(add, x)

    return transform


def _linear(weight: Any, bias: Any = None) -> Transform:
    return lambda x: functional.linear(
        x, _tensor(weight, x), None if bias is None else _tensor(np.ravel(bias), x)
    )


def _tensor(values: Any, like: Tensor) -> Tensor:
    return torch.as_tensor(np.asarray(values), dtype=like.dtype, device=like.device)
