"""Encoded bytes to an image, safely: one allowed plugin, a size limit, errors of one kind. It
must not know rows or where the bytes came from.
"""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageFile
from PIL.ImageFile import ImageFile as OpenedFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from sktransfer._images import _formats
from sktransfer._images._arrays import EXTENT, DecodedImage, Extent, ValueScale
from sktransfer._images._dicom import decode_dicom
from sktransfer._images._dicom_options import DicomOptions
from sktransfer._images._pillow import Depth, check_size, image_to_image
from sktransfer.exceptions import ImageDecodeError, SkTransferError

_SAMPLE_FORMAT_TAG = 339
_TILE_WIDTH_TAG, _TILE_LENGTH_TAG = 322, 323


def decode_bytes(
    data: bytes,
    value_range: ValueScale | None,
    min_side: int | None = None,
    dicom: DicomOptions | None = None,
) -> DecodedImage:
    """Decode the first frame of an encoded image.

    Parameters
    ----------
    data : bytes
        A file's content.
    value_range : (float, float) or None
        Black and white of files deeper than 8 bits. Files of 8 bits are 0 to 255 whatever it says.
    min_side : int or None, default=None
        If given, a JPEG may be decoded at 1/2, 1/4 or 1/8, so long as no side falls below this;
        what it stands for is then in its ``info`` (:class:`Extent`). None: in full.
    dicom : DicomOptions or None, default=None
        How a DICOM file is shown.

    Raises
    ------
    ImageDecodeError
        If the bytes are no allowed image, are damaged or cut short, or claim too many pixels.
    MissingDependencyError
        If it is a DICOM file, and what reads it is not installed.
    """
    if _formats.is_dicom(data):
        return decode_dicom(data, value_range, dicom)
    refuse_half_images()
    format_ = _formats.identify(data)
    if format_ is None:
        raise ImageDecodeError(_formats.refusal(data) or _formats.unknown(data))
    try:
        return _decode(data, format_, value_range, min_side)
    except (ImageDecodeError, MemoryError):
        raise
    except Exception as exc:  # Pillow's plugins raise whatever the damage leads to
        raise ImageDecodeError(f"damaged or unsupported {format_.name} file: {exc}") from exc


def encoded_kind(content: bytes | np.ndarray | Image.Image) -> tuple[str, str]:
    """Format and mode of what a row holds, before it is decoded ("JPEG", "RGB").

    Arrays have a dtype and a number of channels instead.
    """
    if isinstance(content, Image.Image):
        return "PIL image", content.mode
    if isinstance(content, bytes):
        if _formats.is_dicom(content):
            return "DICOM", "DICOM"
        format_ = _formats.identify(content)
        if format_ is None:
            return "unknown", "unknown"
        with format_.plugin(io.BytesIO(content)) as image:
            return format_.name, image.mode
    return "array", f"{content.dtype}, {content.shape[2] if content.ndim == 3 else 1} channels"


def _decode(
    data: bytes,
    format_: _formats.Format,
    value_range: ValueScale | None,
    min_side: int | None,
) -> DecodedImage:
    for size in _formats.early_sizes(data, format_):
        check_size(size)
    with format_.plugin(io.BytesIO(data)) as image:
        check_size(image.size)
        if isinstance(image, TiffImageFile):  # libtiff allocates a tile, however small the image
            tags = image.tag_v2
            tile = (tags.get(_TILE_WIDTH_TAG, 0), tags.get(_TILE_LENGTH_TAG, 0))
            if all(tile):
                check_size(tile)
            if 2 in tags.get(_SAMPLE_FORMAT_TAG, ()) and image.mode in ("L", "RGB"):
                raise ImageDecodeError("a TIFF of signed 8-bit numbers is not supported.")
        depth = _declared_depth(image, data)
        if value_range not in (None, "dtype"):
            _refuse_deep_color(image, data)
        if min_side is not None and isinstance(image, JpegImageFile):
            _shrink_on_load(image, min_side)
        if format_.name == "PNG":
            _check_png(data)
        image.load()
        if format_.name == "PNG":
            _mend_png_transparency(image, data)
        if format_.name == "TGA" and image.mode == "RGBA" and not data[17] & 0x0F:
            # The header says that none of the fourth byte's bits is alpha; it is mostly 0.
            return image_to_image(image.convert("RGB"), value_range)
        return image_to_image(image, value_range, depth)


def _shrink_on_load(image: JpegImageFile, min_side: int) -> None:
    """Have libjpeg leave out what is not needed; called between opening and loading."""
    size = image.size
    drafted = image.draft(None, (min_side, min_side))
    if drafted is not None and image.size != size:
        image.info[EXTENT] = Extent(size, drafted[1])


def _check_png(data: bytes) -> None:
    """Check the pixels' checksums, which Pillow leaves out: half a file may still decompress."""
    at = 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind = data[at + 4 : at + 8]
        if kind == b"IEND":
            return
        if kind == b"IDAT" and at + 12 + length <= len(data):
            (stated,) = struct.unpack_from(">I", data, at + 8 + length)
            if zlib.crc32(data[at + 4 : at + 8 + length]) != stated:
                raise ValueError("the checksum of its pixels is wrong.")
        at += 12 + length


def _mend_png_transparency(image: OpenedFile, data: bytes) -> None:
    """Make a color that stands for "transparent" comparable with the pixels Pillow gives."""
    bits, color_type = data[24], data[25]
    if color_type == 2 and bits == 16:
        image.info.pop("transparency", None)  # 16 bits against 8: nothing can be told to match
    key = image.info.get("transparency")
    if color_type == 0 and bits in (2, 4) and isinstance(key, int):
        image.info["transparency"] = key * 255 // (2**bits - 1)


def refuse_half_images() -> None:
    """Pillow can be told, for the whole process, to fill the missing part of a file with gray."""
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise SkTransferError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is True, so a file cut short cannot be told from "
            "a whole one. Set it back to False; on_error='nan' passes over broken files."
        )


def _declared_depth(image: OpenedFile, data: bytes) -> Depth | None:
    """The depth of 16-bit gray in the formats Pillow stretches to 65535; asked before loading."""
    if image.format == "PPM" and image.mode == "I":
        args = image.tile[0].args
        maximum = args[-1] if isinstance(args, tuple) else 65535
        return Depth(maximum, 65535 / maximum)
    if image.format == "JPEG2000" and image.mode == "I;16":
        bits = _jpeg2000_bits(data)
        return Depth(2**bits - 1, 2.0 ** (16 - bits))
    return None


def _jpeg2000_bits(data: bytes) -> int:
    """Bits of the first component, from the codestream's size marker."""
    at = data.find(b"\xff\x4f\xff\x51")
    return (data[at + 42] & 0x7F) + 1 if 0 <= at < len(data) - 42 else 16


def _refuse_deep_color(image: OpenedFile, data: bytes) -> None:
    """Pillow keeps the high byte of 16-bit color alone: a declared range cannot be honored."""
    if image.mode[0] in "IF":  # gray, all of it kept
        return
    deep = image.format == "JPEG2000" and _jpeg2000_bits(data) > 8
    for tile in image.tile:
        args = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        deep = deep or ";16" in str(args[0])
        deep = deep or (tile.codec_name.startswith("ppm") and args[-1] > 255)
    if deep:
        raise ImageDecodeError(
            "color or alpha of 16 bits a channel, of which Pillow reads the upper 8; value_range "
            "cannot be applied to it. Read it with another library (tifffile, imageio) and pass "
            "arrays, or leave value_range out."
        )
