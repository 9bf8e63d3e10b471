"""Whether the suggested learning rate is as good as the best of a grid, on real images.

    python benchmarks/lr_finder.py [--minutes 30] [--rows 200] [--side 96] [--table]

For every set of images, network, depth, start of the head and seed: ``find_lr``, then
``preset("recommended")`` (a fifth held out, the best epoch kept) at each rate of a grid and at the
suggestion. Reported is the loss of the fitted model on test images of other patients, which neither
saw. Skin lesions are left out: 28 test images say nothing about a tenth of a loss. Needs the shared
data and weights (``SKTRANSFER_TEST_SHARED``). What is in the results already is not repeated;
``--minutes`` bounds what is begun. ``--table`` puts the results into the guide.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import RESULTS, machine, shared_with_weights, write_json
from _tables import update_pages
from _tasks import Task, ants_and_bees, pneumonia_mnist, xrays
from finetune import BACKBONES, PLAIN, pretrained
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from sktransfer import FineTuneClassifier, clear_cache

NETWORKS = ("resnet18", "mobilenet_v2", "squeezenet1_0", "efficientnet_lite0")
SETS = {
    "chest X-rays": xrays,
    "ants and bees": ants_and_bees,
    "PneumoniaMNIST": pneumonia_mnist,
}
# The third is the default.
GRID = ("1e-05", "3e-05", "0.0001", "0.0003", "0.001", "0.003", "0.01")


def cases() -> list[tuple[str, str, int, str, int]]:
    """Every network with its last stage; one with a head drawn at random, and with two stages."""
    last = itertools.product(SETS, NETWORKS, (-1,), ("logistic",), (0, 1))
    drawn = itertools.product(SETS, ("mobilenet_v2",), (-1,), ("random",), (0,))
    two = itertools.product(SETS, ("mobilenet_v2",), (-2,), ("logistic",), (0,))
    return sorted([*last, *drawn, *two], key=lambda case: case[4])


def parts(task: Task, n: int, seed: int) -> tuple[Any, np.ndarray, Any, np.ndarray]:
    """At most ``n`` rows to train on, and half as many again of other groups to test on."""
    groups = np.arange(len(task.y)) if task.groups is None else task.groups
    folds = StratifiedGroupKFold(2, shuffle=True, random_state=seed)
    train, test = next(folds.split(task.y, task.y, groups))
    rng = np.random.default_rng(seed)
    train, test = rng.permutation(train)[:n], rng.permutation(test)[: n * 3 // 2]
    return task.X[train], task.y[train], task.X[test], task.y[test]


def classifier(shared: Path, case: tuple[Any, ...], side: int) -> FineTuneClassifier:
    _, network, depth, start, seed = case
    return FineTuneClassifier.preset(
        "recommended",
        backbone=network,
        freeze_depth=depth,
        head__init=start,
        image_size=side,
        engine="torch",
        random_state=seed,
        **PLAIN,
        **({"weights": pretrained(shared, network)["weights"]} if network in BACKBONES else {}),
    )


def fit(clf: FineTuneClassifier, data: Any) -> dict[str, float] | None:
    """Figures of the fitted model; None if it ran away."""
    X, y, X_test, y_test = data
    try:
        clf.fit(X, y)
    except FloatingPointError:
        return None
    scores = clf.predict_proba(X_test)
    found = {"loss": log_loss(y_test, scores), "auc": roc_auc_score(y_test, scores[:, 1])}
    if clf.history_:
        found["valid"] = min(row["valid_loss"] for row in clf.history_)
    return {name: round(float(value), 5) for name, value in found.items()}


def suggested(clf: FineTuneClassifier, data: Any) -> dict[str, Any]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = clf.find_lr(data[0], data[1])
    return {
        "warnings": [str(each.message) for each in caught],
        "suggestion": None if np.isnan(found.suggestion) else found.suggestion,
        "curve": [None if np.isnan(value) else round(value, 4) for value in found.loss.tolist()],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    path = RESULTS / "lr_finder.json"
    known = {}
    if path.exists():
        known = {tuple(row["case"]): row for row in json.loads(path.read_text())["rows"]}
    if args.table:
        update_pages(RESULTS)
        return
    torch.set_num_threads(args.threads)
    shared, begun = shared_with_weights(), time.monotonic()
    for case in cases():
        row = known.setdefault(case, {"case": case, "fits": {}})
        data = parts(SETS[case[0]](shared), args.rows, case[4])
        if "curve" not in row:
            row.update(suggested(classifier(shared, case, args.side), data))
            row["fits"].pop("suggestion", None)
        if "head alone" not in row["fits"]:
            clf = classifier(shared, case, args.side).set_params(max_epochs=0)
            row["fits"]["head alone"] = fit(clf, data)
        for name in ("suggestion", *GRID):
            rate = row["suggestion"] if name == "suggestion" else float(name)
            if name not in row["fits"] and rate is not None:
                clf = classifier(shared, case, args.side).set_params(lr=rate)
                row["fits"][name] = fit(clf, data)
        settings = {"rows": args.rows, "side": args.side}
        content = {"machine": machine(), "settings": settings, "rows": list(known.values())}
        write_json("lr_finder", content)
        print(case, row["suggestion"], row["fits"], row["warnings"], flush=True)
        clear_cache()
        if time.monotonic() - begun > args.minutes * 60:
            break


if __name__ == "__main__":
    main()
