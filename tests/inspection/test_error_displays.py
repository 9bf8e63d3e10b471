"""ErrorGalleryDisplay and ConfusionExamplesDisplay: the intended images are shown."""

from __future__ import annotations

import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import FixedThresholdClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC

from sktransfer import PretrainedFeatureExtractor
from sktransfer.exceptions import MissingDependencyError
from sktransfer.inspection import ConfusionExamplesDisplay, ErrorGalleryDisplay

matplotlib.use("agg")
import matplotlib.pyplot as plt

DISPLAYS = [ErrorGalleryDisplay, ConfusionExamplesDisplay]
X, y = load_digits(return_X_y=True)
X, y = X[:400], y[:400] % 3


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def clf():
    return LogisticRegression(max_iter=2000).fit(X[:100], y[:100])


@pytest.fixture
def binary():
    """Return distinct images, true labels and probabilities of 1, four of them wrong."""
    images = np.random.default_rng(0).integers(0, 256, (8, 6, 5), dtype=np.uint8)
    truth = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    return images, truth, np.array([0.1, 0.9, 0.6, 0.2, 0.8, 0.3, 0.05, 0.7])


def titles(display):
    return [axes.get_title(loc="left").split("\n") for axes in display.axes_]


def test_errors_of_highest_confidence_come_first(clf):
    display = ErrorGalleryDisplay.from_estimator(clf, X[100:], y[100:], n_images=7)
    probability, predicted = clf.predict_proba(X[100:]), clf.predict(X[100:])
    wrong = np.flatnonzero(predicted != y[100:])
    expected = wrong[np.argsort(-probability[wrong].max(axis=1), kind="stable")]
    assert display.table["row"].tolist() == expected[:7].tolist()
    np.testing.assert_allclose(display.table["confidence"], probability[expected[:7]].max(axis=1))
    assert display.table["y_true"].tolist() == y[100:][expected[:7]].tolist()
    assert display.table["y_pred"].tolist() == predicted[expected[:7]].tolist()
    assert (display.n_errors, display.n_rows) == (len(wrong), 300)
    for image, axes, row in zip(display.images, display.axes_, display.table["row"], strict=True):
        np.testing.assert_allclose(image[:, :, 0], X[100 + row].reshape(8, 8) / 16)
        np.testing.assert_array_equal(axes.images[0].get_array(), image)
    row = display.table.iloc[0]
    assert titles(display)[0] == [
        f"true: {row.y_true:.0f}",
        f"predicted: {row.y_pred:.0f} (>0.99)",
        f"row {row.row:.0f}",
    ]
    assert display.figure_.get_suptitle() == f"7 of {len(wrong)} errors among 300 rows"


def test_one_column_of_scores_is_that_of_the_second_class(binary):
    images, truth, score = binary
    display = ErrorGalleryDisplay.from_predictions(truth, score, images)
    assert display.table["row"].tolist() == [6, 1, 5, 2]
    np.testing.assert_allclose(display.table["confidence"], [0.95, 0.9, 0.7, 0.6])
    columns = ErrorGalleryDisplay.from_predictions(truth, np.stack([1 - score, score], 1), images)
    pd.testing.assert_frame_equal(columns.table, display.table)
    # A margin is on either side of 0.
    margin = ErrorGalleryDisplay.from_predictions(truth, 10 * score - 5, images)
    assert margin.table["row"].tolist() == [6, 1, 5, 2]
    np.testing.assert_allclose(margin.table["confidence"], [4.5, 4, 2, 1])
    # Predictions of a threshold of one's own.
    low = ErrorGalleryDisplay.from_predictions(truth, score, images, y_pred=score > 0.15)
    assert sorted(low.table["row"]) == [1, 2, 3, 6]
    named = ErrorGalleryDisplay.from_predictions(
        truth, score, images, display_labels=["healthy", "ill"], row_names=list("abcdefgh")
    )
    assert titles(named)[0] == ["true: ill", "predicted: healthy (0.95)", "g"]
    assert titles(named.plot(show_rows=False))[0] == ["true: ill", "predicted: healthy (0.95)"]


def test_estimators_own_threshold_is_used(clf):
    two = LogisticRegression(max_iter=2000).fit(X[:100], y[:100] > 0)
    fixed = FixedThresholdClassifier(two, threshold=0.9).fit(X[:100], y[:100] > 0)
    display = ErrorGalleryDisplay.from_estimator(fixed, X[100:], y[100:] > 0)
    wrong = fixed.predict(X[100:]) != (y[100:] > 0)
    assert display.n_errors == wrong.sum()
    assert not np.array_equal(wrong, two.predict(X[100:]) != (y[100:] > 0))


