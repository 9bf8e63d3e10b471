"""What pooling patients' images in different ways is worth, and whether the right image is found.

    python benchmarks/bags.py [--repeats 3]

Needs the shared data and weights (``SKTRANSFER_TEST_SHARED``). Bags of ants, of which half have one
bee: training and test bags are made of different photographs. And the patients of the chest X-rays
with two or more images, whose images are all of one class; patients with one image are trained on
too.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from _common import Neighbors, machine, print_table, shared_with_weights, workspace, write_json
from _tasks import ants_and_bees, extractors, xrays
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer.bags import BagClassifier, make_bags

POOLINGS = ("mean", "max", "lse", "attention")
NETWORKS = ("efficientnet_lite0", "resnet18")
SIZES = (3, 8)
N_BAGS = 150


def planted(
    F: np.ndarray, y: np.ndarray, rng: np.random.Generator
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Bags of embeddings, labels, and the place of the bee in each bag with one."""
    ants, bees = np.flatnonzero(y == 0), np.flatnonzero(y == 1)
    labels = np.arange(N_BAGS) % 2
    bags, places = [], np.full(N_BAGS, -1)
    for number, label in enumerate(labels):
        rows = rng.choice(ants, rng.integers(SIZES[0], SIZES[1] + 1), replace=False)
        if label:
            places[number] = rng.integers(len(rows))
            rows[places[number]] = rng.choice(bees)
        bags.append(F[rows])
    return bags, labels, places


def measure_planted(F: np.ndarray, y: np.ndarray, repeats: int) -> list[dict[str, Any]]:
    found: dict[str, list[dict[str, float]]] = {pooling: [] for pooling in POOLINGS}
    for seed in range(repeats):
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(y))
        train, test = order[: len(y) // 2], order[len(y) // 2 :]
        bags, labels, _ = planted(F[train], y[train], rng)
        test_bags, test_labels, places = planted(F[test], y[test], rng)
        for pooling in POOLINGS:
            model = BagClassifier(pooling=pooling, random_state=seed).fit(bags, labels)
            scores = model.image_scores(test_bags)
            decided = scores.loc[scores.groupby("bag")["contribution"].idxmax(), "image"]
            found[pooling].append(
                {
                    "auc": roc_auc_score(test_labels, model.decision_function(test_bags)),
                    "found": float(np.mean(decided.to_numpy()[places >= 0] == places[places >= 0])),
                }
            )
        print(f"planted, repeat {seed}", flush=True)
    return [_row(pooling, each) for pooling, each in found.items()]


def measure_patients(
    F: np.ndarray, y: np.ndarray, patients: np.ndarray, repeats: int
) -> list[dict[str, Any]]:
    of_patient = {patient: set(y[patients == patient]) for patient in np.unique(patients)}
    kept = np.array([len(of_patient[patient]) == 1 for patient in patients])
    bags = make_bags(F[kept], y[kept], groups=patients[kept])
    X = bags.data
    several = X.map(len).to_numpy() > 1
    found: dict[str, list[dict[str, float]]] = {}
    for seed in range(repeats):
        scores: dict[str, np.ndarray] = {}
        folds = StratifiedKFold(5, shuffle=True, random_state=seed)
        for train, test in folds.split(X, 2 * bags.target + several):
            for name, score in _scores(X.iloc[train], bags.target[train], X.iloc[test], seed):
                scores.setdefault(name, np.empty(len(X)))[test] = score
        for name, score in scores.items():
            auc = roc_auc_score(bags.target[several], score[several])
            found.setdefault(name, []).append({"auc": auc, "patients": int(several.sum())})
        print(f"patients, repeat {seed}", flush=True)
    return [_row(name, each) for name, each in found.items()]


def _scores(train: Any, labels: np.ndarray, test: Any, seed: int) -> Any:
    """Yield names and scores of the bags of ``test``."""
    images, test_images = np.vstack([*train]), np.vstack([*test])
    sizes = test.map(len).to_numpy()
    starts = np.cumsum(sizes) - sizes
    of_image = np.repeat(labels, train.map(len))
    for C in (0.003, 0.01, 0.03):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=5000))
        logits = model.fit(images, of_image).decision_function(test_images)
        yield f"images alone, mean logit, C={C}", np.add.reduceat(logits, starts) / sizes
        yield (
            f"images alone, mean probability, C={C}",
            np.add.reduceat(expit(logits), starts) / sizes,
        )
        yield f"images alone, maximum, C={C}", np.maximum.reduceat(logits, starts)
    for pooling in POOLINGS:
        model = BagClassifier(pooling=pooling, random_state=seed).fit(train, labels)
        yield f"BagClassifier, {pooling}", model.decision_function(test)


def _row(case: str, repeats: list[dict[str, float]]) -> dict[str, Any]:
    means = {name: float(np.mean([each[name] for each in repeats])) for name in repeats[0]}
    return {"case": case, **means, "repeats": repeats}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=Path, help="folder of the JSON file")
    args = parser.parse_args()
    shared = shared_with_weights()
    warnings.simplefilter("ignore")
    description, neighbors = machine(), Neighbors()
    insects, chest = ants_and_bees(shared), xrays(shared)
    tables: dict[str, Any] = {"planted": {}, "patients": {}}
    with workspace() as folder:
        given = extractors(shared, cache=folder / "store")
        for network in NETWORKS:
            F = given[network].fit_transform(insects.X)
            tables["planted"][network] = measure_planted(F, insects.y, args.repeats)
            F = given[network].set_params(layer="all").fit_transform(chest.X)
            tables["patients"][network] = measure_patients(F, chest.y, chest.groups, args.repeats)
    for title, networks in tables.items():
        columns = [name for name in networks[NETWORKS[0]][0] if name not in ("case", "repeats")]
        rows = [
            (network, row["case"], *(f"{row[name]:.3f}" for name in columns))
            for network, own in networks.items()
            for row in own
        ]
        print_table(title, ("network", "case", *columns), rows)
    content = {"machine": description, "others_share": neighbors.share(), "n": args.repeats}
    write_json("bags", {**content, **tables}, args.results)


if __name__ == "__main__":
    main()
