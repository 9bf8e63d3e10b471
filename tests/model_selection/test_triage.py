"""TriageClassifier: what it decides and refers, what it refuses, and how it fits in."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
import sklearn
from PIL import Image
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.datasets import make_blobs, make_classification
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import get_scorer
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    StratifiedGroupKFold,
    StratifiedKFold,
    cross_val_predict,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.estimator_checks import parametrize_with_checks

from sktransfer import FineTuneClassifier, PretrainedFeatureExtractor, TransferClassifier
from sktransfer.__main__ import main
from sktransfer.metrics import allowed_misses, rows_needed
from sktransfer.model_selection import OperatingPointClassifier, TriageClassifier, TriageDisplay
from sktransfer.novelty import NoveltyGate

# The checks want a class for every row, the likeliest one: rates are high enough for nothing to be
# referred. Equal rates need no positive class, which the checks' words would.
ALIKE = {"max_missed": 0.4, "max_false": 0.4, "confidence_level": None}


class Columns(ClassifierMixin, BaseEstimator):
    """The probabilities are the columns of X."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X):
        return np.asarray(X, dtype=float)

    def predict(self, X):
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


class Score(Columns):
    """The score is the first column."""

    predict_proba = property()

    def decision_function(self, X):
        return np.asarray(X)[:, 0]


@pytest.mark.filterwarnings("ignore:This triage is of no use:UserWarning")
@pytest.mark.filterwarnings("ignore:Deciding for:UserWarning")
@parametrize_with_checks(
    [
        TriageClassifier(LogisticRegression(), **ALIKE),
        TriageClassifier(LogisticRegression(), response_method="decision_function", **ALIKE),
        TriageClassifier(DecisionTreeClassifier(random_state=0), **(ALIKE | {"max_missed": 0.4})),
    ]
)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def task():
    return make_classification(1200, class_sep=0.8, random_state=0)


@pytest.fixture(scope="module")
def kinds():
    X, y = make_blobs(1500, centers=[[0, 0], [2, 0], [0, 2], [2, 2]], random_state=0)
    return X, np.array(["bcc", "melanoma", "nevus", "wart"])[y]


def test_thresholds_are_order_statistics_of_each_class(task):
    X, y = task
    clf = TriageClassifier(LogisticRegression(), max_missed=0.03, max_false=0.1).fit(X, y)
    proba = cross_val_predict(LogisticRegression(), X, y, method="predict_proba")
    for label, rate in ((0, 0.1), (1, 0.03)):
        own = np.sort(proba[y == label, label])
        assert clf.thresholds_[label] == own[allowed_misses(len(own), 1 - rate)]
    inner = LogisticRegression().fit(X, y)
    p = inner.predict_proba(X)[:, 1]
    out, into = clf.thresholds_[1], 1 - clf.thresholds_[0]
    assert out < into
    expected = np.where(p < out, 0, np.where(p > into, 1, -1))
    np.testing.assert_array_equal(clf.predict(X), expected)
    np.testing.assert_array_equal(clf.predict_proba(X), inner.predict_proba(X))
    assert set(expected) == {-1, 0, 1}


def test_a_triage_whose_thresholds_cross_refers_nobody():
    rng = np.random.default_rng(0)
    y = np.arange(600) % 2
    p = np.where(y == 1, rng.uniform(0.6, 1, 600), rng.uniform(0, 0.4, 600))
    X = np.column_stack([1 - p, p])
    clf = TriageClassifier(Columns().fit(X, y), cv="prefit").fit(X, y)
    decided = clf.predict([[1 - s, s] for s in (0.1, 0.45, 0.55, 0.9)])
    assert decided.tolist() == [0, 0, 1, 1]
    assert clf.referred_.estimate == 0
    assert not clf.predict_set([[0.5, 0.5]]).any()


