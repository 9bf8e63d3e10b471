"""What all displays share: axes and panels, colors, and where the scores of a display come from."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from sktransfer._utils.classes import names_of_model, positive_class
from sktransfer._utils.config import import_optional
from sktransfer._utils.identifiers import read_groups
from sktransfer._utils.sklearn_compat import (
    _get_response_values_binary,
    _safe_indexing,
    decider,
    own_positive,
)

# Told apart with every kind of color vision (Okabe & Ito, 2008), and by their markers.
_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")


def palette_color(number: int) -> str:
    """Return the color of the line or class with this number, from 0."""
    return _COLORS[number % len(_COLORS)]


def palette_marker(number: int) -> str:
    """Return its marker; there are more of them than colors, so that together they repeat late."""
    return _MARKERS[number % len(_MARKERS)]


def new_axes(ax: Any, owner: object, **settings: Any) -> tuple[Any, Any]:
    """Return the axes and their figure; None makes new ones, by matplotlib's ``subplots``."""
    if ax is None:
        _, ax = _pyplot(owner).subplots(**settings)
    return ax, ax.figure


def new_panels(
    figure: Any,
    owner: object,
    n_rows: int,
    n_columns: int,
    *,
    figsize: tuple[float, float],
    **settings: Any,
) -> tuple[np.ndarray, Any]:
    """Return a grid of axes and their figure; None makes a new figure of ``figsize``.

    ``settings`` are for the ``subplots`` of the figure or subfigure.
    """
    if figure is None:
        figure = _pyplot(owner).figure(figsize=figsize, layout="constrained")
    return figure.subplots(n_rows, n_columns, squeeze=False, **settings), figure


def _pyplot(owner: object) -> Any:
    purpose = f"{type(owner).__name__}.plot"
    return import_optional("matplotlib.pyplot", extra="plot", purpose=purpose)


def finish_axes(
    ax: Any, *, legend: dict[str, Any] | None = None, despine: bool = False, **properties: Any
) -> None:
    """Set ``properties`` such as ``xlabel`` and ``xlim``, draw the legend, remove two spines."""
    ax.set(**properties)
    ax.legend(**{"fontsize": "small", **(legend or {})})
    if despine:
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)


def styled(given: dict[str, Any] | None, **defaults: Any) -> dict[str, Any]:
    """Return keyword arguments for matplotlib: the display's own, then what the user gave."""
    return {**defaults, **(given or {})}


def label_of(axis: str, pos_label: Any) -> str:
    """Return the name of an axis, with the positive label as scikit-learn's displays have it."""
    return axis if pos_label is None else f"{axis} (Positive label: {pos_label})"


def legend_text(name: Any) -> str:
    """Return a name for a legend: matplotlib leaves out those that begin with an underscore."""
    return f" {name}" if str(name).startswith("_") else str(name)


def _chosen_positive(estimator: Any, pos_label: Any) -> Any:
    """Return the positive class of a binary classifier; what is none is for scikit-learn to say."""
    classes = getattr(estimator, "classes_", ())
    if len(classes) != 2:
        return pos_label
    given = own_positive(estimator) if pos_label is None else pos_label
    return positive_class(classes, given, names=names_of_model(estimator))


