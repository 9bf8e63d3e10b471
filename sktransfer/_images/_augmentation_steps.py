"""The steps of an augmentation: parameters read into one form, drawn from a seed, applied.

It must not know estimators' parameters, presets, or callables.
"""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from sktransfer._images._affine import affine_matrix, crop_matrix, resample
from sktransfer._images._arrays import EXTENT, DecodedImage, Extent
from sktransfer._images._trivial import trivial_augment

# Part of every fingerprint: to be raised when the same parameters come to give other pixels.
VERSION = 1

# Every one is drawn for every image, needed or not, so that switching one parameter on leaves
# what the others do as it was. New ones go to the end.
_DRAWS = (
    *("rotation", "width_shift", "height_shift", "shear", "zoom_x", "zoom_y", "channel_shift"),
    *("horizontal_flip", "vertical_flip", "brightness"),
    *("crop_scale", "crop_ratio", "crop_x", "crop_y"),
    *("trivial_operation", "trivial_strength", "trivial_sign"),
)


class Shift(NamedTuple):
    """A shift parameter, read: evenly from -extent to extent, or one of the choices."""

    extent: float
    choices: tuple[float, ...]
    relative: bool  # to the side of the image; else pixels

    def of(self, draw: float, side: int) -> float:
        if self.choices:
            amount = self.choices[int(draw * len(self.choices))]
        else:
            amount = _between(draw, (-self.extent, self.extent))
        return amount * side if self.relative else amount


class Plan(NamedTuple):
    """The parameters, checked and in one form each; its values are the fingerprint."""

    rotation: float
    width_shift: Shift
    height_shift: Shift
    shear: float
    zoom: tuple[float, float]
    brightness: tuple[float, float] | None
    channel_shift: float
    horizontal_flip: bool
    vertical_flip: bool
    fill_mode: str
    cval: float
    crop_scale: tuple[float, float]
    crop_ratio: tuple[float, float]
    trivial: bool

    @property
    def changes_pixels(self) -> bool:
        """Whether any image may come out other than it went in."""
        return any(
            (
                *(self.moves, self.channel_shift, self.horizontal_flip, self.vertical_flip),
                *(self.brightness not in (None, (1.0, 1.0)), self.trivial),
            )
        )

    @property
    def moves(self) -> bool:
        """Whether images are resampled."""
        shifts = (self.width_shift, self.height_shift)
        return bool(
            self.rotation
            or self.shear
            or any(shift.extent or any(shift.choices) for shift in shifts)
            or self.zoom != (1.0, 1.0)
            or self.crop_scale != (1.0, 1.0)
        )


def read_shift(name: str, value: Any) -> Shift:
    """A shift parameter as Keras documents it."""
    if isinstance(value, Integral):
        pixels = range(1 - int(value), int(value)) if value else ()
        return Shift(0.0, tuple(float(pixel) for pixel in pixels), relative=False)
    if isinstance(value, Real):
        return Shift(float(value), (), relative=bool(value < 1))
    choices = _numbers(name, value)
    if not choices:
        raise ValueError(f"{name} must not be an empty sequence; use 0 for no shift.")
    return Shift(0.0, choices, relative=all(abs(choice) < 1 for choice in choices))


def read_pair(
    name: str,
    value: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float = np.inf,
) -> tuple[float, float]:
    """Two numbers in ascending order within bounds."""
    pair = _numbers(name, value)
    low = above if least is None else least
    assert low is not None
    fits = len(pair) == 2 and low <= pair[0] <= pair[1] <= most and pair[0] != above
    if not fits:
        bound = "" if most == np.inf else f", at most {most:g}"
        raise ValueError(
            f"{name} must be two numbers (low, high) with low <= high, "
            f"{'above' if least is None else 'at least'} {low:g}{bound}; got {value!r}."
        )
    return pair[0], pair[1]


def _numbers(name: str, value: Any) -> tuple[float, ...]:
    try:
        numbers = tuple(float(number) for number in value)
    except (TypeError, ValueError):
        numbers = (np.nan,)
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name} must hold finite numbers; got {value!r}.")
    return numbers


def generator(seed: int, *, stream: int = 0) -> np.random.Generator:
    """The draws of a seed; a stream for each purpose."""
    if not isinstance(seed, Integral) or seed < 0:
        raise ValueError(f"seed must be an integer that is not negative; got {seed!r}.")
    return np.random.default_rng((int(seed), stream))


def check_image(image: Any) -> None:
    """Refuse what is not an image in the sense of this package."""
    if isinstance(image, Image.Image):
        if image.mode in ("L", "RGB"):
            return
        got = f"a Pillow image of mode {image.mode}"
    elif isinstance(image, np.ndarray):
        gray_or_rgb = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
        if gray_or_rgb and image.size and image.dtype == np.float32:
            return
        got = f"an array of shape {image.shape} and dtype {image.dtype}"
    else:
        got = type(image).__name__
    raise TypeError(
        "An augmentation takes a Pillow image of mode L or RGB, or a float32 array of shape "
        f"(height, width[, 3]) with values in [0, 1]; got {got}. Image.fromarray makes a Pillow "
        "image of a uint8 array, image.convert('RGB') one of another mode."
    )


