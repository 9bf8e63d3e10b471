"""Where weight files are and whether they are the right ones; it must not know what is inside
them, nor which network wants them.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock

from sktransfer._backbones._download import NoConnectionError, download, sha256_of
from sktransfer._utils import config as _config
from sktransfer.exceptions import WeightsMismatchError, WeightsNotFoundError

# The publishers' convention (torchvision, timm): NAME-<first hex digits of the sha256>.pth
_DIGEST_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.")
WEIGHT_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")


@dataclass(frozen=True)
class WeightsFile:
    """A weights file on this machine and the sha256 (hex) of what is in it."""

    path: Path
    sha256: str

    @property
    def digest(self) -> str:
        """``"sha256:<hex>"``, as a :class:`BackboneReference` holds it."""
        return f"sha256:{self.sha256}"


def find_weights_file(
    filename: str, *, url: str | None = None, digest_prefix: str | None = None
) -> WeightsFile:
    """Find published weights by file name: on this machine, or else on the network.

    Looked for in the folder named by ``SKTRANSFER_WEIGHTS_DIR``, then in torch's hub cache, into
    which they are downloaded otherwise. Their sha256 must begin as the publisher says; the whole
    of it is written down the first time and must be the same ever after.

    Parameters
    ----------
    filename : str
        Name under which they are published, such as ``"resnet18-f37072fd.pth"``.
    url : str or None, default=None
        Where they can be downloaded.
    digest_prefix : str or None, default=None
        First hex digits of their sha256 (or all 64); read off the file name by default.

    Returns
    -------
    WeightsFile

    Raises
    ------
    WeightsNotFoundError
        If they are not here and cannot be downloaded.
    WeightsDownloadError
        If the download did not end as announced.
    WeightsMismatchError
        If a file of that name is here and its content is something else.

    Examples
    --------
    >>> from sktransfer._backbones._weights import find_weights_file
    >>> find_weights_file("nothing-00000000.pth")
    Traceback (most recent call last):
        ...
    sktransfer.exceptions.WeightsNotFoundError: The weights file 'nothing-00000000.pth' ...
    """
    prefix = digest_prefix or digest_in_name(filename)
    path = _on_disk(filename)
    if path is None:
        path = _download_to_cache(filename, url, prefix)
    file = WeightsFile(path, _digest_of(path))
    _check_published_digest(file, filename, prefix)
    return file


def open_weights_path(path: str | os.PathLike[str]) -> WeightsFile:
    """The weights file at a path, hashed.

    A path that leads nowhere falls back on the file of the same name in the folder named by
    ``SKTRANSFER_WEIGHTS_DIR``: a fitted estimator then finds its weights on another machine.

    Parameters
    ----------
    path : str or path-like
        ``.pth``, ``.pt``, ``.bin`` or ``.safetensors`` file.

    Returns
    -------
    WeightsFile

    Raises
    ------
    WeightsNotFoundError
        If there is no such file.

    Examples
    --------
    >>> from sktransfer._backbones._weights import open_weights_path
    >>> open_weights_path("no/such/file.pth")
    Traceback (most recent call last):
        ...
    sktransfer.exceptions.WeightsNotFoundError: There is no weights file 'no/such/file.pth'...
    """
    given = Path(path).expanduser()
    candidates = [given]
    directory = _config.weights_directory()
    # A name alone is looked up; a path that is mistyped is not replaced by some file elsewhere.
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


def is_on_disk(filename: str) -> bool:
    """Whether published weights can be had without a download."""
    return _on_disk(filename) is not None


def digest_in_name(filename: str) -> str | None:
    """First hex digits of the sha256 that a published file's name carries, or None."""
    found = _DIGEST_IN_NAME.search(filename)
    return found.group(1) if found else None


def looks_like_path(weights: object) -> bool:
    """Whether ``weights=`` names a file rather than one of a provider's own weights."""
    if isinstance(weights, os.PathLike):
        return True
    return isinstance(weights, str) and (
        weights.lower().endswith(WEIGHT_SUFFIXES) or "/" in weights or os.sep in weights
    )


