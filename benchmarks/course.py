"""The figures of the page "A course on transfer learning, answered", on real images.

    python benchmarks/course.py [--parts depth augmentation ...] [--repeats 5] [--jobs 1]

Needs the shared data and weights (``SKTRANSFER_TEST_SHARED``). Chest X-rays are divided by patient:
in each repeat, other patients are tested on, and other images are drawn to train on. Everything
that is compared in a repeat is fitted to the same images and judged on the same patients, so that
differences are paired. Parts that are not run again stay in the results. ``--jobs`` processes share
the machine (and its GPU, if there is one).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from _common import HERE, RESULTS, Neighbors, machine, shared_with_weights, write_json
from _tables import rst_table
from _tasks import Task, ants_and_bees, pneumonia_mnist, xrays
from finetune import BACKBONES, LAST_STAGE, PLAIN, pretrained
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, log_loss, roc_auc_score
from sklearn.model_selection import (
    StratifiedGroupKFold,
    StratifiedKFold,
    cross_val_predict,
    train_test_split,
)
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer import FineTuneClassifier, PretrainedFeatureExtractor
from sktransfer.model_selection import grouped_train_test_split
from sktransfer.preprocessing import ImageAugmentation, ImageWhitening

NETWORK = "resnet18"
# What is compared is trained alike, unless a part says otherwise.
TRAINING: dict[str, Any] = {**LAST_STAGE, "lr": 1e-4, "max_epochs": 20}


class Split(NamedTuple):
    X: Any
    y: np.ndarray
    groups: np.ndarray | None
    X_test: Any
    y_test: np.ndarray


def split(task: Task, repeat: int, per_class: int | None = None) -> Split:
    """Two fifths to test on, patients whole; ``per_class`` images of the rest to train on."""
    if task.groups is None:
        parts = train_test_split(
            task.X,
            task.y,
            np.arange(len(task.y)),
            test_size=0.4,
            stratify=task.y,
            random_state=repeat,
        )
        X, X_test, y, y_test, groups = parts[0], parts[1], parts[2], parts[3], None
    else:
        X, X_test, y, y_test, groups, _ = grouped_train_test_split(
            task.X,
            task.y,
            task.groups,
            groups=task.groups,
            stratify=task.y,
            test_size=0.4,
            random_state=repeat,
        )
    rows = np.arange(len(y))
    if per_class is not None:
        rng = np.random.default_rng(repeat)
        rows = np.concatenate(
            [rng.permutation(rows[y == label])[:per_class] for label in np.unique(y)]
        )
    return Split(X[rows], y[rows], None if groups is None else groups[rows], X_test, y_test)


def scores(clf: Any, X: Any, y: np.ndarray) -> dict[str, float]:
    y_proba = clf.predict_proba(X)[:, 1]
    return {
        "auc": float(roc_auc_score(y, y_proba)),
        "accuracy": float(accuracy_score(y, y_proba > 0.5)),
        "f1": float(f1_score(y, y_proba > 0.5)),
        "log_loss": float(log_loss(y, y_proba)),
    }


def probe() -> Any:
    """The regression on features that the guide recommends."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=5000))


def tuner(shared: Path, backbone: str = NETWORK, **params: Any) -> FineTuneClassifier:
    return FineTuneClassifier(backbone, **{**pretrained(shared, backbone), **TRAINING, **params})


def fit_and_score(clf: Any, part: Split, **names: Any) -> dict[str, Any]:
    start = time.perf_counter()
    clf.fit(part.X, part.y)
    seconds = time.perf_counter() - start
    return {**names, **scores(clf, part.X_test, part.y_test), "seconds": seconds}


# --- parts: each yields the rows of one repeat ------------------------------------------------


