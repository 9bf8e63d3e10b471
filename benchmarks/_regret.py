"""What is lost by a network that is chosen on few images, against the one that turns out best.

It must not know where images and networks come from: everything here is features and labels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from _tasks import Task
from sklearn.metrics import roc_auc_score

from sktransfer._utils.logistic import solve_linear
from sktransfer._utils.splitting import stratified_part
from sktransfer.model_selection import loo_ridge_score

# Images to choose and to train on; the others judge.
SIZES = (60, 150, 600)


class Features(NamedTuple):
    """All layers of a network side by side, their widths, and its published accuracy."""

    F: np.ndarray
    widths: list[int]
    top1: float

    def layers(self) -> list[slice]:
        """Columns of each layer, the embedding last."""
        ends = np.cumsum(self.widths)
        return [slice(end - width, end) for end, width in zip(ends, self.widths, strict=True)]


def regret_cases(task: Task, found: dict[str, Features], n_splits: int) -> list[dict[str, Any]]:
    """One case for each number of images; a small set is also split at four fifths."""
    n = len(task.y)
    sizes = [size for size in SIZES if 1.25 * size <= n] + ([int(0.8 * n)] if n < 750 else [])
    return [_case(task, found, size, n_splits) for size in sizes]


def _case(task: Task, found: dict[str, Features], size: int, n_splits: int) -> dict[str, Any]:
    splits = [_split(task, found, size, seed) for seed in range(n_splits)]

    def mean(part: str, key: str) -> float:
        return float(np.mean([split[part][key] for split in splits]))

    areas = {name: mean("areas", name) for name in found}
    best = max(areas, key=areas.__getitem__)
    case = {
        "set": task.name,
        "n_train": size,
        "best": best,
        "areas": areas,
        "regret": {way: areas[best] - mean("ways", way) for way in splits[0]["ways"]},
    }
    print(case, flush=True)
    return case


def _split(task: Task, found: dict[str, Features], size: int, seed: int) -> dict[str, Any]:
    """What each way of choosing chooses on training images, and the area on all others."""
    train = stratified_part(task.y, size, groups=task.groups, random_state=seed)
    test = np.setdiff1d(np.arange(len(task.y)), train)
    y, groups = task.y[train], None if task.groups is None else task.groups[train]

    def score(F: np.ndarray) -> float:
        return loo_ridge_score(F[train], y, groups=groups, scoring="roc_auc")

    def area(F: np.ndarray) -> float:
        coefficients, intercepts = solve_linear(F[train], y, np.ones(len(y)), 2, 0.01)
        decision = F[test] @ np.diff(coefficients, axis=0)[0] + np.diff(intercepts)[0]
        return float(roc_auc_score(task.y[test], decision))

    def best(scores: dict[str, float]) -> str:
        return max(scores, key=scores.__getitem__)

    single = {name: [score(f.F[:, each]) for each in f.layers()] for name, f in found.items()}
    layered = best({name: max(scores) for name, scores in single.items()})
    at = found[layered].layers()[int(np.argmax(single[layered]))]
    embedding = best({name: scores[-1] for name, scores in single.items()})
    areas = {name: area(each.F) for name, each in found.items()}
    ways = {
        "all layers": areas[best({name: score(each.F) for name, each in found.items()})],
        "best single layer": areas[layered],
        "best single layer, used alone": area(found[layered].F[:, at]),
        "embedding": areas[embedding],
        "embedding, used alone": area(found[embedding].F[:, found[embedding].layers()[-1]]),
        "ImageNet accuracy": areas[best({name: each.top1 for name, each in found.items()})],
        "random": float(np.mean([*areas.values()])),
    }
    return {"areas": areas, "ways": ways}


def summary(cases: list[dict[str, Any]], smallest: str) -> list[dict[str, Any]]:
    """Means over cases, with and without the set of a few images."""
    rows = []
    for way in cases[0]["regret"]:
        values = {(case["set"], case["n_train"]): case["regret"][way] for case in cases}
        others = [value for (name, _), value in values.items() if name != smallest]
        rows.append({
            "by": way,
            "regret": float(np.mean([*values.values()])),
            "others": float(np.mean(others)) if others else None,
            "worst": float(max(values.values())),
        })  # fmt: skip
    return rows
