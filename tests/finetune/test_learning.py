"""What training does: the head, rates, losses, weights, validation, seeds, resuming."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupShuffleSplit
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback, EarlyStopping
from skorch.dataset import ValidSplit

from sktransfer import PretrainedFeatureExtractor
from sktransfer._finetune._optimizers import OPTIMIZERS, SCHEDULES, WeightedLoss, schedule_factor
from sktransfer.preprocessing import ImageAugmentation


def weights_of(clf):
    return {name: tensor.clone() for name, tensor in clf.module_.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- the head -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_wholly_frozen_network_is_a_logistic_regression(small, task, n_classes):
    X, _ = task
    y = np.arange(len(X)) % n_classes
    clf = small(freeze_depth="all", head__C=0.1).fit(X, y)
    feat = PretrainedFeatureExtractor(
        "resnet18", weights=None, image_size=32, engine="torch", layer="all"
    )
    logistic = LogisticRegression(C=0.1, max_iter=5000, tol=1e-10)
    rows = feat.fit_transform(X).astype(np.float64)
    scaler = StandardScaler().fit(rows)
    # But none varies by less than a tenth of the median, constant ones aside.
    least = 0.1 * np.median(scaler.scale_[scaler.var_ > 0])
    scaler.scale_ = np.maximum(scaler.scale_, least)
    rows = scaler.transform(rows)
    right = logistic.fit(rows, y).predict_proba(rows)
    np.testing.assert_allclose(clf.predict_proba(X), right, atol=1e-6)
    assert clf.module_.dtype == torch.float64
    assert clf.n_epochs_ == 0
    assert set(clf.history_[-1]) >= {"train_loss", "train_acc"}


def test_the_solved_head_is_where_training_starts(small, task):
    probe = small(freeze_depth="all").fit(*task)
    start = small(freeze_depth=-1, max_epochs=0).fit(*task)
    np.testing.assert_allclose(
        start.predict_proba(task[0]), probe.predict_proba(task[0]), atol=2e-4
    )


def test_heads_have_hidden_layers_or_come_from_a_function(small, task):
    hidden = small(freeze_depth="all", head=(16, 8), head__dropout=0.5, max_epochs=3).fit(*task)
    sizes = [m.out_features for m in hidden.module_.head.modules() if hasattr(m, "out_features")]
    assert sizes == [16, 8, 2]
    shares = [m.p for m in hidden.module_.head.modules() if isinstance(m, torch.nn.Dropout)]
    assert shares == [0.5] * 3
    assert len(hidden.history_) == 3
    made = small(freeze_depth="all", head=lambda d, k: torch.nn.Linear(d, k, bias=False)).fit(*task)
    assert made.module_.head[1].bias is None
    with pytest.raises(ValueError, match="not one"):
        small(head=(16,), head__init="logistic").fit(*task)
    with pytest.raises(ValueError, match="head"):
        small(head=(0,)).fit(*task)


def test_head_epochs_come_first_and_train_the_head_alone(small, task):
    clf = small(head__init="random", head__epochs=4, max_epochs=0).fit(*task)
    untouched = small(head__init="random", head__epochs=0, max_epochs=0).fit(*task)
    assert same(
        next(iter(clf.module_.stages.values())).state_dict(),
        next(iter(untouched.module_.stages.values())).state_dict(),
    )
    assert not torch.equal(clf.module_.head[-1].weight, untouched.module_.head[-1].weight)
    assert len(clf.history_) == 4


# --- rates and optimizers ------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [*OPTIMIZERS, torch.optim.NAdam])
def test_every_optimizer_learns(small, task, optimizer):
    clf = small(optimizer=optimizer, max_epochs=1, lr=1e-3).fit(*task)
    assert np.isfinite(clf.history_[-1]["train_loss"])


@pytest.mark.parametrize("optimizer", ["sgd", "nesterov", "adam", "adamw"])
def test_fused_steps_are_the_plain_ones(small, task, optimizer):
    """Stated tolerance: 1e-5 of what a weight is, after ten steps."""
    # With Adam's own 1e-8, the rounding of a gradient that is nearly 0 decides its step.
    eps = {"optimizer__eps": 1e-4} if optimizer.startswith("adam") else {}
    fused, plain = (
        small(optimizer=optimizer, lr=1e-3, **eps, **settings).fit(*task).module_.learned()
        for settings in ({}, {"optimizer__fused": False})
    )
    for name, tensor in fused.items():
        torch.testing.assert_close(tensor, plain[name], rtol=1e-5, atol=1e-5)


def test_settings_of_an_optimizer_reach_it(small, task):
    clf = small(optimizer="sgd", optimizer__momentum=0.7, max_epochs=1).fit(*task)
    assert clf.optimizer_.param_groups[0]["momentum"] == 0.7
    clf.set_params(optimizer__momentum=0.2).fit(*task)
    assert clf.optimizer_.param_groups[0]["momentum"] == 0.2


def test_rates_by_stage_and_no_decay_for_biases_and_norms(small, task):
    clf = small(
        freeze_depth=-2, lr=1e-3, head__lr=5e-3, lr__layer_decay=0.5, weight_decay=0.1, max_epochs=1
    ).fit(*task)
    rates = {g["name"]: (g["initial_lr"], g["weight_decay"]) for g in clf.optimizer_.param_groups}
    assert rates["layer4"] == (1e-3, 0.1)
    assert rates["layer3"] == (5e-4, 0.1)
    assert rates["layer3 (bias, norm)"] == (5e-4, 0.0)
    assert rates["head"] == (5e-3, 0.1)
    assert rates["head (bias, norm)"] == (5e-3, 0.0)


@pytest.mark.parametrize(("head_init", "times"), [("logistic", 1), ("random", 10)])
def test_a_solved_head_takes_no_larger_steps_than_the_rest(small, task, head_init, times):
    clf = small(lr=1e-3, head__init=head_init, head__epochs=0, max_epochs=0).fit(*task)
    rates = {group["name"]: group["initial_lr"] for group in clf.optimizer_.param_groups}
    assert rates["head"] == pytest.approx(times * rates["layer4"])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_warm_up_and_end(schedule):
    values = [schedule_factor(schedule, step, n_steps=100, n_warmup=10) for step in range(100)]
    assert values[:3] == [1 / 11, 2 / 11, 3 / 11]
    assert max(values) <= 1
    assert all(value >= 0 for value in values)
    if schedule in ("cosine", "linear", "one_cycle"):
        assert values[-1] < 0.02
    if schedule == "step":
        assert values[-1] == pytest.approx(0.01)


def test_the_schedule_reaches_the_optimizer(small, task):
    class Rates(Callback):
        def initialize(self):
            self.seen_ = []

        def on_batch_end(self, net, training=False, **kwargs):
            if training:
                self.seen_.append(net.optimizer_.param_groups[0]["lr"])

    rates = Rates()
    small(lr=1e-3, lr_schedule="cosine", lr_schedule__warmup=1, callbacks=[rates]).fit(*task)
    assert len(rates.seen_) == 10
    assert rates.seen_[0] < rates.seen_[4]
    assert rates.seen_[5] == pytest.approx(1e-3)
    assert rates.seen_[-1] < 2e-4


def test_a_plateau_lowers_the_rates(small, task):
    class Rates(Callback):
        def on_epoch_end(self, net, **kwargs):
            net.history.record("rate", net.optimizer_.param_groups[0]["lr"])

    # Too low a rate for the loss to get better by: three epochs without, after the first one.
    settings = {"lr": 1e-12, "lr_schedule": "plateau", "max_epochs": 9, "callbacks": [Rates()]}
    for held_out in (None, 0.5):
        clf = small("squeezenet1_1", validation_fraction=held_out, **settings).fit(*task)
        rates = np.array(clf.history_[:, "rate"]) / 1e-12
        np.testing.assert_allclose(rates, [1] * 4 + [0.1] * 3 + [0.01] * 2)


def test_gradients_are_clipped(small, task):
    class Norms(Callback):
        def on_grad_computed(self, net, named_parameters, **kwargs):
            total = sum(float(p.grad.norm()) ** 2 for _, p in named_parameters) ** 0.5
            assert total <= 1e-3 + 1e-6

    small(
        optimizer__max_grad_norm=1e-3, callbacks=[Norms()], head__init="random", head__epochs=0
    ).fit(*task)


def test_a_learning_rate_too_high_is_an_error_that_says_so(small, task):
    with pytest.raises(FloatingPointError, match=r"Lower lr \(now 1e\+20\)"):
        small(optimizer="sgd", lr=1e20, max_epochs=5, head__init="random").fit(*task)


# --- losses and weights --------------------------------------------------------------------------


def test_losses_equal_torchs_and_their_published_formula():
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    target, weight = torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([1.0, 2, 0, 1, 1, 1])
    plain = torch.nn.functional.cross_entropy(logits, target, label_smoothing=0.1)
    assert WeightedLoss(label_smoothing=0.1)(logits, target) == pytest.approx(plain.item())
    p = logits.softmax(1)[torch.arange(6), target]
    focal = (-((1 - p) ** 2) * p.log() * weight).mean()
    assert WeightedLoss("focal")(logits, target, weight) == pytest.approx(focal.item(), rel=1e-5)
    assert WeightedLoss("focal", gamma=0.0)(logits, target) == pytest.approx(
        WeightedLoss()(logits, target).item()
    )


@pytest.mark.parametrize("loss", ["focal", torch.nn.CrossEntropyLoss])
def test_probabilities_sum_to_one_whatever_the_loss(small, task, loss):
    P = small(loss=loss, max_epochs=1).fit(*task).predict_proba(task[0])
    np.testing.assert_allclose(P.sum(axis=1), 1, atol=1e-12)
    assert (P >= 0).all()


def test_settings_of_a_loss_reach_it(small, task):
    clf = small(loss="focal", loss__gamma=3.5, max_epochs=1).fit(*task)
    assert clf.criterion_.gamma == 3.5
    assert (
        small(loss__label_smoothing=0.2, max_epochs=0).fit(*task).criterion_.label_smoothing == 0.2
    )


@pytest.mark.parametrize("freeze_depth", ["all", -1])
def test_weight_zero_is_as_good_as_absent(small, task, freeze_depth):
    X, y = task
    wrong = np.arange(len(y)) < 10
    weight = np.where(wrong, 0.0, 1.0)
    flipped = np.where(wrong, 1 - y, y)
    settings = {"freeze_depth": freeze_depth, "max_epochs": 3, "batch_size": 40}
    a = small(**settings).fit(X, flipped, sample_weight=weight)
    b = small(**settings).fit(X, y, sample_weight=weight)
    np.testing.assert_allclose(a.predict_proba(X), b.predict_proba(X), atol=1e-6)


def test_balanced_weights_lift_the_rare_class(small, task):
    X, y = task
    rare = np.concatenate([np.flatnonzero(y == 0), np.flatnonzero(y == 1)[:4]])
    plain = small(freeze_depth="all").fit(X[rare], y[rare])
    balanced = small(freeze_depth="all", class_weight="balanced").fit(X[rare], y[rare])
    by_hand = small(freeze_depth="all").fit(
        X[rare], y[rare], sample_weight=np.where(y[rare] == 0, 24 / 40, 24 / 8)
    )
    assert balanced.predict_proba(X)[:, 1].mean() > plain.predict_proba(X)[:, 1].mean() + 0.05
    np.testing.assert_allclose(balanced.predict_proba(X), by_hand.predict_proba(X), atol=1e-8)


# --- validation inside fit -----------------------------------------------------------------------


def test_nothing_is_held_out_by_default(small, task):
    clf = small(max_epochs=1).fit(*task)
    assert len(clf.train_indices_) == len(task[1])
    assert len(clf.valid_indices_) == 0
    assert "valid_loss" not in clf.history_[-1]


def test_a_share_is_held_out_by_class_and_by_group(small, task):
    X, y = task
    clf = small(max_epochs=1, validation_fraction=0.25).fit(X, y)
    assert len(clf.valid_indices_) == 10
    assert y[clf.valid_indices_].sum() == 5
    assert {"valid_loss", "valid_acc"} <= set(clf.history_[-1])
    groups = np.repeat(np.arange(10), 4)
    clf.fit(X, y, groups=groups)
    assert not set(groups[clf.valid_indices_]) & set(groups[clf.train_indices_])
    assert len(clf.valid_indices_) + len(clf.train_indices_) == len(y)


def test_skorchs_splitters_are_accepted(small, task):
    X, y = task
    clf = small(max_epochs=1, validation_fraction=ValidSplit(4, stratified=True)).fit(X, y)
    assert len(clf.valid_indices_) == 10
    groups = np.repeat(np.arange(10), 4)
    clf = small(max_epochs=1, validation_fraction=ValidSplit(GroupShuffleSplit(1, random_state=0)))
    clf.fit(X, y, groups=groups)
    assert not set(groups[clf.valid_indices_]) & set(groups[clf.train_indices_])


def test_the_best_epoch_is_kept(small, task):
    clf = small(
        max_epochs=6, validation_fraction=0.5, lr=3e-2, lr_schedule="constant", head__lr=3e-2
    ).fit(*task)
    losses = [row["valid_loss"] for row in clf.history_]
    assert clf.best_epoch_ == int(np.argmin(losses)) + 1
    held = clf.valid_indices_
    logits = torch.from_numpy(np.log(np.clip(clf.predict_proba(task[0][held]), 1e-300, 1)))
    loss = torch.nn.functional.nll_loss(logits, torch.from_numpy(task[1][held])).item()
    assert loss == pytest.approx(min(losses), rel=1e-3)


def test_early_stopping_ends_training_and_needs_held_out_rows(small, task):
    settings = {"lr": 0.02, "lr_schedule": "constant", "max_epochs": 40}
    clf = small(validation_fraction=0.5, early_stopping=2, **settings).fit(*task)
    assert clf.n_epochs_ < 40
    assert clf.n_epochs_ == clf.best_epoch_ + 2
    with pytest.raises(ValueError, match="set validation_fraction"):
        small(early_stopping=2).fit(*task)


def test_a_callback_may_end_training(small, task):
    clf = small(
        max_epochs=30,
        validation_fraction=0.5,
        lr=0.3,
        lr_schedule="constant",
        callbacks=[EarlyStopping(patience=2, sink=lambda text: None)],
    ).fit(*task)
    assert len(clf.history_) < 30
    assert clf.predict(task[0]).shape == (len(task[1]),)


def test_a_moving_average_is_what_is_kept(small, task):
    class Steps(Callback):
        def initialize(self):
            self.seen_ = []

        def on_batch_end(self, net, training=False, **kwargs):
            if training:
                self.seen_.append({k: t.clone() for k, t in net.module_.learned().items()})

    steps = Steps()
    clf = small(
        optimizer__ema_decay=0.5,
        lr=1e-2,
        callbacks=[steps],
        validation_fraction=0.25,
        early_stopping__restore_best=False,
    ).fit(*task)
    average = steps.seen_[0]
    for step, now in enumerate(steps.seen_[1:], 2):
        decay = min(0.5, step / (step + 9))
        average = {k: decay * average[k] + (1 - decay) * t for k, t in now.items()}
    kept = clf.module_.learned()
    for name, tensor in average.items():
        if kept[name].is_floating_point():
            torch.testing.assert_close(kept[name], tensor, atol=1e-5, rtol=1e-4)
    assert not same(kept, steps.seen_[-1])
    # It is what was validated, too.
    assert clf.history_[-1]["valid_acc"] == clf.score(
        task[0][clf.valid_indices_], task[1][clf.valid_indices_]
    )


# --- seeds, further training ---------------------------------------------------------------------


def test_equal_seeds_equal_weights_and_global_states_untouched(small, task):
    torch.manual_seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    settings = {"head__dropout": 0.3, "head__init": "random", "augmentation": "standard"}
    a, b = (small(**settings).fit(*task) for _ in range(2))
    assert same(weights_of(a), weights_of(b))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    other = small(**settings).set_params(random_state=1).fit(*task)
    assert not same(weights_of(a), weights_of(other))


def test_partial_fit_and_warm_start_train_further(small, task):
    X, y = task
    once = small(max_epochs=1).fit(X, y)
    before = weights_of(once)
    once.partial_fit(X, y)
    assert not same(before, weights_of(once))
    warm = small(max_epochs=1, warm_start=True).fit(X, y)
    middle = weights_of(warm)
    warm.fit(X, y)
    assert not same(middle, weights_of(warm))
    cold = small(max_epochs=1).fit(X, y)
    first = weights_of(cold)
    assert same(first, weights_of(cold.fit(X, y)))


def test_partial_fit_accepts_classes_that_come_later(small, task):
    X, y = task
    clf = small(freeze_depth="all").partial_fit(X, y, classes=[0, 1, 2])
    assert clf.predict_proba(X).shape == (len(X), 3)
    assert (clf.predict_proba(X)[:, 2] < 1e-6).all()
    clf.partial_fit(X, np.full(len(y), 2))
    with pytest.raises(ValueError, match=r"\[7\]"):
        clf.partial_fit(X, np.full(len(y), 7))


RESUMED = """
import sys, time, numpy as np
from skorch.callbacks import Callback
from sktransfer import FineTuneClassifier
class Slow(Callback):
    def on_epoch_end(self, net, **kwargs):
        time.sleep(float(sys.argv[3]))
