"""A folder of DICOM files as a table, and the challenge's layout built of real DICOM files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pydicom = pytest.importorskip("pydicom")

from sktransfer import PretrainedFeatureExtractor  # noqa: E402
from sktransfer._images import DicomFrame, as_image_source  # noqa: E402
from sktransfer.datasets import (  # noqa: E402
    dicom_table,
    load_image_folder,
    load_image_table,
    load_rsna_pneumonia,
)
from sktransfer.datasets._dicom import years  # noqa: E402
from sktransfer.exceptions import FailedRowsWarning  # noqa: E402

SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"


@pytest.fixture
def folder(tmp_path):
    """Two slices, one without its suffix; a plan; a deep sub-folder; things that are no DICOM."""
    (tmp_path / "deep" / "er").mkdir(parents=True)
    shutil.copy(SHIPPED / "CT_small.dcm", tmp_path / "ct")
    shutil.copy(SHIPPED / "SC_rgb_rle_2frame.dcm", tmp_path / "deep" / "er" / "frames.dcm")
    shutil.copy(SHIPPED / "rtplan.dcm", tmp_path / "plan.dcm")
    (tmp_path / "notes.txt").write_text("not a scan")
    (tmp_path / "empty.dcm").write_bytes(b"")
    return tmp_path


def test_the_table_has_a_row_per_image(folder):
    table = dicom_table(folder)
    assert table["image"].tolist() == [str(folder / "ct"), str(folder / "deep/er/frames.dcm")]
    own = ["patient", "study", "series", "view", "age", "sex", "height", "width"]
    assert list(table.columns) == ["image", *own]
    ct = pydicom.dcmread(folder / "ct")
    row = table.iloc[0]
    assert row["patient"] == ct.PatientID
    assert row["study"] == ct.StudyInstanceUID
    assert row["series"] == ct.SeriesInstanceUID
    assert (row["sex"], row["age"], row["view"]) == ("O", 0.0, None)
    assert (row["height"], row["width"]) == (128, 128)


def test_the_table_holds_nothing_that_was_not_asked_for(folder):
    """Nobody's name, no date, unless its keyword is given."""
    table = dicom_table(folder, columns=["width", "Modality", "ImageType", "PatientName"])
    assert list(table.columns) == ["image", "width", "Modality", "ImageType", "PatientName"]
    ct = table.iloc[0]
    assert ct["Modality"] == "CT"
    assert ct["ImageType"] == "ORIGINAL\\PRIMARY\\AXIAL"
    assert ct["PatientName"] == "CompressedSamples^CT1"
    assert "CompressedSamples" not in dicom_table(folder).to_csv()


def test_frames_become_rows_that_images_are_read_from(folder):
    table = dicom_table(folder, columns=["patient"], frames="all")
    assert table["frame"].tolist() == [0, 0, 1]
    assert table["image"].iloc[2] == DicomFrame(str(folder / "deep/er/frames.dcm"), 1)
    stored = pydicom.dcmread(folder / "deep/er/frames.dcm").pixel_array
    source = as_image_source(table[["image"]])
    for row, frame in ((1, 0), (2, 1)):
        assert np.array_equal(np.asarray(source.open(row).decode()), stored[frame])
    feat = PretrainedFeatureExtractor("squeezenet1_1", weights=None, image_size=32)
    E = feat.fit_transform(table[["image"]])
    assert E.shape == (3, 512)
    assert not np.allclose(E[1], E[2])
    labeled = load_image_table(table.assign(dx=["a", "b", "b"]), target="dx")
    assert labeled.data["image"].tolist() == table["image"].tolist()


@pytest.mark.parametrize(
    ("written", "read"), [(" 101 ", "101"), ("0101", "0101"), ("None", "None"), ("  ", None)]
)
def test_patients_are_text_as_in_other_tables(tmp_path, written, read):
    data = pydicom.dcmread(SHIPPED / "CT_small.dcm")
    data.PatientID = written
    data.save_as(tmp_path / "ct.dcm")
    assert dicom_table(tmp_path, columns=["patient"])["patient"].tolist() == [read]
    assert dicom_table(tmp_path, columns=["PatientID"])["PatientID"].tolist() == [read]


def test_unreadable_files_are_left_out_with_a_warning(folder):
    data = (folder / "ct").read_bytes()
    (folder / "bad.dcm").write_bytes(data[:140] + b"\xff" * 60)
    with pytest.warns(FailedRowsWarning, match=r"1 of 4 DICOM files.*bad\.dcm"):
        assert len(dicom_table(folder)) == 2


