"""How far kinds of pictures are from ImageNet for every network at hand, and the thresholds that
follow.

    python benchmarks/domain_distance.py [--write]

Needs the shared data and weights (``SKTRANSFER_TEST_SHARED``). ``--write`` renews the thresholds
that the library carries. A threshold lies between the farthest of the natural sets and the nearest
of the others; sets marked "not used" have no part in it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _common import HERE, machine, number, print_table, shared_directory, write_json
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

from sktransfer.selection import domain_distance

CALIBRATION = HERE.parent / "sktransfer" / "selection" / "calibration.json"
# Ranges of ImageNet's classes; of the sample pictures, those with fewer than eight are left out.
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
    """Pictures of other kinds."""
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
        return [how(picture) for picture in photographs]

    return {
        "ants and bees": ants_and_bees(shared).X,
        "skin lesions": lesions(shared).X,
        "ImageNet, turned by 90 degrees": changed(lambda p: p.rotate(90, expand=True)),
        "ImageNet, inverted": changed(ImageOps.invert),
        "ImageNet, grey": changed(ImageOps.grayscale),
        "ImageNet, blurred": changed(lambda p: p.filter(ImageFilter.GaussianBlur(4))),
        "ImageNet, 28 px": changed(lambda p: ImageOps.fit(p, (28, 28))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="renew the library's thresholds")
    parser.add_argument("--n-images", type=int, default=128)
    parser.add_argument("--results", type=Path, help="folder of the JSON file")
    args = parser.parse_args()
    shared = shared_directory()
    if shared is None or not (shared / "weights").is_dir():
        sys.exit("This needs the shared data and weights: set SKTRANSFER_TEST_SHARED.")
    kinds = {"natural": natural(shared), "other": other(shared), "not used": not_used(shared)}
    rows: list[dict[str, Any]] = []
    thresholds: list[dict[str, Any]] = []
    embeddings: dict[str, Any] = {}
    for name, extractor in extractors(shared).items():
        extractor.fit(["a picture is not read here"])
        digest = extractor.reference_.digest
        source: dict[str, Any] = {}
        try:
            domain_distance(extractor, digits(2))
        except ValueError:  # no BatchNorm, and nothing is stored
            source = {"source": kinds["natural"]["ImageNet"]}
        found: dict[str, list[float]] = {"natural": [], "other": [], "not used": []}
        for kind, sets in kinds.items():
            for what, X in sets.items():
                result = domain_distance(extractor, X, n_images=args.n_images, **source)
                found[kind].append(result.distance)
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
        thresholds.append(
            {
                "name": name,
                "digest": digest,
                "statistic": result.statistic,
                "similar_below": float(f"{max(found['natural']):.4g}"),
                "dissimilar_above": float(f"{min(found['other']):.4g}"),
            }
        )
        if result.statistic == "embedding":
            embedded = extractor.fit_transform(kinds["natural"]["ImageNet"])
            embeddings[digest] = {
                "name": name,
                "n": len(embedded),
                "mean": [float(f"{x:.5g}") for x in embedded.mean(0)],
                "std": [float(f"{x:.5g}") for x in embedded.std(0)],
            }
    by_name = {record["name"]: record for record in thresholds}
    by_name["efficientnet_lite0"]["default_for"] = "batch_norm"
    by_name["squeezenet1_0"]["default_for"] = "embedding"
    print_table(
        "Distance from ImageNet",
        ("set", *by_name),
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


if __name__ == "__main__":
    main()
