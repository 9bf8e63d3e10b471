"""How torchvision's transformers are cut into named stages; it must not know where weights come
from, nor what a stage is used for.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sktransfer._backbones._chain import Neck, Stage
from sktransfer._backbones._torchvision_parts import (
    ExpectSize,
    Parts,
    make_stage,
    slice_stages,
)


class PatchTokens(nn.Module):
    """From images to tokens, class token first and positions added, as ``VisionTransformer``."""

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
    """The first token."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0]


def cut_vision_transformer(net: Any) -> Parts:
    """ViT: the tokens (``encoder.dropout``), then one stage per encoder layer."""
    stages = [Stage("encoder.dropout", PatchTokens(net), layout="NLC", n_prefix_tokens=1)]
    for name, layer in net.encoder.layers.named_children():
        stages.append(Stage(name, layer, layout="NLC", n_prefix_tokens=1))
    neck = Neck(ClassToken(), "cls", norm=net.encoder.ln)
    return Parts(tuple(stages), neck, net.heads.head, net.heads.head.in_features)


def cut_swin(net: Any) -> Parts:
    """Swin and SwinV2: patches, blocks and the mergings between them, channels last."""
    stages = slice_stages(net.features, range(len(net.features)), "features", layout="NHWC")
    pool = nn.Sequential(net.permute, net.avgpool, net.flatten)
    neck = Neck(pool, "avg", norm=net.norm)
    return Parts(tuple(stages), neck, net.head, net.head.in_features)


def cut_maxvit(net: Any) -> Parts:
    """MaxViT: stem, four blocks, then the layer ahead of the logits, which follows the pooling."""
    *pre_logits, linear = net.classifier
    size = _maxvit_input_size(net)
    stages = [make_stage("stem", ExpectSize(size), net.stem)]
    stages += [make_stage(f"blocks.{i}", block) for i, block in enumerate(net.blocks)]
    stages.append(make_stage(f"classifier.{len(pre_logits) - 1}", *pre_logits, layout="NC"))
    return Parts(tuple(stages), Neck(nn.Identity(), "none"), linear, linear.in_features)


def _maxvit_input_size(net: Any) -> int:
    """Side of the images a MaxViT was built for, from the grid of its last block."""
    last = net.blocks[-1].grid_size
    return int(last[0]) * 2 ** (len(net.blocks) + 1)
