"""Rows of images become bags, in every form that studies have them in."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sktransfer._images import DicomFrame
from sktransfer.bags import make_bags


def test_rows_are_gathered_by_group_in_the_order_in_which_groups_occur():
    frame = pd.DataFrame({"image": list("abcde")}, index=[9, 9, 1, 0, 3])
    bags = make_bags(frame, [1, 0, 1, 1, 0], groups=[7.0, "3", "7", 7, 3])
    assert bags.data.tolist() == [["a", "c", "d"], ["b", "e"]]
    assert bags.target.tolist() == [1, 0]
    assert bags.groups.tolist() == ["7", "3"]
    assert [own.tolist() for own in bags.rows] == [[0, 2, 3], [1, 4]]


def test_numbers_are_gathered_too():
    X = np.arange(12).reshape(4, 3)
    bags = make_bags(X, groups=list("abab"))
    assert np.array_equal(np.array(bags.data[1]), X[[1, 3]])
    assert bags.target is None


def test_a_group_with_two_labels_is_named():
    with pytest.raises(ValueError, match=r"1 of 2 groups.*'p1', with 'ill', 'well'"):
        make_bags(list("abc"), ["ill", "well", "ill"], groups=["p1", "p1", "p2"])


@pytest.mark.parametrize(
    ("y", "groups", "message"),
    [
        ([1, 0], ["p", "p", "q"], "y has shape"),
        ([1, None, 0], ["p", "p", "q"], "no label"),
        (None, ["p", "q"], "groups has 2 entries for 3 rows"),
        (None, ["p", None, "q"], "have no group"),
    ],
)
def test_labels_and_groups_that_do_not_belong_to_the_rows_are_errors(y, groups, message):
    with pytest.raises(ValueError, match=message):
        make_bags(list("abc"), y, groups=groups)


def test_lists_in_cells_stay_bags_and_are_joined_by_groups():
    X = [["a", "b"], ["c"], ["d"]]
    assert make_bags(X).data.tolist() == X
    assert make_bags(X, groups=[0, 1, 0]).data.tolist() == [["a", "b", "d"], ["c"]]


def test_a_folder_is_the_images_in_it(tmp_path):
    for name in ("one/b.png", "one/sub/a.png", "two/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(tmp_path / name)
    (tmp_path / "one" / "notes.txt").write_text("no image")
    bags = make_bags([tmp_path / "one", str(tmp_path / "two")], [0, 1])
    named = [[path[len(str(tmp_path)) + 1 :] for path in bag] for bag in bags.data]
    assert named == [["one/b.png", "one/sub/a.png"], ["two/c.png"]]
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty"):
        make_bags([tmp_path / "empty"])


def test_a_dicom_file_is_all_its_frames_where_that_is_asked_for(shared_data, tmp_path):
    file = shared_data / "dicom" / "emri_small.dcm"
    (bag,) = make_bags([file], frames="all").data
    assert bag == [DicomFrame(str(file), frame) for frame in range(10)]
    assert make_bags([file]).data.tolist() == [[file]]
    for name in ("emri_small.dcm", "rtplan.dcm", "CT_small.dcm"):
        (tmp_path / name).write_bytes((shared_data / "dicom" / name).read_bytes())
    (bag,) = make_bags([tmp_path], frames="all").data  # a plan is no image
    assert len(bag) == 11


@pytest.mark.parametrize("form", [pd.DataFrame, lambda frame: frame.to_numpy(object)])
def test_columns_of_views_are_images_of_one_bag(form):
    views = pd.DataFrame({"front": ["a", "b", "c"], "side": ["d", "e", "f"]})
    bags = make_bags(form(views), [0, 1, 0], groups=["p", "q", "p"])
    assert bags.data.tolist() == [["a", "d", "c", "f"], ["b", "e"]]
