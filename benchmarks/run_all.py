"""Run every benchmark, write ``results/*.json`` and the tables of the documentation's page.

    python benchmarks/run_all.py            # about half an hour on two cores
    python benchmarks/run_all.py --quick    # a few minutes: does everything run?
    python benchmarks/run_all.py --tables   # nothing is run: only the tables are made again

``--quick`` writes to a temporary folder: what was measured properly stays as it is.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from _common import HERE, RESULTS
from _tables import update_pages

FULL = {
    "extraction.py": ["--n", "200", "--rounds", "3"],
    "search.py": ["--n", "60", "--rounds", "3"],
    "hits.py": ["--n", "200"],
    "latency.py": [],
    "scaling.py": ["--max", "100000"],
    "long_run.py": ["--size", "64"],
    "scale.py": [],
    "import_time.py": [],
    "front_door.py": [],
    "engines.py": [],
    "int8_quality.py": [],
    "int8_calibration.py": [],
    "finetune.py": [],
    "operating_point.py": [],
    "imbalance.py": [],
    "bags.py": [],
    "findings.py": [],
    "audit.py": [],
    "triage.py": [],
    "intervals.py": [],
    "numbers_and_grades.py": [],
    "novelty.py": [],
    "images_and_tables.py": [],
    "domain_distance.py": [],
    "choosing.py": ["--n-strategy", "300"],
    "studies.py": [],
    "depth_search.py": [],
    "saliency.py": [],
    "quality.py": [],
}
QUICK = {
    "extraction.py": ["--n", "40", "--rounds", "1", "--networks", "resnet18", "--workers", "0"],
    "search.py": ["--n", "20"],
    "hits.py": ["--n", "20", "--repeats", "3"],
    "latency.py": ["--networks", "squeezenet1_1", "--turns", "12", "--hits", "60"],
    "scaling.py": ["--max", "1000"],
    "long_run.py": ["--images", "60", "--calls", "20", "--networks", "5", "--size", "64"],
    "scale.py": [
        *("--images", "200", "--short", "50", "--rows", "1000", "--tolerance", "1"),
    ],
    "import_time.py": ["--rounds", "1"],
    "front_door.py": ["--n", "60", "--rounds", "1"],
    "engines.py": ["--networks", "squeezenet1_1", "--batch", "4", "--rounds", "1"],
    "int8_quality.py": ["--networks", "squeezenet1_0", "--seeds", "1", "--n", "40"],
    "int8_calibration.py": [
        *("--networks", "mobilenet_v2", "--seeds", "1", "--n", "40"),
        *("--made", "16", "--steps", "2"),
    ],
    "finetune.py": ["--tasks", "hymenoptera", "--backbones", "squeezenet1_0", "--seeds", "1"],
    "operating_point.py": ["--no-tuning", "--repeats", "0"],
    "imbalance.py": ["--repeats", "1"],
    "bags.py": ["--repeats", "1"],
    "findings.py": [
        *("--n", "60", "--findings", "3", "--n-trained", "30", "--epochs", "1"),
    ],
    "audit.py": ["--draws", "1", "--n", "60", "--copies", "7", "--sets", "ants"],
    "triage.py": ["--repeats", "20", "--draws", "2"],
    "intervals.py": ["--draws", "4", "--simulated", "4", "--dear", "2", "--sizes", "100"],
    "numbers_and_grades.py": ["--n", "60", "--seeds", "2"],
    "novelty.py": ["--networks", "squeezenet1_0", "--repeats", "1", "--draws", "4"],
    "images_and_tables.py": ["--sets", "lesions", "--permutations", "2", "--repeats", "1"],
    "domain_distance.py": ["--n-images", "8"],
    "choosing.py": [
        *("--tasks", "ranking", "cost", "--networks", "squeezenet1_0"),
        *("--n", "60", "--n-cost", "40", "--rounds", "1"),
    ],
    "depth_search.py": ["--tasks", "hymenoptera", "--n", "20", "--epochs", "1", "--folds", "2"],
    "saliency.py": ["--networks", "squeezenet1_0", "--n", "20", "--n-forgetting", "0"],
    "quality.py": ["--quick"],
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small, to see that all of it runs")
    parser.add_argument("--tables", action="store_true", help="run nothing, only write the tables")
    parser.add_argument("--only", nargs="+", help="names of scripts, without .py")
    args = parser.parse_args()
    failed = []
    results = Path(tempfile.mkdtemp(prefix="sktransfer-bench-")) if args.quick else RESULTS
    if not args.tables:
        for script, arguments in (QUICK if args.quick else FULL).items():
            if args.only and Path(script).stem not in args.only:
                continue
            print(f"\n### {script} {' '.join(arguments)}", flush=True)
            command = [sys.executable, str(HERE / script), *arguments, "--results", str(results)]
            if subprocess.run(command, check=False).returncode:
                failed.append(script)
    if not args.quick:
        print("tables written:", *sorted({str(page) for page in update_pages(results)}))
    if failed:
        print(f"FAILED: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
