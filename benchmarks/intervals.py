"""Do intervals of a cross-validated AUC cover? Methods compared, on X-rays and normals.

    python benchmarks/intervals.py [--draws 500] [--simulated 400] [--dear 100] [--features F.npz]

X-rays: images of whole patients are drawn from the 1,000 shared ones, a ridge regression on their
embeddings is cross-validated, and the interval is compared with the AUC that it has, fitted to all
images drawn, on the rest. That AUC has an error of its own (DeLong, by patient): coverage is given
as it is, and with that error allowed for. Normals: a few or many features, one image a patient or
one to five; the AUC of a linear rule is known exactly there.

Needs the shared data and weights (``SKTRANSFER_TEST_SHARED``), or ``--features``: an .npz with
embeddings ``F``, labels ``y`` and patients ``g``. Methods that fit 50 models or more are measured
on the first ``--dear`` draws.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
from _common import Neighbors, machine, print_table, shared_with_weights, workspace, write_json
from _tasks import extractors, xrays
from scipy.special import expit, logit
from scipy.stats import norm
from scipy.stats import t as student
from sklearn.base import BaseEstimator, ClassifierMixin

from sktransfer.metrics import roc_auc_interval
from sktransfer.metrics._roc import resample_counts, weighted_area
from sktransfer.model_selection import cross_val_interval
from sktransfer.model_selection._fold_scores import held_out_parts, scored_folds
from sktransfer.model_selection._intervals import _splits

NETWORK, SIZES, FOLDS = "efficientnet_lite0", (100, 200, 300), 5
# Features, distance of the classes, and whether patients have one to five images.
NORMALS = {"5 features": (5, 1.5, False), "200 features, 1 to 5 images": (200, 3.0, True)}
WITHIN = 0.5  # of the variance, what differs between images of a patient
_N_HALVES, _N_NESTED, _N_RESAMPLES = 5, 3, 200


class Products:
    """Inner products of all rows, which clones share."""

    def __init__(self, F: np.ndarray) -> None:
        self.of = F @ F.T / F.shape[1]

    def __deepcopy__(self, memo: Any) -> Products:
        return self


class Ridge(ClassifierMixin, BaseEstimator):
    """Ridge regression of labels in closed form; ``X`` are numbers of rows."""

    def __init__(self, products: Any = None) -> None:
        self.products = products

    def fit(self, X: np.ndarray, y: np.ndarray) -> Ridge:
        self.classes_, self.rows_ = np.unique(y), X[:, 0]
        K = self.products.of[np.ix_(self.rows_, self.rows_)]
        mean = K.mean(axis=0)
        centered = K - mean - mean[:, None] + mean.mean()
        dual = np.linalg.solve(centered + np.eye(len(K)), np.where(y == 1, 1.0, -1.0) - _level(y))
        self.dual_ = dual - dual.mean()
        return self

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        return self.products.of[np.ix_(X[:, 0], self.rows_)] @ self.dual_


def _level(y: np.ndarray) -> float:
    return 2 * float(np.mean(y == 1)) - 1


def area(y: np.ndarray, score: np.ndarray) -> float:
    above, below = score[y == 1], score[y != 1]
    if not len(above) or not len(below):
        return np.nan
    higher = np.greater.outer(above, below).mean() + np.greater_equal.outer(above, below).mean()
    return float(higher / 2)


def area_scorer(model: Any, X: Any, y: np.ndarray) -> float:
    """The area under the curve, at a twentieth of what scikit-learn's scorer takes."""
    return area(y, model.decision_function(X))


def on_logits(score: float, error: float, freedom: float = np.inf) -> tuple[float, float, float]:
    if not 0 < score < 1:
        return score, score, score
    half = student.ppf(0.975, freedom) * error / (score * (1 - score))
    return score, *expit(logit(score) + np.array([-half, half]))


def plain(score: float, error: float, freedom: float = np.inf) -> tuple[float, float, float]:
    half = student.ppf(0.975, freedom) * error
    return score, score - half, score + half


def cheap_methods(
    model: Any, X: Any, y: np.ndarray, g: np.ndarray, repeats: Any, seed: int
) -> Iterator[Any]:
    """Yield names and (estimate, low, high) of methods of 30 fits or fewer."""
    settings = {"scoring": area_scorer, "groups": g, "random_state": 1000 * seed}
    for name, given in (
        ("fold jackknife, 2 repeats (the default)", {}),
        ("corrected variance", {"method": "corrected", "cv": repeats[0]}),
    ):
        found = cross_val_interval(model, X, y, **settings, **given)
        yield name, (found.score, found.low, found.high)
    splits = repeats[0]
    given = {"methods": (("decision_function",), True), "params": {}, "n_jobs": None}
    parts, _ = held_out_parts((model,), X, y, g, splits, pairs=False, **given)
    found = scored_folds(parts, {}, area_scorer, seed=0)
    spread = float(np.std(found.folds, ddof=1))
    yield "spread of folds, as if independent", plain(found.score, spread / FOLDS**0.5, FOLDS - 1)
    error = spread * (1 / FOLDS + 1 / (FOLDS - 1)) ** 0.5
    yield "corrected resampled t, 5 folds", plain(found.score, error, FOLDS - 1)
    yield "DeLong within folds (LeDell)", on_logits(found.score, found.naive**0.5)
    score = np.concatenate([part.answers[0].given["decision_function"] for part in parts])
    rows = np.concatenate([test for _, test in splits])
    yield (
        "DeLong on pooled scores",
        roc_auc_interval(y[rows], score, groups=g[rows], method="delong"),
    )
    yield "bootstrap of patients, averaged over folds", _bootstrap(y, g, splits, score, found.score)


