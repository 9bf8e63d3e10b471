"""What ``precision="int8"`` costs a classifier: AUC and accuracy with and without it.

    python benchmarks/int8_quality.py [--networks resnet18 ...] [--seeds 10] [--n 1000]

A logistic regression of scaled columns (C=0.01) on all layers, and on the embedding alone, which
are its last columns. Cross-validated in five folds that keep patients and lesions together; for
PneumoniaMNIST, trained on four fifths of ``--n`` training images and tested on the official test
images. Each figure is the mean over ``--seeds`` draws of folds or fifths, for a single one tells
the cost no better than to two or three images. Needs the shared images and weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _common import (
    RESULTS,
    machine,
    number,
    print_table,
    shared_with_weights,
    workspace,
    write_json,
)
from _tasks import Task, ants_and_bees, extractors, lesions, pneumonia_mnist, xrays
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

PRECISIONS = ("float32", "int8")


def tasks(shared: Path, n: int) -> Iterator[tuple[Task, int]]:
    """The sets, and how many rows at the end of each are for testing; 0: cross-validated."""
    yield xrays(shared), 0
    yield ants_and_bees(shared), 0
    yield lesions(shared), 0
    task = pneumonia_mnist(shared, n)
    with np.load(shared / "data" / "pneumoniamnist" / "pneumoniamnist.npz") as file:
        X, y = file["test_images"], file["test_labels"].ravel().astype(int)
    both = Task(task.name, np.concatenate([task.X, X]), np.concatenate([task.y, y]))
    yield both, len(y)


def probe(F: np.ndarray, task: Task, n_test: int, seeds: int) -> tuple[float, float]:
    """AUC and accuracy of a logistic regression."""
    y = np.asarray(task.y).astype(int)
    groups = np.arange(len(y)) if task.groups is None else task.groups
    rows, figures = np.arange(len(y)), []
    for seed in range(seeds):
        if n_test:
            drawn = np.random.default_rng(seed).permutation(len(y) - n_test)
            splits = [(drawn[: len(drawn) * 4 // 5], rows[-n_test:])]
        else:
            folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
            splits = list(folds.split(F, y, groups))
        scores = np.full(len(y), np.nan)
        for train, test in splits:
            model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
            scores[test] = model.fit(F[train], y[train]).decision_function(F[test])
        seen = ~np.isnan(scores)
        right = (scores[seen] > 0) == y[seen]
        figures.append((roc_auc_score(y[seen], scores[seen]), right.mean()))
    auc, accuracy = np.mean(figures, axis=0)
    return float(auc), float(accuracy)


def compare(name: str, extractor: Any, task: Task, n_test: int, seeds: int) -> list[dict[str, Any]]:
    """One record for all layers, and one for the embedding."""
    features, widths = {}, ()
    for precision in PRECISIONS:
        own = clone(extractor).set_params(layer="all", precision=precision)
        features[precision] = own.fit(task.X[:1]).transform(task.X)
        widths = own._widths
    records = []
    for columns, first in (("embedding", -widths[-1]), ("all layers", 0)):
        own, right = (features[precision][:, first:] for precision in reversed(PRECISIONS))
        apart = np.linalg.norm(own - right, axis=1) / np.linalg.norm(right, axis=1)
        record = {
            "network": name,
            "set": task.name,
            "images": len(task.y),
            "columns": columns,
            "difference": float(np.median(apart)),
        }
        for precision in PRECISIONS:
            auc, accuracy = probe(features[precision][:, first:], task, n_test, seeds)
            record |= {f"auc_{precision}": auc, f"accuracy_{precision}": accuracy}
        records.append(record)
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+")
    parser.add_argument("--seeds", type=int, default=10, help="draws of the training rows")
    parser.add_argument("--n", type=int, default=1000, help="training images of PneumoniaMNIST")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    shared = shared_with_weights()
    records: list[dict[str, Any]] = []
    with workspace():
        for name, extractor in extractors(shared).items():
            if args.networks and name not in args.networks:
                continue
            for task, n_test in tasks(shared, args.n):
                records += compare(name, extractor, task, n_test, args.seeds)
                print(*records[-2:], sep="\n", flush=True)
    print_table(
        "What int8 costs",
        ("network", "set", "columns", "AUC float32", "int8", "accuracy float32", "int8", "apart"),
        [
            (
                *(record[key] for key in ("network", "set", "columns")),
                *(f"{record[f'auc_{precision}']:.4f}" for precision in PRECISIONS),
                *(f"{record[f'accuracy_{precision}']:.4f}" for precision in PRECISIONS),
                number(record["difference"], 2),
            )
            for record in records
        ],
    )
    for metric in ("auc", "accuracy"):
        lost = [record[f"{metric}_float32"] - record[f"{metric}_int8"] for record in records]
        large = [
            loss for loss, record in zip(lost, records, strict=True) if record["images"] >= 300
        ]
        print(
            f"{metric} lost on average: {np.mean(lost):.4f}, at most {np.max(lost):.4f}; "
            f"on sets of 300 images or more: {np.mean(large):.4f}, at most {np.max(large):.4f}"
        )
    content = {
        "machine": machine(),
        "seeds": args.seeds,
        "records": records,
    }
    write_json("int8_quality", content, args.results)


if __name__ == "__main__":
    main()
