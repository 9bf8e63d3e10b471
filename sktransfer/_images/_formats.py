"""Which encoded images are accepted, told from their first bytes; none is decoded here.

Only the plugin that belongs to the bytes is ever handed them. ``Image.open`` is not used: it
tries plugin after plugin, warns through a process-wide filter when an image is large, and
obeys a global size limit that other code may have switched off.
"""

from __future__ import annotations

import re
import struct

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    IcoImagePlugin,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TgaImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from PIL.ImageFile import ImageFile

from sktransfer.exceptions import ImageDecodeError


class _JpegFile(JpegImagePlugin.JpegImageFile):
    """A JPEG whose resolution is never looked up in its EXIF block.

    Pillow does so while opening and warns about damaged blocks; under a warnings-as-errors filter
    a sound image would be lost. The resolution is of no use here.
    """

    def _read_dpi_from_exif(self) -> None:
        pass


# The Pillow class that reads each accepted format.
PLUGINS: dict[str, type[ImageFile]] = {
    "JPEG": _JpegFile,
    "PNG": PngImagePlugin.PngImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "PPM": PpmImagePlugin.PpmImageFile,
    "TGA": TgaImagePlugin.TgaImageFile,
    "ICO": IcoImagePlugin.IcoImageFile,
    "JPEG 2000": Jpeg2KImagePlugin.Jpeg2KImageFile,
}
_ACCEPTED = f"{', '.join(PLUGINS)} and DICOM"

# How files of a format may begin; TGA files may begin in many ways.
_SIGNATURES: dict[str, tuple[bytes, ...]] = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "BMP": (b"BM",),
    "TIFF": (b"II\x2a\x00", b"MM\x00\x2a", b"II\x2b\x00", b"MM\x00\x2b"),
    "PPM": (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"Pf"),
    "ICO": (b"\x00\x00\x01\x00",),
    "JPEG 2000": (b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  \r\n\x87\n"),
}

