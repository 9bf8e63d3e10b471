"""Which weights a torchvision backbone gets, and what happens when they do not fit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision import models

from sktransfer._backbones import _torchvision, load_backbone
from sktransfer.exceptions import (
    UnknownBackboneError,
    WeightsMismatchError,
    WeightsNotFoundError,
)


def original(name: str, seed: int = 7, **options) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return models.get_model(name, weights=None, **options).eval()


def saved(state_dict: dict, folder: Path, name: str = "weights.pth") -> Path:
    path = folder / name
    torch.save(state_dict, path)
    return path


def logits_agree(backbone, net, side: int = 64, scale: float = 1) -> bool:
    x = scale * torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return torch.equal(backbone.forward(x), net(x))


# --- random weights ----------------------------------------------------------------------------


def test_random_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    first = _torchvision.load("squeezenet1_1", None, seed=5)
    torch.manual_seed(2)
    again = _torchvision.load("squeezenet1_1", None, seed=5)
    other = _torchvision.load("squeezenet1_1", None, seed=6)
    assert first.reference == again.reference
    assert first.reference.digest.startswith("blake2b:")
    assert (first.reference.weights, first.reference.seed) == (None, 5)
    assert first.reference.digest != other.reference.digest
    assert logits_agree(first, again.forward)
    assert not logits_agree(first, other.forward)


@pytest.mark.parametrize("weights", [None, "file"])
def test_the_global_random_state_is_left_alone(weights, tmp_path):
    if weights == "file":
        weights = saved(original("regnet_x_400mf").state_dict(), tmp_path)
    before = torch.get_rng_state()
    _torchvision.load("regnet_x_400mf", weights, seed=5)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_random_inception_is_initialized_as_torchvision_does(name):
    # With transform_input: random weights are the baseline of the pretrained ones.
    options = {"transform_input": True, "aux_logits": False, "init_weights": True}
    net = original(name, **options)
    # Of large numbers, since such weights hardly let an image through.
    assert logits_agree(_torchvision.load(name, None, seed=7), net, side=96, scale=1e6)
    net.transform_input = False
    assert not logits_agree(_torchvision.load(name, None, seed=7), net, side=96, scale=1e6)


# --- names of weights --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "filename"),
    [
        ("default", "resnet50-11ad3fa6.pth"),
        ("DEFAULT", "resnet50-11ad3fa6.pth"),
        ("IMAGENET1K_V1", "resnet50-0676ba61.pth"),
        ("ResNet50_Weights.IMAGENET1K_V1", "resnet50-0676ba61.pth"),
        (models.ResNet50_Weights.IMAGENET1K_V1, "resnet50-0676ba61.pth"),
    ],
)
def test_each_name_of_weights_finds_its_file(weights, filename):
    # Nothing can be downloaded in the tests, so the error says what was looked for.
    with pytest.raises(WeightsNotFoundError, match=re.escape(filename)):
        _torchvision.load("resnet50", weights)


@pytest.mark.parametrize(
    ("weights", "spelled"),
    [
        ("default", "MobileNet_V2_Weights.IMAGENET1K_V2"),
        ("IMAGENET1K_V1", "MobileNet_V2_Weights.IMAGENET1K_V1"),
        (models.MobileNet_V2_Weights.IMAGENET1K_V1, "MobileNet_V2_Weights.IMAGENET1K_V1"),
    ],
)
def test_published_weights_bring_their_own_preprocessing(weights, spelled, tmp_path, monkeypatch):
    net = original("mobilenet_v2")
    path = saved(net.state_dict(), tmp_path)
    stand_in(monkeypatch, path)
    backbone = _torchvision.load("mobilenet_v2", weights)
    assert backbone.reference.weights == spelled
    assert backbone.reference.digest.startswith("sha256:")
    assert backbone.reference.seed is None
    published = models.get_weight(spelled)
    assert [backbone.input_spec.resize_size] == published.transforms().resize_size
    assert logits_agree(backbone, net)
    # What the reference says finds the same again.
    assert _torchvision.load("mobilenet_v2", spelled).reference == backbone.reference


def stand_in(monkeypatch, path: Path) -> None:
    """Let a file of the test's own take the place of published ones."""
    weights = _torchvision._weights_files
    monkeypatch.setattr(
        weights, "find_weights_file", lambda *_, **__: weights.open_weights_path(path)
    )


@pytest.mark.slow
def test_end_to_end_swag_weights_change_the_size_of_the_network(tmp_path, monkeypatch):
    net = original("vit_b_16", image_size=384)
    stand_in(monkeypatch, saved(net.state_dict(), tmp_path))
    backbone = _torchvision.load("vit_b_16", "IMAGENET1K_SWAG_E2E_V1")
    spec = backbone.input_spec
    assert (spec.crop_size, spec.resize_size, spec.interpolation) == (384, 384, "bicubic")
    assert logits_agree(backbone, net, side=384)


@pytest.mark.slow
def test_weights_without_a_classifier_end_with_the_convolutions(tmp_path, monkeypatch):
    net = original("vgg16")
    for parameter in net.classifier.parameters():
        torch.nn.init.constant_(parameter, torch.nan)
    stand_in(monkeypatch, saved(net.state_dict(), tmp_path))
    backbone = _torchvision.load("vgg16", "IMAGENET1K_FEATURES")
    assert not backbone.embedding_trained
    assert (backbone.neck, backbone.classifier) == (None, None)
    assert backbone.stage_names[-1] == "features.30"
    assert backbone.n_features == 512
    assert backbone.input_spec.std == (1 / 255, 1 / 255, 1 / 255)


