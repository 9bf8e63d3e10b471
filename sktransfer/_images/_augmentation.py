"""ImageAugmentation: what may be done to a training image, and doing it from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from sklearn.base import BaseEstimator

from sktransfer._images._augmentation_names import check_meant, unknown_name, warn_of_units
from sktransfer._images._transforms import (
    FILL_MODES,
    affine_matrix,
    crop_matrix,
    mix_batch,
    resample,
    soft_targets,
    trivial_augment,
)
from sktransfer._images._values import EXTENT, DecodedImage, Extent
from sktransfer._utils.config import API_PAGE
from sktransfer._utils.sklearn_compat import (
    Interval,
    StrOptions,
    validate_parameter_constraints,
)

# Part of every fingerprint: to be raised when the same parameters come to give other pixels.
_VERSION = 1

# Every one is drawn for every image, needed or not, so that switching one parameter on leaves
# what the others do as it was. New ones go to the end.
_DRAWS = (
    *("rotation", "width_shift", "height_shift", "shear", "zoom_x", "zoom_y", "channel_shift"),
    *("horizontal_flip", "vertical_flip", "brightness"),
    *("crop_scale", "crop_ratio", "crop_x", "crop_y"),
    *("trivial_operation", "trivial_strength", "trivial_sign"),
)

# A shift parameter, read: evenly from -extent to extent, or one of the choices; and whether that is
# a fraction of the image's side, or pixels.
_Shift: TypeAlias = tuple[float, tuple[float, ...], bool]

_PRESETS: dict[str, dict[str, Any]] = {
    "light": {
        "rotation_range": 5,
        "width_shift_range": 0.05,
        "height_shift_range": 0.05,
        "zoom_range": 0.05,
        "horizontal_flip": True,
    },
    "standard": {
        "horizontal_flip": True,
        "crop_scale": (0.5, 1.0),
        "brightness_range": (0.8, 1.2),
    },
    # No flips: a mirrored chest has its heart on the right. The axes zoom apart from each other,
    # so little of it, or a heart looks enlarged. What lies beyond a radiograph is black.
    "medical": {
        "rotation_range": 7,
        "width_shift_range": 0.05,
        "height_shift_range": 0.05,
        "zoom_range": 0.05,
        "brightness_range": (0.9, 1.1),
        "fill_mode": "constant",
    },
}


class ImageAugmentation(BaseEstimator):
    """Transform training images at random, with the parameter names of Keras.

    It is passed to an estimator as ``augmentation``, and a search reaches its parameters with
    ``augmentation__rotation_range``. Each parameter is off by default. Calling the object with an
    image and a seed returns one draw: equal seeds give equal pixels, in any thread, and no global
    random state is read or changed.

    Everything that moves pixels (crop, rotation, shifts, shear, zoom) is one affine matrix and one
    bilinear resampling. Channel shift, flips, brightness and TrivialAugment follow.

    Read more in the :ref:`User Guide <augmentation>`.

    Parameters
    ----------
    rotation_range : float, default=0
        Images are rotated about their center by an angle from -rotation_range to rotation_range
        degrees; at most 180. Degrees, not a fraction of a turn: 20, not 0.05.
    width_shift_range, height_shift_range : float, int or array-like, default=0.0
        How far images are shifted sideways, and up or down. A float below 1 is a fraction of the
        width or height, one from 1 on is pixels; the shift is drawn from -value to value. An int n
        stands for a whole number of pixels between -n and n, both excluded. Of a sequence, one
        element is drawn: positive to the right and downwards, fractions if all are between -1 and
        1, else pixels.
    shear_range : float, default=0
        Vertical lines lean by an angle from -shear_range to shear_range degrees; below 90. As in
        Keras' ``ImageDataGenerator``, ``shear_range=0.1`` is a tenth of a degree, which nobody
        sees; 10 is a visible amount. Values below 1 warn.
    zoom_range : float or (float, float), default=0.0
        Which part of the image's sides is seen, drawn separately for each axis from (low, high); a
        float z stands for (1 - z, 1 + z). Values below 1 magnify, values above 1 shrink.
    brightness_range : (float, float) or None, default=None
        Pixel values are multiplied by a factor drawn from this range.
    channel_shift_range : float, default=0
        A gray level from -value to value, on the scale of 0 to 255, is added to all channels.
    horizontal_flip, vertical_flip : bool, default=False
        Whether half of the images are mirrored left to right, or upside down.
    fill_mode : {"nearest", "reflect", "constant", "wrap"}, default="nearest"
        What fills the area outside the image: its edge repeated (aaaa|abcd|dddd), the image
        mirrored (dcba|abcd|dcba), the gray level ``cval``, or the image repeated (abcd|abcd|abcd).
    cval : float, default=0.0
        Gray level, on the scale of 0 to 255, that ``fill_mode="constant"`` fills with.
    crop_scale : (float, float) or None, default=None
        Fraction of the area that a random crop keeps; the crop is stretched to the image's size.
    crop_ratio : (float, float) or None, default=(3/4, 4/3)
        Ratio of the crop's width to its height, relative to the image's. None keeps the
        proportions. For square images this is torchvision's ``RandomResizedCrop``, except that a
        ratio which does not fit is clipped, not drawn again.
    trivial_augment : bool, default=False
        Whether one operation of TrivialAugment [1]_ follows, as in torchvision's
        ``TrivialAugmentWide``. It never mirrors, but rotates by up to 135 degrees.
    mixup, cutmix : float or None, default=None
        The alpha of mixup [2]_ and CutMix [3]_ in :meth:`mix`; None or 0 turns them off. If both
        are on, each batch gets one of them.
    **kwargs
        Names of other libraries, such as Keras' ``rescale``: refused, with what to use instead.

    Raises
    ------
    TypeError
        If there is no such parameter.

    See Also
    --------
    sktransfer.inspection.AugmentationDisplay : Show one image under several draws.

    Notes
    -----
    These are the documented semantics of Keras' ``ImageDataGenerator``. Its code exchanges the two
    shifts, and rotates images that are not square about a point off their center.

    References
    ----------
    .. [1] Müller, S. G., & Hutter, F. (2021). "TrivialAugment: Tuning-free yet state-of-the-art
       data augmentation". ICCV.
    .. [2] Zhang, H., Cisse, M., Dauphin, Y. N., & Lopez-Paz, D. (2018). "mixup: Beyond empirical
       risk minimization". ICLR.
    .. [3] Yun, S., et al. (2019). "CutMix: Regularization strategy to train strong classifiers
       with localizable features". ICCV.

    Examples
    --------
    >>> from PIL import Image
    >>> from sktransfer.preprocessing import ImageAugmentation
    >>> augmentation = ImageAugmentation(rotation_range=15, horizontal_flip=True)
    >>> image = Image.radial_gradient("L").resize((60, 40))
    >>> augmentation(image, seed=3).size
    (60, 40)
    >>> augmentation(image, seed=3) == augmentation(image, seed=3)
    True
    """

    _doc_link_module = "sktransfer"
    _doc_link_template = API_PAGE.replace("{estimator_module}", "sktransfer.preprocessing")
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "rotation_range": [Interval(Real, 0, 180, closed="both")],
        "width_shift_range": [Interval(Real, 0, None, closed="left"), "array-like"],
        "height_shift_range": [Interval(Real, 0, None, closed="left"), "array-like"],
        "shear_range": [Interval(Real, 0, 90, closed="left")],
        "zoom_range": [Interval(Real, 0, 1, closed="left"), "array-like"],
        "brightness_range": ["array-like", None],
        "channel_shift_range": [Interval(Real, 0, 255, closed="both")],
        "horizontal_flip": ["boolean"],
        "vertical_flip": ["boolean"],
        "fill_mode": [StrOptions(set(FILL_MODES))],
        "cval": [Interval(Real, 0, 255, closed="both")],
        "crop_scale": ["array-like", None],
        "crop_ratio": ["array-like", None],
        "trivial_augment": ["boolean"],
        "mixup": [Interval(Real, 0, None, closed="left"), None],
        "cutmix": [Interval(Real, 0, None, closed="left"), None],
    }

    def __init__(
        self,
        *,
        rotation_range: float = 0,
        width_shift_range: float | Sequence[float] = 0.0,
        height_shift_range: float | Sequence[float] = 0.0,
        shear_range: float = 0,
        zoom_range: float | Sequence[float] = 0.0,
        brightness_range: Sequence[float] | None = None,
        channel_shift_range: float = 0,
        horizontal_flip: bool = False,
        vertical_flip: bool = False,
        fill_mode: str = "nearest",
        cval: float = 0.0,
        crop_scale: Sequence[float] | None = None,
        crop_ratio: Sequence[float] | None = (3 / 4, 4 / 3),
        trivial_augment: bool = False,
        mixup: float | None = None,
        cutmix: float | None = None,
        **kwargs: Any,
    ) -> None:
        for name in kwargs:
            raise TypeError(unknown_name(name, self._get_param_names()))
        self.rotation_range = rotation_range
        self.width_shift_range = width_shift_range
        self.height_shift_range = height_shift_range
        self.shear_range = shear_range
        self.zoom_range = zoom_range
        self.brightness_range = brightness_range
        self.channel_shift_range = channel_shift_range
        self.horizontal_flip = horizontal_flip
        self.vertical_flip = vertical_flip
        self.fill_mode = fill_mode
        self.cval = cval
        self.crop_scale = crop_scale
        self.crop_ratio = crop_ratio
        self.trivial_augment = trivial_augment
        self.mixup = mixup
        self.cutmix = cutmix

    @classmethod
    def preset(cls, name: str) -> ImageAugmentation:
        """Return a new object with the parameters of a preset.

        Parameters
        ----------
        name : {"light", "standard", "medical"}
            "light": small rotation, shifts and zoom, and a mirror image half of the time.
            "standard": a crop of half to all of the area, mirror images, brightness. "medical":
            small rotation, shifts, zoom and brightness on black, nothing mirrored.

        Returns
        -------
        ImageAugmentation
            An object of its own, whose parameters may be changed.

        Examples
        --------
        >>> from sktransfer.preprocessing import ImageAugmentation
        >>> ImageAugmentation.preset("standard").set_params(vertical_flip=True).crop_scale
        (0.5, 1.0)
        """
        if name not in _PRESETS:
            raise ValueError(f"Unknown augmentation preset {name!r}; there are {list(_PRESETS)}.")
        return cls(**_PRESETS[name])

    def set_params(self, **params: Any) -> ImageAugmentation:
        """Set parameters.

        Parameters
        ----------
        **params : dict
            Names and values.

        Returns
        -------
        self : ImageAugmentation
            The same object.

        Raises
        ------
        ValueError
            If there is no such parameter.
        """
        known = self._get_param_names()
        for name in params:
            if name not in known:
                raise ValueError(unknown_name(name, known))
        return super().set_params(**params)

    def validate(self) -> None:
        """Check all parameters, and warn of angles below one degree.

        Raises
        ------
        ValueError
            If one is wrong; the error names it, what is expected and what was given.
        """
        self._plan()
        warn_of_units(self.get_params(deep=False))

    @property
    def fingerprint(self) -> str:
        """Text equal if and only if calling it gives the same pixels, in any process.

        ``mixup`` and ``cutmix`` are not in it: they come later, to batches.
        """
        return f"augmentation{(_VERSION, *self._plan().values())}"

    @property
    def is_identity(self) -> bool:
        """Whether calling it returns every image as it is."""
        return not _changes_pixels(self._plan())

    @property
    def mixes(self) -> bool:
        """Whether :meth:`mix` mixes images."""
        return bool(self.mixup or self.cutmix)

    def __call__(self, image: DecodedImage, seed: int) -> DecodedImage:
        """Return the draw of a seed from an image.

        Parameters
        ----------
        image : PIL.Image.Image of mode L or RGB, or float32 ndarray (H, W[, 3]) in [0, 1]
            A decoded image, before it is resized and normalized.
        seed : int
            A number that is not negative; it alone decides the draw.

        Returns
        -------
        PIL.Image.Image or ndarray
            An image of the same kind and size; the very object if nothing changed.
        """
        plan = self._plan()
        check_image(image)
        if not _changes_pixels(plan):
            return image
        draws = dict(zip(_DRAWS, generator(seed).random(len(_DRAWS)).tolist(), strict=True))
        mirror = plan["horizontal_flip"] and draws["horizontal_flip"] < 0.5
        upside_down = plan["vertical_flip"] and draws["vertical_flip"] < 0.5
        result = _flip(_move_and_shift(image, plan, draws), mirror, upside_down)
        if plan["brightness"] is not None:
            factor = _between(draws["brightness"], plan["brightness"])
            if isinstance(result, Image.Image):
                result = ImageEnhance.Brightness(result).enhance(factor)
            else:
                result = (result * np.float32(factor)).clip(0.0, 1.0)
        if plan["trivial"]:
            three = [draws[f"trivial_{what}"] for what in ("operation", "strength", "sign")]
            if isinstance(result, Image.Image):
                result = trivial_augment(result, three)
            else:
                planes = trivial_augment(to_tensor(result), three).numpy().transpose(1, 2, 0)
                result = planes.astype(np.float32).clip(0.0, 1.0).reshape(result.shape)
        if isinstance(result, Image.Image) and result is not image:
            result.info = _mirrored_extent(image, mirror, upside_down)
        return result

    def mix(
        self,
        batch: torch.Tensor,
        targets: torch.Tensor,
        seed: int,
        *,
        n_classes: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Apply mixup or CutMix to a batch, on the device it is on.

        Parameters
        ----------
        batch : float tensor of shape (n, channels, height, width)
            Images in random order, since each is mixed with its neighbor.
        targets : tensor of shape (n,) or (n, n_classes)
            Class indices, or probabilities of the classes.
        seed : int
            A number that alone decides the draw.
        n_classes : int or None, default=None
            Number of classes, which class indices alone do not tell.

        Returns
        -------
        batch : float tensor of shape (n, channels, height, width)
            The mixed images; the very object if neither is on.
        targets : float tensor of shape (n, n_classes)
            The share of each class in each image.

        Examples
        --------
        >>> import torch
        >>> from sktransfer.preprocessing import ImageAugmentation
        >>> batch, targets = torch.zeros(4, 3, 8, 8), torch.tensor([0, 1, 1, 0])
        >>> _, soft = ImageAugmentation(mixup=0.2).mix(batch, targets, seed=0, n_classes=2)
        >>> soft.sum(axis=1)
        tensor([1., 1., 1., 1.])
        """
        self._plan()  # checked
        soft = soft_targets(targets, n_classes)
        if not self.mixes:
            return batch, soft
        # Another stream than that of the images, should somebody use the same seed.
        rng = generator(seed, stream=1)
        return mix_batch(batch, soft, rng, mixup=self.mixup or 0, cutmix=self.cutmix or 0)

    def _plan(self) -> dict[str, Any]:
        """Return the parameters, checked and in one form each."""
        params = self.get_params(deep=False)
        try:
            validate_parameter_constraints(self._parameter_constraints, params, type(self).__name__)
        except ValueError:
            check_meant(params, FILL_MODES)
            raise
        zoom, brightness = self.zoom_range, self.brightness_range
        scale = (1, 1) if self.crop_scale is None else self.crop_scale
        ratio = (1, 1) if self.crop_ratio is None else self.crop_ratio
        return {
            "rotation": float(self.rotation_range),
            "width_shift": _read_shift("width_shift_range", self.width_shift_range),
            "height_shift": _read_shift("height_shift_range", self.height_shift_range),
            "shear": float(self.shear_range),
            "zoom": (
                (1 - float(zoom), 1 + float(zoom))
                if isinstance(zoom, Real)
                else _read_pair("zoom_range", zoom, above=0)
            ),
            "brightness": (
                None if brightness is None else _read_pair("brightness_range", brightness, least=0)
            ),
            "channel_shift": float(self.channel_shift_range),
            "horizontal_flip": bool(self.horizontal_flip),
            "vertical_flip": bool(self.vertical_flip),
            "fill_mode": self.fill_mode,
            "cval": float(self.cval),
            "crop_scale": _read_pair("crop_scale", scale, above=0, most=1),
            "crop_ratio": _read_pair("crop_ratio", ratio, above=0),
            "trivial": bool(self.trivial_augment),
        }


