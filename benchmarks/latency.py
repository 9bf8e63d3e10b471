"""What one image costs: ``predict_proba`` of one file, next to the bare forward pass and decoding.

    python benchmarks/latency.py [--networks resnet18 mobilenet_v2 resnet50] [--turns 60]

Every estimator is fitted and warm. A turn is one file, another one each time, that the contestants
get one after the other: the bare way (Pillow opens, converts, resizes and crops it, numpy
normalizes it, and the same engine runs the same layers at batch 1 on the same threads; for
``FineTuneClassifier`` also what is trained), and ours. Ratios are of a turn, and their median is
reported. Hits are images that were embedded before, next to reading the file, hashing it and
looking its row up in a dict, and next to loading the row from an ``.npz`` file.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from _common import (
    Neighbors,
    answer,
    cpu_seconds,
    in_own_process,
    machine,
    median,
    number,
    photos,
    print_table,
    random_weights,
    seconds,
    workspace,
    write_json,
)

ESTIMATORS = ("embedding", "all layers", "FineTuneClassifier", "TransferClassifier")
# Files that an estimator is fitted on, and calls before the first turn.
N_FIT, N_WARM = 32, 3
BATCH = 8


# --- the bare way -----------------------------------------------------------------------------


def decoder(preprocessing: Any) -> Callable[[str], np.ndarray]:
    """Return what anybody would write with Pillow and numpy for these weights."""
    from PIL import Image

    mean, std = (
        np.array(each, np.float32)[:, None, None]
        for each in (preprocessing.mean, preprocessing.std)
    )
    short, side = preprocessing.resize_size, preprocessing.size
    resampling = Image.Resampling[preprocessing.interpolation.upper()]

    def decode(path: str) -> np.ndarray:
        with Image.open(path) as file:
            image = file.convert("RGB")
        scale = short / min(image.size)
        width, height = (max(short, int(length * scale)) for length in image.size)
        left, top = round((width - side) / 2), round((height - side) / 2)
        image = image.resize((width, height), resampling)
        image = image.crop((left, top, left + side, top + side))
        planes = np.asarray(image).transpose(2, 0, 1)
        return np.ascontiguousarray((planes / np.float32(255) - mean) / std)[None]

    return decode


def forward(frozen: Any) -> Callable[[np.ndarray], list[Any]]:
    """Return the engine's own call for the layers of a ``FrozenExtractor``, at batch 1."""
    import torch

    network, side = frozen.network(), frozen.preprocessing.size
    frozen.compute(torch.zeros(1, 3, side, side))
    engine = network._engine(tuple(frozen.outputs), side)
    if engine.name == "openvino":
        request = engine._compiled.create_infer_request()

        def run(batch: np.ndarray) -> list[Any]:
            found = request.infer([batch], share_inputs=True, share_outputs=True)
            return [found[i] for i in range(len(frozen.outputs))]

        return run

    def run_torch(batch: np.ndarray) -> list[Any]:
        with torch.inference_mode():
            images = torch.from_numpy(batch).to(memory_format=torch.channels_last)
            return [part.numpy() for part in engine.chain(images)]

    return run_torch


def bare(model: Any, path: str) -> tuple[Callable[[str], Any], str]:
    """Return decoding and forward pass of what an estimator runs, and the engine's name."""
    import torch

    if hasattr(model, "module_"):
        frozen, suffix = model._prefix, model.module_.eval()
    else:
        reader = model.estimators_[0] if hasattr(model, "estimators_") else model
        feat = reader[0]
        if hasattr(model, "estimators_"):  # the first member of a network has all of its layers
            feat = max((each[0] for each in model.estimators_), key=lambda f: f.n_features_out_)
        frozen, suffix = feat._frozen(feat._found(), feat._info), None
    decode, run = decoder(frozen.preprocessing), forward(frozen)

    # The same numbers, or it would be no bound.
    batch = torch.from_numpy(decode(path))
    for part, own in zip(run(batch.numpy()), frozen.compute(batch), strict=True):
        np.testing.assert_allclose(part, own.numpy(), rtol=1e-3, atol=1e-4)

    def whole(path: str) -> Any:
        parts = run(decode(path))
        if suffix is None:
            return parts
        with torch.inference_mode():
            return suffix(torch.from_numpy(np.concatenate(parts, axis=1)))

    return whole, frozen.network()._engine(tuple(frozen.outputs), frozen.preprocessing.size).name


