"""From the bytes of a DICOM file to values to be shown; runs in a helper process.

Sizes are checked before anything expands. The stored values of a frame then go through what the
standard prescribes, in its order: modality LUT, VOI LUT or window.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from pydicom import dcmread, uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import get_frame
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_file_meta_info
from pydicom.pixels import (
    apply_color_lut,
    apply_modality_lut,
    apply_voi_lut,
    get_decoder,
    pixel_array,
)

_PREAMBLE = 132

# Everything else (video, streams fetched by address, private ways) is refused by its name.
_NATIVE = frozenset(uid.UncompressedTransferSyntaxes)
_JPEG = frozenset((*uid.JPEGTransferSyntaxes, *uid.JPEGLSTransferSyntaxes))
_JPEG2000 = frozenset(
    (*(uid.JPEG2000Lossless, uid.JPEG2000), uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K)
)
_ALLOWED = _NATIVE | _JPEG | _JPEG2000 | {uid.RLELossless}

# The first of these that is installed decodes, so that it does not depend on the file which.
_DECODERS = ("pydicom", "gdcm", "pyjpegls", "pillow", "pylibjpeg")

_COLORS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_GRAYS = ("MONOCHROME1", "MONOCHROME2")
_PALETTE = "PALETTE COLOR"

# Inflated first, to learn from the header what the rest may be.
_HEADER_BYTES = 16 * 2**20
# Alongside the pixels: what may follow them.
_SLACK_BYTES = 2**20


# Tables and windows act on each value alone, so large frames go through them in strips.
_STRIP_VALUES = 2**20

# What an enhanced file may say for each frame, and in which sequence.
_PER_FRAME = {
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "VOILUTFunction"),
}


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
    if (samples, kind in _COLORS) != (3, True) and (
        samples != 1 or kind not in (*_GRAYS, _PALETTE)
    ):
        raise UnreadableError(
            f"a DICOM image of {samples} samples per pixel and photometric interpretation "
            f"{kind!r}, which is not read; {', '.join((*_GRAYS, _PALETTE, *_COLORS))} are."
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


# Showing ----------------------------------------------------------------------------------------


def render(
    stored: np.ndarray, header: Dataset, frame: int, options: dict[str, Any]
) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the stored values of a frame as they are to be shown, and what they mean.

    With ``eight_bit`` the values are 8-bit gray or RGB; else ``range`` of them are black and white
    (None: the file does not say), the other way round if ``inverted``, and ``windowed`` says that a
    window or table was applied. ``options`` are what ``DicomOptions.check`` returns.
    """
    header = _of_frame(header, frame)
    if stored.ndim == 3:
        return _eight_bits(stored, int(header.BitsStored)), _described(eight_bit=True)
    if header.PhotometricInterpretation == _PALETTE:
        colors = apply_color_lut(stored, header)[:, :, :3]
        return _eight_bits(colors, 8 * colors.dtype.itemsize), _described(eight_bit=True)
    inverted = header.PhotometricInterpretation == "MONOCHROME1"
    if options["window"] is not None:
        header.WindowCenter, header.WindowWidth = options["window"]
        for keyword in ("VOILUTSequence", "VOILUTFunction"):
            if keyword in header:
                del header[keyword]
    voi = _has_table(header) or _has_window(header)
    voi = voi and (options["voi"] or options["window"] is not None)
    if not voi and not _has_modality(header):
        return _plain(stored, header, inverted)

    def modality(values: np.ndarray) -> np.ndarray:
        return apply_modality_lut(values, header)

    ends = _modality_range(stored.dtype, header)
    for table in header.get("ModalityLUTSequence") or []:
        entries, first, bits = table.LUTDescriptor
        if 8 < int(bits) < 16:  # pydicom takes them as what they are stored in
            table.LUTDescriptor = [entries, first, 16]
    if not voi:
        return _in_strips(stored, modality, None), _described(range=ends, inverted=inverted)
    is_table, index = _choose_voi(header, options)

    def through_window(values: np.ndarray) -> np.ndarray:
        values = modality(values)
        if is_table and values.dtype.kind == "f":
            values = np.rint(values).astype(np.int64)
        return apply_voi_lut(values, header, index, prefer_lut=is_table)

    if is_table:
        bits = int(header.VOILUTSequence[index].LUTDescriptor[2])
        black, white = 0.0, float(2**bits - 1)
    else:  # what the window makes of values far below and far above it
        black, white = apply_voi_lut(np.array([-1e30, 1e30]), header, index, prefer_lut=False)
    _check_range(black, white)
    shown = _in_strips(stored, through_window, (black, white))
    return shown, _described(range=(0.0, 1.0), inverted=inverted, windowed=True)


