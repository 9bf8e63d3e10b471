"""A training step that does not fit on the device, in parts whose gradients add up to the same.

It must not know networks, rows or losses.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from sktransfer._frozen import is_out_of_memory


@dataclass
class Portion:
    """How many rows go through at once; None until a batch did not fit."""

    rows: int | None = None


def within_memory(
    batch: Any,
    gradients: Callable[[Any, float], dict[str, Any]],
    forget: Callable[[], None],
    portion: Portion,
) -> dict[str, Any]:
    """Add up the gradients of a batch, in halves of halves if there is no room for all of it.

    Parameters
    ----------
    batch : (dict of tensors, tensor)
    gradients : callable
        Of (batch, share): adds its gradients times ``share`` to what is there, and returns its
        mean ``loss`` and its ``y_pred``.
    forget : callable
        Sets gradients to zero.
    portion : Portion
        What was learned of the room there is; written to.

    Returns
    -------
    dict
        ``loss`` and ``y_pred`` of the whole batch.
    """
    n = len(batch[1])
    while True:
        size = min(n, portion.rows or n)
        try:
            steps = [
                (min(size, n - low), gradients(_rows(batch, low, size), min(size, n - low) / n))
                for low in range(0, n, size)
            ]
            break
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or size == 1:
                raise
        # Outside the handler: the traceback would keep the failed batch's tensors alive.
        if portion.rows is None:
            warnings.warn(
                f"The device ran out of memory; training goes on with parts of each batch (now "
                f"{size // 2} rows at once), whose gradients are added up. Set batch_size to avoid "
                "the failed attempt.",
                RuntimeWarning,
                stacklevel=2,
            )
        portion.rows = size // 2
        forget()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    if len(steps) == 1:
        return steps[0][1]
    loss = torch.stack([step["loss"] * (rows / n) for rows, step in steps]).sum()
    return {"loss": loss, "y_pred": torch.cat([step["y_pred"] for _, step in steps])}


def _rows(batch: Any, low: int, size: int) -> Any:
    inputs, labels = batch
    if low == 0 and size >= len(labels):
        return batch
    part = slice(low, low + size)
    return {name: tensor[part] for name, tensor in inputs.items()}, labels[part]
