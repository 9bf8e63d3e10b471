"""Names and values of other libraries' augmentations, answered with what is meant here.

It must not know how an image is transformed.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

_WHITENED = (
    "use sktransfer.preprocessing.ImageWhitening({}), for arrays of small images, and nothing "
    "before a pretrained network, which expects images as they are"
)
_STANDARDIZED = (
    *("samplewise_center", "samplewise_std_normalization"),
    *("featurewise_center", "featurewise_std_normalization"),
)
_SEEDED = "use FineTuneClassifier(random_state=), or seed= of a call"
# Names of Keras' ImageDataGenerator and of others -> what to do instead.
_INSTEAD = {
    "rescale": "leave it out: pixels are scaled as the weights of the network require",
    **{name: _WHITENED.format(f"{name}=True") for name in _STANDARDIZED},
    "zca_whitening": _WHITENED.format("method='zca'"),
    "zca_epsilon": _WHITENED.format("method='zca', epsilon=..."),
    "preprocessing_function": (
        "give a function as preprocessing= of the estimator if it does the same to every image, or "
        "as augmentation= if it draws at random"
    ),
    "validation_split": "use FineTuneClassifier(validation_fraction=)",
    "data_format": "leave it out: arrays, files and their channels are recognized as they come",
    "dtype": "leave it out: FineTuneClassifier(precision=) says what is computed in",
    "interpolation_order": "leave it out: images are resampled bilinearly",
    "seed": _SEEDED,
    "random_state": _SEEDED,
}
_NAMES = {
    "degrees": "rotation_range",
    "translate": "width_shift_range and height_shift_range",
    "scale": "zoom_range or crop_scale",
    "hflip": "horizontal_flip",
    "vflip": "vertical_flip",
    "fill_value": "cval",
}
_FILL_MODES = {
    **dict.fromkeys(("edge", "border", "replicate"), "nearest"),
    **dict.fromkeys(("zeros", "zero", "black"), "constant"),
    **dict.fromkeys(("mirror", "symmetric", "reflection", "reflect_101"), "reflect"),
    **dict.fromkeys(("circular", "grid-wrap", "tile"), "wrap"),
}
# Parameters that other libraries have as a fraction or in radians -> their unit, and what is likely
# to have been meant by a value below 1.
_UNITS = {
    "rotation_range": "degrees, {turn:.3g} if it is a fraction of a full turn, {radians:.3g} if "
    "radians",
    "shear_range": "degrees, as in Keras' ImageDataGenerator; {radians:.3g} if it is radians, or "
    "a fraction of the height",
    "channel_shift_range": "gray levels of 0 to 255, {levels:.3g} if it is a fraction of them",
}


def unknown_name(name: str, known: Iterable[str]) -> str:
    """Say that ImageAugmentation has no such parameter, and what to use instead."""
    known = sorted(known)
    if name in _INSTEAD:
        hint = f" {_INSTEAD[name][0].upper()}{_INSTEAD[name][1:]}."
    else:
        alike = [_NAMES[name]] if name in _NAMES else difflib.get_close_matches(name, known, 2)
        alike = alike or [each for each in known if name and name in each]
        hint = f" Did you mean {' or '.join(alike)}?" if alike else ""
    return (
        f"Invalid parameter {name!r} for ImageAugmentation.{hint} Its parameters are "
        f"{', '.join(known)}."
    )


def check_meant(params: Mapping[str, Any], fill_modes: Iterable[str]) -> None:
    """Refuse values of other libraries with the one that is meant here."""
    mode, brightness = params["fill_mode"], params["brightness_range"]
    if isinstance(mode, str) and mode not in fill_modes:
        close = difflib.get_close_matches(mode.lower(), [*fill_modes, *_FILL_MODES], 1)
        meant = _FILL_MODES.get(close[0], close[0]) if close else None
        hint = f" Did you mean {meant!r}?" if meant else ""
        raise ValueError(
            "The 'fill_mode' parameter of ImageAugmentation must be one of "
            f"{', '.join(map(repr, sorted(fill_modes)))}; got {mode!r}.{hint}"
        )
    if isinstance(brightness, (int, float)) and not isinstance(brightness, bool):
        low, high = (f"{max(0.0, 1 + sign * brightness):g}" for sign in (-1, 1))
        raise ValueError(
            f"brightness_range must be two factors (low, high), such as ({low}, {high}); got "
            f"{brightness!r}."
        )


def warn_of_units(params: Mapping[str, Any]) -> None:
    """Warn of angles and gray levels so small that another unit is likely to have been meant."""
    for name, unit in _UNITS.items():
        value = params[name]
        if 0 < value < 1:
            meant = {"turn": value * 360, "radians": value * 57.29578, "levels": value * 255}
            warnings.warn(
                f"{name}={value:g} is in {unit.format(**meant)}. As it is, hardly anything moves.",
                UserWarning,
                stacklevel=3,
            )
