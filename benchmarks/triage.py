"""How often each guarantee of a triage is broken, and how many chest X-rays are referred.

    python benchmarks/triage.py [--repeats 1000] [--draws 50]

Simulated scores have known truth: a repeat breaks the guarantee of a class where the true share of
the class that is released is above what was stated. Marginal conformal sets at the same level, of
which those with one class decide, are what triage is usually built on. The X-rays need the shared
data and weights (``SKTRANSFER_TEST_SHARED``); three tenths of their patients are held out, again
and again.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from _common import Neighbors, machine, print_table, shared_with_weights, workspace, write_json
from _tasks import extractors, xrays
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer.metrics import rate_interval
from sktransfer.model_selection import TriageClassifier, grouped_train_test_split

CONFIDENCE = 0.95
# Shares of the healthy and of the diseased that may be released, where nothing else is said.
STATED = np.array([0.05, 0.02])
SHIFT, PREVALENCE = 2.0, 0.2
# Share of the variance of an image that its patient has.
OWN = 0.6
NETWORKS = ("efficientnet_lite0", "resnet18")


class Bayes(ClassifierMixin, BaseEstimator):
    """The probabilities are exact: those of normal scores of known means."""

    def __init__(self, prior: Any = (1 - PREVALENCE, PREVALENCE)) -> None:
        self.prior = prior

    def fit(self, X: Any, y: Any) -> Bayes:
        self.classes_ = np.arange(len(self.prior))
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        X = np.asarray(X)
        if len(self.prior) == 2:
            X = np.column_stack([np.zeros(len(X)), SHIFT * X[:, 0] - SHIFT**2 / 2])
        else:
            X = SHIFT * X - SHIFT**2 / 2
        return softmax(X + np.log(self.prior), axis=1)


def rows(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One image a patient, of which the first of four numbers tells."""
    y = (rng.random(n) < PREVALENCE).astype(int)
    X = rng.normal(size=(n, 4))
    X[:, 0] += SHIFT * y
    return X, y, np.arange(n)


