"""check_leakage and GroupedValidSplit: what must not be on both sides of a split."""

from __future__ import annotations

import shutil
import warnings

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.datasets import load_digits

from sktransfer import FineTuneClassifier
from sktransfer.exceptions import LeakageWarning
from sktransfer.model_selection import (
    GroupedValidSplit,
    check_leakage,
    grouped_train_test_split,
)


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    paths = []
    for i in range(8):
        path = tmp_path / f"{i}.png"
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(path)
        paths.append(str(path))
    return paths


def test_a_copy_under_another_name_is_found(files, tmp_path):
    copy = tmp_path / "renamed.dat"
    shutil.copy(files[2], copy)
    train, test = files[:5], [files[5], str(copy), files[6], str(copy)]
    with pytest.warns(LeakageWarning, match="2 of 4 test rows are of an image that is in training"):
        found = check_leakage(train, test)
    assert found.to_dict("list") == {
        "test_row": [1, 3],
        "train_row": [2, 2],
        "what": ["image", "image"],
    }
    with pytest.raises(ValueError, match="2 of 4 test rows"):
        check_leakage(train, test, on_leak="raise")
    table = pd.DataFrame({"file": train}), pd.DataFrame({"file": test})
    assert check_leakage(*table, on_leak="ignore").equals(found)


def test_clean_splits_are_quiet(files):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = check_leakage(
            files[:4], files[4:], groups_train=[1, 1, 2, 3], groups_test=[4, 5, 6, 6]
        )
    assert found.empty
    assert list(found.columns) == ["test_row", "train_row", "what"]


def test_patients_are_found():
    rng = np.random.default_rng(0)
    X = rng.integers(0, 256, (10, 8, 8), dtype=np.uint8)
    patients = np.array(list("abcdeebcfg"))
    with pytest.warns(LeakageWarning, match="3 of 5 test rows are of a group"):
        found = check_leakage(X[:5], X[5:], groups_train=patients[:5], groups_test=patients[5:])
    assert found.to_numpy().tolist() == [[0, 4, "group"], [1, 1, "group"], [2, 2, "group"]]
    parts = grouped_train_test_split(X, patients, groups=patients, stratify=np.arange(10) % 2)
    clean = check_leakage(parts[0], parts[1], groups_train=parts[2], groups_test=parts[3])
    assert clean.empty


def test_both_at_once_and_raveled_rows():
    X = np.random.default_rng(0).random((6, 16))
    with pytest.warns(LeakageWarning, match=r"image that is in training; 1 of 3"):
        found = check_leakage(X[:3], X[[2, 4, 5]], groups_train=[1, 2, 3], groups_test=[9, 2, 8])
    assert found.to_numpy().tolist() == [[0, 2, "image"], [1, 1, "group"]]


def test_rows_that_cannot_be_read_are_counted(files, tmp_path):
    with pytest.warns(LeakageWarning, match="1 rows cannot be read"):
        check_leakage(files[:4], [*files[5:], str(tmp_path / "missing.png")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groups_train": [1, 2, 3]}, "groups_train and groups_test together"),
        ({"groups_train": [1, 2], "groups_test": [1, 2, 3]}, "2 entries for 3 images"),
        ({"on_leak": "stop"}, "on_leak must be"),
    ],
)
def test_bad_values(arguments, message):
    X = np.zeros((3, 8, 8), dtype=np.uint8)
    with pytest.raises(ValueError, match=message):
        check_leakage(X, X, **arguments)


def test_chest_x_rays_of_the_shared_data_have_no_copies(shared_data):
    folder = shared_data / "chest_xray_pneumonia"
    table = pd.read_csv(folder / "metadata.csv")
    files = np.array([str(folder / name) for name in table["file"]], dtype=object)
    y = (table["label"] == "pneumonia").to_numpy(int)
    train, test = grouped_train_test_split(
        np.arange(1000), groups=table["patient_id"], stratify=y, random_state=0
    )
    patients = table["patient_id"].to_numpy()
    found = check_leakage(
        files[train], files[test], groups_train=patients[train], groups_test=patients[test]
    )
    assert found.empty
    with pytest.warns(LeakageWarning, match="test rows are of a group"):
        check_leakage(
            files[::2], files[1::2], groups_train=patients[::2], groups_test=patients[1::2]
        )


@pytest.mark.parametrize("fraction", [0.2, 0.4])
def test_valid_split_is_stratified_and_grouped(fraction):
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(60), rng.integers(1, 5, 60))
    y = np.random.default_rng(1).integers(0, 2, 60)[patients]
    split = GroupedValidSplit(fraction, random_state=0)
    train, valid = split(list(range(len(y))), y, groups=patients)
    assert not set(patients[train.indices]) & set(patients[valid.indices])
    assert sorted([*train.indices, *valid.indices]) == list(range(len(y)))
    assert abs(len(valid) / len(y) - fraction) < 0.05
    assert abs(y[valid.indices].mean() - y.mean()) < 0.1
    again = clone(split)(list(range(len(y))), y, groups=patients)
    assert again[1].indices == valid.indices
    alone, _ = split(list(range(len(y))), y)
    assert abs(y[alone.indices].mean() - y.mean()) < 0.02


def test_valid_split_says_what_it_needs():
    with pytest.raises(ValueError, match="pass y to fit"):
        GroupedValidSplit()([1, 2, 3])
    with pytest.raises(ValueError, match="2 entries for 3 rows"):
        GroupedValidSplit()([1, 2, 3], [0, 1])


def test_valid_split_in_fine_tuning_and_in_a_skorch_net():
    import torch
    from skorch import NeuralNetClassifier

    X, y = load_digits(return_X_y=True)
    X, y = X[:120], (y[:120] == 8).astype(np.int64)
    patients = np.repeat(np.arange(40), 3)
    clf = FineTuneClassifier(
        "squeezenet1_1",
        weights=None,
        image_size=32,
        value_range=(0, 16),
        max_epochs=1,
        validation_fraction=GroupedValidSplit(0.25, random_state=0),
        random_state=0,
    ).fit(X, y, groups=patients)
    assert not set(patients[clf.valid_indices_]) & set(patients[clf.train_indices_])

    class Linear(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(64, 2)

        def forward(self, X, groups=None):
            return self.layer(X)

    net = NeuralNetClassifier(
        Linear,
        criterion=torch.nn.CrossEntropyLoss,
        max_epochs=1,
        verbose=0,
        train_split=GroupedValidSplit(0.25, random_state=0),
    )
    net.fit(X.astype(np.float32), y, groups=patients)
    assert "valid_loss" in net.history[-1]
