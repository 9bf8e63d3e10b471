"""What classifiers that decide by scores of unseen rows share: parameters, scores, and routing."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.model_selection import StratifiedKFold
from sklearn.utils import get_tags
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping
from sklearn.utils.validation import check_is_fitted

from sktransfer._utils.config import API_PAGE
from sktransfer._utils.multilabel import is_multilabel
from sktransfer._utils.per_row import check_present
from sktransfer._utils.sklearn_compat import (
    BaseThresholdClassifier,
    Interval,
    StrOptions,
    _check_y,
)
from sktransfer.model_selection._out_of_fold import (
    check_prefit,
    class_scores,
    label_scores,
    out_of_fold_scores,
    own_class_scores,
    own_label_scores,
    routed_params,
)
from sktransfer.model_selection._saved_threshold import load_with_threshold, save_with_threshold


class CrossFittedClassifier(BaseThresholdClassifier):
    """Base of classifiers whose thresholds are order statistics of scores of unseen rows."""

    # Groups are for the threshold itself, and need not be requested.
    __metadata_request__fit: ClassVar = {"groups": True}

    # What a file of one is called, and the attribute without which one is not fitted.
    _kind: ClassVar[str]
    _fitted_by: ClassVar[str] = "threshold_"
    # What a file says of the thresholds, and what gives them back.
    _record: ClassVar[Any]
    _restore: ClassVar[Any]

    _doc_link_module = "sktransfer"
    _doc_link_template = API_PAGE
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **BaseThresholdClassifier._parameter_constraints,
        "confidence_level": [Interval(Real, 0, 1, closed="neither"), None],
        "cost_matrix": ["array-like", None],
        "cv": ["cv_object", StrOptions({"prefit"})],
        "unattainable": [StrOptions({"raise", "trivial"})],
        "pos_label": [Real, str, "boolean", None],
        "n_jobs": [Integral, None],
    }

    def _get_response_method(self) -> list[str]:
        """Return the response methods in the order of preference."""
        found = super()._get_response_method()
        return [found] if isinstance(found, str) else found

    def _check_given(self, y: Any) -> Any:
        """Return labels; it is an error if there are none, or rows that are to have no score."""
        steps = getattr(self.estimator, "steps", [("", self.estimator)])
        if getattr(steps[-1][1], "on_novel", None) == "refer":
            name = type(self).__name__
            raise ValueError(
                f"{name} needs a score of each row, and a NoveltyGate that refers gives novel ones "
                f"none. Put the gate around it: NoveltyGate({name}(...), on_novel='refer')."
            )
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None."
            )
        return y

    def _read_labels(self, y: Any) -> np.ndarray:
        """Return labels as an array; none may be missing, and there is one in each row."""
        if is_multilabel(y):
            raise ValueError(
                f"{type(self).__name__} is for one label a row, and y has several. Fit one for "
                "each of them, with an estimator of that label: fit(X[known], y.loc[known, name]), "
                "known = y[name].notna()."
            )
        labels: np.ndarray = _check_y(
            check_present(y), multi_output=False, y_numeric=False, estimator=self
        )
        return labels

    def _check_two(self, labels: np.ndarray) -> np.ndarray:
        """Return the classes of the labels, of which there must be two."""
        classes = np.unique(labels)
        if len(classes) < 2:
            raise ValueError(
                f"{type(self).__name__} needs rows of two classes; got 1 class: {classes.tolist()}."
            )
        return classes

    def _score_unseen(
        self,
        X: Any,
        labels: Any,
        patients: np.ndarray | None,
        params: dict[str, Any],
        classes: np.ndarray | None = None,
        *,
        most: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray, bool]:
        """Fit ``estimator_``; return rows, their scores for each class, and whether it is another.

        A model that is fitted already may know ``most`` classes. None: rows have several labels,
        and scores are of these. Rows of no weight are left out.
        """
        methods = self._get_response_method()
        known = None
        score: Callable[[Any, Any], np.ndarray]
        own: Callable[[Any], tuple[np.ndarray, np.ndarray]]
        if classes is None:
            score = partial(label_scores, methods=methods, n_labels=labels.shape[1])
            own = partial(own_label_scores, methods=methods)
        else:
            known = np.unique(labels)
            score = partial(class_scores, methods=methods, classes=classes)
            own = partial(own_class_scores, methods=methods)
        if isinstance(self.cv, str):
            check_prefit(self.estimator, known, most=most)
        fit_params, split_params = routed_params(self, "fit", patients, params)
        self.estimator_, scored, scores, refitted = out_of_fold_scores(
            *(self.estimator, X, labels),
            cv=self.cv,
            groups=patients,
            fit_params=fit_params,
            split_params=split_params,
            score=score,
            own=own,
            n_jobs=self.n_jobs,
        )
        if fit_params.get("sample_weight") is not None:
            # A row of no weight is a row that is not there.
            there = np.asarray(fit_params["sample_weight"])[scored] > 0
            scored, scores = scored[there], scores[there]
        return scored, scores, refitted

    def save(
        self, path: str | os.PathLike[str], *, class_names: Any = None, store_weights: bool = False
    ) -> None:
        """Write the thresholds and the classifier they are for to one file without code.

        It is the file of :meth:`TransferClassifier.save <sktransfer.TransferClassifier.save>` or
        :meth:`FineTuneClassifier.save <sktransfer.FineTuneClassifier.save>` with a record of the
        thresholds, which ``python -m sktransfer predict`` and ``report`` decide by.

        Parameters
        ----------
        path : path-like
            The file; ``.safetensors`` is customary. No image's name or pixels are in it.
        class_names : mapping of labels to str, or sequence of str, default=None
            Names of the classes, as for ``FineTuneClassifier.save``.
        store_weights : bool, default=False
            Whether the file holds the pretrained weights too.

        Raises
        ------
        TypeError
            If ``estimator_`` is no :class:`~sktransfer.TransferClassifier` and no
            :class:`~sktransfer.FineTuneClassifier`: others are pickled.
        ValueError
            If a parameter of the network is code, or there is not a name for each class.
        """
        check_is_fitted(self, self._fitted_by)
        save_with_threshold(self, path, class_names, store_weights=store_weights)

    @classmethod
    def load(cls, path: str | os.PathLike[str], **params: Any) -> Self:
        """Read what :meth:`save` wrote; no code is run.

        Parameters
        ----------
        path : path-like
            The file.
        **params : dict
            As for ``TransferClassifier.load``: ``weights``, where the pretrained weights are, and
            parameters of the classifier to take instead of those in the file.

        Returns
        -------
        self : classifier
            Fitted estimator. Another ``fit`` would keep the network and choose the thresholds again
            on the rows that are given (``cv="prefit"``).

        Raises
        ------
        WeightsMismatchError
            If the file was damaged or edited, is of another kind, or of another version.
        ValueError
            If the file holds no threshold, or a parameter is invalid.
        """
        clf = load_with_threshold((cls,), path, params)
        if not isinstance(clf, cls):
            raise ValueError(
                f"{path} was saved without a threshold. {type(clf).__name__}.load reads it; "
                f"{cls.__name__}(FrozenEstimator(it), cv='prefit') chooses one on new rows."
            )
        return clf

    def get_metadata_routing(self) -> MetadataRouter:
        """Return who is given what is passed to :meth:`fit`: this, the estimator, the splitter.

        Returns
        -------
        routing : MetadataRouter
            Requests of this classifier, its estimator and its splitter.
        """
        splitter = self.cv if hasattr(self.cv, "get_n_splits") else StratifiedKFold()
        to_fit = MethodMapping().add(caller="fit", callee="fit")
        to_split = MethodMapping().add(caller="fit", callee="split")
        router = MetadataRouter(owner=self).add_self_request(self)
        router.add(estimator=self.estimator, method_mapping=to_fit)
        return router.add(splitter=splitter, method_mapping=to_split)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = get_tags(self.estimator).input_tags.allow_nan
        return tags
