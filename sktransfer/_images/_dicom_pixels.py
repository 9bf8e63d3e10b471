"""One frame of a DICOM file, decoded by whichever decoder can; runs in a helper process."""

from __future__ import annotations

import contextlib
import os
import re
import struct
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom import uid
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder

from sktransfer._images._damage import check_jpeg, check_jpeg2000
from sktransfer._images._dicom_code_stream import (
    CodeStream,
    is_cut_short,
    read_code_stream,
    without_markers,
)
from sktransfer._images._dicom_colors import (
    bits_of_stream,
    colors_by_label,
    colors_of_stream,
    counting_bits,
    samples_and_kind,
    stored_bits,
)
from sktransfer._images._dicom_read import KINDS, PixelData, frame_count
from sktransfer._images._dicom_values import Notes, UnreadableError, Values, named
from sktransfer._images._jpeg import read_jpeg
from sktransfer.exceptions import ImageDecodeError

# The first of these that is installed and succeeds decodes.
DECODERS = ("pydicom", "gdcm", "pyjpegls", "pillow", "pylibjpeg")

# What decodes a compressed image, whatever the header says that it is.
_SYNTAXES = {
    "JPEG": uid.JPEGBaseline8Bit,
    "lossless JPEG": uid.JPEGLosslessSV1,
    "JPEG-LS": uid.JPEGLSNearLossless,
    "JPEG 2000": uid.JPEG2000,
    "HTJ2K": uid.HTJ2K,
}
# By samples: the photometric interpretations by which decoders convert nothing.
_UNCHANGED = {1: "MONOCHROME2", 3: "RGB"}

# Progressive JPEG has about ten.
_MOST_SCANS = 50

_LONGEST_REASON = 120


class MissingDecoderError(Exception):
    """What is compressed in a way that nothing installed can undo."""


@dataclass
class Frame:
    """The stored values of a frame, (H, W), or its colors as RGB, (H, W, 3), and what they are.

    ``kind`` is "MONOCHROME1", "MONOCHROME2", "PALETTE COLOR" or "RGB"; ``bits`` how many bits of a
    value count.
    """

    stored: np.ndarray
    kind: str
    bits: int
    signed: bool
    decoder: str = ""
    code_stream: str = ""


def native_frame(pixels: PixelData, values: Values, frame: int, syntax: uid.UID) -> Frame:
    """Return one frame that is not compressed."""
    notes, n_frames = values.notes, frame_count(values)
    samples, kind = samples_and_kind(values)
    allocated = values.integer("BitsAllocated") or 0
    size = (values.integer("Rows") or 0, values.integer("Columns") or 0)
    is_float = pixels.keyword != "PixelData"
    bits, signed = (allocated, False) if is_float else stored_bits(values, allocated)
    signed = signed and samples == 1
    if is_float and samples != 1:
        raise UnreadableError(f"colors in {named(pixels.keyword)}, which are not read.")
    of_frames = n_frames * size[0] * size[1] * samples * allocated
    expected, got = (of_frames + 7) // 8, len(pixels.value)
    if kind.startswith("YBR_FULL"):  # two thirds where pairs of pixels share their chroma
        said, shared = kind, expected * 2 // 3
        in_pairs = got < expected and (said != "YBR_FULL" or got - shared in (0, shared % 2))
        kind, expected = ("YBR_FULL_422", shared) if in_pairs else ("YBR_FULL", expected)
        if said != kind:
            notes.correct(f"PhotometricInterpretation is {said}, but there are pixels for {kind}")
    if got < expected:
        raise UnreadableError(
            f"damaged DICOM file, probably truncated: its pixels are not as many as it says ("
            f"{n_frames} x {size[0]} x {size[1]} x {samples} values of {allocated} bits are "
            f"{expected:,} bytes, and {named(pixels.keyword)} has {got:,})."
        )
    if got > expected + expected % 2:
        notes.correct(
            f"PixelData is longer than {n_frames} frames of {size[1]} x {size[0]}: the rest is "
            "left out"
        )
    planes = values.integer("PlanarConfiguration") or 0
    if planes not in (0, 1):
        notes.correct(f"PlanarConfiguration is {planes}: taken as 0, color by pixel")
        planes = 0
    options = _options(size, samples, allocated, allocated, signed)
    if kind == "YBR_FULL_422":  # chroma is spread over its pixels
        options["photometric_interpretation"] = kind
    options |= {
        "number_of_frames": n_frames,
        "planar_configuration": planes,
        "pixel_keyword": pixels.keyword,
        "pixel_vr": pixels.vr,
    }
    value = pixels.value[: expected + expected % 2]
    if allocated == 1:  # of which frames need not begin with a byte
        each = size[0] * size[1]
        unpacked = np.unpackbits(np.frombuffer(value, np.uint8), bitorder="little")
        stored = unpacked[frame * each : (frame + 1) * each].reshape(size)
    else:
        stored, _ = get_decoder(syntax).as_array(value, index=frame, raw=True, **options)
    if not is_float and bits < allocated:
        stored = counting_bits(stored, values, bits)
    if samples == 3:
        stored, kind = colors_by_label(stored, kind, bits, notes), "RGB"
    return Frame(stored, kind, bits, signed)