def depth(shared: Path, repeat: int) -> Iterable[dict[str, Any]]:
    """How many layers to train, for how much data."""
    for per_class in (25, 50, 100, 250):
        part = split(xrays(shared), repeat, per_class)
        for freeze_depth in ("all", -1, -2, 0):
            clf = tuner(shared, freeze_depth=freeze_depth, random_state=repeat)
            yield fit_and_score(clf, part, per_class=per_class, freeze_depth=freeze_depth)
        random = tuner(shared, weights=None, freeze_depth="all", random_state=repeat)
        yield fit_and_score(random, part, per_class=per_class, freeze_depth="random, all")
        scratch = tuner(
            shared,
            weights=None,
            freeze_depth=0,
            optimizer="momentum",
            lr=0.01,
            head__init="random",
            head__epochs=0,
            head__lr=0.01,
            max_epochs=TRAINING["max_epochs"] * 2,
            module__freeze_batch_norm=False,
            random_state=repeat,
        )
        yield fit_and_score(scratch, part, per_class=per_class, freeze_depth="random, 0")


def truncation(shared: Path, repeat: int) -> Iterable[dict[str, Any]]:
    """Where to cut the network, for images like and unlike those of ImageNet."""
    stages = ["layer1", "layer2", "layer3", "layer4"]
    for task, sizes in ((xrays(shared), (25, 250)), (ants_and_bees(shared), (25, 100))):
        for per_class in sizes:
            part = split(task, repeat, per_class)
            for layer in (*stages, stages):
                feat = PretrainedFeatureExtractor(
                    NETWORK, layer=layer, **pretrained(shared, NETWORK)
                )
                name = layer if isinstance(layer, str) else "all four"
                clf = make_pipeline(feat, *(step for _, step in probe().steps))
                yield fit_and_score(clf, part, set=task.name, per_class=per_class, layer=name)


def two_steps(shared: Path, repeat: int) -> Iterable[dict[str, Any]]:
    """ImageNet, then children's X-rays of 28 pixels, then X-rays of adults."""
    large = pneumonia_mnist(shared)
    first = tuner(shared, freeze_depth=0, image_size=112, max_epochs=5, random_state=repeat).fit(
        large.X, large.y
    )
    for per_class in (25, 100, 250):
        part = split(xrays(shared), repeat, per_class)
        for freeze_depth in ("all", -1):
            direct = tuner(shared, freeze_depth=freeze_depth, random_state=repeat)
            second = FineTuneClassifier(
                FrozenEstimator(first),
                image_size=224,
                random_state=repeat,
                **{**TRAINING, "freeze_depth": freeze_depth},
            )
            for name, clf in (("ImageNet", direct), ("ImageNet, PneumoniaMNIST", second)):
                yield fit_and_score(
                    clf, part, per_class=per_class, freeze_depth=freeze_depth, start=name
                )


def recipe(shared: Path, repeat: int) -> Iterable[dict[str, Any]]:
    """The two phases of the Keras recipe, and the solved head in the place of the first."""
    part = split(xrays(shared), repeat, 250)
    keras = {
        "head": (1024,),
        "head__optimizer": "rmsprop",
        "head__lr": (1e-3, 1e-4),
        "optimizer": "momentum",
        "lr_schedule": "constant",
        "random_state": repeat,
    }
    for name, params in (
        ("head of 1024 alone, RMSprop", {**keras, "freeze_depth": "all", "head__epochs": 10}),
        ("then the last stage, SGD 1e-4", {**keras, "freeze_depth": -1, "head__epochs": 10}),
        ("solved head", {"freeze_depth": "all", "random_state": repeat}),
        ("then the last stage, AdamW", {"freeze_depth": -1, "random_state": repeat}),
    ):
        yield fit_and_score(tuner(shared, **params), part, recipe=name)


ARGUMENTS: dict[str, Any] = {
    "none": None,
    "rotation_range=15": {"rotation_range": 15},
    "width_shift_range=0.1": {"width_shift_range": 0.1},
    "height_shift_range=0.1": {"height_shift_range": 0.1},
    "shear_range=10": {"shear_range": 10},
    "zoom_range=0.1": {"zoom_range": 0.1},
    "brightness_range=(0.8, 1.2)": {"brightness_range": (0.8, 1.2)},
    "channel_shift_range=20": {"channel_shift_range": 20},
    "horizontal_flip": {"horizontal_flip": True},
    "vertical_flip": {"vertical_flip": True},
    "crop_scale=(0.5, 1)": {"crop_scale": (0.5, 1.0)},
    '"light"': "light",
    '"standard"': "standard",
    '"medical"': "medical",
}


