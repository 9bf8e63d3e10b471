"""OperatingPointClassifier: what it guarantees, what it refuses, and how it fits in."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
import sklearn
from joblib import parallel_config
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits, make_classification
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix, recall_score
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    RepeatedStratifiedKFold,
    ShuffleSplit,
    StratifiedGroupKFold,
    StratifiedKFold,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    train_test_split,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.estimator_checks import parametrize_with_checks

from sktransfer import FineTuneClassifier
from sktransfer.metrics import allowed_misses, expected_cost
from sktransfer.model_selection import OperatingPointClassifier


class FirstColumn(ClassifierMixin, BaseEstimator):
    """The score is the first column."""

    def fit(self, X, y, groups=None):
        self.classes_ = np.unique(y)
        self.groups_ = groups
        return self

    def decision_function(self, X):
        return np.asarray(X)[:, 0]

    def predict(self, X):
        return self.classes_[(self.decision_function(X) > 0).astype(int)]


class LastIsPositive(OperatingPointClassifier):
    """The checks' labels are 1 and 2, or words, and no check names the positive one."""

    def _positive_of(self, classes, names):
        return classes.tolist()[-1]


# A tree's probabilities are 0 and 1, so that any threshold between agrees with its argmax; for
# others scikit-learn lists check_classifiers_train as an expected failure of a moved threshold.
tree = DecisionTreeClassifier(random_state=0)


# Some checks have noise for data.
@pytest.mark.filterwarnings("ignore:This threshold is:UserWarning")
@parametrize_with_checks(
    [
        LastIsPositive(tree, confidence_level=None),
        LastIsPositive(
            tree,
            target_level=0.5,
            confidence_level=0.5,
            cv=ShuffleSplit(1, test_size=0.5, random_state=0),
        ),
        LastIsPositive(tree, constraint="specificity", confidence_level=None),
        LastIsPositive(tree, constraint="cost", cost_matrix=[[0, 1], [1, 0]]),
    ]
)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


@pytest.mark.filterwarnings("ignore:This threshold is:UserWarning")
@parametrize_with_checks(
    [LastIsPositive(LogisticRegression(), target_level=0.99, confidence_level=None)],
    expected_failed_checks=lambda estimator: {
        "check_classifiers_train": "Threshold at probability 0.5 does not hold"
    },
)
def test_scikit_learns_own_checks_with_probabilities(estimator, check):
    check(estimator)


@pytest.fixture
def task():
    return make_classification(1000, weights=[0.7], class_sep=0.7, random_state=0)


@pytest.mark.parametrize("constraint", ["sensitivity", "specificity"])
@pytest.mark.parametrize("confidence_level", [None, 0.9, 0.95])
@pytest.mark.parametrize("target", [0.8, 0.95])
def test_threshold_is_the_order_statistic(task, constraint, confidence_level, target):
    X, y = task
    inner = LogisticRegression()
    clf = OperatingPointClassifier(
        inner, constraint=constraint, target_level=target, confidence_level=confidence_level
    ).fit(X, y)
    score = cross_val_predict(inner, X, y, method="predict_proba")[:, 1]
    own = np.sort(score[y == (constraint == "sensitivity")])
    k = allowed_misses(len(own), target, confidence_level=confidence_level)
    if constraint == "sensitivity":
        assert clf.threshold_ == own[k]
        rate = clf.operating_point_.sensitivity.estimate
    else:
        assert own[-1 - k] < clf.threshold_ <= own[-1 - k] + 1e-12
        rate = clf.operating_point_.specificity.estimate
    assert rate == pytest.approx(1 - k / len(own))
    assert rate >= target
    np.testing.assert_array_equal(
        clf.predict(X), (inner.fit(X, y).predict_proba(X)[:, 1] >= clf.threshold_).astype(int)
    )
    np.testing.assert_array_equal(clf.predict_proba(X), inner.predict_proba(X))
    np.testing.assert_array_equal(clf.decision_function(X), inner.decision_function(X))
    np.testing.assert_array_equal(clf.predict_log_proba(X), inner.predict_log_proba(X))


