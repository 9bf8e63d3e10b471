"""Probes of other folds, and the temperature of what they say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer._scoring.features import cross_fitted
from sktransfer._utils.logistic import fit_temperature


@pytest.fixture
def drawn():
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    return rng.normal(size=(90, 40)) + np.eye(3, 40)[y], y


def test_rows_are_predicted_as_by_cross_validated_pipelines(drawn):
    X, y = drawn
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, tol=1e-10, max_iter=5000))
    expected = cross_val_predict(probe, X, y, cv=folds, method="predict_log_proba")
    found = cross_fitted(X, y, np.ones(90), 3, folds.split(X, y))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def smoothed_loss(log_probabilities, y, weight, log_inverse):
    """Compute the log loss with one more row of each class for every class, spread over all."""
    found = log_softmax(np.exp(log_inverse) * log_probabilities, axis=1)
    n_classes = found.shape[1]
    even = n_classes / (weight.sum() + n_classes)
    own = found[np.arange(len(y)), y]
    return -weight @ ((1 - even) * own + even * found.mean(axis=1))


@pytest.mark.parametrize("factor", [0.2, 1.0, 6.0])
def test_the_temperature_has_the_least_loss(drawn, factor):
    X, y = drawn
    weight = np.random.default_rng(1).choice([0.5, 1.0, 3.0], 90)
    logits = factor * X[:, :3]
    found = fit_temperature(log_softmax(logits, axis=1), y, weight)
    best = minimize_scalar(
        lambda x: smoothed_loss(logits, y, weight, x), bounds=(-5, 5), options={"xatol": 1e-9}
    )
    assert found == pytest.approx(np.exp(-best.x), rel=1e-4)


def test_a_temperature_undoes_a_factor_and_counts_weights_as_rows(drawn):
    X, y = drawn
    logits = X[:, :3]
    base = fit_temperature(logits, y)
    assert fit_temperature(7 * logits, y) == pytest.approx(7 * base, rel=1e-9)
    twice = np.where(np.arange(90) < 30, 2, 1)
    rows = np.repeat(np.arange(90), twice)
    assert fit_temperature(logits, y, twice) == pytest.approx(
        fit_temperature(logits[rows], y[rows])
    )


def test_rows_all_predicted_correctly_do_not_make_the_next_one_certain():
    y = np.arange(40) % 2
    logits = np.eye(2)[y]
    p = np.exp(log_softmax(logits / fit_temperature(logits, y), axis=1))
    assert 0.9 < p[np.arange(40), y].min() < 0.99
