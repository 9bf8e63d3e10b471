"""The linear head, solved from products of rows, is the one that a direct solution finds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_info, threadpool_limits

from sktransfer._utils import logistic
from sktransfer._utils.logistic import (
    FLOOR,
    cross_fitted_logits,
    solve_independent,
    solve_linear,
    standardized_columns,
)


def data(n=60, d=150, n_classes=3, seed=0):
    """Draw columns of many scales, a few of which tell the classes apart."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, n)
    y[:n_classes] = np.arange(n_classes)
    X = rng.normal(size=(n, d)) + 3
    X[:, :n_classes] += np.eye(n_classes)[y]
    return X * np.exp(rng.normal(size=d)), y


def direct(X, y, weight, n_classes, C):
    """Solve for all columns at once, with scikit-learn."""
    share = weight / weight.sum()
    mean = share @ X
    scale = np.sqrt(share @ (X - mean) ** 2)
    scale = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 1e-12)
    solver = LogisticRegression(C=C, solver="newton-cholesky", tol=1e-13, max_iter=500)
    solver.fit((X - mean) * scale, y, sample_weight=weight)
    solved, offset = solver.coef_, solver.intercept_
    if n_classes == 2:
        solved, offset = (np.stack([-each[0], each[0]]) / 2 for each in (solved, offset))
    solved = solved * scale
    return solved, offset - offset.mean() - solved @ mean


def assert_same(found, expected, tolerance=1e-8):
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


@pytest.mark.parametrize("C", [1e-4, 0.01, 1.0, 100.0])
@pytest.mark.parametrize("n_classes", [2, 3, 7])
def test_fewer_rows_than_columns_give_the_direct_solution(n_classes, C):
    X, y = data(n_classes=n_classes)
    weight = np.random.default_rng(1).choice([0.3, 1.0, 2.0], len(y))
    found = solve_linear(X, y, weight, n_classes, C)
    assert_same(found, direct(X, y, weight, n_classes, C))


@pytest.mark.parametrize("C", [1e-4, 0.1, 1.0, 100.0])
@pytest.mark.parametrize("n_classes", [2, 3, 7])
def test_more_rows_than_columns_give_the_direct_solution(n_classes, C):
    X, y = data(n=80, d=20, n_classes=n_classes)
    weight = np.random.default_rng(1).choice([0.3, 1.0, 2.0], len(y))
    found = solve_linear(X, y, weight, n_classes, C)
    assert_same(found, direct(X, y, weight, n_classes, C))


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_solution_is_a_minimum(n_classes):
    """Without scikit-learn: the gradient of the penalized loss is zero."""
    X, y = data(n_classes=n_classes)
    solved, offset = solve_linear(X, y, np.ones(len(y)), n_classes, 0.5)
    scale = X.std(axis=0)
    p = softmax(X @ solved.T + offset, axis=1)
    halves = 2 if n_classes == 2 else 1  # the penalty of a binary regression is of the difference
    pull = 0.5 * (np.eye(n_classes)[y] - p).T @ ((X - X.mean(axis=0)) / scale)
    np.testing.assert_allclose(
        halves * solved * scale, pull, rtol=0, atol=1e-9 * np.abs(pull).max()
    )
    np.testing.assert_allclose(p.sum(axis=0), np.bincount(y), rtol=1e-8)


def test_a_weight_of_zero_leaves_a_row_out_whatever_it_holds():
    X, y = data()
    weight = np.ones(len(y))
    weight[10:30] = 0
    spoiled = np.where(weight[:, None] == 0, 1e30, X)
    found = solve_linear(spoiled, y, weight, 3, 0.01)
    kept = weight > 0
    for ours, theirs in zip(found, solve_linear(X[kept], y[kept], weight[kept], 3, 0.01),
                            strict=True):  # fmt: skip
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_rows_twice_are_rows_of_weight_two(n_classes):
    X, y = data(n_classes=n_classes)
    times = np.random.default_rng(2).integers(1, 3, len(y))
    again = np.repeat(np.arange(len(y)), times)
    found = solve_linear(X[again], y[again], np.ones(len(again)), n_classes, 0.01)
    assert_same(found, solve_linear(X, y, times.astype(float), n_classes, 0.01))


