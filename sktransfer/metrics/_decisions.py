"""What decisions cost and what they are worth: expected cost, net benefit, decision curves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import confusion_matrix
from sklearn.utils.multiclass import unique_labels
from sklearn.utils.validation import column_or_1d

from sktransfer._utils.identifiers import read_groups
from sktransfer._utils.plotting import ScoreDisplayMixin, label_of, styled
from sktransfer.metrics._labels import (
    binary_labels,
    check_probabilities,
    group_weights,
    positive_label,
)


def expected_cost(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    cost_matrix: ArrayLike,
    *,
    labels: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
) -> float:
    """Compute the mean cost of predicted labels.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n,)
        True and predicted labels.
    cost_matrix : array-like of shape (n_classes, n_classes)
        What it costs to call a row of class ``i`` a ``j``, in row ``i`` and column ``j``.
    labels : array-like of shape (n_classes,) or None, default=None
        Classes in the order of the matrix. None: those that occur, sorted.
    sample_weight : array-like of shape (n,) or None, default=None
        Weight of each row in the mean.

    Returns
    -------
    cost : float
        The mean cost; lower is better.

    See Also
    --------
    sktransfer.model_selection.OperatingPointClassifier : A threshold of least cost.

    Examples
    --------
    A missed case costs as much as ten false alarms.

    >>> from sklearn.metrics import make_scorer
    >>> from sktransfer.metrics import expected_cost
    >>> costs = [[0, 1], [10, 0]]
    >>> expected_cost([0, 0, 1, 1], [0, 1, 1, 0], costs)
    2.75

    For ``scoring=`` of a search or a cross-validation:

    >>> scorer = make_scorer(expected_cost, greater_is_better=False, cost_matrix=costs)
    """
    classes = unique_labels(y_true, y_pred) if labels is None else column_or_1d(labels)
    costs = check_cost_matrix(cost_matrix, len(classes))
    unknown = np.setdiff1d(unique_labels(y_true, y_pred), classes)
    if len(unknown):
        raise ValueError(
            f"labels must name all classes in y_true and y_pred; {unknown.tolist()} are missing."
        )
    table = confusion_matrix(y_true, y_pred, labels=classes, sample_weight=sample_weight)
    return float((table * costs).sum() / table.sum())


def check_cost_matrix(cost_matrix: ArrayLike, n_classes: int) -> np.ndarray:
    """Return costs as float64, one row and one column for each class."""
    costs = np.asarray(cost_matrix, dtype=np.float64)
    if costs.shape != (n_classes, n_classes):
        raise ValueError(
            f"cost_matrix for {n_classes} classes must have shape {(n_classes, n_classes)}: a row "
            f"for each true class, a column for each predicted one; got shape {costs.shape}. Where "
            "a class does not occur in y, give labels."
        )
    if not np.isfinite(costs).all():
        raise ValueError(f"cost_matrix must hold finite numbers; got {costs.tolist()}.")
    return costs


def cheapest_threshold(positive: np.ndarray, score: np.ndarray, costs: np.ndarray) -> float:
    """Return the threshold with the least total cost; of several the lowest, which finds most.

    It is one of the scores, or infinite where it is cheapest to call nobody positive. ``costs`` has
    the negative class first.
    """
    order = np.argsort(score, kind="stable")
    score, positive = score[order], positive[order]
    # What it saves to call a row negative, for the rows below the threshold in turn.
    saved = np.where(positive, costs[1, 1] - costs[1, 0], costs[0, 1] - costs[0, 0])
    total = np.r_[0.0, np.cumsum(saved)]
    first = np.r_[True, np.diff(score) > 0, True]
    options = np.flatnonzero(first)
    best = options[np.argmax(total[options])]
    return float(score[best]) if best < len(score) else np.inf


def net_benefit(
    y_true: ArrayLike,
    y_proba: ArrayLike,
    thresholds: ArrayLike,
    *,
    pos_label: Any = None,
    sample_weight: ArrayLike | None = None,
) -> np.ndarray:
    """Compute the net benefit of acting on probabilities at or above each threshold.

    Net benefit is counted in true positives per row: true positives less false ones, which weigh
    ``t / (1 - t)``. Whoever acts from a probability ``t`` on takes one true positive to be worth
    ``(1 - t) / t`` false ones [1]_. Acting on everybody has the net benefit of probabilities that
    are all 1, acting on nobody has 0.

    Parameters
    ----------
    y_true, y_proba : array-like of shape (n,)
        True labels of two classes, and calibrated probabilities of the positive class.
    thresholds : float or array-like of shape (k,)
        Probabilities in [0, 1).
    pos_label : int, float, bool, str or None, default=None
        The positive class. None: 1, where the labels are 0 and 1 or -1 and 1.
    sample_weight : array-like of shape (n,) or None, default=None
        Weight of each row.

    Returns
    -------
    benefit : ndarray of shape (k,)
        The net benefit at each threshold; a single number for a single threshold.

    See Also
    --------
    DecisionCurveDisplay : Plots net benefit against thresholds.

    References
    ----------
    .. [1] Vickers, Elkin: Decision curve analysis: a novel method for evaluating prediction models.
       Medical Decision Making 26 (2006).

    Examples
    --------
    >>> from sktransfer.metrics import net_benefit
    >>> net_benefit([0, 0, 0, 1], [0.1, 0.2, 0.6, 0.9], [0.15, 0.5]).round(3).tolist()
    [0.162, 0.0]
    """
    positive = binary_labels(y_true, pos_label)
    proba = check_probabilities(y_proba, len(positive))
    cuts = np.asarray(thresholds, dtype=np.float64)
    if cuts.ndim > 1 or not ((cuts >= 0) & (cuts < 1)).all():
        raise ValueError(f"thresholds must be probabilities in [0, 1); got {thresholds!r}.")
    weight = np.ones(len(proba)) if sample_weight is None else column_or_1d(sample_weight)
    if len(weight) != len(proba):
        raise ValueError(f"sample_weight has {len(weight)} entries for {len(proba)} rows.")
    called = proba[:, None] >= np.atleast_1d(cuts)[None, :]
    share = weight / weight.sum()
    gained, lost = share[positive] @ called[positive], share[~positive] @ called[~positive]
    benefit = gained - lost * np.atleast_1d(cuts) / (1 - np.atleast_1d(cuts))
    return benefit if cuts.ndim else benefit[0]


@dataclass(kw_only=True, eq=False, repr=False)
class DecisionCurveDisplay(ScoreDisplayMixin):
    """Decision curve: net benefit of acting on probabilities, on everybody and on nobody.

    Make one with a ``from_`` method. Plotting needs matplotlib (extra ``plot``).

    Parameters
    ----------
    thresholds : ndarray of shape (k,)
        Probabilities from which on one acts.
    benefit, benefit_all : ndarray of shape (k,)
        Net benefit of acting on the probabilities, and of acting on everybody.
    prevalence : float
        Share of positive rows, which is the most that can be gained.
    name : str or None, default=None
        Name in the legend.
    pos_label : int, float, bool, str or None, default=None
        The positive class.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
        Axes with the plot, and their figure.
    line_ : matplotlib Line2D
        The curve.

    See Also
    --------
    net_benefit : Computes the curve.

    Notes
    -----
    Read the curve at the thresholds that somebody would choose: whoever would rather see ten
    patients without the disease than miss one with it acts from a probability of 1/11 on. Where the
    curve is below the higher of the two other lines, the probabilities do harm.

    Examples
    --------
    >>> import numpy as np
    >>> from sktransfer.metrics import DecisionCurveDisplay
    >>> rng = np.random.default_rng(0)
    >>> p = rng.random(500)
    >>> display = DecisionCurveDisplay.from_predictions(rng.random(500) < p, p)
    >>> bool((display.benefit >= display.benefit_all - 0.02).all())
    True
    """

    _methods = ("predict_proba",)

    thresholds: np.ndarray
    benefit: np.ndarray
    benefit_all: np.ndarray
    prevalence: float
    name: str | None = None
    pos_label: Any = None

    @classmethod
    def from_predictions(
        cls,
        y_true: Any,
        y_proba: Any,
        *,
        thresholds: Any = None,
        sample_weight: Any = None,
        groups: Any = None,
        pos_label: Any = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> DecisionCurveDisplay:
        """Plot from true labels and probabilities.

        Parameters
        ----------
        y_true, y_proba : array-like of shape (n,)
            True labels of two classes, and calibrated probabilities of the positive class.
        thresholds : array-like of shape (k,) or None, default=None
            Probabilities in [0, 1) from which on one acts. None: 0.01 to 0.99.
        sample_weight : array-like of shape (n,) or None, default=None
            Weight of each row.
        groups : array-like of shape (n,) or None, default=None
            Patients: each then weighs the same, however many rows it has.
        pos_label : int, float, bool, str or None, default=None
            The positive class. None: 1, where the labels are 0 and 1 or -1 and 1.
        name : str or None, default=None
            Name in the legend. None: "Classifier".
        **kwargs : dict
            Parameters of :meth:`plot`, such as ``ax``.

        Returns
        -------
        display : DecisionCurveDisplay
            The display, plotted.
        """
        label = positive_label(y_true, pos_label)
        n = len(y_true)
        weight = np.ones(n) if sample_weight is None else np.asarray(sample_weight, np.float64)
        if groups is not None:
            weight = weight * group_weights(read_groups(groups, n=n))
        cuts = np.linspace(0.01, 0.99, 99) if thresholds is None else np.asarray(thresholds)
        settings = {"pos_label": label, "sample_weight": weight}
        display = cls(
            thresholds=cuts,
            benefit=net_benefit(y_true, y_proba, cuts, **settings),
            benefit_all=net_benefit(y_true, np.ones(len(y_true)), cuts, **settings),
            prevalence=float(np.average(binary_labels(y_true, label), weights=weight)),
            name="Classifier" if name is None else name,
            pos_label=label,
        )
        return display.plot(**kwargs)

    def _draw(self, name: str | None, curve_kwargs: dict[str, Any] | None) -> dict[str, Any]:
        """Draw the curve and the two lines to compare it with."""
        if "act on everybody" not in self.ax_.get_legend_handles_labels()[1]:
            everybody = {"color": "0.5", "linestyle": "--", "label": "act on everybody"}
            self.ax_.plot(self.thresholds, self.benefit_all, **everybody)
            self.ax_.axhline(0, color="k", linewidth=0.8, label="act on nobody")
        curve = styled(curve_kwargs, label=name)
        (self.line_,) = self.ax_.plot(self.thresholds, self.benefit, **curve)
        return {
            "xlabel": label_of("Threshold probability", self.pos_label),
            "ylabel": "Net benefit",
            "xlim": (0, 1),
            # Acting on everybody falls without bound.
            "ylim": (-0.15 * self.prevalence, 1.05 * self.prevalence),
        }
