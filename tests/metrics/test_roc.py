"""Intervals of areas under curves: DeLong by others, brute force, and how often they cover."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import brunnermunzel, norm
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import roc_auc_score

from sktransfer.metrics import roc_auc_difference, roc_auc_interval


def draw(rng, auc, n_positive, n_negative):
    y = np.repeat([1, 0], [n_positive, n_negative])
    return y, rng.normal(np.sqrt(2) * norm.ppf(auc) * y)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("confidence_level", [0.9, 0.95])
def test_delong_agrees_with_mlstatkit(confidence_level, ties):
    oracle = pytest.importorskip("MLstatkit")
    rng = np.random.default_rng(0)
    y, a = draw(rng, 0.9, 40, 110)
    b = 0.5 * a + rng.normal(size=150)
    if ties:
        a, b = a.round(1), b.round(1)
    z, pvalue, ci_a, ci_b, auc_a, auc_b, info = oracle.Delong_test(y, a, b, alpha=confidence_level)
    assert info["method"] == "delong"
    for score, auc, (low, high) in ((a, auc_a, ci_a), (b, auc_b, ci_b)):
        ours = roc_auc_interval(y, score, confidence_level=confidence_level, scale="linear")
        np.testing.assert_allclose(ours, (auc, low, high), atol=1e-10)
    ours = roc_auc_difference(y, a, b, confidence_level=confidence_level)
    assert ours.estimate == pytest.approx(auc_a - auc_b, abs=1e-10)
    assert ours.pvalue == pytest.approx(pvalue, abs=1e-10)
    error = (ours.high - ours.low) / 2 / norm.ppf(0.5 + confidence_level / 2)
    assert -ours.estimate / error == pytest.approx(z, abs=1e-8)


def test_degrees_of_freedom_are_those_of_brunner_and_munzel():
    from scipy.special import logit
    from scipy.stats import t

    rng = np.random.default_rng(0)
    y, score = draw(rng, 0.8, 15, 30)
    linear = roc_auc_interval(y, score, scale="linear")
    error = (linear.high - linear.low) / 2 / norm.ppf(0.975)
    # scipy's test of "area one half" has the same variance and takes the same t.
    theirs = brunnermunzel(score[y == 0], score[y == 1])
    statistic = (linear.estimate - 0.5) / error
    assert theirs.statistic == pytest.approx(statistic)
    ours = roc_auc_interval(y, score)
    half = logit(ours.high) - logit(ours.estimate)
    # The variance of a single pair is added.
    one = linear.estimate * (1 - linear.estimate) / (15 * 30)
    error = np.sqrt(error**2 + one)
    quantile = half / (error / (linear.estimate * (1 - linear.estimate)))
    freedom = np.linspace(5, 60, 55001)
    found = freedom[np.abs(2 * t.sf(statistic, freedom) - theirs.pvalue).argmin()]
    assert quantile == pytest.approx(t.ppf(0.975, found), abs=1e-4)


# True area, rows of each class, coverage of DeLong on the logit scale in 400 repeats as published
# in the notes that this follows.
TABLE = [
    (0.802, 20, 80, 0.952),
    (0.961, 20, 80, 0.935),
    (0.961, 100, 400, 0.930),
    (0.993, 20, 80, 0.862),
]


def check_coverage(auc, n_positive, n_negative, reported, repeats):
    rng = np.random.default_rng(0)
    hits = linear = 0
    for _ in range(repeats):
        y, score = draw(rng, auc, n_positive, n_negative)
        _, low, high = roc_auc_interval(y, score)
        hits += low <= auc <= high
        assert 0 <= low <= high <= 1
        _, low, high = roc_auc_interval(y, score, scale="linear")
        linear += low <= auc <= high
    noise = 2 * np.sqrt(reported * (1 - reported) / repeats)
    assert hits / repeats > reported - noise
    assert hits >= linear - 0.01 * repeats


@pytest.mark.parametrize(("auc", "n_positive", "n_negative", "reported"), TABLE)
def test_intervals_cover_the_true_area(auc, n_positive, n_negative, reported):
    check_coverage(auc, n_positive, n_negative, reported, 150)


@pytest.mark.slow
@pytest.mark.parametrize(("auc", "n_positive", "n_negative", "reported"), TABLE)
def test_intervals_cover_the_true_area_over_4000_repeats(auc, n_positive, n_negative, reported):
    check_coverage(auc, n_positive, n_negative, reported, 4000)


def clustered(rng, auc, n_patients):
    size = 1 + rng.poisson(1.5, n_patients)
    patients = np.repeat(np.arange(n_patients), size)
    ill = rng.random(n_patients) < 0.3
    ill[:2] = [True, False]
    y = ill[patients].astype(int)
    own, each = rng.normal(size=n_patients)[patients], rng.normal(size=len(y))
    score = np.sqrt(2) * norm.ppf(auc) * y + np.sqrt(0.6) * own + np.sqrt(0.4) * each
    return y, score, patients


def check_coverage_with_patients(method, repeats, seed):
    rng = np.random.default_rng(seed)
    hits = ignoring = 0
    for _ in range(repeats):
        y, score, patients = clustered(rng, 0.85, 60)
        _, low, high = roc_auc_interval(y, score, groups=patients, method=method, n_resamples=200)
        hits += low <= 0.85 <= high
        _, low, high = roc_auc_interval(y, score)
        ignoring += low <= 0.85 <= high
    assert hits / repeats > 0.94 - 2.5 * np.sqrt(0.94 * 0.06 / repeats)
    assert ignoring / repeats < 0.90
    assert hits - ignoring > 0.03 * repeats


@pytest.mark.parametrize("method", ["auto", "delong"])
def test_grouped_intervals_cover_the_true_area(method):
    check_coverage_with_patients(method, 150, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["auto", "delong"])
def test_grouped_intervals_cover_the_true_area_over_1000_repeats(method):
    check_coverage_with_patients(method, 1000, seed=0)


def test_the_bootstrap_is_that_of_scipy():
    rng = np.random.default_rng(0)
    y, score = draw(rng, 0.85, 60, 120)
    linear = roc_auc_interval(y, score, method="bootstrap", scale="linear", n_resamples=4000)
    areas = []
    for _ in range(4000):
        ill, healthy = rng.choice(score[y == 1], 60), rng.choice(score[y == 0], 120)
        areas.append((ill[:, None] > healthy).mean())
    half = (linear.high - linear.low) / 2
    assert half == pytest.approx(norm.ppf(0.975) * np.std(areas), rel=0.05)
    again = roc_auc_interval(y, score, method="bootstrap", scale="linear", n_resamples=4000)
    assert again == linear


def test_groups_of_one_row_change_nothing():
    rng = np.random.default_rng(0)
    y, score = draw(rng, 0.85, 30, 60)
    alone = roc_auc_interval(y, score)
    np.testing.assert_allclose(
        roc_auc_interval(y, score, groups=np.arange(90), method="delong"), alone, atol=1e-12
    )
    other = score + rng.normal(size=90)
    np.testing.assert_allclose(
        roc_auc_difference(y, score, other, groups=np.arange(90)),
        roc_auc_difference(y, score, other),
        atol=1e-12,
    )
    # Every row twice: no more is known.
    twice = roc_auc_interval(
        np.repeat(y, 2), np.repeat(score, 2), groups=np.repeat(np.arange(90), 2), method="delong"
    )
    np.testing.assert_allclose(twice, alone, atol=1e-12)


@pytest.mark.parametrize("sign", [1, -1])
def test_separated_classes_still_have_an_interval(sign):
    y = np.repeat([1, 0], [20, 80])
    score = sign * np.linspace(1, 0, 100)
    estimate, low, high = roc_auc_interval(y, score)
    assert estimate == (1.0 if sign == 1 else 0.0)
    # Twenty pairs without a common row, all in order: Clopper and Pearson.
    bound = 0.025 ** (1 / 20)
    assert (low, high) == pytest.approx((bound, 1.0) if sign == 1 else (0.0, 1 - bound))
    few = roc_auc_interval(y, score, groups=np.repeat(np.arange(10), 10))
    assert few.high - few.low > high - low


def test_areas_of_several_classes_are_averaged():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 300)
    score = rng.normal(size=(300, 3)) + np.eye(3)[y]
    macro = roc_auc_interval(y, score)
    each = roc_auc_interval(y, score, average=None)
    assert macro.estimate == pytest.approx(np.mean([one.estimate for one in each]))
    for column, one in enumerate(each):
        np.testing.assert_allclose(
            one, roc_auc_interval((y == column).astype(int), score[:, column]), atol=1e-12
        )
    shares = np.exp(score) / np.exp(score).sum(axis=1, keepdims=True)
    assert roc_auc_interval(y, shares).estimate == pytest.approx(
        roc_auc_score(y, shares, multi_class="ovr")
    )
    boot = roc_auc_interval(y, score, method="bootstrap", n_resamples=2000)
    np.testing.assert_allclose(boot, macro, atol=0.01)
    same = roc_auc_difference(y, score, score)
    assert same == (0, 0, 0, 1)


def test_differences_are_found_where_there_are_any():
    rng = np.random.default_rng(0)
    rejected = {0.0: 0, 1.0: 0}
    for better in rejected:
        for _ in range(120):
            y, base = draw(rng, 0.8, 40, 80)
            a, b = base + rng.normal(size=(2, 120))
            rejected[better] += roc_auc_difference(y, a + better * y, b).pvalue < 0.05
    assert rejected[0.0] / 120 < 0.05 + 2 * np.sqrt(0.05 * 0.95 / 120)
    assert rejected[1.0] / 120 > 0.8


def test_areas_without_variance_have_no_pvalue():
    y = [0, 0, 1, 1]
    with pytest.warns(UndefinedMetricWarning, match="no test"):
        result = roc_auc_difference(y, [0, 1, 2, 3], [3, 2, 1, 0])
    assert result.estimate == 1
    assert np.isnan(result.pvalue)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: roc_auc_interval([0, 1], [0, 1], method="hanley"), "method must be one of"),
        (lambda: roc_auc_interval([0, 1], [0, 1], scale="log"), "scale must be one of"),
        (lambda: roc_auc_interval([0, 1], [0, 1], average="micro"), "average must be one of"),
        (
            lambda: roc_auc_interval([0, 1], [0, 1], confidence_level=0),
            "confidence_level must be a share",
        ),
        (lambda: roc_auc_interval([1, 1], [0, 1]), "both classes"),
        (lambda: roc_auc_interval([0, 1], [np.nan, 1]), "NaN in 1 of 2 rows"),
        (lambda: roc_auc_interval([0, 1, 2], [0, 1, 2]), "two classes"),
        (lambda: roc_auc_difference([0, 1], [0, 1], [0, 1, 2]), "same rows"),
    ],
)
def test_bad_values_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("n", [45, 111, 400, 977])
def test_perfect_order_is_an_area_of_one_whatever_the_sum_rounds_to(n):
    y = np.arange(n) % 3 == 0
    area, low, high = roc_auc_interval(y, y + np.random.default_rng(n).random(n) / 2)
    assert (area, high) == (1, 1)
    assert low > 0.7
