"""The learning-rate finder: what it suggests from a curve, when it says that it cannot, and how."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sktransfer._finetune._fitting import run_fit
from sktransfer._finetune._training import range_test, read_range_test

NET = "squeezenet1_1"
RATES = np.geomspace(1e-7, 1, 100)
LOG = np.log10(RATES)


def found(change, *, n_runs=3, start=0.7, told=9.0, noise=0.0):
    """What a range test finds if training changes the loss by ``change``.

    Rows held out are told apart by ``told`` standard errors; None: there are none.
    """
    rng = np.random.default_rng(0)
    before = start + rng.normal(0, 0.2, (n_runs, len(RATES)))
    train = before + change + rng.normal(0, noise, before.shape)
    # A run ends where it diverges.
    train[np.logical_or.accumulate(change > 2.0) & np.ones(before.shape, bool)] = np.nan
    valid = np.full(before.shape, np.nan)
    seen = {"valid": valid, "told": valid.copy(), "valid_start": np.array(np.nan)}
    if told is not None:
        seen["valid"][:, ::5], seen["told"][:, ::5], seen["valid_start"] = 0.6, told, np.array(0.6)
    return {"before": before, "train": train, **seen}


def descent(middle, *, depth=0.4, diverges=-1.0):
    """A fall around a rate (as a power of ten), and a rise around another."""
    return -depth / (1 + np.exp(-4 * (LOG - middle))) + 5 * np.maximum(LOG - diverges, 0)


@pytest.mark.parametrize("middle", [-5.0, -4.0, -3.0])
def test_the_suggestion_is_at_the_foot_of_the_descent(middle):
    read = read_range_test(RATES, found(descent(middle)))
    # A fifth is reached a third of a decade before the middle; smoothing is late by as much.
    assert middle - 0.3 < np.log10(read["suggestion"]) < middle + 0.3
    assert read["start"] == pytest.approx(0.7, abs=0.05)
    assert np.isnan(read["loss"][-1])


def test_noise_of_steps_moves_the_suggestion_by_less_than_a_factor_of_two():
    exact = read_range_test(RATES, found(descent(-4)))["suggestion"]
    noisy = read_range_test(RATES, found(descent(-4), noise=0.05))["suggestion"]
    assert 0.5 < noisy / exact < 2


def test_one_run_of_three_that_diverges_early_does_not_count():
    table = found(descent(-4))
    table["train"][0, 30:] = np.nan
    table["train"][0, 20:30] += 1.5
    exact = read_range_test(RATES, found(descent(-4)))["suggestion"]
    assert 0.5 < read_range_test(RATES, table)["suggestion"] / exact < 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (np.where(LOG < -6.5, 0.0, 5.0), "diverges. Lower lr_min if it does so from the start"),
        (0 * LOG, "does not diverge either: raise lr_max"),
        (0.02 * LOG**2 - 0.02 * LOG[0] ** 2 + 0.981, "and diverges"),
    ],
)
def test_without_a_descent_there_is_no_suggestion(change, says):
    with pytest.warns(UserWarning, match=f"There is no suggestion.*{says}"):
        assert np.isnan(read_range_test(RATES, found(change))["suggestion"])


def test_a_suggestion_at_an_end_of_the_range_warns():
    with pytest.warns(UserWarning, match="falls from the first rates on.*lower lr_min"):
        read_range_test(RATES, found(descent(-9)))
    with pytest.warns(UserWarning, match="still falls at the last rates.*raise lr_max"):
        read_range_test(RATES, found(descent(0.5, diverges=3)))


def test_rows_held_out_that_are_not_told_apart_warn():
    sure = read_range_test(RATES, found(descent(-4)))["suggestion"]
    assert read_range_test(RATES, found(descent(-4), told=None))["suggestion"] == sure
    with pytest.warns(UserWarning, match="told apart no better than by chance. Check the labels"):
        assert read_range_test(RATES, found(descent(-4), told=1.0))["suggestion"] == sure


@pytest.fixture(scope="module")
def digits():
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    keep = y < 2
    return X[keep][:60].reshape(-1, 8, 8), y[keep][:60]


@pytest.mark.parametrize("start", ["logistic", "random"])
def test_a_network_is_left_as_it_was_and_batches_are_the_same_in_both_passes(small, digits, start):
    clf = small(
        "mobilenet_v3_small", value_range=(0, 16), head__init=start, head__epochs=0, batch_size=16,
        module__freeze_batch_norm=False,
    )  # fmt: skip
    seen = []

    def train(net, drawn, held_out, rows, *, resume):
        before = {name: each.clone() for name, each in net.module_.state_dict().items()}
        frozen = {name: p.clone() for name, p in net.module_.named_parameters()}
        state = torch.get_rng_state()
        rates = np.r_[np.full(5, 1e-12), np.geomspace(1e-6, 10, 8)]
        seen.append(range_test(net, drawn, held_out, rates, 2))
        assert torch.equal(torch.get_rng_state(), state)
        for name, each in net.module_.state_dict().items():
            assert torch.equal(each, before[name]), name
        for name, p in net.module_.named_parameters():
            assert torch.equal(p, frozen[name]), name

    run_fit(clf, *digits, None, None, resume=False, train=train)
    (table,) = seen
    # At rates of nothing, training changes nothing.
    np.testing.assert_allclose(table["train"][:, :5], table["before"][:, :5], rtol=1e-4)
    assert not np.allclose(table["before"][0, :5], table["before"][1, :5])  # another order
    assert np.isnan(table["valid"]).all()


def test_it_finds_a_descent_with_either_start_of_the_head(small, digits):
    for start in ("logistic", "random"):
        clf = small(NET, value_range=(0, 16), head__init=start)
        read = clf.find_lr(*digits, n_steps=40, n_runs=2)
        assert 1e-5 < read.suggestion < 1e-2, start
        assert read.runs.shape == (2, 40)
        assert np.nanmin(read.loss) < 0.95 * read.start
        assert np.isfinite(read.valid_start)
        assert not clf.initialized_
        assert clf.lr == 3e-5
        again = clf.find_lr(*digits, n_steps=40, n_runs=2)
        np.testing.assert_array_equal(again.loss, read.loss)
        clf.set_params(lr=read.suggestion).fit(*digits)


@pytest.mark.parametrize("start", ["logistic", "random"])
def test_labels_that_mean_nothing_warn(small, start):
    rng = np.random.default_rng(0)
    X = rng.integers(0, 256, (150, 24, 24, 3)).astype(np.uint8)
    y = rng.permutation(150) % 2
    with pytest.warns(UserWarning, match="no suggestion|Check the labels"):
        small(NET, head__init=start).find_lr(X, y, n_steps=60, n_runs=2)


def test_too_few_rows_to_hold_some_out_are_all_trained_on(small, digits):
    X, y = digits
    rows = np.r_[np.flatnonzero(y == 0)[:9], np.flatnonzero(y == 1)[:1]]
    read = small(NET, value_range=(0, 16)).find_lr(X[rows], y[rows], n_steps=20, n_runs=1)
    assert np.isnan(read.valid_start)
    assert np.isnan(read.valid_loss).all()


def test_no_more_rows_are_held_out_than_are_needed():
    from sktransfer._finetune._labels import a_fifth

    for n, held in ((60, 12), (100_000, 256)):
        train, valid = a_fifth(None, np.arange(n) % 2)
        assert (len(train), len(valid)) == (n - held, held)


def test_groups_are_not_divided(small, digits, monkeypatch):
    from sktransfer._finetune import _labels

    held = []
    original = _labels.holdout_split

    def watched(y, share, *, groups, random_state):
        train, valid = original(y, share, groups=groups, random_state=random_state)
        held.append((set(np.asarray(groups)[train]), set(np.asarray(groups)[valid])))
        return train, valid

    monkeypatch.setattr(_labels, "holdout_split", watched)
    patients = np.arange(60) // 3
    clf = small(NET, value_range=(0, 16))
    clf.find_lr(*digits, groups=patients, n_steps=12, n_runs=1, lr_min=1e-6)
    ((train, valid),) = held
    assert valid
    assert not train & valid


@pytest.mark.parametrize(
    "wrong", [{"lr_min": 1.0, "lr_max": 0.1}, {"lr_min": 0}, {"n_steps": 9}, {"n_runs": 0}]
)
def test_parameters_that_give_no_curve_are_refused(small, task, wrong):
    with pytest.raises(ValueError, match=r"lr_min must lie|must be 10 or more"):
        small().find_lr(*task, **wrong)
