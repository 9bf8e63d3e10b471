"""How far the weights go from the solved head to what training made of them."""

from __future__ import annotations

import pickle
import signal

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss
from skorch.callbacks import Callback
from torch import nn

from sktransfer import FineTuneClassifier
from sktransfer._finetune import _phases
from sktransfer._finetune._labels import Rows, halves, split_rows
from sktransfer._finetune._targets import Target
from sktransfer._finetune._training import SHARES, choose_share, mean_history


def block(n_in, n_out):
    return nn.Sequential(nn.Conv2d(n_in, n_out, 3, 2, 1), nn.BatchNorm2d(n_out), nn.ReLU())


def stages():
    """A network that counts as pretrained."""
    torch.manual_seed(0)
    return [("stem", block(3, 8)), ("body", block(8, 12)), ("top", block(12, 16))]


@pytest.fixture
def fine(small):
    """Make a FineTuneClassifier of stages that count as pretrained."""

    def make(**parameters):
        return small(stages(), weights="default", **{"lr": 3e-3, "freeze_depth": 1, **parameters})

    return make


@pytest.fixture(scope="module")
def hard():
    """A task whose classes overlap."""
    rng = np.random.default_rng(0)
    y = np.arange(48) % 3
    X = rng.integers(0, 200, (48, 24, 24, 3)) + 4 * y[:, None, None, None]
    return X.astype(np.uint8), y


