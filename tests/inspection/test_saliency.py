"""Occlusion, and maps on the image: a planted mark is found at its place."""

from __future__ import annotations

import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from PIL import Image
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer import PretrainedFeatureExtractor
from sktransfer._images import make_preprocessing
from sktransfer.exceptions import MissingDependencyError
from sktransfer.inspection import SaliencyDisplay, input_gradient, occlusion

matplotlib.use("agg")
import matplotlib.pyplot as plt


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


class Corner(RegressorMixin, BaseEstimator):
    """Predicts the mean of the upper left 4 x 4 pixels."""

    def fit(self, X, y=None):
        self.fitted_ = True
        return self

    def predict(self, X):
        rows = X.iloc[:, 0] if isinstance(X, pd.DataFrame) else X
        return np.array([np.asarray(row)[:4, :4].mean() for row in rows])


class CornerClassifier(ClassifierMixin, Corner):
    def fit(self, X, y=None):
        self.classes_ = np.array(["dark", "light"])
        return self

    def decision_function(self, X):
        return Corner.predict(self, X)


def images(n=2, shape=(12, 16), dtype=np.uint8):
    return np.random.default_rng(0).integers(1, 200, (n, *shape)).astype(dtype)


def expected_fall(image, patch, stride):
    """Compute the fall window by window."""
    height, width = image.shape[:2]
    tops = sorted({min(t, height - patch) for t in range(0, height, stride)})
    lefts = sorted({min(t, width - patch) for t in range(0, width, stride)})
    total, count = np.zeros((height, width)), np.zeros((height, width))
    for top in tops:
        for left in lefts:
            covered = image.copy()
            covered[top : top + patch, left : left + patch] = 0
            fall = image[:4, :4].mean() - covered[:4, :4].mean()
            total[top : top + patch, left : left + patch] += fall
            count[top : top + patch, left : left + patch] += 1
    return total / count


@pytest.mark.parametrize(("patch", "stride"), [(4, 4), (3, 2), (5, 1)])
@pytest.mark.parametrize("channels", [(), (3,)], ids=["gray", "color"])
def test_occlusion_is_the_fall_of_the_score(patch, stride, channels):
    X = images(shape=(12, 16, *channels))
    found = occlusion(Corner().fit(X), X, patch=patch, stride=stride, fill=0, batch_size=3)
    for own, image in zip(found, X, strict=True):
        np.testing.assert_allclose(own, expected_fall(image, patch, stride), atol=1e-10)


