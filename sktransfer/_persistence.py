"""Weights across processes: finding a network again by digest, or carrying it along.

It must not know estimators.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors.torch

from sktransfer import _config
from sktransfer.backbones import (
    Backbone,
    BackboneReference,
    architecture,
    load_backbone,
    load_strict,
)
from sktransfer.frozen import NetworkSource


@dataclass(frozen=True)
class PackedWeights:
    """The tensors of a network down to some depth, as the bytes of a safetensors file.

    Reading them never runs code, whatever the pickle they came in does.
    """

    reference: BackboneReference
    depth: int
    data: bytes = field(repr=False)

    @classmethod
    def pack(cls, backbone: Backbone, reference: BackboneReference, depth: int) -> PackedWeights:
        """Keep the first ``depth`` pieces of ``backbone`` (the neck counts as the last one)."""
        tensors = {
            name: tensor.contiguous()
            for name, tensor in _kept(backbone, depth).modules().state_dict().items()
        }
        return cls(reference, depth, safetensors.torch.save(tensors))

    def unpack(self) -> Backbone:
        """The architecture, with the packed tensors in the pieces that were packed.

        The other pieces hold nothing (they are on torch's meta device) and are never run.
        """
        backbone = architecture(self.reference.name, weights=self.reference.weights)
        kept = _kept(backbone, self.depth).modules()
        if any(tensor.is_meta for tensor in kept.state_dict().values()):
            kept.to_empty(device="cpu")
        load_strict(kept, safetensors.torch.load(self.data), source="the pickle")
        return replace(backbone, reference=self.reference)


def _kept(backbone: Backbone, depth: int) -> Backbone:
    if depth > backbone.n_stages:
        return replace(backbone, classifier=None)
    return backbone.truncated(depth)


def request_source(name: str, weights: Any, seed: int) -> NetworkSource:
    """How the registry may load what was asked for (arguments as for ``load_backbone``)."""
    weights = _absolute(weights)
    return NetworkSource(
        ("request", name, _identity(weights), seed, _config.weights_directory()),
        lambda: load_backbone(name, weights=weights, seed=seed),
    )


def found_source(
    reference: BackboneReference, packed: PackedWeights | None = None
) -> NetworkSource:
    """How the registry may load again what an earlier request found: by digest, or unpacked."""
    if packed is not None:
        return NetworkSource(("packed", reference), packed.unpack, reference)
    return NetworkSource(
        ("found", reference, _config.weights_directory()),
        lambda: load_backbone(
            reference.name, weights=_moved(reference.weights), seed=reference.seed or 0
        ),
        reference,
    )


def _moved(weights: str | None) -> str | None:
    """A file of the same name in the weights folder, for one that is not where it was.

    Another machine has other folders; the digest tells whether it is the same file.
    """
    directory = _config.weights_directory()
    if weights is not None and directory is not None and Path(weights).name != weights:
        moved = directory / Path(weights).name
        if not Path(weights).is_file() and moved.is_file():
            return str(moved)
    return weights


def _identity(weights: Any) -> Any:
    """A hashable identity of a weights request; for a file, one that changes when it does."""
    if not isinstance(weights, (str, os.PathLike)):
        return None if weights is None else str(weights)
    candidates = [Path(weights)]
    if (directory := _config.weights_directory()) is not None:
        candidates.append(directory / Path(weights).name)
    for path in candidates:
        try:
            status = path.stat()
        except OSError:
            continue
        return (str(path.absolute()), status.st_size, status.st_mtime_ns)
    return str(weights)


def _absolute(weights: Any) -> Any:
    """A path that still means the same file after a change of directory."""
    if isinstance(weights, (str, os.PathLike)):
        path = Path(weights).expanduser()
        if path.is_file():
            return str(path.absolute())
    return weights
