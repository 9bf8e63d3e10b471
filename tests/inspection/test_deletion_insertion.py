"""Deletion and insertion curves: written out for a model whose map is known exactly."""

from __future__ import annotations

import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sktransfer import PretrainedFeatureExtractor
from sktransfer.exceptions import MissingDependencyError
from sktransfer.inspection import (
    DeletionInsertionCurves,
    DeletionInsertionDisplay,
    deletion_insertion_curves,
)

matplotlib.use("agg")
import matplotlib.pyplot as plt

WEIGHTS = np.random.default_rng(1).normal(size=(8, 12))


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


class Weighted(RegressorMixin, BaseEstimator):
    """Predicts a weighted sum of pixels, so the importance of each pixel is known."""

    def fit(self, X, y=None):
        self.fitted_ = True
        return self

    def predict(self, X):
        rows = X.iloc[:, 0] if isinstance(X, pd.DataFrame) else X
        return np.array([(np.asarray(row, dtype=float) * WEIGHTS).sum() for row in rows])


class WeightedClassifier(ClassifierMixin, Weighted):
    def fit(self, X, y=None):
        self.classes_ = np.array(["dark", "light"])
        return self

    def decision_function(self, X):
        return Weighted.predict(self, X)

    def predict_proba(self, X):
        p = 1 / (1 + np.exp(-self.decision_function(X) / 100))
        return np.stack([1 - p, p], axis=1)


X = np.random.default_rng(0).uniform(0, 200, (3, 8, 12))
MAPS = X * WEIGHTS  # what deleting each pixel to 0 takes away


def test_pixel_by_pixel_is_the_sum_of_what_is_left():
    curves = deletion_insertion_curves(
        Weighted().fit(X),
        X,
        maps=list(MAPS),
        patch=1,
        n_steps=96,
        deletion_fill=0,
        insertion_fill=0,
        batch_size=7,
    )
    np.testing.assert_allclose(curves.fraction, np.arange(97) / 96)
    # The largest first: no other order could be lower, or higher.
    worth = -np.sort(-MAPS.reshape(3, -1), axis=1)
    inserted = np.concatenate([np.zeros((3, 1)), worth.cumsum(axis=1)], axis=1)
    np.testing.assert_allclose(curves.insertion, inserted, atol=1e-9)
    np.testing.assert_allclose(curves.deletion, inserted[:, -1:] - inserted, atol=1e-9)
    expected = (inserted[:, 1:] + inserted[:, :-1]).sum(axis=1) / 2 / 96
    np.testing.assert_allclose(curves.insertion_area, expected)
    np.testing.assert_allclose(curves.deletion_area, inserted[:, -1] - expected)


def test_tiles_go_in_the_order_of_their_means():
    """8 x 12 in tiles of 5: two rows and three columns of tiles, those at the edge smaller."""
    curves = deletion_insertion_curves(
        Weighted().fit(X), X[:1], maps=[MAPS[0]], patch=5, n_steps=6, deletion_fill=0
    )
    tiles = [MAPS[0][top : top + 5, left : left + 5] for top in (0, 5) for left in (0, 5, 10)]
    gone = np.cumsum([each.sum() for each in sorted(tiles, key=lambda tile: -tile.mean())])
    np.testing.assert_allclose(curves.deletion[0, 1:], MAPS[0].sum() - gone, atol=1e-9)


@pytest.mark.parametrize("fill", ["mean", "blur", 7.0])
def test_images_are_filled_with_mean_blur_or_a_value(fill):
    own = X[:1]
    empty = {
        "mean": np.full_like(own[0], own[0].mean()),
        "blur": gaussian_filter(own[0], 0.5),
        7.0: np.full_like(own[0], 7.0),
    }[fill]
    kwargs = {"deletion_fill": fill, "insertion_fill": fill}
    curves = deletion_insertion_curves(
        Weighted().fit(X), own, maps=list(MAPS[:1]), n_steps=2, **kwargs
    )
    whole, nothing = (own[0] * WEIGHTS).sum(), (empty * WEIGHTS).sum()
    np.testing.assert_allclose(curves.deletion[0, [0, -1]], [whole, nothing], atol=1e-9)
    np.testing.assert_allclose(curves.insertion[0, [0, -1]], [nothing, whole], atol=1e-9)