# Things people really have in their folders. Naming them says more than "cannot identify".
_REFUSED: tuple[tuple[bytes, str], ...] = (
    (b"8BPS", "a Photoshop file"),
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript file"),
    (b"\x93NUMPY", "a NumPy .npy file (load it with numpy and pass the array)"),
    (b"PK\x03\x04", "a ZIP archive (or .npz, .docx)"),
    (b"\x1f\x8b", "a gzip file (.nii.gz?)"),
    (b"\x89HDF", "an HDF5 file"),
    (b"version https://git-lfs", "a Git LFS pointer: the image itself was never downloaded"),
    (b"icns", "an Apple icon"),
    (b"DDS ", "a DDS texture"),
    (b"\x76\x2f\x31\x01", "an OpenEXR image"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL image"),
    (b"qoif", "a QOI image"),
)

_HEIF_BRANDS = {
    b"avif": "AVIF",
    b"avis": "AVIF",
    b"heic": "HEIC",
    b"heix": "HEIC",
    b"hevc": "HEIC",
    b"mif1": "HEIF",
    b"msf1": "HEIF",
}


def identify(data: bytes) -> str | None:
    """Return the accepted format that these bytes are in, or None.

    DICOM may hide behind a TIFF header: ask :func:`is_dicom` first.
    """
    for name, signatures in _SIGNATURES.items():
        if data.startswith(signatures):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if _refused_kind(data) is None and _looks_like_tga(data):
        return "TGA"
    return None


def is_dicom(data: bytes) -> bool:
    """Return whether the bytes are a DICOM file, whatever its name."""
    return data[128:132] == b"DICM"


# The beginning of a data set: an element of group 2 or 8, its kind and its length.
_HEADLESS_DICOM = re.compile(
    rb".?[\x02\x08]\0(?:.\0(?:UL|CS|UI|OB|DA|TM|SH|LO)|\0\0\x04\0\0\0|\x05\0.\0\0\0)", re.DOTALL
)


def _refused_kind(data: bytes) -> str | None:
    """Return what these bytes are, if they are something known that is not accepted."""
    if not data:
        return "the file is empty (0 bytes)"
    if _HEADLESS_DICOM.match(data):
        return (
            "this looks like a DICOM file without its header (128 bytes and 'DICM'), which does "
            "not say how it is encoded. Read it with pydicom.dcmread(path, force=True), and save "
            "it with enforce_file_format=True"
        )
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        return _not_allowed(f"an {_HEIF_BRANDS[data[8:12]]} image")
    for signature, name in _REFUSED:
        if data.startswith(signature):
            return _not_allowed(name)
    head = data[:512].lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return _not_allowed("a web page, probably the error page of a failed download")
    if head.startswith((b"<svg", b"<?xml")):
        return _not_allowed("an XML or SVG file")
    return None


def _not_allowed(what: str) -> str:
    return f"this is {what}, not an image that sktransfer reads ({_ACCEPTED})"


def describe_refused(data: bytes) -> str:
    """Return the error message for bytes that are in no accepted format."""
    if known := _refused_kind(data):
        return known
    head = data[:32]
    if all(32 <= byte < 127 or byte in b"\r\n\t" for byte in head):
        return _not_allowed("text")
    return f"these bytes ({head[:8].hex(' ')} ...) are in none of the formats read: {_ACCEPTED}"


def _looks_like_tga(data: bytes) -> bool:
    """Return whether every field of a TGA header makes sense, since TGA has no signature."""
    if len(data) < 18:
        return False
    color_map, kind, depth, flags = data[1], data[2], data[16], data[17]
    width, height = struct.unpack_from("<HH", data, 12)
    if not (width and height) or flags & 0xC0:
        return False
    if kind in (1, 9):
        return color_map == 1 and depth == 8 and data[7] in (15, 16, 24, 32)
    if kind in (2, 10):
        return color_map in (0, 1) and depth in (16, 24, 32)
    return kind in (3, 11) and color_map == 0 and depth in (8, 16)


def early_sizes(data: bytes, format_: str) -> list[tuple[int, int]]:
    """Return sizes that Pillow acts upon while it opens such a file, before it can be asked.

    A GIF frame may be larger than its screen, and an icon is decoded as soon as it is opened.
    """
    try:
        return {"GIF": _gif_sizes, "ICO": _ico_sizes}[format_](data)
    except (struct.error, IndexError):  # cut short: opening it will say so
        return []


def _gif_sizes(data: bytes) -> list[tuple[int, int]]:
    """Return the logical screen and the extent of the first frame."""
    screen = struct.unpack_from("<HH", data, 6)
    flags = data[10]
    at = 13 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)
    while data[at] == 0x21:  # extension: label, then sub-blocks up to an empty one
        at += 2
        while data[at]:
            at += 1 + data[at]
        at += 1
    if data[at] != 0x2C:
        return [screen]
    left, top, width, height = struct.unpack_from("<HHHH", data, at + 1)
    return [screen, (max(screen[0], left + width), max(screen[1], top + height))]


def _ico_sizes(data: bytes) -> list[tuple[int, int]]:
    """Return the size of each image in an icon, as the image itself states it."""
    sizes = []
    for entry in range(struct.unpack_from("<H", data, 4)[0]):
        (offset,) = struct.unpack_from("<I", data, 6 + 16 * entry + 12)
        if data[offset : offset + 8] == b"\x89PNG\r\n\x1a\n":
            if data[offset + 12 : offset + 16] != b"IHDR":
                raise ImageDecodeError("damaged icon: a PNG in it does not begin with its size.")
            sizes.append(struct.unpack_from(">II", data, offset + 16))
        else:  # a BMP header; its height counts the mask too, and may be negative
            width, height = struct.unpack_from("<ii", data, offset + 4)
            sizes.append((abs(width), abs(height)))
    return sizes
