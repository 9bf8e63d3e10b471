"""Files of ``export_onnx``: how far from the estimator, how large, how fast, and in integers.

    python benchmarks/export.py [--networks resnet18 ...] [--step 1] [--int8 resnet18 ...]

For each network a logistic regression of scaled columns, on ants and bees. The file is run by the
runner of the guide, in a process without torch, on every ``--step``-th shared image and all odd
ones; milliseconds are of one thread, from decoded pixels to the decision. For ``--int8`` the area
under the ROC curve on X-rays and on ants and bees, half of them for training. Needs the shared
images and weights.
"""

from __future__ import annotations

import argparse
import io
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
from sktransfer.exceptions import ImageDecodeError

RUNNER = HERE.parent / "docs" / "user_guide" / "run_onnx.py"
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
_NO_TORCH = "import sys; sys.modules['torch'] = None; import runpy; sys.argv = sys.argv[1:]; "
_NO_TORCH += "runpy.run_path(sys.argv[0], run_name='__main__')"


def model_of(shared: Path, name: str, layer: Any, head: str, folder: Path) -> Any:
    weights = weights_of(shared, name) if name in BACKBONES else "default"
    if name not in BACKBONES and name != "efficientnet_lite0":
        weights = None  # random: as good for comparing numbers
    extractor = PretrainedFeatureExtractor(name, weights=weights, layer=layer, cache=folder)
    if head == "trees":
        return make_pipeline(extractor, RandomForestClassifier(200, random_state=0, n_jobs=1))
    return make_pipeline(extractor, StandardScaler(), LogisticRegression(C=0.01, max_iter=5000))


def shared_images(shared: Path, step: int) -> list[str]:
    """Every ``step``-th image of the sets, and the odd ones."""
    files = [p for p in sorted((shared / "data").glob("**/*")) if p.suffix.lower() in _SUFFIXES]
    odd = [p for p in files if "odd_images" in p.parts]
    return [str(p) for p in odd + [p for p in files if p not in odd][::step]]


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


def milliseconds(file: Path, images: list[str]) -> float:
    """Time of the processor for one image, the median of some, with one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    spent = []
    for image in images:
        pixels = np.asarray(Image.open(image).convert("RGB"))
        start = time.process_time()
        session.run(None, {"image": pixels})
        spent.append(time.process_time() - start)
    return 1000 * float(np.median(spent))


def measure(case: tuple[str, Any, str], train: Task, images: list[str], context: Any) -> Any:
    shared, folder = context
    name, layer, head = case
    model = model_of(shared, name, layer, head, folder).fit(list(train.X), train.y)
    file = folder / "model.onnx"
    made = export_onnx(model, file)
    expected = model.predict_proba(images)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = model[1:].predict_proba(
            model[0].set_params(engine="torch", cache=None).transform(images)
        )
    found = run_file(file, images)
    y_proba = found.iloc[:, 2:].to_numpy()
    apart = np.abs(y_proba - expected).max(axis=1)
    return {
        "network": name,
        "layer": layer or "embedding",
        "head": head,
        "largest": float(apart.max()),
        "share_within": float((apart <= 1e-5).mean()),
        "engines": float(np.abs(plain - expected).max()),
        "equal": float(
            np.mean(found["predicted"].astype(str) == model.predict(images).astype(str))
        ),
        "mb": made.n_bytes / 1e6,
        "ms": milliseconds(file, images[-20:]),
        "n": len(images),
    }


def measure_integers(name: str, task: Task, context: Any) -> Any:
    """Compare float32 and int8 files, half of the images for training."""
    shared, folder = context
    rng = np.random.default_rng(0)
    groups = np.arange(len(task.y)) if task.groups is None else task.groups
    units = np.unique(groups)
    half = np.isin(groups, rng.permutation(units)[: len(units) // 2])
    X, y = np.asarray(task.X, dtype=object), np.asarray(task.y)
    model = model_of(shared, name, "all", "linear", folder).fit(list(X[half]), y[half])
    rest = {"X": list(X[~half]), "y": y[~half]}
    floats, integers = folder / "float32.onnx", folder / "int8.onnx"
    export_onnx(model, floats)
    calibration = list(X[half][:: max(1, half.sum() // 128)][:128])
    made = export_onnx(model, integers, precision="int8", calibration=calibration, **rest)
    own = {"float": milliseconds(floats, rest["X"][:30])}
    own["int8"] = milliseconds(integers, rest["X"][:30])
    return {
        "network": name,
        "images": task.name,
        "n": int((~half).sum()),
        "auc": made.score,
        "auc_int8": made.score_of_file,
        "difference": made.score_of_file - made.score,
        "mb": made.n_bytes / 1e6,
        "ms": own["float"],
        "ms_int8": own["int8"],
        "times": own["float"] / own["int8"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="*", default=[case[0] for case in CASES])
    parser.add_argument("--step", type=int, default=1)
    parser.add_argument(
        "--int8",
        nargs="*",
        default=["resnet18", "squeezenet1_0", "mobilenet_v2", "efficientnet_lite0"],
    )
    parser.add_argument("--results", type=Path, help="folder of the JSON file")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    shared, neighbors = shared_with_weights(), Neighbors()
    content: dict[str, Any] = {"machine": machine(), "rows": [], "int8": []}
    insects = ants_and_bees(shared)
    few = Task("ants and bees", insects.X[::4], insects.y[::4])
    images = readable(shared_images(shared, args.step))
    with workspace() as folder:
        for case in CASES:
            if case[0] in args.networks:
                content["rows"].append(measure(case, few, images, (shared, folder)))
                write_json("export", content | {"others_share": neighbors.share()}, args.results)
        for name in args.int8:
            for task in (insects, xrays(shared)):
                content["int8"].append(measure_integers(name, task, (shared, folder)))
                write_json("export", content | {"others_share": neighbors.share()}, args.results)
    content["others_share"] = neighbors.share()
    for title in ("rows", "int8"):
        rows = [
            [f"{v:.3g}" if isinstance(v, float) else str(v) for v in r.values()]
            for r in content[title]
        ]
        if rows:
            print_table(title, (*content[title][0],), rows)
    write_json("export", content, args.results)


if __name__ == "__main__":
    main()
