"""Tables with several findings a row, and the published sets that have them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sktransfer.datasets import check_images, load_chexpert, load_image_table, load_nih_chestxray14

NIH = """Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,\
View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],
00000001_000.png,Cardiomegaly,0,1,058Y,M,PA,2682,2749,0.143,0.143,
00000001_001.png,Cardiomegaly|Emphysema,1,1,058Y,M,PA,2894,2729,0.143,0.143,
00000002_000.png,No Finding,0,2,081Y,M,PA,2500,2048,0.171,0.171,
00000003_000.png,Hernia,0,3,414Y,F,PA,2582,2991,0.143,0.143,
"""
CHEXPERT = [
    *("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", "No Finding"),
    *("Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema"),
    *("Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion"),
    *("Pleural Other", "Fracture", "Support Devices"),
]


@pytest.fixture
def images(tmp_path):
    for name in "abc":
        Image.new("L", (4, 4)).save(tmp_path / f"{name}.png")
    return tmp_path


def _table(**columns):
    return pd.DataFrame({"file": ["a.png", "b.png", "c.png"], **columns})


def test_words_in_one_cell_are_columns_and_no_finding_is_none_of_them(images):
    table = _table(findings=["Effusion|Mass", "No Finding", " Mass "])
    bunch = load_image_table(table, target="findings", separator="|", root=images)
    assert bunch.target.dtypes.tolist() == [np.int64, np.int64]
    assert bunch.target.to_dict("list") == {"Effusion": [1, 0, 0], "Mass": [1, 0, 1]}
    assert bunch.target_names == ["Effusion", "Mass"]


def test_an_empty_cell_is_unknown_and_other_words_stand_for_none(images):
    table = _table(findings=["Effusion;Mass", None, "normal"])
    bunch = load_image_table(
        table, target="findings", separator=";", none_label="Normal", root=images
    )
    expected = [[1, 1], [np.nan, np.nan], [0, 0]]
    assert np.array_equal(bunch.target.to_numpy(), expected, equal_nan=True)


def test_no_finding_together_with_a_finding_is_an_error(images):
    table = _table(findings=["Mass|No Finding", "Mass", "Mass"])
    with pytest.raises(ValueError, match="Row 0"):
        load_image_table(table, target="findings", separator="|", root=images)


def test_lists_in_cells_are_labels(images):
    table = _table(findings=[["Mass"], [], ["Edema", "Mass"]])
    bunch = load_image_table(table, target="findings", root=images)
    assert bunch.target.to_dict("list") == {"Edema": [0, 0, 1], "Mass": [1, 0, 1]}


@pytest.mark.parametrize(
    ("uncertain", "value"), [("unknown", np.nan), ("positive", 1), ("negative", 0)]
)
def test_uncertain_is_what_the_policy_says(images, uncertain, value):
    table = _table(Edema=[1, -1, 0], Mass=[0, None, 1])
    table.to_csv(images / "t.csv", index=False)
    bunch = load_image_table(images / "t.csv", target=["Edema", "Mass"], uncertain=uncertain)
    expected = [[1, 0], [value, np.nan], [0, 1]]
    assert np.array_equal(bunch.target.to_numpy(), expected, equal_nan=True)
    X, y = load_image_table(
        images / "t.csv",
        target=["Edema", "Mass"],
        uncertain={"Edema": uncertain},
        return_X_y=True,
    )
    assert np.array_equal(y, expected, equal_nan=True)
    assert len(X) == 3


@pytest.mark.parametrize("uncertain", [None, {"Mass": "unknown"}])
def test_uncertain_without_a_policy_is_an_error_that_has_the_choices(images, uncertain):
    table = _table(Edema=[1, -1, 0], Mass=[0, None, 1])
    with pytest.raises(ValueError, match=r"1 rows have -1 .* 'Edema'.*unknown.*positive"):
        load_image_table(table, target=["Edema", "Mass"], uncertain=uncertain, root=images)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": ["Edema", "Absent"]}, "no column 'Absent'"),
        ({"target": ["Edema", "file"]}, "1 .present."),
        ({"target": ["Edema"], "uncertain": "no"}, "uncertain='no'"),
        ({"target": ["Edema"], "positive": 1}, "a label a row"),
    ],
)
def test_what_is_no_table_of_findings_is_an_error(images, settings, message):
    with pytest.raises(ValueError, match=message):
        load_image_table(_table(Edema=[1, 0, 0]), root=images, **settings)


def test_one_image_with_two_sets_of_findings_is_warned_of(images):
    table = _table(findings=["Mass", "Edema", "Mass"])
    table["file"] = ["a.png", "a.png", "c.png"]
    with pytest.warns(UserWarning, match="different labels"):
        load_image_table(table, target="findings", separator="|", root=images)


@pytest.fixture
def nih(tmp_path):
    (tmp_path / "Data_Entry_2017.csv").write_text(NIH)
    (tmp_path / "images_001" / "images").mkdir(parents=True)
    for name in ("00000001_000", "00000001_001", "00000002_000", "00000003_000"):
        Image.new("L", (4, 4)).save(tmp_path / "images_001" / "images" / f"{name}.png")
    (tmp_path / "train_val_list.txt").write_text("00000001_000.png\n00000001_001.png\n")
    (tmp_path / "test_list.txt").write_text("00000002_000.png\n00000003_000.png")
    return tmp_path


def test_the_nih_table_is_read_as_published(nih):
    bunch = load_nih_chestxray14(
        nih, uncertain="unknown", columns=["age", "sex", "view", "follow_up"]
    )
    assert bunch.target.shape == (4, 14)
    assert bunch.target_names[:3] == ["Atelectasis", "Cardiomegaly", "Effusion"]
    assert bunch.target.sum().loc[lambda n: n > 0].to_dict() == {
        "Cardiomegaly": 2,
        "Emphysema": 1,
        "Hernia": 1,
    }
    assert bunch.groups.tolist() == ["00000001", "00000001", "00000002", "00000003"]
    assert bunch.data["age"].tolist() == [58, 58, 81, 414]
    assert bunch.data["image"].str.endswith(".png").all()
    assert bunch.frame["subset"].tolist() == ["train", "train", "test", "test"]


def test_the_nih_table_too_needs_a_policy_for_uncertain_findings(nih):
    with pytest.raises(ValueError, match=r"uncertain.*for you to say"):
        load_nih_chestxray14(nih)
    with pytest.raises(ValueError, match="uncertain='maybe'"):
        load_nih_chestxray14(nih, uncertain="maybe")
    targets = [
        load_nih_chestxray14(nih, uncertain=uncertain).target
        for uncertain in ("unknown", "positive", "negative", {"Edema": "positive"})
    ]
    for target in targets[1:]:  # none is uncertain
        pd.testing.assert_frame_equal(target, targets[0])


def test_the_official_split_of_the_nih_is_a_subset(nih):
    train, test = (
        load_nih_chestxray14(nih, subset=subset, uncertain="unknown")
        for subset in ("train", "test")
    )
    assert train.target["Cardiomegaly"].tolist() == [1, 1]
    assert test.target.shape == (2, 14)
    assert not set(train.groups) & set(test.groups)
    (nih / "test_list.txt").unlink()
    with pytest.raises(FileNotFoundError, match="test_list"):
        load_nih_chestxray14(nih, subset="test", uncertain="unknown")


def test_images_of_the_nih_that_are_missing_are_an_error_or_left_out(nih):
    next(nih.rglob("00000002_000.png")).unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 4 .*00000002_000.png.*on_missing='drop'"):
        load_nih_chestxray14(nih, uncertain="unknown")
    bunch = load_nih_chestxray14(nih, on_missing="drop", uncertain="unknown")
    assert len(bunch.data) == len(bunch.target) == len(bunch.groups) == 3


def test_an_unknown_finding_of_the_nih_is_an_error(nih):
    (nih / "Data_Entry_2017.csv").write_text(NIH.replace("Hernia", "Hernja"))
    with pytest.raises(ValueError, match="Hernja"):
        load_nih_chestxray14(nih, uncertain="unknown")


@pytest.fixture
def chexpert(tmp_path):
    rows = []
    for patient, cells in (
        ("patient00001", {"No Finding": 1, "Support Devices": None}),
        ("patient00002", {"Edema": -1, "Fracture": 1, "Lung Lesion": 0}),
        ("patient00002", {"Edema": 1, "Cardiomegaly": -1}),
    ):
        name = f"train/{patient}/study{len(rows)}/view1_frontal.jpg"
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new("L", (4, 4)).save(tmp_path / name)
        rows.append({"Path": f"CheXpert-v1.0-small/{name}", "Sex": "Male", "Age": 68, **cells})
    pd.DataFrame(rows, columns=CHEXPERT).to_csv(tmp_path / "train.csv", index=False)
    return tmp_path


def test_chexpert_needs_a_policy_for_uncertain_findings(chexpert):
    with pytest.raises(ValueError, match=r"-1.*for you to say"):
        load_chexpert(chexpert)
    unknown = load_chexpert(chexpert, uncertain="unknown", columns=["age"])
    assert unknown.target.shape == (3, 13)
    assert np.array_equal(unknown.target["Edema"], [0, np.nan, 1], equal_nan=True)
    assert int(unknown.target.isna().sum().sum()) == 2
    assert unknown.groups.tolist() == ["patient00001", "patient00002", "patient00002"]
    positive = load_chexpert(chexpert, uncertain="positive").target
    assert positive["Edema"].tolist() == [0, 1, 1]
    each = load_chexpert(chexpert, uncertain={"Edema": "positive", "Cardiomegaly": "negative"})
    assert each.target[["Edema", "Cardiomegaly"]].to_numpy().tolist() == [[0, 0], [1, 0], [1, 0]]


def test_blank_cells_of_chexpert_are_unknown_if_asked_for_unless_there_is_no_finding(chexpert):
    target = load_chexpert(chexpert, uncertain="unknown", blank="unknown").target
    assert (target.iloc[0].drop("Support Devices") == 0).all()
    assert np.isnan(target.loc[0, "Support Devices"])
    assert target.loc[1].dropna().to_dict() == {"Fracture": 1, "Lung Lesion": 0}


def test_copies_with_other_findings_are_found_and_patients_may_have_several():
    X = np.random.default_rng(0).integers(0, 255, (8, 8, 8), dtype=np.uint8)
    X[1] = X[0]
    y = pd.DataFrame({"Edema": [1, 0] * 4, "Mass": [np.nan, 0, 1, 1, 0, 0, 1, 0]})
    found = check_images(X, y, groups=[0, 0, 0, 0, 1, 1, 1, 1])
    assert found["finding"].tolist() == ["conflicting duplicate"]
    assert "labels  and Edema, Mass?" in found["detail"].iloc[0]
