"""Probabilities of rows by probes that have not seen them, and their temperature."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy.optimize import brentq
from scipy.special import log_softmax, softmax

from sktransfer._utils.logistic import FLOOR, PROBE_C, cross_fitted_logits

# The temperature is looked for between exp(-x) and exp(x): beyond, probabilities are those of the
# largest class, or even.
_DECADES = 5.0


def cross_fitted(
    F: np.ndarray,
    codes: np.ndarray,
    weight: np.ndarray,
    n_classes: int,
    folds: Iterable[tuple[np.ndarray, np.ndarray]],
) -> np.ndarray:
    """Return log-probabilities by probes of other folds, (n, n_classes); untested rows are NaN."""
    (logits,) = cross_fitted_logits(F, codes, weight, n_classes, folds, [PROBE_C], floor=FLOOR)
    return log_softmax(logits, axis=1)


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