def augmentation(shared: Path, repeat: int) -> Iterable[dict[str, Any]]:
    """Each argument of the augmentation alone, and the presets."""
    part = split(xrays(shared), repeat, 100)
    for name, given in ARGUMENTS.items():
        chosen = ImageAugmentation(**given) if isinstance(given, dict) else given
        clf = tuner(shared, augmentation=chosen, random_state=repeat)
        yield fit_and_score(clf, part, augmentation=name)


def strength(shared: Path, repeat: int) -> Iterable[dict[str, Any]]:
    """Augmentation up to images that nobody can read; how readable they are is measured too."""
    part = split(xrays(shared), repeat, 100)
    reader = tuner(shared, freeze_depth="all").fit(part.X, part.y)
    for factor in (0, 1, 2, 4, 8, 16):
        chosen = ImageAugmentation(
            rotation_range=min(180, 7 * factor),
            width_shift_range=min(0.8, 0.05 * factor),
            height_shift_range=min(0.8, 0.05 * factor),
            zoom_range=min(0.8, 0.05 * factor),
            brightness_range=(max(0.0, 1 - 0.1 * factor), 1 + 0.1 * factor),
            shear_range=min(60, 3 * factor),
            fill_mode="constant",
        )
        changed = [chosen(_opened(path), seed) for seed, path in enumerate(part.X_test)]
        readable = roc_auc_score(part.y_test, reader.predict_proba(changed)[:, 1])
        clf = tuner(
            shared,
            augmentation=chosen if factor else None,
            max_epochs=TRAINING["max_epochs"] * 2,
            random_state=repeat,
        )
        yield fit_and_score(clf, part, factor=factor, readable=float(readable))


def _opened(path: str) -> Any:
    from PIL import Image

    with Image.open(path) as image:
        return image.convert("L")


def whitening(shared: Path, repeat: int) -> Iterable[dict[str, Any]]:
    """Standardized and whitened pixels of small X-rays, and embeddings of the same images."""
    for per_class in (100, 300):
        part = split(pneumonia_mnist(shared), repeat, per_class)
        X, X_test = (each.astype(np.float32) / 255 for each in (part.X, part.X_test))
        for method in (None, "standardize", "pca", "zca"):
            train, test = X, X_test
            if method is not None:
                white = ImageWhitening(method).fit(X)
                train, test = white.transform(X), white.transform(X_test)
            flat = Split(
                train.reshape(len(train), -1),
                part.y,
                None,
                test.reshape(len(test), -1),
                part.y_test,
            )
            name = "pixels" if method is None else f"pixels, {method}"
            yield fit_and_score(
                LogisticRegression(C=0.01, max_iter=5000), flat, per_class=per_class, features=name
            )
        feat = PretrainedFeatureExtractor(
            NETWORK, **{**pretrained(shared, NETWORK), "image_size": 112}
        )
        clf = make_pipeline(feat, *(step for _, step in probe().steps))
        yield fit_and_score(clf, part, per_class=per_class, features=f"embedding, {NETWORK}")


# The recipe of the course, word for word: Adam from 1e-3 to 1e-4 on all that is trained, L2, a
# warm-up, early stopping with the best weights.
RECIPE: dict[str, Any] = {
    **PLAIN,
    "augmentation": "medical",
    "optimizer": "adam",
    "lr": 1e-3,
    "head__lr": 1e-3,
    "lr_schedule": "linear",
    "lr_schedule__final": 0.1,
    "lr_schedule__warmup": 1.0,
    "weight_decay": 1e-4,
    "max_epochs": 30,
    "validation_fraction": 0.2,
    "early_stopping": 10,
    "class_weight": "balanced",
}


