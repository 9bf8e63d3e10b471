"""BackboneRankingDisplay: scores against speed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from sktransfer._utils.plotting import finish_axes, new_axes, palette_color, palette_marker
from sktransfer.model_selection._ranking import BackboneRanking


class BackboneRankingDisplay:
    """Scores against images per second, with a line for each network through its layers.

    It is recommended to use :meth:`from_ranking` to create one. All parameters are stored as
    attributes. Plotting needs matplotlib (extra ``plot``).

    Parameters
    ----------
    table : DataFrame
        The table of :func:`rank_backbones`.
    metric : str
        Name of the score.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the scores.
    figure_ : matplotlib Figure
        Figure containing the axes.

    See Also
    --------
    rank_backbones : Compute the table.

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
        """Plot a ranking.

        Parameters
        ----------
        ranking : BackboneRanking
            Result of :func:`rank_backbones`.
        ax : matplotlib Axes or None, default=None
            Axes to plot on. None: a new figure.

        Returns
        -------
        display : BackboneRankingDisplay
            The display, plotted.
        """
        return cls(table=ranking.table, metric=ranking.metric).plot(ax=ax)

    def plot(self, *, ax: Any = None) -> BackboneRankingDisplay:
        """Plot, with a ring and a name at rows that no other beats in both score and speed.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Axes to plot on. None: a new figure.

        Returns
        -------
        display : BackboneRankingDisplay
            The display, plotted.
        """
        ax, figure = new_axes(ax, self, figsize=(7, 4.5), layout="constrained")
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
        ax.margins(0.08)
        finish_axes(ax, xscale="log", xlabel="images per second", ylabel=self.metric)
        self.ax_, self.figure_ = ax, figure
        return self
