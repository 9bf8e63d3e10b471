"""Calibration of probabilities: slope, intercept, and a reliability diagram with intervals."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit, ndtri
from sklearn.exceptions import UndefinedMetricWarning

from sktransfer._utils.plotting import ScoreDisplayMixin, finish_axes, label_of, new_axes, styled
from sktransfer.metrics._labels import (
    Interval,
    among,
    binary_scores,
    check_level,
    check_probabilities,
    positive_label,
)
from sktransfer.metrics._rates import rate_of

# Newton's method doubles its digits at each step; far more steps than it ever needs.
_MAX_STEPS = 100


def calibration_slope(
    y_true: ArrayLike,
    y_proba: ArrayLike,
    *,
    pos_label: Any = None,
    confidence_level: float = 0.95,
    groups: ArrayLike | None = None,
) -> Interval:
    """Compute the slope of a logistic regression of labels on the log odds of probabilities.

    1 is ideal; less means that the probabilities are too extreme, as those of an overfit model are;
    more, that they are not extreme enough [1]_.

    Parameters
    ----------
    y_true, y_proba : array-like of shape (n,)
        True labels of two classes, and probabilities of the positive class. 0 and 1 count as the
        nearest numbers between them.
    pos_label : int, float, bool, str or None, default=None
        The positive class. None: 1, where the labels are 0 and 1 or -1 and 1.
    confidence_level : float, default=0.95
        Level of the interval.
    groups : array-like of shape (n,) or None, default=None
        Patients: the variance then is robust to rows of one patient being alike.

    Returns
    -------
    interval : tuple of float
        Named tuple ``(estimate, low, high)``.

    Warns
    -----
    UndefinedMetricWarning
        If the probabilities separate the classes, or are all the same: there is no finite slope.

    See Also
    --------
    calibration_intercept : Compute whether probabilities are too high or too low.
    CalibrationIntervalDisplay : Plot observed rates over probabilities.

    References
    ----------
    .. [1] Van Calster, McLernon, van Smeden, Wynants, Steyerberg: Calibration: the Achilles heel of
       predictive analytics. BMC Medicine 17 (2019).

    Examples
    --------
    >>> import numpy as np
    >>> from sktransfer.metrics import calibration_slope
    >>> rng = np.random.default_rng(0)
    >>> log_odds = rng.normal(size=5000)
    >>> y = rng.random(5000) < 1 / (1 + np.exp(-log_odds))
    >>> overconfident = 1 / (1 + np.exp(-2 * log_odds))
    >>> round(calibration_slope(y, overconfident).estimate, 1)
    0.5
    """
    positive, x, codes = _log_odds(y_true, y_proba, pos_label, groups)
    low, high = x[positive], x[~positive]
    if low.min() >= high.max() or low.max() <= high.min():
        warnings.warn(
            "The probabilities separate the classes or are all the same: there is no finite slope.",
            UndefinedMetricWarning,
            stacklevel=2,
        )
        if x.min() == x.max():
            return Interval(np.nan, np.nan, np.nan)
        slope = np.inf if low.min() >= high.max() else -np.inf
        return Interval(slope, np.nan, np.nan)
    return _logistic(
        positive, np.column_stack([x, np.ones_like(x)]), np.zeros_like(x), codes, confidence_level
    )


def calibration_intercept(
    y_true: ArrayLike,
    y_proba: ArrayLike,
    *,
    pos_label: Any = None,
    confidence_level: float = 0.95,
    groups: ArrayLike | None = None,
) -> Interval:
    """Compute what to add to the log odds so that they are correct on average.

    This is calibration in the large: 0 is ideal; less means that the probabilities are too high,
    more that they are too low. The slope is held at 1.

    Parameters
    ----------
    y_true, y_proba : array-like of shape (n,)
        True labels of two classes, and probabilities of the positive class. 0 and 1 count as the
        nearest numbers between them.
    pos_label : int, float, bool, str or None, default=None
        The positive class. None: 1, where the labels are 0 and 1 or -1 and 1.
    confidence_level : float, default=0.95
        Level of the interval.
    groups : array-like of shape (n,) or None, default=None
        Patients: the variance then is robust to rows of one patient being alike.

    Returns
    -------
    interval : tuple of float
        Named tuple ``(estimate, low, high)``.

    See Also
    --------
    calibration_slope : Compute whether probabilities are too extreme.
    CalibrationIntervalDisplay : Plot observed rates over probabilities.

    Examples
    --------
    >>> import numpy as np
    >>> from sktransfer.metrics import calibration_intercept
    >>> y = np.repeat([0, 1], [80, 20])
    >>> round(calibration_intercept(y, np.full(100, 0.5)).estimate, 3)
    -1.386
    """
    positive, x, codes = _log_odds(y_true, y_proba, pos_label, groups)
    return _logistic(positive, np.ones((len(x), 1)), x, codes, confidence_level)


def _log_odds(
    y_true: ArrayLike, y_proba: ArrayLike, pos_label: Any, groups: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return which rows are positive, the log odds, and the groups numbered from 0."""
    kind = np.asarray(y_proba).dtype
    positive, proba, codes = binary_scores(
        y_true, y_proba, pos_label=pos_label, groups=groups, name="y_proba"
    )
    check_probabilities(proba, len(positive))
    # The distance of 1 to the number before it, at the precision they were given in.
    margin = float(np.finfo(kind).epsneg) if np.issubdtype(kind, np.floating) else 2.0**-53
    return positive, logit(proba.clip(margin, 1 - margin)), codes