def compressed_frame(
    encoded: bytes, values: Values, syntax: uid.UID, decoders: Iterable[str]
) -> Frame:
    """Return one compressed frame, decoded by the first of ``decoders`` that can."""
    if syntax == uid.RLELossless:
        return _run_length_frame(encoded, values, decoders)
    stream = read_code_stream(encoded)
    if stream is None:
        raise UnreadableError("damaged DICOM file: its compressed image has no size.")
    size = (values.integer("Rows"), values.integer("Columns"))
    if (stream.rows, stream.columns) != size:
        raise UnreadableError(
            f"damaged DICOM file: its compressed image is of {stream.columns} x {stream.rows} "
            f"pixels, and should be of {size[1]} x {size[0]}."
        )
    if stream.components not in (1, 3):
        raise UnreadableError(
            f"its compressed image has {stream.components} components; one (gray) or three (color) "
            "are read."
        )
    _refuse_damage(encoded, stream)
    if stream.kind != KINDS.get(syntax):
        values.notes.correct(
            f"the transfer syntax is {syntax.name!r}, but the compressed image is {stream.kind}"
        )
        syntax = _SYNTAXES[stream.kind]
    if stream.kind == "JPEG":
        syntax = uid.JPEGBaseline8Bit if stream.bits == 8 else uid.JPEGExtended12Bit
    encoded = encoded[stream.start :]
    if stream.kind in ("JPEG", "lossless JPEG") and stream.components == 3:
        try:
            encoded = without_markers(encoded)
        except (IndexError, struct.error):
            reason = (
                "damaged DICOM file: its compressed image is not one from its start to its end."
            )
            raise UnreadableError(reason) from None
    signed = stream.signed or values.integer("PixelRepresentation") == 1
    if stream.components == 3:
        if stream.signed:
            raise UnreadableError("the colors of its compressed image are signed: not read.")
        signed = False
    decoder, stored = decode(encoded, syntax, stream, signed, decoders, values.notes)
    described = str(stream)
    if stream.components == 3:
        colors, said = colors_of_stream(stored, stream, values)
        return Frame(colors, "RGB", stream.bits, False, decoder, f"{described}, {said}")
    _, kind = samples_and_kind(values, 1)
    if stream.signed and not values.integer("PixelRepresentation"):
        values.notes.correct(
            "PixelRepresentation says unsigned, but the values of the compressed image are signed"
        )
    stored, bits = bits_of_stream(stored, stream, values, signed)
    return Frame(stored, kind, bits, signed, decoder, described)


def _options(
    size: tuple[int, int], samples: int, allocated: int, bits: int, signed: bool
) -> dict[str, Any]:
    """Return what pydicom asks of an image, by which no decoder converts a color."""
    return {
        "rows": size[0],
        "columns": size[1],
        "samples_per_pixel": samples,
        "number_of_frames": 1,
        "bits_allocated": allocated,
        "bits_stored": bits,
        "pixel_representation": int(signed),
        "planar_configuration": 0,
        "photometric_interpretation": _UNCHANGED[samples],
    }


def _refuse_damage(encoded: bytes, stream: CodeStream) -> None:
    """Refuse what decoders would make an image of, half of it gray, or take long for."""
    if is_cut_short(encoded, stream):
        raise UnreadableError("damaged DICOM file: its compressed image is cut short.")
    if stream.kind == "JPEG" and encoded.count(b"\xff\xda") > _MOST_SCANS:
        raise UnreadableError(
            f"its compressed image has more than {_MOST_SCANS} scans, each of which takes as long "
            "as an image; convert it to baseline JPEG."
        )
    try:
        if stream.kind == "JPEG" and stream.bits == 8:
            check_jpeg(read_jpeg(encoded))
        elif stream.kind == "JPEG 2000":
            check_jpeg2000(encoded)
    except ImageDecodeError as error:
        raise UnreadableError(f"damaged DICOM file: {error.reason}") from error


