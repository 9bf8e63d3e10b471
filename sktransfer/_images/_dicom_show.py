"""From the stored values of a frame to what is shown, in the standard's order.

Modality table or rescaling, then VOI table or window; the inversion is left to the caller.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from pydicom.pixels import apply_color_lut

from sktransfer._images._dicom_colors import PALETTE
from sktransfer._images._dicom_pixels import Frame
from sktransfer._images._dicom_values import UnreadableError, Values, named

# Tables and windows act on each value alone, so large frames go through them in strips.
_STRIP_VALUES = 2**20

# Beyond it no unit of measurement goes; and from where on four bytes round whole numbers.
_LARGEST, _ROUNDED = 1e30, 2**24

# Tables are looked through for a usable one, this many at most.
_MOST_TABLES = 64

_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


def render(frame: Frame, values: Values, options: dict[str, Any]) -> tuple[np.ndarray, dict]:
    """Return the stored values of a frame as they are to be shown, and what they mean.

    With ``eight_bit`` the values are 8-bit gray or RGB; else ``range`` of them are black and white
    (None: the file does not say), the other way round if ``inverted``, and ``windowed`` says that a
    window or table was applied. ``options`` are what ``DicomOptions.check`` returns.
    """
    stored = frame.stored
    if stored.ndim == 3:
        return _eight_bits(stored, frame.bits), _described(eight_bit=True)
    if frame.kind == PALETTE:
        return _through_palette(stored, values), _described(eight_bit=True)
    # The two say the same where both are right (PS3.3 C.8.11.3): together they invert once.
    shape, kind = values.text("PresentationLUTShape"), frame.kind
    inverted = kind == "MONOCHROME1" or shape == "INVERSE"
    if (kind, shape) in (("MONOCHROME1", "IDENTITY"), ("MONOCHROME2", "INVERSE")):
        values.notes.add(f"{kind} and PresentationLUTShape {shape}: the lowest value is white")
    modality = _modality(frame, values)
    signed = frame.signed or bool(modality and modality.ends and modality.ends[0] < 0)
    voi = _voi(values, options, signed)
    steps = [step for step in (modality, voi) if step is not None]
    if not steps:
        return _plain(frame, inverted)

    ends = steps[-1].ends
    wide = ends is not None and max(map(abs, ends)) > _ROUNDED
    shown = np.empty(stored.shape, dtype=np.float64 if wide else np.float32)
    rows = max(1, _STRIP_VALUES // stored.shape[1])
    for start in range(0, len(stored), rows):
        strip = stored[start : start + rows]
        for step in steps:
            strip = step.apply(strip)
        shown[start : start + rows] = strip
    known = {"rescale": "none" if modality is None else modality.name, "inverted": inverted}
    if voi is not None:
        known |= {"windowed": True, "window": voi.name}
    return shown, _described(range=ends, **known)


def _described(**known: Any) -> dict[str, Any]:
    empty = {"eight_bit": False, "range": None, "inverted": False, "windowed": False}
    return {**empty, "rescale": "none", "window": "none", **known}


class _Step(NamedTuple):
    """What is done to each value, what the extreme values become, and how one calls it."""

    apply: Callable[[np.ndarray], np.ndarray]
    ends: tuple[float, float] | None
    name: str


def _modality(frame: Frame, values: Values) -> _Step | None:
    """Return the modality's table or rescaling; None if it changes nothing."""
    for item in values.items("ModalityLUTSequence")[:1]:
        table = _read_table(item, "modality table", frame.signed)
        if table is not None:
            return table
        values.notes.correct("ModalityLUTSequence has no usable table: it is left out")
    slope, intercept = values.number("RescaleSlope"), values.number("RescaleIntercept")
    for name, value, default in (("Slope", slope, 1), ("Intercept", intercept, 0)):
        if value is None and (slope, intercept) != (None, None):
            values.notes.add(f"Rescale{name} is empty: taken as {default}")
    slope, intercept = 1.0 if slope is None else slope, intercept or 0.0
    if (slope, intercept) == (0.0, 0.0):
        values.notes.correct("RescaleSlope and RescaleIntercept are 0: left out")
        slope = 1.0
    if slope == 0:
        raise UnreadableError(
            f"damaged DICOM file: {named('RescaleSlope')} is 0, which makes all values "
            f"{intercept:g}. Correct the header, or leave the file out."
        )
    if (slope, intercept) == (1.0, 0.0):
        return None
    ends = None
    if frame.stored.dtype.kind != "f":
        low, high = sorted(end * slope + intercept for end in _stored_range(frame))
        if not (max(abs(low), abs(high)) < _LARGEST and low != high):
            raise UnreadableError(
                f"damaged DICOM file: {named('RescaleSlope')} {slope:g} and "
                f"{named('RescaleIntercept')} {intercept:g} make {low:g} of black and {high:g} of "
                "white."
            )
        ends = (low, high)
    name = f"slope {slope:g}, intercept {intercept:g}"
    return _Step(lambda stored: stored.astype(np.float64) * slope + intercept, ends, name)


