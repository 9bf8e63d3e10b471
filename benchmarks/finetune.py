"""How well a plain fine-tune does on real images: against the frozen probe, and against skorch.

    python benchmarks/finetune.py [--tasks hymenoptera chest skorch] [--seeds 3]

Needs the shared data and weights (``SKTRANSFER_TEST_SHARED``). Scores of ``hymenoptera`` are of its
own validation part, those of ``chest`` of five folds grouped by patient. What the results hold of
other tasks and backbones stays in them.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from _common import (
    RESULTS,
    Neighbors,
    machine,
    number,
    print_table,
    shared_with_weights,
    workspace,
    write_json,
)
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from sktransfer import FineTuneClassifier, clear_cache

BACKBONES = ("resnet18", "mobilenet_v2", "squeezenet1_0")
# A plain fine-tune: the head sees the embedding alone, and what was trained is kept as it is. The
# recorded figures are of it, whatever the defaults are; ``quality.py`` measures those.
PLAIN: dict[str, Any] = {"head__layers": "embedding", "head__C": 0.003, "weight_interpolation": 1.0}
LAST_STAGE: dict[str, Any] = {"freeze_depth": -1, **PLAIN}


def pretrained(shared: Path, backbone: str) -> dict[str, Any]:
    """The shared weights, with the preparation that they were trained for.

    That of a file is torchvision's newest for the architecture; MobileNetV2's are of an older one.
    """
    from torchvision.models import MobileNet_V2_Weights

    settings: dict[str, Any] = {"weights": weights_of(shared, backbone)}
    if backbone == "mobilenet_v2":
        settings["preprocessing"] = MobileNet_V2_Weights.IMAGENET1K_V1.transforms()
    return settings


def weights_of(shared: Path, backbone: str) -> str:
    (path,) = (shared / "weights").glob(f"{backbone}*.pth")
    return str(path)


def hymenoptera(shared: Path) -> tuple[list[str], np.ndarray, list[str], np.ndarray]:
    """Training and validation files of ants (0) and bees (1)."""
    parts: list[Any] = []
    for part in ("train", "val"):
        files = [
            sorted((shared / "data" / "hymenoptera" / part / kind).glob("*.jpg"))
            for kind in ("ants", "bees")
        ]
        parts.append([str(path) for each in files for path in each])
        parts.append(np.repeat([0, 1], [len(each) for each in files]))
    return tuple(parts)  # type: ignore[return-value]


def chest(shared: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Files, labels (1 is pneumonia) and patients."""
    folder = shared / "data" / "chest_xray_pneumonia"
    table = pd.read_csv(folder / "metadata.csv")
    files = np.array([str(folder / name) for name in table["file"]], dtype=object)
    return files, (table["label"] == "pneumonia").to_numpy(int), table["patient_id"].to_numpy()


def timed(clf: Any, X: Any, y: Any) -> float:
    start = time.perf_counter()
    clf.fit(X, y)
    return time.perf_counter() - start


def on_hymenoptera(shared: Path, args: argparse.Namespace, store: Path) -> list[dict[str, Any]]:
    X, y, X_val, y_val = hymenoptera(shared)
    rows = []
    for backbone in args.backbones:
        for name, settings, seeds in (
            ("probe", {**PLAIN, "freeze_depth": "all"}, 1),
            ("last stage", LAST_STAGE, args.seeds),
            (
                "last stage, standard augmentation",
                {**LAST_STAGE, "augmentation": "standard"},
                args.augmented,
            ),
        ):
            scores, seconds = [], []
            for seed in range(seeds):
                clf = FineTuneClassifier(
                    backbone,
                    cache=store,
                    random_state=seed,
                    **pretrained(shared, backbone),
                    **settings,
                )
                seconds.append(timed(clf, X, y))
                scores.append(float(clf.score(X_val, y_val)))
            if seeds:
                rows.append(row("hymenoptera", backbone, name, "accuracy", scores, seconds))
    return rows


def on_chest(shared: Path, args: argparse.Namespace, store: Path) -> list[dict[str, Any]]:
    X, y, patients = chest(shared)
    folds = list(StratifiedGroupKFold(5, shuffle=True, random_state=0).split(X, y, patients))
    rows = []
    for backbone in args.chest_backbones:
        for name, settings in (
            ("probe", {**PLAIN, "freeze_depth": "all"}),
            ("last stage", LAST_STAGE),
        ):
            scores, seconds = [], []
            for train, test in folds:
                clf = FineTuneClassifier(
                    backbone,
                    cache=store,
                    random_state=0,
                    **pretrained(shared, backbone),
                    **settings,
                )
                seconds.append(timed(clf, X[train], y[train]))
                scores.append(float(roc_auc_score(y[test], clf.predict_proba(X[test])[:, 1])))
            rows.append(row("chest", backbone, name, "ROC AUC", scores, seconds))
    return rows


