"""Which candidates are averaged, with what weights and temperature, and how good they all are.

It must not know images or networks: everything here is log-probabilities of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sktransfer._finetune._targets import Findings, Target
from sktransfer._transfer._candidates import FINE_TUNED, Candidate, Task, log_loss
from sktransfer._utils.logistic import fit_temperature
from sktransfer._utils.resampling import middle
from sktransfer.metrics._roc import weighted_area

ENSEMBLE = "TransferClassifier"
_N_RESAMPLES = 500
# Standard errors of the mean difference in log loss by which a network has to be worse than the
# best to be left out, and by which all layers of a network have to be worse than its embedding, or
# the average of the two, to give way. The average of what is nearly as good is better than the
# best, so that leaving out needs the better evidence.
_OUT, _IN = 3.0, 1.5


@dataclass
class Ensemble:
    """Weights of the candidates, a temperature, and log-probabilities of rows never seen."""

    weights: np.ndarray
    temperature: float
    out_of_fold: np.ndarray


def best_of(candidates: Sequence[Candidate], task: Task) -> int:
    """Return which candidate has the least log loss; two are compared on rows that both predict."""
    best = 0
    for index, each in enumerate(candidates):
        known = np.isfinite(each.out_of_fold) & np.isfinite(candidates[best].out_of_fold)
        own, other = (
            log_loss(np.where(known, one.out_of_fold, np.nan), task)
            for one in (each, candidates[best])
        )
        best = index if own < other else best
    return best


def combine(
    parts: Sequence[np.ndarray], weights: np.ndarray, temperature: float, target: Target
) -> np.ndarray:
    """Return averages of outputs, tempered: log-probabilities that sum to one, or logits."""
    total = sum(w * each for w, each in zip(weights, parts, strict=True) if w)
    return target.normalized(total / temperature)


def choose(candidates: Sequence[Candidate], task: Task) -> Ensemble:
    """Return weights and a temperature by rows that candidates had not seen.

    The rows of each fold are predicted with what is chosen on the rows of all others.
    """
    parts = [each.out_of_fold for each in candidates]
    found = np.full(parts[0].shape, np.nan)
    for train, test in task.splits():
        chosen = _chosen(candidates, task, train)
        found[test] = combine([each[test] for each in parts], *chosen, task.target)
    return Ensemble(*_chosen(candidates, task, np.flatnonzero(task.fold >= 0)), found)


def _chosen(
    candidates: Sequence[Candidate], task: Task, rows: np.ndarray
) -> tuple[np.ndarray, float]:
    """Return weights of the candidates and a temperature, by their predictions of some rows.

    Networks have equal weights, except those that are clearly worse than the best. A network is the
    probe of all its layers, unless that of its embedding or both together are clearly better. Then
    fine-tuned networks are added, or take the place of their probes, where the loss is less.
    """
    names = list(dict.fromkeys(each.backbone for each in candidates))
    networks = []
    for name in names:
        own = [i for i, each in enumerate(candidates) if each.backbone == name]
        frozen = [i for i in own if candidates[i].features != FINE_TUNED]
        options = [np.isin(np.arange(len(candidates)), frozen[:1]).astype(float)]
        for other in (frozen, frozen[1:]) if len(frozen) > 1 else ():
            options.append(np.isin(np.arange(len(candidates)), other) / len(other))
        found = [_losses(candidates, task, rows, option) for option in options]
        better = [k for k in range(1, len(found)) if _clearly_worse(found[0], found[k], task, _IN)]
        totals = [float(np.nansum(option)) for option in found]
        networks.append(options[min([0, *better], key=totals.__getitem__)])
    losses = [_losses(candidates, task, rows, each) for each in networks]
    best = losses[int(np.argmin([np.nansum(each) for each in losses]))]
    kept = {
        name: network
        for name, network, own in zip(names, networks, losses, strict=True)
        if not _clearly_worse(own, best, task, _OUT)
    }
    for index, each in enumerate(candidates):
        if each.features == FINE_TUNED:
            tuned = np.eye(len(candidates))[index]
            choices = [kept, {**kept, each.name: tuned}, {**kept, each.backbone: tuned}]
            judged = rows[np.isfinite(each.out_of_fold[rows]).all(axis=1)]
            averages = [np.mean([*choice.values()], axis=0) for choice in choices]
            sums = [np.nansum(_losses(candidates, task, judged, own)) for own in averages]
            kept = choices[int(np.argmin(sums))]
    weights = np.mean([*kept.values()], axis=0)
    return weights, _temperature(candidates, task, rows, weights)


def _temperature(
    candidates: Sequence[Candidate], task: Task, rows: np.ndarray, weights: np.ndarray
) -> float:
    parts = [each.out_of_fold[rows] for each in candidates]
    averaged = combine(parts, weights, 1.0, task.target)
    read = np.isfinite(averaged).all(axis=1)
    if not task.weight[rows[read]].any():
        return 1.0
    if task.y.ndim == 2:
        return task.target.temperature(averaged[read], task.y[rows[read]], task.weight[rows[read]])
    # A class that is in no row of training, as all its weights are zero, would be the least likely
    # one by so much that only a huge temperature makes room for it.
    known = np.unique(task.y[task.fold > -2])
    codes = np.searchsorted(known, task.y[rows[read]])
    return fit_temperature(averaged[read][:, known], codes, task.weight[rows[read]])


def _losses(
    candidates: Sequence[Candidate], task: Task, rows: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Return the weighted log loss of every row at the best temperature, NaN where unknown."""
    temperature = _temperature(candidates, task, rows, weights)
    parts = [each.out_of_fold[rows] for each in candidates]
    tempered = np.full(candidates[0].out_of_fold.shape, np.nan)
    tempered[rows] = combine(parts, weights, temperature, task.target)
    return task.weight * task.losses(tempered)


