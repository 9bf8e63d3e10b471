"""How well the tools for choosing choose, on real images.

    python benchmarks/choosing.py [--tasks regret ranking cost strategies layers heads]

Needs the shared data and weights (``SKTRANSFER_TEST_SHARED``). ``regret``: what is lost by the
network that is chosen on some images, against the one that turns out best on the others.
``ranking``: scores of every stage of four networks on chest X-rays against cross-validated
accuracy. ``cost``: seconds of ``rank_backbones`` against one extraction. ``strategies``: what
``recommend_strategy`` advises against the other strategies. ``layers``: features of several stages,
and a selection of them.
``heads``: the embedding and all layers with and without a scaler, at two strengths of the penalty.
"""

from __future__ import annotations

import argparse
import time
import warnings
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from _common import Neighbors, machine, print_table, shared_with_weights, workspace, write_json
from _regret import Features, regret_cases, summary
from _tasks import Task, ants_and_bees, extractors, lesions, pneumonia_mnist, xrays
from finetune import PLAIN
from scipy.stats import kendalltau, spearmanr
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_selection import SelectFromModel
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss, roc_auc_score
from sklearn.model_selection import (
    GridSearchCV,
    StratifiedGroupKFold,
    StratifiedKFold,
    cross_val_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer import describe_backbone, list_backbones
from sktransfer._scoring.networks import layer_columns
from sktransfer.model_selection import grouped_train_test_split, rank_backbones, recommend_strategy

NETWORKS = ("efficientnet_lite0", "resnet18", "mobilenet_v2", "squeezenet1_0")
METRICS = ("loo_ridge", "knn", "logme", "hscore")
MEASURES = ("ROC AUC", "accuracy", "log loss", "Brier", "not converged", "CPU s")
STRATEGIES = ("extract", "truncate", "fine-tune part", "train the top", "train everything")


def probe(C: float = 0.01) -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=2000))


def folds_of(task: Task, seed: int, n: int = 5) -> Any:
    kind = StratifiedKFold if task.groups is None else StratifiedGroupKFold
    return kind(n, shuffle=True, random_state=seed)


def candidates(shared: Path, args: argparse.Namespace, **params: Any) -> dict[str, Any]:
    found = extractors(shared, **params)
    return {name: found[name] for name in args.networks}


