"""TriageDisplay: what became of the rows of each class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sktransfer._utils.classes import names_of_model, refer_label_of
from sktransfer._utils.plotting import finish_axes, legend_text, new_axes, palette_color, styled
from sktransfer._utils.sklearn_compat import decider
from sktransfer.metrics._labels import Interval, check_labels, check_level, group_codes
from sktransfer.metrics._rates import rate_of
from sktransfer.model_selection._triage_rule import REFER, numbers_of, triage_table

# Blue, gray and vermilion, which color-blind readers distinguish.
_PARTS = {"correct": palette_color(0), "referred": "0.75", "released": palette_color(5)}
_TEXTS = ("decided correctly", "referred", "released: decided to be of another class")


@dataclass(kw_only=True, eq=False, repr=False)
class TriageDisplay:
    """Bars of what became of each class: decided correctly, referred, or released.

    Make one with a ``from_`` method. Plotting needs matplotlib (extra ``plot``).

    Parameters
    ----------
    table : DataFrame
        For each class rows, and with groups also groups, that were decided correctly, referred and
        released, with intervals, as in ``triage_`` of :class:`TriageClassifier`.
    referred : tuple of float
        Share of all rows that is referred, with its interval.
    max_released : ndarray of shape (n_classes,) or None, default=None
        The shares that are guaranteed.
    confidence_level : float, default=0.95
        Level of the intervals.
    name : str or None, default=None
        Title of the plot.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
        Axes with the plot, and their figure.
    bars_ : list of matplotlib BarContainer
        Bars of what was decided correctly, referred and released, in this order.

    See Also
    --------
    TriageClassifier : Rules out, rules in, or refers.

    Examples
    --------
    >>> from sktransfer.model_selection import TriageDisplay
    >>> y = ["ill", "ill", "well", "well", "well"]
    >>> decided = ["ill", "refer", "well", "refer", "ill"]
    >>> display = TriageDisplay.from_predictions(y, decided)
    >>> display.table[["n_correct", "n_referred", "n_released"]]
           n_correct  n_referred  n_released
    class
    ill            1           1           0
    well           1           1           1
    """

    table: pd.DataFrame
    referred: Interval
    max_released: np.ndarray | None = None
    confidence_level: float = 0.95
    name: str | None = None

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, y: Any, *, groups: Any = None, **kwargs: Any
    ) -> TriageDisplay:
        """Plot what a fitted TriageClassifier does with rows that it has not seen.

        Parameters
        ----------
        estimator : estimator instance
            Fitted :class:`TriageClassifier`, or a pipeline that ends with one.
        X : array-like, list or DataFrame
            Rows.
        y : array-like of shape (n,)
            True labels.
        groups : array-like of shape (n,) or None, default=None
            Patients: each then counts once among those that are released.
        **kwargs : dict
            Further parameters of :meth:`from_predictions`.

        Returns
        -------
        display : TriageDisplay
            The display, plotted.
        """
        inner = decider(estimator)
        if not hasattr(inner, "triage_"):
            raise TypeError(
                f"A {type(inner).__name__} refers no rows: give a fitted TriageClassifier, or "
                "labels and decisions to from_predictions."
            )
        defaults = {
            "labels": inner.classes_,
            "target_names": names_of_model(inner),
            "refer_label": inner.refer_label_,
            "max_released": inner.triage_["max_released"].to_numpy(),
        }
        return cls.from_predictions(y, estimator.predict(X), groups=groups, **defaults | kwargs)

    @classmethod
    def from_predictions(
        cls,
        y_true: Any,
        y_pred: Any,
        *,
        labels: Any = None,
        target_names: Any = None,
        refer_label: Any = None,
        groups: Any = None,
        max_released: Any = None,
        confidence_level: float = 0.95,
        name: str | None = None,
        **kwargs: Any,
    ) -> TriageDisplay:
        """Plot from true labels and decisions.

        Parameters
        ----------
        y_true, y_pred : array-like of shape (n,)
            True labels, and decisions of any method, with ``refer_label`` where it refers.
        labels : array-like of shape (n_classes,) or None, default=None
            The classes. None: those of ``y_true``, sorted.
        target_names : mapping of labels to str, or None, default=None
            Names of the classes. None: the labels.
        refer_label : int, float, str or None, default=None
            What stands for a referral. None: as in :class:`TriageClassifier`.
        groups : array-like of shape (n,) or None, default=None
            Patients: each then counts once among those that are released.
        max_released : array-like of shape (n_classes,) or None, default=None
            The shares that are guaranteed, to be marked; NaN for none.
        confidence_level : float, default=0.95
            Level of the intervals.
        name : str or None, default=None
            Title of the plot.
        **kwargs : dict
            Parameters of :meth:`plot`, such as ``ax``.

        Returns
        -------
        display : TriageDisplay
            The display, plotted.
        """
        check_level(confidence_level)
        classes = np.unique(check_labels(y_true)) if labels is None else np.asarray(labels)
        true = numbers_of(y_true, classes, "y_true")
        codes = numbers_of(y_pred, classes, "y_pred", refer_label_of(classes, refer_label))
        if len(true) != len(codes):
            raise ValueError(f"y_pred has {len(codes)} decisions for {len(true)} labels.")
        named = [(target_names or {}).get(label, label) for label in classes.tolist()]
        patients = group_codes(groups, len(true))
        table = triage_table(
            true, codes, named, patients=patients, confidence_level=confidence_level
        )
        display = cls(
            table=table,
            referred=rate_of(codes == REFER, patients, confidence_level),
            max_released=None if max_released is None else np.asarray(max_released, dtype=float),
            confidence_level=confidence_level,
            name=name,
        )
        return display.plot(**kwargs)

    def plot(
        self,
        ax: Any = None,
        *,
        name: str | None = None,
        bar_kwargs: dict[str, Any] | None = None,
        despine: bool = False,
    ) -> TriageDisplay:
        """Plot the display.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Axes to plot in. None makes new ones.
        name : str or None, default=None
            Title. None: the ``name`` of the display.
        bar_kwargs : dict or None, default=None
            Keyword arguments for matplotlib's ``barh``.
        despine : bool, default=False
            Whether to leave out the top and right lines of the frame.

        Returns
        -------
        display : TriageDisplay
            The display itself.
        """
        n = len(self.table)
        self.ax_, self.figure_ = new_axes(
            ax, self, figsize=(8, 2.2 + 0.6 * n), layout="constrained"
        )
        places, left = np.arange(n), np.zeros(n)
        counts = self.table["n_rows"].to_numpy()
        self.bars_ = []
        for (part, color), text in zip(_PARTS.items(), _TEXTS, strict=True):
            share = self.table[f"n_{part}"].to_numpy() / np.maximum(counts, 1)
            style = styled(bar_kwargs, color=color, height=0.6, label=text)
            self.bars_.append(self.ax_.barh(places, share, left=left, **style))
            left = left + share
        for place in np.flatnonzero(np.isfinite(self._limits())):
            end = 1 - self._limits()[place]
            self.ax_.plot([end, end], [place - 0.38, place + 0.38], color="k", linewidth=1.2)
        if np.isfinite(self._limits()).any():
            self.ax_.plot([], [], color="k", linewidth=1.2, label="guaranteed bound")
        unit = "n_groups_released" if "n_groups" in self.table else "n_released"
        groups = " groups" if unit != "n_released" else ""
        texts = [
            f"{legend_text(label)}\n{row['n_rows']:.0f} rows, {row[unit]:.0f}{groups} released"
            for label, row in self.table.iterrows()
        ]
        self.ax_.set_yticks(places, texts, linespacing=1.4)
        self.ax_.invert_yaxis()
        low, high = self.referred.low, self.referred.high
        label = f"Share of the rows of each class; of all {self.referred.estimate:.1%} referred"
        finish_axes(
            self.ax_,
            despine=despine,
            legend={
                "loc": "upper center",
                "bbox_to_anchor": (0.5, -0.5 / (0.9 + 0.6 * n)),
                "ncols": 2,
            },
            xlim=(0, 1),
            title=self.name if name is None else name,
            xlabel=f"{label} ({low:.1%} to {high:.1%})",
        )
        return self

    def _limits(self) -> np.ndarray:
        return np.full(len(self.table), np.nan) if self.max_released is None else self.max_released
