"""The tables of backbones and of their stages; no weights are loaded for them."""

from __future__ import annotations

import fnmatch
from contextlib import suppress
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from sktransfer._backbones import _load
from sktransfer._backbones._chain import Backbone
from sktransfer._backbones._modules import OwnNetwork, is_own
from sktransfer.exceptions import UnknownBackboneError

_COLUMNS = [
    "name",
    "provider",
    "family",
    "n_parameters",
    "n_features",
    "n_stages",
    "image_size",
    "gmacs",
    "imagenet_top1",
    "default_weights",
    "download_mb",
    "available_offline",
]


def list_backbones(pattern: str | None = None) -> pd.DataFrame:
    """List the networks that can be used as a backbone.

    They are all image-classification networks of the installed torchvision, and EfficientNet-Lite.
    The 1,500 networks of timm work too, as ``"timm/NAME"``: ``timm.list_models`` lists them, and so
    does a pattern that begins with ``"timm/"``.

    Parameters
    ----------
    pattern : str or None, default=None
        Part of a name (``"resnet"``), or a shell pattern for the whole name (``"resnet*"``,
        ``"*_v2_?"``). Case is ignored. None lists all networks.

    Returns
    -------
    pandas.DataFrame
        One row per network, with the columns

        - ``name``, ``provider``, ``family``;
        - ``n_parameters``, which includes the ImageNet classifier;
        - ``n_features`` of the embedding, ``n_stages`` of the chain;
        - ``image_size`` in pixels, and ``gmacs``, billions of multiply-adds per image of that
          size, as the publisher counts them;
        - ``imagenet_top1``, the accuracy in percent published for the default weights (NaN if
          none is);
        - ``default_weights``, what ``weights="default"`` stands for, ``download_mb`` (10^6
          bytes), and ``available_offline``, whether they are on this machine.

    See Also
    --------
    describe_backbone : The stages of one network.

    Notes
    -----
    The embedding is the input of the last linear layer:

    ============================================ =================================================
    AlexNet, VGG, MobileNetV3, MaxViT            activations of the last hidden linear layer
    SqueezeNet (it has no linear layer)          average of the last Fire module's map
    ViT                                          class token, normalized
    Swin, DenseNet                               average of the normalized last map
    ConvNeXt                                     average of the last map, then normalized
    every other                                  average of the last map
    ============================================ =================================================

    Examples
    --------
    >>> from sktransfer import list_backbones
    >>> list_backbones("resnet?0")[["name", "n_features", "image_size"]]
           name  n_features  image_size
    0  resnet50        2048         224
    """
    table = pd.DataFrame(_load.catalog_rows(pattern), columns=_COLUMNS)
    table = table.sort_values("name").round({"download_mb": 1})
    if pattern is not None:
        table = table[[_matches(name, pattern) for name in table["name"]]]
    return table.reset_index(drop=True)


def _matches(name: str, pattern: str) -> bool:
    name, pattern = name.lower(), pattern.lower()
    if any(special in pattern for special in "*?["):
        return fnmatch.fnmatchcase(name, pattern)
    return pattern in name


def describe_backbone(name: Any, *, image_size: int | None = None) -> pd.DataFrame:
    """Describe the stages of a network: their outputs, parameters and cost.

    Nothing is downloaded, and shapes are found without computing numbers.

    Parameters
    ----------
    name : str, torch.nn.Module or list
        A name from :func:`list_backbones`, or ``"timm/NAME"``; or a module of your own, or a list
        of its stages (see :ref:`own-modules`).
    image_size : int or None, default=None
        Side of the square images in pixels; None is the size of the default weights.

    Returns
    -------
    pandas.DataFrame
        One row per stage, indexed by its number (what ``freeze_depth`` counts and ``layer``
        takes), with the columns

        - ``name`` of the stage, which ``layer`` and ``freeze_depth`` take as well;
        - ``output_shape`` for one image, and ``layout``, the meaning of its axes (N is the batch,
          L counts tokens);
        - ``n_features`` after average pooling;
        - ``n_parameters`` and ``gmacs`` (billions of multiply-adds) of this stage;
        - ``parameters_share`` and ``gmacs_share``, the part of the network (without its
          classifier) up to and including this stage: what freezing it saves.

        A normalization between the last stage and the embedding counts with the last stage.

    See Also
    --------
    list_backbones : All networks.

    Examples
    --------
    >>> from sktransfer import describe_backbone
    >>> describe_backbone("resnet18")[["name", "output_shape", "n_parameters"]]
              name   output_shape  n_parameters
    index
    0      maxpool   (64, 56, 56)          9536
    1       layer1   (64, 56, 56)        147968
    2       layer2  (128, 28, 28)        525568
    3       layer3  (256, 14, 14)       2099712
    4       layer4    (512, 7, 7)       8393728
    """
    side = None if image_size is None else int(image_size)
    if not isinstance(name, str):  # refused in words, where a cache would say "unhashable"
        return _described.__wrapped__(name, side)
    return _described(name, side).copy()