FORMS = {
    "array": lambda X: X,
    "list of arrays": list,
    "Pillow": lambda X: [Image.fromarray(each) for each in X],
    "series": lambda X: pd.Series([Image.fromarray(each) for each in X]),
    "frame": lambda X: pd.DataFrame({"image": [Image.fromarray(each) for each in X]}),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_gives_the_same(form):
    X = images()
    expected = occlusion(Corner().fit(X), X, patch=4, stride=4, fill=0)
    found = occlusion(Corner().fit(X), form(X), patch=4, stride=4, fill=0)
    np.testing.assert_allclose(found, expected)


def test_files_tensors_and_frames_give_the_same_through_an_extractor(tmp_path):
    X = images(8)
    paths = []
    for number, each in enumerate(X):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(each).save(paths[-1])
    feat = PretrainedFeatureExtractor(
        "squeezenet1_1", weights=None, image_size=32, preprocessing="resize", engine="torch"
    )
    labels = np.arange(8) % 2
    pipe = make_pipeline(feat, LogisticRegression()).fit(X, labels)
    kwargs = {"patch": 6, "stride": 6, "fill": 0}
    expected = occlusion(pipe, X[:2], **kwargs)
    np.testing.assert_allclose(occlusion(pipe, paths[:2], **kwargs), expected, atol=1e-5)
    tensor = torch.from_numpy(X[:2, None])
    np.testing.assert_allclose(occlusion(pipe, tensor, **kwargs), expected, atol=1e-5)
    frame = pd.DataFrame({"path": paths})
    in_frame = make_pipeline(feat, LogisticRegression()).fit(frame, labels)
    np.testing.assert_allclose(occlusion(in_frame, frame[:2], **kwargs), expected, atol=1e-5)


def test_tables_of_pixels_are_covered():
    X, y = load_digits(return_X_y=True)
    forest = RandomForestClassifier(20, random_state=0).fit(X[:400], y[:400])
    found = occlusion(forest, X[400:403], y[400:403], patch=8)
    columns = [np.searchsorted(forest.classes_, each) for each in y[400:403]]
    for row, own in enumerate(found):
        # One window covers everything: the same fall everywhere.
        covered = np.full((1, 64), X[400 + row].mean())
        whole = X[400 + row : 401 + row]
        fall = forest.predict_proba(whole) - forest.predict_proba(covered)
        np.testing.assert_allclose(own, fall[0, columns[row]])
    table = pd.DataFrame(X).add_prefix("pixel")
    on_table = RandomForestClassifier(20, random_state=0).fit(table[:400], y[:400])
    again = occlusion(on_table, table[400:403], y[400:403], patch=8)
    np.testing.assert_allclose(again, found)


def test_first_class_has_the_opposite_sign():
    X = images(dtype=np.float64)
    clf = CornerClassifier().fit(X)
    light = occlusion(clf, X, ["light"] * 2, patch=4, fill=0)
    np.testing.assert_allclose(occlusion(clf, X, ["dark"] * 2, patch=4, fill=0), np.negative(light))
    np.testing.assert_allclose(occlusion(clf, X, patch=4, fill=0), light)


def test_gaps_between_windows_are_nan():
    X = images(1)
    (own,) = occlusion(Corner().fit(X), X, patch=2, stride=5)
    assert np.isnan(own[2, 2])
    assert np.isfinite(own[0, 0])


def test_invalid_input_raises():
    X = images()
    reg = Corner().fit(X)
    with pytest.raises(ValueError, match="a regressor has none"):
        occlusion(reg, X, [0, 1])
    with pytest.raises(ValueError, match="patch must"):
        occlusion(reg, X, patch=0)
    with pytest.raises(ValueError, match="stride must"):
        occlusion(reg, X, stride=(1, 2, 3))
    with pytest.raises(ValueError, match="fill must"):
        occlusion(reg, X, fill="blur")
    with pytest.raises(ValueError, match="response_method must"):
        occlusion(reg, X, response_method="score")
    with pytest.raises(ValueError, match="has no decision_function"):
        occlusion(reg, X, response_method="decision_function")
    with pytest.raises(ValueError, match="table of 2 columns"):
        occlusion(reg, pd.DataFrame({"a": ["x"], "b": ["y"]}))
    with pytest.raises(ValueError, match="none of the classes"):
        occlusion(CornerClassifier().fit(X), X, ["light", "gray"])
    with pytest.raises(ValueError, match="image_shape"):
        occlusion(LinearRegression().fit(np.zeros((3, 7)), [0, 1, 2]), np.zeros((1, 7)))


# --- onto the image --------------------------------------------------------------------------


@pytest.mark.parametrize("preprocessing", ["weights", "resize", "pad"])
@pytest.mark.parametrize("size", [(300, 200), (200, 300), (120, 128), (31, 500)])
def test_the_square_is_where_a_mark_shows_up(preprocessing, size):
    """A mark in the network's input is mapped back to its place on the image."""
    preprocess = make_preprocessing(
        crop_size=112,
        resize_size=128,
        interpolation="bilinear",
        mean=(0, 0, 0),
        std=(1, 1, 1),
        preprocessing=preprocessing,
    )
    width, height = size
    y, x = np.mgrid[:height, :width] + 0.5
    # Smooth, so that it has a center to a fraction of a pixel.
    at = (0.5 * width + 0.1 * min(size), 0.5 * height - 0.07 * min(size))
    wide = min(size) / 12
    mark = 255 * np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / (2 * wide**2))
    seen = preprocess(Image.fromarray(mark.round().astype(np.uint8)))[0].astype(float)
    left, top, right, bottom = preprocess.box_in(size)
    middles = np.arange(112) + 0.5
    found = (
        left + (seen.sum(0) @ middles) / seen.sum() * (right - left) / 112,
        top + (seen.sum(1) @ middles) / seen.sum() * (bottom - top) / 112,
    )
    pixel = max((right - left), (bottom - top)) / 112
    np.testing.assert_allclose(found, at, atol=0.5 * pixel)


