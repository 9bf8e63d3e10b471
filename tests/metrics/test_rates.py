"""Rates and their intervals against scikit-learn, scipy and published figures."""

from __future__ import annotations

import numpy as np
import pytest
from imblearn.metrics import sensitivity_specificity_support
from scipy.stats import binomtest
from sklearn.metrics import class_likelihood_ratios, precision_score, recall_score

from sktransfer.metrics import operating_point, rate_interval


@pytest.fixture
def labels():
    rng = np.random.default_rng(0)
    return rng.integers(0, 2, 300), rng.integers(0, 2, 300), rng.random(300)


def test_rates_of_predicted_labels_are_imbalanced_learns(labels):
    y, called, _ = labels
    words = np.array(["healthy", "ill"])
    point = operating_point(words[y], words[called] == "ill", 1, pos_label="ill")
    sensitivity, specificity, _ = sensitivity_specificity_support(
        words[y], words[called], pos_label="ill", average="binary"
    )
    assert point.sensitivity.estimate == pytest.approx(sensitivity)
    assert point.specificity.estimate == pytest.approx(specificity)


@pytest.mark.parametrize(("k", "n"), [(0, 10), (1, 10), (57, 60), (10, 10), (500, 1000)])
@pytest.mark.parametrize("confidence_level", [0.8, 0.95, 0.99])
def test_intervals_are_those_of_scipy(k, n, confidence_level):
    theirs = binomtest(k, n).proportion_ci(confidence_level)
    ours = rate_interval(k, n, confidence_level=confidence_level)
    np.testing.assert_allclose(ours, (k / n, theirs.low, theirs.high), atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 5, "n": 4}, "0 <= k <= n"),
        ({"k": 1, "n": 4, "confidence_level": 95}, "such as 0.95"),
    ],
)
def test_impossible_rates_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        rate_interval(**arguments)


def test_rows_of_patients_count_for_less():
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(50), 4)
    y = np.ones(200, int)
    y[:80] = 0
    alike = rng.integers(0, 2, 50)[patients]

    def rates(y, called, **groups):
        point = operating_point(y, called, 1, **groups)
        return point.sensitivity, point.specificity

    for called, shorter in ((alike, False), (rng.integers(0, 2, 200), True)):
        alone = rates(y, called)
        grouped = rates(y, called, groups=patients)
        for one, other in zip(alone, grouped, strict=True):
            assert one.estimate == pytest.approx(other.estimate)
            assert other.high - other.low >= (one.high - one.low) - 1e-12
        if not shorter:
            # Four equal rows are worth one: the interval is near that of the patients themselves.
            of_patients = rates(y[::4], called[::4])
            for one, other in zip(of_patients, grouped, strict=True):
                np.testing.assert_allclose(one, other, atol=0.03)


@pytest.mark.parametrize("rate", [0.8, 0.95])
def test_grouped_intervals_cover(rate):
    rng = np.random.default_rng(0)
    hits = {True: 0, False: 0}
    for _ in range(300):
        size = 1 + rng.poisson(1.5, 80)
        patients = np.repeat(np.arange(80), size)
        own = rng.beta(rate * 2, (1 - rate) * 2, 80)[patients]
        # The last row is of a healthy patient, without whom there would be one class only.
        y, called = np.r_[np.ones(len(own), int), 0], np.r_[rng.random(len(own)) < own, False]
        for grouped in hits:
            groups = np.r_[patients, 80] if grouped else None
            found = operating_point(y, called, 1, groups=groups).sensitivity
            hits[grouped] += found.low <= rate <= found.high
    assert hits[True] / 300 > 0.92
    assert hits[False] / 300 < hits[True] / 300


def test_operating_points_are_those_of_scikit_learn(labels):
    y, _, score = labels
    called = (score >= 0.4).astype(int)
    point = operating_point(y, score, 0.4)
    assert (point.n_positive, point.n_negative) == (y.sum(), (1 - y).sum())
    assert (point.tp, point.fp) == (called[y == 1].sum(), called[y == 0].sum())
    assert point.sensitivity.estimate == pytest.approx(recall_score(y, called))
    assert point.specificity.estimate == pytest.approx(recall_score(y, called, pos_label=0))
    assert point.ppv.estimate == pytest.approx(precision_score(y, called))
    assert point.npv.estimate == pytest.approx(precision_score(y, called, pos_label=0))
    ratios = class_likelihood_ratios(y, called)
    assert point.positive_likelihood_ratio.estimate == pytest.approx(ratios[0])
    assert point.negative_likelihood_ratio.estimate == pytest.approx(ratios[1])
    np.testing.assert_allclose(
        point.ppv[1:], binomtest(point.tp, point.tp + point.fp).proportion_ci(), atol=1e-12
    )
    assert point.group_sensitivity is None


def test_likelihood_ratio_intervals_are_those_of_simel():
    # The formula as published, by hand: 24/30 of the ill, 10/60 of the healthy called ill.
    y = np.repeat([1, 0], [30, 60])
    score = np.r_[np.ones(24), np.zeros(6), np.ones(10), np.zeros(50)]
    ratio = operating_point(y, score, 0.5).positive_likelihood_ratio
    error = np.sqrt((1 - 0.8) / 24 + (1 - 1 / 6) / 10)
    expected = 4.8 * np.exp(1.959963985 * error * np.array([0, -1, 1]))
    np.testing.assert_allclose(ratio, expected, rtol=1e-9)


def test_ratios_of_empty_cells_stay_intervals():
    point = operating_point([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], 0.5)
    assert point.positive_likelihood_ratio.estimate == np.inf
    assert 0 < point.positive_likelihood_ratio.low < np.inf
    assert point.negative_likelihood_ratio.estimate == 0
    assert 0 < point.negative_likelihood_ratio.high < np.inf
    everyone = operating_point([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], -np.inf)
    assert np.isnan(everyone.negative_likelihood_ratio.estimate)
    assert everyone.negative_likelihood_ratio.low < everyone.negative_likelihood_ratio.high
    assert np.isnan(everyone.npv.estimate)
    assert everyone.npv[1:] == (0, 1)


def test_share_of_patients_without_a_mistake():
    y = [1, 1, 1, 1, 0, 0, 0]
    score = [0.9, 0.2, 0.8, 0.7, 0.1, 0.6, 0.3]
    point = operating_point(y, score, 0.5, groups=list("aabbacc"))
    assert point.group_sensitivity.estimate == 0.5
    assert point.group_specificity.estimate == 0.5
    assert point.sensitivity.estimate == 0.75
    assert "group sensitivity" in str(point)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_score": [0.1, np.nan, 0.3]}, r"NaN in 1 of 3 rows \(first: 1\)"),
        ({"y_true": [1, 1, 1]}, "both classes"),
        ({"y_true": ["a", "b", "a"]}, "pos_label"),
        (
            {"y_true": ["a", "b", "a"], "pos_label": "c"},
            "'c' is not one of the classes, which are 'a', 'b'",
        ),
        ({"y_true": [0, 1, 2]}, "two classes"),
        ({"groups": [0, 1]}, "2 entries for 3 rows"),
        ({"threshold": np.nan}, "got NaN"),
    ],
)
def test_operating_points_of_bad_input_are_refused(change, message):
    arguments = {"y_true": [0, 1, 1], "y_score": [0.1, 0.2, 0.3], "threshold": 0.2, **change}
    with pytest.raises(ValueError, match=message):
        operating_point(**arguments)
