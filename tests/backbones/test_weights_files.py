"""Weight files: found, verified, and read without running what they hold."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from sktransfer._backbones._state_dict import (
    load_strict,
    private_seed,
    read_state_dict,
    state_dict_digest,
)
from sktransfer._backbones._weights_files import (
    WeightsFile,
    digest_in_name,
    find_weights_file,
    looks_like_path,
    on_disk,
    open_weights_path,
)
from sktransfer.exceptions import WeightsMismatchError, WeightsNotFoundError


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def saved(folder: Path, name: str = "linear.pth", content: object = None, **options) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    torch.save(nn.Linear(3, 2).state_dict() if content is None else content, path, **options)
    return path


def published(folder: Path) -> Path:
    """A file that carries the beginning of its digest in its name."""
    path = saved(folder, "plain.pth")
    return path.rename(folder / f"linear-{sha256(path)[:8]}.pth")


@pytest.fixture
def hub(tmp_path) -> Path:
    return tmp_path / "torch-home" / "hub" / "checkpoints"


# --- finding -----------------------------------------------------------------------------------


def test_directory_comes_before_the_hub_cache(tmp_path, hub, monkeypatch):
    in_hub = published(hub)
    assert find_weights_file(in_hub.name).path == in_hub
    shutil.copytree(hub, tmp_path / "mine")
    monkeypatch.setenv("SKTRANSFER_WEIGHTS_DIR", str(tmp_path / "mine"))
    found = find_weights_file(in_hub.name)
    assert found == WeightsFile(tmp_path / "mine" / in_hub.name, sha256(in_hub))
    assert on_disk(in_hub.name)
    assert not on_disk("another-00000000.pth")


def test_missing_weights_offline_say_what_to_do(tmp_path, hub, monkeypatch):
    monkeypatch.setenv("SKTRANSFER_WEIGHTS_DIR", str(tmp_path / "mine"))
    url = "https://example.org/resnet18-f37072fd.pth"
    with pytest.raises(WeightsNotFoundError) as caught:
        find_weights_file("resnet18-f37072fd.pth", url=url)
    message = str(caught.value)
    for part in (
        "resnet18-f37072fd.pth",
        "SKTRANSFER_OFFLINE",
        str(hub),
        str(tmp_path / "mine"),
        url,
    ):
        assert part in message
    assert isinstance(caught.value, FileNotFoundError)


def test_a_file_must_have_the_digest_in_its_name(hub):
    path = published(hub)
    with open(path, "ab") as file:
        file.write(b"x")
    with pytest.raises(WeightsMismatchError, match="damaged or is something else"):
        find_weights_file(path.name)


def test_the_first_recorded_digest_is_checked_ever_after(hub, offline_home):
    """Two contents under one published name: eight digits fit both, the recorded 64 do not."""
    path = published(hub)
    prefix = sha256(path)[:1]
    first = find_weights_file(path.name, digest_prefix=prefix)
    recorded = json.loads((offline_home / "digests.json").read_text())
    assert recorded["published"] == {path.name: first.sha256}
    for attempt in range(1000):
        path.write_bytes(b"forged" + str(attempt).encode())
        if sha256(path).startswith(prefix):
            break
    with pytest.raises(WeightsMismatchError, match="used on this machine before") as caught:
        find_weights_file(path.name, digest_prefix=prefix)
    assert "digests.json" in str(caught.value)


def test_file_is_not_hashed_again_until_it_changes(tmp_path, monkeypatch):
    path = saved(tmp_path)
    first = open_weights_path(path)
    with monkeypatch.context() as patch:
        patch.setattr(
            "sktransfer._backbones._weights_files.sha256_of",
            lambda path: pytest.fail("hashed again"),
        )
        assert open_weights_path(path) == first
    saved(tmp_path)
    os.utime(path, ns=(1, 1))
    assert open_weights_path(path).sha256 == sha256(path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"seen": 3}', '{"seen": {"a": null}}'])
def test_damaged_records_are_ignored(tmp_path, offline_home, content):
    offline_home.mkdir(parents=True)
    (offline_home / "digests.json").write_text(content)
    path = saved(tmp_path)
    assert open_weights_path(path).sha256 == sha256(path)
    assert str(path) in json.loads((offline_home / "digests.json").read_text())["seen"]


def test_a_home_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SKTRANSFER_HOME", str(tmp_path / "file" / "home"))
    path = saved(tmp_path)
    assert open_weights_path(path).sha256 == sha256(path)


def test_a_name_is_looked_up_in_the_directory_and_a_path_is_not(tmp_path, monkeypatch):
    path = saved(tmp_path / "here")
    with pytest.raises(WeightsNotFoundError, match="There is no weights file"):
        open_weights_path(tmp_path / "elsewhere" / path.name)
    monkeypatch.setenv("SKTRANSFER_WEIGHTS_DIR", str(path.parent))
    assert open_weights_path(path.name).path == path
    with pytest.raises(WeightsNotFoundError, match="There is no weights file"):
        open_weights_path(tmp_path / "elsewhere" / path.name)
    with pytest.raises(WeightsNotFoundError, match="It is a folder"):
        open_weights_path(tmp_path)


def test_file_names_are_told_from_names_of_weights():
    assert digest_in_name("resnet18-f37072fd.pth") == "f37072fd"
    assert digest_in_name("model.safetensors") is None
    assert looks_like_path("a.safetensors")
    assert looks_like_path("folder/file")
    assert looks_like_path(Path("x"))
    assert not looks_like_path("IMAGENET1K_V1")
    assert not looks_like_path("ResNet18_Weights.IMAGENET1K_V1")
    assert not looks_like_path(None)


# --- reading -----------------------------------------------------------------------------------


def read(path: Path) -> dict[str, torch.Tensor]:
    return read_state_dict(open_weights_path(path))


class Poison:
    """Unpickling this writes a file."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self):
        return os.system, (f"touch {self.witness}",)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("inside", [True, False])
