"""similar_images: neighbors in the space of a transformer; it must not know networks or maps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.neighbors import NearestNeighbors


def similar_images(
    transformer: Any,
    X: Any,
    query: Any,
    *,
    n_neighbors: int = 5,
    metric: str = "cosine",
) -> pd.DataFrame:
    """The images that are nearest to others in the space of a transformer.

    Parameters
    ----------
    transformer : transformer instance
        Fitted, such as a PretrainedFeatureExtractor, or ``pipe[:-1]``.
    X : collection of images, n rows
        Those that are searched.
    query : int, array of int, or collection of images
        Rows of ``X``, which are then not among their own neighbors; or other images, in any
        form that the transformer accepts.
    n_neighbors : int, default=5
    metric : str, default="cosine"
        Any of :class:`~sklearn.neighbors.NearestNeighbors`.

    Returns
    -------
    DataFrame
        ``query`` (the row of ``X``, or the position among the images asked for), ``rank`` (from
        1), ``row`` (of ``X``) and ``distance``, nearest first. Rows of ``X`` whose embedding is
        NaN are nobody's neighbors.

    Raises
    ------
    ValueError
        If there are not so many neighbors, a row is not in ``X``, or an image that is asked for
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
    features, rows = embeddings_of(transformer, X)
    numbers = _row_numbers(query)
    available = len(rows) - (numbers is not None)
    if not 1 <= n_neighbors <= available:
        raise ValueError(
            f"n_neighbors={n_neighbors!r} has to be from 1 to {available}: X has {len(rows)} "
            "images that can be read."
        )
    if numbers is None:
        asked, found = embeddings_of(transformer, query)
        lost = np.setdiff1d(np.arange(len(query)), found)
        if len(lost):
            raise ValueError(f"query: image {lost[0]} cannot be read, so it has no neighbors.")
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
        # A copy of the image may come before the image itself, so it is not "all but first".
        kept = np.flatnonzero(near != name) if numbers is not None else np.arange(more)
        for rank, place in enumerate(kept[:n_neighbors], 1):
            table.append((int(name), rank, int(near[place]), float(own_distances[place])))
    return pd.DataFrame(table, columns=["query", "rank", "row", "distance"])


def _row_numbers(query: Any) -> np.ndarray | None:
    """``query`` as row numbers; None if it is images."""
    if isinstance(query, (str, bytes)) or hasattr(query, "iloc"):
        return None
    if isinstance(query, (list, tuple)) and not all(np.isscalar(each) for each in query):
        return None
    numbers = np.asarray(query)
    if numbers.dtype.kind not in "iu" or numbers.ndim > 1:
        return None
    return np.atleast_1d(numbers)


def embeddings_of(transformer: Any, X: Any) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of rows that have one, and which these are."""
    if not hasattr(transformer, "transform"):
        raise TypeError(
            f"transformer: something fitted with transform is needed, such as "
            f"PretrainedFeatureExtractor or pipe[:-1]; got {type(transformer).__name__}."
        )
    features = np.asarray(transformer.transform(X))
    kept = np.flatnonzero(np.isfinite(features).all(axis=1))
    return features[kept], kept