@pytest.mark.parametrize("positive", [0, 1])
def test_the_cheapest_threshold_is_chosen(task, positive):
    X, y = task
    costs = [[0, 1], [8, 1]]
    clf = OperatingPointClassifier(
        LogisticRegression(), constraint="cost", cost_matrix=costs, pos_label=positive
    ).fit(X, y)
    score = cross_val_predict(LogisticRegression(), X, y, method="predict_proba")[:, positive]
    table = np.array(costs)
    options = [
        table[y, np.where(score >= t, positive, 1 - positive)].mean()
        for t in [*np.unique(score), np.inf]
    ]
    called = np.where(score >= clf.threshold_, positive, 1 - positive)
    assert expected_cost(y, called, costs) == pytest.approx(min(options))
    # Elkan's threshold, near which a calibrated model's is.
    if positive:
        assert abs(clf.threshold_ - 1 / 8) < 0.1


def test_costs_under_which_one_class_is_always_predicted(task):
    X, y = task
    nobody = OperatingPointClassifier(
        LogisticRegression(), constraint="cost", cost_matrix=[[0, 1], [0, 1]]
    )
    with pytest.warns(UserWarning, match=r"calls hardly any row 1, only 0 of the \d+ that are"):
        nobody.fit(X, y)
    assert nobody.threshold_ == np.inf
    assert not nobody.predict(X).any()


@pytest.mark.parametrize("scale", ["labels", "words"])
def test_positive_label(task, scale):
    X, y = task
    names = np.array(["no finding", "pneumonia"]) if scale == "words" else np.array([0, 1])
    one = OperatingPointClassifier(LogisticRegression(), pos_label=names[1].item())
    one.fit(X, names[y])
    assert one.pos_label_ == names[1]
    other = OperatingPointClassifier(
        LogisticRegression(), pos_label=names[0].item(), constraint="specificity"
    ).fit(X, names[y])
    # The specificity of the other class is the sensitivity of this one.
    np.testing.assert_array_equal(one.predict(X), other.predict(X))
    assert one.threshold_ == pytest.approx(1 - other.threshold_)
    assert recall_score(names[y], one.predict(X), pos_label=names[1]) > 0.9


def test_decision_function_is_turned_for_the_first_class(task):
    X, y = task
    clf = OperatingPointClassifier(LinearSVC(), pos_label=0, target_level=0.9).fit(X, y)
    assert not hasattr(clf, "predict_proba")
    assert clf.operating_point_.sensitivity.estimate >= 0.9
    np.testing.assert_array_equal(
        clf.predict(X) == 0, -clf.estimator_.decision_function(X) >= clf.threshold_
    )


def test_operating_point_is_that_of_the_scores(task):
    X, y = task
    clf = OperatingPointClassifier(LogisticRegression()).fit(X, y)
    score = cross_val_predict(LogisticRegression(), X, y, method="predict_proba")[:, 1]
    (tn, fp), (fn, tp) = confusion_matrix(y, score >= clf.threshold_)
    point = clf.operating_point_
    assert (point.tn, point.fp, point.fn, point.tp) == (tn, fp, fn, tp)
    # One-sided and exact: the bound that was guaranteed.
    assert point.sensitivity.low < 0.95 <= point.sensitivity.estimate
    assert "sensitivity" in str(point)