# --- ours -------------------------------------------------------------------------------------


def fitted(kind: str, network: str, weights: str, paths: list[str], cache: Any) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from sktransfer import FineTuneClassifier, PretrainedFeatureExtractor, TransferClassifier

    X, y = paths[:N_FIT], np.arange(N_FIT) % 2
    if kind == "FineTuneClassifier":
        clf = FineTuneClassifier(network, weights=weights, cache=cache, max_epochs=1)
        return clf.fit(X, y)
    layer = "all" if kind != "embedding" else None
    feat = PretrainedFeatureExtractor(network, weights=weights, cache=cache, layer=layer)
    if kind == "TransferClassifier":
        return TransferClassifier([feat], cache=cache, random_state=0).fit(X, y)
    return make_pipeline(feat, StandardScaler(), LogisticRegression(C=0.01)).fit(X, y)


def loaded(model: Any, folder: Path) -> Any:
    """Return the model as another process has it: saved and loaded, or pickled."""
    import joblib

    if hasattr(model, "save"):
        model.save(folder / "model.safetensors")
        return type(model).load(folder / "model.safetensors")
    joblib.dump(model, folder / "model.joblib")
    return joblib.load(folder / "model.joblib")


def in_turns(
    contestants: dict[str, Callable[[str], Any]], paths: list[str]
) -> dict[str, dict[str, float]]:
    """Milliseconds of each contestant, and how many times those of the first one of a turn.

    The processor's time is not of the others who use the machine.
    """
    for work in contestants.values():
        for path in paths[:N_WARM]:
            work(path)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for path in paths[N_WARM:]:
        for name, work in contestants.items():
            start = cpu_seconds()
            wall = seconds(lambda work=work, path=path: work(path))
            times[name].append((1000 * wall, 1000 * (cpu_seconds() - start)))
    first = next(iter(times.values()))
    found = {}
    for name, own in times.items():
        ratios = [(a / b, c / d) for (a, c), (b, d) in zip(own, first, strict=True) if d]
        found[name] = {
            "ms": median([wall for wall, _ in own]),
            "cpu_ms": median([cpu for _, cpu in own]),
            "times": median([wall for wall, _ in ratios]),
            "times_cpu": median([cpu for _, cpu in ratios]),
        }
    return found


def measure(kind: str, network: str, weights: str, paths: list[str]) -> dict[str, Any]:
    """One image at a time, of files that no store has seen but where it says so."""
    import torch
    from PIL import Image

    import sktransfer

    some = paths[N_FIT:]
    with tempfile.TemporaryDirectory() as name:
        plain = fitted(kind, network, weights, paths, False)
        kept = fitted(kind, network, weights, paths, True)
        stored = fitted(kind, network, weights, paths, str(Path(name) / "store"))
        again = loaded(plain, Path(name))
        reference, engine = bare(plain, some[0])
        images = {}
        for path in some:
            with Image.open(path) as file:
                images[path] = file.convert("RGB")
        arrays = {path: np.asarray(image) for path, image in images.items()}

        def new(path: str) -> Any:
            sktransfer.clear_cache()
            return kept.predict_proba([path])

        def from_directory(path: str) -> Any:
            sktransfer.clear_cache()  # the memory in front of it
            return stored.predict_proba([path])

        one = in_turns(
            {
                "bare": reference,
                "cache=False": lambda path: plain.predict_proba([path]),
                "cache=True": new,
                "loaded": lambda path: again.predict_proba([path]),
                "PIL image": lambda path: plain.predict_proba([images[path]]),
                "array": lambda path: plain.predict_proba([arrays[path]]),
            },
            some,
        )
        starts = range(0, len(some) - BATCH, 2)
        batches = {some[i]: some[i : i + BATCH] for i in starts}
        batch = in_turns(
            {
                "bare": lambda path: [reference(each) for each in batches[path]],
                "batch": lambda path: plain.predict_proba(batches[path]),
            },
            list(batches),
        )
        sktransfer.clear_cache()  # else nothing would be written to the directory
        stored.predict_proba(some)
        kept.predict_proba(some)
        hits = in_turns(
            {"bare": reference, "memory": lambda path: kept.predict_proba([path])}, some
        )
        hits |= in_turns({"bare": reference, "directory": from_directory}, some)
    rows = {**one, "batch": batch["batch"]}
    rows |= {f"hit, {tier}": hits[tier] for tier in ("memory", "directory")}
    return {"engine": engine, "threads": torch.get_num_threads(), "rows": rows}


