"""Probabilities of given labels by regressions that have not seen them, robust to wrong ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import log_softmax, softmax
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import check_random_state

from sktransfer._utils.logistic import FLOOR, fit_temperature
from sktransfer._utils.splitting import iterative_folds
from sktransfer._utils.threads import blas_threads

# Directions that are kept: many times fewer than columns, and all that a few hundred rows tell.
_COMPONENTS = 256
# Inverse penalties tried, as multiples of one over the number of columns, the weakest first. Wrong
# labels ask for more of it than a classifier needs.
_PENALTIES = (30.0, 10.0, 3.0, 1.0)
_FOLDS = 5
# Fits with other folds, each with rows weighted by how probable those before find their labels.
_ROUNDS = 3
_NEIGHBORS = 10
# Weight of the neighbors' evidence, a count in logarithms, alongside that of the regressions.
_NEIGHBOR_WEIGHT = 0.2


@dataclass(frozen=True)
class Evidence:
    """What speaks for each class, row by row: probabilities, and the share of neighbors."""

    probabilities: np.ndarray
    neighbors: np.ndarray


def gather_evidence(
    blocks: list[np.ndarray], codes: np.ndarray, units: np.ndarray, random_state: Any
) -> Evidence:
    """Compute cross-fitted probabilities, (n, n_classes), from several blocks of features.

    ``units`` are numbers of what is never on both sides of a fold: patients, with copies of their
    images.
    """
    n_classes = int(codes.max()) + 1
    draws = check_random_state(random_state)
    logs, shares = np.zeros((len(codes), n_classes)), np.zeros((len(codes), n_classes))
    for F in blocks:
        with blas_threads(*F.shape):
            Z = _directions(F, draws)
            logs += _cross_fit(Z, F.shape[1], codes, units, n_classes, draws) / len(blocks)
            shares += _neighbor_shares(Z, codes, units, n_classes) / len(blocks)
    logs = log_softmax(logs + _NEIGHBOR_WEIGHT * np.log1p(_NEIGHBORS * shares), axis=1)
    temperature = fit_temperature(logs, codes)
    return Evidence(softmax(logs / temperature, axis=1), shares)


def _directions(F: np.ndarray, random_state: np.random.RandomState) -> np.ndarray:
    """Return the principal components of standardized columns, in their own scale."""
    centered = F - F.mean(axis=0, dtype=np.float64)
    deviation = centered.std(axis=0)
    useful = deviation > 1e-12 * np.maximum(np.abs(F).max(axis=0), 1e-300)
    if not useful.any():
        raise ValueError("All rows have the same features: no label can be told from another.")
    deviation = np.maximum(deviation, FLOOR * np.median(deviation[useful]))
    centered = centered[:, useful] / deviation[useful]
    most = min(_COMPONENTS, len(centered) - 1, centered.shape[1])
    return np.asarray(PCA(most, random_state=random_state).fit_transform(centered))


def _cross_fit(
    Z: np.ndarray,
    n_columns: int,
    codes: np.ndarray,
    units: np.ndarray,
    n_classes: int,
    random_state: np.random.RandomState,
) -> np.ndarray:
    """Return the mean of the rounds' logits, each round scaled to the same spread."""
    weight = np.ones(len(codes))
    rows = np.arange(len(codes))
    total = np.zeros((len(codes), n_classes))
    chosen: float | None = None
    for _ in range(_ROUNDS):
        folds = _folds(codes, units, random_state)
        if chosen is None:
            tried = {
                penalty / n_columns: _logits(
                    Z, codes, weight, n_classes, folds, penalty / n_columns
                )
                for penalty in _PENALTIES
            }
            chosen = _strongest(tried, codes)
            logits = tried[chosen]
        else:
            logits = _logits(Z, codes, weight, n_classes, folds, chosen)
        own = softmax(logits, axis=1)[rows, codes]
        # A label that is less probable than not counts for less.
        weight = np.clip(2 * own, 1e-3, 1.0)
        total += logits / max(float(logits.std()), 1e-12)
    return total / _ROUNDS


def _folds(
    codes: np.ndarray, units: np.ndarray, random_state: np.random.RandomState
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return folds that divide no unit, with classes in their shares as far as possible."""
    n_folds = min(_FOLDS, len(np.unique(units)))
    fold = iterative_folds(codes, n_folds, groups=units, random_state=random_state)
    return [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(n_folds)]


def _logits(
    Z: np.ndarray,
    codes: np.ndarray,
    weight: np.ndarray,
    n_classes: int,
    folds: list[tuple[np.ndarray, np.ndarray]],
    C: float,
) -> np.ndarray:
    """Return centered logits of held-out rows; a class that is not in training is the least."""
    logits = np.full((len(Z), n_classes), np.nan)
    for train, test in folds:
        present = np.unique(codes[train])
        if len(present) == 1:
            own: np.ndarray = np.zeros((len(test), 1))
        else:
            # Two classes share one vector, whose penalty is that of both.
            model = LogisticRegression(C=C / (2 if len(present) == 2 else 1), max_iter=500)
            model.fit(Z[train], codes[train], sample_weight=weight[train])
            own = model.decision_function(Z[test])
            own = np.stack([-own, own], axis=1) / 2 if own.ndim == 1 else own
        block = np.full((len(test), n_classes), own.min(axis=1, keepdims=True) - 1)
        block[:, present] = own
        logits[test] = block
    return logits - logits.mean(axis=1, keepdims=True)


def _strongest(tried: dict[float, np.ndarray], codes: np.ndarray) -> float:
    """Return the least C whose loss is within a standard error of the best one's."""
    rows = np.arange(len(codes))
    losses = {C: -log_softmax(logits, axis=1)[rows, codes] for C, logits in tried.items()}
    best = min(losses.values(), key=lambda loss: float(loss.mean()))

    def near(loss: np.ndarray) -> bool:
        more = loss - best
        return bool(more.mean() <= more.std() / np.sqrt(len(more)) + 1e-12)

    return min(C for C, loss in losses.items() if near(loss))


def _neighbor_shares(
    Z: np.ndarray, codes: np.ndarray, units: np.ndarray, n_classes: int
) -> np.ndarray:
    """Return the shares of classes among the nearest rows of other units, by angle."""
    largest = int(np.bincount(units).max())
    k = min(len(Z), _NEIGHBORS + largest)
    near = NearestNeighbors(n_neighbors=k, metric="cosine").fit(Z).kneighbors(Z)[1]
    others = units[near] != units[:, None]
    counted = others & (np.cumsum(others, axis=1) <= _NEIGHBORS)
    votes = np.eye(n_classes)[codes[near]] * counted[:, :, None]
    return np.asarray(votes.sum(axis=1) / np.maximum(counted.sum(axis=1), 1)[:, None])
