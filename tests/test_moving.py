"""Models that move to another machine: weights elsewhere, under other names, or missing."""

from __future__ import annotations

import copy
import getpass
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sktransfer import FineTuneClassifier, PretrainedFeatureExtractor
from sktransfer.__main__ import main
from sktransfer._backbones import _weights_files, load_backbone
from sktransfer._finetune import _network
from sktransfer._frozen import REGISTRY
from sktransfer._persistence import seal, unseal
from sktransfer.exceptions import WeightsMismatchError, WeightsNotFoundError
from sktransfer.report._command import load_model

RNG = np.random.default_rng(0)
X = RNG.integers(0, 255, (12, 32, 32, 3)).astype(np.uint8)
Y = np.arange(12) % 2
# As quick as can be; the cut is where a network is packed and found again.
SMALL = {"image_size": 32, "random_state": 0, "engine": "torch", "max_epochs": 1, "batch_size": 6}


def state_dict(seed=1):
    backbone = load_backbone("squeezenet1_1", weights=None, seed=seed)
    from torchvision.models import squeezenet1_1

    net = squeezenet1_1(weights=None)
    names = [name for name, _ in net.named_parameters()]
    tensors = [tensor.detach().clone() for tensor in backbone.modules().parameters()]
    return dict(zip(names, tensors, strict=True))


@pytest.fixture(scope="module")
def tensors():
    return state_dict()


@pytest.fixture
def there(tmp_path, tensors) -> Path:
    """A file of weights on the machine of the training."""
    path = tmp_path / "training" / "weights" / "own.pth"
    path.parent.mkdir(parents=True)
    torch.save(tensors, path)
    return path


@pytest.fixture
def fitted(there):
    return FineTuneClassifier("squeezenet1_1", weights=there, freeze_depth="all", **SMALL).fit(X, Y)


def forget():
    """What a process knows of networks, a new one does not."""
    REGISTRY.clear()
    _network._last.clear()


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Path:
    """Another machine: what is in this folder is all there is, once ``there`` has been moved."""

    def move():
        forget()
        monkeypatch.setenv("SKTRANSFER_HOME", str(tmp_path / "other-home"))
        folder = tmp_path / "other"
        folder.mkdir(exist_ok=True)
        return folder

    return move


def test_weights_are_found_whatever_their_file_is_called(
    fitted, there, tmp_path, elsewhere, monkeypatch
):
    expected = fitted.predict_proba(X)
    folder = elsewhere()
    fitted.save(folder / "model.safetensors")
    hub = tmp_path / "torch-home" / "hub" / "checkpoints"
    named = tmp_path / "named"
    deep = tmp_path / "given" / "a" / "b"
    link = tmp_path / "link"
    for place in (hub, named, deep, link):
        place.mkdir(parents=True)
    (named / "own.pth").write_bytes(b"of the same name, and something else")
    there.rename(tmp_path / "kept")
    (link / "link.bin").symlink_to(tmp_path / "kept")
    places = {
        folder / "renamed.bin": {},
        hub / "renamed-00000000.pth": {},
        named / "x": {},
        deep / "renamed.pth": {"weights": tmp_path / "given"},
        tmp_path / "given.pth": {"weights": str(tmp_path / "given.pth")},
        None: {"weights": link},
    }
    monkeypatch.setenv("SKTRANSFER_WEIGHTS_DIR", str(named))
    for i, (place, options) in enumerate(places.items()):
        forget()
        monkeypatch.setenv("SKTRANSFER_HOME", str(tmp_path / f"home-{i}"))
        if place is not None:
            shutil.copy(tmp_path / "kept", place)
        model = FineTuneClassifier.load(folder / "model.safetensors", **options)
        np.testing.assert_array_equal(model.predict_proba(X), expected)
        found = link / "link.bin" if place is None else place
        assert Path(model.weights) == found  # so that it can be fitted again
        if place is not None:
            place.unlink()


