"""The two studies on real pictures with pretrained weights, and the pictures of them in the
documentation.

    python benchmarks/studies.py [--network resnet18] [--image-size 112] [--n-train 240] [--plot]

Needs the shared data and weights (``SKTRANSFER_TEST_SHARED``). All trainings are of the same
settings; half of the pictures, patients whole, are to test on. ``--plot`` draws again what was
measured.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
from _common import HERE, RESULTS, Neighbours, machine, shared_directory, workspace, write_json
from _tasks import ants_and_bees, weights_of, xrays
from choosing import thinned

from sktransfer import FineTuneClassifier
from sktransfer.model_selection import grouped_train_test_split
from sktransfer.studies import (
    ConvergenceDisplay,
    TransferCurveDisplay,
    convergence_curve,
    transfer_curve,
)

SETS = ("chest X-rays", "ants and bees")
STATIC = HERE.parent / "docs" / "_static"


def measure(shared: Path, args: argparse.Namespace, store: Path) -> dict[str, Any]:
    content: dict[str, Any] = {"settings": {k: str(v) for k, v in vars(args).items()}}
    for task in (xrays(shared), ants_and_bees(shared)):
        if task.name not in args.sets:
            continue
        part = thinned(task, 2 * args.n_train)
        X, X_test, y, y_test = grouped_train_test_split(
            part.X, part.y, y=part.y, groups=part.groups, test_size=0.5, random_state=0
        )
        clf = FineTuneClassifier(
            args.network,
            weights=weights_of(shared, args.network),
            image_size=args.image_size,
            optimizer="momentum",
            lr=0.01,
            head_lr=0.01,
            lr_schedule="one_cycle",
            weight_decay=1e-4,
            max_epochs=args.epochs,
            cache=store,
            random_state=0,
        )
        common = {"X_test": X_test, "y_test": y_test, "scoring": "roc_auc", "random_state": 0}
        transfer = transfer_curve(
            clf,
            X,
            y,
            depths=args.depths,
            treatments=args.treatments,
            n_repeats=args.repeats,
            **common,
        )
        print(transfer.table.to_string(), flush=True)
        convergence = convergence_curve(
            clf,
            X,
            y,
            budgets=args.budgets,
            inits=args.inits,
            n_repeats=args.repeats,
            **common,
        )
        print(convergence.table.to_string(), flush=True)
        content[task.name] = {
            "n_train": len(y),
            "n_test": len(y_test),
            "transfer": transfer.table.to_dict("records"),
            "convergence": convergence.table.to_dict("records"),
            "catch_up_steps": convergence.catch_up(0.01).tolist(),
        }
        write_json("studies", {"machine": machine(), **content}, args.results)
    return content


def plot(content: dict[str, Any]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    names = [name for name in SETS if name in content]
    figure, axes = plt.subplots(
        *(len(names), 2),
        figsize=(11, 4 * len(names)),
        layout="constrained",
        sharey="row",
        squeeze=False,
    )
    for row, name in zip(axes, names, strict=True):
        transfer = pd.DataFrame(content[name]["transfer"])
        TransferCurveDisplay(table=transfer).plot(ax=row[0])
        ConvergenceDisplay(table=pd.DataFrame(content[name]["convergence"])).plot(ax=row[1])
        for ax in row:
            ax.set_title(f"{name}, {content[name]['n_train']} to train on", fontsize="medium")
            ax.set_ylabel("ROC AUC")
    figure.savefig(STATIC / "studies.png", dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--image-size", type=int, default=112)
    parser.add_argument("--n-train", type=int, default=240)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--depths", nargs="+", default=["layer1", "layer2", "layer3", "layer4"])
    parser.add_argument("--budgets", nargs="+", type=int, default=[10, 20, 40, 80, 160])
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--treatments", nargs="+", default=["base", "AnB", "AnB+", "BnB", "random"])
    parser.add_argument("--inits", nargs="+", default=["pretrained", "random", "mean_var"])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--plot", action="store_true", help="nothing is run")
    parser.add_argument("--results", type=Path, help="folder of the JSON file")
    args = parser.parse_args()
    if not args.plot:
        shared = shared_directory()
        if shared is None or not (shared / "weights").is_dir():
            sys.exit("This needs the shared data and weights: set SKTRANSFER_TEST_SHARED.")
        warnings.simplefilter("ignore")
        description, neighbours = machine(), Neighbours()
        with workspace() as folder:
            content = measure(shared, args, folder)
        content = {"machine": description, "others_share": neighbours.share(), **content}
        write_json("studies", content, args.results)
    plot(json.loads(((args.results or RESULTS) / "studies.json").read_text()))


if __name__ == "__main__":
    main()
