"""LearningRateDisplay: the loss against a learning rate that rises, and the rate to use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sktransfer._finetune import FineTuneClassifier, FineTuneRegressor
from sktransfer._utils.plotting import finish_axes, new_axes, palette_color, styled
from sktransfer.inspection._estimator_images import image_reader


@dataclass(kw_only=True, eq=False, repr=False)
class LearningRateDisplay:
    """Plot of the loss against a learning rate that rises from step to step.

    Use :meth:`from_estimator` or :meth:`from_result` to create one. Plotting needs matplotlib
    (extra ``plot``). Thin lines are the runs, the thick one is their median, and dashed lines are
    losses before training. The point is the suggestion, if there is one.

    Read more in the :ref:`User Guide <learning-rate>`.

    Parameters
    ----------
    lr : ndarray of shape (n_steps,)
        Learning rates.
    loss : ndarray of shape (n_steps,)
        Median of the smoothed losses of the runs.
    runs : ndarray of shape (n_runs, n_steps)
        Smoothed loss of each run.
    start : float
        Loss before training.
    suggestion : float
        Learning rate to use; NaN if there is none.
    valid_loss : ndarray of shape (n_steps,) or None, default=None
        Loss of the rows held out, NaN where it was not measured.
    valid_start : float, default=nan
        That loss before training.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the curve.
    figure_ : matplotlib Figure
        Figure with the axes.
    line_, valid_line_, suggestion_ : matplotlib Line2D or None
        The curve, that of the rows held out, and the point of the suggestion.
    runs_ : list of matplotlib Line2D
        The curves of the runs.

    See Also
    --------
    sktransfer.FineTuneClassifier.find_lr : What the curve is.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sktransfer import FineTuneClassifier
    >>> from sktransfer.inspection import LearningRateDisplay
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = FineTuneClassifier(
    ...     "squeezenet1_1", weights=None, image_size=32, value_range=(0, 16), random_state=0
    ... )
    >>> found = clf.find_lr(X[:60], y[:60], n_steps=60)
    >>> display = LearningRateDisplay.from_result(found)
    >>> display.suggestion == found.suggestion
    True
    """

    lr: np.ndarray
    loss: np.ndarray
    runs: np.ndarray
    start: float
    suggestion: float
    valid_loss: np.ndarray | None = None
    valid_start: float = float("nan")

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, y: Any, *, ax: Any = None, **kwargs: Any
    ) -> LearningRateDisplay:
        """Find a learning rate with :meth:`~sktransfer.FineTuneClassifier.find_lr`, and plot it.

        Parameters
        ----------
        estimator : FineTuneClassifier
            Fitted or not; it is left as it is. It may be the last step of a Pipeline.
        X : array-like, DataFrame, Series or sequence of images, n rows
            Rows to train on.
        y : array-like of shape (n,)
            Labels.
        ax : matplotlib Axes or None, default=None
            Axes to plot in. None makes new ones.
        **kwargs : dict
            Parameters of ``find_lr``, such as ``n_runs``.

        Returns
        -------
        display : LearningRateDisplay
            The display, plotted.
        """
        classifier = image_reader(estimator)
        if not isinstance(classifier, (FineTuneClassifier, FineTuneRegressor)):
            raise TypeError(
                "estimator must be a FineTuneClassifier or FineTuneRegressor, which has "
                f"a learning rate, or hold one; got a {type(estimator).__name__}."
            )
        return cls.from_result(classifier.find_lr(X, y, **kwargs), ax=ax)

    @classmethod
    def from_result(cls, result: Any, *, ax: Any = None) -> LearningRateDisplay:
        """Plot what ``find_lr`` returned.

        Parameters
        ----------
        result : Bunch
            Result of :meth:`~sktransfer.FineTuneClassifier.find_lr`.
        ax : matplotlib Axes or None, default=None
            Axes to plot in. None makes new ones.

        Returns
        -------
        display : LearningRateDisplay
            The display, plotted.
        """
        return cls(**result).plot(ax)

    def plot(self, ax: Any = None, *, line_kwargs: dict[str, Any] | None = None) -> Any:
        """Plot the curve.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Axes to plot in. None makes new ones.
        line_kwargs : dict or None, default=None
            Keyword arguments for matplotlib's ``plot`` of the median.

        Returns
        -------
        display : LearningRateDisplay
            The display itself.
        """
        self.ax_, self.figure_ = new_axes(ax, self)
        dashed = {"linestyle": "--", "linewidth": 1}
        color = palette_color(0)
        self.runs_ = [
            self.ax_.plot(self.lr, run, color=color, linewidth=0.7, alpha=0.5)[0]
            for run in self.runs
        ]
        median = styled(line_kwargs, color=color, linewidth=2, label="trained on, median of runs")
        (self.line_,) = self.ax_.plot(self.lr, self.loss, **median)
        self.ax_.axhline(self.start, color=color, **dashed)
        losses, starts = [self.loss], [self.start]
        self.valid_line_ = self.suggestion_ = None
        valid = np.full_like(self.lr, np.nan) if self.valid_loss is None else self.valid_loss
        if (seen := np.isfinite(valid)).any():
            rates, loss, color = self.lr[seen], valid[seen], palette_color(1)
            (self.valid_line_,) = self.ax_.plot(rates, loss, color=color, label="held out")
            self.ax_.axhline(self.valid_start, color=color, **dashed)
            losses, starts = [*losses, loss], [*starts, self.valid_start]
        if np.isfinite(self.suggestion):
            height = np.interp(np.log(self.suggestion), np.log(self.lr), self.loss)
            label = f"suggestion: {self.suggestion:.1e}"
            (self.suggestion_,) = self.ax_.plot(
                [self.suggestion], [height], "o", color=palette_color(5), label=label
            )
        low = min(*starts, *(np.nanmin(each, initial=np.inf) for each in losses))
        margin = 0.1 * max(max(starts) - low, 0.1 * max(starts))
        finish_axes(
            self.ax_,
            xscale="log",
            xlabel="Learning rate",
            ylabel="Loss",
            # A loss that runs away would leave nothing to see of the rest.
            ylim=(low - margin, max(starts) + 5 * margin),
        )
        return self