def decode(
    encoded: bytes,
    syntax: uid.UID,
    stream: CodeStream,
    signed: bool,
    decoders: Iterable[str],
    notes: Notes,
) -> tuple[str, np.ndarray]:
    """Return the first decoder that succeeds and the components as they are stored.

    Raises MissingDecoderError if none of them is installed, and UnreadableError with the reason of
    each if all fail.
    """
    available = get_decoder(syntax).available_plugins
    twelve_bit = syntax == uid.JPEGExtended12Bit
    names = [name for name in decoders if name in available]
    if twelve_bit:  # pydicom hands other decoders eight-bit ones only
        names = [name for name in names if name in ("gdcm", "pylibjpeg")]
    if not names:
        raise MissingDecoderError(syntax.name)
    container = 8 if stream.bits <= 8 else 16 if stream.bits <= 16 else 32
    size = (stream.rows, stream.columns)
    options = _options(size, stream.components, container, stream.bits, signed)
    reasons = []
    for name in names:
        try:
            with _heeding_libjpeg(stream):
                if twelve_bit and name == "gdcm":
                    stored = _twelve_bit_jpeg(encoded, stream)
                else:
                    stored, _ = get_decoder(syntax).as_array(
                        encapsulate([encoded]), index=0, raw=True, decoding_plugin=name, **options
                    )
        except (MemoryError, UnreadableError):
            raise
        except Exception as error:  # each raises whatever the damage leads to
            last = (str(error).strip() or type(error).__name__).splitlines()[-1]
            reasons.append(f"{name}: {last.split(': ', 1)[-1][:_LONGEST_REASON]}")
            continue
        if reasons:
            notes.add(f"decoded by {name}, after others had failed ({'; '.join(reasons)})")
        return name, stored
    raise UnreadableError(
        "damaged DICOM file: its compressed image can be decoded by no decoder that is installed ("
        f"{'; '.join(reasons)})."
    )


@contextlib.contextmanager
def _heeding_libjpeg(stream: CodeStream) -> Iterator[None]:
    """Refuse a JPEG of which the libjpeg inside a decoder tells nobody but standard error.

    That of eight bits with loss has been checked before.
    """
    if not (stream.kind == "lossless JPEG" or (stream.kind == "JPEG" and stream.bits > 8)):
        yield
        return
    own = os.dup(2)
    try:
        with tempfile.TemporaryFile() as file:
            os.dup2(file.fileno(), 2)
            try:
                yield
            finally:
                os.dup2(own, 2)
            file.seek(0)
            said = re.search(rb"(Corrupt JPEG data|Premature end).*", file.read())
    finally:
        os.close(own)
    if said and not re.search(rb"\b[12] extraneous", said[0]):  # padding
        raise UnreadableError(
            "damaged DICOM file: part of its compressed image is missing or overwritten (libjpeg: "
            f"{said[0].decode('ascii', 'replace')})."
        )


def _twelve_bit_jpeg(encoded: bytes, stream: CodeStream) -> np.ndarray:
    """Decode twelve-bit JPEG by GDCM itself."""
    import gdcm

    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(encoded)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    n = stream.components
    kind = gdcm.PhotometricInterpretation.GetPIType(_UNCHANGED[n])
    syntax = gdcm.TransferSyntax.GetTSType(str(uid.JPEGExtended12Bit))
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((stream.columns, stream.rows, 1))
    image.SetDataElement(element)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    image.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    image.SetPixelFormat(gdcm.PixelFormat(n, 16, stream.bits, stream.bits - 1, 0))
    values = image.GetBuffer()
    if values is None:
        raise ValueError("it gives no image")
    # GDCM's bytes come as text with each byte that is no text escaped.
    decoded = np.frombuffer(values.encode("utf-8", "surrogateescape"), dtype="<u2")
    return decoded.reshape((stream.rows, stream.columns) + ((n,) if n > 1 else ()))


def _run_length_frame(encoded: bytes, values: Values, decoders: Iterable[str]) -> Frame:
    allocated = values.integer("BitsAllocated") or 0
    planes = int.from_bytes(encoded[:4], "little")
    n, rest = divmod(planes, max(1, allocated // 8))
    if rest or n not in (1, 3):
        raise UnreadableError(
            f"damaged DICOM file: its run-length encoded image has {planes} planes of bytes, which "
            f"are no values of {allocated} bits of one or three samples."
        )
    samples, kind = samples_and_kind(values, n)
    bits, signed = stored_bits(values, allocated)
    signed = signed and n == 1
    size = (values.integer("Rows") or 0, values.integer("Columns") or 0)
    stream = CodeStream("RLE", *size, samples, allocated)
    decoder, stored = decode(encoded, uid.RLELossless, stream, signed, decoders, values.notes)
    if bits < allocated:
        stored = counting_bits(stored, values, bits)
    if samples == 3:
        stored, kind = colors_by_label(stored, kind, bits, values.notes), "RGB"
    return Frame(stored, kind, bits, signed, decoder, f"RLE, {samples} x {allocated} bits")