def _bootstrap(
    y: np.ndarray, g: np.ndarray, splits: Any, score: np.ndarray, estimate: float
) -> tuple[float, float, float]:
    rows = np.concatenate([test for _, test in splits])
    ends = np.cumsum([len(test) for _, test in splits])
    codes = np.unique(g[rows], return_inverse=True)[1]
    found = []
    for weight in resample_counts(y[rows], codes, _N_RESAMPLES, 0):
        parts = zip(np.r_[0, ends[:-1]], ends, strict=True)
        own = [
            weighted_area(y[rows[a:b]] == 1, score[a:b], weight[:, a:b].astype(float))
            for a, b in parts
        ]
        found.append(np.nanmean(own, axis=0))
    return estimate, *np.nanquantile(np.concatenate(found), [0.025, 0.975])


def dear_methods(
    model: Any, X: Any, y: np.ndarray, g: np.ndarray, repeats: Any, seed: int
) -> Iterator[Any]:
    """Yield the same of methods that take 45 fits or more."""
    every = list(chain.from_iterable(repeats))
    found = cross_val_interval(
        model, X, y, scoring=area_scorer, groups=g, cv=every, method="corrected_t"
    )
    error = found.standard_error
    yield "corrected resampled t, 10 times 5 folds", plain(found.score, error, 10 * FOLDS - 1)
    yield "conservative z (Nadeau and Bengio)", _conservative(model, X, y, g, found.score, seed)
    yield "nested cross-validation (Bates), 3 repeats", _nested(model, X, y, g, repeats)


def _conservative(
    model: Any, X: Any, y: np.ndarray, g: np.ndarray, score: float, seed: int
) -> tuple[float, float, float]:
    """Halves of the patients, each cross-validated: half of their squared difference."""
    squares = []
    for repeat in range(_N_HALVES):
        (halves,) = _splits(model, y, g, 2, 1, 1000 * seed + repeat)
        own = [
            cross_val_interval(
                *(model, X[half], y[half]),
                groups=g[half],
                scoring=area_scorer,
                method="corrected_t",
                n_repeats=1,
                random_state=repeat,
            ).score
            for _, half in halves
        ]
        squares.append((own[0] - own[1]) ** 2 / 2)
    return plain(score, float(np.mean(squares)) ** 0.5)


def _nested(
    model: Any, X: Any, y: np.ndarray, g: np.ndarray, repeats: Any
) -> tuple[float, float, float]:
    """Bates, Hastie and Tibshirani (2023), with the variance of a fold's area by its patients."""
    squares, own, scores, naive = [], [], [], []
    given = {"methods": (("decision_function",), True), "params": {}, "n_jobs": None}
    for splits in repeats[:_N_NESTED]:
        parts, pairs = held_out_parts((model,), X, y, g, splits, pairs=True, **given)
        for number, part in enumerate(parts):
            inner = [pair.score(area_scorer) for (_, out), pair in pairs.items() if out == number]
            outer = scored_folds([part], {}, area_scorer, seed=0)
            squares.append((np.mean(inner) - outer.score) ** 2)
            own.append(outer.naive)
            scores.append(outer.score)
        naive.append(sum(own[-FOLDS:]) / FOLDS**2)
    least = float(np.mean(naive)) ** 0.5
    error = max(0.0, (FOLDS - 1) / FOLDS * float(np.mean(squares) - np.mean(own))) ** 0.5
    return plain(float(np.mean(scores)), float(np.clip(error, least, least * FOLDS**0.5)))


def from_xrays(F: np.ndarray, y: np.ndarray, g: np.ndarray, n: int) -> Any:
    """Return a function that draws images: a model, rows, labels, patients, the AUC, its error."""
    F = (F - F.mean(axis=0)) / np.maximum(F.std(axis=0), 1e-6)
    model = Ridge(Products(F))
    names, codes, sizes = np.unique(g, return_inverse=True, return_counts=True)

    def draw(rng: np.random.Generator) -> Any:
        order = rng.permutation(len(names))
        taken = order[: int(np.searchsorted(np.cumsum(sizes[order]), n)) + 1]
        rows, rest = (np.flatnonzero(np.isin(codes, taken) == side) for side in (True, False))
        score = model.fit(rows[:, None], y[rows]).decision_function(rest[:, None])
        found = roc_auc_interval(y[rest], score, groups=g[rest], method="delong", scale="linear")
        return model, rows[:, None], y[rows], g[rows], found[0], (found[2] - found[0]) / 1.96

    return draw


