"""Thresholds with a rate: the tables of the literature, torchmetrics, and brute force."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta, binom
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix_at_thresholds, make_scorer
from sklearn.model_selection import GridSearchCV, cross_val_score

from sktransfer.metrics import (
    allowed_misses,
    expected_cost,
    rows_needed,
    sensitivity_at_specificity,
    specificity_at_sensitivity,
)


@pytest.mark.parametrize(
    ("target", "needed"),
    [
        (0.90, (29, 46, 61, 103)),
        (0.95, (59, 93, 124, 208)),
        (0.98, (149, 236, 313, 523)),
        (0.99, (299, 473, 628, 1049)),
    ],
)
def test_rows_needed_are_those_of_wilks(target, needed):
    assert tuple(rows_needed(target, misses=k) for k in (0, 1, 2, 5)) == needed
    for misses, n in zip((0, 1, 2, 5), needed, strict=True):
        assert allowed_misses(n, target) == misses
        assert allowed_misses(n - 1, target) == misses - 1


@pytest.mark.parametrize("confidence_level", [0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("target", [0.5, 0.8, 0.95])
def test_misses_are_the_most_that_the_binomial_allows(target, confidence_level):
    for n in (1, 2, 5, 17, 60, 100, 333):
        k = allowed_misses(n, target, confidence_level=confidence_level)
        # At most k misses of n happen, at the target itself, in 1 - confidence_level of all cases.
        assert binom.cdf(k, n, 1 - target) <= 1 - confidence_level + 1e-9
        assert binom.cdf(k + 1, n, 1 - target) > 1 - confidence_level + 1e-9
        if k >= 0:
            assert beta.ppf(1 - confidence_level, n - k, k + 1) >= target - 1e-9


def test_point_estimate_is_the_share_itself():
    for n in range(1, 300):
        for target in (0.5, 0.9, 0.95, 0.99):
            k = allowed_misses(n, target, confidence_level=None)
            assert (n - k) / n >= target - 1e-9
            assert (n - k - 1) / n < target


@pytest.mark.parametrize("target", [0.05, 0.5, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("ties", [False, True])
def test_the_other_rate_is_the_best_on_the_curve(target, ties):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 150)
    score = rng.normal(y)
    if ties:
        score = score.round()
    tns, fps, fns, tps, _ = confusion_matrix_at_thresholds(y, score)
    sensitivity, specificity = tps / (tps + fns), tns / (tns + fps)
    # Above all scores nobody is called positive; scikit-learn's curve may leave that out.
    sensitivity, specificity = np.r_[0.0, sensitivity, 1.0], np.r_[1.0, specificity, 0.0]
    ours = specificity_at_sensitivity(y, score, sensitivity=target)
    assert ours == pytest.approx(specificity[sensitivity >= target - 1e-9].max())
    ours = sensitivity_at_specificity(y, score, specificity=target)
    assert ours == pytest.approx(sensitivity[specificity >= target - 1e-9].max())


def test_rates_agree_with_torchmetrics():
    functional = pytest.importorskip("torchmetrics.functional.classification")
    import torch

    rng = np.random.default_rng(0)
    y, raw = rng.integers(0, 2, 500), rng.normal(size=500)
    score = 1 / (1 + np.exp(-(raw + y)))
    for target in (0.5, 0.9, 0.95):
        arguments = (torch.tensor(score), torch.tensor(y), target)
        theirs, _ = functional.binary_specificity_at_sensitivity(*arguments)
        assert specificity_at_sensitivity(y, score, sensitivity=target) == pytest.approx(
            float(theirs), abs=1e-6
        )
        theirs, _ = functional.binary_sensitivity_at_specificity(*arguments)
        assert sensitivity_at_specificity(y, score, specificity=target) == pytest.approx(
            float(theirs), abs=1e-6
        )


def test_several_classes_each_against_the_rest():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 200)
    score = rng.normal(size=(200, 3)) + 2 * np.eye(3)[y]
    each = [specificity_at_sensitivity((y == c).astype(int), score[:, c]) for c in range(3)]
    np.testing.assert_allclose(specificity_at_sensitivity(y, score, average=None), each)
    assert specificity_at_sensitivity(y, score) == pytest.approx(np.mean(each))
    names = np.array(["a", "b", "c"])
    np.testing.assert_allclose(
        specificity_at_sensitivity(names[y], score[:, ::-1], labels=["c", "b", "a"], average=None),
        each[::-1],
    )
    with pytest.raises(ValueError, match="3 columns for 2 classes"):
        specificity_at_sensitivity(y % 2, score)
    with pytest.raises(ValueError, match="without rows are"):
        specificity_at_sensitivity(y % 2, score, labels=[0, 1, 2])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: allowed_misses(10, 1.0), "target_level must be a share"),
        (lambda: allowed_misses(10, confidence_level=2), "confidence_level must be a share"),
        (lambda: rows_needed(misses=-1), "at least 0"),
        (lambda: specificity_at_sensitivity([0, 1], [0, 1], sensitivity=95), "sensitivity must be"),
        (lambda: sensitivity_at_specificity([0, 1], [0, 1], average="micro"), "'macro' or None"),
        (lambda: sensitivity_at_specificity([0, 1], [0, np.nan]), "NaN"),
    ],
)
def test_bad_values_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_metrics_make_scorers():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 200)
    X = rng.normal(size=(200, 3)) + y[:, None]
    words = np.array(["healthy", "ill"])[y]
    clf, by_words = LogisticRegression().fit(X, y), LogisticRegression().fit(X, words)
    costs = [[0, 1], [5, 0]]
    scorer = make_scorer(expected_cost, greater_is_better=False, cost_matrix=costs)
    value = -expected_cost(y, clf.predict(X), costs)
    assert scorer(clf, X, y) == scorer(by_words, X, words) == pytest.approx(value)
    methods = ("decision_function", "predict_proba")
    for metric in (specificity_at_sensitivity, sensitivity_at_specificity):
        value = metric(y, clf.decision_function(X))
        assert make_scorer(metric, response_method=methods)(clf, X, y) == pytest.approx(value)
        scorer = make_scorer(metric, response_method=methods, pos_label="ill")
        assert scorer(by_words, X, words) == pytest.approx(value)
    scorer = make_scorer(specificity_at_sensitivity, response_method=methods, sensitivity=0.9)
    assert cross_val_score(clf, X, y, scoring=scorer).shape == (5,)
    search = GridSearchCV(clf, {"C": [0.1, 1]}, scoring=scorer, cv=3).fit(X, y)
    assert 0 < search.best_score_ <= 1
    several = LogisticRegression().fit(X, y + (X[:, 0] > 2))
    scorer = make_scorer(specificity_at_sensitivity, response_method=methods)
    assert 0 <= scorer(several, X, y + (X[:, 0] > 2)) <= 1
