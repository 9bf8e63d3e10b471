"""Labeled features, and predictions of rows that a regression on them has not seen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import linalg
from scipy.special import log_softmax
from sklearn.utils import check_array, check_consistent_length
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d

from sktransfer._utils.identifiers import read_groups
from sktransfer._utils.logistic import FLOOR, PROBE_C, cross_fitted_logits
from sktransfer._utils.per_row import check_present
from sktransfer._utils.resampling import members
from sktransfer._utils.threads import blas_threads

# Penalties tried, as multiples of the mean squared singular value: from next to none to much more
# than any direction carries. Relative, so that the unit of the features does not matter.
_RELATIVE_PENALTIES = np.logspace(-4, 2, 13)


@dataclass(frozen=True)
class LabeledFeatures:
    """Features, the codes of their labels in ``classes``, and numbers of their groups, if any."""

    F: np.ndarray
    codes: np.ndarray
    classes: np.ndarray
    groups: np.ndarray | None = None

    @property
    def onehot(self) -> np.ndarray:
        """Labels as 0 and 1, shape (n, n_classes)."""
        return np.eye(len(self.classes))[self.codes]


def check_labeled(
    F: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None, *, name: str = "F"
) -> LabeledFeatures:
    """Check lengths, that numbers are finite, and that there are at least two classes."""
    features = check_array(F, dtype=np.float64, ensure_min_samples=2, input_name=name)
    labels = check_labels(y)
    check_consistent_length(features, labels)
    classes, codes = np.unique(labels, return_inverse=True)
    numbers = None
    if groups is not None:
        given = read_groups(groups)
        check_consistent_length(features, given)
        numbers = np.unique(given, return_inverse=True)[1]
        if numbers.max() == 0:
            raise ValueError(
                "All rows are of one group: none can be predicted from rows of other groups. Give "
                "rows of at least two groups, or leave groups out."
            )
    return LabeledFeatures(features, codes, classes, numbers)


def check_labels(y: ArrayLike) -> np.ndarray:
    """Check that labels are of classes, at least two of them."""
    labels = column_or_1d(check_present(y))
    check_classification_targets(labels)
    classes = np.unique(labels)
    if len(classes) < 2:
        raise ValueError(
            f"A score compares classes, and y holds one only: {classes.tolist()!r}. Give rows of "
            "at least two classes."
        )
    return labels


def standardized(F: np.ndarray) -> np.ndarray:
    """Scale columns to mean 0 and variance 1; those that are constant become 0."""
    centered = F - F.mean(axis=0)
    deviation = np.sqrt((centered**2).mean(axis=0))
    # Rounding leaves a constant column with a spread of its last digits.
    constant = deviation <= 1e-10 * np.maximum(np.abs(F).max(axis=0), 1e-300)
    scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=~constant)
    return centered * scale


def left_singular(F: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute left singular vectors (n, k) and singular values (k,), without rank noise."""
    with blas_threads(*F.shape):
        try:
            U, s, _ = linalg.svd(F, full_matrices=False, check_finite=False)
        except linalg.LinAlgError:  # rare: the divide and conquer of LAPACK did not converge
            U, s, _ = linalg.svd(F, full_matrices=False, check_finite=False, lapack_driver="gesvd")
    keep = s > s.max(initial=0.0) * max(F.shape) * np.finfo(np.float64).eps
    return U[:, keep], s[keep]


def ridge_decisions(
    data: LabeledFeatures, *, alpha: float | None = None, standardize: bool = True
) -> np.ndarray:
    """Predict every row without it: the largest of a row's values is the predicted class."""
    with blas_threads(*data.F.shape):
        return _ridge_decisions(data, alpha, standardize)


def _ridge_decisions(data: LabeledFeatures, alpha: float | None, standardize: bool) -> np.ndarray:
    features = standardized(data.F) if standardize else data.F - data.F.mean(axis=0)
    if alpha is None and len(features) < features.shape[1]:
        # The least penalty drowns what squaring does to small singular values.
        square, U = linalg.eigh(features @ features.T, check_finite=False)
        keep = square > square[-1] * len(features) * np.finfo(np.float64).eps
        U, s = U[:, keep], np.sqrt(square[keep])
    else:
        U, s = left_singular(features)
    target = 2 * data.onehot - 1
    blocks = _blocks(data)
    if alpha is not None:
        return _left_out(U, s, target, alpha, blocks)
    best: tuple[float, np.ndarray] | None = None
    unit = float(np.mean(s**2)) if len(s) else 1.0
    for relative in _RELATIVE_PENALTIES:
        decisions = _left_out(U, s, target, relative * unit, blocks)
        error = float(np.mean((decisions - target) ** 2))
        if best is None or error < best[0]:
            best = (error, decisions)
    assert best is not None
    return best[1]


def _left_out(
    U: np.ndarray, s: np.ndarray, target: np.ndarray, alpha: float, blocks: list[np.ndarray] | None
) -> np.ndarray:
    """Predict rows that were left out, from the hat matrix of all rows."""
    n = len(target)
    shrink = s**2 / (s**2 + alpha)
    fitted = target.mean(axis=0) + (U * shrink) @ (U.T @ target)
    residual = target - fitted
    if blocks is None:
        leverage = 1 / n + (U**2) @ shrink
        return target - residual / (1 - leverage)[:, None]
    out = np.empty_like(target)
    for rows in blocks:
        part = U[rows]
        hat = 1 / n + (part * shrink) @ part.transpose(0, 2, 1)
        out[rows] = target[rows] - np.linalg.solve(np.eye(rows.shape[1]) - hat, residual[rows])
    return out


def _blocks(data: LabeledFeatures) -> list[np.ndarray] | None:
    """Return rows of the groups, those of one size together as an array (n_groups, size)."""
    if data.groups is None:
        return None
    sizes: dict[int, list[np.ndarray]] = {}
    for rows in members(data.groups):
        sizes.setdefault(len(rows), []).append(rows)
    return [np.stack(rows) for rows in sizes.values()]


def cross_fitted(
    F: np.ndarray,
    codes: np.ndarray,
    weight: np.ndarray,
    n_classes: int,
    folds: Iterable[tuple[np.ndarray, np.ndarray]],
) -> np.ndarray:
    """Return log-probabilities by probes of other folds, (n, n_classes); untested rows are NaN."""
    logits = cross_fitted_logits(F, codes, weight, n_classes, folds, PROBE_C, floor=FLOOR)
    return log_softmax(logits, axis=1)
