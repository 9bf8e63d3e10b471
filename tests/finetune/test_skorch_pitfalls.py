"""Pitfalls of skorch nets that users reported, or that a review found: none of them is left."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from imblearn.over_sampling import RandomOverSampler
from imblearn.pipeline import Pipeline
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import AdaBoostClassifier
from sklearn.model_selection import GridSearchCV, KFold
from skorch.callbacks import Checkpoint, EarlyStopping, EpochScoring, LRScheduler
from skorch.dataset import ValidSplit
from skorch.helper import predefined_split

from sktransfer import FineTuneClassifier
from sktransfer._finetune._activations import Prefix
from sktransfer._finetune._network import Suffix
from sktransfer._finetune._skorch import TrainingNet
from sktransfer.preprocessing import ImageAugmentation
from tests.counting import Counted

NET = "squeezenet1_1"


def learned(clf):
    return {name: tensor.clone() for name, tensor in clf.module_.learned().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("labels", [["ant", "bee"], [1, 2], [False, True], [-1, 1]])
@pytest.mark.parametrize("caching", [True, False])
@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_skorchs_scorers_see_class_labels(small, task, labels, caching, device):
    X, y = task
    callbacks = [
        EpochScoring("accuracy", lower_is_better=False, name="a", use_caching=caching),
        EpochScoring("roc_auc", lower_is_better=False, name="r", use_caching=caching),
        EpochScoring(
            "accuracy", lower_is_better=False, name="t", on_train=True, use_caching=caching
        ),
    ]
    clf = small(
        NET,
        callbacks=callbacks,
        validation_fraction=0.25,
        device=device,
        early_stopping__restore_best=False,
    )
    clf.fit(X, np.array(labels)[y])
    held = clf.valid_indices_
    last = clf.history_[-1]
    assert last["a"] == last["valid_acc"] == clf.score(X[held], np.array(labels)[y][held])
    assert 0.5 < last["r"] <= 1
    assert 0.5 < last["t"] <= 1
    assert clf.device == device


def test_settings_that_would_not_count_are_refused(small, task):
    for name in ("optimizer__lr", "optimizer__weight_decay"):
        with pytest.raises(ValueError, match=f"{name} would not count"):
            small(NET, **{name: 0.5}).fit(*task)
    with pytest.raises(ValueError, match="loss__gamma is not a setting of CrossEntropyLoss"):
        small(NET, loss=torch.nn.CrossEntropyLoss, loss__gamma=0.1).fit(*task)
    with pytest.raises(ValueError, match="optimizer__momentum is not a setting of AdamW"):
        small(NET, optimizer__momentum=0.9).fit(*task)
    with pytest.raises(ValueError, match="no callback of that name"):
        small(NET, callbacks__nope__x=1).fit(*task)
    with pytest.raises(ValueError, match=r"loss__weight .* set class_weight"):
        small(NET, loss__weight=[1.0, 2.0]).fit(*task)


@pytest.mark.parametrize(
    "callback",
    [EarlyStopping(), ("stop", EarlyStopping(monitor="valid_acc")), Checkpoint(dirname="unused")],
)
def test_callbacks_that_watch_held_out_rows_need_some(small, task, callback):
    with pytest.raises(ValueError, match=r"watches 'valid_.*Set validation_fraction"):
        small(NET, callbacks=[callback], validation_fraction=None).fit(*task)


def test_callbacks_that_watch_what_is_not_recorded_are_told_what_is(small, task):
    with pytest.raises(ValueError, match=r"'my_score' was not found.* train_acc"):
        small(NET, callbacks=[EarlyStopping(monitor="my_score")]).fit(*task)
    stop = EarlyStopping(monitor="train_loss", patience=1, threshold=10, sink=lambda text: None)
    assert len(small(NET, callbacks=[stop], max_epochs=5).fit(*task).history_) < 5


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_weights_of_classes_reach_torchs_losses_in_any_form(small, task, kind):
    clf = small(NET, loss=torch.nn.CrossEntropyLoss, loss__weight=kind([1.0, 3.0])).fit(*task)
    assert clf.criterion_.inner.weight.tolist() == [1.0, 3.0]
    assert clf.criterion_.inner.weight.dtype == torch.float32
    with pytest.raises(ValueError, match=r"one positive number for each class of .*got"):
        clf.set_params(loss__weight=kind([1.0, 2.0, 3.0])).fit(*task)


def test_masked_labels_and_weights_are_refused(small, task):
    X, y = task
    mask = np.arange(len(y)) == 3
    with pytest.raises(ValueError, match="have no label, the first is row 3"):
        small(NET).fit(X, np.ma.masked_array(y, mask))
    with pytest.raises(ValueError, match="sample_weight is masked in row 3"):
        small(NET).fit(X, y, sample_weight=np.ma.masked_array(np.ones(len(y)), mask))
    assert len(small(NET, max_epochs=0).fit(X, np.ma.masked_array(y)).classes_) == 2
    with pytest.raises(ValueError, match=r"'rates' would not count.*lr_schedule"):
        small(NET, callbacks=[("rates", LRScheduler())]).fit(*task)


def test_a_loss_of_log_probabilities_needs_a_head_that_returns_them(small, task):
    with pytest.raises(ValueError, match="the head gives logits: use loss='cross_entropy'"):
        small(NET, loss=torch.nn.NLLLoss).fit(*task)
    settings = {"max_epochs": 1, "head__init": "random", "head__epochs": 1}
    own = small(NET, loss=torch.nn.NLLLoss, head=log_softmax_head, **settings).fit(*task)
    np.testing.assert_allclose(own.predict_proba(task[0]).sum(axis=1), 1)
    assert own.history_[-1]["train_loss"] > 0


def log_softmax_head(n_features, n_classes):
    return torch.nn.Sequential(torch.nn.Linear(n_features, n_classes), torch.nn.LogSoftmax(dim=1))


def test_sample_weights_reach_it_through_other_estimators(small, task):
    """A wrong label of weight 0 does no harm: with skorch's split, in calibration, in boosting."""
    X, y = task
    wrong = (np.arange(len(y)) >= 12) & (np.arange(len(y)) < 18)
    weight, flipped = np.where(wrong, 0.0, 1.0), np.where(wrong, 1 - y, y)
    for clf in (
        small(validation_fraction=ValidSplit(4), lr=1e-3),
        CalibratedClassifierCV(small(NET, freeze_depth="all"), cv=KFold(2), method="temperature"),
    ):
        a, b = (
            clone(clf).fit(X, labels, sample_weight=weight).predict_proba(X)
            for labels in (y, flipped)
        )
        np.testing.assert_allclose(a, b, atol=1e-6)
        assert not np.allclose(clone(clf).fit(X, flipped).predict_proba(X), a, atol=1e-3)
    rows = X.reshape(len(X), -1)
    probe = small(NET, image_shape=(24, 24, 3), freeze_depth="all")
    boosted = AdaBoostClassifier(probe, n_estimators=2, random_state=0).fit(rows, flipped)
    # The second round is of what the first one got wrong.
    again = clone(boosted.estimators_[1])
    missed = boosted.estimators_[0].predict(rows) != flipped
    assert missed.any()
    (error,) = boosted.estimator_errors_[:1]
    shifted = np.where(missed, (1 - error) / error, 1.0) / len(rows)
    by_hand = again.fit(rows, flipped, sample_weight=shifted / shifted.sum())
    P = boosted.estimators_[1].predict_proba(rows)
    np.testing.assert_allclose(by_hand.predict_proba(rows), P, atol=1e-6)
    assert not np.allclose(again.fit(rows, flipped).predict_proba(rows), P, atol=1e-3)