def patients(
    rng: np.random.Generator, n: int, mixed: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two to five images of each patient, alike; some patients have images of both labels."""
    groups = np.repeat(np.arange(n), rng.integers(2, 6, n))
    y = (rng.random(n) < PREVALENCE).astype(int)[groups]
    both = (rng.random(n) < mixed)[groups]
    y[both] = rng.integers(0, 2, both.sum())
    X = np.sqrt(OWN) * rng.normal(size=(n, 4))[groups]
    X += np.sqrt(1 - OWN) * rng.normal(size=X.shape)
    X[:, 0] += SHIFT * y
    return X, y, groups


def three(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three classes, of which two are rare."""
    y = rng.choice(3, n, p=(0.1, 0.15, 0.75))
    return rng.normal(size=(n, 3)) + SHIFT * np.eye(3)[y], y, np.arange(n)


def stepped(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores that are mostly ties."""
    X, y, groups = rows(rng, n)
    return X.round(), y, groups


def mixed(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return patients(rng, n, mixed=0.1)


def released(
    decided: np.ndarray, y: np.ndarray, groups: np.ndarray, classes: np.ndarray
) -> np.ndarray:
    """Share of the patients of each class with an image that was decided to be of another."""
    wrong = (decided != y) & (decided != -1)
    shares = []
    for label in classes:
        of_class = np.bincount(groups, weights=y == label) > 0
        of_wrong = np.bincount(groups, weights=(y == label) & wrong) > 0
        shares.append(of_wrong.sum() / of_class.sum())
    return np.array(shares)


def marginal_threshold(proba: np.ndarray, y: np.ndarray, level: float) -> float:
    """Split conformal: sets of classes with at least this probability miss ``level`` of rows."""
    own = np.sort(proba[np.arange(len(y)), y])
    return float(own[max(int(np.floor(level * (len(y) + 1))) - 1, 0)])


def marginal(proba: np.ndarray, threshold: float) -> np.ndarray:
    """Decide the rows whose conformal set has one class."""
    possible = proba >= threshold
    return np.where(possible.sum(axis=1) == 1, possible.argmax(axis=1), -1)


SETTINGS: dict[str, dict[str, Any]] = {
    "one image a patient, fitted before": {"draw": rows, "n": 1000},
    "one image a patient, five folds": {"draw": rows, "n": 1000, "folds": True},
    "two to five images a patient, fitted before": {"draw": patients, "n": 1000},
    "two to five images a patient, five folds": {"draw": patients, "n": 1000, "folds": True},
    "a tenth of the patients with both labels, fitted before": {"draw": mixed, "n": 1000},
    "scores in steps, fitted before": {"draw": stepped, "n": 1000},
    "two rare classes of three at once, fitted before": {"draw": three, "n": 1500},
}


class Quiet(TriageClassifier):
    """The same, but for warnings of no use, which take half of the time of a fit."""

    def _warn_of_no_use(self, *args: Any) -> None:
        """Warn of nothing."""


def classifier(name: str) -> TriageClassifier:
    given = SETTINGS[name]
    rates: dict[str, Any] = {"max_false": STATED[0], "max_missed": STATED[1]}
    prior: tuple[float, ...] = (1 - PREVALENCE, PREVALENCE)
    if given["draw"] is three:
        rates, prior = {"max_missed": {0: 0.05, 1: 0.05}, "max_false": None}, (0.1, 0.15, 0.75)
    if "folds" in given:
        model = LogisticRegression(C=1.0)
        cv = GroupKFold(5) if given["draw"] is patients else 5
        return Quiet(model, cv=cv, confidence_level=CONFIDENCE, **rates)
    fitted = Bayes(prior).fit(None, None)
    return Quiet(fitted, cv="prefit", confidence_level=CONFIDENCE, **rates)


def simulate(name: str, repeats: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    draw, n = SETTINGS[name]["draw"], SETTINGS[name]["n"]
    X_all, y_all, groups_all = draw(rng, 20_000)
    clf, start = classifier(name), time.perf_counter()
    found: dict[str, list[Any]] = {"released": [], "referred": [], "conformal": [], "stated": []}
    for _ in range(repeats):
        X, y, groups = draw(rng, n)
        clf.fit(X, y, groups=groups)
        decided = clf.predict(X_all)
        classes = clf.classes_
        stated = clf.triage_["max_released"].to_numpy()
        found["stated"].append(stated)
        found["released"].append(released(decided, y_all, groups_all, classes))
        found["referred"].append(float(np.mean(decided == -1)))
        if clf.cv == "prefit":
            level = float(np.nanmax(stated))
            threshold = marginal_threshold(clf.predict_proba(X), y, level)
            sets = marginal(clf.predict_proba(X_all), threshold)
            found["conformal"].append(released(sets, y_all, groups_all, classes))
    stated = np.array(found["stated"][0])
    share = np.array(found["released"])
    kept = ~np.isnan(stated)
    row: dict[str, Any] = {
        "case": name,
        "repeats": repeats,
        "stated": [None if np.isnan(each) else float(each) for each in stated],
        "broken": [
            rate_interval(int((share[:, k] > stated[k]).sum()), repeats) if kept[k] else None
            for k in range(len(stated))
        ],
        "any_broken": rate_interval(
            int((share[:, kept] > stated[kept]).any(axis=1).sum()), repeats
        ),
        "released": share.mean(axis=0).tolist(),
        "referred": float(np.mean(found["referred"])),
        "seconds": time.perf_counter() - start,
    }
    if found["conformal"]:
        sets = np.array(found["conformal"])
        level = np.nanmax(stated)
        row["conformal"] = {
            "level": float(level),
            "broken": [float((own > level).mean()) for own in sets.T],
            "released": sets.mean(axis=0).tolist(),
        }
    return row


def on_xrays(F: np.ndarray, y: np.ndarray, who: np.ndarray, draws: int) -> list[dict[str, Any]]:
    """Triage and marginal sets over several draws of the held-out patients."""
    found = []
    for max_missed, rare in ((0.02, False), (0.05, False), (0.05, True)):
        rates = {"max_missed": max_missed, "max_false": 0.05}
        own = [_one_draw(F, y, who, seed, rates, rare) for seed in range(draws)]
        mean = {name: np.mean([each[name] for each in own], axis=0).tolist() for name in own[0]}
        spread = np.quantile([each["referred"] for each in own], [0.025, 0.975]).tolist()
        cohort = "a third of the diseased" if rare else "all patients"
        found.append({**rates, "cohort": cohort, **mean, "referred_spread": spread})
        print(found[-1], flush=True)
    return found


def _one_draw(
    F: np.ndarray, y: np.ndarray, who: np.ndarray, seed: int, rates: dict[str, float], rare: bool
) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    if rare:
        diseased = np.unique(who[y == 1])
        gone = rng.permutation(diseased)[len(diseased) // 3 :]
        keep = ~(np.isin(who, gone) & (y == 1))
        F, y, who = F[keep], y[keep], who[keep]
    develop, test = grouped_train_test_split(
        np.arange(len(y)), stratify=y, groups=who, test_size=0.3, random_state=seed
    )
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.001, max_iter=2000))
    folds = StratifiedGroupKFold(5)
    clf = TriageClassifier(model, cv=folds, **rates)
    clf.fit(F[develop], y[develop], groups=who[develop])
    proba = cross_val_predict(
        model, F[develop], y[develop], groups=who[develop], cv=folds, method="predict_proba"
    )
    level = rates["max_missed"]
    sets = marginal(
        model.fit(F[develop], y[develop]).predict_proba(F[test]),
        marginal_threshold(proba, y[develop], level),
    )
    decided = clf.predict(F[test])
    return {
        "diseased_patients": len(np.unique(who[develop][y[develop] == 1])),
        "referred": float(np.mean(decided == -1)),
        "released": released(decided, y[test], who[test], np.arange(2)),
        "conformal_referred": float(np.mean(sets == -1)),
        "conformal_released": released(sets, y[test], who[test], np.arange(2)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=50)
    parser.add_argument("--results", type=Path, help="folder of the JSON file")
    args = parser.parse_args()
    shared = shared_with_weights()
    warnings.simplefilter("ignore")
    description, neighbors = machine(), Neighbors()
    chest = xrays(shared)
    who = np.unique(chest.groups, return_inverse=True)[1]
    found = {}
    with workspace() as folder:
        given = extractors(shared, cache=folder / "store")
        for network in NETWORKS:
            F = given[network].fit_transform(chest.X)
            found[network] = on_xrays(np.asarray(F), chest.y, who, args.draws)
    simulated = []
    for name in SETTINGS:
        simulated.append(simulate(name, args.repeats))
        print(simulated[-1], flush=True)
    print_table(
        "How often a guarantee was broken",
        ("case", "broken, each class", "referred"),
        [
            (
                row["case"],
                ", ".join("-" if each is None else f"{each[0]:.3f}" for each in row["broken"]),
                f"{row['referred']:.3f}",
            )
            for row in simulated
        ],
    )
    content = {"machine": description, "others_share": neighbors.share(), "n": args.repeats}
    write_json("triage", {**content, "simulated": simulated, "xrays": found}, args.results)


if __name__ == "__main__":
    main()
