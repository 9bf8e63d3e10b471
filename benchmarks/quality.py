"""How good what comes out is: sets of images x networks x recipes, in one table.

    python benchmarks/quality.py [--sets chest ants ...] [--networks ...] [--recipes ...]
    python benchmarks/quality.py --report       # nothing is run: what the results say
    python benchmarks/quality.py --medmnist --medmnist-root FOLDER    # 12 sets x 4 sizes

Needs the shared data and weights (``SKTRANSFER_TEST_SHARED``), for ``--medmnist`` the files of
MedMNIST+ or the package ``medmnist`` and a connection. Another seed is another split. A cell is a
set, a network, a recipe and a seed; it is written when done, and one that is there is skipped, so
that a run that was interrupted goes on (``--again`` repeats). Several runs may write at once.
Costly recipes run on the first fold of each seed (``--folds``), on small sets on all.
"""

from __future__ import annotations

import argparse
import datetime
import fcntl
import json
import os
import subprocess
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _common import RESULTS, machine, shared_with_weights, workspace
from _quality_page import report
from _quality_recipes import NETWORKS, RECIPES, Job, Recipe, features
from _quality_sets import MEDMNIST, MEDMNIST_SIZES, SETS, ImageSet, medmnist_set
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

import sktransfer

# Costly recipes run on all folds where there are no more images.
SMALL = 100
FIGURES = ("auc", "accuracy", "log_loss", "brier", "seconds")


# --- results ----------------------------------------------------------------------------------


def read(path: Path) -> dict[str, Any]:
    if path.is_file():
        return json.loads(path.read_text())
    return {"machine": {}, "sets": {}, "cells": {}}


