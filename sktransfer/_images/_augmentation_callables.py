"""Anybody's augmentation in the form of ours, its draws decided by a seed. It must not know
estimators or rows.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image

from sktransfer._images._arrays import EXTENT, DecodedImage, gray_or_rgb
from sktransfer._images._augmentation import ImageAugmentation
from sktransfer._images._augmentation_steps import check_image, generator, to_tensor
from sktransfer._images._mixing import soft_targets

# The global generators of a process are one: two callables must not seed them at the same time.
_GLOBAL_GENERATORS = threading.RLock()

# Three generators are seeded from one seed; numpy's and torch's take 32 bits.
_SEEDS = 2**32


def resolve_augmentation(value: Any) -> ImageAugmentation | CallableAugmentation | None:
    """Whatever may be given as ``augmentation``, as one kind of object.

    Parameters
    ----------
    value : None, str, ImageAugmentation or callable
        None stays None: nothing is done. A string: a preset of
        :meth:`ImageAugmentation.preset`. A callable takes an RGB Pillow image and gives an image
        (see :class:`CallableAugmentation`).

    Returns
    -------
    ImageAugmentation, CallableAugmentation or None
        The two are called with an image and a seed, and have ``fingerprint``, ``is_identity``,
        ``mixes`` and ``mix``.

    Examples
    --------
    >>> from sktransfer._images import resolve_augmentation
    >>> resolve_augmentation("light").horizontal_flip
    True
    >>> resolve_augmentation(lambda image: image.rotate(90)).fingerprint is None
    True
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

    Parameters
    ----------
    function : callable
        Takes an RGB Pillow image. Images deeper than 8 bits come as a float32 array
        (height, width, 3) in [0, 1], or to torch modules and torchvision transforms as a float
        tensor (3, height, width). Returns a Pillow image, a uint8 or float array
        (height, width[, 3]), or a uint8 or float tensor (1|3, height, width); floats in [0, 1].
        It may change the size.
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
        """The image as the callable has it with global generators seeded by ``seed``.

        Parameters
        ----------
        image : PIL.Image.Image of mode L or RGB, or float32 ndarray (H, W[, 3]) in [0, 1]
        seed : int

        Returns
        -------
        PIL.Image.Image of mode L or RGB, or float32 ndarray (H, W[, 3]) in [0, 1]
        """
        check_image(image)
        given = self._as_given(image)
        with _seeded_globals(generator(seed)):
            result = self.function(given)
        returned = _as_image(result)
        extent = image.info.get(EXTENT) if isinstance(image, Image.Image) else None
        if extent is not None and isinstance(image, Image.Image):
            same = isinstance(returned, Image.Image) and returned.size == image.size
            if same and isinstance(returned, Image.Image):
                returned.info = {EXTENT: extent}
        return returned

    def mix(
        self,
        batch: torch.Tensor,
        targets: torch.Tensor,
        seed: int,
        *,
        n_classes: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The batch as it is, and its targets as probabilities."""
        return batch, soft_targets(targets, n_classes)

    def _as_given(self, image: DecodedImage) -> Any:
        if isinstance(image, Image.Image):
            pil_image = image.convert("RGB")  # a copy: what the callable writes stays its own
            pil_image.info.pop(EXTENT, None)  # Pillow would carry it into images of other sizes
            return pil_image
        color = np.repeat(image[:, :, None], 3, axis=2) if image.ndim == 2 else image
        # torchvision's transforms pass an array through in silence.
        if isinstance(self.function, torch.nn.Module) or type(self.function).__module__.startswith(
            "torchvision."
        ):
            return to_tensor(color)
        return color.copy()


@contextmanager
def _seeded_globals(rng: np.random.Generator) -> Iterator[None]:
    """The global generators of random, numpy and torch (CPU) seeded, and as they were after."""
    seeds = [int(seed) for seed in rng.integers(_SEEDS, size=3)]
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


def _as_image(result: Any) -> DecodedImage:
    """What a callable returned, as one of the two kinds of image."""
    if isinstance(result, Image.Image):
        plain = gray_or_rgb(result)
        if plain is not None:
            return plain
        what = f"a Pillow image of mode {result.mode}"
    elif isinstance(result, torch.Tensor):
        if result.ndim == 3 and result.shape[0] in (1, 3):
            channels_last = result.detach().cpu().permute(1, 2, 0).numpy()
            return _array_as_image(channels_last, "a tensor")
        what = f"a tensor of shape {tuple(result.shape)} and dtype {result.dtype}"
    elif isinstance(result, np.ndarray):
        return _array_as_image(result, "an array")
    else:
        what = type(result).__name__
    raise TypeError(_expected(what))


def _array_as_image(array: np.ndarray, kind: str) -> DecodedImage:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.size and (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        if array.dtype == np.uint8:
            return Image.fromarray(np.ascontiguousarray(array))
        if array.dtype.kind == "f":
            low, high = float(array.min()), float(array.max())
            # Interpolation overshoots by rounding.
            if low >= -1e-6 and high <= 1 + 1e-6:
                return np.ascontiguousarray(array, dtype=np.float32).clip(0.0, 1.0)
            raise ValueError(
                f"the augmentation callable returned {kind} with values from {low:.6g} to "
                f"{high:.6g}; expected floats in [0, 1]. Leave the normalization out: it comes "
                "afterwards, as the weights want it."
            )
    raise TypeError(_expected(f"{kind} of shape {array.shape} and dtype {array.dtype}"))


def _expected(what: str) -> str:
    return (
        f"the augmentation callable returned {what}; expected a Pillow image, an array "
        "(height, width[, 3]) or a tensor (1|3, height, width), of uint8 or of floats in [0, 1]."
    )
