"""Questions about DICOM files, answered in a helper process.

Everything that pydicom and the native decoders do happens here: in a process of its own, damaged
files may warn, crash, hang or ask for memory without harm.
"""

from __future__ import annotations

from typing import Any

import numpy as np

try:
    import pydicom
except ImportError:
    pydicom = None  # type: ignore[assignment]

_LONGEST_REASON = 300


def answer(question: dict[str, Any], data: bytes) -> tuple[dict[str, Any], Any]:
    """Return what ``question["ask"]`` wants of a file, its "image" or its "header".

    The answer has ``error`` or ``missing``, or describes the payload.
    """
    if pydicom is None:
        return {"missing": "pydicom", "why": "Reading DICOM files"}, b""
    # Not at the top: they need pydicom.
    from sktransfer._images._dicom_read import MissingDecoderError, UnreadableError

    try:
        if question["ask"] == "header":
            return _header(question, data), b""
        return _image(question, data)
    except UnreadableError as error:
        return {"error": str(error)}, b""
    except MissingDecoderError as error:
        return {"missing": "gdcm", "why": f"Reading DICOM files compressed as {error}"}, b""
    except MemoryError:
        raise
    except Exception as error:  # pydicom raises whatever the damage leads to
        reason = " ".join(str(error).split("Traceback")[0].split())[:_LONGEST_REASON]
        return {"error": f"damaged or unsupported DICOM file: {reason}"}, b""


def _image(question: dict[str, Any], data: bytes) -> tuple[dict[str, Any], Any]:
    from sktransfer._images import _dicom_read as read

    header, data = read.read_header(data, question["max_inflated"])
    read.check_image(header, question["max_pixels"])
    options = question["options"]
    frame = read.find_frame(header, options["frame"])
    stored = read.read_frame(data, header, frame)
    if stored.shape[:2] != (header.Rows, header.Columns):
        raise read.UnreadableError(f"its pixels come as an array of shape {stored.shape}.")
    shown, described = read.render(stored, header, frame, options)
    values = np.ascontiguousarray(shown.astype(shown.dtype.newbyteorder("<")))
    described |= {"shape": values.shape, "dtype": values.dtype.str}
    return described, values.reshape(-1).view(np.uint8)


def _header(question: dict[str, Any], data: bytes) -> dict[str, Any]:
    from sktransfer._images import _dicom_read as read

    header, _ = read.read_header(data, question["max_inflated"])
    return {
        "values": {name: _plain(header.get(name)) for name in question["keywords"]},
        "is_image": "Rows" in header and "Columns" in header,
    }


def _plain(value: Any) -> Any:
    """Return an element's value as JSON can hold it."""
    if value is None or type(value) in (bool, int, str):
        return value
    if isinstance(value, int):  # of a type of pydicom's, as are the floats
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, (list, tuple)) or type(value).__name__ == "MultiValue":
        return [_plain(each) for each in value]
    if isinstance(value, bytes):
        return None  # binary data
    return str(value)
