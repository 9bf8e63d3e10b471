"""Images per second from JPEG files to embeddings: sktransfer against its peers and its bound.

    python benchmarks/extraction.py [--n 200] [--rounds 3] [--networks resnet18 resnet50]

Every contestant runs in a process of its own, in turns, so that a machine whose speed drifts
drifts for all of them; ratios are taken turn by turn and their median is quoted.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from _common import (
    Neighbors,
    in_own_process,
    machine,
    median,
    number,
    peers_python,
    photos,
    print_table,
    random_weights,
    workspace,
    write_json,
)
from _contestants import BATCH, PEERS, WITH_WORKERS

OURS = {
    "sktransfer torch float32": {"engine": "torch"},
    "sktransfer openvino float32": {"engine": "openvino"},
    "sktransfer auto float32": {"engine": "auto"},
    "sktransfer torch bfloat16": {"engine": "torch", "precision": "bfloat16"},
    "sktransfer openvino bfloat16": {"engine": "openvino", "precision": "bfloat16"},
    "sktransfer auto bfloat16": {"engine": "auto", "precision": "bfloat16"},
    # Quantized in its first turn, before anything is timed.
    "sktransfer int8": {"precision": "int8"},
}
# What the plain recipe could do with the same loss of digits. Outside the contest: no peer does it.
AUTOCAST = "torchvision under bfloat16 autocast"


def contestants(only: list[str] | None, workers: list[int]) -> dict[str, tuple[str, dict, str]]:
    """Name -> (who, settings, group); settings of one group compete for being its best."""
    found: dict[str, tuple[str, dict, str]] = {
        name: ("sktransfer", settings, name) for name, settings in OURS.items()
    }
    for peer in PEERS:
        if peer in WITH_WORKERS:
            for count in workers:
                found[f"{peer}, {count} workers"] = (peer, {"workers": count}, peer)
        else:
            found[peer] = (peer, {}, peer)
    found[AUTOCAST] = ("torchvision", {"autocast": True, "workers": 0}, AUTOCAST)
    if only:
        found = {name: each for name, each in found.items() if any(o in name for o in only)}
    return found


def race(network: str, args: argparse.Namespace, folder: Path, paths: list[str]) -> dict[str, Any]:
    """All turns of all contestants on one network."""
    weights = random_weights(network, folder)
    field = contestants(args.only, args.workers)
    speeds: dict[str, list[float]] = {}
    fractions: dict[str, list[float]] = {}
    last: dict[str, dict[str, Any]] = {}
    for turn in range(args.rounds):
        for name, (who, settings, group) in list(field.items()):
            result = in_own_process(
                "_contestants.py",
                {
                    "contestant": who,
                    "settings": settings,
                    "network": network,
                    "weights": weights,
                    "paths": paths,
                    "passes": args.passes,
                    "device": args.device,
                },
                folder,
                python=None if who == "sktransfer" else peers_python(),
            )
            last[name] = {**result, "group": group}
            if "skipped" in result:
                print(f"{network}: {name}: skipped: {result['skipped']}", flush=True)
                del field[name]
                continue
            speeds.setdefault(name, []).append(len(paths) / result["seconds"])
            if "of_bound" in result:
                fractions.setdefault(name, []).append(result["of_bound"])
            print(f"{network} turn {turn + 1}: {name}: {speeds[name][-1]:.1f} images/s", flush=True)
        if turn == 0:  # only the best setting of each group is measured again
            best = {group: _best(group, field, speeds) for _, _, group in field.values()}
            field = {name: each for name, each in field.items() if best[each[2]] == name}
    return _summary(len(paths), field, speeds, fractions, last)


def _best(group: str, field: dict, speeds: dict[str, list[float]]) -> str:
    return max((name for name in field if field[name][2] == group), key=lambda n: speeds[n][0])


def _summary(
    n: int,
    field: dict,
    speeds: dict[str, list[float]],
    fractions: dict[str, list[float]],
    last: dict,
) -> dict[str, Any]:
    peers = [name for name in field if name not in OURS and name != AUTOCAST]
    fastest = max(peers, key=lambda name: median(speeds[name]), default=None)
    plain = next((name for name in field if name.startswith("torchvision,")), None)
    rows = {}
    for name, result in last.items():
        if "skipped" in result:
            rows[name] = {"skipped": result["skipped"]}
            continue
        row = {
            "images_per_s": median(speeds[name]),
            "turns": speeds[name],
            "cpu_ms_per_image": 1000 * result["cpu_seconds"] / n,
            "peak_mb": result["peak_mb"],
            "kept": name in field,
        }
        if fastest and name in field:
            row["times_best_peer"] = median(
                [own / peer for own, peer in zip(speeds[name], speeds[fastest], strict=True)]
            )
        if name in fractions:
            keys = ("decode_s", "decode_one_thread_s", "decode_all_threads_s", "forward_s")
            row["of_bound"] = median(fractions[name])
            row["of_bound_turns"] = fractions[name]
            row["bound_images_per_s"] = row["images_per_s"] / row["of_bound"]
            row |= {key: result[key] for key in keys}
        if plain:
            row["difference_from_torchvision"] = _difference(result, last[plain])
        rows[name] = row
    return {"fastest_peer": fastest, "contestants": rows}


def _difference(result: dict[str, Any], reference: dict[str, Any]) -> float:
    """Largest relative L2 distance of a row from the plain recipe's."""
    own, plain = (np.array(each["first_rows"]) for each in (result, reference))
    return float((np.linalg.norm(own - plain, axis=1) / np.linalg.norm(plain, axis=1)).max())


def report(network: str, summary: dict[str, Any]) -> None:
    rows, skipped = [], []
    for name, row in summary["contestants"].items():
        if "skipped" in row:
            skipped.append(f"{name}: {row['skipped']}")
        elif row["kept"]:
            rows.append(
                (
                    name,
                    number(row["images_per_s"]),
                    number(row.get("times_best_peer")),
                    number(row.get("of_bound")),
                    number(row["cpu_ms_per_image"]),
                    number(row["peak_mb"]),
                    number(row.get("difference_from_torchvision"), 2),
                )
            )
    header = (
        "contestant",
        "images/s",
        "x best peer",
        "of bound",
        "CPU ms",
        "peak MB",
        "difference",
    )
    print_table(f"{network}, from JPEG files", header, rows)
    for line in skipped:
        print(f"not run: {line}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=200, help="images")
    parser.add_argument("--rounds", type=int, default=3, help="turns of every contestant")
    parser.add_argument("--passes", type=int, default=1, help="timed passes in a turn")
    parser.add_argument("--networks", nargs="+", default=["resnet18", "resnet50"])
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", help="contestants whose name contains one of these")
    parser.add_argument("--device", default="cpu", help="of sktransfer, torchvision and timm")
    parser.add_argument("--results", type=Path, help="folder of the JSON file")
    args = parser.parse_args()
    description, neighbors = machine(), Neighbors()
    with workspace() as folder:
        (folder / "photos").mkdir()
        paths, images = photos(args.n, folder / "photos")
        networks = {name: race(name, args, folder, paths) for name in args.networks}
    for name, summary in networks.items():
        report(name, summary)
    content = {
        "machine": description,
        "others_share": neighbors.share(),
        "n": args.n,
        "images": images,
        "batch_size": BATCH,
        "rounds": args.rounds,
        "device": args.device,
        "networks": networks,
    }
    print(f"used by others meanwhile: {content['others_share']} of all cores")
    write_json("extraction", content, args.results)


if __name__ == "__main__":
    main()
