"""What compressed images say of themselves: JPEG, JPEG-LS and JPEG 2000, read from their markers.

The header of a DICOM file is written by another program than its compressed images, often years
later. Where the two differ, the image is what its decoder will make of it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class CodeStream:
    """One compressed image.

    ``kind`` is "JPEG", "lossless JPEG", "JPEG-LS", "JPEG 2000" or "HTJ2K". ``color`` is what three
    components are, "RGB" or "YBR", if markers say it, and ``is_usual`` that they are YBR by
    convention if none do. ``start`` is where it begins, behind a file header that has no place in
    DICOM.
    """

    kind: str
    rows: int
    columns: int
    components: int
    bits: int
    signed: bool = False
    color: str | None = None
    is_usual: bool = False
    start: int = 0

    def __str__(self) -> str:
        sign = "signed " if self.signed else ""
        return f"{self.kind}, {self.components} x {sign}{self.bits} bits"


def read_code_stream(encoded: bytes) -> CodeStream | None:
    """Return what a compressed image says of itself, or None if it is of no such kind."""
    try:
        at = encoded.find(b"\xff\x4f\xff\x51", 0, 2**16)
        if encoded[:2] == b"\xff\xd8":
            return _jpeg(encoded)
        return None if at < 0 else _jpeg2000(encoded, at)
    except (struct.error, IndexError):  # it ends before its own header does
        return None


def is_cut_short(encoded: bytes, stream: CodeStream) -> bool:
    """Return whether a compressed image ends before it says it does."""
    if not stream.kind.startswith(("JPEG 2000", "HTJ2K")):
        return b"\xff\xd9" not in encoded[-64:] and encoded.rfind(b"\xff\xd9") < len(encoded) // 2
    at = encoded.find(b"\xff\x90\x00\x0a")  # parts of tiles, each with its length
    while 0 <= at <= len(encoded) - 12 and encoded[at : at + 2] == b"\xff\x90":
        length = struct.unpack_from(">I", encoded, at + 6)[0]
        if not length:  # to the end
            return b"\xff\xd9" not in encoded[-64:]
        at += length
    return at < 0 or at > len(encoded)


def without_markers(encoded: bytes) -> bytes:
    """Return a JPEG that no decoder takes for color of one kind or another.

    Decoders differ in whether they heed application markers and the names of components. Without
    them, all give the components as they are stored.
    """
    parts, ids = [encoded[:2]], b""
    for at, marker, length in _segments(encoded, 2):
        segment = bytearray(encoded[at : at + 2 + length])
        if _is_frame(marker) and segment[9] == 3:
            ids = bytes(segment[10:19:3])
            segment[10:19:3] = b"\1\2\3"
        if marker == 0xDA:
            break
        if marker not in (0xE0, 0xEE):
            parts.append(bytes(segment))
    scans = bytearray(encoded[at:])
    at = 0
    while ids and at >= 0:  # each scan names the components in it
        for i in range(at + 5, at + 5 + 2 * scans[at + 4], 2):
            scans[i] = ids.index(scans[i]) + 1 if scans[i] in ids else scans[i]
        at = scans.find(b"\xff\xda", at + 2)
    return b"".join((*parts, scans))


def _segments(encoded: bytes, at: int) -> Iterator[tuple[int, int, int]]:
    """Yield where each segment begins, its marker and its length; IndexError where none begins."""
    while True:
        if encoded[at] != 0xFF:
            raise IndexError
        if encoded[at + 1] != 0xFF:  # else a fill byte
            length = struct.unpack_from(">H", encoded, at + 2)[0]
            yield at, encoded[at + 1], length
            at += 1 + length
        at += 1


def _is_frame(marker: int) -> bool:
    return marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC))


def _jpeg(encoded: bytes) -> CodeStream | None:
    jfif, adobe, mixed = False, None, False
    for at, marker, length in _segments(encoded, 2):
        body = encoded[at + 4 : at + 2 + length]
        if marker in (0xD9, 0xDA):
            return None
        if marker == 0xE0 and body[:5] == b"JFIF\0":
            jfif = True
        if marker == 0xEE and body[:5] == b"Adobe" and len(body) >= 12:
            adobe = body[11]
        if marker == 0xE8 and body[:4] == b"mrfx" and body[4:5] > b"\0":
            mixed = True
        if _is_frame(marker):
            break
    bits, rows, columns, n = struct.unpack_from(">BHHB", body)
    ids, sampling = body[6 : 6 + 3 * n : 3], body[7 : 7 + 3 * n : 3]
    lossless = marker in (0xC3, 0xC7, 0xCB, 0xCF)
    kind = "JPEG-LS" if marker == 0xF7 else "lossless JPEG" if lossless else "JPEG"
    color = {b"RGB": "RGB", b"rgb": "RGB", b"YCC": "YBR", b"ycc": "YBR"}.get(ids)
    if kind == "JPEG-LS":
        color = "RGB" if mixed else color  # decoders undo it
    elif jfif or adobe in (0, 1):
        color = "YBR" if jfif or adobe else "RGB"
    elif len(set(sampling)) > 1:
        color = "YBR"
    usual = color is None and kind == "JPEG" and ids == b"\1\2\3"
    return CodeStream(kind, rows, columns, n, bits, False, color, usual)


def _jpeg2000(encoded: bytes, at: int) -> CodeStream:
    right, bottom, left, top = struct.unpack_from(">IIII", encoded, at + 8)
    n, depth = struct.unpack_from(">HB", encoded, at + 40)
    kind, mixed = "JPEG 2000", False
    for i, marker, _ in _segments(encoded, at + 2):
        if marker == 0x50:  # of high throughput
            kind = "HTJ2K"
        if marker == 0x52:
            mixed = bool(encoded[i + 8])
        if marker in (0x90, 0xD9):
            break
    color = "YBR" if b"colr\1\0\0\0\0\0\x12" in encoded[:at] else None
    color = "RGB" if mixed else color  # decoders undo it
    size, bits = (bottom - top, right - left), (depth & 0x7F) + 1
    return CodeStream(kind, *size, n, bits, bool(depth & 0x80), color, False, at)
