"""The two studies on real images with pretrained weights, and the images of them in the
documentation.

    python benchmarks/studies.py [--network resnet18] [--image-size 112] [--n-train 200] [--plot]

Needs the shared data and weights (``SKTRANSFER_TEST_SHARED``). All trainings of one study are of
the same settings, and ``--rates`` gives the learning rates it is made with; half of the images,
patients whole, are to test on. Studies that the results already hold and that are not made again
stay in them. ``--plot`` draws again what was measured.
"""

from __future__ import annotations

import argparse
import itertools
import json
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
from _common import HERE, RESULTS, Neighbors, machine, shared_with_weights, workspace, write_json
from _tables import STUDIED, ordered_studies
from _tasks import ants_and_bees, weights_of, xrays
from choosing import thinned
from PIL import Image

from sktransfer import FineTuneClassifier
from sktransfer.model_selection import grouped_train_test_split
from sktransfer.studies import (
    ConvergenceDisplay,
    TransferCurveDisplay,
    convergence_curve,
    transfer_curve,
)

STATIC = HERE.parent / "docs" / "_static"


def measure(
    shared: Path, args: argparse.Namespace, store: Path, studies: dict[str, Any]
) -> dict[str, Any]:
    settings = {k: str(v) for k, v in vars(args).items() if k not in ("plot", "results")}
    content: dict[str, Any] = {"machine": machine(), "settings": settings, "studies": studies}
    tasks = [task for task in (xrays(shared), ants_and_bees(shared)) if task.name in args.sets]
    for task, rate in itertools.product(tasks, args.rates):
        part = thinned(task, 2 * args.n_train)
        X, X_test, y, y_test = grouped_train_test_split(
            part.X, part.y, stratify=part.y, groups=part.groups, test_size=0.5, random_state=0
        )
        clf = FineTuneClassifier(
            args.network,
            weights=weights_of(shared, args.network),
            image_size=args.image_size,
            optimizer="momentum",
            lr=rate,
            head__lr=rate,
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
        studies[f"{task.name}, {rate:g}"] = {
            "set": task.name,
            "rate": rate,
            "repeats": args.repeats,
            "n_train": len(y),
            "n_test": len(y_test),
            "transfer": transfer.table.to_dict("records"),
            "convergence": convergence.table.to_dict("records"),
            "catch_up_steps": convergence.catch_up(0.01).tolist(),
        }
        write_json("studies", content, args.results)
    return content


def plot(content: dict[str, Any]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    found = ordered_studies(content)
    figure, axes = plt.subplots(
        *(len(found), 2), figsize=(11, 3.6 * len(found)), layout="constrained", squeeze=False
    )
    for row, study in zip(axes, found, strict=True):
        TransferCurveDisplay(table=pd.DataFrame(study["transfer"])).plot(ax=row[0])
        ConvergenceDisplay(table=pd.DataFrame(study["convergence"])).plot(ax=row[1])
        for ax in row:
            ax.set_title(f"{study['set']}, learning rate {study['rate']:g}", fontsize="medium")
            ax.set(ylabel="ROC AUC", ylim=(0.45, 1))
    path = STATIC / "studies.png"
    figure.savefig(path, dpi=85)
    Image.open(path).convert("RGB").quantize(64).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--image-size", type=int, default=112)
    parser.add_argument("--n-train", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--depths", nargs="+", default=["layer1", "layer2", "layer3", "layer4"])
    parser.add_argument("--budgets", nargs="+", type=int, default=[10, 20, 40, 80])
    parser.add_argument("--sets", nargs="+", default=list(STUDIED), choices=STUDIED)
    parser.add_argument("--rates", nargs="+", type=float, default=[0.01, 0.001])
    parser.add_argument("--treatments", nargs="+", default=["base", "AnB", "AnB+", "BnB", "random"])
    parser.add_argument("--inits", nargs="+", default=["pretrained", "random", "mean_var"])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--plot", action="store_true", help="nothing is run")
    parser.add_argument("--results", type=Path, help="folder of the JSON file")
    args = parser.parse_args()
    file = (args.results or RESULTS) / "studies.json"
    if not args.plot:
        shared = shared_with_weights()
        warnings.simplefilter("ignore")
        neighbors = Neighbors()
        studies = json.loads(file.read_text())["studies"] if file.is_file() else {}
        with workspace() as folder:
            content = measure(shared, args, folder, studies)
        write_json("studies", {"others_share": neighbors.share(), **content}, args.results)
    plot(json.loads(file.read_text()))


if __name__ == "__main__":
    main()
