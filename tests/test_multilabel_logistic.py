"""A logistic regression of all labels at once, after an extractor or by itself."""

from __future__ import annotations

import pickle
from itertools import product

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from sktransfer import MultiLabelLogisticRegression

NAMES = ["Mass", "Edema", "Effusion"]


@parametrize_with_checks([MultiLabelLogisticRegression()])
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module", params=[(120, 40), (60, 200)], ids=["many rows", "many columns"])
def task(request):
    rng = np.random.default_rng(0)
    n, d = request.param
    X = rng.normal(size=(n, d)) * rng.uniform(1, 2, d) + rng.normal(size=d)
    logits = X @ rng.normal(size=(d, 3)) / np.sqrt(d) - [0, 1, 2]
    Y = (logits + rng.logistic(size=(n, 3)) > 0).astype(float)
    return X, pd.DataFrame(Y, columns=NAMES)


def test_it_is_scikit_learns_regressions_one_against_the_rest(task):
    X, Y = task
    ours = MultiLabelLogisticRegression(C=0.1).fit(X, Y)
    regression = LogisticRegression(C=0.1, tol=1e-12, max_iter=10_000)
    theirs = OneVsRestClassifier(make_pipeline(StandardScaler(), regression)).fit(X, Y.to_numpy())
    # Columns of little deviation are scaled by a tenth of the median one, and there are none here.
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-6)
    assert np.array_equal(ours.predict(X), theirs.predict(X))
    assert ours.coef_.shape == (3, X.shape[1])
    assert ours.classes_.tolist() == NAMES


def test_unknown_labels_change_nothing_for_the_others(task):
    X, Y = task
    spoiled = Y.copy()
    spoiled.iloc[::3, 1] = np.nan
    whole, some = (
        MultiLabelLogisticRegression().fit(X, y).decision_function(X) for y in (Y, spoiled)
    )
    np.testing.assert_allclose(whole[:, [0, 2]], some[:, [0, 2]], atol=1e-8)
    assert not np.allclose(whole[:, 1], some[:, 1], atol=1e-3)
    other = spoiled.fillna(1 - Y)  # what an unknown label is does not count, either
    weight = np.where(spoiled["Edema"].isna(), 0.0, 1.0)
    known = MultiLabelLogisticRegression().fit(X, other, sample_weight=weight)
    alone = MultiLabelLogisticRegression().fit(X[weight > 0], Y[weight > 0])
    np.testing.assert_allclose(known.decision_function(X), alone.decision_function(X), atol=1e-8)


def test_a_row_of_which_nothing_is_known_does_not_count(task):
    X, Y = task
    spoiled = Y.copy()
    spoiled.iloc[:7] = np.nan
    found = MultiLabelLogisticRegression().fit(X, spoiled).coef_
    np.testing.assert_allclose(found, MultiLabelLogisticRegression().fit(X[7:], Y[7:]).coef_)


def test_sets_of_names_are_the_same_as_columns(task):
    X, Y = task
    sets = [{name for name in NAMES if row[name]} for _, row in Y.iterrows()]
    clf = MultiLabelLogisticRegression().fit(X, sets)
    assert clf.classes_.tolist() == sorted(NAMES)
    expected = MultiLabelLogisticRegression().fit(X, Y[sorted(NAMES)])
    np.testing.assert_allclose(clf.coef_, expected.coef_)
    assert clf.score(X, sets) == expected.score(X, Y)


