"""Simulations of the guarantees of a triage: how often a true rate is above what was stated."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import binom, norm
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression

from sktransfer.model_selection import TriageClassifier

pytestmark = pytest.mark.filterwarnings(
    "ignore:Deciding for:UserWarning", "ignore:This triage is of no use:UserWarning"
)

CONFIDENCE = 0.95
SHIFT = 1.5
# Share of the variance of an image that its patient has.
OWN = 0.6


class Given(ClassifierMixin, BaseEstimator):
    """The scores are the columns of X; two classes have one column."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def decision_function(self, X):
        return np.asarray(X)[:, 0] if np.shape(X)[1] == 1 else np.asarray(X)

    def predict(self, X):
        return self.classes_[(self.decision_function(X) > 0).astype(int)]


def images(rng, n_patients, rate, *, mixed=0.0):
    """One column of scores, of 2 to 5 images for each patient, of which some have both labels."""
    sizes = rng.integers(2, 6, n_patients)
    groups = np.repeat(np.arange(n_patients), sizes)
    y = (rng.random(n_patients) < rate).astype(int)[groups]
    both = (rng.random(n_patients) < mixed)[groups]
    y[both] = rng.integers(0, 2, both.sum())
    noise = np.sqrt(OWN) * rng.normal(size=n_patients)[groups]
    noise += np.sqrt(1 - OWN) * rng.normal(size=len(y))
    return (noise + SHIFT * y)[:, None], y, groups


def of_patients(clf, population):
    """Shares of the patients of each class that have an image which is decided to be otherwise."""
    X, y, groups = population
    decided = clf.predict(X)
    shares = []
    for label in clf.classes_:
        own = y == label
        released = own & (decided != label) & (decided != clf.refer_label_)
        shares.append(len(np.unique(groups[released])) / len(np.unique(groups[own])))
    return shares


def of_rows(clf, weights=None):
    """Shares of new rows, whose scores are normal: X itself, or a linear function of it."""
    low, high = clf.thresholds_[1], -clf.thresholds_[0]
    if weights is None:
        slope, shift = 1.0, SHIFT
        start = 0.0
    else:
        slope, shift = np.linalg.norm(weights[0]), weights[0] @ np.array([SHIFT, 0, 0])
        start = weights[1]
    out, into = (low, high) if low <= high else (max(min(0, low), high),) * 2
    return norm.sf((into - start) / slope), norm.cdf((out - start - shift) / slope)


def broken(case, repeats, seed=0):
    """Return how often the rate of each class was above what was stated, of so many repeats."""
    rng = np.random.default_rng(seed)
    stated = np.array([0.1, 0.05])
    settings = {"max_missed": stated[1], "max_false": stated[0], "confidence_level": CONFIDENCE}
    population = images(rng, 5_000, 0.5, mixed=0.1 if "mixed" in case else 0)
    prefit = TriageClassifier(Given().fit([[0]] * 2, [0, 1]), cv="prefit", **settings)
    count = np.zeros(2)
    for _ in range(repeats):
        if case == "rows":
            y = (rng.random(500) < 0.3).astype(int)
            rates = of_rows(prefit.fit((rng.normal(size=500) + SHIFT * y)[:, None], y))
        elif case == "folds":
            y = (rng.random(400) < 0.3).astype(int)
            X = rng.normal(size=(400, 3)) + y[:, None] * np.array([SHIFT, 0, 0])
            clf = TriageClassifier(
                LogisticRegression(), response_method="decision_function", **settings
            ).fit(X, y)
            rates = of_rows(clf, (clf.estimator_.coef_[0], clf.estimator_.intercept_[0]))
        else:
            X, y, groups = images(rng, 250, 0.4, mixed=0.1 if "mixed" in case else 0)
            rates = of_patients(prefit.fit(X, y, groups=groups), population)
        count += np.asarray(rates) > stated
    return count


def limit(repeats):
    """Return what chance exceeds once in ten thousand repeats where the guarantee is just kept."""
    return binom.ppf(1 - 1e-4, repeats, 1 - CONFIDENCE)


@pytest.mark.parametrize(
    ("case", "repeats"), [("rows", 100), ("folds", 40), ("patients", 50), ("mixed patients", 50)]
)
def test_each_guarantee_is_kept(case, repeats):
    assert (broken(case, repeats) <= limit(repeats)).all()


@pytest.mark.slow
@pytest.mark.parametrize("case", ["rows", "folds", "patients", "mixed patients"])
def test_each_guarantee_is_kept_over_1000_repeats(case):
    assert (broken(case, 1000, seed=1) <= limit(1000)).all()


def three(rng, n):
    """Probabilities of three classes, one of them common."""
    y = rng.choice(3, n, p=[0.15, 0.15, 0.7])
    return softmax(rng.normal(size=(n, 3)) + 1.5 * np.eye(3)[y], axis=1), y


def test_rates_of_named_classes_are_kept_at_once():
    rng = np.random.default_rng(0)
    X_all, y_all = three(rng, 20_000)
    fitted = Given().fit(np.zeros((3, 3)), [0, 1, 2])
    clf = TriageClassifier(fitted, cv="prefit", max_missed={0: 0.1, 1: 0.1}, max_false=None)
    any_broken = 0
    for _ in range(100):
        decided = clf.fit(*three(rng, 600)).predict(X_all)
        rates = [
            np.isin(decided[y_all == k], [each for each in range(3) if each != k]).mean()
            for k in (0, 1)
        ]
        any_broken += max(rates) > 0.1
    assert any_broken <= limit(100)


def test_point_estimates_and_rows_for_patients_guarantee_nothing():
    """The simulation notices a triage that guarantees nothing."""
    rng = np.random.default_rng(0)
    population = images(rng, 5_000, 0.5)
    fitted = Given().fit([[0]] * 2, [0, 1])
    rates = {"max_missed": 0.05, "max_false": 0.1, "cv": "prefit"}
    plain = TriageClassifier(fitted, **rates)
    point = TriageClassifier(fitted, confidence_level=None, **rates)
    counts = np.zeros((2, 2))
    for _ in range(40):
        X, y, groups = images(rng, 250, 0.4)
        found = plain.fit(X, y), point.fit(X, y, groups=groups)
        counts += np.array([of_patients(clf, population) for clf in found]) > [0.1, 0.05]
    assert (counts > limit(40)).all()
