"""Weights across processes: finding a network again by digest, or carrying it along.

It must not know estimators.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted

from sktransfer._backbones import (
    Backbone,
    BackboneProvider,
    BackboneReference,
    architecture,
    load_backbone,
    load_strict,
    with_tensors,
)
from sktransfer._frozen import NetworkSource, digest_mismatch
from sktransfer._utils import config as _config

# Rises when a file of an older version can no longer be read as if it were of this one.
SCHEMA = 1


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


def request_source(backbone: Any, weights: Any, seed: int) -> NetworkSource:
    """How the registry may load what was asked for.

    Parameters
    ----------
    backbone : str, path-like or estimator
        A name for ``load_backbone``, a file that ``FineTuneClassifier.save`` wrote, or a fitted
        FineTuneClassifier, in a FrozenEstimator or bare.
    weights, seed
        As for ``load_backbone``.
    """
    provider = tuned_provider(backbone)
    if provider is not None:
        if not isinstance(weights, str) or weights != "default":
            raise ValueError(
                f"A fine-tuned backbone comes with its weights; leave weights='default' (got "
                f"{weights!r})."
            )
        tuned = provider.to_backbone()
        return NetworkSource(("tuned", tuned.reference), lambda: tuned)
    weights = _absolute(weights)
    return NetworkSource(
        ("request", backbone, _identity(weights), seed, _config.weights_directory()),
        lambda: load_backbone(backbone, weights=weights, seed=seed),
    )


def found_source(
    reference: BackboneReference, packed: PackedWeights | None = None, backbone: Any = None
) -> NetworkSource:
    """How the registry may load again what an earlier request found: by digest, or unpacked.

    ``backbone`` is what was asked for then, as :func:`lasting` gives it: a fine-tuned one is found
    by it.
    """
    if packed is not None:
        return NetworkSource(("packed", reference), packed.unpack, reference)
    if isinstance(backbone, (str, os.PathLike)):
        backbone = _moved(os.fspath(backbone))
    provider = tuned_provider(backbone)
    if provider is not None:
        return NetworkSource(("tuned", reference), provider.to_backbone, reference)
    return NetworkSource(
        ("found", reference, _config.weights_directory()),
        lambda: load_backbone(
            reference.name, weights=_moved(reference.weights), seed=reference.seed or 0
        ),
        reference,
    )


def tuned_provider(backbone: Any) -> BackboneProvider | None:
    """Who has a fine-tuned network, if ``backbone`` is one; None if it is a name."""
    if backbone is None:
        return None
    if _is_file_name(backbone):
        return SavedNetwork(Path(backbone))
    if isinstance(backbone, str):
        return None
    frozen = isinstance(backbone, FrozenEstimator)
    inner = backbone.estimator if frozen else backbone
    if not isinstance(inner, BackboneProvider):
        raise ValueError(
            "backbone is a name (sktransfer.list_backbones()), a file that FineTuneClassifier.save "
            f"wrote, or FrozenEstimator(fitted FineTuneClassifier); got {backbone!r}."
        )
    try:
        check_is_fitted(inner)
    except NotFittedError as error:
        raise ValueError(
            f"The {type(inner).__name__} given as backbone is not fitted. If it was, clone (and so "
            "every Pipeline, search and cross-validation) emptied it: give "
            "backbone=FrozenEstimator(fitted), or save it and give the file's path."
        ) from error
    return inner


@dataclass(frozen=True)
class SavedNetwork:
    """The network in a file that ``FineTuneClassifier.save`` wrote."""

    path: Path

    def to_backbone(self) -> Backbone:
        """The network that was fine-tuned, without its head."""
        header, tensors = read_saved(self.path)
        reference = BackboneReference(**header["reference"])
        base = found_source(reference, None, next_to(self.path, header["found_as"]))
        return tuned_backbone(base.load(), reference, tensors)


def tuned_backbone(base: Backbone, reference: BackboneReference, learned: Any) -> Backbone:
    """``base`` with what was learned in it.

    Raises
    ------
    WeightsMismatchError
        If ``base`` is not what it was learned on.
    """
    if base.reference.digest != reference.digest:
        raise digest_mismatch(reference.digest, base.reference)
    return with_tensors(base, {name.removeprefix("stages."): t for name, t in learned.items()})


def read_saved(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and tensors of a file that ``FineTuneClassifier.save`` wrote; no code is run.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is none, or it is something else.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no saved estimator {str(path)!r}.")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("sktransfer", "null"))
        tensors = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a file that save wrote: {error}") from error
    if not isinstance(header, dict) or header.get("schema") != SCHEMA or "reference" not in header:
        found = header.get("schema") if isinstance(header, dict) else None
        raise ValueError(
            f"{path} holds no saved estimator of schema {SCHEMA} (found: {found}); it is another "
            "kind of file, or of another version of sktransfer."
        )
    return header, tensors


def lasting(backbone: Any) -> Any:
    """``backbone`` so that it means the same after a change of directory."""
    return _absolute(backbone) if _is_file_name(backbone) else backbone


def next_to(saved: str | os.PathLike[str], backbone: Any) -> Any:
    """The file of a first step in the folder of the second one's, if it is not where it was."""
    if _is_file_name(backbone) and not Path(backbone).is_file():
        candidate = Path(saved).absolute().parent / Path(backbone).name
        if candidate.is_file():
            return str(candidate)
    return backbone


def _is_file_name(backbone: Any) -> bool:
    return isinstance(backbone, os.PathLike) or (
        isinstance(backbone, str) and backbone.endswith(".safetensors")
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
