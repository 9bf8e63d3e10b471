"""Encoded bytes, or an opened Pillow image, to an image: safely, and as the file means it.

One allowed plugin reads the bytes, sizes are limited before anything expands, and errors are of one
kind. Orientation, palette, transparency and depth are applied.
"""

from __future__ import annotations

import io
import re
import struct
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageFile
from PIL.ImageFile import ImageFile as OpenedFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from sktransfer._images._damage import check_coded_pixels
from sktransfer._images._dicom import DicomOptions, decode_dicom
from sktransfer._images._formats import (
    PLUGINS,
    describe_refused,
    early_sizes,
    identify,
    is_dicom,
)
from sktransfer._images._values import (
    EXTENT,
    DecodedImage,
    Extent,
    ValueScale,
    flatten_alpha,
    scale_values,
)
from sktransfer._utils import config as _config
from sktransfer.exceptions import ImageDecodeError, SkTransferError

# How a 16-bit gray file stores its levels: white in the file's own numbers, and what Pillow
# multiplies those numbers by (it stretches PPM and JPEG 2000 to sixteen bits).
_Depth: TypeAlias = tuple[int, float]

_SAMPLE_FORMAT_TAG = 339
_TILE_WIDTH_TAG, _TILE_LENGTH_TAG = 322, 323
_BITS_PER_SAMPLE_TAG = 258
_PHOTOMETRIC_TAG = 262
_ORIENTATION_TAG = 0x0112

# For each EXIF orientation: what turns the image upright, and which of the old sides (left, top,
# right, bottom) the new ones are.
_TURNS = {
    2: (Image.Transpose.FLIP_LEFT_RIGHT, (2, 1, 0, 3)),
    3: (Image.Transpose.ROTATE_180, (2, 3, 0, 1)),
    4: (Image.Transpose.FLIP_TOP_BOTTOM, (0, 3, 2, 1)),
    5: (Image.Transpose.TRANSPOSE, (1, 0, 3, 2)),
    6: (Image.Transpose.ROTATE_270, (3, 0, 1, 2)),
    7: (Image.Transpose.TRANSVERSE, (3, 2, 1, 0)),
    8: (Image.Transpose.ROTATE_90, (1, 2, 3, 0)),
}


def decode_bytes(
    data: bytes,
    scale: ValueScale | None,
    min_side: int | None = None,
    dicom: DicomOptions | None = None,
) -> DecodedImage:
    """Decode the first frame of an encoded image.

    ``scale`` is black and white of files deeper than 8 bits; files of 8 bits are 0 to 255 whatever
    it says. With ``min_side`` a JPEG may be decoded at 1/2, 1/4 or 1/8, so long as no side falls
    below it; what it stands for is then in its ``info`` (:class:`Extent`). Raises ImageDecodeError
    if the bytes are no accepted image, are damaged or cut short, or claim too many pixels.
    """
    if is_dicom(data):
        return decode_dicom(data, scale, dicom)
    refuse_truncated_loading()
    format_ = identify(data)
    if format_ is None:
        raise ImageDecodeError(describe_refused(data))
    try:
        return _decode(data, format_, scale, min_side)
    except (ImageDecodeError, MemoryError):
        raise
    except Exception as exc:  # Pillow's plugins raise whatever the damage leads to
        raise ImageDecodeError(f"damaged or unsupported {format_} file: {exc}") from exc


def _decode(
    data: bytes, format_: str, scale: ValueScale | None, min_side: int | None
) -> DecodedImage:
    if format_ in ("GIF", "ICO"):
        for size in early_sizes(data, format_):
            check_size(size)
    with PLUGINS[format_](io.BytesIO(data)) as image:
        check_size(image.size)
        if isinstance(image, TiffImageFile):  # libtiff allocates a tile, however small the image
            tags = image.tag_v2
            tile = (tags.get(_TILE_WIDTH_TAG, 0), tags.get(_TILE_LENGTH_TAG, 0))
            if all(tile):
                check_size(tile)
            if 2 in tags.get(_SAMPLE_FORMAT_TAG, ()) and image.mode in ("L", "RGB"):
                raise ImageDecodeError("a TIFF of signed 8-bit numbers is not supported.")
        # Asked before loading: then the mode may change.
        depth = _declared_depth(image, data) if image.mode[:1] == "I" else None
        if scale not in (None, "dtype"):
            _refuse_deep_color(image, data)
        if min_side is not None and isinstance(image, JpegImageFile):
            # Have libjpeg leave out what is not needed.
            size = image.size
            drafted = image.draft(None, (min_side, min_side))
            if drafted is not None and image.size != size:
                image.info[EXTENT] = Extent(size, drafted[1])
        check_coded_pixels(image, data, format_)
        image.load()
        if format_ == "PNG":
            _scale_png_transparency(image, data)
        if format_ == "TGA" and image.mode == "RGBA" and not data[17] & 0x0F:
            # The header says that none of the fourth byte's bits is alpha; it is mostly 0.
            return image_to_image(image.convert("RGB"), scale)
        return image_to_image(image, scale, depth)