def test_counts_tell_what_became_of_every_class(task):
    X, y = task
    patients = np.arange(len(y)) // 3
    y = y[patients * 3]
    X = X + 0.06 * y[:, None]
    fitted = FrozenEstimator(LogisticRegression().fit(X, y))
    clf = TriageClassifier(fitted, cv="prefit", max_missed=0.05, max_false=0.1)
    table = clf.fit(X, y, groups=patients).triage_
    decided = clf.predict(X)
    for label in (0, 1):
        own = table.loc[label]
        released = (y == label) & (decided == 1 - label)
        assert own["n_rows"] == (y == label).sum()
        assert own["n_released"] == released.sum()
        assert own["n_referred"] == ((y == label) & (decided == -1)).sum()
        assert own["n_correct"] == own["n_rows"] - own["n_released"] - own["n_referred"]
        assert own["n_groups_released"] == len(set(patients[released]))
        assert own["released"] == own["n_groups_released"] / own["n_groups"]
        assert own["released"] <= own["max_released"]
        assert own["released_low"] <= own["released"] < own["released_high"]
    assert table["n_released"].sum() > 0
    assert 0.1 < clf.referred_.estimate == np.mean(decided == -1)


def test_a_patient_counts_once_by_its_worst_image():
    """Of ten patients one may be missed; without groups it would be two of twenty images."""
    y = np.repeat([0, 1], 20)
    p = np.concatenate([np.linspace(0, 0.3, 20), np.linspace(0.2, 0.9, 20)])
    X, patients = np.column_stack([1 - p, p]), np.arange(40) // 2
    settings = {"cv": "prefit", "confidence_level": None, "max_missed": 0.1, "max_false": 0.2}
    fitted = Columns().fit(X, y)
    clf = TriageClassifier(fitted, **settings).fit(X, y, groups=patients)
    # The second lowest of the patients' lowest scores.
    assert clf.thresholds_[1] == p[22]
    assert TriageClassifier(fitted, **settings).fit(X, y).thresholds_[1] == p[22]
    twice = TriageClassifier(fitted, **settings)
    twice.fit(np.vstack([X, X[:4]]), np.append(y, y[:4]), groups=np.append(patients, patients[:4]))
    np.testing.assert_array_equal(twice.thresholds_, clf.thresholds_)


def test_a_patient_with_both_labels_counts_in_both_classes(task):
    X, y = task
    patients = np.arange(len(y)) // 4
    table = (
        TriageClassifier(LogisticRegression(), max_missed=0.05).fit(X, y, groups=patients).triage_
    )
    assert table.loc[0, "n_groups"] == len(set(patients[y == 0]))
    assert table.loc[1, "n_groups"] == len(set(patients[y == 1]))
    assert table["n_groups"].sum() > len(set(patients))


@pytest.mark.filterwarnings("ignore:Deciding for:UserWarning")
def test_named_classes_share_the_confidence(kinds):
    X, y = kinds
    clf = TriageClassifier(
        LogisticRegression(), max_missed={"melanoma": 0.05, "bcc": 0.1}, max_false=None
    ).fit(X, y)
    sure = clf.triage_["confidence_level"]
    assert sure[["melanoma", "bcc"]].tolist() == pytest.approx([0.975, 0.975])
    assert sure[["nevus", "wart"]].isna().all()
    assert np.isnan(clf.thresholds_[2:]).all()
    possible, decided = clf.predict_set(X), clf.predict(X)
    likeliest = clf.classes_[clf.predict_proba(X).argmax(axis=1)]
    assert (decided[possible.sum(axis=1) > 1] == "refer").all()
    alone = possible.sum(axis=1) == 1
    np.testing.assert_array_equal(decided[alone], clf.classes_[possible[alone].argmax(axis=1)])
    # Nevi and warts stand alone where they are the likeliest, and no named class is possible.
    benign = np.isin(decided, ["nevus", "wart"])
    assert benign.any()
    assert (decided[benign] == likeliest[benign]).all()
    assert not possible[benign][:, :2].any()
    signs = TriageClassifier(LogisticRegression(), max_missed=0.1).fit(X, np.arange(1500) % 3 - 1)
    assert (signs.pos_label_, signs.refer_label_) == (None, -2)
    # A number without pos_label is for all classes at once, and with it for that class.
    both = TriageClassifier(LogisticRegression(), max_missed=0.1).fit(X, y)
    assert (both.triage_["max_released"] == 0.1).all()
    assert both.triage_["confidence_level"].tolist() == pytest.approx([1 - 0.05 / 4] * 4)
    one = TriageClassifier(LogisticRegression(), pos_label="bcc", max_missed=0.1).fit(X, y)
    assert one.triage_["max_released"].tolist() == [0.1, 0.05, 0.05, 0.05]
    assert one.triage_["confidence_level"].tolist() == pytest.approx([0.95] + [1 - 0.05 / 3] * 3)