class ScoreDisplayMixin:
    """Constructors of displays of true labels and scores of the positive class.

    A display defines ``from_predictions(y_true, y_score, *, pos_label, name, ...)``, which plots,
    and ``_draw``, or a ``plot`` of its own if it takes further parameters.
    """

    _methods: ClassVar[tuple[str, ...]] = ("predict_proba", "decision_function")
    # Whether from_predictions takes a threshold, which an estimator then brings.
    _shows_threshold: ClassVar[bool] = False
    from_predictions: ClassVar[Any]
    # A method that draws on ax_ and returns properties of the axes.
    _draw: ClassVar[Any]
    name: str | None

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
        """Plot the scores that a fitted classifier gives rows.

        Parameters
        ----------
        estimator : estimator instance
            Fitted binary classifier.
        X : array-like, list or DataFrame
            Rows that the classifier has not seen.
        y : array-like of shape (n,)
            True labels.
        response_method : {"auto", "predict_proba", "decision_function"}, default="auto"
            Where scores come from. "auto": the first of the two that the estimator has.
        pos_label : int, float, bool, str or None, default=None
            The positive class. None: that of an estimator with a threshold of its own, else 1,
            where the classes are 0 and 1 or -1 and 1.
        name : str or None, default=None
            Name in the legend. None: the name of the estimator's class.
        **kwargs : dict
            Further parameters of :meth:`from_predictions`.

        Returns
        -------
        display : Display
            The display, plotted.
        """
        own = own_positive(estimator)
        pos_label = _chosen_positive(estimator, pos_label)
        score, label = _get_response_values_binary(
            estimator, X, cls._response_methods(response_method), pos_label=pos_label
        )
        name = type(estimator).__name__ if name is None else name
        inner = decider(estimator)
        if cls._shows_threshold and label == (estimator.classes_[1] if own is None else own):
            for attribute in ("threshold_", "best_threshold_"):
                if hasattr(inner, attribute):
                    kwargs.setdefault("threshold", getattr(inner, attribute))
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
        """Plot the scores that each row got from the model which has not seen it.

        Parameters
        ----------
        cv_results : dict
            Result of :func:`sklearn.model_selection.cross_validate` with ``return_estimator=True``
            and ``return_indices=True``.
        X : array-like, list or DataFrame
            What was given to ``cross_validate``.
        y : array-like of shape (n,)
            True labels.
        response_method : {"auto", "predict_proba", "decision_function"}, default="auto"
            Where scores come from. "auto": the first of the two that the estimators have.
        pos_label : int, float, bool, str or None, default=None
            The positive class. None: as in :meth:`from_estimator`.
        name : str or None, default=None
            Name in the legend. None: the name of the estimators' class.
        groups : array-like of shape (n,) or None, default=None
            Patients, for intervals.
        **kwargs : dict
            Further parameters of :meth:`from_predictions`.

        Returns
        -------
        display : Display
            The display, plotted, with the folds' scores pooled.
        """
        if not {"estimator", "indices"} <= cv_results.keys():
            raise ValueError(
                "cv_results lacks estimators or indices. Give return_estimator=True and "
                "return_indices=True to cross_validate."
            )
        estimators, tests = cv_results["estimator"], cv_results["indices"]["test"]
        methods = cls._response_methods(response_method)
        pos_label = _chosen_positive(estimators[0], pos_label)
        parts = [
            _get_response_values_binary(
                estimator, _safe_indexing(X, test), methods, pos_label=pos_label
            )
            for estimator, test in zip(estimators, tests, strict=True)
        ]
        rows = np.concatenate([np.asarray(test) for test in tests])
        name = type(estimators[0]).__name__ if name is None else name
        if groups is not None:
            kwargs["groups"] = read_groups(groups, n=len(y))[rows]
        return cls.from_predictions(
            np.asarray(y)[rows],
            np.concatenate([score for score, _ in parts]),
            pos_label=parts[0][1],
            name=name,
            **kwargs,
        )

    def plot(
        self,
        ax: Any = None,
        *,
        name: str | None = None,
        curve_kwargs: dict[str, Any] | None = None,
        despine: bool = False,
    ) -> Any:
        """Plot the display.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Axes to plot in. None makes new ones.
        name : str or None, default=None
            Name in the legend, or title. None: the ``name`` of the display.
        curve_kwargs : dict or None, default=None
            Keyword arguments for the function of matplotlib that draws the curve or histograms.
        despine : bool, default=False
            Whether to leave out the top and right lines of the frame.

        Returns
        -------
        display : Display
            The display itself.
        """
        self.ax_, self.figure_ = new_axes(ax, self)
        properties = self._draw(self.name if name is None else name, curve_kwargs)
        finish_axes(self.ax_, despine=despine, **properties)
        return self

    @classmethod
    def _response_methods(cls, response_method: str) -> list[str]:
        """Return the methods to try in turn."""
        if response_method == "auto":
            return list(cls._methods)
        if response_method not in cls._methods:
            raise ValueError(
                f"response_method must be 'auto' or one of {cls._methods}; got {response_method!r}."
            )
        return [response_method]
