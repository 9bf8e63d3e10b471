"""A range test for the learning rate, on activations that are computed once.

It must not know how images get to the cut.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils import Bunch

_SMOOTHING = 0.9
# The loss this many times the lowest one ends the test.
_DIVERGED = 4.0


def find_learning_rate(
    estimator: Any,
    X: Any,
    y: Any,
    sample_weight: Any,
    *,
    lr_min: float,
    lr_max: float,
    n_steps: int,
) -> Bunch:
    """Train a clone for some steps while the rate rises, and watch the loss [1]_.

    References
    ----------
    .. [1] Smith, L. N. (2017). "Cyclical learning rates for training neural networks". WACV.
    """
    if not 0 < lr_min < lr_max:
        raise ValueError(f"lr_min must lie between 0 and lr_max; got {lr_min} and {lr_max}.")
    if n_steps < 2:
        raise ValueError(f"n_steps must be 2 or more for a rate to rise; got {n_steps}.")
    net = clone(estimator).set_params(
        validation_fraction=None,
        train_split=None,
        early_stopping=None,
        checkpoint_dir=None,
        warm_start=False,
        callbacks=None,
        verbose=0,
    )
    rates = np.geomspace(lr_min, lr_max, n_steps)
    with net._until_training(X, y, sample_weight) as (dataset, solved):
        if solved:
            raise ValueError(
                "With this freeze_depth the head is all there is to train, and it is solved "
                "exactly: there is no learning rate to find."
            )
        losses = np.array(_losses(net, dataset, rates))
    tried = rates[: len(losses)]
    return Bunch(lr=tried, loss=losses, suggestion=_suggestion(tried, losses))


def _losses(net: Any, dataset: Any, rates: np.ndarray) -> list[float]:
    """Smoothed losses of steps at these rates, until they run away."""
    loader = net.get_iterator(dataset, training=True)
    seen: list[float] = []
    average, lowest, epoch = 0.0, float("inf"), 0
    while len(seen) < len(rates):
        dataset.epoch = epoch
        with net._drawing(net._seed, epoch):
            for batch in loader:
                for group in net.optimizer_.param_groups:
                    group["lr"] = group["initial_lr"] / net.lr * rates[len(seen)]
                try:
                    loss = net.train_step(batch)["loss"].item()
                except FloatingPointError:
                    loss = float("inf")
                average = _SMOOTHING * average + (1 - _SMOOTHING) * loss
                seen.append(average / (1 - _SMOOTHING ** (len(seen) + 1)))
                lowest = min(lowest, seen[-1])
                if not seen[-1] < _DIVERGED * lowest:
                    return seen
                if len(seen) == len(rates):
                    break
        epoch += 1
    return seen


def _suggestion(rates: np.ndarray, losses: np.ndarray) -> float:
    """Where the loss falls fastest, and no more than a tenth of where it is lowest."""
    finite = np.isfinite(losses)
    rates, losses = rates[finite], losses[finite]
    low = int(losses.argmin())
    if low < 2:
        return float(rates[0])
    slope = np.gradient(losses[: low + 1], np.log(rates[: low + 1]))
    return float(min(rates[int(slope.argmin())], rates[low] / 10))
