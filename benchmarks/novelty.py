"""Whether images of other kinds, changed images and images of another source are noticed.

    python benchmarks/novelty.py [--repeats 3] [--draws 400] [--store FOLDER]

Needs the shared data and weights (``SKTRANSFER_TEST_SHARED``). A detector is fitted to chest X-rays
of some patients, and judges those of others, the same ones changed, and other images. Skin lesions
and photographs take the place of the X-rays once. Draws of 50 images of PneumoniaMNIST, and of 50
X-rays of other patients brought to 28 pixels, are tested against X-rays at 28 pixels.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _common import Neighbors, machine, print_table, shared_with_weights, workspace, write_json
from _tasks import ants_and_bees, extractors, imagenet, lesions, noise, xrays
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from sktransfer.novelty import NoveltyDetector

NETWORKS = ("efficientnet_lite0", "resnet18", "mobilenet_v2", "squeezenet1_0")
SIZES = (50, 100, 300)
N_CHANGED, N_NEW, N_SMALL = 100, 50, 250


def halves() -> dict[str, Callable[[Image.Image], Image.Image]]:
    def cut(left: float, top: float, right: float, bottom: float) -> Any:
        def crop(image: Image.Image) -> Image.Image:
            w, h = image.size
            return image.crop((int(left * w), int(top * h), int(right * w), int(bottom * h)))

        return crop

    return {
        "left half": cut(0, 0, 0.5, 1),
        "right half": cut(0.5, 0, 1, 1),
        "upper half": cut(0, 0, 1, 0.5),
        "lower half": cut(0, 0.5, 1, 1),
        "central half": cut(0.25, 0.25, 0.75, 0.75),
    }


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "inverted": ImageOps.invert,
    "rotated by 90 degrees": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "rotated by 270 degrees": lambda image: image.transpose(Image.Transpose.ROTATE_270),
    "blurred, sigma 1 of 320 pixels": lambda image: image.filter(ImageFilter.GaussianBlur(1)),
    "blurred, sigma 2": lambda image: image.filter(ImageFilter.GaussianBlur(2)),
    "blurred, sigma 4": lambda image: image.filter(ImageFilter.GaussianBlur(4)),
    **halves(),
}


def pages(n: int) -> list[Image.Image]:
    """Pages of text, a third of them white on black."""
    random, letters, out = np.random.default_rng(1), list("abcdefghijklmnopqrstuvwxyz      ,."), []
    for number in range(n):
        image = Image.new("L", (320, 320), 255)
        font = ImageFont.load_default(int(random.integers(10, 28)))
        y = 4
        while y < 310:
            line = "".join(random.choice(letters) for _ in range(60))
            ImageDraw.Draw(image).text((5, y), line, 0, font=font)
            y += int(font.size * 1.4)
        out.append(image if number % 3 else ImageOps.invert(image))
    return out


def small(files: Any) -> np.ndarray:
    """X-rays as MedMNIST has them: the central square at 28 pixels."""
    found = []
    for file in files:
        image = Image.open(file).convert("L")
        side = min(image.size)
        squared = ImageOps.fit(image, (side, side))
        found.append(np.asarray(squared.resize((28, 28), Image.Resampling.BICUBIC)))
    return np.stack(found)


def others(shared: Path) -> dict[str, Any]:
    gray = np.random.default_rng(2).integers(0, 256, (40, 224, 224), dtype=np.uint8)
    flat = np.repeat(np.array([0, 1, 3, 128, 255], np.uint8), 224 * 224).reshape(5, 224, 224)
    return {
        "photographs (ImageNet)": imagenet(shared).X,
        "photographs (ants)": ants_and_bees(shared).X[:200],
        "skin lesions": lesions(shared).X,
        "noise, colored": noise(),
        "noise, gray": gray,
        "black, gray and white": flat,
        "text": pages(60),
    }


def auc(usual: np.ndarray, novel: np.ndarray) -> float:
    labels = np.repeat([0, 1], [len(usual), len(novel)])
    return float(roc_auc_score(labels, -np.concatenate([usual, novel])))


def split(groups: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Rows of patients in a random order, until there are ``n``."""
    order = np.random.default_rng(seed).permutation(np.unique(groups))
    return np.concatenate([np.flatnonzero(groups == each) for each in order])[:n]


class Neighbor:
    """The plain baseline: distance of the embedding to its nearest neighbor."""

    def __init__(self, widths: Any) -> None:
        self.own = slice(-int(widths[-1]), None)

    def fit(self, rows: np.ndarray, groups: Any = None) -> Neighbor:
        self.index = NearestNeighbors(n_neighbors=1).fit(rows[:, self.own])
        return self

    def score_samples(self, rows: np.ndarray) -> np.ndarray:
        return -self.index.kneighbors(rows[:, self.own])[0].ravel()


def judge(F: dict[str, np.ndarray], widths: Any, chest: Any, repeats: int) -> list[dict[str, Any]]:
    """Areas under the curve of each kind, and false alarms, by number of images of fit."""
    test = F["test"].astype(bool)
    groups, rest = np.asarray(chest.groups), np.flatnonzero(~F["test"].astype(bool))
    rows = []
    kinds = [name for name in F if name not in ("chest", "test")]
    detectors = {
        "NoveltyDetector": NoveltyDetector(widths=widths),
        "without stages": NoveltyDetector(),
        "nearest embedding": Neighbor(widths),
    }
    for name, detector in detectors.items():
        for n in SIZES if name == "NoveltyDetector" else SIZES[-1:]:
            found: list[dict[str, float]] = []
            for seed in range(repeats):
                own = rest[split(groups[rest], n, seed)]
                detector.fit(F["chest"][own], groups=groups[own])
                usual = detector.score_samples(F["chest"][test])
                found.append({k: auc(usual, detector.score_samples(F[k])) for k in kinds})
            means = {kind: float(np.mean([each[kind] for each in found])) for kind in kinds}
            rows.append({"detector": name, "n": n, "auc": means})
    return rows