def checkpoints_directory() -> Path:
    """Torch's own folder of downloaded weights, shared with torchvision."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def _on_disk(filename: str) -> Path | None:
    directories = [_config.weights_directory(), checkpoints_directory()]
    for directory in directories:
        if directory is not None and (directory / filename).is_file():
            return directory / filename
    return None


def _download_to_cache(filename: str, url: str | None, prefix: str | None) -> Path:
    if url is None:
        raise _not_found(filename, url, "nothing is known about where to download it")
    if _config.offline():
        raise _not_found(
            filename, url, f"{_config.OFFLINE_VARIABLE} is set, which forbids downloading it"
        )
    target = checkpoints_directory() / filename
    try:
        digest = download(url, target, digest_prefix=prefix)
    except NoConnectionError as exc:
        raise _not_found(filename, url, f"it could not be downloaded: {exc}") from exc
    _Ledger().remember(target, digest)
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
    """Refuse content the publisher did not announce, or that is not what was seen here before."""
    if prefix is None:
        return
    if not file.sha256.startswith(prefix.lower()):
        raise WeightsMismatchError(
            f"{file.path} is damaged or is something else: its sha256 begins with "
            f"{file.sha256[: max(8, len(prefix))]}, the publisher announces {prefix}. Delete it "
            "to have it downloaded again; to use it on purpose, give its path as weights=."
        )
    # Eight digits are few enough to forge: the first file that fits is held to its whole digest.
    recorded = _Ledger().published(filename, file.sha256)
    if recorded != file.sha256:
        raise WeightsMismatchError(
            f"{file.path} is not the {filename} that was used on this machine before: its sha256 "
            f"is {file.sha256}, recorded was {recorded}. If you trust the new file, delete the "
            f"entry in {_Ledger().path}."
        )


def _digest_of(path: Path) -> str:
    ledger = _Ledger()
    digest = ledger.recall(path)
    if digest is None:
        digest = sha256_of(path)
        ledger.remember(path, digest)
    return digest


def forget_digest(path: Path) -> None:
    """Drop what is remembered about a file whose content turned out to be another."""
    _Ledger().forget(path)


class _Ledger:
    """``digests.json`` in sktransfer's home: sha256 of files seen, and of published files.

    ``seen`` spares hashing a big file only to learn its name (path, size and modification time
    are the same as before); whoever loads the tensors hashes what is loaded all the same.
    ``published`` holds each published file name to the first digest seen under it. A home that
    cannot be written to costs time and the second check, never the work.
    """

    def __init__(self) -> None:
        self.path = _config.home_directory() / "digests.json"

    def recall(self, path: Path) -> str | None:
        entry = self._read()["seen"].get(str(path.absolute()))
        if isinstance(entry, list) and entry[:2] == _stamp(path) and isinstance(entry[-1], str):
            return entry[-1]
        return None

    def remember(self, path: Path, digest: str) -> None:
        self._update(
            lambda data: data["seen"].update({str(path.absolute()): [*_stamp(path), digest]})
        )

    def forget(self, path: Path) -> None:
        self._update(lambda data: data["seen"].pop(str(path.absolute()), None))

    def published(self, filename: str, digest: str) -> str:
        """The digest a published name is held to; ``digest`` becomes it if there is none."""
        recorded = self._read()["published"].get(filename)
        if isinstance(recorded, str):
            return recorded
        self._update(lambda data: data["published"].setdefault(filename, digest))
        return digest

    def _read(self) -> dict[str, dict]:
        data: object = None
        with suppress(OSError, ValueError):
            data = json.loads(self.path.read_text(encoding="utf-8"))
        found = data if isinstance(data, dict) else {}
        return {
            part: found[part] if isinstance(found.get(part), dict) else {}
            for part in ("seen", "published")
        }

    def _update(self, change) -> None:
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path.parent / ".digests.lock"):
                data = self._read()
                change(data)
                temporary = self.path.with_name(f".digests.{secrets.token_hex(4)}.json")
                try:
                    temporary.write_text(json.dumps(data, indent=1), encoding="utf-8")
                    os.replace(temporary, self.path)
                finally:
                    temporary.unlink(missing_ok=True)


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