def _described(**known: Any) -> dict[str, Any]:
    return {"eight_bit": False, "range": None, "inverted": False, "windowed": False, **known}


def _plain(
    stored: np.ndarray, header: Dataset, inverted: bool
) -> tuple[np.ndarray, dict[str, Any]]:
    """Return values to which nothing is to be applied, on the scale of their bits."""
    if stored.dtype.kind == "f":
        return stored.astype(np.float32), _described(inverted=inverted)
    bits = int(header.BitsStored)
    if bits <= 8 and not header.get("PixelRepresentation"):
        gray = stored.astype(np.uint8)
        if bits < 8:
            gray = np.rint(stored * (255 / (2**bits - 1))).clip(0, 255).astype(np.uint8)
        return 255 - gray if inverted else gray, _described(eight_bit=True)
    low, high = _stored_range(header)
    return stored, _described(range=(float(low), float(high)), inverted=inverted)


def _of_frame(header: Dataset, frame: int) -> Dataset:
    """Return the header with what an enhanced file says of this frame or of all of them."""
    flat = Dataset(header)
    flat.file_meta = header.file_meta
    shared = header.get("SharedFunctionalGroupsSequence") or [Dataset()]
    each = header.get("PerFrameFunctionalGroupsSequence") or []
    groups = [shared[0], *([each[frame]] if frame < len(each) else [])]
    for group in groups:
        for sequence, keywords in _PER_FRAME.items():
            for item in list(group.get(sequence) or [])[:1]:
                for keyword in keywords:
                    if keyword in item:
                        flat[keyword] = item[keyword]
    return flat


def _has_modality(header: Dataset) -> bool:
    return bool(header.get("ModalityLUTSequence")) or (
        "RescaleSlope" in header
        and "RescaleIntercept" in header
        and (float(header.RescaleSlope), float(header.RescaleIntercept)) != (1.0, 0.0)
    )


def _has_table(header: Dataset) -> bool:
    tables = header.get("VOILUTSequence") or []
    return len(tables) > 0 and all(key in tables[0] for key in ("LUTDescriptor", "LUTData"))


def _has_window(header: Dataset) -> bool:
    return None not in (header.get("WindowCenter"), header.get("WindowWidth"))


def _choose_voi(header: Dataset, options: dict[str, Any]) -> tuple[bool, int]:
    """Return whether a table is applied and not a window, and which of those there are."""
    own = options["window"] is not None
    is_table = _has_table(header) and (options["prefer_lut"] or not _has_window(header))
    index = 0 if own else options["voi_index"]
    if is_table:
        n = len(header.VOILUTSequence)
    else:
        center = header.WindowCenter
        n = len(center) if hasattr(center, "__len__") else 1
    if index >= n:
        what = "VOI tables" if is_table else "windows"
        raise UnreadableError(f"voi_index={index} was asked for, and the file has {n} {what}.")
    return is_table, index


def _modality_range(dtype: np.dtype, header: Dataset) -> tuple[float, float] | None:
    """Return what the extreme stored values become; None where floats are stored."""
    tables = header.get("ModalityLUTSequence")
    if tables:
        return 0.0, float(2 ** int(tables[0].LUTDescriptor[2]) - 1)
    if dtype.kind == "f":
        return None
    ends = np.array(_stored_range(header), dtype=np.int64)
    low, high = sorted(float(end) for end in apply_modality_lut(ends, header))
    _check_range(low, high)
    return low, high


def _stored_range(header: Dataset) -> tuple[int, int]:
    bits = int(header.BitsStored)
    if header.get("PixelRepresentation"):
        return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return 0, 2**bits - 1


def _check_range(black: float, white: float) -> None:
    if not (np.isfinite([black, white]).all() and black != white):
        raise UnreadableError(
            f"damaged DICOM file: its rescale slope or window makes {black:g} of black and "
            f"{white:g} of white."
        )


def _in_strips(
    stored: np.ndarray,
    function: Callable[[np.ndarray], np.ndarray],
    ends: tuple[float, float] | None,
) -> np.ndarray:
    """Apply ``function`` to every value, and scale ``ends`` to [0, 1] if they are given."""
    shown = np.empty(stored.shape, dtype=np.float32)
    step = max(1, _STRIP_VALUES // max(1, stored.shape[1]))
    for start in range(0, len(stored), step):
        strip = function(stored[start : start + step])
        if ends is not None:
            strip = (strip.astype(np.float64) - ends[0]) / (ends[1] - ends[0])
        shown[start : start + step] = strip
    return shown


def _eight_bits(colors: np.ndarray, bits: int) -> np.ndarray:
    """Return the upper eight bits of deeper color, as for other files."""
    if bits <= 8:
        return colors.astype(np.uint8)
    return (colors >> (bits - 8)).astype(np.uint8)
