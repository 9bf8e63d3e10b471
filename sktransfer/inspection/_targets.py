"""Which class each row's score is of, and rows batch by batch; it must not know what a map is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sktransfer.inspection._routes import Route

# From a batch (n, 3, S, S) and the positions of the classes (n,) to what is said of its pixels.
Explain = Callable[[Route, Tensor, Tensor], Tensor]


def explained(route: Route, X: Any, y: Any, explain: Explain, *, batch_size: int) -> np.ndarray:
    """What ``explain`` says of every row, in the frame of the network.

    Raises
    ------
    ValueError
        If ``batch_size`` is less than 1, or ``y`` does not fit.
    """
    parts = [explain(route, *each).cpu().numpy() for each in batches(route, X, y, batch_size)]
    return np.concatenate(parts)


def batches(route: Route, X: Any, y: Any, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows as the network is given them, with the positions of their classes.

    Where ``y`` is None, these are the predicted ones.

    Raises
    ------
    ValueError
        If ``batch_size`` is less than 1, or ``y`` does not fit.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more; got {batch_size!r}.")
    source = route.images(X)
    codes = None if y is None else class_codes(route.classes, y, len(source))
    for low in range(0, len(source), batch_size):
        rows = range(low, min(low + batch_size, len(source)))
        batch = route.batch(source, rows)
        if codes is None:
            yield batch, predicted_codes(route, batch)
        else:
            yield batch, torch.from_numpy(codes[low : rows.stop]).to(batch.device)


def class_codes(classes: np.ndarray, y: Any, n: int) -> np.ndarray:
    """Positions of labels among the classes.

    Raises
    ------
    ValueError
        If there are not ``n``, or one is no class.
    """
    labels = np.asarray(y)
    if labels.shape != (n,):
        raise ValueError(f"y has to be of shape ({n},), a label for each row; got {labels.shape}.")
    unknown = np.setdiff1d(labels, classes)
    if len(unknown):
        raise ValueError(f"y has {unknown[0]!r}, which is none of the classes {classes.tolist()}.")
    return np.searchsorted(classes, labels)


def predicted_codes(route: Route, batch: Tensor) -> Tensor:
    """Positions of the predicted classes."""
    with torch.no_grad():
        decision = route.scores(batch).decision
    return (decision > 0).long() if decision.ndim == 1 else decision.argmax(1)
