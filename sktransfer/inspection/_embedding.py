"""EmbeddingDisplay: a map of the space of a transformer; it must not know networks."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.manifold import TSNE
from sklearn.utils.validation import check_consistent_length, column_or_1d

from sktransfer._images import DecodedImage, ImageSource
from sktransfer._utils.config import import_optional
from sktransfer._utils.plotting import new_axes, palette_color, palette_marker
from sktransfer.inspection._estimator_images import as_shown, images_of, thumbnail
from sktransfer.inspection._similar import embeddings_of

_PERPLEXITY = 30.0


class EmbeddingDisplay:
    """Images as points, or as thumbnails, near those that are alike to a network.

    Make one with :meth:`from_estimator`. Needs matplotlib (extra ``plot``) to plot.

    Read more in the :ref:`User Guide <seeing-embedding>`.

    Parameters
    ----------
    points : ndarray of shape (n, 2)
        Where the images lie.
    y : ndarray of shape (n,) or None
        Their labels.
    y_pred : ndarray of shape (n,) or None
        What was predicted for them.
    rows : ndarray of int, shape (n,)
        Which rows of ``X`` they are.
    images : list of PIL.Image.Image or ndarray, or None
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
    similar_images : The nearest neighbors of an image, without a map between.

    Notes
    -----
    t-SNE [1]_ keeps neighbors together. Distances between clusters, their sizes and the axes mean
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
        images: list[DecodedImage] | None = None,
    ) -> None:
        self.points = points
        self.y = y
        self.y_pred = y_pred
        self.rows = np.arange(len(points)) if rows is None else rows
        self.images = images

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
        """Embed images, reduce to two dimensions, and plot.

        Parameters
        ----------
        transformer : transformer instance
            Fitted, such as a PretrainedFeatureExtractor, or a Pipeline without its classifier:
            ``pipe[:-1]``.
        X : collection of images, n rows
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
            Whether images are drawn in place of points; a number: of so many of them at most,
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
            raise ValueError("y_pred: predictions can be wrong only alongside labels; pass y too.")
        source = images_of(transformer, X) if thumbnails else None
        features, rows = embeddings_of(transformer, X)
        labels, predicted = (
            None if each is None else column_or_1d(each, warn=True) for each in (y, y_pred)
        )
        for each in (labels, predicted):
            if each is not None and len(each) != len(X):
                check_consistent_length(X, each)
        n = len(rows)
        if n < 3:
            raise ValueError(f"X: at least three images are needed for a map; got {n}.")
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
            images=None if source is None else _thumbnails(source, rows, thumbnails),
        )
        return display.plot(ax, **kwargs)

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
            Where to plot. None makes new ones.
        thumbnail_size : int, default=28
            Longer side of a thumbnail in points.
        overlap : bool, default=True
            Whether thumbnails may lie on each other, misclassified ones above. False: those that
            would are left out, correct ones first, and their points stay.
        scatter_kwargs : dict or None, default=None
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
                "color": palette_color(number),
                "marker": palette_marker(number),
                "s": 22,
                "linewidths": 0,
                "label": None if label is None else str(label),
                **(scatter_kwargs or {}),
            }
            self.scatters_[_plain(label)] = self.ax_.scatter(*self.points[own].T, **settings)
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
        boxes = import_optional(
            "matplotlib.offsetbox", extra="plot", purpose="EmbeddingDisplay.plot"
        )
        classes = None if self.y is None else np.unique(self.y)
        wrongly = np.zeros(len(self.points), bool)
        if self.y is not None and self.y_pred is not None:
            wrongly = self.y != self.y_pred
        places = np.array([i for i, each in enumerate(self.images) if each is not None], int)
        if not overlap:
            places = places[np.argsort(~wrongly[places], kind="stable")]
            places = np.sort(places[self._apart(self.points[places], size)])
        drawn = []
        for place in places:
            image = self.images[place]
            values = as_shown(image)
            pil_image = boxes.OffsetImage(values, zoom=size / max(values.shape[:2]))
            edge = "0.6"
            if classes is not None and self.y is not None:
                number = int(np.searchsorted(classes, self.y[place]))
                edge = palette_color(number)
            wrong = bool(wrongly[place])
            drawn.append(
                boxes.AnnotationBbox(
                    pil_image,
                    self.points[place],
                    pad=0.12,
                    bboxprops={
                        "edgecolor": "black" if wrong else edge,
                        "linewidth": 3.0 if wrong else 1.5,
                    },
                    zorder=4 if wrong else 3,
                )
            )
            self.ax_.add_artist(drawn[-1])
        return drawn

    def _apart(self, points: np.ndarray, size: int) -> list[int]:
        """Which of these, taken in order, have no earlier one where their thumbnail would be."""
        self.figure_.draw_without_rendering()  # a layout moves the axes, and with them the points
        side = (size + 8) * self.figure_.dpi / 72  # with the frame and a gap
        pixels = self.ax_.transData.transform(points)
        kept: list[int] = []
        for place, own in enumerate(pixels):
            if not len(kept) or (np.abs(pixels[kept] - own).max(axis=1) >= side).all():
                kept.append(place)
        return kept


def _thumbnails(source: ImageSource, rows: np.ndarray, how_many: bool | int) -> list[Any]:
    """A small copy of each image that is shown, None for the others."""
    n = len(rows) if how_many is True else min(int(how_many), len(rows))
    chosen = set(np.linspace(0, len(rows) - 1, n).round().astype(int).tolist())
    return [
        thumbnail(source.open(int(row)).decode(), 128) if place in chosen else None
        for place, row in enumerate(rows)
    ]


def _plain(label: Any) -> Any:
    return label.item() if isinstance(label, np.generic) else label
