"""load_backbone: the right provider, the right weights, or an error that helps."""

from __future__ import annotations

import pickle

import pytest
import torch

from sktransfer._backbones import architecture, list_backbones, load_backbone
from sktransfer._backbones._load import available_offline
from sktransfer.exceptions import (
    UnknownBackboneError,
    WeightsMismatchError,
    WeightsNotFoundError,
)

RESNET18 = "resnet18_ktb_small-ac7467e4.pth"


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("resnet-18", "'resnet18'"),
        ("ResNet18", "'resnet18'"),
        ("efficientnet-lite0", "'efficientnet_lite0'"),
        ("inceptionv3", "'inception_v3'"),
        ("vgg-16_bn", "'vgg16_bn'"),
        ("dense_net_121", "'densenet121'"),
    ],
)
def test_unknown_name_suggests_what_was_meant(name, suggestion):
    with pytest.raises(UnknownBackboneError, match=f"Did you mean.*{suggestion}") as caught:
        load_backbone(name)
    assert "list_backbones()" in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_unknown_name_without_a_suggestion():
    with pytest.raises(UnknownBackboneError) as caught:
        load_backbone("qqqqqq")
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize("name", [None, 18, torch.nn.Linear(1, 1)])
def test_name_must_be_a_string(name):
    with pytest.raises(UnknownBackboneError, match="named by a string"):
        load_backbone(name)


@pytest.mark.parametrize("name", ["squeezenet1_0", "efficientnet_lite0"])
def test_random_weights_leave_the_global_generator_alone(name):
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    first = load_backbone(name, weights=None, seed=5)
    assert torch.equal(torch.rand(2), expected)
    again = load_backbone(name, weights=None, seed=5, expected_digest=first.reference.digest)
    assert again.reference == first.reference
    assert (first.reference.weights, first.reference.seed) == (None, 5)
    with pytest.raises(WeightsMismatchError, match="not those that were asked for"):
        load_backbone(name, weights=None, seed=6, expected_digest=first.reference.digest)


def test_missing_weights_say_what_works_offline():
    with pytest.raises(WeightsNotFoundError) as caught:
        load_backbone("resnet18")
    for part in ("resnet18-f37072fd.pth", "SKTRANSFER_WEIGHTS_DIR", "hub cache", "https://"):
        assert part in str(caught.value)
    message = str(caught.value)
    assert "weights are on this machine" in message or "sktransfer[offline]" in message
    assert ("efficientnet_lite0" in message) == available_offline("efficientnet_lite0")
    # A path that leads nowhere is a slip of the hand, not a reason for another network.
    with pytest.raises(WeightsNotFoundError) as caught:
        load_backbone("resnet18", weights="no/such/file.pth")
    assert "on this machine" not in str(caught.value)


def test_available_offline_looks_into_the_weights_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("SKTRANSFER_WEIGHTS_DIR", str(tmp_path))
    assert not available_offline("resnet18")
    (tmp_path / "resnet18-f37072fd.pth").touch()
    assert available_offline("resnet18")
    with pytest.raises(WeightsNotFoundError, match=r"are on this machine: .*resnet18"):
        load_backbone("resnet34")
    assert not available_offline("no_such_network")


def test_weights_by_path_have_the_digest_of_the_file(shared_weights, monkeypatch):
    path = shared_weights / RESNET18
    backbone = load_backbone("resnet18", weights=path)
    digest = "sha256:ac7467e40113118f1fbc202ab54b56f3d1330c3a8080afefb544f990fcf4ce2b"
    assert backbone.reference.digest == digest
    # Found by name in the directory.
    monkeypatch.setenv("SKTRANSFER_WEIGHTS_DIR", str(shared_weights))
    again = load_backbone("resnet18", weights=RESNET18, expected_digest=digest)
    assert again.reference.digest == digest
    with pytest.raises(WeightsMismatchError, match="do not fit"):
        load_backbone("resnet34", weights=path)


def test_reference_can_be_pickled():
    reference = load_backbone("squeezenet1_0", weights=None).reference
    assert pickle.loads(pickle.dumps(reference)) == reference


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite1"])
def test_architecture_is_the_same_chain(name):
    loaded, shape = load_backbone(name, weights=None), architecture(name)
    assert shape.stage_names == loaded.stage_names
    assert shape.input_spec == loaded.input_spec
    assert shape.n_features == loaded.n_features


def test_every_listed_name_has_a_provider():
    table = list_backbones()
    assert {"resnet18", "efficientnet_lite2"} <= set(table["name"])
    assert len(table) >= 83