@pytest.fixture(scope="module")
def stripes():
    """Stripes across or along, which training learns to tell apart."""
    rng = np.random.default_rng(0)
    y = np.arange(96) % 2
    X = 0.8 * rng.integers(0, 256, (96, 24, 24, 3))
    for image, axis, phase in zip(X, y, rng.integers(0, 4, 96), strict=True):
        image += 40.0 * ((np.indices((24, 24))[axis] + phase) // 2 % 2)[..., None]
    return X.clip(0, 255).astype(np.uint8), y


def learned(clf):
    return {name: tensor.clone() for name, tensor in clf.module_.learned().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- a number ------------------------------------------------------------------------------------


def test_a_number_moves_every_tensor_that_share_of_the_way(fine, hard):
    settings = {"module__freeze_batch_norm": False}
    start, way, end = (
        learned(fine(weight_interpolation=a, **settings).fit(*hard)) for a in (0, 0.25, 1)
    )
    moved = 0
    for name, tensor in way.items():
        if tensor.is_floating_point():
            expected = start[name] + 0.25 * (end[name] - start[name])
            torch.testing.assert_close(tensor, expected)
            moved += not torch.equal(start[name], end[name])
    # Statistics too; what inputs of the head are standardized by is not trained.
    floating = [n for n, t in way.items() if t.is_floating_point()]
    assert moved >= len([n for n in floating if not n.startswith("head.0.")])


def test_no_share_is_the_probe_and_the_whole_is_what_was_trained(fine, hard):
    kept = {}

    class Keep(Callback):
        def on_epoch_end(self, net, **kwargs):
            kept.update(learned(net))

    none = fine(weight_interpolation=0.0).fit(*hard)
    probe = fine(freeze_depth="all").fit(*hard)
    np.testing.assert_allclose(
        none.decision_function(hard[0]), probe.decision_function(hard[0]), atol=5e-3
    )
    whole = fine(weight_interpolation=1, callbacks=[Keep()]).fit(*hard)
    assert same(learned(whole), kept)
    assert (none.weight_interpolation_, whole.weight_interpolation_) == (0.0, 1.0)
    assert whole.interpolation_losses_ is None


# --- the choice ----------------------------------------------------------------------------------


def test_rows_held_out_choose_by_the_log_loss_of_each_share(fine, hard):
    X, y = hard
    chosen = fine(validation_fraction=0.25).fit(X, y)
    rows = chosen.valid_indices_
    fixed = {a: fine(validation_fraction=0.25, weight_interpolation=a).fit(X, y) for a in SHARES}
    for a, clf in fixed.items():
        loss = log_loss(y[rows], clf.predict_proba(X[rows]))
        assert chosen.interpolation_losses_[a] == pytest.approx(loss, rel=1e-4)
    assert same(learned(chosen), learned(fixed[chosen.weight_interpolation_]))


def test_without_them_each_half_is_judged_by_the_training_of_the_other(fine, hard):
    X, y = hard
    clf = fine().fit(X, y)
    assert clf.weight_interpolation_ in SHARES
    assert len(clf.train_indices_) == len(y)
    assert len(clf.valid_indices_) == 0
    # The start of each training is the probe of its half.
    target = Target(clf.classes_)
    rows = Rows(clf._image_source(X, reset=False), y, np.ones(48), None, np.arange(48), target)
    seed = _phases.derived_seed(clf._seed, _phases.HALVES)
    logits = np.zeros((48, 3))
    for train, _, test in halves(rows, np.arange(48), None, seed):
        probe = fine(freeze_depth="all").fit(X[train], y[train])
        logits[test] = probe.decision_function(X[test])
    expected = target.log_losses(logits, y).mean()
    assert clf.interpolation_losses_[0.0] == pytest.approx(expected, rel=5e-3)


def test_training_that_helps_is_that_of_all_rows(fine, stripes):
    settings = {"lr": 1e-2, "max_epochs": 12}
    clf = fine(**settings).fit(*stripes)
    assert clf.weight_interpolation_ > 0
    alone = fine(**settings, weight_interpolation=clf.weight_interpolation_).fit(*stripes)
    assert same(learned(clf), learned(alone))
    assert clf.history_[:, "train_loss"] == alone.history_[:, "train_loss"]
    assert (clf.n_epochs_, clf.best_epoch_) == (alone.n_epochs_, alone.best_epoch_)


def test_labels_of_noise_leave_the_probe(fine, hard):
    X, _ = hard
    y = np.random.default_rng(1).permutation(np.arange(48) % 2)
    clf = fine(lr=1e-2, max_epochs=25).fit(X, y)
    assert clf.history_[-1, "train_loss"] < 0.8 * clf.history_[0, "train_loss"]
    assert clf.interpolation_losses_[0.5] > clf.interpolation_losses_[0.0]
    assert clf.weight_interpolation_ == 0


@pytest.mark.parametrize("held_out", [None, 0.25])
def test_a_rate_that_destroys_the_network_ends_at_the_probe_and_says_so(fine, task, held_out):
    X, y = task
    clf = fine(lr=3.0, max_epochs=4, validation_fraction=held_out)
    with pytest.warns(UserWarning, match=r"destroyed .* Lower lr \(now 3.0\)"):
        clf.set_params(early_stopping__restore_best=False).fit(X, y)
    probe = fine(weight_interpolation=0, validation_fraction=held_out).fit(X, y)
    assert clf.weight_interpolation_ == 0
    assert same(learned(clf), learned(probe))


def test_a_training_of_all_rows_that_came_to_grief_is_not_kept(fine, stripes, monkeypatch):
    own = _phases.mean_loss
    monkeypatch.setattr(
        _phases, "mean_loss", lambda net, rows: 1e9 if len(rows) == 96 else own(net, rows)
    )
    with pytest.warns(UserWarning, match="destroyed"):
        clf = fine(lr=1e-2, max_epochs=12).fit(*stripes)
    assert clf.weight_interpolation_ == 0
    assert same(learned(clf), learned(fine(weight_interpolation=0).fit(*stripes)))


def test_a_share_is_as_near_to_a_half_as_noise_allows():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(5, 400))
    noise -= noise.mean(axis=1, keepdims=True)
    noise /= noise.std(axis=1, keepdims=True)
    weight, each = np.ones(400), np.arange(400)

    def chosen(means, scale, units=each):
        rows = zip(SHARES, means, noise, strict=True)
        return choose_share({a: mean + scale * row for a, mean, row in rows}, weight, units)

    assert chosen([9, 1.02, 1, 1, 0.98], 1.0) == 0.5
    assert chosen([1, 1, 1, 1, 0.9], 0.01) == 1.0
    assert chosen([0.9, 1, 1, 1, 1], 0.01) == 0.0
    assert chosen([0.5, 0.5, 0.5, 0.5, 0.5], 0.0) == 0.0
    assert chosen([0.6, 0.5, 0.5, 0.5, 0.5], 0.0) == 0.5
    assert chosen([0.6, 0.5, 9, 0.5, 0.5], 0.0) == 0.25
    # Differences have a standard error of about 0.07; 1.65 of these are beyond doubt.
    assert chosen([1.09, 9, 1, 9, 9], 1.0) == 0.0
    assert chosen([1.14, 9, 1, 9, 9], 1.0) == 0.5
    # Rows of a patient say the same: one of four counts.
    noise = np.repeat(noise[:, :100], 4, axis=1)
    noise -= noise.mean(axis=1, keepdims=True)
    noise /= noise.std(axis=1, keepdims=True)
    assert chosen([1.14, 9, 1, 9, 9], 1.0) == 0.5
    assert chosen([1.14, 9, 1, 9, 9], 1.0, each // 4) == 0.0
    assert chosen([9, 9, 1, 9, 9], 0.0, 0 * each) == 0.0


def test_a_row_of_weight_zero_does_not_choose():
    losses = {a: np.array([a, a, 100 * (1 - a)]) for a in SHARES}
    assert choose_share(losses, np.array([1.0, 1.0, 0.0]), np.arange(3)) == 0.0


def test_sharper_probabilities_are_no_gain():
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    logits = rng.normal(size=(60, 3)) + np.eye(3)[y]
    weight = rng.uniform(size=60)
    scaled_losses = Target(np.arange(3)).scaled_losses
    losses = scaled_losses(logits, y, weight)
    np.testing.assert_allclose(scaled_losses(7 * logits + 3, y, weight), losses, rtol=1e-6)
    assert losses @ weight < scaled_losses(logits + rng.normal(size=(60, 3)), y, weight) @ weight
    logits[0], logits[1] = np.nan, np.inf
    assert (scaled_losses(logits, y, weight)[:2] > 30).all()
    assert np.isfinite(scaled_losses(np.full((60, 3), np.nan), y, weight)).all()


@pytest.mark.parametrize(
    "settings",
    [
        {"head": (8,)},
        {"head__init": "random"},
        {"loss": nn.CrossEntropyLoss},
        {"weights": None, "backbone": "squeezenet1_1"},
    ],
    ids=["hidden", "random head", "other loss", "random network"],
)
def test_without_a_start_that_is_worth_keeping_all_of_the_training_counts(fine, hard, settings):
    clf = fine(max_epochs=1).set_params(**settings).fit(*hard)
    assert clf.weight_interpolation_ == 1
    assert clf.interpolation_losses_ is None


def test_more_training_keeps_what_it_trains(fine, hard):
    clf = fine(warm_start=True, lr=1e-3).fit(*hard)
    before = learned(clf)
    clf.fit(*hard)
    assert clf.weight_interpolation_ == 1
    assert not same(before, learned(clf))
    assert len(clf.history_) == 4
    half, whole = (pickle.loads(pickle.dumps(clf)) for _ in range(2))
    before = learned(clf)
    half.set_params(weight_interpolation=0.5).partial_fit(*hard)
    whole.partial_fit(*hard)
    for name, tensor in learned(half).items():
        if tensor.is_floating_point():
            expected = (before[name] + whole.module_.learned()[name]) / 2
            torch.testing.assert_close(tensor, expected)


def test_where_nothing_is_trained_nothing_is_interpolated(fine, hard):
    for settings in ({"freeze_depth": "all"}, {"max_epochs": 0}):
        clf = fine(**settings).fit(*hard)
        assert clf.interpolation_losses_ is None
    assert fine(freeze_depth="all").fit(*hard).weight_interpolation_ == 0


# --- halves --------------------------------------------------------------------------------------


def rows_of(y, groups=None, weight=None):
    y = np.asarray(y)
    weight = np.ones(len(y)) if weight is None else weight
    groups = None if groups is None else np.asarray(groups)
    rows = Rows(None, y, weight, groups, np.arange(len(y)), Target(np.arange(3)))
    rows.__dict__["digests"] = [bytes([i]) for i in range(len(y))]
    return rows


def halves_of(rows):
    return halves(rows, rows.kept, None, 0)


def test_halves_have_all_rows_once_and_their_classes_in_shares():
    y = np.arange(40) % 4 // 3  # a quarter
    parts = halves_of(rows_of(y))
    assert sorted(np.concatenate([test for *_, test in parts])) == list(range(40))
    for train, weight, test in parts:
        assert not set(train) & set(test)
        assert y[train].sum() == 5
        assert len(weight) == len(train)


def test_groups_and_copies_are_in_one_half():
    groups = np.arange(40) // 4
    y = groups % 2
    for train, _, test in halves_of(rows_of(y, groups)):
        assert not set(groups[train]) & set(groups[test])
    rows = rows_of(y)
    rows.__dict__["digests"] = [bytes([g]) for g in groups]
    for train, _, test in halves_of(rows):
        assert not set(groups[train]) & set(groups[test])


def test_groups_that_share_an_image_are_in_one_half_and_held_out_together():
    images = np.arange(60) // 3  # three copies of each, in groups that overlap in them
    groups = np.arange(60) // 2
    y = images // 4 % 2
    rows = rows_of(y, groups)
    rows.__dict__["digests"] = [bytes([image]) for image in images]
    parts = [(train, test) for train, _, test in halves_of(rows)]
    parts.append(split_rows(rows, 0.3, 0))
    for train, test in parts:
        assert not set(images[train]) & set(images[test])
        assert not set(groups[train]) & set(groups[test])


def test_rows_of_a_class_that_a_half_lacks_are_not_judged():
    y = [0] * 10 + [1] * 10 + [2]
    parts = halves_of(rows_of(y))
    assert 20 not in np.concatenate([test for *_, test in parts])
    assert 20 in np.concatenate([train for train, *_ in parts])
    assert halves_of(rows_of([0] * 10 + [1])) is None
    assert halves_of(rows_of([0, 0, 0, 0, 1, 1, 1], [1, 2, 3, 4, 5, 5, 5])) is None


def test_too_few_rows_keep_the_probe_with_a_warning(fine, hard):
    X, y = hard
    some = np.flatnonzero(y == 0)[:5].tolist() + np.flatnonzero(y == 1)[:1].tolist()
    with pytest.warns(UserWarning, match="solved head is kept"):
        clf = fine().fit(X[some], y[some])
    assert clf.weight_interpolation_ == 0
    assert same(learned(clf), learned(fine(weight_interpolation=0).fit(X[some], y[some])))
    assert fine().fit(X[:6], y[:6]).weight_interpolation_ in SHARES


# --- what remains of a fit -----------------------------------------------------------------------


def test_the_history_is_the_mean_of_both_trainings_where_neither_is_kept(fine, hard):
    seen = []

    class Watch(Callback):
        def on_train_begin(self, net, **kwargs):
            seen.append([])

        def on_epoch_end(self, net, **kwargs):
            seen[-1].append(net.history[-1, "train_loss"])

    y = np.random.default_rng(1).permutation(hard[1])
    clf = fine(max_epochs=3, callbacks=[Watch()]).fit(hard[0], y)
    assert clf.weight_interpolation_ == 0
    assert [len(run) for run in seen] == [3, 3]
    assert clf.history_[:, "train_loss"] == pytest.approx(np.mean(seen, axis=0))
    assert [row["epoch"] for row in clf.history_] == [1, 2, 3]
    assert (len(clf.history_), clf.n_epochs_) == (3, 3)
    assert clf.best_epoch_ == 1 + int(np.argmin(np.mean(seen, axis=0)))


def test_a_training_that_ended_early_counts_where_it_was():
    def epochs(*losses):
        return [{"train_loss": x, "batches": [{}], "phase": "all"} for x in losses]

    rows = mean_history([epochs(3.0), epochs(1.0, 0.5)])
    assert [row["train_loss"] for row in rows] == [2.0, 0.5]
    assert [len(row["batches"]) for row in rows] == [2, 1]


def test_the_choice_is_in_files_and_pickles(fine, hard, tmp_path):
    clf = fine().fit(*hard)
    clf.save(tmp_path / "clf.safetensors")
    loaded = FineTuneClassifier.load(tmp_path / "clf.safetensors", backbone=stages())
    for again in (loaded, pickle.loads(pickle.dumps(clf))):
        assert again.weight_interpolation_ == clf.weight_interpolation_
        assert again.interpolation_losses_ == clf.interpolation_losses_
        assert np.array_equal(again.predict_proba(hard[0]), clf.predict_proba(hard[0]))


class Stop(Callback):
    """Raises an error in an epoch of the second half."""

    def __init__(self, error=RuntimeError):
        self.error, self.epochs = error, 0

    def on_epoch_begin(self, net, **kwargs):
        self.epochs += 1
        if self.epochs == 6:
            raise self.error("stopped")

    def get_params(self, deep=True):
        return {}


@pytest.mark.parametrize("settings", [{}, {"augmentation": "light"}, {"freeze_depth": 0}])
def test_a_fit_that_was_killed_in_its_second_half_resumes_to_the_same_bits(
    fine, hard, tmp_path, settings
):
    settings = {"max_epochs": 4, **settings}
    state = {"checkpoint__dir": tmp_path, "checkpoint__every": 1}
    with pytest.raises(RuntimeError, match="stopped"):
        fine(callbacks=[Stop()], **settings, **state).fit(*hard)
    assert len(list(tmp_path.glob("*/training.pt"))) == 2
    resumed = fine(**settings, **state).fit(*hard)
    whole = fine(**settings).fit(*hard)
    assert same(learned(resumed), learned(whole))
    assert resumed.interpolation_losses_ == whole.interpolation_losses_
    assert resumed.history_[:, "train_loss"] == whole.history_[:, "train_loss"]


@pytest.mark.parametrize("epoch", [5, 6])
def test_an_interrupt_leaves_the_probe_of_all_rows(fine, hard, epoch):
    class Press(Stop):
        def on_epoch_begin(self, net, **kwargs):
            self.epochs += 1
            if self.epochs == epoch:
                signal.raise_signal(signal.SIGINT)

    clf = fine(max_epochs=4, callbacks=[Press()])
    with pytest.raises(KeyboardInterrupt):
        clf.fit(*hard)
    assert len(clf.history_) == epoch - 1
    probe = fine(weight_interpolation=0).fit(*hard)
    assert np.array_equal(clf.predict_proba(hard[0]), probe.predict_proba(hard[0]))


def test_the_choice_is_printed_where_epochs_are(fine, hard, capsys):
    clf = fine(verbose=1, max_epochs=1).fit(*hard)
    printed = capsys.readouterr().out
    assert "Half 1 of 2: training on 24 rows" in printed
    assert f"chosen: {clf.weight_interpolation_:g}" in printed


def test_weights_of_rows_and_classes_count_in_the_choice(fine, hard):
    X, y = hard
    weight = np.where(np.arange(48) < 24, 1.0, 0.0)
    a = fine(max_epochs=1, validation_fraction=lambda rows, y: (np.arange(36), np.arange(12, 48)))
    a.fit(X, y, sample_weight=weight)
    valid = np.arange(12, 24)  # those that have a weight
    for share in (0.0, 1.0):
        clf = fine(max_epochs=1, weight_interpolation=share)
        clf.set_params(validation_fraction=a.validation_fraction).fit(X, y, sample_weight=weight)
        loss = log_loss(y[valid], clf.predict_proba(X[valid]))
        assert a.interpolation_losses_[share] == pytest.approx(loss, rel=1e-4)
    assert fine(max_epochs=1, class_weight="balanced").fit(X, y, weight + 0.1)
