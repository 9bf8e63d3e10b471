"""TransferCurveDisplay and ConvergenceDisplay: the studies as images; they must not know how
anything was trained.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from sktransfer._utils.config import import_optional
from sktransfer._utils.plotting import palette_color, palette_marker
from sktransfer.studies._convergence import ConvergenceCurve
from sktransfer.studies._transfer import TransferCurve


class TransferCurveDisplay:
    """Score by the number of stages taken over, a line for each treatment.

    Make one with :meth:`from_curve`. Needs matplotlib (extra ``plot``) to plot. Points are single
    trainings, lines their means.

    Parameters
    ----------
    table : DataFrame
        As :func:`transfer_curve` gives it.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    lines_ : dict of str to matplotlib Line2D
        By treatment.

    Examples
    --------
    >>> import pandas as pd
    >>> from sktransfer.studies import TransferCurveDisplay
    >>> table = pd.DataFrame({
    ...     "treatment": ["base", "AnB", "AnB"], "depth": [0, 1, 2], "seed": [0, 0, 0],
    ...     "stage": ["", "layer1", "layer2"], "score": [0.6, 0.7, 0.65],
    ... })
    >>> sorted(TransferCurveDisplay(table=table).plot().lines_)
    ['AnB', 'base']
    """

    def __init__(self, *, table: pd.DataFrame) -> None:
        self.table = table

    @classmethod
    def from_curve(cls, curve: TransferCurve, *, ax: Any = None) -> TransferCurveDisplay:
        """Plot what :func:`transfer_curve` found.

        Parameters
        ----------
        curve : TransferCurve
        ax : matplotlib Axes or None, default=None
            Where to plot. None makes a new figure.

        Returns
        -------
        TransferCurveDisplay
        """
        return cls(table=curve.table).plot(ax=ax)

    def plot(self, *, ax: Any = None) -> TransferCurveDisplay:
        """Plot.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Where to plot. None makes a new figure.

        Returns
        -------
        TransferCurveDisplay
        """
        ax = _axes(ax, "TransferCurveDisplay.plot")
        self.lines_ = {}
        for number, (treatment, rows) in enumerate(self.table.groupby("treatment", sort=False)):
            mean = rows.groupby("depth")["score"].mean()
            if treatment == "base":
                line = ax.axhline(mean.iloc[0], color="black", linestyle=":", label="base")
            else:
                style = "-" if treatment.endswith("+") else "--"
                looks = {
                    "marker": palette_marker(number),
                    "color": palette_color(number),
                    "label": treatment,
                }
                (line,) = ax.plot(mean.index, mean, style, **looks)
                ax.plot(rows["depth"], rows["score"], ".", color=line.get_color(), alpha=0.35)
            self.lines_[str(treatment)] = line
        stages = self.table[self.table["depth"] > 0].drop_duplicates("depth").sort_values("depth")
        ax.set_xticks(stages["depth"], stages["stage"], rotation=45, ha="right")
        ax.set_xlabel("stages taken over, up to")
        ax.set_ylabel("score")
        ax.legend()
        self.ax_, self.figure_ = ax, ax.figure
        return self


class ConvergenceDisplay:
    """Score by steps of training, a line for each start and number of images.

    Make one with :meth:`from_curve`. Needs matplotlib (extra ``plot``) to plot.

    Parameters
    ----------
    table : DataFrame
        As :func:`convergence_curve` gives it.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    lines_ : dict of (str, int) to matplotlib Line2D
        By start and number of images.

    Examples
    --------
    >>> import pandas as pd
    >>> from sktransfer.studies import ConvergenceDisplay
    >>> table = pd.DataFrame({
    ...     "init": ["pretrained", "random"] * 2, "train_size": 50, "budget": [20, 20, 40, 40],
    ...     "seed": 0, "score": [0.7, 0.3, 0.8, 0.5],
    ... })
    >>> len(ConvergenceDisplay(table=table).plot().lines_)
    2
    """

    def __init__(self, *, table: pd.DataFrame) -> None:
        self.table = table

    @classmethod
    def from_curve(cls, curve: ConvergenceCurve, *, ax: Any = None) -> ConvergenceDisplay:
        """Plot what :func:`convergence_curve` found.

        Parameters
        ----------
        curve : ConvergenceCurve
        ax : matplotlib Axes or None, default=None
            Where to plot. None makes a new figure.

        Returns
        -------
        ConvergenceDisplay
        """
        return cls(table=curve.table).plot(ax=ax)

    def plot(self, *, ax: Any = None) -> ConvergenceDisplay:
        """Plot.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Where to plot. None makes a new figure.

        Returns
        -------
        ConvergenceDisplay
        """
        ax = _axes(ax, "ConvergenceDisplay.plot")
        styles = dict(zip(pd.unique(self.table["init"]), ("-", "--", ":"), strict=False))
        sizes = sorted(self.table["train_size"].unique())
        self.lines_ = {}
        for (init, size), rows in self.table.groupby(["init", "train_size"], sort=False):
            mean = rows.groupby("budget")["score"].mean()
            color = palette_color(sizes.index(size))
            label = f"{init}, {size} images"
            (line,) = ax.plot(mean.index, mean, styles[init], marker="o", color=color, label=label)
            ax.plot(rows["budget"], rows["score"], ".", color=color, alpha=0.3)
            self.lines_[str(init), int(size)] = line
        ax.set_xscale("log", base=2)
        # The budgets themselves, where powers of two would stand.
        budgets = sorted({int(budget) for budget in self.table["budget"]})
        ax.set_xticks(budgets, [str(budget) for budget in budgets])
        ax.set_xlabel("steps of training")
        ax.set_ylabel("score")
        ax.legend(fontsize="small")
        self.ax_, self.figure_ = ax, ax.figure
        return self


def _axes(ax: Any, purpose: str) -> Any:
    if ax is not None:
        return ax
    pyplot = import_optional("matplotlib.pyplot", extra="plot", purpose=purpose)
    return pyplot.subplots(figsize=(7, 4.5), layout="constrained")[1]
