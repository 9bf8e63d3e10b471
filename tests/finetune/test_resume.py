"""After a fit: failures, training that is resumed, changed parameters, other processes."""

from __future__ import annotations

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import Callback

from sktransfer import FineTuneClassifier
from sktransfer._finetune._checkpoint import identity
from sktransfer.exceptions import ImageDecodeError
from sktransfer.preprocessing import ImageAugmentation

NET = "squeezenet1_1"


def learned(clf):
    return {name: tensor.clone() for name, tensor in clf.module_.learned().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- after a failure -----------------------------------------------------------------------------


def test_a_failed_fit_is_not_fitted(small, task):
    X, y = task
    clf = small(NET, validation_fraction=0.01)
    with pytest.raises(ValueError, match="Holding out"):
        clf.fit(X, y)
    with pytest.raises(NotFittedError):
        clf.predict_proba(X)
    clf.set_params(validation_fraction=None).partial_fit(X, y)
    assert same(learned(clf), learned(small(NET).fit(X, y)))


def test_a_fit_that_fails_in_training_is_not_fitted(small, task):
    X, y = task
    clf = small(NET, lr=1e30, optimizer="sgd", lr_schedule="constant", max_epochs=5).fit
    fitted = small(NET).fit(X, y)
    with pytest.raises(FloatingPointError, match="learning rate is too high"):
        clf(X, y)
    with pytest.raises(FloatingPointError):
        fitted.set_params(lr=1e30, optimizer="sgd", max_epochs=5).fit(X, y)
    with pytest.raises(NotFittedError):
        fitted.predict(X)


def test_unreadable_rows_leave_a_fitted_estimator_as_it_is(small, task):
    X, y = task
    clf = small(NET).fit(X, y)
    before = clf.predict_proba(X)
    with pytest.raises(ImageDecodeError):
        clf.partial_fit([b"no image", X[0]], [0, 1])
    assert np.array_equal(clf.predict_proba(X), before)


# --- further training ----------------------------------------------------------------------------


def test_changed_parameters_count_when_training_resumes(small, task):
    X, y = task
    clf = small(NET, lr=1e-3).fit(X, y)
    before = learned(clf)
    clf.set_params(lr=1e-12, weight_decay=0.0).partial_fit(X, y)
    for name, tensor in learned(clf).items():
        if name != "head.0.limit":  # of what training has seen, which is more now
            torch.testing.assert_close(tensor, before[name], atol=1e-8, rtol=0)
    clf.set_params(lr=1e-3, optimizer="sgd", loss="focal").partial_fit(X, y)
    assert isinstance(clf.optimizer_, torch.optim.SGD)
    assert clf.criterion_.loss == "focal"
    assert not same(learned(clf), before)


def test_moments_of_the_optimizer_are_kept(small, task):
    clf = small(NET, lr=1e-3).fit(*task)
    moments = {id(p): s["exp_avg"].clone() for p, s in clf.optimizer_.state.items()}
    clf.set_params(max_epochs=0).partial_fit(*task)
    assert moments
    for parameter, state in clf.optimizer_.state.items():
        assert torch.equal(state["exp_avg"], moments[id(parameter)])


@pytest.mark.parametrize(
    "change", [{"backbone": "resnet34"}, {"head": (8,)}, {"image_size": 64}, {"head__dropout": 0.3}]
)
@pytest.mark.parametrize("way", ["partial_fit", "warm start"])
def test_another_network_cannot_be_trained_further(small, task, change, way):
    clf = small(NET, warm_start=way == "warm start").fit(*task).set_params(**change)
    with pytest.raises(ValueError, match=f"{next(iter(change))} is .* now"):
        (clf.fit if way == "warm start" else clf.partial_fit)(*task)


@pytest.mark.parametrize(
    "change",
    [{"freeze_depth": 0}, {"head": (8,)}, {"image_size": 64}, {"precision": "bfloat16"}],
)
def test_parameters_set_after_a_fit_change_no_prediction(small, task, tmp_path, change):
    X, _ = task
    clf = small(NET).fit(*task)
    before = clf.predict_proba(X)
    clf.set_params(**change)
    clf.save(tmp_path / "clf.safetensors")
    assert np.array_equal(clf.predict_proba(X), before)
    assert np.array_equal(pickle.loads(pickle.dumps(clf)).predict_proba(X), before)
    again = FineTuneClassifier.load(tmp_path / "clf.safetensors")
    assert np.array_equal(again.predict_proba(X), before)
    for name, value in change.items():
        assert getattr(again, name) == value


def test_the_first_batch_may_be_of_one_class(small, task):
    X, y = task
    clf = small(NET).partial_fit(X[y == 0], y[y == 0], classes=[0, 1])
    clf.partial_fit(X, y)
    assert clf.predict_proba(X).shape == (len(y), 2)
    with pytest.raises(ValueError, match="two classes"):
        small(NET).partial_fit(X[y == 0], y[y == 0])


def test_each_call_has_draws_of_its_own(small, task):
    seen = []

    class Order(Callback):
        def on_batch_begin(self, net, batch=None, training=False, **kwargs):
            if training:
                seen[-1].append(batch[0]["x"][:, :3].tolist())

    clf = small(NET, max_epochs=1, callbacks=[("order", Order())])
    for _ in range(3):
        seen.append([])
        clf.partial_fit(*task)
    assert seen[0] != seen[1] != seen[2] != seen[0]


# --- checkpoints ---------------------------------------------------------------------------------


def test_a_finished_checkpoint_is_not_used_for_the_next_training(small, task, tmp_path):
    X, y = task
    plain, kept = (small(NET, lr=1e-3, checkpoint__dir=d) for d in (None, tmp_path))
    for clf in (plain, kept):
        clf.fit(X, y).partial_fit(X[:20], y[:20]).partial_fit(X, y)
    assert same(learned(plain), learned(kept))
    assert len(plain.history_) == len(kept.history_) == 6


def test_the_history_of_a_resumed_training_is_complete_and_not_repeated(small, task, tmp_path):
    settings = {"head__init": "random", "head__epochs": 2, "checkpoint__every": 1}
    first = small(NET, checkpoint__dir=tmp_path, **settings).fit(*task)
    again = small(NET, checkpoint__dir=tmp_path, **settings).fit(*task)
    assert len(first.history_) == len(again.history_) == 4
    assert again.history_[:, "train_loss"] == first.history_[:, "train_loss"]


@pytest.mark.parametrize("what", ["groups", "weights of rows held out", "a splitter"])
def test_another_split_is_another_training(small, task, tmp_path, what):
    """Or rows that are held out now would have been trained on."""
    X, y = task
    settings = {"lr": 1e-3, "validation_fraction": 0.25}
    first, then = {}, {"groups": np.tile(np.arange(20), 2)}
    if what == "weights of rows held out":
        held = small(NET, max_epochs=0, **settings).fit(X, y).valid_indices_
        then = {"sample_weight": np.where(np.isin(np.arange(40), held[:8]), 0.0, 1.0)}
        settings["lr"] = 3e-2
    if what == "a splitter":
        settings = {"lr": 1e-3, "validation_fraction": drawn_split}
        first, then = {"groups": np.zeros(40)}, {"groups": np.ones(40)}
    small(NET, checkpoint__dir=tmp_path, **settings).fit(X, y, **first)
    again = small(NET, checkpoint__dir=tmp_path, **settings).fit(X, y, **then)
    plain = small(NET, **settings).fit(X, y, **then)
    assert len(list(tmp_path.iterdir())) == 2
    assert np.array_equal(again.valid_indices_, plain.valid_indices_)
    assert same(learned(again), learned(plain))


def drawn_split(dataset, y, groups):
    order = np.random.default_rng(int(groups[0])).permutation(len(y))
    return order[10:], order[:10]


RESUMED = {
    "average": {"optimizer__ema_decay": 0.9},
    "plateau": {"lr_schedule": "plateau", "optimizer": "momentum"},
    "best": {"lr_schedule": "one_cycle", "validation_fraction": 0.25, "early_stopping": 3},
    "scaled gradients": {"precision": "float16"},
    "views": {"augmentation": "light", "augment_views": 2},
    "head first": {"head__init": "random", "head__epochs": 1, "head__dropout": 0.2},
}


@pytest.mark.parametrize("settings", RESUMED.values(), ids=RESUMED)
def test_a_resumed_training_ends_like_an_uninterrupted_one(small, task, tmp_path, settings):
    class Stop(Callback):
        def on_epoch_end(self, net, **kwargs):
            if len(net.history) == 4:
                raise RuntimeError("stopped")

    settings = {"max_epochs": 6, "lr": 3e-3, **settings}
    state = {"checkpoint__dir": tmp_path, "checkpoint__every": 2}
    with pytest.raises(RuntimeError, match="stopped"):
        small(NET, callbacks=[Stop()], **settings, **state).fit(*task)
    (file,) = tmp_path.glob("*/training.pt")
    assert torch.load(file, weights_only=True)["progress"]["epoch"] == 2
    resumed = small(NET, **settings, **state).fit(*task)
    whole = small(NET, **settings).fit(*task)
    assert same(learned(resumed), learned(whole))
    assert resumed.history_[:, "train_loss"] == whole.history_[:, "train_loss"]
    assert resumed.best_epoch_ == whole.best_epoch_


def test_numbers_of_numpy_in_the_history_are_kept(small, task, tmp_path):
    class Writes(Callback):
        def on_epoch_end(self, net, **kwargs):
            net.history.record("found", np.int64(7))
            net.history.record("many", np.arange(2))

    clf = small(NET, callbacks=[Writes()], checkpoint__dir=tmp_path).fit(*task)
    clf.callbacks = None
    clf.save(tmp_path / "clf.safetensors")
    assert FineTuneClassifier.load(tmp_path / "clf.safetensors").history_[-1, "found"] == 7


def a_head(n_features, n_classes):
    return torch.nn.Linear(n_features, n_classes)


def another_head(n_features, n_classes):
    return torch.nn.Linear(n_features, n_classes)


def test_settings_are_recognized_in_another_process_or_refused():
    assert identity({"b", "a"}, "x") == identity({"a", "b"}, "x")
    assert identity(a_head, "x") != identity(another_head, "x")
    assert "0x" not in identity(a_head, "x")
    mild, wild = ImageAugmentation(mixup=0.1), ImageAugmentation(mixup=0.2)
    assert identity(mild, "x") != identity(wild, "x")
    assert identity(np.float64(0.1), "x") == identity(0.1, "x")
    for opaque in (lambda n, k: None, object(), Labelless()):
        with pytest.raises(ValueError, match="no telling whether head"):
            identity(opaque, "head")


class Labelless:
    def __call__(self, image):
        return image


def test_a_lambda_and_a_checkpoint_do_not_go_together(small, task, tmp_path):
    clf = small(NET, head=lambda n, k: torch.nn.Linear(n, k), checkpoint__dir=tmp_path)
    with pytest.raises(ValueError, match=r"no telling whether head=<function"):
        clf.fit(*task)


# --- other threads and processes -----------------------------------------------------------------


def test_threads_that_train_at_once_do_not_disturb_each_other(small, task):
    def fit(seed):
        return learned(small(NET, random_state=seed, max_epochs=1).fit(*task))

    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(fit, [1, 2, 3]))
    assert all(same(fit(seed), found) for seed, found in zip([1, 2, 3], together, strict=True))