def test_poisoned_file_never_runs_code(tmp_path, zipped, inside):
    witness = tmp_path / "code-ran"
    content = {"weight": torch.zeros(2), "evil": Poison(witness)} if inside else Poison(witness)
    path = saved(tmp_path, content=content, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsMismatchError, match=r"more than tensors.*Nothing was run"):
        read(path)
    assert not witness.exists()
    torch.load(path, weights_only=False)  # the poison works
    assert witness.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")  # torch's, about the others than 2
def test_bare_poisoned_pickle_never_runs_code(tmp_path, protocol):
    witness = tmp_path / "code-ran"
    path = tmp_path / "evil.safetensors"  # the suffix is no guarantee
    path.write_bytes(pickle.dumps(Poison(witness), protocol))
    with pytest.raises(WeightsMismatchError):
        read(path)
    assert not witness.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".anything"])
@pytest.mark.parametrize("kind", ["zip", "old", "safetensors"])
def test_formats_are_told_apart_by_content(tmp_path, kind, suffix):
    tensors = nn.Linear(3, 2).state_dict()
    path = tmp_path / f"w{suffix}"
    if kind == "safetensors":
        safetensors.torch.save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=kind == "zip")
    found = read(path)
    assert sorted(found) == sorted(tensors)
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda sd: {"state_dict": sd, "epoch": 3},
        lambda sd: {"model": sd, "optimizer": {"lr": 0.1}},
        lambda sd: {"model_state_dict": {f"module.{k}": v for k, v in sd.items()}},
        lambda sd: {f"_orig_mod.{k}": v for k, v in sd.items()},
        lambda sd: {f"module._orig_mod.{k}": v for k, v in sd.items()},
    ],
)
def test_checkpoints_are_unwrapped(tmp_path, wrap):
    tensors = nn.Linear(3, 2).state_dict()
    found = read(saved(tmp_path, content=wrap(tensors)))
    assert sorted(found) == ["bias", "weight"]
    assert torch.equal(found["weight"], tensors["weight"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (nn.Linear(2, 2), "more than tensors"),
        ({"state_dict": {"a": torch.zeros(1)}, "args": argparse.Namespace()}, "more than tensors"),
        ({"weight": torch.zeros(1), "epoch": 3}, "epoch hold no tensor"),
        ([torch.zeros(1)], "a list instead of a state dict"),
        (torch.zeros(3), "a Tensor instead of a state dict"),
        ({}, "an empty dict"),
    ],
)
def test_content_that_is_no_state_dict_is_refused(tmp_path, content, message):
    with pytest.raises(WeightsMismatchError, match=message):
        read(saved(tmp_path, content=content))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>log in</html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS pointer"),
        (b"not weights at all, just some text", "cannot be read|not a torch weights file"),
        (b"PK\x03\x04 broken zip", "cannot be read|not a torch weights file"),
        (b"\x08\x00\x00\x00\x00\x00\x00\x00{broken}", "damaged safetensors"),
    ],
)
def test_files_mistaken_for_weights_are_named(tmp_path, data, message):
    path = tmp_path / "w.pth"
    path.write_bytes(data)
    with pytest.raises(WeightsMismatchError, match=message):
        read(path)


