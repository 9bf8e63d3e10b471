"""Draws docs/_static/displays/*.png, an image of every display, from real images.

    SKTRANSFER_TEST_SHARED=... python docs/draw_displays.py [NAME ...]

Images that are shown are NIH X-rays and PneumoniaMNIST; curves of the chest X-rays come from
``benchmarks/results``. No person has read any of these images for the study of readers: two other
models stand in for readers, and their names say so.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("agg")
import matplotlib.pyplot as plt
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import LearningCurveDisplay, StratifiedKFold, StratifiedShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer import FineTuneClassifier, PretrainedFeatureExtractor
from sktransfer.inspection import (
    AugmentationDisplay,
    ConfusionExamplesDisplay,
    EmbeddingDisplay,
    ErrorGalleryDisplay,
    HistoryDisplay,
    LearningRateDisplay,
)
from sktransfer.metrics import (
    CalibrationIntervalDisplay,
    ConfusionPairDisplay,
    DecisionCurveDisplay,
    ForestDisplay,
    ReaderStudyDisplay,
    ScoreDistributionDisplay,
)
from sktransfer.model_selection import (
    BackboneRankingDisplay,
    FreezeDepthDisplay,
    TriageClassifier,
    TriageDisplay,
    cross_val_interval,
    rank_backbones,
)

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "_static" / "displays"
NAMES = ("normal", "pneumonia")
FINDINGS = ("no finding", "pneumonia")
SIDE = 112
LARGEST = 200_000


def shared() -> Path:
    return Path(os.environ.get("SKTRANSFER_TEST_SHARED", ROOT.parent / "shared"))


@functools.cache
def mnist(part: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    """So many images of a part of PneumoniaMNIST, as many of each class."""
    with np.load(shared() / "data" / "pneumoniamnist" / "pneumoniamnist.npz") as file:
        X, y = file[f"{part}_images"], file[f"{part}_labels"].ravel().astype(int)
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.permutation(np.flatnonzero(y == c))[: n // 2] for c in (0, 1)])
    rows.sort()
    return X[rows], y[rows]


def network(name: str) -> dict[str, str]:
    """A network, with a file of its weights where these do not come with a package."""
    files = sorted((shared() / "weights").glob(f"{name}*.pth"))
    return {"backbone": name, **({"weights": str(files[0])} if files else {})}


def extractor(name: str = "efficientnet_lite0", **params: Any) -> PretrainedFeatureExtractor:
    # Resized and not cropped: the corners of an X-ray are part of it.
    settings = {"image_size": SIDE, "preprocessing": "resize", **params}
    return PretrainedFeatureExtractor(**network(name), **settings)


@functools.cache
def probe() -> Any:
    pipe = make_pipeline(extractor(), StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    return pipe.fit(*mnist("train", 600))


@functools.cache
def chest() -> dict[str, dict[str, Any]]:
    """Scores on chest X-rays of held-out patients, and thresholds, by model."""
    content = json.loads((ROOT / "benchmarks" / "results" / "operating_point.json").read_text())
    found = {}
    for row in content["rows"]:
        if row["how"] == "one fit":
            columns = {"labels": int, "scores": float, "patients": int}
            own = {
                name: np.array(row[f"test_{name}"].split(), dtype=kind)
                for name, kind in columns.items()
            }
            own["labels"] = np.array(FINDINGS)[own["labels"]]
            found[row["model"]] = {**own, "threshold": row["threshold"]}
    return found


def called(model: str, threshold: float = 0.5) -> np.ndarray:
    """What a model calls each X-ray."""
    return np.array(FINDINGS)[(chest()[model]["scores"] >= threshold).astype(int)]


def scored(display: Any, **settings: Any) -> Any:
    """A display of the fine-tuned network's scores."""
    own = chest()["fine-tuned"]
    _, ax = plt.subplots(figsize=(5.6, 5.2), layout="constrained")
    settings = {"pos_label": FINDINGS[1], "ax": ax, **settings}
    return display.from_predictions(own["labels"], own["scores"], **settings).figure_


def augmentation() -> Any:
    image = shared() / "data" / "dicom" / "nih_chest_test1.dcm"
    display = AugmentationDisplay.from_augmentation("medical", [str(image)], n_draws=7)
    figure = plt.figure(figsize=(8, 4.4), layout="constrained")
    return display.plot(figure=figure, n_columns=4).figure_


def calibration() -> Any:
    groups = chest()["fine-tuned"]["patients"]
    return scored(CalibrationIntervalDisplay, groups=groups, name="fine-tuned")


def confusion_examples() -> Any:
    return ConfusionExamplesDisplay.from_estimator(
        probe(), *mnist("test", 468), display_labels=NAMES
    ).figure_


def confusion_pair() -> Any:
    return ConfusionPairDisplay.from_predictions(
        chest()["fine-tuned"]["labels"],
        called("fine-tuned"),
        readers={each: called(each) for each in ("extractor", "pixels only")},
        name="fine-tuned",
    ).figure_


def decision_curve() -> Any:
    figure = scored(DecisionCurveDisplay, name="fine-tuned")
    own = chest()["extractor"]
    DecisionCurveDisplay.from_predictions(
        own["labels"],
        own["scores"],
        pos_label=FINDINGS[1],
        name="extractor",
        ax=figure.axes[0],
    )
    return figure


