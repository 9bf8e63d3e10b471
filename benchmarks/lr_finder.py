"""Whether the suggested learning rate is as good as the best of a grid, on real images.

    python benchmarks/lr_finder.py [--minutes 30] [--epochs 5] [--rows 200] [--side 96] [--table]

For every set of images, network, depth and start of the head: ``find_lr``, then a training at each
rate of a grid and at the suggestion, on the same rows. Reported are the loss of the rows trained on
and of held-out rows (other patients, other lesions) at the end, without choosing an epoch. Needs
the shared data and weights (``SKTRANSFER_TEST_SHARED``). What is in the results already is not
repeated; ``--minutes`` bounds what is begun. ``--table`` prints the results.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import (
    RESULTS,
    Neighbors,
    machine,
    number,
    print_table,
    shared_with_weights,
    write_json,
)
from _tasks import Task, ants_and_bees, lesions, pneumonia_mnist, xrays
from finetune import BACKBONES, weights_of
from sklearn.base import clone
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedGroupKFold

from sktransfer import FineTuneClassifier, clear_cache

NETWORKS = ("mobilenet_v2", "efficientnet_lite0", "squeezenet1_0", "resnet18")
GRID = {f"{rate:.3g}": float(rate) for rate in np.logspace(-6, -1.5, 10)}
SETS = {
    "chest X-rays": xrays,
    "ants and bees": ants_and_bees,
    "PneumoniaMNIST": pneumonia_mnist,
    "skin lesions": lesions,
}


def parts(task: Task, n: int) -> tuple[Any, np.ndarray, Any, np.ndarray]:
    """At most ``n`` rows to train on, and as many of other groups."""
    y = np.asarray(task.y)
    groups = np.arange(len(y)) if task.groups is None else task.groups
    folds = StratifiedGroupKFold(2 if len(y) >= 200 else 4, shuffle=True, random_state=0)
    train, test = next(folds.split(y, y, groups))
    rng = np.random.default_rng(0)
    train, test = rng.permutation(train)[:n], rng.permutation(test)[:n]
    return task.X[train], y[train], task.X[test], y[test]


def classifier(shared: Path, name: str, depth: int, start: str, seed: int, args: Any) -> Any:
    weights = {"weights": weights_of(shared, name)} if name in BACKBONES else {}
    return FineTuneClassifier(
        name,
        freeze_depth=depth,
        head__init=start,
        image_size=args.side,
        max_epochs=args.epochs,
        engine="torch",
        random_state=seed,
        **weights,
    )


def losses(clf: Any, rate: float, data: Any) -> list[float] | None:
    """Losses of training and held-out rows after training at a rate; None: if it ran away."""
    X, y, X_test, y_test = data
    clf = clone(clf)
    clf.set_params(lr=rate) if rate else clf.set_params(max_epochs=0)
    try:
        clf.fit(X, y)
        scored = ((X, y), (X_test, y_test))
        return [float(log_loss(b, clf.predict_proba(a), labels=clf.classes_)) for a, b in scored]
    except FloatingPointError:
        return None


def run(clf: Any, data: Any, row: dict[str, Any]) -> Iterator[None]:
    """Add to ``row`` what it lacks, piece by piece."""
    known = row.setdefault("losses", {})
    if "curve" not in row:
        begun = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = clf.find_lr(data[0], data[1])
        row["seconds"] = time.perf_counter() - begun
        row["warnings"] = [str(each.message) for each in caught]
        row["suggestion"] = found.suggestion if np.isfinite(found.suggestion) else None
        row["curve"] = {name: _plain(found[name]) for name in ("lr", "loss", "valid_loss")}
        row["starts"] = [found.start, found.valid_start]
        yield
    for what, rate in {"suggestion": row["suggestion"], "start": 0.0, **GRID}.items():
        if what not in known and rate is not None:
            known[what] = losses(clf, rate, data)
            yield


def _plain(values: np.ndarray) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]


def against_best(row: dict[str, Any]) -> dict[str, float]:
    """How far the suggestion is from the best rate of the grid.

    ``share`` is the part of the fall in training loss, from the start to the best of the grid, that
    the suggestion misses; ``train`` and ``held out`` are losses divided by the lowest.
    """
    table = {what: each for what, each in row["losses"].items() if each is not None}
    grid = np.array([each for what, each in table.items() if what not in ("start", "suggestion")])
    best = grid.min(axis=0)
    train, held_out = table["suggestion"]
    start = table["start"][0]
    return {
        "share": (train - best[0]) / (start - best[0]),
        "train": train / best[0],
        "held out": held_out / best[1],
    }


def show(rows: list[dict[str, Any]]) -> None:
    wanted = {"start", *GRID}
    rows = [row for row in rows if wanted <= row["losses"].keys() and "curve" in row]
    cells = []
    for row in rows:
        name = [str(each) for each in row["key"]]
        if row["suggestion"] is None:
            cells.append([*name, "none", "", "", ""])
            continue
        far = against_best(row)
        ratios = [number(far[what]) for what in ("share", "train", "held out")]
        cells.append([*name, f"{row['suggestion']:.1e}", *ratios])
    header = [
        "images",
        "network",
        "depth",
        "head",
        "suggestion",
        "share missed",
        "train",
        "held out",
    ]
    print_table("The suggested rate against the best of a grid", header, cells)
    far = [against_best(row) for row in rows if row["suggestion"] is not None]
    for what, bound in (("share", 0.1), ("train", 1.1), ("held out", 1.1)):
        values = np.array([each[what] for each in far])
        print(
            f"{what}: within 10 % in {(values <= bound).sum()} of {len(values)} runs, median "
            f"{np.median(values):.3f}, worst {values.max():.3f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    path = RESULTS / "lr_finder.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    if args.table:
        show(rows)
        return
    torch.set_num_threads(args.threads)
    shared, neighbors, begun = shared_with_weights(), Neighbors(), time.monotonic()
    known = {tuple(row["key"]): row for row in rows}
    data = {name: parts(make(shared), args.rows) for name, make in SETS.items()}
    cases = list(itertools.product(SETS, NETWORKS, (-1, -2), ("logistic", "random")))
    random.Random(0).shuffle(cases)  # so that those that time allows are of every kind
    for key in sorted(cases, key=lambda each: each not in known):
        row = known.get(key, {"key": list(key)})
        for _ in run(classifier(shared, *key[1:], 0, args), data[key[0]], row):
            rows = [*rows, row] if row not in rows else rows
            content = {"machine": machine(), "others_share": neighbors.share(), "rows": rows}
            settings = {name: getattr(args, name) for name in ("epochs", "rows", "side")}
            write_json("lr_finder", {**content, "settings": settings})
            if time.monotonic() - begun > args.minutes * 60:
                break
        clear_cache()
        if time.monotonic() - begun > args.minutes * 60:
            break
    show(rows)


if __name__ == "__main__":
    main()
