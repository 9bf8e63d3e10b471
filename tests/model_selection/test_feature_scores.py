"""Scores of features against published figures, definitions, refits and invariances."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg, optimize, stats
from sklearn import metrics
from sklearn.covariance import ledoit_wolf
from sklearn.cross_decomposition import CCA
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.model_selection import LeaveOneGroupOut, LeaveOneOut, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from sktransfer._scoring.features import check_labeled, ridge_decisions, standardized
from sktransfer.model_selection import _feature_scores as feature_scores
from sktransfer.model_selection import (
    h_score,
    knn_score,
    leep_score,
    logme_score,
    loo_ridge_score,
    nce_score,
)


def loo_ridge_decisions(F, y, *, groups=None, **params):
    return ridge_decisions(check_labeled(F, y, groups), **params)


def knn_decisions(F, y, *, groups=None, **params):
    return feature_scores.knn_decisions(check_labeled(F, y, groups), **params)


def load(name):
    """Features as the figures below were measured on: standardized, digits divided by 16."""
    loaders = {
        "iris": load_iris,
        "wine": load_wine,
        "breast_cancer": load_breast_cancer,
        "digits": load_digits,
    }
    F, y = loaders[name](return_X_y=True)
    return (F / 16 if name == "digits" else StandardScaler().fit_transform(F)), y


# From the authors' own code (LogME: tllib and the published iteration, where it is right).
PUBLISHED = {
    "iris": (-0.639151, 1.19189883, 1.17294793, 0.946667, -1.09454562),
    "wine": (-0.537707, 1.70582080, 1.67260030, 0.955056, -1.08108542),
    "breast_cancer": (-0.852145, 0.77432465, 0.75529712, 0.950791, -0.65894805),
    "digits": (0.270278, 5.91790934, 5.85143300, 0.988314, -2.29872852),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_figures(name):
    F, y = load(name)
    logme, plain, regularized, neighbor, leep = PUBLISHED[name]
    assert logme_score(F, y) == pytest.approx(logme, abs=1e-6)
    assert h_score(F, y, regularized=False) == pytest.approx(plain, abs=1e-8)
    assert h_score(F, y) == pytest.approx(regularized, abs=1e-8)
    options = {"n_neighbors": 1, "metric": "euclidean", "standardize": False}
    assert knn_score(F, y, **options) == pytest.approx(neighbor, abs=1e-6)
    source = np.arange(len(y)) % 4
    theta = LogisticRegression(max_iter=2000).fit(F, source).predict_proba(F)
    assert leep_score(theta, y) == pytest.approx(leep, abs=1e-4)


# --- H-score -------------------------------------------------------------------------------------


def test_plain_h_score_is_pillais_trace_and_the_canonical_correlations():
    F, y = load_iris(return_X_y=True)
    means = np.array([F[y == c].mean(0) for c in range(3)])
    between = 50 * (means - F.mean(0)).T @ (means - F.mean(0))
    total = (F - F.mean(0)).T @ (F - F.mean(0))
    pillai = np.trace(linalg.solve(total, between))
    assert h_score(F, y, regularized=False) == pytest.approx(pillai, abs=1e-10)
    assert round(pillai, 4) == 1.1919
    onehot = np.eye(3)[y][:, :2]
    cca = CCA(n_components=2, max_iter=5000, tol=1e-12).fit(F, onehot)
    a, b = cca.transform(F, onehot)
    squared = sum(np.corrcoef(a[:, i], b[:, i])[0, 1] ** 2 for i in range(2))
    assert h_score(F, y, regularized=False) == pytest.approx(squared, abs=1e-6)


@pytest.mark.parametrize("shape", [(120, 30), (40, 90)])
def test_regularized_h_score_is_its_definition(shape):
    rng = np.random.default_rng(0)
    F, y = rng.normal(size=shape) * rng.uniform(0.1, 3, shape[1]), rng.integers(3, size=shape[0])
    covariance, shrinkage = ledoit_wolf(F)
    means = np.array([F[y == c].mean(0) for c in range(3)])[y]
    expected = (1 - shrinkage) * np.trace(np.linalg.solve(covariance, np.cov(means.T)))
    assert h_score(F, y) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_one_column_is_not_shrunk(seed):
    """Ledoit and Wolf have nothing to shrink there; rounding decided between 0 and 1."""
    rng = np.random.default_rng(seed)
    F = rng.normal(size=(40, 1))
    y = (F[:, 0] > 0).astype(int)
    plain = h_score(F, y, regularized=False)
    correlation = np.corrcoef(F[:, 0], y)[0, 1]
    assert plain == pytest.approx(correlation**2, abs=1e-12)
    assert h_score(F, y) == pytest.approx(plain * 40 / 39, abs=1e-12)  # ddof of 1 between classes


def test_plain_h_score_is_constant_with_more_columns_than_rows():
    rng = np.random.default_rng(0)
    F, y = rng.normal(size=(60, 80)), rng.integers(3, size=60)
    assert h_score(F, y, regularized=False) == pytest.approx(2, abs=1e-9)
    assert h_score(F, y) < 0.5
    F, y = load_digits(return_X_y=True)
    null = np.mean([h_score(F, rng.permutation(y), regularized=False) for _ in range(5)])
    assert null == pytest.approx(9 * 61 / 1796, rel=0.1)  # 61 columns vary


# --- LogME ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(60, 8), (25, 60), (50, 200)])
def test_logme_is_the_maximum_of_the_evidence(shape):
    rng = np.random.default_rng(1)
    n = shape[0]
    F = rng.normal(size=shape)
    y = (F[:, 0] + 0.5 * rng.normal(size=n) > 0).astype(int)

    def negative(logs, t):
        a, b = np.exp(logs)
        return -stats.multivariate_normal(np.zeros(n), F @ F.T / a + np.eye(n) / b).logpdf(t)

    expected = []
    for t in (y == 0, y == 1):
        starts = [(0.0, 0.0), (3.0, 1.0), (-2.0, 3.0)]
        runs = [
            optimize.minimize(
                negative,
                start,
                (t.astype(float),),
                "Nelder-Mead",
                tol=1e-12,
                bounds=[(-12, 12)] * 2,
            ).fun
            for start in starts
        ]
        expected.append(-min(runs) / n)
    assert logme_score(F, y) == pytest.approx(np.mean(expected), abs=1e-6)


def test_logme_with_fewer_rows_than_columns_has_the_term_that_the_authors_code_misses():
    """The published iteration forgets (d - rank)/2 log a: 8.81 for such data, not about -1."""
    rng = np.random.default_rng(0)
    F, y = rng.normal(size=(50, 200)), rng.integers(2, size=50)
    score = logme_score(F, y)
    assert -1.2 < score < -0.9
    wide = np.hstack([F, np.zeros((50, 300))])  # columns of nothing change nothing
    assert logme_score(wide, y) == pytest.approx(score, abs=1e-9)


# --- leave-one-out ridge -------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(30, 5), (20, 40)])
def test_loo_ridge_is_refitting_without_each_row(shape):
    rng = np.random.default_rng(0)
    F, y = rng.normal(size=shape), rng.integers(3, size=shape[0])
    target = 2 * np.eye(3)[y] - 1
    refits = cross_val_predict(Ridge(alpha=2.5), F, target, cv=LeaveOneOut())
    decisions = loo_ridge_decisions(F, y, alpha=2.5, standardize=False)
    np.testing.assert_allclose(decisions, refits, atol=1e-12)
    scaled = StandardScaler().fit_transform(F)
    np.testing.assert_allclose(
        loo_ridge_decisions(F, y, alpha=2.5),
        cross_val_predict(Ridge(alpha=2.5), scaled, target, cv=LeaveOneOut()),
        atol=1e-12,
    )


def test_grouped_loo_ridge_is_refitting_without_each_group():
    rng = np.random.default_rng(0)
    F, y, groups = rng.normal(size=(40, 60)), rng.integers(2, size=40), rng.integers(9, size=40)
    target = 2 * np.eye(2)[y] - 1
    refits = cross_val_predict(Ridge(alpha=3.0), F, target, groups=groups, cv=LeaveOneGroupOut())
    decisions = loo_ridge_decisions(F, y, alpha=3.0, groups=groups, standardize=False)
    np.testing.assert_allclose(decisions, refits, atol=1e-11)


def test_loo_ridge_score_is_the_accuracy_of_scikit_learns_classifier():
    F, y = load("wine")
    predicted = cross_val_predict(RidgeClassifier(alpha=10.0), F, y, cv=LeaveOneOut())
    assert loo_ridge_score(F, y, alpha=10.0) == np.mean(predicted == y)
    assert loo_ridge_score(F, y) >= 0.97
    assert loo_ridge_score(F, y, scoring="roc_auc") > 0.99


def test_repeated_patients_do_not_raise_grouped_scores():
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(40), 5)
    labels = rng.integers(2, size=40)[patients]  # of the patient, and nothing in F tells it
    F = rng.normal(size=(40, 200))[patients] + 0.05 * rng.normal(size=(200, 200))
    assert loo_ridge_score(F, labels) > 0.95
    assert knn_score(F, labels, n_neighbors=3) > 0.95
    assert loo_ridge_score(F, labels, groups=patients) < 0.7
    assert knn_score(F, labels, n_neighbors=3, groups=patients) < 0.7


def test_leave_one_out_of_uninformative_features_is_below_chance():
    """As documented: without a row, its class is rarer, and that is all there is to go by."""
    F, y = np.ones((20, 3)), np.arange(20) % 2
    assert loo_ridge_score(F, y) == 0
    refits = cross_val_predict(RidgeClassifier(), F, y, cv=LeaveOneOut())
    assert np.mean(refits == y) == 0


# --- neighbors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_neighbors_are_scikit_learns(metric):
    rng = np.random.default_rng(0)
    F, y = rng.normal(size=(1100, 6)), rng.integers(2, size=1100)
    theirs = cross_val_predict(
        KNeighborsClassifier(3, metric=metric, algorithm="brute"),
        F[:150],
        y[:150],
        cv=LeaveOneOut(),
    )
    decisions = knn_decisions(F[:150], y[:150], n_neighbors=3, metric=metric, standardize=False)
    np.testing.assert_array_equal(decisions.argmax(1), theirs)
    assert knn_decisions(F, y).shape == (1100, 2)  # more rows than a block


# --- LEEP and NCE --------------------------------------------------------------------------------


def test_leep_of_certain_classes_is_nce_and_never_positive():
    rng = np.random.default_rng(0)
    z, y = rng.integers(5, size=200), rng.integers(3, size=200)
    assert leep_score(np.eye(5)[z], y) == pytest.approx(nce_score(z, y), abs=1e-12)
    joint = np.histogram2d(z, y, bins=(5, 3))[0] / 200
    entropy = stats.entropy(joint.ravel()) - stats.entropy(joint.sum(1))
    assert nce_score(z, y) == pytest.approx(-entropy, abs=1e-12)
    theta = rng.dirichlet(np.ones(5), size=200)
    assert leep_score(theta, y) < 0
    assert nce_score(y, y) == 0


# --- invariances ---------------------------------------------------------------------------------


def test_invariances():
    F, y = load("wine")
    rng = np.random.default_rng(0)
    rotation = stats.ortho_group.rvs(F.shape[1], random_state=0)
    assert logme_score(F @ rotation, y) == pytest.approx(logme_score(F, y), abs=1e-9)
    assert h_score(F @ rotation, y) == pytest.approx(h_score(F, y), abs=1e-9)
    assert logme_score(10 * F, y) == pytest.approx(logme_score(F, y), abs=1e-7)
    assert h_score(10 * F, y) == pytest.approx(h_score(F, y), abs=1e-9)
    affine = F @ rng.normal(size=(13, 13)) + 3
    plain = h_score(F, y, regularized=False)
    assert h_score(affine, y, regularized=False) == pytest.approx(plain, abs=1e-8)
    twice = np.hstack([F, F]) / np.sqrt(2)
    assert logme_score(twice, y) == pytest.approx(logme_score(F, y), abs=1e-9)
    for score in (loo_ridge_score, knn_score):
        assert score(1000 * F - 7, y) == score(F, y)


@pytest.mark.parametrize("score", [loo_ridge_score, knn_score, logme_score, h_score])
def test_shuffled_labels_score_lower(score):
    F, y = load("wine")
    rng = np.random.default_rng(0)
    for _ in range(3):
        assert score(F, rng.permutation(y)) < score(F, y) - 0.05


@pytest.mark.parametrize("score", [loo_ridge_score, knn_score, logme_score, h_score])
def test_labels_of_any_kind_and_columns_that_never_vary(score):
    F, y = load("iris")
    names = np.array(["a", "b", "c"])[y]
    assert score(F, names) == score(F, y)
    constant = np.hstack([F, np.full((150, 1), 0.1)])
    if score in (loo_ridge_score, knn_score):
        assert score(constant, y) == pytest.approx(score(F, y), abs=1e-9)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_scorings_are_scikit_learns(n_classes):
    rng = np.random.default_rng(0)
    F, y = rng.normal(size=(150, 4)).round(1), rng.integers(n_classes, size=150)
    decisions = knn_decisions(F, y)
    average = "binary" if n_classes == 2 else "macro"
    area = decisions[:, 1] - decisions[:, 0] if n_classes == 2 else decisions
    expected = {
        "accuracy": metrics.accuracy_score(y, decisions.argmax(1)),
        "balanced_accuracy": metrics.balanced_accuracy_score(y, decisions.argmax(1)),
        "f1": metrics.f1_score(y, decisions.argmax(1), average=average),
        "roc_auc": metrics.roc_auc_score(y, area, multi_class="ovr"),
    }
    for scoring, value in expected.items():
        assert knn_score(F, y, scoring=scoring) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: loo_ridge_score(np.eye(4), [0, 0, 0, 0]), "holds one only"),
        (lambda: loo_ridge_score(np.eye(4), [0, 1]), "inconsistent numbers"),
        (lambda: loo_ridge_score(np.full((4, 1), np.nan), [0, 1, 0, 1]), "NaN"),
        (lambda: loo_ridge_score(np.eye(4), [0, 1, 0, 1], alpha=0), "above 0"),
        (lambda: loo_ridge_score(np.eye(4), [0, 1, 0, 1], scoring="precision"), "scoring must be"),
        (lambda: loo_ridge_score(np.eye(4), [0, 1, 0, 1], groups=[1] * 4), "one group"),
        (lambda: loo_ridge_score(np.eye(4), [0.1, 0.2, 0.3, 0.4]), "continuous"),
        (lambda: knn_score(np.eye(4), [0, 1, 0, 1]), "n_neighbors=5 must be from 1 to 3"),
        (lambda: knn_score(np.eye(4), [0, 1, 0, 1], metric="l1"), "metric must be"),
        (lambda: leep_score(np.eye(4) * 3, [0, 1, 0, 1]), "probabilities"),
    ],
)
def test_bad_values(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("groups", [None, np.arange(40) // 2])
def test_the_penalty_is_that_of_the_least_error_where_columns_outnumber_rows(groups):
    """There it is found from products of rows; a given penalty takes singular values."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 40)
    F = rng.normal(size=(40, 90)) + 0.5 * np.eye(3, 90)[y]
    F[:, 7] = 1.0
    target = 2 * np.eye(3)[y] - 1
    singular = np.linalg.svd(standardized(F), compute_uv=False)[:39]
    tried = [
        loo_ridge_decisions(F, y, groups=groups, alpha=relative * np.mean(singular**2))
        for relative in np.logspace(-4, 2, 13)
    ]
    best = min(tried, key=lambda decisions: np.mean((decisions - target) ** 2))
    np.testing.assert_allclose(loo_ridge_decisions(F, y, groups=groups), best, atol=1e-9)
