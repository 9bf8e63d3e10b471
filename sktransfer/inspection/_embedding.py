"""EmbeddingDisplay and similar_images: a map of the space of a transformer, and neighbors in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors
from sklearn.utils.validation import check_consistent_length, column_or_1d

from sktransfer._images import DecodedImage
from sktransfer._transfer import TransferClassifier
from sktransfer._utils.config import import_optional
from sktransfer._utils.plotting import legend_text, new_axes, palette_color, palette_marker, styled
from sktransfer.inspection._estimator_images import as_shown, images_of, thumbnail
from sktransfer.model_selection._learned_components import learned_features

_PERPLEXITY = 30.0


@dataclass(kw_only=True, eq=False, repr=False)
class EmbeddingDisplay:
    """Map of images as points, or as thumbnails, near those that are similar to a network.

    Use :meth:`from_estimator` to create one. Plotting needs matplotlib (extra ``plot``).

    Read more in the :ref:`User Guide <inspection-embedding>`.

    Parameters
    ----------
    points : ndarray of shape (n, 2)
        Positions of the images.
    y, y_pred : ndarray of shape (n,) or None, default=None
        True and predicted labels of the images.
    rows : ndarray of int, shape (n,), or None, default=None
        The images' rows of ``X``. None: all rows.
    images : list of (PIL.Image.Image, ndarray or None), or None, default=None
        Thumbnails, None for an image that stays a point. None: all are points.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
        Axes with the map, and their figure.
    scatters_ : dict of label to matplotlib PathCollection
        The points of each class; key None without labels.
    thumbnails_ : list of matplotlib AnnotationBbox
        The thumbnails; empty where points are shown.
    misclassified_ : matplotlib PathCollection or None
        Rings around the misclassified points; misclassified thumbnails have a thick black frame.

    See Also
    --------
    similar_images : Find the nearest neighbors of an image, without a map.

    Notes
    -----
    t-SNE [1]_ keeps neighbors together. Distances between clusters, their sizes and the axes mean
    nothing, and clusters may appear where there are none.

    References
    ----------
    .. [1] van der Maaten, L., & Hinton, G. (2008). "Visualizing data using t-SNE". JMLR, 9,
       2579-2605.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.decomposition import PCA
    >>> from sktransfer import PretrainedFeatureExtractor
    >>> from sktransfer.inspection import EmbeddingDisplay
    >>> X, y = load_digits(return_X_y=True)
    >>> X = X[:40] / 16
    >>> feat = PretrainedFeatureExtractor("squeezenet1_1", weights=None, image_size=32).fit(X)
    >>> display = EmbeddingDisplay.from_estimator(feat, X, y[:40], embedding=PCA(2))
    >>> display.points.shape
    (40, 2)
    """

    points: np.ndarray
    y: np.ndarray | None = None
    y_pred: np.ndarray | None = None
    rows: np.ndarray | None = None
    images: list[DecodedImage | None] | None = None

    def __post_init__(self) -> None:
        if self.rows is None:
            self.rows = np.arange(len(self.points))

    @classmethod
    def from_estimator(
        cls,
        transformer: Any,
        X: Any,
        y: Any = None,
        *,
        embedding: Any = None,
        y_pred: Any = None,
        thumbnails: bool | int = False,
        random_state: int | np.random.RandomState | None = 0,
        **kwargs: Any,
    ) -> EmbeddingDisplay:
        """Embed images, reduce the embeddings to two dimensions, and plot them.

        Parameters
        ----------
        transformer : transformer instance
            Fitted transformer, such as a PretrainedFeatureExtractor, or ``pipe[:-1]``; or a
            TransferClassifier, of which the features of ``best_estimator_`` are taken.
        X : collection of images, n rows
            Images in any of the :ref:`accepted forms <accepted-inputs>`.
        y : array-like of shape (n,) or None, default=None
            Labels.
        embedding : estimator or None, default=None
            Reducer to two columns, with ``fit_transform`` as in scikit-learn; it is cloned. None:
            :class:`~sklearn.manifold.TSNE`, starting from the first two principal components.
        y_pred : array-like of shape (n,) or None, default=None
            Predictions; those that differ from ``y`` are marked. Use predictions of models that
            have not seen the row, for example of
            :func:`~sklearn.model_selection.cross_val_predict`.
        thumbnails : bool or int, default=False
            Whether images are drawn in place of points; or how many at most, evenly chosen.
        random_state : int, RandomState instance or None, default=0
            Seed of t-SNE; an ``embedding`` has its own.
        **kwargs : dict
            Parameters of :meth:`plot`, such as ``ax``.

        Returns
        -------
        display : EmbeddingDisplay
            The display, plotted. Rows whose embedding is NaN (``on_error="nan"``) are left out.
        """
        if embedding is not None and not hasattr(embedding, "fit_transform"):
            raise TypeError(
                "embedding must be a reducer with fit_transform, such as "
                f"sklearn.decomposition.PCA(2); got {embedding!r}."
            )
        if y_pred is not None and y is None:
            raise ValueError("y_pred is compared with the labels y; pass y too.")
        source = images_of(transformer, X) if thumbnails else None
        features, rows = _embeddings_of(transformer, X)
        labels, predicted = (
            None if each is None else column_or_1d(each, warn=True) for each in (y, y_pred)
        )
        for each in (labels, predicted):
            if each is not None and len(each) != len(X):
                check_consistent_length(X, each)
        n = len(rows)
        if n < 3:
            raise ValueError(f"X must have at least three images for a map; got {n}.")
        if embedding is None:
            perplexity = min(_PERPLEXITY, (n - 1) / 3)
            reducer = TSNE(perplexity=perplexity, init="pca", random_state=random_state)
        else:
            reducer = clone(embedding)
        points = np.asarray(reducer.fit_transform(features), dtype=np.float64)
        if points.shape != (n, 2):
            raise ValueError(
                f"embedding: {type(reducer).__name__} returned an array of shape {points.shape}, "
                f"but a map needs {(n, 2)}; set n_components=2."
            )
        images = None
        if source is not None:
            n_shown = n if thumbnails is True else min(int(thumbnails), n)
            shown = set(np.linspace(0, n - 1, n_shown).round().astype(int).tolist())
            images = [
                thumbnail(source.open(int(row)).decode(), 128) if place in shown else None
                for place, row in enumerate(rows)
            ]
        display = cls(
            points=points,
            y=None if labels is None else labels[rows],
            y_pred=None if predicted is None else predicted[rows],
            rows=rows,
            images=images,
        )
        return display.plot(**kwargs)

    def plot(
        self,
        ax: Any = None,
        *,
        thumbnail_size: int = 28,
        overlap: bool = True,
        scatter_kwargs: dict[str, Any] | None = None,
    ) -> EmbeddingDisplay:
        """Plot the map.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Axes to plot into. None makes new ones.
        thumbnail_size : int, default=28
            Longer side of a thumbnail in points.
        overlap : bool, default=True
            Whether thumbnails may overlap, misclassified ones above. False: overlapping ones are
            left out, correct ones first, and their points stay.
        scatter_kwargs : dict or None, default=None
            Keyword arguments for matplotlib's ``scatter``.

        Returns
        -------
        display : EmbeddingDisplay
            The display itself.
        """
        self.ax_, self.figure_ = new_axes(ax, self)
        self.scatters_: dict[Any, Any] = {}
        classes: list[Any] = [None] if self.y is None else np.unique(self.y).tolist()
        for number, label in enumerate(classes):
            own = np.ones(len(self.points), bool) if label is None else self.y == label
            settings = styled(
                scatter_kwargs,
                color=palette_color(number),
                marker=palette_marker(number),
                s=22,
                linewidths=0,
                label=None if label is None else legend_text(label),
            )
            self.scatters_[label] = self.ax_.scatter(*self.points[own].T, **settings)
        self.misclassified_ = None
        if self.y is not None and self.y_pred is not None:
            wrong = self.y != self.y_pred
            self.misclassified_ = self.ax_.scatter(
                *self.points[wrong].T,
                s=90,
                facecolors="none",
                edgecolors="black",
                linewidths=1.4,
                zorder=2.5,
                label=f"misclassified ({wrong.sum()})",
            )
        # The numbers on the axes of such a map mean nothing.
        self.ax_.set(xticks=[], yticks=[])
        self.ax_.margins(0.06 if self.images is None else 0.1)
        if self.y is not None:
            self.ax_.legend(
                fontsize="small", loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0
            )
        self.thumbnails_ = self._draw_thumbnails(thumbnail_size, overlap)
        return self

    def _draw_thumbnails(self, size: int, overlap: bool) -> list[Any]:
        if self.images is None:
            return []
        offsetbox = import_optional(
            "matplotlib.offsetbox", extra="plot", purpose="EmbeddingDisplay.plot"
        )
        edges = ["0.6"] * len(self.points)
        wrong = np.zeros(len(self.points), bool)
        if self.y is not None:
            edges = [palette_color(code) for code in np.unique(self.y, return_inverse=True)[1]]
            wrong = wrong if self.y_pred is None else self.y != self.y_pred
        places = np.array([i for i, each in enumerate(self.images) if each is not None], int)
        if not overlap:
            places = places[np.argsort(~wrong[places], kind="stable")]
            places = np.sort(places[self._apart(self.points[places], size)])
        drawn = []
        for place in places:
            values = as_shown(self.images[place])
            frame = {"edgecolor": edges[place], "linewidth": 1.5}
            if wrong[place]:
                frame = {"edgecolor": "black", "linewidth": 3.0}
            drawn.append(
                offsetbox.AnnotationBbox(
                    offsetbox.OffsetImage(values, zoom=size / max(values.shape[:2])),
                    self.points[place],
                    pad=0.12,
                    bboxprops=frame,
                    zorder=4 if wrong[place] else 3,
                )
            )
            self.ax_.add_artist(drawn[-1])
        return drawn

    def _apart(self, points: np.ndarray, size: int) -> list[int]:
        """Return which points to keep so that no thumbnail overlaps an earlier one."""
        self.figure_.draw_without_rendering()  # a layout moves the axes, and with them the points
        side = (size + 8) * self.figure_.dpi / 72  # with the frame and a gap
        pixels = self.ax_.transData.transform(points)
        kept: list[int] = []
        for place, own in enumerate(pixels):
            if not len(kept) or (np.abs(pixels[kept] - own).max(axis=1) >= side).all():
                kept.append(place)
        return kept


def similar_images(
    transformer: Any, X: Any, query: Any, *, n_neighbors: int = 5, metric: str = "cosine"
) -> pd.DataFrame:
    """Find the images that are nearest to others in the space of a transformer.

    Parameters
    ----------
    transformer : transformer instance
        Fitted transformer, such as a PretrainedFeatureExtractor, or ``pipe[:-1]``; or a
        TransferClassifier, of which the features of ``best_estimator_`` are taken.
    X : collection of images, n rows
        Images to search.
    query : int, array of int, or collection of images
        Rows of ``X``, which are then not among their own neighbors; or other images.
    n_neighbors : int, default=5
        Number of neighbors of each image.
    metric : str, default="cosine"
        Metric of :class:`~sklearn.neighbors.NearestNeighbors`.

    Returns
    -------
    neighbors : DataFrame
        Columns ``query`` (the row of ``X``, or the position among the queried images), ``rank``
        (from 1), ``row`` (of ``X``) and ``distance``, nearest first. Rows of ``X`` whose
        embedding is NaN are nobody's neighbors.

    See Also
    --------
    EmbeddingDisplay : Plot a map of the space.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sktransfer import PretrainedFeatureExtractor
    >>> from sktransfer.inspection import similar_images
    >>> X, y = load_digits(return_X_y=True)
    >>> X = X[:40] / 16
    >>> feat = PretrainedFeatureExtractor("squeezenet1_1", weights=None, image_size=32).fit(X)
    >>> similar_images(feat, X, 0, n_neighbors=3)[["query", "rank"]]
       query  rank
    0      0     1
    1      0     2
    2      0     3
    """
    features, rows = _embeddings_of(transformer, X)
    numbers = _row_numbers(query)
    available = len(rows) - (numbers is not None)
    if not 1 <= n_neighbors <= available:
        raise ValueError(
            f"n_neighbors must be from 1 to {available}, as X has {len(rows)} images that can be "
            f"read; got {n_neighbors!r}."
        )
    if numbers is None:
        asked, found = _embeddings_of(transformer, query)
        lost = np.setdiff1d(np.arange(len(query)), found)
        if len(lost):
            raise ValueError(f"query: image {lost[0]} cannot be read, so it has no neighbors.")
        names = found
    else:
        unknown = np.setdiff1d(numbers, rows)
        if len(unknown):
            raise ValueError(
                f"query: {unknown[0]} is no row of X that can be read; rows of X are 0 to "
                f"{len(X) - 1}."
            )
        asked, names = features[np.searchsorted(rows, numbers)], numbers
    search = NearestNeighbors(metric=metric).fit(features)
    more = n_neighbors + (numbers is not None)
    distances, places = search.kneighbors(asked, n_neighbors=more)
    table = []
    for name, own_distances, own_places in zip(names, distances, places, strict=True):
        near = rows[own_places]
        # A copy of the image may come before the image itself, so it is not "all but first".
        kept = np.flatnonzero(near != name) if numbers is not None else np.arange(more)
        for rank, place in enumerate(kept[:n_neighbors], 1):
            table.append((int(name), rank, int(near[place]), float(own_distances[place])))
    return pd.DataFrame(table, columns=["query", "rank", "row", "distance"])


def _row_numbers(query: Any) -> np.ndarray | None:
    """Return ``query`` as row numbers; None if it is images."""
    if isinstance(query, (str, bytes)) or hasattr(query, "iloc"):
        return None
    if isinstance(query, (list, tuple)) and not all(np.isscalar(each) for each in query):
        return None
    numbers = np.asarray(query)
    if numbers.dtype.kind not in "iu" or numbers.ndim > 1:
        return None
    return np.atleast_1d(numbers)


def _embeddings_of(transformer: Any, X: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the embeddings of rows that have one, and the numbers of these rows."""
    if not isinstance(transformer, TransferClassifier) and not hasattr(transformer, "transform"):
        raise TypeError(
            "transformer must be a fitted estimator with transform, such as "
            "PretrainedFeatureExtractor, pipe[:-1] or, of a fine-tuned classifier, "
            "PretrainedFeatureExtractor(FrozenEstimator(clf)).fit(X); got "
            f"{type(transformer).__name__}."
        )
    features = learned_features(transformer, X)
    kept = np.flatnonzero(np.isfinite(features).all(axis=1))
    return features[kept], kept