def _logistic(
    positive: np.ndarray,
    design: np.ndarray,
    offset: np.ndarray,
    codes: np.ndarray | None,
    confidence_level: float,
) -> Interval:
    """Return the first coefficient of an unpenalized logistic regression, by Newton's method."""
    check_level(confidence_level)
    beta = np.zeros(design.shape[1])

    def loss(beta: np.ndarray) -> float:
        z = design @ beta + offset
        return float(np.logaddexp(0, np.where(positive, -z, z)).sum())

    value = loss(beta)
    for _ in range(_MAX_STEPS):
        mean = expit(design @ beta + offset)
        information = design.T @ (design * (mean * (1 - mean))[:, None])
        step = np.linalg.lstsq(information, design.T @ (positive - mean), rcond=None)[0]
        size = 1.0
        while loss(beta + size * step) > value and size > 1e-10:
            size /= 2  # a full step may overshoot where probabilities are extreme
        beta = beta + size * step
        new = loss(beta)
        if value - new <= 1e-14 * abs(value):
            break
        value = new
    mean = expit(design @ beta + offset)
    information = design.T @ (design * (mean * (1 - mean))[:, None])
    covariance = np.linalg.pinv(information)
    if codes is not None:
        scores = design * (positive - mean)[:, None]
        sums = np.stack([np.bincount(codes, weights=column) for column in scores.T], axis=1)
        n_groups = len(sums)
        meat = n_groups / max(n_groups - 1, 1) * (sums.T @ sums)
        covariance = covariance @ meat @ covariance
    half = ndtri(0.5 + confidence_level / 2) * np.sqrt(covariance[0, 0])
    return Interval(float(beta[0]), float(beta[0] - half), float(beta[0] + half))


