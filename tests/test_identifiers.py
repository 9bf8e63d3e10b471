"""One patient is one patient, as a number, as text, in a file and in a DataFrame."""

from __future__ import annotations

import datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sktransfer._utils.identifiers import read_groups
from sktransfer.datasets import check_images, load_image_table
from sktransfer.metrics import roc_auc_interval
from sktransfer.model_selection import check_leakage, grouped_train_test_split

SAME = [
    101,
    101.0,
    np.int64(101),
    np.float32(101),
    Decimal("101"),
    "101",
    " 101 ",
    "101\u00a0",
    "101.0",
    b"101",
    np.bytes_(b"101"),
    np.str_("101"),
]
OTHERS = ["0101", "1010", "101a", 101.5, "101.00", -101, True, "M\u00fcller"]


@pytest.mark.parametrize("one", SAME, ids=repr)
@pytest.mark.parametrize("two", SAME, ids=repr)
def test_all_ways_of_writing_a_patient_are_one(one, two):
    images = np.random.default_rng(0).integers(0, 255, (2, 8, 8), dtype=np.uint8)
    train, test = np.array([one], dtype=object), np.array([two], dtype=object)
    found = check_leakage(
        images[:1], images[1:], groups_train=train, groups_test=test, on_leak="ignore"
    )
    assert found["what"].tolist() == ["group"]


def test_different_patients_stay_different():
    names = read_groups(np.array([*OTHERS, 101], dtype=object))
    assert len(set(names)) == len(OTHERS) + 1
    assert names.tolist()[-1] == "101"
    assert read_groups(["M\u00fcller", "Mu\u0308ller"]).tolist() == ["M\u00fcller"] * 2
    words = ["None", "nan", "NA", "null", "inf", "1e5", "007"]
    assert read_groups(words).tolist() == words


@pytest.mark.parametrize(
    "groups",
    [
        pd.Series([101, 102, 103], dtype="Int64"),
        pd.Series([101, 102, 103], dtype="float64"),
        pd.Series(["101", "102", "103"], dtype="string"),
        pd.Categorical([101, 102, 103]),
        np.array([[101], [102], [103]]),
        pd.DataFrame({"patient": [101, 102, 103]}),
        ["101", 102, 103.0],
    ],
)
def test_every_container_of_patients_is_read(groups):
    assert read_groups(groups).tolist() == ["101", "102", "103"]


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, pd.NaT, "", "  ", b"", float("nan")])
def test_a_missing_patient_is_an_error_also_among_words(missing):
    with pytest.raises(ValueError, match=r"1 of 3 rows have no group, the first is row 1"):
        read_groups(["a", missing, "b"])
    with pytest.raises(ValueError, match=r"1 of 3 rows have no group, the first is row 1"):
        read_groups(np.ma.masked_array([1, 2, 3], [False, True, False]))


def test_dates_and_unseen_characters_are_one_identifier():
    days = ["2020-01-02", datetime.date(2020, 1, 2), pd.Timestamp("2020-01-02"), "\ufeff2020-01-02"]
    assert read_groups(np.array(days, dtype=object)).tolist() == ["2020-01-02"] * 4
    assert read_groups(pd.to_datetime(days[:1])).tolist() == ["2020-01-02"]
    assert read_groups(np.array(days[:1], "datetime64[D]")).tolist() == ["2020-01-02"]


def test_identifiers_that_lost_digits_are_refused_or_said():
    long = [12345678901234567, 12345678901234568]
    assert read_groups(long).tolist() == list(map(str, long))
    for lost in (np.array(long, float), np.float32([16777217]), [2.0**60, 1]):
        with pytest.raises(ValueError, match=r"has the float\d\d .*Read identifiers as text"):
            read_groups(lost)
    with pytest.warns(UserWarning, match=r"groups has '1\.23E\+15', as spreadsheets shorten"):
        assert read_groups(["1.23E+15", "1.23E+15", "2"]).tolist() == ["1.23E+15"] * 2 + ["2"]


def test_groups_of_several_columns_are_refused():
    for groups in ([(1, "a"), (1, "b")], pd.DataFrame({"a": [1, 2], "b": [1, 2]})):
        with pytest.raises(ValueError, match=r"has to be one column; got shape \(2, 2\)"):
            read_groups(groups)


def test_a_leak_is_found_between_a_file_and_a_table(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(6):
        Image.fromarray(rng.integers(0, 255, (9, 9), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    table = pd.DataFrame({"file": [f"{i}.png" for i in range(6)], "patient": [1, 2, 3, 1, 2, 4]})
    table[:3].to_csv(tmp_path / "train.csv", index=False)
    train = load_image_table(tmp_path / "train.csv")
    test = load_image_table(table[3:].astype({"patient": float}), root=tmp_path)
    found = check_leakage(
        *(train.data, test.data),
        groups_train=train.groups,
        groups_test=test.groups,
        on_leak="ignore",
    )
    assert found[["test_row", "train_row"]].to_numpy().tolist() == [[0, 0], [1, 1]]
    raw = check_leakage(
        train.data,
        test.data,
        groups_train=["1", "2", "3"],
        groups_test=[1, 2.0, 4],
        on_leak="ignore",
    )
    assert raw.equals(found)


def test_mixed_types_in_one_column_are_one_patient():
    y = np.tile([0, 1], 10)
    numbers = np.repeat(np.arange(10), 2)
    mixed = np.array([n if i % 2 else f" {n}" for i, n in enumerate(numbers)], dtype=object)
    score = np.random.default_rng(0).random(20)
    assert roc_auc_interval(y, score, groups=mixed) == roc_auc_interval(y, score, groups=numbers)
    train, test = grouped_train_test_split(numbers, groups=mixed, stratify=y, random_state=0)
    assert not set(train) & set(test)
    X = np.random.default_rng(0).integers(0, 255, (2, 8, 8), dtype=np.uint8)
    both = np.concatenate([X, X])
    found = check_images(both, groups=np.array([1, 2, "1", "2"], dtype=object), verbose=0)
    assert set(found["finding"]) == {"duplicate"}
