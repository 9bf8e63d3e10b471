"""AugmentationDisplay: one image under several draws."""

from __future__ import annotations

import sys

import matplotlib
import numpy as np
import pytest
from PIL import Image

from sktransfer.exceptions import MissingDependencyError
from sktransfer.inspection import AugmentationDisplay
from sktransfer.preprocessing import ImageAugmentation

matplotlib.use("agg")
import matplotlib.pyplot as plt

X = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def test_the_original_comes_first():
    display = AugmentationDisplay.from_augmentation(
        ImageAugmentation(horizontal_flip=True), X, row=1, n_draws=6
    )
    shown = [axes.get_images()[0].get_array() for axes in display.axes_]
    assert len(shown) == 7
    np.testing.assert_array_equal(shown[0], X[1])
    assert all(np.array_equal(one, X[1]) or np.array_equal(one, X[1][:, ::-1]) for one in shown[1:])
    assert display.axes_[0].get_title() == "original"
    assert display.figure_ is display.axes_[0].figure


def test_random_state_determines_the_draws():
    def pixels(random_state):
        display = AugmentationDisplay.from_augmentation(
            "standard", X, n_draws=3, random_state=random_state
        )
        return np.stack([np.asarray(image) for image in display.images])

    np.testing.assert_array_equal(pixels(1), pixels(1))
    assert not np.array_equal(pixels(1), pixels(2))


def test_single_images_and_given_figures_are_accepted(tmp_path):
    figure = plt.figure()
    gray = Image.fromarray(X[0]).convert("L")
    gray.save(tmp_path / "gray.png")
    for one in (tmp_path / "gray.png", gray, [gray], X[:, :, :, 0].astype(float) / 255):
        display = AugmentationDisplay.from_augmentation("light", one, n_draws=2, figure=figure)
        assert display.figure_ is figure
        assert len(display.axes_) == 3
        figure.clear()
    assert len(display.plot(n_columns=1).axes_) == 3
    assert display.figure_ is not figure


def test_invalid_values_raise():
    with pytest.raises(ValueError, match="n_draws must be at least 1; got 0"):
        AugmentationDisplay.from_augmentation("light", X, n_draws=0)
    with pytest.raises(ValueError, match="nothing to draw"):
        AugmentationDisplay.from_augmentation(None, X)
    with pytest.raises(ValueError, match="row=3 is not in X, which has 3 images"):
        AugmentationDisplay.from_augmentation("light", X, row=3)


def test_missing_matplotlib_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(MissingDependencyError, match=r"sktransfer\[plot\]"):
        AugmentationDisplay.from_augmentation("light", X)
