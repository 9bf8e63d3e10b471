"""A grid over freeze depth: sktransfer against the plain skorch recipe, same rates and epochs.

    python benchmarks/depth_search.py [--tasks hymenoptera chest hymenoptera-full chest-full]

The recipe: ResNet-18, everything before the trained stages frozen by ``requires_grad``, files
decoded and run in every epoch. Needs the shared data and weights (``SKTRANSFER_TEST_SHARED``). What
is measured is written after every step (a fold of the recipe, a whole search of ours); a later call
with the same settings resumes from there, and ``--again`` measures the named tasks again.
"""

from __future__ import annotations

import argparse
import json
import sys
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
    answer,
    in_own_process,
    machine,
    number,
    peak_memory_mb,
    print_table,
    shared_with_weights,
    workspace,
    write_json,
)
from finetune import PLAIN, chest, hymenoptera, weights_of
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold, StratifiedKFold

from sktransfer import FineTuneClassifier
from sktransfer.model_selection import plan_search

BACKBONE = "resnet18"
# Depths by what the recipe leaves trainable.
TRAINED: dict[str, tuple[str, ...]] = {
    "head only": (),
    "last stage": ("layer4",),
    "last two stages": ("layer3", "layer4"),
    "everything": ("",),
}
DEPTHS: dict[str, Any] = {
    "head only": "all",
    "last stage": -1,
    "last two stages": -2,
    "everything": 0,
}
FROZEN = ["head only", "last stage", "last two stages"]
TASKS = {
    "hymenoptera": FROZEN,
    "chest": FROZEN,
    "hymenoptera-full": ["everything"],
    "chest-full": ["everything"],
}
# The recipe's own settings (BatchNorm of trained stages in training mode among them); and ours,
# which solves the head first and leaves all but PLAIN to the defaults.
SAME = {
    "head__init": "random",
    "head__epochs": 0,
    "lr_schedule": "constant",
    "module__freeze_batch_norm": False,
}
OURS = {"sktransfer": SAME, "sktransfer, head solved first": {}}


