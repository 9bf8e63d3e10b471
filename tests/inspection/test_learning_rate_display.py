"""LearningRateDisplay: the plot shows what the learning-rate finder found."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sktransfer import FineTuneClassifier
from sktransfer.inspection import LearningRateDisplay

matplotlib.use("agg")
import matplotlib.pyplot as plt

RATES = np.geomspace(1e-6, 1e-2, 5)
LOSS = np.array([0.7, 0.69, 0.5, 0.4, np.nan])
FOUND = {"lr": RATES, "loss": LOSS, "runs": np.array([LOSS, LOSS + 0.01]), "start": 0.7}


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def test_the_curve_its_runs_and_the_suggestion_are_drawn_on_a_log_scale():
    display = LearningRateDisplay.from_result({**FOUND, "suggestion": 1e-4})
    np.testing.assert_array_equal(display.line_.get_ydata(), LOSS)
    assert len(display.runs_) == 2
    assert display.ax_.get_xscale() == "log"
    np.testing.assert_allclose(display.suggestion_.get_data(), [[1e-4], [0.5]])
    assert display.valid_line_ is None
    labels = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert labels == ["trained on, median of runs", "suggestion: 1.0e-04"]


def test_without_a_suggestion_there_is_no_point_and_held_out_rows_have_a_line():
    valid = np.array([0.8, np.nan, 0.9, np.nan, np.nan])
    found = {**FOUND, "suggestion": np.nan, "valid_loss": valid, "valid_start": 0.8}
    display = LearningRateDisplay.from_result(found)
    assert display.suggestion_ is None
    np.testing.assert_array_equal(display.valid_line_.get_data(), [RATES[[0, 2]], [0.8, 0.9]])
    low, high = display.ax_.get_ylim()
    assert low < 0.4
    assert high > 0.9


@pytest.mark.filterwarnings("ignore:.*suggestion")  # a network of random weights
def test_an_estimator_in_a_pipeline_is_asked_and_left_unfitted():
    X, y = load_digits(return_X_y=True)
    clf = FineTuneClassifier(
        "squeezenet1_1", weights=None, image_size=32, value_range=(0, 16), random_state=0
    )
    pipe = make_pipeline(clf)
    figure, ax = plt.subplots()
    settings = {"n_steps": 20, "n_runs": 2, "ax": ax}
    display = LearningRateDisplay.from_estimator(pipe, X[:30], y[:30] % 2, **settings)
    assert display.ax_ is ax
    assert display.figure_ is figure
    assert len(display.runs_) == 2
    assert not clf.initialized_
    with pytest.raises(TypeError, match=r"FineTuneClassifier.*got a LogisticRegression"):
        LearningRateDisplay.from_estimator(LogisticRegression(), X, y)
