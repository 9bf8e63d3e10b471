"""How much memory and work a file asks for, told before it is decoded; more is refused.

Pillow's own limit counts pixels. What they take depends on mode, decoder and on the copies that
the conversion makes, from 1 to 20 bytes a pixel, and a file of some bytes may ask for hours of
work. The numbers here were measured (``tests/images/test_sizes.py``).
"""

from __future__ import annotations

import io
import re
import struct

from PIL import IcoImagePlugin
from PIL.BmpImagePlugin import DibImageFile
from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import PngImageFile

from sktransfer._utils import config as _config
from sktransfer.exceptions import ImageDecodeError

# Bytes that Pillow takes for a pixel of a mode; 4 for all others.
_STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}
# Bytes a pixel that libwebp's canvases and those of libheif take besides; of icons, all in all.
_WEBP, _HEIF, _ICON = 12, 6, 16
# Pieces (segments, chunks, strips, blocks) of a file, each of which Pillow reads in Python; real
# files have some thousands. As many bytes may lie between them.
MAX_PIECES = 200_000
# A JPEG decoded at a fraction of its size may have this many times the pixels of others.
_SCALED = 4

FREE_MEMORY = "Close other programs, use fewer jobs (n_jobs), or shrink the image."
_SHRINK = "Shrink it first if it is genuine."
_TIFF_BYTES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_AV1_FLAGS = re.compile(rb"av1C..(.)", re.DOTALL)


def check_size(size: tuple[int, int], needed: float = 0, advice: str = _SHRINK) -> None:
    """Refuse an image of so many pixels, or bytes to decode them, that memory could run out."""
    width, height = size
    if width == 0 or height == 0:
        raise ImageDecodeError(f"the image has no pixels ({width} x {height}).")
    limit = _config.MAX_IMAGE_PIXELS
    if width * height > limit:
        raise ImageDecodeError(
            f"the image claims {width} x {height} = {width * height:,} pixels, more than the "
            f"{limit:,} that are accepted (it could be a decompression bomb). {advice}"
        )
    if needed > _config.MAX_DECODED_BYTES:
        raise ImageDecodeError(
            f"decoding {width} x {height} pixels of this kind takes {needed / 1e6:,.0f} MB of "
            f"memory, more than the {_config.MAX_DECODED_BYTES / 1e6:,.0f} MB that are accepted. "
            f"{advice}"
        )


def bytes_to_convert(mode: str, turned: bool) -> int:
    """Return how many bytes a pixel a loaded image takes with the copies made of it."""
    stored = _STORED.get(mode, 4)
    made = 0 if mode in ("L", "RGB") else 1 if mode in ("1", "LA", "La") else 4
    # Deep images are float32 once more while they are resized.
    return max(stored * (1 + turned) + made, 8 if mode[0] in "IF" else 0)


def check_decoding(
    image: ImageFile,
    full_size: tuple[int, int],
    data: bytes,
    format_: str,
    turned: bool,
    buffered: float = 0,
) -> None:
    """Refuse an opened image, not loaded yet, whose decoding would take too much memory.

    ``full_size`` is that before a JPEG was told to come at a fraction, ``buffered`` how many
    samples a pixel of it are held until its last scan.
    """
    pixels, stored = image.width * image.height, _STORED.get(image.mode, 4)
    decoder = 2 * buffered * full_size[0] * full_size[1]  # all coefficients
    decoder += _decoder_bytes(image, data, format_)
    most = _SCALED * _config.MAX_IMAGE_PIXELS
    if format_ != "JPEG" or image.size == full_size:
        loading = pixels * stored + decoder
        advice = _SHRINK
        if format_ == "JPEG" and full_size[0] * full_size[1] <= most:
            advice = (
                "scaled_decoding=True reads it, at a fraction of its size (not with a "
                "preprocessing callable); or shrink it first."
            )
        needed = max(loading, pixels * bytes_to_convert(image.mode, turned))
        check_size(image.size, needed, advice)
        return
    if full_size[0] * full_size[1] > most:
        raise ImageDecodeError(
            f"the image claims {full_size[0]} x {full_size[1]} pixels, more than the "
            f"{most:,} that are accepted with scaled_decoding=True. {_SHRINK}"
        )
    check_size(image.size, pixels * 8 + decoder)


