"""The main job, told step by step: images, a pretrained network, an honest evaluation, two plots.

Written only with public names, so that it can be read as an example.
"""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import config_context
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    ConfusionMatrixDisplay,
    RocCurveDisplay,
    confusion_matrix,
    roc_auc_score,
)
from sklearn.model_selection import (
    TunedThresholdClassifierCV,
    cross_val_predict,
    cross_val_score,
)
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import Bunch

from sktransfer._extractor import PretrainedFeatureExtractor
from sktransfer._utils import config as _config
from sktransfer._utils.splitting import stratified_folds
from sktransfer.datasets import load_digit_screening, load_image_folder
from sktransfer.exceptions import FailedRowsWarning

N_FOLDS = 5
# Inside the training part of a fold, for the threshold.
N_INNER_FOLDS = 3


def run_demo(
    images: str | None = None,
    backbone: str | None = None,
    output: str = "sktransfer-demo",
    positive: str | None = None,
) -> dict[str, Any]:
    """Evaluate a frozen network with a logistic regression on digits, or on a folder of images.

    Parameters
    ----------
    images : str or None
        Folder of class sub-folders; None for scikit-learn's digits.
    backbone : str or None
        Name of a network; None for EfficientNet-Lite0, whose weights come as a package.
    output : str
        Folder for the plots; made if need be.
    positive : str or None
        Name of the class to look for; None for the last one.

    Returns
    -------
    dict
        What was printed: ``roc_auc`` (one per fold), ``threshold``, ``seconds``,
        ``images_per_second``, ``plots``.
    """
    _config.import_optional("matplotlib", extra="plot", purpose="Drawing the demo's plots")
    Path(output).mkdir(parents=True, exist_ok=True)
    task = _task(images, positive)
    classes, counts = np.unique(task.target, return_counts=True)
    print(f"{task.DESCR}")
    for label, count in zip(classes, counts, strict=True):
        print(f"  {task.target_names[label]}: {count}")

    # 1. Embed every image once. `on_error="nan"` gives rows that cannot be read as NaN, which
    # are dropped here, by name: a broken file is never a case.
    features = PretrainedFeatureExtractor(
        backbone or "efficientnet_lite0", on_error="nan", verbose=1
    )
    if images is None:
        # Eight pixels wide, and nothing like the photographs the network was trained on: show
        # them small, and cut the network in the middle, before it becomes specific to those.
        features.set_params(preprocessing="resize", value_range=task.value_range)
        if backbone is None:
            features.set_params(image_size=64, layer="blocks.4")
    X, y, groups, seconds, distinct = _embed_once(features, task)
    _check_classes(y, groups, task.target_names)
    rate = distinct / seconds
    print(f"{features.backbone}: {distinct} images in {seconds:.1f} s, {rate:.1f} images/s")

    # 2. The line everyone types, cross-validated. The embeddings come from the extractor's cache,
    # so the folds cost what the logistic regression costs.
    classifier = Pipeline(
        [
            ("feat", features.set_params(verbose=0)),
            ("scale", StandardScaler()),
            ("clf", LogisticRegression(C=0.1, class_weight="balanced", max_iter=1000)),
        ]
    )
    grouped = groups is not None
    folds, inner = (
        stratified_folds(n, grouped=grouped, random_state=0) for n in (N_FOLDS, N_INNER_FOLDS)
    )
    together = {"groups": groups} if grouped else {}
    binary = len(classes) == 2
    with config_context(enable_metadata_routing=True):
        auc = cross_val_score(
            classifier,
            X,
            y,
            cv=folds,
            scoring="roc_auc" if binary else "roc_auc_ovr",
            params=together,
        )
        print(
            f"{N_FOLDS}-fold ROC AUC{'' if binary else ' (one against the rest)'}"
            f"{', grouped' if grouped else ''}: {auc.mean():.3f} +/- {auc.std():.3f}"
        )
        scores = cross_val_predict(
            classifier, X, y, cv=folds, method="predict_proba", params=together
        )
        threshold = None
        predicted = classes[scores.argmax(axis=1)]
        if binary:
            # 3. A threshold chosen inside each training fold, judged outside of it.
            tuned = TunedThresholdClassifierCV(classifier, scoring="balanced_accuracy", cv=inner)
            predicted = cross_val_predict(tuned, X, y, cv=folds, params=together)
            threshold = float(tuned.fit(X, y, **together).best_threshold_)
    if binary:
        (tn, fp), (fn, tp) = confusion_matrix(y, predicted)
        print(
            f"Threshold for {task.target_names[classes[1]]!r}: {threshold:.3f} (best balanced "
            f"accuracy); sensitivity {tp / (tp + fn):.3f}, specificity {tn / (tn + fp):.3f}"
        )
    else:
        print(f"Accuracy: {np.mean(predicted == y):.3f}")
    plots = _plots(Path(output), y, scores, predicted, [task.target_names[c] for c in classes])
    for plot in plots:
        print(f"wrote {plot}")
    return {
        "roc_auc": auc,
        "threshold": threshold,
        "seconds": seconds,
        "images_per_second": rate,
        "plots": plots,
    }