def test_constant_columns_get_no_coefficient():
    X, y = data()
    X[:, 5], X[:, 9] = 7.0, 0.0
    solved, _ = solve_linear(X, y, np.ones(len(y)), 3, 0.01)
    assert not solved[:, [5, 9]].any()
    others = np.delete(np.arange(X.shape[1]), [5, 9])
    assert_same([solved[:, others]], solve_linear(X[:, others], y, np.ones(len(y)), 3, 0.01)[:1])


@pytest.mark.parametrize("n", [40, 200])
def test_an_absent_class_loses_and_the_others_are_as_without_it(n):
    X, y = data(n=n, d=100, n_classes=2)
    solved, offset = solve_linear(X, 2 * y, np.ones(n), 3, 0.01)
    assert_same([solved[[0, 2]], offset[[0, 2]]], solve_linear(X, y, np.ones(n), 2, 0.01))
    assert softmax(X @ solved.T + offset, axis=1)[:, 1].max() < 1e-10


def test_a_single_class_wins_everywhere():
    X, _ = data()
    solved, offset = solve_linear(X, np.ones(len(X), int), np.ones(len(X)), 3, 0.01)
    assert not solved.any()
    assert offset.argmax() == 1
    assert np.isfinite(offset).all()


@pytest.mark.parametrize("C", [0.01, 1.0])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("d", [20, 150])
def test_cross_fitted_logits_are_those_of_pipelines(d, n_classes, C):
    X, y = data(d=d, n_classes=n_classes)
    X[:, 5] = np.arange(60) % 4 == 0  # constant where the first of these folds trains
    folds = [(np.flatnonzero(np.arange(60) % 4 != k), np.arange(k, 60, 4)) for k in range(3)]
    found = cross_fitted_logits(X, y, np.ones(60), n_classes, folds, C)
    pipeline = make_pipeline(
        StandardScaler(), LogisticRegression(C=C, solver="newton-cholesky", tol=1e-13)
    )
    for train, test in folds:
        expected = pipeline.fit(X[train], y[train]).predict_proba(X[test])
        np.testing.assert_allclose(softmax(found[test], axis=1), expected, rtol=1e-7)
    assert np.isnan(found[3::4]).all()
    assert np.isnan(cross_fitted_logits(X, y, np.ones(60), n_classes, [], C)).all()


@pytest.mark.parametrize(("n", "d"), [(60, 150), (300, 20), (60, 43)])
def test_cross_fitted_logits_are_those_of_each_fold_alone(n, d):
    """With weights, classes that folds lack, nearly constant columns, and folds of other sizes."""
    X, y = data(n=n, d=d, n_classes=4)
    rng = np.random.default_rng(0)
    weight = rng.choice([0.0, 0.5, 2.0], n)
    X[:, 3] *= 1e-5
    X[weight == 0, 7] = 1e30
    part = rng.integers(0, 4, n)
    part[y == 3] = 2
    folds = [(np.flatnonzero(part != k), np.flatnonzero(part == k)) for k in range(4)]
    folds.append((np.flatnonzero(y == 1), np.arange(0)))
    found = cross_fitted_logits(X, y, weight, 4, folds, 0.1, floor=FLOOR)
    for train, test in folds:
        solved, offset = solve_linear(X[train], y[train], weight[train], 4, 0.1, floor=FLOOR)
        rows = test[weight[test] > 0]
        np.testing.assert_allclose(found[rows], X[rows] @ solved.T + offset, rtol=0, atol=1e-8)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_regressions_that_would_not_fit_in_memory_at_once_are_solved_in_turn(
    monkeypatch, n_classes
):
    X, y = data(n=200, d=20, n_classes=n_classes)
    given = (X, y, np.ones(200), n_classes, list(KFold(5).split(X)), 0.1)
    at_once, real = [], logistic._newton

    def newton(Z, target, *rest):
        at_once.append(target.shape[1])
        return real(Z, target, *rest)

    monkeypatch.setattr(logistic, "_newton", newton)
    together = cross_fitted_logits(*given)
    monkeypatch.setattr(logistic, "_MOST_DECISIONS", 2 * 200 * n_classes)
    np.testing.assert_allclose(cross_fitted_logits(*given), together, rtol=0, atol=1e-8)
    assert at_once == [5, 2, 2, 1]