def test_frames_by_the_billion_are_no_rows(folder):
    """A number of frames that the file cannot hold, or that is none."""
    ds = pydicom.dcmread(folder / "ct")
    for name, n in (("many", 2**31 - 1), ("none", 0), ("odd", None)):
        ds.NumberOfFrames = n
        ds.save_as(folder / name)
    assert len(dicom_table(folder)) == 5
    with pytest.warns(FailedRowsWarning, match=r"1 of .*many: .*NumberOfFrames .*cannot hold"):
        table = dicom_table(folder, columns=["NumberOfFrames"], frames="all")
    assert len(table) == 5
    none = table["image"].map(lambda row: row.path.endswith("none"))
    assert table.loc[none, "NumberOfFrames"].tolist() == [0]


def test_elements_of_another_type_are_values_all_the_same(folder):
    ds = pydicom.dcmread(folder / "ct")
    for keyword, kind, value in (
        ("PatientID", "US", 101),
        ("PatientAge", "LO", " 58y "),
        ("PatientSex", "CS", ""),
        ("Rows", "DS", "128"),
        ("Columns", "LO", "wide"),
    ):
        del ds[keyword]
        tag = pydicom.tag.Tag(pydicom.datadict.tag_for_keyword(keyword))
        ds._dict[tag] = pydicom.dataelem.DataElement(tag, kind, value, validation_mode=0)
    ds.save_as(folder / "ct")
    row = dicom_table(folder).iloc[0]
    assert (row["patient"], row["age"], row["height"]) == ("101", 58.0, 128)
    assert row[["sex", "width"]].isna().all()


def test_bad_folders_and_parameters_are_refused(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        dicom_table(tmp_path / "nowhere")
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match="no DICOM file with an image"):
        dicom_table(tmp_path / "none")
    with pytest.raises(ValueError, match="'every'"):
        dicom_table(folder, frames="every")
    with pytest.raises(TypeError, match=r"\['sex'\]"):
        dicom_table(folder, columns="sex")


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        ("045Y", 45),
        ("018M", 1.5),
        ("010D", 10 / 365.25),
        ("002W", 14 / 365.25),
        ("61", 61),
        (58, 58),
    ],
)
def test_ages_are_in_years(age, expected):
    assert years(age) == pytest.approx(expected)


@pytest.mark.parametrize("age", [None, "", "old", "45 years", "Y"])
def test_malformed_ages_are_nan(age):
    assert np.isnan(years(age))


def test_a_dicom_table_is_a_table_for_the_loader(folder):
    table = dicom_table(folder).assign(label=["a", "b"])
    bunch = load_image_table(table, target="label", columns=["sex", "age"])
    assert bunch.data["image"].tolist() == table["image"].tolist()
    assert bunch.groups.tolist() == table["patient"].tolist()
    (folder / "classes" / "ct").mkdir(parents=True)
    shutil.copy(folder / "ct", folder / "classes" / "ct" / "1.dcm")
    assert len(load_image_folder(folder / "classes").data) == 1


# --- the challenge --------------------------------------------------------------------------------

BOXES = {"e1": 0, "e2": 1, "e3": 3, "e4": 0, "e5": 2}
CLASSES = {
    "e1": "Normal",
    "e2": "Lung Opacity",
    "e3": "Lung Opacity",
    "e4": "No Lung Opacity / Not Normal",
    "e5": "Lung Opacity",
}


def write_rsna(folder, scans, mapping=True):
    """The files of the challenge's second stage, of five examinations of four patients."""
    labels, classes = [], []
    for name in ("e3", "e1", "e2", "e5", "e4"):  # in no order
        for i in range(max(1, BOXES[name])):
            box = [10.0 * i, 20.0, 30.0, 40.0] if BOXES[name] else [None] * 4
            labels.append([name, *box, int(BOXES[name] > 0)])
            classes.append([name, CLASSES[name]])
    columns = ["patientId", "x", "y", "width", "height", "Target"]
    pd.DataFrame(labels, columns=columns).to_csv(folder / "stage_2_train_labels.csv", index=False)
    pd.DataFrame(classes, columns=["patientId", "class"]).to_csv(
        folder / "stage_2_detailed_class_info.csv", index=False
    )
    (folder / "stage_2_train_images").mkdir()
    for i, name in enumerate(BOXES):
        shutil.copy(scans[i % len(scans)], folder / "stage_2_train_images" / f"{name}.dcm")
    if mapping:
        patients = ["00000001", "00000002", "00000002", "00000003", "00000004"]
        entries = [
            {"subset_img_id": name, "img_id": f"{patient}_{i:03d}.png", "orig_labels": []}
            for i, (name, patient) in enumerate(zip(BOXES, patients, strict=True))
        ]
        (folder / "pneumonia-challenge-dataset-mappings_2018.json").write_text(json.dumps(entries))


@pytest.fixture
def rsna(tmp_path):
    write_rsna(tmp_path, [SHIPPED / "CT_small.dcm", SHIPPED / "MR_small.dcm"])
    return tmp_path


