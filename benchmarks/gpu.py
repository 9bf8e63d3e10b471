"""From JPEG files to embeddings and fine-tuned networks on a GPU, next to the machine's bounds.

    python benchmarks/gpu.py                  # on a card, in less than 6 minutes
    python benchmarks/gpu.py --device cpu     # the same steps, small

Weights are random. Two things bound extraction from files: the forward pass alone, on batches that
are on the device already (the fastest of what timm's users do: channels_last with AMP, weights in
half precision, a CUDA graph, torch.compile), and decoding alone, by Pillow and torchvision's
transforms in the threads that ours has. ``of_bound`` is what ours reaches of the lower one. A part
that does not fit in the time left, or fails, is named in the output, and the others run.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from _common import (
    RESULTS,
    Neighbors,
    machine,
    n_cores,
    number,
    photos,
    print_table,
    rst_table,
    seconds,
    workspace,
    write_json,
)
from PIL import Image
from sklearn.model_selection import GridSearchCV

from sktransfer import FineTuneClassifier, PretrainedFeatureExtractor, clear_cache
from sktransfer._frozen import _device
from sktransfer._images import as_image_source, make_preprocessing

HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Parts:
    """Runs parts of the benchmark as long as there is time, and writes down what each found."""

    def __init__(self, minutes: float, results: Path, about: dict[str, Any]) -> None:
        self.end = time.monotonic() + 60 * minutes
        self.results = results
        self.content: dict[str, Any] = {**about, "seconds": {}, "skipped": {}}
        self.neighbors = Neighbors()

    def run(self, name: str, work: Callable[[], Any], needs: float = 10) -> Any:
        """Run a part that takes about ``needs`` seconds; return what it found, or None."""
        left = self.end - time.monotonic()
        found = None
        if left < needs:
            self.skip(name, f"needs {needs:.0f} s, and {max(0.0, left):.0f} s are left")
        else:
            start = time.monotonic()
            try:
                found = self.content[name] = work()
            except Exception as error:  # the others are worth having
                self.skip(name, f"{type(error).__name__}: {str(error)[:300]}")
            self.content["seconds"][name] = time.monotonic() - start
            if found is not None:
                print(f"{name} ({time.monotonic() - start:.0f} s): {rounded(found)}", flush=True)
            clear_cache()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        self.content["others_share"] = self.neighbors.share()
        return found

    def skip(self, name: str, why: str) -> None:
        self.content["skipped"][name] = why
        print(f"{name}: SKIPPED, {why}", flush=True)

    def write(self) -> None:
        write_json("gpu", self.content, self.results)


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


# --- the bounds -------------------------------------------------------------------------------


def speed(work: Callable[[], Any], device: str, n_images: int, rounds: int) -> float:
    """Images per second of several passes that are waited for at once, the best of three times."""
    best = float("inf")
    for turn in range(4):
        start = time.perf_counter()
        for _ in range(rounds):
            work()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        if turn:  # the first one warms up
            best = min(best, time.perf_counter() - start)
    return n_images * rounds / best


def resident(network: str, device: str, n: int, side: int, dtype: torch.dtype) -> tuple[Any, Any]:
    """A network without its last layer, and a batch, both on the device in channels_last."""
    net = torchvision.models.get_model(network, weights=None).eval()
    net.fc = torch.nn.Identity()
    batch = torch.randn(n, 3, side, side, dtype=dtype, device=device)
    return (
        net.to(device, dtype, memory_format=torch.channels_last),
        batch.contiguous(memory_format=torch.channels_last),
    )


@torch.inference_mode()
def forward(network: str, precision: str, device: str, n: int, side: int, rounds: int) -> dict:
    """Images per second of the forward pass alone, in each way there is."""
    found, cuda = {}, device.startswith("cuda")
    half = HALF.get(precision)
    if half is not None:  # what timm's scripts do
        net, batch = resident(network, device, n, side, torch.float32)
        with torch.autocast(device.split(":")[0], half):
            found["AMP"] = speed(lambda: net(batch), device, n, rounds)
        del net
    net, batch = resident(network, device, n, side, half or torch.float32)
    found["eager"] = speed(lambda: net(batch), device, n, rounds)
    if cuda:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            net(batch)
        found["graph"] = speed(graph.replay, device, n, rounds)
    return found


@torch.inference_mode()
def compiled(network: str, precision: str, device: str, n: int, side: int, rounds: int) -> dict:
    """Images per second of the compiled forward pass, and the seconds to compile it."""
    net, batch = resident(network, device, n, side, HALF[precision])
    quick = torch.compile(net, mode="reduce-overhead")
    first = seconds(lambda: (quick(batch), torch.cuda.synchronize()))
    return {"images_per_s": speed(lambda: quick(batch), device, n, rounds), "compile_s": first}


def decoding(paths: list[str], n_threads: int) -> dict[str, float]:
    """Images per second of Pillow with torchvision's transforms, and of our decoding alone."""
    transform = torchvision.transforms.Compose(
        [torchvision.transforms.Resize(256), torchvision.transforms.CenterCrop(224)]
    )
    ours = make_preprocessing(
        crop_size=224, resize_size=256, interpolation="bilinear", mean=(0,) * 3, std=(1,) * 3
    )
    source = as_image_source(paths)

    def pillow(i: int) -> np.ndarray:
        with Image.open(paths[i]) as image:
            return np.asarray(transform(image.convert("RGB")))

    def prepared(i: int) -> np.ndarray:
        encoded = source.open(i)
        return encoded.prepare(ours)

    found = {}
    for name, work in (("pillow", pillow), ("ours", prepared)):
        with ThreadPoolExecutor(n_threads) as threads:
            list(threads.map(work, range(min(len(paths), 64))))  # warm, files in the page cache
            found[name] = len(paths) / seconds(
                lambda w=work: list(threads.map(w, range(len(paths))))
            )
    return found


