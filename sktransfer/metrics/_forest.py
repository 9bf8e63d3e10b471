"""ForestDisplay: intervals below each other, of models, subgroups or requirements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sktransfer._utils.plotting import new_axes, styled

_INCHES_FOR_A_ROW = 0.42


@dataclass(kw_only=True, eq=False, repr=False)
class ForestDisplay:
    """Forest plot: a row for each interval, with its numbers.

    Make one with :meth:`from_intervals`. Plotting needs matplotlib (extra ``plot``).

    Parameters
    ----------
    table : DataFrame
        A row for each interval, with its ``name``, ``estimate``, ``low``, ``high``, and ``points``,
        the scores of folds, if there are any.
    xlabel : str or None, default=None
        What the intervals are of.
    reference : float or None, default=None
        Where to draw a line: what is required, chance, or 0 for differences.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
        Axes with the plot, and their figure.
    errorbar_ : matplotlib ErrorbarContainer
        The intervals.

    See Also
    --------
    sktransfer.model_selection.cross_val_interval : The interval of a cross-validated score.

    Examples
    --------
    >>> from sktransfer.metrics import ForestDisplay, rate_interval
    >>> found = {"site A": rate_interval(57, 60), "site B": rate_interval(40, 50)}
    >>> display = ForestDisplay.from_intervals(found, xlabel="sensitivity", reference=0.9)
    >>> display.table["high"].round(2).tolist()
    [0.99, 0.9]
    """

    table: pd.DataFrame
    xlabel: str | None = None
    reference: float | None = None

    @classmethod
    def from_intervals(
        cls,
        intervals: Any,
        *,
        xlabel: str | None = None,
        reference: float | None = None,
        **kwargs: Any,
    ) -> ForestDisplay:
        """Plot intervals by their names.

        Parameters
        ----------
        intervals : mapping of str to interval, DataFrame or Series
            Results of :func:`~sktransfer.model_selection.cross_val_interval`, named tuples of
            :mod:`sktransfer.metrics`, or any ``(estimate, low, high)``. Or a table with columns
            ``name``, ``estimate``, ``low`` and ``high``.
        xlabel : str or None, default=None
            What the intervals are of. None: the ``scoring`` that all of them have.
        reference : float or None, default=None
            Where to draw a line: what is required, chance, or 0 for differences.
        **kwargs : dict
            Parameters of :meth:`plot`, such as ``ax``.

        Returns
        -------
        display : ForestDisplay
            The display, plotted.
        """
        if isinstance(intervals, pd.DataFrame):
            table = intervals.reset_index(drop=True)
            absent = {"name", "estimate", "low", "high"} - set(table.columns)
            if absent:
                raise ValueError(f"The table of intervals lacks the columns {sorted(absent)}.")
            return cls(table=table, xlabel=xlabel, reference=reference).plot(**kwargs)
        if not isinstance(intervals, (Mapping, pd.Series)):
            raise TypeError(
                "intervals must be a mapping of names to intervals, such as "
                f'{{"frozen": cross_val_interval(...)}}; got {type(intervals).__name__}.'
            )
        table = pd.DataFrame([_row(str(name), each) for name, each in intervals.items()])
        known = {getattr(each, "scoring", None) for _, each in intervals.items()}
        if xlabel is None and len(known) == 1:
            (xlabel,) = known
        return cls(table=table, xlabel=xlabel, reference=reference).plot(**kwargs)

    def plot(
        self,
        ax: Any = None,
        *,
        errorbar_kwargs: dict[str, Any] | None = None,
        points_kwargs: dict[str, Any] | None = None,
        numbers: bool = True,
        despine: bool = True,
    ) -> ForestDisplay:
        """Plot the intervals.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Axes to plot in. None makes new ones.
        errorbar_kwargs, points_kwargs : dict or None, default=None
            Keyword arguments for matplotlib's ``errorbar``, and for ``plot`` of the folds' scores.
        numbers : bool, default=True
            Whether to write the numbers at the right.
        despine : bool, default=True
            Whether to leave out the top and right lines of the frame.

        Returns
        -------
        display : ForestDisplay
            The display itself.
        """
        n = len(self.table)
        size = (7.0, 1.0 + _INCHES_FOR_A_ROW * n)
        self.ax_, self.figure_ = new_axes(ax, self, figsize=size, layout="constrained")
        places = np.arange(n)
        estimate, low, high = (
            self.table[name].to_numpy(float) for name in ("estimate", "low", "high")
        )
        for place, points in zip(places, self.table.get("points", [()] * n), strict=True):
            dots = styled(points_kwargs, color="0.6", marker="|", linestyle="", markersize=7)
            self.ax_.plot(points, np.full(len(points), place + 0.22), **dots)
        # Without a number, as of a subgroup of one class, there is a name and no bar.
        bars = styled(errorbar_kwargs, fmt="s", color="#0072B2", markersize=5, capsize=3)
        ends = np.maximum([estimate - low, high - estimate], 0)
        self.errorbar_ = self.ax_.errorbar(estimate, places, xerr=ends, **bars)
        if self.reference is not None:
            self.ax_.axvline(self.reference, color="k", linestyle="--", linewidth=0.8)
        for place in places[np.isfinite(estimate)] if numbers else []:
            text = f"{estimate[place]:.2f} ({low[place]:.2f} to {high[place]:.2f})"
            where = {"transform": self.ax_.get_yaxis_transform(), "va": "center"}
            self.ax_.text(1.02, place, text.replace("-", "\N{MINUS SIGN}"), **where)
        self.ax_.set_yticks(places, [str(name) for name in self.table["name"]])
        self.ax_.set(ylim=(n - 0.5, -0.5), xlabel=self.xlabel or "")
        if despine:
            for side in ("top", "right"):
                self.ax_.spines[side].set_visible(False)
        return self


def _row(name: str, interval: Any) -> dict[str, Any]:
    """Return an interval as a row of the table."""
    if hasattr(interval, "score"):  # of a cross-validation
        points = interval.folds["score"].tolist()
        values: Iterable[float] = (interval.score, interval.low, interval.high)
    else:
        points, values = [], tuple(interval)[:3]
    return {"name": name, **dict(zip(("estimate", "low", "high"), values, strict=True))} | {
        "points": points
    }