def test_unknown_places_come_last_and_equal_ones_in_any_order():
    own = np.zeros((8, 12))
    own[:, :3] = np.nan
    own[:, 3:6] = 5
    seen = []

    class Watching(Weighted):
        def predict(self, X):
            seen.append(np.asarray(X) == 0)
            return super().predict(X)

    middles = []
    for random_state in range(2):
        seen.clear()
        deletion_insertion_curves(
            Watching().fit(X),
            X[:1],
            maps=[own],
            patch=1,
            n_steps=4,
            deletion_fill=0,
            random_state=random_state,
        )
        # The image alone, its deletion, its insertion.
        nothing, strong, middle, known, everything = seen[1]
        assert not nothing.any()
        np.testing.assert_array_equal(strong, own == 5)
        np.testing.assert_array_equal(known, np.isfinite(own))
        assert everything.all()
        assert middle.sum() == 48
        assert not middle[:, :3].any()
        middles.append(middle)
    assert (middles[0] != middles[1]).any()


def test_score_is_that_of_the_given_or_predicted_class():
    clf = WeightedClassifier().fit(X)
    kwargs = {"maps": list(MAPS), "n_steps": 3}
    light = deletion_insertion_curves(clf, X, ["light"] * 3, **kwargs)
    np.testing.assert_allclose(light.deletion[:, 0], clf.predict_proba(X)[:, 1])
    dark = deletion_insertion_curves(clf, X, ["dark"] * 3, **kwargs)
    np.testing.assert_allclose(dark.deletion, 1 - light.deletion)
    of_predicted = deletion_insertion_curves(clf, X, **kwargs)
    np.testing.assert_allclose(of_predicted.deletion[:, 0], clf.predict_proba(X).max(axis=1))
    kwargs["response_method"] = "decision_function"
    margins = deletion_insertion_curves(clf, X, ["dark", "light", "dark"], **kwargs)
    np.testing.assert_allclose(margins.insertion[:, -1], [-1, 1, -1] * clf.decision_function(X))