def false_alarms(F: np.ndarray, widths: Any, groups: np.ndarray, repeats: int) -> dict[str, Any]:
    """Share of X-rays of other patients that is called novel, over random divisions."""
    out = {}
    for n in SIZES:
        rates = []
        for seed in range(repeats):
            own = split(groups, n, seed)
            other = ~np.isin(groups, groups[own])
            detector = NoveltyDetector(widths=widths).fit(F[own], groups=groups[own])
            rates.append(float((detector.predict(F[other]) == -1).mean()))
        out[str(n)] = {"mean": float(np.mean(rates)), "rates": rates}
    return out


def drift(
    X28: np.ndarray, patients: np.ndarray, other: np.ndarray, widths: Any, draws: int
) -> dict[str, Any]:
    """How often 50 images of the same and of another source are noticed; a fit for 5 draws."""
    noticed, alarms, novel = [], [], []
    names = np.unique(patients)
    for seed in range(draws):
        random = np.random.default_rng(seed)
        if seed % 5 == 0:
            fit = np.isin(patients, random.permutation(names)[: len(names) // 2])
            detector = NoveltyDetector(widths=widths).fit(X28[fit], groups=patients[fit])
            left = np.unique(patients[~fit])
        order = random.permutation(left)
        new = np.concatenate([np.flatnonzero(patients == each) for each in order])[:N_NEW]
        report = detector.drift_report(X28[new], groups=patients[new], random_state=seed)
        alarms.append(report.p_value)
        drawn = random.choice(len(other), N_NEW, replace=False)
        report = detector.drift_report(other[drawn], random_state=seed)
        noticed.append(report.p_value)
        novel.append(report.novel.estimate)
    return {
        "noticed": float(np.mean(np.array(noticed) <= 0.05)),
        "false_alarms": float(np.mean(np.array(alarms) <= 0.05)),
        "novel": float(np.mean(novel)),
        "draws": draws,
    }


def swapped(given: dict[str, Any], repeats: int) -> list[dict[str, Any]]:
    """X-rays among skin lesions and among photographs."""
    rows = []
    for name, sets in given.items():
        F, widths = sets
        for kind, n in (("skin lesions", 40), ("photographs (ImageNet)", 150)):
            found, rates = [], []
            for seed in range(repeats):
                order = np.random.default_rng(seed).permutation(len(F[kind]))
                detector = NoveltyDetector(widths=widths).fit(F[kind][order[:n]])
                usual = detector.score_samples(F[kind][order[n:]])
                rates.append(float((usual < detector.offset_).mean()))
                found.append(auc(usual, detector.score_samples(F["chest"][:200])))
            rows.append(
                {
                    "network": name,
                    "kind": kind,
                    "n": n,
                    "auc": float(np.mean(found)),
                    "false_alarms": float(np.mean(rates)),
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--store", type=Path, help="folder of embeddings, to be used again")
    parser.add_argument("--results", type=Path, help="folder of the JSON file")
    args = parser.parse_args()
    shared = shared_with_weights()
    warnings.simplefilter("ignore")
    description, neighbors = machine(), Neighbors()
    chest = xrays(shared)
    patients = np.asarray(chest.groups)
    names = np.unique(patients)
    order = np.random.default_rng(0).permutation(names)
    test = np.isin(patients, order[: len(names) * 2 // 5])
    shown = [Image.open(file).convert("L") for file in chest.X[test][:N_CHANGED]]
    kept = [np.flatnonzero(part)[:N_SMALL] for part in (~test, test)]
    at_28 = np.sort(np.concatenate(kept))
    with np.load(shared / "data" / "pneumoniamnist" / "pneumoniamnist.npz") as file:
        other = file["test_images"]
    other = other[np.random.default_rng(0).permutation(len(other))[:160]]
    images = {"chest": chest.X, **others(shared)}
    images |= {name: [change(image) for image in shown] for name, change in CHANGES.items()}
    content: dict[str, Any] = {"machine": description, "repeats": args.repeats, "networks": {}}
    features: dict[str, Any] = {}
    with workspace() as folder:
        given = extractors(shared, cache=args.store or folder / "store", layer="all")
        for network in args.networks:
            net = clone(given[network])
            F = {name: net.fit_transform(X) for name, X in images.items()}
            widths = list(net._widths)
            small_rows, other_rows = net.transform(small(chest.X[at_28])), net.transform(other)
            features[network] = F, widths
            content["networks"][network] = {
                "kinds": judge({**F, "test": test}, widths, chest, args.repeats),
                "false_alarms": false_alarms(F["chest"], widths, patients, 3 * args.repeats),
                "drift": drift(small_rows, patients[at_28], other_rows, widths, args.draws),
            }
            print(network, content["networks"][network]["drift"], flush=True)
            content["swapped"] = swapped(features, args.repeats)
            content["others_share"] = neighbors.share()
            write_json("novelty", content, args.results)  # after each network, which takes minutes
    for network, own in content["networks"].items():
        rows = [
            (kind, *(f"{row['auc'][kind]:.4f}" for row in own["kinds"]))
            for kind in own["kinds"][0]["auc"]
        ]
        header = ("AUROC", *(f"{row['detector']}, {row['n']}" for row in own["kinds"]))
        print_table(network, header, rows)
        print({n: round(each["mean"], 3) for n, each in own["false_alarms"].items()})
    print(content["swapped"])


if __name__ == "__main__":
    main()