def four_networks(shared: Path, repeat: int) -> Iterable[dict[str, Any]]:
    """Feature extraction against fine-tuning, at the rate of the course and at a tenth of it."""
    part = split(xrays(shared), repeat)
    for backbone in (*BACKBONES, "efficientnet_lite0"):
        common = {"backbone": backbone, "random_state": repeat}
        common |= pretrained(shared, backbone) if backbone in BACKBONES else {}
        frozen = FineTuneClassifier(freeze_depth="all", **common, **PLAIN)
        yield fit_and_score(frozen, part, network=backbone, strategy="extraction")
        for freeze_depth in (-1, 0):
            for name, settings in (("Adam 1e-3 to 1e-4", RECIPE), ("AdamW 1e-4", TRAINING)):
                clf = FineTuneClassifier(**{**common, **settings, "freeze_depth": freeze_depth})
                yield fit_and_score(clf, part, network=backbone, strategy=f"{name}, {freeze_depth}")


def gap(shared: Path, repeat: int) -> Iterable[dict[str, Any]]:
    """Scores of the images of training and of others, and what brings them together."""
    part, more = (split(xrays(shared), repeat, n) for n in (100, 250))
    whole = {"freeze_depth": 0}
    for name, params, data in (
        ("everything trained", whole, part),
        ("augmentation", {**whole, "augmentation": "medical"}, part),
        ("weight_decay=0.3", {**whole, "weight_decay": 0.3}, part),
        ("head__dropout=0.5", {**whole, "head__dropout": 0.5}, part),
        ("label smoothing 0.1", {**whole, "loss__label_smoothing": 0.1}, part),
        ("a third of the epochs", {**whole, "max_epochs": 7}, part),
        ("last stage alone", {"freeze_depth": -1}, part),
        ("head alone", {"freeze_depth": "all"}, part),
        ("2.5 times the images", whole, more),
    ):
        clf = tuner(shared, random_state=repeat, **params)
        row = fit_and_score(clf, data, remedy=name)
        seen = scores(clf, data.X, data.y)
        yield {**row, **{f"train_{metric}": value for metric, value in seen.items()}}


def leakage(shared: Path, repeat: int) -> Iterable[dict[str, Any]]:
    """Folds of images against folds of patients: part of the gap is a matter of counting."""
    task = xrays(shared)
    feat = PretrainedFeatureExtractor(NETWORK, **pretrained(shared, NETWORK))
    X = feat.fit_transform(task.X)
    nearest = make_pipeline(StandardScaler(), KNeighborsClassifier(1))
    for name, clf in (("regression", probe()), ("nearest neighbor", nearest)):
        for folds in (StratifiedKFold, StratifiedGroupKFold):
            cv = folds(5, shuffle=True, random_state=repeat)
            y_proba = cross_val_predict(
                clone(clf), X, task.y, groups=task.groups, cv=cv, method="predict_proba"
            )[:, 1]
            yield {
                "classifier": name,
                "folds": folds.__name__,
                "auc": float(roc_auc_score(task.y, y_proba)),
            }


def lesions(shared: Path, repeat: int) -> Iterable[dict[str, Any]]:
    """Skin lesions, malignant or not, 56 images: what fine-tuning does with very few."""
    folder = shared / "data" / "ham10000_mini"
    table = pd.read_csv(folder / "metadata.csv")
    files = np.array([str(folder / name) for name in table["file"]], dtype=object)
    y, groups = table["malignant"].to_numpy(int), table["lesion_id"].to_numpy()
    for freeze_depth in ("all", -1, 0):
        y_proba = np.empty(len(y))
        cv = StratifiedGroupKFold(5, shuffle=True, random_state=repeat)
        for train, test in cv.split(files, y, groups):
            clf = tuner(shared, freeze_depth=freeze_depth, random_state=repeat)
            y_proba[test] = clf.fit(files[train], y[train]).predict_proba(files[test])[:, 1]
        yield {
            "freeze_depth": freeze_depth,
            "auc": float(roc_auc_score(y, y_proba)),
            "log_loss": float(log_loss(y, y_proba)),
        }