def test_what_is_missing_is_said_at_load_and_when_unpickled(fitted, there, elsewhere, monkeypatch):
    expected = fitted.predict_proba(X)
    fitted.save(there.parent.parent / "model.safetensors")
    pipe = make_pipeline(
        PretrainedFeatureExtractor("squeezenet1_1", weights=there, image_size=32, cache=False),
        LogisticRegression(),
    ).fit(X, Y)
    rows = pipe.predict_proba(X)
    data, whole = pickle.dumps(fitted), pickle.dumps(pipe)
    folder = elsewhere()
    kept = folder / "renamed"
    there.rename(kept)
    digest = fitted.reference_.digest
    with pytest.raises(WeightsNotFoundError) as caught:
        FineTuneClassifier.load(there.parent.parent / "model.safetensors")
    for part in (
        "squeezenet1_1",
        "own.pth",
        digest,
        "SKTRANSFER_WEIGHTS_DIR",
        "hub cache",
        str(there.parent.parent),
        "weights=PATH",
        f"{kept.stat().st_size:,} bytes",
    ):
        assert part in str(caught.value)
    for each, probabilities, name in (
        (data, expected, ""),
        (whole, rows, "pretrainedfeatureextractor__"),
    ):
        with pytest.warns(UserWarning, match=rf"cannot compute.*{digest}.*set_params") as warned:
            again = pickle.loads(each)
        assert len(warned) == 1
        with pytest.raises(WeightsNotFoundError, match="weights=PATH"):
            again.predict(X)
        again.set_params(**{f"{name}weights": str(folder)})
        np.testing.assert_array_equal(again.predict_proba(X), probabilities)
        forget()
        with monkeypatch.context() as patch:
            patch.setenv("SKTRANSFER_WEIGHTS_DIR", str(folder))
            np.testing.assert_array_equal(pickle.loads(each).predict_proba(X), probabilities)
        (folder.parent / "other-home" / "digests.json").unlink()
        forget()


def test_other_weights_are_refused_by_name_and_digest(fitted, there, elsewhere, tensors, tmp_path):
    folder = elsewhere()
    fitted.save(folder / "model.safetensors")
    there.unlink()
    other = folder / "own.pth"
    torch.save(state_dict(seed=2), other)
    with pytest.raises(WeightsMismatchError, match=r"own\.pth is another file, whose digest"):
        FineTuneClassifier.load(folder / "model.safetensors")
    with pytest.raises(WeightsMismatchError, match=r"is not the file .* fitted with"):
        FineTuneClassifier.load(folder / "model.safetensors", weights=other)
    same = tmp_path / "own.safetensors"
    safetensors.torch.save_file(tensors, same)
    with pytest.raises(WeightsMismatchError, match="same tensors in another format"):
        FineTuneClassifier.load(folder / "model.safetensors", weights=same)
    with pytest.raises(WeightsNotFoundError, match="leads nowhere"):
        FineTuneClassifier.load(folder / "model.safetensors", weights=tmp_path / "none.pth")
    with pytest.raises(ValueError, match=r"a file or a folder; got int"):
        FineTuneClassifier.load(folder / "model.safetensors", weights=3)


def test_only_files_of_the_same_size_are_hashed_and_once(fitted, there, elsewhere, monkeypatch):
    folder = elsewhere()
    fitted.save(folder / "model.safetensors")
    there.rename(folder / "renamed")
    for i in range(30):
        (folder / f"{i}.pth").write_bytes(bytes(i))
    hashed = []
    whole = _weights_files.sha256_of
    monkeypatch.setattr(
        _weights_files, "sha256_of", lambda path: hashed.append(path) or whole(path)
    )
    for _ in range(3):
        FineTuneClassifier.load(folder / "model.safetensors")
    assert hashed == [folder / "renamed"]


@pytest.mark.parametrize("freeze_depth", ["all", -1, ["features.9"]])
def test_a_file_that_carries_its_weights_needs_no_other(there, elsewhere, freeze_depth):
    clf = FineTuneClassifier("squeezenet1_1", weights=there, freeze_depth=freeze_depth, **SMALL)
    clf.fit(X, Y)
    expected = clf.predict_proba(X)
    clf.set_params(store_weights=True)  # also after fit
    folder = elsewhere()
    clf.save(folder / "model.safetensors")
    data = pickle.dumps(clf)
    there.unlink()
    model = FineTuneClassifier.load(folder / "model.safetensors")
    for again in (model, pickle.loads(data), pickle.loads(pickle.dumps(model))):
        forget()
        np.testing.assert_array_equal(again.predict_proba(X), expected)
    model.save(folder / "again.safetensors")
    again = FineTuneClassifier.load(folder / "again.safetensors")
    np.testing.assert_array_equal(again.predict_proba(X), expected)
    # It is a backbone too, and gives what the first one gives.
    forget()
    settings = {"image_size": 32, "engine": "torch", "cache": False}
    a = PretrainedFeatureExtractor(folder / "model.safetensors", **settings).fit_transform(X)
    b = PretrainedFeatureExtractor(FrozenEstimator(model), **settings).fit_transform(X)
    np.testing.assert_array_equal(a, b)
    assert np.isfinite(a).all()
    small = FineTuneClassifier.load(folder / "model.safetensors", store_weights=False)
    assert len(pickle.dumps(small)) < len(data) - 1_000


