"""MultilabelRocDisplay: the ROC curve of each of several labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_curve

from sktransfer._utils.multilabel import estimator_scores, names_of_labels, read_indicators
from sktransfer._utils.plotting import (
    finish_axes,
    legend_text,
    new_axes,
    palette_color,
    palette_marker,
    styled,
)
from sktransfer._utils.sklearn_compat import decider
from sktransfer.metrics._multilabel import MACRO, multilabel_report, read_labels

# Curves repeat the seven colors with other lines.
_LINES = ("-", "--", ":", "-.")
_N_COLORS = 7


@dataclass(kw_only=True, eq=False, repr=False)
class MultilabelRocDisplay:
    """ROC curves of several labels a row, with their areas and points of their thresholds.

    Make one with a ``from_`` method. Plotting needs matplotlib (extra ``plot``).

    Parameters
    ----------
    curves : dict of labels to (fpr, tpr)
        False-positive rates and sensitivities of each label that has rows with it and without.
    report : DataFrame
        Measures with their intervals, as :func:`multilabel_report` gives them.
    show_thresholds : bool, default=False
        Whether thresholds were chosen, and are plotted as points.
    name : str or None, default=None
        Name of the classifier, the title.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
        Axes with the plot, and their figure.
    lines_ : list of matplotlib Line2D
        The curves.

    See Also
    --------
    ReaderStudyDisplay : One curve with its band, and experts as points.

    Examples
    --------
    >>> import numpy as np
    >>> from sktransfer.metrics import MultilabelRocDisplay
    >>> rng = np.random.default_rng(0)
    >>> y = (rng.random((300, 2)) < [0.3, 0.1]).astype(int)
    >>> display = MultilabelRocDisplay.from_predictions(
    ...     y, rng.normal(2 * y), labels=["Effusion", "Mass"]
    ... )
    >>> len(display.lines_)
    2
    """

    curves: dict[Any, tuple[np.ndarray, np.ndarray]]
    report: pd.DataFrame
    show_thresholds: bool = False
    name: str | None = None

    @classmethod
    def from_predictions(
        cls,
        y_true: Any,
        y_score: Any,
        *,
        labels: Sequence[Any] | None = None,
        threshold: Any = None,
        groups: Any = None,
        confidence_level: float = 0.95,
        name: str | None = None,
        random_state: Any = 0,
        **kwargs: Any,
    ) -> MultilabelRocDisplay:
        """Plot from true labels and scores.

        Parameters
        ----------
        y_true : array-like or DataFrame of shape (n, n_labels), or list of sets
            1 where a row has a label, 0 where it has not, NaN where that is unknown.
        y_score : array-like of shape (n, n_labels), or list of arrays of shape (n, 2)
            Scores of each label.
        labels : sequence or None, default=None
            Names of the labels. None: the columns of ``y_true``.
        threshold : float, array-like, mapping of labels to float, or None, default=None
            Thresholds that were chosen.
        groups : array-like of shape (n,) or None, default=None
            Patients, for intervals.
        confidence_level : float, default=0.95
            Level of the intervals.
        name : str or None, default=None
            Title.
        random_state : int, RandomState instance or None, default=0
            Seed of the bootstrap.
        **kwargs : dict
            Parameters of :meth:`plot`, such as ``ax``.

        Returns
        -------
        display : MultilabelRocDisplay
            The display, plotted.
        """
        cuts = 0.5 if threshold is None else threshold
        report = multilabel_report(
            y_true,
            y_score,
            threshold=cuts,
            labels=labels,
            groups=groups,
            confidence_level=confidence_level,
            random_state=random_state,
        )
        found, _, _ = read_labels(y_true, y_score, labels)
        curves = {own.name: roc_curve(own.positive, own.score)[:2] for own in found if own.has_both}
        display = cls(
            curves=curves, report=report, show_thresholds=threshold is not None, name=name
        )
        return display.plot(**kwargs)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        *,
        name: str | None = None,
        **kwargs: Any,
    ) -> MultilabelRocDisplay:
        """Plot the scores that a fitted classifier of several labels gives rows.

        Parameters
        ----------
        estimator : estimator instance
            Fitted classifier; its thresholds are shown if it has chosen them.
        X : array-like, list or DataFrame
            Rows that the classifier has not seen.
        y : array-like or DataFrame of shape (n, n_labels), or list of sets
            True labels.
        name : str or None, default=None
            Title. None: the name of the estimator's class.
        **kwargs : dict
            Further parameters of :meth:`from_predictions`.

        Returns
        -------
        display : MultilabelRocDisplay
            The display, plotted.
        """
        classes = getattr(estimator, "classes_", None)
        known = None if classes is None else names_of_labels(estimator, len(classes))
        truth, names = read_indicators(y, known)
        score = estimator_scores(estimator, X, len(names), ("predict_proba", "decision_function"))
        kwargs.setdefault("labels", names.tolist())
        kwargs.setdefault("threshold", getattr(decider(estimator), "threshold_", None))
        name = type(estimator).__name__ if name is None else name
        return cls.from_predictions(truth, score, name=name, **kwargs)

    def plot(
        self,
        ax: Any = None,
        *,
        name: str | None = None,
        curve_kwargs: dict[str, Any] | None = None,
        plot_chance_level: bool = False,
        chance_level_kwargs: dict[str, Any] | None = None,
        despine: bool = False,
    ) -> MultilabelRocDisplay:
        """Plot the curve of each label, and the point of its threshold.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Axes to plot in. None makes new ones.
        name : str or None, default=None
            Title. None: the ``name`` of the display.
        curve_kwargs : dict or None, default=None
            Keyword arguments for matplotlib's ``plot`` of the curves.
        plot_chance_level : bool, default=False
            Whether to draw the diagonal.
        chance_level_kwargs : dict or None, default=None
            Keyword arguments for matplotlib's ``plot`` of the diagonal.
        despine : bool, default=False
            Whether to leave out the top and right lines of the frame.

        Returns
        -------
        display : MultilabelRocDisplay
            The display itself.
        """
        self.ax_, self.figure_ = new_axes(ax, self)
        self.lines_ = []
        for number, (label, (fpr, tpr)) in enumerate(self.curves.items()):
            row = self.report.loc[label]
            area = f"{row['roc_auc']:.2f}, {row['roc_auc_low']:.2f} to {row['roc_auc_high']:.2f}"
            look = {
                "label": legend_text(f"{label} (AUC = {area})"),
                "color": palette_color(number),
                "linestyle": _LINES[number // _N_COLORS % len(_LINES)],
            }
            self.lines_ += self.ax_.plot(fpr, tpr, **styled(curve_kwargs, **look))
            if self.show_thresholds:
                self.ax_.plot(
                    1 - row["specificity"],
                    row["sensitivity"],
                    palette_marker(number),
                    color=self.lines_[-1].get_color(),
                    markeredgecolor="black",
                )
        if plot_chance_level:
            label = "Chance level (AUC = 0.5)"
            chance = styled(chance_level_kwargs, label=label, color="k", linestyle="--")
            self.ax_.plot([0, 1], [0, 1], **chance)
        mean = self.report.loc[MACRO, "roc_auc"]
        name = self.name if name is None else name
        finish_axes(
            self.ax_,
            xlabel="1 - Specificity",
            ylabel="Sensitivity",
            title=f"{'' if name is None else f'{name}: '}mean AUC {mean:.2f}",
            xlim=(-0.01, 1.01),
            ylim=(-0.01, 1.01),
            aspect="equal",
            legend={"loc": "lower right"},
            despine=despine,
        )
        return self