def fold_by_fold(X, y, n_classes, folds, C, floor):
    """Return what scikit-learn predicts of each fold, log-probabilities."""
    found = np.full((len(X), n_classes), np.nan)
    for train, test in folds:
        scaled, mean, scale = standardized_columns(X[train], np.ones(len(train)), floor)
        solver = LogisticRegression(C=C, solver="newton-cholesky", tol=1e-13, max_iter=500)
        decision = solver.fit(scaled, y[train]).decision_function((X[test] - mean) * scale)
        if n_classes == 2:
            decision = np.column_stack([-decision, decision]) / 2
        found[test] = log_softmax(decision, axis=1)
    return found


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("outlier", [30.0, 1e5, 1e12])
def test_an_outlier_in_the_rows_of_other_folds_changes_nothing(outlier, n_classes):
    X, y = data(n=200, d=20, n_classes=n_classes)
    X[0, 1] = outlier
    folds = list(KFold(5).split(X))
    found = cross_fitted_logits(X, y, np.ones(200), n_classes, folds, 0.01, floor=FLOOR)
    expected = fold_by_fold(X, y, n_classes, folds, 0.01, FLOOR)
    np.testing.assert_allclose(log_softmax(found, axis=1)[1:], expected[1:], rtol=0, atol=1e-7)


@pytest.mark.parametrize("seed", range(3))
def test_columns_with_long_tails_are_solved_as_fold_by_fold(seed):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, 300)
    X = np.exp(6 * (rng.normal(size=(300, 20)) + 0.1 * y[:, None]))
    folds = list(KFold(5).split(X))
    found = log_softmax(
        cross_fitted_logits(X, y, np.ones(300), 3, folds, 0.01, floor=FLOOR), axis=1
    )
    expected = fold_by_fold(X, y, 3, folds, 0.01, FLOOR)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("least", [1e-4, 1e-8])
@pytest.mark.parametrize(("n", "d"), [(60, 100), (200, 20)])
def test_a_class_may_weigh_next_to_nothing(n, d, least, n_classes):
    X, y = data(n=n, d=d, n_classes=n_classes)
    weight = np.where(y == 0, least, 1.0)
    found = solve_linear(X, y, weight, n_classes, 1.0)
    assert_same(found, direct(X, y, weight, n_classes, 1.0), 1e-6)


def test_rows_drawn_again_count_again():
    X, y = data(n=80, d=20)
    drawn, places = np.random.default_rng(0).integers(0, 80, (2, 80)), np.arange(80)
    for draw in drawn:
        solved, offset = solve_linear(X[draw], y[draw], np.ones(80), 3, 1.0)
        for folds in ([(draw, places)], [(drawn[0], places[:0]), (draw, places)]):
            found = cross_fitted_logits(X, y, np.ones(80), 3, folds, 1.0)
            np.testing.assert_allclose(found, X @ solved.T + offset, rtol=0, atol=1e-8)


def test_what_is_not_solved_is_said(monkeypatch):
    monkeypatch.setattr(logistic, "_MOST_STEPS", 1)
    X, y = data(n=80, d=20)
    with pytest.warns(ConvergenceWarning, match="was not solved in 1 steps"):
        solve_linear(X, y, np.ones(80), 3, 1.0)