def images(shared: Path, data: str, n: int | None) -> tuple[np.ndarray, np.ndarray, Any]:
    """Files, labels and groups of a data set; of ``n`` files, half of each class."""
    if data == "chest":
        X, y, groups = chest(shared)
    else:
        a, ya, b, yb = hymenoptera(shared)
        X, y, groups = np.array([*a, *b], dtype=object), np.concatenate([ya, yb]), None
    if n is not None:
        rows = np.concatenate([np.flatnonzero(y == label)[: n // 2] for label in (0, 1)])
        X, y, groups = X[rows], y[rows], None if groups is None else groups[rows]
    return X, y, groups


def folds_of(y: np.ndarray, groups: Any, k: int) -> list[tuple[np.ndarray, np.ndarray]]:
    splitter = StratifiedKFold if groups is None else StratifiedGroupKFold
    return list(splitter(k, shuffle=True, random_state=0).split(y, y, groups))


def score_of(data: str, y: np.ndarray, probabilities: np.ndarray) -> float:
    if data == "chest":
        return float(roc_auc_score(y, probabilities[:, 1]))
    return float(accuracy_score(y, probabilities.argmax(axis=1)))


# --- what is measured, each in a process of its own --------------------------------------------


def recipe_fold(
    data: str, case: str, fold: int, shared: str, settings: dict[str, Any]
) -> dict[str, Any]:
    """The plain recipe on one fold: seconds of fit and score."""
    from PIL import Image
    from skorch import NeuralNetClassifier
    from torchvision.models import ResNet18_Weights, get_model

    X, y, groups = images(Path(shared), data, settings["n"])
    train, test = folds_of(y, groups, settings["folds"])[fold]
    file, transform = weights_of(Path(shared), BACKBONE), ResNet18_Weights.DEFAULT.transforms()

    class Files(torch.utils.data.Dataset):
        def __init__(self, rows: np.ndarray) -> None:
            self.rows = rows

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
            row = self.rows[i]
            with Image.open(X[row]) as image:
                return transform(image.convert("RGB")), int(y[row])

    class Transfer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = get_model(BACKBONE, weights=None)
            self.model.load_state_dict(torch.load(file, weights_only=True))
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_(name.startswith(TRAINED[case]))
            self.model.fc = torch.nn.Linear(512, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.model(x)

    torch.manual_seed(fold)
    net = NeuralNetClassifier(
        Transfer,
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.AdamW,
        lr=settings["lr"],
        max_epochs=settings["epochs"],
        batch_size=settings["batch_size"],
        train_split=None,
        iterator_train__shuffle=True,
        verbose=0,
    )
    start = time.perf_counter()
    net.fit(Files(train), None)
    logits = net.forward(Files(test)).double()
    score = score_of(data, y[test], logits.softmax(1).numpy())
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "score": score, "peak_mb": peak_memory_mb()}


def own_search(
    data: str, cases: list[str], who: str, shared: str, settings: dict[str, Any]
) -> dict[str, Any]:
    """Seconds and scores of our search over some depths, all images prefetched for all cuts."""
    warnings.simplefilter("ignore")
    X, y, groups = images(Path(shared), data, settings["n"])
    folds = folds_of(y, groups, settings["folds"])
    clf = FineTuneClassifier(
        BACKBONE,
        weights=weights_of(Path(shared), BACKBONE),
        lr=settings["lr"],
        max_epochs=settings["epochs"],
        batch_size=settings["batch_size"],
        random_state=0,
        **PLAIN,
        **({**OURS[who], "head__lr": settings["lr"]} if OURS[who] else {}),
    )
    grid = {"freeze_depth": [DEPTHS[case] for case in cases]}
    scoring = "roc_auc" if data == "chest" else "accuracy"
    search = GridSearchCV(clf, grid, cv=folds, scoring=scoring, refit=False, error_score="raise")
    start = time.perf_counter()
    plan_search(search, X, y).prefetch()
    one_pass = time.perf_counter() - start
    search.fit(X, y)
    total = time.perf_counter() - start
    results, k = search.cv_results_, len(folds)
    return {
        "seconds": total,
        "one_pass_seconds": one_pass,
        "peak_mb": peak_memory_mb(),
        "cases": {
            case: {
                "seconds": k * float(results["mean_fit_time"][i] + results["mean_score_time"][i]),
                "scores": [float(results[f"split{f}_test_score"][i]) for f in range(k)],
            }
            for i, case in enumerate(cases)
        },
    }


def contestants(task: str) -> list[str]:
    """Ours that a task measures; how its head begins is no question of full training."""
    return [*OURS][:1] if task.endswith("-full") else [*OURS]


# --- steps, resumed -----------------------------------------------------------------------------


def steps(task: str, settings: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and arguments of everything that a task measures."""
    data, cases = task.split("-")[0], TASKS[task]
    for who in contestants(task):
        asked = {"mode": "own", "data": data, "who": who}
        yield f"{task}/{who}", {**asked, "cases": cases}
        if len(cases) > 1:  # what the first one would take by itself, its own pass included
            yield f"{task}/{who}/alone", {**asked, "cases": cases[:1]}
    for case in cases:
        for fold in range(settings["folds"]):
            asked = {"mode": "recipe", "data": data, "case": case, "fold": fold}
            yield f"{task}/recipe/{case}/{fold}", asked


def measure(
    tasks: list[str],
    settings: dict[str, dict[str, Any]],
    content: dict[str, Any],
    shared: Path,
    results: Path | None,
) -> None:
    """Run the steps that ``content`` lacks, and write it after each."""
    with workspace() as folder:
        for task in tasks:
            for name, asked in steps(task, settings[task]):
                if name in content["steps"]:
                    continue
                neighbors = Neighbors()
                arguments = {**asked, "shared": str(shared), "settings": settings[task]}
                found = in_own_process("depth_search.py", arguments, folder)
                if "skipped" in found:
                    sys.exit(f"{name}: {found['skipped']}")
                found["others_share"] = neighbors.share()
                content["steps"][name] = found
                print(f"{name}: {found['seconds']:.1f} s", flush=True)
                content["summary"] = summary(content)
                write_json("depth_search", content, results)


def summary(content: dict[str, Any]) -> dict[str, Any]:
    """Of each task that is complete: a row per depth and one for the whole grid.

    The first depth's seconds are those of a search by itself, its pass over the images included;
    those of the others are without the pass, which the grid makes once for all.
    """
    found = {}
    for task, settings in content["settings"].items():
        done = {
            name: content["steps"][name]
            for name, _ in steps(task, settings)
            if name in content["steps"]
        }
        if len(done) < len(list(steps(task, settings))):
            continue
        rows = []
        whole = {who: done[f"{task}/{who}"] for who in contestants(task)}
        recipe = {
            case: [done[f"{task}/recipe/{case}/{fold}"] for fold in range(settings["folds"])]
            for case in TASKS[task]
        }
        for case in TASKS[task]:
            plain = {
                "seconds": sum(fold["seconds"] for fold in recipe[case]),
                "scores": [fold["score"] for fold in recipe[case]],
            }
            rows.append({"case": case, "who": "recipe", **_scored(plain), "times": 1.0})
            for who, own in whole.items():
                row = _scored(own["cases"][case])
                alone = done.get(f"{task}/{who}/alone", {"cases": {}})
                if case in alone["cases"]:
                    row["seconds"] = alone["seconds"]
                times = plain["seconds"] / row["seconds"]
                rows.append({"case": case, "who": who, **row, "times": times})
        seconds = sum(fold["seconds"] for folds in recipe.values() for fold in folds)
        peak = max(fold["peak_mb"] for folds in recipe.values() for fold in folds)
        total = [{"who": "recipe", "seconds": seconds, "times": 1.0, "peak_mb": peak}]
        for who, own in whole.items():
            total.append(
                {
                    "who": who,
                    "times": seconds / own["seconds"],
                    **{key: own[key] for key in ("seconds", "peak_mb", "one_pass_seconds")},
                }
            )
        found[task] = {"rows": rows, "total": total}
    for task in [each for each in found if f"{each}-full" in found]:
        found[task]["with_full"] = _with_full(found[task]["total"], found[f"{task}-full"]["total"])
    return found


def _scored(row: dict[str, Any]) -> dict[str, Any]:
    scores = np.array(row["scores"])
    error = float(scores.std(ddof=1) / np.sqrt(len(scores))) if len(scores) > 1 else None
    return {**row, "mean": float(scores.mean()), "standard_error": error}


def _with_full(frozen: list[dict], full: list[dict]) -> list[dict[str, Any]]:
    """The grid with full training in it, and the most that any store can make of it."""
    both = {row["who"]: row["seconds"] for row in frozen}
    alone = {row["who"]: row["seconds"] for row in full}
    total = both["recipe"] + alone["recipe"]
    return [
        {
            "who": who,
            "seconds": both[who] + alone[who],
            "times": total / (both[who] + alone[who]),
            # Frozen candidates for nothing, and full training at the recipe's price.
            "bound": total / alone["recipe"],
        }
        for who in alone
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--chest-epochs", type=int, default=3)
    parser.add_argument("--chest-folds", type=int, default=3)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--n", type=int, help="images, half of each class; default: all")
    parser.add_argument("--again", action="store_true", help="measure the named tasks again")
    parser.add_argument("--results", type=Path, help="folder of the JSON file")
    args = parser.parse_args()
    shared = shared_with_weights()
    path = (args.results or RESULTS) / "depth_search.json"
    content: dict[str, Any] = {"machine": machine(), "settings": {}, "steps": {}}
    if path.is_file():
        before = json.loads(path.read_text())
        content["settings"], content["steps"] = before["settings"], before["steps"]
    for task in args.tasks:
        of_chest = task.startswith("chest")
        settings = {
            "epochs": args.chest_epochs if of_chest else args.epochs,
            "folds": args.chest_folds if of_chest else args.folds,
            "lr": args.lr,
            "batch_size": args.batch_size,
            "n": args.n,
        }
        if args.again or content["settings"].get(task) != settings:
            kept = {k: v for k, v in content["steps"].items() if not k.startswith(f"{task}/")}
            content["settings"][task], content["steps"] = settings, kept
    measure(args.tasks, content["settings"], content, shared, args.results)
    content["summary"] = summary(content)
    shares = [step["others_share"] or 0.0 for step in content["steps"].values()]
    content["others_share"] = max(shares)
    report(content["summary"])
    write_json("depth_search", content, args.results)


def report(found: dict[str, Any]) -> None:
    for task, each in found.items():
        lines = [
            (
                row["case"],
                row["who"],
                number(row["seconds"]),
                number(row["times"]),
                f"{row['mean']:.3f}",
                number(row["standard_error"], 2),
            )
            for row in each["rows"]
        ]
        lines += [
            ("in total", row["who"], number(row["seconds"]), number(row["times"]), "-", "-")
            for row in each["total"]
        ]
        header = ("trained", "", "seconds", "times faster", "score", "error")
        print_table(task, header, lines)


def dispatch(mode: str, **arguments: Any) -> dict[str, Any]:
    return own_search(**arguments) if mode == "own" else recipe_fold(**arguments)


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1].startswith("{"):
        answer(dispatch)
    else:
        main()
