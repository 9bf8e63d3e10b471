"""ImageWhitening: small images standardized or whitened, as arrays of numbers."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.decomposition import PCA
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_array, check_is_fitted

from sktransfer._images import resolve_image_shape
from sktransfer._utils.names import answers
from sktransfer._utils.sklearn_compat import (
    Interval,
    StrOptions,
    _check_feature_names_in,
    _fit_context,
)
from sktransfer.preprocessing._arrays import ImageArrayMixin

# Numbers in one image that whitening accepts; a square matrix of them takes 1.2 GB.
_LARGEST = 64 * 64 * 3
# Keras adds it to every standard deviation, so that constant images become 0.
_STD_EPSILON = 1e-6
# With fewer images than numbers in one, the smallest eigenvalues are noise, and dividing by them
# amplifies it; this fraction of the mean eigenvalue is added.
_FEW_ROWS_EPSILON = 1e-2

_DTYPES = (np.float64, np.float32)


def _is_invertible(self: ImageWhitening) -> bool:
    if self.samplewise_center or self.samplewise_std_normalization:
        raise AttributeError(
            "inverse_transform is not defined with samplewise_center or "
            "samplewise_std_normalization: the mean and scale of each image are not kept."
        )
    return True


class ImageWhitening(ImageArrayMixin, TransformerMixin, BaseEstimator):
    """Standardize small images, or make their pixels uncorrelated (ZCA, PCA).

    The steps follow the order that Keras documents: each image is standardized by its own mean and
    standard deviation (sample-wise), then each channel by those of all images and positions
    (feature-wise), and the result is whitened.

    This is for models trained from scratch and for classifiers on pixels. Pretrained networks
    expect images scaled as in their own training, not whitened ones.

    Read more in the :ref:`User Guide <augmentation>`.

    Parameters
    ----------
    method : {"zca", "pca", "standardize"}, default="zca"
        "zca" gives uncorrelated pixels of unit variance that look as much like the images as such
        pixels can, "pca" uncorrelated components of unit variance, largest first. "standardize"
        does only the steps before.
    samplewise_center : bool, default=False
        Whether its mean, over all its pixels and channels, is subtracted from each image.
    samplewise_std_normalization : bool, default=False
        Whether each image is divided by its standard deviation.
    featurewise_center : bool, default=True
        Whether the mean of each channel is subtracted. "zca" and "pca" center every pixel in any
        case, so there it changes nothing.
    featurewise_std_normalization : bool or None, default=None
        Whether each channel is divided by its standard deviation. None: with "standardize" only.
    n_components : int or None, default=None
        How many directions of largest variance are kept. None keeps all that vary.
    epsilon : float or None, default=None
        Fraction of the mean eigenvalue that is added to each eigenvalue before components are
        divided by its root. Larger values amplify noise less. None stands for 0 where there are
        more images than numbers in one, else for 0.01.
    image_shape : tuple of int or None, default=None
        Shape of one image in a 2-D ``X`` whose rows are raveled images, (height, width) or
        (height, width, channels); one of them may be -1. None infers it for square images.

    Attributes
    ----------
    image_shape_ : tuple of int
        Shape of one image in ``fit``.
    mean_, std_ : ndarray of shape (n_channels,)
        Mean and standard deviation of each channel, after the sample-wise steps.
    pixel_mean_ : ndarray of shape (n_pixels,)
        Mean that whitening subtracts, after the steps before it. "zca" and "pca" only.
    components_ : ndarray of shape (n_components, n_pixels)
        Directions of largest variance, as rows. "zca" and "pca" only.
    explained_variance_ : ndarray of shape (n_components,)
        Variance along each direction. "zca" and "pca" only.
    epsilon_ : float
        What is added to each explained variance. "zca" and "pca" only.
    n_features_in_ : int
        Number of columns of ``X`` in ``fit``, if it was 2-D.
    feature_names_in_ : ndarray of str
        Names of the columns of ``X`` in ``fit``, if it was a DataFrame.

    See Also
    --------
    sklearn.decomposition.PCA : Its ``whiten=True`` is ``method="pca"`` with ``epsilon=0``.

    Notes
    -----
    Whitening takes images of up to 64 x 64 x 3 numbers. Keras' ``ImageDataGenerator`` whitens
    without centering each pixel, and with fewer images than pixels divides by rounding errors;
    this does neither. Directions without variance come out as 0.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_digits
    >>> from sktransfer.preprocessing import ImageWhitening
    >>> X = load_digits().images
    >>> whitened = ImageWhitening(epsilon=0.1).fit_transform(X)
    >>> whitened.shape
    (1797, 8, 8)
    >>> ImageWhitening("pca", n_components=16).fit_transform(X).shape
    (1797, 16)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "method": [StrOptions({"zca", "pca", "standardize"})],
        "samplewise_center": ["boolean"],
        "samplewise_std_normalization": ["boolean"],
        "featurewise_center": ["boolean"],
        "featurewise_std_normalization": ["boolean", None],
        "n_components": [Interval(Integral, 1, None, closed="left"), None],
        "epsilon": [Interval(Real, 0, None, closed="left"), None],
        "image_shape": [tuple, list, None],
    }

    @answers({"epsilon": "zca_epsilon eps", "Use method='zca'": "zca_whitening"})
    def __init__(
        self,
        method: str = "zca",
        *,
        samplewise_center: bool = False,
        samplewise_std_normalization: bool = False,
        featurewise_center: bool = True,
        featurewise_std_normalization: bool | None = None,
        n_components: int | None = None,
        epsilon: float | None = None,
        image_shape: tuple[int, ...] | None = None,
    ) -> None:
        self.method = method
        self.samplewise_center = samplewise_center
        self.samplewise_std_normalization = samplewise_std_normalization
        self.featurewise_center = featurewise_center
        self.featurewise_std_normalization = featurewise_std_normalization
        self.n_components = n_components
        self.epsilon = epsilon
        self.image_shape = image_shape

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> ImageWhitening:
        """Learn means, scales and directions.

        Parameters
        ----------
        X : array-like of shape (n, height, width), (n, height, width, channels) or (n, pixels)
            Images of one size.
        y : None
            Ignored; only there because scikit-learn's pipelines pass it.

        Returns
        -------
        self : ImageWhitening
            Fitted transformer.
        """
        X = self._check_shape(X, reset=True)
        self.image_shape_ = (
            resolve_image_shape(self.image_shape, X.shape[1]) if X.ndim == 2 else X.shape[1:]
        )
        n_pixels = math.prod(self.image_shape_)
        if self.method != "standardize":
            self._check_size(n_pixels)
        images = self._samplewise(X)
        flat = images.reshape(-1, images.shape[-1])
        self.mean_, self.std_ = flat.mean(axis=0), flat.std(axis=0)
        for learned in ("pixel_mean_", "components_", "explained_variance_", "epsilon_"):
            self.__dict__.pop(learned, None)  # of an earlier fit with another method
        if self.method != "standardize":
            self._fit_directions(self._featurewise(images).reshape(len(X), n_pixels))
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Standardize and whiten images.

        Parameters
        ----------
        X : array-like of shape (n, height, width), (n, height, width, channels) or (n, pixels)
            Images of the size of those in ``fit``.

        Returns
        -------
        ndarray
            An array of the shape of ``X``; with ``method="pca"`` of shape (n, n_components).
            float32 if ``X`` is, else float64.
        """
        check_is_fitted(self)
        X = self._check_shape(X, reset=False)
        result = self._featurewise(self._samplewise(X)).reshape(len(X), -1)
        if self.method != "standardize":
            result = (result - self.pixel_mean_) @ self.components_.T / self._scales()
            if self.method == "zca":
                result = result @ self.components_
        shape = result.shape if self.method == "pca" else X.shape
        return result.reshape(shape).astype(X.dtype, copy=False)

    @available_if(_is_invertible)
    def inverse_transform(self, X: Any) -> np.ndarray:
        """Return images from what ``transform`` gave; what was left out is their mean.

        Parameters
        ----------
        X : array-like
            An array that ``transform`` returned.

        Returns
        -------
        ndarray
            Images of the shape of ``X``; with ``method="pca"`` of shape (n, ``*image_shape_``), or
            (n, pixels) if ``fit`` had a 2-D ``X``.
        """
        check_is_fitted(self)
        X = check_array(X, dtype=_DTYPES, allow_nd=True, input_name="X")
        flat = X.reshape(len(X), -1).astype(np.float64)
        width = len(self.components_) if self.method == "pca" else math.prod(self.image_shape_)
        if flat.shape[1] != width:
            raise ValueError(
                f"X has {flat.shape[1]} numbers a row; expected {width}, as transform returns."
            )
        if self.method != "standardize":
            if self.method == "zca":
                flat = flat @ self.components_.T
            flat = (flat * self._scales()) @ self.components_ + self.pixel_mean_
        images = flat.reshape(len(X), -1, len(self.mean_))
        if self._divides_channels():
            images = images * (self.std_ + _STD_EPSILON)
        if self.featurewise_center:
            images = images + self.mean_
        if self.method != "pca":
            shape = X.shape
        elif hasattr(self, "n_features_in_"):
            shape = (len(X), math.prod(self.image_shape_))
        else:
            shape = (len(X), *self.image_shape_)
        return images.reshape(shape).astype(X.dtype, copy=False)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return the names of the output's columns, for a 2-D ``X``.

        Parameters
        ----------
        input_features : array-like of str or None, default=None
            Names of the columns of ``X``; None for those of ``fit``.

        Returns
        -------
        ndarray of str objects
            ``imagewhitening0`` and so on with ``method="pca"``, else those of ``X``.
        """
        check_is_fitted(self)
        if self.method == "pca":
            return np.asarray(
                [f"imagewhitening{i}" for i in range(len(self.components_))], dtype=object
            )
        if input_features is None and not hasattr(self, "n_features_in_"):
            # As scikit-learn names columns that have no names.
            return np.asarray([f"x{i}" for i in range(math.prod(self.image_shape_))], dtype=object)
        return _check_feature_names_in(self, input_features)

    @property
    def whitening_matrix_(self) -> np.ndarray:
        """Matrix (n_pixels, n_out) that centered, raveled rows are multiplied by.

        Made when asked for: it may be much larger than ``components_``.
        """
        if not hasattr(self, "components_"):
            raise AttributeError('whitening_matrix_ exists after fit with method "zca" or "pca".')
        scaled = self.components_.T / self._scales()
        return scaled @ self.components_ if self.method == "zca" else scaled

    def _fit_directions(self, rows: np.ndarray) -> None:
        n, d = rows.shape
        if self.n_components is not None and self.n_components > min(n, d):
            raise ValueError(
                f"n_components={self.n_components} must be at most min(n_samples, n_pixels) = "
                f"{min(n, d)}."
            )
        self.pixel_mean_ = rows.mean(axis=0)
        # With few images no matrix of d x d is made; with many, it is smaller than they are.
        pca = PCA(svd_solver="covariance_eigh" if n > d else "full")
        with np.errstate(invalid="ignore"):  # images that do not vary at all
            pca.fit(rows - self.pixel_mean_)
        variances = pca.explained_variance_
        # What is left of a direction without variance is rounding.
        noise = np.finfo(np.float64).eps * max(n, d)
        n_kept = int((variances > max(variances[0] * noise, 0.0)).sum())
        mean_variance = float(variances[:n_kept].mean()) if n_kept else 0.0
        n_kept = n_kept if self.n_components is None else min(n_kept, self.n_components)
        self.components_ = pca.components_[:n_kept].copy()
        self.explained_variance_ = variances[:n_kept].copy()
        share = self.epsilon
        if share is None:
            share = 0.0 if n > d else _FEW_ROWS_EPSILON
        self.epsilon_ = float(share * mean_variance)

    def _scales(self) -> np.ndarray:
        return np.sqrt(self.explained_variance_ + self.epsilon_)

    def _samplewise(self, X: np.ndarray) -> np.ndarray:
        """Return images (n, positions, channels) as float64 after the sample-wise steps."""
        channels = self.image_shape_[2] if len(self.image_shape_) == 3 else 1
        images = X.reshape(len(X), -1, channels).astype(np.float64)
        if self.samplewise_center:
            images -= images.mean(axis=(1, 2), keepdims=True)
        if self.samplewise_std_normalization:
            images /= images.std(axis=(1, 2), keepdims=True) + _STD_EPSILON
        return images

    def _featurewise(self, images: np.ndarray) -> np.ndarray:
        if self.featurewise_center:
            images = images - self.mean_
        return images / (self.std_ + _STD_EPSILON) if self._divides_channels() else images

    def _divides_channels(self) -> bool:
        if self.featurewise_std_normalization is None:
            return self.method == "standardize"
        return bool(self.featurewise_std_normalization)

    def _check_shape(self, X: Any, *, reset: bool) -> np.ndarray:
        """Return X as floats, its shape checked."""
        least = 2 if reset and self.method != "standardize" else 1
        X = self._check_images(X, reset=reset, dtype=_DTYPES, ensure_min_samples=least)
        if X.ndim == 4 and X.shape[1] in (1, 3) and X.shape[3] not in (1, 3, 4):
            raise ValueError(
                f"X has shape {X.shape}, which looks channels-first; expected (n, height, width, "
                "channels). Use X.transpose(0, 2, 3, 1)."
            )
        if not reset:
            raveled = X.ndim == 2 and X.shape[1] == math.prod(self.image_shape_)
            if not raveled and X.shape[1:] != self.image_shape_:
                raise ValueError(
                    f"X holds images of shape {X.shape[1:]}, but {type(self).__name__} was "
                    f"fitted on images of shape {self.image_shape_}. Resize them to that."
                )
        return X

    def _check_size(self, n_pixels: int) -> None:
        if n_pixels <= _LARGEST:
            return
        shape = " x ".join(str(side) for side in self.image_shape_)
        raise ValueError(
            f"method={self.method!r} takes images of at most 64 x 64 x 3 = {_LARGEST} numbers; "
            f"got {shape} = {n_pixels}, whose covariance would take "
            f"{n_pixels**2 * 8 / 1e9:.1f} GB. Resize the images, or use method='standardize', or "
            "whiten embeddings with sklearn.decomposition.PCA(whiten=True)."
        )
