"""Whether one fit of several findings is as good as a fit for each, and what it costs.

    python benchmarks/findings.py [--n 800] [--findings 14] [--n-trained 200] [--epochs 3]

Needs the shared data and weights (``SKTRANSFER_TEST_SHARED``). Findings are composed, so that what
is true is known: changes of chest X-rays that are drawn independently (with pneumonia as one more
finding), mosaics of four images that may hold an ant, a bee, a malignant lesion and a pneumonia,
and findings that are simulated from embeddings. Each is measured with all known, and with three
tenths unknown; probes against fits of the same solver, of scikit-learn's to the same precision, and
of scikit-learn's as it is by default. Then pipelines from image files, whose activations are not
stored, and networks. At last the few X-rays whose findings were published with them, as a
demonstration.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _common import (
    Neighbors,
    cpu_seconds,
    machine,
    print_table,
    shared_with_weights,
    workspace,
    write_json,
)
from _tasks import ants_and_bees, extractors, lesions, xrays
from PIL import Image, ImageFilter, ImageOps
from scipy.special import expit
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer import FineTuneClassifier, MultiLabelLogisticRegression
from sktransfer.metrics import multilabel_report

NETWORK = "efficientnet_lite0"
SIDE = 224
UNKNOWN = 0.3
REPEATS = 5  # of probes, whose fits take hundredths of a second; the fastest counts
ALONE: dict[str, Callable[[], Any]] = {
    "own solver": MultiLabelLogisticRegression,
    "scikit-learn": lambda: make_pipeline(
        StandardScaler(), LogisticRegression(C=0.01, max_iter=5000, tol=1e-8)
    ),
    "scikit-learn, default tolerance": lambda: make_pipeline(
        StandardScaler(), LogisticRegression(C=0.01, max_iter=1000)
    ),
}
# In an order in which no change hides another one.
CHANGES: dict[str, tuple[float, Callable[[Image.Image], Image.Image]]] = {
    "blurred": (0.4, lambda image: image.filter(ImageFilter.GaussianBlur(1.5))),
    "mirrored": (0.5, ImageOps.mirror),
    "tilted": (0.3, lambda image: image.rotate(8, resample=Image.Resampling.BILINEAR)),
    "dark": (0.2, lambda image: image.point(lambda level: int(level * 0.8))),
    "marked": (0.1, lambda image: _with_marker(image)),
}


def _with_marker(image: Image.Image) -> Image.Image:
    image = image.copy()
    image.paste(235, (12, 12, 22, 28))
    return image


def changed_xrays(shared: Path, n: int) -> tuple[np.ndarray, pd.DataFrame]:
    """X-rays with changes that are drawn independently; pneumonia is the last finding."""
    task, rng = xrays(shared), np.random.default_rng(0)
    rows = rng.permutation(len(task.y))[:n]
    drawn = {name: rng.random(n) < share for name, (share, _) in CHANGES.items()}
    images = []
    for place, row in enumerate(rows):
        image = ImageOps.fit(Image.open(task.X[row]).convert("L"), (SIDE, SIDE))
        for name, (_, change) in CHANGES.items():
            if drawn[name][place]:
                image = change(image)
        images.append(np.asarray(image))
    return np.stack(images), pd.DataFrame({**drawn, "pneumonia": task.y[rows]}).astype(float)


def mosaics(shared: Path, n: int) -> tuple[np.ndarray, pd.DataFrame]:
    """Mosaics of four images, each with or without one finding."""
    rng = np.random.default_rng(1)
    insects, skin, chest = ants_and_bees(shared), lesions(shared), xrays(shared)
    other = skin.X[skin.y == 0]
    sources = {
        "ant": (insects.X[insects.y == 0], other),
        "bee": (insects.X[insects.y == 1], other),
        "malignant lesion": (skin.X[skin.y == 1], other),
        "pneumonia": (chest.X[chest.y == 1], chest.X[chest.y == 0]),
    }
    y = rng.random((n, 4)) < [0.5, 0.3, 0.2, 0.4]
    half, images = SIDE // 2, np.zeros((n, SIDE, SIDE, 3), dtype=np.uint8)
    for place in range(n):
        corners = rng.permutation(4)
        for corner, present, (own, without) in zip(
            corners, y[place], sources.values(), strict=True
        ):
            file = rng.choice(own if present else without)
            tile = ImageOps.fit(Image.open(file).convert("RGB"), (half, half))
            top, left = half * (corner // 2), half * (corner % 2)
            images[place, top : top + half, left : left + half] = np.asarray(tile)
    return images, pd.DataFrame(y.astype(float), columns=list(sources))


def simulated(F: np.ndarray, k: int) -> pd.DataFrame:
    """Findings whose log-odds are random directions of embeddings, with noise; some are rare."""
    rng = np.random.default_rng(2)
    Z = StandardScaler().fit_transform(F)
    logits = Z @ rng.normal(size=(Z.shape[1], k)) / np.sqrt(Z.shape[1])
    shares = np.linspace(0.5, 0.05, k)
    cuts = np.array([np.quantile(own, 1 - s) for own, s in zip(logits.T, shares, strict=True)])
    y = rng.random(logits.shape) < expit(4 * (logits - cuts))
    return pd.DataFrame(y.astype(float), columns=[f"finding {i + 1}" for i in range(k)])


def fitted(make: Callable[[], Any], X: Any, y: Any, repeats: int) -> tuple[Any, float]:
    """Return a fitted model, and the least seconds of the processor that a fit took."""
    seconds = []
    for _ in range(repeats):
        model = make()
        begun = cpu_seconds()
        model.fit(X, y)
        seconds.append(cpu_seconds() - begun)
    return model, min(seconds)


def compare(
    name: str,
    together: Callable[[], Any],
    alone: Callable[[], Any],
    X: Any,
    y: pd.DataFrame,
    truth: pd.DataFrame,
    n_train: int,
    repeats: int = 1,
) -> dict[str, Any]:
    """Fit all findings at once and each by itself; return areas and seconds of the processor."""
    one, spent = fitted(together, X[:n_train], y[:n_train], repeats)
    proba = one.predict_proba(X[n_train:])
    areas, separate, seconds = [], [], 0.0
    for place, finding in enumerate(y):
        own = y[finding].iloc[:n_train]
        rows = np.flatnonzero(own.notna())
        model, least = fitted(alone, X[rows], own.to_numpy()[rows].astype(int), repeats)
        seconds += least
        test = truth[finding][n_train:]
        areas.append(roc_auc_score(test, proba[:, place]))
        separate.append(roc_auc_score(test, model.predict_proba(X[n_train:])[:, 1]))
    difference = np.abs(np.subtract(areas, separate))
    row = {
        "case": name,
        "findings": y.shape[1],
        "train": n_train,
        "test": len(y) - n_train,
        "auc": float(np.mean(areas)),
        "auc_separate": float(np.mean(separate)),
        "largest_difference": float(difference.max()),
        "seconds": spent,
        "seconds_separate": seconds,
        "cost": spent / seconds,
        "cost_in_single_fits": y.shape[1] * spent / seconds,
        "by_finding": dict(zip(y, zip(areas, separate, strict=True), strict=True)),
    }
    print({key: value for key, value in row.items() if key != "by_finding"}, flush=True)
    return row


def few_published(shared: Path, X: np.ndarray) -> dict[str, Any]:
    """The findings that were published with some X-rays: cross-validated areas with intervals."""
    file = shared / "data" / "chest_xray_pneumonia" / "metadata.csv"
    table = pd.read_csv(file)
    known = np.flatnonzero(table["all_findings"].notna())
    y = table["all_findings"].iloc[known].str.get_dummies("|").astype(float)
    y = y.loc[:, (y.sum() >= 8) & (y.sum() <= len(y) - 8)]
    folds = KFold(10, shuffle=True, random_state=0)
    proba = cross_val_predict(
        MultiLabelLogisticRegression(), X[known], y, cv=folds, method="predict_proba"
    )
    report = multilabel_report(y, proba, groups=table["patient_id"].iloc[known].to_numpy())
    columns = ["n", "n_positive", "roc_auc", "roc_auc_low", "roc_auc_high"]
    return {str(name): row.to_dict() for name, row in report.loc[list(y), columns].iterrows()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=800, help="images of each set")
    parser.add_argument("--findings", type=int, default=14, help="simulated ones")
    parser.add_argument(
        "--n-trained", type=int, default=200, help="images that a network trains on"
    )
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--results", type=Path, help="folder of the JSON file")
    args = parser.parse_args()
    shared = shared_with_weights()
    warnings.simplefilter("ignore")
    description, neighbors = machine(), Neighbors()
    rng = np.random.default_rng(3)
    half = args.n // 2
    probes, pipelines, networks = [], [], []
    with workspace() as folder:
        extractor = extractors(shared, cache=folder / "store")[NETWORK].set_params(layer="all")
        files = xrays(shared).X[: args.n]
        chest = extractor.fit_transform(files)
        X, y = changed_xrays(shared, args.n)
        tiles, of_tiles = mosaics(shared, args.n)
        sets = {
            "changed X-rays": (extractor.transform(X), y),
            "mosaics": (extractor.transform(tiles), of_tiles),
            "simulated": (chest, simulated(chest, args.findings)),
        }
        for name, (F, truth) in sets.items():
            for share in (0.0, UNKNOWN):
                known = truth.mask(rng.random(truth.shape) < share)
                for how, alone in ALONE.items():
                    together = MultiLabelLogisticRegression
                    row = compare(name, together, alone, F, known, truth, half, REPEATS)
                    probes.append({**row, "unknown": share, "alone": how})
        n_test = min(args.n - args.n_trained, half)
        rows = np.arange(args.n_trained + n_test)
        make = partial(
            lambda cold: make_pipeline(clone(cold), MultiLabelLogisticRegression()),
            clone(extractor).set_params(cache=None),
        )
        truth = simulated(chest, min(4, args.findings)).iloc[rows]
        pipelines.append(
            compare("X-ray files", make, make, files[rows], truth, truth, args.n_trained)
        )

        network = FineTuneClassifier(
            NETWORK, cache=folder / "store", max_epochs=args.epochs, random_state=0
        )
        for name, images, truth, kept in (
            ("changed X-rays", X, y, 1.0),
            ("mosaics", tiles, of_tiles, 1.0),
            ("mosaics", tiles, of_tiles, "auto"),
        ):
            # Every fit finds the frozen part in the store, as the fits after the first one would.
            clone(network).set_params(max_epochs=0).fit(images[rows], truth.iloc[rows])
            make = partial(clone, clone(network).set_params(weight_interpolation=kept))
            own = (images[rows], truth.iloc[rows], truth.iloc[rows], args.n_trained)
            networks.append({**compare(name, make, make, *own), "weight_interpolation": kept})
        published = few_published(shared, extractor.transform(xrays(shared).X))
    columns = ("case", "findings", "auc", "auc_separate", "largest_difference", "cost")
    shown = {"probes": probes, "pipelines": pipelines, "networks": networks}
    for title, found in shown.items():
        print_table(title, columns, [[f"{row[c]}"[:20] for c in columns] for row in found])
    content = {"machine": description, "others_share": neighbors.share(), "network": NETWORK}
    results = {**shown, "published": published}
    write_json("findings", {**content, "epochs": args.epochs, **results}, args.results)


if __name__ == "__main__":
    main()
