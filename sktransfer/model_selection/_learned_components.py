"""A few columns of what a fitted estimator learned to see, by partial least squares."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.cross_decomposition import PLSRegression
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils import check_array

from sktransfer._extractor import PretrainedFeatureExtractor
from sktransfer._transfer import TransferClassifier

# How an extractor has to read images to see them as a classifier does.
_READING = (
    *("preprocessing", "image_size", "image_shape", "value_range", "dicom", "scaled_decoding"),
    *("batch_size", "device", "cache", "on_error", "n_jobs"),
)


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
        reading = {name: getattr(estimator, name) for name in _READING}
        estimator = PretrainedFeatureExtractor(FrozenEstimator(estimator), **reading).fit(X)
    if hasattr(estimator, "transform"):
        X = estimator.transform(X)
    try:
        features = check_array(X, accept_sparse=True, ensure_all_finite=False, dtype=float)
    except (TypeError, ValueError) as error:
        error.add_note(
            f"n_components needs features, which {type(estimator).__name__} gets from elsewhere: "
            "give a FineTuneClassifier, a TransferClassifier, or a pipeline that ends in the "
            "classifier, such as make_pipeline(PretrainedFeatureExtractor(), LogisticRegression())."
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
