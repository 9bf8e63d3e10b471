"""torchvision's classification networks: names, weights and build options, loaded strictly and
handed over as chains; it must not know how a family is cut, nor how files are found or verified.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchvision import models
from torchvision.models import WeightsEnum

from sktransfer._backbones import _state_dict, _weights
from sktransfer._backbones import _torchvision_conv as conv
from sktransfer._backbones import _torchvision_transformers as transformers
from sktransfer._backbones._chain import Backbone, BackboneReference, InputSpec
from sktransfer._backbones._torchvision_parts import Parts
from sktransfer._backbones._torchvision_table import TABLE
from sktransfer._utils.random import private_seed
from sktransfer.exceptions import (
    UnknownBackboneError,
    WeightsMismatchError,
    WeightsNotFoundError,
)

# By the torchvision module that defines the network: what the family is called, how it is cut.
_FAMILIES: dict[str, tuple[str, Callable[[Any], Parts]]] = {
    "alexnet": ("alexnet", conv.cut_vgg),
    "convnext": ("convnext", conv.cut_convnext),
    "densenet": ("densenet", conv.cut_densenet),
    "efficientnet": ("efficientnet", conv.cut_efficientnet),
    "googlenet": ("googlenet", conv.cut_googlenet),
    "inception": ("inception", conv.cut_inception),
    "maxvit": ("maxvit", transformers.cut_maxvit),
    "mnasnet": ("mnasnet", conv.cut_mnasnet),
    "mobilenetv2": ("mobilenet", conv.cut_mobilenet_v2),
    "mobilenetv3": ("mobilenet", conv.cut_mobilenet_v3),
    "regnet": ("regnet", conv.cut_regnet),
    "resnet": ("resnet", conv.cut_resnet),
    "shufflenetv2": ("shufflenet", conv.cut_shufflenet),
    "squeezenet": ("squeezenet", conv.cut_squeezenet),
    "swin_transformer": ("swin", transformers.cut_swin),
    "vgg": ("vgg", conv.cut_vgg),
    "vision_transformer": ("vit", transformers.cut_vision_transformer),
}

# DenseNet checkpoints of before torchvision 0.3 say "denselayer1.norm.1.weight".
_OLD_DENSENET_KEY = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..+)$")

# Heads that only help training, by the torchvision module; the networks are built without them.
_AUXILIARY_HEADS = {"googlenet": ("aux1.*", "aux2.*"), "inception": ("AuxLogits.*",)}


def names() -> list[str]:
    """Names of the classification networks of the installed torchvision that can be cut.

    Examples
    --------
    >>> from sktransfer._backbones._torchvision import names
    >>> "inception_v3" in names()
    True
    """
    return list(_names())


@cache
def _names() -> tuple[str, ...]:
    # A newer torchvision may bring families nobody has said yet how to cut.
    known = models.list_models(module=models)
    return tuple(name for name in known if _module_of(name) in _FAMILIES)


def load(name: str, weights: object = "default", seed: int | None = 0) -> Backbone:
    """Load a network of torchvision as a chain of stages.

    Parameters
    ----------
    name : str
        torchvision's name (``"resnet50"``).
    weights : str, path, WeightsEnum member or None, default="default"
        ``"default"``; a name from the network's weights enum (``"IMAGENET1K_V1"`` or
        ``"ResNet50_Weights.IMAGENET1K_V1"``) or its member; the path of a state dict, which takes
        the place of the default weights (same architecture, options and preprocessing); None for
        torchvision's random initialization.
    seed : int or None, default=0
        Of the random initialization. The global random state is neither used nor changed.

    Returns
    -------
    Backbone
        In eval mode, and with no parameter asking for a gradient.

    Raises
    ------
    UnknownBackboneError
        If the installed torchvision has no such network.
    WeightsNotFoundError
        If there are no weights of that name, or their file cannot be had.
    WeightsMismatchError
        If the file's tensors are not those of the network.

    Examples
    --------
    >>> from sktransfer._backbones._torchvision import load
    >>> load("resnet18", weights=None).stage_names
    ['maxpool', 'layer1', 'layer2', 'layer3', 'layer4']
    """
    choice = _choose(name, weights)
    if weights is None:
        net = _build_random(name, choice.options, seed)
        reference = BackboneReference(name, None, seed, _state_dict.state_dict_digest(net))
        return _as_backbone(net, reference, choice.options)
    file = choice.find()
    net = _build_to_fill(name, choice.options)
    _fill(net, _module_of(name), _state_dict.read_state_dict(file), source=file.path)
    reference = BackboneReference(name, choice.weights, None, file.digest)
    return _as_backbone(net, reference, choice.options)


def architecture(name: str, weights: object = "default") -> Backbone:
    """The chain without its numbers (on the meta device), as ``load`` would build it.

    ``weights`` decides the options of the network, as in :func:`load`; no file is looked for.

    Examples
    --------
    >>> from sktransfer._backbones._torchvision import architecture
    >>> architecture("vit_h_14").n_stages
    33
    >>> architecture("vit_b_16", "IMAGENET1K_SWAG_E2E_V1").input_spec.crop_size
    384
    """
    choice = _choose(name, weights)
    net = _build_empty(name, choice.options).to("meta")
    reference = BackboneReference(name, choice.weights, None, "meta")
    return _as_backbone(net, reference, choice.options)


def catalog_rows() -> list[dict[str, Any]]:
    """One row per network for :func:`sktransfer._backbones.list_backbones`."""
    return [{**_published(name), "available_offline": available_offline(name)} for name in _names()]


def available_offline(name: str) -> bool:
    """Whether the default weights can be had without a download."""
    return _weights.is_on_disk(_filename(_weights_enum(name).DEFAULT))


# --- which weights -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Choice:
    """What ``weights=`` came to: the enum member whose options count, and where tensors are."""

    options: WeightsEnum
    path: str | None = None

    @property
    def weights(self) -> str:
        """As it is written in the reference, and can be given to ``weights=`` again."""
        if self.path is not None:
            return self.path
        return f"{type(self.options).__name__}.{self.options.name}"

    def find(self) -> _weights.WeightsFile:
        if self.path is not None:
            return _weights.open_weights_path(self.path)
        return _weights.find_weights_file(_filename(self.options), url=self.options.url)


def _choose(name: str, weights: object) -> _Choice:
    enum = _weights_enum(name)
    if weights is None or weights == "default":
        return _Choice(enum.DEFAULT)
    if isinstance(weights, WeightsEnum):
        if isinstance(weights, enum):
            return _Choice(weights)
        raise WeightsMismatchError(
            f"{weights!r} are not weights of {name}. Its own are: {_offered(enum)}."
        )
    if not isinstance(weights, str | os.PathLike):
        raise TypeError(
            'weights must be "default", a name of weights, a path, a member of the weights enum '
            f"of torchvision or None, got {type(weights).__name__}."
        )
    if isinstance(weights, str):
        member = enum.__members__.get(weights.removeprefix(f"{enum.__name__}."))
        if member is not None:
            return _Choice(member)
    if _weights.looks_like_path(weights) or os.path.isfile(weights):
        return _Choice(enum.DEFAULT, path=os.fspath(weights))
    raise WeightsNotFoundError(
        f"{weights!r} is neither a name of weights of {name} nor a file. Names: {_offered(enum)} "
        f'("default" is {enum.DEFAULT.name}). A file is given by its path, ending in '
        f"{', '.join(_weights.WEIGHT_SUFFIXES)}; None means random weights."
    )


def _offered(enum: type[WeightsEnum]) -> str:
    return ", ".join(member.name for member in enum)


def _weights_enum(name: str) -> Any:
    """The enum of a network's published weights."""
    if name not in _names():
        close = difflib.get_close_matches(name.lower(), _names(), n=3)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise UnknownBackboneError(
            f"torchvision has no classification network {name!r}.{hint} "
            "list_backbones() shows the names."
        )
    return models.get_model_weights(name)


