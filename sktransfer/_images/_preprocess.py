"""From an image to what the weights expect: resize, crop, scale, normalize."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image

from sktransfer._images._values import EXTENT, DecodedImage, Extent, as_color, returned_image

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
HUGE = 2**24

# With scaled decoding, how many times the size asked for each side still has before the resize. The
# resize then averages pixels of its own, and hides most of what libjpeg's averaging did otherwise.
_DECODE_MARGIN = 2

_TORCHVISION_PRESET = ("torchvision.transforms._presets", "ImageClassification")

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
    """Return the preprocessing that the weights want and the user asked for.

    The weights' own: the shorter side (with ``resize_mode="squash"`` each side) is resized to
    ``resize_size``, then the center square of ``crop_size`` is taken; ``mean`` and ``std`` are on
    the [0, 1] scale. The user's: ``preprocessing`` is "weights"; "resize", the whole image squashed
    to the square; "pad", the whole image with its aspect ratio and black bars; or a callable, which
    is given an RGB Pillow image (a float32 array (H, W, 3) in [0, 1] for deep images) and returns
    an image, which then goes through "weights", or a finished tensor (3, S, S), normalized already.
    ``image_size`` is another side of the square; ``resize_size`` keeps its proportion to it. With
    ``scaled_decoding`` JPEGs much larger than needed may be decoded at a fraction of their size.
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
    kind: Any = type(preprocessing)  # by name: torchvision is not needed otherwise
    if (kind.__module__, kind.__name__) == _TORCHVISION_PRESET:
        # The same numbers from our own steps, which also take what is deeper than 8 bits.
        preset: Any = preprocessing
        if image_size is None:
            (crop_size,), (resize_size,) = preset.crop_size, preset.resize_size
        resize_mode, preprocessing = "shortest", "weights"
        interpolation = preset.interpolation.value
        mean, std = preset.mean, preset.std
    if preprocessing == "resize":
        resize_mode, resize_size = "squash", crop_size
    elif preprocessing == "pad":
        resize_mode, resize_size = "longest", crop_size
    function = preprocessing if callable(preprocessing) else None
    # Not for a callable, which may need every pixel, nor "nearest", which picks single pixels.
    scaled = scaled_decoding and function is None and interpolation != "nearest"
    return Preprocessing(
        size=crop_size,
        resize_size=resize_size,
        resize_mode=resize_mode,
        interpolation=interpolation,
        mean=tuple(map(float, mean)),
        std=tuple(map(float, std)),
        function=function,
        min_decode_side=_DECODE_MARGIN * resize_size if scaled else None,
    )


