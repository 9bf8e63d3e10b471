"""Augmentations of users: presets and callables in one form, their draws decided by a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image

from sktransfer._images._augmentation import (
    ImageAugmentation,
    check_image,
    generator,
    to_tensor,
)
from sktransfer._images._transforms import soft_targets
from sktransfer._images._values import EXTENT, DecodedImage, as_color, returned_image
from sktransfer._utils.forking import new_lock

# The global generators of a process are one: two callables must not seed them at the same time.
_GLOBAL_GENERATORS = new_lock()


def resolve_augmentation(value: Any) -> ImageAugmentation | CallableAugmentation | None:
    """Return whatever may be given as ``augmentation`` as one kind of object, or None.

    A string is a preset of :meth:`ImageAugmentation.preset`; a callable takes an RGB Pillow image
    and gives an image (see :class:`CallableAugmentation`). Both kinds of result are called with an
    image and a seed, and have ``fingerprint``, ``is_identity``, ``mixes`` and ``mix``.
    """
    if value is None:
        return None
    if isinstance(value, str):
        return ImageAugmentation.preset(value)
    if isinstance(value, ImageAugmentation):
        value.validate()
        return value
    if isinstance(value, CallableAugmentation):
        return value
    # A class is callable too, and not what was meant.
    if callable(value) and not isinstance(value, type):
        return CallableAugmentation(value)
    raise TypeError(
        "augmentation must be None, the name of a preset ('light', 'standard', 'medical'), an "
        f"ImageAugmentation or a callable from image to image; got {value!r}."
    )


class CallableAugmentation:
    """A callable from image to image, with the interface of :class:`ImageAugmentation`.

    It may draw from the global generators of ``random``, numpy and torch (CPU), as torchvision's
    transforms do: they are seeded before and restored afterwards, one callable at a time. A
    generator of its own is not seen, so results then do not follow the seed. Other threads that
    draw from the global generators meanwhile draw from the seeded ones.

    The callable takes an RGB Pillow image. Images deeper than 8 bits come as a float32 array
    (height, width, 3) in [0, 1], or to torch modules and torchvision transforms as a float tensor
    (3, height, width). It returns a Pillow image, a uint8 or float array (height, width[, 3]), or a
    uint8 or float tensor (1|3, height, width); floats in [0, 1]. It may change the size.
    """

    is_identity = False
    mixes = False

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.function!r})"

    @property
    def fingerprint(self) -> str | None:
        """The callable's own ``fingerprint``, if it has one: code cannot be hashed in general."""
        own = getattr(self.function, "fingerprint", None)
        return f"augmentation{('callable', own)}" if isinstance(own, str) else None

    def __call__(self, image: DecodedImage, seed: int) -> DecodedImage:
        """Return the image as the callable has it with global generators seeded by ``seed``."""
        check_image(image)
        given = self._as_given(image)
        with _seeded_globals(generator(seed)):
            result = self.function(given)
        returned = returned_image(result, "augmentation")
        extent = image.info.get(EXTENT) if isinstance(image, Image.Image) else None
        if extent and isinstance(returned, Image.Image) and returned.size == image.size:
            returned.info = {EXTENT: extent}
        return returned

    def mix(
        self, batch: torch.Tensor, targets: torch.Tensor, seed: int, *, n_classes: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the batch as it is, and its targets as probabilities."""
        return batch, soft_targets(targets, n_classes)

    def _as_given(self, image: DecodedImage) -> Any:
        color = as_color(image)  # a copy: what the callable writes stays its own
        if isinstance(color, Image.Image):
            color.info.pop(EXTENT, None)  # Pillow would carry it into images of other sizes
            return color
        # torchvision's transforms pass an array through in silence.
        module = type(self.function).__module__
        if isinstance(self.function, torch.nn.Module) or module.startswith("torchvision."):
            return to_tensor(color)
        return color


@contextmanager
def _seeded_globals(rng: np.random.Generator) -> Iterator[None]:
    """Seed the global generators of random, numpy and torch (CPU), and restore them afterwards."""
    seeds = rng.integers(2**32, size=3).tolist()  # numpy's and torch's generators take 32 bits
    with _GLOBAL_GENERATORS:
        python, torch_ = random.getstate(), torch.get_rng_state()
        numpy_ = np.random.get_state()  # noqa: NPY002 - the callable's draws, not ours
        try:
            random.seed(seeds[0])
            np.random.seed(seeds[1])  # noqa: NPY002
            # torch.manual_seed would seed the GPUs as well, and not restore them.
            torch.default_generator.manual_seed(seeds[2])
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy_)  # noqa: NPY002
            torch.set_rng_state(torch_)