def test_class_weights_are_by_label(task):
    X, Y = task
    n = len(Y)
    present = Y["Effusion"].to_numpy() == 1
    again = np.concatenate([np.arange(n), np.flatnonzero(present), np.flatnonzero(present)])
    tripled = MultiLabelLogisticRegression(class_weight={"Effusion": 3}).fit(X, Y)
    plain = MultiLabelLogisticRegression().fit(X, Y)
    np.testing.assert_allclose(tripled.coef_[:2], plain.coef_[:2], atol=1e-10)
    for given in ([None, None, {0: 1, 1: 3}], {"Effusion": {1: 3}}):
        same = MultiLabelLogisticRegression(class_weight=given).fit(X, Y)
        np.testing.assert_allclose(same.coef_, tripled.coef_)
    scaler = StandardScaler().fit(X)
    copies = LogisticRegression(C=0.01, tol=1e-12, max_iter=10_000).fit(
        scaler.transform(X[again]), Y["Effusion"].to_numpy()[again]
    )
    expected = copies.decision_function(scaler.transform(X))
    np.testing.assert_allclose(tripled.decision_function(X)[:, 2], expected, atol=1e-6)
    balanced = MultiLabelLogisticRegression(C=1e-12, class_weight="balanced").fit(X, Y)
    np.testing.assert_allclose(balanced.predict_proba(X), 0.5, atol=1e-6)


def test_a_wrong_class_weight_is_an_error_that_names_labels(task):
    for wrong, message in (
        ({"Efusion": 3}, "'Efusion' is none of them"),
        ([None], "1 entries for 3 findings"),
        ({"Mass": -1}, "'Mass' must be positive"),
        ({"Mass": {"yes": 5}}, "'Mass' is of rows without it \\(0\\) and with it \\(1\\)"),
    ):
        with pytest.raises(ValueError, match=message):
            MultiLabelLogisticRegression(class_weight=wrong).fit(*task)


def test_a_label_of_one_kind_is_constant_with_a_warning(task):
    X, Y = task
    with pytest.warns(UserWarning, match="Nothing is learned of 'Mass'"):
        clf = MultiLabelLogisticRegression().fit(X, Y.assign(Mass=0))
    proba = clf.predict_proba(X)
    assert len(np.unique(proba[:, 0])) == 1
    assert 0 < proba[0, 0] < 0.05
    np.testing.assert_allclose(
        proba[:, 1:], MultiLabelLogisticRegression().fit(X, Y).predict_proba(X)[:, 1:]
    )
    with pytest.raises(ValueError, match="one class in every column"):
        MultiLabelLogisticRegression().fit(X, 0 * Y)


def test_scores_count_rows_whose_known_labels_are_all_correct(task):
    X, Y = task
    clf = MultiLabelLogisticRegression(C=10).fit(X, Y)
    truth = pd.DataFrame(clf.predict(X), columns=NAMES).astype(float)
    truth.iloc[0] = np.nan
    truth.iloc[1, 0] = np.nan
    truth.iloc[2, 0] = 1 - truth.iloc[2, 0]
    assert clf.score(X, truth) == pytest.approx(1 - 1 / (len(X) - 1))


def test_searches_and_cross_validation_score_areas_by_label(task):
    X, Y = task
    scores = cross_val_score(MultiLabelLogisticRegression(), X, Y, scoring="roc_auc", cv=3)
    assert (scores > 0).all()
    search = GridSearchCV(
        MultiLabelLogisticRegression(), {"C": [1e-3, 0.1]}, scoring="roc_auc", cv=3
    )
    search.fit(X, Y)
    assert pickle.loads(pickle.dumps(search)).predict_proba(X).shape == (len(X), 3)
    unknown = Y.mask(np.random.default_rng(0).random(Y.shape) < 0.2)
    scores = cross_val_score(MultiLabelLogisticRegression(), X, unknown, cv=KFold(3))
    assert np.isfinite(scores).all()


def test_a_label_that_no_column_says_anything_about_has_the_probability_of_its_share():
    """Its gradient is 0 to the last bit, while the other labels are still to be solved."""
    X = np.array(list(product([-1.0, 1.0], repeat=4)))
    parity = X.prod(axis=1) > 0
    either = (X[:, 0] > 0) | (X[:, 1] * X[:, 2] > 0)
    mostly = X[:, 3] > 0
    mostly[0] = True
    Y = np.column_stack([parity, either, mostly]).astype(float)
    together = MultiLabelLogisticRegression().fit(X, Y).predict_proba(X)
    assert_allclose(together[:, 0], 0.5, atol=1e-6)
    others = MultiLabelLogisticRegression().fit(X, Y[:, 1:]).predict_proba(X)
    assert_allclose(together[:, 1:], others, atol=1e-6)