def test_box_is_that_of_torchvision():
    """An image of 300 x 256 is cropped by whole pixels and not resized."""
    preprocess = make_preprocessing(
        crop_size=224, resize_size=256, interpolation="bilinear", mean=(0,) * 3, std=(1,) * 3
    )
    numbers = np.arange(300 * 256).reshape(256, 300)
    cropped = torchvision.transforms.functional.center_crop(torch.from_numpy(numbers), [224])
    left, top, right, bottom = (int(each) for each in preprocess.box_in((300, 256)))
    np.testing.assert_array_equal(numbers[top:bottom, left:right], cropped)


@pytest.fixture(scope="module")
def marked():
    """Return large flat images, the positive ones with a bright square right of the center."""
    rng = np.random.default_rng(0)
    X = rng.integers(90, 110, (24, 60, 100), np.uint8)
    y = np.arange(24) % 2
    X[y == 1, 20:32, 60:72] = 255
    return X, y


@pytest.fixture(scope="module")
def pipe(marked):
    feat = PretrainedFeatureExtractor("squeezenet1_1", weights=None, image_size=64, engine="torch")
    return make_pipeline(feat, StandardScaler(), LogisticRegression()).fit(*marked)


@pytest.mark.parametrize(
    ("method", "kwargs"),
    [("gradient", {}), ("gradient", {"smooth": 5}), ("occlusion", {"patch": 12, "stride": 6})],
    ids=["gradient", "smooth", "occlusion"],
)
def test_maps_are_strongest_at_a_planted_mark(pipe, marked, method, kwargs):
    X, y = marked
    display = SaliencyDisplay.from_estimator(pipe, X[1:4:2], y[1:4:2], method=method, **kwargs)
    for own in display.maps:
        assert own.shape == (60, 100)
        inside = np.nanmean(np.abs(own[20:32, 60:72]))
        elsewhere = np.abs(own).copy()
        elsewhere[14:38, 54:78] = np.nan
        assert inside > 1.5 * np.nanmean(elsewhere)


def test_map_is_drawn_where_the_network_sees_the_image(pipe, marked):
    X, y = marked
    display = SaliencyDisplay.from_estimator(pipe, X[:2], y[:2])
    assert display.axes_.shape == (2, 2)
    np.testing.assert_allclose(display.images[1][:, :, 0], X[1] / 255)
    # The crop of a wide image leaves its sides out: 100 wide, 60 high, 7/8 of the height seen.
    seen = np.isfinite(display.maps[0])
    columns, rows = np.flatnonzero(seen.any(0)), np.flatnonzero(seen.any(1))
    assert abs(len(columns) - 60 * 64 / 73) <= 1
    assert abs(len(rows) - 60 * 64 / 73) <= 1
    assert abs(columns.mean() - 49.5) < 1
    drawn = display.images_[0].get_array()
    np.testing.assert_array_equal(np.ma.filled(drawn, np.nan), display.maps[0])
    assert [axes.get_title() for axes in display.axes_[:, 0]] == ["0", "1"]
    assert display.axes_[0, 1].get_title() == "|gradient|"
    assert len(display.colorbars_) == 2
    largest = np.abs(input_gradient(pipe, X[:1], y[:1])).max()
    assert np.nanmax(display.maps[0]) <= largest


def test_callable_preprocessing_shows_the_networks_input(marked):
    X, y = marked

    def quarter(image):
        return image.crop((50, 0, 100, 50)).resize((64, 64))

    feat = PretrainedFeatureExtractor(
        "squeezenet1_1", weights=None, image_size=64, preprocessing=quarter, cache=False
    )
    pipe = make_pipeline(feat, LogisticRegression()).fit(X, y)
    figure = plt.figure()
    display = SaliencyDisplay.from_estimator(pipe, X[:1], figure=figure)
    assert display.figure_ is figure
    # There is no undoing a callable: the network's own input is shown.
    assert display.images[0].shape == (64, 64, 3)
    assert display.maps[0].shape == (64, 64)
    assert (display.images[0].min(), display.images[0].max()) == (0, 1)


def test_unknown_method_or_missing_matplotlib_raises(pipe, marked, monkeypatch):
    X, _ = marked
    with pytest.raises(ValueError, match="method must be"):
        SaliencyDisplay.from_estimator(pipe, X[:1], method="guided")
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(MissingDependencyError, match="plot"):
        SaliencyDisplay.from_estimator(pipe, X[:1])
