"""What an import costs, against ``import torch, sklearn``, and the command line without torch.

    python benchmarks/import_time.py [--rounds 9]

Each statement runs in a fresh interpreter; rounds take turns, and ratios are taken round by round.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from _common import (
    HERE,
    Neighbors,
    cpu_seconds,
    machine,
    median,
    number,
    print_table,
    seconds,
    write_json,
)

BASELINE = "import torch, sklearn"
STATEMENTS = (
    BASELINE,
    "import torch",
    "import torchvision",
    "import sktransfer",
    "from sktransfer import PretrainedFeatureExtractor",
    "from sktransfer import FineTuneClassifier",
    "from sktransfer.metrics import operating_point",
    "python -m sktransfer --help",
    "python -m sktransfer --version",
)


def command_of(statement: str) -> list[str]:
    """Return the command line of a fresh interpreter that runs a statement."""
    if statement.startswith("python "):
        return [sys.executable, *statement.split()[1:]]
    return [sys.executable, "-c", statement]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--results", type=Path, help="folder of the JSON file")
    args = parser.parse_args()
    description, neighbors = machine(), Neighbors()
    paths = [str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}

    def run(statement: str) -> None:
        command = command_of(statement)
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)

    for statement in STATEMENTS:  # compiled, and in the cache of the disk
        run(statement)
    taken: dict[str, list[tuple[float, float]]] = {statement: [] for statement in STATEMENTS}
    for _ in range(args.rounds):
        for statement, pairs in taken.items():
            before = cpu_seconds()
            wall = seconds(lambda statement=statement: run(statement))  # type: ignore[misc]
            pairs.append((wall, cpu_seconds() - before))
    rows: list[dict[str, Any]] = []
    for statement, pairs in taken.items():
        row: dict[str, Any] = {"statement": statement}
        for position, kind in enumerate(("seconds", "cpu_seconds")):
            row[kind] = median([pair[position] for pair in pairs])
            row[f"times_{kind}"] = median(
                [
                    pair[position] / base[position]
                    for pair, base in zip(pairs, taken[BASELINE], strict=True)
                ]
            )
        rows.append(row)
    print_table(
        f"Imports in a fresh interpreter, median of {args.rounds}",
        ("", "seconds", "times baseline", "CPU seconds", "times baseline"),
        [
            (
                row["statement"],
                *(
                    number(row[kind])
                    for kind in ("seconds", "times_seconds", "cpu_seconds", "times_cpu_seconds")
                ),
            )
            for row in rows
        ],
    )
    content = {
        "machine": description,
        "others_share": neighbors.share(),
        "rounds": args.rounds,
        "baseline": BASELINE,
        "rows": rows,
    }
    print(f"used by others meanwhile: {content['others_share']} of all cores")
    write_json("import_time", content, args.results)


if __name__ == "__main__":
    main()
