"""Versions of the libraries that make the numbers in activations: a part of every key of a store.

After an upgrade the same image may give other numbers, in the last digits or in more of them where
a decoder was corrected, and one table must not mix the two. A library is in the key where its code
touches the numbers. numpy is not: only element-wise arithmetic is left to it, which IEEE 754 fixes.
Raise ``_NUMBERS_VERSION`` in ``_frozen._extractor`` where it is our own code that changes.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from importlib import metadata

import PIL
import torch
from PIL import features

# Pillow's own libraries that decode the formats which are read.
_CODECS = ("libjpeg_turbo", "jpg", "jpg_2000", "libtiff", "webp", "avif")
# pydicom and what it may decode with.
_DICOM = (
    *("pydicom", "python-gdcm", "pyjpegls"),
    *("pylibjpeg", "pylibjpeg-openjpeg", "pylibjpeg-libjpeg", "pylibjpeg-rle"),
)
_HEIF = ("pillow-heif", "pi-heif")


@cache
def versions_of(*packages: str, network: tuple[str, str] | None = None) -> tuple[str, ...]:
    """Return ``"name version"`` of installed packages; those that are not are left out.

    With the name and the engine of a network, first of what decodes, resizes and draws images, and
    runs that network on them.
    """
    found = []
    if network is not None:
        name, engine = network
        found += [f"torch {torch.__version__}", f"pillow {PIL.__version__}"]
        found += [f"{codec} {features.version(codec)}" for codec in _CODECS]
        # torchvision builds its networks and transforms images; timm builds its own.
        packages += ("torchvision",)
        packages += ("timm",) if name.startswith("timm/") else ()
        packages += ("openvino",) if engine == "openvino" else ()
    for package in packages:
        with suppress(metadata.PackageNotFoundError):
            found.append(f"{package} {metadata.version(package)}")
    return tuple(found)


def versions_by_name(*packages: str) -> dict[str, str]:
    """Return the version of each package that is installed, by its name."""
    return dict(found.split(" ", 1) for found in versions_of(*packages))


def decoder_versions(content: bytes, *, is_dicom: bool) -> tuple[str, ...]:
    """Return versions of optional packages that decode a file of this content."""
    if is_dicom:
        return versions_of(*_DICOM)
    return versions_of(*_HEIF) if content[4:8] == b"ftyp" else ()
