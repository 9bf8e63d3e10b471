"""HistoryDisplay: the plot shows the history of the fitted classifiers."""

from __future__ import annotations

import sys

import matplotlib
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sktransfer import FineTuneClassifier
from sktransfer.exceptions import MissingDependencyError
from sktransfer.inspection import HistoryDisplay

matplotlib.use("agg")
import matplotlib.pyplot as plt

X, y = load_digits(return_X_y=True)
X, y = X[:60], y[:60] % 2


def classifier(**params):
    settings = {"max_epochs": 3, "validation_fraction": 0.3, "random_state": 0, **params}
    return FineTuneClassifier(
        "squeezenet1_1",
        weights=None,
        image_size=32,
        value_range=(0, 16),
        engine="torch",
        **settings,
    )


@pytest.fixture(scope="module")
def fitted():
    return classifier(head__init="random", head__epochs=2, lr=1e-3).fit(X, y)


@pytest.fixture(scope="module")
def without_validation():
    return classifier(validation_fraction=None).fit(X, y)


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def test_curves_are_the_history(fitted):
    display = HistoryDisplay.from_estimator(fitted)
    assert len(display.lines_) == 4
    for (_, column), line in display.lines_.items():
        np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3, 4, 5])
        np.testing.assert_array_equal(line.get_ydata(), fitted.history_[:, column])
    assert [axes.get_ylabel() for axes in display.axes_] == ["Loss", "Accuracy"]
    assert display.axes_[0].get_xlabel() == "Epoch"
    assert [text.get_text() for text in display.axes_[0].get_legend().get_texts()] == [
        "training",
        "validation",
    ]


def test_phase_changes_and_best_epochs_are_marked(fitted):
    display = HistoryDisplay.from_estimator(fitted)
    assert display.history["phase"].tolist() == ["head"] * 2 + ["all"] * 3
    (change,) = display.phases_["FineTuneClassifier", "loss"]
    assert change.get_xdata()[0] == 2.5
    # Of the phase that chooses, not of the head's.
    losses = np.array(fitted.history_[:, "valid_loss"])
    best = 3 + int(losses[2:].argmin())
    assert display.history.loc[display.history["best"], "epoch"].tolist() == [best]
    point = display.best_["FineTuneClassifier", "valid_loss"]
    assert point.get_xdata()[0] == best
    assert point.get_ydata()[0] == losses[best - 1]


def test_gap_is_validation_minus_training_at_the_best_epoch(fitted):
    gap = HistoryDisplay.from_estimator(fitted).gap.iloc[0]
    row = fitted.history_[int(gap["best_epoch"]) - 1]
    assert gap["epochs"] == 5
    assert gap["loss_gap"] == pytest.approx(row["valid_loss"] - row["train_loss"])
    assert gap["acc_gap"] == pytest.approx(row["valid_acc"] - row["train_acc"])


def test_several_classifiers_and_no_validation_rows(fitted, without_validation):
    display = HistoryDisplay.from_estimator({"held out": fitted, "all": without_validation})
    assert ("all", "train_loss") in display.lines_
    assert ("all", "valid_loss") not in display.lines_
    assert display.gap["name"].tolist() == ["held out", "all"]
    assert np.isnan(display.gap["loss_gap"][1])
    texts = [text.get_text() for text in display.axes_[0].get_legend().get_texts()]
    assert texts == ["held out, training", "held out, validation", "all, training"]
    colors = {name: line.get_color() for (name, _), line in display.lines_.items()}
    assert colors["held out"] != colors["all"]
    names = HistoryDisplay.from_estimator([fitted, without_validation]).gap["name"]
    assert names.tolist() == ["fit 1", "fit 2"]


def test_partial_fit_continues_the_curve():
    clf = classifier(max_epochs=2).fit(X, y)
    clf.partial_fit(X, y)
    display = HistoryDisplay.from_estimator(clf)
    assert len(display.history) == 4
    best = display.history.loc[display.history["best"], "epoch"].item()
    assert best == 2 + clf.best_epoch_


def test_a_solved_head_is_one_point():
    clf = classifier(freeze_depth="all").fit(X, y)
    display = HistoryDisplay.from_estimator(clf)
    assert display.history["phase"].tolist() == ["solved"]
    assert display.gap["best_epoch"].tolist() == [1]


def test_pipelines_and_frozen_estimators_are_unwrapped(fitted):
    for wrapped in (make_pipeline("passthrough", fitted), FrozenEstimator(fitted)):
        display = HistoryDisplay.from_estimator(wrapped)
        assert display.gap["epochs"].tolist() == [5]


def test_given_axes_are_used_or_divided(fitted):
    figure, axes = plt.subplots(1, 2)
    display = HistoryDisplay.from_estimator(fitted, ax=axes)
    assert display.axes_.tolist() == axes.tolist()
    assert display.figure_ is figure
    _, ax = plt.subplots()
    display = HistoryDisplay.from_estimator(fitted, ax=ax)
    assert len(display.axes_) == 2
    assert display.figure_ is ax.figure
    _, ax = plt.subplots()
    display = HistoryDisplay.from_estimator(fitted, metrics=["acc"], ax=ax)
    assert display.axes_[0] is ax
    assert display.plot(show_phases=False).phases_["FineTuneClassifier", "acc"] == []


def test_invalid_input_raises(fitted):
    with pytest.raises(TypeError, match="LogisticRegression"):
        HistoryDisplay.from_estimator(LogisticRegression())
    with pytest.raises(NotFittedError):
        HistoryDisplay.from_estimator(classifier())
    with pytest.raises(ValueError, match="at least one"):
        HistoryDisplay.from_estimator([])
    with pytest.raises(ValueError, match=r"no 'auc'.*acc"):
        HistoryDisplay.from_estimator(fitted, metrics=["auc"])
    _, axes = plt.subplots(1, 3)
    with pytest.raises(ValueError, match="2 axes are needed"):
        HistoryDisplay.from_estimator(fitted, ax=axes)


def test_missing_matplotlib_names_the_extra(fitted, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(MissingDependencyError, match="plot"):
        HistoryDisplay.from_estimator(fitted)


def test_the_learning_rate_has_a_panel_if_asked_for(fitted):
    display = HistoryDisplay.from_estimator(fitted, metrics=["loss", "lr"])
    line = display.lines_["FineTuneClassifier", "train_lr"]
    np.testing.assert_array_equal(line.get_ydata(), fitted.history_[:, "lr"])
    assert display.axes_[1].get_ylabel() == "Learning rate"
