"""From an image to what the weights expect: resize, crop, scale, normalize. It must not know
where images come from, nor networks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from PIL import Image

from sktransfer._images._arrays import EXTENT, DecodedImage, Extent, gray_or_rgb

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}

# A strip that would be resized to more pixels than this is resized inside the crop alone, which
# agrees with the plain way up to a few gray levels of eight-bit rounding. Below it the plain way is
# taken, so that images anybody has (shorter side 256: up to 1 to 256) stay equal to the bit.
_HUGE = 2**24

# With scaled decoding, how many times the size asked for each side still has before the resize. The
# resize then averages pixels of its own, and hides most of what libjpeg's averaging did otherwise.
_DECODE_MARGIN = 2

# Part of every fingerprint: to be raised when the same parameters come to give other pixels.
_VERSION = 1


def make_preprocessing(
    *,
    crop_size: int,
    resize_size: int,
    interpolation: str,
    mean: Sequence[float],
    std: Sequence[float],
    resize_mode: str = "shortest",
    preprocessing: str | Callable[[Any], Any] = "weights",
    image_size: int | None = None,
    scaled_decoding: bool = False,
) -> Preprocessing:
    """Preprocessing from what the weights want and what the user asked for.

    Parameters
    ----------
    crop_size, resize_size : int
        The weights' own sides: shorter (or each) side resized to ``resize_size``, then the center
        square of ``crop_size``.
    interpolation : {"bilinear", "bicubic", "nearest", "lanczos", "box", "hamming"}
    mean, std : sequence of 3 floats
        On the [0, 1] scale.
    resize_mode : {"shortest", "squash"}, default="shortest"
        Whether ``resize_size`` is the shorter side or both.
    preprocessing : {"weights", "resize", "pad"} or callable, default="weights"
        "weights": as above. "resize": the whole image squashed to the square. "pad": the whole
        image with its aspect ratio, black bars added. A callable is given an RGB Pillow image
        (or a float32 array (H, W, 3) in [0, 1] for deep data) and returns either an image, which
        then goes through "weights", or a finished tensor (3, S, S), normalized already.
    image_size : int or None, default=None
        Another side S of the square; ``resize_size`` keeps its proportion to it.
    scaled_decoding : bool, default=False
        Whether JPEGs much larger than needed may be decoded at a fraction of their size: see
        :attr:`Preprocessing.min_decode_side`.

    Returns
    -------
    Preprocessing

    Examples
    --------
    >>> from PIL import Image
    >>> from sktransfer._images import make_preprocessing
    >>> preprocess = make_preprocessing(
    ...     crop_size=224, resize_size=256, interpolation="bilinear",
    ...     mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    >>> preprocess.to_batch([preprocess(Image.new("RGB", (320, 240)))]).shape
    torch.Size([1, 3, 224, 224])
    """
    if interpolation not in _RESAMPLING:
        raise ValueError(
            f"interpolation must be one of {sorted(_RESAMPLING)}; got {interpolation!r}."
        )
    if resize_mode not in ("shortest", "squash"):
        raise ValueError(f'resize_mode must be "shortest" or "squash"; got {resize_mode!r}.')
    if preprocessing not in ("weights", "resize", "pad") and not callable(preprocessing):
        raise ValueError(
            'preprocessing must be "weights", "resize", "pad" or a callable; '
            f"got {preprocessing!r}."
        )
    if image_size is not None:
        if image_size < 1:
            raise ValueError(f"image_size must be a positive number of pixels; got {image_size}.")
        resize_size = round(resize_size * image_size / crop_size)
        crop_size = int(image_size)
    if _is_torchvision_preset(preprocessing):
        # The same numbers from our own steps, which also take what is deeper than 8 bits.
        preset = cast(Any, preprocessing)
        if image_size is None:
            (crop_size,), (resize_size,) = preset.crop_size, preset.resize_size
        resize_mode, preprocessing = "shortest", "weights"
        interpolation = preset.interpolation.value
        mean, std = tuple(preset.mean), tuple(preset.std)
    if preprocessing == "resize":
        resize_mode, resize_size = "squash", crop_size
    elif preprocessing == "pad":
        resize_mode, resize_size = "longest", crop_size
    return Preprocessing(
        size=crop_size,
        resize_size=resize_size,
        resize_mode=resize_mode,
        interpolation=interpolation,
        mean=tuple(float(value) for value in mean),
        std=tuple(float(value) for value in std),
        function=preprocessing if callable(preprocessing) else None,
        scaled_decoding=bool(scaled_decoding),
    )


@dataclass(frozen=True)
class Preprocessing:
    """Resize, crop and normalize images; made by :func:`make_preprocessing`.

    Calling it does the work of one image (in any thread); :meth:`to_batch` joins the results.
    ``stack`` and ``normalize`` are the halves of ``to_batch``, so that bytes may travel to a GPU
    and be normalized there.

    Attributes
    ----------
    size : int
        Side of the square given to the network.
    resize_size : int
        Side the image is resized to before the crop.
    resize_mode : {"shortest", "longest", "squash"}
        Which of its sides that is.
    interpolation : str
    mean, std : tuple of float
    function : callable or None
        The user's own preprocessing.
    scaled_decoding : bool
        Whether images may come decoded at a fraction of their size.
    """

    size: int
    resize_size: int
    resize_mode: str
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    function: Callable[[Any], Any] | None = None
    scaled_decoding: bool = False

    @property
    def min_decode_side(self) -> int | None:
        """What the shorter side of a decoded image must not fall below; None: decode in full.

        Twice the side it is resized to, so that whichever side that is (``resize_mode``), none is
        ever enlarged. None for a callable, which may need every pixel, and for "nearest", which
        picks single pixels.
        """
        if not self.scaled_decoding or self.function is not None:
            return None
        return None if self.interpolation == "nearest" else _DECODE_MARGIN * self.resize_size

    @property
    def fingerprint(self) -> str | None:
        """A text equal if and only if the result is, in any process; None if nobody can tell."""
        parts = (
            *(_VERSION, self.size, self.resize_size, self.resize_mode, self.interpolation),
            *(self.mean, self.std),
            *(() if self.min_decode_side is None else ("scaled", self.min_decode_side)),
        )
        if self.function is None:
            return f"preprocessing{parts}"
        own = _function_fingerprint(self.function)
        return None if own is None else f"preprocessing{(*parts, own)}"

    def box_in(self, size: tuple[int, int]) -> tuple[float, float, float, float] | None:
        """Where the network's square lies in an image of ``size`` (width, height).

        Left, top, right and bottom in pixels of the image, beyond its edges where it is padded.
        None where a callable decides.
        """
        if self.function is not None:
            return None
        scales, starts = [], []
        for length, resized in zip(size, self._resized_size(size), strict=True):
            first, kept = _middle(resized, self.size)
            scales.append(length / resized)
            starts.append(first - (self.size - kept) // 2)
        (x, y), (left, top) = scales, starts
        return left * x, top * y, (left + self.size) * x, (top + self.size) * y

    def __call__(self, image: DecodedImage) -> np.ndarray:
        """One image, ready to be stacked.

        Parameters
        ----------
        image : PIL.Image.Image of mode L or RGB, or float32 ndarray (H, W[, 3]) in [0, 1]

        Returns
        -------
        ndarray of shape (1, S, S) or (3, S, S)
            uint8, or float32 for deep data; already normalized if a callable was given.
        """
        if self.function is None:
            return self._standard(image)
        result = self.function(_as_color(image))
        finished = self._finished(result)
        if finished is None:
            standard = self._standard(_returned_image(result))
            finished = self._normalize(self.stack([standard]))[0].numpy()
        return finished

    def stack(self, arrays: Sequence[np.ndarray]) -> torch.Tensor:
        """Results of calling it to one tensor (n, 3, S, S): uint8 if all are, else float32."""
        dtype = np.uint8 if all(array.dtype == np.uint8 for array in arrays) else np.float32
        batch = np.empty((len(arrays), 3, self.size, self.size), dtype=dtype)
        for place, array in zip(batch, arrays, strict=True):
            if array.dtype == np.uint8 and dtype == np.float32:
                array = array.astype(np.float32) / np.float32(255)
            place[...] = array  # gray is repeated
        return torch.from_numpy(batch)

    def normalize(self, batch: torch.Tensor) -> torch.Tensor:
        """A stacked batch, on whatever device, to float32 as the network wants it."""
        if self.function is not None:
            return batch.float()  # each image was normalized on its own
        return self._normalize(batch)

    def to_batch(self, arrays: Sequence[np.ndarray]) -> torch.Tensor:
        """Results of calling it to one normalized float32 tensor (n, 3, S, S)."""
        return self.normalize(self.stack(arrays))

    def _normalize(self, batch: torch.Tensor) -> torch.Tensor:
        # The very operations of torchvision, in its order: the last bit depends on them.
        scaled = batch.float() / 255 if batch.dtype == torch.uint8 else batch.float()
        mean = torch.tensor(self.mean, dtype=torch.float32, device=batch.device)
        std = torch.tensor(self.std, dtype=torch.float32, device=batch.device)
        return (scaled - mean.view(-1, 1, 1)).div_(std.view(-1, 1, 1))

    def _standard(self, image: DecodedImage) -> np.ndarray:
        if isinstance(image, Image.Image):
            pixels = np.asarray(self._resize_and_crop(image))
            pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
            return np.ascontiguousarray(pixels.transpose(2, 0, 1))
        planes = image[:, :, None] if image.ndim == 2 else image
        resized = np.stack(
            [
                np.asarray(self._resize_and_crop(Image.fromarray(np.ascontiguousarray(plane))))
                for plane in planes.transpose(2, 0, 1)
            ]
        )
        return resized.clip(0.0, 1.0)  # bicubic overshoots; eight bits would have clipped too

    def _resize_and_crop(self, image: Image.Image) -> Image.Image:
        """Resized, then the center square; what lies outside the image is black.

        Rounding follows torchvision's ``resize`` and ``center_crop`` to the pixel.
        """
        # Of an image decoded at a fraction, the whole image's size counts, or the rounding of
        # its sides would shift it by up to a pixel.
        size, box = image.info.get(EXTENT) or Extent(image.size, (0, 0, *image.size))
        width, height = self._resized_size(size)
        if width * height > max(_HUGE, image.width * image.height):
            image = self._resize_middle(image, width, height)
        else:
            image = image.resize((width, height), _RESAMPLING[self.interpolation], box)
        return _center_crop(image, self.size)

    def _resized_size(self, size: tuple[int, int]) -> tuple[int, int]:
        width, height = size
        side = self.resize_size
        if self.resize_mode == "squash":
            return side, side
        if self.resize_mode == "longest":
            long = max(size)
            return max(1, round(width * side / long)), max(1, round(height * side / long))
        if width <= height:
            return side, int(side * height / width)
        return int(side * width / height), side

    def _resize_middle(self, image: Image.Image, width: int, height: int) -> Image.Image:
        """The middle of what resizing to (width, height) would give, without the rest.

        A strip of 1 x 5000 pixels would first become 256 x 1,280,000. The filter still sees the
        pixels around the middle, so nothing but rounding differs.
        """
        left, kept_width = _middle(width, self.size)
        top, kept_height = _middle(height, self.size)
        box = (
            left * image.width / width,
            top * image.height / height,
            (left + kept_width) * image.width / width,
            (top + kept_height) * image.height / height,
        )
        return image.resize((kept_width, kept_height), _RESAMPLING[self.interpolation], box=box)

    def _finished(self, result: Any) -> np.ndarray | None:
        """What a callable returned as float32 (3, S, S), or None if it is still an image."""
        if isinstance(result, torch.Tensor):
            if not result.is_floating_point():
                raise ValueError(
                    f"the preprocessing callable returned a tensor of {result.dtype}; expected "
                    "floats, scaled and normalized as the network wants them. Return an image to "
                    "have that done."
                )
            array = result.detach().cpu().float().numpy()
        elif isinstance(result, np.ndarray) and result.dtype.kind == "f" and result.shape[0] == 3:
            array = result.astype(np.float32)
        else:
            return None
        expected = (3, self.size, self.size)
        if array.shape != expected:
            raise ValueError(
                f"the preprocessing callable returned a tensor of shape {tuple(array.shape)}; "
                f"expected {expected}. Pass image_size= to change the side, or return an image "
                "to have it resized."
            )
        if not np.isfinite(array).all():
            raise ValueError("the preprocessing callable returned a tensor with NaN or infinity.")
        return array


def _middle(length: int, kept: int) -> tuple[int, int]:
    """Start and length of the center, rounded as torchvision's ``center_crop`` rounds."""
    if length <= kept:
        return 0, length
    return round((length - kept) / 2.0), kept


def _center_crop(image: Image.Image, side: int) -> Image.Image:
    left, width = _middle(image.width, side)
    top, height = _middle(image.height, side)
    if (width, height) != image.size:
        image = image.crop((left, top, left + width, top + height))
    if (width, height) == (side, side):
        return image
    canvas = Image.new(image.mode, (side, side))  # black
    canvas.paste(image, ((side - width) // 2, (side - height) // 2))
    return canvas


def _as_color(image: DecodedImage) -> DecodedImage:
    """Three channels, so that a callable need not think of gray."""
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    return np.repeat(image[:, :, None], 3, axis=2) if image.ndim == 2 else image


def _returned_image(result: Any) -> DecodedImage:
    """An image as a user's callable may return it, to one of the two kinds used here."""
    if isinstance(result, Image.Image):
        plain = gray_or_rgb(result)
        if plain is not None:
            return plain
    if isinstance(result, np.ndarray) and (
        result.ndim == 2 or (result.ndim == 3 and result.shape[2] in (1, 3))
    ):
        array = result[:, :, 0] if result.ndim == 3 and result.shape[2] == 1 else result
        if array.dtype == np.uint8:
            return Image.fromarray(np.ascontiguousarray(array))
        if array.dtype.kind == "f" and array.min() >= 0 and array.max() <= 1:
            return array.astype(np.float32)
    what = (
        f"an array of shape {result.shape} and dtype {result.dtype}"
        if isinstance(result, np.ndarray)
        else f"{type(result).__name__} of mode {result.mode}"
        if isinstance(result, Image.Image)
        else type(result).__name__
    )
    raise TypeError(
        f"the preprocessing callable returned {what}; expected a Pillow image, an array "
        "(H, W[, 3]) of uint8 or of floats in [0, 1], or a finished float tensor (3, S, S)."
    )


def _function_fingerprint(function: Callable[[Any], Any]) -> str | None:
    """Text that stands for a callable in every process, or None.

    Code cannot be hashed with all it depends on, so only a callable that says what it is (a
    ``fingerprint`` string) counts, and torchvision's own ``Weights.transforms()``, whose repr does.
    """
    own = getattr(function, "fingerprint", None)
    if isinstance(own, str):
        return own
    return None


def _is_torchvision_preset(function: object) -> bool:
    # By name: this package does not need torchvision otherwise.
    kind = type(function)
    name = ("torchvision.transforms._presets", "ImageClassification")
    return (kind.__module__, kind.__name__) == name
