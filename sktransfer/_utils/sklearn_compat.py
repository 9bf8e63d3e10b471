"""Every private name of scikit-learn that the library uses, imported here and nowhere else.

These names may move or change in any release of scikit-learn; then this file alone is edited.
"""

from __future__ import annotations

from typing import Any

from sklearn.base import _fit_context
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing
from sklearn.utils._param_validation import (
    HasMethods,
    Interval,
    StrOptions,
    validate_parameter_constraints,
)
from sklearn.utils._plotting import _validate_score_name
from sklearn.utils._response import _get_response_values_binary
from sklearn.utils._set_output import _get_output_config
from sklearn.utils.validation import (
    _check_feature_names_in,
    _check_method_params,
    _check_response_method,
    _check_sample_weight,
    _check_y,
    _num_samples,
)

__all__ = [
    "HasMethods",
    "Interval",
    "StrOptions",
    "_check_feature_names_in",
    "_check_method_params",
    "_check_response_method",
    "_check_sample_weight",
    "_check_y",
    "_fit_context",
    "_get_output_config",
    "_get_response_values_binary",
    "_num_samples",
    "_safe_indexing",
    "_validate_score_name",
    "is_linear_classifier",
    "validate_parameter_constraints",
    "validate_shuffle_split",
]


def __getattr__(name: str) -> Any:
    """Import what would load scikit-learn's model selection when it is first needed."""
    if name == "_BaseScorer":
        from sklearn.metrics._scorer import _BaseScorer

        return _BaseScorer
    if name == "BaseThresholdClassifier":
        from sklearn.model_selection._classification_threshold import BaseThresholdClassifier

        return BaseThresholdClassifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def is_linear_classifier(estimator: Any) -> bool:
    """Return whether an estimator is one of scikit-learn's linear classifiers."""
    # Imported when asked: the linear models take a noticeable part of the library's import.
    from sklearn.linear_model._base import LinearClassifierMixin

    return isinstance(estimator, LinearClassifierMixin)


def validate_shuffle_split(
    n_samples: int, test_size: float | None, train_size: float | None
) -> tuple[int, int]:
    """Return the rows of the training and of the test part, as ``train_test_split`` has them."""
    from sklearn.model_selection._split import _validate_shuffle_split

    return _validate_shuffle_split(n_samples, test_size, train_size, default_test_size=0.25)


def decider(estimator: Any) -> Any:
    """Return the estimator whose threshold decides, inside pipelines and searches."""
    while True:
        if isinstance(estimator, Pipeline):
            estimator = estimator.steps[-1][1]
        elif isinstance(estimator, FrozenEstimator):
            estimator = estimator.estimator
        elif hasattr(estimator, "best_estimator_") and not hasattr(type(estimator), "_members"):
            estimator = estimator.best_estimator_
        elif hasattr(type(estimator), "is_novel"):  # a gate, which leaves decisions to another
            estimator = getattr(estimator, "estimator_", estimator.estimator)
        else:
            return estimator


def own_positive(estimator: Any) -> Any:
    """Return the class that an estimator's threshold is for, or None if it names none."""
    inner = decider(estimator)
    for name in ("pos_label_", "pos_label"):
        if getattr(inner, name, None) is not None:
            return getattr(inner, name)
    # TunedThresholdClassifierCV: that of the metric which it tuned for.
    scorer = getattr(inner, "_curve_scorer", None)
    return None if scorer is None else scorer._get_pos_label()
