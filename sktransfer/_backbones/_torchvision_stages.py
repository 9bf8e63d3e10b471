"""How the networks of each torchvision family are cut into named stages.

To add a family, write a function that takes a network and returns its :class:`Parts`, and enter it
in ``FAMILIES`` under the torchvision module that defines the network. Options that its builder
needs besides the weights go to ``_build`` of ``_torchvision``, its sizes to
``torchvision_sizes.csv``. Tests compare every network that torchvision lists with its chain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from sktransfer._backbones._chain import Layout, Neck, Parts, Stage

# --- modules that networks do not have as such -------------------------------------------------


class InputRescaling(nn.Module):
    """Convert torchvision's normalization to the [-1, 1] range of GoogLeNet and Inception v3.

    The arithmetic of torchvision's ``transform_input=True``, literally: it agrees to the last bit.
    """

    def forward(self, x: Tensor) -> Tensor:
        red = torch.unsqueeze(x[:, 0], 1) * (0.229 / 0.5) + (0.485 - 0.5) / 0.5
        green = torch.unsqueeze(x[:, 1], 1) * (0.224 / 0.5) + (0.456 - 0.5) / 0.5
        blue = torch.unsqueeze(x[:, 2], 1) * (0.225 / 0.5) + (0.406 - 0.5) / 0.5
        return torch.cat((red, green, blue), 1)


class ExpectSize(nn.Module):
    """Return the images unchanged, or raise if they are not of the one size a network takes."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if height != self.size or width != self.size:
            raise ValueError(
                f"This network takes images of {self.size} x {self.size} pixels only (its "
                f"position embeddings are tied to that grid), got {height} x {width}. "
                f"Use image_size=None or image_size={self.size}."
            )
        return x


class PatchTokens(nn.Module):
    """Turn images into tokens as VisionTransformer does: class token first, positions added."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.expect_size = ExpectSize(net.image_size)
        self.conv_proj = net.conv_proj
        self.class_token = net.class_token
        self.pos_embedding = net.encoder.pos_embedding
        self.dropout = net.encoder.dropout

    def forward(self, x: Tensor) -> Tensor:
        patches = self.conv_proj(self.expect_size(x))
        tokens = patches.flatten(2).permute(0, 2, 1)
        class_token = self.class_token.expand(x.shape[0], -1, -1)
        return self.dropout(torch.cat([class_token, tokens], dim=1) + self.pos_embedding)


class ClassToken(nn.Module):
    """Take the first token."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0]


