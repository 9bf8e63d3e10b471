"""Memory of a process that embeds many images with several networks, for a long time.

    python benchmarks/long_run.py [--images 20000] [--calls 1000] [--networks 10] [--size 224]

One process embeds images, all of different bytes, with four networks, all stages of each, a cache
directory and the memory tier. Then it calls ``transform`` a thousand times, on batches of one to
forty images, old and new ones, with the four networks in turn, and loads further networks until
there are ten. The resident size is sampled all the while. The exit status is 1 unless the process
ends within 10 % of the peak of the first part.
"""

from __future__ import annotations

import argparse
import gc
import io
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from _common import (
    Neighbors,
    answer,
    in_own_process,
    machine,
    number,
    print_table,
    seconds,
    shared_directory,
    workspace,
    write_json,
)

# Small and medium ones, so that two cores are enough; the first four embed all images.
NETWORKS = (
    *("efficientnet_lite0", "resnet18", "densenet121", "resnet34"),
    *("squeezenet1_1", "mobilenet_v3_large", "mobilenet_v2", "shufflenet_v2_x1_0"),
    *("regnet_y_400mf", "mnasnet1_0"),
)
N_EMBEDDING = 4
CHUNK = 1000  # images whose bytes are alive at once
TOLERANCE = 0.10
MB = 1e6