@dataclass(kw_only=True, eq=False, repr=False)
class CalibrationIntervalDisplay(ScoreDisplayMixin):
    """Reliability diagram with a binomial interval for each bin.

    scikit-learn's :class:`~sklearn.calibration.CalibrationDisplay` with what it lacks: the interval
    of each point, how many rows are in it, slope and intercept. Make one with a ``from_`` method.
    Plotting needs matplotlib (extra ``plot``).

    Parameters
    ----------
    prob_true, prob_pred : ndarray of shape (n_bins,)
        Share of positive rows and mean probability of each bin that has rows.
    low, high, counts : ndarray of shape (n_bins,)
        Interval of ``prob_true``, and number of rows, of each bin.
    y_proba : ndarray of shape (n,)
        All probabilities.
    slope, intercept : tuple of float
        ``(estimate, low, high)``, of :func:`calibration_slope`, :func:`calibration_intercept`.
    name : str or None, default=None
        Name in the legend.
    pos_label : int, float, bool, str or None, default=None
        The positive class.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
        Axes with the diagram, and their figure.
    errorbar_ : matplotlib ErrorbarContainer
        The points and their intervals.
    line_ : matplotlib Line2D
        The line through the points.
    rug_ : matplotlib collection
        The histogram of the probabilities at the foot.

    See Also
    --------
    sklearn.calibration.CalibrationDisplay : Without intervals.
    calibration_slope : The slope in the legend.

    Examples
    --------
    >>> import numpy as np
    >>> from sktransfer.metrics import CalibrationIntervalDisplay
    >>> rng = np.random.default_rng(0)
    >>> p = rng.random(500)
    >>> display = CalibrationIntervalDisplay.from_predictions(rng.random(500) < p, p, n_bins=5)
    >>> display.counts.sum().item(), bool((display.low < display.high).all())
    (500, True)
    """

    _methods = ("predict_proba",)

    prob_true: np.ndarray
    prob_pred: np.ndarray
    low: np.ndarray
    high: np.ndarray
    counts: np.ndarray
    y_proba: np.ndarray
    slope: Interval
    intercept: Interval
    name: str | None = None
    pos_label: Any = None

    @classmethod
    def from_predictions(
        cls,
        y_true: Any,
        y_proba: Any,
        *,
        n_bins: int = 10,
        strategy: str = "quantile",
        groups: Any = None,
        confidence_level: float = 0.95,
        pos_label: Any = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> CalibrationIntervalDisplay:
        """Plot from true labels and probabilities.

        Parameters
        ----------
        y_true, y_proba : array-like of shape (n,)
            True labels of two classes, and probabilities of the positive class.
        n_bins : int, default=10
            Number of bins; those without rows are left out.
        strategy : {"quantile", "uniform"}, default="quantile"
            Bins with equally many rows, or of equal width; as scikit-learn cuts them.
        groups : array-like of shape (n,) or None, default=None
            Patients: intervals then take into account that their rows are alike.
        confidence_level : float, default=0.95
            Level of the intervals.
        pos_label : int, float, bool, str or None, default=None
            The positive class. None: 1, where the labels are 0 and 1 or -1 and 1.
        name : str or None, default=None
            Name in the legend. None: "Classifier".
        **kwargs : dict
            Parameters of :meth:`plot`, such as ``ax``.

        Returns
        -------
        display : CalibrationIntervalDisplay
            The display, plotted.
        """
        if n_bins < 1:
            raise ValueError(f"n_bins must be at least 1; got {n_bins!r}.")
        if strategy not in ("quantile", "uniform"):
            raise ValueError(f"strategy must be 'quantile' or 'uniform'; got {strategy!r}.")
        label = positive_label(y_true, pos_label)
        positive, proba, codes = binary_scores(
            y_true, y_proba, pos_label=label, groups=groups, name="y_proba"
        )
        check_probabilities(proba, len(positive))
        edges = np.linspace(0, 1, n_bins + 1)
        if strategy == "quantile":
            edges = np.percentile(proba, edges * 100)
        bin_of = np.searchsorted(edges[1:-1], proba)
        bins = [bin_of == each for each in np.unique(bin_of)]
        rates = [rate_of(positive[rows], among(codes, rows), confidence_level) for rows in bins]
        settings = {"pos_label": label, "groups": groups, "confidence_level": confidence_level}
        with warnings.catch_warnings():
            # The legend says that there is no finite slope.
            warnings.simplefilter("ignore", UndefinedMetricWarning)
            slope = calibration_slope(y_true, y_proba, **settings)
        display = cls(
            prob_true=np.array([rate.estimate for rate in rates]),
            prob_pred=np.array([proba[rows].mean() for rows in bins]),
            low=np.array([rate.low for rate in rates]),
            high=np.array([rate.high for rate in rates]),
            counts=np.array([int(rows.sum()) for rows in bins]),
            y_proba=proba,
            slope=slope,
            intercept=calibration_intercept(y_true, y_proba, **settings),
            name="Classifier" if name is None else name,
            pos_label=label,
        )
        return display.plot(**kwargs)

    def plot(
        self,
        ax: Any = None,
        *,
        name: str | None = None,
        ref_line: bool = True,
        curve_kwargs: dict[str, Any] | None = None,
        despine: bool = False,
    ) -> CalibrationIntervalDisplay:
        """Plot the points with their intervals, and a histogram of the probabilities.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Axes to plot in. None makes new ones.
        name : str or None, default=None
            Name in the legend. None: the ``name`` of the display.
        ref_line : bool, default=True
            Whether to draw the line of perfect calibration.
        curve_kwargs : dict or None, default=None
            Keyword arguments for matplotlib's ``errorbar``.
        despine : bool, default=False
            Whether to leave out the top and right lines of the frame.

        Returns
        -------
        display : CalibrationIntervalDisplay
            The display itself.
        """
        self.ax_, self.figure_ = new_axes(ax, self)
        perfect = "Perfectly calibrated"
        if ref_line and perfect not in self.ax_.get_legend_handles_labels()[1]:
            self.ax_.plot([0, 1], [0, 1], "k:", label=perfect)
        name = self.name if name is None else name
        style = styled(
            curve_kwargs,
            fmt="s-",
            capsize=3,
            elinewidth=1,
            markersize=5,
            label=f"{name} (slope {self.slope.estimate:.2f}, "
            f"intercept {self.intercept.estimate:.2f})",
        )
        error = np.abs([self.low - self.prob_true, self.high - self.prob_true])
        self.errorbar_ = self.ax_.errorbar(self.prob_pred, self.prob_true, yerr=error, **style)
        self.line_ = self.errorbar_.lines[0]
        # A tenth of the height for the histogram, below zero so that it hides no point.
        counts, edges = np.histogram(self.y_proba, bins=50, range=(0, 1))
        tops = -0.1 + 0.09 * np.append(counts, counts[-1]) / counts.max()
        self.rug_ = self.ax_.fill_between(
            edges, -0.1, tops, step="post", color=self.line_.get_color(), alpha=0.4
        )
        finish_axes(
            self.ax_,
            xlabel=label_of("Mean predicted probability", self.pos_label),
            ylabel=label_of("Fraction of positives", self.pos_label),
            xlim=(-0.01, 1.01),
            ylim=(-0.1, 1.01),
            legend={"loc": "upper left"},
            despine=despine,
        )
        return self
