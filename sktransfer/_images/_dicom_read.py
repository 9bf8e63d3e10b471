"""From the bytes of a DICOM file to the stored values of one frame, checked before they expand.

It runs in a helper process (``_dicom_worker``).
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from pydicom import dcmread, uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import get_frame
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_file_meta_info
from pydicom.pixels import get_decoder, pixel_array

_PREAMBLE = 132

# Everything else (video, streams fetched by address, private ways) is refused by its name.
_NATIVE = frozenset(
    {
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.DeflatedExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
    }
)
_JPEG = frozenset(
    {
        *(uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1),
        *(uid.JPEGLSLossless, uid.JPEGLSNearLossless),
    }
)
_JPEG2000 = frozenset(
    {
        *(uid.JPEG2000Lossless, uid.JPEG2000),
        *(uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K),
    }
)
_ALLOWED = _NATIVE | _JPEG | _JPEG2000 | {uid.RLELossless}

# The first of these that is installed decodes, so that it does not depend on the file which.
_DECODERS = ("pydicom", "gdcm", "pyjpegls", "pillow", "pylibjpeg")

_COLORS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_GRAYS = ("MONOCHROME1", "MONOCHROME2")
PALETTE = "PALETTE COLOR"

# Inflated first, to learn from the header what the rest may be.
_HEADER_BYTES = 16 * 2**20
# Alongside the pixels: what may follow them.
_SLACK_BYTES = 2**20


class UnreadableError(Exception):
    """What is wrong with the file, in words for its owner."""


class MissingDecoderError(Exception):
    """What is compressed in a way that nothing installed can undo."""


def read_header(data: bytes, max_inflated: int) -> tuple[Dataset, bytes]:
    """Return everything before the pixels, and the file's bytes, inflated if they were deflated.

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
    syntax = meta.get("TransferSyntaxUID")
    if not syntax:
        raise UnreadableError("damaged DICOM file: it does not say how it is encoded.")
    if syntax not in _ALLOWED:
        name = syntax.name if syntax.name != str(syntax) else f"private: {syntax}"
        raise UnreadableError(
            f"a DICOM file of the transfer syntax {name!r}, which is not read: only images "
            "that are in the file itself, one by one, are. Have it converted (dcmconv, gdcmconv)."
        )
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        data = _inflated(data, meta, file.tell(), max_inflated)
    return dcmread(io.BytesIO(data), stop_before_pixels=True), data


