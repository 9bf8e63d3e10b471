"""Hold-out splits: every class in both parts, no group in both, the share as asked for."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from sktransfer import FineTuneClassifier
from sktransfer._utils.splitting import holdout_split, stratified_order, stratified_part
from sktransfer.metrics import operating_point, roc_auc_interval
from sktransfer.model_selection import (
    OperatingPointClassifier,
    check_leakage,
    grouped_train_test_split,
    loo_ridge_score,
)


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.7])
@pytest.mark.parametrize("seed", range(3))
def test_groups_stay_whole_and_classes_even(fraction, seed):
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(60), rng.integers(1, 6, 60))
    y = (rng.random(60) < 0.3).astype(int)[groups]
    train, held = holdout_split(y, fraction, groups=groups, random_state=seed)
    assert not set(groups[train]) & set(groups[held])
    assert sorted([*train, *held]) == list(range(len(y)))
    assert abs(len(held) / len(y) - fraction) < 0.12
    assert abs(y[held].mean() - y.mean()) < 0.15
    again = holdout_split(y, fraction, groups=groups, random_state=seed)
    assert np.array_equal(again[1], held)


@pytest.mark.parametrize("fraction", [0.04, 0.15, 0.2, 0.3, 1 / 3, 0.4, 0.45, 0.6, 0.8])
def test_any_share_is_met_by_whole_groups(fraction):
    groups = np.repeat(np.arange(100), 2)
    y = np.random.default_rng(0).integers(0, 2, 100)[groups]
    _, held = holdout_split(y, fraction, groups=groups, random_state=0)
    assert abs(len(held) / len(y) - fraction) <= 0.02
    assert abs(y[held].mean() - y.mean()) < 0.1


def test_without_groups_it_is_stratified():
    y = np.array([0] * 90 + [1] * 10)
    train, held = holdout_split(y, 0.2, random_state=0)
    assert y[held].sum() == 2
    assert len(train) == 80


@pytest.mark.parametrize(
    ("y", "fraction", "groups", "message"),
    [
        ([0, 0, 0, 1], 0.5, None, "1: 1"),
        ([0, 1] * 5, 1.5, None, "between 0 and 1"),
        ([0, 1] * 5, 0.05, None, "at least one row of every class"),
        ([0, 1] * 5, 0.5, [1] * 10, "one group"),
        ([0, 1] * 5, 0.5, [1] * 9, "9 entries for 10"),
    ],
)
def test_what_is_impossible_is_said(y, fraction, groups, message):
    with pytest.raises(ValueError, match=message):
        holdout_split(y, fraction, groups=groups, random_state=0)


def test_frames_and_lists_are_split_alike():
    table = pd.DataFrame({"file": [f"{i}.png" for i in range(40)]}, index=np.arange(40) + 100)
    patients, y = np.repeat(np.arange(20), 2), np.repeat(np.arange(20) % 2, 2)
    a, b, c, d = grouped_train_test_split(
        table, list(patients), groups=patients, stratify=y, test_size=0.3, random_state=1
    )
    assert isinstance(a, pd.DataFrame)
    assert len(a) == len(c)
    assert len(b) == len(d)
    assert (a.index - 100).tolist() == [i for i in range(40) if patients[i] in set(c)]
    with pytest.raises(ValueError, match="At least one"):
        grouped_train_test_split(groups=patients)


def test_sizes_are_those_of_train_test_split():
    patients = np.repeat(np.arange(100), 2)
    for sizes, expected in (
        ({}, (150, 50)),
        ({"test_size": 0.3}, (140, 60)),
        ({"test_size": 40}, (160, 40)),
        ({"train_size": 0.9}, (180, 20)),
        ({"train_size": 60, "test_size": 40}, (60, 40)),
    ):
        theirs = train_test_split(patients, random_state=0, **sizes)
        assert tuple(map(len, theirs)) == expected
        train, test = grouped_train_test_split(patients, groups=patients, random_state=0, **sizes)
        assert (len(train), len(test)) == expected
        assert not set(train) & set(test)
    with pytest.raises(ValueError, match="test_size"):
        grouped_train_test_split(patients, groups=patients, test_size=2.0)


def test_without_groups_a_grouped_split_is_train_test_split():
    y = np.arange(40) % 2
    ours = grouped_train_test_split(np.arange(40), y, stratify=y, test_size=0.3, random_state=3)
    theirs = train_test_split(np.arange(40), y, stratify=y, test_size=0.3, random_state=3)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("n", [2, 20, 99, 100, 101])
def test_a_part_asks_nothing_of_the_rest(n):
    """A class of one row, next to all rows, or all: what holding out cannot do."""
    y = np.array([0] * 99 + [1])
    rows = stratified_part(y, n, random_state=1)
    assert len(rows) == len(set(rows)) == min(n, 100)
    assert sorted(set(y[rows])) == [0, 1]
    assert np.array_equal(rows, stratified_part(y, n, random_state=1))
    if n == 20:
        assert not np.array_equal(rows, stratified_part(y, n, random_state=2))


@pytest.mark.parametrize("n", [30, 118, 119])
def test_a_part_of_whole_groups(n):
    groups = np.repeat(np.arange(40), 3)
    y = (np.arange(40) < 8).astype(int)[groups]
    rows = stratified_part(y, n, groups=groups, random_state=0)
    assert abs(len(rows) - n) <= 2
    assert abs(y[rows].mean() - 0.2) < 0.05
    assert len(rows) == 3 * len(np.unique(groups[rows]))
    lonely = np.where(groups == 39, 2, y)  # a class that is one patient's
    assert len(stratified_part(lonely, n, groups=groups)) >= 28


def test_every_beginning_of_an_order_is_stratified():
    y = np.repeat([0, 1, 2], [90, 29, 1])
    order = stratified_order(y, 0)
    assert sorted(order) == list(range(120))
    assert sorted(y[order[:3]]) == [0, 1, 2]
    for n in (20, 40, 80):
        assert abs((y[order[:n]] == 1).mean() - 0.25) <= 1.5 / n


IMAGES = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
LABELS = np.array([0, 1] * 4)
SCORES = np.linspace(0, 1, 8)
TAKES_GROUPS = {
    "split": lambda groups: grouped_train_test_split(LABELS, groups=groups, stratify=LABELS),
    "interval": lambda groups: roc_auc_interval(LABELS, SCORES, groups=groups),
    "rates": lambda groups: operating_point(LABELS, SCORES, 0.5, groups=groups),
    "score": lambda groups: loo_ridge_score(SCORES[:, None], LABELS, groups=groups),
    "threshold": lambda groups: OperatingPointClassifier(LogisticRegression()).fit(
        SCORES[:, None], LABELS, groups=groups
    ),
    "leakage": lambda groups: check_leakage(
        IMAGES, IMAGES, groups_train=np.arange(8), groups_test=groups
    ),
    "fit": lambda groups: FineTuneClassifier(
        "squeezenet1_1", weights=None, image_size=32, validation_fraction=0.5, max_epochs=1
    ).fit(IMAGES, LABELS, groups=groups),
}


@pytest.mark.parametrize("takes_groups", TAKES_GROUPS.values(), ids=TAKES_GROUPS.keys())
def test_a_patient_who_is_not_known_is_not_the_same_as_another(takes_groups):
    for unknown in (
        [1.0, 2, 3, np.nan, 5, 6, np.nan, 8],
        ["a", "b", "c", None, "e", "f", None, "h"],
        pd.Series([1, 2, 3, None, 5, 6, None, 8], dtype="Int64"),
        pd.Categorical(["a", "b", "c", None, "e", "f", None, "h"]),
    ):
        with pytest.raises(ValueError, match="2 of 8 rows have no group, the first is row 3"):
            takes_groups(unknown)
    with pytest.raises(TypeError, match=r"name a group for each row.*got dict"):
        takes_groups(np.array([{}] * 8, dtype=object))