def add(path: Path, name: str, cell: dict[str, Any], images: ImageSet) -> None:
    """Put a cell into the file, which another run may be writing to."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        content = read(path)
        content["machine"] = machine()
        content["sets"][images.name] = images.describe()
        content["cells"][name] = cell
        parts = [
            f' "{part}": {{\n'
            + ",\n".join(
                f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in content[part].items()
            )
            + "\n }"
            for part in ("machine", "sets", "cells")
        ]
        new = path.with_suffix(f".{os.getpid()}")
        new.write_text("{\n" + ",\n".join(parts) + "\n}\n")
        new.replace(path)
    finally:
        os.close(folder)  # and with it the lock


def commit() -> str:
    """The state of the library that is measured."""
    done = subprocess.run(
        ["git", "-C", str(Path(sktransfer.__file__).parent), "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


# --- cells ------------------------------------------------------------------------------------


def figures(y: np.ndarray, proba: np.ndarray) -> dict[str, float]:
    """Scores of one fold; the Brier score of two classes is halved, as is usual."""
    if y.ndim == 2:  # several labels: their means
        each = [
            figures(y[:, i], np.column_stack([1 - proba[:, i], proba[:, i]]))
            for i in range(y.shape[1])
            if 0 < y[:, i].sum() < len(y)
        ]
        return {name: float(np.mean([one[name] for one in each])) for name in each[0]}
    classes = np.arange(proba.shape[1])
    proba = np.asarray(proba, dtype=float)
    proba = proba / proba.sum(axis=1, keepdims=True)
    binary = len(classes) == 2
    squares = float(((proba - (y[:, None] == classes)) ** 2).sum(axis=1).mean())
    auc = roc_auc_score(y, proba[:, 1]) if binary else _one_vs_rest(y, proba)
    return {
        "auc": float(auc),
        "accuracy": float(accuracy_score(y, proba.argmax(axis=1))),
        "log_loss": float(log_loss(y, proba, labels=classes)),
        "brier": squares / 2 if binary else squares,
    }


def _one_vs_rest(y: np.ndarray, proba: np.ndarray) -> float:
    present = [k for k in range(proba.shape[1]) if 0 < (y == k).sum() < len(y)]
    return float(np.mean([roc_auc_score(y == k, proba[:, k]) for k in present]))


def measure(
    images: ImageSet, network: str, recipe: Recipe, seed: int, folds: Iterable[int], args: Any
) -> dict[str, Any]:
    """The cell: figures of each fold asked for."""
    cell: dict[str, Any] = {"folds": [], **{name: [] for name in FIGURES}}
    for fold, (train, test) in enumerate(images.splits(seed)):
        if fold not in folds:
            continue
        job = Job(images, network, train, test, seed, args.shared, args.store)
        for layer in recipe.layers:
            features(job, layer)
        start = time.perf_counter()
        proba = recipe.run(job)
        seconds = time.perf_counter() - start
        one = {**figures(images.y[test], proba), "seconds": seconds}
        cell["folds"].append(fold)
        for name in FIGURES:
            cell[name].append(float(f"{one[name]:.4g}"))
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M")
    return {**cell, "commit": commit(), "date": now}


def plan(args: Any, sets: list[ImageSet]) -> Iterator[tuple[ImageSet, str, str, int, list[int]]]:
    """Cells in the order in which they are run: recipes as listed, cheap ones first."""
    for name in args.recipes:
        recipe = RECIPES[name]
        for images in sets:
            small = images.image_size is not None
            if small and not recipe.drift and not args.medmnist:
                continue
            if name in ("drifting", "frozen_eval") and not small:
                continue
            if images.y.ndim == 2 and name not in ("pixels", "embedding", "all_layers"):
                continue  # several labels for an image: only what solves them one by one
            n_folds = images.describe()["folds"]
            # Where networks see images small, all recipes run on the same few folds.
            few = small or (recipe.costly and len(images.y) > SMALL)
            folds = list(range(n_folds))[: args.folds or (1 if few else n_folds)]
            networks = [n for n in recipe.networks if n in args.networks or n not in NETWORKS]
            seeds = range(args.seeds if images.seeds_differ or recipe.costly else 1)
            for seed in seeds:
                for network in networks:
                    if small and network != "resnet18":
                        continue
                    yield images, network, name, seed, folds


def run(args: Any, sets: list[ImageSet], path: Path) -> int:
    """Measure what is missing; the number of cells that failed."""
    failed = 0
    begun = time.perf_counter()
    for images, network, name, seed, folds in plan(args, sets):
        if args.minutes and time.perf_counter() - begun > 60 * args.minutes:
            print("out of time: start the script again to resume", flush=True)
            break
        cell_name = " | ".join((images.name, network, name, str(seed)))
        there = {} if args.again else read(path)["cells"].get(cell_name, {})
        missing = [fold for fold in folds if fold not in there.get("folds", [])]
        if not missing:
            continue
        try:
            cell = measure(images, network, RECIPES[name], seed, missing, args)
        except Exception:  # the others go on
            failed += 1
            print(f"{cell_name}: FAILED\n{traceback.format_exc()}", flush=True)
            continue
        for key in ("folds", *FIGURES):  # those that an earlier run measured come first
            cell[key] = [*there.get(key, []), *cell[key]]
        add(path, cell_name, cell, images)
        means = {key: round(float(np.mean(cell[key])), 4) for key in FIGURES}
        print(f"{cell_name}: {means}", flush=True)
    return failed


def sets_of(args: Any) -> list[ImageSet]:
    if not args.medmnist:
        return [SETS[name](args.shared) for name in args.sets]
    made = []
    for flag in args.medmnist_sets:
        for size in args.medmnist_sizes:
            try:
                made.append(medmnist_set(flag, size, args.medmnist_root))
            except (ImportError, OSError, RuntimeError) as error:
                print(f"{flag}mnist at {size} px: left out ({error})", flush=True)
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--networks", nargs="+", default=[*NETWORKS], help="see RECIPES")
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--folds", type=int, help="of each seed; default: see above")
    parser.add_argument("--minutes", type=float, help="start no cell after so many")
    parser.add_argument("--again", action="store_true", help="also what the results hold")
    parser.add_argument("--quick", action="store_true", help="lesions, one seed, frozen recipes")
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--store", type=Path, help="folder of activations that stays")
    parser.add_argument("--medmnist", action="store_true", help="the sets of MedMNIST+ instead")
    parser.add_argument("--medmnist-root", type=Path, help="folder of their npz files")
    parser.add_argument("--medmnist-sets", nargs="+", choices=MEDMNIST, default=MEDMNIST)
    parser.add_argument("--medmnist-sizes", nargs="+", type=int, default=MEDMNIST_SIZES)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON file")
    args = parser.parse_args()
    if args.quick:
        args.sets, args.seeds, args.networks = ["skin"], 1, ["squeezenet1_0"]
        args.recipes = ["pixels", "readme_line", "embedding", "all_layers"]
    args.results.mkdir(parents=True, exist_ok=True)
    path = args.results / ("quality_medmnist.json" if args.medmnist else "quality.json")
    failed = 0
    if not args.report:
        args.shared = shared_with_weights()
        warnings.simplefilter("ignore")
        with workspace() as folder:
            args.store = args.store or folder / "store"
            failed = run(args, sets_of(args), path)
    print(report(read(path)))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
