"""Splits by patient and by several labels: whole patients, each label in its share."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.multiclass import OneVsRestClassifier

from sktransfer._utils.splitting import holdout_split
from sktransfer.model_selection import (
    GroupedValidSplit,
    MultilabelStratifiedGroupKFold,
    grouped_train_test_split,
)

PREVALENCE = np.array([0.3, 0.1, 0.05, 0.02])


def _rows(seed, n=1200, unknown=0.0):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, n // 3, n)
    y = (rng.random((n // 3, 4)) < PREVALENCE)[groups].astype(float)
    y[rng.random(y.shape) < unknown] = np.nan
    return y, groups


def _deviation(y, splits):
    """Return by how much, of what a fold should have of a label, folds have more or less."""
    share = np.nansum(y, axis=0) / len(splits)
    return np.mean([np.abs(np.nansum(y[test], axis=0) - share) / share for _, test in splits])


@pytest.mark.parametrize("unknown", [0, 0.2])
@pytest.mark.parametrize("seed", range(3))
def test_each_label_is_in_its_share_in_every_fold_and_no_patient_in_two(seed, unknown):
    y, groups = _rows(seed, unknown=unknown)
    splits = list(MultilabelStratifiedGroupKFold(5).split(y, y, groups))
    assert sorted(np.concatenate([test for _, test in splits])) == list(range(len(y)))
    for train, test in splits:
        assert not set(groups[train]) & set(groups[test])
    assert max(len(test) for _, test in splits) < 1.05 * len(y) / 5
    assert _deviation(y, splits) < 0.13
    assert _deviation(y, splits) < _deviation(y, list(GroupKFold(5).split(y, y, groups))) / 2


def test_a_rare_label_has_a_patient_in_every_fold():
    y = np.zeros((100, 2))
    y[::2, 0], y[[3, 30, 31, 60, 90], 1] = 1, 1
    for seed in range(5):
        folds = MultilabelStratifiedGroupKFold(5, shuffle=True, random_state=seed)
        assert [y[test, 1].sum() for _, test in folds.split(y, y)] == [1] * 5


def test_folds_are_the_same_for_every_form_of_labels_and_the_same_seed():
    y, groups = _rows(0, 200)
    names = np.array(list("abcd"))
    sets = [set(names[row == 1]) for row in y]
    found = [
        [
            test.tolist()
            for _, test in MultilabelStratifiedGroupKFold(3, shuffle=True, random_state=1).split(
                np.zeros(len(y)), form, groups
            )
        ]
        for form in (y, pd.DataFrame(y, columns=names), sets, y.astype(int).tolist())
    ]
    assert all(each == found[0] for each in found)
    other = MultilabelStratifiedGroupKFold(3, shuffle=True, random_state=2)
    assert [test.tolist() for _, test in other.split(y, y, groups)] != found[0]


def test_folds_are_a_cv_of_scikit_learn():
    y, groups = _rows(1, 300)
    X = np.random.default_rng(0).normal(size=(300, 3)) + y[:, :3]
    scores = cross_val_score(
        OneVsRestClassifier(LogisticRegression()),
        X,
        y[:, :2].astype(int),
        groups=groups,
        cv=MultilabelStratifiedGroupKFold(3),
        scoring="roc_auc",
        error_score="raise",
    )
    assert len(scores) == 3
    assert scores.min() > 0.6


def test_fewer_patients_than_folds_is_an_error():
    y = np.eye(4)
    with pytest.raises(ValueError, match="there are 2"):
        list(MultilabelStratifiedGroupKFold(3).split(y, y, [1, 1, 2, 2]))


@pytest.mark.parametrize("test_size", [0.2, 0.5])
@pytest.mark.parametrize("grouped", [True, False])
def test_the_test_part_has_its_share_of_each_label(test_size, grouped):
    y, groups = _rows(2, 1200 if grouped else 600, unknown=0.1)
    settings = {"groups": groups} if grouped else {}
    rows = np.arange(len(y))
    train, test = grouped_train_test_split(
        rows, test_size=test_size, stratify=y, random_state=0, **settings
    )
    assert abs(len(test) / len(y) - test_size) < 0.03
    share = np.nansum(y[test], axis=0) / np.nansum(y, axis=0)
    assert np.abs(share - test_size).max() < 0.08
    if grouped:
        assert not set(groups[train]) & set(groups[test])
    both = grouped_train_test_split(
        rows, test_size=0.2, train_size=0.4, stratify=y, random_state=0, **settings
    )
    assert abs(len(both[0]) / len(y) - 0.4) < 0.02


def test_a_label_of_one_patient_does_not_stop_a_split():
    y, groups = _rows(3, 90)
    y[:, 3] = groups == groups[0]
    train, held = holdout_split(y, 0.2, groups=groups, random_state=0)
    assert len(train) + len(held) == 90
    train, valid = GroupedValidSplit(0.2, random_state=0)(list(range(90)), y, groups=groups)
    assert not set(groups[train.indices]) & set(groups[valid.indices])