def test_prefit_and_frozen_are_the_same(task):
    X, y = task
    X_train, X_held, y_train, y_held = train_test_split(X, y, random_state=0)
    fitted = LogisticRegression().fit(X_train, y_train)
    score = fitted.predict_proba(X_held)[:, 1]
    own = np.sort(score[y_held == 1])
    prefit = OperatingPointClassifier(FrozenEstimator(fitted), cv="prefit").fit(X_held, y_held)
    assert prefit.threshold_ == own[allowed_misses(len(own))]
    frozen = OperatingPointClassifier(FrozenEstimator(fitted)).fit(X_held, y_held)
    assert frozen.threshold_ == prefit.threshold_
    assert clone(prefit).fit(X_held, y_held).threshold_ == prefit.threshold_
    bare = OperatingPointClassifier(fitted, cv="prefit").fit(X_held, y_held)
    assert bare.estimator_ is fitted
    with pytest.raises(NotFittedError, match="FrozenEstimator"):
        clone(bare).fit(X_held, y_held)
    with pytest.raises(ValueError, match=r"knows the classes \[0, 1\]"):
        bare.set_params(pos_label=6).fit(X_held, y_held + 5)


def test_one_split_keeps_its_model(task):
    X, y = task
    clf = OperatingPointClassifier(
        LogisticRegression(), cv=ShuffleSplit(1, test_size=0.4, random_state=0)
    ).fit(X, y)
    train, test = next(ShuffleSplit(1, test_size=0.4, random_state=0).split(X))
    model = LogisticRegression().fit(X[train], y[train])
    np.testing.assert_array_equal(clf.estimator_.coef_, model.coef_)
    own = np.sort(model.predict_proba(X[test])[y[test] == 1, 1])
    assert clf.threshold_ == own[allowed_misses(len(own))]
    assert clf.operating_point_.n_positive == len(own)
    masks = [(np.isin(np.arange(1000), train), np.isin(np.arange(1000), test))]
    again = OperatingPointClassifier(LogisticRegression(), cv=masks).fit(X, y)
    assert again.threshold_ == pytest.approx(clf.threshold_)


@pytest.mark.parametrize(
    ("n_positive", "confidence_level", "needed"), [(58, 0.95, 59), (10, 0.9, 45), (58, 0.99, 90)]
)
def test_too_few_positives(n_positive, confidence_level, needed):
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], [200, n_positive])
    X = rng.normal(y)[:, None]
    clf = OperatingPointClassifier(FirstColumn(), confidence_level=confidence_level)
    message = rf"takes {needed} positive rows \(class 1\), and {n_positive} were scored"
    with pytest.raises(ValueError, match=message):
        clf.fit(X, y)
    with pytest.warns(UserWarning, match=f"{message}. Every row is called 1"):
        clf.set_params(unattainable="trivial").fit(X, y)
    assert clf.threshold_ == -np.inf
    assert clf.predict(X).all()
    assert clf.operating_point_.sensitivity.estimate == 1
    clf.set_params(constraint="specificity", pos_label=0)
    with pytest.warns(UserWarning, match=r"negative rows \(class 1\).* Every row is called 1"):
        clf.fit(-X, y)
    assert (clf.predict(X) == 1).all()
    enough = OperatingPointClassifier(FirstColumn(), confidence_level=confidence_level)
    y = np.r_[y, np.ones(needed - n_positive, int)]
    assert np.isfinite(enough.fit(rng.normal(3 * y)[:, None], y).threshold_)


def test_no_threshold_is_left_of_an_earlier_fit():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 300)
    X = rng.normal(y)[:, None]
    clf = OperatingPointClassifier(FirstColumn()).fit(X, y)
    with pytest.raises(ValueError, match="cannot be guaranteed"):
        clf.fit(X[:50], y[:50])
    with pytest.raises(NotFittedError):
        clf.predict(X)


