"""Scorers by name, for ``scoring=``; it must not know estimators."""

from __future__ import annotations

from typing import Any

from sklearn.metrics import get_scorer as _sklearns
from sklearn.metrics import make_scorer

from sktransfer.metrics._decisions import expected_cost
from sktransfer.metrics._rates import sensitivity_score, specificity_score
from sktransfer.metrics._thresholds import (
    sensitivity_at_specificity,
    specificity_at_sensitivity,
)

_SCORES = ("decision_function", "predict_proba")
_SCORERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "sensitivity": (sensitivity_score, {}),
    "specificity": (specificity_score, {}),
    "specificity_at_sensitivity": (specificity_at_sensitivity, {"response_method": _SCORES}),
    "sensitivity_at_specificity": (sensitivity_at_specificity, {"response_method": _SCORES}),
    "neg_expected_cost": (expected_cost, {"greater_is_better": False}),
}


def get_scorer_names() -> list[str]:
    """Names that :func:`get_scorer` knows besides scikit-learn's.

    Returns
    -------
    list of str

    Examples
    --------
    >>> from sktransfer.metrics import get_scorer_names
    >>> get_scorer_names()[:2]
    ['neg_expected_cost', 'sensitivity']
    """
    return sorted(_SCORERS)


def get_scorer(scoring: str, **parameters: Any) -> Any:
    """A scorer for ``cross_val_score``, ``GridSearchCV`` and the like.

    Parameters
    ----------
    scoring : str
        One of :func:`get_scorer_names`, or a name that :func:`sklearn.metrics.get_scorer` knows.
    **parameters
        Of the metric, such as ``sensitivity=0.9``, ``pos_label="malignant"`` or
        ``average="macro"``. ``"neg_expected_cost"`` needs ``cost_matrix``.

    Returns
    -------
    callable
        ``scorer(estimator, X, y) -> float``, greater is better.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.dummy import DummyClassifier
    >>> from sklearn.model_selection import cross_val_score
    >>> from sktransfer.metrics import get_scorer
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> scorer = get_scorer("specificity_at_sensitivity", sensitivity=0.9)
    >>> cross_val_score(DummyClassifier(), X, y, scoring=scorer).tolist()
    [0.0, 0.0, 0.0, 0.0, 0.0]
    """
    if scoring not in _SCORERS:
        try:
            found = _sklearns(scoring)
        except ValueError as error:
            raise ValueError(
                f"{scoring!r} is no scorer: known are {', '.join(get_scorer_names())} and those of "
                "sklearn.metrics.get_scorer_names()."
            ) from error
        if parameters:
            raise ValueError(
                f"{scoring!r} is scikit-learn's and takes no parameters here; use "
                "sklearn.metrics.make_scorer."
            )
        return found
    if scoring == "neg_expected_cost" and "cost_matrix" not in parameters:
        raise ValueError("'neg_expected_cost' needs cost_matrix=[[0, 1], [10, 0]] or the like.")
    metric, settings = _SCORERS[scoring]
    return make_scorer(metric, **settings, **parameters)
