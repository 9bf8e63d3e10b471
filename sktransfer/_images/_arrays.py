"""What the numbers of an array mean as an image: dtype, scale, axes. It must not know files.

A *image*, in all of ``images``, is one of two things: a Pillow image of mode ``"L"`` or
``"RGB"`` where eight bits hold everything the row has, or a float32 array of shape (H, W) or
(H, W, 3) on the [0, 1] scale where they do not ("deep" data: 16-bit, float, declared range).
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from PIL import Image

from sktransfer.exceptions import ImageDecodeError

DecodedImage: TypeAlias = Image.Image | np.ndarray
ValueRange: TypeAlias = tuple[float, float]


@dataclass(frozen=True)
class Percentiles:
    """The levels of each image below and above which all is black and all is white."""

    low: float = 1.0
    high: float = 99.0

    def range_of(self, values: np.ndarray) -> ValueRange | None:
        """Black and white of these values; None if all levels in between are one."""
        low, high = np.percentile(values, (self.low, self.high))
        if low == high:
            low, high = values.min(), values.max()
        return (float(low), float(high)) if low < high else None


# What `value_range` may be, once it is checked.
ValueScale: TypeAlias = ValueRange | Percentiles | Literal["dtype"]

CHANNELS = (1, 3, 4)  # gray, color, color with alpha
OTHER_CHANNELS = (
    " sktransfer.preprocessing.ImageChannels selects or mixes the channels of an array with others."
)

# Key in the ``info`` of a Pillow image that was decoded at a fraction of its size.
EXTENT = "sktransfer_extent"


class Extent(NamedTuple):
    """What an image decoded at a fraction of its size stands for.

    ``size`` is the whole image's. It fills ``box`` (left, upper, right, lower) of the decoded
    one: at a quarter, 1513 rows are 378.25, decoded to 379.
    """

    size: tuple[int, int]
    box: tuple[float, float, float, float]


# Rounding in a user's own scaling may push a float this far (of the range) over its ends.
TOLERANCE = 1e-6

# Rows looked at in one go when a whole batch is checked; bounds the temporary memory.
_CHUNK_BYTES = 64 * 2**20


def check_value_range(value_range: Any) -> ValueScale | None:
    """Two finite numbers in ascending order, percentiles, "dtype", or None."""
    if value_range is None or isinstance(value_range, Percentiles):
        return value_range
    if isinstance(value_range, str):
        value_range = (value_range,)
    if isinstance(value_range, tuple | list) and value_range and isinstance(value_range[0], str):
        return _named_scale(*value_range)
    try:
        low, high = (float(value) for value in value_range)
    except (TypeError, ValueError):
        low, high = 0.0, 0.0
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise _bad_value_range(value_range)
    return low, high


def _bad_value_range(got: Any) -> ValueError:
    return ValueError(
        "value_range must be None or two finite numbers (lowest, highest) with lowest < highest, "
        'for example (0, 4095), or one of "dtype" (all that an integer type can hold), '
        '"percentile" (each image from its 1st to its 99th percentile) and, with other '
        f'percentiles, ("percentile", 0.5, 99.5); got {got!r}.'
    )


def _named_scale(name: str, *numbers: Any) -> ValueScale:
    if name == "dtype" and not numbers:
        return "dtype"
    if name == "percentile":
        if not numbers:
            return Percentiles()
        if (
            len(numbers) == 2
            and all(isinstance(number, Real) for number in numbers)
            and 0 <= numbers[0] < numbers[1] <= 100
        ):
            return Percentiles(float(numbers[0]), float(numbers[1]))
    raise _bad_value_range((name, *numbers) if numbers else name)


def check_numeric(array: np.ndarray) -> None:
    """Refuse what has no meaning as gray levels."""
    if array.dtype.kind == "c":
        raise ValueError(f"Complex data not supported\n{array!r}\n")
    if array.dtype.kind not in "buif":
        raise ValueError(
            f"Images must be arrays of booleans, integers or floats; got dtype {array.dtype}."
        )


def is_eight_bit(dtype: np.dtype, value_range: ValueScale | None) -> bool:
    """Whether eight bits hold every value such an array may have."""
    if dtype.kind == "b":
        return True
    if value_range == "dtype":
        return dtype == np.uint8
    if value_range is not None:
        return dtype.kind in "iu" and value_range == (0.0, 255.0)
    return dtype.kind in "iu" and not _is_uint16(dtype)


def _is_uint16(dtype: np.dtype) -> bool:
    """In either byte order: files of other machines come big-endian."""
    return dtype.kind == "u" and dtype.itemsize == 2


def expected_range(dtype: np.dtype, value_range: ValueScale | None) -> ValueRange:
    """What is black and what is white in an array of this dtype, unless percentiles say so."""
    if dtype.kind == "b":
        return 0.0, 1.0
    if value_range == "dtype" and dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return float(limits.min), float(limits.max)
    if isinstance(value_range, tuple):
        return value_range
    if dtype.kind == "f":
        return 0.0, 1.0
    return (0.0, 65535.0) if _is_uint16(dtype) else (0.0, 255.0)


def check_batch_range(array: np.ndarray, value_range: ValueScale | None) -> None:
    """Refuse a whole batch whose finite values lie outside what its dtype or range guarantees.

    A wrong scale is a mistake about the whole of ``X``, not a broken row, so it is found here and
    not row by row; otherwise a nearly black row of a 0-to-255 float batch would pass as white.
    NaN and infinity are left to the rows that have them.
    """
    if array.dtype.kind == "b" or (array.dtype == np.uint8 and value_range is None):
        return
    if isinstance(value_range, Percentiles):
        return
    seen_low, seen_high = np.inf, -np.inf
    step = max(1, _CHUNK_BYTES // max(1, array[:1].nbytes))
    for start in range(0, len(array), step):
        chunk = array[start : start + step]
        low, high = chunk.min(), chunk.max()
        if not (np.isfinite(low) and np.isfinite(high)):
            chunk = chunk[np.isfinite(chunk)]
            if not chunk.size:
                continue
            low, high = chunk.min(), chunk.max()
        seen_low, seen_high = min(seen_low, float(low)), max(seen_high, float(high))
    reason = _range_problem(seen_low, seen_high, array.dtype, value_range)
    if reason:
        raise ValueError(f"X: {reason}")


def _range_problem(
    low: float, high: float, dtype: np.dtype, value_range: ValueScale | None
) -> str | None:
    """What is wrong with values from ``low`` to ``high``, or None."""
    black, white = expected_range(dtype, value_range)
    slack = TOLERANCE * (white - black)
    if low > high or (low >= black - slack and high <= white + slack):  # low > high: no values
        return None
    seen = f"{dtype} values from {low:.6g} to {high:.6g}"
    if isinstance(value_range, tuple):
        return (
            f"{seen} were found, but value_range=({_plain(black)}, {_plain(white)}) was given. "
            "Widen value_range, or clip the values first."
        )
    expected = (
        "floats must lie in [0, 1]"
        if dtype.kind == "f"
        else "integers must lie in 0..255 (uint16 in 0..65535)"
    )
    return (
        f"{seen} were found, but {expected} unless value_range says which values are black and "
        f"white. Pass it, for example value_range={_suggest_range(low, high)}: the range of the "
        "scale the images are on, not that of these few."
    )


def _plain(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:g}"


def _suggest_range(low: float, high: float) -> str:
    """A likely scale for the values seen, as it would be typed."""
    if low >= 0:
        for white in (1, 16, 255, 1023, 4095, 65535):
            if high <= white:
                return f"(0, {white})"
    if low >= -1 and high <= 1:
        return "(-1, 1)"
    return f"({_plain(low)}, {_plain(high)})"


def check_finite(array: np.ndarray) -> None:
    """scikit-learn's own words for NaN and infinity."""
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return
    if np.isnan(array).any():
        raise ImageDecodeError("Input X contains NaN.")
    raise ImageDecodeError(f"Input X contains infinity or a value too large for {array.dtype!r}.")