def _read_shift(name: str, value: Any) -> _Shift:
    """Read a shift parameter as Keras documents it."""
    if isinstance(value, Integral):
        pixels = range(1 - int(value), int(value)) if value else ()
        return 0.0, tuple(map(float, pixels)), False
    if isinstance(value, Real):
        return float(value), (), bool(value < 1)
    choices = _numbers(name, value)
    if not choices:
        raise ValueError(f"{name} must not be an empty sequence; use 0 for no shift.")
    return 0.0, choices, all(abs(choice) < 1 for choice in choices)


def _read_pair(
    name: str,
    value: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float = np.inf,
) -> tuple[float, float]:
    """Read two numbers in ascending order within bounds."""
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
    """Return the generator of a seed's draws; a stream for each purpose."""
    if not isinstance(seed, Integral) or seed < 0:
        raise ValueError(f"seed must be an integer that is not negative; got {seed!r}.")
    return np.random.default_rng((int(seed), stream))


def check_image(image: Any) -> None:
    """Refuse what is not a decoded image."""
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


def _moves(plan: dict[str, Any]) -> bool:
    """Return whether images are resampled."""
    shifts = (plan["width_shift"], plan["height_shift"])
    return bool(
        plan["rotation"]
        or plan["shear"]
        or any(extent or any(choices) for extent, choices, _ in shifts)
        or plan["zoom"] != (1.0, 1.0)
        or plan["crop_scale"] != (1.0, 1.0)
    )


