"""Weights across processes: finding a network again by digest, or carrying it along.

It must not know estimators.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from sktransfer._backbones import (
    OWN,
    Backbone,
    BackboneProvider,
    BackboneReference,
    OwnNetwork,
    WeightsFile,
    architecture,
    digest_of,
    find_again,
    is_own,
    load_backbone,
    load_strict,
    looks_like_path,
    name_of,
    search_folders,
    shortened,
    state_dict_digest,
    with_tensors,
)
from sktransfer._frozen import NetworkSource
from sktransfer._utils import config as _config
from sktransfer._version import __version__
from sktransfer.exceptions import (
    MissingDependencyError,
    WeightsDownloadError,
    WeightsMismatchError,
    WeightsNotFoundError,
)

# Rises when a file of an older version can no longer be read as if it were of this one. Files of
# schema 1 had no digest.
SCHEMA = 3
# What the names of pretrained tensors in a saved file begin with.
_PRETRAINED = "pretrained."
_HOW_TO_GIVE = (
    "Give the file, or a folder that it is in, as load(path, weights=PATH), to a command as "
    "--weights PATH, or to an unpickled estimator as estimator.set_params(weights=PATH), or name "
    f"its folder in {_config.WEIGHTS_DIR_VARIABLE}. An estimator with store_weights=True (train "
    "--store-weights) carries its weights."
)


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

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors as a file of ``FineTuneClassifier.save`` holds them."""
        tensors = unseal(self.data, "the estimator")[1]
        return {_PRETRAINED + name: tensor for name, tensor in tensors.items()}

    @classmethod
    def of_file(cls, header: dict[str, Any], tensors: dict[str, Tensor]) -> PackedWeights | None:
        """Take the pretrained tensors out of those of a file, if it has them."""
        if header.get("packed") is None:
            return None
        names = [name for name in tensors if name.startswith(_PRETRAINED)]
        own = {name.removeprefix(_PRETRAINED): tensors.pop(name) for name in names}
        return cls(BackboneReference(**header["reference"]), int(header["packed"]), seal(own))

    def unpack(self, own: OwnNetwork | None = None) -> Backbone:
        """Return the architecture, with the packed tensors in the stages that were packed.

        The other stages hold nothing (they are on torch's meta device), or what the user's ``own``
        module has there, and are never run.
        """
        if own is None:
            backbone = architecture(self.reference.name, weights=self.reference.weights)
        else:
            backbone = own.to_backbone()
        kept = _kept(backbone, self.depth).modules()
        if any(tensor.is_meta for tensor in kept.state_dict().values()):
            kept.to_empty(device="cpu")
        source = "the saved estimator"
        load_strict(kept, unseal(self.data, source)[1], source=source)
        return replace(backbone, reference=self.reference)


def _kept(backbone: Backbone, depth: int) -> Backbone:
    """Return the part of a network that is packed."""
    if depth > backbone.n_stages:
        return replace(backbone, classifier=None)
    return backbone.truncated(depth)


def request_source(
    backbone: Any, weights: Any, seed: int, image_size: int | None = None
) -> NetworkSource:
    """Return how to load what an estimator's parameters ask for.

    ``backbone`` is a name for ``load_backbone``, a file that ``FineTuneClassifier.save`` wrote, or
    a fitted FineTuneClassifier, in a FrozenEstimator or bare; or a module of the user's own, which
    is checked on images of ``image_size``.
    """
    if is_name(backbone):
        directory = _config.weights_directory()
        identity = None
        if weights is not None:
            weights, identity = _absolute(weights), _identity(weights, directory)
        return NetworkSource(
            ("request", backbone, identity, seed, directory),
            partial(load_backbone, backbone, weights=weights, seed=seed),
            found_as=backbone,
        )
    if is_own(backbone):
        own = OwnNetwork.of(backbone, weights, seed, image_size)
        network = own.to_backbone()
        return NetworkSource(("own", network.reference), lambda: network, found_as=own)
    provider = tuned_provider(backbone)
    if not isinstance(weights, str) or weights != "default":
        raise ValueError(
            f"A fine-tuned backbone comes with its weights; leave weights='default' (got "
            f"{weights!r})."
        )
    tuned = provider.to_backbone()
    key = ("tuned", tuned.reference)
    found_as = backbone
    if isinstance(provider, SavedNetwork):
        found_as = saved_reference(provider.path)
    return NetworkSource(key, lambda: tuned, found_as=found_as)


