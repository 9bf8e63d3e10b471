"""Saved models that were damaged or edited are refused before anything is computed with them."""

from __future__ import annotations

import copy
import json
import pickle
import struct

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch

from sktransfer import FineTuneClassifier, PretrainedFeatureExtractor
from sktransfer._finetune._targets import Target
from sktransfer._persistence import seal, unseal
from sktransfer.exceptions import ImageDecodeError, WeightsMismatchError

NET = {"backbone": "squeezenet1_1", "freeze_depth": "all"}


@pytest.fixture(scope="module")
def fitted(task):
    settings = {"weights": None, "image_size": 32, "random_state": 0, "engine": "torch"}
    return FineTuneClassifier(**NET, **settings).fit(task[0], np.array(["no", "yes"])[task[1]])


@pytest.fixture
def path(fitted, tmp_path):
    fitted.save(tmp_path / "clf.safetensors")
    return tmp_path / "clf.safetensors"


def test_every_flipped_bit_is_detected(path):
    whole = path.read_bytes()
    start = 8 + struct.unpack("<Q", whole[:8])[0]
    rng = np.random.default_rng(0)
    # In the header's length, the header and the tensors.
    places = [*range(8), *rng.integers(8, start, 150), *rng.integers(start, len(whole), 150)]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(WeightsMismatchError, match=r"clf\.safetensors"):
            FineTuneClassifier.load(path)


def test_a_truncated_file_and_one_with_an_endless_header_are_refused(path):
    whole = path.read_bytes()
    for data in (b"", whole[:7], whole[:200], whole[: len(whole) // 2], whole[:-1], whole + b"0"):
        path.write_bytes(data)
        with pytest.raises(WeightsMismatchError, match="not a file that save wrote"):
            FineTuneClassifier.load(path)
    for length in (2**63, 2**40, len(whole)):
        path.write_bytes(struct.pack("<Q", length) + whole[8:])
        with pytest.raises(WeightsMismatchError, match="not a file that save wrote"):
            FineTuneClassifier.load(path)


def rewritten(path, change):
    """Write the file again as an editor of JSON would, with the digest that it had."""
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    metadata["sktransfer"] = change(metadata["sktransfer"])
    safetensors.torch.save_file(safetensors.torch.load_file(path), path, metadata)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('["no", "yes"]', '["yes", "no"]'),
        lambda text: text.replace('"image_size": 32', '"image_size": 64'),
        lambda text: text.replace('"seed": 0', '"seed": 1'),
        lambda text: text.replace('"train_acc": ', '"train_acc": 1'),
        lambda text: text.replace("{", '{"seed": 0, ', 1),  # a key that is there twice
        lambda text: text.replace('"seed": 0', '"seed": NaN'),
        lambda text: text + " ",
    ],
)
def test_an_edited_header_is_refused(path, change):
    rewritten(path, lambda text: text)
    FineTuneClassifier.load(path)
    rewritten(path, change)
    with pytest.raises(WeightsMismatchError, match="damaged or edited"):
        FineTuneClassifier.load(path)


def test_the_weights_of_one_model_do_not_go_with_the_header_of_another(small, task, path, tmp_path):
    other = tmp_path / "other.safetensors"
    small(**NET, head__C=1.0).fit(*task).save(other)
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    safetensors.torch.save_file(safetensors.torch.load_file(other), path, metadata)
    with pytest.raises(WeightsMismatchError, match="damaged or edited"):
        FineTuneClassifier.load(path)


def test_a_file_of_the_older_format_is_refused_with_what_to_do(path):
    header, tensors = unseal(path.read_bytes(), path)
    text = json.dumps({**header, "schema": 1})
    safetensors.torch.save_file(tensors, path, {"sktransfer": text})
    with pytest.raises(WeightsMismatchError, match=r"schema 1, of sktransfer .*fit again"):
        FineTuneClassifier.load(path)


