"""How far kinds of images are from ImageNet for every network at hand, and the thresholds that
follow.

    python benchmarks/domain_distance.py [--write]

Needs the shared data and weights (``SKTRANSFER_TEST_SHARED``). ``--write`` renews the thresholds
that the library carries. A threshold lies between the farthest of the natural sets and the nearest
of the others; sets marked "not used" have no part in it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _common import HERE, RESULTS, machine, number, print_table, shared_with_weights, write_json
from _tasks import (
    ants_and_bees,
    digits,
    extractors,
    imagenet,
    lesions,
    noise,
    pneumonia_mnist,
    xrays,
)
from PIL import Image, ImageFilter, ImageOps
from torch.nn.modules.batchnorm import _BatchNorm

from sktransfer._backbones import load_backbone
from sktransfer.model_selection import domain_distance

CALIBRATION = HERE.parent / "sktransfer" / "selection" / "calibration.json"
# Whose thresholds are borrowed where there are none.
DEFAULTS = {"efficientnet_lite0": "batch_norm", "squeezenet1_0": "embedding"}
# Ranges of ImageNet's classes; of the sample images, those with fewer than eight are left out.
SUBSETS = {
    "animals": [(0, 398)],
    "objects": [(398, 1000)],
    "dogs": [(151, 269)],
    "birds": [(7, 25), (80, 101), (127, 147)],
    "food and landscapes": [(923, 981)],
}


def natural(shared: Path) -> dict[str, Any]:
    """Photographs of the kinds the networks know."""
    task = imagenet(shared)
    sets = {"ImageNet": task.X}
    for name, ranges in SUBSETS.items():
        inside = np.zeros(len(task.y), dtype=bool)
        for low, high in ranges:
            inside |= (task.y >= low) & (task.y < high)
        if inside.sum() >= 8:
            sets[name] = task.X[inside]
    return sets


def other(shared: Path) -> dict[str, Any]:
    """Images of other kinds."""
    return {
        "chest X-rays": xrays(shared).X,
        "PneumoniaMNIST, 28 px": pneumonia_mnist(shared).X,
        "digits, 8 px": digits(),
        "noise": noise(),
    }


def not_used(shared: Path) -> dict[str, Any]:
    """Sets that have no part in the thresholds."""
    photographs = [Image.open(path).convert("RGB") for path in imagenet(shared).X]

    def changed(how: Callable[[Image.Image], Image.Image]) -> list[Image.Image]:
        return [how(image) for image in photographs]

    return {
        "ants and bees": ants_and_bees(shared).X,
        "skin lesions": lesions(shared).X,
        "ImageNet, turned by 90 degrees": changed(lambda p: p.rotate(90, expand=True)),
        "ImageNet, inverted": changed(ImageOps.invert),
        "ImageNet, gray": changed(ImageOps.grayscale),
        "ImageNet, blurred": changed(lambda p: p.filter(ImageFilter.GaussianBlur(4))),
        "ImageNet, 28 px": changed(lambda p: ImageOps.fit(p, (28, 28))),
    }


def measure(
    name: str, extractor: Any, kinds: dict[str, dict[str, Any]], n_images: int
) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any] | None]:
    """Rows of a network, its threshold, and the statistics of its embedding if it needs them."""
    every = kinds["natural"]["ImageNet"]
    digest = extractor.fit(every).reference_.digest
    network = load_backbone(name, weights=extractor.weights)
    norms = any(isinstance(m, _BatchNorm) for m in network.modules().modules())
    source = {} if norms else {"source": every}
    rows = []
    for kind, sets in kinds.items():
        for what, X in sets.items():
            result = domain_distance(extractor, X, n_images=n_images, **source)
            rows.append(
                {
                    "backbone": name,
                    "statistic": result.statistic,
                    "set": what,
                    "kind": kind,
                    "n": result.n_images,
                    "distance": result.distance,
                    "early": result.early,
                    "late": result.late,
                }
            )
            print(rows[-1], flush=True)
    threshold = {"name": name, "digest": digest, "statistic": rows[0]["statistic"], **ends(rows)}
    if norms:
        return rows, threshold, None
    embedded = extractor.fit_transform(every)
    statistics = {
        "name": name,
        "n": len(embedded),
        "mean": [float(f"{x:.5g}") for x in embedded.mean(0)],
        "std": [float(f"{x:.5g}") for x in embedded.std(0)],
    }
    return rows, threshold, statistics


def ends(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The farthest of the natural sets and the nearest of the others."""
    far = {
        kind: [r["distance"] for r in rows if r["kind"] == kind] for kind in ("natural", "other")
    }
    return {
        "similar_below": float(f"{max(far['natural']):.4g}"),
        "dissimilar_above": float(f"{min(far['other']):.4g}"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="renew the library's thresholds")
    parser.add_argument("--networks", nargs="*", help="only these; what others gave is kept")
    parser.add_argument("--n-images", type=int, default=128)
    parser.add_argument("--results", type=Path, help="folder of the JSON file")
    args = parser.parse_args()
    shared = shared_with_weights()
    named = extractors(shared)
    chosen = list(named) if args.networks is None else args.networks
    kinds = {"natural": natural(shared), "other": other(shared), "not used": not_used(shared)}
    rows, thresholds, embeddings = kept(chosen, (args.results or RESULTS) / "domain_distance.json")
    for name in chosen:
        own, threshold, statistics = measure(name, named[name], kinds, args.n_images)
        rows += own
        thresholds.append(threshold)
        if statistics is not None:
            embeddings[threshold["digest"]] = statistics
    thresholds.sort(key=lambda record: list(named).index(record["name"]))
    for record in thresholds:
        if record["name"] in DEFAULTS:
            record["default_for"] = DEFAULTS[record["name"]]
    print_table(
        "Distance from ImageNet",
        ("set", *(record["name"] for record in thresholds)),
        [
            (what, *(number(r["distance"], 2) for r in rows if r["set"] == what))
            for sets in kinds.values()
            for what in sets
        ],
    )
    content = {"machine": machine(), "rows": rows, "thresholds": thresholds}
    write_json("domain_distance", content, args.results)
    if args.write:
        record = {"thresholds": thresholds, "embeddings": embeddings}
        CALIBRATION.write_text(json.dumps(record, indent=1) + "\n")
        print(f"written: {CALIBRATION}")


def kept(chosen: list[str], path: Path) -> tuple[list[Any], list[Any], dict[str, Any]]:
    """What is there of networks that are not measured again."""
    if not path.is_file():
        return [], [], {}
    content = json.loads(path.read_text())
    rows = [row for row in content["rows"] if row["backbone"] not in chosen]
    thresholds = [record for record in content["thresholds"] if record["name"] not in chosen]
    digests = {record["digest"] for record in thresholds}
    stored = json.loads(CALIBRATION.read_text())["embeddings"]
    return rows, thresholds, {key: value for key, value in stored.items() if key in digests}


if __name__ == "__main__":
    main()
