"""TransferClassifier with several findings per image."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import KFold, cross_val_score

from sktransfer import PretrainedFeatureExtractor, TransferClassifier

NAMES = ["Stripes", "Bright", "Columns"]


def network(name="squeezenet1_1"):
    return PretrainedFeatureExtractor(name, weights=None, image_size=32)


@pytest.fixture(scope="module")
def task():
    """Noise in which each of three findings is planted by itself; some are unknown."""
    rng = np.random.default_rng(0)
    Y = (rng.random((60, 3)) < [0.5, 0.4, 0.3]).astype(float)
    X = rng.integers(60, 120, (60, 24, 24, 3))
    X[:, ::4] += (70 * Y[:, 0]).astype(int)[:, None, None, None]
    X += (40 * Y[:, 1]).astype(int)[:, None, None, None]
    X[:, :, ::6] -= (50 * Y[:, 2]).astype(int)[:, None, None, None]
    truth = pd.DataFrame(Y, columns=NAMES)
    return X.astype(np.uint8), truth, truth.mask(rng.random(Y.shape) < 0.2)


@pytest.fixture(scope="module")
def fitted(task):
    X, _, y = task
    networks = [network(), network("squeezenet1_0")]
    return TransferClassifier(networks, random_state=0).fit(X, y)


def test_columns_are_independent_probabilities_of_named_findings(task, fitted):
    X, truth, _ = task
    proba = fitted.predict_proba(X)
    assert fitted.classes_.tolist() == NAMES == fitted.class_names_
    assert proba.shape == (60, 3)
    assert np.array_equal(fitted.predict(X), proba > 0.5)
    assert roc_auc_score(truth, proba) > 0.9
    assert fitted.score(X, truth) == np.mean((fitted.predict(X) == truth.to_numpy()).all(axis=1))


def test_the_leaderboard_has_the_mean_over_findings_with_an_interval(task, fitted):
    _, _, y = task
    board = fitted.leaderboard_
    own = board.iloc[0]
    assert fitted.scoring_ == "roc_auc"
    assert own["low"] < own["score"] < own["high"]
    areas, losses = [], []
    told = y.notna().any(axis=1).to_numpy()
    for name, logits in zip(NAMES, fitted._out_of_fold.T, strict=True):
        known = y[name].notna().to_numpy()
        assert np.isfinite(logits[told]).all()
        areas.append(roc_auc_score(y[name][known], logits[known]))
        sign = np.where(y[name][known] == 1, -1, 1)
        losses.append(np.logaddexp(0, sign * logits[known]).mean())
    assert own["score"] == pytest.approx(np.mean(areas))
    assert own["log_loss"] == pytest.approx(np.mean(losses))
    assert board["log_loss"].iloc[1:].is_monotonic_increasing


def test_unknown_findings_change_no_probe_of_the_others(task):
    X, truth, _ = task
    spoiled = truth.copy()
    spoiled.iloc[::3, 2] = np.nan
    probes = [
        TransferClassifier(network(), random_state=0).fit(X, y).best_estimator_[-1]
        for y in (truth, spoiled)
    ]
    np.testing.assert_allclose(probes[0].coef_[:2], probes[1].coef_[:2], atol=1e-8)


def test_files_and_pickles_predict_the_same(task, fitted, tmp_path):
    X, *_ = task
    networks = [network(), network("squeezenet1_0")]
    single = TransferClassifier(networks, random_state=0).fit(X, task[2][NAMES[:2]])
    for clf in (fitted, single):
        expected = clf.predict_proba(X[:5])
        clf.save(tmp_path / "model.safetensors", store_weights=True)
        loaded = TransferClassifier.load(tmp_path / "model.safetensors")
        for again in (loaded, pickle.loads(pickle.dumps(clf))):
            assert again.classes_.tolist() == clf.classes_.tolist()
            np.testing.assert_allclose(again.predict_proba(X[:5]), expected, atol=1e-6)


def test_order_of_rows_does_not_matter(task, fitted):
    X, _, y = task
    order = np.random.default_rng(1).permutation(60)
    again = TransferClassifier(fitted.backbones, random_state=0).fit(X[order], y.iloc[order])
    np.testing.assert_allclose(again.predict_proba(X), fitted.predict_proba(X), atol=1e-4)


def test_a_row_of_which_nothing_is_known_is_left_out(task):
    X, truth, _ = task
    spoiled = truth.copy()
    spoiled.iloc[:5] = np.nan
    clf = TransferClassifier(network(), random_state=0).fit(X, spoiled)
    assert (clf.leaderboard_["n_rows"] == 55).all()


def test_cross_validation_scores_the_mean_over_findings(task):
    X, truth, _ = task
    scores = cross_val_score(
        TransferClassifier(network(), random_state=0), X, truth, scoring="roc_auc", cv=KFold(3)
    )
    assert (scores > 0.8).all()


@pytest.mark.parametrize("several", [1, 3])
def test_the_best_network_is_fine_tuned_for_all_findings(task, several):
    X, _, y = task
    y = y[NAMES] if several > 1 else [{"Bright"} if each == 1 else set() for each in y["Bright"]]
    plan = {
        "backbones": ["squeezenet1_1"],
        "fine_tuned": [{"backbone": "squeezenet1_1", "folds": 2}],
        "random_state": 0,
    }
    clf = TransferClassifier({"squeezenet1_1": network()}, time_budget=plan).fit(X, y)
    assert "squeezenet1_1, fine-tuned" in clf.leaderboard_["candidate"].tolist()
    assert clf.predict_proba(X).shape == (60, several)
