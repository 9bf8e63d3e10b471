"""What under- and oversampling, SMOTE and class weights do to ranking and to calibration.

    python benchmarks/imbalance.py [--repeats 10] [--rate 0.08]

Needs the shared data and weights (``SKTRANSFER_TEST_SHARED``). Chest X-rays with most of the
patients with pneumonia left out, so that it is rare; grouped by patient. Test images are as rare.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _common import (
    Neighbors,
    machine,
    print_table,
    shared_with_weights,
    workspace,
    write_json,
)
from finetune import chest, weights_of
from imblearn.over_sampling import SMOTE, RandomOverSampler
from imblearn.pipeline import make_pipeline
from imblearn.under_sampling import RandomUnderSampler
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler

from sktransfer import PretrainedFeatureExtractor
from sktransfer.metrics import (
    calibration_intercept,
    calibration_slope,
    operating_point,
    specificity_at_sensitivity,
)


def models(extractor: Any, seed: int) -> dict[str, Any]:
    """The same pipeline, imbalance treated in five ways; samplers see paths or features."""
    scale = StandardScaler()

    def classifier(**settings: Any) -> Any:
        return LogisticRegression(C=0.001, max_iter=2000, **settings)

    return {
        "nothing": make_pipeline(extractor, scale, classifier()),
        "class_weight='balanced'": make_pipeline(
            extractor, scale, classifier(class_weight="balanced")
        ),
        "RandomUnderSampler, extractor": make_pipeline(
            RandomUnderSampler(random_state=seed), extractor, scale, classifier()
        ),
        "RandomOverSampler, extractor": make_pipeline(
            RandomOverSampler(random_state=seed), extractor, scale, classifier()
        ),
        "extractor, SMOTE": make_pipeline(extractor, scale, SMOTE(random_state=seed), classifier()),
    }


def thinned(y: np.ndarray, patients: np.ndarray, rate: float, seed: int) -> np.ndarray:
    """Rows left when patients' positive images are dropped until these are ``rate`` of all."""
    rng = np.random.default_rng(seed)
    ill = rng.permutation(np.unique(patients[y == 1]))
    keep = np.ones(len(y), dtype=bool)
    for patient in ill:
        if y[keep].mean() <= rate:
            break
        keep &= ~((patients == patient) & (y == 1))
    return np.flatnonzero(keep)


def measure(shared: Path, store: Path, repeats: int, rate: float) -> list[dict[str, Any]]:
    files, y, patients = chest(shared)
    extractor = PretrainedFeatureExtractor(
        "resnet18", weights=weights_of(shared, "resnet18"), cache=store
    )
    found: dict[str, list[dict[str, float]]] = {}
    for seed in range(repeats):
        rows = thinned(y, patients, rate, seed)
        X, labels, groups = pd.DataFrame({"file": files[rows]}), y[rows], patients[rows]
        folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
        for name, model in models(extractor, seed).items():
            score = np.empty(len(labels))
            for train, test in folds.split(X, labels, groups):
                model.fit(X.iloc[train], labels[train])
                score[test] = model.predict_proba(X.iloc[test])[:, 1]
            point = operating_point(labels, score, 0.5)
            found.setdefault(name, []).append(
                {
                    "positive": int(labels.sum()),
                    "rows": len(labels),
                    "auc": float(roc_auc_score(labels, score)),
                    "specificity at sensitivity 0.9": float(
                        specificity_at_sensitivity(labels, score, sensitivity=0.9)
                    ),
                    "mean probability": float(score.mean()),
                    "intercept": calibration_intercept(labels, score).estimate,
                    "slope": calibration_slope(labels, score).estimate,
                    "brier": float(brier_score_loss(labels, score)),
                    "sensitivity at 0.5": point.sensitivity.estimate,
                    "specificity at 0.5": point.specificity.estimate,
                }
            )
        print(f"repeat {seed}: {labels.sum()} of {len(labels)} positive", flush=True)
    return [
        {"case": name, **pd.DataFrame(each).mean().to_dict(), "repeats": each}
        for name, each in found.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--rate", type=float, default=0.08, help="share of positive images")
    parser.add_argument("--results", type=Path, help="folder of the JSON file")
    args = parser.parse_args()
    shared = shared_with_weights()
    warnings.simplefilter("ignore")
    description, neighbors = machine(), Neighbors()
    with workspace() as folder:
        rows = measure(shared, folder / "store", args.repeats, args.rate)
    columns = [name for name in rows[0] if name not in ("case", "repeats", "rows", "positive")]
    print_table(
        f"{rows[0]['positive']:.0f} of {rows[0]['rows']:.0f} images positive",
        ("case", *columns),
        [(row["case"], *(f"{row[name]:.3f}" for name in columns)) for row in rows],
    )
    content = {"machine": description, "others_share": neighbors.share(), "rows": rows}
    write_json("imbalance", content, args.results)


if __name__ == "__main__":
    main()
