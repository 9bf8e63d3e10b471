"""Labels of rows with several of them, in every form: one matrix of 0, 1 and NaN."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array

from sktransfer import MultiLabelLogisticRegression
from sktransfer._utils.multilabel import is_multilabel, read_indicators

MATRIX = np.array([[1, 0], [0, 0], [1, 1]])


@pytest.mark.parametrize(
    "y",
    [
        MATRIX,
        MATRIX.tolist(),
        csr_array(MATRIX),
        MATRIX.astype(bool),
        pd.DataFrame(MATRIX, columns=["a", "b"]),
        pd.DataFrame({"a": ["1", "0", "1"], "b": pd.array([0, 0, 1], dtype="Int64")}),
        [{"a"}, set(), {"a", "b"}],
        pd.Series([["a"], [], ["b", "a"]]),
    ],
)
def test_every_form_of_labels_is_the_same_matrix(y):
    assert is_multilabel(y)
    found, names = read_indicators(y)
    assert np.array_equal(found, MATRIX)
    assert names.tolist() in ([0, 1], ["a", "b"])


@pytest.mark.parametrize("y", [[0, 1, 1], ["a", "b"], np.zeros((3, 1)), pd.Series(["a|b"]), None])
def test_one_label_a_row_is_not_several(y):
    assert not is_multilabel(y)


def test_unknown_labels_are_nan_in_every_form():
    masked = np.ma.array([[0, 1], [1, 0]], mask=[[0, 1], [0, 0]])
    frame = pd.DataFrame({"a": [0, 1], "b": pd.array([None, 0], dtype="Int64")})
    for y in (masked, frame):
        assert np.array_equal(read_indicators(y)[0], [[0, np.nan], [1, 0]], equal_nan=True)
    assert np.isnan(read_indicators([{"a"}, None, {"b"}])[0][1]).all()


def test_columns_are_found_by_their_names_and_matrices_have_them_in_order():
    frame = pd.DataFrame({"b": [1, 0], "a": [0, 0]})
    assert read_indicators(frame, ["a", "b"])[0].tolist() == [[0, 1], [0, 0]]
    assert read_indicators(MATRIX, ["a", "b"])[1].tolist() == ["a", "b"]
    assert read_indicators([{"b"}], ["a", "b", "c"])[0].tolist() == [[0, 1, 0]]


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (["a|b", "b"], "'a|b' in row 0"),
        ([[0, -1], [1, 0]], "uncertain"),
        ([[0, 2], [1, 0]], "label 'b' is 2 in row 0"),
        ([["a"], ["c"]], "not among"),
        (pd.DataFrame({"a": [0, 1], "c": [0, 1]}), "should be"),
        (np.zeros((2, 3)), "should be"),
    ],
)
def test_what_is_no_label_is_an_error_that_says_which(y, message):
    with pytest.raises(ValueError, match=message):
        read_indicators(y, ["a", "b"])


def test_names_joined_in_text_are_classes_with_a_warning():
    X = np.random.default_rng(0).normal(size=(40, 3))
    joined = ["Effusion|Mass", "Mass"] * 20
    with pytest.warns(UserWarning, match=r"'Effusion\|Mass', which are learned as one class each"):
        clf = MultiLabelLogisticRegression().fit(X, joined)
    assert clf.classes_.tolist() == ["Effusion|Mass", "Mass"]
    MultiLabelLogisticRegression().fit(X, ["a|b", "c|d"] * 20)  # nothing in common: no warning
