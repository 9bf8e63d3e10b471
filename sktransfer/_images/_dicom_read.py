"""From the bytes of a DICOM file to its header and its pixel data; runs in a helper process.

Sizes are checked before anything expands, and lengths before anything is read.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from dataclasses import dataclass

from pydicom import dcmread, uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import get_frame
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_file_meta_info

from sktransfer._images._dicom_values import Notes, UnreadableError, Values, named

_PREAMBLE = 132

# What each transfer syntax calls the compressed image.
KINDS = {
    **dict.fromkeys((uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit), "JPEG"),
    **dict.fromkeys((uid.JPEGLossless, uid.JPEGLosslessSV1), "lossless JPEG"),
    **dict.fromkeys(uid.JPEGLSTransferSyntaxes, "JPEG-LS"),
    **dict.fromkeys((uid.JPEG2000, uid.JPEG2000Lossless), "JPEG 2000"),
    **dict.fromkeys((uid.HTJ2K, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL), "HTJ2K"),
}
# Everything else (video, streams fetched by address, private ways) is refused by its name.
_ALLOWED = {*KINDS, *uid.UncompressedTransferSyntaxes, uid.RLELossless}

_UNDEFINED = 0xFFFFFFFF
_ITEM, _END = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)
_BEGINNINGS = (b"\xff\xd8\xff", b"\xff\x4f\xff")
_TYPES = (b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"UN")
_KEYWORDS = {0x0008: "FloatPixelData", 0x0009: "DoubleFloatPixelData", 0x0010: "PixelData"}


@dataclass(frozen=True)
class Header:
    """Everything before the pixels, and where in ``data``, inflated if need be, those begin."""

    values: Values
    syntax: uid.UID
    declared_syntax: str
    data: bytes
    pixels_at: int


def read_header(data: bytes, max_inflated: int) -> Header:
    """Return the header of a file.

    Raises UnreadableError if it is no DICOM file, compressed in a way that is not accepted, or
    expands to more than ``max_inflated`` bytes.
    """
    file = io.BytesIO(data)
    file.seek(_PREAMBLE)
    meta = read_dataset(  # group 2, which is never compressed
        file,
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=lambda tag, vr, length: tag.group != 2,
    )
    notes = Notes()
    syntax = uid.UID(str(Values(meta, notes).first("TransferSyntaxUID") or ""))
    is_said = bool(syntax)
    if not is_said:
        notes.correct("TransferSyntaxUID is empty: taken as uncompressed, little endian")
        syntax = uid.ImplicitVRLittleEndian
    if syntax not in _ALLOWED:
        name = syntax.name if syntax.name != str(syntax) else f"private: {syntax}"
        raise UnreadableError(
            f"a DICOM file of the transfer syntax {name!r}, which is not read: only images "
            "that are in the file itself, one by one, are. Have it converted (dcmconv, gdcmconv)."
        )
    declared = syntax.name
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        data = _inflated(data, meta, file.tell(), max_inflated)
        syntax = uid.ExplicitVRLittleEndian
    file = io.BytesIO(data)
    dataset = dcmread(file, stop_before_pixels=True)
    if not is_said and "Rows" not in dataset:
        raise UnreadableError("damaged DICOM file: it does not say how it is encoded.")
    values = Values(dataset, notes, syntax.is_little_endian)
    return Header(values, syntax, declared, data, file.tell())


def _inflated(data: bytes, meta: Dataset, start: int, at_most: int) -> bytes:
    """Return the file as if it had never been deflated, unless that has too many bytes."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    head = DicomBytesIO()
    head.write(data[:_PREAMBLE])
    write_file_meta_info(head, FileMetaDataset(meta), enforce_standard=False)
    inflated = inflater.decompress(data[start:], at_most)
    if not inflater.eof and inflater.unconsumed_tail:
        raise UnreadableError(
            f"a deflated DICOM file that expands to more than the {at_most:,} bytes that are "
            "accepted (it could be a decompression bomb)."
        )
    if not inflater.eof:
        raise UnreadableError("a deflated DICOM file that is cut short.")
    return head.getvalue() + inflated


def is_image(header: Header) -> bool:
    """Return whether a file has pixels, or a size as if it had."""
    return all(name in header.values.dataset for name in ("Rows", "Columns"))


def check_image(header: Header, max_pixels: int) -> None:
    """Refuse what is no image, or too large a one, before a pixel is decoded."""
    values = header.values
    if not is_image(header):
        what = values.text("Modality") or "no modality given"
        raise UnreadableError(f"a DICOM file without an image in it ({what}).")
    for keyword in ("Rows", "Columns"):
        if values.integer(keyword) is None:
            raise UnreadableError(
                f"damaged DICOM file: {named(keyword)} is empty, so that the image has no size. "
                "Correct the header, or leave the file out."
            )
    rows, columns = values.integer("Rows") or 0, values.integer("Columns") or 0
    if rows <= 0 or columns <= 0:
        raise UnreadableError(f"the image has no pixels ({columns} x {rows}).")
    if rows * columns > max_pixels:
        raise UnreadableError(
            f"the image claims {columns} x {rows} = {rows * columns:,} pixels, more than the "
            f"{max_pixels:,} that are accepted."
        )
    bits = values.integer("BitsAllocated")
    by_header = not header.syntax.is_encapsulated or header.syntax == uid.RLELossless
    if by_header and bits not in (1, 8, 16, 32, 64):
        said = "empty" if bits is None else bits
        raise UnreadableError(
            f"{named('BitsAllocated')} is {said}: that many bits per sample make no image; 1, 8, "
            "16, 32 and 64 do."
        )