def test_a_rate_of_zero_is_kept_by_never_deciding_against_the_class(task):
    X, y = task
    clf = TriageClassifier(LogisticRegression(), max_false=0).fit(X, y)
    assert set(clf.predict(X)) == {0, -1}
    assert set(clf.set_params(max_false=0.1, max_missed=0).fit(X, y).predict(X)) == {1, -1}


def test_costs_choose_among_the_decisions_that_are_allowed(kinds):
    X, y = kinds
    free = 1 - np.eye(4)
    dear = np.column_stack([free, np.full(4, 0.2)])
    rates = {"max_missed": {"melanoma": 0.05}, "max_false": None}
    for costs in (free, dear):
        clf = TriageClassifier(LogisticRegression(), cost_matrix=costs, **rates).fit(X, y)
        p, decided = clf.predict_proba(X), clf.predict(X)
        held = p[:, 1] >= clf.thresholds_[1]
        assert np.isin(decided[held], ["melanoma", "refer"]).all()
        for row in range(0, 1500, 50):
            allowed = [1] if held[row] else range(4)
            paid = p[row] @ costs
            best = min(allowed, key=lambda each, paid=paid: paid[each])
            cheapest = paid.argmin() if costs is free else None
            if (cheapest in allowed) if costs is free else paid[best] <= 0.2:
                assert decided[row] == clf.classes_[best]
            else:
                assert decided[row] == "refer"
    pure = TriageClassifier(
        LogisticRegression(), cost_matrix=dear, max_missed=None, max_false=None
    ).fit(X, y)
    np.testing.assert_array_equal(
        pure.predict(X) == "refer", 1 - pure.predict_proba(X).max(axis=1) > 0.2
    )
    for odd in (np.eye(3), np.full((4, 5), np.nan)):
        with pytest.raises(ValueError, match="cost_matrix"):
            TriageClassifier(LogisticRegression(), cost_matrix=odd).fit(X, y)
    with pytest.raises(ValueError, match="Expected costs need probabilities"):
        TriageClassifier(
            LogisticRegression(), cost_matrix=free, response_method="decision_function"
        ).fit(X, y)


@pytest.mark.parametrize(
    ("classes", "given", "expected"),
    [
        ([0, 1], None, -1),
        ([-1, 1], None, -2),
        ([False, True], None, -1),
        ([0.0, 1.0], None, -1.0),
        (["well", "ill"], None, "refer"),
        ([0, 1], 9, 9),
        ([0, 1], "refer", "refer"),
        (["ill", "well"], "ask", "ask"),
    ],
)
def test_a_row_that_is_referred_has_a_label_of_its_own(classes, given, expected, task):
    X, y = task
    labels = np.array(classes)[y]
    clf = TriageClassifier(
        LogisticRegression(), max_missed=0.05, max_false=0.05, refer_label=given
    ).fit(X, labels)
    decided = clf.predict(X)
    assert clf.refer_label_ == expected
    assert set(decided.tolist()) == {*classes, expected}
    if isinstance(expected, str) == isinstance(classes[0], str):
        assert decided.dtype.kind == labels.dtype.kind.replace("b", "i")
        assert clf.score(X, labels) == np.mean(decided == labels)


def test_a_label_of_a_class_cannot_stand_for_a_referral(task):
    X, y = task
    with pytest.raises(ValueError, match=r"refer_label=1 is one of the classes"):
        TriageClassifier(LogisticRegression(), refer_label=1).fit(X, y)
    words = np.array(["refer", "treat"])[y]
    with pytest.raises(ValueError, match=r"refer_label='refer' is one of the classes"):
        TriageClassifier(LogisticRegression(), pos_label="treat").fit(X, words)
    with pytest.raises(ValueError, match="NaN is not"):
        TriageClassifier(LogisticRegression(), refer_label=np.nan).fit(X, y)


