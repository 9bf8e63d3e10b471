"""How torchvision's convolutional networks are cut into named stages; it must not know where
weights come from, nor what a stage is used for.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torchvision.models.squeezenet import Fire

from sktransfer._backbones._chain import Neck, Stage
from sktransfer._backbones._torchvision_parts import (
    InputRescaling,
    Parts,
    SpatialMean,
    classifier_of,
    make_stage,
    pooled,
    slice_stages,
)

# Where a pooling layer goes: to the end of the stage before it (a smaller map to keep when the
# chain is cut there), except between inception modules, whose own names people know and use.


def cut_resnet(net: Any) -> Parts:
    """ResNet, ResNeXt and Wide ResNet: the stem (through ``maxpool``), then four layers."""
    stages = (
        make_stage("maxpool", net.conv1, net.bn1, net.relu, net.maxpool),
        make_stage("layer1", net.layer1),
        make_stage("layer2", net.layer2),
        make_stage("layer3", net.layer3),
        make_stage("layer4", net.layer4),
    )
    return Parts(stages, Neck(pooled(net.avgpool), "avg"), net.fc, net.fc.in_features)


def cut_regnet(net: Any) -> Parts:
    """RegNet: the stem, then ``block1`` ... of ``trunk_output``."""
    stages = [make_stage("stem", net.stem)]
    stages += [make_stage(name, block) for name, block in net.trunk_output.named_children()]
    return Parts(tuple(stages), Neck(pooled(net.avgpool), "avg"), net.fc, net.fc.in_features)


def cut_densenet(net: Any) -> Parts:
    """DenseNet: ``pool0``, then dense blocks and transitions; the closing norm is the neck's."""
    features = dict(net.features.named_children())
    stages = [make_stage("pool0", *(features.pop(f"{part}0") for part in _DENSENET_STEM))]
    closing_norm = features.pop("norm5")
    stages += [make_stage(name, block) for name, block in features.items()]
    # The ReLU works on the norm's fresh output, so writing in place is safe here.
    norm = nn.Sequential(closing_norm, nn.ReLU(inplace=True))
    neck = Neck(pooled(nn.AdaptiveAvgPool2d((1, 1))), "avg", norm=norm)
    return Parts(tuple(stages), neck, net.classifier, net.classifier.in_features)


_DENSENET_STEM = ("conv", "norm", "relu", "pool")


def cut_googlenet(net: Any) -> Parts:
    """GoogLeNet: three stem stages, then the inception modules; auxiliary heads are left out."""
    stem = [net.conv1, net.maxpool1]
    if net.transform_input:
        stem.insert(0, InputRescaling())
    stages = [
        make_stage("maxpool1", *stem),
        make_stage("conv2", net.conv2),
        make_stage("maxpool2", net.conv3, net.maxpool2),
    ]
    leading_pool = {"inception4a": net.maxpool3, "inception5a": net.maxpool4}
    for name in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"):
        name = f"inception{name}"
        pool = [leading_pool[name]] if name in leading_pool else []
        stages.append(make_stage(name, *pool, getattr(net, name)))
    return Parts(
        tuple(stages),
        Neck(pooled(net.avgpool), "avg"),
        classifier_of(net.dropout, net.fc),
        net.fc.in_features,
    )


def cut_inception(net: Any) -> Parts:
    """Inception v3: five stem stages, ``Mixed_5b`` ... ``Mixed_7c``; no auxiliary head."""
    stem = [net.Conv2d_1a_3x3]
    if net.transform_input:
        stem.insert(0, InputRescaling())
    stages = [
        make_stage("Conv2d_1a_3x3", *stem),
        make_stage("Conv2d_2a_3x3", net.Conv2d_2a_3x3),
        make_stage("maxpool1", net.Conv2d_2b_3x3, net.maxpool1),
        make_stage("Conv2d_3b_1x1", net.Conv2d_3b_1x1),
        make_stage("maxpool2", net.Conv2d_4a_3x3, net.maxpool2),
    ]
    for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"):
        stages.append(make_stage(f"Mixed_{name}", getattr(net, f"Mixed_{name}")))
    return Parts(
        tuple(stages),
        Neck(pooled(net.avgpool), "avg"),
        classifier_of(net.dropout, net.fc),
        net.fc.in_features,
    )


