"""Where pictures lie in the space of a transformer: a map, and neighbours; never a network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors
from sklearn.utils.validation import check_consistent_length, column_or_1d

from sktransfer._config import import_optional
from sktransfer.images import ImageSource, Picture
from sktransfer.inspection._pictures import as_shown, pictures_of, small
from sktransfer.inspection._scores import new_axes

# Told apart with every kind of colour vision (Okabe & Ito, 2008), and by their markers.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
_PERPLEXITY = 30.0


class EmbeddingDisplay:
    """Pictures as points, or as thumbnails, near those that are alike to a network.

    Make one with :meth:`from_estimator`. Needs matplotlib (extra ``plot``) to plot.

    Read more in the :ref:`User Guide <seeing-embedding>`.

    Parameters
    ----------
    points : ndarray of shape (n, 2)
        Where the pictures lie.
    y : ndarray of shape (n,) or None
        Their labels.
    y_pred : ndarray of shape (n,) or None
        What was predicted for them.
    rows : ndarray of int, shape (n,)
        Which rows of ``X`` they are.
    pictures : list of PIL.Image.Image or ndarray, or None
        Thumbnails.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    scatters_ : dict of label to matplotlib PathCollection
        The points of each class; key None without labels.
    thumbnails_ : list of matplotlib AnnotationBbox
        Empty where points are shown.
    misclassified_ : matplotlib PathCollection or None
        Rings around the points that were predicted wrongly; thumbnails have a thick black frame.

    See Also
    --------
    similar_images : The nearest neighbours of a picture, without a map between.

    Notes
    -----
    t-SNE [1]_ keeps neighbours together. Distances between clusters, their sizes and the axes mean
    nothing, and clusters may be seen where there are none.

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
    >>> feat = PretrainedFeatureExtractor(
    ...     "squeezenet1_1", weights=None, image_size=32, value_range=(0, 16)
    ... ).fit(X[:40])
    >>> display = EmbeddingDisplay.from_estimator(feat, X[:40], y[:40], embedding=PCA(2))
    >>> display.points.shape
    (40, 2)
    """

    def __init__(
        self,
        *,
        points: np.ndarray,
        y: np.ndarray | None = None,
        y_pred: np.ndarray | None = None,
        rows: np.ndarray | None = None,
        pictures: list[Picture] | None = None,
    ) -> None:
        self.points = points
        self.y = y
        self.y_pred = y_pred
        self.rows = np.arange(len(points)) if rows is None else rows
        self.pictures = pictures

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
        ax: Any = None,
        **kwargs: Any,
    ) -> EmbeddingDisplay:
        """Embed pictures, reduce to two dimensions, and plot.

        Parameters
        ----------
        transformer : transformer instance
            Fitted, such as a PretrainedFeatureExtractor, or a Pipeline without its classifier:
            ``pipe[:-1]``.
        X : collection of pictures, n rows
            In any of the :ref:`accepted forms <accepted-inputs>`.
        y : array-like of shape (n,) or None, default=None
            Labels.
        embedding : estimator or None, default=None
            From many columns to two: any scikit-learn-style reducer with ``fit_transform``, which
            is cloned. None: :class:`~sklearn.manifold.TSNE`, starting from the first two
            principal components.
        y_pred : array-like of shape (n,) or None, default=None
            Predictions; those unlike ``y`` are marked. Use predictions of models that have not
            seen the row, of :func:`~sklearn.model_selection.cross_val_predict` for example.
        thumbnails : bool or int, default=False
            Whether pictures are drawn in place of points; a number: of so many of them at most,
            evenly chosen.
        random_state : int, RandomState instance or None, default=0
            Of t-SNE; an ``embedding`` has its own.
        ax : matplotlib Axes or None, default=None
            Where to plot. None makes new ones.
        **kwargs
            As of :meth:`plot`.

        Returns
        -------
        EmbeddingDisplay
            Rows whose embedding is NaN (``on_error="nan"``) are left out.

        Raises
        ------
        TypeError
            If the transformer has no ``transform``, or the reducer no ``fit_transform``.
        ValueError
            If fewer than three rows are left, lengths differ, or the reducer does not give two
            columns.
        """
        if embedding is not None and not hasattr(embedding, "fit_transform"):
            raise TypeError(
                f"embedding: a reducer with fit_transform is needed, such as "
                f"sklearn.decomposition.PCA(2); got {embedding!r}."
            )
        if y_pred is not None and y is None:
            raise ValueError("y_pred: predictions can be wrong only beside labels; pass y too.")
        source = pictures_of(transformer, X) if thumbnails else None
        features, rows = _features(transformer, X)
        labels, predicted = (
            None if each is None else column_or_1d(each, warn=True) for each in (y, y_pred)
        )
        for each in (labels, predicted):
            if each is not None and len(each) != len(X):
                check_consistent_length(X, each)
        n = len(rows)
        if n < 3:
            raise ValueError(f"X: at least three pictures are needed for a map; got {n}.")
        if embedding is None:
            perplexity = min(_PERPLEXITY, (n - 1) / 3)
            reducer = TSNE(perplexity=perplexity, init="pca", random_state=random_state)
        else:
            reducer = clone(embedding)
        points = np.asarray(reducer.fit_transform(features), dtype=np.float64)
        if points.shape != (n, 2):
            raise ValueError(
                f"embedding: {type(reducer).__name__} gave an array of shape {points.shape}, and "
                f"a map has {(n, 2)}; set n_components=2."
            )
        display = cls(
            points=points,
            y=None if labels is None else labels[rows],
            y_pred=None if predicted is None else predicted[rows],
            rows=rows,
            pictures=None if source is None else _thumbnails(source, rows, thumbnails),
        )
        return display.plot(ax, **kwargs)

    def plot(
        self,
        ax: Any = None,
        *,
        thumbnail_size: int = 28,
        scatter_kw: dict[str, Any] | None = None,
    ) -> EmbeddingDisplay:
        """Plot the map.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Where to plot. None makes new ones.
        thumbnail_size : int, default=28
            Longer side of a thumbnail in points.
        scatter_kw : dict or None, default=None
            For matplotlib's ``scatter``.

        Returns
        -------
        EmbeddingDisplay
        """
        self.ax_, self.figure_ = new_axes(ax, self)
        self.scatters_: dict[Any, Any] = {}
        classes = [None] if self.y is None else list(np.unique(self.y))
        for number, label in enumerate(classes):
            own = np.ones(len(self.points), bool) if label is None else self.y == label
            settings = {
                "color": _COLOURS[number % len(_COLOURS)],
                "marker": _MARKERS[number % len(_MARKERS)],
                "s": 22,
                "linewidths": 0,
                "label": None if label is None else str(label),
                **(scatter_kw or {}),
            }
            self.scatters_[_plain(label)] = self.ax_.scatter(*self.points[own].T, **settings)
        self.thumbnails_ = self._draw_thumbnails(thumbnail_size)
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
        self.ax_.margins(0.06 if self.pictures is None else 0.1)
        if self.y is not None:
            self.ax_.legend(
                fontsize="small", loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0
            )
        return self

    def _draw_thumbnails(self, size: int) -> list[Any]:
        if self.pictures is None:
            return []
        boxes = import_optional(
            "matplotlib.offsetbox", extra="plot", purpose="EmbeddingDisplay.plot"
        )
        classes = None if self.y is None else np.unique(self.y)
        drawn = []
        for place, picture in enumerate(self.pictures):
            if picture is None:
                continue
            values = as_shown(picture)
            image = boxes.OffsetImage(values, zoom=size / max(values.shape[:2]))
            colour = "0.6"
            if classes is not None and self.y is not None:
                number = int(np.searchsorted(classes, self.y[place]))
                colour = _COLOURS[number % len(_COLOURS)]
            wrong = False
            if self.y is not None and self.y_pred is not None:
                wrong = bool(self.y[place] != self.y_pred[place])
            drawn.append(
                boxes.AnnotationBbox(
                    image,
                    self.points[place],
                    pad=0.12,
                    bboxprops={
                        "edgecolor": "black" if wrong else colour,
                        "linewidth": 3.0 if wrong else 1.5,
                    },
                )
            )
            self.ax_.add_artist(drawn[-1])
        return drawn


def similar_images(
    transformer: Any,
    X: Any,
    query: Any,
    *,
    n_neighbors: int = 5,
    metric: str = "cosine",
) -> pd.DataFrame:
    """The pictures that are nearest to others in the space of a transformer.

    Parameters
    ----------
    transformer : transformer instance
        Fitted, such as a PretrainedFeatureExtractor, or ``pipe[:-1]``.
    X : collection of pictures, n rows
        Those that are searched.
    query : int, array of int, or collection of pictures
        Rows of ``X``, which are then not among their own neighbours; or other pictures, in any
        form that the transformer accepts.
    n_neighbors : int, default=5
    metric : str, default="cosine"
        Any of :class:`~sklearn.neighbors.NearestNeighbors`.

    Returns
    -------
    DataFrame
        ``query`` (the row of ``X``, or the position among the pictures asked for), ``rank`` (from
        1), ``row`` (of ``X``) and ``distance``, nearest first. Rows of ``X`` whose embedding is
        NaN are nobody's neighbours.

    Raises
    ------
    ValueError
        If there are not so many neighbours, a row is not in ``X``, or a picture that is asked for
        cannot be read.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sktransfer import PretrainedFeatureExtractor
    >>> from sktransfer.inspection import similar_images
    >>> X, y = load_digits(return_X_y=True)
    >>> feat = PretrainedFeatureExtractor(
    ...     "squeezenet1_1", weights=None, image_size=32, value_range=(0, 16)
    ... ).fit(X[:40])
    >>> similar_images(feat, X[:40], 0, n_neighbors=3)[["query", "rank"]]
       query  rank
    0      0     1
    1      0     2
    2      0     3
    """
    features, rows = _features(transformer, X)
    numbers = _row_numbers(query)
    available = len(rows) - (numbers is not None)
    if not 1 <= n_neighbors <= available:
        raise ValueError(
            f"n_neighbors={n_neighbors!r} has to be from 1 to {available}: X has {len(rows)} "
            "pictures that can be read."
        )
    if numbers is None:
        asked, found = _features(transformer, query)
        lost = np.setdiff1d(np.arange(len(query)), found)
        if len(lost):
            raise ValueError(f"query: picture {lost[0]} cannot be read, so it has no neighbours.")
        names = found
    else:
        unknown = np.setdiff1d(numbers, rows)
        if len(unknown):
            raise ValueError(f"query: {unknown[0]} is no row of X that can be read.")
        asked, names = features[np.searchsorted(rows, numbers)], numbers
    search = NearestNeighbors(metric=metric).fit(features)
    more = n_neighbors + (numbers is not None)
    distances, places = search.kneighbors(asked, n_neighbors=more)
    table = []
    for name, own_distances, own_places in zip(names, distances, places, strict=True):
        near = rows[own_places]
        # A copy of the picture may come before the picture itself, so it is not "all but first".
        kept = np.flatnonzero(near != name) if numbers is not None else np.arange(more)
        for rank, place in enumerate(kept[:n_neighbors], 1):
            table.append((int(name), rank, int(near[place]), float(own_distances[place])))
    return pd.DataFrame(table, columns=["query", "rank", "row", "distance"])


def _row_numbers(query: Any) -> np.ndarray | None:
    """``query`` as row numbers; None if it is pictures."""
    if isinstance(query, (str, bytes)) or hasattr(query, "iloc"):
        return None
    if isinstance(query, (list, tuple)) and not all(np.isscalar(each) for each in query):
        return None
    numbers = np.asarray(query)
    if numbers.dtype.kind not in "iu" or numbers.ndim > 1:
        return None
    return np.atleast_1d(numbers)


def _features(transformer: Any, X: Any) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of rows that have one, and which these are."""
    if not hasattr(transformer, "transform"):
        raise TypeError(
            f"transformer: something fitted with transform is needed, such as "
            f"PretrainedFeatureExtractor or pipe[:-1]; got {type(transformer).__name__}."
        )
    features = np.asarray(transformer.transform(X))
    kept = np.flatnonzero(np.isfinite(features).all(axis=1))
    return features[kept], kept


def _thumbnails(source: ImageSource, rows: np.ndarray, how_many: bool | int) -> list[Any]:
    """A small copy of each picture that is shown, None for the others."""
    n = len(rows) if how_many is True else min(int(how_many), len(rows))
    chosen = set(np.linspace(0, len(rows) - 1, n).round().astype(int).tolist())
    return [
        small(source.open(int(row)).decode(), 128) if place in chosen else None
        for place, row in enumerate(rows)
    ]


def _plain(label: Any) -> Any:
    return label.item() if isinstance(label, np.generic) else label
