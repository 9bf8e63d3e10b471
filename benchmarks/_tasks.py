"""Real images with labels, and the networks whose weights are at hand, for the benchmarks about
choosing. It must not know what is measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from finetune import BACKBONES, chest, hymenoptera, weights_of
from sklearn.datasets import load_digits

from sktransfer import PretrainedFeatureExtractor, list_backbones


@dataclass
class Task:
    """Images with labels; ``groups`` are patients or lesions, where there are any."""

    name: str
    X: Any
    y: np.ndarray
    groups: np.ndarray | None = None


def extractors(shared: Path, **params: Any) -> dict[str, PretrainedFeatureExtractor]:
    """An extractor for every network whose ImageNet weights are at hand."""
    table = list_backbones()
    names = table.loc[table["available_offline"], "name"]
    found = {name: PretrainedFeatureExtractor(name, **params) for name in names}
    for name in BACKBONES:
        weights = weights_of(shared, name)
        found[name] = PretrainedFeatureExtractor(name, weights=weights, **params)
    return found


def xrays(shared: Path) -> Task:
    X, y, patients = chest(shared)
    return Task("chest X-rays", X, y, patients)


def ants_and_bees(shared: Path) -> Task:
    X, y, X_val, y_val = hymenoptera(shared)
    return Task("ants and bees", np.array(X + X_val, dtype=object), np.concatenate([y, y_val]))


def pneumonia_mnist(shared: Path, n: int | None = None) -> Task:
    """The training part; ``n`` of its images, drawn once, keeping the share of the classes."""
    with np.load(shared / "data" / "pneumoniamnist" / "pneumoniamnist.npz") as file:
        X, y = file["train_images"], file["train_labels"].ravel().astype(int)
    if n is not None:
        from sklearn.model_selection import train_test_split

        rows, _ = train_test_split(np.arange(len(y)), train_size=n, stratify=y, random_state=0)
        X, y = X[rows], y[rows]
    return Task("PneumoniaMNIST", X, y)


def lesions(shared: Path) -> Task:
    folder = shared / "data" / "ham10000_mini"
    table = pd.read_csv(folder / "metadata.csv")
    files = np.array([str(folder / name) for name in table["file"]], dtype=object)
    return Task("skin lesions", files, table["malignant"].to_numpy(int), table["lesion_id"].values)


def imagenet(shared: Path) -> Task:
    """One photograph of every fifth class."""
    folder = shared / "data" / "imagenet_samples"
    table = pd.read_csv(folder / "labels.csv").sort_values("class_index")
    files = np.array([str(folder / name) for name in table["file"]], dtype=object)
    return Task("ImageNet", files, table["class_index"].to_numpy())


def digits(n: int = 200) -> np.ndarray:
    """Scanned digits of 8 by 8 pixels."""
    return (load_digits().images[:n] / 16 * 255).astype(np.uint8)


def noise(n: int = 60) -> np.ndarray:
    """Pixels that know nothing of each other."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (n, 224, 224, 3), dtype=np.uint8)
