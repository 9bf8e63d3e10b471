"""OutOfFoldTransformer: what a model says of images, as columns that a table can have."""

from __future__ import annotations

import warnings
from copy import deepcopy
from hashlib import blake2b
from numbers import Integral
from typing import Any, ClassVar

import joblib
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.linalg import orthogonal_procrustes
from sklearn.base import BaseEstimator, MetaEstimatorMixin, TransformerMixin, clone, is_classifier
from sklearn.cross_decomposition import PLSRegression
from sklearn.model_selection import GroupKFold, KFold, check_cv
from sklearn.utils import Tags, get_tags, indexable
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_is_fitted

from sktransfer._image_rows import take_rows
from sktransfer._images import as_image_source, is_missing
from sktransfer._utils.config import API_PAGE
from sktransfer._utils.identifiers import read_groups
from sktransfer._utils.multilabel import is_multilabel, read_indicators
from sktransfer._utils.per_row import as_frame, check_present
from sktransfer._utils.sklearn_compat import (
    HasMethods,
    Interval,
    StrOptions,
    _check_feature_names_in,
    _check_method_params,
    _check_response_method,
    _check_y,
    _fit_context,
)
from sktransfer._utils.splitting import joined_groups, stratified_folds
from sktransfer.bags._reading import cells_of
from sktransfer.exceptions import ImageDecodeError
from sktransfer.model_selection._learned_components import (
    components_of,
    fit_components,
    learned_features,
    readable,
)
from sktransfer.model_selection._out_of_fold import (
    _as_indices,
    _check_splits,
    routed_params,
    show_features,
)
from sktransfer.model_selection._split import MultilabelStratifiedGroupKFold

_DEFAULT_FOLDS = 5
_CALLED = {"predict_proba": "proba", "decision_function": "decision", "predict": "predicted"}
# Rows of so many equal numbers are copies of an image, and not people of the same age and sex.
_LEAST_PIXELS = 64


