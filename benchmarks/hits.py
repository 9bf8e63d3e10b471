"""What an image costs that was embedded before: a warm hit, in memory and in a directory.

    python benchmarks/hits.py [--n 200] [--network resnet18]

For 224-pixel arrays and for JPEG files; milliseconds an image, the network not run once.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from _common import (
    Neighbors,
    answer,
    in_own_process,
    machine,
    median,
    number,
    photos,
    print_table,
    random_weights,
    seconds,
    workspace,
    write_json,
)
from _contestants import Spy, sktransfer_extractor


def measure(
    network: str, weights: str, paths: list[str], tier: str, kind: str, repeats: int
) -> dict[str, Any]:
    """Milliseconds an image of a transform whose rows are all there."""
    import sktransfer

    X = paths if kind == "JPEG files" else _arrays(paths)
    contents = [Path(path).read_bytes() for path in paths] if X is paths else [*X]
    with tempfile.TemporaryDirectory() as folder:
        cache: Any = True if tier == "memory" else str(Path(folder) / "store")
        spy = Spy()
        feat = sktransfer_extractor(network, weights, cache=cache).fit(X[:1])
        cold = seconds(lambda: feat.transform(X))
        embedded = spy.n_images
        times = []
        for _ in range(repeats):
            if tier == "directory":
                sktransfer.clear_cache()  # the memory in front of it
            times.append(seconds(lambda: feat.transform(X)))
        if spy.n_images != embedded:
            raise RuntimeError(f"{spy.n_images - embedded} images were embedded again")
    hashing = seconds(lambda: [blake2b(each, digest_size=16).digest() for each in contents])
    per_image = 1000 / len(X)
    return {
        "hit_ms": median(times) * per_image,
        "slowest_repeat_ms": max(times) * per_image,
        "miss_ms": cold * per_image,
        "hash_ms": hashing * per_image,
    }


def _arrays(paths: list[str]) -> np.ndarray:
    from PIL import Image

    arrays = [np.asarray(Image.open(p).convert("RGB").resize((224, 224))).copy() for p in paths]
    for i, array in enumerate(arrays):
        array[0, 0] = i % 256, i // 256, 0  # distinct, also where the files are copies
    return np.stack(arrays)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=200, help="images")
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--results", type=Path, help="folder of the JSON file")
    args = parser.parse_args()
    description, neighbors = machine(), Neighbors()
    rows: list[dict[str, Any]] = []
    with workspace() as folder:
        (folder / "photos").mkdir()
        paths, images = photos(args.n, folder / "photos")
        weights = random_weights(args.network, folder)
        for tier in ("memory", "directory"):
            for kind in ("JPEG files", "arrays"):
                asked = {"network": args.network, "weights": weights, "paths": paths}
                asked |= {"tier": tier, "kind": kind, "repeats": args.repeats}
                rows.append(
                    {"tier": tier, "kind": kind, **in_own_process("hits.py", asked, folder)}
                )
    lines = [
        (
            row["tier"],
            row["kind"],
            number(row["hit_ms"]),
            number(row["slowest_repeat_ms"]),
            number(row["hash_ms"]),
            number(row["miss_ms"]),
        )
        for row in rows
        if "skipped" not in row
    ]
    header = ("tier", "images", "hit ms", "slowest ms", "of it hash ms", "miss ms")
    print_table(f"An image embedded before, {args.network} at 224 px, n={args.n}", header, lines)
    for row in rows:
        if "skipped" in row:
            print(f"not run: {row['tier']}, {row['kind']}: {row['skipped']}")
    content = {
        "machine": description,
        "others_share": neighbors.share(),
        "n": args.n,
        "images": images,
        "network": args.network,
        "temporary_folder": os.fspath(Path(tempfile.gettempdir())),
        "rows": rows,
    }
    print(f"used by others meanwhile: {content['others_share']} of all cores")
    write_json("hits", content, args.results)


if __name__ == "__main__":
    import sys

    if len(sys.argv) == 3 and sys.argv[1].startswith("{"):
        answer(measure)
    else:
        main()
