"""One rule for the positive class wherever a side is chosen: said, or beyond doubt."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer import FineTuneClassifier, metrics
from sktransfer._utils.classes import positive_class
from sktransfer.model_selection import OperatingPointClassifier
from sktransfer.report._scored_rows import score_rows
from sktransfer.report._scores import operating_section

RNG = np.random.default_rng(0)
ILL = RNG.random(400) < 0.5
SCORE = 1 / (1 + np.exp(-RNG.normal(3 * ILL - 1.5)))
X = np.column_stack([SCORE, RNG.normal(size=400)])
WORDS = np.where(ILL, "covid 19", "other")
LINE = r"classes are 'covid 19' and 'other', .* Add pos_label='covid 19' or pos_label='other'\."

DISPLAYS = [
    metrics.ReaderStudyDisplay,
    metrics.ScoreDistributionDisplay,
    metrics.CalibrationIntervalDisplay,
    metrics.DecisionCurveDisplay,
]
SIDED = {
    "operating_point": lambda y, **p: metrics.operating_point(y, SCORE, 0.3, **p).sensitivity,
    "specificity": lambda y, **p: metrics.specificity_at_sensitivity(y, SCORE, **p),
    "sensitivity": lambda y, **p: metrics.sensitivity_at_specificity(y, SCORE, **p),
    "net_benefit": lambda y, **p: metrics.net_benefit(y, SCORE, 0.2, **p),
    "calibration": lambda y, **p: metrics.calibration_slope(y, SCORE, **p),
    "auc": lambda y, **p: metrics.roc_auc_interval(y, SCORE, **p),
}


@pytest.mark.parametrize("name", SIDED)
def test_every_metric_with_a_side_asks_for_it_and_knows_zero_and_one(name):
    metric = SIDED[name]
    with pytest.raises(ValueError, match=LINE):
        metric(WORDS)
    for one_and_two in (np.where(ILL, 2, 1), np.where(ILL, 1, 2)):
        with pytest.raises(ValueError, match=r"Add pos_label=1 or pos_label=2\."):
            metric(one_and_two)
    expected = metric(WORDS, pos_label="covid 19")
    for labels in (ILL, ILL.astype(int), np.where(ILL, 1, -1), ILL.astype(float)):
        assert metric(labels) == expected
    assert metric(WORDS, pos_label="other") != expected


@pytest.mark.parametrize("display", DISPLAYS)
def test_every_display_with_a_side_asks_for_it(display):
    plt = pytest.importorskip("matplotlib.pyplot")
    words = LogisticRegression().fit(X, WORDS)
    with pytest.raises(ValueError, match=LINE):
        display.from_predictions(WORDS, SCORE)
    with pytest.raises(ValueError, match=LINE):
        display.from_estimator(words, X, WORDS)
    folds = {"cv": 2, "return_estimator": True, "return_indices": True}
    with pytest.raises(ValueError, match=LINE):
        display.from_cv_results(cross_validate(words, X, WORDS, **folds), X, WORDS)
    shown = display.from_estimator(words, X, WORDS, pos_label="covid 19")
    assert shown.pos_label == "covid 19"
    assert display.from_estimator(LogisticRegression().fit(X, ILL), X, ILL).pos_label == 1
    # A threshold knows which class it is for.
    decided = OperatingPointClassifier(LogisticRegression(), pos_label="covid 19").fit(X, WORDS)
    assert display.from_estimator(decided, X, WORDS).pos_label == "covid 19"
    plt.close("all")


LABELS = {
    "words": WORDS,
    "objects": WORDS.astype(object),
    "list": WORDS.tolist(),
    "series": pd.Series(WORDS, index=np.arange(400) + 7),
    "string": pd.Series(WORDS, dtype="string"),
    "categorical": pd.Categorical(WORDS, categories=["other", "covid 19"]),
}


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("positive", ["covid 19", "other", np.str_("covid 19")])
def test_the_guarantee_goes_to_the_class_that_is_named(kind, positive):
    clf = OperatingPointClassifier(LogisticRegression(), pos_label=positive)
    clf.fit(X, LABELS[kind])
    assert clf.pos_label_ == positive
    assert clf.operating_point_.n_positive == (positive == WORDS).sum()
    predicted = clf.predict(X)
    assert recall_score(WORDS, predicted, pos_label=positive) >= 0.95
    other = "other" if positive == "covid 19" else "covid 19"
    assert recall_score(WORDS, predicted, pos_label=other) < 0.95
    with pytest.raises(ValueError, match=LINE):
        OperatingPointClassifier(LogisticRegression()).fit(X, LABELS[kind])


@pytest.mark.parametrize(
    ("labels", "positive"),
    [
        (ILL, True),
        (ILL.astype(int), 1),
        (np.where(ILL, 1, -1), 1),
        (ILL.astype(float), 1.0),
        (pd.Series(ILL, dtype="boolean"), True),
        (ILL.astype(object), True),
    ],
)
def test_of_numbers_and_booleans_the_larger_is_positive(labels, positive):
    clf = OperatingPointClassifier(LogisticRegression()).fit(X, labels)
    assert clf.pos_label_ == positive
    assert (clf.predict(X) == positive)[ILL].mean() >= 0.95
    flipped = OperatingPointClassifier(LogisticRegression(), pos_label=min(set(labels)))
    assert flipped.fit(X, labels).operating_point_.n_positive == (~ILL).sum()


@pytest.mark.parametrize("given", ["1", "True", "covid", 7, "Covid 19", " other"])
def test_what_is_no_class_is_refused_with_the_classes(given):
    for labels in (WORDS, ILL.astype(int)):
        with pytest.raises(ValueError, match=r"pos_label=.* is not one of the classes, which are"):
            OperatingPointClassifier(LogisticRegression(), pos_label=given).fit(X, labels)


def test_three_classes_are_told_apart_by_name_or_refused():
    with pytest.raises(ValueError, match=r"3 classes, 'a', 'b', 'c', .* pos_label='a' or"):
        positive_class(["a", "b", "c"])
    assert positive_class(["a", "b", "c"], "b") == "b"
    assert positive_class([0, 1, 2], "nv", names={0: "mel", 1: "nv", 2: "bcc"}) == 1
    with pytest.raises(ValueError, match="'mel', 'nv', 2"):
        positive_class([0, 1, 2], "bcc", names={0: "mel", 1: "nv"})


def test_around_pipelines_calibration_and_searches():
    pipe = make_pipeline(StandardScaler(), LogisticRegression())
    patients = np.arange(400) // 2
    for inner in (pipe, CalibratedClassifierCV(pipe, cv=3), GridSearchCV(pipe, {}, cv=3)):
        with pytest.raises(ValueError, match=LINE):
            OperatingPointClassifier(inner, target_level=0.9).fit(X, WORDS)
        clf = OperatingPointClassifier(inner, target_level=0.9, pos_label="covid 19", cv=3)
        clf.fit(X, WORDS, groups=patients)
        assert recall_score(WORDS, clf.predict(X), pos_label="covid 19") >= 0.9
    clf = OperatingPointClassifier(pipe, pos_label="covid 19")
    search = GridSearchCV(clf, {"target_level": [0.8, 0.9]}, cv=2, scoring="roc_auc")
    assert search.fit(X, WORDS).best_estimator_.pos_label_ == "covid 19"


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """Return a network of 0 and 1 that were named when it was saved, and 80 images."""
    rng = np.random.default_rng(0)
    y = np.arange(80) % 2
    images = (rng.integers(0, 120, (80, 24, 24)) + 60 * y[:, None, None]).astype(np.uint8)
    net = FineTuneClassifier(
        "squeezenet1_1", weights=None, image_size=32, freeze_depth="all", random_state=0
    )
    path = tmp_path_factory.mktemp("models") / "net.safetensors"
    net.fit(images, y).save(path, class_names=["other", "covid19"])
    return FineTuneClassifier.load(path), images, y


@pytest.mark.parametrize("frozen", [False, True])
def test_a_class_with_a_name_is_chosen_and_mentioned_by_it(named, frozen):
    net, images, y = named
    net = FrozenEstimator(net) if frozen else net
    clf = OperatingPointClassifier(net, cv="prefit", target_level=0.9, pos_label="covid19")
    assert clf.fit(images, y).pos_label_ == 1
    assert clf.set_params(pos_label="other").fit(images, y).pos_label_ == 0
    clf.set_params(target_level=0.95)
    with pytest.raises(ValueError, match=r"59 positive rows \(class 'other'\), and 40 were scored"):
        clf.fit(images, y)
    with pytest.raises(ValueError, match=r"not one of the classes, which are 'other', 'covid19'"):
        clf.set_params(pos_label="covid").fit(images, y)


# --- thresholds without use -----------------------------------------------------------------------


def point(tp, fn, fp, tn):
    y = np.repeat([1, 1, 0, 0], [tp, fn, fp, tn])
    called = np.repeat([1, 0, 1, 0], [tp, fn, fp, tn])
    return metrics.operating_point(y, called, 1)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ((136, 0, 52, 0), "calls nearly every row 1, also 52 of the 52"),
        ((133, 3, 51, 1), "calls nearly every row 1"),
        ((60, 0, 113, 7), "calls nearly every row 1, also 113 of the 120"),
        ((0, 52, 0, 136), "calls hardly any row 1, only 0 of the 52"),
        ((1, 51, 0, 136), "calls hardly any row 1, only 1 of the 52"),
        ((50, 50, 48, 52), "no better than chance"),
        ((80, 20, 160, 40), "no better than chance"),
        ((20, 80, 80, 20), "worse than chance"),
        # Good ones: a guarantee, few rows, a strict threshold on imbalanced data, a lenient one.
        ((212, 5, 60, 720), None),
        ((8, 0, 0, 8), None),
        ((30, 70, 90, 9810), None),
        ((40, 960, 10, 98990), None),
        ((98, 2, 850, 150), None),
        ((9800, 200, 10, 40), None),
    ],
)
def test_a_threshold_that_tells_nothing_says_so(table, message):
    found = point(*table)
    if message is None:
        assert found.warning is None
        assert "Warning" not in str(found)
    else:
        assert message in found.warning
        assert found.warning in str(found)


@pytest.mark.parametrize("constraint", ["sensitivity", "specificity"])
@pytest.mark.parametrize("target", [0.5, 0.8, 0.95])
def test_a_guarantee_on_noise_is_no_success(constraint, target):
    noise = np.random.default_rng(1).normal(size=(400, 3))
    clf = OperatingPointClassifier(
        LogisticRegression(), constraint=constraint, target_level=target, pos_label="covid 19"
    )
    with pytest.warns(UserWarning, match="This threshold is .*covid 19|no better than chance"):
        clf.fit(noise, WORDS)
    assert clf.operating_point_.warning is not None


def test_a_report_warns_of_a_threshold_that_calls_everybody_ill():
    clf = OperatingPointClassifier(LogisticRegression(), pos_label="covid 19").fit(X, WORDS)
    for threshold, warned in ((None, False), (0.0, True), (1.0, True)):
        rows = score_rows(clf, X, WORDS, threshold=threshold)
        texts = [each.text for each in operating_section(rows, {"all": 0.0}).notices]
        assert [text.split(" (")[0] for text in texts] == ["The model's threshold"] * warned + [
            "all"
        ]
        assert "of no use: it calls nearly every row 'covid 19'" in texts[-1]


def test_a_good_threshold_does_not_warn_on_imbalanced_data():
    rng = np.random.default_rng(0)
    rare = rng.random(5000) < 0.03
    scores = rng.normal(3 * rare)[:, None]
    with warnings.catch_warnings(action="error"):
        for constraint in ("sensitivity", "specificity"):
            clf = OperatingPointClassifier(
                LogisticRegression(), constraint=constraint, target_level=0.9
            )
            assert clf.fit(scores, rare).operating_point_.warning is None
        strict = OperatingPointClassifier(
            LogisticRegression(), constraint="specificity", target_level=0.999, cv=2
        )
        assert strict.fit(scores, rare).operating_point_.warning is None


@pytest.mark.parametrize("n", [1, 2, 59, 60, 136, 1000, 5000])
def test_never_to_miss_one_is_explained_with_what_can_be_had(n):
    y = np.repeat([0, 1], [200, n])
    scores = np.random.default_rng(0).normal(8 * y)[:, None]
    clf = OperatingPointClassifier(LogisticRegression(), target_level=1.0, cv=2)
    with pytest.raises(
        ValueError, match=rf"With {n} positive rows \(class 1\).* rule of three"
    ) as e:
        clf.fit(scores, y)
    level = float(str(e.value).rsplit("guarantee is ")[-1].rstrip("."))
    assert metrics.rows_needed(level) <= n < metrics.rows_needed(level + 2 * 10.0 ** -len(str(n)))
    if n >= 59:
        assert level >= 0.95
        clf.set_params(target_level=level).fit(scores, y)
    patients = np.arange(len(y)) // 2
    if n > 2:
        with pytest.raises(ValueError, match=r"positive groups \(class 1\)"):
            clf.set_params(target_level=1).fit(scores, y, groups=patients)
    for constraint, whose in (
        ("specificity", "ever called positive .* 200 negative rows"),
        ("sensitivity", f"ever missed .* {n} pos"),
    ):
        with pytest.raises(ValueError, match=whose):
            clf.set_params(target_level=1.0, constraint=constraint).fit(scores, y)