X, y = np.load(sys.argv[1]), np.arange(40) % 2
FineTuneClassifier("resnet18", weights=None, image_size=32, max_epochs=6, batch_size=8,
    head__dropout=0.2, random_state=0, engine="torch", augmentation="light",
    checkpoint__dir=sys.argv[2], checkpoint__every=2, validation_fraction=0.25,
    callbacks=[Slow()], lr=1e-2).fit(X, y)
"""


def test_a_killed_training_ends_like_an_undisturbed_one(small, task, tmp_path):
    np.save(tmp_path / "X.npy", task[0])
    command = [sys.executable, "-c", RESUMED, tmp_path / "X.npy", tmp_path / "states", "0.4"]
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 90
        while not list(Path(tmp_path).glob("states/*/training.pt")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(60)
    settings = {"max_epochs": 6, "head__dropout": 0.2, "augmentation": "light", "lr": 1e-2}
    settings |= {"validation_fraction": 0.25, "checkpoint__every": 2}
    threads = torch.get_num_threads()

    resumed = small(checkpoint__dir=tmp_path / "states", **settings).fit(*task)
    whole = small(checkpoint__dir=tmp_path / "fresh", **settings).fit(*task)
    assert torch.get_num_threads() == threads
    assert len(list(tmp_path.glob("states/*"))) == 1  # it was the same task
    assert same(weights_of(resumed), weights_of(whole))
    assert [row["train_loss"] for row in resumed.history_] == [
        row["train_loss"] for row in whole.history_
    ]
    small(checkpoint__dir=tmp_path / "states", **{**settings, "lr": 1e-3}).fit(*task)
    assert len(list(tmp_path.glob("states/*"))) == 2  # another task alongside it
    with pytest.raises(ValueError, match="integer random_state"):
        small(checkpoint__dir=tmp_path, random_state=None).fit(*task)


# --- augmentation --------------------------------------------------------------------------------


def test_augmentation_is_for_training_rows_alone(small, task):
    class Seen:
        def __init__(self):
            self.n = 0

        def __call__(self, image):
            self.n += 1
            return image

    seen = Seen()
    clf = small(augmentation=seen, validation_fraction=0.25, max_epochs=3).fit(*task)
    assert seen.n == 3 * len(clf.train_indices_)
    clf.predict_proba(task[0])
    assert seen.n == 3 * len(clf.train_indices_)


def test_a_search_reaches_into_the_augmentation(small):
    clf = small(augmentation=ImageAugmentation(rotation_range=5))
    clf.set_params(augmentation__rotation_range=20)
    assert clf.augmentation.rotation_range == 20
    assert clf.get_params()["augmentation__rotation_range"] == 20
    with pytest.raises(ValueError, match="rotation"):
        clf.set_params(augmentation__rotation=20)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixed_rows_have_mixed_targets(small, task, kind):
    seen = {True: [], False: []}

    class Seen(torch.nn.CrossEntropyLoss):
        def forward(self, logits, target):
            seen[self.training].append(target)
            return super().forward(logits, target)

    augmentation = ImageAugmentation(**{kind: 1.0})
    small(augmentation=augmentation, loss=Seen, validation_fraction=0.25, max_epochs=1).fit(*task)
    mixed = torch.cat(seen[True])
    assert mixed.shape == (30, 2)
    torch.testing.assert_close(mixed.sum(1), torch.ones(30))
    assert ((mixed > 0.01) & (mixed < 0.99)).any()
    assert torch.cat(seen[False]).dtype == torch.int64  # rows held out are as they are


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixed_rows_weigh_what_their_labels_do(small, task, kind):
    """The label of a row of weight 0 is nowhere, though its pixels are in another's image."""
    X, y = task
    wrong = np.arange(len(y)) < 10
    settings = {"augmentation": ImageAugmentation(**{kind: 1.0}), "lr": 1e-3}
    settings |= {"head__init": "random", "head__epochs": 0}
    a, b = (
        small(**settings).fit(X, labels, sample_weight=np.where(wrong, 0.0, 1.0))
        for labels in (y, np.where(wrong, 1 - y, y))
    )
    assert same(weights_of(a), weights_of(b))
    threes = small(**settings).fit(X, y, sample_weight=np.full(len(y), 3.0))
    assert same(weights_of(threes), weights_of(small(**settings).fit(X, y)))
    assert not same(weights_of(threes), weights_of(a))


