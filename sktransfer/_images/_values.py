"""What numbers mean as an image: data type, scale, axes.

A decoded image, in all of this package, is one of two things: a Pillow image of mode ``"L"`` or
``"RGB"`` where eight bits hold everything the row has, or a float32 array of shape (H, W) or
(H, W, 3) on the [0, 1] scale where they do not ("deep" images: 16 bits, floats, declared ranges).
"""

from __future__ import annotations

from dataclasses import dataclass
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
_TOLERANCE = 1e-6

# Rows looked at in one go when a whole batch is checked; bounds the temporary memory.
_CHUNK_BYTES = 64 * 2**20


def not_numeric(array: np.ndarray) -> str:
    """Return what is wrong with an array whose data type has no meaning as gray levels."""
    if array.dtype.kind == "c":
        return f"Complex data not supported\n{array!r}\n"
    return f"Images must be arrays of booleans, integers or floats; got dtype {array.dtype}."


def check_batch_range(array: np.ndarray, scale: ValueScale | None) -> None:
    """Refuse a batch whose finite values (not NaN nor infinity) lie outside its dtype or range.

    A wrong scale is a mistake about the whole of ``X``, not a broken row: a nearly black row of a
    0-to-255 float batch would pass as white by itself.
    """
    if array.dtype.kind == "b" or (array.dtype == np.uint8 and scale is None):
        return
    if isinstance(scale, Percentiles):
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
    try:
        _black_and_white(seen_low, seen_high, array.dtype, scale)
    except ImageDecodeError as error:
        raise ValueError(f"X: {error.reason}") from None


def _black_and_white(
    low: float, high: float, dtype: np.dtype, scale: ValueScale | None
) -> ValueRange:
    """Return black and white of an array of this dtype, within which low and high must lie."""
    if dtype.kind == "b":
        black, white = 0.0, 1.0
    elif scale == "dtype" and dtype.kind in "iu":
        black, white = float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)
    elif isinstance(scale, tuple):
        black, white = scale
    elif dtype.kind == "f":
        black, white = 0.0, 1.0
    else:
        black, white = 0.0, 65535.0 if dtype.newbyteorder("=") == np.uint16 else 255.0
    slack = _TOLERANCE * (white - black)
    if low > high or (low >= black - slack and high <= white + slack):  # low > high: no values
        return black, white
    seen = f"{dtype} values from {low:.6g} to {high:.6g}"
    if isinstance(scale, tuple):
        raise ImageDecodeError(
            f"{seen} were found, but value_range=({_plain(black)}, {_plain(white)}) was given. "
            "Widen value_range, or clip the values first."
        )
    expected = (
        "floats must lie in [0, 1]"
        if dtype.kind == "f"
        else "integers must lie in 0..255 (uint16 in 0..65535)"
    )
    raise ImageDecodeError(
        f"{seen} were found, but {expected} unless value_range says which values are black and "
        f"white. Pass it, for example value_range={_suggest_range(low, high)}: the range of the "
        "scale the images are on, not that of these few."
    )


def _plain(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:g}"


def _suggest_range(low: float, high: float) -> str:
    """Return a likely scale for the values seen, as it would be typed."""
    if low >= 0:
        for white in (1, 16, 255, 1023, 4095, 65535):
            if high <= white:
                return f"(0, {white})"
    if low >= -1 and high <= 1:
        return "(-1, 1)"
    return f"({_plain(low)}, {_plain(high)})"