@pytest.mark.parametrize(
    "kind",
    [
        lambda ill: ill,
        lambda ill: np.where(ill, "ill", "healthy").astype(object),
        lambda ill: pd.Series(np.where(ill, 1, -1), index=np.arange(len(ill)) + 7),
        lambda ill: pd.Categorical(np.where(ill, "ill", "healthy")),
        lambda ill: ill.astype(float).tolist(),
    ],
)
def test_labels_of_any_kind(kind):
    rng = np.random.default_rng(0)
    ill = rng.random(400) < 0.5
    X = pd.DataFrame({"a": rng.normal(2 * ill)}, index=np.arange(400) + 7)
    words = isinstance(np.asarray(kind(ill))[0], str)
    clf = OperatingPointClassifier(LogisticRegression(), pos_label="ill" if words else None)
    clf.fit(X, kind(ill))
    assert clf.pos_label_ == ("ill" if words else 1)
    assert (clf.predict(X) == clf.pos_label_)[ill].mean() >= 0.95


def test_patients_count_once_by_their_lowest_score():
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(300), 3)
    y = np.repeat(rng.integers(0, 2, 300), 3)
    X = rng.normal(3 * y)[:, None]
    clf = OperatingPointClassifier(FirstColumn()).fit(X, y, groups=patients)
    lowest = pd.Series(X[y == 1, 0]).groupby(patients[y == 1]).min().sort_values().to_numpy()
    k = allowed_misses(len(lowest))
    assert clf.threshold_ == lowest[k]
    assert clf.operating_point_.group_sensitivity.estimate == pytest.approx(1 - k / len(lowest))
    assert clf.threshold_ < OperatingPointClassifier(FirstColumn()).fit(X, y).threshold_
    specific = OperatingPointClassifier(FirstColumn(), constraint="specificity")
    specific.fit(X, y, groups=patients)
    highest = pd.Series(X[y == 0, 0]).groupby(patients[y == 0]).max().sort_values().to_numpy()
    k = allowed_misses(len(highest))
    assert specific.threshold_ == np.nextafter(highest[-1 - k], np.inf)
    with pytest.raises(ValueError, match=r"59 positive groups \(class 1\), and 20 were scored"):
        OperatingPointClassifier(FirstColumn(), cv=2).fit(X, y, groups=patients % 20)


def test_groups_stay_together_without_being_asked_to():
    seen = []

    class Spy(FirstColumn):
        def fit(self, X, y, **params):
            seen.append(set(np.asarray(X)[:, 1]))
            return super().fit(X, y, **params)

    rng = np.random.default_rng(0)
    patients = rng.permutation(np.repeat(np.arange(200), 2))
    y = np.random.default_rng(1).integers(0, 2, 200)[patients]
    X = np.column_stack([rng.normal(y), patients])
    for cv in (None, 4, GroupKFold(3), StratifiedGroupKFold(3)):
        seen.clear()
        clf = OperatingPointClassifier(Spy(), cv=cv, target_level=0.9).fit(X, y, groups=patients)
        folds, whole = seen[:-1], seen[-1]
        assert len(folds) == {None: 5, 4: 4}.get(cv if cv is None or cv == 4 else 0, 3)
        assert whole == set(range(200))
        # Each patient is left out of exactly one training part.
        assert sum(len(whole - fold) for fold in folds) == 200
        assert clf.operating_point_.n_positive == y.sum()