def test_rows_of_boxes_become_images(rsna):
    bunch = load_rsna_pneumonia(rsna)
    assert list(bunch.data.columns) == ["image"]
    assert [Path(path).stem for path in bunch.data["image"]] == ["e1", "e2", "e3", "e4", "e5"]
    assert bunch.target.tolist() == [0, 1, 1, 0, 1]
    assert bunch.frame["n_boxes"].tolist() == [0, 1, 3, 0, 2]
    assert bunch.frame["class"].tolist() == list(CLASSES.values())
    assert len(bunch.boxes) == 6
    assert bunch.boxes.query("patientId == 'e3'")["x"].tolist() == [0, 10, 20]
    assert bunch.groups.tolist() == ["00000001", "00000002", "00000002", "00000003", "00000004"]
    assert "5 chest radiographs of the RSNA challenge, 3 with pneumonia, of 4" in bunch.DESCR
    X, y = load_rsna_pneumonia(rsna, return_X_y=True)
    assert X.equals(bunch.data)
    assert y.tolist() == bunch.target.tolist()


def test_columns_of_headers_are_kept(rsna):
    data = load_rsna_pneumonia(rsna, columns=["sex", "Modality"], n_jobs=2).data
    assert data["Modality"].tolist() == ["CT", "MR", "CT", "MR", "CT"]
    assert data["sex"].tolist() == ["O", "F", "O", "F", "O"]


def test_without_the_mapping_nobody_is_told_apart(tmp_path):
    write_rsna(tmp_path, [SHIPPED / "CT_small.dcm"], mapping=False)
    bunch = load_rsna_pneumonia(tmp_path)
    assert bunch.groups is None
    assert "not in the folder" in bunch.DESCR


def test_contradictions_are_errors(rsna):
    labels = pd.read_csv(rsna / "stage_2_train_labels.csv")

    def write(changed):
        changed.to_csv(rsna / "stage_2_train_labels.csv", index=False)

    write(pd.concat([labels, labels[labels.patientId == "e2"].assign(Target=0)]))
    with pytest.raises(ValueError, match="e2 both positive and negative"):
        load_rsna_pneumonia(rsna)
    write(labels.assign(x=labels.x.where(labels.patientId != "e2")))
    with pytest.raises(ValueError, match="e2 is positive without a box"):
        load_rsna_pneumonia(rsna)
    write(labels.drop(columns="Target"))
    with pytest.raises(ValueError, match="no column 'Target'"):
        load_rsna_pneumonia(rsna)
    for name in ("patientId", "Target"):  # rows without a name would be left out
        write(labels.assign(**{name: labels[name].where(labels.index != 1)}))
        with pytest.raises(ValueError, match=f"1 rows have no {name} in .*; the first is row 1"):
            load_rsna_pneumonia(rsna)
    write(labels)
    (rsna / "stage_2_train_images" / "e4.dcm").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 5 images.*e4\.dcm"):
        load_rsna_pneumonia(rsna)
    (rsna / "stage_2_detailed_class_info.csv").unlink()
    with pytest.raises(FileNotFoundError, match="detailed_class_info"):
        load_rsna_pneumonia(rsna)


def test_a_mapping_or_classes_with_missing_rows_are_errors(rsna):
    path = rsna / "pneumonia-challenge-dataset-mappings_2018.json"
    entries = json.loads(path.read_text())
    path.write_text(json.dumps(entries[1:]))
    with pytest.raises(ValueError, match="does not know e1"):
        load_rsna_pneumonia(rsna)
    classes = pd.read_csv(rsna / "stage_2_detailed_class_info.csv")
    classes.iloc[:3].to_csv(rsna / "stage_2_detailed_class_info.csv", index=False)
    with pytest.raises(ValueError, match="no row for"):
        load_rsna_pneumonia(rsna)


def test_real_radiographs_are_loaded_and_embedded(tmp_path, shared_data):
    scans = [shared_data / "dicom" / f"nih_chest_test{i}.dcm" for i in (1, 2, 3)]
    write_rsna(tmp_path, scans)
    bunch = load_rsna_pneumonia(tmp_path, columns=["age", "sex", "view"])
    for i, scan in enumerate([*scans, *scans[:2]]):
        own = pydicom.dcmread(scan)
        assert bunch.data["sex"].iloc[i] == (own.get("PatientSex") or None)
        assert bunch.data["age"].iloc[i] == pytest.approx(years(own.get("PatientAge")), nan_ok=True)
    feat = PretrainedFeatureExtractor("squeezenet1_1", weights=None, image_size=48)
    E = feat.fit_transform(bunch.data[["image"]])
    assert np.array_equal(E[0], E[3])
    assert not np.allclose(E[0], E[1])