def per_hit(network: str, weights: str, paths: list[str], turns: int) -> dict[str, Any]:
    """Milliseconds of a hit where there are a thousand, in one call and one by one."""
    with tempfile.TemporaryDirectory() as name:
        model = fitted("all layers", network, weights, paths, True)
        feat = model[0]
        F = feat.transform(paths)
        digests = [blake2b(Path(p).read_bytes(), digest_size=16).digest() for p in paths]
        rows = dict(zip(digests, F, strict=True))
        np.savez(Path(name) / "rows.npz", **{str(i): row for i, row in enumerate(F)})
        file = np.load(Path(name) / "rows.npz")

        def from_dict() -> np.ndarray:
            read = (Path(path).read_bytes() for path in paths)
            return np.stack([rows[blake2b(data, digest_size=16).digest()] for data in read])

        ways = {
            "dict": from_dict,
            "npz": lambda: np.stack([file[str(i)] for i in range(len(paths))]),
            "transform, one call": lambda: feat.transform(paths),
            "pipeline, one call": lambda: model.predict_proba(paths),
            "transform, one by one": lambda: [feat.transform([path]) for path in paths],
            "pipeline, one by one": lambda: [model.predict_proba([path]) for path in paths],
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(turns):
            for name, work in ways.items():
                times[name].append(1000 * seconds(work) / len(paths))
        file.close()
    return {name: median(own) for name, own in times.items()}


# --- all of it --------------------------------------------------------------------------------


def work(what: str, threads: int | None, **asked: Any) -> dict[str, Any]:
    import torch

    if threads:
        torch.set_num_threads(threads)
    return measure(**asked) if what == "one image" else per_hit(**asked)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["resnet18", "mobilenet_v2", "resnet50"])
    parser.add_argument("--turns", type=int, default=60, help="files, one after the other")
    parser.add_argument("--hits", type=int, default=1000, help="images that are in the store")
    parser.add_argument("--threads", type=int, help="that torch and OpenVINO use; all cores")
    parser.add_argument("--results", type=Path, help="folder of the JSON file")
    args = parser.parse_args()
    description, neighbors = machine(), Neighbors()
    cases: list[dict[str, Any]] = []
    with workspace() as folder:
        (folder / "photos").mkdir()
        paths, images = photos(max(N_FIT + N_WARM + args.turns, args.hits), folder / "photos")
        for network in args.networks:
            weights = random_weights(network, folder)
            asked = {"network": network, "weights": weights, "threads": args.threads}
            for kind in ESTIMATORS:
                some = {"paths": paths[: N_FIT + N_WARM + args.turns], "kind": kind}
                found = in_own_process("latency.py", {"what": "one image", **asked, **some}, folder)
                cases.append({"network": network, "estimator": kind, **found})
                show(cases[-1])
        asked = {"network": args.networks[0], "weights": random_weights(args.networks[0], folder)}
        asked["threads"] = args.threads
        some = {"what": "hits", "paths": paths[: args.hits], "turns": 5}
        hits = in_own_process("latency.py", {**asked, **some}, folder)
    lines = [(name, number(value)) for name, value in hits.items()]
    print_table(f"A hit among {args.hits}, all layers of {args.networks[0]}", ("", "ms"), lines)
    content = {
        "machine": description,
        "others_share": neighbors.share(),
        "turns": args.turns,
        "images": images,
        "cases": cases,
        "n_hits": args.hits,
        "hits": hits,
    }
    print(f"used by others meanwhile: {content['others_share']} of all cores")
    write_json("latency", content, args.results)


def show(case: dict[str, Any]) -> None:
    title = f"{case['network']}, {case['estimator']}"
    if "skipped" in case:
        print(f"not run: {title}: {case['skipped']}", flush=True)
        return
    lines = [
        (name, *(number(row[each]) for each in ("ms", "cpu_ms", "times", "times_cpu")))
        for name, row in case["rows"].items()
    ]
    header = ("", "ms", "CPU ms", "times the bare way", "times its CPU ms")
    print_table(f"{title} ({case['engine']}, {case['threads']} threads)", header, lines)


if __name__ == "__main__":
    import sys

    if len(sys.argv) == 3 and sys.argv[1].startswith("{"):
        answer(work)
    else:
        main()
