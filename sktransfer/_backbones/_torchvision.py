"""torchvision's classification networks: names, weights and build options, loaded strictly.

How a family is cut is in ``_torchvision_stages``; how files are found and checked is in
``_weights_files``. torchvision takes seconds to import: only ``_load`` imports this module, when
one of its networks is asked for.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchvision import models
from torchvision.models import WeightsEnum

from sktransfer._backbones import _state_dict, _weights_files
from sktransfer._backbones._chain import Backbone, BackboneReference, InputSpec, Parts
from sktransfer._backbones._torchvision_stages import FAMILIES
from sktransfer.exceptions import WeightsMismatchError, WeightsNotFoundError

# DenseNet checkpoints of before torchvision 0.3 say "denselayer1.norm.1.weight".
_OLD_DENSENET_KEY = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..+)$")

# Heads that only help training, by the torchvision module; the networks are built without them.
_AUXILIARY_HEADS = {"googlenet": ("aux1.*", "aux2.*"), "inception": ("AuxLogits.*",)}

# The torchvision module that defines each network (its last word): the network's family.
_MODULES = {
    name: models.get_model_builder(name).__module__.rpartition(".")[2]
    for name in models.list_models(module=models)
}
# A newer torchvision may have families that have no entry in FAMILIES yet.
NAMES = tuple(name for name, module in _MODULES.items() if module in FAMILIES)


def load(
    name: str,
    weights: object = "default",
    seed: int | None = 0,
    file: _weights_files.WeightsFile | None = None,
) -> Backbone:
    """Load a network, with the arguments of ``load_backbone``."""
    member, path = _choose(name, weights)
    if weights is None:
        net = _build(name, member, _state_dict.private_seed(seed), initialize=True)
        reference = BackboneReference(name, None, seed, _state_dict.state_dict_digest(net))
        return _as_backbone(net, reference, member)
    if path is not None:
        file = file or _weights_files.open_weights_path(path)
    elif file is None:
        # Megabytes of 2**20 bytes, rounded to the third place.
        low, high = (int((member.meta["_file_size"] + by) * 2**20) for by in (-1e-3, 1e-3))
        sizes = range(low, high)
        file = _weights_files.find_weights_file(_filename(member), url=member.url, sizes=sizes)
    net = _build(name, member, _OnMeta(), initialize=False)
    if dict(net.named_buffers()).keys() <= net.state_dict().keys():
        net = net.to_empty(device="cpu")  # the file fills every tensor, or is refused
    else:  # it has tensors that no file holds (none does today), so it has to be initialized
        net = _build(name, member, _state_dict.private_seed(0), initialize=True)
    _fill(net, _MODULES[name], _state_dict.read_state_dict(file), source=file.path)
    return _as_backbone(net, _reference(name, member, path, file.digest, file.size), member)


def architecture(name: str, weights: object = "default") -> Backbone:
    """Return the chain that ``load`` would build, on the meta device; no file is looked for."""
    member, path = _choose(name, weights)
    net = _build(name, member, _OnMeta(), initialize=False).to("meta")
    return _as_backbone(net, _reference(name, member, path, "meta"), member)


def file_here(name: str, weights: object = "default") -> Path | None:
    """Return where published weights are on this machine, or None."""
    return _weights_files.on_disk(_filename(_choose(name, weights)[0]))


# --- which weights -----------------------------------------------------------------------------


def _choose(name: str, weights: object) -> tuple[WeightsEnum, str | None]:
    """Return the enum member whose options count, and the path of the tensors if one is given."""
    enum: Any = models.get_model_weights(name)
    offered = ", ".join(member.name for member in enum)
    if weights is None or weights == "default":
        return enum.DEFAULT, None
    if isinstance(weights, WeightsEnum):
        if isinstance(weights, enum):
            return weights, None
        raise WeightsMismatchError(
            f"{weights!r} are not weights of {name}. Its own are: {offered}."
        )
    if not isinstance(weights, str | os.PathLike):
        raise TypeError(
            'weights must be "default", a name of weights, a path, a member of the weights enum '
            f"of torchvision or None, got {type(weights).__name__}."
        )
    if isinstance(weights, str):
        member = enum.__members__.get(weights.removeprefix(f"{enum.__name__}."))
        if member is not None:
            return member, None
    if _weights_files.looks_like_path(weights) or os.path.isfile(weights):
        return enum.DEFAULT, os.fspath(weights)
    raise WeightsNotFoundError(
        f"{weights!r} is neither a name of weights of {name} nor a file. Names: {offered} "
        f'("default" is {enum.DEFAULT.name}). A file is given by its path, ending in '
        f"{', '.join(_weights_files.WEIGHT_SUFFIXES)}; None means random weights."
    )


def _reference(
    name: str, member: WeightsEnum, path: str | None, digest: str, size: int | None = None
) -> BackboneReference:
    """Write the weights down by their name."""
    weights = f"{type(member).__name__}.{member.name}"
    if path is not None:
        weights = _weights_files.name_of(path)
    return BackboneReference(name, weights, None, digest, size)


def _filename(member: WeightsEnum) -> str:
    """Return the file name of published weights; it holds the first digits of their sha256."""
    return member.url.rpartition("/")[2]


# --- building and filling ----------------------------------------------------------------------


def _build(
    name: str, member: WeightsEnum, context: AbstractContextManager, *, initialize: bool
) -> nn.Module:
    """Build a network with the options that torchvision's builder would set for these weights."""
    categories = member.meta["categories"]
    options: dict[str, Any] = {} if categories is None else {"num_classes": len(categories)}
    module = _MODULES[name]
    if module in _AUXILIARY_HEADS:
        options |= {"transform_input": True, "aux_logits": False, "init_weights": initialize}
    elif module == "vgg":
        options["init_weights"] = initialize
    elif module == "vision_transformer":
        options["image_size"] = member.meta["min_size"][0]
    elif module == "maxvit":
        options["input_size"] = member.meta["min_size"]
    with context, torch.device("cpu") if initialize else nullcontext():
        return models.get_model(name, weights=None, **options)


