"""The segments of a JPEG, read once: what its size, its scans and its damage are told from."""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass, field

from sktransfer._images._sizes import MAX_PIECES, too_many
from sktransfer._utils import config
from sktransfer.exceptions import ImageDecodeError

# Coded pixels hold escaped 0xff and restart markers; any other marker ends them.
_END_OF_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]", re.DOTALL)
_RESTART = re.compile(rb"\xff[\xd0-\xd7]", re.DOTALL)
# Frames in several passes: markers of Huffman and arithmetic codes, with and without a hierarchy.
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}


@dataclass
class Jpeg:
    """What decides about the pixels of a JPEG, without what only describes them."""

    parts: list[bytes] = field(default_factory=lambda: [b"\xff\xd8"])
    scans: list[bytes] = field(default_factory=list)  # coded pixels
    n_components: int = 0
    processes: set[int] = field(default_factory=set)  # markers of its frames, of which one is read
    pixels: int = 0
    blocks: int = 0
    samples: float = 3.0  # a pixel
    buffered: bool = False  # all samples are held until the last of several scans
    interval: int = 0  # units between restart markers
    units: dict[int, int] = field(default_factory=dict)  # of a scan of one component
    all_units: int = 0  # of a scan of several, each of which has blocks of all
    restarts_missing: bool = False  # in the last scan
    # For each component the lowest bit that was sent of each of its 64 coefficients.
    sent: dict[int, dict[int, int]] = field(default_factory=dict)


def read_jpeg(data: bytes) -> Jpeg:
    """Take a JPEG apart as libjpeg does, up to the end of its first image.

    Raises ImageDecodeError if it has too many segments, or scans: each scan of a progressive JPEG
    goes over all of the image, though it may hold nothing.
    """
    jpeg, at, pieces, junk, n_exif = Jpeg(), 2, 0, 0, 0
    while 0 <= (found := data.find(b"\xff", at)) < len(data) - 1:
        junk += 0 if jpeg.scans else found - at
        at, code, pieces = found, data[found + 1], pieces + 1
        n_exif += code == 0xE1 and data[at + 4 : at + 8] == b"Exif"  # Pillow joins them one by one
        if pieces > MAX_PIECES or junk > MAX_PIECES or n_exif > 200:
            raise too_many("segments, or bytes between them")
        if code == 0xD9 and jpeg.scans:
            jpeg.parts.append(b"\xff\xd9")
            break
        if code in (0x00, 0x01, 0xD9, 0xFF) or 0xD0 <= code <= 0xD8:  # by itself, or no marker
            at += 1 if code == 0xFF else 2
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        segment = data[at:end]
        if code == 0xDA:
            marker = _END_OF_SCAN.search(data, end)
            stop = marker.start() if marker else len(data)
            _add_scan(jpeg, segment, data[end:stop].rstrip(b"\xff"))  # fill bytes
            end = stop
        elif code == 0xDD:
            jpeg.interval = int.from_bytes(segment[4:6], "big")
            jpeg.parts.append(segment)
        elif not (0xE0 <= code <= 0xEF or code in (0xDC, 0xFE)):
            if 0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC):
                jpeg.processes.add(code)
                jpeg.buffered = code in _PROGRESSIVE
                if len(segment) > 9:
                    _add_frame(jpeg, segment)
            jpeg.parts.append(segment)
        at = end
    return jpeg


def _add_frame(jpeg: Jpeg, segment: bytes) -> None:
    """Note how many components, blocks and units there are."""
    height, width, jpeg.n_components = struct.unpack_from(">HHB", segment, 5)
    sampling = [(byte >> 4 or 1, byte & 15 or 1) for byte in segment[11::3]] or [(1, 1)]
    wide, high = (max(each) for each in zip(*sampling, strict=True))
    for component, (across, down) in zip(segment[10::3], sampling, strict=False):
        columns, rows = math.ceil(width * across / wide / 8), math.ceil(height * down / high / 8)
        jpeg.units[component] = columns * rows
    jpeg.all_units = math.ceil(width / (8 * wide)) * math.ceil(height / (8 * high))
    area = sum(across * down for across, down in sampling)
    jpeg.pixels, jpeg.samples = width * height, area / (wide * high)
    jpeg.blocks = max(jpeg.blocks, jpeg.all_units * area)


def _add_scan(jpeg: Jpeg, header: bytes, coded: bytes) -> None:
    """Add a scan: its coded pixels up to the last restart interval that the image needs."""
    n = header[4] if len(header) > 4 else 0
    units = jpeg.all_units
    if len(header) == 8 + 2 * n:
        first, last, low = header[-3], header[-2], header[-1] & 15
        if not jpeg.processes & _PROGRESSIVE:  # some phones write anything, and nobody looks
            first, last, low = 0, 63, 0
            header = header[:-3] + b"\0\x3f\0"
        for component in header[5:-3:2]:
            sent = jpeg.sent.setdefault(component, {})
            sent.update(dict.fromkeys(range(first, last + 1), low))
            units = jpeg.units.get(component, 0) if n == 1 else units
    if jpeg.interval:
        needed = math.ceil(units / jpeg.interval)
        restarts = [found.start() for found in _RESTART.finditer(coded)]
        jpeg.restarts_missing = len(restarts) < needed - 1
        if 0 < needed <= len(restarts):  # some scanners go on below the image
            coded = coded[: restarts[needed - 1]]
    jpeg.scans.append(coded)
    jpeg.parts += [header, coded]
    jpeg.buffered = jpeg.buffered or n < jpeg.n_components
    n_scans, most, pixels = len(jpeg.scans), config.MAX_JPEG_SCANS, config.MAX_SCANNED_PIXELS
    if jpeg.buffered and (n_scans > most or n_scans * jpeg.pixels > pixels):
        raise ImageDecodeError(
            f"the JPEG has {n_scans} scans or more of {jpeg.pixels:,} pixels each; at most {most} "
            f"scans and {pixels:,} pixels in all of them are read. Encoders write about ten: save "
            "it again if it is genuine."
        )
