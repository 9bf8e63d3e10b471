"""Pickles and files: small, without code or names of images, and giving the same predictions."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import joblib
import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from sktransfer import FineTuneClassifier
from sktransfer._frozen import REGISTRY
from sktransfer.preprocessing import ImageAugmentation

CASES = {
    "probe": {"freeze_depth": "all"},
    "last stage": {"freeze_depth": -1},
    "everything": {"freeze_depth": 0},
    "one stage": {"freeze_depth": ["layer1"]},
    "hidden head": {"head": (8,), "head__dropout": 0.1, "augmentation": "light"},
    "weights along": {"freeze_depth": ["layer1"], "store_weights": True},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_round_trip_predicts_the_same(small, task, tmp_path, case):
    X, y = task
    y = np.array(["no", "yes"])[y]
    clf = small(max_epochs=1, **case).fit(X, y)
    P = clf.predict_proba(X)
    joblib.dump(clf, tmp_path / "clf.joblib")
    clf.save(tmp_path / "clf.safetensors")
    copies = {
        "pickle": pickle.loads(pickle.dumps(clf)),
        "twice": pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(clf)))),
        "deepcopy": copy.deepcopy(clf),
        "joblib": joblib.load(tmp_path / "clf.joblib"),
        "file": FineTuneClassifier.load(tmp_path / "clf.safetensors"),
    }
    REGISTRY.clear()
    for name, again in copies.items():
        np.testing.assert_array_equal(again.predict_proba(X), P, err_msg=name)
        assert again.classes_.tolist() == ["no", "yes"]
        assert len(again.history_) == len(clf.history_)
        assert again.get_params().keys() == clf.get_params().keys()
    assert np.array_equal(clf.predict_proba(X), P)  # saving moved nothing


def test_training_continues_after_a_round_trip(small, task):
    clf = small(max_epochs=1).fit(*task)
    again = pickle.loads(pickle.dumps(clf))
    again.partial_fit(*task)
    assert len(again.history_) == 2
    assert not np.array_equal(again.predict_proba(task[0]), clf.predict_proba(task[0]))


def test_a_pickle_holds_what_was_learned_and_no_more(small, task):
    probe = pickle.dumps(small(freeze_depth="all").fit(*task))
    assert len(probe) < 60_000  # ResNet-18 is 45 MB
    clf = small(freeze_depth=-1, max_epochs=1, optimizer="adam").fit(*task)
    learned = sum(t.numel() * t.element_size() for t in clf.module_.learned().values())
    assert len(pickle.dumps(clf)) < 1.01 * learned + 60_000  # neither moments nor the prefix


def test_no_image_is_named(small, task, tmp_path):
    folder = tmp_path / "Jane Doe"
    folder.mkdir()
    for i, image in enumerate(task[0]):
        Image.fromarray(image).save(folder / f"Jane {i:02d}.png")
    files = [str(folder / f"Jane {i:02d}.png") for i in range(40)]
    Path(files[0]).write_bytes(b"broken")
    clf = small(freeze_depth="all", on_error="nan")
    with pytest.warns(UserWarning, match="left out"):
        clf.fit(files, task[1])
    assert clf.failed_rows_["source"].tolist() == ["Jane 00.png"]
    clf.save(tmp_path / "clf.safetensors")
    for data in (pickle.dumps(clf), (tmp_path / "clf.safetensors").read_bytes()):
        assert b"Jane" not in data
    assert "Jane" not in repr(clf)


def test_code_cannot_be_saved_and_is_named(small, task, tmp_path):
    clf = small(freeze_depth="all", head=torch.nn.Linear, head__init="random", max_epochs=1)
    with pytest.raises(ValueError, match=r"head=.*is code"):
        clf.fit(*task).save(tmp_path / "clf.safetensors")
    assert list(tmp_path.glob("*.safetensors*")) == []


def test_an_augmentation_is_saved_by_its_parameters(small, task, tmp_path):
    own = ImageAugmentation(rotation_range=7, brightness_range=(0.9, 1.1))
    small(augmentation=own, max_epochs=1).fit(*task).save(tmp_path / "clf.safetensors")
    again = FineTuneClassifier.load(tmp_path / "clf.safetensors", device="cpu")
    assert again.augmentation.get_params() == own.get_params()


def test_other_files_are_refused(small, task, tmp_path):
    path = tmp_path / "clf.safetensors"
    small(freeze_depth="all").fit(*task).save(path)
    tensors = safetensors.torch.load_file(path)
    with safetensors.safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["sktransfer"])
    for changed in (
        {**header, "schema": 99},
        {**header, "surprise": 1},
        {**header, "params": {**header["params"], "unheard_of": 1}},
        {**header, "estimator": "Other"},
    ):
        safetensors.torch.save_file(tensors, path, {"sktransfer": json.dumps(changed)})
        with pytest.raises(ValueError, match=r"clf\.safetensors"):
            FineTuneClassifier.load(path)
    safetensors.torch.save_file(tensors, path)
    with pytest.raises(ValueError, match="holds no saved"):
        FineTuneClassifier.load(path)
    path.write_bytes(b"garbage")
    with pytest.raises(ValueError, match="not a file that save wrote"):
        FineTuneClassifier.load(path)


def test_another_network_is_refused(small, task):
    clf = small(freeze_depth=-1, max_epochs=1).fit(*task)
    again = pickle.loads(pickle.dumps(clf))
    again.reference_ = type(again.reference_)(
        **{**vars(again.reference_), "digest": "blake2b:" + "0" * 32}
    )
    with pytest.raises(ValueError, match="digest"):
        again.predict_proba(np.zeros((1, 24, 24, 3), np.uint8))


def test_skorchs_files_can_be_loaded(small, task, tmp_path):
    clf = small(max_epochs=1).fit(*task)
    clf.save_params(f_params=tmp_path / "params.pt", f_history=tmp_path / "history.json")
    other = small(max_epochs=0).fit(*task)
    other.load_params(f_params=tmp_path / "params.pt")
    np.testing.assert_allclose(other.predict_proba(task[0]), clf.predict_proba(task[0]), atol=1e-6)
