"""From JPEG files to embeddings and fine-tuned networks on a GPU, next to the forward's own bound.

    python benchmarks/gpu.py [--networks resnet18 resnet50] [--images 4096] [--device cuda]

Weights are random. The ceiling is plain torch on a batch that is already on the device:
channels_last, in the precision named, eager and as a CUDA graph; ours starts from files.
``--device cpu`` runs the same steps small, so that they are exercised where there is no GPU.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from _common import (
    RESULTS,
    machine,
    n_cores,
    number,
    photos,
    print_table,
    seconds,
    workspace,
    write_json,
)
from PIL import Image

from sktransfer import FineTuneClassifier, PretrainedFeatureExtractor, clear_cache

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def ceiling(network: str, precision: str, device: str, batch_size: int, rounds: int) -> dict:
    """Images per second of the forward alone, eager and, on CUDA, as a graph."""
    net = torchvision.models.get_model(network, weights=None).eval()
    net.fc = torch.nn.Identity()
    net = net.to(device, DTYPES[precision], memory_format=torch.channels_last)
    batch = torch.randn(batch_size, 3, 224, 224, device=device, dtype=DTYPES[precision])
    batch = batch.contiguous(memory_format=torch.channels_last)
    found = {}
    with torch.inference_mode():
        found["eager"] = speed(lambda: net(batch), device, batch_size, rounds)
        if device == "cuda":
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                net(batch)
            found["graph"] = speed(graph.replay, device, batch_size, rounds)
    return found


def speed(work: Callable[[], Any], device: str, n_images: int, rounds: int) -> float:
    """Images per second of the best of several rounds, after two that warm up."""
    best = float("inf")
    for turn in range(rounds + 2):
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        if turn >= 2:
            best = min(best, time.perf_counter() - start)
    return n_images / best


def from_files(network: str, precision: str, device: str, paths: list[str]) -> float:
    """Images per second of ``transform`` from JPEG files, nothing cached."""
    extractor = PretrainedFeatureExtractor(
        network, weights=None, precision=precision, device=device, cache=False, n_jobs=n_cores()
    ).fit(paths)
    extractor.transform(paths[: min(256, len(paths))])  # warm
    return len(paths) / seconds(lambda: extractor.transform(paths))


def decoding(paths: list[str]) -> float:
    """Images per second of Pillow and torchvision's transforms in as many threads as cores."""
    transform = torchvision.transforms.Compose(
        [torchvision.transforms.Resize(256), torchvision.transforms.CenterCrop(224)]
    )

    def prepare(path: str) -> np.ndarray:
        with Image.open(path) as image:
            return np.asarray(transform(image.convert("RGB")))

    with ThreadPoolExecutor(n_cores()) as threads:
        return len(paths) / seconds(lambda: list(threads.map(prepare, paths)))


def training(network: str, device: str, paths: list[str]) -> dict[str, float]:
    """Seconds of the frozen pass and of an epoch, by what is trained."""
    y = np.arange(len(paths)) % 2
    found = {}
    for depth in (-1, 0):
        clear_cache()
        took = []
        # The first fit computes the activations that the other two find in the store.
        for epochs in (1, 1, 3):
            clf = FineTuneClassifier(
                network,
                weights=None,
                freeze_depth=depth,
                max_epochs=epochs,
                batch_size=64,
                device=device,
                random_state=0,
            )
            took.append(seconds(lambda clf=clf: clf.fit(paths, y)))
        found[f"freeze_depth={depth}: first fit"] = took[0]
        found[f"freeze_depth={depth}: epoch"] = (took[2] - took[1]) / 2
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["resnet18", "resnet50"])
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    records = []
    with workspace() as folder:
        paths, what = photos(arguments.images, folder)
        decoded = decoding(paths)
        print(f"decoding: {decoded:.0f} images/s", flush=True)
        for network in arguments.networks:
            for precision in DTYPES:
                top = ceiling(
                    network, precision, arguments.device, arguments.batch, arguments.rounds
                )
                ours = from_files(network, precision, arguments.device, paths)
                record = {"network": network, "precision": precision, "ceiling": top, "ours": ours}
                print(record, flush=True)
                records.append(record)
        trained = training(arguments.networks[0], arguments.device, paths[: len(paths) // 4])
    print_table(
        f"From files, images/s, {arguments.device}",
        ["network", "precision", "forward", "graph", "decoding", "ours"],
        [
            [
                record["network"],
                record["precision"],
                *(number(record["ceiling"].get(kind)) for kind in ("eager", "graph")),
                number(decoded),
                number(record["ours"]),
            ]
            for record in records
        ],
    )
    print_table("Training, seconds", ["what", "s"], [[k, number(v)] for k, v in trained.items()])
    content = {
        "machine": machine(),
        "images": what,
        "n_images": len(paths),
        "batch": arguments.batch,
        "decoding": decoded,
        "records": records,
        "training": trained,
    }
    write_json("gpu", content, arguments.results)


if __name__ == "__main__":
    main()