def test_a_nearly_constant_column_does_not_decide():
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    X = rng.normal(size=(60, 100)) + 0.3 * y[:, None]
    X[:, 7] = 1e-6 * X[:, 7]  # a column for colors, on gray images
    marked = X.copy()
    marked[:, 7] = 1.0
    ones = np.ones(len(y))
    plain, guarded = (solve_linear(X, y, ones, 2, 0.01, floor=floor) for floor in (0.0, FLOOR))
    moved = [np.abs((marked - X) @ coef.T).max() for coef, _ in (plain, guarded)]
    assert moved[0] > 1e3
    assert moved[1] < 0.5
    others = np.arange(100) != 7
    np.testing.assert_allclose(guarded[0][:, others], plain[0][:, others], atol=5e-3)
    # Columns that vary are scaled as before.
    assert_same(
        solve_linear(X[:, others], y, ones, 2, 0.01, floor=FLOOR),
        solve_linear(X[:, others], y, ones, 2, 0.01),
    )


@pytest.mark.parametrize("d", [5, 4000])
def test_columns_that_are_all_constant_leave_the_shares_of_the_classes(d):
    y = np.array([0, 0, 0, 1, 1, 2] * 4)
    coef, intercept = solve_linear(np.full((24, d), 7.0), y, np.ones(24), 3, 0.01, floor=FLOOR)
    assert not coef.any()
    np.testing.assert_allclose(softmax(intercept), [1 / 2, 1 / 3, 1 / 6])


@pytest.mark.parametrize("d", [20, 150])
def test_numbers_that_are_not_finite_are_an_error(d):
    X, y = data(d=d)
    X[3, 4] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        solve_linear(X, y, np.ones(len(y)), 3, 0.01)


@pytest.mark.parametrize(("shape", "one"), [((40, 60), True), ((3000, 3000), False)])
def test_small_products_are_done_by_one_thread_as_pools_spin_against_each_other(
    monkeypatch, shape, one
):
    seen = {}

    def solve(F, *rest):
        seen.update({each["filepath"]: each["num_threads"] for each in blas_pools()})
        return [(np.zeros((2, F.shape[1])), np.zeros(2))]

    def blas_pools():
        return [each for each in threadpool_info() if each["user_api"] == "blas"]

    monkeypatch.setattr("sktransfer._utils.logistic._solve", solve)
    y = np.arange(shape[0]) % 2
    with threadpool_limits(2, user_api="blas"):
        before = {each["filepath"]: each["num_threads"] for each in blas_pools()}
        solve_linear(np.broadcast_to(0.0, shape), y, np.ones(len(y)), 2, 1.0)
        after = {each["filepath"]: each["num_threads"] for each in blas_pools()}
    assert before
    assert set(before.values()) == {2}
    assert seen == (dict.fromkeys(before, 1) if one else before)
    assert after == before


@pytest.mark.parametrize("C", [1e-4, 0.01, 1.0, 1e3, 1e6])
@pytest.mark.parametrize(("n", "d"), [(50, 200), (200, 30)])
def test_labels_together_are_each_as_by_themselves_whatever_the_penalty(n, d, C):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, d)) @ (rng.normal(size=(d, d)) / np.arange(1, d + 1)[:, None] ** 2)
    y = X[:, :3] + X.std(axis=0)[:3] * rng.normal(size=(n, 3)) > X.std(axis=0)[:3] * [0, 0.5, 2]
    known = rng.random((n, 3)) < 0.7
    solved, offset = solve_independent(X, y, np.ones(n), known.astype(float), C)
    Z = StandardScaler().fit_transform(X)
    for label, rows in enumerate(known.T):
        alone = LogisticRegression(C=C, solver="newton-cholesky", tol=1e-12, max_iter=1000)
        expected = alone.fit(Z[rows], y[rows, label]).decision_function(Z)
        found = X @ solved[label] + offset[label]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
