"""Damage inside encoded images that Pillow decodes without a word: found before, never repaired.

Pillow makes the pixels. Where it drops what its libraries say, or does not look at checksums, the
coded pixels are checked here: JPEG by a second, strict decoder that keeps its warnings, PNG and
deflated TIFF by their checksums, and runs of zeros longer than an entropy coder writes. Pixels of a
JPEG without a warning are those of the strict decoder, which are the same: it is decoded once.
"""

from __future__ import annotations

import math
import re
import struct
import zlib
from collections.abc import Iterator
from functools import cache
from io import BytesIO

import numpy as np
import simplejpeg
from PIL import Image
from PIL.ImageFile import ImageFile as OpenedFile
from PIL.TiffImagePlugin import TiffImageFile

from sktransfer._images._jpeg import Jpeg, read_jpeg
from sktransfer._utils import config
from sktransfer.exceptions import ImageDecodeError

_ADVICE = "Get the file again from where it came from."

# What libjpeg says of damage, among all that keeps a file from being checked.
_SAID = re.compile(r"Corrupt JPEG data: .*|Premature end of .*|Inconsistent progression .*")
_EXTRANEOUS = re.compile(r"(\d+) extraneous bytes before marker 0x(..)")
# Bytes that encoders leave behind the pixels of a scan, or before a restart marker.
_PADDING = 2
# Bytes that libjpeg may have read ahead when it counts what is left.
_READ_AHEAD = 8
# Pixels of a JPEG that is decoded by the strict decoder alone: it takes another copy of them.
_ONE_DECODING = 2**24
# Frames of cosine transforms, in one pass or several: markers of baseline, extended, arithmetic.
_TRANSFORMED = {0xC0, 0xC1, 0xC9, 0xC2, 0xCA}
_END_OF_FAX = 0x001001
_PNG = b"\x89PNG\r\n\x1a\n"

# Zero bytes in a row that any coder may write; what flat areas may add is in each check.
_ZEROS = 64


def check_coded_pixels(image: OpenedFile, data: bytes, format_: str, jpeg: Jpeg | None) -> None:
    """Raise ImageDecodeError if the coded pixels of an opened file are found to be damaged.

    A JPEG of which the strict decoder says nothing has its pixels afterwards: Pillow has no more to
    decode.
    """
    if jpeg is not None:
        pixels = _strictly_decoded(image, data, jpeg)
        check_jpeg(jpeg, decoded=pixels is not None)
        if pixels is not None:
            image.im, image.tile = Image.fromarray(pixels).im, []
    elif format_ == "PNG":
        _check_png(data, 0)
    elif format_ == "ICO":
        for entry in re.finditer(_PNG, data):
            _check_png(data, entry.start())
    elif format_ == "WebP":
        _check_webp(data, image.size)
    elif format_ == "JPEG 2000":
        check_jpeg2000(data)
    elif format_ in ("AVIF", "HEIF"):
        _check_media(image, data, format_)
    elif isinstance(image, TiffImageFile):
        _check_tiff(image, data)


# JPEG -------------------------------------------------------------------------------------------


def _strictly_decoded(image: OpenedFile, data: bytes, jpeg: Jpeg) -> np.ndarray | None:
    """Return the pixels of a JPEG, or None: it has a flaw, or Pillow would give others."""
    modes = {"L": (1, "GRAY"), "RGB": (3, "RGB")}
    n_components, colorspace = modes.get(image.mode, (0, ""))
    same = image.width * image.height == jpeg.pixels <= _ONE_DECODING and jpeg.scans
    known = jpeg.processes <= _TRANSFORMED and n_components == jpeg.n_components > 0
    if not same or not known or not _decoders_agree():
        return None
    try:
        pixels = simplejpeg.decode_jpeg(data, colorspace)
    except ValueError:
        return None
    pixels = pixels[..., 0] if n_components == 1 else pixels
    return pixels if pixels.shape[1::-1] == image.size else None