def _module_of(name: str) -> str:
    """The last word of the torchvision module that defines a network: its family."""
    return models.get_model_builder(name).__module__.rpartition(".")[2]


def _filename(member: WeightsEnum) -> str:
    """Under which name published weights are kept; it holds the first digits of their sha256."""
    return member.url.rpartition("/")[2]


# --- building and filling ----------------------------------------------------------------------


def _build_options(name: str, member: WeightsEnum, *, initialize: bool) -> dict[str, Any]:
    """What torchvision's builder would set for these weights, were it given them."""
    categories = member.meta["categories"]
    options: dict[str, Any] = {} if categories is None else {"num_classes": len(categories)}
    module = _module_of(name)
    if module in _AUXILIARY_HEADS:
        options |= {"transform_input": True, "aux_logits": False, "init_weights": initialize}
    elif module == "vgg":
        options["init_weights"] = initialize
    elif module == "vision_transformer":
        options["image_size"] = member.meta["min_size"][0]
    elif module == "maxvit":
        options["input_size"] = member.meta["min_size"]
    return options


def _build_random(name: str, member: WeightsEnum, seed: int | None) -> nn.Module:
    options = _build_options(name, member, initialize=True)
    with private_seed(seed), torch.device("cpu"):
        return models.get_model(name, weights=None, **options)


def _build_empty(name: str, member: WeightsEnum) -> nn.Module:
    """A network whose parameters take no memory, no time and no random numbers."""
    options = _build_options(name, member, initialize=False)
    with _OnMeta():
        return models.get_model(name, weights=None, **options)


