"""ReaderStudyDisplay: the ROC curve of a classifier with experts as points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import t as student
from sklearn.metrics import roc_curve

from sktransfer._utils.identifiers import read_groups
from sktransfer._utils.per_row import as_columns
from sktransfer._utils.plotting import ScoreDisplayMixin, finish_axes, label_of, new_axes, styled
from sktransfer.metrics._labels import Interval, check_labels, check_readings, positive_label
from sktransfer.metrics._operating_point import OperatingPoint, operating_point
from sktransfer.metrics._roc import roc_auc_interval, roc_curve_band

# Esteva et al. (2017) have experts red and their mean green, which many cannot tell apart.
_READER, _MEAN = "#D55E00", "#5D3A9B"


class Reader(NamedTuple):
    """Sensitivity and specificity of a reader, each with its interval."""

    sensitivity: Interval
    specificity: Interval


@dataclass(kw_only=True, eq=False, repr=False)
class ReaderStudyDisplay(ScoreDisplayMixin):
    """ROC curve of a classifier with experts as points.

    Make one with a ``from_`` method. Plotting needs matplotlib (extra ``plot``).

    Parameters
    ----------
    fpr, tpr : ndarray
        False-positive rates and sensitivities of the curve.
    roc_auc : tuple of float
        Area under the curve, ``(estimate, low, high)``.
    band : tuple of three ndarray, or None, default=None
        False-positive rates, and the lowest and highest sensitivity at each.
    readers : dict of str to tuple, or None, default=None
        Sensitivity and specificity of each expert, as named tuples ``(sensitivity, specificity)``
        of ``(estimate, low, high)``.
    mean_reader : tuple or None, default=None
        The same of the average expert.
    operating_point : OperatingPoint or None, default=None
        The threshold that was chosen, on these rows, as :func:`operating_point` gives it.
    name : str or None, default=None
        Name of the classifier.
    pos_label : int, float, bool, str or None, default=None
        The positive class.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
        Axes with the plot, and their figure.
    line_ : matplotlib Line2D
        The curve.
    band_ : matplotlib collection or None
        The band about the curve.
    readers_ : list of matplotlib ErrorbarContainer
        Points of the experts.
    mean_reader_, operating_point_ : matplotlib ErrorbarContainer or None
        Points of the average expert and of the threshold.

    See Also
    --------
    sklearn.metrics.RocCurveDisplay : The curve alone, or several.
    ConfusionPairDisplay : What classifier and experts confuse.

    Notes
    -----
    Experts are points since they do not give scores. They must have read the same rows as the
    classifier: restrict the curve to the images that they saw. An expert on the curve does as well
    as the classifier at that threshold; one above it does better [1]_.

    References
    ----------
    .. [1] Esteva et al.: Dermatologist-level classification of skin cancer with deep neural
       networks. Nature 542 (2017).

    Examples
    --------
    >>> import numpy as np
    >>> from sktransfer.metrics import ReaderStudyDisplay
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat([0, 1], 100)
    >>> readers = {f"reader {i}": rng.normal(2 * y) > 1 for i in range(3)}  # simulated
    >>> display = ReaderStudyDisplay.from_predictions(
    ...     y, rng.normal(2 * y), readers=readers, threshold=0.5
    ... )
    >>> len(display.readers_)
    3
    """

    _shows_threshold = True

    fpr: np.ndarray
    tpr: np.ndarray
    roc_auc: Interval
    band: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    readers: dict[str, Reader] | None = None
    mean_reader: Reader | None = None
    operating_point: OperatingPoint | None = None
    name: str | None = None
    pos_label: Any = None

    @classmethod
    def from_predictions(
        cls,
        y_true: Any,
        y_score: Any,
        *,
        readers: Any = None,
        reader_points: Mapping[str, tuple[float, float]] | None = None,
        threshold: float | None = None,
        groups: Any = None,
        confidence_level: float = 0.95,
        band: bool = True,
        pos_label: Any = None,
        name: str | None = None,
        random_state: Any = 0,
        **kwargs: Any,
    ) -> ReaderStudyDisplay:
        """Plot from true labels, scores and readings.

        Parameters
        ----------
        y_true, y_score : array-like of shape (n,)
            True labels of two classes, and scores of the positive class.
        readers : mapping of str to array-like of shape (n,), or DataFrame, default=None
            The label that each expert gave each row; None or NaN where an expert gave none.
        reader_points : mapping of str to (sensitivity, specificity), default=None
            Experts of whom only these are known; they have no intervals.
        threshold : float or None, default=None
            Threshold that was chosen; :meth:`from_estimator` takes the estimator's.
        groups : array-like of shape (n,) or None, default=None
            Patients: all intervals then take into account that their rows are alike.
        confidence_level : float, default=0.95
            Level of the intervals.
        band : bool, default=True
            Whether to compute the band about the curve, by the bootstrap.
        pos_label : int, float, bool, str or None, default=None
            The positive class. None: 1, where the labels are 0 and 1 or -1 and 1.
        name : str or None, default=None
            Name in the legend. None: "Classifier".
        random_state : int, RandomState instance or None, default=0
            Seed of the bootstrap.
        **kwargs : dict
            Parameters of :meth:`plot`, such as ``ax``.

        Returns
        -------
        display : ReaderStudyDisplay
            The display, plotted.
        """
        label = positive_label(y_true, pos_label)
        settings = {"pos_label": label, "groups": groups, "confidence_level": confidence_level}
        roc_auc = roc_auc_interval(y_true, y_score, **settings, random_state=random_state)
        fpr, tpr, _ = roc_curve(y_true, y_score, pos_label=label, drop_intermediate=True)
        experts = as_columns({} if readers is None else readers, len(y_true), "readers")
        found = {
            str(who): _reader(y_true, readings, groups, confidence_level, label, str(who))
            for who, readings in experts.items()
        }
        for point, rates in (reader_points or {}).items():
            if point in found:
                raise ValueError(f"{point!r} is in readers and in reader_points.")
            found[point] = Reader(*(Interval(rate, rate, rate) for rate in rates))
        display = cls(
            fpr=fpr,
            tpr=tpr,
            roc_auc=roc_auc,
            band=roc_curve_band(y_true, y_score, **settings, random_state=random_state)
            if band
            else None,
            readers=found,
            mean_reader=_mean(list(found.values()), confidence_level) if len(found) > 1 else None,
            operating_point=None
            if threshold is None
            else operating_point(y_true, y_score, threshold, **settings),
            name="Classifier" if name is None else name,
            pos_label=label,
        )
        return display.plot(**kwargs)

    def plot(
        self,
        ax: Any = None,
        *,
        name: str | None = None,
        curve_kwargs: dict[str, Any] | None = None,
        band_kwargs: dict[str, Any] | None = None,
        reader_kwargs: dict[str, Any] | None = None,
        plot_chance_level: bool = False,
        chance_level_kwargs: dict[str, Any] | None = None,
        despine: bool = False,
    ) -> ReaderStudyDisplay:
        """Plot the curve, its band, the experts and the operating point.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Axes to plot in. None makes new ones.
        name : str or None, default=None
            Name in the legend. None: the ``name`` of the display.
        curve_kwargs, band_kwargs, reader_kwargs : dict or None, default=None
            Keyword arguments for matplotlib's ``plot``, ``fill_between`` and ``errorbar``.
        plot_chance_level : bool, default=False
            Whether to draw the diagonal.
        chance_level_kwargs : dict or None, default=None
            Keyword arguments for matplotlib's ``plot`` of the diagonal.
        despine : bool, default=False
            Whether to leave out the top and right lines of the frame.

        Returns
        -------
        display : ReaderStudyDisplay
            The display itself.
        """
        self.ax_, self.figure_ = new_axes(ax, self)
        name = self.name if name is None else name
        area, low, high = self.roc_auc
        text = f"{name} (AUC = {area:.2f}, {low:.2f} to {high:.2f})"
        curve = styled(curve_kwargs, label=text, color="C0")
        (self.line_,) = self.ax_.plot(self.fpr, self.tpr, **curve)
        self.band_ = None
        if self.band is not None:
            color = self.line_.get_color()
            band = styled(band_kwargs, color=color, alpha=0.15, linewidth=0)
            self.band_ = self.ax_.fill_between(*self.band, **band)
        if plot_chance_level:
            label = "Chance level (AUC = 0.5)"
            chance = styled(chance_level_kwargs, label=label, color="k", linestyle="--")
            self.ax_.plot([0, 1], [0, 1], **chance)
        self._plot_points(reader_kwargs)
        finish_axes(
            self.ax_,
            xlabel=label_of("1 - Specificity", self.pos_label),
            ylabel=label_of("Sensitivity", self.pos_label),
            xlim=(-0.01, 1.01),
            ylim=(-0.01, 1.01),
            aspect="equal",
            legend={"loc": "lower right"},
            despine=despine,
        )
        return self

    def _plot_points(self, reader_kwargs: dict[str, Any] | None) -> None:
        """Plot the experts, their average and the operating point."""
        readers = self.readers or {}
        labels = [f"{len(readers)} readers" if len(readers) > 1 else next(iter(readers), None)]
        labels += [None] * len(readers)  # one entry in the legend for all of them
        look = {"fmt": "o", "color": _READER, "markersize": 5, "alpha": 0.7, "elinewidth": 0.7}
        self.readers_ = [
            self._point(*reader, **styled(reader_kwargs, **look, label=label))
            for reader, label in zip(readers.values(), labels, strict=False)
        ]
        self.mean_reader_ = self.operating_point_ = None
        if self.mean_reader is not None:
            self.mean_reader_ = self._point(
                *self.mean_reader, fmt="P", color=_MEAN, markersize=10, label="average reader"
            )
        if self.operating_point is not None:
            own = self.operating_point
            self.operating_point_ = self._point(
                own.sensitivity,
                own.specificity,
                fmt="D",
                color="black",
                markerfacecolor="white",
                markersize=7,
                elinewidth=1,
                zorder=4,
                label=f"operating point: sensitivity {own.sensitivity.estimate:.2f}, "
                f"specificity {own.specificity.estimate:.2f}",
            )

    def _point(self, sensitivity: Interval, specificity: Interval, **style: Any) -> Any:
        """Plot a point with its two intervals."""
        across = np.array([[specificity.high], [specificity.low]]) - specificity.estimate
        up = np.array([[sensitivity.low], [sensitivity.high]]) - sensitivity.estimate
        return self.ax_.errorbar(
            1 - specificity.estimate,
            sensitivity.estimate,
            xerr=np.abs(across),
            yerr=np.abs(up),
            **style,
        )


def _reader(
    y_true: Any, readings: Any, groups: Any, confidence_level: float, label: Any, name: str
) -> Reader:
    """Return the rates of an expert on the rows that the expert read."""
    truth = check_labels(y_true)
    classes = np.unique(truth)
    other = next((each for each in classes if each != label), None)
    given = check_readings(readings, classes, label, other)
    read = ~pd.isna(given)
    if not (truth[read] == label).any() or (truth[read] == label).all():
        raise ValueError(
            f"Reader {name!r} read no rows of one of the two classes; rows of both are needed."
        )
    known = classes.tolist()
    unknown = [each for each in pd.unique(given[read]).tolist() if each not in known]
    if unknown:
        raise ValueError(
            f"Reader {name!r} gave labels that are not among the labels of y_true: {unknown}."
        )
    point = operating_point(
        truth[read],
        given[read] == label,
        1,
        pos_label=label,
        groups=None if groups is None else read_groups(groups, n=len(truth))[read],
        confidence_level=confidence_level,
    )
    return Reader(point.sensitivity, point.specificity)


def _mean(readers: list[Reader], confidence_level: float) -> Reader:
    """Return the mean of the readers, with its interval over readers like these."""

    def mean(rates: np.ndarray) -> Interval:
        error = rates.std(ddof=1) / np.sqrt(len(rates))
        half = student.ppf(0.5 + confidence_level / 2, len(rates) - 1) * error
        low, high = np.clip([rates.mean() - half, rates.mean() + half], 0, 1)
        return Interval(float(rates.mean()), float(low), float(high))

    return Reader(
        mean(np.array([reader.sensitivity.estimate for reader in readers])),
        mean(np.array([reader.specificity.estimate for reader in readers])),
    )
