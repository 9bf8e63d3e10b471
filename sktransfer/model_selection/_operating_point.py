"""OperatingPointClassifier: a decision threshold with a guarantee."""

from __future__ import annotations

from numbers import Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import get_tags, indexable
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import check_is_fitted

from sktransfer._utils.classes import class_text, names_of_model, positive_class
from sktransfer._utils.identifiers import read_groups
from sktransfer._utils.multilabel import is_multilabel, share_correct
from sktransfer._utils.sklearn_compat import Interval, StrOptions, _fit_context
from sktransfer.metrics import operating_point
from sktransfer.metrics._decisions import cheapest_threshold, check_cost_matrix
from sktransfer.metrics._thresholds import rate_threshold, worst_scores
from sktransfer.model_selection._cross_fitted import CrossFittedClassifier
from sktransfer.model_selection._guarantee import (
    USUAL,
    refuse_certainty,
    trivial_threshold,
    warn_of_no_use,
)
from sktransfer.model_selection._label_thresholds import called_labels, fit_labels
from sktransfer.model_selection._out_of_fold import positive_scores, show_features, warn_of_ties
from sktransfer.model_selection._saved_threshold import record_of_point, restore_point


class OperatingPointClassifier(CrossFittedClassifier):
    """A binary classifier whose threshold keeps a sensitivity, a specificity, or costs low.

    "No more than one case in twenty is missed": the threshold is an order statistic of the scores
    of the positive rows, on rows that the model which scores them has not seen. With probability
    ``confidence_level`` (over what rows are drawn) the true sensitivity is then at least
    ``target_level`` [1]_ [2]_; a threshold that just meets it on the rows at hand falls short on
    new ones about every second time.

    Rows may have several labels each (:ref:`findings`): every label then has its own threshold.

    Read more in the :ref:`User Guide <thresholds>`.

    Parameters
    ----------
    estimator : estimator instance
        A binary classifier with ``predict_proba`` or ``decision_function``: a pipeline, a
        :class:`~sktransfer.FineTuneClassifier`, a calibrated one.
    constraint : {"sensitivity", "specificity", "cost"}, default="sensitivity"
        What the threshold keeps. Under "sensitivity" it is the highest that does, so that
        specificity is best; under "specificity" the lowest. "cost": the one with the least mean
        cost on the scored rows, without a guarantee; ``target_level`` then is not used.
    target_level : float or mapping of labels to float, default=0.95
        The rate to keep, in (0, 1). A rate of 1 cannot be guaranteed; the error says how much can.
        With several labels a row, a mapping has one for each.
    cost_matrix : array-like of shape (2, 2) or None, default=None
        Cost of every decision, for ``constraint="cost"`` and for nothing else: a row for each true
        class and a column for each predicted one, in the order of ``classes_``.
    confidence_level : float or None, default=0.95
        Probability with which the true rate is at least ``target_level``. None: the rate on the
        scored rows is. Also the level of the intervals in ``operating_point_`` (0.95 for None).
    cv : int, splitter, iterable of splits, "prefit" or None, default=None
        Where scores of unseen rows come from.

        - None or an int: that many folds (5), stratified, and grouped if ``groups`` are given. The
          folds' scores are pooled, and the estimator is fitted again to all rows. With None, a
          :class:`~sktransfer.TransferClassifier` is fitted once: it scores rows out of fold itself.
        - A splitter or an iterable: as it says, each row tested once at most. With a single split
          the estimator is fitted to its training part, once, and kept.
        - "prefit": ``estimator`` is fitted and is used as it is, on rows that it has not seen. Wrap
          it in :class:`~sklearn.frozen.FrozenEstimator` where it may be cloned.
    unattainable : {"raise", "trivial"}, default="raise"
        What to do with too few rows to keep the guarantee. "raise": an error that says how many it
        takes. "trivial": call all rows positive (with "specificity": negative), and warn.
    pos_label : int, float, bool, str or None, default=None
        The positive class, by its label, or by its name where ``estimator`` is fitted and knows
        names (``class_names_``). None: 1, where the labels are 0 and 1 or -1 and 1. Words, as
        "covid19" and "other", leave a doubt: it must be given.
    response_method : {"auto", "predict_proba", "decision_function"}, default="auto"
        Where scores come from. "auto": the first of the two that the estimator has.
    simultaneous : bool, default=False
        With several labels a row: whether the rates of all of them are kept together with
        probability ``confidence_level`` (Bonferroni), and not those of each by itself.
    n_jobs : int or None, default=None
        Number of folds fitted at once.

    Attributes
    ----------
    threshold_ : float
        A row is called positive where its score is at least this. With several labels a row, an
        ndarray with one for each, and ``operating_point_`` is a dict of the labels' points, on the
        rows where they are known.
    operating_point_ : OperatingPoint
        Sensitivity, specificity, predictive values and likelihood ratios of ``threshold_`` on the
        scored rows, each with its interval, and counts, as
        :func:`~sktransfer.metrics.operating_point` gives them.
    estimator_ : estimator instance
        The classifier that predicts.
    pos_label_ : int, float, bool or str
        The positive class; only with one label a row.
    classes_ : ndarray of shape (2,)
        The class labels, sorted; or the names of several labels.
    n_features_in_ : int
        Number of features, where the estimator has it.
    feature_names_in_ : ndarray of str
        Names of features, where the estimator has them.

    See Also
    --------
    sklearn.model_selection.TunedThresholdClassifierCV : The threshold that maximizes a score.
    sklearn.model_selection.FixedThresholdClassifier : A threshold of your own.

    Notes
    -----
    The guarantee is exact for scores of one fixed model on independent rows: "prefit", or a single
    split. Pooled scores of several folds come from models of fewer rows than the final one, and
    are not quite independent; simulations keep the guarantee (user guide). Scores have to vary
    continuously: those of the final model then lie as the folds' do. Where most scores are ties, as
    those of a tree on one feature, this is not so, and a warning says it.

    Patients with several rows: give ``groups``. The unit then is the patient, and counts as found
    where *all* of its positive rows are: its lowest score. The share of rows found may differ.

    The interval of the sensitivity in ``operating_point_`` is two-sided, so that its lower end lies
    below the one-sided bound which is guaranteed.

    The guarantee is void where positive rows score otherwise than those here: another scanner,
    another hospital, milder cases. That they are rarer does not matter for it, but does for the
    predictive values.

    A row whose ``sample_weight`` is 0 does not count; other weights are for the estimator alone.

    References
    ----------
    .. [1] Wilks: Determination of sample sizes for setting tolerance limits. Annals of
       Mathematical Statistics 12 (1941).
    .. [2] Tong, Feng, Li: Neyman-Pearson classification algorithms and NP receiver operating
       characteristics. Science Advances 4 (2018).

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sktransfer.model_selection import OperatingPointClassifier
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> pipe = make_pipeline(StandardScaler(), LogisticRegression())
    >>> clf = OperatingPointClassifier(pipe, target_level=0.95, pos_label=0).fit(X, y)
    >>> sensitivity, low, high = clf.operating_point_.sensitivity
    >>> f"{sensitivity:.3f} ({low:.3f} to {high:.3f})"
    '0.976 (0.946 to 0.992)'
    """

    _kind = "OperatingPointClassifier"
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **CrossFittedClassifier._parameter_constraints,
        "constraint": [StrOptions({"sensitivity", "specificity", "cost"})],
        "target_level": [Interval(Real, 0, 1, closed="right"), dict],  # 1: an error of its own
        "simultaneous": ["boolean"],
    }

    def __init__(
        self,
        estimator: Any,
        *,
        constraint: str = "sensitivity",
        target_level: float = 0.95,
        cost_matrix: ArrayLike | None = None,
        confidence_level: float | None = 0.95,
        cv: Any = None,
        unattainable: str = "raise",
        pos_label: Any = None,
        response_method: str = "auto",
        simultaneous: bool = False,
        n_jobs: int | None = None,
    ) -> None:
        self.estimator = estimator
        self.constraint = constraint
        self.target_level = target_level
        self.cost_matrix = cost_matrix
        self.confidence_level = confidence_level
        self.cv = cv
        self.unattainable = unattainable
        self.pos_label = pos_label
        self.response_method = response_method
        self.simultaneous = simultaneous
        self.n_jobs = n_jobs

    # The estimator's own parameters are for its own fit to check.
    @_fit_context(prefer_skip_nested_validation=False)
    def fit(
        self, X: Any, y: ArrayLike, groups: ArrayLike | None = None, **params: Any
    ) -> OperatingPointClassifier:
        """Score rows out of fold, choose the threshold, and fit the estimator.

        Parameters
        ----------
        X : array-like of shape (n, ...), list or DataFrame
            Whatever the estimator takes.
        y : array-like of shape (n,) or (n, n_labels), or list of sets
            Labels of two classes; or several labels a row: 1, 0, or NaN where one is unknown.
        groups : array-like of shape (n,) or None, default=None
            Groups, such as patients: none is on both sides of a fold, and each counts once.
        **params : dict
            Parameters for the ``fit`` of the estimator, such as ``sample_weight``; with metadata
            routing enabled, for those that requested them.

        Returns
        -------
        self : OperatingPointClassifier
            Fitted estimator.

        Raises
        ------
        ValueError
            If nothing says which class is positive, there are too few rows to keep the guarantee,
            a score is missing, a group is on both sides of a fold, or ``y`` does not have two
            classes.

        Warns
        -----
        UserWarning
            If the threshold is of no use (``operating_point_.warning``).
        """
        X, y, groups = indexable(X, self._check_given(y), groups)
        # Should this fit fail, no threshold of an earlier one is left to predict with.
        for name in ("threshold_", "pos_label_", "label_names_"):
            self.__dict__.pop(name, None)
        if (self.cost_matrix is None) == (self.constraint == "cost"):
            raise ValueError(
                "cost_matrix is what constraint='cost' needs and nothing else uses; got "
                f"constraint={self.constraint!r} and cost_matrix={self.cost_matrix!r}."
            )
        if is_multilabel(y):
            return fit_labels(self, X, y, groups, params)
        labels = self._labels(y)
        patients: np.ndarray | None = None if groups is None else read_groups(groups)
        kept = (labels == self.pos_label_) == (self.constraint != "specificity")
        refuse_certainty(self, np.flatnonzero(kept), patients)
        classes = np.unique(labels)
        scored, scores, refitted = self._score_unseen(X, labels, patients, params, classes, most=2)
        score = scores[:, int(np.flatnonzero(classes == self.pos_label_)[0])]
        return self._decide(labels, patients, scored, score, refitted=refitted)

    def _decide(
        self,
        labels: np.ndarray,
        patients: np.ndarray | None,
        scored: np.ndarray,
        score: np.ndarray,
        *,
        refitted: bool,
    ) -> OperatingPointClassifier:
        """Choose the threshold from scores of rows, for the estimator that is fitted."""
        if refitted and self.confidence_level is not None and self.constraint != "cost":
            warn_of_ties(score)
        labels = labels[scored]
        patients = None if patients is None else patients[scored]
        self.threshold_ = self._choose(labels == self.pos_label_, score, patients)
        self.operating_point_ = operating_point(
            labels,
            score,
            self.threshold_,
            pos_label=self.pos_label_,
            groups=patients,
            confidence_level=self.confidence_level or USUAL,
        )
        warn_of_no_use(self)
        show_features(self)
        return self

    def _labels(self, y: Any) -> np.ndarray:
        labels = self._read_labels(y)
        kind = type_of_target(labels, input_name="y")
        if kind != "binary":
            raise ValueError(
                "Only binary classification is supported. Unknown label type for a threshold: "
                f"{kind}."
            )
        classes = self._check_two(labels)
        names = names_of_model(self.estimator, classes)
        self.pos_label_ = self._positive_of(classes, names)
        ordered = sorted(classes.tolist(), key=lambda label: label == self.pos_label_)
        self._called = tuple(class_text(label, names) for label in ordered)
        return labels

    def _positive_of(self, classes: np.ndarray, names: dict[Any, str] | None) -> Any:
        return positive_class(classes, self.pos_label, names=names)

    def _choose(self, positive: np.ndarray, score: np.ndarray, groups: np.ndarray | None) -> float:
        if not positive.any() or positive.all():
            raise ValueError(
                "The rows that were scored are all of one class, "
                f"{self._called[int(positive.all())]}, those whose sample_weight is 0 left out; "
                "use another cv."
            )
        if self.cost_matrix is not None:
            costs = check_cost_matrix(self.cost_matrix, 2)
            if not self._positive_column():
                costs = costs[::-1, ::-1]
            return cheapest_threshold(positive, score, costs)
        above = self.constraint == "sensitivity"
        own = positive if above else ~positive
        worst = worst_scores(score[own], None if groups is None else groups[own], above=above)
        threshold = rate_threshold(
            worst, self.target_level, confidence_level=self.confidence_level, above=above
        )
        if threshold is not None:
            return threshold
        return trivial_threshold(self, len(worst), groups)

    def predict(self, X: Any) -> np.ndarray:
        """Predict the positive class where the score is at least ``threshold_``.

        Parameters
        ----------
        X : array-like of shape (n, ...), list or DataFrame
            Whatever the estimator takes.

        Returns
        -------
        y_pred : ndarray of shape (n,) or (n, n_labels)
            Predicted labels; of several a row, 1 where the label is called and 0 elsewhere.

        Raises
        ------
        ValueError
            If a score is NaN: an image that cannot be read is neither ill nor healthy.
        """
        check_is_fitted(self, "threshold_")
        if hasattr(self, "label_names_"):
            return called_labels(self, X)
        methods = self._get_response_method()
        called = positive_scores(self.estimator_, X, methods, self.pos_label_) >= self.threshold_
        column = self._positive_column()
        return self.classes_[np.where(called, column, 1 - column)]

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy of predictions.

        Parameters
        ----------
        X : array-like of shape (n, ...), list or DataFrame
            Whatever the estimator takes.
        y : array-like of shape (n,) or (n, n_labels)
            True labels, in any of the forms that ``fit`` accepts.
        sample_weight : array-like of shape (n,), default=None
            Weights of the rows.

        Returns
        -------
        float
            Share of rows that are predicted correctly; with several labels a row, in all labels
            that are known.
        """
        check_is_fitted(self, "threshold_")
        if hasattr(self, "label_names_"):
            return share_correct(y, self.predict(X), self.label_names_.tolist(), sample_weight)
        return float(super().score(X, y, sample_weight))

    def _record(self, net: Any) -> dict[str, Any]:
        return record_of_point(self, net)

    def _restore(self, net: Any, record: dict[str, Any]) -> None:
        restore_point(self, net, record)

    @property
    def classes_(self) -> np.ndarray:
        """Class labels, or the names of several labels a row."""
        several = getattr(self, "label_names_", None)
        return self.estimator_.classes_ if several is None else several

    def _positive_column(self) -> int:
        return int(np.flatnonzero(self.classes_ == self.pos_label_)[0])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        own = get_tags(self.estimator).classifier_tags
        tags.classifier_tags.multi_label = own is not None and own.multi_label
        return tags
