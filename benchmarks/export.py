"""Files of ``export_onnx``: how far from the estimator, how large, how fast, and in integers.

    python benchmarks/export.py [--parts differences times int8] [--networks resnet18 ...]
        [--step 1] [--folder F] [--resume]

For each network a logistic regression of scaled columns, on ants and bees. The file is run by the
runner of the guide, in a process without torch, on every ``--step``-th shared image and all odd
ones: files, and PneumoniaMNIST as PNG files, of which networks with random weights get every tenth.
Milliseconds are of one thread, from decoded pixels to the decision. For ``int8`` the area
under the ROC curve on X-rays, ants and bees, half of them for training, and on the official test
images of PneumoniaMNIST. Needs the shared images and weights. With ``--folder`` files are kept,
which the part ``times`` needs; with ``--resume`` rows that are recorded are not measured again.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _common import (
    HERE,
    RESULTS,
    Neighbors,
    machine,
    print_table,
    shared_with_weights,
    workspace,
    write_json,
)
from _tasks import Task, ants_and_bees, xrays
from finetune import BACKBONES, weights_of
from PIL import Image
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer import PretrainedFeatureExtractor, export_onnx
from sktransfer.deploy._graph import session_of
from sktransfer.exceptions import ImageDecodeError

RUNNER = HERE.parent / "docs" / "user_guide" / "run_onnx.py"
SMALL = "pneumoniamnist"
# Network, its layer, and the head.
CASES = [
    ("squeezenet1_0", None, "linear"),
    ("resnet18", None, "linear"),
    ("resnet18", "all", "linear"),
    ("resnet18", "layer2", "linear"),
    ("resnet18", None, "trees"),
    ("mobilenet_v2", "all", "linear"),
    ("efficientnet_lite0", "all", "linear"),
    ("inception_v3", "Mixed_6e", "linear"),
    ("densenet121", "all", "linear"),
    ("vit_b_32", None, "linear"),
    ("swin_t", "all", "linear"),
]
TRAINED = (*BACKBONES, "efficientnet_lite0")
_NO_TORCH = "import sys; sys.modules['torch'] = None; import runpy; sys.argv = sys.argv[1:]; "
_NO_TORCH += "runpy.run_path(sys.argv[0], run_name='__main__')"


def model_of(shared: Path, name: str, layer: Any, head: str, folder: Path) -> Any:
    weights = weights_of(shared, name) if name in BACKBONES else "default"
    if name not in TRAINED:
        weights = None  # random: as good for comparing numbers
    extractor = PretrainedFeatureExtractor(name, weights=weights, layer=layer, cache=folder)
    if head == "trees":
        return make_pipeline(extractor, RandomForestClassifier(200, random_state=0, n_jobs=1))
    return make_pipeline(extractor, StandardScaler(), LogisticRegression(C=0.01, max_iter=5000))


def shared_images(shared: Path, folder: Path, step: int) -> list[str]:
    """Every ``step``-th image of the sets, and the odd ones."""
    files = [p for p in sorted((shared / "data").glob("**/*")) if p.suffix.lower() in _SUFFIXES]
    odd = [p for p in files if "odd_images" in p.parts]
    files = [p for p in files if p not in odd] + radiographs(shared, folder)
    return [str(p) for p in odd + files[::step]]


def radiographs(shared: Path, folder: Path) -> list[Path]:
    """All images of PneumoniaMNIST as PNG files."""
    (folder / SMALL).mkdir(exist_ok=True)
    files = []
    with np.load(shared / "data" / "pneumoniamnist" / "pneumoniamnist.npz") as sets:
        for part in ("train", "val", "test"):
            for row, image in enumerate(sets[f"{part}_images"]):
                files.append(folder / SMALL / f"{part}_{row:04d}.png")
                if not files[-1].exists():
                    Image.fromarray(image).save(files[-1])
    return files


_SUFFIXES = {".jpg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".mpo", ".avif"}


def run_file(file: Path, images: list[str]) -> pd.DataFrame:
    """Predict images with the runner, in a process without torch."""
    command = [sys.executable, "-c", _NO_TORCH, str(RUNNER), str(file), *images]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return pd.read_csv(io.StringIO(done.stdout), sep="\t")


def readable(images: list[str]) -> list[str]:
    """Those of 8 bits that both the library and the runner read."""
    import runpy

    read, kept = runpy.run_path(str(RUNNER))["read"], []
    from sktransfer._images import as_image_source

    source = as_image_source(images)
    for row, image in enumerate(images):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                decoded = source.open(row).decode()
                pixels = read(image)
        except (ImageDecodeError, OSError, ValueError, SyntaxError):
            continue
        if isinstance(decoded, Image.Image):
            assert np.array_equal(np.asarray(decoded.convert("RGB")), pixels), image
            kept.append(image)
    return kept


def milliseconds(files: list[Path], images: list[str]) -> list[float]:
    """Time of the processor for one image in each file, the median, with one thread.

    The files take turns, so that what disturbs one disturbs all: each runs on ten images, as one
    file does in use, with its weights in the processor's cache.
    """
    sessions = [session_of(str(file), intra_op_num_threads=1) for file in files]
    spent: list[list[float]] = [[] for _ in files]
    for first in range(0, len(images), 10):
        for own, session in zip(spent, sessions, strict=True):
            for image in images[first : first + 10]:
                pixels = np.asarray(Image.open(image).convert("RGB"))
                start = time.process_time()
                session.run(None, {"image": pixels})
                own.append(time.process_time() - start)
    return [1000 * float(np.median(own)) for own in spent]


def file_of(case: tuple[str, Any, str], folder: Path) -> Path:
    return folder / f"{'-'.join(str(each) for each in case)}.onnx"


def measure(case: tuple[str, Any, str], train: Task, images: list[str], context: Any) -> Any:
    shared, folder = context
    name, layer, head = case
    model = model_of(shared, name, layer, head, folder).fit(list(train.X), train.y)
    if name not in TRAINED:
        small = [image for image in images if SMALL in image]
        images = [image for image in images if SMALL not in image] + small[::10]
    file = file_of(case, folder)
    made = export_onnx(model, file)
    expected = model.predict_proba(images)
    some = np.arange(0, len(images), 20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = model[1:].predict_proba(
            model[0].set_params(engine="torch", cache=None).transform([images[row] for row in some])
        )
    found = run_file(file, images)
    y_proba = found.iloc[:, 2:].to_numpy()
    apart = np.abs(y_proba - expected).max(axis=1)
    predicted = model.classes_[expected.argmax(axis=1)]
    return {
        "network": name,
        "layer": layer or "embedding",
        "head": head,
        "largest": float(apart.max()),
        "share_within": float((apart <= 1e-5).mean()),
        "engines": float(np.abs(plain - expected[some]).max()),
        "equal": float(np.mean(found["predicted"].astype(str) == predicted.astype(str))),
        "mb": made.n_bytes / 1e6,
        "n": len(images),
        "n_small": sum(SMALL in image for image in images),
    }


def halves(task: Task) -> tuple[Any, np.ndarray, Any, np.ndarray]:
    """Images and labels to train on, and others of other patients."""
    rng = np.random.default_rng(0)
    groups = np.arange(len(task.y)) if task.groups is None else task.groups
    units = np.unique(groups)
    half = np.isin(groups, rng.permutation(units)[: len(units) // 2])
    X, y = np.asarray(task.X, dtype=object), np.asarray(task.y)
    return list(X[half]), y[half], list(X[~half]), y[~half]


def official(shared: Path) -> tuple[Any, np.ndarray, Any, np.ndarray]:
    """Every fourth training image of PneumoniaMNIST, and all test images."""
    with np.load(shared / "data" / "pneumoniamnist" / "pneumoniamnist.npz") as sets:
        parts = [
            part
            for name, step in (("train", 4), ("test", 1))
            for part in (
                list(sets[f"{name}_images"][::step]),
                sets[f"{name}_labels"].ravel()[::step],
            )
        ]
    return tuple(parts)  # type: ignore[return-value]


def measure_integers(name: str, images: str, context: Any) -> Any:
    """Compare float32 and int8 files."""
    shared, folder = context
    if images == "PneumoniaMNIST":
        X, y, X_test, y_test = official(shared)
    else:
        X, y, X_test, y_test = halves(
            {"ants and bees": ants_and_bees, "X-rays": xrays}[images](shared)
        )
    model = model_of(shared, name, "all", "linear", folder).fit(X, y)
    floats, integers = (folder / f"{name}-{each}.onnx" for each in ("float32", "int8"))
    export_onnx(model, floats)
    calibration = X[:: max(1, len(X) // 128)][:128]
    made = export_onnx(
        model, integers, precision="int8", calibration=calibration, X=X_test, y=y_test
    )
    return {
        "network": name,
        "images": images,
        "n": len(y_test),
        "auc": made.score,
        "auc_int8": made.score_of_file,
        "difference": made.score_of_file - made.score,
        "mb": made.n_bytes / 1e6,
    }


def run_parts(args: Any, shared: Path, folder: Path, content: dict[str, Any], write: Any) -> None:
    """Measure what is asked for, into ``content``."""

    def missing(rows: list[Any], *key: Any) -> bool:
        known = [row for row in rows if [*row.values()][: len(key)] == [*key]]
        for row in known:
            if not args.resume:
                rows.remove(row)
        return not (args.resume and known)

    cases = [case for case in CASES if case[0] in args.networks]
    if "differences" in args.parts:
        insects = ants_and_bees(shared)
        few = Task("ants and bees", insects.X[::4], insects.y[::4])
        images = readable(shared_images(shared, folder, args.step))
        for case in cases:
            if missing(content["rows"], case[0], case[1] or "embedding", case[2]):
                row = measure(case, few, images, (shared, folder)) | {"step": args.step}
                content["rows"].append(row)
                write()
    if "int8" in args.parts:
        for name in (each for each in TRAINED if each in args.networks):
            for images in ("ants and bees", "X-rays", "PneumoniaMNIST"):
                if missing(content["int8"], name, images):
                    content["int8"].append(measure_integers(name, images, (shared, folder)))
                    write()
    if "times" in args.parts:
        insects = ants_and_bees(shared)
        for case in cases:
            if not file_of(case, folder).exists():
                model = model_of(shared, *case, folder).fit(list(insects.X[::4]), insects.y[::4])
                export_onnx(model, file_of(case, folder))
        neighbors = Neighbors()
        some = [str(p) for p in sorted((shared / "data" / "imagenet_samples").glob("*.jpg"))[:40]]
        for row in content["rows"]:
            case = next(
                c for c in CASES if (c[0], c[1] or "embedding", c[2]) == tuple([*row.values()][:3])
            )
            if case in cases:
                row["ms"] = milliseconds([file_of(case, folder)], some)[0]
        for row in content["int8"]:
            if row["network"] in args.networks:
                files = [folder / f"{row['network']}-{each}.onnx" for each in ("float32", "int8")]
                row["ms"], row["ms_int8"] = milliseconds(files, some)
                row["times"] = row["ms"] / row["ms_int8"]
        content["others_share"] = neighbors.share()
        write()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", default=["differences", "int8", "times"])
    parser.add_argument("--networks", nargs="+", default=[*dict.fromkeys(c[0] for c in CASES)])
    parser.add_argument("--step", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where files are kept for another run")
    parser.add_argument("--resume", action="store_true", help="keep what is recorded")
    parser.add_argument("--results", type=Path, help="folder of the JSON file")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    shared = shared_with_weights()
    content: dict[str, Any] = {"machine": machine(), "rows": [], "int8": []}
    recorded = (args.results or RESULTS) / "export.json"
    if recorded.is_file():
        content = json.loads(recorded.read_text()) | {"machine": machine()}

    def write() -> None:
        write_json("export", content, args.results)

    with workspace() as temporary:
        folder = args.folder or temporary
        folder.mkdir(parents=True, exist_ok=True)
        run_parts(args, shared, folder, content, write)
    for title in ("rows", "int8"):
        header = max((tuple(row) for row in content[title]), key=len, default=())
        rows = [
            [f"{v:.3g}" if isinstance(v, float) else str(v) for v in map(row.get, header)]
            for row in content[title]
        ]
        if rows:
            print_table(title, header, rows)


if __name__ == "__main__":
    main()
