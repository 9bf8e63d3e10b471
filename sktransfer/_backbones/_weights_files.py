"""Where weight files are, and whether they are the right ones.

It must not know what is inside them, nor which network wants them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import FileLock

from sktransfer._backbones._download import NoConnectionError, download, sha256_of
from sktransfer._utils import config as _config
from sktransfer._utils.writing import written_whole
from sktransfer.exceptions import WeightsMismatchError, WeightsNotFoundError

# The publishers' convention (torchvision, timm): NAME-<first hex digits of the sha256>.pth
_DIGEST_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.")
WEIGHT_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")


class WeightsFile(NamedTuple):
    """A weights file on this machine and the sha256 (hex) of its content."""

    path: Path
    sha256: str

    @property
    def digest(self) -> str:
        """``"sha256:<hex>"``, as a :class:`BackboneReference` holds it."""
        return f"sha256:{self.sha256}"


def find_weights_file(
    filename: str, *, url: str | None = None, digest_prefix: str | None = None
) -> WeightsFile:
    """Find published weights by file name on this machine, or download them.

    The folder named by ``SKTRANSFER_WEIGHTS_DIR`` comes first, then torch's hub cache, which is
    also where a download goes. Their sha256 must begin with ``digest_prefix`` (by default the
    digits in the file name); all of it is recorded the first time and must stay the same.
    """
    prefix = digest_prefix or digest_in_name(filename)
    path = _on_disk(filename)
    if path is None:
        path = _download_to_cache(filename, url, prefix)
    file = WeightsFile(path, _digest_of(path))
    _check_published_digest(file, filename, prefix)
    return file


def open_weights_path(path: str | os.PathLike[str]) -> WeightsFile:
    """Return the weights file at a path with its digest.

    A name alone is looked up in the folder named by ``SKTRANSFER_WEIGHTS_DIR`` too: a fitted
    estimator then finds its weights on another machine.
    """
    given = Path(path).expanduser()
    candidates = [given]
    directory = _config.weights_directory()
    # A path that is mistyped is not replaced by some file elsewhere.
    if directory is not None and given.parent == Path():
        candidates.append(directory / given.name)
    for candidate in candidates:
        if candidate.is_file():
            return WeightsFile(candidate, _digest_of(candidate))
    also = "" if len(candidates) == 1 else f", nor is it in {directory}"
    hint = "It is a folder: name the file in it. " if given.is_dir() else ""
    raise WeightsNotFoundError(
        f"There is no weights file {os.fspath(path)!r}{also}. {hint}Give weights= the path of a "
        f"state dict ({', '.join(WEIGHT_SUFFIXES)}), or put the file into a folder and name that "
        f"folder in {_config.WEIGHTS_DIR_VARIABLE}."
    )


def default_or_path(
    name: str, weights: Any, default: Callable[[], WeightsFile], hint: str = ""
) -> tuple[WeightsFile, str]:
    """Return the file that ``weights=`` names, and ``weights=`` as a reference holds it."""
    if isinstance(weights, str) and weights == "default":
        return default(), "default"
    if looks_like_path(weights):
        return open_weights_path(weights), os.fspath(weights)
    raise WeightsMismatchError(
        f'{name} has no weights {weights!r}. It takes "default", the path of a weights file or '
        f"None (random weights){hint}."
    )


def is_on_disk(filename: str) -> bool:
    """Return whether published weights can be had without a download."""
    return _on_disk(filename) is not None


def digest_in_name(filename: str) -> str | None:
    """Return the first hex digits of the sha256 that a published file's name has, or None."""
    found = _DIGEST_IN_NAME.search(filename)
    return found.group(1) if found else None


def looks_like_path(weights: object) -> bool:
    """Return whether ``weights=`` names a file rather than one of a provider's own weights."""
    if isinstance(weights, os.PathLike):
        return True
    return isinstance(weights, str) and (
        weights.lower().endswith(WEIGHT_SUFFIXES) or "/" in weights or os.sep in weights
    )


