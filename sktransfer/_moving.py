"""Fitted estimators that move between machines: files that are elsewhere are found by digest, and
what is missing is said when they are loaded. It must not know how networks are loaded.
"""

from __future__ import annotations

import os
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from sktransfer._backbones import BackboneReference, digest_of, looks_like_path, name_of
from sktransfer._persistence import (
    ensure_found,
    found_as_of,
    is_name,
    saved_again,
    saved_reference,
)
from sktransfer._utils.config import expanded
from sktransfer.exceptions import SkTransferError, WeightsMismatchError, WeightsNotFoundError

# Parameters that name folders -> what they are where there is no such folder.
_FOLDERS = {"cache": True, "checkpoint__dir": None}


def without_folders(params: dict[str, Any]) -> dict[str, Any]:
    """Return parameters as a file of ``save`` holds them: names of files, and no folders."""
    kept = dict(params)
    for name, value in params.items():
        if name in _FOLDERS and isinstance(value, (str, os.PathLike)):
            kept[name] = _FOLDERS[name]
        elif name in ("weights", "backbone") and _is_path(name, value):
            kept[name] = Path(value).name
    return kept


def _is_path(name: str, value: Any) -> bool:
    """Return whether the parameter ``weights`` or ``backbone`` names a file."""
    if name == "weights":
        return looks_like_path(value)
    return isinstance(value, (str, os.PathLike)) and not is_name(value)


def places_of(estimator: Any) -> tuple[str | os.PathLike[str], ...]:
    """Return where else the weights of a fitted estimator may be: in ``weights``, where it was."""
    given, own = estimator.weights, getattr(estimator, "_places", ())
    is_path = looks_like_path(given) or (isinstance(given, str) and os.path.isdir(given))
    return (*_with_subfolders(given), *own) if is_path else own


def given_places(weights: Any, estimator: Any) -> tuple[Path, ...]:
    """Return where ``weights`` of ``load`` says that a network is; raise if it cannot be there."""
    reference = estimator.reference_
    if weights is None or (isinstance(weights, str) and weights == "default"):
        return ()
    if not isinstance(weights, (str, os.PathLike)):
        raise ValueError(
            "weights is where the pretrained weights are, a file or a folder; got "
            f"{type(weights).__name__}. Other weights need another fit."
        )
    if reference.weights is None and is_name(estimator._found_as):
        raise ValueError(
            f"weights={os.fspath(weights)!r}: this estimator was fitted with random weights, which "
            "are drawn again from its seed, so that no file of weights belongs to it."
        )
    path = expanded(weights, "weights")
    if not path.exists():
        raise WeightsNotFoundError(
            f"weights={os.fspath(weights)!r} leads nowhere. Give the file of the pretrained "
            f"weights ({reference.weights}, {reference.digest}), or a folder that it is in."
        )
    if path.is_file() and reference.digest.startswith("sha256:"):
        found = f"sha256:{digest_of(path)}"
        if found != reference.digest:
            raise WeightsMismatchError(
                f"weights={os.fspath(weights)!r} is not the file that this estimator was fitted "
                f"with: its digest is {found}, that of {reference.weights} of {reference.name} was "
                f"{reference.digest}. Give the original file: the same tensors in another format "
                "have another digest."
            )
    return _with_subfolders(path)


def look_in(estimator: Any, weights: str | os.PathLike[str]) -> None:
    """Let an unpickled estimator find its network in a file or folder; raise if it is missing."""
    estimator._places = given_places(weights, estimator)
    missing = arrive(estimator)
    if missing is not None:
        raise missing


def is_place_of(weights: Any, estimator: Any) -> bool:
    """Return whether ``weights`` is only another place of the weights of ``fit``."""
    try:
        return bool(given_places(weights, estimator))
    except (SkTransferError, ValueError):
        return False


def _with_subfolders(place: str | os.PathLike[str]) -> tuple[Path, ...]:
    path = expanded(place, "weights")
    return tuple(Path(folder) for folder, _, _ in os.walk(path)) or (path,)


def arrive(estimator: Any) -> Exception | None:
    """Give an estimator that was loaded paths of this machine; return what is missing, if any."""
    missing, file, backbone = None, None, None
    places = places_of(estimator)
    found_as = estimator._found_as = found_as_of(estimator._found_as)
    try:
        file = ensure_found(estimator.reference_, estimator._packed, found_as, places)
    except (SkTransferError, OSError) as error:
        missing = error
    if isinstance(found_as, BackboneReference):
        estimator._found_as = replace(found_as, weights=name_of(str(found_as.weights)))
        with suppress(SkTransferError, OSError):
            backbone = saved_again(found_as, places).absolute()
            if found_as.size is None:
                estimator._found_as = saved_reference(backbone)
    found = {"weights": None if file is None else file.path.absolute(), "backbone": backbone}
    for values in (vars(estimator), vars(estimator).get("_made_with", {})):
        for name, path in found.items():
            value = values.get(name)
            if path is None or not _is_path(name, value):
                continue
            if not (os.path.isfile(value) and os.path.samefile(value, path)):
                values[name] = str(path)
    reference = estimator.reference_
    if file is not None and reference.size is None:  # of an earlier version
        reference = replace(reference, size=file.size)
    if looks_like_path(reference.weights):
        reference = replace(reference, weights=name_of(str(reference.weights)))
    estimator.reference_ = reference
    if estimator._packed is not None:
        estimator._packed = replace(estimator._packed, reference=reference)
    return missing


def arrive_from_pickle(estimator: Any) -> None:
    """Give an unpickled estimator paths of this machine, and warn of what is missing."""
    forget_folders(estimator)
    missing = arrive(estimator)
    if missing is not None:
        # An error would make all else that is in the pickle unreadable.
        kind = type(estimator).__name__
        warnings.warn(f"This {kind} cannot compute anything yet. {missing}", stacklevel=3)


def forget_folders(estimator: Any) -> None:
    """Let an unpickled estimator do without folders that cannot be made on this machine."""
    for name, instead in _FOLDERS.items():
        value = getattr(estimator, name, None)
        if isinstance(value, (str, os.PathLike)):
            folder = os.path.abspath(os.path.expanduser(value))
            if not (os.path.isdir(folder) or os.access(os.path.dirname(folder), os.W_OK)):
                setattr(estimator, name, instead)