@pytest.mark.parametrize(
    ("parameters", "fit", "message"),
    [
        (
            {"cv": list(StratifiedKFold(3).split(np.zeros(400), [0, 0, 1, 1] * 100))},
            {"groups": True},
            "groups on both sides",
        ),
        ({"cv": RepeatedStratifiedKFold(n_repeats=2)}, {}, "more than once"),
        ({"cv": [(np.arange(400), np.arange(300, 400))]}, {}, "training and the test part"),
        ({"target_level": 95}, {}, "'target_level' parameter"),
        ({"cost_matrix": [[0, 1], [5, 0]]}, {}, "nothing else uses"),
        ({"constraint": "cost"}, {}, "cost_matrix is what"),
        ({"constraint": "cost", "cost_matrix": [[0, 1, 2], [5, 0, 1]]}, {}, r"shape \(2, 2\)"),
        ({"constraint": "recall"}, {}, "'constraint' parameter"),
        ({"unattainable": "ignore"}, {}, "'unattainable' parameter"),
        ({"confidence_level": 1.0}, {}, "'confidence_level' parameter"),
        ({"pos_label": 7}, {}, "pos_label=7"),
        ({"cv": "none"}, {}, "'cv' parameter"),
        ({"cv": [(np.arange(400)[::2], np.flatnonzero(np.arange(400) % 4 == 1))]}, {}, "one class"),
    ],
)
def test_invalid_splits_and_labels_are_errors(parameters, fit, message):
    y = np.tile([0, 0, 1, 1], 100)
    X = np.random.default_rng(0).normal(y)[:, None]
    if fit:
        fit = {"groups": np.arange(400) // 8}
    with pytest.raises(ValueError, match=message):
        OperatingPointClassifier(FirstColumn(), **parameters).fit(X, y, **fit)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0, 1, 2] * 10, "Only binary"),
        ([1] * 30, "1 class"),
        (None, "requires y"),
        (np.linspace(0, 1, 30), "Unknown label type"),
    ],
)
def test_bad_targets(y, message):
    with pytest.raises(ValueError, match=message):
        OperatingPointClassifier(FirstColumn()).fit(np.zeros((30, 1)), y)


def test_rows_without_a_score_are_an_error():
    y = np.tile([0, 1], 100)
    X = np.random.default_rng(0).normal(y)[:, None]
    broken = X.copy()
    broken[7] = np.nan
    with pytest.raises(ValueError, match="The score is NaN in 1 of"):
        OperatingPointClassifier(FirstColumn()).fit(broken, y)
    clf = OperatingPointClassifier(FirstColumn()).fit(X, y)
    with pytest.raises(ValueError, match=r"NaN in 1 of 200 rows \(first: 7\)"):
        clf.predict(broken)
    with pytest.raises(NotFittedError):
        OperatingPointClassifier(FirstColumn()).predict(X)


def test_rows_without_weight_do_not_count(task):
    X, y = task
    weight = np.ones(1000)
    weight[700:] = 0
    folds = [(np.arange(300), np.arange(300, 1000))]
    clf = OperatingPointClassifier(LogisticRegression(), cv=folds).fit(X, y, sample_weight=weight)
    alone = OperatingPointClassifier(
        LogisticRegression(), cv=[(np.arange(300), np.arange(300, 700))]
    ).fit(X[:700], y[:700])
    assert clf.threshold_ == pytest.approx(alone.threshold_)


def test_in_searches_pipelines_and_around_calibration(task):
    X, y = task
    pipe = make_pipeline(StandardScaler(), LogisticRegression())
    calibrated = CalibratedClassifierCV(pipe, method="temperature", cv=3)
    clf = OperatingPointClassifier(calibrated, cv=3, target_level=0.9)
    assert cross_val_score(clf, X, y, cv=3, scoring="recall").min() > 0.8
    search = GridSearchCV(
        OperatingPointClassifier(pipe, target_level=0.9),
        {"estimator__logisticregression__C": [0.01, 1], "target_level": [0.8, 0.9]},
        scoring="roc_auc",
        cv=3,
    ).fit(X, y)
    assert search.best_params_.keys() == {"estimator__logisticregression__C", "target_level"}
    again = pickle.loads(pickle.dumps(clf.fit(X, y)))
    np.testing.assert_array_equal(again.predict(X), clf.predict(X))
    assert again.operating_point_ == clf.operating_point_
    with parallel_config("threading"):
        parallel = clone(clf).set_params(n_jobs=2).fit(X, y)
    assert parallel.threshold_ == clf.threshold_
    table = pd.DataFrame(X).add_prefix("x")
    assert list(clf.fit(table, y).feature_names_in_) == list(table.columns)
    assert clf.n_features_in_ == 20
    assert "OperatingPointClassifier" in clf._repr_html_()