LOAD = """
import pickle, sys, numpy as np
clf = pickle.load(open(sys.argv[1], "rb"))
np.save(sys.argv[3], clf.predict_proba(np.load(sys.argv[2])))
"""


def test_two_steps_predict_in_another_process(small, task, tmp_path):
    X, y = task
    first = small(NET, freeze_depth=-2).fit(X, y)
    second = small(FrozenEstimator(first), weights="default").fit(X, 1 - y)
    (tmp_path / "clf.pkl").write_bytes(pickle.dumps(second))
    np.save(tmp_path / "X.npy", X)
    files = [str(tmp_path / name) for name in ("clf.pkl", "X.npy", "P.npy")]
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", LOAD, *files], check=True, timeout=120, cwd=root)
    np.testing.assert_allclose(np.load(tmp_path / "P.npy"), second.predict_proba(X), atol=1e-6)


def test_three_steps_with_another_fit_in_between(small, task):
    X, y = task
    first = small(NET).fit(X, y)
    second = small(FrozenEstimator(first), weights="default").fit(X, y)
    small("resnet18", max_epochs=0).fit(X, y)
    third = small(FrozenEstimator(second), weights="default", max_epochs=1).fit(X, y)
    assert third.predict_proba(X).shape == (len(y), 2)


def test_files_of_two_steps_travel_together(small, task, tmp_path, monkeypatch):
    X, y = task
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    monkeypatch.chdir(here)
    small(NET).fit(X, y).save("first.safetensors")
    second = small("first.safetensors", weights="default").fit(X, y)
    before = second.predict_proba(X)
    second.save("second.safetensors")
    monkeypatch.chdir(there)
    assert np.array_equal(pickle.loads(pickle.dumps(second)).predict_proba(X), before)
    for name in ("first.safetensors", "second.safetensors"):
        (here / name).rename(there / name)
    again = FineTuneClassifier.load(there / "second.safetensors")
    assert np.array_equal(again.predict_proba(X), before)


