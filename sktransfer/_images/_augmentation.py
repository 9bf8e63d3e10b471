"""ImageAugmentation: what may be done to a training image, and doing it from a seed.

It must not know batches of rows, networks, folds, or who trains.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any, ClassVar

import torch
from sklearn.base import BaseEstimator

from sktransfer._images._affine import FILL_MODES
from sktransfer._images._arrays import DecodedImage
from sktransfer._images._augmentation_steps import (
    VERSION,
    Plan,
    augment,
    check_image,
    generator,
    read_pair,
    read_shift,
)
from sktransfer._images._mixing import mix_batch, soft_targets
from sktransfer._utils.sklearn_compat import Interval, StrOptions, validate_parameter_constraints

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
    """What may be done at random to training images, with the names Keras made familiar.

    An object of parameters: it is given to an estimator as ``augmentation``, and a search reaches
    into it with ``augmentation__rotation_range``. Each parameter is off by default. Calling it
    with an image and a seed gives the image as one draw has it: equal seeds give equal pixels,
    in any thread, and no global random state is read or changed.

    Everything that moves pixels (crop, rotation, shifts, shear, zoom) is one affine matrix and one
    bilinear resampling. Then come channel shift, flips, brightness and TrivialAugment.

    Read more in the :ref:`User Guide <augmentation>`.

    Parameters
    ----------
    rotation_range : float, default=0
        Degrees, up to 180. Turned by an angle from -rotation_range to rotation_range, about the
        center.
    width_shift_range, height_shift_range : float, int or array-like, default=0.0
        How far the image moves sideways, and up or down. A float below 1 is a fraction of its
        width or height, from 1 on pixels: from -value to value. An int n is a whole number of
        pixels between -n and n, both excluded. A sequence: one of its elements, positive to the
        right and downwards, fractions if all are within -1 and 1, else pixels.
    shear_range : float, default=0
        Degrees, below 90. Vertical lines lean by an angle from -shear_range to shear_range.
    zoom_range : float or (float, float), default=0.0
        Drawn for each axis by itself from (low, high); a float z means (1 - z, 1 + z). Below 1
        magnifies, above 1 shrinks: it is the part of the image's sides that is seen.
    brightness_range : (float, float) or None, default=None
        Values are multiplied by a factor from this range.
    channel_shift_range : float, default=0
        Gray levels of 0 to 255. A level from -value to value is added to all channels.
    horizontal_flip, vertical_flip : bool, default=False
        Whether half of the images are mirrored left to right, or upside down.
    fill_mode : {"nearest", "reflect", "constant", "wrap"}, default="nearest"
        What lies outside the image: its edge repeated (aaaa|abcd|dddd), itself mirrored
        (dcba|abcd|dcba), the gray level ``cval``, or itself again (abcd|abcd|abcd).
    cval : float, default=0.0
        Gray level of 0 to 255 outside the image, with ``fill_mode="constant"``.
    crop_scale : (float, float) or None, default=None
        Part of the area that a random crop keeps; it is then stretched to the size of the image.
    crop_ratio : (float, float) or None, default=(3/4, 4/3)
        How much wider than high, relative to the image, the crop may be. None keeps the
        proportions. For square images this is torchvision's ``RandomResizedCrop``, except that
        a ratio which does not fit is moved until it does, not drawn again.
    trivial_augment : bool, default=False
        Whether one operation of TrivialAugment [1]_ follows, as in torchvision's
        ``TrivialAugmentWide``. It may mirror nothing, but turns by up to 135 degrees.
    mixup, cutmix : float or None, default=None
        The alpha of mixup [2]_ and CutMix [3]_ in :meth:`mix`. None or 0: off. If both are on,
        each batch gets one of them.

    See Also
    --------
    sktransfer.inspection.AugmentationDisplay : One image under several draws.

    Notes
    -----
    These are the semantics of the documentation of Keras' ``ImageDataGenerator``. Its code swaps
    the two shifts, and turns images that are not square about another point than their center.

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
    ) -> None:
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
        """A new object with the parameters of a preset.

        Parameters
        ----------
        name : {"light", "standard", "medical"}
            "light": small rotation, shifts and zoom, and a mirror image half of the time.
            "standard": a crop of half to all of the area, mirror images, brightness. "medical":
            small rotation, shifts, zoom and brightness on black, nothing mirrored.

        Returns
        -------
        ImageAugmentation

        Examples
        --------
        >>> from sktransfer.preprocessing import ImageAugmentation
        >>> ImageAugmentation.preset("standard").set_params(vertical_flip=True).crop_scale
        (0.5, 1.0)
        """
        if name not in _PRESETS:
            raise ValueError(f"Unknown augmentation preset {name!r}; there are {list(_PRESETS)}.")
        return cls(**_PRESETS[name])

    def validate(self) -> None:
        """Check all parameters.

        Raises
        ------
        ValueError
            Naming the parameter, what was expected and what was got.
        """
        self._plan()

    @property
    def fingerprint(self) -> str:
        """A text equal if and only if calling it gives the same pixels, in any process.

        ``mixup`` and ``cutmix`` are not in it: they come later, to batches.
        """
        return f"augmentation{(VERSION, *self._plan())}"

    @property
    def is_identity(self) -> bool:
        """Whether calling it gives back every image as it is."""
        return not self._plan().changes_pixels

    @property
    def mixes(self) -> bool:
        """Whether :meth:`mix` mixes."""
        return bool(self.mixup or self.cutmix)

    def __call__(self, image: DecodedImage, seed: int) -> DecodedImage:
        """The image as the draw of a seed has it.

        Parameters
        ----------
        image : PIL.Image.Image of mode L or RGB, or float32 ndarray (H, W[, 3]) in [0, 1]
        seed : int
            Not negative. It alone decides the draw.

        Returns
        -------
        Of the kind and size of ``image``; the very object if nothing changed.
        """
        plan = self._plan()
        check_image(image)
        return augment(image, plan, seed)

    def mix(
        self,
        batch: torch.Tensor,
        targets: torch.Tensor,
        seed: int,
        *,
        n_classes: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A batch with mixup or CutMix, on the device it is on.

        Parameters
        ----------
        batch : float tensor of shape (n, channels, height, width)
            In random order: each image is mixed with its neighbor.
        targets : tensor of shape (n,) or (n, n_classes)
            Class indices or probabilities.
        seed : int
            It alone decides the draw.
        n_classes : int or None, default=None
            Needed with class indices.

        Returns
        -------
        batch : tensor of the same shape
        targets : float tensor of shape (n, n_classes)

        Examples
        --------
        >>> import torch
        >>> from sktransfer.preprocessing import ImageAugmentation
        >>> batch, targets = torch.zeros(4, 3, 8, 8), torch.tensor([0, 1, 1, 0])
        >>> _, soft = ImageAugmentation(mixup=0.2).mix(batch, targets, seed=0, n_classes=2)
        >>> soft.sum(axis=1)
        tensor([1., 1., 1., 1.])
        """
        self.validate()
        soft = soft_targets(targets, n_classes)
        if not self.mixes:
            return batch, soft
        # Another stream than that of the images, should somebody use the same seed.
        rng = generator(seed, stream=1)
        return mix_batch(batch, soft, rng, mixup=self.mixup or 0, cutmix=self.cutmix or 0)

    def _plan(self) -> Plan:
        validate_parameter_constraints(
            self._parameter_constraints, self.get_params(deep=False), type(self).__name__
        )
        zoom = self.zoom_range
        return Plan(
            rotation=float(self.rotation_range),
            width_shift=read_shift("width_shift_range", self.width_shift_range),
            height_shift=read_shift("height_shift_range", self.height_shift_range),
            shear=float(self.shear_range),
            zoom=(
                (1 - float(zoom), 1 + float(zoom))
                if isinstance(zoom, Real)
                else read_pair("zoom_range", zoom, above=0)
            ),
            brightness=read_pair("brightness_range", self.brightness_range, least=0)
            if self.brightness_range is not None
            else None,
            channel_shift=float(self.channel_shift_range),
            horizontal_flip=bool(self.horizontal_flip),
            vertical_flip=bool(self.vertical_flip),
            fill_mode=self.fill_mode,
            cval=float(self.cval),
            crop_scale=read_pair(
                "crop_scale",
                (1, 1) if self.crop_scale is None else self.crop_scale,
                above=0,
                most=1,
            ),
            crop_ratio=read_pair(
                "crop_ratio", (1, 1) if self.crop_ratio is None else self.crop_ratio, above=0
            ),
            trivial=bool(self.trivial_augment),
        )