def describe_stages(backbone: Backbone) -> pd.DataFrame:
    """Describe the stages of a network that is loaded, as for images of its own size."""
    with suppress(UnknownBackboneError):
        table = _described(backbone.name, None)
        if list(table["name"]) == backbone.stage_names:
            return table
    # A module of the user's own, which one black image is run through where its tensors are.
    x = torch.zeros(1, 3, *[backbone.input_spec.crop_size] * 2, dtype=torch.float32)
    return _table(backbone, x)


@lru_cache(maxsize=64)
def _described(name: Any, image_size: int | None) -> pd.DataFrame:
    # Cached: networks are ranked by these numbers, and counting them may take a second.
    if is_own(name):
        backbone = OwnNetwork(name, image_size).to_backbone()
    else:
        backbone = _load.architecture(name)
    side = backbone.input_spec.crop_size if image_size is None else image_size
    backbone.modules().to("meta")
    return _table(backbone, torch.empty(1, 3, side, side, device="meta"))


def _table(backbone: Backbone, x: Tensor) -> pd.DataFrame:
    outputs, macs = _measure(backbone, x)
    layouts = [stage.layout for stage in backbone.stages]
    parameters = [_n_parameters(stage.module) for stage in backbone.stages]
    if backbone.neck is not None:
        parameters[-1] += _n_parameters(backbone.neck)
    table = pd.DataFrame(
        {
            "name": backbone.stage_names,
            "output_shape": [tuple(x.shape[1:]) for x in outputs],
            "layout": layouts,
            "n_features": [
                x.shape[1 if layout in ("NCHW", "NC") else -1]
                for layout, x in zip(layouts, outputs, strict=True)
            ],
            "n_parameters": parameters,
            "parameters_share": np.cumsum(parameters) / sum(parameters),
            "gmacs": [count / 1e9 for count in macs],
            "gmacs_share": np.cumsum(macs) / max(1, sum(macs)),
        }
    )
    return table.rename_axis("index")


def _measure(backbone: Backbone, x: Tensor) -> tuple[list[Tensor], list[int]]:
    """Return the output of every stage for an image, and its multiply-adds."""
    side = x.shape[-1]
    outputs, macs = [], []
    for stage in backbone.stages:
        try:
            x, count = _run_counted(stage.module, x)
        except RuntimeError as exc:
            raise ValueError(
                f"{backbone.name} cannot take images of {side} x {side} pixels: its stage "
                f"{stage.name!r} says {exc}. Its own size is {backbone.input_spec.crop_size}: "
                "leave image_size out, or choose one closer to that."
            ) from exc
        outputs.append(x)
        macs.append(count)
    if backbone.neck is not None:
        macs[-1] += _run_counted(backbone.neck, x)[1]
    return outputs, macs


@torch.no_grad()
def _run_counted(module: nn.Module, x: Tensor) -> tuple[Tensor, int]:
    from torch.utils.flop_counter import FlopCounterMode  # slow to import: it loads triton

    where = next((t.device for t in (*module.parameters(), *module.buffers())), x.device)
    with FlopCounterMode(display=False) as counter:
        output = module(x.to(where))
    return output, counter.get_total_flops() // 2


def _n_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