def found_source(
    reference: BackboneReference,
    packed: PackedWeights | None = None,
    backbone: Any = None,
    places: Sequence[str | os.PathLike[str]] = (),
) -> NetworkSource:
    """Return how to load again what an earlier request found: by digest, or unpacked.

    ``backbone`` is what was asked for then (``found_as``), by which a fine-tuned network is found,
    and ``places`` are files and folders to look into besides the usual ones.
    """
    key: tuple = ("found", reference)
    if packed is not None:
        own = backbone if isinstance(backbone, OwnNetwork) else None
        return NetworkSource(("packed", reference), partial(packed.unpack, own), reference)
    if backbone is None or is_name(backbone):
        return NetworkSource(key, partial(_load_published, reference, places), reference)
    load = partial(_load_tuned, reference, backbone, places)
    return NetworkSource(("tuned", reference), load, reference)


def _load_published(
    reference: BackboneReference, places: Sequence[str | os.PathLike[str]]
) -> Backbone:
    """Load a network by name with weights of the same digest, or draw them from the same seed."""
    file = None
    if reference.weights is not None:
        file = find_again(reference, places)
        if file is None and looks_like_path(reference.weights):
            raise not_found(reference, places)
    seed = reference.seed or 0
    try:
        found = load_backbone(reference.name, weights=reference.weights, seed=seed, file=file)
    except (WeightsNotFoundError, WeightsDownloadError, MissingDependencyError) as error:
        if file is not None or reference.weights is None:
            raise
        # Not which other networks would work here.
        raise not_found(reference, places, f"{error.__cause__ or error}") from error
    return _checked(found, reference)


def _load_tuned(
    reference: BackboneReference, backbone: Any, places: Sequence[str | os.PathLike[str]]
) -> Backbone:
    """Load the network of a saved or fitted estimator."""
    provider = tuned_provider(saved_again(backbone, places))
    if isinstance(provider, SavedNetwork):
        provider = replace(provider, places=tuple(places))
    return _checked(provider.to_backbone(), reference)


def _checked(found: Backbone, reference: BackboneReference) -> Backbone:
    """Return a network under the reference that it was asked for by; raise if it is another."""
    if found.reference.digest != reference.digest:
        raise _digest_mismatch(reference.digest, found.reference)
    return replace(found, reference=reference)


def saved_again(backbone: Any, places: Sequence[str | os.PathLike[str]]) -> Any:
    """Return the path of a saved estimator that was a backbone; a fitted one is itself."""
    if not isinstance(backbone, BackboneReference):
        return backbone
    file = None if backbone.size is None else find_again(backbone, places)
    if file is not None:
        return file.path
    # Saved again, it may still hold the same network.
    before = Path(str(backbone.weights))
    for folder in (before.parent, *places, *(folder for _, folder in search_folders())):
        if (Path(folder) / before.name).is_file():
            return Path(folder) / before.name
    raise not_found(backbone, places)


def saved_reference(path: Path) -> BackboneReference:
    """Return how the file of a saved estimator is found again."""
    digest, size = f"sha256:{digest_of(path)}", path.stat().st_size
    return BackboneReference("a saved estimator", name_of(path), None, digest, size)


def ensure_found(
    reference: BackboneReference,
    packed: PackedWeights | None,
    backbone: Any,
    places: Sequence[str | os.PathLike[str]],
) -> WeightsFile | None:
    """Return the weights file of :func:`found_source`; raise if it, or a first step's, is missing.

    Nothing is loaded or downloaded. None is returned where no file is needed.
    """
    if reference.name.startswith("timm/") and find_spec("timm") is None:
        architecture(reference.name)  # says what to install
    if packed is not None:
        return None
    if backbone is not None and not is_name(backbone):
        path = saved_again(backbone, places)
        if isinstance(path, (str, os.PathLike)):
            header, _, inner, first = _read_network(Path(path))
            ensure_found(
                inner, first, found_as_of(header["found_as"]), (Path(path).parent, *places)
            )
        return None
    file = None if reference.weights is None else find_again(reference, places)
    if file is None and reference.weights is not None:
        raise not_found(reference, places)
    return file


