"""Several findings per image: FineTuneClassifier with multi-label ``y``."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from sktransfer import FineTuneClassifier

NAMES = ["Stripes", "Bright", "Columns"]


@pytest.fixture(scope="module")
def task():
    """Noise in which each of three findings is planted by itself."""
    rng = np.random.default_rng(0)
    Y = (rng.random((60, 3)) < [0.5, 0.4, 0.3]).astype(int)
    X = rng.integers(60, 120, (60, 24, 24, 3))
    X[:, ::4] += (70 * Y[:, 0])[:, None, None, None]
    X += (40 * Y[:, 1])[:, None, None, None]
    X[:, :, ::6] -= (50 * Y[:, 2])[:, None, None, None]
    return X.astype(np.uint8), pd.DataFrame(Y, columns=NAMES)


def net(**params):
    settings = {"weights": None, "image_size": 32, "freeze_depth": "all", "random_state": 0}
    return FineTuneClassifier(**{"backbone": "squeezenet1_1", **settings, **params})


def test_it_predicts_an_indicator_matrix_with_independent_columns(task):
    X, Y = task
    clf = net().fit(X, Y)
    assert clf.classes_.tolist() == NAMES == clf.class_names_
    proba, decision, predicted = clf.predict_proba(X), clf.decision_function(X), clf.predict(X)
    assert proba.shape == decision.shape == predicted.shape == (60, 3)
    np.testing.assert_allclose(proba, 1 / (1 + np.exp(-decision)))
    assert np.array_equal(predicted, proba > 0.5)
    assert predicted.dtype.kind == "i"
    assert not np.allclose(proba.sum(axis=1), 1)
    assert roc_auc_score(Y, proba) > 0.9


def test_each_finding_is_solved_as_by_a_fit_of_its_own(task):
    X, Y = task
    together = net().fit(X, Y).decision_function(X)
    for place, name in enumerate(NAMES):
        alone = net().fit(X, Y[name]).decision_function(X)
        np.testing.assert_allclose(together[:, place], alone, atol=1e-5)


@pytest.mark.parametrize("freeze_depth", ["all", -1])
def test_unknown_findings_change_nothing_for_the_others(task, freeze_depth):
    X, Y = task
    spoiled = Y.astype(float)
    spoiled.iloc[::3, 2] = np.nan
    settings = {"freeze_depth": freeze_depth, "max_epochs": 1, "weight_interpolation": 0}
    found = [net(**settings).fit(X, y).decision_function(X) for y in (Y, spoiled)]
    np.testing.assert_allclose(found[0][:, :2], found[1][:, :2], atol=1e-6)
    assert not np.allclose(found[0][:, 2], found[1][:, 2], atol=1e-3)