def test_too_few_patients_are_refused_with_the_number_that_it_takes(task):
    X, y = task
    X, y, patients = X[:300], y[:300], np.arange(300) // 2
    n = [len(set(patients[y == label])) for label in (0, 1)]
    clf = TriageClassifier(LogisticRegression(), max_missed=0.02, max_false=0.02)
    with pytest.raises(ValueError, match="cannot be guaranteed") as error:
        clf.fit(X, y, groups=patients)
    for label in (0, 1):
        assert (
            f"at most 0.02 of class {label} are released cannot be guaranteed with confidence "
            f"0.95: that takes {rows_needed(0.98)} groups of class {label}, and {n[label]} were"
        ) in str(error.value)
    with pytest.raises(NotFittedError):
        clf.predict(X)
    with (
        pytest.warns(UserWarning, match="No row is decided against such a class"),
        pytest.warns(UserWarning, match="every row is referred"),
    ):
        clf.set_params(unattainable="trivial").fit(X, y, groups=patients)
    assert (clf.predict(X) == -1).all()


@pytest.mark.parametrize("name", ["max_missed", "max_false"])
@pytest.mark.parametrize("rate", [1, -0.1, 1.5, "few"])
def test_odd_rates_are_refused(name, rate, task):
    with pytest.raises(ValueError, match=name):
        TriageClassifier(LogisticRegression(), **{name: rate}).fit(*task)


def test_odd_classes_are_refused(task, kinds):
    X, y = task
    words = np.array(["other", "covid19"])[y]
    with pytest.raises(ValueError, match="nothing says which is the positive one"):
        TriageClassifier(LogisticRegression()).fit(X, words)
    with pytest.raises(ValueError, match=r"max_missed: 'scar' is not one of the classes"):
        TriageClassifier(LogisticRegression(), max_missed={"scar": 0.1}).fit(*kinds)
    with pytest.raises(ValueError, match="shares in"):
        TriageClassifier(LogisticRegression(), max_missed={"wart": 1.0}).fit(*kinds)
    with pytest.raises(ValueError, match="Nothing is guaranteed"):
        TriageClassifier(LogisticRegression(), max_missed=None, max_false=None).fit(X, y)
    svc = SVC(decision_function_shape="ovo")
    with pytest.raises(ValueError, match="decision_function_shape='ovr'"):
        TriageClassifier(svc, max_missed=0.1, cv=2).fit(*kinds)


def test_what_decides_nothing_or_by_chance_is_warned_of(task):
    X, y = task
    with (
        pytest.warns(UserWarning, match="take 2 values only"),
        pytest.warns(UserWarning, match="every row is referred"),
    ):
        TriageClassifier(DummyClassifier(strategy="prior"), cv=KFold(2)).fit(X, y)
    noise = np.random.default_rng(0).normal(size=(1200, 2))
    with pytest.warns(UserWarning, match="not shown to be better than chance"):
        TriageClassifier(LogisticRegression()).fit(noise, y)


def test_ties_are_on_the_safe_side():
    """Half of the diseased score 0.5 like half of the healthy: none of these is decided."""
    y = np.repeat([0, 1], 400)
    s = np.r_[np.full(200, 0.1), np.full(400, 0.5), np.full(200, 0.9)]
    X = np.column_stack([1 - s, s])
    clf = TriageClassifier(Columns().fit(X, y), cv="prefit", max_missed=0.3, max_false=0.3)
    assert clf.fit(X, y).predict([[0.9, 0.1], [0.5, 0.5], [0.1, 0.9]]).tolist() == [0, -1, 1]
    assert clf.triage_["n_released"].tolist() == [0, 0]


def test_classes_of_a_fitted_model_may_be_in_any_order(task):
    X, y = task
    sorted_ = LogisticRegression().fit(X, y)
    p = sorted_.predict_proba(X)
    backwards = Columns().fit(X, y)
    backwards.classes_ = np.array([1, 0])
    clf = TriageClassifier(backwards, cv="prefit").fit(p[:, ::-1], y)
    usual = TriageClassifier(sorted_, cv="prefit").fit(X, y)
    np.testing.assert_array_equal(clf.thresholds_, usual.thresholds_[::-1])
    np.testing.assert_array_equal(clf.predict(p[:, ::-1]), usual.predict(X))


def test_rows_of_no_weight_do_not_count(task):
    X, y = task
    weight = (np.arange(len(y)) < 900).astype(float)
    fitted = FrozenEstimator(LogisticRegression().fit(X, y))
    clf = TriageClassifier(fitted, cv="prefit").fit(X, y, sample_weight=weight)
    alone = TriageClassifier(fitted, cv="prefit").fit(X[:900], y[:900])
    np.testing.assert_array_equal(clf.thresholds_, alone.thresholds_)
    pd.testing.assert_frame_equal(clf.triage_, alone.triage_)