def encoded_kind(content: bytes | np.ndarray | Image.Image) -> tuple[str, str]:
    """Return format and mode of what a row holds, before it is decoded ("JPEG", "RGB").

    Arrays have a dtype and a number of channels instead.
    """
    if isinstance(content, Image.Image):
        return "PIL image", content.mode
    if isinstance(content, bytes):
        if is_dicom(content):
            return "DICOM", "DICOM"
        format_ = identify(content)
        if format_ is None:
            return "unknown", "unknown"
        with PLUGINS[format_](io.BytesIO(content)) as image:
            return format_, image.mode
    return "array", f"{content.dtype}, {content.shape[2] if content.ndim == 3 else 1} channels"


def check_size(size: tuple[int, int]) -> None:
    """Refuse an image of so many pixels that decoding it could exhaust the memory."""
    width, height = size
    if width == 0 or height == 0:
        raise ImageDecodeError(f"the image has no pixels ({width} x {height}).")
    limit = _config.MAX_IMAGE_PIXELS
    if width * height > limit:
        raise ImageDecodeError(
            f"the image claims {width} x {height} = {width * height:,} pixels, more than the "
            f"{limit:,} that are accepted (it could be a decompression bomb). Shrink it "
            "first if it is genuine."
        )


def refuse_truncated_loading() -> None:
    """Refuse to decode while Pillow is told to fill the missing part of files with gray."""
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise SkTransferError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is True, so a file cut short cannot be told from "
            "a whole one. Set it back to False; on_error='nan' passes over broken files."
        )


def _scale_png_transparency(image: OpenedFile, data: bytes) -> None:
    """Make a color that stands for "transparent" comparable with the pixels Pillow gives."""
    bits, color_type = data[24], data[25]
    if color_type == 2 and bits == 16:
        image.info.pop("transparency", None)  # 16 bits against 8: nothing can be told to match
    key = image.info.get("transparency")
    if color_type == 0 and bits in (2, 4) and isinstance(key, int):
        image.info["transparency"] = key * 255 // (2**bits - 1)


def _declared_depth(image: OpenedFile, data: bytes) -> _Depth | None:
    """Return the depth of 16-bit gray in the formats that Pillow stretches to 65535."""
    if image.format == "PPM" and image.mode == "I":
        args = image.tile[0].args
        maximum = args[-1] if isinstance(args, tuple) else 65535
        return maximum, 65535 / maximum
    if image.format == "JPEG2000" and image.mode == "I;16":
        bits = _jpeg2000_bits(data)
        return 2**bits - 1, 2.0 ** (16 - bits)
    return None


def _jpeg2000_bits(data: bytes) -> int:
    """Read the bits of the first component from the codestream's size marker."""
    at = data.find(b"\xff\x4f\xff\x51")
    return (data[at + 42] & 0x7F) + 1 if 0 <= at < len(data) - 42 else 16


def _refuse_deep_color(image: OpenedFile, data: bytes) -> None:
    """Refuse a declared range for 16-bit color, of which Pillow keeps the high bytes alone."""
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


# Pillow images ----------------------------------------------------------------------------------


def image_to_image(
    image: Image.Image, scale: ValueScale | None, depth: _Depth | None = None
) -> DecodedImage:
    """Turn a loaded image of any mode into an image; the caller's is left as it was.

    ``scale`` is black and white of images deeper than 8 bits, ``depth`` that of 16-bit gray, if
    more is known than the image says.
    """
    turn = orientation(image)
    if turn != 1:
        image = _turned(image, turn)
    if image.mode.startswith("I;16") or (
        image.mode == "I" and (depth is not None or image.format == "PPM")
    ):
        return _gray16(image, scale, depth or _tiff_depth(image))
    if image.mode in ("I", "F"):  # they declare no scale, so the rules for arrays hold
        dtype = np.dtype(np.int32 if image.mode == "I" else np.float32)
        return scale_values(np.asarray(image, dtype=dtype), dtype, scale)
    if image.mode in ("RGBa", "La"):  # premultiplied
        image = image.convert(image.mode.upper())
    elif image.mode not in ("RGBA", "LA") and image.has_transparency_data:
        image = image.convert("LA" if image.mode in ("1", "L") else "RGBA")
    if image.mode in ("RGBA", "LA"):
        return flatten_alpha(image)
    if image.mode in ("L", "RGB"):
        return image.copy()
    return image.convert("L" if image.mode == "1" else "RGB")