def scale_values(values: np.ndarray, dtype: np.dtype, scale: ValueScale | None) -> np.ndarray:
    """Bring numbers on the scale of ``dtype`` or ``scale`` to float32 in [0, 1].

    Raises ImageDecodeError where a value is not finite or lies outside the scale.
    """
    if values.dtype.kind == "f" and not np.isfinite(values).all():  # in scikit-learn's own words
        if np.isnan(values).any():
            raise ImageDecodeError("Input X contains NaN.")
        raise ImageDecodeError(
            f"Input X contains infinity or a value too large for {values.dtype!r}."
        )
    if isinstance(scale, Percentiles) and dtype.kind != "b":
        black, white = map(float, np.percentile(values, (scale.low, scale.high)))
        if black == white:
            black, white = float(values.min()), float(values.max())
        if black == white:  # an image of one level is black
            return np.zeros(values.shape, dtype=np.float32)
    else:
        black, white = _black_and_white(float(values.min()), float(values.max()), dtype, scale)
    result = np.empty(values.shape, dtype=np.float32)
    step = max(1, _CHUNK_BYTES // (8 * max(1, values[:1].size)))
    for low in range(0, len(values), step):
        part = values[low : low + step]
        if (black, white) != (0.0, 1.0):
            part = (part.astype(np.float64) - black) / (white - black)
        result[low : low + step] = np.clip(part, 0.0, 1.0)
    return result


def array_to_image(array: np.ndarray, scale: ValueScale | None) -> DecodedImage:
    """Return one row, of shape (H, W) or (H, W, C), as an image."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    dtype = array.dtype
    if dtype.kind == "b" or scale == "dtype":
        eight_bit = dtype in (np.bool_, np.uint8)
    elif scale is None:  # uint16 in either byte order: files of other machines come big-endian
        eight_bit = dtype.kind in "iu" and dtype.newbyteorder("=") != np.uint16
    else:
        eight_bit = dtype.kind in "iu" and scale == (0.0, 255.0)
    if eight_bit:
        if array.dtype.kind == "b":
            array = array.astype(np.uint8) * 255
        elif array.dtype != np.uint8:
            _black_and_white(float(array.min()), float(array.max()), array.dtype, None)
            array = array.astype(np.uint8)
        image = Image.fromarray(np.ascontiguousarray(array))
        return flatten_alpha(image) if image.mode == "RGBA" else image
    if array.ndim == 3 and array.shape[2] == 4:
        # Opacity has a scale of its own: percentiles are of colors.
        own = None if isinstance(scale, Percentiles) else scale
        alpha = scale_values(array[:, :, 3:], array.dtype, own)
        color = scale_values(array[:, :, :3], array.dtype, scale)
        return (color * alpha + (1.0 - alpha)).astype(np.float32)  # over white
    return scale_values(array, array.dtype, scale)


def flatten_alpha(image: Image.Image) -> Image.Image:
    """Return an image of mode RGBA or LA over white, without its alpha channel."""
    opaque_mode = "RGB" if image.mode == "RGBA" else "L"
    background = Image.new(opaque_mode, image.size, "white")
    background.paste(image.convert(opaque_mode), mask=image.getchannel("A"))
    return background


def tensor_to_array(tensor: torch.Tensor) -> np.ndarray:
    """Return the numbers of a tensor wherever it lives, same axes, without its gradient."""
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:  # numpy has no such type; float32 holds every value
        tensor = tensor.float()
    return tensor.numpy()


def tensor_to_row(tensor: torch.Tensor) -> np.ndarray:
    """Return one image as torch has it, (H, W) or (C, H, W), with its channels last."""
    array = tensor_to_array(tensor)
    if array.ndim != 3:
        return array
    if array.shape[0] not in CHANNELS:
        hint = " It looks channels-last: use tensor.permute(2, 0, 1)."
        raise ImageDecodeError(
            f"a tensor of shape {array.shape} has {array.shape[0]} channels on its first axis; "
            "expected 1 (gray), 3 (RGB) or 4 (RGBA)." + (hint if array.shape[2] in CHANNELS else "")
        )
    return np.moveaxis(array, 0, -1)


def as_color(image: DecodedImage) -> DecodedImage:
    """Return a copy with three channels, so that a callable need not think of gray."""
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    return np.repeat(image[:, :, None], 3, axis=2) if image.ndim == 2 else image.copy()


def returned_image(result: Any, role: str, also: str = "") -> DecodedImage:
    """Return what a user's callable gave, as one of the two kinds of image.

    ``role`` says whose callable it is, and ``also`` what else it might have returned, for errors.
    """
    what = type(result).__name__
    if isinstance(result, Image.Image):
        if result.mode in ("L", "RGB"):
            return result
        if result.mode in ("RGBA", "LA"):
            return flatten_alpha(result)
        if result.mode in ("1", "P", "CMYK", "YCbCr", "HSV", "LAB"):
            return result.convert("RGB")
        what = f"a Pillow image of mode {result.mode}"
    elif isinstance(result, torch.Tensor | np.ndarray):
        kind = "an array" if isinstance(result, np.ndarray) else "a tensor"
        what = f"{kind} of shape {tuple(result.shape)} and dtype {result.dtype}"
        if isinstance(result, torch.Tensor):
            planes = result.ndim == 3 and result.shape[0] in (1, 3)
            array = tensor_to_array(result).transpose(1, 2, 0) if planes else np.empty(0)
        else:
            array = result
        if array.ndim == 3 and array.shape[2] == 1:
            array = array[:, :, 0]
        if array.size and (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
            if array.dtype == np.uint8:
                return Image.fromarray(np.ascontiguousarray(array))
            if array.dtype.kind == "f":
                low, high = float(array.min()), float(array.max())
                # Interpolation overshoots by rounding.
                if low >= -_TOLERANCE and high <= 1 + _TOLERANCE:
                    return np.ascontiguousarray(array, dtype=np.float32).clip(0.0, 1.0)
                raise ValueError(
                    f"the {role} callable returned {kind} with values from {low:.6g} to "
                    f"{high:.6g}; expected floats in [0, 1]{also}. Leave the normalization out: it "
                    "comes afterwards, as the weights want it."
                )
    raise TypeError(
        f"the {role} callable returned {what}; expected a Pillow image, an array (height, "
        "width[, 3]) or a tensor (1|3, height, width), of uint8 or of floats in [0, 1]"
        f"{also}."
    )