def test_an_unknown_name_of_weights_lists_the_known_ones():
    with pytest.raises(WeightsNotFoundError, match=r"'IMAGENET1K_V3'.*V1, IMAGENET1K_V2"):
        _torchvision.load("resnet50", "IMAGENET1K_V3")


def test_weights_of_another_network_are_refused():
    with pytest.raises(WeightsMismatchError, match="not weights of resnet18"):
        _torchvision.load("resnet18", models.ResNet50_Weights.DEFAULT)


def test_weights_of_a_wrong_type_are_refused():
    with pytest.raises(TypeError, match="got int"):
        _torchvision.load("resnet18", 1)


def test_an_unknown_network_lists_similar_names():
    with pytest.raises(UnknownBackboneError, match="resnet18"):
        load_backbone("ResNet18x", weights=None)


# --- files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pth", "safetensors", "folder variable"])
def test_a_path_means_the_default_network_with_these_tensors(kind, tmp_path, monkeypatch):
    net = original("shufflenet_v2_x0_5")
    if kind == "safetensors":
        path = tmp_path / "weights.safetensors"
        save_file(net.state_dict(), path)
    else:
        path = saved(net.state_dict(), tmp_path)
    given = path
    if kind == "folder variable":
        monkeypatch.setenv("SKTRANSFER_WEIGHTS_DIR", str(tmp_path))
        given = Path("weights.pth")  # a name alone is looked up there
    backbone = _torchvision.load("shufflenet_v2_x0_5", given)
    assert logits_agree(backbone, net)
    assert backbone.reference.weights == Path(given).name
    assert _torchvision.load("shufflenet_v2_x0_5", str(path)).reference.digest == (
        backbone.reference.digest
    )
    spec = backbone.input_spec
    assert (spec.crop_size, spec.resize_size) == (224, 256)


@pytest.mark.parametrize(
    ("name", "filename"),
    [
        ("resnet18", "resnet18_ktb_small-ac7467e4.pth"),
        ("mobilenet_v2", "mobilenet_v2_qnnpack_dequantized-4e857dbe.pth"),
        ("squeezenet1_0", "squeezenet1_0_deep_compression-e1f244a0.pth"),
    ],
)
def test_published_weights_agree_with_torchvision(name, filename, shared_weights):
    path = shared_weights / filename
    net = models.get_model(name, weights=None).eval()
    net.load_state_dict(torch.load(path, weights_only=True))
    backbone = _torchvision.load(name, path)
    assert logits_agree(backbone, net, side=224)
    prefix = filename.rpartition("-")[2].removesuffix(".pth")
    assert backbone.reference.digest.startswith(f"sha256:{prefix}")


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
@pytest.mark.parametrize("auxiliary", [True, False])
def test_auxiliary_heads_may_be_in_the_file_and_are_dropped(name, auxiliary, tmp_path):
    net = original(name, transform_input=True, aux_logits=auxiliary, init_weights=False)
    backbone = _torchvision.load(name, saved(net.state_dict(), tmp_path))
    assert logits_agree(backbone, net, side=96)
    n_auxiliary = sum(
        p.numel() for key, p in net.named_parameters() if key.lower().startswith("aux")
    )
    assert (n_auxiliary > 0) == auxiliary
    count = sum(p.numel() for p in backbone.modules().parameters())
    assert count == sum(p.numel() for p in net.parameters()) - n_auxiliary


def test_densenet_files_with_old_names_are_read(tmp_path):
    net = original("densenet121")
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|relu|conv))([12]\.)", r"\1.\2", key): tensor
        for key, tensor in net.state_dict().items()
        if not key.endswith("num_batches_tracked")  # as files of that age
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    backbone = _torchvision.load("densenet121", saved(old, tmp_path))
    assert logits_agree(backbone, net)
    counters = [b for key, b in backbone.modules().named_buffers() if key.endswith("tracked")]
    assert counters
    assert not any(counters)  # set to zero, not left as memory happened to be


def test_mnasnet_needs_no_version_number(tmp_path):
    net = original("mnasnet0_5")
    save_file(net.state_dict(), tmp_path / "weights.safetensors")
    backbone = _torchvision.load("mnasnet0_5", tmp_path / "weights.safetensors")
    assert logits_agree(backbone, net)


def test_another_number_of_classes_is_refused(tmp_path):
    path = saved(original("resnet18", num_classes=3).state_dict(), tmp_path)
    with pytest.raises(WeightsMismatchError, match=r"fc\.weight \(\(3, 512\) instead of"):
        _torchvision.load("resnet18", path)


def test_missing_and_unknown_tensors_are_named(tmp_path):
    state_dict = original("resnet18").state_dict()
    state_dict["layer5.weight"] = state_dict.pop("layer4.1.conv2.weight")
    path = saved(state_dict, tmp_path)
    with pytest.raises(WeightsMismatchError, match=r"layer4\.1\.conv2\.weight.*layer5\.weight"):
        _torchvision.load("resnet18", path)


def test_a_missing_file_is_not_taken_for_a_name():
    with pytest.raises(WeightsNotFoundError, match=r"no/such/weights\.pth"):
        _torchvision.load("resnet18", "no/such/weights.pth")
