"""A sensitivity guaranteed and what came of it: chest X-rays, grouped by patient throughout.

    python benchmarks/operating_point.py [--repeats 20] [--figures docs/_static]

Needs the shared data and weights (``SKTRANSFER_TEST_SHARED``). Three tenths of the patients are
held out, once; on the others every model is calibrated and given a threshold at sensitivity 0.95
with confidence 0.95. The baselines see the table or the raw pixels alone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sklearn
from _common import (
    RESULTS,
    Neighbors,
    machine,
    number,
    print_table,
    shared_with_weights,
    workspace,
    write_json,
)
from finetune import LAST_STAGE, chest, weights_of
from PIL import Image
from sklearn.calibration import CalibratedClassifierCV
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from sktransfer import FineTuneClassifier, PretrainedFeatureExtractor
from sktransfer.metrics import (
    calibration_intercept,
    calibration_slope,
    operating_point,
    roc_auc_interval,
)
from sktransfer.model_selection import OperatingPointClassifier, grouped_train_test_split

TARGET = 0.95


def pixels(files: Any) -> np.ndarray:
    """48 x 48 gray levels of each image."""
    small = [Image.open(file).convert("L").resize((48, 48), Image.Resampling.BOX) for file in files]
    return np.stack([np.asarray(each, dtype=np.float32).ravel() / 255 for each in small])


def tables_of(shared: Path) -> dict[str, np.ndarray]:
    """What is known of every image without looking at it.

    The patient's number says nothing about a lung; it says how the collection was put together.
    """
    table = pd.read_csv(shared / "data" / "chest_xray_pneumonia" / "metadata.csv").astype(
        {"follow_up": float, "patient_id": float}
    )
    return {
        "follow-up number only": table[["follow_up"]].to_numpy(),
        "follow-up and patient number": table[["follow_up", "patient_id"]].to_numpy(),
    }


def cheap_models(shared: Path, store: Path) -> dict[str, Any]:
    """Models that are fitted again in every fold."""
    extractor = PretrainedFeatureExtractor(
        "resnet18", weights=weights_of(shared, "resnet18"), cache=store
    )
    numbers = HistGradientBoostingClassifier(
        max_depth=3, min_samples_leaf=20, max_iter=50, random_state=0
    )
    return {
        **dict.fromkeys(tables_of(shared), numbers),
        "pixels only": make_pipeline(
            FunctionTransformer(pixels), PCA(50, random_state=0), LogisticRegression(C=0.01)
        ),
        "extractor": make_pipeline(
            extractor, StandardScaler(), LogisticRegression(C=0.001, max_iter=2000)
        ),
    }


def cross_fitted(model: Any, X: Any, y: np.ndarray, patients: np.ndarray) -> Any:
    """Calibrated in folds, and a threshold from folds around that."""
    # With ensemble=False scikit-learn 1.9 does not hand groups on to cv.
    calibrated = CalibratedClassifierCV(
        model, method="sigmoid", cv=StratifiedGroupKFold(5), ensemble=True
    )
    clf = OperatingPointClassifier(calibrated, target_level=TARGET, cv=StratifiedGroupKFold(5))
    return clf.fit(X, y, groups=patients)


def from_one_fit(model: Any, X: Any, y: np.ndarray, patients: np.ndarray, seed: int = 0) -> Any:
    """Fitted to six tenths; calibrated, and the threshold chosen, on the rest.

    Calibration is monotone, so that it does not matter to the guarantee that it saw the same rows.
    """
    fit, decide = grouped_train_test_split(
        np.arange(len(y)), stratify=y, groups=patients, test_size=0.4, random_state=seed
    )
    fitted = FrozenEstimator(model.fit(X[fit], y[fit]))
    calibrated = CalibratedClassifierCV(fitted, method="sigmoid", ensemble=False)
    calibrated = FrozenEstimator(calibrated.fit(X[decide], y[decide]))
    clf = OperatingPointClassifier(calibrated, target_level=TARGET, cv="prefit")
    return clf.fit(X[decide], y[decide], groups=patients[decide])


def judged(
    name: str, how: str, clf: Any, X: Any, y: np.ndarray, patients: np.ndarray
) -> dict[str, Any]:
    """What a model does on patients that it has not seen."""
    score = clf.predict_proba(X)[:, 1]
    point = operating_point(y, score, clf.threshold_, groups=patients)
    row = {
        "model": name,
        "how": how,
        "threshold": clf.threshold_,
        "guaranteed on": {
            "positive rows": clf.operating_point_.n_positive,
            "sensitivity": clf.operating_point_.sensitivity,
            "patients": clf.operating_point_.group_sensitivity,
        },
        "auc": roc_auc_interval(y, score, groups=patients),
        "sensitivity": point.sensitivity,
        "patient_sensitivity": point.group_sensitivity,
        "specificity": point.specificity,
        "counts": [point.tp, point.fn, point.fp, point.tn],
        "ppv": point.ppv,
        "npv": point.npv,
        "slope": calibration_slope(y, score, groups=patients),
        "intercept": calibration_intercept(y, score, groups=patients),
        "brier": float(brier_score_loss(y, score)),
        # As text: a number a line would make the file long.
        "test_labels": " ".join(map(str, y)),
        "test_scores": " ".join(f"{each:.5f}" for each in score),
        "test_patients": " ".join(map(str, np.unique(patients, return_inverse=True)[1])),
    }
    print(f"{name} ({how}): AUC {row['auc']}\n{point}\n", flush=True)
    return row


def held_out(shared: Path, store: Path, backbone: str, *, tuned: bool) -> list[dict[str, Any]]:
    X, y, patients = chest(shared)
    tables = tables_of(shared)
    develop, test = grouped_train_test_split(
        np.arange(len(y)), stratify=y, groups=patients, test_size=0.3, random_state=0
    )
    models = cheap_models(shared, store)
    if tuned:
        models["fine-tuned"] = FineTuneClassifier(
            backbone,
            weights=weights_of(shared, backbone),
            cache=store,
            random_state=0,
            **LAST_STAGE,
        )
    rows = []
    for name, model in models.items():
        inputs = tables.get(name, X)
        ways = {"five folds": cross_fitted, "one fit": from_one_fit}
        if name == "fine-tuned":
            del ways["five folds"]  # thirty fits
        for how, fit in ways.items():
            clf = fit(model, inputs[develop], y[develop], patients[develop])
            rows.append(judged(name, how, clf, inputs[test], y[test], patients[test]))
    return rows


def repeated(shared: Path, store: Path, repeats: int) -> dict[str, Any]:
    """The extractor's guarantee over several draws of the held-out patients."""
    X, y, patients = chest(shared)
    found: dict[str, list[float]] = {"patients": [], "images": [], "specificity": []}
    for seed in range(repeats):
        develop, test = grouped_train_test_split(
            np.arange(len(y)), stratify=y, groups=patients, test_size=0.3, random_state=seed
        )
        model = cheap_models(shared, store)["extractor"]
        clf = cross_fitted(model, X[develop], y[develop], patients[develop])
        score = clf.predict_proba(X[test])[:, 1]
        point = operating_point(y[test], score, clf.threshold_, groups=patients[test])
        assert point.group_sensitivity is not None
        found["patients"].append(point.group_sensitivity.estimate)
        found["images"].append(point.sensitivity.estimate)
        found["specificity"].append(point.specificity.estimate)
    return {name: {"mean": float(np.mean(v)), "values": v} for name, v in found.items()}


