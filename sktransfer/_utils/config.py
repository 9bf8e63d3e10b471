"""Environment variables, limits, directories and optional imports, in one place."""

from __future__ import annotations

import importlib
import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path
from types import ModuleType

from sktransfer.exceptions import MissingDependencyError

# The documentation's site: what pyproject.toml has under project.urls, which a test compares.
DOCUMENTATION = "https://sktransfer.github.io/sktransfer/"
# Where the diagram of an estimator links to, filled in by scikit-learn (``_doc_link_template``).
API_PAGE = f"{DOCUMENTATION}generated/{{estimator_module}}.{{estimator_name}}.html"

# A directory of weight files that is looked at before torch's hub cache (air-gapped machines).
WEIGHTS_DIR_VARIABLE = "SKTRANSFER_WEIGHTS_DIR"
# Where sktransfer keeps what it must remember: digests of weights that were seen once.
HOME_VARIABLE = "SKTRANSFER_HOME"
# "1" forbids every download.
OFFLINE_VARIABLE = "SKTRANSFER_OFFLINE"

# Pillow warns at this many pixels and refuses at twice as many; here the warning is the limit.
MAX_IMAGE_PIXELS = 89_478_485
# What decoding one image may take in memory, with the decoder's own buffers and all copies made.
MAX_DECODED_BYTES = 500_000_000
# Scans of one JPEG (libjpeg-turbo's own tests stop at 500, encoders write about 10, at most 64),
# and the pixels that all of them go over.
MAX_JPEG_SCANS = 100
MAX_SCANNED_PIXELS = 20 * MAX_IMAGE_PIXELS
# A file this long is no image within that limit in any of the formats.
MAX_FILE_BYTES = 2**30
# What a deflated DICOM file may expand to: sixteen bits for each pixel of that limit.
MAX_INFLATED_BYTES = 2 * MAX_IMAGE_PIXELS
# Address space of a process that decodes DICOM files; its libraries take a tenth of it.
HELPER_MEMORY_BYTES = 2 * 2**30

# What the memory tier of the activation store may hold in one process, and what a directory of
# activations may, unless these variables say otherwise.
MEMORY_CACHE_VARIABLE = "SKTRANSFER_MEMORY_BYTES"
DIRECTORY_CACHE_VARIABLE = "SKTRANSFER_CACHE_BYTES"
_CACHE_BYTES = {MEMORY_CACHE_VARIABLE: 512 * 2**20, DIRECTORY_CACHE_VARIABLE: 20 * 2**30}
# "1" says that everybody who can write to a cache directory is trusted.
SHARED_CACHE_VARIABLE = "SKTRANSFER_SHARED_CACHE"
# "PID:DIRECTORY", set by the process that imports sktransfer first, its owner, and read by the
# workers that it starts; "" for none.
SESSION_VARIABLE = "SKTRANSFER_SESSION"

# Limits of containers on memory, and what is taken of them: versions 2 and 1 of control groups.
_CONTROL_GROUPS = [
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
]
# Where nothing tells.
_ASSUMED_MEMORY = 4 * 2**30


def expanded(path: str | os.PathLike[str], what: str) -> Path:
    """Return a path with its "~" replaced; ``what`` it was given as, for the error."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(
            f"{what}={os.fspath(path)!r} begins with a home directory that cannot be found. Give "
            "the whole path."
        ) from error


def weights_directory() -> Path | None:
    """Return the directory named by ``SKTRANSFER_WEIGHTS_DIR``, or None."""
    value = os.environ.get(WEIGHTS_DIR_VARIABLE, "").strip()
    return expanded(value, WEIGHTS_DIR_VARIABLE) if value else None


def home_directory() -> Path:
    """Return the directory for sktransfer's own small records (``SKTRANSFER_HOME``)."""
    value = os.environ.get(HOME_VARIABLE)
    if value:
        return expanded(value, HOME_VARIABLE)
    base = os.environ.get("XDG_CACHE_HOME")
    if base:
        return expanded(base, "XDG_CACHE_HOME") / "sktransfer"
    try:
        return Path.home() / ".cache" / "sktransfer"
    except RuntimeError:  # a container's user without a home
        return Path(tempfile.gettempdir()) / f"sktransfer-{os.getuid()}"


def offline() -> bool:
    """Return whether ``SKTRANSFER_OFFLINE`` forbids downloads."""
    return _flag(OFFLINE_VARIABLE)


def shared_cache() -> bool:
    """Return whether ``SKTRANSFER_SHARED_CACHE`` says that others may write to the cache."""
    return _flag(SHARED_CACHE_VARIABLE)


def _flag(variable: str) -> bool:
    """Return whether a variable is on; off where it is absent or blank."""
    value = os.environ.get(variable, "").strip().lower()
    if value in ("1", "true", "yes", "on"):
        return True
    if value in ("", "0", "false", "no", "off"):
        return False
    raise ValueError(
        f"The environment variable {variable} must be 1 or 0 (true or false, yes or no, on or "
        f"off); got {value!r}."
    )


def cache_bytes(variable: str) -> int:
    """Return the limit of activations in memory or in a directory, which a variable may set."""
    value = os.environ.get(variable, "").strip()
    if not value:
        return _CACHE_BYTES[variable]
    # int would also take other scripts' digits; SQLite counts in 64 bits.
    n_bytes = int(value) if re.fullmatch(r"[0-9](_?[0-9]){0,25}", value) else -1
    if not 0 <= n_bytes < 2**63:
        raise ValueError(
            f"The environment variable {variable} must be a whole number of bytes in plain digits, "
            f"like {_CACHE_BYTES[variable]} (the default), or 0 to keep nothing there; got "
            f"{value!r}."
        )
    return n_bytes


def free_memory() -> int:
    """Return how many bytes this process may still take, of the machine or of its container."""
    try:  # half of all there is, where the system does not say what is free
        free = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2]
    except (AttributeError, OSError, ValueError):
        free = [_ASSUMED_MEMORY]
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = [int(line.split()[1]) * 1024]
    for limit, used in _CONTROL_GROUPS:
        try:
            free.append(int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return max(0, min(free))


def how_to_install(extra: str) -> str:
    """Say how an extra of ``pyproject.toml`` is installed, now and once there is a release."""
    return (
        f"Install the extra '{extra}': pip install \".[{extra}]\" in the folder of a clone of "
        f'sktransfer, or, from its first release on, pip install "sktransfer[{extra}]".'
    )


def import_optional(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import an optional module, or say which ``extra`` of ``pyproject.toml`` installs it.

    ``purpose`` is what it is needed for, as the beginning of a sentence.
    """
    try:
        return importlib.import_module(module)
    except ImportError as exc:
        package = module.split(".")[0]
        raise MissingDependencyError(
            f"{purpose} needs the package {package!r}, which is not installed. "
            f"{how_to_install(extra)}"
        ) from exc