def test_saving_asks_for_a_fitted_backbone_to_be_saved_by_itself(small, task, tmp_path):
    first = small(NET).fit(*task)
    second = small(FrozenEstimator(first), weights="default", max_epochs=1).fit(*task)
    with pytest.raises(ValueError, match="save that one to a file of its own"):
        second.save(tmp_path / "second.safetensors")


@pytest.mark.parametrize("settings", [{"freeze_depth": 0}, {"augmentation": "light"}])
def test_worker_processes_may_read_rows(small, task, settings):
    clf = small(NET, max_epochs=1, **settings)
    plain = learned(clf.fit(*task))
    workers = small(NET, max_epochs=1, iterator_train__num_workers=2, **settings).fit(*task)
    for name, tensor in learned(workers).items():
        torch.testing.assert_close(tensor, plain[name], atol=1e-5, rtol=1e-4)


def test_workers_of_a_search_have_workers_and_states_of_their_own(small, task, tmp_path):
    """Rows that are read in processes of joblib's processes, states in one directory."""
    grid = {"lr": [1e-4, 1e-3]}
    settings = {"cv": 2, "scoring": "neg_log_loss", "error_score": "raise", "refit": False}
    clf = small(NET, freeze_depth=0, max_epochs=1)
    plain = GridSearchCV(clf, grid, **settings).fit(*task)
    clf.set_params(iterator_train__num_workers=1, checkpoint__dir=tmp_path, checkpoint__every=1)
    together = GridSearchCV(clf, grid, n_jobs=2, **settings).fit(*task)
    assert len(list(tmp_path.iterdir())) == 4
    for name in ("split0_test_score", "split1_test_score"):
        np.testing.assert_allclose(
            together.cv_results_[name], plain.cv_results_[name], rtol=1e-4, atol=1e-6
        )
