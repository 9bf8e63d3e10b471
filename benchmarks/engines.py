"""Images/s of a network's forward by each engine and precision, on a batch that is in memory.

    python benchmarks/engines.py [--networks resnet18 resnet50] [--batch 32] [--rounds 8]

Weights are random. The contestants take turns, and the best round of each counts. On a machine with
neighbors the second figure is the one to trust: cores x images per second of processor time, which
is what the wall clock would show if nobody else were there and no core ever idle.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _common import RESULTS, Neighbors, machine, n_cores, number, print_table, write_json

from sktransfer._backbones import load_backbone
from sktransfer._frozen import FrozenNetwork, LayerOutput, calibration_on, resolve_engine
from sktransfer._images import make_preprocessing
from sktransfer.exceptions import SkTransferError

OUTPUTS = (LayerOutput(None, None),)
RECIPES = [
    (engine, precision) for precision in ("float32", "bfloat16") for engine in ("torch", "openvino")
] + [("openvino", "int8")]


def measure(network: str, batch_size: int, rounds: int) -> list[dict[str, Any]]:
    """One record per engine and precision, plain eager torch first."""
    backbone = load_backbone(network, weights=None)
    side = backbone.input_spec.crop_size
    calibration = calibration_on(None, "", make_preprocessing(**vars(backbone.input_spec)))
    # Photographs: of noise, which no network was made for, integers make something else.
    _, photographs = calibration.load()
    batch = photographs.repeat(-(-batch_size // len(photographs)), 1, 1, 1)[:batch_size]
    works: dict[tuple[str, str], Callable[[], torch.Tensor]] = {
        ("eager", "float32"): lambda: backbone.embed(batch)
    }
    seconds_to_resolve = {}
    for engine, precision in RECIPES:
        try:
            resolve_engine(engine, precision, "cpu")
            frozen = FrozenNetwork(
                backbone,
                backbone.n_stages + 1,
                precision=precision,
                engine=engine,
                calibration=calibration if precision == "int8" else None,
            )
            start = time.perf_counter()
            frozen.engine_for(OUTPUTS, side)
        except (SkTransferError, ValueError) as error:
            print(f"{network}, {engine}, {precision}: {error}")
            continue
        seconds_to_resolve[engine, precision] = time.perf_counter() - start
        works[engine, precision] = lambda frozen=frozen: frozen.run(batch, OUTPUTS)[0]
    right = works["eager", "float32"]().double()
    away = {
        key: float(((work().double() - right).norm(dim=1) / right.norm(dim=1)).max())
        for key, work in works.items()
    }
    best = {key: (float("inf"), float("inf")) for key in works}
    for _ in range(rounds):
        for key, work in works.items():
            wall, cpu = time.perf_counter(), time.process_time()
            work()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            best[key] = min(best[key][0], wall), min(best[key][1], cpu)
    return [
        {
            "network": network,
            "side": side,
            "engine": engine,
            "precision": precision,
            "images_per_second": batch_size / wall,
            "images_per_core_second_times_cores": batch_size / cpu * n_cores(),
            "difference": away[engine, precision],
            "seconds_to_resolve": seconds_to_resolve.get((engine, precision), 0.0),
        }
        for (engine, precision), (wall, cpu) in best.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["resnet18", "resnet50"])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(n_cores())
    neighbors = Neighbors()
    records: list[dict[str, Any]] = []
    for network in arguments.networks:
        records += measure(network, arguments.batch, arguments.rounds)
    print_table(
        f"Forward, images/s, {n_cores()} cores",
        [
            "network",
            "engine",
            "precision",
            "wall clock",
            "processor time",
            "difference",
            "resolve s",
        ],
        [
            [
                record["network"],
                record["engine"],
                record["precision"],
                number(record["images_per_second"]),
                number(record["images_per_core_second_times_cores"]),
                f"{record['difference']:.1e}",
                number(record["seconds_to_resolve"], 2),
            ]
            for record in records
        ],
    )
    content = {
        "machine": machine(),
        "batch": arguments.batch,
        "rounds": arguments.rounds,
        "others_share": neighbors.share(),
        "records": records,
    }
    write_json("engines", content, arguments.results)


if __name__ == "__main__":
    main()
