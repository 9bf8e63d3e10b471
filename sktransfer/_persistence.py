"""Weights across processes: finding a network again by digest, or carrying it along.

It must not know estimators.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from sktransfer._backbones import (
    Backbone,
    BackboneProvider,
    BackboneReference,
    architecture,
    load_backbone,
    load_strict,
    state_dict_digest,
    with_tensors,
)
from sktransfer._frozen import NetworkSource
from sktransfer._utils import config as _config
from sktransfer._version import __version__
from sktransfer.exceptions import WeightsMismatchError

# Rises when a file of an older version can no longer be read as if it were of this one. Files of
# schema 1 had no digest.
SCHEMA = 2


def seal(tensors: Mapping[str, Tensor], header: Any = None) -> bytes:
    """Return a safetensors file of tensors, a header, and a digest of both."""
    text = json.dumps(header, sort_keys=True)
    metadata = {"sktransfer": text, "digest": state_dict_digest(tensors, text)}
    return safetensors.torch.save(dict(tensors), metadata)


def unseal(data: bytes, source: str | os.PathLike[str]) -> tuple[Any, dict[str, Tensor]]:
    """Return the header and the tensors of :func:`seal`; raise if one bit of them has changed.

    ``source`` is where the bytes come from, for the message. No code is run. The digest tells of
    damage and of edits, and protects from nobody who computes it again.
    """
    try:
        tensors = safetensors.torch.load(data)
        # The reader has found a header of this length to be sound.
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
        text = metadata.get("sktransfer", "null")
        header = json.loads(text)
    except (safetensors.SafetensorError, KeyError, ValueError, RecursionError) as error:
        raise WeightsMismatchError(
            f"{source} is not a file that save wrote, or it is damaged: {error}"
        ) from error
    if isinstance(header, dict) and header.get("schema", SCHEMA) != SCHEMA:
        raise WeightsMismatchError(
            f"{source} holds a saved estimator of schema {header['schema']!r}, of sktransfer "
            f"{header.get('sktransfer')}; this version {__version__} reads schema {SCHEMA}. Load "
            "it with that version, or fit again and save it with this one."
        )
    if "digest" not in metadata:
        raise WeightsMismatchError(f"{source} holds no saved estimator; it is another file.")
    if metadata["digest"] != state_dict_digest(tensors, text):
        raise WeightsMismatchError(
            f"{source} was damaged or edited after it was saved: the digest of its content is not "
            "the one that was written with it. Take a copy of the file as it was saved, or fit "
            "again; load(path, **params) changes parameters."
        )
    return header, tensors


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
        """Keep the first ``depth`` stages of ``backbone`` (the neck counts as the last one)."""
        tensors = {
            name: tensor.contiguous()
            for name, tensor in _kept(backbone, depth).modules().state_dict().items()
        }
        return cls(reference, depth, seal(tensors))

    def unpack(self) -> Backbone:
        """Return the architecture, with the packed tensors in the stages that were packed.

        The other stages hold nothing (they are on torch's meta device) and are never run.
        """
        backbone = architecture(self.reference.name, weights=self.reference.weights)
        kept = _kept(backbone, self.depth).modules()
        if any(tensor.is_meta for tensor in kept.state_dict().values()):
            kept.to_empty(device="cpu")
        load_strict(kept, unseal(self.data, "the pickle")[1], source="the pickle")
        return replace(backbone, reference=self.reference)


def _kept(backbone: Backbone, depth: int) -> Backbone:
    """Return the part of a network that is packed."""
    if depth > backbone.n_stages:
        return replace(backbone, classifier=None)
    return backbone.truncated(depth)


def request_source(backbone: Any, weights: Any, seed: int) -> NetworkSource:
    """Return how to load what an estimator's parameters ask for.

    ``backbone`` is a name for ``load_backbone``, a file that ``FineTuneClassifier.save`` wrote, or
    a fitted FineTuneClassifier, in a FrozenEstimator or bare.
    """
    if not is_name(backbone):
        provider = tuned_provider(backbone)
        if not isinstance(weights, str) or weights != "default":
            raise ValueError(
                f"A fine-tuned backbone comes with its weights; leave weights='default' (got "
                f"{weights!r})."
            )
        tuned = provider.to_backbone()
        key = ("tuned", tuned.reference)
        return NetworkSource(key, lambda: tuned, found_as=_absolute(backbone))
    directory = _config.weights_directory()
    identity = None
    if weights is not None:
        weights, identity = _absolute(weights), _identity(weights, directory)
    return NetworkSource(
        ("request", backbone, identity, seed, directory),
        partial(load_backbone, backbone, weights=weights, seed=seed),
        found_as=backbone,
    )


def found_source(
    reference: BackboneReference, packed: PackedWeights | None = None, backbone: Any = None
) -> NetworkSource:
    """Return how to load again what an earlier request found: by digest, or unpacked.

    ``backbone`` is what was asked for then, by which a fine-tuned network is found.
    """
    directory = _config.weights_directory()
    key: tuple = ("found", reference, directory)
    if packed is not None:
        key, load = ("packed", reference), packed.unpack
    elif backbone is None or is_name(backbone):
        weights = reference.weights and _moved(reference.weights, directory)
        seed = reference.seed or 0
        load = partial(load_backbone, reference.name, weights=weights, seed=seed)
    else:
        if isinstance(backbone, (str, os.PathLike)):
            backbone = _moved(os.fspath(backbone), directory)
        key, load = ("tuned", reference), tuned_provider(backbone).to_backbone
    return NetworkSource(key, partial(_load_again, reference, load), reference)


def _load_again(reference: BackboneReference, load: Callable[[], Backbone]) -> Backbone:
    """Load a network; raise where it is not the one of ``reference``."""
    found = load()
    if found.reference.digest != reference.digest:
        raise _digest_mismatch(reference.digest, found.reference)
    return found


def _digest_mismatch(expected: str, found: BackboneReference) -> WeightsMismatchError:
    """Return the error for weights that are not those an estimator was fitted with."""
    if found.weights is None:
        what = (
            f"random weights of {found.name} whose digest is {expected}; drawing them again here "
            f"from the same seed gave {found.digest} (another version of torch or torchvision "
            "draws others). Fit again"
        )
    else:
        what = (
            f"weights of {found.name} whose digest is {expected}, but the weights found on this "
            f"machine have the digest {found.digest}. Its embeddings would not be the ones it was "
            f"fitted on. Put the original file back (see {_config.WEIGHTS_DIR_VARIABLE}), fit again"
        )
    return WeightsMismatchError(
        f"This estimator was fitted with {what}, or save the estimator with store_weights=True "
        "next time."
    )


def tuned_provider(backbone: Any) -> BackboneProvider:
    """Return who has a fine-tuned network: a file, or an estimator, frozen or bare."""
    if isinstance(backbone, (str, os.PathLike)):
        return SavedNetwork(Path(backbone))
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
        """Load the network that was fine-tuned, without its head."""
        header, tensors = read_saved(self.path)
        reference = BackboneReference(**header["reference"])
        base = found_source(reference, None, next_to(self.path, header["found_as"]))
        return tuned_backbone(base.load(), reference, tensors)


def tuned_backbone(base: Backbone, reference: BackboneReference, learned: Any) -> Backbone:
    """Return ``base`` with what was learned in it, if ``base`` is what it was learned on."""
    if base.reference.digest != reference.digest:
        raise _digest_mismatch(reference.digest, base.reference)
    return with_tensors(base, {name.removeprefix("stages."): t for name, t in learned.items()})


def read_saved(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the header and tensors of a file that ``FineTuneClassifier.save`` wrote; run no code."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no saved estimator {str(path)!r}.")
    header, tensors = unseal(Path(path).read_bytes(), path)
    if not isinstance(header, dict) or not {"schema", "reference", "found_as"} <= set(header):
        raise WeightsMismatchError(f"{path} holds no saved estimator; it is another kind of file.")
    return header, tensors


def next_to(saved: str | os.PathLike[str], backbone: Any) -> Any:
    """Return a first step's file in the folder of the second's, if it is not where it was."""
    if is_name(backbone) or not isinstance(backbone, (str, os.PathLike)):
        return backbone
    return _moved(os.fspath(backbone), Path(saved).absolute().parent)


def is_name(backbone: Any) -> bool:
    """Return whether ``backbone`` names a network, not a saved or fitted estimator."""
    return isinstance(backbone, str) and not backbone.endswith(".safetensors")


def _moved(name: str, directory: Path | None) -> str:
    """Return a file of the same name in the weights folder, for one that is not where it was.

    Another machine has other folders; the digest tells whether it is the same file.
    """
    if directory is not None and Path(name).name != name and not Path(name).is_file():
        moved = directory / Path(name).name
        if moved.is_file():
            return str(moved)
    return name


def _identity(weights: Any, directory: Path | None) -> Any:
    """Return a hashable identity of a weights request; a file's changes when the file does."""
    if not isinstance(weights, (str, os.PathLike)):
        return str(weights)
    for path in [Path(weights), *([] if directory is None else [directory / Path(weights).name])]:
        try:
            status = path.stat()
        except OSError:
            continue
        return (str(path.absolute()), status.st_size, status.st_mtime_ns)
    return str(weights)


def _absolute(weights: Any) -> Any:
    """Return a path that still means the same file after a change of directory."""
    if isinstance(weights, (str, os.PathLike)):
        path = Path(weights).expanduser()
        if path.is_file():
            return str(path.absolute())
    return weights
