"""Folders of class sub-folders."""

from __future__ import annotations

import os
import shutil
import warnings

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sktransfer.datasets import dicom_table, load_image_folder


@pytest.fixture
def folder(tmp_path):
    for name in ("bees/2.JPG", "bees/1.png", "ants/deep/er/3.webp", "ants/b.gif"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)
    (tmp_path / "bees" / "notes.txt").write_text("not an image")
    (tmp_path / "bees" / ".hidden.png").write_bytes(b"")
    (tmp_path / ".git").mkdir()
    return tmp_path


def test_classes_are_sub_folders_in_sorted_order(folder):
    bunch = load_image_folder(folder)
    names = [path.removeprefix(str(folder) + "/") for path in bunch.data["image"]]
    assert names == ["ants/b.gif", "ants/deep/er/3.webp", "bees/1.png", "bees/2.JPG"]
    assert bunch.target.tolist() == ["ants", "ants", "bees", "bees"]
    assert bunch.target.dtype == object
    assert bunch.target_names == ["ants", "bees"]
    assert bunch.groups is None
    assert bunch.frame is None
    X, y = load_image_folder(folder, return_X_y=True)
    assert X.equals(bunch.data)
    assert np.array_equal(y, bunch.target)


def test_the_positive_class_is_one_and_all_others_are_zero(folder):
    ants = load_image_folder(folder, positive="ants")
    assert (ants.target.tolist(), ants.target_names) == ([1, 1, 0, 0], ["bees", "ants"])
    assert ants.target.dtype == np.int64
    (folder / "lice").mkdir()
    Image.new("RGB", (4, 4)).save(folder / "lice" / "1.png")
    ants = load_image_folder(folder, positive="ants")
    assert (ants.target.tolist(), ants.target_names) == ([1, 1, 0, 0, 0], ["not ants", "ants"])
    with pytest.raises(ValueError, match=r"positive='ant' is not one of .* 'ants', 'bees', 'lice'"):
        load_image_folder(folder, positive="ant")


def table(folder, files, **columns):
    pd.DataFrame({"file": files, **columns}).to_csv(folder / "metadata.csv", index=False)


FILES = ["bees/2.JPG", "ants/b.gif", "bees/1.png", "ants/deep/er/3.webp", "wasps/9.png"]


def test_groups_come_from_the_table_in_the_order_of_the_files(folder):
    table(folder, FILES, patient_id=["007", "1", "7", "2", "3"], lesion_id=list("abcde"))
    bunch = load_image_folder(folder)
    assert bunch.groups.tolist() == ["1", "2", "7", "007"]
    assert load_image_folder(folder, groups="lesion_id").groups.tolist() == ["b", "d", "c", "a"]
    assert load_image_folder(folder, groups=None).groups is None
    # The table is read, so it is not among what was left out.
    other = load_image_folder(folder, metadata=None)
    assert other.frame is None
    assert other.skipped == {**bunch.skipped, ".csv": 1}
    assert ".csv" not in bunch.DESCR
    assert bunch.frame["lesion_id"].tolist() == ["b", "d", "c", "a"]


@pytest.mark.parametrize("name", ["Patient ID", "Patient-ID", "PATIENT_ID", " patientID "])
def test_patients_are_found_however_their_column_is_written(folder, name):
    table(folder, FILES, **{name: ["007", "1", "7", "2", "3"]})
    assert load_image_folder(folder).groups.tolist() == ["1", "2", "7", "007"]


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
    table(folder, FILES[1:-1], patient=list("abc"))
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
    assert (bunch.target == "pneumonia").sum() == 500
    assert len(set(bunch.groups)) == 682


# --- folders as people have them ------------------------------------------------------------------


def put(*parts):
    path = parts[0].joinpath(*parts[1:])
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path, "PNG")
    return path


def names(bunch, folder):
    return [os.path.relpath(path, folder) for path in bunch.data["image"]]


@pytest.fixture
def pets(tmp_path):
    for name in ("cat/0.png", "cat/1.png", "dog/0.png"):
        put(tmp_path, name)
    return tmp_path


