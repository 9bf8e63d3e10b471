"""Questions about DICOM files, answered in a helper process.

Everything that pydicom and the native decoders do happens here: in a process of its own, damaged
files may warn, crash, hang or ask for memory without harm.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np

try:
    import pydicom
except ImportError:
    pydicom = None  # type: ignore[assignment]

_LONGEST_REASON = 300

# For everything but the pixels; thousands of frames, each with elements of its own, take one.
_HEADER_SECONDS = 2


def answer(question: dict[str, Any], data: bytes) -> tuple[dict[str, Any], Any]:
    """Return what ``question["ask"]`` wants of a file.

    That is its "image" or its "header". The answer has ``error`` or ``missing``, or describes the
    payload.
    """
    if pydicom is None:
        return {"missing": "pydicom", "why": "Reading DICOM files"}, b""
    # Not at the top: they need pydicom.
    from sktransfer._images._dicom_pixels import MissingDecoderError
    from sktransfer._images._dicom_values import UnreadableError

    try:
        if question["ask"] == "header":
            return _header(question, data), b""
        return _image(question, data)
    except UnreadableError as error:
        return {"error": str(error)}, b""
    except MissingDecoderError as error:
        if "decoders" in question:
            return {"error": f"it does not decode {error}."}, b""
        return {"missing": "gdcm", "why": f"Reading DICOM files compressed as {error}"}, b""
    except MemoryError:
        raise
    except RecursionError:
        return {"error": "damaged DICOM file: its sequences are nested too deep."}, b""
    except Exception as error:  # pydicom raises whatever the damage leads to
        said = str(error) or type(error).__name__
        reason = " ".join(said.split("Traceback")[0].split())[:_LONGEST_REASON]
        return {"error": f"damaged or unsupported DICOM file: {reason}"}, b""


def _image(question: dict[str, Any], data: bytes) -> tuple[dict[str, Any], Any]:
    from sktransfer._images import _dicom_pixels as pixels
    from sktransfer._images import _dicom_read as read
    from sktransfer._images._dicom_show import render

    with _not_for_ever():
        header = read.read_header(data, question["max_inflated"])
        read.check_image(header, question["max_pixels"])
        options, values = question["options"], header.values
        number = read.find_frame(values, options["frame"])
        element = read.find_pixel_data(header)
        encoded = read.encoded_frame(element, values, number) if element.in_fragments else b""
        of_frame = values.of_frame(number)
        of_frame.items("VOILUTSequence")  # pydicom reads sequences when they are asked for
    if element.in_fragments:
        decoders = question.get("decoders") or pixels.DECODERS
        frame = pixels.compressed_frame(encoded, values, header.syntax, decoders)
    else:
        frame = pixels.native_frame(element, values, number, header.syntax)
    shown, described = render(frame, of_frame, options)
    if shown.shape[:2] != (values.integer("Rows"), values.integer("Columns")):
        raise read.UnreadableError(f"its pixels come as an array of shape {shown.shape}.")
    array = np.ascontiguousarray(shown.astype(shown.dtype.newbyteorder("<")))
    described |= {"shape": array.shape, "dtype": array.dtype.str}
    described["decided"] = {
        "transfer_syntax": header.declared_syntax,
        "compressed_image": frame.code_stream,
        "decoder": frame.decoder,
        "rows": array.shape[0],
        "columns": array.shape[1],
        "frames": read.frame_count(values),
        "frame": number,
        "photometric": values.text("PhotometricInterpretation"),
        "shown_as": frame.kind,
        "bits": frame.bits,
        "signed": frame.signed,
        "rescale": described.pop("rescale"),
        "window": described.pop("window"),
        "inverted": described["inverted"],
    }
    described |= {"notes": values.notes.all, "corrections": values.notes.corrections}
    return described, array.reshape(-1).view(np.uint8)


def _header(question: dict[str, Any], data: bytes) -> dict[str, Any]:
    from sktransfer._images import _dicom_read as read

    with _not_for_ever():
        header = read.read_header(data, question["max_inflated"])
    found = {name: _plain(header.values.parts(name)) for name in question["keywords"]}
    is_image = read.is_image(header)
    try:
        frames: int | str = read.frames_held(header) if is_image else 0
    except read.UnreadableError as error:  # which only matters to who wants all of them
        frames = str(error)
    return {"values": found, "is_image": is_image, "frames": frames}


class _TooLongError(BaseException):
    """No Exception, which pydicom would catch."""


@contextlib.contextmanager
def _not_for_ever() -> Iterator[None]:
    """Stop what is in the block after some seconds of processor time, where the system can.

    Millions of empty items or fragments fit into a file whose size allows its decoder minutes.
    """
    from sktransfer._images._dicom_values import UnreadableError

    def stop(*_: Any) -> None:
        raise _TooLongError

    if not hasattr(signal, "setitimer"):
        yield
        return
    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, _HEADER_SECONDS)
    try:
        yield
    except _TooLongError:
        raise UnreadableError("damaged DICOM file: its header takes too long to read.") from None
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _plain(parts: list[Any]) -> Any:
    """Return an element's value as JSON can hold it: one, a list of several, or None."""
    values = [
        part if part is None or isinstance(part, (int, float)) else str(part) for part in parts
    ]
    return None if not values else values[0] if len(values) == 1 else values
