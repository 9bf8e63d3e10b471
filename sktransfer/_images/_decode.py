"""Encoded bytes, or an opened Pillow image, to an image: safely, and as the file means it.

One allowed plugin reads the bytes, sizes are limited before anything expands, and errors are of one
kind. Orientation, palette, transparency and depth are applied.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from PIL import Image, ImageFile
from PIL.ImageFile import ImageFile as OpenedFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from sktransfer._images._damage import check_coded_pixels
from sktransfer._images._dicom import DicomOptions, decode_dicom
from sktransfer._images._formats import describe_refused, identify, is_dicom, plugin
from sktransfer._images._jpeg import read_jpeg
from sktransfer._images._sizes import check_decoding, check_layout, check_size, codestream, deep_av1
from sktransfer._images._values import (
    EXTENT,
    DecodedImage,
    Extent,
    Percentiles,
    ValueScale,
    array_to_image,
    flatten_alpha,
    scale_values,
)
from sktransfer.exceptions import ImageDecodeError, SkTransferError

# How a 16-bit gray file stores its levels: white in the file's own numbers, and what Pillow
# multiplies those numbers by (it stretches PPM and JPEG 2000 to sixteen bits).
_Depth: TypeAlias = tuple[int, float]

_TILE_WIDTH_TAG, _TILE_LENGTH_TAG = 322, 323
_BITS_PER_SAMPLE_TAG = 258
_PHOTOMETRIC_TAG = 262
_PLANAR_TAG = 284
_STRIP_BYTES_TAG = 279
_NATIVE = {"I;16BS": "I;16NS", "I;32BS": "I;32NS", "F;32BF": "F;32NF"}
_ORIENTATION_TAG = 0x0112
_SUBFILE_TAG, _SUB_DIRECTORIES_TAG = 254, 330
_SAMPLE_TAGS = ((_BITS_PER_SAMPLE_TAG, 8), (339, 1))
# Kind (1 unsigned, 2 signed) and bits of numbers in TIFF that Pillow reads as another type.
_SAMPLE_TYPES = {(2, 8): np.int8, (2, 16): np.int16, (1, 32): np.uint32}

# What is converted at once: 16 MB with all copies.
_STRIP_PIXELS = 2**19

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
    except (SkTransferError, MemoryError):
        raise
    except Exception as exc:  # Pillow's plugins raise whatever the damage leads to
        hint, said = "", str(exc)
        if "unpack" in said or "index out of range" in said:  # Python's words, not Pillow's
            said = "it ends too early"
        if "unknown pixel mode" in said:  # TIFF of 10 bits, 64-bit floats, signed color, ...
            hint = " that Pillow does not read. Read it with tifffile and pass arrays"
        raise ImageDecodeError(f"damaged or unsupported {format_} file: {said}{hint}") from exc


def _decode(
    data: bytes, format_: str, scale: ValueScale | None, min_side: int | None
) -> DecodedImage:
    jpeg = read_jpeg(data) if format_ == "JPEG" else None
    check_layout(data, format_)
    with plugin(format_)(io.BytesIO(data)) as image:
        full_size = image.size
        if isinstance(image, TiffImageFile):
            _open_tiff(image)
        # Asked before loading: then the mode may change.
        depth = _declared_depth(image, data) if image.mode[:1] == "I" else None
        if scale not in (None, "dtype"):
            _refuse_deep_color(image, data)
        if min_side is not None and isinstance(image, JpegImageFile):
            # Have libjpeg leave out what is not needed.
            drafted = image.draft(None, (min_side, min_side))
            if drafted is not None and image.size != full_size:
                image.info[EXTENT] = Extent(full_size, drafted[1])
        buffered = jpeg.samples if jpeg is not None and jpeg.buffered else 0
        check_decoding(image, full_size, data, format_, orientation(image) != 1, buffered)
        check_coded_pixels(image, data, format_, jpeg)
        try:
            return _load(image, data, format_, scale, depth)
        except MemoryError:
            asked = f"{image.width} x {image.height} pixels of mode {image.mode}"
            raise MemoryError(asked) from None


def _load(
    image: OpenedFile, data: bytes, format_: str, scale: ValueScale | None, depth: _Depth | None
) -> DecodedImage:
    image.load()
    if format_ == "WebP":
        vars(image).pop("_decoder", None)  # its canvases take more than the image
    if format_ == "PNG":
        _scale_png_transparency(image, data)
    if format_ == "TGA" and image.mode == "RGBA" and not data[17] & 0x0F:
        # The header says that none of the fourth byte's bits is alpha; it is mostly 0.
        return image_to_image(image.convert("RGB"), scale, own=True)
    return image_to_image(image, scale, depth, own=True)


def _open_tiff(image: TiffImageFile) -> None:
    """Go to the first page that is no thumbnail, and check what libtiff allocates."""
    tags = image.tag_v2
    if tags.get(_SUBFILE_TAG, 0) & 1:  # a reduced copy of another page, or of a camera's raw data
        pages = _SUB_DIRECTORIES_TAG in tags
        for page in range(1, 100):
            try:
                image.seek(page)
            except EOFError:
                break
            if not image.tag_v2.get(_SUBFILE_TAG, 0) & 1:
                _open_tiff(image)
                return
        if pages:
            raise ImageDecodeError(
                "this TIFF holds only a thumbnail that can be read, as a camera's raw file does "
                "(DNG, NEF, ARW). Convert it to JPEG, PNG or TIFF first."
            )
        image.seek(0)
    tile, (bits, *_) = image.tile[0], tags.get(_BITS_PER_SAMPLE_TAG, (8,))
    if tile.codec_name == "raw":
        area = image.width * image.height
        # Pillow takes halves of 16 bits for whole, and every color for given at every pixel.
        if (tags.get(_PLANAR_TAG) == 2 and bits > 8) or (
            image.mode == "YCbCr" and sum(tags.get(_STRIP_BYTES_TAG, ())) < 3 * area
        ):
            raise ImageDecodeError(
                "a TIFF of deep color in separate planes, or of subsampled color, neither "
                "compressed, is not supported. Read it with tifffile and pass arrays."
            )
    elif image.mode in ("I", "F"):  # libtiff gives the machine's order, which Pillow forgets
        raw, *others = tuple(tile.args or ())
        image.tile = [tile._replace(args=(_NATIVE.get(raw, raw), *others))]
    # However small the image is, a tile is whole.
    tile_size = (tags.get(_TILE_WIDTH_TAG, 0), tags.get(_TILE_LENGTH_TAG, 0))
    if all(tile_size):
        check_size(tile_size)
    if _sample_dtype(image) == np.int8 and (image.mode != "L" or tags.get(_PHOTOMETRIC_TAG) == 0):
        raise ImageDecodeError("a TIFF of signed 8-bit color, or of white as 0, is not supported.")


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
        check_layout(content, format_)
        with plugin(format_)(io.BytesIO(content)) as image:
            return format_, image.mode
    return "array", f"{content.dtype}, {content.shape[2] if content.ndim == 3 else 1} channels"


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
        tile = image.tile[0]
        maximum = tile.args[-1] if isinstance(tile.args, tuple) else 65535
        if tile.codec_name != "ppm":
            return maximum, 65535 / maximum
        # Read as they are, not stretched by a decoder in Python: a hundred times as fast.
        image.tile = [tile._replace(codec_name="raw", args="I;16B")]
        return maximum, 1.0
    if image.format == "JPEG2000" and image.mode == "I;16":
        bits = _jpeg2000_bits(data)
        return 2**bits - 1, 2.0 ** (16 - bits)
    return None


def _jpeg2000_bits(data: bytes) -> int:
    """Read the bits of the first component from the codestream's size marker."""
    return (data[codestream(data) + 42] & 0x7F) + 1


