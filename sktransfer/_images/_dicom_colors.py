"""What the numbers of a frame are: which bits of them count, and which colors they make.

Where the header and the compressed image differ, the image is believed, and the difference noted.
"""

from __future__ import annotations

import numpy as np

from sktransfer._images._dicom_code_stream import CodeStream
from sktransfer._images._dicom_values import Notes, UnreadableError, Values

GRAYS = ("MONOCHROME1", "MONOCHROME2")
PALETTE = "PALETTE COLOR"
COLORS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")

# Of colors without a marker that says what they are, this many are looked at. They are no YCbCr if
# this share of them would lie this far outside of RGB, or if all components rise and fall together.
_LOOKED_AT, _SHARE, _FAR, _TOGETHER = 50_000, 0.05, 20, 0.7

# Colors are converted in strips of this many values.
_STRIP_VALUES = 2**20


def samples_and_kind(values: Values, stream: int | None = None) -> tuple[int, str]:
    """Return samples per pixel and photometric interpretation, by each other where one is missing.

    ``stream`` is how many components a compressed image has, which decides.
    """
    notes, kind = values.notes, values.text("PhotometricInterpretation")
    samples = values.integer("SamplesPerPixel")
    if samples is None and stream is None:
        samples = 3 if kind in COLORS else 1
        notes.correct(f"SamplesPerPixel is empty: taken as {samples}")
    if not kind:
        kind = "RGB" if (stream or samples) == 3 else "MONOCHROME2"
        notes.correct(f"PhotometricInterpretation is empty: taken as {kind}")
    known = kind in (*GRAYS, PALETTE, *COLORS)
    if known and stream is not None and (samples, kind in COLORS) != (stream, stream == 3):
        notes.correct(
            f"SamplesPerPixel is {samples} and PhotometricInterpretation {kind}, but the "
            f"compressed image is {'color' if stream == 3 else 'gray'}, and shown as such"
        )
        kind = "RGB" if stream == 3 else "MONOCHROME2" if kind in COLORS else kind
    samples = samples or 0 if stream is None else stream
    if (samples, kind in COLORS) != (3, True) and (samples != 1 or kind not in (*GRAYS, PALETTE)):
        raise UnreadableError(
            f"a DICOM image of {samples} samples per pixel and photometric interpretation "
            f"{kind!r}, which is not read; {', '.join((*GRAYS, PALETTE, *COLORS))} are."
        )
    return samples, kind


def stored_bits(values: Values, allocated: int) -> tuple[int, bool]:
    """Return how many bits of a value count, and whether it is signed."""
    bits, sign = values.integer("BitsStored"), values.integer("PixelRepresentation")
    if bits is None or not 1 <= bits <= allocated:
        said = "empty" if bits is None else str(bits)
        values.notes.correct(f"BitsStored is {said}: taken as BitsAllocated, {allocated}")
        bits = allocated
    if sign not in (0, 1):
        said = "empty" if sign is None else str(sign)
        values.notes.correct(f"PixelRepresentation is {said}: taken as 0, unsigned")
    return bits, sign == 1


def counting_bits(stored: np.ndarray, values: Values, bits: int) -> np.ndarray:
    """Return values whose other bits, which may hold anything, are gone."""
    unused = 8 * stored.dtype.itemsize - bits
    if values.integer("BitsAllocated") == 1:
        return stored
    high = values.integer("HighBit")
    if high is not None and high != bits - 1:
        below = high + 1 - bits
        low = stored & ((1 << max(0, below)) - 1)
        if 0 < below <= unused and not low.any():
            values.notes.correct(f"HighBit is {high}: the {bits} bits below it are the values")
            stored = stored >> below
        else:
            values.notes.correct(f"HighBit is {high}, and ignored: the values are in the low bits")
    cleaned = (stored << unused) >> unused  # with its sign, if it has one
    if not np.array_equal(cleaned, stored):
        values.notes.add(f"BitsStored is {bits}: the bits above are left out")
    return cleaned


