"""Fitted transformers and classifiers of scikit-learn as torch functions, for gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

from sktransfer._finetune._targets import Findings
from sktransfer._multilabel import MultiLabelLogisticRegression
from sktransfer._utils.sklearn_compat import is_linear_classifier

_SCALERS = (StandardScaler, RobustScaler, MaxAbsScaler, MinMaxScaler)
_NORMS = {"l1": 1.0, "l2": 2.0, "max": torch.inf}

# The decision, (n,) for two classes or (n, n_classes), which are log-odds for a classifier without
# decision_function; and the logarithms of predict_proba, (n, n_classes), or None.
Scores = tuple[Tensor, Tensor | None]
Transform = Callable[[Tensor], Tensor]
Classify = Callable[[Tensor], Scores]


def no_gradient(estimator: Any, why: str = "") -> TypeError:
    """Make the error for what is not differentiable, or not known to be."""
    reason = f" ({why})" if why else ""
    return TypeError(
        f"No gradient passes through {type(estimator).__name__}{reason}. Use a FineTuneClassifier "
        "or FineTuneRegressor, or a Pipeline of PretrainedFeatureExtractor, scalers, PCA, feature "
        "selection and a linear classifier or regressor, which may be in a CalibratedClassifierCV "
        "(sigmoid or temperature). For any other estimator use sktransfer.inspection.occlusion."
    )


def as_transform(step: Any) -> Transform:
    """Return ``step.transform`` as a torch function, or raise a TypeError."""
    if isinstance(step, _SCALERS):
        if getattr(step, "clip", False):
            raise no_gradient(step, "clip=True")
        bounds = np.repeat([[0.0], [1.0]], step.n_features_in_, axis=1)
        zero, one = step.inverse_transform(bounds)
        return lambda x: (x - _tensor(zero, x)) / _tensor(one - zero, x)
    if isinstance(step, Normalizer):
        order = _NORMS[step.norm]
        return lambda x: functional.normalize(x, p=order, dim=1, eps=torch.finfo(x.dtype).tiny)
    if isinstance(step, (PCA, TruncatedSVD)):
        mean = getattr(step, "mean_", np.zeros(step.components_.shape[1]))
        scale = np.ones(len(step.components_))
        if getattr(step, "whiten", False):
            floor = np.finfo(step.explained_variance_.dtype).eps
            scale = np.maximum(np.sqrt(step.explained_variance_), floor)
        return lambda x: (
            functional.linear(x - _tensor(mean, x), _tensor(step.components_, x))
            / _tensor(scale, x)
        )
    if isinstance(step, SelectorMixin):
        selected = np.flatnonzero(step.get_support())
        return lambda x: x[:, torch.from_numpy(selected).to(x.device)]
    if isinstance(step, FunctionTransformer) and step.func is None:
        return lambda x: x
    raise no_gradient(step)


def as_classifier(classifier: Any) -> Classify:
    """Return the scores of a linear classifier as a torch function, or raise a TypeError."""
    several = isinstance(classifier, MultiLabelLogisticRegression)
    if not (several or is_linear_classifier(classifier)) or not hasattr(classifier, "coef_"):
        raise no_gradient(classifier)
    weight = np.atleast_2d(classifier.coef_)  # RidgeClassifier has a vector for two classes
    bias = np.ravel(classifier.intercept_)
    one_vs_rest = isinstance(classifier, SGDClassifier) and classifier.loss == "log_loss"
    softmax = isinstance(classifier, (LogisticRegression, LinearDiscriminantAnalysis))

    def classify(x: Tensor) -> Scores:
        decision = functional.linear(x, _tensor(weight, x), _tensor(bias, x))
        log_proba = None
        if several and isinstance(classifier._target, Findings):
            return of_findings(decision)
        if decision.shape[1] == 1:
            if one_vs_rest or softmax or several:
                log_proba = functional.logsigmoid(torch.cat([-decision, decision], dim=1))
            return decision[:, 0], log_proba
        if softmax:
            log_proba = functional.log_softmax(decision, dim=1)
        elif one_vs_rest:
            log_proba = functional.log_softmax(functional.logsigmoid(decision), dim=1)
        return decision, log_proba

    return classify


def as_number(regressor: Any) -> Classify:
    """Return the number that a regressor predicts as a torch function, or raise a TypeError."""
    if hasattr(regressor, "target_scale_"):  # a network, which gives standardized numbers
        weight, bias = np.diag(regressor.target_scale_), regressor.target_mean_
    elif hasattr(regressor, "_decision_function") and hasattr(regressor, "coef_"):  # linear
        weight, bias = np.atleast_2d(regressor.coef_), np.ravel(regressor.intercept_)
    else:
        raise no_gradient(regressor)
    if len(weight) > 1:
        raise TypeError(
            f"{type(regressor).__name__} predicts {len(weight)} numbers for each image, and a map "
            "is of one: fit it to the column of y that is to be explained."
        )
    return lambda x: (functional.linear(x, _tensor(weight, x), _tensor(bias, x))[:, 0], None)


def of_logits(logits: Tensor) -> Scores:
    """Return the scores of a network with a logit for each class."""
    binary = logits.shape[1] == 2
    decision = logits[:, 1] - logits[:, 0] if binary else logits
    return decision, functional.log_softmax(logits, dim=1)


def of_findings(logits: Tensor) -> Scores:
    """Return the scores of a network with a logit for each of several findings, which add up."""
    return logits, logits


def as_share(inner: Classify, weight: float) -> Classify:
    """Return the weighted log-probabilities of a classifier, one of several that are added up."""

    def classify(x: Tensor) -> Scores:
        decision, log_proba = inner(x)
        assert log_proba is not None
        share = weight * log_proba
        return share[:, 1] - share[:, 0] if decision.ndim == 1 else share, share

    return classify


def as_calibrated(calibrated: CalibratedClassifierCV, inner: Sequence[Classify]) -> Classify:
    """Return a calibrated classifier from its inner ones, or raise a TypeError."""
    members = calibrated.calibrated_classifiers_
    for member in members:
        if member.method not in ("sigmoid", "temperature"):
            raise no_gradient(calibrated, f"method={member.method!r} is a step function")

    def classify(x: Tensor) -> Scores:
        parts = [
            _calibrate(member, classify_inner(x)[0])
            for member, classify_inner in zip(members, inner, strict=True)
        ]
        # The mean of probabilities, from their logarithms.
        log_proba = torch.logsumexp(torch.stack(parts), dim=0) - float(np.log(len(parts)))
        if log_proba.shape[1] == 2:
            return log_proba[:, 1] - log_proba[:, 0], log_proba
        # Of the other classes, not of 1 - p, which is 0 for a class that is nearly certain.
        own = torch.eye(log_proba.shape[1], dtype=torch.bool, device=log_proba.device)
        others = log_proba[:, None].masked_fill(own, -torch.inf).logsumexp(dim=2)
        return log_proba - others, log_proba

    return classify


def _calibrate(member: Any, decision: Tensor) -> Tensor:
    """Return the logarithms of a member's probabilities, (n, n_classes)."""
    if member.method == "temperature":
        logits = decision if decision.ndim == 2 else torch.stack([-decision, decision], dim=1)
        return functional.log_softmax(float(member.calibrators[0].beta_) * logits, dim=1)
    slopes = _tensor([each.a_ for each in member.calibrators], decision)
    offsets = _tensor([each.b_ for each in member.calibrators], decision)
    if decision.ndim == 1:
        logits = -(slopes * decision + offsets)
        return functional.logsigmoid(torch.stack([-logits, logits], dim=1))
    if len(member.estimator.classes_) != len(member.classes):
        raise no_gradient(member.estimator, "a fold of the calibration lacks a class")
    return functional.log_softmax(functional.logsigmoid(-(slopes * decision + offsets)), dim=1)


def _tensor(values: Any, like: Tensor) -> Tensor:
    return torch.as_tensor(np.asarray(values), dtype=like.dtype, device=like.device)