def _turned(image: Image.Image, turn: int) -> Image.Image:
    """Apply the EXIF orientation ``turn`` to an image, and to its extent."""
    method, sides = _TURNS[turn]
    turned = image.transpose(method)
    extent = image.info.get(EXTENT)
    if extent is not None:
        left, top, right, bottom = extent.box
        rims = (left, top, image.width - right, image.height - bottom)
        left, top, right, bottom = (rims[side] for side in sides)
        size = extent.size[::-1] if turn >= 5 else extent.size
        box = (left, top, turned.width - right, turned.height - bottom)
        turned.info[EXTENT] = Extent(size, box)
    return turned


def _gray16(image: Image.Image, value_range: ValueScale | None, depth: _Depth) -> np.ndarray:
    """Return sixteen bits or fewer of gray, on the scale the file declares."""
    maximum, spread = depth
    seen = np.asarray(image).astype(np.int32)
    levels = seen if spread == 1 else np.rint(seen / spread).astype(np.int32)
    if isinstance(image, TiffImageFile) and image.tag_v2.get(_PHOTOMETRIC_TAG) == 0:
        levels = maximum - levels  # white is zero; Pillow inverts this in 8 bits only
    scale = (0.0, float(maximum)) if value_range in (None, "dtype") else value_range
    scaled = scale_values(levels, np.dtype(np.uint16), scale)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int) and image.mode != "I":
        scaled[seen == transparent] = 1.0
    return scaled


def _tiff_depth(image: Image.Image) -> _Depth:
    bits = image.tag_v2.get(_BITS_PER_SAMPLE_TAG) if isinstance(image, TiffImageFile) else None
    return (2 ** bits[0] - 1 if bits and 8 < bits[0] <= 16 else 65535), 1.0


def tiff_scale(image: Image.Image) -> tuple[object, ...]:
    """Return what of an opened TIFF changes its levels and is not in its pixels, for digests."""
    if not isinstance(image, TiffImageFile):
        return ()
    return image.tag_v2.get(_PHOTOMETRIC_TAG), _tiff_depth(image)[0]


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation that is still to be applied, 1 to 8.

    ``Image.getexif`` is not used: it warns about damage in parts that do not matter here.
    """
    if isinstance(image, TiffImageFile):
        return 1  # Pillow turns TIFF while loading
    block = image.info.get("exif", b"")
    if not block and isinstance(raw := image.info.get("Raw profile type exif"), str):
        try:  # ImageMagick's PNG text: name, length, hexadecimal
            block = bytes.fromhex("".join(raw.split("\n")[3:]))
        except ValueError:
            block = b""
    value = None
    if block and isinstance(block, bytes):
        value = _exif_orientation(block.removeprefix(b"Exif\x00\x00"))
    for key in ("xmp", "XML:com.adobe.xmp"):
        text = image.info.get(key, b"")
        text = text.encode() if isinstance(text, str) else text
        if value is None and text and isinstance(text, bytes):
            found = re.search(rb'tiff:Orientation(?:="|>)([1-8])', text)
            value = int(found.group(1)) if found else None
    return value if value in _TURNS else 1


def _exif_orientation(block: bytes) -> int | None:
    """Read one tag of a TIFF header's first directory, whatever state the rest is in."""
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return None
    try:
        (start,) = struct.unpack_from(order + "I", block, 4)
        (count,) = struct.unpack_from(order + "H", block, start)
        for entry in range(count):
            at = start + 2 + 12 * entry
            tag, kind = struct.unpack_from(order + "HH", block, at)
            if tag == _ORIENTATION_TAG and kind in (3, 4):  # SHORT, LONG
                (value,) = struct.unpack_from(
                    order + "H" if kind == 3 else order + "I", block, at + 8
                )
                return int(value)
    except struct.error:  # cut short before the tag
        pass
    return None
