"""DeletionInsertionDisplay: curves of several maps side by side; not how they are computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sktransfer._utils.config import import_optional
from sktransfer._utils.plotting import palette_color
from sktransfer.inspection._deletion_insertion import (
    DeletionInsertionCurves,
    deletion_insertion_curves,
)

# Okabe and Ito's colors, told apart by all; styles for paper without colors.
_STYLES = ("-", "--", "-.", (0, (5, 1, 1, 1, 1, 1)))
_CHANCE = {"color": "0.35", "linestyle": ":"}
_PANELS = {
    "deletion": ("Deletion (lower is better)", "Share of the image deleted"),
    "insertion": ("Insertion (higher is better)", "Share of the image inserted"),
}


class DeletionInsertionDisplay:
    """Scores while what maps call important is deleted, and inserted.

    Make one with :meth:`from_estimator`. Needs matplotlib (extra ``plot``) to plot. Lines are means
    over the images, with the mean area under them in the legend.

    Read more in the :ref:`User Guide <seeing-trust>`.

    Parameters
    ----------
    curves : dict of str to DeletionInsertionCurves
        By the names of the maps. ``"random"`` is drawn as chance.

    Attributes
    ----------
    figure_ : matplotlib Figure or SubFigure
    axes_ : ndarray of matplotlib Axes, shape (2,)
        Deletion and insertion.
    lines_ : dict of (name, "deletion" or "insertion") to matplotlib Line2D
    fill_between_ : dict of (name, "deletion" or "insertion") to matplotlib PolyCollection
        Intervals of the means; empty without them.

    See Also
    --------
    deletion_insertion_curves : Compute the curves of one kind of map.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> from sktransfer.inspection import DeletionInsertionDisplay
    >>> X, y = load_digits(return_X_y=True)
    >>> forest = RandomForestClassifier(random_state=0).fit(X[:500], y[:500])
    >>> display = DeletionInsertionDisplay.from_estimator(
    ...     forest, X[600:605], maps=["occlusion", "random"], patch=1, n_steps=8
    ... )
    >>> list(display.curves)
    ['occlusion', 'random']
    """

    def __init__(self, *, curves: Mapping[str, DeletionInsertionCurves]) -> None:
        self.curves = curves

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any = None,
        *,
        maps: Sequence[str] | Mapping[str, Any] = ("gradient", "random"),
        figure: Any = None,
        show_interval: bool = True,
        line_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> DeletionInsertionDisplay:
        """Compute the curves of several kinds of maps, and plot.

        Parameters
        ----------
        estimator : estimator instance
            Fitted classifier or regressor of images.
        X : collection of images, n rows
            In any of the :ref:`accepted forms <accepted-inputs>`.
        y : array-like of shape (n,) or None, default=None
            The class of each row whose score is looked at. None: the one that is predicted.
        maps : sequence of str, or dict, default=("gradient", "random")
            As for :func:`deletion_insertion_curves`; in a dict, by names for the legend.
        figure, show_interval, line_kwargs
            As for :meth:`plot`.
        **kwargs
            Of :func:`deletion_insertion_curves`, such as ``patch`` or ``n_steps``.

        Returns
        -------
        DeletionInsertionDisplay

        Raises
        ------
        TypeError, ValueError
            As :func:`deletion_insertion_curves`; or if there are no maps.
        """
        if isinstance(maps, str):
            maps = (maps,)
        named = maps if isinstance(maps, Mapping) else {name: name for name in maps}
        if not named:
            raise ValueError("maps: at least one kind of map is needed; got none.")
        curves = {
            str(name): deletion_insertion_curves(estimator, X, y, maps=own, **kwargs)
            for name, own in named.items()
        }
        display = cls(curves=curves)
        return display.plot(figure=figure, show_interval=show_interval, line_kwargs=line_kwargs)

    def plot(
        self,
        *,
        figure: Any = None,
        show_interval: bool = True,
        line_kwargs: dict[str, Any] | None = None,
    ) -> DeletionInsertionDisplay:
        """Plot two panels.

        Parameters
        ----------
        figure : matplotlib Figure or SubFigure or None, default=None
            Where to plot. None makes a new one.
        show_interval : bool, default=True
            Whether to show 95% intervals of the means (normal; over the images).
        line_kwargs : dict or None, default=None
            For matplotlib's ``plot`` of the curves.

        Returns
        -------
        DeletionInsertionDisplay
        """
        pyplot = import_optional(
            "matplotlib.pyplot", extra="plot", purpose="DeletionInsertionDisplay.plot"
        )
        if figure is None:
            figure = pyplot.figure(figsize=(8.8, 4.4), layout="constrained")
        self.figure_ = figure
        self.axes_ = figure.subplots(1, 2, sharey=True)
        self.lines_: dict[tuple[str, str], Any] = {}
        self.fill_between_: dict[tuple[str, str], Any] = {}
        for ax, (part, (title, share)) in zip(self.axes_, _PANELS.items(), strict=True):
            for number, (name, curves) in enumerate(self.curves.items()):
                scores, area = getattr(curves, part), getattr(curves, f"{part}_area").mean()
                style = {
                    "color": palette_color(number),
                    "linestyle": _STYLES[number % len(_STYLES)],
                    **(_CHANCE if name == "random" else {}),
                    "label": f"{name} (area {area:.2f})",
                    **(line_kwargs or {}),
                }
                mean = scores.mean(axis=0)
                (line,) = ax.plot(curves.fraction, mean, **style)
                self.lines_[name, part] = line
                if show_interval and len(scores) > 1:
                    wide = 1.96 * scores.std(axis=0, ddof=1) / np.sqrt(len(scores))
                    self.fill_between_[name, part] = ax.fill_between(
                        curves.fraction,
                        mean - wide,
                        mean + wide,
                        color=line.get_color(),
                        alpha=0.15,
                        linewidth=0,
                    )
            ax.set_title(title, fontsize="medium")
            ax.set(xlabel=share, xlim=(0, 1))
            # Below: curves go through every corner of the panel.
            ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2, fontsize="small")
        self.axes_[0].set_ylabel("Score of the class")
        return self
