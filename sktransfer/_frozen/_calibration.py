"""What a network is quantized on: the user's images, or cuts of scikit-learn's two photographs.

It must not know networks, nor what runs them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sktransfer._images import ImageSource, Preprocessing

# Raised when the same parameters come to mean other cuts.
_VERSION = 2
# Cuts to quantize on, and some more to measure the error on: NNCF's ranges and biases are means
# over images, which hardly change beyond a hundred.
N_CUTS, N_HELD_OUT = 128, 16
# Of more images than these, as many are taken evenly: 150 MB as a network of 224 pixels wants them.
MAX_IMAGES = 256
# Share of a photograph that a cut has at least, and how far its sides may be apart.
_SMALLEST, _ELONGATED = 0.05, 4 / 3
# Sides that every other cut is reduced to, to be enlarged again. X-rays and many others are gray,
# and small sets come with 28 pixels: after calibration on sharp colors alone, ResNet-18 lost three
# times the area under the curve on such images.
_REDUCED = (20, 112)


@dataclass(frozen=True)
class Calibration:
    """Images for quantizing a network, and a text that is equal if and only if they are."""

    key: str
    # Returns the normalized images to quantize on, and those to measure the error on.
    load: Callable[[], tuple[Tensor, Tensor]] = field(compare=False, repr=False)


def digest_of_images(images: ImageSource) -> str:
    """Return a digest of the images that a calibration takes of these; raise where there are none.

    An ImageDecodeError names the first that cannot be read.
    """
    if not len(images):
        raise ValueError("calibration has no images; give a hundred or so, or leave it None.")
    try:
        keys = b"".join(images.open(row).key for row in _rows(images))
    except Exception as error:
        error.add_note("while reading the images of calibration=")
        raise
    return hashlib.blake2b(keys, digest_size=16).hexdigest()


def calibration_on(
    images: Callable[[], ImageSource] | None, digest: str, preprocessing: Preprocessing
) -> Calibration:
    """Return the calibration on images of this digest; None: on cuts of the two photographs.

    Every image goes the way of those that are embedded, through ``preprocessing``.
    """

    def load() -> tuple[Tensor, Tensor]:
        if images is None:
            ready = [preprocessing(cut) for cut in photographs(N_CUTS + N_HELD_OUT)]
            batch = preprocessing.to_batch(ready)
            return batch[:N_CUTS], batch[N_CUTS:]
        source = images()
        try:
            ready = [source.open(row).prepare(preprocessing) for row in _rows(source)]
        except Exception as error:
            error.add_note("while reading the images of calibration=")
            raise
        batch = preprocessing.to_batch(ready)
        if len(batch) < 2 * N_HELD_OUT:  # too few to spare some
            return batch, batch
        held_out = torch.arange(len(batch)) % 8 == 7
        return batch[~held_out], batch[held_out]

    of = f"{N_CUTS} of {N_CUTS + N_HELD_OUT} cuts" if images is None else digest
    how = preprocessing.fingerprint
    if how is None:  # there is no telling what it makes of images, but for looking
        seen = hashlib.blake2b(digest_size=16)
        for part in load():
            seen.update(part.numpy().tobytes())
        how = seen.hexdigest()
    return Calibration(f"calibration {_VERSION} {of} {how}", load)


def _rows(images: ImageSource) -> list[int]:
    """Return the rows that are taken, evenly spread."""
    n = len(images)
    return [round(row) for row in np.linspace(0, n - 1, min(n, MAX_IMAGES))]


def photographs(n: int) -> Iterator[Image.Image]:
    """Yield cuts of scikit-learn's photographs of a temple and a flower, in turn, always the same.

    Place, size, shape and left and right are drawn, as for training on ImageNet. Half of them are
    gray, and half have few pixels.
    """
    from sklearn.datasets import load_sample_images  # not needed where networks are there already

    rng = np.random.default_rng(0)
    images = load_sample_images().images
    for number in range(n):
        image = images[number % len(images)]
        height, width = image.shape[:2]
        area = rng.uniform(_SMALLEST, 1.0) * height * width
        ratio = np.exp(rng.uniform(-np.log(_ELONGATED), np.log(_ELONGATED)))
        across = min(width, round(float(np.sqrt(area * ratio))))
        down = min(height, round(float(np.sqrt(area / ratio))))
        left, top = rng.integers(width - across + 1), rng.integers(height - down + 1)
        cut = image[top : top + down, left : left + across]
        made = Image.fromarray(np.ascontiguousarray(cut[:, ::-1] if rng.random() < 0.5 else cut))
        reduced = np.exp(rng.uniform(*np.log(_REDUCED))) / min(made.size)
        kind = number // len(images) % 4
        if kind % 2 and reduced < 1:
            width, height = (max(1, round(side * reduced)) for side in made.size)
            made = made.resize((width, height), Image.Resampling.BILINEAR)
        yield made.convert("L").convert("RGB") if kind >= 2 else made