def _changes_pixels(plan: dict[str, Any]) -> bool:
    """Return whether any image may come out other than it went in."""
    switches = ("channel_shift", "horizontal_flip", "vertical_flip", "trivial")
    return (
        _moves(plan)
        or any(plan[name] for name in switches)
        or plan["brightness"] not in (None, (1.0, 1.0))
    )


def _between(draw: float, bounds: tuple[float, float]) -> float:
    return bounds[0] + draw * (bounds[1] - bounds[0])


def _shift_of(shift: _Shift, draw: float, side: int) -> float:
    """Return how many pixels a draw shifts an image of that side."""
    extent, choices, relative = shift
    amount = choices[int(draw * len(choices))] if choices else _between(draw, (-extent, extent))
    return amount * side if relative else amount


def _drawn_matrix(
    plan: dict[str, Any], draws: dict[str, float], size: tuple[int, int]
) -> np.ndarray:
    """Return where the pixels of the result come from, for an image of size (width, height)."""
    matrix = affine_matrix(
        rotation=_between(draws["rotation"], (-plan["rotation"], plan["rotation"])),
        shift=(
            _shift_of(plan["width_shift"], draws["width_shift"], size[0]),
            _shift_of(plan["height_shift"], draws["height_shift"], size[1]),
        ),
        shear=_between(draws["shear"], (-plan["shear"], plan["shear"])),
        zoom=(_between(draws["zoom_x"], plan["zoom"]), _between(draws["zoom_y"], plan["zoom"])),
    )
    if plan["crop_scale"] == (1.0, 1.0):
        return matrix
    # Of the moved image, so that the crop may leave out what was filled in at the edges.
    scale = _between(draws["crop_scale"], plan["crop_scale"])
    ratios = np.log(np.clip(plan["crop_ratio"], scale, 1 / scale))  # those that fit
    ratio = float(np.exp(_between(draws["crop_ratio"], ratios)))
    fractions = (min(1.0, (scale * ratio) ** 0.5), min(1.0, (scale / ratio) ** 0.5))
    return matrix @ crop_matrix(fractions, (draws["crop_x"], draws["crop_y"]), size)