def test_a_search_that_was_fitted_can_be_copied(small, task):
    callbacks = [EpochScoring("accuracy", lower_is_better=False, name="a")]
    clf = small(NET, max_epochs=1, callbacks=callbacks, validation_fraction=0.25)
    search = GridSearchCV(clf, {"lr": [1e-4, 1e-3]}, cv=2).fit(*task)
    P = search.predict_proba(task[0])
    for again in (copy.deepcopy(search), pickle.loads(pickle.dumps(search))):
        assert np.array_equal(again.predict_proba(task[0]), P)


def test_a_module_instance_is_refused_as_head_or_loss(small, task):
    with pytest.raises(ValueError, match="head is a module, Linear"):
        small(NET, head=torch.nn.Linear(512, 2)).fit(*task)
    with pytest.raises(ValueError, match="loss is a module, CrossEntropyLoss"):
        small(NET, loss=torch.nn.CrossEntropyLoss()).fit(*task)
    shared = torch.nn.Linear(512, 2)
    clf = small(NET, head=lambda n_features, n_classes: shared, head__layers="embedding")
    first = learned(clf.fit(*task))
    assert same(first, learned(clone(clf).fit(*task)))
    assert not torch.equal(first["head.1.weight"], shared.weight)


def test_disabled_callbacks_still_record_losses(small, task, capsys):
    clf = small(NET, callbacks="disable", validation_fraction=0.25, verbose=1).fit(*task)
    assert all(np.isfinite(clf.history_[:, ("train_loss", "valid_loss")]).ravel())
    assert "train_loss" not in capsys.readouterr().out