@pytest.mark.parametrize("model", [LinearSVC(), SVC()], ids=["margin", "several margins"])
def test_confidence_may_be_a_margin(model):
    model.fit(X[:100], y[:100])
    display = ErrorGalleryDisplay.from_estimator(model, X[100:], y[100:])
    scores = model.decision_function(X[100:])
    for _, row in display.table.iterrows():
        assert row["confidence"] == pytest.approx(scores[int(row["row"]), int(row["y_pred"])])
    # A margin that happens to lie between 0 and 1 is no probability.
    two = LinearSVC(C=1e-9).fit(X[:100], y[:100] > 0)
    score = two.decision_function(X[100:])
    shown = ErrorGalleryDisplay.from_estimator(two, X[100:], y[100:] > 0)
    np.testing.assert_allclose(shown.table["confidence"], np.abs(score)[shown.table["row"]])


def test_each_class_begins_a_row(binary):
    images, truth, score = binary
    display = ErrorGalleryDisplay.from_predictions(truth, score, images, n_images=2, by_class=True)
    assert display.table["row"].tolist() == [1, 6]
    several = ErrorGalleryDisplay.from_predictions(truth, score, images, by_class=True)
    assert several.table["y_true"].tolist() == [0, 0, 1, 1]
    tops = [axes.get_subplotspec().rowspan.start for axes in several.axes_]
    assert tops == [0, 0, 1, 1]


def test_copies_are_shown_once(binary):
    images, truth, score = binary
    images = images.copy()
    images[2] = images[5] = images[1]
    display = ErrorGalleryDisplay.from_predictions(truth, score, images)
    assert display.table["row"].tolist() == [6, 1]
    assert display.table["n_copies"].tolist() == [1, 3]
    assert titles(display)[1][-1] == "row 1, 3 copies"
    assert display.n_errors == 4


def test_patients_are_shown_once_and_not_named(binary):
    images, truth, score = binary
    patients = np.array(["Ann", "Bob", "Bob", "Ann", "Cid", "Cid", "Cid", "Dan"])
    display = ErrorGalleryDisplay.from_predictions(truth, score, images, groups=patients)
    assert display.table["row"].tolist() == [6, 1]
    assert display.table["n_in_group"].tolist() == [2, 2]
    words = " ".join(line for title in titles(display) for line in title)
    for name in (*patients, *map(str, display.table.to_numpy().ravel())):
        assert name not in ("Ann", "Bob", "Cid") or name not in words
    assert "2 in group" in words


def test_paths_do_not_appear(tmp_path, binary):
    images, truth, score = binary
    files = [str(tmp_path / f"secret{i}.png") for i in range(8)]
    for file, image in zip(files, images, strict=True):
        Image.fromarray(image).resize((600, 400)).save(file)
    (tmp_path / "secret6.png").write_bytes(b"no image")
    display = ErrorGalleryDisplay.from_predictions(truth, score, files)
    # Even one that cannot be read is an error.
    assert display.images[0] is None
    assert [text.get_text() for text in display.axes_[0].texts] == ["cannot be read"]
    assert display.images[1].shape == (171, 256, 3)
    assert "secret" not in " ".join(line for title in titles(display) for line in title)
    assert "secret" not in display.table.to_string()


def test_no_errors_are_stated(binary):
    images, truth, _ = binary
    display = ErrorGalleryDisplay.from_predictions(truth, truth.astype(float), images)
    assert len(display.table) == len(display.images) == 0
    assert "no errors among 8 rows" in display.axes_[0].texts[0].get_text()
    by_class = ErrorGalleryDisplay.from_predictions(
        truth, truth.astype(float), images, by_class=True
    )
    assert len(by_class.table) == 0


def test_long_names_are_shortened_and_scores_below_one_are_not_written_as_one(binary):
    images, truth, score = binary
    display = ErrorGalleryDisplay.from_predictions(
        truth,
        np.where(score < 0.06, 1e-5, score),
        images,
        display_labels=["a name that is much too long for it", "ill"],
    )
    assert titles(display)[0][1] == "predicted: a name that is mu… (>0.99)"


