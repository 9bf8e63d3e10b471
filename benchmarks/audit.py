"""How well wrong labels and edited copies are found, against plain confidence and cleanlab.

    python benchmarks/audit.py [--draws 20] [--peer-python /path/to/cleanlab/python]

Of each set of images a tenth of the labels is changed, and the average precision of the ranking
tells how far up they come. Labels that are wrong already count as false finds. Peers are given
the embedding: out-of-fold probabilities of a logistic regression, grouped by patient. For copies,
some images get one more, edited in one of six ways (and both mirrored and cropped); the X-rays are
of patients with several, which look alike.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _common import machine, print_table, shared_with_weights, workspace, write_json
from _tasks import (
    Task,
    ants_and_bees,
    extractors,
    imagenet,
    lesions,
    pneumonia_mnist,
    xrays,
)
from PIL import Image, ImageEnhance
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer._images import as_image_source
from sktransfer.datasets import audit_labels
from sktransfer.datasets._near_duplicates import look_for_copies

NETWORK = "efficientnet_lite0"
SHARE = 0.1
PENALTIES = (1.0, 0.01)


def flipped(y: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels of which a tenth is changed to another class, and which."""
    rng = np.random.default_rng(seed)
    wrong = np.zeros(len(y), dtype=bool)
    wrong[rng.choice(len(y), round(SHARE * len(y)), replace=False)] = True
    classes, codes = np.unique(y, return_inverse=True)
    codes[wrong] = (codes[wrong] + rng.integers(1, len(classes), wrong.sum())) % len(classes)
    return classes[codes], wrong


def out_of_fold(F: np.ndarray, y: np.ndarray, groups: np.ndarray, C: float) -> np.ndarray:
    p = np.empty((len(y), 2))
    model = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=1000))
    for train, test in StratifiedGroupKFold(5, shuffle=True, random_state=0).split(F, y, groups):
        p[test] = model.fit(F[train], y[train]).predict_proba(F[test])
    return p


def measure_labels(
    name: str, F: np.ndarray, width: int, task: Task, args: argparse.Namespace, folder: Path
) -> dict[str, Any]:
    groups = np.arange(len(task.y)) if task.groups is None else task.groups
    E = F[:, -width:]
    found: dict[str, list[float]] = {}
    labels, wrongs, given, suspected = [], [], [], []
    for seed in range(args.draws):
        y, wrong = flipped(task.y, seed)
        table = audit_labels(F, y, groups).table.sort_values("row")
        found.setdefault("audit_labels", []).append(
            average_precision_score(wrong, table["score"].to_numpy())
        )
        named = table["suspected"].to_numpy()
        suspected.append([wrong[named].mean(), wrong[named].sum() / wrong.sum()])
        for C in PENALTIES:
            p = out_of_fold(E, y, groups, C)
            ap = average_precision_score(wrong, 1 - p[np.arange(len(y)), y])
            found.setdefault(f"out-of-fold confidence, C={C:g}", []).append(ap)
        labels.append(y)
        wrongs.append(wrong)
        given.append(p)
        print(f"{name}, draw {seed}", flush=True)
    if args.peer_python:
        path = folder / "peer.npz"
        scaled = StandardScaler().fit_transform(E)
        np.savez(path, F=scaled, labels=labels, probabilities=given)
        script = Path(__file__).with_name("_audit_peer.py")
        subprocess.run([args.peer_python, str(script), str(path)], check=True, timeout=7200)
        with np.load(folder / "scores.npz") as scores:
            for method in scores.files:
                found[f"cleanlab, {method}"] = [
                    average_precision_score(wrong, -score)
                    for wrong, score in zip(wrongs, scores[method], strict=True)
                ]
    rows = [
        {"case": case, "ap": float(np.mean(each)), "draws": each} for case, each in found.items()
    ]
    precision, recall = np.mean(suspected, axis=0).tolist()
    return {"images": len(task.y), "rows": rows, "suspected": [precision, recall]}


