"""What displays of a classifier's scores share: where scores come from, and axes.

It must not know what is drawn.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from sktransfer._utils.config import import_optional
from sktransfer._utils.sklearn_compat import _get_response_values_binary, _safe_indexing


def new_axes(ax: Any, owner: object, **settings: Any) -> tuple[Any, Any]:
    """The axes and their figure; None makes new ones, by matplotlib's ``subplots``."""
    pyplot = import_optional(
        "matplotlib.pyplot", extra="plot", purpose=f"{type(owner).__name__}.plot"
    )
    if ax is None:
        _, ax = pyplot.subplots(**settings)
    return ax, ax.figure


def remove_spines(ax: Any) -> None:
    """Leave the left and the bottom line of the frame."""
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def label_of(axis: str, pos_label: Any) -> str:
    """Name of an axis, with the positive label as scikit-learn's displays have it."""
    return axis if pos_label is None else f"{axis} (Positive label: {pos_label})"


def shares_of_groups(groups: np.ndarray) -> np.ndarray:
    """A weight for each row, so that every group weighs the same, however many rows it has."""
    _, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    return 1 / sizes[codes]


class ScoreDisplay:
    """Constructors of displays that take true labels and scores of the positive class."""

    _methods: ClassVar[tuple[str, ...]] = ("predict_proba", "decision_function")
    _shows_threshold: ClassVar[bool] = False
    # A classmethod of every display: (y_true, y_score, *, pos_label, name, ...).
    from_predictions: ClassVar[Any]

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        *,
        response_method: str = "auto",
        pos_label: Any = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Score rows with a fitted classifier, and plot.

        Parameters
        ----------
        estimator : estimator instance
            Fitted binary classifier.
        X : array-like, list or DataFrame
            Rows it has not seen.
        y : array-like of shape (n,)
            True labels.
        response_method : {"auto", "predict_proba", "decision_function"}, default="auto"
            Where scores come from. "auto": the first of the two that the estimator has.
        pos_label : int, float, bool, str or None, default=None
            The positive class. None: that of an estimator with a threshold of its own, else the
            last of ``estimator.classes_``.
        name : str or None, default=None
            For the legend. None: the name of the estimator's class.
        **kwargs
            As of :meth:`from_predictions`.

        Returns
        -------
        Display
            With the computed values.
        """
        if pos_label is None:
            pos_label = getattr(estimator, "pos_label_", None)
        score, label = _get_response_values_binary(
            estimator, X, cls._response_methods(response_method), pos_label=pos_label
        )
        name = type(estimator).__name__ if name is None else name
        cls._take_threshold(estimator, kwargs)
        return cls.from_predictions(y, score, pos_label=label, name=name, **kwargs)

    @classmethod
    def from_cv_results(
        cls,
        cv_results: dict[str, Any],
        X: Any,
        y: Any,
        *,
        response_method: str = "auto",
        pos_label: Any = None,
        name: str | None = None,
        groups: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Score every row with the model that has not seen it, and plot all of them as one.

        Parameters
        ----------
        cv_results : dict
            Of :func:`sklearn.model_selection.cross_validate` with ``return_estimator=True`` and
            ``return_indices=True``.
        X : array-like, list or DataFrame
            What was given to ``cross_validate``.
        y : array-like of shape (n,)
            True labels.
        response_method : {"auto", "predict_proba", "decision_function"}, default="auto"
            Where scores come from.
        pos_label : int, float, bool, str or None, default=None
            The positive class. None: the last of the classes.
        name : str or None, default=None
            For the legend. None: the name of the estimator's class.
        groups : array-like of shape (n,) or None, default=None
            Patients, for intervals.
        **kwargs
            As of :meth:`from_predictions`.

        Returns
        -------
        Display
            With the computed values.
        """
        if not {"estimator", "indices"} <= cv_results.keys():
            raise ValueError(
                "cv_results lacks estimators or indices. Give return_estimator=True and "
                "return_indices=True to cross_validate."
            )
        estimators, tests = cv_results["estimator"], cv_results["indices"]["test"]
        methods = cls._response_methods(response_method)
        parts = [
            _get_response_values_binary(
                estimator, _safe_indexing(X, test), methods, pos_label=pos_label
            )
            for estimator, test in zip(estimators, tests, strict=True)
        ]
        rows = np.concatenate([np.asarray(test) for test in tests])
        name = type(estimators[0]).__name__ if name is None else name
        if groups is not None:
            kwargs["groups"] = np.asarray(groups)[rows]
        return cls.from_predictions(
            np.asarray(y)[rows],
            np.concatenate([score for score, _ in parts]),
            pos_label=parts[0][1],
            name=name,
            **kwargs,
        )

    @classmethod
    def _response_methods(cls, response_method: str) -> list[str]:
        if response_method == "auto":
            return list(cls._methods)
        if response_method not in cls._methods:
            raise ValueError(
                f"response_method must be 'auto' or one of {cls._methods}; got {response_method!r}."
            )
        return [response_method]

    @classmethod
    def _take_threshold(cls, estimator: Any, kwargs: dict[str, Any]) -> None:
        """Displays that draw a threshold take the estimator's own."""
        if not cls._shows_threshold:
            return
        for attribute in ("threshold_", "best_threshold_"):
            if hasattr(estimator, attribute):
                kwargs.setdefault("threshold", getattr(estimator, attribute))