@pytest.mark.parametrize(
    ("left", "kind"),
    [
        ("@eaDir/x/SYNOPHOTO_THUMB_M.jpg", "@eaDir"),
        ("@EADIR/x.jpg", "@eaDir"),
        ("#recycle/old.jpg", "#recycle"),
        ("#snapshot/GMT-01/cat/0.jpg", "#snapshot"),
        ("@Recycle/old.jpg", "@Recycle"),
        ("@__thumb/s1000.jpg", "@__thumb"),
        (".@__thumb/s1000.jpg", ".@__thumb"),
        ("$RECYCLE.BIN/$R1.jpg", "$RECYCLE.BIN"),
        ("System Volume Information/1.jpg", "System Volume Information"),
        ("lost+found/1.jpg", "lost+found"),
        (".Trash-1000/files/1.jpg", ".Trash-*"),
        ("__MACOSX/._0.jpg", "__MACOSX"),
        ("._0.jpg", "._*"),
        (".thumbnails/1.png", ".thumbnails"),
        (".picasaoriginals/1.jpg", ".picasaoriginals"),
        (".ipynb_checkpoints/0-checkpoint.jpg", ".ipynb_checkpoints"),
        ("SYNOPHOTO_THUMB_XL.jpg", "SYNOPHOTO_*"),
        ("0.jpg@SynoEAStream", "*@SynoEAStream"),
        ("~$0.jpg", "~$*"),
        ("THUMBS.DB", "Thumbs.db"),
        (".hidden.jpg", "hidden"),
        (".nfs0001.jpg", "hidden"),
        ("Network Trash Folder/1.jpg", "Network Trash Folder"),
        ("Smart Previews.lrdata/1.jpg", "*.lrdata"),
        ("_vti_cnf/1.jpg", "_vti_cnf"),
    ],
)
def test_what_other_programs_left_is_no_class_and_no_image_and_is_counted(pets, left, kind):
    for place in ("", "cat", "dog/deeper"):
        put(pets, place, left)
    bunch = load_image_folder(pets)
    assert names(bunch, pets) == ["cat/0.png", "cat/1.png", "dog/0.png"]
    assert bunch.target_names == ["cat", "dog"]
    assert bunch.skipped == {kind: 3}
    assert f"Left out: {kind}: 3." in bunch.DESCR


