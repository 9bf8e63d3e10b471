"""DICOM: how files are shown, the question to the helper process, and what its answer becomes.

pydicom is optional: the helper alone reads files with it, so that a damaged file harms no other.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from sklearn.base import BaseEstimator

from sktransfer._images._helper_process import (
    HelperError,
    HelperPool,
    HelperStartError,
    HelperTimeoutError,
)
from sktransfer._images._values import DecodedImage, ValueScale, scale_values
from sktransfer._utils import config as _config
from sktransfer._utils.config import API_PAGE
from sktransfer._utils.sklearn_compat import (
    StrOptions,
    validate_parameter_constraints,
)
from sktransfer.exceptions import ImageDecodeError, SkTransferError

# Part of every digest: raised when the same file and options come to give other pixels.
_VERSION = 3

_POOL = HelperPool("sktransfer._images._dicom_worker:answer", _config.HELPER_MEMORY_BYTES)

# Decoders take up to a second for a few megabytes; ten times that.
_SECONDS, _SECONDS_PER_MEGABYTE = 5, 2

_KINDS = ("|u1", "<u2", "|i1", "<i2", "<u4", "<i4", "<u8", "<i8", "<f4", "<f8")

_OTHER_DECODERS = ("pydicom", "pyjpegls", "pillow", "pylibjpeg")

# Different corrections that are warned of, at most.
_MOST_WARNINGS = 100

# Groups of a dataset that say what its pixels look like; nobody's name is among them.
_PIXEL_GROUPS = (0x0028, 0x2050, 0x5200, 0x7FE0)
# Of types that depend on other elements, and of no use here: extreme values and padding.
_UNUSED = frozenset((*range(0x00280104, 0x00280112), 0x00280120, 0x00280121))


class DicomOptions(BaseEstimator):
    """Choose how DICOM files are shown: which frame, through which window.

    It is passed to an estimator as ``dicom``, and a search reaches its parameters with
    ``dicom__window``. Files of other formats are not affected.

    Read more in the :ref:`User Guide <dicom>`.

    Parameters
    ----------
    frame : int or "middle", default=0
        Which frame is shown of files that have several; negative numbers count from the last.
    window : (float, float) or None, default=None
        Center and width of the window, in the units of the modality (Hounsfield units for CT),
        that replaces the file's own: ``(40, 400)`` for soft tissue. Values outside it are black or
        white.
    voi : bool, default=True
        Whether the file's own VOI table or window is applied. If not, or if the file has none,
        values are scaled from the lowest to the highest that its bits can hold, or by the
        estimator's ``value_range``.
    voi_index : int, default=0
        Which table or window is applied, of several that a file has.
    prefer_lut : bool, default=True
        Whether the table is applied where a file has both a table and a window.

    See Also
    --------
    sktransfer.datasets.dicom_table : Tabulate the DICOM images in a folder.

    Examples
    --------
    >>> from sktransfer import PretrainedFeatureExtractor
    >>> from sktransfer.preprocessing import DicomOptions
    >>> lungs = DicomOptions(window=(-600, 1500))
    >>> PretrainedFeatureExtractor("resnet18", dicom=lungs).get_params()["dicom__window"]
    (-600, 1500)
    """

    _doc_link_module = "sktransfer"
    _doc_link_template = API_PAGE.replace("{estimator_module}", "sktransfer.preprocessing")
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "frame": [Integral, StrOptions({"middle"})],
        "window": [tuple, list, None],
        "voi": ["boolean"],
        "voi_index": [Integral],
        "prefer_lut": ["boolean"],
    }

    def __init__(
        self,
        *,
        frame: int | str = 0,
        window: tuple[float, float] | None = None,
        voi: bool = True,
        voi_index: int = 0,
        prefer_lut: bool = True,
    ) -> None:
        self.frame = frame
        self.window = window
        self.voi = voi
        self.voi_index = voi_index
        self.prefer_lut = prefer_lut

    def check(self) -> dict[str, Any]:
        """Check the parameters and return them as plain values.

        Returns
        -------
        dict
            Each parameter by its name.

        Raises
        ------
        ValueError
            If one is wrong; the error names it, what is expected and what was given.
        """
        validate_parameter_constraints(
            self._parameter_constraints, self.get_params(deep=False), type(self).__name__
        )
        window = self.window
        if window is not None:
            valid = len(window) == 2 and all(isinstance(value, Real) for value in window)
            if not valid or not window[1] >= 1:
                raise ValueError(
                    f"window must be (center, width) with a width of at least 1, like (40, 400); "
                    f"got {window!r}."
                )
            window = (float(window[0]), float(window[1]))
        if self.voi_index < 0:
            raise ValueError(f"voi_index counts from 0; got {self.voi_index}, which is negative.")
        return {
            "frame": self.frame if isinstance(self.frame, str) else int(self.frame),
            "window": window,
            "voi": bool(self.voi),
            "voi_index": int(self.voi_index),
            "prefer_lut": bool(self.prefer_lut),
        }

    @property
    def fingerprint(self) -> str:
        """Text that is equal if and only if the pixels are."""
        return f"dicom{(_VERSION, *sorted(self.check().items()))}"


@dataclass(frozen=True)
class DicomFrame(os.PathLike):
    """One frame of a DICOM file, as a row of ``X``; it overrides ``DicomOptions.frame``."""

    path: str
    frame: int

    def __fspath__(self) -> str:
        return os.fspath(self.path)


def decode_dicom(
    data: bytes, value_range: ValueScale | None, options: DicomOptions | None = None
) -> DecodedImage:
    """Return one frame of a DICOM file as it is to be shown.

    ``value_range`` is black and white, after the rescaling of the modality, of frames deeper than
    8 bits that go through no window; None stands for the ends of what the bits can hold. Raises
    ImageDecodeError where the file or its decoder fails, and MissingDependencyError where pydicom
    or a decoder is not installed. What is shown against what the header says is warned of once.
    """
    answer, payload = _ask_for_image(data, options)
    # The payload as the array it is said to be; the helper is believed nothing else.
    shape, kind = tuple(answer["shape"]), answer["dtype"]
    gray = len(shape) == 2
    valid = kind in _KINDS and (gray or (len(shape) == 3 and shape[2] == 3 and kind == "|u1"))
    if not valid or (answer["eight_bit"] and kind != "|u1") or 0 in shape:
        raise ImageDecodeError(f"a DICOM file with pixels of shape {shape} and type {kind}.")
    _warn_of(answer["corrections"])
    values = np.frombuffer(payload, dtype=kind).reshape(shape)
    if answer["eight_bit"]:
        return Image.fromarray(values)
    scale = value_range
    if answer["windowed"] or value_range in (None, "dtype"):
        declared = answer["range"]
        scale = None if declared is None else (declared[0], declared[1])
    shown = scale_values(values, values.dtype, scale)
    return np.float32(1) - shown if answer["inverted"] else shown


def read_dicom_decisions(data: bytes, options: DicomOptions | None = None) -> dict[str, Any]:
    """Return what :func:`decode_dicom` decides about a file, and its notes as a list."""
    answer, _ = _ask_for_image(data, options)
    return {**answer["decided"], "notes": answer["notes"]}


def read_dicom_header(data: bytes, keywords: Iterable[str]) -> dict[str, Any] | None:
    """Return elements of a DICOM file by their keywords, or None if it holds no image.

    Empty ones are None, several values a list, names and dates text. ``""`` is the number of
    frames, or text that says why there is none. Raises what :func:`decode_dicom` raises.
    """
    answer, _ = _ask({"ask": "header", "keywords": list(keywords)}, data)
    return {**answer["values"], "": answer["frames"]} if answer["is_image"] else None


def _ask_for_image(data: bytes, options: DicomOptions | None) -> tuple[dict[str, Any], bytearray]:
    """Return the answer; if GDCM, the first of the decoders, crashes, without it."""
    question = {"ask": "image", "options": (options or DicomOptions()).check()}
    try:
        return _ask(question, data)
    except _HelperFailedError as error:
        first = error
    try:
        answer, payload = _ask({**question, "decoders": _OTHER_DECODERS}, data)
    except ImageDecodeError as error:
        raise ImageDecodeError(f"{first.reason} Without gdcm: {error.reason}") from first
    answer["notes"].append(f"decoded after others had failed (gdcm: {first.reason})")
    return answer, payload


class _HelperFailedError(ImageDecodeError):
    """The helper crashed on the file; another decoder may not."""


_warned: set[str] = set()


def _warn_of(corrections: list[str]) -> None:
    """Warn of each correction at the first file that needs it; there may be thousands."""
    for text in corrections:
        if text not in _warned and len(_warned) < _MOST_WARNINGS:
            _warned.add(text)
            warnings.warn(
                f"A DICOM file is not what its header says: {text}. Others like it are not "
                "reported; sktransfer.datasets.describe_dicom says what is decided about a file.",
                UserWarning,
                stacklevel=2,
            )


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
        kind = ImageDecodeError if isinstance(error, HelperTimeoutError) else _HelperFailedError
        raise kind(f"this DICOM file cannot be decoded: {error}") from error
    if "missing" in answer:
        _config.import_optional(answer["missing"], extra="medical", purpose=answer["why"])
        # It is there for us, and was not for the helper.
        raise SkTransferError(f"{answer['why']}: {answer['missing']} cannot be imported.")
    if "error" in answer:
        raise ImageDecodeError(answer["error"])
    return answer, payload


def dataset_bytes(dataset: Any) -> bytes:
    """Return a pydicom ``Dataset`` as a file of its pixels and what they need, no patient's name.

    Raises ImageDecodeError if it cannot be written.
    """
    import pydicom

    kept = pydicom.Dataset()
    try:
        for tag in dataset.keys():  # noqa: SIM118 - it iterates over elements
            if tag.group in _PIXEL_GROUPS and tag not in _UNUSED:
                kept[tag] = dataset.get_item(tag)
        given = getattr(dataset, "file_meta", None)
        syntax = None if given is None else given.get("TransferSyntaxUID")
        if syntax is None:
            implicit, little = dataset.original_encoding
            uid = pydicom.uid
            explicit = uid.ExplicitVRBigEndian if little is False else uid.ExplicitVRLittleEndian
            syntax = uid.ImplicitVRLittleEndian if implicit else explicit
        kept.preamble = bytes(128)
        kept.file_meta = pydicom.dataset.FileMetaDataset()
        kept.file_meta.TransferSyntaxUID = syntax
        file = io.BytesIO()
        kept.save_as(file, enforce_file_format=False)
    except Exception as exc:  # a dataset may hold anything
        raise ImageDecodeError(f"this pydicom Dataset cannot be read: {exc}") from exc
    return file.getvalue()