def classes(values, dtype="<U3"):
    return {"classes": {"dtype": dtype, "values": values}, "class_names": None}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (classes(["yes", "no"]), "not sorted"),
        (classes(["no", "no"]), "not sorted"),
        (classes(["no"]), "classes"),
        (classes([["no"], ["yes"]]), "classes"),
        (classes(["no", "yesterday"]), "of type <U3"),
        (classes([0.0, float("nan")], "<f8"), "classes"),
        (classes([0, 300], "|u1"), "300"),
        (classes(["no", "yes"], "<M8[s]"), "type <M8"),
        (classes(["no", "yes"], "<U999999999"), "type <U999"),
        (classes(["a", "b", "c"]), "wrong shape of head"),
        ({"class_names": ["a", "a"]}, "different name for each"),
        ({"class_names": ["yes", "no"]}, "the label of another"),
        ({"params": {"lr": -1}}, "lr"),
        ({"reference": {"name": "resnet18"}}, "reference|argument"),
    ],
)
def test_what_no_fit_can_have_written_is_refused_at_load(path, edit, message):
    header, tensors = unseal(path.read_bytes(), path)
    path.write_bytes(seal(tensors, {**header, **edit}))  # with a digest of its own
    with pytest.raises(ValueError, match=message) as caught:
        FineTuneClassifier.load(path)
    assert "clf.safetensors" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("head.1.weight", lambda tensor: tensor[:, :-1].contiguous()),
        ("head.1.bias", lambda tensor: tensor.to(torch.int8)),
        ("head.1.bias", lambda tensor: tensor.to(torch.bool)),
        ("head.1.bias", lambda tensor: None),
        ("head.7.bias", lambda tensor: torch.zeros(2)),
        ("head.1.weight", lambda tensor: tensor.fill_(float("nan"))),
    ],
)
def test_tensors_that_do_not_fit_are_refused(path, task, name, make):
    header, tensors = unseal(path.read_bytes(), path)
    made = make(tensors.pop(name, None))
    path.write_bytes(seal(tensors if made is None else {**tensors, name: made}, header))
    with pytest.raises(ValueError, match=r"do not fit|head\.1|" + name.removeprefix("head.")):
        # The width of the embedding is known once the network is found.
        FineTuneClassifier.load(path).predict(task[0])


def test_a_saved_network_to_start_from_is_checked_as_well(path, task):
    extractor = PretrainedFeatureExtractor(str(path), image_size=32)
    extractor.fit(task[0])
    data = bytearray(path.read_bytes())
    data[-5] ^= 64
    path.write_bytes(data)
    with pytest.raises(WeightsMismatchError, match="damaged or edited"):
        PretrainedFeatureExtractor(str(path), image_size=32).fit(task[0])


def test_a_pickle_with_other_weights_or_classes_is_refused(fitted, task):
    again = pickle.loads(pickle.dumps(fitted))
    again._target = Target(again.classes_[::-1])
    with pytest.raises(WeightsMismatchError, match="not those that its weights were trained for"):
        again.predict(task[0])
    again = pickle.loads(pickle.dumps(fitted))
    again._learned = again._learned[:-1] + bytes([again._learned[-1] ^ 64])
    with pytest.raises(WeightsMismatchError, match="damaged or edited"):
        again.predict(task[0])


def test_packed_weights_in_a_pickle_are_checked(task):
    settings = {"weights": None, "image_size": 32, "store_weights": True, "cache": False}
    extractor = PretrainedFeatureExtractor("squeezenet1_1", layer="features.3", **settings)
    data = pickle.dumps(extractor.fit(task[0]))
    packed = extractor._packed.data
    place = data.index(packed) + len(packed) - 3
    again = pickle.loads(data[:place] + bytes([data[place] ^ 64]) + data[place + 1 :])
    from sktransfer._frozen import REGISTRY

    REGISTRY.clear()
    with pytest.raises(WeightsMismatchError, match="damaged or edited"):
        again.transform(task[0])


def test_images_are_not_blamed_for_a_network_that_computes_nan(fitted, task):
    clf = copy.deepcopy(fitted).set_params(on_error="nan")
    with torch.no_grad():
        next(clf.module_.head.parameters())[0] = float("nan")
    for predict in (clf.predict, clf.predict_proba, clf.decision_function):
        with pytest.raises(FloatingPointError, match=r"40 row.*row 0, whose images can be read"):
            predict(task[0])
    sound = copy.deepcopy(fitted).set_params(on_error="nan")
    with (
        pytest.warns(UserWarning, match="could not be read"),
        pytest.raises(ImageDecodeError, match="row 0"),
    ):
        sound.predict([b"broken"])


@pytest.mark.parametrize("value", [float("nan"), 7])
def test_parameters_that_cannot_be_right_change_nothing(fitted, task, tmp_path, value):
    clf = copy.deepcopy(fitted)
    before = clf.predict_proba(task[0])
    tensors = dict(clf.module_.state_dict())
    name = next(each for each in tensors if each.startswith("head"))
    tensors[name] = torch.full_like(tensors[name], value)
    if value == 7:
        tensors[name] = tensors[name].to(torch.int8)
    torch.save(tensors, tmp_path / "params.pt")
    with pytest.raises(WeightsMismatchError, match=name):
        clf.load_params(f_params=tmp_path / "params.pt")
    np.testing.assert_array_equal(clf.predict_proba(task[0]), before)