class SpatialMean(nn.Module):
    """Average over height and width as MNASNet and ShuffleNet do (to the last bit)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean([2, 3])


# --- what the functions below share ------------------------------------------------------------


def _by_attributes(net: Any, stages: Iterable[str]) -> list[Stage]:
    """Make each stage of the named attributes of a network; the last one names the stage."""
    made: list[Stage] = []
    for names in map(str.split, stages):
        modules = [getattr(net, name) for name in names]
        if not made and getattr(net, "transform_input", False):
            modules.insert(0, InputRescaling())
        whole = modules[0] if len(modules) == 1 else nn.Sequential(*modules)
        made.append(Stage(names[-1], whole))
    return made


def _by_position(
    container: nn.Sequential,
    starts: Sequence[int] | None = None,
    prefix: str = "features",
    layout: Layout = "NCHW",
) -> list[Stage]:
    """Cut a sequence before each of ``starts`` (None: everywhere); a stage is named by its end."""
    bounds = [*(range(len(container)) if starts is None else starts), len(container)]
    made = []
    for start, end in pairwise(bounds):
        modules = list(container)[start:end]
        whole = modules[0] if len(modules) == 1 else nn.Sequential(*modules)
        made.append(Stage(f"{prefix}.{end - 1}", whole, layout))
    return made


def _parts(stages: Iterable[Stage], neck: Neck, *classifier: nn.Module) -> Parts:
    """Put the parts together; the embedding is what the last linear layer takes."""
    for module in classifier:
        if isinstance(module, nn.Dropout):
            # In training, it would punch holes into an embedding that somebody still holds.
            module.inplace = False
    linear: Any = classifier[-1]
    whole = linear if len(classifier) == 1 else nn.Sequential(*classifier)
    return Parts(tuple(stages), neck, whole, linear.in_features)


# --- convolutional families --------------------------------------------------------------------

# A pooling layer goes to the end of the stage before it (a smaller map to keep when the chain is
# cut there), except between inception modules, whose own names people know and use.
_RESNET = ("conv1 bn1 relu maxpool", "layer1", "layer2", "layer3", "layer4")
_SHUFFLENET = ("conv1 maxpool", "stage2", "stage3", "stage4", "conv5")
_GOOGLENET = (
    *("conv1 maxpool1", "conv2", "conv3 maxpool2", "inception3a", "inception3b"),
    *("maxpool3 inception4a", "inception4b", "inception4c", "inception4d", "inception4e"),
    *("maxpool4 inception5a", "inception5b"),
)
_INCEPTION_V3 = (
    *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3 maxpool1"),
    *("Conv2d_3b_1x1", "Conv2d_4a_3x3 maxpool2"),
    *("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d"),
    *("Mixed_6e", "Mixed_7a", "Mixed_7b", "Mixed_7c"),
)


def _resnet(net: Any) -> Parts:
    """Cut a ResNet, ResNeXt or Wide ResNet: the stem (through ``maxpool``), then four layers."""
    return _parts(_by_attributes(net, _RESNET), Neck(), net.fc)


def _googlenet(net: Any) -> Parts:
    """Cut GoogLeNet: three stem stages, then the inception modules; no auxiliary heads."""
    stages = _by_attributes(net, _GOOGLENET)
    return _parts(stages, Neck(), net.dropout, net.fc)


def _inception_v3(net: Any) -> Parts:
    """Cut Inception v3: five stem stages, ``Mixed_5b`` to ``Mixed_7c``; no auxiliary head."""
    stages = _by_attributes(net, _INCEPTION_V3)
    return _parts(stages, Neck(), net.dropout, net.fc)


def _shufflenet(net: Any) -> Parts:
    """Cut ShuffleNetV2: the stem (through ``maxpool``), three stages, the closing convolution."""
    return _parts(_by_attributes(net, _SHUFFLENET), Neck(SpatialMean()), net.fc)


def _regnet(net: Any) -> Parts:
    """Cut a RegNet: the stem, then ``block1`` to ``block4`` of ``trunk_output``."""
    stages = [Stage("stem", net.stem)]
    stages += [Stage(name, block) for name, block in net.trunk_output.named_children()]
    return _parts(stages, Neck(), net.fc)


def _densenet(net: Any) -> Parts:
    """Cut a DenseNet: ``pool0``, dense blocks and transitions; the closing norm is the neck's."""
    features = dict(net.features.named_children())
    stem = [features.pop(name) for name in ("conv0", "norm0", "relu0", "pool0")]
    # The ReLU works on the norm's fresh output, so writing in place is safe here.
    norm = nn.Sequential(features.pop("norm5"), nn.ReLU(inplace=True))
    stages = [Stage("pool0", nn.Sequential(*stem))]
    stages += [Stage(name, block) for name, block in features.items()]
    return _parts(stages, Neck(norm=norm), net.classifier)


def _vgg(net: Any) -> Parts:
    """Cut VGG or AlexNet: a stage per convolution (and pooling) and per hidden linear layer."""
    starts = [i for i, layer in enumerate(net.features) if isinstance(layer, nn.Conv2d)]
    stages = _by_position(net.features, starts)
    # AlexNet puts its dropouts ahead of the linear layers, VGG after the activations; either way
    # a stage ends with an activation, and what follows belongs to the next one.
    layers = list(net.classifier)
    first, second = (i + 1 for i, layer in enumerate(layers) if isinstance(layer, nn.ReLU))
    flat = (net.avgpool, nn.Flatten(1))
    stages += [
        Stage(f"classifier.{first - 1}", nn.Sequential(*flat, *layers[:first]), "NC"),
        Stage(f"classifier.{second - 1}", nn.Sequential(*layers[first:second]), "NC"),
    ]
    return _parts(stages, Neck(nn.Identity(), "none"), *layers[second:])


def _squeezenet(net: Any) -> Parts:
    """Cut SqueezeNet: a stage per Fire module; its classifier, a convolution, takes the map."""
    # Max-poolings and the first ReLU have no parameters.
    starts = [
        i for i, layer in enumerate(net.features) if next(layer.parameters(), None) is not None
    ]
    dropout, convolution, *rest = net.classifier
    dropout.inplace = False
    classifier = nn.Sequential(dropout, convolution, *rest, nn.Flatten(1))
    stages = tuple(_by_position(net.features, starts))
    return Parts(stages, Neck(), classifier, convolution.in_channels, True)


