"""Dask collections of images to Dask DataFrames of embeddings; it must not know networks, nor
import Dask before somebody else has.
"""

from __future__ import annotations

import copy
import sys
from typing import Any

import numpy as np
import pandas as pd

from sktransfer._utils.config import import_optional
from sktransfer._utils.sklearn_compat import _get_output_config

_LAZY = (("dask.dataframe", "DataFrame"), ("dask.dataframe", "Series"), ("dask.bag", "Bag"))


def is_lazy(X: Any) -> bool:
    """Return whether ``X`` is a Dask DataFrame, Series or Bag; Dask is not imported."""
    return _kind(X) is not None


def _kind(X: Any) -> str | None:
    """Return the name of the collection that ``X`` is; a module not loaded has no objects."""
    for module, name in _LAZY:
        if isinstance(X, getattr(sys.modules.get(module), name, ())):
            return name
    return None


def stand_in(X: Any) -> pd.DataFrame | list[str]:
    """Make up one row with the columns of a Dask collection: all that ``fit`` has to see."""
    frame: pd.DataFrame | list[str] = ["image"]
    dtypes: list[Any] = []
    kind = _kind(X)
    if kind == "Series":
        dtypes = [X.dtype]
    elif kind == "DataFrame":
        if len(X.columns) != 1:
            raise ValueError(
                f"X is a Dask DataFrame of {len(X.columns)} columns; expected one column of paths. "
                "Pass that column alone: X[['path']]."
            )
        dtypes = list(X.dtypes)
        frame = pd.DataFrame([["image"]], columns=X.columns)
    if any(pd.api.types.is_numeric_dtype(dtype) for dtype in dtypes):
        raise ValueError(
            f"X is a Dask collection of {dtypes[0]} numbers; expected a column of paths. Pass "
            "images as numbers in numpy arrays, a chunk at a time."
        )
    return frame


def lazy_transform(extractor: Any, X: Any) -> Any:
    """Embed a Dask collection, a partition at a time, where and when Dask computes it.

    Partitions and index of the DataFrame are those of ``X``; the index of a Bag counts from 0 in
    each partition. The extractor counts as it is now: later changes do not reach the result.

    A task carries a reference to the extractor, of a few kilobytes, and never its network: each
    worker process finds the weights where it runs, once. A partition whose worker dies is computed
    again by another; with ``cache="path"`` on a disk that all share, only what is missing of it.

    With ``on_error="nan"`` a row that cannot be read is NaN and its warning appears in the
    worker's log; ``failed_rows_`` cannot travel back.
    """
    purpose = "Embedding a Dask collection"  # a Bag can be had without dask.dataframe
    dask = import_optional("dask", extra="dask", purpose=purpose)
    frames = import_optional("dask.dataframe", extra="dask", purpose=purpose)
    container = _get_output_config("transform", extractor)["dense"]
    if container != "default":
        raise ValueError(
            f"X is a Dask collection, whose embeddings are a lazy Dask DataFrame with named "
            f"columns; set_output(transform={container!r}) would compute it at once. Use "
            "set_output(transform='default'), or call .compute() on X first."
        )
    extractor._image_source(stand_in(X), reset=False)
    carried = copy.copy(extractor)
    carried.verbose = 0
    # One task that all partitions refer to, instead of a copy in each of their tasks.
    reference = dask.delayed(carried, traverse=False)
    if _kind(X) == "Bag":
        embed = dask.delayed(_embed_partition)
        parts = [embed(part, reference) for part in X.to_delayed()]
        return frames.from_delayed(parts, meta=_frame(carried, None, None), verify_meta=False)
    meta = _frame(carried, None, X._meta.index)
    return X.map_partitions(_embed_partition, reference, meta=meta)


def _embed_partition(rows: Any, extractor: Any) -> pd.DataFrame:
    """Embed one partition; runs on a worker."""
    if isinstance(rows, pd.DataFrame | pd.Series):
        index = rows.index
    else:
        rows, index = list(rows), None  # a Bag's partition may be an iterator
    if not len(rows):
        return _frame(extractor, None, index)
    # A copy: threads of a worker share the object, and transform writes failed_rows_ on it.
    return _frame(extractor, copy.copy(extractor).transform(rows), index)


def _frame(extractor: Any, rows: Any, index: pd.Index | None) -> pd.DataFrame:
    """Name the columns of embeddings; of none, if ``rows`` is None."""
    names = extractor.get_feature_names_out()
    if rows is None:
        dtype = np.float64 if extractor.precision == "float64" else np.float32
        rows = np.empty((0, len(names)), dtype=dtype)
    return pd.DataFrame(np.asarray(rows), index=index, columns=names)