def _stored_range(frame: Frame) -> tuple[float, float]:
    if frame.signed:
        return -(2.0 ** (frame.bits - 1)), 2.0 ** (frame.bits - 1) - 1
    return 0.0, 2.0**frame.bits - 1


def _read_table(item: Values, name: str, signed: bool) -> _Step | None:
    """Return a table, or None if it has no entries or does not say what they are."""
    descriptor = _whole_numbers(item, "LUTDescriptor")
    if len(descriptor) != 3 or not 1 <= descriptor[2] <= 16:
        return None
    n, first, bits = descriptor[0] or 2**16, descriptor[1], descriptor[2]
    if signed and first >= 2**15:
        first -= 2**16
    listed = _whole_numbers(item, "LUTData")
    if len(listed) < n <= 2 * len(listed) and bits <= 8:  # packed, two in each word
        listed = [part for word in listed for part in (word & 0xFF, word >> 8)]
    if not listed:
        return None
    if len(listed) < n:
        item.notes.correct(
            f"LUTDescriptor says {n} entries, and LUTData has {len(listed)}: the last one stands "
            "for those that are missing"
        )
    entries = np.array(listed[:n], dtype=np.uint16)
    if entries.max() > 2**bits - 1:
        item.notes.correct(f"LUTDescriptor says {bits} bits, and LUTData has more")
        bits = int(entries.max()).bit_length()

    def look_up(values: np.ndarray) -> np.ndarray:
        at = np.rint(values).astype(np.int64) - first
        return entries[at.clip(0, len(entries) - 1)]

    return _Step(look_up, (0.0, 2.0**bits - 1), name)


