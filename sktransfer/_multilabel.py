"""A logistic regression of all labels at once, for features of images in a pipeline.

It must not know images or networks.
"""

from __future__ import annotations

from numbers import Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data

from sktransfer._base import LogitsMixin
from sktransfer._finetune._labels import read_labels
from sktransfer._finetune._targets import Findings
from sktransfer._utils.config import API_PAGE
from sktransfer._utils.logistic import FLOOR, PROBE_C, solve_independent
from sktransfer._utils.sklearn_compat import Interval, StrOptions, _fit_context


class MultiLabelLogisticRegression(LogitsMixin, ClassifierMixin, BaseEstimator):
    """Fit a logistic regression for each of several labels, all at once.

    A chest X-ray may show an effusion and a mass, or neither. Each label has a regression of its
    own, as scikit-learn's :class:`~sklearn.multiclass.OneVsRestClassifier` has it, and two things
    are different: labels may be unknown (NaN) in some rows, which then count for the other labels
    only; and the rows are standardized, multiplied and factorized once, so that four labels cost
    about one and a half times as much as one, and fourteen about twice. Classes that exclude each
    other, more than two, are scikit-learn's :class:`~sklearn.linear_model.LogisticRegression`'s.

    Read more in the :ref:`User Guide <findings>`.

    Parameters
    ----------
    C : float, default=0.01
        Inverse strength of the L2 penalty, on standardized columns: that of all linear probes here,
        which suits thousands of features of a few hundred images.
    class_weight : "balanced", dict, list or None, default=None
        ``"balanced"`` weighs rows with and without a label so that they count the same, label by
        label. A dict has a number for a label, the weight of the rows that have it, or
        ``{0: ..., 1: ...}`` or ``"balanced"``; those that are not named weigh 1. A list has one of
        these for each label. For a column of two classes, as in scikit-learn.

    Attributes
    ----------
    classes_ : ndarray of shape (n_labels,)
        Names of the labels: the columns of a DataFrame in their order, sorted names in sets, or
        the numbers of the columns of an array. Of a column, the two classes.
    coef_ : ndarray of shape (n_labels, n_features)
        Coefficients, of the columns as they are given.
    intercept_ : ndarray of shape (n_labels,)
        Intercepts.
    n_features_in_, feature_names_in_
        Number and names of the columns.

    See Also
    --------
    FineTuneClassifier : Solve the same head, and train the last stages of a network with it.
    TransferClassifier : Average the probes of several networks.

    Notes
    -----
    Each regression is what :class:`~sklearn.linear_model.LogisticRegression` finds on columns that
    all rows standardize; Newton's equations of all labels are solved together, by
    conjugate gradients in single precision that one factorization preconditions, until the
    objective in double precision falls no further. Columns with less than a tenth of the
    median deviation are scaled by that. Independent regressions are called binary relevance in the
    literature [1]_, where they are hard to beat for ranking each label.

    References
    ----------
    .. [1] Tsoumakas, G., & Katakis, I. (2007). "Multi-label classification: an overview".
       International Journal of Data Warehousing and Mining 3(3).

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> from sktransfer import MultiLabelLogisticRegression
    >>> X = np.random.default_rng(0).normal(size=(100, 5))
    >>> y = pd.DataFrame({"Effusion": X[:, 0] > 0, "Mass": X[:, 1] > 1}).astype(float)
    >>> y.loc[:20, "Mass"] = np.nan  # not looked for
    >>> clf = MultiLabelLogisticRegression(C=1.0).fit(X, y)
    >>> clf.predict([[2, 2, 0, 0, 0], [-2, -2, 0, 0, 0]])
    array([[1, 1],
           [0, 0]])
    >>> clf.predict_proba(X).shape
    (100, 2)
    """

    _doc_link_module = "sktransfer"
    _doc_link_template = API_PAGE
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "C": [Interval(Real, 0, None, closed="neither")],
        "class_weight": [StrOptions({"balanced"}), dict, list, None],
    }

    def __init__(self, C: float = PROBE_C, *, class_weight: Any = None) -> None:
        self.C = C
        self.class_weight = class_weight

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self, X: ArrayLike, y: Any, sample_weight: ArrayLike | None = None
    ) -> MultiLabelLogisticRegression:
        """Fit the regressions.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Features, such as those of :class:`PretrainedFeatureExtractor`.
        y : array-like or DataFrame of shape (n, n_labels), or sequence of sets, or (n,)
            0 and 1 for each label, NaN where it is unknown; or the names of each row's labels in a
            set, list or tuple; or a column of two classes.
        sample_weight : array-like of shape (n,), default=None
            Weights of the rows.

        Returns
        -------
        self : MultiLabelLogisticRegression
            Fitted estimator.

        Raises
        ------
        ValueError
            If a parameter or the data are invalid, or if no label has rows with and without it.

        Warns
        -----
        UserWarning
            If a label has no rows with it, or none without: the same is predicted for all rows.
        """
        features: np.ndarray = validate_data(self, X, dtype=(np.float64, np.float32))
        rows, self.classes_ = read_labels(
            y, features, sample_weight, None, None, self, several=True
        )
        chosen = rows.kept[rows.weight[rows.kept] > 0]
        codes, weight = rows.y[chosen], rows.weight[chosen]
        lacking = rows.target.lacking(codes)
        if lacking:
            raise ValueError(
                f"{type(self).__name__} needs rows of at least two classes; the {len(chosen)} "
                f"whose weight is not zero are of {lacking}."
            )
        target = rows.target.weighed(codes, weight, self.class_weight)
        cost = rows.weights(chosen, self.class_weight)
        if isinstance(target, Findings):
            cost = target.costs(codes, cost)
        elif len(self.classes_) > 2:
            raise ValueError(
                "Only binary classification is supported. The type of the target is multiclass: "
                f"one of {len(self.classes_)} classes in each row. Use LogisticRegression, or give "
                "a matrix with a column of 0 and 1 for each label."
            )
        positive = (codes == 1).reshape(len(codes), -1)
        cost = cost.reshape(positive.shape)
        self._target = target
        own = features if len(chosen) == len(features) else features[chosen]
        self.coef_, self.intercept_ = solve_independent(
            own, positive, weight, cost, self.C, floor=FLOOR
        )
        return self

    def _logits(self, X: ArrayLike) -> np.ndarray:
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=np.float64, reset=False)
        logits = rows @ self.coef_.T + self.intercept_
        return logits if isinstance(self._target, Findings) else logits * [-0.5, 0.5]

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.classifier_tags.multi_label = True
        return tags