@lru_cache(maxsize=64)  # a CUDA graph cannot copy them to the device
def _constants(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[torch.Tensor, ...]:
    """Return means and standard deviations of the channels on a device."""
    with torch.inference_mode(False):  # they may be part of somebody's gradient later
        both = torch.tensor((mean, std), dtype=torch.float32, device=device)
    return both.view(2, -1, 1, 1).unbind()


@dataclass(frozen=True)
class Preprocessing:
    """Resize, crop and normalize images; made by :func:`make_preprocessing`.

    Calling it does the work of one image (in any thread); :meth:`to_batch` joins the results.
    ``stack`` and ``normalize`` are the halves of ``to_batch``, so that bytes may travel to a GPU
    and be normalized there.
    """

    size: int  # side of the square given to the network
    resize_size: int  # side the image is resized to before the crop
    resize_mode: str  # which of its sides that is: "shortest", "longest" or "squash"
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    function: Callable[[Any], Any] | None = None  # the user's own preprocessing
    # Length that the shorter side of a decoded image must keep; None: decode in full. Whichever
    # side is resized (``resize_mode``), none is ever enlarged.
    min_decode_side: int | None = None

    @property
    def fingerprint(self) -> str | None:
        """Text equal if and only if the result is, in any process; None if nobody can tell.

        Code cannot be hashed with all it depends on, so only a callable that says what it is (a
        ``fingerprint`` string) counts.
        """
        parts: tuple[object, ...] = (
            *(_VERSION, self.size, self.resize_size, self.resize_mode, self.interpolation),
            *(self.mean, self.std),
        )
        if self.min_decode_side is not None:
            parts = (*parts, "scaled", self.min_decode_side)
        if self.function is not None:
            own = getattr(self.function, "fingerprint", None)
            if not isinstance(own, str):
                return None
            parts = (*parts, own)
        return f"preprocessing{parts}"

    def box_in(self, size: tuple[int, int]) -> tuple[float, float, float, float] | None:
        """Return where the network's square lies in an image of ``size`` (width, height).

        Left, top, right and bottom in pixels of the image, beyond its edges where it is padded.
        None where a callable decides.
        """
        if self.function is not None:
            return None
        edges = []
        for length, (resized, first, kept) in zip(size, self._geometry(size), strict=True):
            start = first - (self.size - kept) // 2
            edges.append((start * length / resized, (start + self.size) * length / resized))
        (left, right), (top, bottom) = edges
        return left, top, right, bottom

    def __call__(self, image: DecodedImage) -> np.ndarray:
        """Return one image ready to be stacked, of shape (1, S, S) or (3, S, S).

        It is uint8, or float32 for deep images; normalized already if a callable was given.
        """
        if self.function is not None:
            result = self.function(as_color(image))
            finished = self._finished(result)
            if finished is None:
                standard = replace(self, function=None)
                also = ", or a finished float tensor (3, S, S)"
                image = returned_image(result, "preprocessing", also)
                finished = standard.to_batch([standard(image)])[0].numpy()
            return finished
        if isinstance(image, Image.Image):
            pixels = np.asarray(self._resize_and_crop(image))
            planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
            return np.ascontiguousarray(planes)
        planes = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
        resized = [
            np.asarray(self._resize_and_crop(Image.fromarray(np.ascontiguousarray(plane))))
            for plane in planes
        ]
        return np.stack(resized).clip(0.0, 1.0)  # bicubic overshoots; eight bits would be clipped

    def stack(self, arrays: Sequence[np.ndarray], *, pinned: bool = False) -> torch.Tensor:
        """Join results of calling it to one tensor (n, 3, S, S): uint8 if all are, else float32.

        ``pinned`` is in page-locked memory, from where a GPU fetches it by itself.
        """
        eight_bits = {array.dtype for array in arrays} == {np.dtype(np.uint8)}
        dtype = torch.uint8 if eight_bits else torch.float32
        shape = (len(arrays), 3, self.size, self.size)
        batch = torch.empty(shape, dtype=dtype, pin_memory=pinned)
        for place, array in zip(batch.numpy(), arrays, strict=True):
            if array.dtype == np.uint8 and not eight_bits:
                array = array.astype(np.float32) / np.float32(255)
            place[...] = array  # gray is repeated
        return batch

    def normalize(self, batch: torch.Tensor) -> torch.Tensor:
        """Turn a stacked batch, on whatever device, into float32 as the network wants it."""
        if self.function is not None:
            return batch.float()  # each image was normalized on its own
        # The very operations of torchvision, in its order: the last bit depends on them.
        if batch.device.type == "cpu" and not batch.requires_grad:
            # Image by image, in the processor's cache. Torch would wake its threads, which then
            # spin while the engine, which has threads of its own, wants the cores.
            mean, std = (each.numpy() for each in _constants(self.mean, self.std, batch.device))
            result = np.empty(batch.shape, dtype=np.float32)
            for place, image in zip(result, batch.numpy(), strict=True):
                np.divide(image, np.float32(255 if image.dtype == np.uint8 else 1), out=place)
                place -= mean
                place /= std
            return torch.from_numpy(result)
        scaled = batch.float() / 255 if batch.dtype == torch.uint8 else batch.float()
        means, stds = _constants(self.mean, self.std, batch.device)
        return (scaled - means).div_(stds)

    def to_batch(self, arrays: Sequence[np.ndarray]) -> torch.Tensor:
        """Join results of calling it to one normalized float32 tensor (n, 3, S, S)."""
        return self.normalize(self.stack(arrays))

    def _resize_and_crop(self, image: Image.Image) -> Image.Image:
        """Resize, and take the center square; what lies outside the image is black."""
        # Of an image decoded at a fraction, the whole image's size counts, or the rounding of
        # its sides would shift it by up to a pixel.
        size, box = image.info.get(EXTENT) or Extent(image.size, (0, 0, *image.size))
        (width, left, kept_width), (height, top, kept_height) = self._geometry(size)
        resampling, side = _RESAMPLING[self.interpolation], self.size
        kept = (kept_width, kept_height)
        if width * height > max(HUGE, image.width * image.height):
            # A strip of 1 x 5000 pixels would first become 256 x 1,280,000: only its middle is
            # made. The filter still sees the pixels around it, so nothing but rounding differs.
            box = (
                left * image.width / width,
                top * image.height / height,
                (left + kept_width) * image.width / width,
                (top + kept_height) * image.height / height,
            )
            image = image.resize(kept, resampling, box)
        else:
            image = image.resize((width, height), resampling, box)
            if image.size != kept:
                image = image.crop((left, top, left + kept_width, top + kept_height))
        if kept == (side, side):
            return image
        canvas = Image.new(image.mode, (side, side))  # black
        canvas.paste(image, ((side - kept_width) // 2, (side - kept_height) // 2))
        return canvas

    def _geometry(self, size: tuple[int, int]) -> list[tuple[int, int, int]]:
        """Return for width and height: the length resized to, and start and length of the crop.

        Rounding follows torchvision's ``resize`` and ``center_crop`` to the pixel.
        """
        side = self.resize_size
        if self.resize_mode == "squash":
            resized = (side, side)
        elif self.resize_mode == "longest":
            long = max(size)
            resized = (max(1, round(size[0] * side / long)), max(1, round(size[1] * side / long)))
        elif size[0] <= size[1]:
            resized = (side, int(side * size[1] / size[0]))
        else:
            resized = (int(side * size[0] / size[1]), side)
        return [
            (length, 0, length)
            if length <= self.size
            else (length, round((length - self.size) / 2.0), self.size)
            for length in resized
        ]

    def _finished(self, result: Any) -> np.ndarray | None:
        """Return what a callable gave as float32 (3, S, S), or None if it is still an image."""
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