def _inflated(data: bytes, meta: Dataset, start: int, at_most: int) -> bytes:
    """Return the file as if it had never been deflated, unless it is larger than it declares."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    head = DicomBytesIO()
    head.write(data[:_PREAMBLE])
    write_file_meta_info(head, FileMetaDataset(meta), enforce_standard=False)
    parts = [head.getvalue(), inflater.decompress(data[start:], _HEADER_BYTES)]
    if not inflater.eof:
        header = dcmread(io.BytesIO(b"".join(parts)), stop_before_pixels=True)
        allowed = _declared_bytes(header) + _SLACK_BYTES
        if allowed > at_most:
            raise UnreadableError(
                f"a deflated DICOM file that expands to {allowed:,} bytes, more than the "
                f"{at_most:,} that are accepted (it could be a decompression bomb)."
            )
        parts.append(inflater.decompress(inflater.unconsumed_tail, allowed))
        if not inflater.eof:
            raise UnreadableError(
                "a deflated DICOM file that is cut short, or expands to more than it declares "
                "(it could be a decompression bomb)."
            )
    return b"".join(parts)


def _declared_bytes(header: Dataset) -> int:
    """Return the bytes that all frames take when they are uncompressed."""
    bits = int(header.get("BitsAllocated") or 8)
    frames = int(header.get("NumberOfFrames") or 1)
    samples = int(header.get("SamplesPerPixel") or 1)
    rows, columns = int(header.get("Rows") or 0), int(header.get("Columns") or 0)
    return rows * columns * samples * frames * bits // 8


def check_image(header: Dataset, max_pixels: int) -> None:
    """Refuse what is no image, or too large a one, before a pixel is decoded."""
    rows, columns = header.get("Rows"), header.get("Columns")
    if rows is None or columns is None:
        what = header.get("Modality") or "no modality given"
        raise UnreadableError(f"a DICOM file without an image in it ({what}).")
    if not rows or not columns:
        raise UnreadableError(f"the image has no pixels ({columns} x {rows}).")
    if rows * columns > max_pixels:
        raise UnreadableError(
            f"the image claims {columns} x {rows} = {rows * columns:,} pixels, more than the "
            f"{max_pixels:,} that are accepted."
        )
    samples, kind = header.get("SamplesPerPixel"), header.get("PhotometricInterpretation")
    if (samples, kind in _COLORS) != (3, True) and (samples != 1 or kind not in (*_GRAYS, PALETTE)):
        raise UnreadableError(
            f"a DICOM image of {samples} samples per pixel and photometric interpretation "
            f"{kind!r}, which is not read; {', '.join((*_GRAYS, PALETTE, *_COLORS))} are."
        )
    if int(header.get("BitsAllocated") or 0) not in (1, 8, 16, 32, 64):
        raise UnreadableError(f"{header.get('BitsAllocated')} bits per sample make no image.")


def find_frame(header: Dataset, wanted: int | str) -> int:
    """Return which frame is wanted, counted from 0."""
    n = max(1, int(header.get("NumberOfFrames") or 1))
    if isinstance(wanted, str):
        return n // 2
    frame = wanted + n if wanted < 0 else wanted
    if not 0 <= frame < n:
        raise UnreadableError(f"frame {wanted} was asked for, and the file has {n}.")
    return frame


def read_frame(data: bytes, header: Dataset, frame: int) -> np.ndarray:
    """Return the stored values of one frame, (H, W), or its colors as RGB, (H, W, 3)."""
    syntax = header.file_meta.TransferSyntaxUID
    if syntax in _NATIVE:
        try:
            return pixel_array(io.BytesIO(data), index=frame)
        except ValueError as error:
            raise UnreadableError(
                f"damaged DICOM file, probably truncated: its pixels are not as many as it says "
                f"({error})."
            ) from error
    dataset = dcmread(io.BytesIO(data))
    if "PixelData" not in dataset:
        raise UnreadableError("a DICOM file without an image in it.")
    offsets = (dataset.get("ExtendedOffsetTable"), dataset.get("ExtendedOffsetTableLengths"))
    encoded = get_frame(
        dataset.PixelData,
        frame,
        number_of_frames=max(1, int(dataset.get("NumberOfFrames") or 1)),
        extended_offsets=offsets if all(offsets) else None,
    )
    _check_codestream(encoded, syntax, (int(dataset.Rows), int(dataset.Columns)))
    if syntax == uid.JPEGExtended12Bit and dataset.BitsStored > 8:
        return _twelve_bit_jpeg(encoded, dataset)
    decoder = get_decoder(syntax)
    plugin = next((name for name in _DECODERS if name in decoder.available_plugins), None)
    if plugin is None:
        raise MissingDecoderError(syntax.name)
    return decoder.as_array(dataset, index=frame, decoding_plugin=plugin)[0]


def _check_codestream(encoded: bytes, syntax: str, size: tuple[int, int]) -> None:
    """Refuse a compressed frame that says another size than the file around it.

    Decoders allocate what the frame says.
    """
    if syntax in _JPEG2000:
        said = _jpeg2000_size(encoded)
    elif syntax in _JPEG:
        said = _jpeg_size(encoded)
    else:  # RLE says none
        return
    if said is None:
        raise UnreadableError("damaged DICOM file: its compressed image has no size.")
    if said != size:
        raise UnreadableError(
            f"damaged DICOM file: its compressed image is of {said[1]} x {said[0]} pixels, and "
            f"should be of {size[1]} x {size[0]}."
        )


def _jpeg2000_size(encoded: bytes) -> tuple[int, int] | None:
    """Read rows and columns from the size marker; the codestream may be in a JP2 file."""
    at = encoded.find(b"\xff\x4f\xff\x51")
    if at < 0 or at + 24 > len(encoded):
        return None
    right, bottom, left, top = struct.unpack_from(">IIII", encoded, at + 8)
    return bottom - top, right - left


def _jpeg_size(encoded: bytes) -> tuple[int, int] | None:
    """Read rows and columns from the frame header of JPEG or JPEG-LS."""
    at = 2
    while at + 9 <= len(encoded):
        if encoded[at] != 0xFF:
            return None
        marker = encoded[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            rows, columns = struct.unpack_from(">HH", encoded, at + 5)
            return rows, columns
        if marker in (0xD9, 0xDA):
            return None
        at += 2 + struct.unpack_from(">H", encoded, at + 2)[0]
    return None


def _twelve_bit_jpeg(encoded: bytes, dataset: Any) -> np.ndarray:
    """Decode twelve-bit JPEG by GDCM itself; pydicom hands it eight-bit ones only."""
    try:
        import gdcm
    except ImportError:
        raise MissingDecoderError(dataset.file_meta.TransferSyntaxUID.name) from None
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(encoded)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    kind = gdcm.PhotometricInterpretation.GetPIType(dataset.PhotometricInterpretation)
    syntax = gdcm.TransferSyntax.GetTSType(str(dataset.file_meta.TransferSyntaxUID))
    bits = int(dataset.BitsStored)
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((dataset.Columns, dataset.Rows, 1))
    image.SetDataElement(element)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    image.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, bits, bits - 1, 0))
    values = image.GetBuffer()
    if values is None:
        raise UnreadableError("damaged DICOM file: its compressed image cannot be decoded.")
    # GDCM's bytes come as text with each byte that is no text escaped.
    decoded = np.frombuffer(values.encode("utf-8", "surrogateescape"), dtype="<u2")
    return decoded.reshape(int(dataset.Rows), int(dataset.Columns))