def cut_vgg(net: Any) -> Parts:
    """VGG and AlexNet: a stage per convolution (its pooling included) and per hidden linear layer.

    The two hidden linear layers are stages of their own, so their 4096 features can be tapped and
    they can be frozen or trained like any other.
    """
    starts = [i for i, layer in enumerate(net.features) if isinstance(layer, nn.Conv2d)]
    stages = slice_stages(net.features, starts, "features")
    # AlexNet puts its dropouts ahead of the linear layers, VGG after the activations; either way
    # a stage ends with an activation, and what follows belongs to the next one.
    layers = list(net.classifier)
    ends = [i + 1 for i, layer in enumerate(layers) if isinstance(layer, nn.ReLU)]
    fc6, fc7, last = layers[: ends[0]], layers[ends[0] : ends[1]], layers[ends[1] :]
    stages += [
        make_stage(f"classifier.{ends[0] - 1}", net.avgpool, nn.Flatten(1), *fc6, layout="NC"),
        make_stage(f"classifier.{ends[1] - 1}", *fc7, layout="NC"),
    ]
    neck = Neck(nn.Identity(), "none")
    return Parts(tuple(stages), neck, classifier_of(*last), last[-1].in_features)


def cut_squeezenet(net: Any) -> Parts:
    """SqueezeNet: a stage per Fire module; there is no linear layer, so the map itself is pooled.

    Its classifier is a convolution on the last map: it takes the map, not the embedding.
    """
    starts = [i for i, layer in enumerate(net.features) if isinstance(layer, nn.Conv2d | Fire)]
    return Parts(
        tuple(slice_stages(net.features, starts, "features")),
        Neck(pooled(nn.AdaptiveAvgPool2d((1, 1))), "avg"),
        classifier_of(*net.classifier, nn.Flatten(1)),
        net.classifier[1].in_channels,
        classifier_takes_map=True,
    )


def cut_mobilenet_v2(net: Any) -> Parts:
    """MobileNetV2: ``features.0`` ... ``features.18``."""
    return Parts(
        _feature_stages(net),
        Neck(pooled(nn.AdaptiveAvgPool2d((1, 1))), "avg"),
        classifier_of(*net.classifier),
        net.classifier[-1].in_features,
    )


def cut_efficientnet(net: Any) -> Parts:
    """EfficientNet and EfficientNetV2: ``features.0`` ... ``features.N``."""
    return Parts(
        _feature_stages(net),
        Neck(pooled(net.avgpool), "avg"),
        classifier_of(*net.classifier),
        net.classifier[-1].in_features,
    )


def cut_mobilenet_v3(net: Any) -> Parts:
    """MobileNetV3: its features, then the layer ahead of the logits, which follows the pooling."""
    linear, activation, *last = net.classifier
    pre_logits = make_stage(
        "classifier.1", net.avgpool, nn.Flatten(1), linear, activation, layout="NC"
    )
    return Parts(
        (*_feature_stages(net), pre_logits),
        Neck(nn.Identity(), "none"),
        classifier_of(*last),
        last[-1].in_features,
    )


def cut_mnasnet(net: Any) -> Parts:
    """MNASNet: stem, separable convolution, six stacks, closing convolution."""
    starts = [0, 3, 8, 9, 10, 11, 12, 13, 14]
    return Parts(
        tuple(slice_stages(net.layers, starts, "layers")),
        Neck(SpatialMean(), "avg"),
        classifier_of(*net.classifier),
        net.classifier[-1].in_features,
    )


def cut_shufflenet(net: Any) -> Parts:
    """ShuffleNetV2: the stem (through ``maxpool``), three stages, the closing convolution."""
    stages = (
        make_stage("maxpool", net.conv1, net.maxpool),
        make_stage("stage2", net.stage2),
        make_stage("stage3", net.stage3),
        make_stage("stage4", net.stage4),
        make_stage("conv5", net.conv5),
    )
    return Parts(stages, Neck(SpatialMean(), "avg"), net.fc, net.fc.in_features)


def cut_convnext(net: Any) -> Parts:
    """ConvNeXt: stem, blocks and the down-samplings between them; LayerNorm after the pooling."""
    norm, flatten, linear = net.classifier
    # torchvision's LayerNorm2d wants a map; the pooled vector is one of 1 x 1.
    post = nn.Sequential(nn.Unflatten(1, (linear.in_features, 1, 1)), norm, flatten)
    return Parts(
        _feature_stages(net),
        Neck(pooled(net.avgpool), "avg", post=post),
        linear,
        linear.in_features,
    )


def _feature_stages(net: Any) -> tuple[Stage, ...]:
    """One stage per entry of ``net.features``."""
    return tuple(slice_stages(net.features, range(len(net.features)), "features"))
