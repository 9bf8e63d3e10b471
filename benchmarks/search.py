"""Images embedded and seconds of cross-validation and a grid: sktransfer against a peer.

    python benchmarks/search.py [--n 60] [--network resnet18]

The peer is the fastest of ``extraction.py`` (its JSON file is read if there is one), wrapped as the
transformer people write, in the three ways scikit-learn offers to use it: plain, with
``Pipeline(memory=)``, and fitted once inside ``FrozenEstimator``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _common import (
    RESULTS,
    Neighbors,
    answer,
    in_own_process,
    machine,
    median,
    number,
    peers_python,
    photos,
    print_table,
    random_weights,
    seconds,
    workspace,
    write_json,
)
from _contestants import PEERS, WITH_WORKERS, Spy, sktransfer_extractor
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

GRID = {"clf__C": np.logspace(-4, 2, 10).tolist()}
FOLDS = 5
_PEER_MODELS: dict[tuple, Callable] = {}
_EMBEDDED = {"n": 0}


class PeerTransformer(TransformerMixin, BaseEstimator):
    """The transformer people write around a peer, with care: its network is built once.

    A network held in an attribute would be copied by every clone and hashed by every memory.
    """

    def __init__(self, peer: str, network: str, weights: str, settings: tuple = ()) -> None:
        self.peer = peer
        self.network = network
        self.weights = weights
        self.settings = settings

    def fit(self, X: Any, y: Any = None) -> PeerTransformer:
        self.fitted_ = True
        return self

    def transform(self, X: Any) -> np.ndarray:
        key = (self.peer, self.network, self.weights, self.settings)
        if key not in _PEER_MODELS:
            _PEER_MODELS[key] = PEERS[self.peer](self.network, self.weights, **dict(self.settings))
        _EMBEDDED["n"] += len(X)
        return np.asarray(_PEER_MODELS[key](list(X)))


def pipeline(features: Any, memory: str | None = None) -> Pipeline:
    steps = [
        ("feat", features),
        ("scale", StandardScaler()),
        ("clf", LogisticRegression(max_iter=1000)),
    ]
    return Pipeline(steps, memory=memory)


def cross_validation(pipe: Pipeline, X: Any, y: Any) -> None:
    cross_val_score(pipe, X, y, cv=FOLDS)


def grid(pipe: Pipeline, X: Any, y: Any) -> None:
    GridSearchCV(pipe, GRID, cv=FOLDS).fit(X, y)


TASKS = {"cross_val_score": cross_validation, "grid": grid}


def case(
    case: str,
    task: str,
    network: str,
    weights: str,
    paths: list[str],
    settings: dict[str, Any],
    folder: str,
    peer: str,
    times: int,
) -> dict[str, Any]:
    """One case in its own process: the task ``times`` over (the first one is cold)."""
    X = np.array(paths, dtype=object)
    y = np.arange(len(X)) >= len(X) // 2  # photographs come sorted: animals, then things
    # Networks are built and warmed beforehand; what is compared is the work, not the loading.
    warm_up = paths[:1]
    if case == "embeddings":
        feat = sktransfer_extractor(network, weights, cache=False)
        X = feat.fit_transform(X)
        pipe = Pipeline(pipeline(None).steps[1:])
        count = lambda: 0  # noqa: E731
    elif case.startswith("sktransfer"):
        spy = Spy()
        sktransfer_extractor(network, weights, cache=False, **settings).fit(warm_up).transform(
            warm_up
        )
        cache: Any = str(Path(folder) / "store") if "directory" in case else True
        pipe = pipeline(sktransfer_extractor(network, weights, cache=cache, **settings))
        count = lambda: spy.n_images  # noqa: E731
    else:
        feat = PeerTransformer(peer, network, weights, tuple(settings.items()))
        feat.transform(warm_up)
        memory = str(Path(folder) / "memory") if case.endswith("memory") else None
        frozen = case.endswith("FrozenEstimator")
        pipe = pipeline(FrozenEstimator(feat.fit(X)) if frozen else feat, memory)
        count = lambda: _EMBEDDED["n"]  # noqa: E731
    runs = []
    # The classifier's problem is tiny, and the same in every case: a second thread of BLAS would
    # only add noise. Networks keep their threads.
    with threadpool_limits(1, user_api="blas"):
        for _ in range(times):
            before, start = count(), time.perf_counter()
            TASKS[task](pipe, X, y)
            runs.append({"seconds": time.perf_counter() - start, "embedded": count() - before})
    return {"runs": runs}


def workers_for(peer: str, network: str, weights: str, paths: list[str]) -> dict[str, Any]:
    """The peer's best number of workers for calls as small as a fold's."""
    if peer not in WITH_WORKERS:
        return {"settings": {}}
    fold = paths[: max(2, len(paths) * (FOLDS - 1) // FOLDS)]
    speed = {}
    for workers in (0, 1, 2):
        extract = PEERS[peer](network, weights, workers=workers)
        extract(fold[:2])
        speed[workers] = seconds(lambda extract=extract: extract(fold))
    return {"settings": {"workers": min(speed, key=speed.__getitem__)}}


def fastest_peer(network: str) -> str:
    """The winner among the peers in ``results/extraction.json``, else the plain recipe."""
    path = RESULTS / "extraction.json"
    if path.is_file():
        measured = json.loads(path.read_text())["networks"].get(network, {})
        if measured.get("fastest_peer"):
            return measured["fastest_peer"].split(",")[0]
    return "torchvision"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=60, help="images")
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--peer", choices=list(PEERS), help="default: fastest in extraction.json")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--results", type=Path, help="folder of the JSON file")
    args = parser.parse_args()
    description, neighbors = machine(), Neighbors()
    peer = args.peer or fastest_peer(args.network)
    rows: list[dict[str, Any]] = []
    with workspace() as folder:
        (folder / "photos").mkdir()
        paths, images = photos(args.n, folder / "photos")
        weights = random_weights(args.network, folder)
        common = {"network": args.network, "weights": weights, "paths": paths}
        asked = {"mode": "workers", "peer": peer, **common}
        best = in_own_process("search.py", asked, folder, python=peers_python())
        settings = best.get("settings", {})
        own = {"engine": args.engine}
        for task in args.tasks:
            for name in (
                *("sktransfer", "sktransfer, directory", "embeddings"),
                *(f"{peer}", f"{peer}, Pipeline memory", f"{peer}, FrozenEstimator"),
            ):
                rows.append(run_case(name, task, args, own, settings, peer, common, folder))
    report(rows, args.n)
    content = {
        "machine": description,
        "others_share": neighbors.share(),
        "n": args.n,
        "images": images,
        "network": args.network,
        "engine": args.engine,
        "peer": peer,
        "peer_settings": settings,
        "folds": FOLDS,
        "candidates": len(GRID["clf__C"]),
        "cases": rows,
    }
    print(f"used by others meanwhile: {content['others_share']} of all cores")
    write_json("search", content, args.results)


def run_case(
    name: str,
    task: str,
    args: argparse.Namespace,
    own: dict,
    peer_settings: dict,
    peer: str,
    common: dict,
    folder: Path,
) -> dict[str, Any]:
    """Cold and warm of one case; medians over the rounds. What keeps nothing has no warm run."""
    is_own = name.startswith("sktransfer")
    keeps = is_own or name.endswith("memory")
    rounds = []
    for _ in range(args.rounds):
        scratch = folder / "scratch"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        asked = {
            "mode": "case",
            "case": name,
            "task": task,
            "settings": own if is_own else peer_settings,
            "folder": str(scratch),
            "peer": peer,
            "times": 2 if keeps else 1,
            **common,
        }
        python = None if is_own or name == "embeddings" else peers_python()
        if name == "sktransfer, directory":  # warm means another process
            asked["times"] = 1
            answers = [in_own_process("search.py", asked, folder) for _ in range(2)]
            skipped = [each for each in answers if "skipped" in each]
            result = skipped[0] if skipped else {"runs": [each["runs"][0] for each in answers]}
        else:
            result = in_own_process("search.py", asked, folder, python=python)
        if "skipped" in result:
            print(f"{task}: {name}: skipped: {result['skipped']}", flush=True)
            return {"task": task, "case": name, "skipped": result["skipped"]}
        rounds.append(result["runs"])
        print(f"{task}: {name}: {[round(run['seconds'], 2) for run in rounds[-1]]} s", flush=True)
    row: dict[str, Any] = {"task": task, "case": name}
    for position, label in enumerate(["cold", "warm"][: len(rounds[0])]):
        row[f"{label}_seconds"] = median([each[position]["seconds"] for each in rounds])
        row[f"{label}_embedded"] = rounds[0][position]["embedded"]
    return row


def report(rows: list[dict[str, Any]], n: int) -> None:
    for task in TASKS:
        of_task = [row for row in rows if row["task"] == task and "skipped" not in row]
        own = next((row for row in of_task if row["case"] == "sktransfer"), None)
        for row in of_task:
            if own:
                row["cold_times_sktransfer"] = row["cold_seconds"] / own["cold_seconds"]
        lines = [
            (
                row["case"],
                number(row["cold_embedded"], 9),
                number(row["cold_seconds"]),
                number(row.get("cold_times_sktransfer")),
                number(row.get("warm_embedded"), 9),
                number(row.get("warm_seconds")),
            )
            for row in of_task
        ]
        header = ("case", "embedded", "seconds", "x sktransfer", "warm embedded", "warm seconds")
        print_table(f"{task}, {n} distinct images", header, lines)
    for row in rows:
        if "skipped" in row:
            print(f"not run: {row['task']}: {row['case']}: {row['skipped']}")


def dispatch(mode: str, **arguments: Any) -> dict[str, Any]:
    return workers_for(**arguments) if mode == "workers" else case(**arguments)


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1].startswith("{"):
        answer(dispatch)
    else:
        main()
