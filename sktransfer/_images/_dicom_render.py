"""From the stored values of a DICOM frame to values to be shown, in the order of the standard.

Stored values -> modality LUT -> VOI LUT or window. It runs in a helper process (``_dicom_worker``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut

from sktransfer._images._dicom_read import PALETTE, UnreadableError

# Tables and windows act on each value alone, so large frames go through them in strips.
_STRIP_VALUES = 2**20

# What an enhanced file may say for each frame, and in which sequence.
_PER_FRAME = {
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "VOILUTFunction"),
}


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
    if header.PhotometricInterpretation == PALETTE:
        colors = apply_color_lut(stored, header)[:, :, :3]
        return _eight_bits(colors, 8 * colors.dtype.itemsize), _described(eight_bit=True)
    inverted = header.PhotometricInterpretation == "MONOCHROME1"
    if options["window"] is not None:
        _use_window(header, options["window"])
        voi = True
    else:
        voi = options["voi"] and _has_voi(header)
    if not voi and not _has_modality(header):
        return _plain(stored, header, inverted)

    def modality(values: np.ndarray) -> np.ndarray:
        return apply_modality_lut(values, header)

    ends = _modality_range(stored.dtype, header)
    _widen_modality_table(header)
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


def _has_voi(header: Dataset) -> bool:
    return _has_table(header) or _has_window(header)


def _use_window(header: Dataset, window: tuple[float, float]) -> None:
    header.WindowCenter, header.WindowWidth = window
    for keyword in ("VOILUTSequence", "VOILUTFunction"):
        if keyword in header:
            del header[keyword]


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


def _widen_modality_table(header: Dataset) -> None:
    """Declare entries of 9 to 15 bits, which pydicom refuses, as what they are stored in: 16."""
    for table in header.get("ModalityLUTSequence") or []:
        entries, first, bits = table.LUTDescriptor
        if 8 < int(bits) < 16:
            table.LUTDescriptor = [entries, first, 16]


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
