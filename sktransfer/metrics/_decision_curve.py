"""DecisionCurveDisplay: the net benefit of acting on probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np

from sktransfer._utils.plotting import (
    ScoreDisplayMixin,
    finish_axes,
    label_of,
    new_axes,
    styled,
)
from sktransfer.metrics._decisions import net_benefit
from sktransfer.metrics._labels import binary_labels, group_weights, positive_label


class DecisionCurveDisplay(ScoreDisplayMixin):
    """Decision curve: net benefit of acting on probabilities, on everybody and on nobody.

    Make one with :meth:`from_estimator`, :meth:`from_predictions` or :meth:`from_cv_results`. Needs
    matplotlib (extra ``plot``) to plot.

    Parameters
    ----------
    thresholds : ndarray of shape (k,)
        Probabilities from which on one acts.
    benefit : ndarray of shape (k,)
        Net benefit of acting on the probabilities.
    benefit_all : ndarray of shape (k,)
        Net benefit of acting on everybody.
    prevalence : float
        Share of positive rows, which is the most that can be gained.
    name : str or None, default=None
        Name in the legend.
    pos_label : int, float, bool, str or None, default=None
        The positive class.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the plot.
    figure_ : matplotlib Figure
        Figure with the axes.
    line_ : matplotlib Line2D
        The curve.

    See Also
    --------
    net_benefit : Computes the curve.

    Notes
    -----
    Read the curve at the thresholds that somebody would choose: whoever would rather see ten
    patients without the disease than miss one with it acts from a probability of 1/11 on. Where the
    curve is below the higher of the two other lines, the probabilities do harm.

    Examples
    --------
    >>> import numpy as np
    >>> from sktransfer.metrics import DecisionCurveDisplay
    >>> rng = np.random.default_rng(0)
    >>> p = rng.random(500)
    >>> display = DecisionCurveDisplay.from_predictions(rng.random(500) < p, p)
    >>> bool((display.benefit >= display.benefit_all - 0.02).all())
    True
    """

    _methods = ("predict_proba",)

    def __init__(
        self,
        *,
        thresholds: np.ndarray,
        benefit: np.ndarray,
        benefit_all: np.ndarray,
        prevalence: float,
        name: str | None = None,
        pos_label: Any = None,
    ) -> None:
        self.thresholds = thresholds
        self.benefit = benefit
        self.benefit_all = benefit_all
        self.prevalence = prevalence
        self.name = name
        self.pos_label = pos_label

    @classmethod
    def from_predictions(
        cls,
        y_true: Any,
        y_proba: Any,
        *,
        thresholds: Any = None,
        sample_weight: Any = None,
        groups: Any = None,
        pos_label: Any = None,
        name: str | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> DecisionCurveDisplay:
        """Plot from true labels and probabilities.

        Parameters
        ----------
        y_true : array-like of shape (n,)
            True labels of two classes.
        y_proba : array-like of shape (n,)
            Calibrated probabilities of the positive class.
        thresholds : array-like of shape (k,) or None, default=None
            Probabilities in [0, 1) from which on one acts. None: 0.01 to 0.99.
        sample_weight : array-like of shape (n,) or None, default=None
            Weight of each row.
        groups : array-like of shape (n,) or None, default=None
            Patients: each then weighs the same, however many rows it has.
        pos_label : int, float, bool, str or None, default=None
            The positive class. None: 1, where the labels are 0 and 1 or -1 and 1.
        name : str or None, default=None
            Name in the legend. None: "Classifier".
        ax : matplotlib Axes or None, default=None
            Axes to plot in. None makes new ones.
        **kwargs : dict
            Further parameters of :meth:`plot`.

        Returns
        -------
        display : DecisionCurveDisplay
            The display, plotted.
        """
        label = positive_label(y_true, pos_label)
        weight = np.ones(len(y_true)) if sample_weight is None else np.asarray(sample_weight)
        if groups is not None:
            weight = weight * group_weights(groups)
        cuts = np.linspace(0.01, 0.99, 99) if thresholds is None else np.asarray(thresholds)
        settings = {"pos_label": label, "sample_weight": weight}
        display = cls(
            thresholds=cuts,
            benefit=net_benefit(y_true, y_proba, cuts, **settings),
            benefit_all=net_benefit(y_true, np.ones(len(y_true)), cuts, **settings),
            prevalence=float(np.average(binary_labels(y_true, label), weights=weight)),
            name="Classifier" if name is None else name,
            pos_label=label,
        )
        return display.plot(ax=ax, **kwargs)

    def plot(
        self,
        ax: Any = None,
        *,
        name: str | None = None,
        curve_kwargs: dict[str, Any] | None = None,
        despine: bool = False,
    ) -> DecisionCurveDisplay:
        """Plot the curve and the two lines to compare it with.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Axes to plot in; the two other lines are drawn there once. None makes new ones.
        name : str or None, default=None
            Name in the legend. None: the ``name`` of the display.
        curve_kwargs : dict or None, default=None
            Keyword arguments for matplotlib's ``plot``.
        despine : bool, default=False
            Whether to leave out the top and right lines of the frame.

        Returns
        -------
        display : DecisionCurveDisplay
            The display itself.
        """
        self.ax_, self.figure_ = new_axes(ax, self)
        if "act on everybody" not in self.ax_.get_legend_handles_labels()[1]:
            everybody = {"color": "0.5", "linestyle": "--", "label": "act on everybody"}
            self.ax_.plot(self.thresholds, self.benefit_all, **everybody)
            self.ax_.axhline(0, color="k", linewidth=0.8, label="act on nobody")
        curve = styled(curve_kwargs, label=self.name if name is None else name)
        (self.line_,) = self.ax_.plot(self.thresholds, self.benefit, **curve)
        finish_axes(
            self.ax_,
            xlabel=label_of("Threshold probability", self.pos_label),
            ylabel="Net benefit",
            xlim=(0, 1),
            # Acting on everybody falls without bound.
            ylim=(-0.15 * self.prevalence, 1.05 * self.prevalence),
            despine=despine,
        )
        return self