def not_found(
    reference: BackboneReference, places: Sequence[str | os.PathLike[str]], reason: str = ""
) -> WeightsNotFoundError | WeightsMismatchError:
    """Return the error for a file that is not on this machine: what it is, and how to give it."""
    named = looks_like_path(reference.weights)
    name = Path(str(reference.weights)).name
    size = "" if reference.size is None else f", {reference.size:,} bytes"
    variable = _config.WEIGHTS_DIR_VARIABLE
    folders = [*((str(place), Path(place)) for place in places)]
    folders += [(f"{folder} ({what})", folder) for what, folder in search_folders()]
    where = [text for text, _ in folders]
    if _config.weights_directory() is None:
        where.append(f"no folder named in {variable}, which is not set")
    others = [
        f"{path} is another file, whose digest is sha256:{digest_of(path)}. "
        for path in (place if place.is_file() else place / name for _, place in folders)
        if named and path.is_file()
    ]
    text = (
        f"The weights that this estimator was fitted with are not on this machine: {name!r} of "
        f"{reference.name} ({reference.digest}{size}). A file of this digest was looked for, "
        f"whatever its name, where it was before and in {'; '.join(where)}. "
        f"{''.join(others)}{reason} {_HOW_TO_GIVE}"
    ).replace("  ", " ")
    return WeightsMismatchError(text) if others else WeightsNotFoundError(text)


def _digest_mismatch(expected: str, found: BackboneReference) -> WeightsMismatchError:
    """Return the error for weights that are not those an estimator was fitted with."""
    if found.weights == OWN:
        what = (
            f"the module {found.name} with the digest {expected}, and it has changed: its digest "
            f"is {found.digest} now. Give it the weights and settings that it had, fit again"
        )
    elif found.weights is None:
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
    if isinstance(inner, OwnNetwork):
        return inner
    if not isinstance(inner, BackboneProvider):
        raise ValueError(
            "backbone is a name (sktransfer.list_backbones()), a file that FineTuneClassifier.save "
            "wrote, FrozenEstimator(fitted FineTuneClassifier), or a torch module (of a skorch "
            f"net, its module_); got {shortened(repr(backbone), 200)}."
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
    places: tuple[str | os.PathLike[str], ...] = ()

    def to_backbone(self) -> Backbone:
        """Load the network that was fine-tuned, without its head."""
        header, tensors, reference, packed = _read_network(self.path)
        places = (self.path.absolute().parent, *self.places)
        base = found_source(reference, packed, found_as_of(header["found_as"]), places)
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
    if not isinstance(header, dict) or not {"schema", "estimator"} <= set(header):
        raise WeightsMismatchError(f"{path} holds no saved estimator; it is another kind of file.")
    return header, tensors


def _read_network(
    path: Path,
) -> tuple[dict[str, Any], dict[str, Any], BackboneReference, PackedWeights | None]:
    """Read a saved estimator that is to be a backbone."""
    header, tensors = read_saved(path)
    if not {"reference", "found_as"} <= set(header):
        raise ValueError(
            f"{path} holds a saved {header['estimator']}, which may be several networks, and so "
            "no backbone. Save its best_estimator_, if that is a FineTuneClassifier."
        )
    reference, packed = (
        BackboneReference(**header["reference"]),
        PackedWeights.of_file(header, tensors),
    )
    return header, tensors, reference, packed


def found_as_of(found_as: Any) -> Any:
    """Return how a network is found again, as a pickle or a file of any version has it."""
    if isinstance(found_as, dict) and OWN in found_as:
        raise ValueError(
            f"This model was trained on a module of the user's own, {found_as[OWN]}, whose code no "
            "file holds. Give the module, with any weights: net = FineTuneClassifier.load(path, "
            "backbone=module). For a second step, backbone=FrozenEstimator(net)."
        )
    if isinstance(found_as, dict):
        return BackboneReference(**found_as)
    if isinstance(found_as, (str, os.PathLike)) and not is_name(found_as):
        path = os.fspath(found_as)  # all that earlier versions knew
        return BackboneReference("a saved estimator", path, None, "sha256:unknown")
    return found_as


def is_name(backbone: Any) -> bool:
    """Return whether ``backbone`` names a network, not a saved or fitted estimator."""
    return isinstance(backbone, str) and not backbone.endswith(".safetensors")


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
