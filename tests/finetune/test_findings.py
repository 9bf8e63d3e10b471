"""Several findings per image: FineTuneClassifier with multi-label ``y``."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from skorch.callbacks import EpochScoring
from torch import nn

from sktransfer import FineTuneClassifier
from sktransfer._finetune._optimizers import WeightedLoss
from sktransfer._finetune._targets import Findings
from sktransfer.exceptions import FailedRowsWarning
from sktransfer.preprocessing import ImageAugmentation

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


def test_sets_of_names_and_one_finding_are_several_too(task):
    X, Y = task
    sets = [{name for name in NAMES if row[name]} for _, row in Y.iterrows()]
    clf = net().fit(X, sets)
    assert clf.classes_.tolist() == sorted(NAMES)
    expected = net().fit(X, Y[sorted(NAMES)])
    np.testing.assert_allclose(clf.decision_function(X), expected.decision_function(X), atol=1e-6)
    assert clf.score(X, sets) == expected.score(X, Y)
    one = net().fit(X, [{"Bright"} & names for names in sets])
    assert one.predict_proba(X).shape == (60, 1)
    np.testing.assert_allclose(one.predict_proba(X)[:, 0], clf.predict_proba(X)[:, 0], atol=1e-6)


def test_a_row_of_which_nothing_is_known_is_not_trained_on(task):
    X, Y = task
    spoiled = Y.astype(float)
    spoiled.iloc[:5] = np.nan
    clf = net().fit(X, spoiled)
    assert clf.train_indices_.tolist() == list(range(5, 60))
    expected = net().fit(X[5:], Y[5:]).decision_function(X)
    np.testing.assert_allclose(clf.decision_function(X), expected, atol=1e-6)


def test_files_pickles_and_resumed_trainings_keep_their_findings(task, tmp_path):
    X, Y = task
    pair = NAMES[1::-1]  # two, and not in the order of the alphabet
    clf = net(freeze_depth=-1, max_epochs=1, warm_start=True).fit(X, Y[pair])
    clf.save(tmp_path / "model.safetensors")
    for again in (
        FineTuneClassifier.load(tmp_path / "model.safetensors"),
        pickle.loads(pickle.dumps(clf)),
    ):
        assert again.classes_.tolist() == pair
        np.testing.assert_allclose(again.predict_proba(X), clf.predict_proba(X), atol=1e-6)
        assert len(again.fit(X, Y[pair]).history_) == 2
    clf.partial_fit(X, Y[NAMES[:2]])  # columns are found by their names
    with pytest.raises(ValueError, match="has the labels"):
        clf.partial_fit(X, Y)
    with pytest.raises(ValueError, match="of another kind"):
        clf.partial_fit(X, Y[NAMES[0]])


def test_the_chosen_share_is_judged_on_unseen_rows_by_all_findings(task):
    X, Y = task
    unknown = Y.mask(np.random.default_rng(0).random(Y.shape) < 0.2)
    for settings in ({}, {"validation_fraction": 0.3, "early_stopping": 2}):
        start = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU())
        backbone = [start, nn.Sequential(nn.Conv2d(4, 8, 3, 2), nn.ReLU())]
        clf = net(backbone=backbone, weights="default", freeze_depth=-1, max_epochs=2, **settings)
        clf.fit(X, unknown)
        assert 0 in clf.interpolation_losses_
        assert np.isfinite(list(clf.interpolation_losses_.values())).all()
        assert {"train_loss", "train_acc"} <= clf.history_[-1].keys()


def test_training_learns_from_a_random_head(task):
    X, Y = task
    settings = {"freeze_depth": -1, "head__init": "random", "lr": 1e-3, "max_epochs": 12}
    clf = net(**settings, augmentation="light", loss__label_smoothing=0.1).fit(X, Y)
    assert clf.history_[-1]["train_loss"] < clf.history_[0]["train_loss"]
    assert roc_auc_score(Y, clf.predict_proba(X)) > 0.8


@pytest.mark.parametrize("loss", ["focal", nn.BCEWithLogitsLoss, nn.MultiLabelSoftMarginLoss])
def test_other_losses_take_findings(task, loss):
    X, Y = task
    clf = net(freeze_depth=-1, max_epochs=1, loss=loss, lr=1e-4).fit(X, Y)
    assert np.isfinite(clf.history_[-1]["train_loss"])
    assert roc_auc_score(Y, clf.predict_proba(X)) > 0.7


def test_unknown_findings_have_no_gradient():
    clf = net(freeze_depth="all")
    clf._target = Findings(np.array(NAMES, dtype=object))
    logits = torch.zeros(2, 3, requires_grad=True)
    y = torch.tensor([[1.0, torch.nan, 0.0], [torch.nan, 1.0, 1.0]])
    for loss in ("binary_cross_entropy", "binary_focal"):
        logits.grad = None
        WeightedLoss(loss)(logits, *clf._target.of_loss(y, torch.ones(2))).backward()
        assert torch.equal(logits.grad != 0, ~y.isnan())


def test_mixed_images_have_mixed_findings(task):
    X, Y = task
    mixing = ImageAugmentation(mixup=0.4)
    unknown = Y.mask(np.random.default_rng(0).random(Y.shape) < 0.2)
    weight = np.linspace(0.5, 1.5, 60)
    clf = net(freeze_depth=-1, max_epochs=1, augmentation=mixing).fit(X, unknown, weight)
    assert np.isfinite(clf.history_[-1]["train_loss"])


def test_weights_of_findings_are_repeated_rows(task):
    X, Y = task
    present = Y["Columns"].to_numpy() == 1
    again = np.concatenate([np.arange(60), np.flatnonzero(present)])
    doubled = net(class_weight={"Columns": 2}).fit(X, Y).decision_function(X)
    plain = net().fit(X, Y).decision_function(X)
    np.testing.assert_allclose(doubled[:, :2], plain[:, :2], atol=1e-6)
    assert (doubled[:, 2] > plain[:, 2]).mean() > 0.9
    weighted = net().fit(X, Y, np.where(present, 2.0, 1.0)).decision_function(X)
    np.testing.assert_allclose(
        weighted, net().fit(X[again], Y.iloc[again]).decision_function(X), atol=1e-5
    )


def test_a_finding_that_no_row_has_is_constant_with_a_warning(task):
    X, Y = task
    with pytest.warns(UserWarning, match="Nothing is learned of 'Bright'"):
        clf = net().fit(X, Y.assign(Bright=0))
    assert np.ptp(clf.predict_proba(X)[:, 1]) < 1e-6
    with pytest.raises(ValueError, match="one class in every column"):
        net().fit(X, 0 * Y)


def test_binary_cross_entropy_of_one_class_a_row(task):
    X, Y = task
    same, plain = (
        net(loss=loss).fit(X, Y["Bright"]).predict_proba(X)
        for loss in ("binary_cross_entropy", "cross_entropy")
    )
    np.testing.assert_allclose(same, plain)
    with pytest.raises(ValueError, match="do not exclude each other"):
        net(loss="binary_cross_entropy").fit(X, np.arange(60) % 3)


def test_unreadable_images_are_nan_in_every_column(task):
    X, Y = task
    images = [*X.astype(np.uint8), b"no image"]
    y = pd.concat([Y, Y[:1]])
    with pytest.warns(FailedRowsWarning):
        clf = net(on_error="nan").fit(images, y)
    with pytest.warns(FailedRowsWarning):
        assert np.isnan(clf.predict_proba(images[-2:])).all(axis=1).tolist() == [False, True]


def test_scikit_learns_and_skorchs_scores_work(task):
    X, Y = task
    scores = cross_val_score(net(), X, Y, scoring="roc_auc", cv=KFold(3))
    assert (scores > 0.8).all()
    search = GridSearchCV(net(), {"head__C": [1e-3, 0.1]}, scoring="roc_auc", cv=2).fit(X, Y)
    assert search.predict(X).shape == (60, 3)
    scored = EpochScoring("average_precision", lower_is_better=False, name="valid_ap")
    clf = net(freeze_depth=-1, max_epochs=1, validation_fraction=0.3, callbacks=[scored]).fit(X, Y)
    assert 0 < clf.history_[-1]["valid_ap"] <= 1


def test_find_lr_takes_findings(task):
    X, Y = task
    unknown = Y.mask(np.random.default_rng(0).random(Y.shape) < 0.2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = net(freeze_depth=-1).find_lr(X, unknown, n_steps=10, n_runs=1)
    assert np.isfinite(found.valid_start)
