"""FreezeDepthDisplay: score and seconds over where a network is cut; it must not know training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from sktransfer._utils.plotting import new_axes
from sktransfer._utils.sklearn_compat import _validate_score_name
from sktransfer.model_selection._depth_curve import curve_of_search, freeze_depth_curve

# More names of stages than these do not fit alongside each other.
_MOST_UPRIGHT = 8
_ENDS = {"-": "full\ntraining", "all": "probe"}


class FreezeDepthDisplay:
    """Freeze-depth curve visualization.

    It is recommended to use :meth:`from_estimator` or :meth:`from_cv_results` to create one. All
    parameters are stored as attributes. Needs matplotlib (extra ``plot``) to plot.

    Read more in the :ref:`User Guide <depth-search>`.

    Parameters
    ----------
    curve : DataFrame
        As :func:`sktransfer.model_selection.freeze_depth_curve` gives it.
    score_name : str, default=None
        The name of the score. None: ``"Score"``.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the scores.
    seconds_ax_ : matplotlib Axes or None
        Axes with the seconds, on the right; None without them.
    figure_ : matplotlib Figure
        Figure containing the curve.
    line_ : matplotlib Line2D
        Mean scores.
    errorbar_ : matplotlib ErrorbarContainer or None
        Intervals, with ``interval_style="errorbar"``.
    fill_between_ : matplotlib PolyCollection or None
        Intervals, with ``interval_style="fill_between"``.
    bars_ : matplotlib BarContainer or None
        Seconds.

    See Also
    --------
    sktransfer.model_selection.freeze_depth_curve : Compute the curve.

    Examples
    --------
    >>> import pandas as pd
    >>> from sktransfer.model_selection import FreezeDepthDisplay
    >>> curve = pd.DataFrame(
    ...     {
    ...         "depth": [0, 1, 2], "stage": ["-", "stem", "all"],
    ...         "mean_score": [0.7, 0.9, 0.8], "low": [0.6, 0.8, 0.7], "high": [0.8, 1.0, 0.9],
    ...         "seconds": [9.0, 4.0, 0.1],
    ...     }
    ... )
    >>> FreezeDepthDisplay(curve=curve, score_name="Accuracy").plot()
    <...>
    """

    def __init__(self, *, curve: pd.DataFrame, score_name: str | None = None) -> None:
        self.curve = curve
        self.score_name = score_name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        *,
        depths: Sequence[Any] | None = None,
        groups: Any = None,
        cv: Any = None,
        scoring: Any = None,
        n_jobs: int | None = None,
        confidence_level: float = 0.95,
        verbose: int = 0,
        ax: Any = None,
        negate_score: bool = False,
        score_name: str | None = None,
        interval_style: str | None = "errorbar",
        show_seconds: bool = True,
        line_kwargs: dict[str, Any] | None = None,
        fill_between_kwargs: dict[str, Any] | None = None,
        errorbar_kwargs: dict[str, Any] | None = None,
        bar_kwargs: dict[str, Any] | None = None,
    ) -> FreezeDepthDisplay:
        """Fit and score at several freeze depths, and plot.

        Parameters
        ----------
        estimator : FineTuneClassifier or Pipeline
            A Pipeline ends in a FineTuneClassifier.
        X : collection of images
            In any of the :ref:`accepted forms <accepted-inputs>`.
        y : array-like of shape (n,)
            Labels.
        depths, groups, cv, scoring, n_jobs, confidence_level, verbose
            As for :func:`~sktransfer.model_selection.freeze_depth_curve`.
        ax, negate_score, score_name, interval_style, show_seconds
            As for :meth:`plot`.
        line_kwargs, fill_between_kwargs, errorbar_kwargs, bar_kwargs : dict, default=None
            As for :meth:`plot`.

        Returns
        -------
        display : FreezeDepthDisplay
        """
        curve = freeze_depth_curve(
            estimator,
            X,
            y,
            depths=depths,
            groups=groups,
            cv=cv,
            scoring=scoring,
            n_jobs=n_jobs,
            confidence_level=confidence_level,
            verbose=verbose,
        )
        display = cls(
            curve=curve, score_name=_validate_score_name(score_name, scoring, negate_score)
        )
        return display.plot(
            ax=ax,
            negate_score=negate_score,
            interval_style=interval_style,
            show_seconds=show_seconds,
            line_kwargs=line_kwargs,
            fill_between_kwargs=fill_between_kwargs,
            errorbar_kwargs=errorbar_kwargs,
            bar_kwargs=bar_kwargs,
        )

    @classmethod
    def from_cv_results(
        cls,
        search: Any,
        *,
        confidence_level: float = 0.95,
        ax: Any = None,
        negate_score: bool = False,
        score_name: str | None = None,
        interval_style: str | None = "errorbar",
        show_seconds: bool = True,
        line_kwargs: dict[str, Any] | None = None,
        fill_between_kwargs: dict[str, Any] | None = None,
        errorbar_kwargs: dict[str, Any] | None = None,
        bar_kwargs: dict[str, Any] | None = None,
    ) -> FreezeDepthDisplay:
        """Plot a search over ``freeze_depth`` that was run already.

        Parameters
        ----------
        search : GridSearchCV or its like, fitted
            Where it went over other parameters too, the best candidate of each depth is shown.
        confidence_level : float, default=0.95
            Of the interval of the mean; test parts are taken to be as large as k folds have them.
        ax, negate_score, score_name, interval_style, show_seconds
            As for :meth:`plot`.
        line_kwargs, fill_between_kwargs, errorbar_kwargs, bar_kwargs : dict, default=None
            As for :meth:`plot`.

        Returns
        -------
        display : FreezeDepthDisplay
        """
        curve = curve_of_search(search, confidence_level=confidence_level)
        scoring = search.scoring
        display = cls(
            curve=curve, score_name=_validate_score_name(score_name, scoring, negate_score)
        )
        return display.plot(
            ax=ax,
            negate_score=negate_score,
            interval_style=interval_style,
            show_seconds=show_seconds,
            line_kwargs=line_kwargs,
            fill_between_kwargs=fill_between_kwargs,
            errorbar_kwargs=errorbar_kwargs,
            bar_kwargs=bar_kwargs,
        )

    def plot(
        self,
        ax: Any = None,
        *,
        negate_score: bool = False,
        score_name: str | None = None,
        interval_style: str | None = "errorbar",
        show_seconds: bool = True,
        line_kwargs: dict[str, Any] | None = None,
        fill_between_kwargs: dict[str, Any] | None = None,
        errorbar_kwargs: dict[str, Any] | None = None,
        bar_kwargs: dict[str, Any] | None = None,
    ) -> FreezeDepthDisplay:
        """Plot visualization.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes object to plot on. If None, a new figure and axes is created.
        negate_score : bool, default=False
            Whether or not to negate the scores, which is of use for those named ``neg_*``.
        score_name : str, default=None
            The name of the score on the y-axis, instead of ``self.score_name``.
        interval_style : {"errorbar", "fill_between"} or None, default="errorbar"
            How the intervals of the means are shown. None: not at all.
        show_seconds : bool, default=True
            Whether to show the seconds of each depth, as bars with an axis of their own.
        line_kwargs, fill_between_kwargs, errorbar_kwargs, bar_kwargs : dict, default=None
            Additional keyword arguments passed to ``plot``, ``fill_between``, ``errorbar`` and
            ``bar`` of matplotlib's axes.

        Returns
        -------
        display : FreezeDepthDisplay
            Object that stores computed values.
        """
        if interval_style not in ("errorbar", "fill_between", None):
            raise ValueError(
                f"Unknown interval_style: {interval_style!r}. Should be one of 'errorbar', "
                "'fill_between', or None."
            )
        ax, figure = new_axes(ax, self, layout="constrained")
        curve = self.curve.sort_values("depth")
        # Places, not depths: what lies between two stages does not exist.
        places = np.arange(len(curve))
        sign = -1 if negate_score else 1
        means, low, high = (sign * curve[name].to_numpy() for name in ("mean_score", "low", "high"))
        low, high = np.minimum(low, high), np.maximum(low, high)

        self.ax_, self.figure_ = ax, figure
        self.seconds_ax_ = self.bars_ = self.errorbar_ = self.fill_between_ = None
        if show_seconds:
            self._plot_seconds(places, curve["seconds"].to_numpy(), bar_kwargs or {})
        line_kwargs = {"marker": "o", "color": "C0", "label": "score", **(line_kwargs or {})}
        (self.line_,) = ax.plot(places, means, **line_kwargs)
        color = self.line_.get_color()
        if interval_style == "errorbar":
            settings = {"fmt": "none", "ecolor": color, "capsize": 4, **(errorbar_kwargs or {})}
            self.errorbar_ = ax.errorbar(places, means, [means - low, high - means], **settings)
        elif interval_style == "fill_between":
            settings = {"alpha": 0.3, "color": color, "linewidth": 0, **(fill_between_kwargs or {})}
            self.fill_between_ = ax.fill_between(places, low, high, **settings)
        labels = [_label(*row) for row in zip(curve["depth"], curve["stage"], strict=True)]
        ax.set_xticks(places, labels)
        if len(labels) > _MOST_UPRIGHT:
            ax.tick_params("x", rotation=60)
        ax.set_xlabel("Frozen up to and including")
        name = self.score_name if score_name is None else score_name
        ax.set_ylabel("Score" if name is None else name)
        ax.set_xlim(-0.6, len(curve) - 0.4)
        if show_seconds:
            low_end, high_end = ax.get_ylim()
            ax.set_ylim(low_end - 0.45 * (high_end - low_end), high_end)
        return self

    def _plot_seconds(self, places: np.ndarray, seconds: np.ndarray, bar_kwargs: dict) -> None:
        ax = self.seconds_ax_ = self.ax_.twinx()
        settings = {"color": "0.85", "width": 0.6, "label": "seconds", **bar_kwargs}
        self.bars_ = ax.bar(places, seconds, **settings)
        written = [f"{each:.2g} s" if each < 99.5 else f"{each:,.0f} s" for each in seconds]
        ax.bar_label(self.bars_, written, fontsize="small", color="0.4")
        # Bars stand behind the scores, in the lower third that is kept free for them.
        ax.set_zorder(self.ax_.get_zorder() - 1)
        self.ax_.patch.set_visible(False)
        largest = max(seconds.max(), 1e-9)
        ax.set_ylim(0, 4 * largest)
        ax.set_yticks([tick for tick in ax.get_yticks() if tick <= 1.2 * largest])
        ax.set_ylabel("Seconds", loc="bottom")


def _label(depth: int, stage: str) -> str:
    return f"{_ENDS.get(stage, stage)}\n({depth})"
