"""How well numbers and grades are found in images whose answer is known, and patients' age.

    python benchmarks/numbers_and_grades.py [--seeds 10] [--n 600]

Needs the shared data and weights (``SKTRANSFER_TEST_SHARED``). Synthetic images: smooth noise of
some brightness with 0 to 12 bright marks. The brightness, the number of marks, and a grade of 1 to
5 that is the number of marks plus noise, cut at its quintiles, are predicted by a frozen network.
Then the age of the patients of the chest X-rays of whom it is known, which are few.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _common import Neighbors, machine, print_table, shared_with_weights, workspace, write_json
from finetune import weights_of
from scipy.ndimage import gaussian_filter
from scipy.stats import t as student
from sklearn.metrics import cohen_kappa_score, mean_absolute_error
from sklearn.model_selection import GroupKFold, train_test_split

from sktransfer import FineTuneClassifier, FineTuneRegressor

NETWORKS = ("efficientnet_lite0", "resnet18")
SIDE, N_GRADES = 96, 5


def synthetic(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, their mean brightness in gray levels, and the number of marks in each."""
    rng = np.random.default_rng(seed)
    images, marks = np.empty((n, SIDE, SIDE), dtype=np.uint8), rng.integers(0, 13, n)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for image, count in zip(images, marks, strict=True):
        smooth = gaussian_filter(rng.normal(size=(SIDE, SIDE)), rng.uniform(2, 8))
        values = rng.uniform(50, 140) + 12 * smooth / smooth.std()
        for y, x in rng.permutation(np.argwhere(np.ones((6, 6))))[:count] * 16 + 8:
            y, x = (y, x) + rng.integers(-3, 4, 2)
            values[(rows - y) ** 2 + (columns - x) ** 2 <= rng.uniform(2, 4) ** 2] += 60
        image[:] = values.clip(0, 255)
    return images, images.mean(axis=(1, 2)), marks


def settings(shared: Path, network: str, store: Path) -> dict[str, Any]:
    weights = {} if network == "efficientnet_lite0" else {"weights": weights_of(shared, network)}
    return {"backbone": network, "freeze_depth": "all", "cache": store, "random_state": 0} | weights


def found(params: dict[str, Any], X: np.ndarray, y: np.ndarray, seeds: int) -> dict[str, float]:
    """Mean absolute error on a third of the images, and that of predicting the mean."""
    errors, baseline, r2 = [], [], []
    for seed in range(seeds):
        train, test = train_test_split(np.arange(len(y)), test_size=1 / 3, random_state=seed)
        reg = FineTuneRegressor(**params).fit(X[train], y[train])
        errors.append(mean_absolute_error(y[test], reg.predict(X[test])))
        baseline.append(np.abs(y[test] - y[train].mean()).mean())
        r2.append(reg.score(X[test], y[test]))
    means = {"error": errors, "baseline": baseline, "r2": r2}
    return {name: float(np.mean(each)) for name, each in means.items()}


def graded(
    params: dict[str, Any], X: np.ndarray, marks: np.ndarray, seeds: int, n_train: int
) -> dict[str, list[float]]:
    """Quadratic kappa of grades by ordinal and plain heads, and by three ways to decide."""
    scores: dict[str, list[float]] = {}
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        noisy = marks + rng.logistic(0, 0.8, len(marks))
        y = np.digitize(noisy, np.quantile(noisy, np.arange(1, N_GRADES) / N_GRADES))
        order = rng.permutation(len(y))
        train, test = order[:n_train], order[n_train:]
        for loss in ("cumulative_link", "cross_entropy"):
            clf = FineTuneClassifier(**params, loss=loss).fit(X[train], y[train])
            p = clf.predict_proba(X[test])
            decided = {
                "likeliest": clf.predict(X[test]),
                "median": (p.cumsum(axis=1) < 0.5).sum(axis=1),
                "mean": (p @ np.arange(N_GRADES)).round().astype(int),
            }
            for how, grades in decided.items():
                kappa = cohen_kappa_score(y[test], grades, weights="quadratic")
                scores.setdefault(f"{loss}, {how}", []).append(kappa)
    return scores


def mean_interval(values: Any) -> list[float]:
    """The mean and its 95 % interval by Student's t."""
    values = np.asarray(values)
    half = student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return [float(values.mean()), float(values.mean() - half), float(values.mean() + half)]


def ages(params: dict[str, Any], shared: Path, seeds: int) -> dict[str, Any]:
    """Mean absolute error of patients' age in years, against predicting the mean."""
    folder = shared / "data" / "chest_xray_pneumonia"
    table = pd.read_csv(folder / "metadata.csv", dtype={"patient_id": str})
    table = table[table["age"].notna()]
    X = np.array([str(folder / name) for name in table["file"]], dtype=object)
    y, patients = table["age"].to_numpy(float), table["patient_id"].to_numpy()
    errors, baseline = [], []
    for seed in range(seeds):
        own, mean = np.empty(len(y)), np.empty(len(y))
        for train, test in GroupKFold(5, shuffle=True, random_state=seed).split(X, y, patients):
            reg = FineTuneRegressor(**params).fit(X[train], y[train], groups=patients[train])
            own[test], mean[test] = reg.predict(X[test]), y[train].mean()
        errors.append(np.abs(y - own))
        baseline.append(np.abs(y - mean))
    gain = np.mean(errors, axis=0) - np.mean(baseline, axis=0)
    by_patient = pd.Series(gain).groupby(patients).mean()
    return {
        "images": len(y),
        "patients": int(table["patient_id"].nunique()),
        "error": float(np.mean(errors)),
        "baseline": float(np.mean(baseline)),
        "difference": mean_interval(by_patient),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--n", type=int, default=600, help="synthetic images")
    parser.add_argument("--results", type=Path, help="folder of the JSON file")
    args = parser.parse_args()
    shared = shared_with_weights()
    warnings.simplefilter("ignore")
    description, neighbors = machine(), Neighbors()
    X, brightness, marks = synthetic(args.n)
    content: dict[str, Any] = {"n": args.n, "seeds": args.seeds, "numbers": {}, "grades": {}}
    content["age"] = {}
    with workspace() as folder:
        for network in NETWORKS:
            params = settings(shared, network, folder / "store")
            content["numbers"][network] = {
                "brightness": found(params, X, brightness, min(3, args.seeds)),
                "marks": found(params, X, marks, min(3, args.seeds)),
            }
            kappas = graded(params, X, marks, args.seeds, n_train=args.n // 3)
            own = content["grades"][network] = {
                name: mean_interval(each) for name, each in kappas.items()
            }
            for how in ("likeliest", "mean"):
                pair = [
                    np.array(kappas[f"{loss}, {how}"])
                    for loss in ("cumulative_link", "cross_entropy")
                ]
                own[f"difference, {how}"] = mean_interval(pair[0] - pair[1])
            content["age"][network] = ages(params, shared, min(3, args.seeds))
            print(network, content["numbers"][network], own, content["age"][network], flush=True)
    rows = [
        (network, what, f"{row['error']:.2f}", f"{row['baseline']:.2f}")
        for network, own in content["numbers"].items()
        for what, row in own.items()
    ]
    print_table("numbers", ("network", "", "error", "of the mean"), rows)
    write_json(
        "numbers_and_grades",
        {"machine": description, "others_share": neighbors.share(), **content},
        args.results,
    )


if __name__ == "__main__":
    main()