class _OnMeta(TorchFunctionMode):
    """Put new parameters on the meta device: they take no memory, no time and no random numbers.

    ``torch.device("meta")`` would catch every new tensor, including those from which RegNet
    computes its widths and Swin its index tables.
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
    # modules it holds have the same keys and do not ask for it.
    target = nn.ModuleDict(dict(net.named_children())) if module == "mnasnet" else net
    ignore = _AUXILIARY_HEADS.get(module, ())
    _state_dict.load_strict(target, state_dict, source=source, ignore=ignore)


def _as_backbone(net: nn.Module, reference: BackboneReference, member: WeightsEnum) -> Backbone:
    net.requires_grad_(False)
    _, cut = FAMILIES[_MODULES[reference.name]]
    parts = cut(net)
    trained = member.meta["categories"] is not None
    if not trained:
        # Weights published without their linear layers (VGG16's "features").
        stages = tuple(stage for stage in parts.stages if stage.layout != "NC")
        convolutions = [m for m in stages[-1].module.modules() if isinstance(m, nn.Conv2d)]
        parts = Parts(stages, None, None, convolutions[-1].out_channels)
    transform = member.transforms()
    (crop_size,), (resize_size,) = transform.crop_size, transform.resize_size
    mean, std = tuple(transform.mean), tuple(transform.std)
    spec = InputSpec(crop_size, resize_size, transform.interpolation.value, mean, std)
    backbone = Backbone(reference, spec, *parts, embedding_trained=trained)
    # After the cut: the containers it made would otherwise say they were training.
    backbone.modules().eval()
    return backbone


# --- the catalog -------------------------------------------------------------------------------


def catalog_rows() -> list[dict[str, Any]]:
    """Return one row per network, with the columns of ``list_backbones``."""
    return [
        {**_published(name), "available_offline": file_here(name) is not None} for name in NAMES
    ]


@cache
def _published(name: str) -> dict[str, Any]:
    """Return the part of a row that does not change while the process runs."""
    member: Any = models.get_model_weights(name).DEFAULT
    n_parameters, n_features, n_stages = sizes().get(name) or measure(name)
    meta = member.meta
    metrics = meta.get("_metrics", {}).get("ImageNet-1K", {})
    return {
        "name": name,
        "provider": "torchvision",
        "family": _family(name),
        "n_parameters": n_parameters,
        "n_features": n_features,
        "n_stages": n_stages,
        "image_size": member.transforms().crop_size[0],
        "gmacs": meta.get("_ops", float("nan")),
        "imagenet_top1": metrics.get("acc@1", float("nan")),
        "default_weights": member.name,
        # torchvision counts in 2**20 bytes; a download is announced in 10**6.
        "download_mb": meta.get("_file_size", float("nan")) * 2**20 / 1e6,
    }


@cache
def sizes() -> dict[str, tuple[int, ...]]:
    """Return parameters, features and stages of the networks in ``torchvision_sizes.csv``."""
    # Building eighty networks to count them takes five seconds; one not in the file is measured.
    file = resources.files("sktransfer._backbones") / "torchvision_sizes.csv"
    _, *rows = csv.reader(file.read_text(encoding="utf-8").splitlines())
    return {name: tuple(map(int, counts)) for name, *counts in rows}


def measure(name: str) -> tuple[int, ...]:
    """Count parameters (classifier included), features and stages on the network itself."""
    backbone = architecture(name)
    n_parameters = sum(p.numel() for p in backbone.modules().parameters())
    return n_parameters, backbone.n_features, backbone.n_stages


def _family(name: str) -> str:
    # One torchvision module, three families of the literature.
    for family in ("resnext", "wide_resnet"):
        if name.startswith(family):
            return family
    return FAMILIES[_MODULES[name]][0]