def _refuse_deep_color(image: OpenedFile, data: bytes) -> None:
    """Refuse a declared range for 16-bit color, of which Pillow keeps the high bytes alone."""
    if image.mode[0] in "IF":  # gray, all of it kept
        return
    deep = image.format == "JPEG2000" and _jpeg2000_bits(data) > 8
    deep = deep or image.info.get("bit_depth", 8) > 8  # HEIF
    deep = deep or (image.format == "AVIF" and deep_av1(data))
    for tile in image.tile:
        args = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        deep = deep or ";16" in str(args[0])
        deep = deep or (tile.codec_name.startswith("ppm") and args[-1] > 255)
    if deep:
        raise ImageDecodeError(
            "color or alpha of more than 8 bits (16 bits a channel, say), of which the upper 8 are "
            "read; value_range cannot be applied to it. Read it with another library (tifffile, "
            "imageio) and pass arrays, or leave value_range out."
        )


# Pillow images ----------------------------------------------------------------------------------


def image_to_image(
    image: Image.Image, scale: ValueScale | None, depth: _Depth | None = None, own: bool = False
) -> DecodedImage:
    """Turn a loaded image of any mode into an image; the caller's is left as it was.

    ``scale`` is black and white of images deeper than 8 bits, ``depth`` that of 16-bit gray, if
    more is known than the image says. With ``own`` it is nobody else's, and may be returned.
    """
    turn = orientation(image)
    if turn != 1:
        image, own = _turned(image, turn), True
    if image.mode.startswith("I;16") or (
        image.mode == "I" and (depth is not None or image.format == "PPM")
    ):
        return _gray16(image, scale, depth or _tiff_depth(image))
    if image.mode in ("I", "F"):  # they declare no scale, so the rules for arrays hold
        dtype = _sample_dtype(image)
        scaled = _scale_deep(image, dtype, scale, lambda pixels: _signedness(pixels, dtype))
        return 1 - scaled if _white_is_zero(image) else scaled
    if image.mode == "L" and _sample_dtype(image) == np.int8:
        return array_to_image(np.asarray(image).view(np.int8), scale)
    if image.mode in ("RGBA", "LA", "RGBa", "La") or image.has_transparency_data:
        gray = image.mode in ("LA", "La", "1", "L")
        return _in_strips(image, "L" if gray else "RGB", "LA" if gray else "RGBA")
    if image.mode in ("L", "RGB"):
        return image if own else image.copy()
    return image.convert("L" if image.mode == "1" else "RGB")


