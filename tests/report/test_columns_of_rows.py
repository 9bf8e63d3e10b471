"""Columns alongside the test rows: subgroups, metadata, readers, whatever their index and type."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from sktransfer.report._scored_rows import score_rows
from sktransfer.report._subgroups import subgroups_section

N = 80
Y = np.arange(N) % 2
X = np.random.default_rng(0).normal(size=(N, 3)) + Y[:, None]
CLF = LogisticRegression().fit(X, Y)
AGE = 40 + 30 * Y
SHUFFLED = np.random.default_rng(1).permutation(N)


@pytest.fixture(scope="module")
def rows():
    return score_rows(CLF, X, Y)


@pytest.mark.parametrize(
    "given",
    [
        {"age": AGE, "site": Y},
        {"age": pd.Series(AGE, index=SHUFFLED), "site": pd.Series(Y)},
        {"age": pd.Series(AGE, index=[3] * N), "site": list(Y)},
        {"age": AGE[:, None], "site": pd.Series(Y, index=SHUFFLED, dtype="Int64")},
        pd.DataFrame({"age": AGE, "site": Y}, index=SHUFFLED),
        pd.DataFrame({"age": AGE, "site": Y}).loc[lambda table: table.index >= 0].set_index("age"),
    ],
)
def test_columns_are_positional(rows, given):
    columns = rows.columns(given, "metadata")
    assert columns.index.tolist() == list(range(N))
    for name, values in (("age", AGE), ("site", Y)):
        if name in columns:
            assert columns[name].tolist() == values.tolist()


def test_frames_of_polars_and_pyarrow_are_columns(rows):
    pl = pytest.importorskip("polars")
    table = pl.DataFrame({"age": AGE, "site": ["None", "A"] * (N // 2)})
    for given in (table, table.to_arrow(), {"age": table["age"], "site": table["site"]}):
        columns = rows.columns(given, "metadata")
        assert columns["age"].tolist() == AGE.tolist()
        assert columns["site"].tolist() == ["None", "A"] * (N // 2)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"age": AGE[1:]}, ValueError, "metadata 'age' has 79 rows for 80 rows of X"),
        ({"age": 5}, ValueError, "metadata 'age' has 1 rows"),
        ({"age": np.zeros((N, 2))}, ValueError, r"got shape \(80, 2\)"),
        (pd.DataFrame(np.zeros((N, 2)), columns=["a", "a"]), ValueError, "two columns 'a'"),
        ({1: AGE, "1": AGE}, ValueError, "two columns '1'"),
        ([AGE], TypeError, "must be a DataFrame, or a mapping of names to columns"),
    ],
)
def test_columns_that_do_not_fit_are_refused(rows, given, error, message):
    with pytest.raises(error, match=message):
        rows.columns(given, "metadata")


def test_ages_of_dicom_are_years_and_infinite_numbers_are_missing(rows):
    ages = ["058Y", "006M", None, " 90Y"] * (N // 4)
    number = np.where(Y == 1, np.inf, 1.0)
    columns = rows.columns({"age": ages, "number": number, "words": ["2D", "3D"] * 40}, "metadata")
    np.testing.assert_allclose(columns["age"][:4], [58, 0.5, np.nan, 90])
    assert columns["number"].isna().tolist() == (Y == 1).tolist()
    assert columns["words"][0] == "2D"
    levels = subgroups_section(rows, {"age": ages}).data["subgroups"]["age"]
    assert list(levels) == ["0.5", "58.0", "90.0", "unknown"]


@pytest.mark.parametrize(
    ("labels", "readings"),
    [
        (["no", "yes"], Y == 1),  # True is positive
        (["False", "True"], Y == 1),
        (["0", "1"], Y == 1),
        ([0.0, 1.0], [None, *(Y[1:] == 1).tolist()]),
        ([0, 1], Y == 1),
        (["None", "NA"], ["None", "NA"] * 40),
        ([0, 1], [None, *Y[1:].tolist()]),
        (["a", "b"], [np.nan, *["b", "a"] * 39, "b"]),
        (["a", "b"], [" ", *["b", "a"] * 39, "b"]),
        (["no", "yes"], [None, *(Y[1:] == 1).tolist()]),
        ([0, 1], pd.Series([None, *(Y[1:] == 1).tolist()], dtype="boolean")),
    ],
)
def test_readings_are_labels_and_missing_ones_stay_missing(labels, readings):
    y = np.array(labels)[Y]
    positive = labels[1] if isinstance(labels[1], str) else None
    rows = score_rows(LogisticRegression().fit(X, y), X, y, pos_label=positive)
    named = rows.named(readings, "readings")
    there = ~pd.isna(named)
    assert there.sum() >= N - 1
    assert (named[there] == rows.y[there]).all()


def test_one_site_is_one_subgroup_and_blanks_are_unknown(rows):
    site = np.array([1, "1", " 1", "", "None", None, True, "True"] * (N // 8), dtype=object)
    found = subgroups_section(rows, {"site": site}).data["subgroups"]["site"]
    counts = {name: own["images"] for name, own in found.items()}
    assert counts == {"1": 30, "None": 10, "True": 20, "unknown": 20}


def test_a_missing_label_of_a_test_row_is_named():
    y = np.array(["a", "b"])[Y].tolist()
    clf = LogisticRegression().fit(X, y)
    for missing in (None, np.nan):
        with pytest.raises(ValueError, match="y: 1 of 80 rows have no label, the first is row 3"):
            score_rows(clf, X, [*y[:3], missing, *y[4:]], pos_label="b")