# The long ones first, so that processes end together.
PARTS: dict[str, Callable[[Path, int], Iterable[dict[str, Any]]]] = {
    "four_networks": four_networks,
    "depth": depth,
    "strength": strength,
    "augmentation": augmentation,
    "gap": gap,
    "two_steps": two_steps,
    "truncation": truncation,
    "lesions": lesions,
    "recipe": recipe,
    "whitening": whitening,
    "leakage": leakage,
}


# --- the page ---------------------------------------------------------------------------------

PAGE = HERE.parent / "docs" / "user_guide" / "course.rst"
NAMES = {
    "all": 'head alone, ``freeze_depth="all"``',
    "-1": "last stage too, ``-1``",
    "-2": "last two stages, ``-2``",
    "0": "everything, ``0``",
    "random, all": "head on a random network, ``weights=None``",
    "random, 0": "everything, from scratch",
    "Adam 1e-3 to 1e-4, -1": "last stage, Adam 1e-3 to 1e-4",
    "AdamW 1e-4, -1": "last stage, AdamW 1e-4",
    "Adam 1e-3 to 1e-4, 0": "everything, Adam 1e-3 to 1e-4",
    "AdamW 1e-4, 0": "everything, AdamW 1e-4",
}


def tables(parts: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    """The tables of the page by name."""
    frames = {name: pd.DataFrame(rows) for name, rows in parts.items()}
    made = {
        "depth": _crossed(frames["depth"], "freeze_depth", "per_class", "images of each class"),
        "truncation": _crossed(
            frames["truncation"].assign(
                at=lambda d: d["set"] + ", " + d["per_class"].astype(str) + " a class"
            ),
            *("layer", "at", "features of"),
        ),
        "two_steps": _crossed(
            frames["two_steps"].assign(
                way=lambda d: d["start"] + "; " + d["freeze_depth"].astype(str).map(NAMES)
            ),
            *("way", "per_class", "images of each class"),
        ),
        "recipe": _listed(frames["recipe"], "recipe", ("auc", "accuracy", "log_loss")),
        "whitening": _crossed(frames["whitening"], "features", "per_class", "images of each class"),
        "strength": _listed(
            frames["strength"].assign(
                factor=lambda d: d["factor"].map(lambda times: times or "no augmentation")
            ),
            *("factor", ("readable", "auc", "accuracy", "log_loss")),
        ),
        "gap": _listed(
            frames["gap"],
            *("remedy", ("train_accuracy", "accuracy", "train_log_loss", "log_loss", "auc")),
        ),
        "leakage": _crossed(frames["leakage"], "classifier", "folds", "folds of"),
        "lesions": _listed(frames["lesions"], "freeze_depth", ("auc", "log_loss")),
    }
    made["four_networks"] = _crossed(
        frames["four_networks"], "strategy", "network", "ROC AUC"
    ) + _crossed(frames["four_networks"], "strategy", "network", "log loss", "log_loss")
    # Differences within a repeat: other images matter more than any argument.
    frame = frames["augmentation"].set_index(["repeat", "augmentation"])
    rows = []
    for name in ARGUMENTS:
        one = frame.xs(name, level="augmentation")
        cells = []
        for metric in ("auc", "accuracy", "log_loss"):
            apart = one[metric] - frame.xs("none", level="augmentation")[metric]
            value = one[metric] if name == "none" else apart
            cells.append(
                f"{value.mean():.3f}"
                if name == "none"
                else f"{value.mean():+.3f} ({value.min():+.3f} to {value.max():+.3f})"
            )
        rows.append([f"``{name}``", *cells])
    made["augmentation"] = rst_table(("argument", "ROC AUC", "accuracy", "log loss"), rows)
    return made


def _label(value: Any) -> str:
    names = {
        **NAMES,
        "StratifiedKFold": "images",
        "StratifiedGroupKFold": "patients",
        "auc": "ROC AUC",
        "log_loss": "log loss",
        "train_accuracy": "accuracy, training",
        "train_log_loss": "log loss, training",
        "readable": "ROC AUC of the probe on images so changed",
        "factor": "times the preset",
        "freeze_depth": "what is trained",
        "regression": "logistic regression",
        "extraction": "feature extraction",
    }
    return names.get(str(value), str(value))


def _crossed(frame: pd.DataFrame, row: str, column: str, corner: str, metric: str = "auc") -> str:
    """Mean over repeats, with the lowest and the highest."""
    groups = frame.groupby([row, column], sort=False)[metric]
    columns = list(dict.fromkeys(frame[column]))
    rows = []
    for key in dict.fromkeys(frame[row]):
        found = [groups.get_group((key, each)) for each in columns]
        cells = [f"{one.mean():.3f} ({one.min():.2f} to {one.max():.2f})" for one in found]
        rows.append([_label(key), *cells])
    return rst_table((corner, *map(_label, columns)), rows) + "\n"


def _listed(frame: pd.DataFrame, row: str, metrics: tuple[str, ...]) -> str:
    """Means over repeats, one column for each metric."""
    means = frame.groupby(row, sort=False)[list(metrics)].mean()
    rows = [[_label(key), *(f"{value:.3f}" for value in means.loc[key])] for key in means.index]
    return rst_table((_label(row), *map(_label, metrics)), rows)


def write_page(content: dict[str, Any], page: Path = PAGE) -> None:
    """Put the tables between their comments."""
    text = page.read_text()
    its = content["machine"]
    software = ", ".join(f"{name} {its['packages'][name]}" for name in ("torch", "torchvision"))
    where = f"Measured {its['date']} on one {its['gpu'] or its['cpu']} and {its['cores']} cores of "
    where += f"{its['cpu']}, Python {its['python']}, {software}.\n"
    for name, made in {"machine": where, **tables(content["parts"])}.items():
        head, rest = text.split(f".. begin course-{name}\n", 1)
        _, tail = rest.split(f".. end course-{name}\n", 1)
        text = f"{head}.. begin course-{name}\n\n{made}\n.. end course-{name}\n{tail}"
    page.write_text(text)


def run(name: str, shared: Path, repeat: int) -> list[dict[str, Any]]:
    """One repeat of a part, in a process of its own."""
    warnings.simplefilter("ignore")
    rows = [{"repeat": repeat, **row} for row in PARTS[name](shared, repeat)]
    print(f"{name}, repeat {repeat}: {len(rows)} rows", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--results", type=Path, help="folder of the JSON file")
    parser.add_argument("--tables", action="store_true", help="only write the tables of the page")
    args = parser.parse_args()
    if args.tables:
        write_page(json.loads(((args.results or RESULTS) / "course.json").read_text()))
        return
    shared, neighbors = shared_with_weights(), Neighbors()
    file = (args.results or RESULTS) / "course.json"
    parts = json.loads(file.read_text())["parts"] if file.is_file() else {}
    content: dict[str, Any] = {"machine": machine(), "repeats": args.repeats, "parts": parts}
    found: dict[str, dict[int, list[dict[str, Any]]]] = {name: {} for name in args.parts}
    with ProcessPoolExecutor(args.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = {
            pool.submit(run, name, shared, repeat): (name, repeat)
            for repeat in range(args.repeats)
            for name in args.parts
        }
        for job in as_completed(jobs):
            name, repeat = jobs[job]
            if job.exception() is not None:
                print(f"{name}, repeat {repeat} failed: {job.exception()!r}", flush=True)
                continue
            found[name][repeat] = job.result()
            parts[name] = [row for r in sorted(found[name]) for row in found[name][r]]
            write_json("course", {**content, "others_share": neighbors.share()}, args.results)


if __name__ == "__main__":
    main()