class Sampler:
    """The resident size of this process, a few times a second, and its largest by phase."""

    def __init__(self) -> None:
        self.phase, self.peaks = "", {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(0.1):
            self.peaks[self.phase] = max(self.peaks.get(self.phase, 0.0), resident_mb())

    def close(self) -> None:
        self._ended.set()
        self._thread.join()


def resident_mb() -> float:
    """Resident size of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MB


class Images:
    """JPEG files that are made when they are asked for: noise on photographs, each with its own."""

    def __init__(self) -> None:
        import numpy as np
        from PIL import Image

        shared = shared_directory()
        found = sorted((shared / "data" / "imagenet_samples").glob("*.jpg")) if shared else []
        if found:
            self.what = "ImageNet photographs with noise of their own, 320 x 240 px"
            originals = [Image.open(path).convert("RGB").resize((320, 240)) for path in found[:200]]
            self._originals = [np.asarray(image) for image in originals]
        else:
            self.what = "generated images of 320 x 240 px"
            rng = np.random.default_rng(0)
            coarse = rng.integers(0, 256, (200, 12, 16, 3), dtype=np.uint8)
            resized = [Image.fromarray(each).resize((320, 240)) for each in coarse]
            self._originals = [np.asarray(image) for image in resized]
        # One large field of noise, of which each image has its own window.
        self._noise = np.random.default_rng(1).integers(-6, 7, (1024, 1024, 3), dtype=np.int16)

    def __call__(self, i: int) -> bytes:
        import numpy as np
        from PIL import Image

        pixels = self._originals[i % len(self._originals)].astype(np.int16)
        down, across = divmod(i * 7919 % (784 * 704), 704)
        pixels = pixels + self._noise[down : down + 240, across : across + 320]
        buffer = io.BytesIO()
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
        return buffer.getvalue()

    def chunks(self, n: int) -> Iterator[list[bytes]]:
        """All of the first ``n``, some at a time."""
        for low in range(0, n, CHUNK):
            yield [self(i) for i in range(low, min(low + CHUNK, n))]


def extractor(name: str, directory: str, size: int) -> Any:
    """All stages of a network, with a directory as cache; random weights, which cost the same."""
    import sktransfer

    stages = list(range(len(sktransfer.describe_backbone(name))))
    return sktransfer.PretrainedFeatureExtractor(
        name, weights=None, layer=stages, image_size=size, cache=directory
    )


def measure(
    images: int, calls: int, networks: Sequence[str], size: int, directory: str
) -> dict[str, Any]:
    """The whole run; sizes in MB."""
    import numpy as np

    import sktransfer
    from sktransfer._frozen import REGISTRY

    make, rng = Images(), np.random.default_rng(0)
    baseline, sampler = resident_mb(), Sampler()
    embedding, later = list(networks[:N_EMBEDDING]), list(networks[N_EMBEDDING:])
    phases: list[dict[str, Any]] = []

    def run(phase: str, work: Any) -> None:
        sampler.phase = phase
        took = seconds(work)
        time.sleep(0.3)  # a sample more
        phases.append(
            {
                "phase": phase,
                "seconds": took,
                "peak_mb": sampler.peaks[phase],
                "end_mb": resident_mb(),
                "networks_mb": sum(n.n_bytes for n in REGISTRY._networks.values()) / MB,
                "memory_tier_mb": sktransfer.cache_info().n_bytes / MB,
            }
        )
        print(phases[-1], file=sys.stderr, flush=True)

    def embed(name: str) -> None:
        feat = extractor(name, directory, size).fit([make(0)])
        for chunk in make.chunks(images):
            feat.transform(chunk)

    for name in embedding:
        run(f"{name}, all images", lambda name=name: embed(name))
    peak = max(sampler.peaks.values())
    feats = [extractor(name, directory, size).fit([make(0)]) for name in embedding]

    def call() -> None:
        for k in range(calls):
            n = int(rng.integers(1, 41))
            # Old ones, which the store has, and new ones in turn.
            rows = rng.integers(0, images, n) if k % 2 else images + k * 40 + np.arange(n)
            feats[k % len(feats)].transform([make(int(row)) for row in rows])

    run(f"{calls} calls of four networks in turn", call)
    few = [make(i) for i in range(64)]
    for name in later:
        work = lambda name=name: extractor(name, directory, size).fit(few).transform(few)  # noqa: E731
        run(f"{name}, {len(few)} images", work)
    sampler.close()
    gc.collect()
    used = sum(file.stat().st_size for file in Path(directory).rglob("*") if file.is_file())
    last = phases[-1]
    return {
        "images": make.what,
        "baseline_mb": baseline,
        "peak_mb": peak,
        "peak_of_all_mb": max(sampler.peaks.values()),
        "end_mb": resident_mb(),
        "directory_mb": used / MB,
        "parts_mb": {
            "libraries": baseline,
            "networks": last["networks_mb"],
            "memory_tier": max(phase["memory_tier_mb"] for phase in phases),
        },
        "phases": phases,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--calls", type=int, default=1000, help="of transform, afterwards")
    parser.add_argument("--networks", type=int, default=10, help="in all; four embed all images")
    parser.add_argument("--size", type=int, default=224, help="side of the network's input")
    parser.add_argument("--results", type=Path, help="folder of the JSON file")
    args = parser.parse_args()
    if not Path("/proc/self/statm").is_file():
        sys.exit("This reads the resident size from /proc, which Linux has.")
    description, neighbors = machine(), Neighbors()
    with workspace() as folder:
        if shutil.disk_usage(folder).free < 3 * 2**30:
            sys.exit(f"{folder} has less than 3 GiB; set TMPDIR")
        asked = {"images": args.images, "calls": args.calls, "size": args.size}
        asked |= {"networks": NETWORKS[: args.networks], "directory": str(folder / "cache")}
        found = in_own_process("long_run.py", asked, folder)
    if "skipped" in found:
        sys.exit(found["skipped"])
    found["within"] = found["end_mb"] <= (1 + TOLERANCE) * found["peak_mb"]
    report(found)
    asked = {name: asked[name] for name in ("images", "calls", "size", "networks")}
    content = {"machine": description, "others_share": neighbors.share(), "asked": asked, **found}
    print(f"used by others meanwhile: {content['others_share']} of all cores")
    write_json("long_run", content, args.results)
    return 0 if found["within"] else 1


def report(found: dict[str, Any]) -> None:
    header = ("phase", "seconds", "peak MB", "end MB", "networks MB", "memory tier MB")
    lines = [
        (
            each["phase"],
            *(number(each[name], 4) for name in ("seconds", "peak_mb", "end_mb")),
            *(number(each[name], 4) for name in ("networks_mb", "memory_tier_mb")),
        )
        for each in found["phases"]
    ]
    print_table("Resident size of one process", header, lines)
    end, peak = found["end_mb"], found["peak_mb"]
    print(
        f"peak with four networks {peak:.0f} MB, of all {found['peak_of_all_mb']:.0f} MB; at the "
        f"end {end:.0f} MB, {'within' if found['within'] else 'NOT within'} {TOLERANCE:.0%}"
    )


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1].startswith("{"):
        answer(measure)
    else:
        sys.exit(main())
