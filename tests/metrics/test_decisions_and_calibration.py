"""Costs, net benefit and calibration against definitions and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score

from sktransfer.metrics import (
    calibration_intercept,
    calibration_slope,
    expected_cost,
    net_benefit,
)


def test_cost_is_the_mean_of_the_entries():
    rng = np.random.default_rng(0)
    y, called, weight = rng.integers(0, 3, 100), rng.integers(0, 3, 100), rng.random(100)
    costs = rng.random((3, 3))
    assert expected_cost(y, called, costs) == pytest.approx(costs[y, called].mean())
    assert expected_cost(y, called, costs, sample_weight=weight) == pytest.approx(
        np.average(costs[y, called], weights=weight)
    )
    assert expected_cost(y, called, 1 - np.eye(3)) == pytest.approx(1 - accuracy_score(y, called))
    words = np.array(["c", "a", "b"])
    assert expected_cost(words[y], words[called], costs, labels=["c", "a", "b"]) == pytest.approx(
        costs[y, called].mean()
    )


def test_net_benefit_is_the_formula():
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 2, 200), rng.random(200)
    cuts = np.array([0.0, 0.1, 0.37, 0.9])
    expected = [
        ((p >= t) & (y == 1)).mean() - ((p >= t) & (y == 0)).mean() * t / (1 - t) for t in cuts
    ]
    np.testing.assert_allclose(net_benefit(y, p, cuts), expected)
    assert net_benefit(y, p, 0.37) == pytest.approx(expected[2])
    assert net_benefit(y, np.ones(200), y.mean()) == pytest.approx(0)
    weight = rng.integers(1, 4, 200)
    np.testing.assert_allclose(
        net_benefit(y, p, cuts, sample_weight=weight),
        net_benefit(np.repeat(y, weight), np.repeat(p, weight), cuts),
    )


@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (0.4, 0), (2.5, 1.0), (1, -2)])
def test_slope_and_intercept_are_logistic_regressions(slope, intercept):
    rng = np.random.default_rng(0)
    x = rng.normal(size=3000)
    y = (rng.random(3000) < expit(intercept + slope * x)).astype(int)
    ours = calibration_slope(y, expit(x))
    model = LogisticRegression(C=1e12, tol=1e-12, max_iter=1000).fit(x[:, None], y)
    assert ours.estimate == pytest.approx(model.coef_[0, 0], abs=1e-5)
    assert ours.low < slope < ours.high
    if slope == 1:
        found = calibration_intercept(y, expit(x))
        assert found.low < intercept < found.high
        # The score equation of the definition.
        assert expit(found.estimate + x).mean() == pytest.approx(y.mean(), abs=1e-10)


def test_intervals_cover_also_with_patients():
    rng = np.random.default_rng(0)
    hits = {"slope": 0, "intercept": 0, "ignoring": 0}
    for _ in range(300):
        patients = np.repeat(np.arange(150), 3)
        x = (rng.normal(size=150) - 0.5)[patients]
        # Rows of a patient are the same draw: labels are right on average, and not independent.
        y = (rng.random(150)[patients] < expit(x)).astype(int)
        p = expit(x)
        slope, intercept = (
            calibration_slope(y, p, groups=patients),
            calibration_intercept(y, p, groups=patients),
        )
        alone = calibration_slope(y, p)
        hits["slope"] += slope.low <= 1 <= slope.high
        hits["intercept"] += intercept.low <= 0 <= intercept.high
        hits["ignoring"] += alone.low <= 1 <= alone.high
    assert hits["slope"] / 300 > 0.91
    assert hits["intercept"] / 300 > 0.91
    assert hits["ignoring"] / 300 < 0.85


def test_probabilities_of_zero_and_one_are_accepted():
    y = np.array([0, 0, 1, 1, 0, 1])
    p = np.array([0.0, 0.2, 1.0, 0.7, 0.8, 0.4])
    margin = 2.0**-53
    assert calibration_slope(y, p) == calibration_slope(y, p.clip(margin, 1 - margin))
    assert np.isfinite(calibration_slope(y, p.astype(np.float32))).all()
    assert np.isfinite(calibration_intercept(y, p)).all()


def test_extreme_probabilities_converge():
    rng = np.random.default_rng(0)
    x = rng.normal(scale=25, size=2000)
    y = (rng.random(2000) < expit(x / 20)).astype(int)
    assert calibration_slope(y, expit(x)).estimate == pytest.approx(1 / 20, rel=0.2)
    found = calibration_intercept(y, expit(x)).estimate
    z = logit(expit(x).clip(2**-53, 1 - 2**-53))
    assert expit(found + z).sum() == pytest.approx(y.sum(), abs=1e-6)


def test_separated_classes_have_no_finite_slope():
    with pytest.warns(UndefinedMetricWarning, match="no finite slope"):
        assert calibration_slope([0, 0, 1, 1], [0.1, 0.2, 0.7, 0.8]).estimate == np.inf
    with pytest.warns(UndefinedMetricWarning, match="no finite slope"):
        assert calibration_slope([1, 1, 0, 0], [0.1, 0.2, 0.7, 0.8]).estimate == -np.inf
    with pytest.warns(UndefinedMetricWarning, match="no finite slope"):
        assert np.isnan(calibration_slope([1, 0], [0.5, 0.5]).estimate)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: expected_cost([0, 1], [0, 1], [1, 2]), r"shape \(2, 2\)"),
        (lambda: expected_cost([0, 1], [0, 1], [[0, np.inf], [1, 0]]), "finite"),
        (lambda: expected_cost([0, 1], [0, 2], np.eye(2), labels=[0, 1]), "labels must name"),
        (lambda: net_benefit([0, 1], [0.1, 0.9], 1.0), r"in \[0, 1\)"),
        (lambda: net_benefit([0, 1], [-3.0, 0.9], 0.5), "calibrate them"),
        (lambda: net_benefit([0, 1], np.eye(2), 0.5), "Take the column"),
        (lambda: net_benefit([0, 1], [0.1, 0.9], 0.5, sample_weight=[1]), "1 entries for 2"),
        (lambda: calibration_slope([0, 1, 1], [0.1, 2.0, 0.3]), "calibrate them"),
        (lambda: calibration_intercept([0, 0], [0.1, 0.2]), "both classes"),
    ],
)
def test_bad_values_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