def test_folders_and_files_behind_links_are_read_once(pets, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    put(elsewhere, "batch", "2.png")
    put(elsewhere, "3.png")
    put(elsewhere, "birds", "0.png")
    os.symlink(elsewhere / "batch", pets / "cat" / "batch2")
    os.symlink(elsewhere / "3.png", pets / "cat" / "3.png")
    os.symlink(elsewhere / "birds", pets / "bird")
    os.symlink(pets, pets / "dog" / "loop")
    os.symlink(pets.parent, pets / "dog" / "above")
    os.symlink(pets / "dog", elsewhere / "batch" / "dogs")
    with pytest.warns(
        UserWarning, match=r"'cat/batch2/dogs' and 'dog' are one folder.*'dog' alone"
    ):
        bunch = load_image_folder(pets)
    assert bunch.target_names == ["bird", "cat", "dog"]
    expected = [
        "bird/0.png",
        "cat/0.png",
        "cat/1.png",
        "cat/3.png",
        "cat/batch2/2.png",
        "dog/0.png",
    ]
    assert names(bunch, pets) == expected
    assert bunch.skipped["links to folders that are read already"] == 3


def test_one_folder_or_file_in_two_classes_is_said(pets):
    os.symlink(pets / "cat", pets / "kitten")
    os.link(pets / "cat" / "0.png", pets / "dog" / "hard.png")
    with pytest.warns(UserWarning, match="load_image_folder") as caught:
        bunch = load_image_folder(pets)
    assert bunch.target_names == ["cat", "dog"]
    (text,) = [str(each.message) for each in caught]
    assert "No images in 'kitten'" in text
    assert "'kitten' and 'cat' are one folder; its images are of class 'cat' alone" in text
    assert "One file in two classes: 'cat/0.png' and 'dog/hard.png'" in text


def test_links_that_lead_nowhere_and_empty_classes_are_named(pets):
    os.symlink(pets / "gone.png", pets / "cat" / "9.png")
    os.symlink("ring", pets / "cat" / "ring")
    (pets / "bird").mkdir()
    with pytest.warns(UserWarning, match="load_image_folder") as caught:
        load_image_folder(pets)
    text = str(caught[0].message)
    assert "'cat/9.png' (No such file or directory)" in text
    assert "'cat/ring'" in text
    assert "No images in 'bird', which made no class." in text


def test_folders_that_may_not_be_opened_are_named(pets, monkeypatch):
    put(pets, "cat", "closed", "7.png")
    real = os.scandir

    def refuse(place):
        if str(place).endswith("closed"):
            raise PermissionError(13, "Permission denied", place)
        return real(place)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.warns(UserWarning, match=r"'cat/closed' \(Permission denied\) cannot be opened"):
        assert len(load_image_folder(pets).data) == 3
    with (
        pytest.warns(UserWarning, match="'cat/closed'"),
        pytest.raises(FileNotFoundError, match="no DICOM"),
    ):
        dicom_table(pets)


@pytest.mark.parametrize(
    "parts",
    [
        ("train", "val"),
        ("Training", "Validation", "TEST"),
        ("train_images", "test-set"),
        ("train2017", "val2017"),
        ("train", "test", "extra"),
        ("fold1", "fold2"),
        ("split_0", "split_1"),
        ("Validation set", "Training set"),
        ("X_train", "X_test"),
        ("trainA", "trainB", "testA"),
        ("ISIC_2019_Training_Input", "ISIC_2019_Test_Input"),
        ("train-jpeg", "val (1)"),
        ("images", "masks"),
        ("JPEGImages", "Annotations"),
        ("imagesTr", "labelsTr"),
        ("train",),
    ],
)
def test_parts_of_a_data_set_are_not_taken_for_classes_without_a_word(tmp_path, parts):
    for part in parts:
        put(tmp_path, part, "cat", "0.png")
        put(tmp_path, part, "dog", "0.png")
    with pytest.warns(UserWarning, match="look like parts of a data set.*Load each"):
        assert load_image_folder(tmp_path).target_names == sorted(parts)


@pytest.mark.parametrize(
    "classes",
    [
        ("test", "control"),
        ("bus", "train"),
        ("developed", "raw"),
        ("positive test", "negative test"),
        ("with_mask", "without_mask"),
        ("banana split", "bullet train"),
        ("thumbs", "cache", "lost"),
        ("@home", "#1", "_x", "-y"),
        ("0", "1", "2"),
    ],
)
def test_classes_with_such_names_are_classes(tmp_path, classes):
    for name in classes:
        put(tmp_path, name, "0.png")
    load_image_folder(tmp_path)


@pytest.mark.parametrize("name", [".benign", "Recycled"])
def test_a_class_that_is_called_like_a_left_over_is_named(pets, name):
    put(pets, name, "0.png")
    with pytest.warns(UserWarning, match=rf"'{name}' with images left out.*Rename it"):
        assert load_image_folder(pets).target_names == ["cat", "dog"]
    shutil.rmtree(pets / "cat")
    shutil.rmtree(pets / "dog")
    with (
        pytest.warns(UserWarning, match=name),
        pytest.raises(FileNotFoundError, match=r"Left out: .*: 1\.$"),
    ):
        load_image_folder(pets)


def test_hidden_folders_without_images_are_nothing_to_say(pets):
    (pets / ".git").mkdir()
    (pets / ".git" / "HEAD").write_text("ref: refs/heads/main")
    assert load_image_folder(pets).skipped == {"hidden": 1}


def test_images_that_a_cloud_has_not_sent_are_said(pets):
    (pets / "cat" / ".7.jpg.icloud").write_bytes(b"bplist00")
    with pytest.warns(UserWarning, match="1 files are in iCloud only"):
        assert len(load_image_folder(pets).data) == 3


@pytest.mark.parametrize("small", ["thumbs", "_thumbs", "Thumbnails", "previews"])
def test_what_may_be_small_copies_of_images_is_read_and_said(pets, small):
    put(pets, "dog", small, "0.png")
    with pytest.warns(UserWarning, match=f"'dog/{small}': images that may be small copies"):
        assert len(load_image_folder(pets).data) == 4


def test_classes_whose_names_differ_in_case_alone_are_said(pets):
    put(pets, "Cat", "0.png")
    with pytest.warns(UserWarning, match="'Cat', 'cat' differ in upper and lower case only"):
        assert load_image_folder(pets).target.tolist() == ["Cat", "cat", "cat", "dog"]


def test_classes_whose_names_are_one_in_tables_are_one(tmp_path):
    for name in ("cafe\u0301", "caf\xe9", "caf\xe9 ", "z"):
        put(tmp_path, name, "0.png")
    bunch = load_image_folder(tmp_path)
    assert bunch.target_names == ["caf\xe9", "z"]
    assert bunch.target.tolist() == ["caf\xe9", "caf\xe9", "caf\xe9", "z"]


def test_one_file_twice_in_a_class_is_said(pets):
    os.symlink("0.png", pets / "cat" / "2.png")
    with pytest.warns(UserWarning, match="twice in a class: 'cat/0.png' and 'cat/2.png'"):
        assert len(load_image_folder(pets).data) == 4


def test_links_are_followed_through_others_and_from_above(pets, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    put(elsewhere, "a", "0.png")
    os.symlink("a", elsewhere / "b")
    os.symlink(elsewhere / "b", pets / "bird")
    os.symlink("..", pets / "cat" / "up")
    os.symlink(pets, elsewhere / "pets")
    bunch = load_image_folder(elsewhere / "pets")
    assert names(bunch, elsewhere / "pets") == ["bird/0.png", "cat/0.png", "cat/1.png", "dog/0.png"]


@pytest.mark.parametrize("load", [load_image_folder, dicom_table])
def test_what_is_no_folder_is_named(pets, load):
    with pytest.raises(FileNotFoundError, match=r"0.png': it is a file.*extract archives"):
        load(pets / "cat" / "0.png")
    with pytest.raises(FileNotFoundError, match=r"'~/nowhere': it does not exist"):
        load("~/nowhere")


def test_a_path_too_long_for_the_system_is_named(pets):
    deep = os.open(pets / "cat", os.O_RDONLY)
    for _ in range(22):
        os.mkdir("d" * 200, dir_fd=deep)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = below
    os.close(deep)
    with pytest.warns(UserWarning, match=r"File name too long\) cannot be opened"):
        assert len(load_image_folder(pets).data) == 3


def test_a_single_folder_of_classes_is_named(tmp_path):
    put(tmp_path, "archive", "cat", "0.png")
    put(tmp_path, "archive", "dog", "0.png")
    with pytest.warns(UserWarning, match=r"only class, 'archive', has 2 folders.*load it instead"):
        load_image_folder(tmp_path)


def test_images_beside_the_classes_and_of_kinds_not_read_are_said(pets):
    put(pets, "9.png")
    put(pets, "cat", "old.png.bak")
    (pets / "cat" / "raw.NEF").write_bytes(b"II*\0 raw")
    (pets / "cat" / "labels.txt").write_text("text")
    with pytest.warns(UserWarning, match="load_image_folder") as caught:
        bunch = load_image_folder(pets)
    text = str(caught[0].message)
    assert "1 images next to the folders of classes are of no class" in text
    assert "1 .bak that look like images" in text
    assert "1 .nef that look like images" in text
    assert ".txt" not in text
    assert bunch.skipped[".txt"] == 1
    assert len(bunch.data) == 3


def test_files_are_known_by_content_where_their_suffix_says_nothing(pets):
    dicom = bytes(128) + b"DICM" + bytes(8)
    images = ("IM0001", "1.2.840.113619.2", "a.IMA", "b.img", "c.dcm30", "scan.001", "d.unknown")
    for name in images:
        (pets / "cat" / name).write_bytes(dicom)
    put(pets, "cat", "no_suffix")
    for name in ("e.HEIC", "f.avif", "g.png.JPG", "broken.jpg", "h.jpg."):
        (pets / "cat" / name).write_bytes(b"")  # a broken image is an image
    (pets / "cat" / "README").write_text("no image")
    (pets / "cat" / "DICOMDIR").write_bytes(dicom)
    found = {os.path.basename(name) for name in names(load_image_folder(pets), pets / "cat")}
    expected = {*images, "no_suffix", "e.HEIC", "f.avif", "g.png.JPG", "broken.jpg", "h.jpg."}
    assert found == {*expected, "0.png", "1.png"}


def test_a_clean_folder_has_nothing_to_say(pets):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bunch = load_image_folder(pets)
    assert bunch.skipped == {}
    assert bunch.DESCR == "3 images of 2 classes from a folder."


def test_a_dicom_table_goes_through_links_and_past_left_overs(tmp_path, tmp_path_factory):
    data = pytest.importorskip("pydicom.data")
    scan = data.get_testdata_file("CT_small.dcm")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for place in (tmp_path / "a", elsewhere, tmp_path / "@eaDir"):
        place.mkdir(exist_ok=True)
        shutil.copy(scan, place / "1")
    os.symlink(elsewhere, tmp_path / "b")
    os.symlink(tmp_path, elsewhere / "loop")
    os.symlink(tmp_path / "gone", tmp_path / "c")
    with pytest.warns(UserWarning, match="'c' .No such file.*lead nowhere"):
        table = dicom_table(tmp_path)
    assert table["image"].tolist() == [str(tmp_path / "a" / "1"), str(tmp_path / "b" / "1")]
    assert table.attrs["skipped"]["@eaDir"] == 1


def test_a_folder_without_labels_is_all_its_images_wherever_they_lie(tmp_path):
    for name in ("b.png", "a.png", "Doe/deeper/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "IM0001").write_bytes(bytes(128) + b"DICM")  # by content
    (tmp_path / "notes.txt").write_text("no image")
    bunch = load_image_folder(tmp_path, labels=None)
    names = ("Doe/deeper/c.png", "IM0001", "a.png", "b.png")
    assert bunch.data["image"].tolist() == [str(tmp_path / name) for name in names]
    assert bunch.target is None
    assert bunch.target_names is None
    assert bunch.skipped == {".txt": 1}
    assert bunch.DESCR == "4 images from a folder. Left out: .txt: 1."
    X, y = load_image_folder(tmp_path, labels=None, return_X_y=True)
    assert X.equals(bunch.data)
    assert y is None
    # Sub-folders that look like parts of a data set are no classes here, and no cause to warn.
    Image.new("RGB", (8, 8)).save(tmp_path / "Doe" / "d.png")
    (tmp_path / "Doe").rename(tmp_path / "test")
    assert len(load_image_folder(tmp_path, labels=None).data) == 5


def test_a_table_of_a_folder_without_labels_gives_groups(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    pd.DataFrame({"file": ["b.png", "a.png"], "patient_id": ["2", "1"]}).to_csv(
        tmp_path / "metadata.csv", index=False
    )
    assert load_image_folder(tmp_path, labels=None).groups.tolist() == ["1", "2"]


def test_a_flat_folder_is_an_error_that_names_the_way_to_read_it(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with (
        pytest.warns(UserWarning, match="of no class"),
        pytest.raises(FileNotFoundError, match=r"load_image_folder\(path, labels=None\)"),
    ):
        load_image_folder(tmp_path)
    for wrong, message in (
        ({"labels": ["a"]}, 'labels must be "inferred"'),
        ({"labels": None, "positive": "a"}, "with labels=None, none is"),
    ):
        with pytest.raises(ValueError, match=message):
            load_image_folder(tmp_path, **wrong)
    (tmp_path / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match="has no image in it"):
        load_image_folder(tmp_path, labels=None)