@pytest.mark.parametrize("kind", ["zip", "old", "safetensors"])
def test_a_truncated_file_is_an_error(tmp_path, kind):
    path = tmp_path / "w.pth"
    tensors = nn.Linear(30, 20).state_dict()
    if kind == "safetensors":
        safetensors.torch.save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=kind == "zip")
    data = path.read_bytes()
    for share in (0.02, 0.3, 0.6, 0.99):
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(WeightsMismatchError):
            read(path)


def test_torchscript_is_refused_without_a_warning(tmp_path):
    path = tmp_path / "scripted.pt"
    with zipfile.ZipFile(path, "w") as archive:  # as torch.jit.save lays it out
        archive.writestr("scripted/constants.pkl", b"")
        archive.writestr("scripted/data.pkl", b"")
    with pytest.raises(WeightsMismatchError, match="TorchScript"):
        read(path)


def test_a_change_after_hashing_is_detected(tmp_path):
    path = saved(tmp_path)
    file = open_weights_path(path)
    times = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as if nothing had happened
    with pytest.raises(WeightsMismatchError, match="has changed"):
        read_state_dict(file)


# --- into a module -----------------------------------------------------------------------------


def test_load_strict_fills_every_tensor():
    source, target = nn.Linear(3, 2), nn.Linear(3, 2)
    load_strict(target, source.state_dict(), source="test")
    assert torch.equal(source.weight, target.weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda sd: sd.pop("weight"), "missing: weight"),
        (lambda sd: sd.update(extra=torch.zeros(1)), "unexpected: extra"),
        (
            lambda sd: sd.update(weight=torch.zeros(3, 3)),
            r"weight \(\(3, 3\) instead of \(2, 3\)\)",
        ),
    ],
)
def test_load_strict_names_what_does_not_fit(change, message):
    state_dict = dict(nn.Linear(3, 2).state_dict())
    change(state_dict)
    with pytest.raises(WeightsMismatchError, match=message) as caught:
        load_strict(nn.Linear(3, 2), state_dict, source="w.pth")
    assert "w.pth" in str(caught.value)


def test_load_strict_ignores_what_it_is_told_to():
    state_dict = {**nn.Linear(3, 2).state_dict(), "aux.weight": torch.zeros(1)}
    load_strict(nn.Linear(3, 2), state_dict, source="w.pth", ignore=["aux.*"])


def test_names_behind_a_wrapper_are_answered_with_a_line_that_mends_them(tmp_path, monkeypatch):
    source, target = nn.Linear(3, 2), nn.Linear(3, 2)
    wrapped = {f"model.{name}": tensor for name, tensor in source.state_dict().items()}
    wrapped["loss.scale"] = torch.zeros(1)
    with pytest.raises(WeightsMismatchError, match=r"Take 'model\.' off") as caught:
        load_strict(target, wrapped, source="lightning.ckpt")
    monkeypatch.chdir(tmp_path)
    line = str(caught.value).partition("names: ")[2].removesuffix(".")
    exec(line, {"torch": torch, "tensors": wrapped})
    load_strict(target, torch.load("file.pth", weights_only=True), source="file.pth")
    assert torch.equal(source.weight, target.weight)
    with pytest.raises(WeightsMismatchError, match="the architecture that was named"):
        load_strict(nn.Linear(3, 2), {"model.other": torch.zeros(1)}, source="w.pth")


def test_load_strict_names_only_a_few():
    with pytest.raises(WeightsMismatchError, match="and 6 more"):
        load_strict(nn.Sequential(*[nn.Linear(1, 1) for _ in range(5)]), {}, source="w.pth")


def test_state_dict_digest_sees_everything():
    with private_seed(0):
        module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    digest = state_dict_digest(module)
    assert digest.startswith("blake2b:")
    assert len(digest) == len("blake2b:") + 64
    assert state_dict_digest(module) == digest
    assert state_dict_digest(module.to(memory_format=torch.channels_last)) == digest
    module[1].running_mean[0] += 1e-3
    changed = state_dict_digest(module)
    assert changed != digest
    assert state_dict_digest(module.to(torch.bfloat16)) != changed
    assert state_dict_digest(nn.Sequential()) != digest


def test_private_seed_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    with private_seed(7):
        first = torch.rand(2)
    assert torch.equal(torch.rand(3), expected)
    with private_seed(7):
        assert torch.equal(torch.rand(2), first)