def test_a_chain_of_two_moves_with_its_first_step(fitted, there, elsewhere, tmp_path):
    first = tmp_path / "training" / "first.safetensors"
    fitted.set_params(freeze_depth=-1).fit(X, Y).save(first)
    second = FineTuneClassifier(first, freeze_depth="all", **SMALL).fit(X, Y)
    expected = second.predict_proba(X)
    second.save(tmp_path / "second.safetensors")
    alone = copy.deepcopy(second).set_params(store_weights=True)
    alone.save(tmp_path / "alone.safetensors")
    data = pickle.dumps(second)
    folder = elsewhere()
    shutil.copy(tmp_path / "second.safetensors", folder / "b.safetensors")
    shutil.move(first, folder / "a.safetensors")
    with pytest.raises(WeightsNotFoundError, match=r"own\.pth"):  # of the first step
        FineTuneClassifier.load(folder / "b.safetensors")
    shutil.move(there, folder / "w.bin")
    again = FineTuneClassifier.load(folder / "b.safetensors")
    np.testing.assert_array_equal(again.predict_proba(X), expected)
    assert again.backbone == str(folder / "a.safetensors")
    forget()
    elsewhere()
    os.rename(folder / "a.safetensors", tmp_path / "c.safetensors")
    (tmp_path / "other-home" / "digests.json").unlink()
    with pytest.raises(WeightsNotFoundError, match=r"first\.safetensors"):
        FineTuneClassifier.load(folder / "b.safetensors")
    with pytest.warns(UserWarning, match=r"first\.safetensors"):
        pickle.loads(data)
    moved = ({"weights": tmp_path}, {"backbone": str(tmp_path / "c.safetensors")})
    for options in moved:
        forget()
        again = FineTuneClassifier.load(folder / "b.safetensors", **options)
        np.testing.assert_array_equal(again.predict_proba(X), expected)
    fitted.partial_fit(X, Y).save(tmp_path / "other.safetensors")
    with pytest.raises(WeightsMismatchError, match="digest"):
        FineTuneClassifier.load(folder / "b.safetensors", backbone=tmp_path / "other.safetensors")
    for path in (folder / "w.bin", tmp_path / "c.safetensors"):
        path.unlink()
    forget()
    again = FineTuneClassifier.load(tmp_path / "alone.safetensors")
    np.testing.assert_array_equal(again.predict_proba(X), expected)


def test_no_path_of_the_machine_is_in_files(there, tmp_path):
    paths = {"cache": tmp_path / "store", "checkpoint__dir": str(tmp_path / "checkpoints")}
    clf = FineTuneClassifier("squeezenet1_1", weights=str(there), **paths, **SMALL).fit(X, Y)
    clf.save(tmp_path / "first.safetensors")
    second = FineTuneClassifier(tmp_path / "first.safetensors", freeze_depth="all", **SMALL)
    second.fit(X, Y).save(tmp_path / "second.safetensors")
    private = [str(tmp_path), tempfile.gettempdir() + "/", str(Path.home()), getpass.getuser()]
    for name in ("first", "second"):
        data = (tmp_path / f"{name}.safetensors").read_bytes()
        header = json.dumps(unseal(data, name)[0]).encode()
        for secret in private:
            assert len(secret) < 5 or secret.encode() not in header, (name, secret)
        assert str(tmp_path).encode() not in data
        assert b"own.pth" in data or b"first.safetensors" in data