def _mobilenet_v2(net: Any) -> Parts:
    """Cut MobileNetV2: ``features.0`` to ``features.18``."""
    return _parts(_by_position(net.features), Neck(), *net.classifier)


def _mobilenet_v3(net: Any) -> Parts:
    """Cut MobileNetV3: its features, then the hidden linear layer, which follows the pooling."""
    linear, activation, *last = net.classifier
    hidden = nn.Sequential(net.avgpool, nn.Flatten(1), linear, activation)
    stages = [*_by_position(net.features), Stage("classifier.1", hidden, "NC")]
    return _parts(stages, Neck(nn.Identity(), "none"), *last)


def _efficientnet(net: Any) -> Parts:
    """Cut EfficientNet or EfficientNetV2: ``features.0`` to ``features.N``."""
    return _parts(_by_position(net.features), Neck(), *net.classifier)


def _mnasnet(net: Any) -> Parts:
    """Cut MNASNet: stem, separable convolution, six stacks, closing convolution."""
    stages = _by_position(net.layers, [0, 3, 8, 9, 10, 11, 12, 13, 14], "layers")
    return _parts(stages, Neck(SpatialMean()), *net.classifier)


def _convnext(net: Any) -> Parts:
    """Cut ConvNeXt: stem, blocks, downsamplings; the norm follows the pooling."""
    norm, flatten, linear = net.classifier
    # torchvision's LayerNorm2d wants a map; the pooled vector is one of 1 x 1.
    post = nn.Sequential(nn.Unflatten(1, (linear.in_features, 1, 1)), norm, flatten)
    return _parts(_by_position(net.features), Neck(post=post), linear)


# --- transformers ------------------------------------------------------------------------------


def _vision_transformer(net: Any) -> Parts:
    """Cut a ViT: the tokens (``encoder.dropout``), then one stage per encoder layer."""
    modules = {"encoder.dropout": PatchTokens(net), **dict(net.encoder.layers.named_children())}
    stages = [Stage(name, module, "NLC", 1) for name, module in modules.items()]
    return _parts(stages, Neck(ClassToken(), "cls", norm=net.encoder.ln), net.heads.head)


def _swin(net: Any) -> Parts:
    """Cut Swin or SwinV2: patches, blocks and the mergings between them, channels last."""
    pool = nn.Sequential(net.permute, net.avgpool, net.flatten)
    return _parts(
        _by_position(net.features, layout="NHWC"), Neck(pool, "avg", norm=net.norm), net.head
    )


def _maxvit(net: Any) -> Parts:
    """Cut MaxViT: stem, four blocks, then the hidden linear layer, which follows the pooling."""
    *hidden, linear = net.classifier
    # The side of the images it was built for, from the grid of its last block.
    size = int(net.blocks[-1].grid_size[0]) * 2 ** (len(net.blocks) + 1)
    stages = [Stage("stem", nn.Sequential(ExpectSize(size), net.stem))]
    stages += [Stage(f"blocks.{i}", block) for i, block in enumerate(net.blocks)]
    stages.append(Stage(f"classifier.{len(hidden) - 1}", nn.Sequential(*hidden), "NC"))
    return _parts(stages, Neck(nn.Identity(), "none"), linear)


# By the torchvision module that defines the network: the family's name, and what cuts a network.
FAMILIES: dict[str, tuple[str, Callable[[Any], Parts]]] = {
    "alexnet": ("alexnet", _vgg),
    "convnext": ("convnext", _convnext),
    "densenet": ("densenet", _densenet),
    "efficientnet": ("efficientnet", _efficientnet),
    "googlenet": ("googlenet", _googlenet),
    "inception": ("inception", _inception_v3),
    "maxvit": ("maxvit", _maxvit),
    "mnasnet": ("mnasnet", _mnasnet),
    "mobilenetv2": ("mobilenet", _mobilenet_v2),
    "mobilenetv3": ("mobilenet", _mobilenet_v3),
    "regnet": ("regnet", _regnet),
    "resnet": ("resnet", _resnet),
    "shufflenetv2": ("shufflenet", _shufflenet),
    "squeezenet": ("squeezenet", _squeezenet),
    "swin_transformer": ("swin", _swin),
    "vgg": ("vgg", _vgg),
    "vision_transformer": ("vit", _vision_transformer),
}
