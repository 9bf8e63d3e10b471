"""FreezeDepthDisplay: what is drawn is what was measured, by scikit-learn's conventions."""

from __future__ import annotations

import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV

from sktransfer import FineTuneClassifier
from sktransfer.exceptions import MissingDependencyError
from sktransfer.model_selection import FreezeDepthDisplay

matplotlib.use("agg")
import matplotlib.pyplot as plt

X, y = load_digits(return_X_y=True)
X, y = X[:40], y[:40] % 2
CURVE = pd.DataFrame(
    {
        "depth": [2, 0, 1],
        "stage": ["all", "-", "stem"],
        "mean_score": [-0.7, -0.5, -0.4],
        "low": [-0.8, -0.9, -0.5],
        "high": [-0.6, -0.1, -0.3],
        "seconds": [1.0, 50.0, 20.0],
    }
)


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture
def clf():
    return FineTuneClassifier(
        "squeezenet1_1",
        weights=None,
        image_size=32,
        value_range=(0, 16),
        engine="torch",
        max_epochs=1,
        random_state=0,
    )


def test_scores_intervals_and_seconds_are_drawn():
    display = FreezeDepthDisplay(curve=CURVE, score_name="Log loss").plot()
    np.testing.assert_array_equal(display.line_.get_ydata(), [-0.5, -0.4, -0.7])
    labels = [tick.get_text().split("\n") for tick in display.ax_.get_xticklabels()]
    assert labels == [["full", "training", "(0)"], ["stem", "(1)"], ["probe", "(2)"]]
    assert display.ax_.get_ylabel() == "Log loss"
    assert [bar.get_height() for bar in display.bars_] == [50, 20, 1]
    assert display.seconds_ax_.get_ylabel() == "Seconds"
    _, _, (segments,) = display.errorbar_
    ends = [segment[:, 1].tolist() for segment in segments.get_segments()]
    np.testing.assert_allclose(ends, [[-0.9, -0.1], [-0.5, -0.3], [-0.8, -0.6]])
    assert display.figure_ is display.ax_.figure


def test_styles_and_axes():
    _, ax = plt.subplots()
    display = FreezeDepthDisplay(curve=CURVE)
    assert display.plot(ax, interval_style="fill_between", show_seconds=False).ax_ is ax
    assert display.errorbar_ is None
    assert display.fill_between_ is not None
    assert display.bars_ is display.seconds_ax_ is None
    assert ax.get_ylabel() == "Score"
    display.plot(
        interval_style=None, score_name="Gain", line_kwargs={"color": "red", "marker": "x"}
    )
    assert display.errorbar_ is display.fill_between_ is None
    assert display.line_.get_color() == "red"
    assert display.ax_.get_ylabel() == "Gain"
    display.plot(errorbar_kwargs={"capsize": 1}, bar_kwargs={"color": "blue"})
    assert display.bars_[0].get_facecolor()[2] == 1
    with pytest.raises(ValueError, match="Unknown interval_style: 'box'"):
        display.plot(interval_style="box")


def test_no_interval_and_many_stages():
    alone = CURVE.assign(low=np.nan, high=np.nan)
    FreezeDepthDisplay(curve=alone).plot().figure_.canvas.draw()
    many = pd.concat([CURVE.assign(depth=CURVE["depth"] + 3 * i) for i in range(4)])
    display = FreezeDepthDisplay(curve=many).plot()
    display.figure_.canvas.draw()
    assert {label.get_rotation() for label in display.ax_.get_xticklabels()} == {60}
    # Scores stand above the bars.
    low, high = display.ax_.get_ylim()
    _, top = display.seconds_ax_.get_ylim()
    assert (many["low"].min() - low) / (high - low) > many["seconds"].max() / top


def test_negated_scores_are_drawn():
    display = FreezeDepthDisplay(curve=CURVE).plot(negate_score=True)
    np.testing.assert_array_equal(display.line_.get_ydata(), [0.5, 0.4, 0.7])
    _, _, (segments,) = display.errorbar_
    np.testing.assert_allclose(segments.get_segments()[0][:, 1], [0.1, 0.9])


def test_from_estimator_and_from_cv_results_agree(clf):
    depths = ["all", -1]
    display = FreezeDepthDisplay.from_estimator(
        clf, X, y, depths=depths, cv=2, scoring="neg_log_loss", negate_score=True
    )
    assert display.score_name == display.ax_.get_ylabel() == "Log loss"
    assert len(display.line_.get_xdata()) == 2
    search = GridSearchCV(
        clf, {"freeze_depth": depths}, cv=2, scoring="neg_log_loss", refit=False
    ).fit(X, y)
    other = FreezeDepthDisplay.from_cv_results(search, ax=display.ax_)
    assert other.ax_ is display.ax_
    assert other.score_name == "Negative log loss"
    np.testing.assert_allclose(
        other.line_.get_ydata(), -np.asarray(display.line_.get_ydata()), atol=1e-3
    )


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(MissingDependencyError, match=r"sktransfer\[plot\]"):
        FreezeDepthDisplay(curve=CURVE).plot()