# --- ours -------------------------------------------------------------------------------------


def extraction(X: Any, *, graphs: bool = True, **params: Any) -> float:
    """Images per second of ``transform``, nothing cached, after a warm-up."""
    before = _device.GRAPH_AFTER
    try:
        _device.GRAPH_AFTER = before if graphs else None
        extractor = PretrainedFeatureExtractor(weights=None, cache=False, **params).fit(X)
        extractor.transform(X[: max(1, len(X) // 8)])
        return len(X) / min(seconds(lambda: extractor.transform(X)) for _ in range(2))
    finally:
        _device.GRAPH_AFTER = before


def from_files(X: Any, **params: Any) -> dict[str, float]:
    """From files, or arrays: with and without CUDA graphs, and in larger batches."""
    found = {"ours": extraction(X, **params)}
    if params["device"].startswith("cuda"):
        found["ours, no graph"] = extraction(X, graphs=False, **params)
        found["ours, batches of 256"] = extraction(X, batch_size=256, **params)
    return found


def training(paths: list[str], precision: str, depth: int, **params: Any) -> dict[str, float]:
    """Seconds of the first fit, which computes activations, and of an epoch after it."""
    y = np.arange(len(paths)) % 2
    took = []
    for epochs in (1, 1, 3):
        clf = FineTuneClassifier(
            weights=None,
            precision=precision,
            freeze_depth=depth,
            max_epochs=epochs,
            batch_size=64,
            random_state=0,
            **params,
        )
        took.append(seconds(lambda clf=clf: clf.fit(paths, y)))
    epoch = (took[2] - took[1]) / 2
    return {"first_fit_s": took[0], "epoch_s": epoch, "epoch_images_per_s": len(paths) / epoch}


def grid(paths: list[str], **params: Any) -> dict[str, Any]:
    """Seconds of a grid over the depth, two folds, and those of its fits one by one."""
    y = np.arange(len(paths)) % 2
    clf = FineTuneClassifier(weights=None, max_epochs=2, batch_size=64, random_state=0, **params)
    depths = ["all", -1, -2]
    search = GridSearchCV(clf, {"freeze_depth": depths}, cv=2, refit=False, error_score="raise")
    return {"s": seconds(lambda: search.fit(paths, y)), "depths": depths, "folds": 2, "epochs": 2}


# --- all of it --------------------------------------------------------------------------------


def measure(parts: Parts, paths: list[str], options: argparse.Namespace) -> None:
    """Run all parts, those first that the goal is about."""
    device, threads, side = options.device, options.threads, options.side
    cuda, small = device.startswith("cuda"), paths[: max(8, len(paths) // 4)]
    common = {"device": device, "n_jobs": threads, "image_size": side}
    given = (device, options.batch, side, options.rounds)
    parts.run("decoding", partial(decoding, paths, threads))
    whole = np.random.default_rng(0).integers(0, 256, (len(paths), side, side, 3), dtype=np.uint8)
    for precision, network in itertools.product(("bfloat16", "float32"), options.networks):
        name = f"{network} {precision}"
        parts.run(f"forward: {name}", partial(forward, network, precision, *given))
        params = {"backbone": network, "precision": precision, **common}
        parts.run(f"files: {name}", partial(from_files, paths, **params), needs=25 if cuda else 1)
        if precision == "bfloat16":
            resized = {**params, "preprocessing": "resize"}
            parts.run(
                f"arrays: {name}", partial(from_files, whole, **resized), needs=10 if cuda else 1
            )
    first = options.networks[0]
    if cuda:
        params = {"backbone": first, "precision": "tf32", **common}
        parts.run(
            f"files: {first} tf32", partial(from_files, paths, **params), needs=25 if cuda else 1
        )
    small_net = {"backbone": options.networks[-1], **common}
    for precision in ("bfloat16", "tf32", "float32") if cuda else ("float32",):
        for depth in (-1, 0):
            name = f"training: {options.networks[-1]} {precision} freeze_depth={depth}"
            work = partial(training, small, precision, depth, **small_net)
            parts.run(name, work, needs=20 if cuda else 1)
    parts.run("grid over freeze_depth", partial(grid, small, **small_net), needs=30 if cuda else 1)
    name = f"compiled: {first} bfloat16"
    if cuda:
        parts.run(name, partial(compiled, first, "bfloat16", *given), needs=90)
    else:
        parts.skip(name, "torch.compile(mode='reduce-overhead') is for CUDA")


def summary(content: dict[str, Any], networks: list[str]) -> list[dict[str, Any]]:
    """For each network and precision the bounds, ours, and what it is of the lower bound."""
    rows = []
    decoded = content.get("decoding", {}).get("pillow")
    for precision, network in itertools.product(("bfloat16", "float32"), networks):
        name = f"{network} {precision}"
        ways = dict(content.get(f"forward: {name}", {}))
        if compiled_ := content.get(f"compiled: {name}"):
            ways["compiled"] = compiled_["images_per_s"]
        top = max(ways.values(), default=None)
        ours = content.get(f"files: {name}", {}).get("ours")
        arrays = content.get(f"arrays: {name}", {}).get("ours")
        bounds = [bound for bound in (top, decoded) if bound is not None]
        rows.append({
            "name": name,
            "forward": top,
            "fastest": max(ways, key=ways.__getitem__) if ways else None,
            "decoding": decoded,
            "files": ours,
            "of_bound": ours / min(bounds) if ours and len(bounds) == 2 else None,
            "arrays": arrays,
            "arrays_of_forward": arrays / top if arrays and top else None,
        })  # fmt: skip
    return rows


def show(content: dict[str, Any]) -> None:
    """Print the tables, and that of the documentation."""
    names = ["name", "forward", "fastest", "decoding", "files", "of_bound", "arrays"]
    cells = [
        [each[n] if isinstance(each[n], str) else number(each[n]) for n in names]
        for each in content["summary"]
    ]
    title = f"Images/s, {content['machine']['gpu'] or 'CPU'}, {content['threads']} threads"
    print_table(title, names, cells)
    fits = [
        [name.removeprefix("training: "), *(number(found[key]) for key in found)]
        for name, found in content.items()
        if name.startswith("training: ")
    ]
    print_table("Training", ["what", "first fit, s", "epoch, s", "images/s"], fits)
    for name, why in content["skipped"].items():
        print(f"skipped: {name}: {why}")
    print("\nFor docs/user_guide/performance.rst:\n\n" + rst_table(names, cells), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--networks", nargs="+")
    parser.add_argument("--images", type=int, help="files; default 4096, on a CPU 16")
    parser.add_argument("--batch", type=int, help="of the forward pass alone")
    parser.add_argument("--side", type=int, help="of the images given to the network")
    parser.add_argument("--rounds", type=int, help="passes that are waited for at once")
    parser.add_argument("--threads", type=int, help="that decode; default 16, or the cores")
    parser.add_argument("--minutes", type=float, default=5.5, help="no part begins after these")
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    cuda = options.device.startswith("cuda")
    defaults = {
        "networks": ["resnet50", "resnet18"] if cuda else ["resnet18"],
        "images": 4096 if cuda else 8,
        "batch": 256 if cuda else 4,
        "side": 224 if cuda else 64,
        "rounds": 10 if cuda else 1,
        "threads": min(16, n_cores()),
        # What a CPU gives is no result to keep.
        "results": RESULTS if cuda else Path("gpu_on_cpu"),
    }
    for name, value in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    with workspace() as folder, torch.random.fork_rng() if cuda else nullcontext():
        start = time.monotonic()
        paths, what = photos(options.images, folder)
        about = {
            "machine": machine(),
            "images": what,
            "n_images": len(paths),
            "batch": options.batch,
            "side": options.side,
            "threads": options.threads,
        }
        minutes = options.minutes - (time.monotonic() - start) / 60
        parts = Parts(minutes, options.results, about)
        try:
            measure(parts, paths, options)
        finally:  # also where it is interrupted
            parts.content["summary"] = summary(parts.content, options.networks)
            parts.write()
    show(parts.content)


if __name__ == "__main__":
    main()
