"""BagTransformer: bags of images in, one vector for each bag out.

It must not know classifiers.
"""

from __future__ import annotations

from numbers import Real
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from sktransfer._utils.sklearn_compat import (
    Interval,
    StrOptions,
    _check_feature_names_in,
    _fit_context,
)
from sktransfer.bags._pooling import pool
from sktransfer.bags._reading import BagInputMixin


class BagTransformer(BagInputMixin, TransformerMixin, BaseEstimator):
    """Embed the images of each bag, and pool them into one vector.

    A row of ``X`` is a bag: a list of images, such as all those of a patient, which
    :func:`make_bags` makes of rows and groups. The images of all bags go through the extractor
    together. What comes out has a row a patient, for any estimator of scikit-learn.

    Read more in the :ref:`User Guide <bags>`.

    Parameters
    ----------
    extractor : transformer or None, default=None
        What turns images into vectors: a :class:`~sktransfer.PretrainedFeatureExtractor`, or a
        pipeline that begins with one. It is cloned and fitted to the images of all bags. None: the
        bags hold vectors already, as arrays of shape (images, features).
    pooling : {"mean", "max", "lse", "gem"}, default="mean"
        How each column is pooled over the images of a bag: mean, maximum, log-sum-exp
        ``log(mean(exp(r * x))) / r``, or generalized mean ``mean(x**p) ** (1 / p)``, for which
        numbers that are not positive count as 1e-6. :class:`BagClassifier` has attention, which
        learns from labels.
    sharpness : float or None, default=None
        r of ``"lse"`` and p of ``"gem"``: the larger, the nearer to the maximum. None: 1 and 3.
    on_error : {"raise", "nan"}, default="raise"
        An image that cannot be read, and a bag without images, raises
        :class:`~sktransfer.exceptions.ImageDecodeError`. With ``"nan"``, such images are left out
        of their bags, a bag that has none is a row of NaN, one warning says so, and
        ``failed_rows_`` lists them. The extractor's own ``on_error`` is replaced by this.

    Attributes
    ----------
    extractor_ : transformer or None
        The fitted extractor.
    n_features_out_ : int
        Number of columns of the output.
    failed_rows_ : DataFrame
        Images of the last call that could not be read: ``row`` (the bag), ``source``, ``reason``.
    n_features_in_, feature_names_in_
        Number and names of the columns, if ``X`` is a table of numbers.

    See Also
    --------
    BagClassifier : Classify bags by the images that decide.
    make_bags : Gather the images of each patient into a bag.

    Examples
    --------
    >>> import numpy as np
    >>> from sktransfer import PretrainedFeatureExtractor
    >>> from sktransfer.bags import BagTransformer
    >>> images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    >>> bags = [list(images[:2]), list(images[2:])]
    >>> feat = PretrainedFeatureExtractor("squeezenet1_1", weights=None, image_size=32)
    >>> BagTransformer(feat, pooling="max").fit_transform(bags).shape
    (2, 512)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **BagInputMixin._bag_parameter_constraints,
        "pooling": [StrOptions({"mean", "max", "lse", "gem"})],
        "sharpness": [Interval(Real, 0, None, closed="neither"), None],
    }

    def __init__(
        self,
        extractor: Any = None,
        *,
        pooling: str = "mean",
        sharpness: float | None = None,
        on_error: str = "raise",
    ) -> None:
        self.extractor = extractor
        self.pooling = pooling
        self.sharpness = sharpness
        self.on_error = on_error

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Any, y: Any = None) -> BagTransformer:
        """Fit the extractor to the images of all bags.

        Parameters
        ----------
        X : Series, list or array of bags, n rows
            In any of the :ref:`forms of bags <bags>`.
        y : array-like of shape (n,), default=None
            Labels of the bags, which the extractor gets for each image.

        Returns
        -------
        self : BagTransformer
            Fitted transformer.
        """
        bags = self._fit_extractor(X, y)
        try:
            self.n_features_out_ = len(self.get_feature_names_out())
        except AttributeError:  # an extractor that does not name its columns
            self.n_features_out_ = self._embed(bags).rows.shape[1]
        return self

    def transform(self, X: Any) -> Any:
        """Embed the images of bags, and pool those of each.

        Parameters
        ----------
        X : Series, list or array of bags, n rows
            In any of the :ref:`forms of bags <bags>`.

        Returns
        -------
        ndarray of shape (n, n_columns), float64
            Permuting the images of a bag changes nothing beyond rounding.
        """
        found = self._embed(X)
        there = found.sizes > 0
        pooled = np.full((len(found), self.n_features_out_), np.nan)
        if there.any():
            rows, sizes = torch.from_numpy(found.rows), torch.from_numpy(found.sizes[there])
            sharpness = self.sharpness or (3.0 if self.pooling == "gem" else 1.0)
            pooled[there] = pool(rows, sizes, self.pooling, sharpness).numpy()
        return pooled

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return names of the columns: the pooling, and the name that the extractor gives.

        Parameters
        ----------
        input_features : array-like of str or None, default=None
            Names of the features, if ``X`` is a table of vectors; else ignored.

        Returns
        -------
        ndarray of shape (n_columns,), str objects
            One per column of the output.
        """
        check_is_fitted(self, "extractor_")
        if self.extractor_ is not None:
            names = self.extractor_.get_feature_names_out()
        elif hasattr(self, "n_features_in_"):
            names = _check_feature_names_in(self, input_features)
        else:
            names = [f"x{i}" for i in range(self._n_columns)]
        return np.asarray([f"{self.pooling}_{name}" for name in names], dtype=object)
