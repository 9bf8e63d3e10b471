"""Ridge regression with a penalty of its own choice, and cumulative logits, against libraries."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import HuberRegressor, Ridge, RidgeCV
from sklearn.preprocessing import StandardScaler

from sktransfer._utils.cumulative_link import solve_cumulative_link
from sktransfer._utils.logistic import solve_linear
from sktransfer._utils.ridge import center_and_scale, solve_ridge

SIZES = [(40, 90), (150, 30)]  # more columns than rows, and fewer


def task(n, d, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(3, 1, (n, d)) * rng.uniform(0.1, 10, d)
    signal = StandardScaler().fit_transform(X)[:, :2]
    return X, signal + rng.normal(0, 0.7, (n, 2)), rng.uniform(0.5, 2, n)


def penalties(d):
    return np.logspace(4, -6, 41) * d


# --- ridge ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d"), SIZES)
def test_ridge_is_that_of_scikit_learn_which_leaves_out_each_row(n, d):
    X, Y, weight = task(n, d)
    coefficients, intercepts, chosen = solve_ridge(X, Y, weight, np.arange(n))
    scaler = StandardScaler().fit(X, sample_weight=weight)
    Z = scaler.transform(X)
    peer = RidgeCV(np.sort(penalties(d)), alpha_per_target=True).fit(Z, Y, weight)
    np.testing.assert_allclose(chosen, peer.alpha_)
    np.testing.assert_allclose(X @ coefficients.T + intercepts, peer.predict(Z), atol=1e-9)


@pytest.mark.parametrize(("n", "d"), SIZES)
def test_patients_are_left_out_whole(n, d):
    X, Y, weight = task(n, d)
    patient = np.random.default_rng(1).integers(0, n // 3, n)
    Y += np.random.default_rng(2).normal(0, 1, (n // 3, 2))[patient]
    chosen = solve_ridge(X, Y, weight, patient)[2]
    Z = StandardScaler().fit(X, sample_weight=weight).transform(X)
    losses = []
    for alpha in penalties(d):
        errors = np.empty_like(Y)
        for each in np.unique(patient):
            others = patient != each
            model = Ridge(alpha).fit(Z[others], Y[others], weight[others])
            errors[~others] = Y[~others] - model.predict(Z[~others])
        losses.append(weight @ errors**2)
    np.testing.assert_allclose(chosen, penalties(d)[np.argmin(losses, axis=0)])


@pytest.mark.parametrize("huber", [None, 1.0])
def test_a_weight_of_two_is_a_row_twice_and_none_is_no_row(huber):
    X, Y, _ = task(60, 80)
    weight = np.random.default_rng(3).integers(0, 3, 60)
    rows = np.repeat(np.arange(60), weight)
    twice = solve_ridge(X[rows], Y[rows], np.ones(len(rows)), rows, huber=huber)
    weighted = solve_ridge(X, Y, weight, np.arange(60), huber=huber)
    for a, b in zip(twice, weighted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


def test_several_targets_are_solved_as_each_alone():
    X, Y, weight = task(60, 80)
    together = solve_ridge(X, Y, weight, np.arange(60))
    alone = [solve_ridge(X, Y[:, [k]], weight, np.arange(60)) for k in range(2)]
    for place, each in enumerate(together):
        np.testing.assert_allclose(each, np.concatenate([one[place] for one in alone]), atol=1e-9)


def test_huber_is_that_of_scikit_learn():
    X, Y, weight = task(150, 5)
    Y[:10] += 50
    # scikit-learn's has a scale of its own, which is found again here.
    Z = StandardScaler().fit(X, sample_weight=weight).transform(X)
    peer = HuberRegressor(alpha=0, epsilon=1.35, tol=1e-10, max_iter=10_000)
    peer.fit(Z, Y[:, 0], weight)
    found = solve_ridge(X, Y[:, :1], weight, np.arange(150), huber=1.35 * peer.scale_, penalty=1e-9)
    np.testing.assert_allclose(X @ found[0][0] + found[1], peer.predict(Z), atol=1e-3)


def test_absolute_errors_do_not_follow_a_few_wild_targets():
    X, Y, weight = task(150, 30)
    wild = Y.copy()
    wild[:15] += 1000
    errors = {}
    for huber in (None, 1e-3):
        center, scale = center_and_scale(wild, weight, robust=huber is not None)
        found = solve_ridge(X, (wild - center) / scale, weight, np.arange(150), huber=huber)
        predicted = (X @ found[0].T + found[1]) * scale + center
        errors[huber] = np.abs(predicted - Y)[15:].mean()
    assert errors[1e-3] < 0.7 < 5 < errors[None]


def test_a_constant_target_and_one_row_are_predicted_as_they_are():
    X, _, weight = task(40, 90)
    same = solve_ridge(X, np.full((40, 1), 7.0), weight, np.arange(40))
    np.testing.assert_allclose(X @ same[0].T + same[1], 7.0)
    one = solve_ridge(X[:1], np.full((1, 1), 7.0), weight[:1], np.arange(1))
    np.testing.assert_allclose(X @ one[0].T + one[1], 7.0)


# --- cumulative logits ---------------------------------------------------------------------------


def graded(n, d):
    X, Y, weight = task(n, d)
    return X, np.digitize(Y[:, 0], [-1, 0, 0.7]), weight


@pytest.mark.parametrize(("n", "d"), SIZES)
def test_cumulative_logits_are_those_of_skordinal(n, d):
    pom = pytest.importorskip("skordinal.classifiers").POM
    X, y, _ = graded(n, d)
    coefficients, thresholds = solve_cumulative_link(X, y, np.ones(n), 4, C=0.1)
    Z = StandardScaler().fit_transform(X)
    peer = pom(alpha=10, tol=1e-13, max_iter=100_000).fit(Z, y)
    expected = peer.thresholds_ - (Z @ peer.coef_)[:, None]
    np.testing.assert_allclose(thresholds - (X @ coefficients)[:, None], expected, atol=1e-4)


@pytest.mark.parametrize(("n", "d"), SIZES)
def test_with_two_classes_it_is_the_logistic_regression(n, d):
    X, y, weight = graded(n, d)
    coefficients, thresholds = solve_cumulative_link(X, y > 1, weight, 2, C=0.1)
    solved, offset = solve_linear(X, (y > 1).astype(int), weight, 2, 0.1)
    logits = X @ (solved[1] - solved[0]) + offset[1] - offset[0]
    np.testing.assert_allclose(X @ coefficients - thresholds, logits, atol=1e-9)


def test_weights_of_grades_are_rows():
    X, y, _ = graded(60, 80)
    weight = np.random.default_rng(3).integers(0, 3, 60)
    rows = np.repeat(np.arange(60), weight)
    twice = solve_cumulative_link(X[rows], y[rows], np.ones(len(rows)), 4, 0.1)
    for a, b in zip(twice, solve_cumulative_link(X, y, weight, 4, 0.1), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


def test_grades_without_rows_are_never_the_likeliest_and_thresholds_increase():
    X, y, weight = graded(150, 30)
    known = np.array([1, 2, 4, 5])[y]  # of seven grades
    coefficients, thresholds = solve_cumulative_link(X, known, weight, 7, 0.1)
    assert (np.diff(thresholds) > 0).all()
    below = 1 / (1 + np.exp(X @ coefficients[:, None] - thresholds))
    p = np.diff(below, axis=1, prepend=0, append=1)
    assert p[:, [0, 3, 6]].max() < 1e-6
    dense = solve_cumulative_link(X, y, weight, 4, 0.1)
    np.testing.assert_allclose(coefficients, dense[0])
    assert (np.diff(solve_cumulative_link(X, np.full(150, 2), weight, 4, 0.1)[1]) > 0).all()