def _decoder_bytes(image: ImageFile, data: bytes, format_: str) -> float:
    """Return what the decoder takes besides the pixels of the Pillow image."""
    pixels, bands = image.width * image.height, len(image.getbands())
    codec = image.tile[0].codec_name if image.tile else ""
    if format_ == "TIFF":
        tags: dict[int, object] = image.tag_v2  # type: ignore[attr-defined]
        copy = pixels * _STORED.get(image.mode, 4) if tags.get(274, 1) != 1 else 0
        if codec != "libtiff":
            return copy
        width = tags.get(322) or image.width
        height = tags.get(323) or min(_number(tags.get(278), image.height), image.height)
        depth = tags.get(258, (8,))
        bits = sum(depth) if isinstance(depth, tuple) else 8  # of all samples
        return copy + _number(width, 0) * _number(height, 0) * (
            4 if tags.get(262) == 6 else bits / 8
        )
    if format_ == "JPEG 2000":
        return _jpeg2000_bytes(data)
    if format_ == "AVIF":
        coded = [_av1_bytes(found[1][0]) for found in _AV1_FLAGS.finditer(data)]
        return pixels * (max(coded, default=6.0) + (bands in (2, 4)) + bands + 1)
    if format_ in ("WebP", "HEIF"):
        return pixels * (_WEBP if format_ == "WebP" else _HEIF)
    if codec in ("ppm", "ppm_plain", "bmp_rle"):  # written in Python, all of it at once
        return pixels * 2 * (4 if image.mode == "I" else bands)
    return 0


def _number(value: object, default: int) -> int:
    return value if isinstance(value, int) else default


def deep_av1(data: bytes) -> bool:
    """Return whether an AVIF has more than 8 bits a sample."""
    return any(found[1][0] & 0x40 for found in _AV1_FLAGS.finditer(data))


def _av1_bytes(flags: int) -> float:
    """Return the bytes a pixel of decoded planes, from the flags of AV1's configuration."""
    chroma = 0.0 if flags & 0x10 else 2 / (1 << ((flags >> 3 & 1) + (flags >> 2 & 1)))
    return (1 + chroma) * (2 if flags & 0x40 else 1)


# What is asked before a plugin is handed the file -------------------------------------------------


def check_layout(data: bytes, format_: str) -> None:
    """Refuse what Pillow would spend memory or minutes on while it only opens the file."""
    check = _CHECKS.get(format_)
    if check is None:
        return
    try:
        check(data)
    except (struct.error, IndexError):
        return  # cut short there: Pillow reads no further either, and says so


def too_many(what: str) -> ImageDecodeError:
    """Return the error about a file of so many pieces of a kind."""
    return ImageDecodeError(
        f"the file has more than {MAX_PIECES:,} {what}; it was made to keep the decoder busy, or "
        "is damaged."
    )


def _check_png(data: bytes) -> None:
    at, pieces = 8, 0
    while data[at + 4 : at + 8] not in (b"IEND", b""):
        at += 12 + struct.unpack_from(">I", data, at)[0]
        pieces += 1
        if pieces > MAX_PIECES:
            raise too_many("chunks")