def against_skorch(shared: Path, args: argparse.Namespace, store: Path) -> list[dict[str, Any]]:
    """The usual recipe: all of ResNet-18 but the last stage frozen by requires_grad."""
    from skorch import NeuralNetClassifier
    from skorch.helper import predefined_split  # noqa: F401  (the recipe's import)
    from torchvision.models import ResNet18_Weights, get_model

    X, y, X_val, y_val = hymenoptera(shared)
    file = weights_of(shared, "resnet18")
    transform = ResNet18_Weights.DEFAULT.transforms()

    class Files(torch.utils.data.Dataset):
        def __init__(self, paths: list[str], labels: np.ndarray) -> None:
            self.paths, self.labels = paths, labels

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
            from PIL import Image

            with Image.open(self.paths[i]) as image:
                return transform(image.convert("RGB")), int(self.labels[i])

    class Transfer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = get_model("resnet18", weights=None)
            self.model.load_state_dict(torch.load(file, weights_only=True))
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_(name.startswith("layer4"))
            self.model.fc = torch.nn.Linear(512, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.model(x)

    rows = []
    for who in ("skorch", "sktransfer"):
        scores, seconds = [], []
        for seed in range(args.seeds):
            clear_cache()
            if who == "skorch":
                torch.manual_seed(seed)
                net = NeuralNetClassifier(
                    Transfer,
                    criterion=torch.nn.CrossEntropyLoss,
                    optimizer=torch.optim.AdamW,
                    lr=1e-4,
                    max_epochs=args.epochs,
                    batch_size=32,
                    train_split=None,
                    iterator_train__shuffle=True,
                    verbose=0,
                )
                seconds.append(timed(net, Files(X, y), None))
                predicted = net.predict(Files(X_val, y_val))
            else:
                clf = FineTuneClassifier(
                    "resnet18",
                    weights=file,
                    max_epochs=args.epochs,
                    random_state=seed,
                    **LAST_STAGE,
                )
                seconds.append(timed(clf, X, y))
                predicted = clf.predict(X_val)
            scores.append(float((predicted == y_val).mean()))
        rows.append(row("side by side", "resnet18", who, "accuracy", scores, seconds))
    return rows


def row(
    task: str, backbone: str, name: str, metric: str, scores: list[float], seconds: list[float]
) -> dict[str, Any]:
    print(
        f"{task}: {backbone}: {name}: {np.round(scores, 4)} in {np.round(seconds, 1)} s", flush=True
    )
    return {
        "task": task,
        "backbone": backbone,
        "case": name,
        "metric": metric,
        "mean": float(np.mean(scores)),
        "scores": scores,
        "seconds_per_fit": float(np.median(seconds)),
    }


TASKS = {"hymenoptera": on_hymenoptera, "chest": on_chest, "skorch": against_skorch}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES))
    parser.add_argument("--chest-backbones", nargs="+", default=["resnet18"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--augmented", type=int, default=0, help="seeds with augmentation")
    parser.add_argument("--epochs", type=int, default=10, help="of the side by side")
    parser.add_argument("--results", type=Path, help="folder of the JSON file")
    args = parser.parse_args()
    shared = shared_with_weights()
    warnings.simplefilter("ignore")
    description, neighbors = machine(), Neighbors()
    rows: list[dict[str, Any]] = []
    with workspace() as folder:
        for task in args.tasks:
            rows += TASKS[task](shared, args, folder / "store")
    print_table(
        "Fine-tuning",
        ("task", "backbone", "case", "metric", "mean", "s a fit"),
        [
            (
                each["task"],
                each["backbone"],
                each["case"],
                each["metric"],
                f"{each['mean']:.4f}",
                number(each["seconds_per_fit"]),
            )
            for each in rows
        ],
    )
    file = (args.results or RESULTS) / "finetune.json"
    measured = {(each["task"], each["backbone"]) for each in rows}
    earlier = json.loads(file.read_text())["rows"] if file.is_file() else []
    kept = [each for each in earlier if (each["task"], each["backbone"]) not in measured]
    order = ["hymenoptera", "chest", "side by side"]
    rows = sorted(kept + rows, key=lambda each: order.index(each["task"]))
    content = {"machine": description, "others_share": neighbors.share(), "rows": rows}
    write_json("finetune", content, args.results)


if __name__ == "__main__":
    main()
