"""Rows of images of any estimator's X: counted, chosen, named in errors, run through any module.

It must not know what the module computes, nor what is done with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sktransfer._backbones import Backbone, InputSpec
from sktransfer._base import ImageInputMixin, n_decoding_threads, resolve_device, seed_from
from sktransfer._frozen import Extraction
from sktransfer._persistence import request_source
from sktransfer._utils.sklearn_compat import _safe_indexing
from sktransfer.exceptions import ImageDecodeError


def take_rows(X: Any, rows: np.ndarray) -> Any:
    """Return some rows of ``X``, in any of the forms estimators accept."""
    if isinstance(X, torch.Tensor):
        return X[torch.from_numpy(np.asarray(rows))]
    return _safe_indexing(X, rows)


@contextmanager
def rows_of(rows: np.ndarray | None) -> Iterator[None]:
    """Name a row that cannot be read by its place in the whole, of which ``rows`` are read.

    None: what is read is the whole.
    """
    try:
        yield
    except ImageDecodeError as error:
        if rows is None or error.index is None:
            raise
        place = int(rows[error.index])
        raise ImageDecodeError(error.reason, place, error.source) from error


def count_rows(estimator: ImageInputMixin, X: Any) -> int:
    """Return how many images ``X`` has, as ``estimator`` reads it."""
    return len(estimator._image_source(X, reset=True))


def backbone_of(estimator: Any) -> Backbone:
    """Load the whole network that an extractor or a classifier is to be built on."""
    seed = seed_from(estimator.random_state) if estimator.weights is None else 0
    size = estimator.image_size
    return request_source(estimator.backbone, estimator.weights, seed, size).load()


def run_images(
    estimator: Any,
    X: Any,
    spec: InputSpec,
    compute: Callable[[Tensor], np.ndarray],
    width: int,
    *,
    batch_size: int | str = "auto",
) -> tuple[np.ndarray, list[ImageDecodeError]]:
    """Give every distinct image to ``compute``, in batches, prepared as ``estimator`` would.

    ``compute`` takes a normalized batch (k, 3, side, side) of what ``spec`` wants and returns an
    array (k, width). Rows (n, width), float32, are returned and the failures; nothing is stored.
    """
    return Extraction(
        estimator._image_source(X, reset=True),
        lambda batch: [compute(batch)],
        estimator._preprocessing_for(spec),
        widths=(width,),
        dtypes=[np.dtype(np.float32)],
        batch_size=batch_size,
        device=resolve_device(estimator.device, "float32"),
        n_threads=n_decoding_threads(estimator.n_jobs),
        on_error=estimator.on_error,
    ).run()
