"""TriageClassifier: rule out, rule in, or refer, each with a guarantee of its own."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from numbers import Real
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.utils import get_tags, indexable
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from sktransfer._utils.classes import (
    class_text,
    labels_with_referred,
    names_of_model,
    positive_class,
    refer_label_of,
)
from sktransfer._utils.identifiers import read_groups
from sktransfer._utils.sklearn_compat import Interval, _fit_context
from sktransfer.metrics import operating_point
from sktransfer.metrics._labels import Interval as Spread
from sktransfer.metrics._labels import group_codes
from sktransfer.metrics._rates import rate_of
from sktransfer.metrics._thresholds import rate_threshold, worst_scores
from sktransfer.model_selection._cross_fitted import CrossFittedClassifier
from sktransfer.model_selection._guarantee import USUAL, highest_level, refuse_or_warn, takes
from sktransfer.model_selection._out_of_fold import class_scores, show_features, warn_of_ties
from sktransfer.model_selection._saved_threshold import plain_params
from sktransfer.model_selection._triage_rule import (
    REFER,
    decide,
    numbers_of,
    possible_classes,
    triage_table,
)

# Parameters that a file holds besides rates by class.
_PARAMETERS = ("confidence_level", "cost_matrix", "unattainable", "refer_label", "response_method")


class TriageClassifier(CrossFittedClassifier):
    """A classifier that rules out, rules in, or refers, with a guarantee for each class.

    Of the diseased at most ``max_missed`` are ruled out, and of the healthy at most ``max_false``
    are ruled in; whatever allows neither is referred to a person. Both are rates among the rows of
    one class (one minus sensitivity, one minus specificity, with referral counted as no error), so
    that they do not depend on how common the disease is. Each is kept with probability
    ``confidence_level`` over what rows are drawn, in finite samples [1]_ [2]_.

    With more classes, ``max_missed`` may name several: with probability ``confidence_level`` the
    rates of *all* of them are kept at once.

    Read more in the :ref:`User Guide <triage>`.

    Parameters
    ----------
    estimator : estimator instance
        A classifier with ``predict_proba`` or ``decision_function``: a pipeline, a
        :class:`~sktransfer.FineTuneClassifier`, a :class:`~sktransfer.TransferClassifier`.
    max_missed : float, mapping of labels to float, or None, default=0.02
        Of the positive class at most this share is decided to be of another class. A mapping names
        the classes and their shares; a number without ``pos_label`` is for each class, if there are
        more than two. 0: never decided against. None: no guarantee.
    max_false : float or None, default=0.05
        Of every other class at most this share is decided to be of another one. 0: nobody is ruled
        in. None: no guarantee; such a class remains possible where it is the likeliest.
    confidence_level : float or None, default=0.95
        Probability with which the shares of all classes in ``max_missed`` are kept, and with which
        those of all other classes are. None: the shares on the scored rows are. Also the level of
        intervals (0.95 for None).
    cost_matrix : array-like of shape (n_classes, n_classes + 1) or None, default=None
        Cost of every decision for every true class (row), in the order of ``classes_``, the last
        column being the cost of a referral: of the decisions that the guarantees allow, the one
        with the least expected cost is taken, by the probabilities as they are. Without the last
        column, the cheapest class is taken where it is allowed, and else the row is referred. None:
        a row is decided where a single class remains possible.
    cv : int, splitter, iterable of splits, "prefit" or None, default=None
        Where scores of unseen rows come from, as for :class:`OperatingPointClassifier`. "prefit":
        ``estimator`` is fitted and is used as it is, on rows that it has not seen.
    unattainable : {"raise", "trivial"}, default="raise"
        What to do with too few rows of a class to keep its share. "raise": an error that says how
        many it takes. "trivial": no row is decided against the class, and a warning says so.
    pos_label : int, float, bool, str or None, default=None
        The positive class, by its label or the name that a fitted ``estimator`` has for it. None:
        1, where the labels are 0 and 1 or -1 and 1. Words must be told, unless ``max_missed`` is a
        mapping or equals ``max_false``.
    refer_label : int, float, str or None, default=None
        What :meth:`predict` gives for a row that is referred. None: "refer" among words; among
        numbers -1, or the next lower whole number that is no class.
    response_method : {"auto", "predict_proba", "decision_function"}, default="auto"
        Where scores come from. "auto": the first of the two that the estimator has.
    n_jobs : int or None, default=None
        Number of folds fitted at once.

    Attributes
    ----------
    triage_ : DataFrame
        What became of the scored rows of each class: rows that were decided correctly, referred,
        and released (decided to be of another class), with groups also those with such a row;
        ``max_released``, the share that is guaranteed, the confidence in it, and the threshold.
    referred_ : tuple of float
        Share of the scored rows that is referred, with its interval.
    thresholds_ : ndarray of shape (n_classes,)
        A class remains possible where its score is at least this; NaN for a class without a
        guarantee. Scores are columns of ``predict_proba`` or ``decision_function``; of one column
        of two classes, it and its negative.
    refer_label_ : int, float or str
        What :meth:`predict` gives for a row that is referred.
    pos_label_ : int, float, bool, str or None
        The positive class, if there is one.
    estimator_ : estimator instance
        The classifier that scores.
    classes_ : ndarray of shape (n_classes,)
        The class labels, sorted.
    n_features_in_ : int
        Number of features, where the estimator has it.
    feature_names_in_ : ndarray of str
        Names of features, where the estimator has them.

    See Also
    --------
    OperatingPointClassifier : Decides every row, with one guarantee.
    TriageDisplay : Plots what is referred and released.

    Notes
    -----
    The threshold of a class is an order statistic of the scores that the class itself has on its
    own rows. That is what testing all thresholds in a fixed sequence by exact binomial tests gives
    (learn then test [1]_). A row is decided against the class only below it, so that the rate is
    kept whatever the other thresholds are. Several classes share ``1 - confidence_level``
    (Bonferroni). Where scores fall below the thresholds of all classes, any decision is within the
    guarantees, and the likeliest class is taken.

    With ``groups`` a patient counts once in the rate of a class, as released where *any* of its
    rows of this class is. The share of rows may differ.

    Ties are safe: a score that equals the threshold keeps the class possible. About folds, ties and
    ``sample_weight`` see the Notes of :class:`OperatingPointClassifier`: the guarantee is exact for
    "prefit" and a single split, and nearly so for pooled folds. It is void where rows of a class
    score otherwise than here (another scanner, milder cases), and says nothing about predictive
    values, which depend on prevalence.

    ``score`` counts referred rows as errors.

    References
    ----------
    .. [1] Angelopoulos, Bates, Candes, Jordan, Lei: Learn then test: calibrating predictive
       algorithms to achieve risk control. Annals of Applied Statistics 19 (2025).
    .. [2] Wilks: Determination of sample sizes for setting tolerance limits. Annals of
       Mathematical Statistics 12 (1941).

    Examples
    --------
    >>> from sklearn.datasets import make_classification
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sktransfer.model_selection import TriageClassifier
    >>> X, y = make_classification(3000, class_sep=0.9, random_state=0)
    >>> clf = TriageClassifier(LogisticRegression()).fit(X[:1500], y[:1500])
    >>> bool((clf.triage_["released"] <= clf.triage_["max_released"]).all())
    True
    >>> sorted(set(clf.predict(X[1500:]).tolist()))  # -1: referred
    [-1, 0, 1]
    """

    _kind = "TriageClassifier"
    _fitted_by = "thresholds_"
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **CrossFittedClassifier._parameter_constraints,
        "max_missed": [Interval(Real, 0, 1, closed="left"), Mapping, None],
        "max_false": [Interval(Real, 0, 1, closed="left"), None],
        "refer_label": [Real, str, None],
    }

    def __init__(
        self,
        estimator: Any,
        *,
        max_missed: float | Mapping[Any, float | None] | None = 0.02,
        max_false: float | None = 0.05,
        confidence_level: float | None = 0.95,
        cost_matrix: ArrayLike | None = None,
        cv: Any = None,
        unattainable: str = "raise",
        pos_label: Any = None,
        refer_label: Any = None,
        response_method: str = "auto",
        n_jobs: int | None = None,
    ) -> None:
        self.estimator = estimator
        self.max_missed = max_missed
        self.max_false = max_false
        self.confidence_level = confidence_level
        self.cost_matrix = cost_matrix
        self.cv = cv
        self.unattainable = unattainable
        self.pos_label = pos_label
        self.refer_label = refer_label
        self.response_method = response_method
        self.n_jobs = n_jobs

    # The estimator's own parameters are for its own fit to check.
    @_fit_context(prefer_skip_nested_validation=False)
    def fit(
        self, X: Any, y: ArrayLike, groups: ArrayLike | None = None, **params: Any
    ) -> TriageClassifier:
        """Score rows out of fold, choose the thresholds, and fit the estimator.

        Parameters
        ----------
        X : array-like of shape (n, ...), list or DataFrame
            Whatever the estimator takes.
        y : array-like of shape (n,)
            Labels of two or more classes.
        groups : array-like of shape (n,) or None, default=None
            Groups, such as patients: none is on both sides of a fold, and each counts once.
        **params : dict
            Parameters for the ``fit`` of the estimator, such as ``sample_weight``; with metadata
            routing enabled, for those that requested them.

        Returns
        -------
        self : TriageClassifier
            Fitted estimator.

        Raises
        ------
        ValueError
            If nothing says which class is positive, there are too few rows of a class to keep its
            guarantee, a score is missing, a group is on both sides of a fold, or ``y`` has only one
            class.

        Warns
        -----
        UserWarning
            If nothing is decided, or decisions are no better than chance.
        """
        X, y, groups = indexable(X, self._check_given(y), groups)
        # Should this fit fail, no thresholds of an earlier one are left to predict with.
        self.__dict__.pop("thresholds_", None)
        labels = self._read_labels(y)
        check_classification_targets(labels)
        classes = self._check_two(labels)
        if isinstance(self.cv, str) and hasattr(self.estimator, "classes_"):
            classes = np.asarray(self.estimator.classes_)
        limits = self._limits(classes)
        costs = self._costs(len(classes))
        patients: np.ndarray | None = None if groups is None else read_groups(groups)
        scored, scores, refitted = self._score_unseen(X, labels, patients, params, classes)
        if refitted and self.confidence_level is not None and (limits > 0).any():
            warn_of_ties(scores[:, limits > 0])
        true = numbers_of(labels[scored], classes, "y")
        if len(np.unique(true)) < 2:
            raise ValueError(
                "The rows that were scored are not of two classes, those whose sample_weight is 0 "
                "left out; use another cv."
            )
        patients = group_codes(None if patients is None else patients[scored], len(scored))
        confidence = self._confidence(limits)
        self.thresholds_ = self._thresholds(limits, confidence, scores, true, patients)
        codes = decide(scores, self.thresholds_, costs)
        level = self.confidence_level or USUAL
        self.triage_ = triage_table(
            true, codes, classes.tolist(), patients=patients, confidence_level=level
        ).assign(max_released=limits, confidence_level=confidence, threshold=self.thresholds_)
        self.referred_ = rate_of(codes == REFER, patients, level)
        self._warn_of_no_use(true, codes, patients)
        show_features(self)
        return self

    def _limits(self, classes: np.ndarray) -> np.ndarray:
        """Return the share of each class that may be decided otherwise, NaN without a guarantee.

        ``_named`` tells which of the classes ``max_missed`` is for.
        """
        names = names_of_model(self.estimator, classes)
        self._called = tuple(class_text(label, names) for label in classes.tolist())
        self.refer_label_ = refer_label_of(classes, self.refer_label)
        given: Any = self.max_missed
        words = not any(set(classes.tolist()) <= usual for usual in ({0, 1}, {-1, 1}))
        alike = len(classes) > 2 or given == self.max_false  # no class is another than the rest
        if self.pos_label is None and (isinstance(given, Mapping) or (alike and words)):
            self.pos_label_ = None
        else:
            self.pos_label_ = positive_class(classes, self.pos_label, names=names)
        if not isinstance(given, Mapping):
            several = len(classes) > 2 and self.pos_label_ is None
            last = classes.tolist()[-1] if self.pos_label_ is None else self.pos_label_
            given = dict.fromkeys(classes.tolist() if several else [last], given)
        rates = {
            positive_class(classes, label, names=names, option="max_missed: "): rate
            for label, rate in given.items()
        }
        limits = [rates.get(label, self.max_false) for label in classes.tolist()]
        for rate in limits:
            numeric = isinstance(rate, (int, float, np.number))
            if rate is not None and not (numeric and 0 <= rate < 1):
                raise ValueError(f"max_missed has to hold shares in [0, 1) or None; got {rate!r}.")
        if all(rate is None for rate in limits) and self.cost_matrix is None:
            raise ValueError("Nothing is guaranteed for any class: give max_missed or max_false.")
        self._named = np.array([label in rates for label in classes.tolist()])
        return np.array([np.nan if rate is None else rate for rate in limits], dtype=float)

    def _confidence(self, limits: np.ndarray) -> np.ndarray:
        """Return the confidence for each class, so that those of a side hold together."""
        confidence = np.full(len(limits), np.nan)
        if self.confidence_level is not None:
            for side in (self._named, ~self._named):
                kept = side & (limits > 0)
                confidence[kept] = 1 - (1 - self.confidence_level) / max(1, kept.sum())
        return confidence

    def _costs(self, n_classes: int) -> np.ndarray | None:
        if self.cost_matrix is None:
            return None
        costs = np.asarray(self.cost_matrix, dtype=float)
        if costs.shape not in ((n_classes, n_classes), (n_classes, n_classes + 1)):
            raise ValueError(
                f"cost_matrix for {n_classes} classes must have a row for each true class and a "
                "column for each decided one, and may have one for a referral; got shape "
                f"{costs.shape}."
            )
        if not np.isfinite(costs).all():
            raise ValueError(f"cost_matrix must hold finite numbers; got {costs.tolist()}.")
        if self._get_response_method()[0] != "predict_proba":
            raise ValueError(
                "Expected costs need probabilities: cost_matrix does not go with "
                f"response_method={self.response_method!r}."
            )
        return costs

    def _get_response_method(self) -> list[str]:
        found = super()._get_response_method()
        return found[:1] if self.cost_matrix is not None else found

    def _thresholds(
        self,
        limits: np.ndarray,
        confidence: np.ndarray,
        scores: np.ndarray,
        true: np.ndarray,
        patients: np.ndarray | None,
    ) -> np.ndarray:
        """Return a threshold for each class; where there are too few rows, refuse or warn."""
        thresholds = np.where(np.isnan(limits), np.nan, -np.inf)
        lacking, lowest = [], []
        for number in np.flatnonzero(limits > 0):
            own = true == number
            worst = worst_scores(
                scores[own, number], None if patients is None else patients[own], above=True
            )
            sure = None if np.isnan(confidence[number]) else float(confidence[number])
            level = 1 - float(limits[number])
            found = rate_threshold(worst, level, confidence_level=sure, above=True)
            if found is not None:
                thresholds[number] = found
                continue
            units = f"{'rows' if patients is None else 'groups'} of class {self._called[number]}"
            goal = f"That at most {limits[number]:g} of class {self._called[number]} are released "
            if not len(worst) or sure is None:
                lacking.append(f"{goal}cannot be guaranteed without any {units}.")
            else:
                lacking.append(goal + takes(level, sure, len(worst), units))
                lowest.append(
                    f"{1 - highest_level(len(worst), sure):.3g} of {self._called[number]}"
                )
        if lacking:
            rate = "raise max_missed or max_false"
            refuse_or_warn(
                self.unattainable,
                " ".join(lacking),
                f"{rate} (these can guarantee {' and '.join(lowest)})" if lowest else rate,
                ("refer instead", "No row is decided against such a class."),
            )
        return thresholds

    def _warn_of_no_use(
        self, true: np.ndarray, codes: np.ndarray, patients: np.ndarray | None
    ) -> None:
        """Warn of a triage that decides nothing, or by chance."""
        if (codes == REFER).all():
            warnings.warn("This triage is of no use: every row is referred.", stacklevel=5)
            return
        for number in np.unique(codes[codes != REFER]):
            own = true == number
            if own.all() or not own.any():
                continue
            called = (codes == number).astype(float)
            ratio = operating_point(
                own, called, 1, pos_label=True, groups=patients
            ).positive_likelihood_ratio
            if ratio.low <= 1:
                warnings.warn(
                    f"Deciding for {self._called[number]} is not shown to be better than chance: "
                    f"the interval of its likelihood ratio, {ratio.low:.2f} to {ratio.high:.2f}, "
                    "reaches 1 or less.",
                    stacklevel=5,
                )

    def predict(self, X: Any) -> np.ndarray:
        """Predict the class of each row, or ``refer_label_`` where it is referred.

        Parameters
        ----------
        X : array-like of shape (n, ...), list or DataFrame
            Whatever the estimator takes.

        Returns
        -------
        y_pred : ndarray of shape (n,)
            Labels, of the type of the classes: False and True are 0 and 1, and words with a number
            for ``refer_label``, or the reverse, are objects.

        Raises
        ------
        ValueError
            If a score is NaN: an image that cannot be read is neither decided nor referred.
        """
        return self._labels_of(self._scores(X))

    def predict_set(self, X: Any) -> np.ndarray:
        """Predict which classes remain possible for each row.

        Parameters
        ----------
        X : array-like of shape (n, ...), list or DataFrame
            Whatever the estimator takes.

        Returns
        -------
        possible : ndarray of bool of shape (n, n_classes)
            Whether the score of a class is at least its threshold. A row of a class with a
            guarantee lacks its class at most as often as guaranteed.
        """
        return possible_classes(self._scores(X), self.thresholds_)

    def decisions(self, X: Any) -> pd.DataFrame:
        """Tell of each row what is decided, which classes remain possible, and the scores.

        Parameters
        ----------
        X : array-like of shape (n, ...), list or DataFrame
            Whatever the estimator takes.

        Returns
        -------
        table : DataFrame
            A row for each row of ``X``, in the order of ``X``: ``decision`` ("rule in", "rule out"
            or "refer"; without a positive class of two "decide" or "refer"), ``label`` as
            :meth:`predict` gives it, ``possible`` (names of classes), and the score of each class.
        """
        scores = self._scores(X)
        label = self._labels_of(scores)
        decision = np.full(len(label), "decide", dtype=object)
        if self.pos_label_ is not None and len(self.classes_) == 2:
            decision = np.where(label == self.pos_label_, "rule in", "rule out").astype(object)
        decision[label == self.refer_label_] = "refer"
        named = names_of_model(self.estimator_) or {}
        names = [str(named.get(each, each)) for each in self.classes_.tolist()]
        possible = [
            ", ".join(name for name, there in zip(names, row, strict=True) if there)
            for row in possible_classes(scores, self.thresholds_)
        ]
        table = pd.DataFrame({"decision": decision, "label": label, "possible": possible})
        return table.assign(**{f"score of {name}": scores[:, i] for i, name in enumerate(names)})

    def _scores(self, X: Any) -> np.ndarray:
        check_is_fitted(self, "thresholds_")
        return class_scores(self.estimator_, X, self._get_response_method(), self.classes_)

    def _labels_of(self, scores: np.ndarray) -> np.ndarray:
        codes = decide(scores, self.thresholds_, self._costs(len(self.classes_)))
        return labels_with_referred(self.classes_, codes, self.refer_label_)

    def _record(self, net: Any) -> dict[str, Any]:
        table = self.triage_.reset_index(drop=True)
        return {
            "kind": self._kind,
            "params": plain_params(self, _PARAMETERS),
            "limits": table["max_released"].tolist(),
            "named": self._named.tolist(),
            "thresholds": self.thresholds_.tolist(),
            "positive": None if self.pos_label_ is None else self._place_of(self.pos_label_),
            "triage": {name: own.tolist() for name, own in table.items()},
            "columns": list(table.columns),
            "referred": list(self.referred_),
        }

    def _place_of(self, label: Any) -> int:
        return self.classes_.tolist().index(label)

    def _restore(self, net: Any, record: dict[str, Any]) -> None:
        classes = net.classes_.tolist()
        self.thresholds_ = np.asarray(record["thresholds"], dtype=float)
        limits = [None if np.isnan(each) else float(each) for each in record["limits"]]
        named = [bool(each) for each in record["named"]]
        if not len(self.thresholds_) == len(limits) == len(named) == len(classes):
            raise ValueError(f"there are not thresholds for {len(classes)} classes")
        place = record["positive"]
        self.pos_label = self.pos_label_ = None if place is None else classes[place]
        zipped = list(zip(classes, limits, named, strict=True))
        self.max_missed = {label: rate for label, rate, own in zipped if own}
        self.max_false = next((rate for _, rate, own in zipped if not own), None)
        self.refer_label_ = refer_label_of(classes, self.refer_label)
        self._limits(np.asarray(net.classes_))
        self._costs(len(classes))
        table = pd.DataFrame(record["triage"], index=pd.Index(classes, name="class"))
        self.triage_ = table[record["columns"]]  # a file's names are sorted
        self.referred_ = Spread(*map(float, record["referred"]))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = get_tags(self.estimator).classifier_tags.multi_class
        return tags
