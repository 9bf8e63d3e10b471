"""ScoreDistributionDisplay: histograms of the scores of each class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sktransfer._utils.plotting import ScoreDisplayMixin, label_of, legend_text, styled
from sktransfer.metrics._labels import binary_scores, group_weights, positive_label


@dataclass(kw_only=True, eq=False, repr=False)
class ScoreDistributionDisplay(ScoreDisplayMixin):
    """Histogram of the scores of each class, with the threshold.

    Make one with a ``from_`` method. Plotting needs matplotlib (extra ``plot``).

    Parameters
    ----------
    edges : ndarray of shape (n_bins + 1,)
        Edges of the bins.
    shares : dict of label to ndarray of shape (n_bins,)
        Share of the rows of each class in each bin; the positive class last.
    counts : dict of label to int
        Rows of each class.
    threshold : float or None, default=None
        Score from which on a row is called positive.
    name : str or None, default=None
        Title of the plot.
    pos_label : int, float, bool, str or None, default=None
        The positive class.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
        Axes with the plot, and their figure.
    stairs_ : list of matplotlib StepPatch
        Histograms, one for each class.
    threshold_ : matplotlib Line2D or None
        Line at the threshold.

    See Also
    --------
    operating_point : What a threshold does, in numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from sktransfer.metrics import ScoreDistributionDisplay
    >>> rng = np.random.default_rng(0)
    >>> y = rng.integers(0, 2, 300)
    >>> display = ScoreDistributionDisplay.from_predictions(y, rng.normal(y), threshold=0.2)
    >>> sorted(display.counts)
    [0, 1]
    """

    _shows_threshold = True

    edges: np.ndarray
    shares: dict[Any, np.ndarray]
    counts: dict[Any, int]
    threshold: float | None = None
    name: str | None = None
    pos_label: Any = None

    @classmethod
    def from_predictions(
        cls,
        y_true: Any,
        y_score: Any,
        *,
        n_bins: int = 20,
        threshold: float | None = None,
        groups: Any = None,
        pos_label: Any = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> ScoreDistributionDisplay:
        """Plot from true labels and scores.

        Parameters
        ----------
        y_true, y_score : array-like of shape (n,)
            True labels of two classes, and scores or probabilities of the positive class.
        n_bins : int, default=20
            Number of bins.
        threshold : float or None, default=None
            Threshold that was chosen; :meth:`from_estimator` takes the estimator's.
        groups : array-like of shape (n,) or None, default=None
            Patients: each then weighs the same, however many rows of a class it has.
        pos_label : int, float, bool, str or None, default=None
            The positive class. None: 1, where the labels are 0 and 1 or -1 and 1.
        name : str or None, default=None
            Title of the plot.
        **kwargs : dict
            Parameters of :meth:`plot`, such as ``ax``.

        Returns
        -------
        display : ScoreDistributionDisplay
            The display, plotted.
        """
        label = positive_label(y_true, pos_label)
        positive, score, codes = binary_scores(y_true, y_score, pos_label=label, groups=groups)
        other = next(each for each in np.unique(y_true).tolist() if each != label)
        low, high = score.min(), score.max()
        # Probabilities are shown on their whole scale, so that plots can be compared.
        span = (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)
        edges = np.histogram_bin_edges(score, bins=n_bins, range=span)
        shares, counts = {}, {}
        for each, own in ((other, ~positive), (label, positive)):
            weight = None if codes is None else group_weights(codes[own])
            found, _ = np.histogram(score[own], bins=edges, weights=weight)
            shares[each], counts[each] = found / found.sum(), int(own.sum())
        display = cls(
            edges=edges,
            shares=shares,
            counts=counts,
            threshold=threshold,
            name=name,
            pos_label=label,
        )
        return display.plot(**kwargs)

    def _draw(self, name: str | None, curve_kwargs: dict[str, Any] | None) -> dict[str, Any]:
        """Draw the two histograms and the threshold."""
        self.stairs_ = []
        for number, (label, share) in enumerate(self.shares.items()):
            style = styled(
                curve_kwargs,
                fill=True,
                alpha=0.5,
                color=f"C{number}",
                label=legend_text(f"{label} ({self.counts[label]} rows)"),
            )
            self.stairs_.append(self.ax_.stairs(share, self.edges, **style))
        self.threshold_ = None
        if self.threshold is not None and np.isfinite(self.threshold):
            self.threshold_ = self.ax_.axvline(
                self.threshold, color="k", linestyle="--", label=f"threshold {self.threshold:.3g}"
            )
        xlabel = label_of("Score", self.pos_label)
        return {"xlabel": xlabel, "ylabel": "Share of the class", "title": name or ""}