def from_normals(n: int, n_features: int, distance: float, several: bool) -> Any:
    """The same for normal features, whose classes differ in the mean."""

    def draw(rng: np.random.Generator) -> Any:
        sizes = rng.integers(1, 6, n) if several else np.ones(n, dtype=int)
        g = np.repeat(np.arange(n), sizes)[:n]
        y = (rng.random(n) < 0.5).astype(int)[g]
        shift = np.full(n_features, distance / np.sqrt(n_features))
        patient, image = rng.normal(size=(2, n, n_features))
        F = np.sqrt(1 - WITHIN) * patient[g] + np.sqrt(WITHIN) * image + np.outer(y, shift)
        model = Ridge(Products(F))
        rows = np.arange(n)[:, None]
        weights = F.T @ model.fit(rows, y).dual_
        truth = norm.cdf(weights @ shift / np.sqrt(2 * weights @ weights))
        return model, rows, y, g, float(truth), 0.0

    return draw


def measured(draw: Any, n_draws: int, n_dear: int) -> dict[str, list[Any]]:
    """Intervals of every method, with the true area and its error, for each draw."""
    found: dict[str, list[Any]] = {}
    n_done = 0
    for seed in count():
        if n_done == n_draws:
            return found
        rng = np.random.default_rng(seed)
        model, rows, y, g, truth, error = draw(rng)
        while min(len(np.unique(g[y == c])) for c in (0, 1)) < 3 * FOLDS:
            model, rows, y, g, truth, error = draw(rng)
        dear = n_done < n_dear
        try:
            repeats = _splits(model, y, g, None, 10 if dear else 1, 1000 * seed)
            own = dict(cheap_methods(model, rows, y, g, repeats, seed))
            own |= dict(dear_methods(model, rows, y, g, repeats, seed)) if dear else {}
        except ValueError:  # a fold with one patient of a class: of all methods, none is counted
            continue
        n_done += 1
        for name, interval in own.items():
            found.setdefault(name, []).append((*interval, truth, error))
    return found


def summarized(found: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """Coverage and width of every method; the oracle knows the error of the first."""
    table = {name: np.array(values, dtype=float) for name, values in found.items()}
    estimate, _, _, truth, error = next(iter(table.values())).T
    oracle = np.sqrt(np.mean((estimate - truth) ** 2) - np.mean(error**2)) * 2 * 1.96
    return [_row(name, values, float(oracle)) for name, values in table.items()]


def _row(method: str, values: np.ndarray, oracle: float) -> dict[str, Any]:
    score, low, high, truth, error = values.T
    half = np.where(truth < score, score - low, high - score)
    near = np.abs(score - truth)
    return {
        "method": method,
        "draws": len(values),
        "truth": float(truth.mean()),
        "score": float(score.mean()),
        "covers": float(np.mean(near <= half)),
        "covers_without_noise": float(np.mean(near <= np.hypot(half, 1.96 * error))),
        "width": float(np.mean(high - low)),
        "times_oracle": float(np.mean(high - low)) / oracle,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=500, help="of X-rays")
    parser.add_argument("--simulated", type=int, default=400, help="draws of normals")
    parser.add_argument("--dear", type=int, default=100)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--features", type=Path, help="an .npz instead of the shared images")
    parser.add_argument("--results", type=Path, help="folder of the JSON file")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    description, neighbors = machine(), Neighbors()
    if args.features is None:
        shared = shared_with_weights()
        with workspace() as folder:
            chest = xrays(shared)
            extractor = extractors(shared, cache=folder / "store")[NETWORK]
            F, y, g = extractor.fit_transform(chest.X), chest.y, chest.groups
    else:
        with np.load(args.features, allow_pickle=False) as file:
            F, y, g = file["F"], file["y"], file["g"]
    F, y = np.asarray(F, dtype=float), np.asarray(y == np.max(y)).astype(int)
    cells = []
    for n in args.sizes:
        draws = {"chest X-rays": from_xrays(F, y, np.asarray(g), n)}
        draws |= {name: from_normals(n, *each) for name, each in NORMALS.items()}
        for data, draw in draws.items():
            n_draws = args.draws if data == "chest X-rays" else args.simulated
            found = measured(draw, n_draws, args.dear)
            cells.append({"data": data, "n": n, "rows": summarized(found)})
            print(cells[-1], flush=True)
    columns = ("method", "draws", "covers", "covers_without_noise", "width", "times_oracle")
    for cell in cells:
        lines = [
            [row["method"], row["draws"], *(f"{row[name]:.3f}" for name in columns[2:])]
            for row in cell["rows"]
        ]
        print_table(f"{cell['data']}, n = {cell['n']}", columns, lines)
    content = {"machine": description, "others_share": neighbors.share(), "n": args.draws}
    write_json(
        "intervals",
        {**content, "simulated": args.simulated, "dear": args.dear, "cells": cells},
        args.results,
    )


if __name__ == "__main__":
    main()
