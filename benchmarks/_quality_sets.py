"""Sets of images with their splits, for ``quality.py``. It must not know recipes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from _tasks import Task, ants_and_bees, lesions, pneumonia_mnist, xrays
from finetune import hymenoptera
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

# Of PneumoniaMNIST, where each image is trained on many times; digits to train and test on.
SUBSAMPLE, DIGITS = 500, 500
N_FOLDS = 5
# The twelve sets of MedMNIST+ and their sizes.
MEDMNIST = (
    *("path", "chest", "derma", "oct", "pneumonia", "retina", "breast", "blood", "tissue"),
    *("organa", "organc", "organs"),
)
MEDMNIST_SIZES = (28, 64, 128, 224)


@dataclass
class ImageSet:
    """Images, labels, and what one split of them is.

    ``cluster`` is shared by sets of the same images: their differences are not independent.
    """

    name: str
    X: Any
    y: np.ndarray
    metric: str = "AUC"
    cluster: str = ""
    groups: np.ndarray | None = None
    # Rows to test on, where the publisher says which; ``n_train`` of the others, drawn by seed.
    published: np.ndarray | None = None
    n_train: int | None = None
    # Side of the images that the network sees; None: as its weights prescribe.
    image_size: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def seeds_differ(self) -> bool:
        """Whether another seed is another split."""
        return self.published is None or self.n_train is not None

    def splits(self, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Rows to train and to test on: folds, or the published test part once."""
        if self.published is None:
            folds = StratifiedGroupKFold(N_FOLDS, shuffle=True, random_state=seed)
            groups = np.arange(len(self.y)) if self.groups is None else self.groups
            yield from folds.split(self.y, self.y, groups)
            return
        rows = np.setdiff1d(np.arange(len(self.y)), self.published)
        if self.n_train is not None:
            rows, _ = train_test_split(
                rows, train_size=self.n_train, stratify=self.y[rows], random_state=seed
            )
        yield rows, self.published

    def describe(self) -> dict[str, Any]:
        """What the page says of the set, and what one image and one pair are worth of its score."""
        tests = [test for _, test in self.splits(0)]
        train = [train for train, _ in self.splits(0)]
        pairs = 0
        if self.y.ndim == 1 and self.y.max() == 1:
            pairs = sum(int((self.y[t] == 1).sum() * (self.y[t] == 0).sum()) for t in tests)
        return {
            "metric": self.metric,
            "cluster": self.cluster or self.name,
            "n_train": round(float(np.mean([len(rows) for rows in train]))),
            "n_test": sum(map(len, tests)),
            "pairs": pairs,
            "folds": len(tests),
        }


def _of(task: Task, metric: str = "AUC") -> ImageSet:
    return ImageSet(task.name, task.X, task.y, metric, groups=task.groups)


def _ants_val(shared: Path) -> ImageSet:
    X, y, X_val, y_val = hymenoptera(shared)
    both = np.array(X + X_val, dtype=object)
    rows = np.arange(len(X), len(both))
    return ImageSet(
        *("ants and bees, val part", both, np.concatenate([y, y_val]), "accuracy"),
        cluster="ants and bees",
        published=rows,
    )


def _pneumonia(shared: Path, n_train: int | None = None, image_size: int | None = None) -> ImageSet:
    task = pneumonia_mnist(shared)
    with np.load(shared / "data" / "pneumoniamnist" / "pneumoniamnist.npz") as file:
        X, y = file["test_images"], file["test_labels"].ravel().astype(int)
    name = task.name + (f", {n_train} images" if n_train else "")
    return ImageSet(
        name + (f", {image_size} px" if image_size else ""),
        np.concatenate([task.X, X]),
        np.concatenate([task.y, y]),
        cluster=task.name,
        published=np.arange(len(task.y), len(task.y) + len(y)),
        n_train=n_train,
        image_size=image_size,
    )


def _xrays_small(shared: Path) -> ImageSet:
    own = _of(xrays(shared))
    own.name, own.cluster, own.image_size = f"{own.name}, 64 px", own.name, 64
    return own


def _digits(shared: Path) -> ImageSet:
    X, y = load_digits(return_X_y=True)
    images = (X.reshape(-1, 8, 8) / 16 * 255).astype(np.uint8)
    return ImageSet("digits", images[:DIGITS], y[:DIGITS], "accuracy")


SETS = {
    "skin": lambda shared: _of(lesions(shared)),
    "ants-val": _ants_val,
    "ants": lambda shared: _of(ants_and_bees(shared), "accuracy"),
    "chest": lambda shared: _of(xrays(shared)),
    "pneumonia-500": lambda shared: _pneumonia(shared, SUBSAMPLE),
    "digits": _digits,
    "pneumonia": _pneumonia,
    # For what a drifting BatchNorm costs: networks see the images small, as published.
    "pneumonia-28": lambda shared: _pneumonia(shared, image_size=28),
    "chest-64": _xrays_small,
}


def medmnist_set(flag: str, size: int, root: Path | None) -> ImageSet:
    """A set of MedMNIST+ in one of its sizes.

    From ``root``/FLAGmnist[_SIZE].npz, else through the package ``medmnist``, which downloads it.
    """
    name = f"{flag}mnist" + (f"_{size}" if size != 28 else "")
    path = None if root is None else root / f"{name}.npz"
    if path is not None and path.is_file():
        with np.load(path) as file:
            parts = {key: file[key] for key in file.files}
    else:
        import medmnist

        made = getattr(medmnist, medmnist.INFO[f"{flag}mnist"]["python_class"])
        where = {} if root is None else {"root": str(root)}
        parts = {}
        for part in ("train", "test"):
            loaded = made(split=part, size=size, download=True, **where)
            parts[f"{part}_images"], parts[f"{part}_labels"] = loaded.imgs, loaded.labels
    y = np.concatenate([parts["train_labels"], parts["test_labels"]]).astype(int)
    n = len(parts["train_labels"])
    return ImageSet(
        f"{flag.capitalize()}MNIST, {size} px",
        np.concatenate([parts["train_images"], parts["test_images"]]),
        y[:, 0] if y.shape[1] == 1 else y,  # ChestMNIST has fourteen labels
        cluster=f"{flag}mnist",
        published=np.arange(n, len(y)),
        image_size=size,
    )
