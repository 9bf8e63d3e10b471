"""Weights that cannot be right are refused by the name of the tensor, however they are loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from sktransfer import PretrainedFeatureExtractor
from sktransfer._backbones import check_values, load_backbone
from sktransfer._backbones._state_dict import read_state_dict
from sktransfer._backbones._weights_files import open_weights_path
from sktransfer.exceptions import WeightsMismatchError

CONV = "features.3.squeeze.weight"


@pytest.fixture(scope="module")
def tensors():
    from torchvision.models import squeezenet1_1

    torch.manual_seed(0)
    return squeezenet1_1().state_dict()


def damaged(tensor, value):
    changed = tensor.clone()
    changed.view(-1)[3] = value
    return changed


UNSOUND = {
    "NaN": (lambda t: damaged(t, float("nan")), "has NaN"),
    "infinity": (lambda t: damaged(t, float("inf")), "infinity in torch.float32"),
    "a number too large": (lambda t: damaged(t.double(), 1e300), "infinity in torch.float32"),
    "int8": (lambda t: (t * 100).to(torch.int8), "a torch.int8 tensor"),
    "int64": (lambda t: t.long(), "a torch.int64"),
    "booleans": (lambda t: t > 0, "a torch.bool"),
    "complex numbers": (lambda t: t + 1j, "a torch.complex64"),
    "float8": (lambda t: t.to(torch.float8_e4m3fn), "a torch.float8_e4m3fn"),
    "sparse": (lambda t: t.to_sparse(), "a sparse tensor"),
    "meta": (lambda t: t.to("meta"), "a meta tensor"),
    "quantized": (
        lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
        "a quantized tensor",
    ),
}


@pytest.mark.filterwarnings("ignore:.*(quantize|torch.ao|Sparse|TypedStorage)")
@pytest.mark.parametrize("kind", UNSOUND)
def test_a_tensor_that_cannot_be_weights_is_named(tensors, tmp_path, kind):
    make, message = UNSOUND[kind]
    content = {**tensors, CONV: make(tensors[CONV])}
    for wrapped in (content, {"model": {f"module.{name}": t for name, t in content.items()}}):
        path = tmp_path / "w.pth"
        torch.save(wrapped, path)
        with pytest.raises(WeightsMismatchError, match=message) as caught:
            load_backbone("squeezenet1_1", weights=path)
        assert CONV in str(caught.value)
        assert "w.pth" in str(caught.value)


@pytest.mark.parametrize("kind", ["NaN", "infinity", "int8", "booleans"])
def test_a_safetensors_file_is_checked_too(tensors, tmp_path, kind):
    make, message = UNSOUND[kind]
    safetensors.torch.save_file({**tensors, CONV: make(tensors[CONV])}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsMismatchError, match=message):
        PretrainedFeatureExtractor("squeezenet1_1", weights=tmp_path / "w.safetensors").fit(
            np.zeros((2, 8, 8), np.uint8)
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_are_converted(tensors, tmp_path, dtype):
    torch.save({name: t.to(dtype) for name, t in tensors.items()}, tmp_path / "w.pth")
    found = load_backbone("squeezenet1_1", weights=tmp_path / "w.pth").modules().state_dict()
    assert all(tensor.dtype == torch.float32 for tensor in found.values())
    own = tensors["features.0.weight"].to(dtype).float()
    assert torch.equal(found["stage0.0.weight"], own)


def test_statistics_of_batch_norm_must_be_possible():
    norm = nn.Sequential(nn.BatchNorm2d(4))
    check_values(norm.state_dict(), "w.pth")  # its counter is a whole number
    for value, message in ((-0.5, "negative variance"), (float("nan"), "NaN")):
        with torch.no_grad():
            norm[0].running_var[2] = value
        with pytest.raises(
            WeightsMismatchError, match=rf"'0.running_var' of w.pth has .*{message}"
        ):
            check_values(norm.state_dict(), "w.pth")


def test_a_file_of_zeros_is_refused(tensors, tmp_path):
    torch.save({name: torch.zeros_like(t) for name, t in tensors.items()}, tmp_path / "w.pth")
    with pytest.raises(WeightsMismatchError, match=r"Every matrix of .* is zero"):
        load_backbone("squeezenet1_1", weights=tmp_path / "w.pth")


def flipped(path: Path, tensor: torch.Tensor) -> None:
    """Flip a bit of a tensor in a file."""
    data = bytearray(path.read_bytes())
    data[data.index(tensor.numpy().tobytes()) + 9] ^= 8
    path.write_bytes(data)


def test_damage_is_detected_by_the_checksums_that_torch_does_not_compare(tensors, tmp_path):
    path = tmp_path / "w.pth"
    torch.save(tensors, path)
    flipped(path, tensors[CONV])
    assert not torch.equal(torch.load(path, weights_only=True)[CONV], tensors[CONV])
    with pytest.raises(WeightsMismatchError, match=r"damaged: the checksum of .*data/\d+ is wrong"):
        load_backbone("squeezenet1_1", weights=path)


def test_a_file_without_checksums_is_read(tensors, tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(tensors, tmp_path / "w.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_state_dict(open_weights_path(tmp_path / "w.pth")).keys() == tensors.keys()


def test_networks_of_timm_are_checked(tmp_path):
    timm = pytest.importorskip("timm")
    tensors = timm.create_model("resnet10t", pretrained=False).state_dict()
    name = "layer1.0.bn1.running_var"
    torch.save({**tensors, name: tensors[name] - 2}, tmp_path / "w.pth")
    with pytest.raises(WeightsMismatchError, match=rf"'{name}' .*negative variance"):
        load_backbone("timm/resnet10t", weights=tmp_path / "w.pth")
    torch.save({**tensors, name: tensors[name].int()}, tmp_path / "w.pth")
    with pytest.raises(WeightsMismatchError, match=rf"'{name}' .*int32"):
        load_backbone("timm/resnet10t", weights=tmp_path / "w.pth")


@pytest.mark.parametrize("prefix", ["", "_"])
def test_files_of_the_weights_packages_are_checked(tmp_path, prefix):
    backbone = load_backbone("efficientnet_lite0", weights=None)
    from sktransfer._backbones._efficientnet_lite import EfficientNetLite

    tensors = EfficientNetLite(1.0, 1.0).state_dict()
    tensors["conv_head.weight"][0, 0] = float("nan")
    torch.save(tensors, tmp_path / "w.pth")
    assert backbone.name == "efficientnet_lite0"
    with pytest.raises(WeightsMismatchError, match=r"'conv_head.weight' .*NaN"):
        load_backbone("efficientnet_lite0", weights=tmp_path / "w.pth")


def test_files_are_not_blamed_for_weights_that_make_infinity(tensors, tmp_path):
    torch.save({**tensors, CONV: tensors[CONV] * 1e38}, tmp_path / "w.pth")
    extractor = PretrainedFeatureExtractor(
        "squeezenet1_1", weights=tmp_path / "w.pth", image_size=32, on_error="nan", engine="torch"
    )
    X = np.full((2, 32, 32, 3), 200, np.uint8)
    with pytest.raises(FloatingPointError, match=r"w\.pth\), not the files, are at fault"):
        extractor.fit(X).transform(X)