FORMS = {
    "list of arrays": list,
    "Pillow": lambda X: [Image.fromarray(each) for each in X],
    "frame": lambda X: pd.DataFrame({"image": [Image.fromarray(each) for each in X]}),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_gives_the_same(form):
    eight = X.astype(np.uint8)
    kwargs = {"maps": list(MAPS), "n_steps": 5}
    expected = deletion_insertion_curves(Weighted().fit(X), eight, **kwargs)
    found = deletion_insertion_curves(Weighted().fit(X), form(eight), **kwargs)
    np.testing.assert_allclose(found.deletion, expected.deletion)
    np.testing.assert_allclose(found.insertion, expected.insertion)


def test_a_good_map_beats_a_random_one_which_depends_on_the_seed():
    digits, y = load_digits(return_X_y=True)
    forest = RandomForestClassifier(100, random_state=0).fit(digits[:800], y[:800])
    rows = digits[1000:1030]
    kwargs = {"patch": 1, "n_steps": 16, "deletion_fill": 0}
    good = deletion_insertion_curves(forest, rows, maps="occlusion", **kwargs)
    chance = deletion_insertion_curves(forest, rows, maps="random", **kwargs)
    assert good.deletion_area.mean() < chance.deletion_area.mean() - 0.05
    assert good.insertion_area.mean() > chance.insertion_area.mean() + 0.05
    again = deletion_insertion_curves(forest, rows, maps="random", **kwargs)
    np.testing.assert_array_equal(again.deletion, chance.deletion)
    other = deletion_insertion_curves(forest, rows, maps="random", random_state=1, **kwargs)
    assert (other.deletion != chance.deletion).any()


def test_maps_of_a_method_are_computed_through_a_pipeline():
    """The map of an image that is not square, through a crop."""
    images = np.random.default_rng(0).integers(0, 255, (8, 40, 60, 3), np.uint8)
    labels = np.arange(8) % 2
    feat = PretrainedFeatureExtractor(
        "squeezenet1_1", weights=None, image_size=64, engine="torch", cache=False
    )
    pipe = make_pipeline(feat, LogisticRegression()).fit(images, labels)
    curves = deletion_insertion_curves(pipe, images[:2], maps="gradient", n_steps=4)
    assert curves.deletion.shape == (2, 5)
    p = pipe.predict_proba(images[:2]).max(axis=1)
    np.testing.assert_allclose(curves.deletion[:, 0], p, rtol=1e-5)
    np.testing.assert_allclose(curves.insertion[:, -1], p, rtol=1e-5)
    forest = make_pipeline(feat, RandomForestClassifier(3)).fit(images, labels)
    with pytest.raises(TypeError, match="No gradient passes through"):
        deletion_insertion_curves(forest, images[:2])


def test_invalid_input_raises():
    model = Weighted().fit(X)
    with pytest.raises(ValueError, match="one for each of 3 images is needed; got 2"):
        deletion_insertion_curves(model, X, maps=list(MAPS[:2]))
    with pytest.raises(ValueError, match=r"row 0 is of shape \(3, 3\).*\(8, 12\)"):
        deletion_insertion_curves(model, X, maps=[np.zeros((3, 3))] * 3)
    with pytest.raises(ValueError, match="n_steps must be 1"):
        deletion_insertion_curves(model, X, maps="random", n_steps=0)
    with pytest.raises(ValueError, match="patch must be 1"):
        deletion_insertion_curves(model, X, maps="random", patch=0)
    with pytest.raises(ValueError, match="insertion_fill must be"):
        deletion_insertion_curves(model, X, maps="random", insertion_fill="black")
    with pytest.raises(ValueError, match="a regressor has none"):
        deletion_insertion_curves(model, X, [0, 1, 2], maps="random")
    with pytest.raises(ValueError, match="response_method must be 'auto' or one of predict_proba"):
        deletion_insertion_curves(model, X, maps="random", response_method="score")
    with pytest.raises(ValueError, match="method must be one of"):
        deletion_insertion_curves(model, X, maps="guided")
    with pytest.raises(ValueError, match="none of the classes"):
        deletion_insertion_curves(WeightedClassifier().fit(X), X, [0, 1, 2], maps="random")


# --- the display -------------------------------------------------------------------------------


def test_means_intervals_and_areas_are_drawn():
    clf = WeightedClassifier().fit(X)
    display = DeletionInsertionDisplay.from_estimator(
        clf, X, maps={"worth": list(MAPS), "random": "random"}, n_steps=8
    )
    assert list(display.curves) == ["worth", "random"]
    assert display.axes_.shape == (2,)
    for ax, part in zip(display.axes_, ("deletion", "insertion"), strict=True):
        for name, curves in display.curves.items():
            line = display.lines_[name, part]
            assert line.axes is ax
            np.testing.assert_allclose(line.get_xdata(), curves.fraction)
            scores = getattr(curves, part)
            np.testing.assert_allclose(line.get_ydata(), scores.mean(axis=0))
            band = display.fill_between_[name, part].get_paths()[0].vertices
            half = 1.96 * scores.std(axis=0, ddof=1) / np.sqrt(3)
            for x, m, h in zip(curves.fraction, scores.mean(axis=0), half, strict=True):
                own = band[np.isclose(band[:, 0], x), 1]
                np.testing.assert_allclose([own.min(), own.max()], [m - h, m + h])
        written = [each.get_text() for each in ax.get_legend().get_texts()]
        areas = [getattr(each, f"{part}_area").mean() for each in display.curves.values()]
        assert written == [f"worth (area {areas[0]:.2f})", f"random (area {areas[1]:.2f})"]
    assert display.axes_[0].get_xlabel() == "Share of the image deleted"
    assert display.axes_[1].get_xlabel() == "Share of the image inserted"
    assert display.axes_[0].get_ylabel() == "Score of the class"


def test_display_can_be_plotted_again_elsewhere():
    fraction, scores = np.linspace(0, 1, 3), np.array([[1.0, 0.5, 0.0]])
    display = DeletionInsertionDisplay(
        curves={"own": DeletionInsertionCurves(fraction, scores, scores[:, ::-1])}
    )
    figure = plt.figure()
    assert display.plot(figure=figure, line_kwargs={"color": "red"}) is display
    assert display.figure_ is figure
    assert display.lines_["own", "deletion"].get_color() == "red"
    assert not display.fill_between_  # of one image there is no interval
    assert display.curves["own"].insertion_area == pytest.approx([0.5])


def test_display_without_maps_or_matplotlib_raises(monkeypatch):
    model = Weighted().fit(X)
    with pytest.raises(ValueError, match="at least one kind of map"):
        DeletionInsertionDisplay.from_estimator(model, X, maps=[])
    display = DeletionInsertionDisplay.from_estimator(model, X, maps="random", n_steps=2)
    assert list(display.curves) == ["random"]
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(MissingDependencyError, match="plot"):
        display.plot()