@pytest.mark.parametrize("example", ["typical", "sure", "doubtful"])
def test_example_of_a_cell_has_the_requested_confidence(clf, example):
    display = ConfusionExamplesDisplay.from_estimator(clf, X[100:], y[100:], example=example)
    predicted, probability = clf.predict(X[100:]), clf.predict_proba(X[100:])
    np.testing.assert_array_equal(display.confusion_matrix, confusion_matrix(y[100:], predicted))
    assert set(display.rows) == set(zip(*np.nonzero(display.confusion_matrix), strict=True))
    for (i, j), row in display.rows.items():
        own = np.flatnonzero((y[100:] == i) & (predicted == j))
        ranked = np.sort(probability[own, j])
        place = {"typical": (len(own) - 1) // 2, "sure": -1, "doubtful": 0}[example]
        assert row in own
        assert probability[row, j] == ranked[place]
        image = display.images[i, j]
        np.testing.assert_allclose(image[:, :, 0], X[100 + row].reshape(8, 8) / 16)
        np.testing.assert_array_equal(display.images_[i, j].get_array(), image)
        left, right, bottom, top = display.images_[i, j].get_extent()
        assert j - 0.5 < left < right < j + 0.5
        assert i - 0.5 < top < bottom < i + 0.5
        number = display.display_.text_[i, j]
        assert number.get_text() == str(len(own))
        # Below the image.
        assert bottom < number.get_position()[1] < i + 0.5
    assert display.ax_.get_xlim() == (-0.5, 2.5)
    assert display.ax_.get_ylim() == (2.5, -0.5)


def test_shares_and_names_are_shown_and_empty_cells_have_no_image(binary):
    images, truth, _ = binary
    display = ConfusionExamplesDisplay.from_predictions(
        truth, truth.astype(float), images, normalize="true", display_labels=["well", "ill"]
    )
    assert set(display.rows) == {(0, 0), (1, 1)}
    assert display.display_.text_[0, 1].get_text() == "0.00"
    assert display.display_.text_[0, 1].get_position() == (1, 0)
    assert [tick.get_text() for tick in display.ax_.get_xticklabels()] == ["well", "ill"]
    assert display.ax_.get_ylabel() == "True label"


def test_unreadable_examples_are_skipped(binary):
    images, truth, score = binary
    rows = [Image.fromarray(each) for each in images]
    rows[6] = b"no image"  # the surest of the two missed ones
    display = ConfusionExamplesDisplay.from_predictions(truth, score, rows, example="sure")
    assert display.rows[1, 0] == 5
    rows[5] = b"neither"
    display = ConfusionExamplesDisplay.from_predictions(truth, score, rows, example="sure")
    assert (1, 0) not in display.rows
    assert display.confusion_matrix[1, 0] == 2


@pytest.mark.parametrize("display", DISPLAYS)
def test_images_are_shown_as_the_estimator_reads_them(display):
    feat = PretrainedFeatureExtractor(
        "squeezenet1_1", weights=None, image_size=32, value_range=(0, 32), image_shape=(4, 16)
    )
    pipe = make_pipeline(feat, StandardScaler(), LogisticRegression(C=1e-3))
    pipe.fit(X[:60], y[:60])
    shown = display.from_estimator(pipe, X[100:160], y[100:160])
    rows = shown.rows if display is ConfusionExamplesDisplay else dict(shown.table["row"])
    key = next(iter(rows))
    expected = X[100 + rows[key]].reshape(4, 16) / 32
    np.testing.assert_allclose(shown.images[key][:, :, 0], expected, atol=1e-6)
    given = display.from_predictions(
        y[100:160], pipe.predict_proba(X[100:160]), X[100:160], value_range=(0, 32)
    )
    again = shown.images[key].reshape(8, 8, 3)
    np.testing.assert_allclose(given.images[key], again, atol=1e-6)


@pytest.mark.parametrize("display", DISPLAYS)
def test_invalid_input_raises(display, binary, clf):
    images, truth, score = binary
    with pytest.raises(TypeError, match=r"predict_proba.*LinearSVC"):
        display.from_estimator(LinearSVC().fit(X, y), X, y, response_method="predict_proba")
    with pytest.raises(ValueError, match="response_method must be"):
        display.from_estimator(clf, X, y, response_method="predict")
    with pytest.raises(ValueError, match="inconsistent"):
        display.from_predictions(truth[:5], score, images)
    with pytest.raises(ValueError, match="inconsistent"):
        display.from_predictions(truth, score, images[:5])
    with pytest.raises(ValueError, match="NaN in 1 of 8"):
        display.from_predictions(truth, np.r_[np.nan, score[1:]], images)
    with pytest.raises(ValueError, match=r"3 columns.*2 classes"):
        display.from_predictions(truth, np.ones((8, 3)), images)
    with pytest.raises(ValueError, match="y_pred has 5"):
        display.from_predictions(truth, score, images, y_pred=np.full(8, 5))
    with pytest.raises(ValueError, match="2 names are needed"):
        display.from_predictions(truth, score, images, display_labels=["a"])


def test_invalid_choices_raise(binary):
    images, truth, score = binary
    with pytest.raises(ValueError, match="n_images"):
        ErrorGalleryDisplay.from_predictions(truth, score, images, n_images=0)
    with pytest.raises(ValueError, match="inconsistent"):
        ErrorGalleryDisplay.from_predictions(truth, score, images, groups=[1, 2])
    with pytest.raises(ValueError, match="example must be"):
        ConfusionExamplesDisplay.from_predictions(truth, score, images, example="best")


@pytest.mark.parametrize("display", DISPLAYS)
def test_missing_matplotlib_names_the_extra(display, binary, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(MissingDependencyError, match="plot"):
        display.from_predictions(binary[1], binary[2], binary[0])