def test_decisions_are_a_table_of_the_rows(task):
    X, y = task
    frame = TriageClassifier(LogisticRegression()).fit(X, y).decisions(X)
    decided = frame["label"].map({1: "rule in", 0: "rule out", -1: "refer"})
    assert frame["decision"].tolist() == decided.tolist()
    assert set(frame.loc[frame["decision"] == "refer", "possible"]) == {"0, 1"}
    assert frame.columns[3:].tolist() == ["score of 0", "score of 1"]
    words = np.array(["a", "b"])[y]
    alike = TriageClassifier(LogisticRegression(), max_missed=0.05, max_false=0.05)
    assert set(alike.fit(X, words).decisions(X)["decision"]) == {"decide", "refer"}


def test_scores_of_one_column_and_of_svms_do_as_well(task):
    X, y = task
    X = np.column_stack([X @ LogisticRegression().fit(X, y).coef_[0]])
    clf = TriageClassifier(Score().fit(X, y), cv="prefit").fit(X, y)
    low, high = clf.thresholds_[1], -clf.thresholds_[0]
    x = X[:, 0]
    expected = np.where(x < low, 0, np.where(x > high, 1, -1))
    np.testing.assert_array_equal(clf.predict(X), expected)


def test_groups_reach_the_folds_and_leaks_are_refused(task):
    X, y = task
    patients = np.arange(len(y)) // 4
    splits = list(StratifiedKFold(4).split(X, y))
    with pytest.raises(ValueError, match="groups on both sides of a split"):
        TriageClassifier(LogisticRegression(), cv=splits).fit(X, y, groups=patients)
    folds = StratifiedGroupKFold(3)
    with sklearn.config_context(enable_metadata_routing=True):
        inner = LogisticRegression().set_fit_request(sample_weight=True)
        clf = TriageClassifier(inner, max_missed=0.1, max_false=0.1, cv=folds)
        result = cross_validate(
            clf,
            *(X, y),
            cv=folds,
            params={"groups": patients, "sample_weight": np.ones(len(y))},
            scoring=get_scorer("roc_auc").set_score_request(sample_weight=False),
        )
    assert (result["test_score"] > 0.8).all()


def test_it_fits_into_pipelines_searches_and_pickles(task):
    X, y = task
    pipe = make_pipeline(StandardScaler(), TriageClassifier(LogisticRegression(), cv=3))
    pipe[-1].set_params(max_missed=0.2, max_false=0.2)
    search = GridSearchCV(
        pipe, {"triageclassifier__estimator__C": [0.1, 1]}, scoring="roc_auc", cv=3
    ).fit(X, y)
    again = pickle.loads(pickle.dumps(search))
    np.testing.assert_array_equal(again.predict(X), search.predict(X))
    display = TriageDisplay.from_estimator(search, X, y)
    assert display.table["n_rows"].sum() == len(y)
    assert OperatingPointClassifier._kind != TriageClassifier._kind
    assert clone(pipe[-1]).get_params()["max_missed"] == 0.2


def test_displays_show_what_was_decided_referred_and_released(task):
    X, y = task
    clf = TriageClassifier(LogisticRegression()).fit(X[:900], y[:900])
    display = TriageDisplay.from_estimator(
        clf, X[900:], y[900:], groups=np.arange(300) // 2, name="held out"
    )
    decided = clf.predict(X[900:])
    assert display.referred.estimate == np.mean(decided == -1)
    widths = [[bar.get_width() for bar in bars] for bars in display.bars_]
    np.testing.assert_allclose(np.sum(widths, axis=0), 1)
    np.testing.assert_allclose(widths[1][0], np.mean(decided[y[900:] == 0] == -1))
    assert display.ax_.get_title() == "held out"
    np.testing.assert_array_equal(display.max_released, [0.05, 0.02])
    with pytest.raises(TypeError, match="refers no rows"):
        TriageDisplay.from_estimator(LogisticRegression().fit(X, y), X, y)
    with pytest.raises(ValueError, match="y_pred has the label 3"):
        TriageDisplay.from_predictions([0, 1], [0, 3])


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    y = np.arange(90) % 2
    X = rng.integers(0, 150, (90, 24, 24)) + rng.integers(0, 20, 90)[:, None, None] * 2
    return (X + 26 * y[:, None, None]).astype(np.uint8), np.array(["other", "covid19"])[y]