def test_views_at_test_time_are_averaged(small, task):
    """Of mirror images alone a second view is the image or its mirror image."""
    X, y = task
    mirror = ImageAugmentation(horizontal_flip=True)
    clf = small(augmentation=mirror, cache__activation_dtype="float32", max_epochs=1).fit(X, y)
    there, mirrored = clf.decision_function(X), clf.decision_function(X[:, :, ::-1])
    z = clf.set_params(augmentation__test_time_views=2).decision_function(X)
    same_again = np.isclose(z, there, atol=1e-4)
    averaged = np.isclose(z, (there + mirrored) / 2, atol=1e-4)
    assert (same_again | averaged).all()
    assert 0 < (averaged & ~same_again).sum() < len(X)


def test_views_at_test_time_depend_on_images_alone(small, task):
    X, y = task
    clf = small(augmentation="standard", augmentation__test_time_views=3, max_epochs=1).fit(X, y)
    P = clf.predict_proba(X)
    np.testing.assert_allclose(clf.predict_proba(X[::-1])[::-1], P, atol=1e-6)
    one = clf.set_params(augmentation__test_time_views=None).predict_proba(X)
    assert not np.allclose(one, P, atol=1e-4)
    with pytest.raises(ValueError, match="augmentation"):
        small(augmentation__test_time_views=3).fit(X, y)
