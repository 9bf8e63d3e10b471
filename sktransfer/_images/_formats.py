"""Which encoded images are accepted, told from their first bytes; none is decoded here.

Only the plugin that belongs to the bytes is ever handed them. ``Image.open`` is not used: it
tries plugin after plugin, warns through a process-wide filter when an image is large, and
obeys a global size limit that other code may have switched off.
"""

from __future__ import annotations

import re
import struct

from PIL import (
    AvifImagePlugin,
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

from sktransfer._utils import config as _config
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
    "AVIF": AvifImagePlugin.AvifImageFile,
}
_ACCEPTED = f"{', '.join(PLUGINS)}, HEIF (HEIC) and DICOM"

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

# Brands of files with an image in them, which all begin with a box "ftyp": the format each says it
# is in. Those of the containers alone ("mif1") say nothing, and others name what is coded within.
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis"), "HEIF"),
    **dict.fromkeys((b"hevc", b"hevx", b"hevm", b"hevs"), "HEIF"),
}
_CONTAINER_BRANDS = (b"mif1", b"msf1", b"mif2", b"miaf")


def plugin(format_: str) -> type[ImageFile]:
    """Return the Pillow class that reads a format; nothing is registered with Pillow."""
    if format_ == "HEIF":
        heif = _config.import_optional("pillow_heif", extra="heif", purpose="Reading HEIC and HEIF")
        return heif.HeifImageFile
    if format_ == "AVIF" and not AvifImagePlugin.SUPPORTED:
        raise ImageDecodeError(
            "this is an AVIF image, which this build of Pillow cannot read. Install Pillow's own "
            "wheel (pip install --force-reinstall pillow), or convert the image."
        )
    return PLUGINS[format_]


def identify(data: bytes) -> str | None:
    """Return the accepted format that these bytes are in, or None.

    DICOM may hide behind a TIFF header: ask :func:`is_dicom` first.
    """
    for name, signatures in _SIGNATURES.items():
        if data.startswith(signatures):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[4:8] == b"ftyp":
        return _boxed_format(data)
    if _refused_kind(data) is None and _looks_like_tga(data):
        return "TGA"
    return None


def _boxed_format(data: bytes) -> str | None:
    """Return what is coded in a file of boxes, as its brands have it: the first one counts most."""
    size = min(int.from_bytes(data[:4]), 512)
    brands = [data[8:12], *(data[at : at + 4] for at in range(16, size - 3, 4))]
    for brand in brands:
        if brand in _BRANDS:
            return _BRANDS[brand]
    return "HEIF" if any(brand in _CONTAINER_BRANDS for brand in brands) else None


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
    if data[4:8] == b"ftyp":
        brand = data[8:12].decode("latin-1").strip()
        return _not_allowed(f"a video or another file of boxes (MP4, MOV, CR3: brand {brand!r})")
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
        return _not_allowed("text") + ". A path in bytes is passed as os.fsdecode(path)"
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