def scale_values(values: np.ndarray, dtype: np.dtype, value_range: ValueScale | None) -> np.ndarray:
    """Numbers on the scale of ``dtype`` or ``value_range`` to float32 in [0, 1].

    An image of one level is black on a scale of its own percentiles.

    Raises
    ------
    ImageDecodeError
        If a value is not finite or lies outside the scale.
    """
    check_finite(values)
    if isinstance(value_range, Percentiles) and dtype.kind != "b":
        own = value_range.range_of(values)
        if own is None:
            return np.zeros(values.shape, dtype=np.float32)
        return _scaled(values, own)
    reason = _range_problem(float(values.min()), float(values.max()), dtype, value_range)
    if reason:
        raise ImageDecodeError(reason)
    return _scaled(values, expected_range(dtype, value_range))


def _scaled(values: np.ndarray, ends: ValueRange) -> np.ndarray:
    black, white = ends
    if (black, white) != (0.0, 1.0):
        values = (values.astype(np.float64) - black) / (white - black)
    return np.clip(values, 0.0, 1.0).astype(np.float32)


def over_white(color: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Composite [0, 1] colors over white."""
    return (color * alpha + (1.0 - alpha)).astype(np.float32)


def array_to_image(array: np.ndarray, value_range: ValueScale | None) -> DecodedImage:
    """One row, shape (H, W) or (H, W, C), to an image.

    Raises
    ------
    ImageDecodeError
        If shape or values do not make an image.
    """
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if is_eight_bit(array.dtype, value_range):
        return _eight_bit_image(array)
    if array.ndim == 3 and array.shape[2] == 4:
        # Opacity has a scale of its own: percentiles are of colors.
        own = None if isinstance(value_range, Percentiles) else value_range
        alpha = scale_values(array[:, :, 3:], array.dtype, own)
        return over_white(scale_values(array[:, :, :3], array.dtype, value_range), alpha)
    return scale_values(array, array.dtype, value_range)


def _eight_bit_image(array: np.ndarray) -> Image.Image:
    if array.dtype.kind == "b":
        array = array.astype(np.uint8) * 255
    elif array.dtype != np.uint8:
        reason = _range_problem(float(array.min()), float(array.max()), array.dtype, None)
        if reason:
            raise ImageDecodeError(reason)
        array = array.astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(array))
    return flatten_alpha(image) if image.mode == "RGBA" else image


def flatten_alpha(image: Image.Image) -> Image.Image:
    """An image of mode RGBA or LA over white, without its alpha channel."""
    opaque_mode = "RGB" if image.mode == "RGBA" else "L"
    background = Image.new(opaque_mode, image.size, "white")
    background.paste(image.convert(opaque_mode), mask=image.getchannel("A"))
    return background


def gray_or_rgb(image: Image.Image) -> Image.Image | None:
    """An 8-bit image as one of mode L or RGB; None where its mode says something else."""
    if image.mode in ("L", "RGB"):
        return image
    if image.mode in ("RGBA", "LA"):
        return flatten_alpha(image)
    if image.mode in ("1", "P", "CMYK", "YCbCr", "HSV", "LAB"):
        return image.convert("RGB")
    return None


def check_image_shape(array: np.ndarray) -> None:
    """Refuse one row whose axes are not (H, W) or (H, W, C)."""
    shape = array.shape
    if array.ndim not in (2, 3) or 0 in shape:
        raise ImageDecodeError(
            f"an array of shape {shape} is not an image; expected (height, width) or "
            "(height, width, channels), none of them 0."
        )
    if array.ndim == 3 and shape[2] not in CHANNELS:
        hint = (
            " It looks channels-first: use array.transpose(1, 2, 0)."
            if shape[0] in CHANNELS
            else ""
        )
        raise ImageDecodeError(
            f"an array of shape {shape} has {shape[2]} channels on its last axis; expected 1 "
            f"(gray), 3 (RGB) or 4 (RGBA).{hint or OTHER_CHANNELS}"
        )


def tensor_to_array(tensor: torch.Tensor) -> np.ndarray:
    """Numbers of a tensor wherever it lives, same axes, without its gradient."""
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:  # numpy has no such type; float32 holds every value
        tensor = tensor.float()
    return tensor.numpy()


def tensor_to_row(tensor: torch.Tensor) -> np.ndarray:
    """One image as torch has it, (H, W) or (C, H, W), with its channels last."""
    array = tensor_to_array(tensor)
    if array.ndim == 3:
        if array.shape[0] not in CHANNELS:
            hint = (
                " It looks channels-last: use tensor.permute(2, 0, 1)."
                if array.shape[2] in CHANNELS
                else ""
            )
            raise ImageDecodeError(
                f"a tensor of shape {array.shape} has {array.shape[0]} channels on its first axis; "
                f"expected 1 (gray), 3 (RGB) or 4 (RGBA).{hint}"
            )
        array = np.moveaxis(array, 0, -1)
    return array