def saved(image: Image.Image, quality: int = 90) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def cropped(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """70 to 90 % of the width and of the height."""
    part = rng.uniform(0.7, 0.9)
    width, height = (round(part * side) for side in image.size)
    left = int(rng.integers(image.width - width + 1))
    top = int(rng.integers(image.height - height + 1))
    return image.crop((left, top, left + width, top + height))


def leveled(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    other = ImageEnhance.Contrast(image).enhance(rng.uniform(0.6, 1.4))
    return ImageEnhance.Brightness(other).enhance(rng.uniform(0.7, 1.3))


def smaller(image: Image.Image) -> Image.Image:
    return image.resize((round(0.4 * image.width), round(0.4 * image.height)))


def turned(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    angle = rng.choice([-1, 1]) * rng.uniform(3, 10)
    return image.rotate(angle, resample=Image.Resampling.BICUBIC)


def mirrored(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


EDITS: dict[str, Callable[[Image.Image, np.random.Generator], bytes]] = {
    "saved again as JPEG, quality 30": lambda image, rng: saved(image, 30),
    "cropped to 70 to 90 % of each side": lambda image, rng: saved(cropped(image, rng)),
    "mirrored": lambda image, rng: saved(mirrored(image)),
    "scaled to 40 %": lambda image, rng: saved(smaller(image)),
    "brightness and contrast changed by up to 40 %": lambda image, rng: saved(leveled(image, rng)),
    "turned by 3 to 10 degrees": lambda image, rng: saved(turned(image, rng)),
    "mirrored and cropped": lambda image, rng: saved(cropped(mirrored(image), rng)),
}


def measure_copies(task: Task, n_images: int, n_copies: int) -> dict[str, Any]:
    """Recall of each edit, and precision; pairs among the images themselves are counted apart."""
    rng = np.random.default_rng(0)
    groups = np.arange(len(task.X)) if task.groups is None else task.groups
    _, codes, counts = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.argsort(-counts[codes] + rng.uniform(0, 0.5, len(codes)))[:n_images]
    files = [
        saved(Image.fromarray(each), 95)
        if isinstance(each, np.ndarray)
        else Path(each).read_bytes()
        for each in task.X[order]
    ]
    sources = rng.choice(len(files), min(n_copies, len(files)), replace=False)
    edits = [list(EDITS)[number % len(EDITS)] for number in range(len(sources))]
    for source, edit in zip(sources, edits, strict=True):
        with Image.open(io.BytesIO(files[source])) as image:
            files.append(EDITS[edit](image.convert("RGB"), rng))
    pairs = look_for_copies(as_image_source(files), near=True, n_jobs=None)
    root, who = np.r_[np.arange(len(order)), sources], codes[order]
    rows, earlier = root[pairs["row"]], root[pairs["duplicate_of"]]
    found = set(pairs["row"][rows == earlier])
    recall = pd.DataFrame(
        {
            "edit": edits,
            "found": [len(order) + number in found for number in range(len(sources))],
        }
    )
    other = rows != earlier
    sibling = other & (who[rows] == who[earlier])
    return {
        "images": len(order),
        "copies": len(sources),
        "recall": recall.groupby("edit")["found"].mean().to_dict(),
        "true_pairs": int((~other).sum()),
        "false_pairs": int((other & ~sibling).sum()),
        "pairs_of_one_patient": int(sibling.sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--n", type=int, default=1000, help="images of PneumoniaMNIST")
    parser.add_argument("--sets", nargs="+", help="beginnings of names; default: all")
    parser.add_argument("--copies", type=int, default=140, help="edited copies in each set")
    parser.add_argument("--peer-python", help="Python of an environment with cleanlab")
    parser.add_argument("--results", type=Path, help="folder of the JSON file")
    args = parser.parse_args()
    shared = shared_with_weights()
    warnings.simplefilter("ignore")
    chest, insects = xrays(shared), ants_and_bees(shared)
    content: dict[str, Any] = {"machine": machine(), "share": SHARE, "labels": {}, "copies": {}}

    def wanted(task: Task) -> bool:
        return args.sets is None or task.name.startswith(tuple(args.sets))

    sets = [(chest, 500), (insects, 397), (lesions(shared), 56), (imagenet(shared), 200)]
    sets.append((pneumonia_mnist(shared, 400), 400))
    for task, n_images in sets:
        if not wanted(task):
            continue
        content["copies"][task.name] = measure_copies(task, n_images, args.copies)
        print(task.name, content["copies"][task.name], flush=True)
    with workspace() as folder:
        extractor = extractors(shared, cache=folder / "store")[NETWORK].set_params(layer="all")
        for task in filter(wanted, (insects, pneumonia_mnist(shared, args.n), chest)):
            F = extractor.fit_transform(task.X)
            own = measure_labels(task.name, F, extractor._widths[-1], task, args, folder)
            content["labels"][task.name] = own
            lines = [(row["case"], f"{row['ap']:.3f}") for row in own["rows"]]
            print_table(task.name, ("ranking", "average precision"), lines)
            write_json("audit", content, args.results)


if __name__ == "__main__":
    main()
