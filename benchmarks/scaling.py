"""Seconds and memory per image from a hundred images to a hundred thousand.

    python benchmarks/scaling.py [--max 10000] [--network squeezenet1_1]

Small synthetic JPEG files and a small network, so that what grows with the number of images is
not hidden behind what does not. Every size runs in a fresh process.
"""

from __future__ import annotations

import argparse
import gc
import shutil
import sys
from pathlib import Path
from typing import Any

from _common import (
    Neighbors,
    answer,
    in_own_process,
    machine,
    number,
    peak_memory_mb,
    print_table,
    random_weights,
    seconds,
    with_comment,
    workspace,
    write_json,
)
from _contestants import Spy, sktransfer_extractor

SIDE_FILE = 64
SIDE_NETWORK = 32


def make_files(folder: Path, n: int) -> None:
    """``n`` distinct small JPEG files: 500 images, told apart by a comment."""
    import io

    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    originals = []
    for _ in range(min(n, 500)):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        coarse.resize((SIDE_FILE, SIDE_FILE)).save(buffer, "JPEG", quality=85)
        originals.append(buffer.getvalue())
    for i in range(n):
        if i % 1000 == 0:
            (folder / f"{i // 1000:04d}").mkdir(parents=True)
        path = folder / f"{i // 1000:04d}" / f"{i:07d}.jpg"
        path.write_bytes(with_comment(originals[i % len(originals)], i))


def files(folder: Path, n: int) -> list[str]:
    return [str(folder / f"{i // 1000:04d}" / f"{i:07d}.jpg") for i in range(n)]


def measure(network: str, weights: str, folder: str, n: int, cache: Any) -> dict[str, Any]:
    """Seconds an image and the growth of peak memory, one ``transform`` of ``n`` files."""
    import sktransfer

    X = files(Path(folder), n)
    feat = sktransfer_extractor(
        network, weights, image_size=SIDE_NETWORK, cache=cache or False
    ).fit(X[:1])
    sktransfer_extractor(network, weights, image_size=SIDE_NETWORK, cache=False).fit(X[:1])
    # Warm-up without a store, so that nothing of it is there already.
    feat.set_params(cache=False).transform(X[:64])
    feat.set_params(cache=cache or False)
    gc.collect()
    baseline, spy = peak_memory_mb(), Spy()
    rows: list[Any] = []
    took = seconds(lambda: rows.append(feat.transform(X)))
    peak = peak_memory_mb()
    if spy.n_images != n:
        raise RuntimeError(f"{spy.n_images} images were embedded, not {n}")
    tier = sktransfer.cache_info().n_bytes / 1e6 if cache else 0.0
    output = rows[0].nbytes / 1e6
    return {
        "n": n,
        "seconds_per_image": took / n,
        "images_per_s": n / took,
        "baseline_mb": baseline,
        "peak_mb": peak,
        "growth_mb": peak - baseline,
        "output_mb": output,
        "memory_tier_mb": tier,
        "net_growth_mb": peak - baseline - output - tier,
        "net_peak_mb": peak - output - tier,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--max", type=int, default=10_000, help="largest number of images")
    parser.add_argument("--min", type=int, default=100, help="smallest")
    parser.add_argument("--network", default="squeezenet1_1")
    parser.add_argument("--no-cache", action="store_true", help="without the memory tier")
    parser.add_argument("--results", type=Path, help="folder of the JSON file")
    args = parser.parse_args()
    description, neighbors = machine(), Neighbors()
    sizes, size = [], args.min
    while size <= args.max:
        sizes.append(size)
        size *= 10
    rows: list[dict[str, Any]] = []
    with workspace() as folder:
        if shutil.disk_usage(folder).free < 10_000 * sizes[-1]:
            sys.exit(f"{folder} has no room for {sizes[-1]:,} small files; set TMPDIR")
        make_files(folder / "files", sizes[-1])
        weights = random_weights(args.network, folder)
        for n in sizes:
            asked = {"network": args.network, "weights": weights, "n": n}
            asked |= {"folder": str(folder / "files"), "cache": not args.no_cache}
            row = in_own_process("scaling.py", asked, folder)
            print(f"{n:,}: {row.get('skipped') or row['images_per_s']}", flush=True)
            rows.append({"n": n, **row})
    report(rows, args.network)
    content = {
        "machine": description,
        "others_share": neighbors.share(),
        "images": f"generated JPEG files of {SIDE_FILE} x {SIDE_FILE} px",
        "network": args.network,
        "image_size": SIDE_NETWORK,
        "cache": not args.no_cache,
        "sizes": rows,
        "net_peak_over_1000_mb": _over_thousand(rows),
    }
    print(f"used by others meanwhile: {content['others_share']} of all cores")
    write_json("scaling", content, args.results)


def _over_thousand(rows: list[dict[str, Any]]) -> float | None:
    """Net peak of the largest size above that of a thousand images."""
    net = {row["n"]: row["net_peak_mb"] for row in rows if "net_peak_mb" in row}
    return net[max(net)] - net[1000] if 1000 in net else None


def report(rows: list[dict[str, Any]], network: str) -> None:
    lines = [
        (
            number(row["n"], 9),
            number(1000 * row["seconds_per_image"]),
            number(row["peak_mb"], 4),
            number(row["growth_mb"]),
            number(row["output_mb"]),
            number(row["memory_tier_mb"]),
            number(row["net_growth_mb"]),
        )
        for row in rows
        if "skipped" not in row
    ]
    header = ("images", "ms each", "peak MB", "growth MB", "output MB", "tier MB", "net MB")
    print_table(f"{network} at {SIDE_NETWORK} px, one transform", header, lines)
    for row in rows:
        if "skipped" in row:
            print(f"not run: {row['n']}: {row['skipped']}")


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1].startswith("{"):
        answer(measure)
    else:
        main()