def test_labels_may_be_a_tensor(small, task):
    X, y = task
    search = GridSearchCV(small(NET, max_epochs=1), {"lr": [1e-4, 1e-3]}, cv=2)
    assert search.fit(X, torch.from_numpy(y)).score(X, y) > 0.5


def test_copies_of_an_image_are_held_out_together(small, task):
    X, y = task
    rare = np.r_[np.flatnonzero(y == 0), np.flatnonzero(y == 1)[:5]]
    X, y = X[rare].reshape(len(rare), -1), y[rare]
    clf = small(NET, image_shape=(24, 24, 3), validation_fraction=0.3, max_epochs=1)
    pipe = Pipeline([("over", RandomOverSampler(random_state=0)), ("clf", clf)]).fit(X, y)
    over = RandomOverSampler(random_state=0)
    over.fit_resample(X, y)
    rows = over.sample_indices_
    train, held = pipe["clf"].train_indices_, pipe["clf"].valid_indices_
    assert len(set(rows)) < len(rows)
    assert not set(rows[train]) & set(rows[held])
    assert 0.2 < len(held) / len(rows) < 0.4


def test_a_splitter_of_other_rows_is_refused(small, task):
    X, y = task
    split = predefined_split(torch.utils.data.TensorDataset(torch.zeros(3, 1), torch.zeros(3)))
    with pytest.raises(ValueError, match="predefined_split is of that kind"):
        small(NET, validation_fraction=split).fit(X, y)


def test_a_part_whose_weights_are_all_zero_is_refused(small, task):
    X, y = task
    weight = np.repeat([1.0, 0.0], 20)

    def halves(dataset, y):
        return np.arange(20), np.arange(20, 40)

    with pytest.raises(ValueError, match=r"20 rows, .* all zero"):
        small(NET, validation_fraction=halves).fit(X, y, sample_weight=weight)


@pytest.mark.parametrize("precision", ["float64", "bfloat16"])
@pytest.mark.parametrize("freeze_depth", ["all", -1, 0, ["features.3"]])
def test_every_precision_at_every_depth(small, task, precision, freeze_depth):
    clf = small(NET, precision=precision, freeze_depth=freeze_depth, max_epochs=1).fit(*task)
    assert np.isfinite(clf.predict_proba(task[0])).all()


def test_float16_trains_with_scaled_gradients(small, task):
    clf = small(NET, precision="float16", max_epochs=1).fit(*task)
    assert clf._scaler.get_scale() > 1
    plain = small(NET, max_epochs=1).fit(*task)
    apart = np.abs(clf.predict_proba(task[0]) - plain.predict_proba(task[0])).max()
    assert apart < 0.05


