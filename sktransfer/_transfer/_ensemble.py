"""Which candidates are averaged, with what weights and temperature, and how good they all are.

It must not know images or networks: everything here is log-probabilities of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import log_softmax

from sktransfer._scoring.crossfit import fit_temperature
from sktransfer._transfer._candidates import Candidate, Task
from sktransfer._utils.resampling import middle

ENSEMBLE = "TransferClassifier"
_N_RESAMPLES = 500


@dataclass
class Ensemble:
    """Weights of the candidates, a temperature, and log-probabilities of rows never seen."""

    weights: np.ndarray
    temperature: float
    out_of_fold: np.ndarray


def combine(parts: Sequence[np.ndarray], weights: np.ndarray, temperature: float) -> np.ndarray:
    """Return log-probabilities: averages of log-probabilities, tempered, that sum to one."""
    total = sum(w * each for w, each in zip(weights, parts, strict=True) if w)
    return log_softmax(total / temperature, axis=1)


def choose(candidates: Sequence[Candidate], task: Task) -> Ensemble:
    """Return weights and a temperature by rows that candidates had not seen.

    The rows of each fold are predicted with what is chosen on the rows of all others.
    """
    parts = [each.out_of_fold for each in candidates]
    judged = np.isfinite(np.stack(parts)).all(axis=(0, 2))
    found = np.full(parts[0].shape, np.nan)
    for train, test in task.splits(judged):
        found[test] = combine([each[test] for each in parts], *_chosen(parts, task, train))
    return Ensemble(*_chosen(parts, task, np.flatnonzero(judged)), found)


def _chosen(parts: list[np.ndarray], task: Task, rows: np.ndarray) -> tuple[np.ndarray, float]:
    weights = np.full(len(parts), 1 / len(parts))
    if not len(rows):
        return weights, 1.0
    own = [each[rows] for each in parts]
    averaged = combine(own, weights, 1.0)
    return weights, fit_temperature(averaged, task.y[rows], task.weight[rows])


def log_loss(log_probability: np.ndarray, y: np.ndarray, weight: np.ndarray) -> float:
    """Return the mean of minus the log-probability of the class, NaN for no rows."""
    if not len(y):
        return float("nan")
    return float(-np.average(log_probability[np.arange(len(y)), y], weights=weight))


def scoring_of(n_classes: int) -> str:
    """Return what scores are, by scikit-learn's name."""
    return "roc_auc" if n_classes == 2 else "accuracy"


def scores(log_probability: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the score for each row of ``weights`` (r, n): the area under the curve, or accuracy.

    The area is NaN where a class is absent.
    """
    with np.errstate(invalid="ignore"):
        if log_probability.shape[1] > 2:
            hit = log_probability.argmax(axis=1) == y
            return weights @ hit / weights.sum(axis=1)
        decision = log_probability[:, 1] - log_probability[:, 0]
        order = np.argsort(decision, kind="stable")
        starts = np.flatnonzero(np.r_[True, np.diff(decision[order]) > 0])
        positive = np.add.reduceat(weights[:, order] * (y[order] == 1), starts, axis=1)
        negative = np.add.reduceat(weights[:, order] * (y[order] == 0), starts, axis=1)
        below = np.cumsum(negative, axis=1) - negative / 2
        return (positive * below).sum(axis=1) / (positive.sum(axis=1) * negative.sum(axis=1))


def leaderboard(
    candidates: Sequence[Candidate], ensemble: Ensemble, task: Task, seconds: float
) -> pd.DataFrame:
    """Return a table of the combination and all candidates, best log loss first."""
    units = np.arange(len(task.y)) if task.groups is None else task.groups
    numbers = np.unique(units, return_inverse=True)[1]
    n_units = numbers.max() + 1
    rng = np.random.default_rng(task.seed)
    drawn = rng.multinomial(n_units, np.full(n_units, 1 / n_units), size=_N_RESAMPLES)
    records = []
    rows_of = [(ENSEMBLE, ensemble.out_of_fold, seconds, True)]
    rows_of += [
        (each.name, each.out_of_fold, each.seconds, bool(weight))
        for each, weight in zip(candidates, ensemble.weights, strict=True)
    ]
    for name, out_of_fold, spent, member in rows_of:
        rows = np.flatnonzero(np.isfinite(out_of_fold).all(axis=1))
        own, y, weight = out_of_fold[rows], task.y[rows], task.weight[rows]
        score, low, high = (float("nan"),) * 3
        if len(rows):
            score = float(scores(own, y, weight[None])[0])
            low, high = middle(scores(own, y, weight * drawn[:, numbers[rows]]))
        records.append(
            {
                "candidate": name,
                "score": score,
                "low": low,
                "high": high,
                "log_loss": log_loss(own, y, weight),
                "n_rows": len(rows),
                "seconds": spent,
                "member": member,
            }
        )
    table = pd.DataFrame(records)
    order = table["log_loss"].iloc[1:].sort_values(kind="stable").index
    return table.loc[[0, *order]].reset_index(drop=True)
