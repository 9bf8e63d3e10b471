"""A few columns of what a fitted estimator learned to see, by partial least squares."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.cross_decomposition import PLSRegression
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils import check_array

from sktransfer._base import ImageInputMixin, on_host
from sktransfer._extractor import PretrainedFeatureExtractor
from sktransfer._transfer import TransferClassifier


def learned_features(estimator: Any, X: Any) -> np.ndarray:
    """Return what the last layer or step of a fitted estimator is given for rows.

    That is the embedding of a fine-tuned network, what a pipeline gives to its last step, what a
    transformer returns, or, of any other estimator, ``X`` itself.
    """
    if isinstance(estimator, FrozenEstimator):
        return learned_features(estimator.estimator, X)
    if isinstance(estimator, TransferClassifier) or hasattr(estimator, "best_estimator_"):
        return learned_features(estimator.best_estimator_, X)
    if isinstance(estimator, Pipeline):
        X = estimator[:-1].transform(X) if len(estimator.steps) > 1 else X
        return learned_features(estimator.steps[-1][1], X)
    if hasattr(estimator, "to_backbone"):
        names = ImageInputMixin._image_parameter_constraints
        reading = {name: getattr(estimator, name) for name in names}
        estimator = PretrainedFeatureExtractor(FrozenEstimator(estimator), **reading).fit(X)
    if hasattr(estimator, "transform"):
        X = estimator.transform(X)
    try:
        rows = X if hasattr(X, "toarray") else on_host(X)
        features = check_array(rows, accept_sparse=True, ensure_all_finite=False)
    except (TypeError, ValueError) as error:
        error.add_note(
            f"{type(estimator).__name__} does not show the features that it uses. Give a "
            "FineTuneClassifier, a TransferClassifier, or a pipeline that ends in the classifier."
        )
        raise
    return features.toarray() if hasattr(features, "toarray") else features


def fit_components(F: np.ndarray, y: np.ndarray, weight: Any, n_components: int) -> PLSRegression:
    """Find the directions in which features vary together with numbers or classes.

    Rows of NaN and rows of no weight do not count.
    """
    rows = readable(F) & (True if weight is None else np.asarray(weight) > 0)
    pls = PLSRegression(n_components).fit(F[rows], y[rows])
    # Each with the sign that the target it says most of has.
    most = np.abs(pls.y_loadings_).argmax(axis=0)
    pls.x_rotations_ *= np.where(pls.y_loadings_[most, np.arange(len(most))] < 0, -1, 1)
    return pls


def components_of(pls: PLSRegression, F: np.ndarray) -> np.ndarray:
    """Return the components of rows; NaN for rows of NaN."""
    rows = readable(F)
    out = np.full((len(F), pls.n_components), np.nan)
    if rows.any():
        out[rows] = pls.transform(F[rows])
    return out


def readable(F: np.ndarray) -> np.ndarray:
    """Return which rows of features are not those of an image that could not be read."""
    return ~np.isnan(F).all(axis=1)
