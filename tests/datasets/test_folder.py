"""Folders of class sub-folders."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sktransfer.datasets import load_image_folder


@pytest.fixture
def folder(tmp_path):
    for name in ("bees/2.JPG", "bees/1.png", "ants/deep/er/3.webp", "ants/b.gif"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)
    (tmp_path / "bees" / "notes.txt").write_text("not an image")
    (tmp_path / "bees" / ".hidden.png").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    (tmp_path / ".git").mkdir()
    return tmp_path


def test_classes_are_sub_folders_in_sorted_order(folder):
    bunch = load_image_folder(folder)
    names = [path.removeprefix(str(folder) + "/") for path in bunch.data["image"]]
    assert names == ["ants/b.gif", "ants/deep/er/3.webp", "bees/1.png", "bees/2.JPG"]
    assert bunch.target.tolist() == [0, 0, 1, 1]
    assert bunch.target_names == ["ants", "bees"]
    assert bunch.groups is None
    assert bunch.frame is None
    X, y = load_image_folder(folder, return_X_y=True)
    assert X.equals(bunch.data)
    assert np.array_equal(y, bunch.target)


def table(folder, files, **columns):
    pd.DataFrame({"file": files, **columns}).to_csv(folder / "metadata.csv", index=False)


FILES = ["bees/2.JPG", "ants/b.gif", "bees/1.png", "ants/deep/er/3.webp", "wasps/9.png"]


def test_groups_come_from_the_table_in_the_order_of_the_files(folder):
    table(folder, FILES, patient_id=["007", "1", "7", "2", "3"], lesion_id=list("abcde"))
    bunch = load_image_folder(folder)
    assert bunch.groups.tolist() == ["1", "2", "7", "007"]
    assert load_image_folder(folder, groups="lesion_id").groups.tolist() == ["b", "d", "c", "a"]
    assert load_image_folder(folder, groups=None).groups is None
    assert load_image_folder(folder, metadata=None).frame is None
    assert bunch.frame["lesion_id"].tolist() == ["b", "d", "c", "a"]


def test_a_table_of_bare_names_is_matched(folder):
    table(folder, [name.rsplit("/")[-1] for name in FILES], subject=[1, 2, 3, 4, 5])
    assert load_image_folder(folder).groups.tolist() == ["2", "4", "3", "1"]


def test_rows_of_other_files_may_repeat_and_names_begin_with_a_dot(folder):
    files = ["./" + FILES[0], *FILES[1:], "wasps/9.png"]
    table(folder, files, patient=["a", "b", "c", "d", "e", "f"])
    assert load_image_folder(folder).groups.tolist() == ["b", "d", "c", "a"]


def test_bad_folders_and_tables_are_refused(folder, tmp_path_factory):
    with pytest.raises(FileNotFoundError, match="no folder"):
        load_image_folder(folder / "nowhere")
    with pytest.raises(FileNotFoundError, match="one for each class"):
        load_image_folder(tmp_path_factory.mktemp("nothing"))
    table(folder, FILES[1:], patient=list("abcd"))
    with pytest.raises(ValueError, match=r"1 images have no 'patient'.*'2\.JPG'"):
        load_image_folder(folder)
    with pytest.raises(ValueError, match="no column 'lesion'"):
        load_image_folder(folder, groups="lesion")
    table(folder, [*FILES, "ants/b.gif"], patient=list("abcdef"))
    with pytest.raises(ValueError, match=r"table names 'ants/b.gif' twice"):
        load_image_folder(folder)
    pd.DataFrame({"name": FILES}).to_csv(folder / "metadata.csv", index=False)
    with pytest.raises(ValueError, match="no column of file names"):
        load_image_folder(folder)


def test_chest_x_rays_have_patients(shared_data):
    bunch = load_image_folder(shared_data / "chest_xray_pneumonia")
    assert bunch.data.shape == (1000, 1)
    assert bunch.target_names == ["no_finding", "pneumonia"]
    assert bunch.target.sum() == 500
    assert len(set(bunch.groups)) == 682