def test_a_batch_that_does_not_fit_is_trained_on_in_parts(small, task, monkeypatch):
    settings = {"freeze_depth": -2, "batch_size": 8, "optimizer__max_grad_norm": 1.0, "lr": 1e-3}
    plain = small(NET, **settings).fit(*task)
    seen = []
    infer = TrainingNet.infer

    def with_little_room(self, x, **kwargs):
        if torch.is_grad_enabled():
            seen.append(len(x["x"]))
            if seen[-1] > 3:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return infer(self, x, **kwargs)

    monkeypatch.setattr(TrainingNet, "infer", with_little_room)
    clf = small(NET, **settings)
    with pytest.warns(RuntimeWarning, match="2 rows at once|4 rows at once") as told:
        clf.fit(*task)
    assert len(told) == 1
    assert sorted(set(seen)) == [2, 4, 8]
    for name, tensor in learned(clf).items():
        torch.testing.assert_close(tensor, learned(plain)[name], atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("augmentation", [None, "light"])
def test_embeddings_of_a_batch_that_does_not_fit_are_computed_in_parts(
    small, task, monkeypatch, augmentation
):
    settings = {"freeze_depth": 0, "max_epochs": 0, "augmentation": augmentation}
    plain = small(NET, **settings).fit(*task)
    seen = []
    forward = Suffix.forward

    def with_little_room(self, x, **kwargs):
        seen.append(len(x))
        if seen[-1] > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return forward(self, x, **kwargs)

    monkeypatch.setattr(Suffix, "forward", with_little_room)
    with pytest.warns(RuntimeWarning, match="rows at once") as told:
        clf = small(NET, **settings).fit(*task)
    monkeypatch.undo()
    assert sum("rows at once" in str(each.message) for each in told) == 1
    assert sorted(set(seen)) == [2, 4, 8]
    assert seen.count(8) == seen.count(4) == 1  # how many fit is remembered
    probabilities = clf.predict_proba(task[0])
    np.testing.assert_allclose(probabilities, plain.predict_proba(task[0]), atol=1e-5)


@pytest.mark.parametrize("augmentation", [None, "light"])
def test_predictions_of_a_batch_that_does_not_fit_are_computed_in_parts(
    small, task, monkeypatch, augmentation
):
    clf = small(NET, freeze_depth=-2, augmentation=augmentation, max_epochs=1).fit(*task)
    expected, forward, seen = clf.predict_proba(task[0]), Suffix.forward, []

    def with_little_room(self, x, **kwargs):
        seen.append(len(x))
        if seen[-1] > 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")
        return forward(self, x, **kwargs)

    monkeypatch.setattr(Suffix, "forward", with_little_room)
    with pytest.warns(RuntimeWarning, match="rows at once"):
        predicted = clf.predict_proba(task[0])
    assert sorted(set(seen)) == [2, 4, 8]
    np.testing.assert_allclose(predicted, expected, atol=1e-5)


def test_a_frozen_part_without_room_for_a_batch_runs_in_parts(small, task, monkeypatch):
    settings = {"freeze_depth": -1, "augmentation": "light", "max_epochs": 1}
    plain = small(NET, **settings).fit(*task).predict_proba(task[0])
    forward = Prefix.forward

    def with_little_room(self, batch):
        if len(batch) > 3:
            raise MemoryError
        return forward(self, batch)

    monkeypatch.setattr(Prefix, "forward", with_little_room)
    with pytest.warns(RuntimeWarning, match="rows at once"):
        clf = small(NET, **settings).fit(*task)
    monkeypatch.undo()
    np.testing.assert_allclose(clf.predict_proba(task[0]), plain, atol=1e-3)


def batch_norm_head(n_features, n_classes):
    return torch.nn.Sequential(
        torch.nn.Linear(n_features, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, n_classes)
    )


def test_a_batch_of_one_is_left_out_for_batch_norm_in_the_head(small, task):
    X, y = task
    clf = small(NET, head=batch_norm_head, freeze_depth="all").fit(X[:33], y[:33])
    assert np.isfinite(clf.predict_proba(X)).all()


@pytest.mark.filterwarnings("ignore:.*suggestion")  # a network of noise, and few steps
@pytest.mark.parametrize("freeze_depth", [0, -1])
def test_the_rate_finder_at_any_depth_and_with_broken_rows(small, task, freeze_depth):
    X, y = task
    rows = [*X[:9], b"no image", *X[9:]]
    labels = np.insert(y, 9, 0)
    clf = small(NET, freeze_depth=freeze_depth, on_error="nan", class_weight="balanced")
    with pytest.warns(UserWarning, match="left out of training"):
        found = clf.find_lr(rows, labels, lr_min=1e-6, n_steps=30, n_runs=1)
    assert np.isfinite(found.loss).sum() > 5
    assert np.isnan(found.suggestion) or 1e-6 < found.suggestion < 1
    assert not clf.initialized_


@pytest.mark.filterwarnings("ignore:.*suggestion")
def test_the_rate_finder_runs_the_frozen_part_once(small, task, tmp_path):
    counted = Counted(tmp_path / "log")
    small(NET, preprocessing=counted, cache=False).find_lr(*task, n_steps=15, n_runs=2)
    assert counted.n == len(task[1])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda header: header["params"].update(lr=-1),
        lambda header: header["params"].pop("lr"),
        lambda header: header["params"].update(augmentation={"type": "evil", "items": []}),
        lambda header: header.update(params=[]),
        lambda header: header["reference"].update(nope=1),
    ],
)
def test_a_tampered_file_is_refused_by_name(small, task, tmp_path, spoil):
    import json

    import safetensors
    import safetensors.torch

    path = tmp_path / "clf.safetensors"
    small(NET, max_epochs=1).fit(*task).save(path)
    with safetensors.safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["sktransfer"])
    spoil(header)
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file(tensors, path, {"sktransfer": json.dumps(header)})
    with pytest.raises(ValueError, match=r"clf.safetensors"):
        FineTuneClassifier.load(path)


class Own(ImageAugmentation):
    def __call__(self, image, seed):
        return image


def test_code_is_not_saved_as_something_else(small, task, tmp_path):
    clf = small(NET, augmentation=Own(), max_epochs=1).fit(*task)
    with pytest.raises(ValueError, match=r"augmentation=.*is code"):
        clf.save(tmp_path / "clf.safetensors")
    dates = np.array(["2024-01-01", "2025-01-01"], dtype="datetime64[D]")[task[1]]
    dated = copy.copy(small(NET, max_epochs=1)).fit(task[0], dates)
    with pytest.raises(ValueError, match="datetime64"):
        dated.save(tmp_path / "clf.safetensors")