def embedding() -> Any:
    X, y = mnist("test", 200)
    _, ax = plt.subplots(figsize=(8.6, 6.4), layout="constrained")
    names = np.array(NAMES)
    return EmbeddingDisplay.from_estimator(
        probe()[:-1],
        X,
        names[y],
        y_pred=names[probe().predict(X)],
        thumbnails=True,
        thumbnail_size=26,
        overlap=False,
        ax=ax,
    ).figure_


def error_gallery() -> Any:
    X, y = mnist("test", 468)
    return ErrorGalleryDisplay.from_estimator(
        probe(), X, y, by_class=True, display_labels=NAMES
    ).figure_


def tuned(**params: Any) -> FineTuneClassifier:
    settings = {"image_size": 64, "preprocessing": "resize", "random_state": 0, "lr": 1e-4}
    return FineTuneClassifier(**network("efficientnet_lite0"), **{**settings, **params})


def freeze_depth() -> Any:
    # What each depth does to the network: of what does not help, interpolation would leave nothing.
    plain = {"head__layers": "embedding", "head__C": 0.003, "weight_interpolation": 1.0}
    X, y = mnist("train", 300)
    _, ax = plt.subplots(figsize=(7, 4.6), layout="constrained")
    return FreezeDepthDisplay.from_estimator(
        tuned(max_epochs=4, **plain),
        X,
        y,
        depths=["all", -1, -2, -4, 0],
        cv=StratifiedKFold(4, shuffle=True, random_state=0),
        scoring="roc_auc",
        ax=ax,
    ).figure_


def history() -> Any:
    X, y = mnist("train", 300)
    settings = {"max_epochs": 10, "validation_fraction": 0.3, "head__init": "random"}
    few, many = (
        tuned(freeze_depth=depth, head__epochs=2, **settings).fit(X, y) for depth in (-1, -4)
    )
    return HistoryDisplay.from_estimator({"last stage": few, "last four stages": many}).figure_


def learning_rate() -> Any:
    X, y = mnist("train", 300)
    _, ax = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    return LearningRateDisplay.from_estimator(tuned(freeze_depth=-1), X, y, ax=ax).figure_


def learning_curve() -> Any:
    X, y = mnist("train", 600)
    _, ax = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    display = LearningCurveDisplay.from_estimator(
        probe(),
        X,
        y,
        train_sizes=[20, 40, 80, 160, 320],
        cv=StratifiedShuffleSplit(10, test_size=0.3, random_state=0),
        scoring="roc_auc",
        score_type="both",
        score_name="ROC AUC",
        ax=ax,
    )
    for line in ax.lines:
        line.set_marker("o")
    ax.set_xticks(display.train_sizes, display.train_sizes)
    ax.minorticks_off()
    return display.figure_


def multilabel_roc() -> Any:
    example = ROOT / "docs" / "examples" / "evaluating" / "plot_several_findings.py"
    return runpy.run_path(str(example))["display"].figure_


def forest() -> Any:
    X, y = mnist("train", 200)
    features = {
        "EfficientNet-Lite0": extractor().fit_transform(X),
        "ResNet-18": extractor("resnet18").fit_transform(X),
        "gray levels alone": X.reshape(len(X), -1) / 255,
    }
    head = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    found = {name: cross_val_interval(head, F, y) for name, F in features.items()}
    return ForestDisplay.from_intervals(found, xlabel="cross-validated ROC AUC").figure_


def ranking() -> Any:
    X, y = mnist("train", 300)
    names = ("efficientnet_lite0", "mobilenet_v2", "resnet18", "squeezenet1_0")
    found = rank_backbones(X, y, {name: extractor(name) for name in names})
    return BackboneRankingDisplay.from_ranking(found).figure_


def reader_study() -> Any:
    own = chest()["fine-tuned"]
    return scored(
        ReaderStudyDisplay,
        threshold=own["threshold"],
        groups=own["patients"],
        readers={"'extractor' in place of a reader": called("extractor")},
        name="fine-tuned",
    )


def score_distribution() -> Any:
    own = chest()["fine-tuned"]
    return scored(ScoreDistributionDisplay, threshold=own["threshold"], groups=own["patients"])


def triage() -> Any:
    X, y = mnist("train", 600)
    clf = TriageClassifier(probe(), pos_label=NAMES[1]).fit(X, np.array(NAMES)[y])
    X, y = mnist("val", 260)
    return TriageDisplay.from_estimator(clf, X, np.array(NAMES)[y]).figure_


DRAWN: dict[str, Callable[[], Any]] = {
    each.__name__: each
    for each in (
        augmentation,
        calibration,
        confusion_examples,
        confusion_pair,
        decision_curve,
        embedding,
        error_gallery,
        forest,
        freeze_depth,
        history,
        learning_rate,
        learning_curve,
        multilabel_roc,
        ranking,
        reader_study,
        score_distribution,
        triage,
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*DRAWN, []], help="None: all of them.")
    FOLDER.mkdir(exist_ok=True)
    for name in parser.parse_args().names or DRAWN:
        path = FOLDER / f"{name}.png"
        DRAWN[name]().savefig(path, dpi=200)
        plt.close("all")
        if path.stat().st_size > LARGEST:
            Image.open(path).convert("RGB").quantize(64).save(path, optimize=True)
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