@pytest.fixture(scope="module")
def net(images):
    net = FineTuneClassifier(
        "squeezenet1_1", weights=None, image_size=32, freeze_depth="all", random_state=0
    )
    rates = {"max_missed": {"covid19": 0.2}, "max_false": 0.1, "confidence_level": 0.7}
    return TriageClassifier(net, cv=3, unattainable="trivial", **rates).fit(*images)


def test_a_triage_comes_back_from_its_file(net, images, tmp_path):
    X, y = images
    file = tmp_path / "clf.safetensors"
    net.save(file)
    again = TriageClassifier.load(file)
    pd.testing.assert_frame_equal(again.triage_, net.triage_, check_dtype=False)
    np.testing.assert_array_equal(again.thresholds_, net.thresholds_)
    np.testing.assert_array_equal(again.predict(X), net.predict(X))
    assert "refer" in again.predict(X)
    assert (again.referred_, again.max_missed) == (net.referred_, {"covid19": 0.2})
    again.save(tmp_path / "twice.safetensors")
    local = clone(again).set_params(max_missed=0.3, pos_label="covid19").fit(X, y)
    assert local.pos_label_ == "covid19"


def test_the_command_that_predicts_refers(net, images, tmp_path, capsys):
    net.save(tmp_path / "clf.safetensors", class_names={"covid19": "Covid", "other": "none"})
    folder = tmp_path / "new"
    folder.mkdir()
    for row in range(30):
        Image.fromarray(images[0][row]).save(folder / f"{row:02d}.png")
    table = tmp_path / "table.csv"
    assert main(["predict", str(tmp_path / "clf.safetensors"), str(folder), "-o", str(table)]) == 0
    decided = pd.Series(net.predict(images[0][:30]))
    expected = decided.map({"covid19": "Covid", "other": "none", "refer": "refer"})
    assert pd.read_csv(table)["predicted"].tolist() == expected.tolist()
    said = capsys.readouterr().out
    assert f"refer: {(decided == 'refer').sum()} images" in said
    assert "the guarantees of the triage" in said


def test_other_classes_say_who_reads_a_triage(net, tmp_path):
    file = tmp_path / "clf.safetensors"
    net.save(file)
    with pytest.raises(ValueError, match=r"TriageClassifier\.load reads it"):
        OperatingPointClassifier.load(file)
    with pytest.warns(UserWarning, match=r"TriageClassifier\.load keeps the threshold"):
        FineTuneClassifier.load(file)


def test_the_scores_that_a_transfer_classifier_has_are_taken(images):
    X, y = images
    network = PretrainedFeatureExtractor(
        "squeezenet1_1", weights=None, image_size=32, random_state=0
    )
    inner = TransferClassifier(network, random_state=0)
    rates = {"max_missed": 0.3, "max_false": 0.3, "confidence_level": 0.5}
    clf = TriageClassifier(inner, **rates).fit(X, y)
    rows = np.isfinite(clf.estimator_._out_of_fold).all(axis=1)
    own = np.exp(clf.estimator_._out_of_fold[rows])[y[rows] == "other", 1]
    k = allowed_misses(len(own), 0.7, confidence_level=0.5)
    assert clf.thresholds_[1] == np.sort(own)[k]
    # Also where the method is named, as a word and not as a list of them.
    named = TriageClassifier(inner, response_method="predict_proba", **rates).fit(X, y)
    np.testing.assert_array_equal(named.thresholds_, clf.thresholds_)


@pytest.mark.parametrize("around", [lambda gate: gate, lambda gate: make_pipeline(gate)])
def test_a_gate_that_refers_belongs_around_a_triage(around):
    X, y = make_classification(400, class_sep=1.5, random_state=0)
    gate = NoveltyGate(LogisticRegression(), on_novel="refer")
    where = r"NoveltyGate\(TriageClassifier\(\.\.\.\), on_novel='refer'\)"
    with pytest.raises(ValueError, match=where):
        TriageClassifier(around(gate)).fit(X, y)
    triage = TriageClassifier(LogisticRegression(), max_missed=0.1, max_false=0.1)
    outer = NoveltyGate(triage, on_novel="refer").fit(X, y)
    assert set(outer.predict(X + 50).tolist()) == {outer.refer_label_}
