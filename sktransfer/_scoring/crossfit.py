"""Folds whose models have not seen what they score, and a temperature for what they say."""

from __future__ import annotations

import warnings

import numpy as np
from scipy.optimize import brentq
from scipy.special import log_softmax, softmax

from sktransfer._utils.splitting import stratified_folds, units_per_class

Folds = list[tuple[np.ndarray, np.ndarray]]
# The temperature is looked for between exp(-x) and exp(x): beyond, probabilities are those of the
# largest class, or even.
_DECADES = 5.0


def folds_of(
    y: np.ndarray, groups: np.ndarray | None = None, *, n_splits: int = 5, random_state: int = 0
) -> Folds:
    """Return rows to train and to test, stratified, in whole groups; every row is tested once.

    As many folds as the rarest class has rows (groups), at least two and at most ``n_splits``: a
    class of one row (group) is absent where that is tested.
    """
    units = len(y) if groups is None else len(np.unique(groups))
    rarest = min(units_per_class(y, groups).values())
    n_splits = min(n_splits, max(2, rarest), units)
    folds = stratified_folds(n_splits, grouped=groups is not None, random_state=random_state)
    if groups is None and np.unique(y, return_counts=True)[1].max() < n_splits:
        # All classes have one row: there is nothing to stratify by.
        y = np.zeros(len(y), dtype=int)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")
        return list(folds.split(np.zeros(len(y)), y, groups))


def fit_temperature(
    log_probabilities: np.ndarray, codes: np.ndarray, weight: np.ndarray | None = None
) -> float:
    """Return the temperature by which logits are divided for the least log loss on their rows.

    As Platt (1999) has it, there is one more row of each class, whatever it is predicted to be:
    rows that are all predicted correctly do not make the next one certain.
    """
    share = np.ones(len(codes)) if weight is None else np.asarray(weight, dtype=float)
    n_classes = log_probabilities.shape[1]
    even = n_classes / (share.sum() + n_classes)
    own = log_probabilities[np.arange(len(codes)), codes]
    target = (1 - even) * own + even * log_probabilities.mean(axis=1)

    def slope(log_inverse: float) -> float:
        expected = softmax(log_probabilities * np.exp(log_inverse), axis=1) * log_probabilities
        return float(share @ (expected.sum(axis=1) - target))

    # The loss is convex in the inverse of the temperature.
    if slope(-_DECADES) >= 0:
        return float(np.exp(_DECADES))
    if slope(_DECADES) <= 0:
        return float(np.exp(-_DECADES))
    return float(np.exp(-brentq(slope, -_DECADES, _DECADES, xtol=1e-13)))


def with_temperature(
    log_probabilities: np.ndarray,
    codes: np.ndarray,
    folds: Folds,
    weight: np.ndarray | None = None,
) -> tuple[np.ndarray, float]:
    """Return log-probabilities at temperatures of the other folds, and the temperature of all."""
    tempered = np.empty_like(log_probabilities, dtype=float)
    for train, test in folds:
        own = None if weight is None else weight[train]
        temperature = fit_temperature(log_probabilities[train], codes[train], own)
        tempered[test] = log_softmax(log_probabilities[test] / temperature, axis=1)
    return tempered, fit_temperature(log_probabilities, codes, weight)
