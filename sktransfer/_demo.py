"""The demo of ``python -m sktransfer``: embed images, cross-validate, draw two plots.

It can be read as an example of how the estimators are used with scikit-learn.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import config_context
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import ConfusionMatrixDisplay, RocCurveDisplay, confusion_matrix
from sklearn.model_selection import TunedThresholdClassifierCV, cross_val_predict, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import Bunch

from sktransfer._extractor import PretrainedFeatureExtractor
from sktransfer._finetune import FineTuneClassifier
from sktransfer._utils import config as _config
from sktransfer._utils.names import shown
from sktransfer._utils.plotting import legend_text
from sktransfer._utils.splitting import stratified_folds, units_per_class
from sktransfer._utils.writing import new_file
from sktransfer.datasets import load_digit_screening, load_image_folder
from sktransfer.exceptions import FailedRowsWarning
from sktransfer.metrics import operating_point
from sktransfer.metrics._operating_point import doubt_about

N_FOLDS = 5
N_INNER_FOLDS = 3  # inside the training part of a fold, for the threshold


def run_demo(options: argparse.Namespace) -> None:
    """Evaluate a frozen network with a logistic regression on digits, or on a folder of images.

    Without a backbone it is EfficientNet-Lite0, whose weights come as a package. ``positive`` is a
    class that is compared with all others; of two classes without it, neither is the positive one,
    and results are printed for both. ``save`` is a file for the network and the regression, fitted
    to all images.
    """
    _config.import_optional("matplotlib", extra="plot", purpose="Drawing the demo's plots")
    model = None
    if options.save is not None:
        model = new_file(options.save, "--save", "model.safetensors")
    task = _task(options.images, options.positive)
    names = [shown(name) for name in task.target_names]
    print(f"{task.DESCR}")
    for name, count in zip(names, np.unique(task.target, return_counts=True)[1], strict=True):
        print(f"  {name}: {count}")

    # 1. Embed every image once.
    features = _extractor(options.images, options.backbone)
    if model is not None:  # its file holds whole networks
        features.set_params(layer=None)
    X, y, groups, seconds = _embed_once(features, task)
    _check_classes(y, groups, names)
    print(
        f"{features.backbone}: {len(y)} images in {seconds:.1f} s, {len(y) / seconds:.1f} images/s"
    )

    # 2. Cross-validate the line that everyone types. The embeddings come from the extractor's
    # cache, so the folds cost what the logistic regression costs.
    classifier = Pipeline(
        [
            ("feat", features.set_params(verbose=0)),
            ("scale", StandardScaler()),
            ("clf", LogisticRegression(C=0.1, class_weight="balanced", max_iter=1000)),
        ]
    )
    with config_context(enable_metadata_routing=True):
        auc, y_proba, y_pred, threshold = _cross_validate(classifier, X, y, groups)
    binary = threshold is not None
    print(
        f"{N_FOLDS}-fold ROC AUC{'' if binary else ' (one against the rest)'}"
        f"{'' if groups is None else ', grouped'}: {auc.mean():.3f} +/- {auc.std():.3f}"
    )
    if threshold is None:
        print(f"Accuracy: {np.mean(y_pred == y):.3f}")
    else:
        _print_threshold(threshold, confusion_matrix(y, y_pred), names, task.positive)
        last = np.unique(y)[1]
        point = operating_point(y == last, y_pred == last, 1, groups=groups)
        if (doubt := doubt_about(point, repr(names[1]))) is not None:
            print(f"warning: {doubt}")

    # 3. Draw the ROC curve and the confusion matrix of the out-of-fold predictions.
    for plot in _draw_plots(Path(options.output), y, y_proba, y_pred, names, task.positive):
        print(f"wrote {plot}")
    if model is not None:
        net = _as_network(classifier.fit(X, y), X, y)
        net.save(model, class_names=None if task.positive is None else task.target_names)
        print(f"wrote {model.absolute()}: the same classifier, fitted to all of the images")
        print(f"Next: python -m sktransfer predict {options.save} NEW_IMAGES -o predictions.csv")


def _task(images: str | None, positive: str | None) -> Bunch:
    if images is None:
        positive = "eight" if positive is None else positive
        task = load_digit_screening(positive=positive)
        task.data = np.round(task.data.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    else:
        task = load_image_folder(images, positive=positive)
    if len(np.unique(task.target)) < 2:
        raise ValueError(
            f"There is only one class, {task.target_names[-1]!r}; a classifier needs two or more. "
            "Put the images of each class into a sub-folder of its own."
        )
    _check_classes(task.target, task.groups, task.target_names)
    task.positive = positive
    return task


def _check_classes(target: np.ndarray, groups: np.ndarray | None, names: list[str]) -> None:
    what = "readable images" if groups is None else "groups of readable images"
    for name, n_units in zip(names, units_per_class(target, groups).values(), strict=True):
        if n_units < N_FOLDS:
            raise ValueError(
                f"Class {name!r} has {n_units} {what}; {N_FOLDS}-fold cross-validation needs "
                f"at least {N_FOLDS} of each class. Add images, or leave the class out."
            )


def _extractor(images: str | None, backbone: str | None) -> PretrainedFeatureExtractor:
    # With `on_error="nan"`, rows that cannot be read are reported and then left out by name.
    features = PretrainedFeatureExtractor(
        backbone or "efficientnet_lite0", on_error="nan", verbose=1
    )
    if images is None:
        # The digits are eight pixels wide and unlike the photographs the network was trained on:
        # show them small, and cut the network in the middle, before it becomes specific to those.
        features.set_params(preprocessing="resize")
        if backbone is None:
            features.set_params(image_size=64, layer="blocks.4")
    return features


def _embed_once(
    features: PretrainedFeatureExtractor, task: Bunch
) -> tuple[Any, np.ndarray, np.ndarray | None, float]:
    """Fill the cache, time it, and leave out the rows that cannot be read."""
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FailedRowsWarning)  # the rows are printed below
        embeddings = features.fit_transform(task.data)
    seconds = time.perf_counter() - started
    failed = features.failed_rows_
    for _, row in failed.iterrows():
        print(f"  left out {row['source']}: {row['reason']}")
    keep = np.setdiff1d(np.arange(len(embeddings)), failed["row"].to_numpy(dtype=int))
    X = task.data.iloc[keep] if hasattr(task.data, "iloc") else task.data[keep]
    groups = None if task.groups is None else np.asarray(task.groups)[keep]
    return X, task.target[keep], groups, seconds


def _cross_validate(
    classifier: Pipeline, X: Any, y: np.ndarray, groups: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float | None]:
    """Return ROC AUC per fold, out-of-fold probabilities and predictions, and the threshold."""
    binary = len(np.unique(y)) == 2
    folds, inner_folds = (
        stratified_folds(n, grouped=groups is not None, random_state=0)
        for n in (N_FOLDS, N_INNER_FOLDS)
    )
    params = {} if groups is None else {"groups": groups}
    scoring = "roc_auc" if binary else "roc_auc_ovr"
    auc = cross_val_score(classifier, X, y, cv=folds, scoring=scoring, params=params)
    y_proba = cross_val_predict(classifier, X, y, cv=folds, method="predict_proba", params=params)
    if not binary:
        return auc, y_proba, np.unique(y)[y_proba.argmax(axis=1)], None
    # The threshold is chosen inside each training fold and evaluated outside of it.
    tuned = TunedThresholdClassifierCV(classifier, scoring="balanced_accuracy", cv=inner_folds)
    y_pred = cross_val_predict(tuned, X, y, cv=folds, params=params)
    return auc, y_proba, y_pred, float(tuned.fit(X, y, **params).best_threshold_)


def _as_network(classifier: Pipeline, X: Any, y: np.ndarray) -> FineTuneClassifier:
    """Return the same classifier as a network with a linear head, which a file without code holds.

    Scaling and regression are one linear layer.
    """
    features, scale, regression = (step for _, step in classifier.steps)
    names = ("backbone", "preprocessing", "image_size")
    params = {name: getattr(features, name) for name in names}
    net = FineTuneClassifier(**params, freeze_depth="all", head__layers="embedding", random_state=0)
    first = np.unique(y, return_index=True)[1]  # its own regression is replaced: any rows will do
    net.fit(X.iloc[first] if hasattr(X, "iloc") else X[first], y[first])
    weight, bias = regression.coef_ / scale.scale_, regression.intercept_
    bias = bias - weight @ scale.mean_
    if len(weight) == 1:  # two classes: a layer has a row for each
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    head: Any = net.module_.head
    standardized, linear = head
    standardized.measure(features.transform(X).astype(np.float64), np.ones(len(y)))
    standardized.absorb(linear, weight, bias)
    return net


def _print_threshold(
    threshold: float, table: np.ndarray, names: list[str], positive: str | None
) -> None:
    """Print sensitivity and specificity: of the positive class, or of each in its place."""
    rates = np.diag(table) / table.sum(axis=1)
    for place, name in enumerate(names):
        if place == 1 or positive is None:
            own = threshold if place else 1 - threshold
            print(
                f"Threshold for {name!r}: {own:.3f} (best balanced accuracy); "
                f"sensitivity {rates[place]:.3f}, specificity {rates[1 - place]:.3f}"
            )
    if positive is None:
        print("Which of the two is the finding? Add --positive CLASS to see its results only.")


def _draw_plots(
    folder: Path,
    y: np.ndarray,
    y_proba: np.ndarray,
    y_pred: np.ndarray,
    names: list[str],
    positive: str | None,
) -> list[Path]:
    """Draw the ROC curve and the confusion matrix, and return their files."""
    import matplotlib
    from matplotlib.figure import Figure

    # Figures without pyplot: no window and no global state on any machine.
    roc, confusion = (Figure(figsize=(5, height), layout="constrained") for height in (5, 4.5))
    with matplotlib.rc_context({"text.parse_math": False}):  # names with $ are no formulas
        axes = roc.subplots()
        first = 0 if positive is None else 1
        curves = [
            RocCurveDisplay.from_predictions(
                y == label,
                y_proba[:, place],
                ax=axes,
                name="out-of-fold" if first else legend_text(names[place]),
                plot_chance_level=place == len(names) - 1,
            )
            for place, label in list(enumerate(np.unique(y)))[first:]
        ]
        if first:
            (tn, fp), (fn, tp) = confusion_matrix(y, y_pred)
            chosen = (fp / (fp + tn), tp / (tp + fn))
            axes.plot(*chosen, "o", color="tab:red", label="at the chosen threshold")
            axes.legend(loc="lower right")
            axes.set_title(f"ROC: {names[1]} against {names[0]}")
        else:
            mean = np.mean([curve.roc_auc for curve in curves])
            axes.set_title(f"ROC, each class against the rest (mean {mean:.3f})")
        axes = confusion.subplots()
        ConfusionMatrixDisplay(confusion_matrix(y, y_pred), display_labels=names).plot(
            ax=axes, cmap="Blues", colorbar=False, xticks_rotation="horizontal"
        )
        axes.set_title("Out-of-fold predictions")
    folder.mkdir(parents=True, exist_ok=True)
    paths = [(folder / name).absolute() for name in ("roc.png", "confusion.png")]
    for figure, path in zip((roc, confusion), paths, strict=True):
        figure.savefig(path, dpi=120)
    return paths
