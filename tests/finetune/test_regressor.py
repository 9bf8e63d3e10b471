"""Numbers instead of classes: losses, the penalty of the head, several targets, bad rows, files."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.base import clone, is_regressor
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score
from sklearn.model_selection import GroupKFold, cross_val_predict, cross_val_score
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import EpochScoring
from torch import nn

from sktransfer import FineTuneClassifier, FineTuneRegressor, PretrainedFeatureExtractor
from sktransfer.exceptions import FailedRowsWarning, ImageDecodeError
from sktransfer.inspection import saliency_maps
from sktransfer.preprocessing import ImageAugmentation

N, SIDE = 48, 24


@pytest.fixture(scope="module")
def numbers():
    """Noise of some brightness and contrast; y is the brightness, in a large unit."""
    rng = np.random.default_rng(0)
    level, spread = rng.uniform(20, 160, N), rng.uniform(20, 90, N)
    X = rng.uniform(0, 1, (N, SIDE, SIDE, 3)) * spread[:, None, None, None]
    X = (X + level[:, None, None, None]).astype(np.uint8)
    return X, X.mean(axis=(1, 2, 3)) * 1000


def small(freeze_depth="all", **parameters):
    settings = {"weights": None, "image_size": 32, "max_epochs": 2, "batch_size": 8}
    settings |= {"random_state": 0, "engine": "torch", **parameters}
    return FineTuneRegressor("squeezenet1_1", freeze_depth=freeze_depth, **settings)


@pytest.mark.parametrize("loss", ["squared_error", "absolute_error", "huber"])
@pytest.mark.parametrize("freeze_depth", ["all", -1])
def test_brightness_is_found_with_every_loss(numbers, loss, freeze_depth):
    X, y = numbers
    reg = small(freeze_depth, loss=loss, weight_interpolation=1.0).fit(X[:36], y[:36])
    assert is_regressor(reg)
    assert np.abs(reg.predict(X[36:]) - y[36:]).mean() < 0.05 * np.ptp(y)
    assert reg.score(X[36:], y[36:]) > 0.97
    assert "train_acc" not in reg.history_[-1]


def test_frozen_it_is_scikit_learns_ridge_on_all_layers(numbers):
    X, y = numbers
    y = y + np.random.default_rng(0).normal(0, 20_000, N)
    reg = small().fit(X, y)
    extractor = PretrainedFeatureExtractor(
        "squeezenet1_1", weights=None, image_size=32, layer="all", engine="torch"
    )
    F = extractor.fit_transform(X).astype(float)
    scale = F.std(axis=0)
    Z = (F - F.mean(axis=0)) / np.maximum(scale, 0.1 * np.median(scale[scale > 1e-12]))
    Z[:, scale <= 1e-12] = 0
    z = StandardScaler().fit_transform(y[:, None])[:, 0]
    peer = RidgeCV(np.logspace(-6, 4, 41) * (scale > 1e-12).sum()).fit(Z, z)
    expected = peer.predict(Z) * y.std() + y.mean()
    np.testing.assert_allclose(reg.predict(X), expected, rtol=1e-6)
    fixed = small(head__alpha=peer.alpha_).fit(X, y)
    np.testing.assert_allclose(fixed.predict(X), expected, rtol=1e-6)


def test_patients_are_left_out_whole_where_the_penalty_is_chosen(numbers):
    """The same image with other noise twice: left out alone, its twin would tell."""
    X, y = numbers
    rng = np.random.default_rng(0)
    y = rng.normal(0, 1, N // 2).repeat(2)
    twins = X[::2].repeat(2, axis=0)
    near = np.clip(twins.astype(int) + rng.integers(-2, 3, twins.shape), 0, 255).astype(np.uint8)
    groups = np.arange(N // 2).repeat(2)
    alone, whole = small().fit(near, y), small().fit(near, y, groups=groups)
    assert r2_score(y, alone.predict(near)) > 0.9
    assert r2_score(y, whole.predict(near)) < 0.6
    # Copies are one image without anybody saying so.
    assert r2_score(y, small().fit(twins, y).predict(twins)) < 0.6


def test_a_few_wild_numbers_decide_nothing_with_robust_losses(numbers):
    X, y = numbers
    wild = y.copy()
    wild[:36:9] += 50 * np.ptp(y)
    errors = {
        loss: np.abs(small(loss=loss).fit(X[:36], wild[:36]).predict(X[36:]) - y[36:]).mean()
        for loss in ("squared_error", "absolute_error", "huber")
    }
    assert max(errors["absolute_error"], errors["huber"]) < 0.1 * np.ptp(y)
    assert errors["squared_error"] > np.ptp(y)


@pytest.mark.parametrize("freeze_depth", ["all", -1])
def test_the_unit_of_y_does_not_matter(numbers, freeze_depth):
    X, y = numbers
    far = small(freeze_depth, weight_interpolation=1.0).fit(X, y * 1e-6 + 1e3).predict(X)
    near = small(freeze_depth, weight_interpolation=1.0).fit(X, y).predict(X)
    np.testing.assert_allclose((far - 1e3) * 1e6, near, rtol=1e-3, atol=1e-3 * np.ptp(y))


def test_several_targets_are_those_of_separate_fits(numbers):
    X, y = numbers
    Y = pd.DataFrame({"level": y, "spread": X.std(axis=(1, 2, 3))})
    together = small().fit(X, Y).predict(X)
    assert together.shape == (N, 2)
    for place, name in enumerate(Y):
        alone = small().fit(X, Y[name])
        assert alone.predict(X).shape == (N,)
        np.testing.assert_allclose(together[:, place], alone.predict(X), rtol=1e-6)
    assert small().fit(X, Y[["level"]]).predict(X).shape == (N, 1)


@pytest.mark.parametrize("freeze_depth", ["all", -1])
def test_weights_are_rows(numbers, freeze_depth):
    X, y = numbers
    weight = np.random.default_rng(1).integers(0, 3, N)
    rows = np.repeat(np.arange(N), weight)
    start = {"max_epochs": 0} if freeze_depth == -1 else {}
    twice = small(freeze_depth, **start).fit(X[rows], y[rows])
    weighted = small(freeze_depth, **start).fit(X, y, sample_weight=weight)
    np.testing.assert_allclose(weighted.predict(X), twice.predict(X), rtol=1e-4)


def test_training_starts_at_the_ridge_and_how_far_it_goes_is_judged_by_the_loss(numbers):
    X, y = numbers
    noisy = y + np.random.default_rng(0).normal(0, 10_000, N)
    probe = small().fit(X, noisy).predict(X)
    start = small(-1, max_epochs=0, cache__activation_dtype="float32").fit(X, noisy)
    np.testing.assert_allclose(start.predict(X), probe, rtol=1e-4)
    net = [nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), nn.Conv2d(8, 16, 3)]
    own = FineTuneRegressor(
        net, preprocessing="resize", image_size=32, freeze_depth=-1, max_epochs=2, random_state=0
    ).fit(X, noisy)
    assert set(own.interpolation_losses_) == {0.0, 0.25, 0.5}


def test_held_out_rows_stop_training_and_groups_stay_whole(numbers):
    X, y = numbers
    groups = np.arange(N) // 3
    reg = small(-1, validation_fraction=0.25, early_stopping=1, lr=1e-2, max_epochs=6)
    reg.fit(X, y, groups=groups)
    assert not set(groups[reg.train_indices_]) & set(groups[reg.valid_indices_])
    assert "valid_loss" in reg.history_[-1]
    assert reg.n_epochs_ <= 6


def test_skorchs_scoring_callback_sees_numbers_in_their_unit(numbers):
    X, y = numbers
    scoring = EpochScoring("neg_mean_absolute_error", name="mae", on_train=False)
    reg = small(-1, validation_fraction=0.25, callbacks=[scoring], weight_interpolation=1.0)
    reg.fit(X, y)
    assert 0 < -reg.history_[-1]["mae"] < np.ptp(y)


def test_training_resumes_with_numbers_standardized_as_before(numbers):
    X, y = numbers
    reg = small(-1).partial_fit(X[:30], y[:30])
    before = reg.target_mean_.copy()
    reg.partial_fit(X[30:], y[30:])
    assert np.array_equal(reg.target_mean_, before)
    assert reg.score(X, y) > 0.9
    with pytest.raises(ValueError, match="2 columns of numbers"):
        reg.partial_fit(X, np.column_stack([y, y]))


@pytest.mark.parametrize("augmentation", ["light", ImageAugmentation(mixup=0.4)])
def test_augmentation_draws_and_mixes_numbers(numbers, augmentation):
    X, y = numbers
    reg = small(-1, augmentation=augmentation, weight_interpolation=1.0).fit(X, y)
    assert reg.score(X, y) > 0.8


@pytest.mark.parametrize("freeze_depth", ["all", -1])
def test_files_and_pickles_give_the_same_numbers(numbers, tmp_path, freeze_depth):
    X, y = numbers
    reg = small(freeze_depth, loss="huber", loss__delta=2.0).fit(X, np.column_stack([y, -y]))
    expected = reg.predict(X)
    assert np.array_equal(pickle.loads(pickle.dumps(reg)).predict(X), expected)
    reg.save(tmp_path / "reg.safetensors")
    again = FineTuneRegressor.load(tmp_path / "reg.safetensors")
    assert np.array_equal(again.predict(X), expected)
    assert again.get_params() == reg.get_params()
    with pytest.raises(ValueError, match="FineTuneRegressor"):
        FineTuneClassifier.load(tmp_path / "reg.safetensors")


def test_a_broken_file_has_no_number(numbers, tmp_path):
    X, y = numbers
    paths = []
    for row, image in enumerate(X):
        paths.append(tmp_path / f"{row}.png")
        Image.fromarray(image).save(paths[-1])
    paths[5].write_bytes(b"no image")
    with pytest.raises(ImageDecodeError, match="row 5"):
        small().fit(paths, y)
    reg = small(on_error="nan")
    with pytest.warns(FailedRowsWarning):
        reg.fit(paths, y)
    with pytest.warns(FailedRowsWarning):
        predicted = reg.predict(paths)
    assert np.isnan(predicted[5])
    rest = np.delete(np.arange(N), 5)
    np.testing.assert_allclose(predicted[rest], small().fit(X[rest], y[rest]).predict(X[rest]))


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.r_[np.nan, np.arange(N - 1)], "rows have no number, the first is row 0. Leave"),
        (np.c_[np.arange(N), [*range(N - 1), np.nan]], f"the first is row {N - 1}"),
        ([*range(N - 1), None], f"no number, the first is row {N - 1}"),
        (np.r_[0, -np.inf, np.arange(N - 2)], "infinity.*row 1 has -inf. Leave such rows out"),
        (["a"] * N, r"row 0 has 'a'. Convert .*to_numeric\); FineTuneClassifier"),
        (["1"] * (N - 1) + ["58Y"], f"row {N - 1} has '58Y'"),
        ([{1}] * N, "row 0 has {1}"),
        (pd.date_range("2020", periods=N), "dates"),
        (np.arange(N - 1), "inconsistent numbers"),
        (None, "requires y"),
    ],
)
def test_what_is_no_number_is_refused(numbers, y, message):
    with pytest.raises(ValueError, match=message):
        small().fit(numbers[0], y)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"loss": "cross_entropy"}, "loss"),
        ({"class_weight": "balanced"}, "class_weight"),
        ({"head__C": 1.0}, "head__alpha"),
        ({"loss__gamma": 2.0}, "gamma is not a setting"),
        ({"head__alpha": 0.0}, "head__alpha"),
    ],
)
def test_parameters_of_classes_are_refused(numbers, parameters, message):
    with pytest.raises((TypeError, ValueError), match=message):
        small(**parameters).fit(*numbers)


def test_it_cross_validates_and_clones(numbers):
    X, y = numbers
    folds = list(GroupKFold(3).split(X, y, np.arange(N) // 2))
    assert cross_val_score(small(), X, y, cv=folds, scoring="r2").min() > 0.9
    assert cross_val_predict(small(), X, y, cv=folds).shape == (N,)
    assert clone(small(loss="huber")).get_params() == small(loss="huber").get_params()


def test_find_lr_gives_a_curve(numbers):
    X, y = numbers
    noisy = y + np.random.default_rng(0).normal(0, 30_000, N)
    found = small(-1).find_lr(X, noisy, n_steps=10, n_runs=1)
    assert found.loss.shape == (10,)
    assert 1e-7 < found.suggestion < 1


def test_saliency_is_of_the_number(numbers):
    X, y = numbers
    reg = small(-1, weight_interpolation=1.0).fit(X, y)
    maps = saliency_maps(reg, X[:2], method="gradient")
    assert all(own.shape == (SIDE, SIDE) and np.nanmax(own) > 0 for own in maps)
    with pytest.raises(ValueError, match="a regressor has none"):
        saliency_maps(reg, X[:2], y=[0, 1], method="gradient")
    two = small().fit(X, np.column_stack([y, -y]))
    with pytest.raises(TypeError, match="2 numbers"):
        saliency_maps(two, X[:2], method="gradient")