def bits_of_stream(
    stored: np.ndarray, stream: CodeStream, values: Values, signed: bool
) -> tuple[np.ndarray, int]:
    """Return decoded values and how many of their bits count."""
    bits = values.integer("BitsStored")
    if bits == stream.bits:
        return stored, bits
    if bits is not None and 1 <= bits < stream.bits:  # which is usual
        low, high = stored.min(), stored.max()
        if low >= (-(2 ** (bits - 1)) if signed else 0) and high < 2 ** (bits - signed):
            return stored, bits
        if signed and low >= 0 and high < 2**bits:  # the sign is that of so many bits
            unused = 8 * stored.dtype.itemsize - bits
            return (stored << unused) >> unused, bits
    said = "empty" if bits is None else bits
    values.notes.correct(
        f"BitsStored is {said}, but the compressed image has {stream.bits} bits: those count"
    )
    return stored, stream.bits


def colors_of_stream(
    stored: np.ndarray, stream: CodeStream, values: Values
) -> tuple[np.ndarray, str]:
    """Return three components as RGB, and what they were.

    Markers decide; without any, the colors themselves, then the convention, then the header.
    """
    notes = values.notes
    _, label = samples_and_kind(values, 3)
    is_label_ybr = label.startswith("YBR")
    is_ybr = stream.color == "YBR"
    if stream.color is None:
        is_ybr = (is_label_ybr or stream.is_usual) and not _is_no_ybr(stored, stream.bits)
    # After a transformation that the decoder has undone, these labels are right.
    undone = label in ("YBR_ICT", "YBR_RCT") and stream.kind in ("JPEG 2000", "HTJ2K")
    if is_ybr != is_label_ybr and not (undone and stream.color == "RGB"):
        holds = "YCbCr" if is_ybr else "RGB"
        notes.correct(
            f"PhotometricInterpretation is {label}, but the compressed image holds {holds}"
        )
    return (_rgb(stored, stream.bits), "YCbCr") if is_ybr else (stored, "RGB")


def colors_by_label(stored: np.ndarray, label: str, bits: int, notes: Notes) -> np.ndarray:
    """Return colors of which only the header says what they are as RGB."""
    if not label.startswith("YBR"):
        return stored
    if label != "YBR_FULL_422" and _is_no_ybr(stored, bits):
        notes.correct(f"PhotometricInterpretation is {label}, but the colors are RGB")
        return stored
    return _rgb(stored, bits)


def _is_no_ybr(stored: np.ndarray, bits: int) -> bool:
    """Return whether colors are RGB and not YCbCr.

    What RGB can be fills a quarter of the cube of YCbCr; and components of RGB rise and fall
    together from zero, those of YCbCr (of violet, say) from the middle. Zeros do not count; areas
    of YCbCr are blanked with them.
    """
    colors = stored.reshape(-1, 3)
    colors = colors[:: max(1, len(colors) // _LOOKED_AT)]
    colors = colors[colors.any(axis=1)]
    if not len(colors):
        return False
    scale = 2**bits - 1
    rgb = _from_ybr(colors, bits)
    far = _FAR / 255 * scale
    outside = (rgb < -far) | (rgb > scale + far)
    with np.errstate(all="ignore"):  # no correlation with what is constant
        together = bool((np.corrcoef(colors.T) > _TOGETHER).all())
    if together:
        first = colors[:, 0] - colors[:, 0].mean()
        slopes = first @ colors[:, 1:] / (first @ first)
        together = bool((colors[:, 1:].mean(0) - slopes * colors[:, 0].mean() < scale / 4).all())
    return together or float(outside.any(axis=1).mean()) > _SHARE


def _from_ybr(colors: np.ndarray, bits: int) -> np.ndarray:
    """Return RGB (PS3.3 C.7.6.3.1.2), neither rounded nor clipped."""
    matrix = np.array(
        [
            [1, 1, 1],
            [0, -0.114 * 1.772 / 0.587, 1.772],
            [1.402, -0.299 * 1.402 / 0.587, 0],
        ],
        dtype=np.float32,
    )
    half = 2.0 ** (bits - 1)
    shifted = colors.astype(np.float32) - np.array([0, half, half], dtype=np.float32)
    return shifted @ matrix


def _rgb(stored: np.ndarray, bits: int) -> np.ndarray:
    """Return RGB of YCbCr that fills its bits."""
    converted = np.empty_like(stored)
    step = max(1, _STRIP_VALUES // (3 * stored.shape[1]))
    for start in range(0, len(stored), step):
        rgb = np.floor(_from_ybr(stored[start : start + step], bits) + np.float32(0.5))
        converted[start : start + step] = rgb.clip(0, 2**bits - 1)
    return converted