class OutOfFoldTransformer(TransformerMixin, MetaEstimatorMixin, BaseEstimator):
    """Turn images into what a model predicts of them, out of fold for the rows it is fitted to.

    A model is sure of its own rows: a second model on its scores and on other columns, such as age
    and sex, would trust these scores, and be wrong on new rows. So ``fit_transform``, which
    pipelines call, gives each row the prediction of a model that was not fitted to it
    (cross-fitting, as in stacking [1]_), and ``transform`` those of the model of all rows.

    Read more in the :ref:`User Guide <image-scores>`.

    Parameters
    ----------
    estimator : estimator instance
        A classifier or a regressor on images: a :class:`~sktransfer.FineTuneClassifier`, a
        :class:`~sktransfer.TransferClassifier`, a pipeline. Or on features, behind an extractor.
    response_method : {"auto", "predict_proba", "decision_function"}, default="auto"
        What a classifier predicts: of two classes the column of the second one, else a column for
        each class. "auto": the first of the two that it has. Regressors predict numbers.
    n_components : int or None, default=None
        Instead of predictions, so many components of what the estimator learned to see: partial
        least squares [2]_ of the embedding that a fine-tuned network gives to its head, of the
        features that a pipeline gives to its last step, or of what the estimator's ``transform``
        returns. Components of each fold are turned to those of all rows.
    cv : int, splitter, iterable of splits or None, default=None
        The folds of ``fit_transform``, which have to test every row once. None or an int: that many
        folds (5), fewer where there are fewer rows; stratified by class or by each of several
        labels, with all rows of a group in one, and all copies of an image or a bag, as
        ``RandomOverSampler`` makes them. Copies are not looked for where ``cv`` is a splitter or
        splits.
    n_jobs : int or None, default=None
        Number of folds fitted at once.

    Attributes
    ----------
    estimator_ : estimator instance
        The estimator, fitted to all rows. ``transform`` uses it.
    classes_ : ndarray of shape (n_classes,)
        The class labels, sorted. Classifiers only.
    n_features_in_ : int
        Number of features, where the estimator has it.
    feature_names_in_ : ndarray of str
        Names of features, where the estimator has them.

    See Also
    --------
    sklearn.preprocessing.TargetEncoder : The same for categories.
    sklearn.ensemble.StackingClassifier : The same for several models of the same columns.
    sklearn.model_selection.cross_val_predict : Predictions for looking at, not for fitting.

    Notes
    -----
    ``fit(X, y).transform(X)`` does not equal ``fit_transform(X, y)``: it has the predictions of a
    model for its own rows. Use ``fit_transform`` on training data, as pipelines and
    ``ColumnTransformer`` do. It fits the estimator once more than there are folds.

    A row without an image (None, NaN, an empty cell, or features that are all NaN) is not fitted to
    and becomes NaN, as do images that the estimator gives NaN for (``on_error="nan"``).
    ``HistGradientBoostingClassifier`` takes NaN; others need ``SimpleImputer`` in between.

    ``groups`` go to the splitter, and to the estimator if its ``fit`` has them. With metadata
    routing enabled the estimator has to request them, as it has to request ``sample_weight``.

    References
    ----------
    .. [1] Wolpert: Stacked generalization. Neural Networks 5 (1992).
    .. [2] de Jong: SIMPLS, an alternative approach to partial least squares regression.
       Chemometrics and Intelligent Laboratory Systems 18 (1993).

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.compose import ColumnTransformer
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.ensemble import HistGradientBoostingClassifier
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sktransfer.model_selection import OutOfFoldTransformer
    >>> digits = load_digits(n_class=2)
    >>> age = np.random.default_rng(0).normal(50 + 5 * digits.target, 10)
    >>> X = np.column_stack([digits.data, age])
    >>> columns = ColumnTransformer(
    ...     [("image", OutOfFoldTransformer(LogisticRegression()), slice(0, 64))],
    ...     remainder="passthrough",
    ... )
    >>> clf = make_pipeline(columns, HistGradientBoostingClassifier()).fit(X, digits.target)
    >>> columns.get_feature_names_out()
    array(['image__proba_1', 'remainder__x64'], dtype=object)
    """

    # Groups are for the folds, and need not be requested.
    __metadata_request__fit: ClassVar = {"groups": True}

    _doc_link_module = "sktransfer"
    _doc_link_template = API_PAGE
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "estimator": [HasMethods(["fit"])],
        "response_method": [StrOptions({"auto", "predict_proba", "decision_function"})],
        "n_components": [Interval(Integral, 1, None, closed="left"), None],
        "cv": ["cv_object"],
        "n_jobs": [Integral, None],
    }

    def __init__(
        self,
        estimator: Any,
        *,
        response_method: str = "auto",
        n_components: int | None = None,
        cv: Any = None,
        n_jobs: int | None = None,
    ) -> None:
        self.estimator = estimator
        self.response_method = response_method
        self.n_components = n_components
        self.cv = cv
        self.n_jobs = n_jobs

    # The estimator's own parameters are for its own fit to check.
    @_fit_context(prefer_skip_nested_validation=False)
    def fit(
        self, X: Any, y: ArrayLike, groups: ArrayLike | None = None, **params: Any
    ) -> OutOfFoldTransformer:
        """Fit the estimator to all rows; on training data use ``fit_transform``.

        Parameters
        ----------
        X : array-like of shape (n, ...), list or DataFrame
            Whatever the estimator takes.
        y : array-like of shape (n,) or (n, n_labels), or sequence of sets
            Target values. Several labels a row may be NaN where they are unknown, if the estimator
            takes that: such a row is predicted like any other.
        groups : array-like of shape (n,) or None, default=None
            Groups, such as patients.
        **params : dict
            Parameters for the ``fit`` of the estimator, as in ``fit_transform``.

        Returns
        -------
        self : OutOfFoldTransformer
            Fitted transformer.

        Raises
        ------
        ValueError
            If no row has an image, or the components that are asked for do not exist.
        """
        X, target, _, present, fit_params, _ = self._read("fit", X, y, groups, params)
        self._fit_all(X, target, present, fit_params)
        return self

    @_fit_context(prefer_skip_nested_validation=False)
    def fit_transform(
        self, X: Any, y: ArrayLike, groups: ArrayLike | None = None, **params: Any
    ) -> np.ndarray:
        """Fit the estimator to all rows, and predict each row by one that was not fitted to it.

        Parameters
        ----------
        X : array-like of shape (n, ...), list or DataFrame
            Whatever the estimator takes.
        y : array-like of shape (n,) or (n, n_labels), or sequence of sets
            Target values. Several labels a row may be NaN where they are unknown, if the estimator
            takes that: such a row is predicted like any other.
        groups : array-like of shape (n,) or None, default=None
            Groups, such as patients: none is on both sides of a fold.
        **params : dict
            Parameters for the ``fit`` of the estimator, such as ``sample_weight``; with metadata
            routing enabled, for those that requested them.

        Returns
        -------
        ndarray of shape (n, n_columns), float64
            Out-of-fold predictions or components. NaN for rows without an image.

        Raises
        ------
        ValueError
            If no row has an image, a class has too few rows or groups for folds, ``cv`` does not
            test every row once, or a group is on both sides of a fold.
        """
        X, target, units, present, fit_params, split_params = self._read(
            "fit_transform", X, y, groups, params
        )
        splits = self._splits(X, target, units, present, split_params)  # before what takes long
        whole = self._fit_all(X, target, present, fit_params)
        out = np.full((len(target), len(self._columns)), np.nan)
        parts = [(train[present[train]], test[present[test]]) for train, test in splits]
        parts = [(train, test) for train, test in parts if len(test)]
        done = Parallel(n_jobs=self.n_jobs)(
            delayed(self._fit_part)(X, target, train, test, fit_params) for train, test in parts
        )
        for (train, test), (own, response) in zip(parts, done, strict=True):
            out[test] = response
            if own is not None:  # a fold's components may be turned, or have other signs
                seen = readable(own)
                turn, _ = orthogonal_procrustes(own[seen], whole[train[seen]])
                out[test] = response @ turn
        return out

    def transform(self, X: Any) -> np.ndarray:
        """Predict rows by the estimator that was fitted to all rows.

        Parameters
        ----------
        X : array-like of shape (n, ...), list or DataFrame
            Whatever the estimator takes.

        Returns
        -------
        ndarray of shape (n, n_columns), float64
            Predictions or components. NaN for rows without an image.
        """
        check_is_fitted(self, "estimator_")
        (X,) = indexable(X)
        present = _present(X)
        if present.all():
            return self._respond(self.estimator_, self._components, X)
        out = np.full((len(present), len(self._columns)), np.nan)
        if present.any():
            own = take_rows(X, np.flatnonzero(present))
            out[present] = self._respond(self.estimator_, self._components, own)
        return out

    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> np.ndarray:
        """Return the names of the columns.

        Parameters
        ----------
        input_features : array-like of str or None, default=None
            Ignored, but has to be the names of the columns of ``X`` where these are known.

        Returns
        -------
        ndarray of str
            ``proba_`` or ``decision_`` with the class, ``predicted``, or ``component`` with a
            number.
        """
        check_is_fitted(self, "estimator_")
        if hasattr(self, "n_features_in_"):
            _check_feature_names_in(self, input_features, generate_names=False)
        return np.asarray(self._columns, dtype=object)

    def get_metadata_routing(self) -> MetadataRouter:
        """Return how metadata is routed: to the estimator's ``fit`` and the splitter's ``split``.

        Returns
        -------
        MetadataRouter
            See scikit-learn's user guide on metadata routing.
        """
        router = MetadataRouter(owner=self).add_self_request(self)
        to_fit, to_split = MethodMapping(), MethodMapping()
        for caller in ("fit", "fit_transform"):
            to_fit.add(caller=caller, callee="fit")
            to_split.add(caller=caller, callee="split")
        router.add(estimator=self.estimator, method_mapping=to_fit)
        if hasattr(self.cv, "split"):
            router.add(splitter=self.cv, method_mapping=to_split)
        return router

    def __sklearn_tags__(self) -> Tags:
        tags, own = super().__sklearn_tags__(), get_tags(self.estimator)
        tags.input_tags = deepcopy(own.input_tags)
        tags.target_tags.required = True
        tags.transformer_tags.preserves_dtype = []
        tags.non_deterministic = own.non_deterministic
        return tags

    # --- fitting ---------------------------------------------------------------------------------

    def _read(
        self, method: str, X: Any, y: Any, groups: Any, params: dict[str, Any]
    ) -> tuple[Any, ...]:
        """Check what is given, and find out which rows have an image."""
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None."
            )
        X, y, groups = indexable(X, y, groups)
        several = is_multilabel(y)
        self._labels = None
        if several and is_classifier(self.estimator):
            y, self._labels = _several_labels(y)
        if self._labels is None:
            y = _check_y(check_present(y), multi_output=several, y_numeric=False, estimator=self)
        groups = None if groups is None else read_groups(groups, n=len(y))
        fit_params, split_params = routed_params(self, method, groups, params)
        present = _present(X)
        if not present.any():
            raise ValueError(f"None of the {len(y)} rows has an image.")
        self.__dict__.pop("classes_", None)
        if is_classifier(self.estimator) and self._labels is None:
            check_classification_targets(y)
            if not several:
                self.classes_ = np.unique(y[present])
        methods = ["predict"]
        if is_classifier(self.estimator):
            auto = self.response_method == "auto"
            methods = ["predict_proba", "decision_function"] if auto else [self.response_method]
        self._method = _check_response_method(self.estimator, methods).__name__
        return X, y, groups, present, fit_params, split_params

    def _fit_all(
        self, X: Any, y: np.ndarray, present: np.ndarray, fit_params: dict[str, Any]
    ) -> np.ndarray:
        """Fit to all rows that have an image; return their components."""
        self.estimator_, self._components, own = self._fit_rows(
            X, y, np.flatnonzero(present), fit_params
        )
        show_features(self)
        whole = np.full((len(y), self.n_components or 0), np.nan)
        if own is not None:
            whole[present] = own
        first = take_rows(X, np.flatnonzero(present)[:1])
        width = self._respond(self.estimator_, self._components, first).shape[1]
        self._columns = self._named(width)
        return whole

    def _splits(
        self,
        X: Any,
        y: np.ndarray,
        groups: np.ndarray | None,
        present: np.ndarray,
        split_params: dict[str, Any],
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return rows to train on and rows to predict; every row is predicted once."""
        cv: Any = _DEFAULT_FOLDS if self.cv is None else self.cv
        if isinstance(cv, Integral):
            units, stratified = _units(X, groups, present), hasattr(self, "classes_")
            most = np.unique(y, return_counts=True)[1].max() if stratified else len(y)
            cv = min(cv, most, len(y) if units is None else units.max() + 1)
            if cv < 2:
                raise ValueError(
                    "Out-of-fold predictions need at least two folds; cv, or the rows, groups and "
                    f"distinct images that there are, allow {cv}."
                )
            if stratified:
                cv = stratified_folds(cv, grouped=units is not None, random_state=0)
            elif self._labels is not None:
                cv = MultilabelStratifiedGroupKFold(cv, shuffle=True, random_state=0)
            else:
                cv = KFold(cv, shuffle=True, random_state=0) if units is None else GroupKFold(cv)
            split_params = {"groups": units}
        with warnings.catch_warnings():
            # A class of fewer rows than folds is in some of them only, which is no harm here.
            warnings.filterwarnings("ignore", message="The least populated class")
            parts = check_cv(cv, y, classifier=True).split(X, y, **split_params)
            splits = [(_as_indices(train), _as_indices(test)) for train, test in parts]
        splits = [(train, test) for train, test in splits if len(test)]
        _check_splits(splits, groups, len(y))
        untested = len(y) - sum(len(test) for _, test in splits)
        if untested:
            raise ValueError(
                f"cv leaves {untested} of {len(y)} rows untested, which would have no out-of-fold "
                "prediction. Use folds, such as StratifiedKFold or StratifiedGroupKFold."
            )
        return splits

    def _fit_rows(
        self, X: Any, y: np.ndarray, rows: np.ndarray, fit_params: dict[str, Any]
    ) -> tuple[Any, PLSRegression | None, np.ndarray | None]:
        """Return an estimator fitted to rows, and their components if these are asked for."""
        estimator, given = clone(self.estimator), _check_method_params(X, fit_params, indices=rows)
        classes = getattr(self, "classes_", None)
        if classes is not None:
            left = np.setdiff1d(classes, y[rows])
            if len(left) and (self._method != "predict_proba" or len(classes) < 3):
                raise ValueError(
                    f"A fold has no row of class {left.tolist()[0]!r} to train on: all that have "
                    "an image are in one fold. Out-of-fold predictions need two rows of each "
                    "class, and of two groups if there are groups."
                )
        own = X if len(rows) == len(y) else take_rows(X, rows)
        target = y[rows]
        labels: Any = self._labels if self._labels else None
        estimator.fit(own, pd.DataFrame(target, columns=labels) if labels else target, **given)
        if self.n_components is None:
            return estimator, None, None
        if target.dtype.kind == "f" and self._labels is not None:
            # The mean of a label that is unknown goes together with nothing.
            known = ~np.isnan(target)
            mean = np.where(known, target, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
            target = np.where(known, target, mean)
        if classes is not None:  # of two classes one column says it all
            target = target[:, None] == (classes[1:] if len(classes) == 2 else classes)
        weights = [v for name, v in given.items() if name.split("__")[-1] == "sample_weight"]
        features = learned_features(estimator, own)
        pls = fit_components(
            features, target.astype(float), next(iter(weights), None), self.n_components
        )
        return estimator, pls, components_of(pls, features)

    def _fit_part(
        self, X: Any, y: np.ndarray, train: np.ndarray, test: np.ndarray, fit_params: dict[str, Any]
    ) -> tuple[np.ndarray | None, np.ndarray]:
        """Return components of the training part, if asked for, and what is said of the other."""
        estimator, components, own = self._fit_rows(X, y, train, fit_params)
        return own, self._respond(estimator, components, take_rows(X, test))

    def _respond(self, estimator: Any, components: PLSRegression | None, X: Any) -> np.ndarray:
        if components is not None:
            return components_of(components, learned_features(estimator, X))
        response = getattr(estimator, self._method)(X)
        if isinstance(response, list):  # of several targets; of each, its last class
            response = np.column_stack([each[:, -1] for each in response])
        response = np.asarray(response, dtype=float).reshape(len(response), -1)
        if self._method == "predict_proba" and hasattr(self, "classes_"):
            if response.shape[1] < len(self.classes_):
                known = np.searchsorted(self.classes_, estimator.classes_)
                response, part = np.zeros((len(response), len(self.classes_))), response
                response[:, known] = part
            if response.shape[1] == 2:
                response = response[:, 1:]
        return response

    def _named(self, width: int) -> list[str]:
        if self._components is not None:
            return [f"component{i}" for i in range(width)]
        called = _CALLED[self._method]
        labels = self._labels or list(getattr(self, "classes_", ()))
        if width == 1:
            return [f"{called}_{labels[-1]}" if labels else called]
        return [f"{called}_{each}" for each in (labels if len(labels) == width else range(width))]


def _several_labels(y: Any) -> tuple[np.ndarray, list[Any] | None]:
    """Return 0, 1 and NaN, and the labels if they have names; ``y``, None if they are classes."""
    try:
        matrix, names = read_indicators(y)
    except ValueError:
        cells = np.asarray(y, dtype=object)
        if cells.ndim != 2 or pd.isna(cells).any():
            raise
        return y, None  # of columns with other classes than 0 and 1
    labels = [] if names.tolist() == list(range(len(names))) else names.tolist()
    return matrix if np.isnan(matrix).any() else matrix.astype(int), labels


def _present(X: Any) -> np.ndarray:
    """Return whether each row has anything in it: an empty cell is an image that is missing."""
    X = _as_numbers(X)
    if isinstance(X, np.ndarray) and X.dtype.kind == "f":
        return np.asarray(~np.isnan(X).all(axis=tuple(range(1, X.ndim))) | (X.size == 0))
    frame = as_frame(X)
    if frame is None:
        if hasattr(X, "ndim") and (X.ndim > 2 or (X.ndim == 2 and X.shape[1] != 1)):
            return np.ones(X.shape[0], dtype=bool)
        cells = X.ravel() if isinstance(X, np.ndarray) else X
        frame = pd.DataFrame({0: pd.Series(list(cells), dtype=object)})
    frame = frame.set_axis(range(frame.shape[1]), axis=1)
    words = frame.select_dtypes(exclude="number")
    blank = words.map(
        lambda cell: not cell.strip() if isinstance(cell, str) else _is_bag(cell) and not len(cell)
    )
    there = frame.notna() & ~blank.reindex(columns=frame.columns, fill_value=False)
    return there.any(axis=1).to_numpy() | frame.empty


def _as_numbers(X: Any) -> Any:
    """Return an array of rows of numbers that are lists or objects; else ``X`` as it is."""
    rows: Any = X if isinstance(X, (list, tuple)) else ()
    if isinstance(X, np.ndarray) and X.dtype == object and X.ndim > 1 and X.shape[1] > 1:
        rows = X
    if not len(rows) or not all(isinstance(row, (list, tuple, np.ndarray)) for row in rows):
        return X
    try:
        numbers = np.asarray(rows)
        return numbers.astype(float) if numbers.dtype == object else numbers
    except (TypeError, ValueError):  # paths, or bags of several sizes
        return X


def _is_bag(cell: Any) -> bool:
    return isinstance(cell, (list, tuple)) or (isinstance(cell, np.ndarray) and cell.ndim > 0)


def _units(X: Any, groups: np.ndarray | None, present: np.ndarray) -> np.ndarray | None:
    """Return numbers of what no fold divides: groups, copies of an image; None if single rows."""
    n, copies = len(present), _copies(X)
    names = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
    if copies is None:
        copies = np.arange(n)
    copies = np.where(present, copies, n + np.arange(n))  # missing images are no copies
    units = joined_groups(names, np.unique(copies, return_inverse=True)[1])
    return None if len(np.unique(units)) == n else np.unique(units, return_inverse=True)[1]


def _copies(X: Any) -> np.ndarray | None:
    """Return a number for each distinct image; None where rows are not images."""
    numbers = X.to_numpy() if isinstance(X, pd.DataFrame) else _as_numbers(X)
    if isinstance(numbers, np.ndarray) and numbers.dtype.kind in "fiub":
        if numbers[:1].size < _LEAST_PIXELS:
            return None
        keys = [blake2b(row.tobytes()).digest() for row in numbers]
        return np.unique(keys, return_inverse=True)[1]
    cells = cells_of(X)
    if cells and all(_is_bag(cell) or is_missing(cell) for cell in cells):
        return np.unique([joblib.hash(cell) for cell in cells], return_inverse=True)[1]
    try:
        source = as_image_source(X)
    except (TypeError, ValueError):
        return None
    keys = []
    for row in range(len(source)):
        try:
            keys.append(source.open(row).digest)
        except ImageDecodeError:
            keys.append(row.to_bytes(8, "little"))
    return np.unique(keys, return_inverse=True)[1]
