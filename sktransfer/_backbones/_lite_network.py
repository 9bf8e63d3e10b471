"""The EfficientNet-Lite networks themselves, written out in plain torch; it must not know weights
files, nor the library around it.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.functional import pad, relu6

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
# A stem and a head around the groups.
N_STAGES = len(_GROUPS) + 2


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
        self.apply(_initialize)

    def forward(self, x: Tensor) -> Tensor:
        x = relu6(self.bn1(self.conv_stem(self.pad(x))))
        x = self.blocks(x)
        x = relu6(self.bn2(self.conv_head(x)))
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
        return pad(x, (left, right, top, bottom))

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


def _initialize(module: nn.Module) -> None:
    """As the original does: fan-out normal convolutions, a small uniform classifier."""
    if isinstance(module, nn.Conv2d):
        height, width = module.kernel_size
        fan_out = height * width * module.out_channels // module.groups
        nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))
    elif isinstance(module, nn.Linear):
        limit = 1.0 / math.sqrt(module.out_features)
        nn.init.uniform_(module.weight, -limit, limit)
        nn.init.zeros_(module.bias)


def own_names(state_dict: Mapping[str, Tensor], network: EfficientNetLite) -> dict[str, Tensor]:
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
