"""ImageChannels: images of any number of channels as the three (or one) that networks take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from sktransfer._images import resolve_image_shape
from sktransfer._utils.sklearn_compat import _fit_context
from sktransfer.preprocessing._arrays import ImageArrayMixin


class ImageChannels(
    ClassNamePrefixFeaturesOutMixin, ImageArrayMixin, TransformerMixin, BaseEstimator
):
    """Select or mix the channels of images that have other than three.

    Fluorescence microscopy, satellite bands or slices of a volume come as arrays (n, height, width,
    channels), while a network pretrained on RGB takes three channels. Which of them becomes which
    color is a choice about the data, so it is a step of its own in front of the extractor or the
    classifier, and a search can try several.

    Mixing is linear and comes before everything the network does, so it is the same as projecting
    the network's first convolution onto the channels: a filter w of the three colors becomes
    ``mix @ w``.

    Read more in the :ref:`User Guide <medical-values>`.

    Parameters
    ----------
    select : sequence of 1 or 3 int, default=(0, 1, 2)
        Channels that become red, green and blue; or the one that becomes gray. Negative numbers
        count from the last.
    mix : array-like of shape (n_channels, 3) or (n_channels,), or None, default=None
        Weights of each channel in red, green and blue, or in gray, used instead of ``select``.
        Columns that sum to 1 keep the range of the values.
    image_shape : tuple of int or None, default=None
        Shape (height, width, channels) of one image in a 2-D ``X`` whose rows are raveled
        images, or (height, width) for one channel; one of the numbers may be -1.

    Attributes
    ----------
    image_shape_ : tuple of int
        Height, width and channels of one image in ``fit``.
    n_features_in_ : int
        Number of columns of ``X`` in ``fit``, if it was 2-D.
    feature_names_in_ : ndarray of str
        Names of the columns of ``X`` in ``fit``, if it was a DataFrame.

    See Also
    --------
    sktransfer.PretrainedFeatureExtractor : ``value_range`` gives black and white of its images.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.pipeline import make_pipeline
    >>> from sktransfer import PretrainedFeatureExtractor
    >>> from sktransfer.preprocessing import ImageChannels
    >>> cells = np.random.default_rng(0).integers(0, 4096, (4, 32, 32, 5), dtype=np.uint16)
    >>> feat = PretrainedFeatureExtractor(
    ...     "squeezenet1_1", weights=None, image_size=32, value_range=(0, 4095)
    ... )
    >>> make_pipeline(ImageChannels(select=(4, 1, 0)), feat).fit_transform(cells).shape
    (4, 512)
    >>> equal = np.full(5, 1 / 5)
    >>> ImageChannels(mix=equal).fit_transform(cells).shape
    (4, 32, 32, 1)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "select": ["array-like"],
        "mix": ["array-like", None],
        "image_shape": [tuple, list, None],
    }

    def __init__(
        self,
        select: Sequence[int] = (0, 1, 2),
        *,
        mix: ArrayLike | None = None,
        image_shape: tuple[int, ...] | None = None,
    ) -> None:
        self.select = select
        self.mix = mix
        self.image_shape = image_shape

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> ImageChannels:
        """Check that the channels are there.

        Parameters
        ----------
        X : array-like of shape (n, height, width, channels), (n, height, width) or (n, pixels)
            Images of as many channels as those to be transformed.
        y : None
            Ignored; only there because scikit-learn's pipelines pass it.

        Returns
        -------
        self : ImageChannels
            Fitted transformer.

        Raises
        ------
        ValueError
            If ``X`` has no such channels, or not as many as ``mix`` has rows.
        """
        X = self._check_images(X, reset=True)
        shape = X.shape[1:]
        if X.ndim == 2:
            if self.image_shape is None:
                raise ValueError(
                    f"X has {X.shape[1]} columns; pass image_shape=(height, width, channels) to "
                    "say what images they make."
                )
            shape = resolve_image_shape(self.image_shape, X.shape[1], channels=None)
        self.image_shape_ = shape = (*shape, 1)[:3]
        n_out = self._matrix().shape[1] if self.mix is not None else len(self._selected())
        self._n_features_out = shape[0] * shape[1] * n_out
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Return images of three channels, or of one.

        Parameters
        ----------
        X : array-like of shape (n, height, width, channels), (n, height, width) or (n, pixels)
            Images of as many channels as in ``fit``; they may have another size, unless raveled.

        Returns
        -------
        ndarray of shape (n, height, width, 3) or (n, height, width, 1)
            The images, raveled if ``X`` is. Selected channels keep the dtype of ``X``; mixed ones
            are float32 if ``X`` is, else float64.
        """
        check_is_fitted(self)
        X = self._check_images(X, reset=False)
        if X.ndim == 2:
            images = X.reshape(len(X), *self.image_shape_)
        else:
            images = X if X.ndim == 4 else X[..., None]
        n_channels = self.image_shape_[2]
        if images.shape[3] != n_channels:
            raise ValueError(
                f"X has {images.shape[3]} channels; in fit it had {n_channels}. Transform images "
                "of as many channels, or fit again."
            )
        if self.mix is None:
            result = images[..., self._selected()]
        else:
            dtype = np.float32 if images.dtype == np.float32 else np.float64
            result = images.astype(dtype) @ self._matrix().astype(dtype)
        return result.reshape(len(X), -1) if X.ndim == 2 else result

    def _selected(self) -> list[int]:
        n_channels = self.image_shape_[2]
        chosen = np.asarray(self.select)
        if chosen.ndim != 1 or len(chosen) not in (1, 3) or chosen.dtype.kind not in "iu":
            raise ValueError(
                f"select must name three channels, or one, by whole numbers; got {self.select!r}."
            )
        if (chosen < -n_channels).any() or (chosen >= n_channels).any():
            raise ValueError(
                f"select={self.select!r} names a channel that is not there: X has {n_channels} "
                f"channels. Numbers from {-n_channels} to {n_channels - 1} name one."
            )
        return [int(channel) for channel in chosen]

    def _matrix(self) -> np.ndarray:
        n_channels = self.image_shape_[2]
        matrix = np.asarray(self.mix, dtype=np.float64)
        matrix = matrix[:, None] if matrix.ndim == 1 else matrix
        if matrix.shape not in ((n_channels, 1), (n_channels, 3)) or not np.isfinite(matrix).all():
            raise ValueError(
                f"mix must be an array of shape ({n_channels}, 3), or ({n_channels},) for gray, "
                f"since X has {n_channels} channels; got shape {matrix.shape}."
            )
        return matrix
