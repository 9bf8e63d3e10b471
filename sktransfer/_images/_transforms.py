"""What augmentations do to pixels: affine resampling, TrivialAugment, mixup and CutMix.

All draws are handed in, since the global generators belong to the user. torchvision is imported
when one of its operations is first needed. Resampling is torch's own: torchvision's ``affine``
zooms both axes alike and fills with constants only, and its ``perspective``, on a padded image,
takes three to five times as long.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image

# What torch calls the rules of padding; "wrap" it has not, so the coordinates are wrapped before.
_PADDING = {"nearest": "border", "reflect": "reflection", "constant": "zeros", "wrap": "border"}
FILL_MODES = tuple(_PADDING)


def affine_matrix(
    *,
    rotation: float = 0.0,
    shift: tuple[float, float] = (0.0, 0.0),
    shear: float = 0.0,
    zoom: tuple[float, float] = (1.0, 1.0),
) -> np.ndarray:
    """Return the matrix that says where in the image each pixel of the result comes from.

    As Keras multiplies them: rotation, shift, shear, zoom. Coordinates are (x, y, 1), pixels from
    the center of the image, y downwards. ``rotation`` and ``shear`` (of vertical lines) are degrees
    counter-clockwise, ``shift`` is how far the image moves to the right and down, ``zoom`` how many
    pixels of the image one pixel of the result spans: below 1 magnifies.
    """
    theta, slant = np.deg2rad(rotation), np.deg2rad(shear)
    turn = np.array(
        [[np.cos(theta), -np.sin(theta), 0], [np.sin(theta), np.cos(theta), 0], [0, 0, 1]]
    )
    move = np.array([[1, 0, -shift[0]], [0, 1, -shift[1]], [0, 0, 1]])
    lean = np.array([[1, -np.sin(slant), 0], [0, np.cos(slant), 0], [0, 0, 1]])
    return turn @ move @ lean @ np.diag([zoom[0], zoom[1], 1.0])


def crop_matrix(
    fractions: tuple[float, float], place: tuple[float, float], size: tuple[int, int]
) -> np.ndarray:
    """Return the matrix of a crop that is stretched to the size (width, height) of the image.

    ``fractions`` of width and height are what the crop has; ``place`` is where it lies, from 0 at
    the left or top edge to 1 at the right or bottom edge.
    """
    offsets = [
        (part - 0.5) * (1 - fraction) * side
        for part, fraction, side in zip(place, fractions, size, strict=True)
    ]
    return np.array(
        [[fractions[0], 0, offsets[0]], [0, fractions[1], offsets[1]], [0, 0, 1]], dtype=float
    )


def resample(array: np.ndarray, matrix: np.ndarray, fill_mode: str, fill: float) -> np.ndarray:
    """Return a float32 image (H, W, C) seen through an affine matrix, bilinear, of the same size.

    ``fill_mode`` says what lies outside the image, and ``fill`` the value there for "constant".
    """
    height, width = array.shape[:2]
    half = np.diag([width / 2, height / 2, 1.0])  # torch counts from -1 to 1
    theta = torch.from_numpy(np.linalg.inv(half) @ matrix @ half)[None, :2].float()
    planes = torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))[None]
    grid = torch.nn.functional.affine_grid(theta, list(planes.shape), align_corners=False)
    if fill_mode == "wrap":
        sides = torch.tensor([width, height])
        pixels = ((grid + 1) * sides - 1) / 2 % sides
        # The neighbor of the last pixel is the first.
        planes = torch.nn.functional.pad(planes, (0, 1, 0, 1), mode="circular")
        grid = (2 * pixels + 1) / (sides + 1) - 1
    offset = fill if fill_mode == "constant" else 0.0
    # One image at a time: torch spreads this over threads by image, and decoding has its own.
    moved = torch.nn.functional.grid_sample(
        planes - offset if offset else planes,
        grid,
        mode="bilinear",
        padding_mode=_PADDING[fill_mode],
        align_corners=False,
    )[0]
    return np.ascontiguousarray((moved + offset if offset else moved).permute(1, 2, 0).numpy())


N_STRENGTHS = 31


def _lean(strength: float) -> float:
    return math.degrees(math.atan(strength))


def _affine(tvf: Any, image: Any, move: list[int], shear: list[float]) -> Any:
    # A shear starts from the corner, as in AutoAugment.
    center = [0.0, 0.0] if any(shear) else None
    return tvf.affine(image, angle=0.0, translate=move, scale=1.0, shear=shear, center=center)


def _solarize(tvf: Any, image: Any, strength: float) -> Any:
    white = 255.0 if isinstance(image, Image.Image) else 1.0
    return tvf.solarize(image, threshold=white * strength)


# torchvision's ``TrivialAugmentWide`` draws from torch's global generator; this is its table on
# torchvision's functions. By name: strength of the weakest, of the strongest, signed, function.
_Operation: TypeAlias = Callable[[Any, Any, float], Any]
OPERATIONS: dict[str, tuple[float, float, bool, _Operation]] = {
    "Identity": (0.0, 0.0, False, lambda tvf, image, s: image),
    "ShearX": (0.0, 0.99, True, lambda tvf, image, s: _affine(tvf, image, [0, 0], [_lean(s), 0])),
    "ShearY": (0.0, 0.99, True, lambda tvf, image, s: _affine(tvf, image, [0, 0], [0, _lean(s)])),
    "TranslateX": (0.0, 32.0, True, lambda tvf, image, s: _affine(tvf, image, [int(s), 0], [0, 0])),
    "TranslateY": (0.0, 32.0, True, lambda tvf, image, s: _affine(tvf, image, [0, int(s)], [0, 0])),
    "Rotate": (0.0, 135.0, True, lambda tvf, image, s: tvf.rotate(image, angle=s)),
    "Brightness": (0.0, 0.99, True, lambda tvf, image, s: tvf.adjust_brightness(image, 1.0 + s)),
    "Color": (0.0, 0.99, True, lambda tvf, image, s: tvf.adjust_saturation(image, 1.0 + s)),
    "Contrast": (0.0, 0.99, True, lambda tvf, image, s: tvf.adjust_contrast(image, 1.0 + s)),
    "Sharpness": (0.0, 0.99, True, lambda tvf, image, s: tvf.adjust_sharpness(image, 1.0 + s)),
    "Posterize": (0.0, 6.0, False, lambda tvf, image, s: tvf.posterize(image, bits=8 - round(s))),
    "Solarize": (1.0, 0.0, False, _solarize),
    "AutoContrast": (0.0, 0.0, False, lambda tvf, image, s: tvf.autocontrast(image)),
    "Equalize": (0.0, 0.0, False, lambda tvf, image, s: tvf.equalize(image)),
}


def trivial_augment(image: Any, draws: Sequence[float]) -> Any:
    """Apply one of the operations, all equally probable, at one of 31 strengths.

    ``image`` is a Pillow image of mode L or RGB, or a float tensor (1|3, H, W) in [0, 1]; the three
    draws in [0, 1) say which operation, how strong, and with which sign.
    """
    import torchvision.transforms.v2.functional as tvf

    which, how, sign = draws
    weakest, strongest, signed, operation = list(OPERATIONS.values())[int(which * len(OPERATIONS))]
    # torch's own float32: Pillow cuts off decimals, so the last bit of a factor is seen.
    strength = float(torch.linspace(weakest, strongest, N_STRENGTHS)[int(how * N_STRENGTHS)])
    return operation(tvf, image, -strength if signed and sign < 0.5 else strength)


def soft_targets(targets: torch.Tensor, n_classes: int | None) -> torch.Tensor:
    """Return class indices (n,) or probabilities (n, k) as float probabilities (n, k)."""
    if targets.ndim == 2:
        return targets if targets.is_floating_point() else targets.float()
    if targets.ndim != 1 or targets.is_floating_point():
        raise ValueError(
            "targets must be class indices of shape (n,) or probabilities of shape (n, n_classes); "
            f"got a tensor of shape {tuple(targets.shape)} and dtype {targets.dtype}."
        )
    if n_classes is None:
        raise ValueError(
            "targets are class indices, and a batch need not hold every class: pass n_classes."
        )
    return torch.nn.functional.one_hot(targets.long(), n_classes).float()


def mix_batch(
    batch: torch.Tensor,
    targets: torch.Tensor,
    generator: np.random.Generator,
    *,
    mixup: float,
    cutmix: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mix each image of a float batch (n, C, H, W) with its neighbor, and its targets likewise.

    ``mixup`` and ``cutmix`` are the alpha of each, 0 for off; where both are on, one of them is
    drawn. The arithmetic is that of torchvision's ``MixUp`` and ``CutMix``, which draw from torch's
    global generator.
    """
    if batch.ndim != 4 or not batch.is_floating_point() or len(batch) != len(targets):
        raise ValueError(
            "batch must be a float tensor of shape (n, channels, height, width) with as many rows "
            f"as targets; got shape {tuple(batch.shape)} and dtype {batch.dtype} for "
            f"{len(targets)} targets."
        )
    coin, neighbors = generator.random(), batch.roll(1, 0)
    if mixup and (not cutmix or coin < 0.5):
        share = float(generator.beta(mixup, mixup))
        mixed = neighbors.mul_(1.0 - share).add_(batch.mul(share))
    else:
        half = 0.5 * math.sqrt(1.0 - float(generator.beta(cutmix, cutmix)))
        height, width = batch.shape[-2:]
        center = generator.random(2)
        x, y = int(center[0] * width), int(center[1] * height)
        x1, x2 = max(x - int(half * width), 0), min(x + int(half * width), width)
        y1, y2 = max(y - int(half * height), 0), min(y + int(half * height), height)
        share = 1.0 - (x2 - x1) * (y2 - y1) / (width * height)
        mixed = batch.clone()
        mixed[..., y1:y2, x1:x2] = neighbors[..., y1:y2, x1:x2]
    return mixed, targets.roll(1, 0).mul_(1.0 - share).add_(targets.mul(share))