def checkpoints_directory() -> Path:
    """Return torch's own folder of downloaded weights, shared with torchvision."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def _on_disk(filename: str) -> Path | None:
    for directory in (_config.weights_directory(), checkpoints_directory()):
        if directory is not None and (directory / filename).is_file():
            return directory / filename
    return None


def _download_to_cache(filename: str, url: str | None, prefix: str | None) -> Path:
    if url is None:
        raise _not_found(filename, url, "it is not known where to download it")
    if _config.offline():
        raise _not_found(
            filename, url, f"{_config.OFFLINE_VARIABLE} is set, which forbids downloading it"
        )
    target = checkpoints_directory() / filename
    try:
        digest = download(url, target, digest_prefix=prefix)
    except NoConnectionError as exc:
        raise _not_found(filename, url, f"it could not be downloaded: {exc}") from exc
    _remember_digest(target, digest)
    return target


def _not_found(filename: str, url: str | None, reason: str) -> WeightsNotFoundError:
    directory = _config.weights_directory()
    variable = _config.WEIGHTS_DIR_VARIABLE
    first = f"{variable}, now {directory}" if directory else f"any folder, named in {variable}"
    source = f" It is published at {url}" if url else ""
    return WeightsNotFoundError(
        f"The weights file {filename!r} is not on this machine, and {reason.rstrip('.')}. Put it "
        f"into {checkpoints_directory()} (torch's hub cache) or into {first}.{source} "
        "weights=PATH takes any other file, weights=None random weights."
    )


def _check_published_digest(file: WeightsFile, filename: str, prefix: str | None) -> None:
    """Refuse content that the publisher did not announce, or other than was used here before."""
    if prefix is None:
        return
    if not file.sha256.startswith(prefix.lower()):
        raise WeightsMismatchError(
            f"{file.path} is damaged or is something else: its sha256 begins with "
            f"{file.sha256[: max(8, len(prefix))]}, the publisher announces {prefix}. Delete it "
            "to have it downloaded again; to use it on purpose, give its path as weights=."
        )
    # Eight digits are few enough to forge: the first file that fits is held to its whole digest.
    recorded = _recorded_digest(filename, file.sha256)
    if recorded != file.sha256:
        raise WeightsMismatchError(
            f"{file.path} is not the {filename} that was used on this machine before: its sha256 "
            f"is {file.sha256}, recorded was {recorded}. If you trust the new file, delete the "
            f"entry in {_records_path()}."
        )


# --- records of digests ------------------------------------------------------------------------

# ``digests.json`` in sktransfer's home has two parts. ``seen`` saves hashing a big file only to
# learn its digest (path, size and modification time are the same as before); whoever loads the
# tensors hashes what is loaded all the same. ``published`` maps each published file name to the
# first digest seen under it. A home that cannot be written to costs time and the second check,
# and is no error.


def forget_digest(path: Path) -> None:
    """Drop the record of a file whose content turned out to be another."""
    _change_records(lambda records: records["seen"].pop(str(path.absolute()), None))


def _digest_of(path: Path) -> str:
    entry = _read_records()["seen"].get(str(path.absolute()))
    if isinstance(entry, list) and entry[:2] == stamp(path) and isinstance(entry[-1], str):
        return entry[-1]
    digest = sha256_of(path)
    _remember_digest(path, digest)
    return digest


def _remember_digest(path: Path, digest: str) -> None:
    entry = {str(path.absolute()): [*stamp(path), digest]}
    _change_records(lambda records: records["seen"].update(entry))


def _recorded_digest(filename: str, digest: str) -> str:
    """Return the digest a published name is held to; ``digest`` becomes it if there is none."""
    recorded = _read_records()["published"].get(filename)
    if isinstance(recorded, str):
        return recorded
    _change_records(lambda records: records["published"].setdefault(filename, digest))
    return digest


def _records_path() -> Path:
    return _config.home_directory() / "digests.json"


def _read_records() -> dict[str, dict[str, Any]]:
    data: object = None
    with suppress(OSError, ValueError):
        data = json.loads(_records_path().read_text(encoding="utf-8"))
    found = data if isinstance(data, dict) else {}
    return {
        part: found[part] if isinstance(found.get(part), dict) else {}
        for part in ("seen", "published")
    }


def _change_records(change: Callable[[dict[str, dict[str, Any]]], object]) -> None:
    path = _records_path()
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.parent / ".digests.lock"):
            records = _read_records()
            change(records)
            with written_whole(path) as temporary:
                temporary.write_text(json.dumps(records, indent=1), encoding="utf-8")


def stamp(file: Path | int) -> list[int]:
    """Return size and modification time of a file, by its path or descriptor."""
    status = os.stat(file)
    return [status.st_size, status.st_mtime_ns]