def find_frame(values: Values, wanted: int | str) -> int:
    """Return which frame is wanted, counted from 0."""
    n = frame_count(values)
    if isinstance(wanted, str):
        return n // 2
    frame = wanted + n if wanted < 0 else wanted
    if not 0 <= frame < n:
        raise UnreadableError(f"frame {wanted} was asked for, and the file has {n}.")
    return frame


def frame_count(values: Values) -> int:
    """Return how many frames a file has; one if it does not say."""
    n = values.integer("NumberOfFrames")
    if n is not None and n < 1:
        values.notes.correct(f"NumberOfFrames is {n}: taken as 1")
    return max(1, n or 1)


def frames_held(header: Header) -> int:
    """Return how many frames a file has; raise UnreadableError if it cannot hold so many."""
    n, rest = frame_count(header.values), len(header.data) - header.pixels_at
    each = 8
    if not header.syntax.is_encapsulated:
        names = ("Rows", "Columns", "BitsAllocated")
        each = math.prod(header.values.integer(name) or 1 for name in names) // 8
    if n * each > rest + 16:
        raise UnreadableError(
            f"damaged DICOM file: {named('NumberOfFrames')} is {n:,}, and the {rest:,} bytes of "
            "its pixel data cannot hold so many."
        )
    return n


@dataclass(frozen=True)
class PixelData:
    """The pixel data element: its keyword, its value, and whether that is made of fragments."""

    keyword: str
    value: memoryview
    in_fragments: bool
    vr: str


def find_pixel_data(header: Header) -> PixelData:
    """Return the pixel data element, all of it.

    Raises UnreadableError if there is none, or if it ends before it says it does.
    """
    data, at, syntax = header.data, header.pixels_at, header.syntax
    order = "<" if syntax.is_little_endian else ">"
    if len(data) < at + 8:
        raise UnreadableError("a DICOM file without an image in it (no PixelData).")
    group, element = struct.unpack_from(f"{order}HH", data, at)
    vr = bytes(data[at + 4 : at + 6])
    implicit = vr not in _TYPES  # whatever the transfer syntax says; no even length begins so
    start, vr = (at + 8, b"OW") if implicit else (at + 12, vr)
    length = int.from_bytes(data[start - 4 : start], "little" if order == "<" else "big")
    if group != 0x7FE0 or element not in _KEYWORDS:
        raise UnreadableError("a DICOM file without an image in it (no PixelData).")
    keyword, in_fragments = _KEYWORDS[element], length == _UNDEFINED
    value = memoryview(data)[start:] if in_fragments else memoryview(data)[start : start + length]
    if not in_fragments and len(value) < length:
        raise UnreadableError(
            f"damaged DICOM file, probably truncated: {named(keyword)} should have {length:,} "
            f"bytes, and the file ends after {len(value):,} of them."
        )
    if in_fragments != syntax.is_encapsulated:
        raise UnreadableError(
            f"damaged DICOM file: its transfer syntax is {syntax.name!r}, but its PixelData is "
            f"{'in fragments' if in_fragments else 'not in fragments'}, as only "
            f"{'compressed' if in_fragments else 'uncompressed'} data is."
        )
    return PixelData(keyword, value, in_fragments, vr.decode("latin-1"))


def encoded_frame(pixels: PixelData, values: Values, frame: int) -> bytes:
    """Return the bytes of one compressed frame."""
    starts: list[int] = []
    data, at = pixels.value, 0
    while at + 8 <= len(data):
        group, element, length = struct.unpack_from("<HHL", data, at)
        if (group, element) == _END:
            break
        if (group, element) != _ITEM:
            if len(starts) < 2:
                raise UnreadableError("damaged DICOM file: its PixelData has no fragments.")
            break
        if at + 8 + length > len(data):
            raise UnreadableError(
                f"damaged DICOM file, probably truncated: a fragment of its compressed image "
                f"should have {length:,} bytes, and {len(data) - at - 8:,} are left."
            )
        starts.append(at)
        at += 8 + length
    if bytes(data[at : at + 4]) != struct.pack("<HH", *_END):
        values.notes.correct("PixelData has no end marker (a sequence delimiter)")
    n_frames = frame_count(values)
    begun = sum(data[start + 8 : start + 11] in _BEGINNINGS for start in starts[1:])
    if begun > n_frames:
        values.notes.correct(f"PixelData has more frames than the {n_frames} declared: left out")
    n_frames = max(n_frames, begun)
    offsets = [values.dataset.get(f"ExtendedOffsetTable{part}") for part in ("", "Lengths")]
    try:
        encoded = get_frame(
            bytes(data[:at]),
            frame,
            number_of_frames=n_frames,
            extended_offsets=tuple(offsets) if all(offsets) else None,
        )
    except (ValueError, struct.error) as error:
        raise UnreadableError(
            f"damaged DICOM file: NumberOfFrames is {n_frames}, and frame {frame} is not among its "
            f"{len(starts) - 1} fragments ({error})."
        ) from error
    return encoded
