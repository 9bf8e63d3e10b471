"""Seconds of ``TransferClassifier().fit`` on chest X-rays, against the networks' passes alone.

    python benchmarks/front_door.py [--n 1000] [--rounds 3]

Needs the shared data and weights (``SKTRANSFER_TEST_SHARED``). Each fit is in a process of its own:
from files and an empty store, and with a store that has everything. The passes alone are those of
four extractors with ``layer="all"`` into an empty store; no fit can be faster.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from _common import (
    Neighbors,
    answer,
    cpu_seconds,
    in_own_process,
    machine,
    median,
    number,
    print_table,
    seconds,
    shared_with_weights,
    workspace,
    write_json,
)

KINDS = ("passes alone", "fit, empty store", "fit, warm store")


def case(kind: str, n: int, shared: str, store: str) -> dict[str, Any]:
    """One fit, or the passes of its networks."""
    from _quality_recipes import NETWORKS
    from _tasks import extractors, xrays

    from sktransfer import TransferClassifier

    task = xrays(Path(shared))
    step = max(1, len(task.y) // n)
    X, y = list(task.X[::step]), task.y[::step]
    groups = None if task.groups is None else task.groups[::step]
    found = extractors(Path(shared), cache=store)
    networks = {name: found[name] for name in NETWORKS}

    def work() -> None:
        if kind == "passes alone":
            for extractor in networks.values():
                extractor.set_params(layer="all").fit_transform(X)
        else:
            clf = TransferClassifier(networks, cache=store, random_state=0)
            clf.fit(X, y, groups=groups)

    before = cpu_seconds()
    wall = seconds(work)
    return {"seconds": wall, "cpu_seconds": cpu_seconds() - before, "images": len(y)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results", type=Path, help="folder of the JSON file")
    args = parser.parse_args()
    shared, description, neighbors = str(shared_with_weights()), machine(), Neighbors()
    taken: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    for _ in range(args.rounds):
        with workspace() as folder:
            for kind in KINDS:  # the warm store is that of the fit before
                store = str(folder / ("passes" if kind == "passes alone" else "store"))
                asked = {"kind": kind, "n": args.n, "shared": shared, "store": store}
                found = in_own_process("front_door.py", asked, folder)
                if "skipped" in found:
                    sys.exit(f"{kind}: {found['skipped']}")
                taken[kind].append(found)
    rows = []
    for kind, runs in taken.items():
        row: dict[str, Any] = {"kind": kind}
        for name in ("seconds", "cpu_seconds"):
            row[name] = median([run[name] for run in runs])
            row[f"times_{name}"] = median(
                [a[name] / b[name] for a, b in zip(runs, taken[KINDS[0]], strict=True)]
            )
        rows.append(row)
    header = ("", "seconds", "times the passes", "CPU seconds", "times")
    cells = [[number(row[key], 3) if key != "kind" else row[key] for key in row] for row in rows]
    print_table(f"{taken[KINDS[0]][0]['images']} chest X-rays, four networks", header, cells)
    content = {
        "machine": description,
        "others_share": neighbors.share(),
        "images": taken[KINDS[0]][0]["images"],
        "rows": rows,
    }
    write_json("front_door", content, args.results)


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1].startswith("{"):
        answer(case)
    else:
        main()