def test_pickles_and_copies_keep_folders_and_another_machine_does_without(there, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    paths = {"cache": disk / "a" / "store", "checkpoint__dir": str(disk / "a" / "checkpoints")}
    clf = FineTuneClassifier("squeezenet1_1", weights=there, **paths, **SMALL).fit(X, Y)
    feat = PretrainedFeatureExtractor(
        "squeezenet1_1", weights=there, cache=paths["cache"], image_size=32
    ).fit(X)
    data = pickle.dumps((clf, feat))
    for again in (pickle.loads(data)[0], copy.deepcopy(clf), copy.copy(clf)):
        assert again.get_params() == clf.get_params()
        again.partial_fit(X, Y)
    assert pickle.loads(data)[1].get_params() == feat.get_params()
    disk.rename(tmp_path / "unplugged")
    again, features = pickle.loads(data)
    assert (again.cache, again.checkpoint__dir, features.cache) == (True, None, True)
    again.partial_fit(X, Y)
    np.testing.assert_array_equal(features.transform(X), feat.set_params(cache=None).transform(X))


def test_folders_are_no_part_of_a_saved_file(there, tmp_path):
    paths = {"cache": str(tmp_path / "store"), "checkpoint__dir": tmp_path / "checkpoints"}
    clf = FineTuneClassifier("squeezenet1_1", weights=there, **paths, **SMALL).fit(X, Y)
    clf.save(tmp_path / "model.safetensors")
    again = FineTuneClassifier.load(tmp_path / "model.safetensors")
    assert (again.cache, again.checkpoint__dir) == (True, None)
    assert again.weights == str(there)
    again.partial_fit(X, Y)
    again = FineTuneClassifier.load(tmp_path / "model.safetensors", cache=str(tmp_path / "own"))
    assert again.cache == str(tmp_path / "own")


def test_a_file_of_the_same_name_in_the_present_folder_is_not_taken(
    fitted, there, tmp_path, elsewhere, monkeypatch
):
    fitted.save(tmp_path / "model.safetensors")
    folder = elsewhere()
    moved = there.rename(folder / "moved.pth")
    monkeypatch.chdir(folder)
    Path("own.pth").write_bytes(b"something else")
    again = FineTuneClassifier.load(tmp_path / "model.safetensors", weights=moved)
    assert again.weights == str(moved)


def test_an_unfitted_estimator_is_pickled_as_it_is(there, tmp_path):
    for kind in (FineTuneClassifier, PretrainedFeatureExtractor):
        own = kind("squeezenet1_1", weights=there, cache=tmp_path)
        assert pickle.loads(pickle.dumps(own)).get_params() == own.get_params()


def test_files_of_the_present_format_without_sizes_are_read(fitted, there, elsewhere, tmp_path):
    """What versions wrote that kept whole paths, and no number of bytes."""
    expected = fitted.predict_proba(X)
    fitted.save(tmp_path / "model.safetensors")
    header, own = unseal((tmp_path / "model.safetensors").read_bytes(), "")
    header["reference"] = {**header["reference"], "weights": str(there)}
    del header["reference"]["size"]
    header["params"]["weights"] = header["made_with"]["weights"] = str(there)
    folder = elsewhere()
    (folder / "model.safetensors").write_bytes(seal(own, header))
    state = fitted.__getstate__() | {"weights": str(there)}
    state["_made_with"] = state["_made_with"] | {"weights": str(there)}
    state["reference_"] = copy.copy(fitted.reference_)
    state["reference_"].__dict__["weights"] = str(there)
    del state["reference_"].__dict__["size"]
    for place in (there, there.with_name("renamed.pth")):
        if place != there:
            there.rename(place)
        model = FineTuneClassifier.load(folder / "model.safetensors", weights=place)
        np.testing.assert_array_equal(model.predict_proba(X), expected)
        again = FineTuneClassifier.__new__(FineTuneClassifier)
        again.__setstate__(copy.deepcopy(state))
        np.testing.assert_array_equal(again.predict_proba(X), expected)
        model.save(tmp_path / "again.safetensors")
        for data in ((tmp_path / "again.safetensors").read_bytes(), again.reference_.weights):
            assert str(tmp_path) not in str(data)
        forget()


def test_a_home_that_cannot_be_written_to_is_no_obstacle(fitted, there, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SKTRANSFER_HOME", str(tmp_path / "file" / "home"))
    forget()
    clf = fitted.fit(X, Y)
    clf.save(tmp_path / "model.safetensors")
    forget()
    again = FineTuneClassifier.load(tmp_path / "model.safetensors")  # where it was before
    np.testing.assert_array_equal(again.predict_proba(X), clf.predict_proba(X))
    assert pickle.loads(pickle.dumps(clf)).weights == there


def test_a_chain_of_two_on_random_weights_needs_its_first_step(tmp_path, elsewhere):
    first = FineTuneClassifier("squeezenet1_1", weights=None, freeze_depth="all", **SMALL)
    first.fit(X, Y).save(tmp_path / "first.safetensors")
    second = FineTuneClassifier(tmp_path / "first.safetensors", freeze_depth="all", **SMALL)
    second.fit(X, Y).save(tmp_path / "second.safetensors")
    folder = elsewhere()
    (tmp_path / "first.safetensors").rename(folder / "renamed")
    with pytest.raises(WeightsNotFoundError, match=r"first\.safetensors"):
        FineTuneClassifier.load(tmp_path / "second.safetensors")
    again = FineTuneClassifier.load(tmp_path / "second.safetensors", weights=folder)
    np.testing.assert_array_equal(again.predict_proba(X), second.predict_proba(X))


def test_random_weights_need_no_file(tmp_path, elsewhere):
    clf = FineTuneClassifier("squeezenet1_1", weights=None, freeze_depth="all", **SMALL).fit(X, Y)
    clf.save(tmp_path / "model.safetensors")
    elsewhere()
    again = FineTuneClassifier.load(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(again.predict_proba(X), clf.predict_proba(X))
    with pytest.raises(ValueError, match="random weights"):
        FineTuneClassifier.load(tmp_path / "model.safetensors", weights=tmp_path)


def test_published_weights_are_found_under_another_name(tmp_path, tensors, monkeypatch):
    """Torchvision's own file cannot be downloaded here, and somebody has renamed it."""
    from sktransfer._backbones import _torchvision

    file = tmp_path / "own" / "squeeze.bin"
    file.parent.mkdir()
    torch.save(tensors, file)
    digest = _weights_files.sha256_of(file)
    name = f"squeezenet1_1-{digest[:8]}.pth"
    monkeypatch.setattr(_torchvision, "_filename", lambda member: name)
    size = file.stat().st_size / 2**20
    member = _torchvision.models.SqueezeNet1_1_Weights.DEFAULT
    monkeypatch.setitem(member.meta, "_file_size", round(size, 3))
    with pytest.raises(WeightsNotFoundError):
        load_backbone("squeezenet1_1")
    monkeypatch.setenv("SKTRANSFER_WEIGHTS_DIR", str(file.parent))
    clf = FineTuneClassifier("squeezenet1_1", freeze_depth="all", **SMALL).fit(X, Y)
    assert clf.reference_.digest == f"sha256:{digest}"
    clf.save(tmp_path / "model.safetensors")
    forget()
    monkeypatch.setenv("SKTRANSFER_HOME", str(tmp_path / "other-home"))
    monkeypatch.delenv("SKTRANSFER_WEIGHTS_DIR")
    with pytest.raises(WeightsNotFoundError, match=digest):
        FineTuneClassifier.load(tmp_path / "model.safetensors")
    again = FineTuneClassifier.load(tmp_path / "model.safetensors", weights=file)
    np.testing.assert_array_equal(again.predict_proba(X), clf.predict_proba(X))
    assert again.weights == "default"


def test_the_report_command_is_told_where_weights_are(fitted, there, tmp_path, elsewhere, capsys):
    pipe = make_pipeline(
        PretrainedFeatureExtractor("squeezenet1_1", weights=there, image_size=32, cache=False),
        LogisticRegression(),
    ).fit(X, Y)
    expected = {"a.safetensors": fitted.predict_proba(X), "a.pkl": pipe.predict_proba(X)}
    fitted.save(tmp_path / "a.safetensors")
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(pipe))
    moved = elsewhere() / "moved.bin"
    there.rename(moved)
    command = ["report", str(tmp_path / "a.safetensors"), str(tmp_path / "none")]
    assert main(command) == 1
    assert "to a command as --weights PATH" in capsys.readouterr().err
    for name, probabilities in expected.items():
        for place in (moved, moved.parent):
            forget()
            model = load_model(str(tmp_path / name), allow_pickle=True, weights=str(place))
            np.testing.assert_array_equal(model.predict_proba(X), probabilities)
        with pytest.raises(WeightsNotFoundError, match="nowhere"):
            load_model(str(tmp_path / name), allow_pickle=True, weights="none")
    assert main([*command, "--weights", str(moved)]) == 1  # there are no images
    assert "weights" not in capsys.readouterr().err


@pytest.mark.slow
def test_a_fresh_process_predicts_the_same(fitted, there, tmp_path, elsewhere):
    fitted.set_params(store_weights=True).save(tmp_path / "model.safetensors")
    np.save(tmp_path / "X.npy", X)
    there.unlink()
    code = (
        "import sys, numpy as np; from sktransfer import FineTuneClassifier; "
        "m = FineTuneClassifier.load(sys.argv[1]); np.save(sys.argv[3], "
        "m.predict_proba(np.load(sys.argv[2])))"
    )
    names = ("model.safetensors", "X.npy", "P.npy")
    files = [str(tmp_path / name) for name in names]
    env = os.environ | {"SKTRANSFER_HOME": str(tmp_path / "fresh")}
    subprocess.run([sys.executable, "-c", code, *files], check=True, env=env, timeout=300)
    np.testing.assert_array_equal(np.load(tmp_path / "P.npy"), fitted.predict_proba(X))