def augment(image: DecodedImage, plan: Plan, seed: int) -> DecodedImage:
    """An image as the draw of a seed has it; the very object if nothing changed."""
    if not plan.changes_pixels:
        return image
    draws = dict(zip(_DRAWS, generator(seed).random(len(_DRAWS)).tolist(), strict=True))
    mirror = plan.horizontal_flip and draws["horizontal_flip"] < 0.5
    upside_down = plan.vertical_flip and draws["vertical_flip"] < 0.5
    result = _move_and_shift(image, plan, draws)
    result = _flip(result, mirror, upside_down)
    if plan.brightness is not None:
        result = _brighten(result, _between(draws["brightness"], plan.brightness))
    if plan.trivial:
        three = [draws[f"trivial_{what}"] for what in ("operation", "strength", "sign")]
        if isinstance(result, Image.Image):
            result = trivial_augment(result, three)
        else:
            result = from_tensor(trivial_augment(to_tensor(result), three), result.ndim)
    if isinstance(result, Image.Image) and result is not image:
        result.info = _mirrored_extent(image, mirror, upside_down)
    return result


def _between(draw: float, bounds: tuple[float, float]) -> float:
    return bounds[0] + draw * (bounds[1] - bounds[0])


def drawn_matrix(plan: Plan, draws: dict[str, float], size: tuple[int, int]) -> np.ndarray:
    """Where the pixels of the result come from, for an image of size (width, height)."""
    matrix = affine_matrix(
        rotation=_between(draws["rotation"], (-plan.rotation, plan.rotation)),
        shift=(
            plan.width_shift.of(draws["width_shift"], size[0]),
            plan.height_shift.of(draws["height_shift"], size[1]),
        ),
        shear=_between(draws["shear"], (-plan.shear, plan.shear)),
        zoom=(_between(draws["zoom_x"], plan.zoom), _between(draws["zoom_y"], plan.zoom)),
    )
    if plan.crop_scale == (1.0, 1.0):
        return matrix
    # Of the moved image, so that the crop may leave out what was filled in at the edges.
    scale = _between(draws["crop_scale"], plan.crop_scale)
    ratios = np.log(np.clip(plan.crop_ratio, scale, 1 / scale))  # those that fit
    ratio = float(np.exp(_between(draws["crop_ratio"], ratios)))
    fractions = (min(1.0, (scale * ratio) ** 0.5), min(1.0, (scale / ratio) ** 0.5))
    return matrix @ crop_matrix(fractions, (draws["crop_x"], draws["crop_y"]), size)


def _move_and_shift(image: DecodedImage, plan: Plan, draws: dict[str, float]) -> DecodedImage:
    if not (plan.moves or plan.channel_shift):
        return image
    array = np.asarray(image, dtype=np.float32)
    white = 255.0 if isinstance(image, Image.Image) else 1.0
    values = array[:, :, None] if array.ndim == 2 else array
    if plan.moves:
        matrix = drawn_matrix(plan, draws, (values.shape[1], values.shape[0]))
        values = resample(values, matrix, plan.fill_mode, plan.cval / 255 * white)
    if plan.channel_shift:
        levels = _between(draws["channel_shift"], (-plan.channel_shift, plan.channel_shift))
        values = values + np.float32(levels / 255 * white)
    values = values.clip(0.0, white).reshape(array.shape)
    if isinstance(image, Image.Image):
        return Image.fromarray(np.rint(values).astype(np.uint8))
    return values


def _flip(image: DecodedImage, mirror: bool, upside_down: bool) -> DecodedImage:
    if isinstance(image, Image.Image):
        if mirror:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return image.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if upside_down else image
    if mirror or upside_down:
        rows, columns = (slice(None, None, -1 if yes else 1) for yes in (upside_down, mirror))
        return np.ascontiguousarray(image[rows, columns])
    return image


def _brighten(image: DecodedImage, factor: float) -> DecodedImage:
    if isinstance(image, Image.Image):
        from torchvision.transforms.v2.functional import adjust_brightness

        return adjust_brightness(image, factor)
    return (image * np.float32(factor)).clip(0.0, 1.0)


def _mirrored_extent(image: DecodedImage, mirror: bool, upside_down: bool) -> dict[Any, Any]:
    """What of the image's ``info`` the result has: which part of it counts."""
    extent = image.info.get(EXTENT) if isinstance(image, Image.Image) else None
    if extent is None:
        return {}
    assert isinstance(image, Image.Image)
    left, upper, right, lower = extent.box
    if mirror:
        left, right = image.width - right, image.width - left
    if upside_down:
        upper, lower = image.height - lower, image.height - upper
    return {EXTENT: Extent(extent.size, (left, upper, right, lower))}


def to_tensor(array: np.ndarray) -> torch.Tensor:
    """A deep image (H, W[, 3]) as torchvision wants it: (1|3, H, W)."""
    planes = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    return torch.from_numpy(np.array(planes, order="C"))  # its own memory: transforms may write


def from_tensor(tensor: torch.Tensor, ndim: int) -> np.ndarray:
    """The way back, float32 in [0, 1]."""
    array = tensor.numpy().astype(np.float32).clip(0.0, 1.0)
    return array[0] if ndim == 2 else np.ascontiguousarray(array.transpose(1, 2, 0))