def test_parameters_of_another_network_change_nothing(fitted, task, tmp_path):
    clf = copy.deepcopy(fitted)
    before = clf.predict_proba(task[0])
    tensors = {**clf.module_.state_dict(), "head.1.bias": torch.ones(3)}
    torch.save(tensors, tmp_path / "params.pt")
    with pytest.raises(WeightsMismatchError, match=r"'head.1.bias' is missing .*another shape"):
        clf.load_params(f_params=tmp_path / "params.pt")
    np.testing.assert_array_equal(clf.predict_proba(task[0]), before)


def test_damaged_parameters_are_refused(fitted, tmp_path):
    clf = copy.deepcopy(fitted)
    clf.save_params(f_params=tmp_path / "params.pt")
    data = bytearray((tmp_path / "params.pt").read_bytes())
    place = data.index(clf.module_.head[1].bias.detach().numpy().tobytes())
    data[place + 6] ^= 1
    (tmp_path / "params.pt").write_bytes(data)
    with pytest.raises(WeightsMismatchError, match="checksum"):
        clf.load_params(f_params=tmp_path / "params.pt")


def test_a_damaged_checkpoint_is_refused_and_says_what_to_do(small, task, tmp_path):
    settings = {"backbone": "squeezenet1_1", "checkpoint__dir": tmp_path, "checkpoint__every": 1}
    clf = small(**settings, max_epochs=1).fit(*task)
    (file,) = tmp_path.glob("*/training.pt")
    data = bytearray(file.read_bytes())
    place = data.index(clf.module_.head[1].weight.detach().numpy().tobytes())
    data[place + 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(WeightsMismatchError, match=r"training\.pt is damaged.*Delete it"):
        small(**settings, max_epochs=1).fit(*task)


def test_the_checkpoint_of_another_training_is_refused(small, task, tmp_path):
    settings = {"backbone": "squeezenet1_1", "checkpoint__dir": tmp_path, "max_epochs": 1}
    small(**settings).fit(*task)
    (one,) = tmp_path.glob("*/training.pt")
    second = small(**settings, lr=1e-4).fit(*task)
    (other,) = set(tmp_path.glob("*/training.pt")) - {one}
    other.write_bytes(one.read_bytes())
    with pytest.raises(WeightsMismatchError, match="of another training"):
        second.fit(*task)


# --- names of classes ----------------------------------------------------------------------------


def test_names_of_classes_are_stored_with_the_model(small, task, tmp_path):
    X, y = task
    clf = small(**NET).fit(X, y.astype(bool))
    assert clf.class_names_ is None
    path = tmp_path / "clf.safetensors"
    for given in (
        {True: "ill", False: "healthy"},
        ["healthy", "ill"],
        pd.Index(["healthy", "ill"]),
    ):
        clf.save(path, class_names=given)
        assert FineTuneClassifier.load(path).class_names_ == ["healthy", "ill"]
    again = FineTuneClassifier.load(path)
    again.save(path)
    assert pickle.loads(pickle.dumps(FineTuneClassifier.load(path))).class_names_ == [
        "healthy",
        "ill",
    ]
    assert again.fit(X, y).class_names_ is None


def test_labels_that_are_text_are_the_names(fitted, path):
    assert fitted.class_names_ == ["no", "yes"]
    assert FineTuneClassifier.load(path).class_names_ == ["no", "yes"]
    with pytest.raises(AttributeError):
        _ = FineTuneClassifier().class_names_


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["ill"], "different name for each class"),
        (["ill", "ill"], "different name for each class"),
        (["ill", ""], "must be text"),
        ({0: "healthy", 2: "ill"}, "a mapping with a name for each"),
        ({"0": "healthy", "1": "ill"}, "a mapping with a name for each"),
        ("ab", "in the order of the classes"),
        ({"healthy", "ill"}, "in the order of the classes"),
    ],
)
def test_names_must_fit_the_classes(small, task, tmp_path, names, message):
    clf = small(**NET).fit(*task)
    with pytest.raises(ValueError, match=message):
        clf.save(tmp_path / "clf.safetensors", class_names=names)
    assert list(tmp_path.iterdir()) == []


def test_a_series_of_names_goes_by_its_labels_whatever_their_order(small, task, tmp_path):
    clf, path = small(**NET).fit(*task), tmp_path / "clf.safetensors"
    clf.save(path, class_names=pd.Series({1: "ill", 0: "healthy"}))
    assert FineTuneClassifier.load(path).class_names_ == ["healthy", "ill"]
    with pytest.raises(ValueError, match="a mapping with a name for each"):
        clf.save(path, class_names=pd.Series(["healthy", "ill"], index=["a", "b"]))


@pytest.mark.parametrize("params", [{"image_size": -3}, {"foo": 1}])
def test_the_file_is_not_blamed_for_a_parameter_given_to_load(path, params):
    with pytest.raises((TypeError, ValueError), match=next(iter(params))) as caught:
        FineTuneClassifier.load(path, **params)
    assert "clf.safetensors" not in str(caught.value)
