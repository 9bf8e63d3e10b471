"""Where weight files are, and whether they are the right ones.

It must not know what is inside them, nor which network wants them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
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

    @property
    def size(self) -> int:
        """Number of bytes, by which a file of this content is looked for elsewhere."""
        return self.path.stat().st_size


def find_weights_file(
    filename: str,
    *,
    url: str | None = None,
    digest_prefix: str | None = None,
    sizes: range | None = None,
) -> WeightsFile:
    """Find published weights on this machine, by file name or else by digest, or download them.

    The folder named by ``SKTRANSFER_WEIGHTS_DIR`` comes first, then torch's hub cache, which is
    also where a download goes. Their sha256 must begin with ``digest_prefix`` (by default the
    digits in the file name); all of it is recorded the first time and must stay the same. Under
    other names, files whose numbers of bytes are in ``sizes`` are considered.
    """
    prefix = digest_prefix or digest_in_name(filename)
    path = on_disk(filename)
    if path is None and prefix is not None and sizes is not None:
        found = find_by_digest(prefix, sizes=sizes)
        path = None if found is None else found.path
    if path is None:
        path = _download_to_cache(filename, url, prefix)
    file = WeightsFile(path, digest_of(path))
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
            return WeightsFile(candidate, digest_of(candidate))
    also = "" if len(candidates) == 1 else f", nor is it in {directory}"
    hint = "It is a folder: name the file in it. " if given.is_dir() else ""
    raise WeightsNotFoundError(
        f"There is no weights file {os.fspath(path)!r}{also}. {hint}Give weights= the path of a "
        f"state dict ({', '.join(WEIGHT_SUFFIXES)}), or put the file into a folder and name that "
        f"folder in {_config.WEIGHTS_DIR_VARIABLE}."
    )


def find_by_digest(
    digest: str,
    *,
    sizes: range | None = None,
    places: Iterable[str | os.PathLike[str]] = (),
) -> WeightsFile | None:
    """Find a file of some content on this machine, whatever it is called.

    ``digest`` is its sha256 or the beginning of it. A file is hashed if its number of bytes is one
    of ``sizes``, and only once. If they are not known (None), files with a suffix of weights are.
    ``places`` are files and folders to look into before the usual ones.
    """
    for path, sure in _candidates(digest, places):
        with suppress(OSError):  # a broken link, a file that may not be read
            if sizes is None:
                claimed = digest_in_name(path.name) or ""
                likely = path.suffix.lower() in WEIGHT_SUFFIXES and digest.startswith(claimed)
                is_candidate = sure or likely
            else:
                is_candidate = path.stat().st_size in sizes
            if is_candidate and path.is_file() and digest_of(path).startswith(digest):
                return WeightsFile(path, digest_of(path))
    return None


def _candidates(
    digest: str, places: Iterable[str | os.PathLike[str]]
) -> Iterator[tuple[Path, bool]]:
    """Yield files in the places, where the digest was seen, in the usual folders.

    With each comes whether it was named, and not found in a folder.
    """
    before = [
        path
        for path, entry in _read_records()["seen"].items()
        if isinstance(entry, list) and entry and str(entry[-1]).startswith(digest)
    ]
    for place in map(Path, (*places, *before, *(folder for _, folder in search_folders()))):
        with suppress(OSError):  # a folder that may not be read
            if place.is_dir():
                yield from ((path, False) for path in sorted(place.iterdir()))
            else:
                yield place, True


def search_folders() -> list[tuple[str, Path]]:
    """Return the folders of this machine that are searched by digest, and what each of them is."""
    named = _config.weights_directory()
    return [
        *([] if named is None else [(_config.WEIGHTS_DIR_VARIABLE, named)]),
        ("torch's hub cache", checkpoints_directory()),
    ]


def default_or_path(
    name: str,
    weights: Any,
    default: Callable[[], WeightsFile],
    file: WeightsFile | None = None,
    hint: str = "",
) -> tuple[WeightsFile, str]:
    """Return the file that ``weights=`` names, and ``weights=`` as a reference holds it.

    ``file`` is the file, where it has been found already.
    """
    if isinstance(weights, str) and weights == "default":
        return file or default(), "default"
    if looks_like_path(weights):
        return file or open_weights_path(weights), name_of(weights)
    raise WeightsMismatchError(
        f'{name} has no weights {weights!r}. It takes "default", the path of a weights file or '
        f"None (random weights){hint}."
    )


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


def name_of(weights: str | os.PathLike[str]) -> str:
    """Return the name of a weights file as a reference holds it: without folders."""
    name = Path(weights).name
    return name if looks_like_path(name) else f"./{name}"


def on_disk(filename: str) -> Path | None:
    """Return where published weights are under their own name on this machine, or None."""
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
    source = f" {url} publishes it." if url else ""
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
# learn its digest (path, size and modification time are the same as before), and tells where a file
# of some digest was; whoever loads the tensors hashes what is loaded all the same. ``published``
# maps each published file name to the first digest seen under it. What the file cannot hold,
# because the home cannot be written to, this process remembers.
_unwritten: dict[Path, dict[str, dict[str, Any]]] = {}


def forget_digest(path: Path) -> None:
    """Drop the record of a file whose content turned out to be another."""
    _change_records(lambda records: records["seen"].pop(str(path.absolute()), None))


def digest_of(path: Path) -> str:
    """Return the sha256 of a file, which is read only if it has changed since the last time."""
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
    unwritten = _unwritten.get(_records_path(), {})
    return {
        part: (found[part] if isinstance(found.get(part), dict) else {}) | unwritten.get(part, {})
        for part in ("seen", "published")
    }


def _change_records(change: Callable[[dict[str, dict[str, Any]]], object]) -> None:
    path = _records_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.parent / ".digests.lock"):
            records = _read_records()
            change(records)
            with written_whole(path) as temporary:
                temporary.write_text(json.dumps(records, indent=1), encoding="utf-8")
    except OSError:
        records = _read_records()
        change(records)
        _unwritten[path] = records


def stamp(file: Path | int) -> list[int]:
    """Return size and modification time of a file, by its path or descriptor."""
    status = os.stat(file)
    return [status.st_size, status.st_mtime_ns]
