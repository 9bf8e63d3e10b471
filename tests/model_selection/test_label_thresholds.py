"""A threshold for each of several labels: its rate is kept, unknown labels do not count."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neural_network import MLPClassifier

from sktransfer.metrics import multilabel_report
from sktransfer.model_selection import (
    MultilabelStratifiedGroupKFold,
    OperatingPointClassifier,
    TriageClassifier,
)

LABELS = ["Effusion", "Mass"]


def _rows(seed=0, n=500, unknown=0.0):
    rng = np.random.default_rng(seed)
    y = (rng.random((n, 2)) < [0.4, 0.3]).astype(float)
    X = np.hstack([rng.normal(1.5 * y), rng.normal(size=(n, 2))])
    y[rng.random(y.shape) < unknown] = np.nan
    return X, pd.DataFrame(y, columns=LABELS)


class Columns(ClassifierMixin, BaseEstimator):
    """Scores are columns of X, so that nothing is learned."""

    def fit(self, X, y):
        self.classes_ = np.array(LABELS, dtype=object)
        return self

    def decision_function(self, X):
        return np.asarray(X)[:, :2]


@pytest.mark.parametrize(
    "estimator",
    [
        OneVsRestClassifier(LogisticRegression()),
        RandomForestClassifier(50, min_samples_leaf=5, random_state=0),
        MLPClassifier((8,), max_iter=100, random_state=0),
    ],
    ids=["matrix", "list", "network"],
)
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_every_label_has_a_threshold_and_predictions_are_indicators(estimator):
    X, y = _rows()
    groups = np.arange(500) // 2
    clf = OperatingPointClassifier(estimator, target_level=0.8, cv=3).fit(X, y.astype(int), groups)
    assert clf.threshold_.shape == (2,)
    assert clf.classes_.tolist() == LABELS
    assert list(clf.operating_point_) == LABELS
    predicted = clf.predict(X)
    assert predicted.shape == (500, 2)
    assert set(np.unique(predicted)) == {0, 1}
    assert predicted.sum(axis=1).max() == 2  # no argmax: a row may have both
    assert predicted.sum(axis=1).min() == 0
    for point in clf.operating_point_.values():
        assert point.sensitivity.estimate > 0.8
        assert point.n_positive + point.n_negative == 500


def test_a_label_has_the_threshold_that_it_has_alone():
    X, y = _rows()
    together = OperatingPointClassifier(Columns().fit(X, y), cv="prefit").fit(X, y)
    for place, label in enumerate(LABELS):

        class Alone(Columns):
            def fit(self, X, y):
                self.classes_ = np.array([0, 1])
                return self

            def decision_function(self, X, place=place):
                return np.asarray(X)[:, place]

        own = y[label].to_numpy(int)
        alone = OperatingPointClassifier(Alone().fit(X, own), cv="prefit").fit(X, own)
        assert alone.threshold_ == together.threshold_[place]
        point = together.operating_point_[label]
        assert point.sensitivity == alone.operating_point_.sensitivity
        assert point.pos_label == label


def test_rows_where_a_label_is_unknown_do_not_count_for_it():
    X, y = _rows(unknown=0.3)
    clf = OperatingPointClassifier(Columns().fit(X, y), target_level=0.8, cv="prefit")
    other = X.copy()
    other[:, :2] = np.where(y.isna(), 100 - X[:, :2], X[:, :2])
    first, second = (clf.fit(own, y).threshold_.tolist() for own in (X, other))
    assert first == second
    point = clf.operating_point_["Mass"]
    assert point.n_positive + point.n_negative == y["Mass"].notna().sum()


def test_together_each_label_has_a_share_of_the_risk():
    X, y = _rows()
    clf = OperatingPointClassifier(Columns().fit(X, y), target_level=0.8, cv="prefit")
    together = clf.set_params(simultaneous=True).fit(X, y).threshold_.tolist()
    each = clf.set_params(simultaneous=False, confidence_level=0.975).fit(X, y).threshold_
    assert together == each.tolist()


@pytest.mark.slow
def test_together_they_are_kept_as_often_as_stated_and_each_alone_less_often():
    estimator = FrozenEstimator(Columns().fit(None, None))
    X_new, y_new = _rows(seed=10_000, n=6_000)
    kept = {False: [], True: []}
    for seed in range(100):
        X, y = _rows(seed, n=300)
        for simultaneous, found in kept.items():
            clf = OperatingPointClassifier(
                *(estimator,), target_level=0.8, cv="prefit", simultaneous=simultaneous
            ).fit(X, y)
            called = clf.predict(X_new)
            found.append(
                all((called[y_new[label] == 1, k] == 1).mean() >= 0.8 for k, label in enumerate(y))
            )
    assert np.mean(kept[True]) >= 0.9  # 0.95 and more is stated
    assert 0.82 <= np.mean(kept[False]) < np.mean(kept[True])  # about 0.95 ** 2


def test_levels_differ_between_labels_and_specificity_can_be_kept():
    X, y = _rows()
    levels = {"Effusion": 0.9, "Mass": 0.7}
    clf = OperatingPointClassifier(
        Columns().fit(X, y), constraint="specificity", target_level=levels, cv="prefit"
    ).fit(X, y)
    for label, level in levels.items():
        assert level < clf.operating_point_[label].specificity.estimate < level + 0.1
    with pytest.raises(ValueError, match="no rate for the label 'Mass'"):
        OperatingPointClassifier(
            Columns().fit(X, y), target_level={"Effusion": 0.9}, cv="prefit"
        ).fit(X, y)


def test_costs_choose_a_threshold_for_each_label():
    X, y = _rows()
    misses, alarms = (
        OperatingPointClassifier(
            Columns().fit(X, y), constraint="cost", cost_matrix=costs, cv="prefit"
        ).fit(X, y)
        for costs in ([[0, 1], [10, 0]], [[0, 10], [1, 0]])
    )
    assert (misses.threshold_ < alarms.threshold_).all()


def test_a_label_with_too_few_rows_is_named():
    X, y = _rows(n=80)
    y["Mass"] = (np.arange(80) < 5).astype(float)
    clf = OperatingPointClassifier(Columns().fit(X, y), target_level=0.8, cv="prefit")
    with pytest.raises(ValueError, match=r"class 'Mass'\), and 5 were scored"):
        clf.fit(X, y)
    with pytest.warns(UserWarning, match="Every row is called 'Mass'"):
        clf.set_params(unattainable="trivial").fit(X, y)
    assert clf.predict(X)[:, 1].all()
    with pytest.raises(ValueError, match="'Mass' there are none of one kind"):
        clf.fit(X, y.assign(Mass=np.nan))
    with pytest.raises(ValueError, match="pos_label=0"):
        clf.set_params(pos_label=0).fit(X, y)


def test_it_works_in_cross_validation_and_its_thresholds_are_reported():
    X, y = _rows()
    matrix = y.to_numpy(int)
    clf = OperatingPointClassifier(OneVsRestClassifier(LogisticRegression()), target_level=0.8)
    cv = MultilabelStratifiedGroupKFold(3)
    predicted = cross_val_predict(clf, X, matrix, cv=cv)
    assert predicted.shape == (500, 2)
    found = multilabel_report(matrix, predicted)["sensitivity"]
    assert (found > 0.75).all()
    sets = [{label for label in LABELS if row[label]} for _, row in y.iterrows()]
    by_sets = clf.fit(X, sets).threshold_.tolist()
    assert clf.fit(X, y.astype(int)).threshold_.tolist() == by_sets


@pytest.mark.parametrize("form", ["frame", "array", "sets"])
def test_its_score_leaves_unknown_labels_out(form):
    X, y = _rows()
    clf = OperatingPointClassifier(Columns().fit(X, y), target_level=0.8, cv="prefit").fit(X, y)
    called = clf.predict(X)
    unknown = y.mask(called != y)  # what is wrong is not known
    weight = np.ones(500)
    if form == "sets":
        true = [{name for name in y if row[name]} for _, row in y.iterrows()]
        assert clf.score(X, true) == pytest.approx((called == y).all(axis=1).mean())
        return
    assert clf.score(X, unknown if form == "frame" else unknown.to_numpy(), weight) == 1
    with pytest.raises(ValueError, match="nothing is known of any of the 500 rows"):
        clf.score(X, y * np.nan)


@pytest.mark.parametrize("unknown", [0, 0.2])
def test_a_triage_says_that_it_is_for_one_label_a_row(unknown):
    X, y = _rows(unknown=unknown)
    for labels in (y, y.to_numpy(), [{"Effusion"}, set()] * 250):
        with pytest.raises(ValueError, match="TriageClassifier is for one label a row"):
            TriageClassifier(LogisticRegression()).fit(X, labels)