def _build_to_fill(name: str, member: WeightsEnum) -> nn.Module:
    """A network on the CPU, every tensor of which a strict state dict will overwrite."""
    net = _build_empty(name, member)
    if dict(net.named_buffers()).keys() <= net.state_dict().keys():
        return net.to_empty(device="cpu")
    # It has tensors that no file holds (none does today), so it must be built in earnest.
    return _build_random(name, member, seed=0)


class _OnMeta(TorchFunctionMode):
    """Puts new parameters on the meta device.

    ``torch.device("meta")`` would catch every new tensor, those too with which RegNet works out
    its widths and Swin its index tables.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (torch.empty, torch.zeros, torch.ones) and kwargs.get("device") is None:
            kwargs = {**kwargs, "device": "meta"}
        return func(*args, **kwargs)


def _fill(net: nn.Module, module: str, tensors: Mapping[str, Tensor], *, source: Path) -> None:
    """Put a file's tensors into a network whose memory is not initialized: all or an error."""
    state_dict = dict(tensors)
    if module == "densenet":
        state_dict = {_OLD_DENSENET_KEY.sub(r"\1\2", key): state_dict[key] for key in tensors}
    for key in net.state_dict():
        # Files of before torch 0.4.1 lack this counter, which no network here computes with.
        if key.endswith("num_batches_tracked"):
            state_dict.setdefault(key, torch.tensor(0))
    # MNASNet's own loading wants a version number that plain dictionaries do not carry; the
    # modules it holds have the same keys and are not so particular.
    target = nn.ModuleDict(dict(net.named_children())) if module == "mnasnet" else net
    ignore = _AUXILIARY_HEADS.get(module, ())
    _state_dict.load_strict(target, state_dict, source=source, ignore=ignore)


def _as_backbone(net: nn.Module, reference: BackboneReference, member: WeightsEnum) -> Backbone:
    net.requires_grad_(False)
    _, cut = _FAMILIES[_module_of(reference.name)]
    parts = cut(net)
    # After the cut: the containers it made would otherwise say they were training.
    for module in (*(stage.module for stage in parts.stages), parts.neck, parts.classifier):
        module.eval()
    if member.meta["categories"] is None:
        return _features_only(parts, reference, member)
    return Backbone(
        reference,
        parts.stages,
        parts.neck,
        parts.classifier,
        _input_spec(member),
        parts.n_features,
        classifier_takes_map=parts.classifier_takes_map,
    )


def _features_only(parts: Parts, reference: BackboneReference, member: WeightsEnum) -> Backbone:
    """What is trained in weights published without their linear layers (VGG16's "features")."""
    stages = tuple(stage for stage in parts.stages if stage.layout != "NC")
    convolutions = [m for m in stages[-1].module.modules() if isinstance(m, nn.Conv2d)]
    return Backbone(
        reference,
        stages,
        None,
        None,
        _input_spec(member),
        convolutions[-1].out_channels,
        embedding_trained=False,
    )


def _input_spec(member: WeightsEnum) -> InputSpec:
    transform = member.transforms()
    (crop_size,), (resize_size,) = transform.crop_size, transform.resize_size
    return InputSpec(
        crop_size=crop_size,
        resize_size=resize_size,
        interpolation=transform.interpolation.value,
        mean=tuple(transform.mean),
        std=tuple(transform.std),
    )


# --- the catalog -----------------------------------------------------------------------------


@cache
def _published(name: str) -> dict[str, Any]:
    """What does not change while the process runs."""
    member = _weights_enum(name).DEFAULT
    n_parameters, n_features, n_stages = TABLE.get(name) or measure(name)
    meta = member.meta
    metrics = meta.get("_metrics", {}).get("ImageNet-1K", {})
    return {
        "name": name,
        "provider": "torchvision",
        "family": _family(name),
        "n_parameters": n_parameters,
        "n_features": n_features,
        "n_stages": n_stages,
        "image_size": _input_spec(member).crop_size,
        "gmacs": meta.get("_ops", float("nan")),
        "imagenet_top1": metrics.get("acc@1", float("nan")),
        "default_weights": member.name,
        # torchvision counts in 2**20 bytes; a download is announced in 10**6.
        "download_mb": meta.get("_file_size", float("nan")) * 2**20 / 1e6,
    }


def measure(name: str) -> tuple[int, int, int]:
    """Parameters (classifier included), features and stages, counted on the network itself."""
    backbone = architecture(name)
    n_parameters = sum(p.numel() for p in backbone.modules().parameters())
    return n_parameters, backbone.n_features, backbone.n_stages


def _family(name: str) -> str:
    # One torchvision module, three families of the literature.
    for family in ("resnext", "wide_resnet"):
        if name.startswith(family):
            return family
    return _FAMILIES[_module_of(name)][0]
