"""BackboneRankingDisplay: scores against speed; it must not know how either was measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from sktransfer._utils.config import import_optional
from sktransfer._utils.plotting import palette_color, palette_marker
from sktransfer.model_selection._ranking import BackboneRanking


class BackboneRankingDisplay:
    """Score against images per second, a line for each network, through its layers.

    Make one with :meth:`from_ranking`. Needs matplotlib (extra ``plot``) to plot.

    Parameters
    ----------
    table : DataFrame
        As :func:`rank_backbones` gives it.
    metric : str
        What the scores are.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> import pandas as pd
    >>> from sktransfer.model_selection import BackboneRankingDisplay
    >>> table = pd.DataFrame({
    ...     "backbone": ["a", "a"], "layer": ["layer1", "embedding"], "score": [0.7, 0.8],
    ...     "low": [0.6, 0.7], "high": [0.8, 0.9], "images_per_s": [90.0, 40.0],
    ...     "pareto": [True, True],
    ... })
    >>> display = BackboneRankingDisplay(table=table, metric="loo_ridge").plot()
    >>> display.ax_.get_ylabel()
    'loo_ridge'
    """

    def __init__(self, *, table: pd.DataFrame, metric: str) -> None:
        self.table = table
        self.metric = metric

    @classmethod
    def from_ranking(cls, ranking: BackboneRanking, *, ax: Any = None) -> BackboneRankingDisplay:
        """Plot what :func:`rank_backbones` found.

        Parameters
        ----------
        ranking : BackboneRanking
        ax : matplotlib Axes or None, default=None
            Where to plot. None makes a new figure.

        Returns
        -------
        BackboneRankingDisplay
        """
        return cls(table=ranking.table, metric=ranking.metric).plot(ax=ax)

    def plot(self, *, ax: Any = None) -> BackboneRankingDisplay:
        """Plot; the rows that no other beats in both are ringed and named.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Where to plot. None makes a new figure.

        Returns
        -------
        BackboneRankingDisplay
        """
        pyplot = import_optional(
            "matplotlib.pyplot", extra="plot", purpose="BackboneRankingDisplay.plot"
        )
        if ax is None:
            _, ax = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
        table = self.table[np.isfinite(self.table["images_per_s"])]
        for number, (name, rows) in enumerate(table.groupby("backbone", sort=False)):
            rows = rows.sort_values("images_per_s")
            error = np.abs(rows[["low", "high"]].to_numpy().T - rows["score"].to_numpy())
            ax.errorbar(
                rows["images_per_s"],
                rows["score"],
                yerr=np.nan_to_num(error),
                marker=palette_marker(number),
                color=palette_color(number),
                markersize=4,
                linewidth=1,
                elinewidth=0.6,
                label=name,
            )
        front = table[table["pareto"]].sort_values("images_per_s")
        ax.plot(
            front["images_per_s"],
            front["score"],
            linestyle="none",
            marker="o",
            markersize=10,
            markerfacecolor="none",
            markeredgecolor="black",
            label="none is better and faster",
        )
        for _, row in front.iterrows():
            ax.annotate(
                row["layer"],
                (row["images_per_s"], row["score"]),
                xytext=(3, 6),
                textcoords="offset points",
                rotation=40,  # so that neighbors do not write over each other
                rotation_mode="anchor",
                fontsize="x-small",
            )
        ax.set_xscale("log")
        ax.margins(0.08)
        ax.set_xlabel("images per second")
        ax.set_ylabel(self.metric)
        ax.legend(fontsize="small")
        self.ax_, self.figure_ = ax, ax.figure
        return self
