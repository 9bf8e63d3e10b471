"""NoveltyGate: a classifier that does not answer for images unlike those it was trained on.

It must not know how novelty is measured.
"""

from __future__ import annotations

from dataclasses import replace
from numbers import Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike
from sklearn import get_config
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.pipeline import Pipeline
from sklearn.utils import Tags, check_consistent_length, get_tags
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, has_fit_parameter

from sktransfer._extractor import PretrainedFeatureExtractor
from sktransfer._finetune import FineTuneClassifier
from sktransfer._image_rows import take_rows
from sktransfer._utils.classes import fitted_steps, refer_label_of
from sktransfer._utils.config import API_PAGE
from sktransfer._utils.identifiers import read_groups
from sktransfer._utils.sklearn_compat import HasMethods, StrOptions, _fit_context
from sktransfer.exceptions import NovelImageError
from sktransfer.novelty._detector import NoveltyDetector
from sktransfer.novelty._drift import DriftReport, pooled_distances
from sktransfer.novelty._label_shift import LEVEL, operating_point_without_labels


def _estimator_has(method: str) -> Any:
    def check(self: Any) -> bool:
        # With the error that names the estimator and what it lacks.
        getattr(getattr(self, "estimator_", self.estimator), method)
        return True

    return check


class NoveltyGate(ClassifierMixin, MetaEstimatorMixin, BaseEstimator):
    """Put a detector of novel images in front of a classifier.

    ``fit`` fits both. For an image that is not like those of ``fit``, the gate raises an error,
    refers it to a reader instead of predicting a class, or lets the prediction pass and says which
    are meant.

    Read more in the :ref:`User Guide <novelty>`.

    Parameters
    ----------
    estimator : classifier
        Any classifier: of images, such as a :class:`~sktransfer.TransferClassifier`, or of
        features. Two that are fitted, such as loaded ones, become a gate by
        ``NoveltyGate(FrozenEstimator(clf), detector=FrozenEstimator(detector)).fit(None, None)``.
    detector : NoveltyDetector or None, default=None
        What finds novel images; it is cloned and fitted. None: one with the pretrained network that
        the fitted classifier uses, whose embeddings are in the store already, or of features where
        it uses none.
    on_novel : {"flag", "refer", "raise"}, default="flag"
        What novel images get. ``"flag"``: the classifier's predictions, and :meth:`is_novel` says
        which they are. ``"refer"``: no class, but ``refer_label_`` from ``predict``, and NaN from
        ``predict_proba`` and ``decision_function``. ``"raise"``: a
        :class:`~sktransfer.exceptions.NovelImageError` that names the first one.
    refer_label : int, float, str or None, default=None
        What :meth:`predict` gives for a row that is referred. None: that of the classifier, if it
        refers rows itself; else "refer" among words, and among numbers the largest integer below 0
        that is no class.

    Attributes
    ----------
    estimator_ : classifier
        The fitted classifier.
    detector_ : NoveltyDetector
        The fitted detector.
    classes_ : ndarray of shape (n_classes,)
        Labels of the classes.
    refer_label_ : int, float or str
        What :meth:`predict` gives for a row that is referred.
    n_features_in_, feature_names_in_
        Number and names of the columns, where the classifier has them.

    See Also
    --------
    NoveltyDetector : Find novel images without a classifier.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_digits
    >>> from sktransfer import FineTuneClassifier
    >>> from sktransfer.novelty import NoveltyGate
    >>> images, y = load_digits(return_X_y=True)
    >>> images = images.reshape(-1, 8, 8).astype(np.uint8) * 16
    >>> net = FineTuneClassifier(
    ...     "squeezenet1_1", weights=None, image_size=32, freeze_depth="all", random_state=0
    ... )
    >>> gate = NoveltyGate(net, on_novel="refer").fit(images[:100], y[:100])
    >>> noise = np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8)
    >>> gate.predict(noise)
    array([-1, -1, -1])
    >>> gate.is_novel(noise)
    array([ True,  True,  True])
    """

    # Groups are for the detector, and need not be requested.
    __metadata_request__fit: ClassVar = {"groups": True}

    _doc_link_module = "sktransfer"
    _doc_link_template = API_PAGE
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "estimator": [HasMethods(["fit", "predict"])],
        "detector": [HasMethods(["fit", "decision_function"]), None],
        "on_novel": [StrOptions({"flag", "refer", "raise"})],
        "refer_label": [Real, str, None],
    }

    def __init__(
        self,
        estimator: Any,
        *,
        detector: Any = None,
        on_novel: str = "flag",
        refer_label: Any = None,
    ) -> None:
        self.estimator = estimator
        self.detector = detector
        self.on_novel = on_novel
        self.refer_label = refer_label

    # The estimator's own parameters are for its own fit to check.
    @_fit_context(prefer_skip_nested_validation=False)
    def fit(
        self, X: Any, y: ArrayLike, groups: ArrayLike | None = None, **params: Any
    ) -> NoveltyGate:
        """Fit the classifier and the detector.

        Parameters
        ----------
        X : array-like of shape (n, ...), list or DataFrame
            Whatever the classifier takes.
        y : array-like of shape (n,)
            Labels of the classes.
        groups : array-like of shape (n,) or None, default=None
            Groups, such as patients, for the detector, and for a classifier whose ``fit`` has them.
        **params : dict
            Parameters for the ``fit`` of the classifier, such as ``sample_weight``; with metadata
            routing enabled, for those that requested them.

        Returns
        -------
        self : NoveltyGate
            Fitted gate.
        """
        given = {} if groups is None else {"groups": groups}
        if get_config()["enable_metadata_routing"]:
            own = process_routing(self, "fit", **params, **given).estimator.fit
        else:
            takes = has_fit_parameter(self.estimator, "groups")
            own = {**params, **(given if takes else {})}
        estimator = clone(self.estimator).fit(X, y, **own)
        detector = default_detector(estimator) if self.detector is None else self.detector
        judged = given if has_fit_parameter(detector, "groups") else {}
        self.estimator_, self.detector_ = estimator, clone(detector).fit(X, None, **judged)
        self.classes_ = estimator.classes_
        own_label = getattr(estimator, "refer_label_", None)  # of a TriageClassifier
        self.refer_label_ = (
            own_label
            if self.refer_label is None and own_label is not None
            else refer_label_of(self.classes_, self.refer_label)
        )
        for name in ("n_features_in_", "feature_names_in_"):
            self.__dict__.pop(name, None)
            if hasattr(estimator, name):
                setattr(self, name, getattr(estimator, name))
        return self

    def is_novel(self, X: Any) -> np.ndarray:
        """Tell which rows are not like those of ``fit``.

        Parameters
        ----------
        X : array-like of shape (n, ...), list or DataFrame
            Whatever the classifier takes.

        Returns
        -------
        ndarray of shape (n,), bool
            Whether each row is novel.

        Raises
        ------
        ImageDecodeError
            If a row cannot be read.
        """
        check_is_fitted(self)
        return self.detector_.predict(X) == -1

    def predict(self, X: Any) -> np.ndarray:
        """Predict the class of each row; see ``on_novel`` for those that are novel.

        Parameters
        ----------
        X : array-like of shape (n, ...), list or DataFrame
            Whatever the classifier takes.

        Returns
        -------
        ndarray of shape (n,)
            Labels of classes, and ``refer_label_`` for rows that are referred (-1 in each column,
            where rows have several labels).

        Raises
        ------
        NovelImageError
            For the first novel row, with ``on_novel="raise"``.
        """
        novel = self._novel(X)
        labels = np.asarray(self.estimator_.predict(X))
        if not novel.any():
            return labels
        marker = self.refer_label_ if labels.ndim == 1 else -1
        # The label may be longer than theirs, or outside their type.
        if labels.dtype.kind in "biuf" and isinstance(marker, str):
            labels = labels.astype(object)
        elif labels.dtype.kind != "O":
            labels = labels.astype(np.result_type(labels.dtype, np.asarray(marker).dtype))
        labels[novel] = marker
        return labels

    @available_if(_estimator_has("predict_proba"))
    def predict_proba(self, X: Any) -> np.ndarray:
        """Predict the probabilities of the classes; see ``on_novel`` for rows that are novel.

        Parameters
        ----------
        X : array-like of shape (n, ...), list or DataFrame
            Whatever the classifier takes.

        Returns
        -------
        ndarray of shape (n, n_classes)
            In the order of ``classes_``; NaN for rows that are referred.

        Raises
        ------
        NovelImageError
            For the first novel row, with ``on_novel="raise"``.
        """
        return self._without_novel(X, "predict_proba")

    @available_if(_estimator_has("decision_function"))
    def decision_function(self, X: Any) -> np.ndarray:
        """Compute the classifier's scores; see ``on_novel`` for rows that are novel.

        Parameters
        ----------
        X : array-like of shape (n, ...), list or DataFrame
            Whatever the classifier takes.

        Returns
        -------
        ndarray of shape (n,) or (n, n_classes)
            NaN for rows that are referred.

        Raises
        ------
        NovelImageError
            For the first novel row, with ``on_novel="raise"``.
        """
        return self._without_novel(X, "decision_function")

    def drift_report(
        self,
        X: Any,
        *,
        groups: ArrayLike | None = None,
        labeled: tuple[Any, ...] | None = None,
        random_state: int | np.random.RandomState | None = 0,
    ) -> DriftReport:
        """Test whether images are from where those of ``fit`` are from, and what it means.

        Sensitivity, specificity and predictive values among images without labels can be told only
        if the classes look as before, and only their shares have changed. That is tested: where it
        is not so, or where there are too few images, the operating point is ``"unknown"``.

        Parameters
        ----------
        X : array-like of shape (n, ...), list or DataFrame
            New images, without labels.
        groups : array-like of shape (n,) or None, default=None
            Their patients, where ``fit`` had patients; they are taken for other ones.
        labeled : tuple (X, y) or (X, y, groups), default=None
            Images with labels that the classifier was *not* trained on, such as its test set. None:
            the operating point is ``"unknown"``.
        random_state : int, RandomState instance or None, default=0
            Seed of the permutations and resamples.

        Returns
        -------
        DriftReport
            Tests, and the operating point.
        """
        check_is_fitted(self)
        report = self.detector_.drift_report(X, groups=groups, random_state=random_state)
        if labeled is None:
            return report
        if report.novel_p_value <= LEVEL:
            return replace(report, reason="more of the new images than expected are novel.")
        X_labeled, y, *rest = labeled
        check_consistent_length(X_labeled, y, *rest)
        rows, called, there = self._called(X_labeled)
        rows_new, called_new, there_new = self._called(X)
        table, reason = operating_point_without_labels(
            *(self._codes(np.asarray(y)[there]), called, _units(rest[0] if rest else None, there)),
            *(called_new, _units(groups, there_new), pooled_distances(rows, rows_new)),
            classes=self.classes_,
            random_state=random_state,
        )
        return replace(report, operating_point=table, reason=reason)

    def _called(self, X: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return features and codes of predicted classes of the rows that can be read."""
        rows = self.detector_._embed(X, reset=False)
        there = np.flatnonzero(np.isfinite(rows).all(axis=1))
        readable = X if len(there) == len(rows) else take_rows(X, there)
        return rows[there], self._codes(self.estimator_.predict(readable)), there

    def _codes(self, labels: Any) -> np.ndarray:
        unknown = np.setdiff1d(labels, self.classes_).tolist()
        if unknown:
            raise ValueError(
                f"An operating point is of the classes {self.classes_.tolist()}; there are also "
                f"rows of {unknown}."
            )
        return np.searchsorted(self.classes_, labels)

    def _without_novel(self, X: Any, method: str) -> np.ndarray:
        novel = self._novel(X)
        scores = np.asarray(getattr(self.estimator_, method)(X))
        if novel.any():
            scores = scores.astype(np.result_type(scores.dtype, np.float32))
            scores[novel] = np.nan
        return scores

    def _novel(self, X: Any) -> np.ndarray:
        """Return which rows get no prediction; raise an error for the first if that is asked for.

        A row that cannot be read is the classifier's to refuse.
        """
        check_is_fitted(self)
        if self.on_novel == "flag":
            return np.zeros(1, dtype=bool)
        decision = self.detector_.decision_function(X)
        novel = np.asarray(decision < 0)
        if self.on_novel == "raise" and novel.any():
            row = int(np.flatnonzero(novel)[0])
            raise NovelImageError(
                row, name_of_row(self.detector_, X, row), int(novel.sum()), len(novel)
            )
        return novel

    def get_metadata_routing(self) -> MetadataRouter:
        """Return who is given what is passed to :meth:`fit`: this and the classifier.

        Returns
        -------
        routing : MetadataRouter
            Requests of this gate and of its classifier.
        """
        router = MetadataRouter(owner=self).add_self_request(self)
        to_fit = MethodMapping().add(caller="fit", callee="fit")
        return router.add(estimator=self.estimator, method_mapping=to_fit)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        own = get_tags(self.estimator)
        tags.input_tags, tags.classifier_tags = own.input_tags, own.classifier_tags
        tags.input_tags.sparse = False
        return tags


def gate_with_rows(estimator: Any, X: Any) -> tuple[NoveltyGate, Any] | None:
    """Return the gate in a fitted estimator, and rows as it gets them; None where there is none."""
    if not any(isinstance(step, NoveltyGate) for step in fitted_steps(estimator)):
        return None
    while not isinstance(estimator, NoveltyGate):
        if isinstance(estimator, Pipeline):
            X = estimator[:-1].transform(X) if len(estimator) > 1 else X
            estimator = estimator.steps[-1][1]
        else:
            names = ("best_estimator_", "estimator_", "estimator")
            estimator = next((getattr(estimator, n) for n in names if hasattr(estimator, n)), None)
        if estimator is None:  # several gates, one for each fold
            return None
    return estimator, X


def default_detector(estimator: Any) -> NoveltyDetector:
    """Return a detector with the pretrained network of a fitted classifier, if it has one.

    It has the classifier's way to read images, so that their embeddings are in the store.
    """
    for step in fitted_steps(estimator):
        if isinstance(step, PretrainedFeatureExtractor):
            extractor = clone(step).set_params(layer="all")
        elif isinstance(step, FineTuneClassifier):
            names = {*PretrainedFeatureExtractor().get_params()} - {"batch_size", "verbose"}
            own = clone(step).get_params(deep=False)
            given = {name: value for name, value in own.items() if name in names}
            extractor = PretrainedFeatureExtractor(**given, layer="all")
        else:
            continue
        return NoveltyDetector(extractor, on_error=extractor.on_error)
    return NoveltyDetector()


def name_of_row(detector: Any, X: Any, row: int) -> str | None:
    """Return the file name of a row, or a word for what it holds, if rows are images."""
    extractor = getattr(detector, "extractor_", None)
    return None if extractor is None else extractor._image_source(X, reset=False).describe(row)


def _units(groups: ArrayLike | None, there: np.ndarray) -> np.ndarray:
    """Return the number of the group of each row that can be read; rows are their own without."""
    if groups is None:
        return np.arange(len(there))
    return np.unique(read_groups(groups)[there], return_inverse=True)[1]
