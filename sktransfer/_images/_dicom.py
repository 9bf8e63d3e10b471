"""DICOM bytes to an image: what is asked of the helper process, and what its answer becomes.

It must not know pydicom, which is optional and read by the helper alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image

from sktransfer._images._arrays import DecodedImage, ValueScale, scale_values
from sktransfer._images._dicom_options import DicomOptions
from sktransfer._images._helper_process import HelperError, HelperPool, HelperStartError
from sktransfer._utils import config as _config
from sktransfer.exceptions import ImageDecodeError, SkTransferError

_POOL = HelperPool("sktransfer._images._dicom_worker:answer", _config.HELPER_MEMORY_BYTES)

# Decoders take up to a second for a few megabytes; ten times that.
_SECONDS, _SECONDS_PER_MEGABYTE = 5, 2

_KINDS = ("|u1", "<u2", "|i1", "<i2", "<u4", "<i4", "<u8", "<i8", "<f4", "<f8")


def decode_dicom(
    data: bytes, value_range: ValueScale | None, options: DicomOptions | None = None
) -> DecodedImage:
    """One frame of a DICOM file as it is to be shown.

    Parameters
    ----------
    data : bytes
        A file's content.
    value_range : scale or None
        Black and white, after the rescaling of the modality, of frames deeper than 8 bits that go
        through no window. None: the ends of what its bits can hold.
    options : DicomOptions or None
        None for the defaults.

    Raises
    ------
    ImageDecodeError
        If the bytes are damaged, no image, too large or compressed in a way that is not read, or
        the decoder crashes, hangs or wants too much memory.
    MissingDependencyError
        If pydicom or a decoder is not installed.
    """
    question = {"ask": "image", "options": (options or DicomOptions()).check()}
    answer, payload = _ask(question, data)
    values = _values(answer, payload)
    if answer["eight_bit"]:
        return Image.fromarray(values)
    declared = answer["range"]
    if answer["windowed"] or value_range in (None, "dtype"):
        scale: ValueScale | None = None if declared is None else (declared[0], declared[1])
    else:
        scale = value_range
    shown = scale_values(values, values.dtype, scale)
    return np.float32(1) - shown if answer["inverted"] else shown


def read_dicom_header(data: bytes, keywords: Iterable[str]) -> dict[str, Any] | None:
    """Elements of a DICOM file by their keywords; None if it holds no image.

    Absent ones are None, several values a list, names and dates text.

    Raises
    ------
    ImageDecodeError, MissingDependencyError
        As :func:`decode_dicom` does.
    """
    answer, _ = _ask({"ask": "header", "keywords": list(keywords)}, data)
    return answer["values"] if answer["is_image"] else None


def _ask(question: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytearray]:
    limits = {
        "max_pixels": _config.MAX_IMAGE_PIXELS,
        "max_inflated": _config.MAX_INFLATED_BYTES,
    }
    seconds = _SECONDS + _SECONDS_PER_MEGABYTE * (len(data) >> 20)
    try:
        answer, payload = _POOL.ask(
            {**question, **limits}, data, seconds=seconds, at_most=8 * _config.MAX_IMAGE_PIXELS
        )
    except HelperStartError as error:
        raise SkTransferError(f"Reading DICOM files: {error}") from error
    except HelperError as error:
        raise ImageDecodeError(f"this DICOM file cannot be decoded: {error}") from error
    if "missing" in answer:
        _config.import_optional(answer["missing"], extra="medical", purpose=answer["why"])
        # It is there for us, and was not for the helper.
        raise SkTransferError(f"{answer['why']}: {answer['missing']} cannot be imported.")
    if "error" in answer:
        raise ImageDecodeError(answer["error"])
    return answer, payload


def _values(answer: dict[str, Any], payload: bytearray) -> np.ndarray:
    """The payload as the array it is said to be; the helper is believed nothing else."""
    shape, kind = tuple(answer["shape"]), answer["dtype"]
    gray = len(shape) == 2
    valid = kind in _KINDS and (gray or (len(shape) == 3 and shape[2] == 3 and kind == "|u1"))
    if not valid or (answer["eight_bit"] and kind != "|u1") or 0 in shape:
        raise ImageDecodeError(f"a DICOM file with pixels of shape {shape} and type {kind}.")
    return np.frombuffer(payload, dtype=kind).reshape(shape)
