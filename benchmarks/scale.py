"""A hundred thousand files, all of different bytes, with four networks: does anything grow?

    python benchmarks/scale.py [--images 100000] [--short 2000] [--size 32] [--workers 2]

One process embeds all files with four networks in one call of ``FeatureUnion``, with a directory as
the cache; calls it again, where every row is there; and a fresh process does. Then two worker
processes of Dask do the same with a directory of their own. Short runs on other files, in the same
processes before and after, say what an image costs where nothing has had time to grow. Last, rows
are written to a directory store on its own, and looked up, up to a million.

Ratios are of processor seconds, which other programs disturb less than they do the wall's. The
exit status is 1 unless they stay within 5 % and both ways give the same embeddings.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from _common import (
    Neighbors,
    answer,
    in_own_process,
    machine,
    median,
    print_table,
    workspace,
    write_json,
)
from _scale_page import scale_rows, store_rows

# Narrow embeddings, so that a hundred thousand of all four are one GB.
NETWORKS = ("squeezenet1_1", "resnet18", "shufflenet_v2_x0_5", "resnet34")
TOLERANCE = 0.05
WARM_UP = 256
SIDES = (64, 48)  # of the files, px
PER_FOLDER = 1000
PARTITION = 500  # rows of a partition of Dask
STORE_WIDTH = 64
MB = 1e6


# --- the files -----------------------------------------------------------------------------------


def make_files(folder: Path, n: int) -> None:
    """``n`` JPEG files of different pixels: each has a window of its own on a field of noise."""
    import numpy as np
    from PIL import Image

    width, height = SIDES
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (200, 6, 8, 3), dtype=np.uint8)
    originals = [np.asarray(Image.fromarray(each).resize(SIDES), np.int16) for each in coarse]
    noise = rng.integers(-12, 13, (1024, 1024, 3), dtype=np.int16)
    for i in range(n):
        if i % PER_FOLDER == 0:
            path_of(folder, i).parent.mkdir(parents=True)
        down, across = divmod(i * 7919 % ((1024 - height) * (1024 - width)), 1024 - width)
        pixels = originals[i % 200] + noise[down : down + height, across : across + width]
        buffer = io.BytesIO()
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
        path_of(folder, i).write_bytes(buffer.getvalue())


def path_of(folder: Path, i: int) -> Path:
    return folder / f"{i // PER_FOLDER:04d}" / f"{i:07d}.jpg"


def paths(folder: Path, low: int, n: int) -> list[str]:
    return [str(path_of(folder, i)) for i in range(low, low + n)]


# --- what is looked at meanwhile -----------------------------------------------------------------


def descendants(pid: int) -> list[int]:
    """This process and all that it has started, as far as they live."""
    found, queue = [], [pid]
    while queue:
        found.append(queue.pop())
        try:
            children = Path(f"/proc/{found[-1]}/task").glob("*/children")
            queue += [int(child) for file in children for child in file.read_text().split()]
        except OSError:  # it has ended
            continue
    return found


def used_by(pids: Sequence[int]) -> tuple[float, float, int]:
    """Processor seconds, resident MB (shared pages count in each) and open files of processes."""
    cpu, resident, files = 0.0, 0.0, 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            files += len(os.listdir(f"/proc/{pid}/fd"))
        except OSError:
            continue
        cpu += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        resident += pages * os.sysconf("SC_PAGE_SIZE") / MB
    return cpu, resident, files


class Watch:
    """A process and its children: the most memory and files at once; and how far it has come."""

    def __init__(self) -> None:
        self.peak_mb, self.files, self.samples = 0.0, 0, []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        import sktransfer

        while not self._ended.wait(0.25):
            cpu, resident, files = used_by(descendants(os.getpid()))
            self.peak_mb, self.files = max(self.peak_mb, resident), max(self.files, files)
            # Each image is looked up once and is not there: a count of what has been begun.
            self.samples.append((sktransfer.cache_info().misses, cpu))

    def close(self) -> None:
        self._ended.set()
        self._thread.join()

    def ms_between(self, low: float, high: float) -> float | None:
        """Processor milliseconds an image, from the ``low``-th look-up to the ``high``-th."""
        within = [(done, cpu) for done, cpu in self.samples if low <= done <= high]
        if len(within) < 2 or within[-1][0] == within[0][0]:
            return None
        (first, start), (last, end) = within[0], within[-1]
        return 1000 * (end - start) / (last - first)


def timed(work: Callable[[], Any], n: int) -> tuple[dict[str, float], Any]:
    """What a call costs, in all and for one of ``n`` images."""
    before, start = used_by(descendants(os.getpid()))[0], time.perf_counter()
    result = work()
    wall = time.perf_counter() - start
    cpu = used_by(descendants(os.getpid()))[0] - before
    costs = {"seconds": wall, "cpu_seconds": cpu}
    return costs | {"ms": 1000 * wall / n, "cpu_ms": 1000 * cpu / n, "images": n}, result


# --- the runs ------------------------------------------------------------------------------------


def extractor(name: str, cache: Path, size: int) -> Any:
    """Random weights cost the same as trained ones."""
    import sktransfer

    return sktransfer.PretrainedFeatureExtractor(
        name, weights=None, image_size=size, cache=str(cache)
    )


def one_call(
    folder: str, images: int, short: int, size: int, again: bool, compared: int
) -> dict[str, Any]:
    """Four networks in one call, twice; with ``again`` the rows are there and it is called once."""
    import numpy as np
    from sklearn.pipeline import FeatureUnion

    import sktransfer

    files, cache = Path(folder) / "files", Path(folder) / "one_call"
    union = FeatureUnion([(name, extractor(name, cache, size)) for name in NETWORKS])
    X = paths(files, 0, images)
    baseline, watch = used_by([os.getpid()])[1], Watch()
    if again:
        first, E = timed(lambda: union.fit_transform(X), images)
        watch.close()
        info = sktransfer.cache_info(cache)
        return {**first, "peak_mb": watch.peak_mb, "files": watch.files, "misses": info.misses}
    union.fit_transform(paths(files, images + 4 * short, WARM_UP))
    parts = [paths(files, images + k * short, short) for k in range(4)]
    brief = [timed(partial(union.fit_transform, part), short)[0] for part in parts[:2]]
    lookups = sktransfer.cache_info().misses
    watch.samples.clear()
    long, E = timed(lambda: union.fit_transform(X), images)
    peak_mb = watch.peak_mb
    steps = [
        [
            watch.ms_between(lookups + (k + low) * images, lookups + (k + high) * images)
            for low, high in ((0.0, 0.1), (0.9, 1.0))
        ]
        for k in range(len(NETWORKS))
    ]
    brief += [timed(partial(union.transform, part), short)[0] for part in parts[2:]]
    # What Dask is compared with.
    np.save(Path(folder) / "means.npy", E[:compared].mean(axis=0, dtype=np.float64))
    output, stored = E.nbytes / MB, E.nbytes / MB * (images + 4 * short + WARM_UP) / images
    del E
    second, _ = timed(lambda: union.transform(X), images)
    watch.close()
    return {
        "short": brief,
        "long": long,
        "second": second,
        "first_and_last_tenth_ms": steps,
        "baseline_mb": baseline,
        "peak_mb": peak_mb,
        "output_mb": output,
        "stored_mb": stored,
        "memory_tier_mb": sktransfer.cache_info().n_bytes / MB,
        "directory_mb": sum(file.stat().st_size for file in cache.iterdir()) / MB,
        "files": watch.files,
    }


def with_dask(
    folder: str, images: int, total: int, short: int, size: int, workers: int
) -> dict[str, Any]:
    """Four networks over one Dask table of paths, on worker processes of one thread each."""
    import dask
    import dask.dataframe as dd
    import numpy as np
    import pandas as pd
    from distributed import Client, LocalCluster

    files, cache = Path(folder) / "files", Path(folder) / "dask"

    def means(low: int, n: int) -> Any:
        table = pd.DataFrame({"image": paths(files, low, n)})
        lazy = dd.from_pandas(table, npartitions=max(workers, n // PARTITION))
        E = [extractor(name, cache, size).fit_transform(lazy) for name in NETWORKS]
        return np.concatenate(dask.compute(*(each.astype(np.float64).mean() for each in E)))

    cluster = LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        dashboard_address=None,
        local_directory=str(Path(folder) / "workers"),
    )
    with cluster, Client(cluster):
        watch = Watch()
        means(total + 4 * short, WARM_UP)
        lows = [total + k * short for k in range(4)]
        brief = [timed(partial(means, low, short), short)[0] for low in lows[:2]]
        long, found = timed(lambda: means(0, images), images)
        brief += [timed(partial(means, low, short), short)[0] for low in lows[2:]]
        watch.close()
    expected = np.load(Path(folder) / "means.npy")
    return {
        "short": brief,
        "long": long,
        "peak_mb": watch.peak_mb,
        "files": watch.files,
        "difference": float(np.linalg.norm(found - expected) / np.linalg.norm(expected)),
    }


def store_alone(folder: str, rows: int) -> dict[str, Any]:
    """Milliseconds of a look-up and of a row that is added, at each power of ten of rows."""
    import numpy as np

    from sktransfer._frozen import open_directory

    store, row = open_directory(Path(folder) / "store"), np.ones(STORE_WIDTH, np.float32)
    rng, there, found = np.random.default_rng(0), 0, []
    key = lambda i: (i * 2654435761 % 2**64).to_bytes(8, "little") * 2  # noqa: E731

    def add(n: int) -> None:
        for low in range(there, there + n, 32):
            store.put([(key(i), row) for i in range(low, min(low + 32, there + n))])

    def look_up(keys: Sequence[bytes]) -> float:
        return timed(lambda: [store.get(each) for each in keys], len(keys))[0]["ms"]

    n = 1000
    while n <= rows:
        add(n - there - 320)
        there = n - 320
        put_ms = timed(lambda: add(320), 320)[0]["ms"]
        there = n
        hit_ms = look_up([key(int(i)) for i in rng.integers(0, n, 1000)])
        miss_ms = look_up([key(n + i) for i in range(1000)])
        found.append({"rows": n, "put_ms": put_ms, "hit_ms": hit_ms, "miss_ms": miss_ms})
        n *= 10
    return {"width": STORE_WIDTH, "sizes": found}


PARTS = {"one_call": one_call, "with_dask": with_dask, "store_alone": store_alone}


def measure(part: str, **arguments: Any) -> dict[str, Any]:
    return PARTS[part](**arguments)


# --- the whole -----------------------------------------------------------------------------------


def ratio(part: dict[str, Any], what: str = "cpu_ms") -> float:
    """Cost of an image in the long run over that in the short ones."""
    return part["long"][what] / median([each[what] for each in part["short"]])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--dask-images", type=int, help="through Dask, if not as many")
    parser.add_argument("--short", type=int, default=2000, help="images of a short run")
    parser.add_argument("--size", type=int, default=32, help="side of the networks' input")
    parser.add_argument("--workers", type=int, default=2, help="processes of Dask")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the store on its own")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="of the ratios")
    parser.add_argument("--results", type=Path, help="folder of the JSON file")
    args = parser.parse_args()
    if not Path("/proc/self/statm").is_file():
        sys.exit("This reads memory and processor time from /proc, which Linux has.")
    description, neighbors = machine(), Neighbors()
    asked = {"images": args.images, "short": args.short, "size": args.size}
    found: dict[str, Any] = {}
    with workspace() as folder:
        if shutil.disk_usage(folder).free < 3e4 * args.images + 1e9:
            sys.exit(f"{folder} is too small for {args.images:,} files; set TMPDIR")
        make_files(folder / "files", args.images + 4 * args.short + WARM_UP)
        shared = {**asked, "folder": str(folder)}
        through_dask = {"images": args.dask_images or args.images, "total": args.images}
        once = {**shared, "compared": through_dask["images"]}
        for name, part, arguments in (
            ("one_call", "one_call", {**once, "again": False}),
            ("fresh_process", "one_call", {**once, "again": True}),
            ("dask", "with_dask", {**shared, **through_dask, "workers": args.workers}),
            ("store", "store_alone", {"folder": str(folder), "rows": args.rows}),
        ):
            found[name] = in_own_process("scale.py", {"part": part, **arguments}, folder)
            print(name, found[name], file=sys.stderr, flush=True)
            if "skipped" in found[name]:
                sys.exit(f"{name}: {found[name]['skipped']}")
            if name == "fresh_process":  # its rows are not needed again
                shutil.rmtree(folder / "one_call")
    for name in ("one_call", "dask"):
        found[name]["ratio"] = {what: ratio(found[name], what) for what in ("cpu_ms", "ms")}
    most = 1 + args.tolerance
    within = all(found[name]["ratio"]["cpu_ms"] <= most for name in ("one_call", "dask"))
    found["within"] = within and found["dask"]["difference"] < 1e-4
    content = {
        "machine": description,
        "others_share": neighbors.share(),
        "asked": {**asked, "workers": args.workers, "networks": NETWORKS},
        "files": f"generated JPEG files of {SIDES[0]} x {SIDES[1]} px, no two of the same bytes",
        **found,
    }
    report(content)
    print(f"used by others meanwhile: {content['others_share']} of all cores")
    write_json("scale", content, args.results)
    return 0 if found["within"] else 1


def report(content: dict[str, Any]) -> None:
    print_table(f"{content['asked']['images']:,} files, four networks", *scale_rows(content))
    print_table("The store", *store_rows(content))


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1].startswith("{"):
        answer(measure)
    else:
        sys.exit(main())
