"""BagClassifier: bags of images in, a class for each bag out.

It must not know how images are embedded, or how the regression is solved.
"""

from __future__ import annotations

from numbers import Real
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from scipy.special import logsumexp
from sklearn.base import BaseEstimator, ClassifierMixin

from sktransfer._base import LogitsMixin, seed_from
from sktransfer._finetune._labels import read_labels
from sktransfer._utils.classes import positive_class
from sktransfer._utils.logistic import PROBE_C
from sktransfer._utils.sklearn_compat import Interval, StrOptions, _fit_context
from sktransfer.bags._reading import BagInputMixin
from sktransfer.bags._regression import solve_bags


class BagClassifier(BagInputMixin, LogitsMixin, ClassifierMixin, BaseEstimator):
    """Classify bags of images, such as all images of a patient, and say which of them decide.

    A row of ``X`` is a bag: a list of images, which :func:`make_bags` makes of rows and groups. All
    images of all bags are embedded once, and a logistic regression of bags is solved on their
    embeddings (multiple-instance learning): the logits of a bag are pooled from those of its
    images, or are those of an average with attention. Labels of single images are not needed.

    Read more in the :ref:`User Guide <bags>`.

    Parameters
    ----------
    extractor : transformer or None, default=None
        What turns images into vectors: a :class:`~sktransfer.PretrainedFeatureExtractor`, or a
        pipeline that begins with one. It is cloned and fitted to the images of all bags. None: the
        bags hold vectors already, and are arrays of shape (images, features).
    pooling : {"lse", "max", "mean", "attention"}, default="lse"
        How a bag's logits come about. ``"lse"``: the log-sum-exp
        ``log(mean(exp(r * logits))) / r`` of those of its images [1]_, which is the generalized
        mean of their odds, so that one image can decide. ``"max"``: the largest (learned as a
        log-sum-exp with r = 10, which has a gradient everywhere). ``"mean"``: the mean, where all
        images count alike. ``"attention"``: those of the average of the embeddings, with weights by
        gated attention [2]_, a small network that is trained on the stored embeddings.
    C : float, default=0.01
        Inverse strength of the penalty on coefficients, as for
        :class:`~sklearn.linear_model.LogisticRegression` on standardized columns.
    sharpness : float, default=1.0
        r of ``"lse"``: towards 0 it is the mean, and the larger, the nearer it is to the maximum.
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes, as for scikit-learn's classifiers.
    on_error : {"raise", "nan"}, default="raise"
        An image that cannot be read, and a bag without images, raises
        :class:`~sktransfer.exceptions.ImageDecodeError`. With ``"nan"``, such images are left out
        of their bags; ``fit`` leaves out a bag that has none, ``predict_proba`` gives NaN for it,
        and ``predict`` raises. One warning says so, and ``failed_rows_`` lists them. The
        extractor's own ``on_error`` is replaced by this.
    random_state : int, RandomState instance or None, default=None
        Decides where the training of attention starts. The other poolings draw nothing.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels, sorted.
    extractor_ : transformer or None
        The fitted extractor.
    coef_ : ndarray of shape (n_classes, n_features)
        Coefficients of the logits of an image; with two classes too there is a row for each.
    intercept_ : ndarray of shape (n_classes,)
        Their intercepts.
    failed_rows_ : DataFrame
        Images of the last call that could not be read: ``row`` (the bag), ``source``, ``reason``.
    n_features_in_, feature_names_in_
        Number and names of the columns, if ``X`` is a table of numbers.

    See Also
    --------
    BagTransformer : Pool the embeddings of the images of a bag, for any estimator.
    make_bags : Make bags of rows of images and groups.

    Notes
    -----
    Columns are standardized, every bag having the same weight, whatever its size. With bags of one
    image each, every pooling but attention is the pipeline of a
    :class:`~sklearn.preprocessing.StandardScaler` and a
    :class:`~sklearn.linear_model.LogisticRegression`. The solution of ``"mean"`` is the only one;
    the others start from it.

    References
    ----------
    .. [1] Pinheiro, P. O., & Collobert, R. (2015). "From image-level to pixel-level labeling with
       convolutional networks". CVPR, 1713-1721.
    .. [2] Ilse, M., Tomczak, J., & Welling, M. (2018). "Attention-based deep multiple instance
       learning". ICML, PMLR 80, 2127-2136.

    Examples
    --------
    Bags of vectors, of which one decides in every second bag:

    >>> import numpy as np
    >>> from sktransfer.bags import BagClassifier
    >>> rng = np.random.default_rng(0)
    >>> bags = [rng.normal(size=(rng.integers(3, 8), 4)) for _ in range(60)]
    >>> y = np.arange(60) % 2
    >>> for bag in bags[1::2]:
    ...     bag[0] += 4
    >>> clf = BagClassifier(C=1).fit(bags, y)
    >>> clf.predict(bags[:4]).tolist()
    [0, 1, 0, 1]
    >>> scores = clf.image_scores(bags[1:2])
    >>> int(scores["contribution"].idxmax())
    0
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **BagInputMixin._bag_parameter_constraints,
        "pooling": [StrOptions({"lse", "max", "mean", "attention"})],
        "C": [Interval(Real, 0, None, closed="neither")],
        "sharpness": [Interval(Real, 0, None, closed="neither")],
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        extractor: Any = None,
        *,
        pooling: str = "lse",
        C: float = PROBE_C,
        sharpness: float = 1.0,
        class_weight: Any = None,
        on_error: str = "raise",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.extractor = extractor
        self.pooling = pooling
        self.C = C
        self.sharpness = sharpness
        self.class_weight = class_weight
        self.on_error = on_error
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> BagClassifier:
        """Embed the images of all bags once, and solve the regression.

        Parameters
        ----------
        X : Series, list or array of bags, n rows
            In any of the :ref:`forms of bags <bags>`.
        y : array-like of shape (n,)
            Labels of the bags, of any kind.
        sample_weight : array-like of shape (n,), default=None
            Weights of the bags.

        Returns
        -------
        self : BagClassifier
            Fitted classifier.
        """
        bags = self._fit_extractor(X, y)
        rows, self.classes_ = read_labels(y, bags, sample_weight, None, None, self)
        self._target = rows.target
        found = self._embed(bags)
        kept = (found.sizes > 0) & (rows.weight > 0)
        weight = rows.weights(np.flatnonzero(kept), self.class_weight)
        found = found.only(kept[found.bag])
        self._regression = solve_bags(
            found.rows,
            found.sizes[kept],
            rows.y[kept],
            rows.weight[kept],
            self.C * weight,
            n_classes=len(self.classes_),
            pooling=self.pooling,
            sharpness=self.sharpness,
            seed=seed_from(self.random_state),
        )
        self.coef_, self.intercept_ = self._regression.arrays[0].T, self._regression.arrays[1]
        return self

    def _logits(self, X: Any) -> np.ndarray:
        """Return the logits of bags; NaN for those without an image that can be read."""
        found = self._embed(X)
        there = found.sizes > 0
        logits = np.full((len(found), len(self.classes_)), np.nan)
        if there.any():
            logits[there] = self._regression.bag_logits(found.rows, found.sizes[there])
        return logits

    def image_scores(self, X: Any, pos_label: Any = None) -> pd.DataFrame:
        """Say how much each image has to do with the decision on its bag.

        Parameters
        ----------
        X : Series, list or array of bags, n rows
            In any of the :ref:`forms of bags <bags>`.
        pos_label : class label or None, default=None
            The class that the scores are about. None: of two classes the last; of several the one
            that is predicted for the bag.

        Returns
        -------
        DataFrame
            A row for each image that can be read: ``bag``; ``image``, its place in the bag;
            ``score``, the log-odds of the class if it were alone; ``weight``, its part in the
            bag's logit, which are not negative and sum to one in a bag; ``contribution``, the
            product, which is largest for the image that decided for the class. With ``"mean"`` and
            ``"attention"``, contributions of two classes sum to the bag's ``decision_function``;
            the other poolings are no sums.
        """
        found = self._embed(X)
        there = found.sizes > 0
        sizes, of_image = found.sizes[there], np.arange(len(found.rows))
        frame = pd.DataFrame({"bag": found.bag, "image": found.place})
        if not there.any():
            return frame.assign(score=[], weight=[], contribution=[])
        logits = self._regression.image_logits(found.rows)
        if pos_label is not None:
            label = positive_class(self.classes_, pos_label)
            column = np.full(len(logits), self.classes_.tolist().index(label))
        elif len(self.classes_) == 2:
            column = np.ones(len(logits), dtype=int)
        else:
            bag_logits = self._regression.bag_logits(found.rows, sizes)
            column = np.repeat(bag_logits.argmax(axis=1), sizes)
        own = logits[of_image, column]
        others = logits.copy()
        others[of_image, column] = -np.inf
        frame["score"] = own - logsumexp(others, axis=1)
        frame["weight"] = self._regression.weights(found.rows, sizes)[of_image, column]
        frame["contribution"] = frame["score"] * frame["weight"]
        return frame