def _clearly_worse(losses: np.ndarray, other: np.ndarray, task: Task, n_errors: float) -> bool:
    """Return whether losses are larger than others by more than some standard errors."""
    difference = losses - other
    read = np.isfinite(difference)
    of_unit = np.bincount(task.unit[read], weights=difference[read])
    of_unit = of_unit[np.bincount(task.unit[read]) > 0]
    spread = float(np.sqrt(np.sum((of_unit - of_unit.mean()) ** 2))) if len(of_unit) else 0.0
    return bool(of_unit.sum() > n_errors * spread)


def scoring_of(target: Target) -> str:
    """Return what scores are, by scikit-learn's name."""
    several = isinstance(target, Findings)
    return "roc_auc" if several or target.n_outputs == 2 else "accuracy"


def scores(log_probability: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the score for each row of ``weights`` (r, n): the area under the curve, or accuracy.

    The area is NaN where a class is absent. Of several findings it is the mean of those that have
    one.
    """
    with np.errstate(invalid="ignore"):
        if y.ndim == 2:
            areas = np.full((y.shape[1], len(weights)), np.nan)
            for area, logit, truth in zip(areas, log_probability.T, y.T, strict=True):
                known = ~np.isnan(truth)
                area[:] = weighted_area(truth[known] == 1, logit[known], weights[:, known])
            there = np.isfinite(areas)
            total = np.where(there, areas, 0).sum(axis=0)
            return np.where(there.any(axis=0), total, np.nan) / np.maximum(there.sum(axis=0), 1)
        if log_probability.shape[1] > 2:
            hit = log_probability.argmax(axis=1) == y
            return weights @ hit / weights.sum(axis=1)
        decision = log_probability[:, 1] - log_probability[:, 0]
        return weighted_area(y == 1, decision, weights)


def leaderboard(
    candidates: Sequence[Candidate], ensemble: Ensemble, task: Task, seconds: float
) -> pd.DataFrame:
    """Return a table of the combination and all candidates, best log loss first."""
    n_units = task.unit.max() + 1
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
            low, high = middle(scores(own, y, weight * drawn[:, task.unit[rows]]))
        records.append(
            {
                "candidate": name,
                "score": score,
                "low": low,
                "high": high,
                "log_loss": log_loss(out_of_fold, task),
                "n_rows": len(rows),
                "seconds": spent,
                "member": member,
            }
        )
    table = pd.DataFrame(records)
    order = table["log_loss"].iloc[1:].sort_values(kind="stable").index
    return table.loc[[0, *order]].reset_index(drop=True)