def draw(rows: list[dict[str, Any]], folder: Path) -> None:
    """The figures of the user guide."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from sktransfer.metrics import (
        CalibrationIntervalDisplay,
        DecisionCurveDisplay,
        ReaderStudyDisplay,
        ScoreDistributionDisplay,
    )

    best = rows[-1]
    y, score, patients = (
        np.array(best[f"test_{what}"].split(), dtype=kind)
        for what, kind in (("labels", int), ("scores", float), ("patients", int))
    )
    figure, axes = plt.subplots(2, 2, figsize=(10, 9), layout="constrained")
    axes = axes.ravel()
    ReaderStudyDisplay.from_predictions(
        y, score, threshold=best["threshold"], groups=patients, name=best["model"], ax=axes[0]
    )
    CalibrationIntervalDisplay.from_predictions(
        y, score, groups=patients, name=best["model"], ax=axes[1]
    )
    DecisionCurveDisplay.from_predictions(y, score, name=best["model"], ax=axes[2])
    ScoreDistributionDisplay.from_predictions(
        y, score, threshold=best["threshold"], groups=patients, ax=axes[3]
    )
    figure.savefig(folder / "operating_point_chest.png", dpi=80)


def interval(value: Any, digits: int = 3) -> str:
    if value is None:
        return "-"
    estimate, low, high = value
    return f"{estimate:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--no-tuning", action="store_true")
    parser.add_argument("--figures", type=Path, help="draw what was measured into this folder")
    parser.add_argument("--results", type=Path, help="folder of the JSON file")
    args = parser.parse_args()
    if args.figures is not None:
        content = json.loads(((args.results or RESULTS) / "operating_point.json").read_text())
        draw(content["rows"], args.figures)
        return
    shared = shared_with_weights()
    sklearn.set_config(enable_metadata_routing=True)
    description, neighbors = machine(), Neighbors()
    with workspace() as folder:
        rows = held_out(shared, folder / "store", args.backbone, tuned=not args.no_tuning)
        several = repeated(shared, folder / "store", args.repeats) if args.repeats else None
    print_table(
        f"Sensitivity {TARGET} guaranteed; on held-out patients",
        ("model", "scores from", "ROC AUC", "sensitivity", "patients", "specificity", "slope"),
        [
            (
                row["model"],
                row["how"],
                interval(row["auc"]),
                interval(row["sensitivity"]),
                interval(row["patient_sensitivity"]),
                interval(row["specificity"]),
                interval(row["slope"], 2),
            )
            for row in rows
        ],
    )
    if several is not None:
        shares = ", ".join(f"{name} {number(each['mean'])}" for name, each in several.items())
        print(f"Extractor, mean of {args.repeats} draws of the held-out patients: {shares}")
    content = {
        "machine": description,
        "others_share": neighbors.share(),
        "rows": rows,
        "repeated": several,
    }
    write_json("operating_point", content, args.results)


if __name__ == "__main__":
    main()
