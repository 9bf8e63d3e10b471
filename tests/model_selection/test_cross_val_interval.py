"""Intervals of cross-validated scores: what they are made of, patients, scorings and errors."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.special import logit
from scipy.stats import t as student
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.datasets import make_classification, make_regression
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import make_scorer
from sklearn.model_selection import (
    KFold,
    RepeatedStratifiedKFold,
    ShuffleSplit,
    StratifiedKFold,
    cross_val_score,
)
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier

from sktransfer.metrics import roc_auc_interval, sensitivity_at_specificity
from sktransfer.model_selection import cross_val_difference, cross_val_interval
from sktransfer.model_selection._fold_scores import Answers, Part, scored_folds

X, Y = make_classification(80, class_sep=0.8, flip_y=0, random_state=0)
PATIENTS = np.arange(80) // 2
CLF = LogisticRegression()


class Fixed(ClassifierMixin, BaseEstimator):
    """A model that was there before: it learns nothing, and counts its fits."""

    fits = 0

    def fit(self, X, y, sample_weight=None):
        Fixed.fits += 1
        self.classes_ = np.unique(y)
        return self

    def decision_function(self, X):
        return np.asarray(X)[:, 0]

    def predict(self, X):
        return self.classes_[(self.decision_function(X) > 0).astype(int)]


class Scribe(Fixed):
    """Keeps the groups that its ``fit`` was given."""

    seen = ()

    def fit(self, X, y, groups=None):
        Scribe.seen = (*Scribe.seen, (len(X), groups))
        return super().fit(X, y)


def test_the_score_is_that_of_cross_val_score_and_folds_are_listed():
    found = cross_val_interval(CLF, X, Y, n_repeats=2, random_state=3)
    scores = [
        cross_val_score(
            CLF, X, Y, scoring="roc_auc", cv=StratifiedKFold(5, shuffle=True, random_state=s)
        )
        for s in (3, 4)
    ]
    np.testing.assert_allclose(found.folds["score"], np.ravel(scores))
    assert found.score == pytest.approx(np.mean(scores))
    assert 0 < found.low < found.score < found.high < 1
    assert found.folds["n_rows"].sum() == 160
    assert found.pvalue is None
    assert found.n_groups is None
    assert "roc_auc: 0." in str(found)
    assert "Folds" in found._repr_html_()


def test_the_corrected_variance_of_accuracy_is_that_of_nadeau_and_bengio_by_hand():
    found = cross_val_interval(CLF, X, Y, scoring="accuracy", method="corrected", n_repeats=1)
    n, p = found.folds["n_rows"].to_numpy(), found.folds["score"].to_numpy()
    naive = (p * (1 - p) / (n - 1)).sum() / 25
    assert found.standard_error**2 == pytest.approx(naive * (1 + 5 * (16 / 64)))
    half = student.ppf(0.975, 39) * found.standard_error / (found.score * (1 - found.score))
    assert logit(found.score) - logit(found.low) == pytest.approx(half)


def test_corrected_t_is_the_test_of_nadeau_and_bengio():
    cv = ShuffleSplit(10, test_size=0.25, random_state=0)
    found = cross_val_interval(Ridge(), *make_regression(80, random_state=0), scoring="r2", cv=cv)
    scores = found.folds["score"]
    assert found.method == "corrected_t"
    assert found.standard_error**2 == pytest.approx(scores.var() * (1 / 10 + 20 / 60))


def test_the_variance_within_folds_is_that_of_delong():
    found = cross_val_interval(Fixed(), X, Y, method="corrected", n_repeats=1, cv=2)
    parts = [
        roc_auc_interval(Y[test], X[test, 0], method="delong", scale="linear")
        for _, test in StratifiedKFold(2, shuffle=True, random_state=0).split(X, Y)
    ]
    naive = sum(((part.high - part.estimate) / 1.959964) ** 2 for part in parts) / 4
    assert found.standard_error**2 == pytest.approx(naive * 3)


def test_the_variance_within_a_small_fold_is_that_of_its_area():
    def score(answers, places, y):
        values = answers.given["decision_function"][places]
        return float(np.greater.outer(values[y == 1], values[y == 0]).mean())

    y, rng = np.repeat([0, 1], [3, 4]), np.random.default_rng(0)
    areas, variances = [], []
    for _ in range(2000):
        answers = Answers(Fixed(), {"decision_function": rng.normal(y)})
        part = Part((answers,), y, np.arange(7))
        areas.append(part.score(score))
        variances.append(scored_folds([part], {}, score, seed=0).naive)
    # DeLong's variance, which the jackknife is in larger folds, is a fifth too large.
    assert np.mean(variances) == pytest.approx(np.var(areas), rel=0.08)


def test_shares_of_classes_are_part_of_the_variance_of_accuracy_alone():
    def error(scoring):
        given = {"method": "corrected", "n_repeats": 1, "cv": 4}
        return cross_val_interval(Fixed(), X, Y, scoring=scoring, **given).standard_error

    predicted = X[:, 0] > 0
    found = {"accuracy": error("accuracy"), "balanced_accuracy": error("balanced_accuracy")}
    naive = []
    for _, test in StratifiedKFold(4, shuffle=True, random_state=0).split(X, Y):
        right = predicted[test] == Y[test]
        own = [right[Y[test] == c] for c in (0, 1)]
        naive.append(
            [
                right.var() / (len(right) - 1),
                sum(each.var() / (len(each) - 1) for each in own) / 4,
            ]
        )
    wanted = np.sum(naive, axis=0) / 16 * (1 + 4 / 3)
    np.testing.assert_allclose(np.square(list(found.values())), wanted)


def test_near_one_an_interval_is_not_shorter_than_one_pair_allows():
    scores = np.sort(np.random.default_rng(0).normal(size=40)) + np.repeat([0, 9], 20)
    scores[[0, 39]] = scores[[39, 0]]  # one of each class, in folds of their own
    y = np.repeat([0, 1], 20)
    found = cross_val_interval(Fixed(), scores[:, None], y)
    assert found.score < 1
    assert logit(found.high) - logit(found.score) >= 1.95 / np.sqrt(
        400 * found.score * (1 - found.score)
    )


def test_models_that_change_with_their_rows_get_wider_intervals_than_those_that_do_not():
    def ratio(model):
        own = cross_val_interval(model, X, Y, scoring="accuracy")
        plain = cross_val_interval(model, X, Y, scoring="accuracy", method="corrected")
        return own.standard_error / plain.standard_error

    # "corrected" is 1.5 times what independent folds would give.
    assert 1 / 1.5 <= ratio(Fixed()) < 0.8
    assert ratio(KNeighborsClassifier(1)) > 0.95


def test_the_jackknife_fits_every_fold_and_every_pair_of_folds_once():
    Fixed.fits = 0
    cross_val_interval(Fixed(), X, Y, n_repeats=2, cv=4)
    assert Fixed.fits == 2 * (4 + 6)


def test_patients_are_kept_together_and_widen_the_interval():
    twice, labels = np.repeat(X, 2, axis=0), np.repeat(Y, 2)
    copies = np.arange(160) // 2
    alone = cross_val_interval(CLF, X, Y, method="corrected", n_repeats=1)
    grouped = cross_val_interval(CLF, twice, labels, groups=copies, method="corrected", n_repeats=1)
    assert grouped.n_groups == 80
    assert grouped.folds["n_groups"].sum() == 80
    # Copies of each row tell nothing new.
    assert grouped.standard_error > 0.8 * alone.standard_error
    as_rows = cross_val_interval(GaussianNB(), twice, labels, method="corrected", n_repeats=1)
    assert as_rows.standard_error < 0.85 * grouped.standard_error


def test_a_splitter_that_tears_patients_apart_is_refused():
    with pytest.raises(ValueError, match=r"rows of \d+ groups on both sides"):
        cross_val_interval(CLF, X, Y, groups=PATIENTS, cv=KFold(5, shuffle=True, random_state=0))


def test_groups_and_weights_reach_a_fit_that_takes_them():
    Scribe.seen = ()
    cross_val_interval(Scribe(), X, Y, groups=PATIENTS, method="corrected", n_repeats=1)
    assert len(Scribe.seen) == 5
    assert all(len(groups) == n for n, groups in Scribe.seen)
    weighted = cross_val_interval(
        GaussianNB(),
        X,
        Y,
        params={"sample_weight": np.where(Y, 9.0, 1.0)},
        scoring="sensitivity",
        method="corrected_t",
        n_repeats=1,
    )
    plain = cross_val_interval(
        GaussianNB(), X, Y, scoring="sensitivity", method="corrected_t", n_repeats=1
    )
    assert weighted.score > plain.score


@pytest.mark.parametrize(
    "scoring",
    [
        "sensitivity",
        "f1",
        "neg_brier_score",
        "sensitivity_at_specificity",
        make_scorer(
            sensitivity_at_specificity,
            specificity=0.8,
            response_method=("decision_function", "predict_proba"),
        ),
        lambda model, X, y: float(np.mean(model.predict(X) == y)),
    ],
    ids=lambda scoring: scoring if isinstance(scoring, str) else type(scoring).__name__,
)
def test_any_scorer_of_predictions_gets_an_interval(scoring):
    found = cross_val_interval(GaussianNB(), X, Y, scoring=scoring, cv=3, n_repeats=1)
    assert found.low < found.score < found.high
    assert found.high <= 1
    assert found.low > 0 or found.score < 0


def test_a_sensitivity_at_a_specificity_is_that_of_all_folds_together():
    found = cross_val_interval(
        Fixed(), X, Y, scoring="sensitivity_at_specificity", cv=4, n_repeats=1
    )
    assert found.score == pytest.approx(sensitivity_at_specificity(Y, X[:, 0]))


def test_words_need_a_positive_class_and_mean_the_same_as_numbers():
    words = np.where(Y, "ill", "healthy")
    cheap = {"method": "corrected_t", "n_repeats": 1}
    with pytest.raises(ValueError, match="pos_label="):
        cross_val_interval(CLF, X, words, scoring="sensitivity", **cheap)
    for scoring in ("sensitivity", "specificity", "f1"):
        of_words = cross_val_interval(CLF, X, words, scoring=scoring, pos_label="ill", **cheap)
        of_numbers = cross_val_interval(CLF, X, Y, scoring=scoring, **cheap)
        assert of_words.score == of_numbers.score


def test_three_classes_are_each_against_the_rest_and_several_labels_are_averaged():
    rows, classes = make_classification(60, n_classes=3, n_informative=4, random_state=0)
    cheap = {"method": "corrected", "cv": 3, "n_repeats": 1}
    three = cross_val_interval(GaussianNB(), rows, classes, **cheap)
    named = cross_val_interval(GaussianNB(), rows, classes, scoring="roc_auc_ovr", **cheap)
    assert three.score == named.score > 0.6
    several = np.column_stack([Y, X[:, 1] > 0])
    found = cross_val_interval(KNeighborsClassifier(9), X, several, groups=PATIENTS, **cheap)
    assert 0.5 < found.score < 1
    assert found.low < found.score


def test_a_difference_is_paired_and_signed():
    difference = cross_val_difference(CLF, DummyClassifier(), X, Y, cv=3, n_repeats=1)
    back = cross_val_difference(DummyClassifier(), CLF, X, Y, cv=3, n_repeats=1)
    assert difference.score == -back.score > 0.2
    assert difference.low > 0
    assert difference.pvalue < 0.01
    same = cross_val_difference(CLF, CLF, X, Y, cv=3, n_repeats=1)
    assert (same.score, same.low, same.high, same.pvalue) == (0, 0, 0, 1)
    alone = cross_val_interval(CLF, X, Y, cv=3, n_repeats=1)
    near = cross_val_difference(CLF, LogisticRegression(C=0.5), X, Y, cv=3, n_repeats=1)
    assert near.standard_error < 0.6 * alone.standard_error
    assert "a difference" in str(near)


def test_a_perfect_score_has_the_interval_of_as_many_patients():
    found = cross_val_interval(CLF, Y[:, None] * 1.0, Y, cv=4, n_repeats=1)
    assert (found.score, found.high) == (1, 1)
    assert found.low == pytest.approx(0.025 ** (1 / 40))


def test_repeats_of_a_splitter_are_one_sample_of_splits():
    cv = RepeatedStratifiedKFold(n_splits=4, n_repeats=3, random_state=0)
    found = cross_val_interval(GaussianNB(), X, Y, scoring="accuracy", cv=cv)
    assert found.method == "corrected_t"
    assert len(found.folds) == 12


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cv": 2}, "needs 3 splits or more"),
        ({"cv": StratifiedKFold(40), "method": "corrected"}, "two patients or more of every class"),
        ({"scoring": ["accuracy"]}, "scoring must be one score"),
        ({"scoring": None}, "scoring must be one score"),
        ({"scoring": "nonsense"}, "nonsense"),
        ({"method": "bootstrap"}, "method must be one of"),
        ({"confidence_level": 95}, "confidence_level must be a share"),
        ({"cv": ShuffleSplit(3, random_state=0), "method": "jackknife"}, "test each row once"),
        ({"groups": PATIENTS[:9]}, "inconsistent numbers of samples"),
    ],
)
def test_what_cannot_be_done_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        cross_val_interval(CLF, X, Y, **given)


def test_rows_may_be_frames_whose_index_says_nothing():
    frame = pd.DataFrame(X, index=np.arange(80)[::-1])
    cheap = {"method": "corrected_t", "n_repeats": 1}
    found = cross_val_interval(CLF, frame, pd.Series(Y, index=np.arange(80) + 7), **cheap)
    assert found.score == cross_val_interval(CLF, X, Y, **cheap).score
