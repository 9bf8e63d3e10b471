"""Tables of file names and labels, and the demo's task."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sktransfer.datasets import load_digit_screening, load_image_table


@pytest.fixture
def csv(tmp_path):
    for name in "abc":
        Image.new("L", (4, 4)).save(tmp_path / f"{name}.png")
    frame = pd.DataFrame(
        {
            "Image": ["c.png", "a.png", "b.png"],
            "dx": ["nv", "mel", "nv"],
            "malignant": [0, 1, 0],
            "age": [30.0, None, 50.0],
            "Patient_ID": ["01", "02", "01"],
        }
    )
    frame.to_csv(tmp_path / "table.csv", index=False)
    return tmp_path / "table.csv"


def test_text_labels_are_the_target_and_positive_makes_them_numbers(csv):
    bunch = load_image_table(csv, target="dx")
    assert bunch.data["image"].tolist() == [str(csv.parent / f"{n}.png") for n in "cab"]
    assert bunch.target.tolist() == ["nv", "mel", "nv"]
    assert bunch.target.dtype == object
    assert bunch.target_names == ["mel", "nv"]
    mel = load_image_table(csv, target="dx", positive=" mel")  # names are compared as identifiers
    assert (mel.target.tolist(), mel.target_names) == ([0, 1, 0], ["nv", "mel"])
    assert mel.target.dtype == np.int64
    assert load_image_table(csv, target="dx", positive="nv").target.tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match=r"positive='MEL' is not one of .* 'mel', 'nv'"):
        load_image_table(csv, target="dx", positive="MEL")
    with pytest.raises(ValueError, match="positive needs target"):
        load_image_table(csv, positive="mel")
    assert bunch.groups.tolist() == ["01", "02", "01"]
    assert list(bunch.frame.columns) == ["Image", "dx", "malignant", "age", "Patient_ID"]


def test_numbers_stay_and_columns_can_be_kept(csv):
    bunch = load_image_table(csv, target="malignant", columns=["age"], groups=None)
    assert bunch.target.tolist() == [0, 1, 0]
    assert bunch.target_names is None
    assert bunch.groups is None
    assert list(bunch.data.columns) == ["image", "age"]
    X, y = load_image_table(csv, target="malignant", return_X_y=True)
    assert X.shape == (3, 1)
    assert y.tolist() == [0, 1, 0]
    healthy = load_image_table(csv, target="malignant", positive=0)
    assert (healthy.target.tolist(), healthy.target_names) == ([1, 0, 1], ["1", "0"])
    ill = load_image_table(csv, target="malignant", positive=True)
    assert (ill.target.tolist(), ill.target_names) == ([0, 1, 0], ["0", "1"])


@pytest.mark.parametrize("positive", [2, "2", 2.0, np.int64(2)])
def test_one_grade_of_several_is_the_positive_one_however_it_is_written(csv, positive):
    frame = pd.DataFrame({"file": ["a.png", "b.png", "c.png"], "grade": [1, 2, 3]})
    bunch = load_image_table(frame, target="grade", root=csv.parent, positive=positive)
    assert (bunch.target.tolist(), bunch.target_names) == ([0, 1, 0], ["not 2", "2"])


def test_a_frame_and_another_root_are_accepted(csv):
    frame = pd.DataFrame({"name": ["a.png"]}, index=[7])
    bunch = load_image_table(frame, image="name", root=csv.parent)
    assert bunch.data.index.tolist() == [7]
    assert bunch.target is None


def test_a_repeated_index_repeats_no_rows(csv):
    frame = pd.DataFrame({"file": ["a.png", "b.png", "c.png"], "age": [1, 2, 3]}, index=[0, 0, 1])
    bunch = load_image_table(frame, root=csv.parent, columns=["age"])
    assert bunch.data.shape == (3, 2)
    assert bunch.data["age"].tolist() == [1, 2, 3]


def test_named_columns_are_read_as_text(csv):
    frame = pd.DataFrame({"scan": ["001", "002"], "case": ["007", "7"]})
    for name in frame["scan"]:
        Image.new("L", (4, 4)).save(csv.parent / name, format="PNG")
    frame.to_csv(csv.parent / "cases.csv", index=False)
    bunch = load_image_table(csv.parent / "cases.csv", image="scan", groups="case")
    assert bunch.groups.tolist() == ["007", "7"]
    assert bunch.data["image"].tolist() == [str(csv.parent / "001"), str(csv.parent / "002")]


def test_a_missing_group_is_an_error(csv):
    frame = pd.DataFrame({"file": ["a.png", "b.png"], "patient": ["x", None]})
    with pytest.raises(ValueError, match="1 rows have no 'patient'; the first is row 1"):
        load_image_table(frame, root=csv.parent)


def test_bad_tables_are_refused(csv):
    with pytest.raises(FileNotFoundError, match="no table"):
        load_image_table(csv.parent / "nowhere.csv")
    with pytest.raises(ValueError, match="no column 'diagnosis'"):
        load_image_table(csv, target="diagnosis")
    with pytest.raises(ValueError, match=r"1 rows have no label in column 'age'.*row 1"):
        load_image_table(csv, target="age")
    with pytest.raises(FileNotFoundError, match=r"3 of 3 files.*row 0.*root="):
        load_image_table(csv, root=csv.parent / "elsewhere")
    with pytest.raises(ValueError, match="image="):
        load_image_table(pd.DataFrame({"scan": ["a.png"]}))
    with pytest.raises(ValueError, match=r"1 rows have no file name .*; the first is row 1"):
        load_image_table(pd.DataFrame({"file": ["a.png", None]}), root=csv.parent)


def test_skin_lesions_have_labels_and_groups(shared_data):
    bunch = load_image_table(
        shared_data / "ham10000_mini" / "metadata.csv", target="malignant", columns=["age", "sex"]
    )
    assert bunch.data.shape == (56, 3)
    assert bunch.target.sum() == 16
    assert len(set(bunch.groups)) == 51


def test_digit_screening_has_one_positive_digit():
    task = load_digit_screening(3)
    assert set(task.target) == set(task.target_names) == {"other", "three"}
    positive = load_digit_screening(3, positive="three")
    assert positive.target.mean() == pytest.approx(0.1, abs=0.01)
    assert np.array_equal(positive.target == 1, task.target == "three")
    assert positive.target_names == ["other", "three"]
    with pytest.raises(ValueError, match="positive='eight' is not one of the classes"):
        load_digit_screening(3, positive="eight")
    assert task.data.max() == task.value_range[1]
    X, y = load_digit_screening(3, return_X_y=True)
    assert np.array_equal(X, task.data)
    assert np.array_equal(y, task.target)
    with pytest.raises(ValueError, match="between 0 and 9"):
        load_digit_screening(10)