def _check_gif(data: bytes) -> None:
    """Check the screen and the first frame, which may be larger; found the way Pillow finds it."""
    width, height = struct.unpack_from("<HH", data, 6)
    check_size((width, height))
    at = 13 + (3 << ((data[10] & 7) + 1) if data[10] & 0x80 else 0)
    pieces = 0

    def block() -> bytes:
        nonlocal at, pieces
        size, at, pieces = data[at], at + 1 + data[at], pieces + 1
        if pieces > MAX_PIECES:
            raise too_many("blocks before the first frame")
        return data[at - size : at]

    while data[at] != 0x3B:
        kind, at, pieces = data[at], at + 1, pieces + 1
        if kind == 0x2C:
            left, top, frame_width, frame_height = struct.unpack_from("<HHHH", data, at)
            check_size((max(width, left + frame_width), max(height, top + frame_height)))
            return
        if kind != 0x21:  # Pillow passes over it
            if pieces > MAX_PIECES:
                raise too_many("blocks before the first frame")
            continue
        label, at = data[at], at + 1
        content = block()
        if label == 0xFE:
            while content:
                content = block()
            continue
        if label == 0xFF and content.startswith(b"NETSCAPE2.0"):
            block()
        while block():
            pass


def _check_ico(data: bytes) -> None:
    """Check the image that Pillow takes of an icon, which it decodes as soon as it opens it."""
    icon = IcoImagePlugin.IcoFile(io.BytesIO(data))
    entry = icon.entry[icon.getentryindex(icon.entry[0].dim)]
    inner = data[entry.offset :]
    is_png = inner.startswith(b"\x89PNG\r\n\x1a\n")
    if is_png:
        _check_png(inner)
    with (PngImageFile if is_png else DibImageFile)(io.BytesIO(inner)) as image:
        check_size(image.size, image.width * image.height * _ICON)


def _check_webp(data: bytes) -> None:
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    check_size((width, height), width * height * (4 + _WEBP))


def _check_tiff(data: bytes) -> None:
    """Check how much the first directory lists: strips, and data that its tags point to."""
    order = "<" if data[:1] == b"I" else ">"
    big = 43 in data[2:4]
    (start,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    (n_tags,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
    if n_tags > 2**16:
        raise too_many("tags")
    total = 0
    for i in range(n_tags):
        at = start + (8 + 20 * i if big else 2 + 12 * i)
        tag, kind, count = struct.unpack_from(order + ("HHQ" if big else "HHI"), data, at)
        if tag in (273, 324) and count > MAX_PIECES:
            raise too_many("strips or tiles")
        total += count * _TIFF_BYTES.get(kind, 1)
        if total > 2 * len(data) + 2**16:
            raise ImageDecodeError("damaged TIFF file: its tags claim more bytes than it has.")


def codestream(data: bytes) -> int:
    """Return where the codestream of a JPEG 2000 file begins."""
    at = 0
    while data[at : at + 2] != b"\xff\x4f":
        (length,) = struct.unpack_from(">I", data, at)
        head = 16 if length == 1 else 8
        if data[at + 4 : at + 8] == b"jp2c":
            return at + head
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, at + 8)
        at += max(8, length)
    return at


def _jpeg2000_bytes(data: bytes) -> float:
    """Return what OpenJPEG takes: the samples of a tile, and its lists of code blocks."""
    at = codestream(data)
    right, bottom, left, top, tile_width, tile_height, _, _, n = struct.unpack_from(
        ">8IH", data, at + 8
    )
    width, height = right - left, bottom - top
    check_size((width, height))
    deep = any(data[at + 42 + 3 * i] & 0x7F > 7 for i in range(n))
    tile = min(width, tile_width) * min(height, tile_height)
    cell = 2.0**12
    at += 2
    while data[at : at + 2] != b"\xff\x90":  # the first tile
        marker, length = struct.unpack_from(">HH", data, at)
        if marker == 0xFF52:
            cell = min(cell, 2.0 ** (data[at + 10] + data[at + 11] + 4))
            if data[at + 4] & 1:
                precincts = data[at + 14 : at + 2 + length]
                cell = min([cell, *(2.0 ** ((each & 15) + (each >> 4)) for each in precincts)])
        at += 2 + length
    return tile * n * (4 + 1 + deep + 200 / cell)


_CHECKS = {
    "PNG": _check_png,
    "GIF": _check_gif,
    "ICO": _check_ico,
    "WebP": _check_webp,
    "TIFF": _check_tiff,
    "JPEG 2000": _jpeg2000_bytes,
}