def _strips(image: Image.Image) -> list[tuple[int, int, int, int]]:
    """Return boxes that an image is converted in, so that no copy but the result is whole."""
    width, height = image.size
    step = max(1, _STRIP_PIXELS // width)
    return [(0, top, width, min(top + step, height)) for top in range(0, height, step)]


def _in_strips(image: Image.Image, mode: str, with_alpha: str) -> Image.Image:
    """Return an image over white, in a mode without alpha."""
    result = Image.new(mode, image.size)
    for box in _strips(image):
        strip = image.crop(box)
        strip = strip if strip.mode == with_alpha else strip.convert(with_alpha)
        result.paste(flatten_alpha(strip), box)
    return result


def _scale_deep(
    image: Image.Image,
    dtype: np.dtype,
    scale: ValueScale | None,
    levels: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Return ``levels`` of the pixels of a deep image in [0, 1], as :func:`scale_values` does."""
    boxes = _strips(image)
    if len(boxes) == 1 or isinstance(scale, Percentiles):
        return scale_values(levels(np.asarray(image)), dtype, scale)
    ends = [(part.min(), part.max()) for part in (levels(np.asarray(image.crop(b))) for b in boxes)]
    scale_values(np.array([np.min(ends), np.max(ends)], dtype), dtype, scale)  # or all is refused
    result = np.empty((image.height, image.width), dtype=np.float32)
    for box in boxes:
        result[box[1] : box[3]] = scale_values(levels(np.asarray(image.crop(box))), dtype, scale)
    return result


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
    inverted = _white_is_zero(image)

    def levels(seen: np.ndarray) -> np.ndarray:
        seen = seen.astype(np.int32)
        found = seen if spread == 1 else np.rint(seen / spread).astype(np.int32)
        return maximum - found if inverted else found

    scale = (0.0, float(maximum)) if value_range in (None, "dtype") else value_range
    scaled = _scale_deep(image, np.dtype(np.uint16), scale, levels)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int) and image.mode != "I":
        for box in _strips(image):
            scaled[box[1] : box[3]][np.asarray(image.crop(box)) == transparent] = 1.0
    return scaled


def _white_is_zero(image: Image.Image) -> bool:
    """Return whether the levels of a TIFF are upside down; Pillow sees to 8 bits alone."""
    return isinstance(image, TiffImageFile) and image.tag_v2.get(_PHOTOMETRIC_TAG) == 0


def _sample_dtype(image: Image.Image) -> np.dtype:
    """Return the type of the numbers in a file, which Pillow may have read as another."""
    dtype: Any = {"I": np.int32, "F": np.float32}.get(image.mode, np.uint8)
    if isinstance(image, TiffImageFile):
        bits, kind = (image.tag_v2.get(tag, (default,))[0] for tag, default in _SAMPLE_TAGS)
        dtype = _SAMPLE_TYPES.get((kind, bits), dtype)
    return np.dtype(dtype)


def _signedness(pixels: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Undo that Pillow reads unsigned numbers of 32 bits as signed ones."""
    return pixels.view(np.uint32) if dtype == np.uint32 else pixels.astype(dtype, copy=False)


def _tiff_depth(image: Image.Image) -> _Depth:
    bits = image.tag_v2.get(_BITS_PER_SAMPLE_TAG) if isinstance(image, TiffImageFile) else None
    return (2 ** bits[0] - 1 if bits and 8 < bits[0] <= 16 else 65535), 1.0


def tiff_scale(image: Image.Image) -> tuple[object, ...]:
    """Return what of an opened TIFF changes its levels and is not in its pixels, for digests."""
    if not isinstance(image, TiffImageFile):
        return ()
    return image.tag_v2.get(_PHOTOMETRIC_TAG), _tiff_depth(image)[0], _sample_dtype(image).str


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
    # AVIF and HEIF turn by properties of their own, which their readers apply or put into EXIF.
    for key in () if image.format in ("AVIF", "HEIF") else ("xmp", "XML:com.adobe.xmp"):
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
