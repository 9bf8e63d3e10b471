"""TrivialAugment: one operation of a table at one strength. It must not know where draws come from.

torchvision's ``TrivialAugmentWide`` draws from torch's global generator, which belongs to the
user; this is its table on torchvision's public functions, with the draws handed in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from PIL import Image

N_STRENGTHS = 31


def _lean(strength: float) -> float:
    return math.degrees(math.atan(strength))


# name: (strength of the weakest, of the strongest, signed, function)
_Operation = tuple[float, float, bool, Callable[[Any, float], Any]]


@cache
def operations() -> dict[str, _Operation]:
    """Return TrivialAugment's table; torchvision is imported only when it is first used."""
    from torchvision.transforms.v2 import functional as tvf

    def affine(
        image: Any, *, move: tuple[int, int] = (0, 0), shear: tuple[float, float] = (0.0, 0.0)
    ) -> Any:
        # A shear starts from the corner, as in AutoAugment.
        center = [0.0, 0.0] if any(shear) else None
        return tvf.affine(
            image, angle=0.0, translate=list(move), scale=1.0, shear=list(shear), center=center
        )

    def solarize(image: Any, strength: float) -> Any:
        white = 255.0 if isinstance(image, Image.Image) else 1.0
        return tvf.solarize(image, threshold=white * strength)

    return {
        "Identity": (0.0, 0.0, False, lambda image, s: image),
        "ShearX": (0.0, 0.99, True, lambda image, s: affine(image, shear=(_lean(s), 0.0))),
        "ShearY": (0.0, 0.99, True, lambda image, s: affine(image, shear=(0.0, _lean(s)))),
        "TranslateX": (0.0, 32.0, True, lambda image, s: affine(image, move=(int(s), 0))),
        "TranslateY": (0.0, 32.0, True, lambda image, s: affine(image, move=(0, int(s)))),
        "Rotate": (0.0, 135.0, True, lambda image, s: tvf.rotate(image, angle=s)),
        "Brightness": (0.0, 0.99, True, lambda image, s: tvf.adjust_brightness(image, 1.0 + s)),
        "Color": (0.0, 0.99, True, lambda image, s: tvf.adjust_saturation(image, 1.0 + s)),
        "Contrast": (0.0, 0.99, True, lambda image, s: tvf.adjust_contrast(image, 1.0 + s)),
        "Sharpness": (0.0, 0.99, True, lambda image, s: tvf.adjust_sharpness(image, 1.0 + s)),
        "Posterize": (0.0, 6.0, False, lambda image, s: tvf.posterize(image, bits=8 - round(s))),
        "Solarize": (1.0, 0.0, False, solarize),
        "AutoContrast": (0.0, 0.0, False, lambda image, s: tvf.autocontrast(image)),
        "Equalize": (0.0, 0.0, False, lambda image, s: tvf.equalize(image)),
    }


def trivial_augment(image: Any, draws: Sequence[float]) -> Any:
    """One of the operations, all alike probable, at one of 31 strengths.

    Parameters
    ----------
    image : PIL.Image.Image of mode L or RGB, or float tensor (1|3, H, W) in [0, 1]
    draws : sequence of three floats in [0, 1)
        Which operation, how strong, and with which sign.

    Returns
    -------
    Of the kind of ``image``.
    """
    which, how, sign = draws
    table = list(operations().values())
    weakest, strongest, signed, operation = table[int(which * len(table))]
    # torch's own float32: Pillow cuts off decimals, so the last bit of a factor is seen.
    strength = float(torch.linspace(weakest, strongest, N_STRENGTHS)[int(how * N_STRENGTHS)])
    return operation(image, -strength if signed and sign < 0.5 else strength)