def regret(shared: Path, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    top1 = list_backbones().set_index("name")["imagenet_top1"]
    cases = []
    for task in (xrays(shared), ants_and_bees(shared), pneumonia_mnist(shared), lesions(shared)):
        found = {
            name: Features(
                *all_layers(task, extractor, folder / f"{task.name}_{name}.npz"), float(top1[name])
            )
            for name, extractor in candidates(shared, args, cache=None).items()
        }
        cases += regret_cases(task, found, args.regret_splits)
    rows = summary(cases, "skin lesions")
    for row in rows:
        print(row, flush=True)
    return {"splits": args.regret_splits, "networks": args.networks, "rows": rows, "cases": cases}


def all_layers(task: Task, extractor: Any, file: Path) -> tuple[np.ndarray, list[int]]:
    """All layers of a network side by side, and their widths; from the file if it is there."""
    if not file.exists():
        own = clone(extractor).set_params(layer="all")
        F = own.fit_transform(task.X)
        np.savez(file, F=F, w=[columns.stop - columns.start for _, columns in layer_columns(own)])
    with np.load(file) as stored:
        return stored["F"], stored["w"].tolist()


def ranking(shared: Path, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    task = thinned(xrays(shared), args.n)
    named = candidates(shared, args, cache=str(folder))
    found = rank_backbones(
        task.X, task.y, named, layers="each", metric=list(METRICS), groups=task.groups
    )
    table = found.table.copy()
    accuracies = []
    for place in range(len(table)):
        F = found.make_extractor(place).fit_transform(task.X)
        scores = [
            cross_val_score(probe(), F, task.y, groups=task.groups, cv=folds_of(task, seed))
            for seed in range(3)
        ]
        accuracies.append(float(np.mean(scores)))
    table["accuracy"] = accuracies
    agreement = []
    for name in ("score", *METRICS[1:], "n_features", "imagenet_top1"):
        row: dict[str, Any] = {"by": METRICS[0] if name == "score" else name}
        row["spearman"] = float(spearmanr(table[name], table["accuracy"]).statistic)
        row["kendall"] = float(kendalltau(table[name], table["accuracy"]).statistic)
        within = [
            float(spearmanr(rows[name], rows["accuracy"]).statistic)
            for _, rows in table.groupby("backbone")
            if rows[name].nunique() > 1
        ]
        row["within_networks"] = float(np.mean(within)) if within else None
        chosen = table.loc[table[name].idxmax(), "accuracy"]
        row["regret"] = float(table["accuracy"].max() - chosen)
        agreement.append(row)
    columns = ["backbone", "layer", "n_features", "score", "low", "high", "images_per_s"]
    rows = table[[*columns, *METRICS[1:], "accuracy", "best_share"]].to_dict("records")
    print_table(
        "Agreement with cross-validated accuracy",
        ("by", "Spearman", "Kendall", "regret"),
        [(r["by"], f"{r['spearman']:.2f}", f"{r['kendall']:.2f}", f"{r['regret']:.3f}")
         for r in agreement],
    )  # fmt: skip
    return {"n": len(task.y), "rows": rows, "agreement": agreement}


def cost(shared: Path, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    task = thinned(xrays(shared), args.n_cost)
    rows = []
    for name, extractor in candidates(shared, args, cache=None).items():
        clone(extractor).fit(task.X).transform(task.X[:16])  # weights and engine
        few = thinned(task, 40)
        rank_backbones(few.X, few.y, [extractor], layers="each", n_resamples=0)
        once, ranked = [], []
        for _ in range(args.rounds):
            start = time.perf_counter()
            clone(extractor).fit_transform(task.X)
            once.append(time.perf_counter() - start)
            start = time.perf_counter()
            rank_backbones(task.X, task.y, [extractor], layers="each", groups=task.groups)
            ranked.append(time.perf_counter() - start)
        ratio = float(np.median(np.array(ranked) / np.array(once)))
        rows.append({"backbone": name, "extraction_s": min(once), "ranking_s": min(ranked),
                     "ratio": ratio})  # fmt: skip
        print(rows[-1], flush=True)
    return {"n": len(task.y), "rows": rows}


def thinned(task: Task, n: int | None) -> Task:
    """Every k-th image, so that about ``n`` are left."""
    if n is None or n >= len(task.y):
        return task
    rows = np.unique(np.linspace(0, len(task.y) - 1, n).astype(int))
    groups = None if task.groups is None else task.groups[rows]
    return Task(task.name, task.X[rows], task.y[rows], groups)


def strategies(shared: Path, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    tasks = [ants_and_bees(shared), xrays(shared), pneumonia_mnist(shared), lesions(shared)]
    extractor = extractors(shared, cache=str(folder))[args.strategy_network]
    rows = []
    for task in tasks:
        # The advice is about the whole set; the comparison, for lack of time, may be of a part.
        advice = recommend_strategy(task.X, task.y, extractor, groups=task.groups, n_images=400)
        print(advice, flush=True)
        part = thinned(task, args.n_strategy)
        row: dict[str, Any] = {
            "set": task.name,
            "n": len(part.y),
            "quadrant": advice.quadrant,
            "distance": advice.distance.distance,
            "threshold": advice.distance.threshold.value,
            "readings": list(advice.readings),
            "scores": {name: [] for name in STRATEGIES},
            "seconds": {name: [] for name in STRATEGIES},
        }
        for seed in range(args.splits):
            X, X_test, y, y_test = grouped_train_test_split(
                part.X,
                part.y,
                stratify=part.y,
                groups=part.groups,
                test_size=0.4,
                random_state=seed,
            )
            for name in STRATEGIES:
                estimator = advice.make_estimator(name)
                if name not in ("extract", "truncate"):
                    estimator.set_params(max_epochs=args.epochs, random_state=seed, **PLAIN)
                start = time.perf_counter()
                estimator.fit(X, y)
                row["seconds"][name].append(time.perf_counter() - start)
                area = roc_auc_score(y_test, estimator.predict_proba(X_test)[:, 1])
                row["scores"][name].append(float(area))
                print(task.name, seed, name, f"{area:.4f}", row["seconds"][name][-1], flush=True)
        rows.append(row)
        write_json("choosing_strategies_part", {"rows": rows}, folder)
    return {"network": args.strategy_network, "epochs": args.epochs, "rows": rows}


def layers(shared: Path, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The embedding, all stages side by side, and the columns that a classifier of all leans on."""
    rows = []
    for task in (
        ants_and_bees(shared),
        thinned(xrays(shared), args.n),
        pneumonia_mnist(shared, 400),
    ):
        for name, extractor in candidates(shared, args, cache=str(folder)).items():
            stages = list(describe_backbone(name)["name"])
            last = clone(extractor).fit_transform(task.X)
            every = clone(extractor).set_params(layer=[*stages, None]).fit_transform(task.X)
            share = SelectFromModel(RidgeClassifier(alpha=1e3), threshold=-np.inf)
            selecting = make_pipeline(
                StandardScaler(), share, LogisticRegression(C=0.01, max_iter=2000)
            )
            sizes = [int(every.shape[1] * part) for part in (0.05, 0.1, 0.25, 0.5)]
            cases = {
                "embedding": (probe(), last),
                "all stages": (probe(), every),
                "all stages, selected": (
                    GridSearchCV(
                        selecting, {"selectfrommodel__max_features": sizes}, cv=3,
                        scoring="roc_auc",
                    ),
                    every,
                ),
            }  # fmt: skip
            row: dict[str, Any] = {"set": task.name, "n": len(task.y), "backbone": name,
                                   "columns": every.shape[1]}  # fmt: skip
            for case, (model, F) in cases.items():
                scores = cross_val_score(
                    model, F, task.y, groups=task.groups, cv=folds_of(task, 0), scoring="roc_auc"
                )
                row[case] = float(np.mean(scores))
            rows.append(row)
            print(row, flush=True)
    return {"rows": rows}


def heads(shared: Path, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """What a user may type: which features, whether they are scaled, and which penalty."""
    tasks = [
        ants_and_bees(shared),
        lesions(shared),
        pneumonia_mnist(shared, 400),
        thinned(xrays(shared), args.n),
    ]
    rows: list[dict[str, Any]] = []
    for task in tasks:
        for name, extractor in candidates(shared, args, cache=str(folder)).items():
            for layer in (None, "all"):
                F = features(task, extractor, layer)
                for scaled, C in product((False, True), (1.0, 0.01)):
                    row: dict[str, Any] = {"set": task.name, "backbone": name}
                    row |= {"features": layer or "embedding", "scaled": scaled, "C": C}
                    row |= evaluated(F, task, scaled, C, args.seeds)
                    rows.append(row)
                    print(row, flush=True)
            write_json("choosing_heads_part", {"rows": rows}, args.results)
    return {"seeds": args.seeds, "rows": rows, "table": heads_table(rows)}


def heads_table(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over sets and networks, which are printed too."""
    table = []
    for layer, scaled, C in product(("embedding", "all"), (False, True), (1.0, 0.01)):
        own = [r for r in rows if (r["features"], r["scaled"], r["C"]) == (layer, scaled, C)]
        means = {m: float(np.mean([r[m] for r in own])) for m in MEASURES}
        table.append({"features": layer, "scaled": scaled, "C": C, **means})
    print_table(
        "Means over sets and networks",
        ("features", "scaler", "C", *MEASURES),
        [(r["features"], r["scaled"], r["C"], *(f"{r[m]:.3f}" for m in MEASURES)) for r in table],
    )
    return table


def features(task: Task, extractor: Any, layer: str | None) -> np.ndarray:
    return clone(extractor).set_params(layer=layer).fit_transform(task.X)


def evaluated(F: np.ndarray, task: Task, scaled: bool, C: float, seeds: int) -> dict[str, float]:
    """Measures of out-of-fold probabilities, means over seeds; and what the fits took."""
    measured, fits = [], 0
    for seed in range(seeds):
        proba, took, unfinished = np.zeros(len(task.y)), 0.0, 0
        for train, test in folds_of(task, seed).split(F, task.y, task.groups):
            head = LogisticRegression(C=C, max_iter=1000)
            model = make_pipeline(StandardScaler(), head) if scaled else make_pipeline(head)
            start = time.process_time()
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                model.fit(F[train], task.y[train])
            took += time.process_time() - start
            unfinished += any(issubclass(w.category, ConvergenceWarning) for w in caught)
            proba[test] = model.predict_proba(F[test])[:, 1]
            fits += 1
        clipped = np.clip(proba, 1e-15, 1 - 1e-15)
        measured.append([
            roc_auc_score(task.y, proba),
            accuracy_score(task.y, proba > 0.5),
            log_loss(task.y, clipped),
            brier_score_loss(task.y, proba),
            unfinished,
            took,
        ])  # fmt: skip
    means = np.mean(measured, axis=0)
    means[-2:] *= seeds / fits
    return dict(zip(MEASURES, map(float, means), strict=True))


TASKS = {
    "regret": regret,
    "ranking": ranking,
    "cost": cost,
    "strategies": strategies,
    "layers": layers,
    "heads": heads,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--n", type=int, help="chest X-rays of ranking and layers; all of them")
    parser.add_argument("--regret-splits", type=int, default=10)
    parser.add_argument("--n-cost", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--strategy-network", default="efficientnet_lite0")
    parser.add_argument("--n-strategy", type=int, help="images of a set in strategies")
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=5, help="of the folds in heads")
    parser.add_argument("--store", type=Path, help="folder of activations, to be kept")
    parser.add_argument("--results", type=Path, help="folder of the JSON files")
    args = parser.parse_args()
    shared = shared_with_weights()
    warnings.simplefilter("ignore")
    with workspace() as folder:
        for task in args.tasks:
            description, neighbors = machine(), Neighbors()
            content = TASKS[task](shared, args, args.store or folder)
            content = {"machine": description, "others_share": neighbors.share(), **content}
            write_json(f"choosing_{task}", content, args.results)


if __name__ == "__main__":
    main()
