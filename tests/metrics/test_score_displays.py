"""Displays of scores: what is drawn is what scikit-learn and the metrics say."""

from __future__ import annotations

import inspect

import matplotlib
import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve
from sklearn.datasets import make_classification
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import ConfusionMatrixDisplay, RocCurveDisplay, confusion_matrix, roc_curve
from sklearn.model_selection import (
    FixedThresholdClassifier,
    TunedThresholdClassifierCV,
    cross_validate,
)
from sklearn.svm import LinearSVC

from sktransfer.metrics import (
    CalibrationIntervalDisplay,
    ConfusionPairDisplay,
    DecisionCurveDisplay,
    ReaderStudyDisplay,
    ScoreDistributionDisplay,
    calibration_slope,
    net_benefit,
    operating_point,
    roc_auc_interval,
)
from sktransfer.model_selection import OperatingPointClassifier

DISPLAYS = [
    CalibrationIntervalDisplay,
    DecisionCurveDisplay,
    ReaderStudyDisplay,
    ScoreDistributionDisplay,
]


@pytest.fixture(autouse=True)
def pyplot():
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    yield plt
    plt.close("all")


@pytest.fixture
def study():
    """True labels, probabilities, readings of three simulated readers, patients."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 400)
    probability = 1 / (1 + np.exp(-(rng.normal(size=400) + 2 * y - 1)))
    readers = {
        f"reader {i}": np.where(rng.random(400) < skill, y, 1 - y)
        for i, skill in enumerate((0.7, 0.8, 0.9))
    }
    return y, probability, readers, np.repeat(np.arange(200), 2)


@pytest.fixture
def fitted():
    X, y = make_classification(400, class_sep=0.8, random_state=0)
    return LogisticRegression().fit(X[:200], y[:200]), X[200:], y[200:]


@pytest.mark.parametrize("display", DISPLAYS)
def test_constructors_follow_the_conventions_of_scikit_learn(display, fitted, study, pyplot):
    clf, X, y = fitted
    for constructor in ("from_estimator", "from_predictions", "from_cv_results"):
        parameters = inspect.signature(getattr(display, constructor)).parameters
        assert list(parameters)[:2] in (
            ["estimator", "X"],
            ["y_true", "y_score"],
            ["y_true", "y_proba"],
            ["y_true", "y_proba"],
            ["cv_results", "X"],
        )
    keyword_only = inspect.signature(display.__init__).parameters.values()
    assert all(each.kind == each.KEYWORD_ONLY for each in list(keyword_only)[1:])
    shown = display.from_estimator(clf, X, y)
    assert shown.figure_ is shown.ax_.figure
    words = [text.get_text() for text in shown.ax_.get_legend().get_texts()]
    assert any("LogisticRegression" in word for word in [*words, shown.ax_.get_title()])
    # Attributes suffice to draw it again, elsewhere.
    names = list(inspect.signature(display.__init__).parameters)[1:]
    _, ax = pyplot.subplots()
    again = display(**{name: getattr(shown, name) for name in names}).plot(ax, name="other")
    assert again.ax_ is ax
    y_true, probability, _, _ = study
    labels = np.array(["healthy", "ill"])[y_true]
    named = display.from_predictions(labels, probability, pos_label="ill", ax=ax, despine=True)
    assert named.ax_ is ax
    assert not ax.spines["top"].get_visible()
    assert "ill" in ax.get_xlabel()
    with pytest.raises(ValueError, match="pos_label"):
        display.from_predictions(labels, probability)
    with pytest.raises(ValueError, match="NaN"):
        display.from_predictions(y_true, np.r_[np.nan, probability[1:]])
    with pytest.raises(ValueError, match="response_method must be"):
        display.from_estimator(clf, X, y, response_method="predict")


@pytest.mark.parametrize("display", DISPLAYS)
def test_folds_are_pooled(display, fitted):
    clf, X, y = fitted
    results = cross_validate(clf, X, y, cv=4, return_estimator=True, return_indices=True)
    shown = display.from_cv_results(results, X, y, groups=np.arange(200) // 2)
    score, truth = np.empty(200), y
    for estimator, test in zip(results["estimator"], results["indices"]["test"], strict=True):
        score[test] = estimator.predict_proba(X[test])[:, 1]
    expected = display.from_predictions(truth, score, groups=np.arange(200) // 2)
    for name in inspect.signature(display.__init__).parameters:
        one, other = getattr(shown, name, None), getattr(expected, name, None)
        if isinstance(one, np.ndarray) and name != "y_proba":
            np.testing.assert_allclose(one, other)
    with pytest.raises(ValueError, match="return_indices=True"):
        display.from_cv_results(cross_validate(clf, X, y, cv=2), X, y)


def test_readers_are_points_with_exact_intervals(study):
    y, probability, readers, patients = study
    shown = ReaderStudyDisplay.from_predictions(
        y, probability, readers=readers, threshold=0.4, name="network"
    )
    fpr, tpr, _ = roc_curve(y, probability)
    np.testing.assert_array_equal(shown.line_.get_xdata(), fpr)
    np.testing.assert_array_equal(shown.line_.get_ydata(), tpr)
    theirs = RocCurveDisplay.from_predictions(y, probability)
    assert shown.roc_auc.estimate == pytest.approx(theirs.roc_auc)
    assert shown.roc_auc == roc_auc_interval(y, probability)
    for artist, given in zip(shown.readers_, readers.values(), strict=True):
        (tn, fp), (fn, tp) = confusion_matrix(y, given)
        assert artist.lines[0].get_xdata()[0] == pytest.approx(fp / (fp + tn))
        assert artist.lines[0].get_ydata()[0] == pytest.approx(tp / (tp + fn))
        across, up = (bars.get_segments()[0] for bars in artist.lines[2])
        exact = binomtest(tp, tp + fn).proportion_ci()
        np.testing.assert_allclose(up[:, 1], (exact.low, exact.high))
        exact = binomtest(fp, tn + fp).proportion_ci()
        np.testing.assert_allclose(across[:, 0], (exact.low, exact.high))
    means = np.mean(
        [[each.sensitivity[0], each.specificity[0]] for each in shown.readers.values()], 0
    )
    assert shown.mean_reader.sensitivity.estimate == pytest.approx(means[0])
    assert shown.mean_reader_.lines[0].get_xdata()[0] == pytest.approx(1 - means[1])
    assert shown.operating_point == operating_point(y, probability, 0.4)
    grouped = ReaderStudyDisplay.from_predictions(y, probability, readers=readers, groups=patients)
    assert grouped.operating_point_ is None
    words = [text.get_text() for text in shown.ax_.get_legend().get_texts()]
    assert "average reader" in words
    assert any("network (AUC" in word for word in words)
    chance = shown.plot(plot_chance_level=True, curve_kwargs={"color": "purple"})
    assert chance.line_.get_color() == "purple"
    assert len(chance.ax_.lines) > len(grouped.ax_.lines) - 1


def test_readers_may_be_tables_flags_or_published_rates(study):
    y, probability, readers, _ = study
    shown = ReaderStudyDisplay.from_predictions(y, probability, readers=readers, band=False)
    table = ReaderStudyDisplay.from_predictions(
        y, probability, readers=pd.DataFrame(readers), band=False
    )
    assert table.readers == shown.readers
    assert table.band_ is None
    flags = {name: given.astype(bool) for name, given in readers.items()}
    assert ReaderStudyDisplay.from_predictions(y, probability, readers=flags).readers == (
        shown.readers
    )
    points = ReaderStudyDisplay.from_predictions(
        y, probability, reader_points={"published": (0.9, 0.7)}
    )
    assert points.mean_reader is None
    assert points.readers_[0].lines[0].get_xdata()[0] == pytest.approx(0.3)
    partial = np.where(np.arange(400) < 300, readers["reader 0"], None)
    some = ReaderStudyDisplay.from_predictions(y, probability, readers={"a": partial})
    alone = ReaderStudyDisplay.from_predictions(
        y[:300], probability[:300], readers={"a": readers["reader 0"][:300]}
    )
    assert some.readers == alone.readers
    for bad, message in (
        ({"a": readers["reader 0"][:10]}, "shape"),
        ({"a": np.full(400, 7)}, "not among the labels"),
        ({"a": np.where(y == 1, 1, None)}, "no rows of one"),
    ):
        with pytest.raises(ValueError, match=message):
            ReaderStudyDisplay.from_predictions(y, probability, readers=bad)
    with pytest.raises(ValueError, match="in readers and in reader_points"):
        ReaderStudyDisplay.from_predictions(
            y, probability, readers={"a": y}, reader_points={"a": (1, 1)}
        )


@pytest.mark.parametrize("display", [ReaderStudyDisplay, ScoreDistributionDisplay])
def test_estimators_bring_their_thresholds(display, fitted):
    clf, X, y = fitted
    for wrapped in (
        OperatingPointClassifier(FrozenEstimator(clf), cv="prefit", target_level=0.9, pos_label=0),
        TunedThresholdClassifierCV(FrozenEstimator(clf), cv="prefit", refit=False),
    ):
        wrapped.fit(X, y)
        threshold = getattr(wrapped, "threshold_", None) or wrapped.best_threshold_
        shown = display.from_estimator(wrapped, X, y)
        found = getattr(shown, "operating_point", None)
        assert (found.threshold if found else shown.threshold) == threshold
        assert shown.pos_label == getattr(wrapped, "pos_label_", 1)
        # It is no threshold of the other class's scores.
        shown = display.from_estimator(wrapped, X, y, pos_label=1 - shown.pos_label)
        found = getattr(shown, "operating_point", None)
        assert found is None
        assert getattr(shown, "threshold", None) is None
    fixed = FixedThresholdClassifier(clf, threshold=0.3).fit(X, y)
    assert display.from_estimator(fixed, X, y, threshold=0.3) is not None


def test_the_band_covers_the_true_curve(pyplot):
    from scipy.stats import norm

    rng = np.random.default_rng(0)
    hits = []
    for _ in range(60):
        y = np.repeat([0, 1], [150, 100])
        fpr, low, high = ReaderStudyDisplay.from_predictions(y, rng.normal(1.5 * y)).band
        fpr, low, high = (each[10:-30:5] for each in (fpr, low, high))
        true = norm.sf(norm.isf(fpr) - 1.5)
        hits.append((low <= true) & (true <= high))
        pyplot.close("all")
    assert np.mean(hits) > 0.9


@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
@pytest.mark.parametrize("n_bins", [5, 10])
def test_calibration_is_that_of_scikit_learn_with_intervals(study, strategy, n_bins):
    y, probability, _, _ = study
    shown = CalibrationIntervalDisplay.from_predictions(
        y, probability, n_bins=n_bins, strategy=strategy
    )
    true, predicted = calibration_curve(y, probability, n_bins=n_bins, strategy=strategy)
    np.testing.assert_allclose(shown.prob_true, true)
    np.testing.assert_allclose(shown.prob_pred, predicted)
    np.testing.assert_allclose(shown.line_.get_ydata(), true)
    for share, low, high, n in zip(
        shown.prob_true, shown.low, shown.high, shown.counts, strict=True
    ):
        exact = binomtest(round(share * n), int(n)).proportion_ci()
        np.testing.assert_allclose((low, high), (exact.low, exact.high))
    assert shown.slope == calibration_slope(y, probability)
    grouped = CalibrationIntervalDisplay.from_predictions(
        np.repeat(y, 2), np.repeat(probability, 2), groups=np.repeat(np.arange(400), 2)
    )
    alone = CalibrationIntervalDisplay.from_predictions(np.repeat(y, 2), np.repeat(probability, 2))
    assert (grouped.high - grouped.low).mean() > 1.2 * (alone.high - alone.low).mean()


def test_the_histogram_has_all_of_its_bins():
    shown = CalibrationIntervalDisplay.from_predictions(
        [0, 0, 1, 1], [0.1, 0.2, 0.995, 0.999], n_bins=2
    )
    (path,) = shown.rug_.get_paths()
    highest = path.vertices[path.vertices[:, 1] == path.vertices[:, 1].max()]
    # Two of four in the last of fifty bins, which is as wide as the others.
    assert np.ptp(highest[:, 0]) == pytest.approx(1 / 50)
    assert highest[:, 0].max() == 1


def test_legends_name_classes_that_begin_with_an_underscore(pyplot):
    display = ScoreDistributionDisplay.from_predictions(
        ["_a", "_a", "b"], [0.1, 0.3, 0.8], pos_label="b"
    )
    named = [text.get_text().strip() for text in display.ax_.get_legend().get_texts()]
    assert named[:2] == ["_a (2 rows)", "b (1 rows)"]


def test_perfect_separation_can_be_drawn():
    shown = CalibrationIntervalDisplay.from_predictions(
        [0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], n_bins=2
    )
    assert shown.slope.estimate == np.inf
    with pytest.raises(ValueError, match="calibrate them"):
        CalibrationIntervalDisplay.from_predictions([0, 1], [-2.0, 3.0])
    with pytest.raises(ValueError, match="n_bins"):
        CalibrationIntervalDisplay.from_predictions([0, 1], [0.1, 0.2], n_bins=0)
    with pytest.raises(ValueError, match="strategy"):
        CalibrationIntervalDisplay.from_predictions([0, 1], [0.1, 0.2], strategy="equal")


def test_only_probabilities_are_calibrated(fitted):
    _, X, y = fitted
    machine = LinearSVC().fit(X, y)
    for display in (CalibrationIntervalDisplay, DecisionCurveDisplay):
        with pytest.raises(AttributeError, match="predict_proba"):
            display.from_estimator(machine, X, y)
    assert ReaderStudyDisplay.from_estimator(machine, X, y).name == "LinearSVC"


def test_the_decision_curve_is_the_net_benefit(study, pyplot):
    y, probability, _, _ = study
    shown = DecisionCurveDisplay.from_predictions(y, probability, name="a")
    np.testing.assert_allclose(
        shown.line_.get_ydata(), net_benefit(y, probability, shown.thresholds)
    )
    odds = shown.thresholds / (1 - shown.thresholds)
    np.testing.assert_allclose(shown.benefit_all, y.mean() - (1 - y.mean()) * odds)
    assert shown.prevalence == y.mean()
    DecisionCurveDisplay.from_predictions(y, probability**2, name="b", ax=shown.ax_)
    words = [text.get_text() for text in shown.ax_.get_legend().get_texts()]
    assert words == ["act on everybody", "act on nobody", "a", "b"]
    once = DecisionCurveDisplay.from_predictions(
        np.repeat(y, 3), np.repeat(probability, 3), groups=np.repeat(np.arange(400), 3)
    )
    np.testing.assert_allclose(once.benefit, shown.benefit)


def test_the_score_distribution_has_the_histogram_of_each_class(study):
    y, probability, _, _ = study
    shown = ScoreDistributionDisplay.from_predictions(y, probability, threshold=0.3)
    for label in (0, 1):
        counts, _ = np.histogram(probability[y == label], bins=20, range=(0, 1))
        np.testing.assert_allclose(shown.shares[label], counts / counts.sum())
        assert shown.counts[label] == (y == label).sum()
    assert list(shown.shares) == [0, 1]
    assert shown.threshold_.get_xdata()[0] == 0.3
    other = ScoreDistributionDisplay.from_predictions(y, 5 * probability, pos_label=0)
    assert list(other.shares) == [1, 0]
    assert other.threshold_ is None
    assert other.edges[-1] == pytest.approx(5 * probability.max())


def test_confusion_pair_shows_the_matrices_of_scikit_learn(study, pyplot):
    y, probability, readers, _ = study
    called = (probability > 0.5).astype(int)
    shown = ConfusionPairDisplay.from_predictions(y, called, readers=readers, name="network")
    assert len(shown.axes_) == 4
    assert [ax.get_title() for ax in shown.axes_] == ["network", *readers]
    for display, given in zip(shown.displays_, [called, *readers.values()], strict=True):
        assert isinstance(display, ConfusionMatrixDisplay)
        np.testing.assert_allclose(
            display.confusion_matrix, confusion_matrix(y, given, normalize="true")
        )
        assert display.im_.get_clim() == (0, 1)
    pooled = ConfusionPairDisplay.from_predictions(
        y, called, readers=readers, pool=True, normalize=None
    )
    total = sum(confusion_matrix(y, given) for given in readers.values())
    np.testing.assert_array_equal(pooled.matrices["3 readers"], total)
    part = pyplot.figure().subfigures(1, 2)[1]
    for normalize in ("pred", "all"):
        other = ConfusionPairDisplay.from_predictions(
            y, called, readers=readers, normalize=normalize, figure=part
        )
        np.testing.assert_allclose(
            other.matrices["Classifier"], confusion_matrix(y, called, normalize=normalize)
        )
    assert other.figure_ is part
    for arguments, message in (
        ({"readers": {}}, "readers is empty"),
        ({"readers": {"a": y[:5]}}, "shape"),
        ({"readers": {"a": y}, "normalize": "rows"}, "'normalize' parameter"),
        ({"readers": {"Classifier": y}}, "both called"),
    ):
        with pytest.raises(ValueError, match=message):
            ConfusionPairDisplay.from_predictions(y, called, **arguments)


def test_confusion_pair_predicts_with_an_estimator(fitted):
    _, X, y = fitted
    words = np.array(["benign", "malignant"])
    named = LogisticRegression().fit(X, words[y])
    shown = ConfusionPairDisplay.from_estimator(
        named, X, words[y], readers={"expert": words[y]}, labels=words[::-1]
    )
    np.testing.assert_array_equal(shown.matrices["expert"], np.eye(2))
    assert list(shown.display_labels) == ["malignant", "benign"]
    assert shown.axes_[0].get_title() == "LogisticRegression"