def _move_and_shift(
    image: DecodedImage, plan: dict[str, Any], draws: dict[str, float]
) -> DecodedImage:
    """Move the pixels of an image and shift its levels, if the plan does."""
    moves = _moves(plan)
    if not (moves or plan["channel_shift"]):
        return image
    array = np.asarray(image, dtype=np.float32)
    white = 255.0 if isinstance(image, Image.Image) else 1.0
    values = array[:, :, None] if array.ndim == 2 else array
    if moves:
        matrix = _drawn_matrix(plan, draws, (values.shape[1], values.shape[0]))
        values = resample(values, matrix, plan["fill_mode"], plan["cval"] / 255 * white)
    if plan["channel_shift"]:
        levels = _between(draws["channel_shift"], (-plan["channel_shift"], plan["channel_shift"]))
        values = values + np.float32(levels / 255 * white)
    values = values.clip(0.0, white).reshape(array.shape)
    if isinstance(image, Image.Image):
        return Image.fromarray(np.rint(values).astype(np.uint8))
    return values


def _flip(image: DecodedImage, mirror: bool, upside_down: bool) -> DecodedImage:
    if isinstance(image, Image.Image):
        image = ImageOps.mirror(image) if mirror else image
        return ImageOps.flip(image) if upside_down else image
    axes = tuple(axis for axis, flipped in enumerate((upside_down, mirror)) if flipped)
    return np.ascontiguousarray(np.flip(image, axes)) if axes else image


def _mirrored_extent(image: DecodedImage, mirror: bool, upside_down: bool) -> dict[Any, Any]:
    """Return what of the image's ``info`` the result has: which part of it counts."""
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
    """Return a deep image (H, W[, 3]) as torchvision wants it: (1|3, H, W)."""
    planes = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    return torch.from_numpy(np.array(planes, order="C"))  # its own memory: transforms may write