def _task(images: str | None, positive: str | None) -> Bunch:
    task = load_digit_screening() if images is None else load_image_folder(images)
    if len(task.target_names) < 2:
        raise ValueError(
            f"There is one class only, {task.target_names[0]!r}; a classifier needs two or more."
        )
    if positive is not None:
        if positive not in task.target_names:
            raise ValueError(
                f"--positive {positive!r} is not one of the classes {task.target_names}."
            )
        chosen = task.target_names.index(positive)
        task.target = (task.target == chosen).astype(np.int64)
        task.target_names = ["other", positive]
    _check_classes(task.target, task.groups, task.target_names)
    return task


def _check_classes(target: np.ndarray, groups: np.ndarray | None, names: list[str]) -> None:
    # What a fold cannot share: images, or whole patients.
    what = "readable images" if groups is None else "groups of readable images"
    units = np.arange(len(target)) if groups is None else groups
    for label, name in enumerate(names):
        n_units = len(np.unique(units[target == label]))
        if n_units < N_FOLDS:
            raise ValueError(
                f"Class {name!r} has {n_units} {what}; {N_FOLDS}-fold cross-validation needs "
                f"{N_FOLDS} of each."
            )


def _embed_once(features: PretrainedFeatureExtractor, task: Bunch):
    """Fill the cache, time it, and leave out what cannot be read."""
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FailedRowsWarning)  # said better below
        embeddings = features.fit_transform(task.data)
    seconds = time.perf_counter() - started
    bad = features.failed_rows_
    for _, row in bad.iterrows():
        print(f"  left out {row['source']}: {row['reason']}")
    keep = np.setdiff1d(np.arange(len(embeddings)), bad["row"].to_numpy(dtype=int))
    X = task.data.iloc[keep] if hasattr(task.data, "iloc") else task.data[keep]
    groups = None if task.groups is None else np.asarray(task.groups)[keep]
    return X, task.target[keep], groups, seconds, len(keep)


def _plots(
    folder: Path, y: np.ndarray, scores: np.ndarray, predicted: np.ndarray, names: list
) -> list[Path]:
    from matplotlib.figure import Figure

    classes = np.unique(y)
    # Figures without pyplot: no window, no global state, whatever the machine.
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    if len(classes) == 2:
        RocCurveDisplay.from_predictions(
            y, scores[:, 1], ax=axes, name="out-of-fold", plot_chance_level=True
        )
        (tn, fp), (fn, tp) = confusion_matrix(y, predicted)
        axes.plot(
            fp / (fp + tn), tp / (tp + fn), "o", color="tab:red", label="at the chosen threshold"
        )
        axes.legend(loc="lower right")
        axes.set_title(f"ROC: {names[1]} against {names[0]}")
    else:
        for position, label in enumerate(classes):
            own = (y == label).astype(int)
            RocCurveDisplay.from_predictions(
                own,
                scores[:, position],
                ax=axes,
                name=names[position],
                plot_chance_level=position == len(classes) - 1,
            )
        axes.set_title(f"ROC, one against the rest (mean {roc_auc_ovr(y, scores):.3f})")
    roc = folder / "roc.png"
    figure.savefig(roc, dpi=120)

    figure = Figure(figsize=(5, 4.5), layout="constrained")
    axes = figure.subplots()
    ConfusionMatrixDisplay(confusion_matrix(y, predicted), display_labels=names).plot(
        ax=axes, cmap="Blues", colorbar=False, xticks_rotation="horizontal"
    )
    axes.set_title("Out-of-fold predictions")
    confusion = folder / "confusion.png"
    figure.savefig(confusion, dpi=120)
    return [roc.absolute(), confusion.absolute()]


def roc_auc_ovr(y: np.ndarray, scores: np.ndarray) -> float:
    """Mean one-against-the-rest ROC AUC."""
    return float(roc_auc_score(y, scores, multi_class="ovr"))