def _whole_numbers(item: Values, keyword: str) -> list[int]:
    """Return integers that may come as numbers or, where the type was lost, as bytes."""
    try:
        value = item.dataset.get(keyword)
        if isinstance(value, bytes):
            kind = "<u2" if item.little_endian else ">u2"
            value = np.frombuffer(value[: len(value) // 2 * 2], dtype=kind)
        return [] if value is None else [int(each) for each in np.atleast_1d(value)]
    except (TypeError, ValueError):
        return []


def _voi(values: Values, options: dict[str, Any], signed: bool) -> _Step | None:
    """Return the table or window that is applied, with values from 0 to 1, or None."""
    if options["window"] is not None:
        center, width = options["window"]
        return _window(center, width, "LINEAR", "as asked for")
    if not options["voi"]:
        return None
    items = values.items("VOILUTSequence")[: options["voi_index"] + _MOST_TABLES]
    windows = _windows(values)
    tables = [_read_table(item, f"VOI table {i}", signed) for i, item in enumerate(items)]
    if any(windows) and not options["prefer_lut"]:
        tables = []
    if any(tables):
        apply, ends, name = _chosen(tables, options["voi_index"], "VOI tables", values)
        return _Step(lambda strip: apply(strip) / ends[1], (0.0, 1.0), name)
    if tables:
        values.notes.correct("VOILUTSequence has no usable table: it is left out")
    if any(windows):
        return _chosen(windows, options["voi_index"], "windows", values)
    if windows:
        values.notes.correct(
            f"WindowCenter {values.shown('WindowCenter')} and WindowWidth "
            f"{values.shown('WindowWidth')} make no window: it is left out"
        )
    return None


def _window(center: float, width: float, function: str, origin: str) -> _Step:
    """Return a window of the modality's values (PS3.3 C.11.2.1)."""
    middle, extent = (center - 0.5, width - 1) if function == "LINEAR" else (center, width)

    def apply(values: np.ndarray) -> np.ndarray:
        values = values.astype(np.float64)
        if function == "SIGMOID":
            with np.errstate(over="ignore"):
                return 1 / (1 + np.exp(-4 * (values - center) / width))
        if extent == 0:  # all black up to the center, and white from there on
            return (values > middle).astype(np.float64)
        return ((values - middle) / extent + 0.5).clip(0, 1)

    return _Step(apply, (0.0, 1.0), f"center {center:g}, width {width:g}, {function}, {origin}")


def _windows(values: Values) -> list[_Step | None]:
    """Return the windows of a file, with None for those that are none."""
    centers, widths = values.numbers("WindowCenter"), values.numbers("WindowWidth")
    function = values.text("VOILUTFunction") or "LINEAR"
    n = max(len(centers), len(widths))
    if function not in _FUNCTIONS and n:
        values.notes.correct(f"VOILUTFunction is {function}, which is unknown: taken as LINEAR")
        function = "LINEAR"
    windows: list[_Step | None] = [None] * n
    for i, (center, width) in enumerate(zip(centers, widths, strict=False)):
        if center is None or width is None:
            continue
        if width >= 1 or (width > 0 and function != "LINEAR"):
            windows[i] = _window(center, width, function, f"window {i} of {n}")
    return windows


def _chosen(usable: list[Any], index: int, what: str, values: Values) -> Any:
    """Return the table or window at an index or, if that is none, the next one that is."""
    if index >= len(usable):
        raise UnreadableError(
            f"voi_index={index} was asked for, and the file has {len(usable)} {what}."
        )
    at = next(i for i in (*range(index, len(usable)), *range(index)) if usable[i] is not None)
    if at != index:
        values.notes.correct(f"number {index} of its {what} is not usable: number {at} is applied")
    return usable[at]


def _plain(frame: Frame, inverted: bool) -> tuple[np.ndarray, dict[str, Any]]:
    """Return values to which nothing is to be applied, on the scale of their bits."""
    stored, bits = frame.stored, frame.bits
    if stored.dtype.kind == "f":
        return stored.astype(np.float32), _described(inverted=inverted)
    if bits <= 8 and not frame.signed:
        gray = _eight_bits(stored, bits)
        return 255 - gray if inverted else gray, _described(eight_bit=True, inverted=inverted)
    return stored, _described(range=_stored_range(frame), inverted=inverted)


def _through_palette(stored: np.ndarray, values: Values) -> np.ndarray:
    """Return the colors that a palette gives to stored values."""
    try:
        if not values.little_endian:  # of which pydicom takes no account
            for color in ("Red", "Green", "Blue"):
                element = values.dataset[f"{color}PaletteColorLookupTableData"]
                element.value = np.frombuffer(element.value, np.uint16).byteswap().tobytes()
        colors = apply_color_lut(stored, values.dataset)[:, :, :3]
    except Exception as error:  # pydicom raises whatever is missing or odd
        raise UnreadableError(
            "damaged DICOM file: PhotometricInterpretation is PALETTE COLOR, and its palette "
            f"(RedPaletteColorLookupTableDescriptor and the like) cannot be used: {error}"
        ) from error
    descriptor = _whole_numbers(values, "RedPaletteColorLookupTableDescriptor")
    low = colors.dtype.itemsize > 1 and descriptor[2:] == [8] and colors.max() <= 255
    return _eight_bits(colors, 8 if low else 8 * colors.dtype.itemsize)


def _eight_bits(colors: np.ndarray, bits: int) -> np.ndarray:
    """Return the upper eight bits of deeper values, as for other files; few bits fill the scale."""
    if bits < 8:
        return np.rint(colors * (255 / (2**bits - 1))).clip(0, 255).astype(np.uint8)
    return (colors >> (bits - 8)).astype(np.uint8)