def test_rows_may_be_a_list_of_anything():
    class Lengths(FirstColumn):
        def decision_function(self, X):
            assert isinstance(X, list)
            return np.array([float(len(x)) for x in X])

    y = np.tile([0, 1], 100)
    X = ["a" * (3 + i % 7 + 3 * label) for i, label in enumerate(y)]
    clf = OperatingPointClassifier(Lengths(), target_level=0.9, confidence_level=None).fit(X, y)
    assert clf.predict(X)[y == 1].mean() >= 0.9


def test_tied_scores_warn():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 600)
    X = rng.poisson(2 + y)[:, None].astype(float)
    clf = OperatingPointClassifier(DecisionTreeClassifier(max_depth=3), target_level=0.9)
    with pytest.warns(UserWarning, match=r"600 scores take \d+ values only"):
        clf.fit(X, y)
    clf.set_params(cv=ShuffleSplit(1, test_size=0.5, random_state=0)).fit(X, y)
    assert clf.operating_point_.sensitivity.estimate >= 0.9


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


def grouped_task():
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(240), 2)
    y = rng.integers(0, 2, 240)[patients]
    return rng.normal(3 * y)[:, None], y, patients


@pytest.mark.usefixtures("routing")
def test_groups_are_routed_outside_and_inside():
    X, y, patients = grouped_task()
    for cv in (None, 3, StratifiedGroupKFold(3)):
        clf = OperatingPointClassifier(FirstColumn().set_fit_request(groups=True), cv=cv)
        result = cross_validate(
            clf,
            X,
            y,
            cv=StratifiedGroupKFold(2),
            params={"groups": patients},
            return_estimator=True,
            scoring="recall",
        )
        for fitted in result["estimator"]:
            assert fitted.operating_point_.group_sensitivity is not None
            assert len(fitted.estimator_.groups_) < len(patients)
    fitted = OperatingPointClassifier(FirstColumn().set_fit_request(groups=False)).fit(
        X, y, groups=patients
    )
    assert fitted.estimator_.groups_ is None
    with pytest.raises(ValueError, match=r"\[groups\] are passed"):
        OperatingPointClassifier(FirstColumn()).fit(X, y, groups=patients)


@pytest.mark.usefixtures("routing")
def test_groups_reach_a_nested_calibration():
    X, y, patients = grouped_task()
    calibrated = CalibratedClassifierCV(
        LogisticRegression().set_fit_request(sample_weight=False),
        method="sigmoid",
        cv=StratifiedGroupKFold(2),
    )
    clf = OperatingPointClassifier(calibrated, cv=StratifiedGroupKFold(3), target_level=0.9)
    clf.fit(X, y, groups=patients)
    assert clf.operating_point_.group_sensitivity.estimate >= 0.9
    with pytest.raises(ValueError, match="groups on both sides"):
        OperatingPointClassifier(calibrated, cv=KFold(3, shuffle=True)).fit(X, y, groups=patients)


def test_threshold_of_a_fine_tuned_network():
    X, y = load_digits(return_X_y=True)
    X, y = X[:150], np.where(y[:150] < 5, "small", "large")
    inner = FineTuneClassifier(
        "squeezenet1_1",
        weights=None,
        image_size=32,
        value_range=(0, 16),
        freeze_depth="all",
        random_state=0,
    )
    clf = OperatingPointClassifier(inner, cv=2, target_level=0.8, pos_label="small")
    clf.fit(X, y, groups=np.arange(150) // 2)
    assert clf.operating_point_.group_sensitivity.estimate >= 0.8
    assert set(clf.predict(X[:20])) <= {"small", "large"}
    assert clf.predict_proba(X[:3]).shape == (3, 2)
    frozen = OperatingPointClassifier(
        FrozenEstimator(clf.estimator_), cv="prefit", target_level=0.8, pos_label="small"
    )
    assert frozen.fit(X, y).operating_point_.pos_label == "small"
