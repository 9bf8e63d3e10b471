"""The bootstrap of rows or of whole patients: weights, areas and bands of ROC curves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import check_random_state

from sktransfer.metrics._labels import among, binary_scores, check_confidence

# Resamples computed at once; a block takes 1 kB for each row.
_BLOCK = 128


def resample_counts(
    strata: np.ndarray, codes: np.ndarray | None, n_resamples: int, random_state: Any
) -> Iterator[np.ndarray]:
    """Yield how often each row is drawn, in blocks of shape (resamples, n)."""
    random = check_random_state(random_state)
    if codes is None:
        codes = np.arange(len(strata))
    # Patients are drawn among those with rows of the same classes, so that no class is lost.
    has = np.zeros((codes.max() + 1, strata.max() + 1), dtype=bool)
    has[codes, strata] = True
    _, kind = np.unique(has, axis=0, return_inverse=True)
    for start in range(0, n_resamples, _BLOCK):
        drawn = np.empty((min(_BLOCK, n_resamples - start), len(kind)))
        for each in range(kind.max() + 1):
            members = np.flatnonzero(kind == each)
            share = np.full(len(members), 1 / len(members))
            drawn[:, members] = random.multinomial(len(members), share, size=len(drawn))
        yield drawn[:, codes]


def weighted_area(positive: np.ndarray, score: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the area for each row of weights, which have the shape (resamples, n)."""
    order = np.argsort(score, kind="stable")
    weight, positive = weight[:, order], positive[order]
    levels = np.flatnonzero(np.r_[True, np.diff(score[order]) > 0])
    above = np.add.reduceat(weight * positive, levels, axis=1)
    below = np.add.reduceat(weight * ~positive, levels, axis=1)
    lower = np.cumsum(below, axis=1) - below / 2
    return (above * lower).sum(axis=1) / (above.sum(axis=1) * below.sum(axis=1))


def roc_curve_band(
    y_true: ArrayLike,
    y_score: ArrayLike,
    *,
    confidence_level: float,
    groups: ArrayLike | None,
    pos_label: Any,
    random_state: Any,
    n_points: int = 101,
    n_resamples: int = 500,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return false-positive rates and the ends of the interval of the sensitivity at each.

    Intervals are of each point on its own, not of the whole curve.
    """
    tail = (1 - check_confidence(confidence_level)) / 2
    positive, score, codes = binary_scores(y_true, y_score, pos_label=pos_label, groups=groups)
    order = np.argsort(-score, kind="stable")
    positive, score, codes = positive[order], score[order], among(codes, order)
    ends = np.flatnonzero(np.r_[np.diff(score) < 0, True])
    fpr = np.linspace(0, 1, n_points)
    curves = []
    strata = positive.astype(int)
    for weight in resample_counts(strata, codes, n_resamples, random_state):
        true = np.cumsum(weight * positive, axis=1)[:, ends]
        false = np.cumsum(weight * ~positive, axis=1)[:, ends]
        for t, f in zip(true / true[:, -1:], false / false[:, -1:], strict=True):
            curves.append(np.interp(fpr, np.r_[0.0, f], np.r_[0.0, t]))
    low, high = np.quantile(curves, [tail, 1 - tail], axis=0)
    return fpr, low, high