@cache
def _decoders_agree() -> bool:
    """Return whether the library in simplejpeg decodes to the bit what Pillow's does."""
    slope, file = np.add.outer(np.arange(37) ** 2, np.arange(43) * 5), BytesIO()
    image = Image.fromarray(np.stack([slope, slope * 3, slope // 7], 2).astype(np.uint8))
    image.save(file, "JPEG", quality=80)  # with halved colors
    ours = simplejpeg.decode_jpeg(file.getvalue(), "RGB")
    return np.array_equal(ours, np.asarray(Image.open(file)))


def check_jpeg(jpeg: Jpeg, *, decoded: bool = False) -> None:
    """Raise ImageDecodeError if a JPEG file or stream is damaged, as far as a decoder can tell.

    Descriptions, what lies between segments and all behind the end are left out first, since
    libjpeg keeps one warning and they may earn it. What the strict decoder cannot read (lossless
    ones, 12 bits, unusual sampling) is not checked. ``decoded`` says that it was read whole.
    """
    # One without scans is for its decoder to refuse. libjpeg cannot shrink lossless ones: asked
    # for an eighth, simplejpeg would write far beyond its buffer.
    small = jpeg.blocks <= config.MAX_IMAGE_PIXELS // 16  # of 64 pixels each, in four colors
    if not jpeg.scans or not jpeg.processes <= _TRANSFORMED or not small:
        return
    for scan in jpeg.scans:
        _refuse_zeros(scan, jpeg.blocks // 4, "JPEG")  # two bits for a block that is flat
    colorspace = "CMYK" if jpeg.n_components == 4 else "GRAY"
    fast = {"fastdct": True, "fastupsample": True, "min_height": 1, "min_width": 1, "min_factor": 8}
    try:  # an eighth of the size: the coded pixels are all read, little else is computed
        if not decoded:
            simplejpeg.decode_jpeg(b"".join(jpeg.parts), colorspace, **fast)
    except ValueError as error:
        said = _SAID.search(str(error))
        if said is not None and not _is_padding(said[0], jpeg):
            kind = "truncated" if "remature" in said[0] else "damaged"
            raise ImageDecodeError(
                f"{kind} JPEG: part of it is missing or overwritten (libjpeg: {said[0]}). {_ADVICE}"
            ) from None
    if len(jpeg.sent) < jpeg.n_components or any(
        any(lowest.values()) for lowest in jpeg.sent.values()
    ):
        raise ImageDecodeError(
            f"truncated JPEG: its last scans, which hold the detail, are missing. {_ADVICE}"
        )


def _is_padding(said: str, jpeg: Jpeg) -> bool:
    """Return whether a warning is of bytes that encoders leave behind the pixels.

    They are two at most, or all alike and none of them decoded: a decoder that lost its place in
    the middle has bytes left over too.
    """
    found = _EXTRANEOUS.search(said)
    if found is None:
        return False
    n, coded = int(found[1]), jpeg.scans[-1]
    alike = len(coded) - len(coded.rstrip(coded[-1:]))
    behind = found[2] == "d9" and not jpeg.restarts_missing
    return n <= _PADDING or (behind and n <= alike <= n + _READ_AHEAD)


# Other formats ----------------------------------------------------------------------------------


def _refuse_zeros(coded: bytes, flat: int, kind: str) -> None:
    """Refuse more zeros in a row than any coder writes, if ``flat`` are for flat areas."""
    n = _ZEROS + flat
    if n <= len(coded) and (at := coded.find(bytes(n))) >= 0:
        raise ImageDecodeError(
            f"damaged {kind}: more than {n} bytes of its coded pixels, from byte {at} of "
            f"{len(coded)} on, are zero: part of it was overwritten. {_ADVICE}"
        )


def _check_png(data: bytes, start: int) -> None:
    """Check the pixels' checksums, which Pillow leaves out: half a file may still decompress."""
    at = start + len(_PNG)
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


def _check_webp(data: bytes, size: tuple[int, int]) -> None:
    """Look for zeros in the coded pixels of the first frame, which have no checksum."""
    at = 12
    while at + 8 <= len(data):
        kind, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if kind == b"ANMF":  # a frame: sixteen bytes, then chunks of its own
            at += 24
            continue
        if kind in (b"VP8 ", b"VP8L"):
            # A flat block of 16 x 16 costs libwebp up to 0.1 bytes, a pixel without loss 4 bits.
            pixels = size[0] * size[1]
            flat = pixels // 1024 if kind == b"VP8 " else pixels // 2
            _refuse_zeros(data[at + 8 : at + 8 + length], flat, "WebP")
            return
        at += 8 + length + length % 2


def _check_media(image: OpenedFile, data: bytes, format_: str) -> None:
    """Look for zeros in the coded pixels of AVIF, and of HEIF, which escapes three in a row."""
    at = data.find(b"mdat")
    length = int.from_bytes(data[max(at - 4, 0) : max(at, 0)], "big")
    coded = data[at + 4 : at - 4 + length if length > 1 else None]
    flat = image.width * image.height // 1024 if format_ == "AVIF" else 0
    described = (value for value in image.info.values() if isinstance(value, bytes))
    if at > 0 and not any(bytes(_ZEROS) in value for value in described):  # they stand there too
        _refuse_zeros(coded, flat, format_)


def check_jpeg2000(data: bytes) -> None:
    """Look for zeros in the tiles, where an empty packet is one byte."""
    start = data.find(b"\xff\x4f\xff\x51")
    style = data.find(b"\xff\x52", start)
    tile = data.find(b"\xff\x90", style)
    if start < 0 or style < 0 or tile < 0 or data[style + 4] & 1:  # packets of any number
        return
    width, height = struct.unpack_from(">II", data, start + 8)
    (components,) = struct.unpack_from(">H", data, start + 40)
    layers, levels = struct.unpack_from(">HxB", data, style + 6)
    block = 2 ** (data[style + 10] + data[style + 11] + 4)
    tiles = min(1 + data.count(b"\xff\x90", style), 65535)
    packets = layers * (levels + 1) * components
    # A bit says of each block whether a layer adds to it; ``tiles`` may have their packets.
    blocks = math.ceil(width * height / block * 4 / 3) * components * layers // 8
    _refuse_zeros(data[tile:], packets * tiles + blocks + 256, "JPEG 2000")


def _check_tiff(image: TiffImageFile, data: bytes) -> None:
    """Check strips and tiles whose coding lets one: JPEG, deflate (a checksum), fax group 4."""
    tags = image.tag_v2
    compression = tags.get(259)
    if compression not in (4, 7, 8, 32946):
        return
    tables = bytes(tags.get(347, b""))
    samples = tags.get(277, 1) if tags.get(284, 1) == 1 else 1
    row = math.ceil(tags.get(322, image.width) * samples * max(tags.get(258, (1,))) / 8)
    rows = tags.get(323, min(tags.get(278, image.height), image.height))
    for number, strip in enumerate(_strips(image, data)):
        if compression == 4:  # no code has twelve zeros; some scanners pad behind the end's code
            coded = strip.rstrip(b"\0")
            end = int.from_bytes(coded[-5:], "big")
            ended = end and end // (end & -end) & 0xFFFFFF == _END_OF_FAX
            _refuse_zeros(coded if ended else strip, 0, "TIFF")
        elif compression == 7 and strip[:2] == b"\xff\xd8":
            check_jpeg(read_jpeg(tables[:-2] + strip[2:] if len(tables) > 4 else strip))
        elif compression != 7:
            below = 0 if 323 in tags else number % math.ceil(image.height / rows) * rows
            _check_deflate(strip, row * min(rows, image.height - below), row * rows)


def _check_deflate(strip: bytes, needed: int, most: int) -> None:
    """Inflate a strip to its checksum, which libtiff does not read once it has all rows."""
    inflate, size = zlib.decompressobj(), 0
    try:
        while strip and not inflate.eof and size <= most:
            size += len(inflate.decompress(strip, 2**20))
            strip = inflate.unconsumed_tail
    except zlib.error as error:
        raise ImageDecodeError(f"damaged TIFF: {error}. {_ADVICE}") from None
    if size > needed and not inflate.eof:
        raise ImageDecodeError(
            f"damaged TIFF: a strip or tile has more rows than the image. {_ADVICE}"
        )


def _strips(image: TiffImageFile, data: bytes) -> Iterator[bytes]:
    """Yield the bytes of each strip or tile of the first image."""
    tags = image.tag_v2
    for where, how_long in ((273, 279), (324, 325)):
        for at, length in zip(tags.get(where, ()), tags.get(how_long, ()), strict=False):
            yield data[at : at + length]
