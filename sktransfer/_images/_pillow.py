"""From an opened Pillow image to an image: orientation, alpha, palette, depth. It must not know
where the image came from.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from sktransfer._images._arrays import (
    EXTENT,
    DecodedImage,
    Extent,
    ValueScale,
    flatten_alpha,
    scale_values,
)
from sktransfer._utils import config as _config
from sktransfer.exceptions import ImageDecodeError

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# For each orientation: which of the old sides (left, top, right, bottom) the new ones are.
_SIDES = {
    2: (2, 1, 0, 3),
    3: (2, 3, 0, 1),
    4: (0, 3, 2, 1),
    5: (1, 0, 3, 2),
    6: (3, 0, 1, 2),
    7: (3, 2, 1, 0),
    8: (1, 2, 3, 0),
}
_ORIENTATION_TAG = 0x0112
_BITS_PER_SAMPLE_TAG = 258
_PHOTOMETRIC_TAG = 262


class Depth(NamedTuple):
    """How a 16-bit gray file stores its levels.

    ``maximum`` is white in the file's own numbers; Pillow hands out those numbers times ``spread``
    (it stretches PPM and JPEG 2000 to sixteen bits).
    """

    maximum: int = 65535
    spread: float = 1.0


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


def image_to_image(
    image: Image.Image, value_range: ValueScale | None, depth: Depth | None = None
) -> DecodedImage:
    """A loaded image of any mode to an image; the caller's image is left as it was.

    Parameters
    ----------
    image : PIL.Image.Image
        Loaded already.
    value_range : (float, float) or None
        Black and white of images deeper than 8 bits.
    depth : Depth or None
        For 16-bit gray, if more is known than the image says.
    """
    turn = orientation(image)
    if turn in _TRANSPOSE:
        image = _turned(image, turn)
    info = image.info
    if image.mode.startswith("I;16"):
        return _gray16(image, value_range, depth or _tiff_depth(image), info.get("transparency"))
    if image.mode == "I":
        if depth is not None or image.format == "PPM":
            return _gray16(image, value_range, depth or Depth(), None)
        return _deep_gray(image, np.dtype(np.int32), value_range)
    if image.mode == "F":
        return _deep_gray(image, np.dtype(np.float32), value_range)
    return _shallow(image)


def _turned(image: Image.Image, turn: int) -> Image.Image:
    """The image as its EXIF orientation ``turn`` wants it, and its extent with it."""
    turned = image.transpose(_TRANSPOSE[turn])
    extent = image.info.get(EXTENT)
    if extent is not None:
        left, top, right, bottom = extent.box
        rims = (left, top, image.width - right, image.height - bottom)
        left, top, right, bottom = (rims[side] for side in _SIDES[turn])
        size = extent.size[::-1] if turn >= 5 else extent.size
        box = (left, top, turned.width - right, turned.height - bottom)
        turned.info[EXTENT] = Extent(size, box)
    return turned


def _shallow(image: Image.Image) -> Image.Image:
    """Eight bits or fewer a channel: mode L or RGB, alpha over white."""
    mode = image.mode
    if mode in ("RGBa", "La"):  # premultiplied
        return _shallow(image.convert(mode.upper()))
    if image.has_transparency_data and mode not in ("RGBA", "LA"):
        gray = mode in ("1", "L")
        return flatten_alpha(image.convert("LA" if gray else "RGBA"))
    if mode in ("RGBA", "LA"):
        return flatten_alpha(image)
    if mode in ("L", "RGB"):
        return image.copy()
    return image.convert("L" if mode == "1" else "RGB")


def _gray16(
    image: Image.Image, value_range: ValueScale | None, depth: Depth, transparent: object
) -> np.ndarray:
    """Sixteen bits or fewer of gray, on the scale the file declares."""
    seen = np.asarray(image).astype(np.int32)
    levels = seen if depth.spread == 1 else np.rint(seen / depth.spread).astype(np.int32)
    if isinstance(image, TiffImageFile) and image.tag_v2.get(_PHOTOMETRIC_TAG) == 0:
        levels = depth.maximum - levels  # white is zero; Pillow inverts this in 8 bits only
    scale = (0.0, float(depth.maximum)) if value_range in (None, "dtype") else value_range
    scaled = scale_values(levels, np.dtype(np.uint16), scale)
    if isinstance(transparent, int):
        scaled[seen == transparent] = 1.0
    return scaled


def _deep_gray(image: Image.Image, dtype: np.dtype, value_range: ValueScale | None) -> DecodedImage:
    """32-bit integers or floats: they declare no scale, so the rules for arrays hold."""
    return scale_values(np.asarray(image, dtype=dtype), dtype, value_range)


def _tiff_depth(image: Image.Image) -> Depth:
    if isinstance(image, TiffImageFile):
        bits = image.tag_v2.get(_BITS_PER_SAMPLE_TAG)
        if bits and 8 < bits[0] <= 16:
            return Depth(maximum=2 ** bits[0] - 1)
    return Depth()


def tiff_scale(image: Image.Image) -> tuple[object, ...]:
    """What of an opened TIFF changes its levels and is not in its pixels, for digests."""
    if not isinstance(image, TiffImageFile):
        return ()
    return (image.tag_v2.get(_PHOTOMETRIC_TAG), _tiff_depth(image).maximum)


def orientation(image: Image.Image) -> int:
    """EXIF orientation that is still to be applied, 1 to 8.

    ``Image.getexif`` is not used: it warns about damage in parts that do not matter here.
    """
    if isinstance(image, TiffImageFile):
        return 1  # Pillow turns TIFF while loading
    value = _exif_orientation(_exif_block(image))
    if value is None:
        value = _xmp_orientation(image)
    return value if value in _TRANSPOSE else 1


def _exif_block(image: Image.Image) -> bytes:
    block = image.info.get("exif", b"")
    if not block and isinstance(raw := image.info.get("Raw profile type exif"), str):
        try:  # ImageMagick's PNG text: name, length, hexadecimal
            block = bytes.fromhex("".join(raw.split("\n")[3:]))
        except ValueError:
            block = b""
    if not isinstance(block, bytes):
        return b""
    return block.removeprefix(b"Exif\x00\x00")


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


def _xmp_orientation(image: Image.Image) -> int | None:
    for key in ("xmp", "XML:com.adobe.xmp"):
        text = image.info.get(key, b"")
        text = text.encode() if isinstance(text, str) else text
        if isinstance(text, bytes) and (
            found := re.search(rb'tiff:Orientation(?:="|>)([1-8])', text)
        ):
            return int(found.group(1))
    return None
