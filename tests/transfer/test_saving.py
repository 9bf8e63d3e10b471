"""Files and pickles of a TransferClassifier are small, have no code, and predict the same."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import squeezenet1_1

from sktransfer import FineTuneClassifier, PretrainedFeatureExtractor, TransferClassifier
from sktransfer._persistence import read_saved, seal
from sktransfer.exceptions import WeightsMismatchError, WeightsNotFoundError
from sktransfer.model_selection import OperatingPointClassifier

N = 30


def network(name="squeezenet1_1", **params):
    return PretrainedFeatureExtractor(name, **{"weights": None, "image_size": 32, **params})


NETWORKS = {"one": network(), "other": network("mobilenet_v3_small")}


@pytest.fixture(scope="module")
def task():
    rng = np.random.default_rng(0)
    y = np.arange(N) % 2
    X = rng.integers(0, 200, (N, 20, 20, 3)) + 40 * y[:, None, None, None]
    return X.astype(np.uint8), np.array(["no", "yes"])[y]


@pytest.fixture(scope="module")
def fitted(task):
    return TransferClassifier(NETWORKS, random_state=0).fit(*task)


@pytest.fixture(scope="module")
def with_tuned(fitted, task):
    """The same, of a frozen and of a fine-tuned network."""
    clf = pickle.loads(pickle.dumps(fitted))
    net = FineTuneClassifier(
        "squeezenet1_1", weights=None, image_size=32, max_epochs=1, random_state=0
    ).fit(*task)
    clf.estimators_, clf.weights_ = [clf.estimators_[0], net], np.array([0.25, 0.75])
    clf.best_estimator_ = net
    return clf


@pytest.fixture
def path(fitted, tmp_path):
    fitted.save(tmp_path / "clf.safetensors")
    return tmp_path / "clf.safetensors"


@pytest.mark.parametrize("store_weights", [False, True])
@pytest.mark.parametrize("which", ["fitted", "with_tuned"])
def test_a_round_trip_predicts_the_same(request, which, store_weights, task, tmp_path):
    clf, X = request.getfixturevalue(which), task[0]
    P = clf.predict_proba(X)
    clf.save(tmp_path / "clf.safetensors", store_weights=store_weights)
    again = TransferClassifier.load(tmp_path / "clf.safetensors")
    again.save(tmp_path / "twice.safetensors")
    copies = {
        "pickle": pickle.loads(pickle.dumps(clf)),
        "file": again,
        "file of a file": TransferClassifier.load(tmp_path / "twice.safetensors"),
        "pickle of a file": pickle.loads(pickle.dumps(again)),
    }
    for name, other in copies.items():
        np.testing.assert_array_equal(other.predict_proba(X), P, err_msg=name)
        assert other.classes_.tolist() == other.class_names_ == ["no", "yes"]
        assert other.leaderboard_.equals(clf.leaderboard_), name
        assert other.plan_ == clf.plan_
        assert type(other.best_estimator_) is type(clf.best_estimator_)
        np.testing.assert_array_equal(
            other.best_estimator_.predict_proba(X), clf.best_estimator_.predict_proba(X)
        )
    sizes = [(tmp_path / name).stat().st_size for name in ("clf.safetensors", "twice.safetensors")]
    assert abs(sizes[0] - sizes[1]) < 2000  # what has its networks along keeps them


def test_a_file_and_a_pickle_hold_what_was_learned_and_no_network(fitted, path):
    learned = sum(8 * 5 * model[0].n_features_out_ for model in fitted.estimators_)
    for size in (path.stat().st_size, len(pickle.dumps(fitted))):
        assert size < 2 * learned + 40_000  # the networks are of 3 and 6 MB


def test_no_image_is_named_and_no_folder_of_this_machine(task, tmp_path):
    folder = tmp_path / "Jane Doe"
    folder.mkdir()
    files = [str(folder / f"Jane {i:02d}.png") for i in range(N)]
    for file, image in zip(files, task[0], strict=True):
        Image.fromarray(image).save(file)
    Path(files[0]).write_bytes(b"broken")
    clf = TransferClassifier(
        network(cache=str(folder / "store")), on_error="nan", random_state=0, cache=str(folder)
    )
    with pytest.warns(UserWarning, match="left out"):
        clf.fit(files, task[1], groups=[f"Jane{i}" for i in range(N)])
    assert clf.failed_rows_["source"].tolist() == ["Jane 00.png"]
    clf.save(tmp_path / "clf.safetensors")
    assert b"Jane" not in (tmp_path / "clf.safetensors").read_bytes()
    assert b"Jane 0" not in pickle.dumps(clf)
    assert "Jane 0" not in repr(clf)
    again = pickle.loads(pickle.dumps(clf))
    assert again.failed_rows_.empty


def test_parameters_can_be_given_at_loading(path, task):
    again = TransferClassifier.load(path, on_error="nan", device="cpu")
    assert again.on_error == "nan"
    with pytest.warns(UserWarning, match="1 of 2 rows could not be read"):
        P = again.predict_proba([task[0][0], b"no image"])
    assert np.isnan(P).tolist() == [[False, False], [True, True]]
    with pytest.raises(ValueError, match="on_error"):
        TransferClassifier.load(path, on_error="maybe")


def test_what_is_set_after_fit_reaches_the_members_and_the_file(fitted, task, tmp_path):
    clf = pickle.loads(pickle.dumps(fitted))
    if not any(clf.best_estimator_ is each for each in clf.estimators_):
        clf.estimators_[0] = clf.best_estimator_
    clf.best_estimator_ = pickle.loads(pickle.dumps(clf.best_estimator_))  # no member
    clf.set_params(cache=None, verbose=0).predict_proba(task[0][:2])
    clf.set_params(cache=True, verbose=2, on_error="nan").save(tmp_path / "clf")
    again = TransferClassifier.load(tmp_path / "clf")
    quiet = TransferClassifier.load(tmp_path / "clf", verbose=0)
    for each, verbose in ((clf, 1), (again, 1), (quiet, 0)):
        for extractor, *_ in (*each.estimators_, each.best_estimator_):
            assert (extractor.cache, extractor.on_error) == (True, "nan")
            assert extractor.verbose == verbose


def test_names_of_classes_are_kept(task, tmp_path):
    clf = TransferClassifier(network(), random_state=0).fit(task[0], task[1] == "yes")
    assert clf.class_names_ is None
    clf.save(tmp_path / "clf", class_names={False: "benign", True: "malignant"})
    assert TransferClassifier.load(tmp_path / "clf").class_names_ == ["benign", "malignant"]
    with pytest.raises(ValueError, match="class_names must be a different name for each class"):
        clf.save(tmp_path / "clf", class_names=["benign"])


def test_a_threshold_is_saved_with_it(fitted, task, tmp_path):
    X, y = task
    params = {"target_level": 0.8, "confidence_level": None, "pos_label": "yes"}
    screen = OperatingPointClassifier(TransferClassifier(NETWORKS, random_state=0), **params)
    screen.fit(X, y, groups=np.arange(N) // 2)
    for store_weights in (False, True):
        screen.save(tmp_path / "clf", store_weights=store_weights)
        again = OperatingPointClassifier.load(tmp_path / "clf")
        assert again.threshold_ == screen.threshold_
        assert again.operating_point_ == screen.operating_point_
        np.testing.assert_array_equal(again.predict(X), screen.predict(X))
    with pytest.warns(UserWarning, match="saved with a decision threshold"):
        TransferClassifier.load(tmp_path / "clf")
    fitted.save(tmp_path / "clf")
    with pytest.raises(ValueError, match=r"without a threshold\. TransferClassifier\.load reads"):
        OperatingPointClassifier.load(tmp_path / "clf")


def test_files_of_another_kind_of_classifier_are_refused_by_name(path, with_tuned, tmp_path):
    with pytest.raises(ValueError, match="holds no saved FineTuneClassifier, but a saved Transfer"):
        FineTuneClassifier.load(path)
    with_tuned.best_estimator_.save(tmp_path / "net")
    with pytest.raises(ValueError, match="holds no saved TransferClassifier, but a saved FineTune"):
        TransferClassifier.load(tmp_path / "net")
    with pytest.raises(ValueError, match="which may be several networks"):
        PretrainedFeatureExtractor(str(path)).fit(np.zeros((2, 20, 20), np.uint8))


def test_what_a_file_cannot_hold_is_refused_before_it_is_written(task, tmp_path):
    def invert(image):
        return image

    clf = TransferClassifier(network(preprocessing=invert, cache=None), random_state=0).fit(*task)
    with pytest.raises(ValueError, match=r"preprocessing=.* is code"):
        clf.save(tmp_path / "clf")
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    )
    own = PretrainedFeatureExtractor(module, image_size=32)
    clf = TransferClassifier({"own": own}, random_state=0).fit(*task)
    with pytest.raises(ValueError, match=r"is code|module of your own"):
        clf.save(tmp_path / "clf")
    assert not (tmp_path / "clf").exists()


def test_weights_that_are_missing_or_others_are_refused(task, tmp_path):
    weights = tmp_path / "weights" / "squeeze.pth"
    weights.parent.mkdir()
    torch.save(drawn_weights(), weights)
    clf = TransferClassifier(network(weights=str(weights)), random_state=0).fit(*task)
    P = clf.predict_proba(task[0])
    clf.save(tmp_path / "clf")
    assert str(tmp_path).encode() not in (tmp_path / "clf").read_bytes()
    elsewhere = tmp_path / "elsewhere"
    weights.parent.rename(elsewhere)
    with pytest.raises(WeightsNotFoundError, match="A file of this digest was looked for"):
        TransferClassifier.load(tmp_path / "clf")
    for place in (elsewhere, elsewhere / "squeeze.pth"):
        again = TransferClassifier.load(tmp_path / "clf", weights=place)
        np.testing.assert_array_equal(again.predict_proba(task[0]), P)
    torch.save(
        {name: each + 1 for name, each in drawn_weights().items()}, elsewhere / "squeeze.pth"
    )
    with pytest.raises(WeightsMismatchError, match="not the file that this estimator was fitted"):
        TransferClassifier.load(tmp_path / "clf", weights=elsewhere / "squeeze.pth")
    with pytest.raises(WeightsNotFoundError, match="leads nowhere"):
        TransferClassifier.load(tmp_path / "clf", weights=tmp_path / "nowhere")


def drawn_weights():
    rng = torch.Generator().manual_seed(0)
    shapes = squeezenet1_1(weights=None).state_dict().items()
    return {name: torch.randn(own.shape, generator=rng) / 30 for name, own in shapes}


# --- damaged and hostile files --------------------------------------------------------------------


def test_every_flipped_bit_and_every_cut_is_detected(path):
    whole = path.read_bytes()
    start = 8 + struct.unpack("<Q", whole[:8])[0]
    rng = np.random.default_rng(0)
    places = [*range(8), *rng.integers(8, start, 40), *rng.integers(start, len(whole), 40)]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(WeightsMismatchError, match=r"clf\.safetensors"):
            TransferClassifier.load(path)
    for data in (b"", whole[:7], whole[: len(whole) // 2], whole[:-1], whole + b"0"):
        path.write_bytes(data)
        with pytest.raises(WeightsMismatchError, match="not a file that save wrote"):
            TransferClassifier.load(path)


def at(*keys, value):
    """Return a change of a header: a value deep inside it."""

    def change(header, tensors):
        for key in keys[:-1]:
            header = header[key]
        if value is KeyError:
            del header[keys[-1]]
        else:
            header[keys[-1]] = value

    return change


def tensor(name, change):
    def changed(header, tensors):
        tensors[name] = change(tensors[name])

    return changed


HOSTILE = {
    "an unknown key": at("surprise", value=1),
    "no models": at("models", value=[]),
    "models that are none": at("models", value=3),
    "a model of another kind": at("models", 0, "estimator", value="Other"),
    "a model without a network": at("models", 0, "reference", value=KeyError),
    "a network that is a number": at("models", 0, "reference", value=3),
    "an unknown parameter": at("models", 0, "params", "unheard_of", value=1),
    "a parameter of another kind": at("models", 0, "params", "cache", value=5),
    "an object of another kind": at("params", "image_size", value={"type": "Popen", "items": {}}),
    "too few steps": at("models", 0, "estimator", value=["one"]),
    "weights that are no shares": at("weights", value=[3.0]),
    "a negative weight": at("weights", 0, value=-1.0),
    "too many weights": at("weights", value=[0.05] * 20),
    "no temperature": at("temperature", value=0.0),
    "a temperature that is NaN": at("temperature", value=float("nan")),
    "no such best model": at("best", value=99),
    "classes that are not sorted": at("classes", "values", value=["yes", "no"]),
    "three classes": at("classes", "values", value=["a", "b", "c"]),
    "a leaderboard that is none": at("leaderboard", value=3),
    "a missing tensor": lambda header, tensors: tensors.pop("0.coef"),
    "NaN": tensor("0.coef", lambda x: x * np.nan),
    "another type": tensor("0.mean", lambda x: x.float()),
    "another shape": tensor("0.coef", lambda x: x[:, 1:].contiguous()),
    "a scale of 0": tensor("0.scale", lambda x: 0 * x),
    "coefficients of more classes": tensor("0.coef", lambda x: x.repeat(3, 1)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_with_content_that_fit_cannot_write_is_refused_by_name(path, name):
    header, tensors = read_saved(path)
    HOSTILE[name](header, tensors)
    path.write_bytes(seal(tensors, header))
    with pytest.raises(ValueError, match=r"clf\.safetensors"):
        TransferClassifier.load(path)


def test_a_network_with_another_digest_is_refused(path):
    header, tensors = read_saved(path)
    for model in header["models"]:
        model["reference"]["digest"] = "blake2b:" + "0" * 32
    path.write_bytes(seal(tensors, header))
    with pytest.raises(WeightsMismatchError, match="digest"):
        TransferClassifier.load(path)


def test_the_header_is_plain_json(path):
    header, _ = read_saved(path)
    assert json.loads(json.dumps(header)) == header
