"""What can be measured of an image without looking at what it shows; it must not know labels.

Size, file, brightness, and the corners, where letters and markers are. A classifier that gets far
with these alone has learned how the images were made.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd

from sktransfer._images import ImageSource
from sktransfer.inspection._estimator_images import as_shown, images_of

# Of the shorter side.
_CORNER = 1 / 6
_DARK, _BRIGHT = 0.02, 0.98


def image_properties(estimator: Any, X: Any) -> pd.DataFrame:
    """A row of simple properties for each image.

    Parameters
    ----------
    estimator : estimator instance
        Its ``value_range``, ``image_shape`` and ``dicom`` say how to read ``X``.
    X : collection of images, n rows

    Returns
    -------
    DataFrame of shape (n, k)
        Numbers; NaN where a property does not apply.
    """
    source = images_of(estimator, X)
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return pd.DataFrame(
            list(pool.map(lambda row: _properties(source, row), range(len(source))))
        )


def _properties(source: ImageSource, row: int) -> dict[str, float]:
    encoded = source.open(row)
    pixels = as_shown(encoded.decode())
    height, width = pixels.shape[:2]
    gray = pixels.mean(axis=2)
    found = {
        "width": float(width),
        "height": float(height),
        "aspect": width / height,
        "file bytes per pixel": len(encoded.content) / (width * height)
        if isinstance(encoded.content, bytes)
        else np.nan,
        "color": float(np.ptp(pixels, axis=2).mean()),
        "mean brightness": float(gray.mean()),
        "contrast": float(gray.std()),
        "darkest": float(np.quantile(gray, 0.01)),
        "brightest": float(np.quantile(gray, 0.99)),
        "share black": float((gray <= _DARK).mean()),
        "share white": float((gray >= _BRIGHT).mean()),
    }
    side = max(1, round(_CORNER * min(height, width)))
    for vertical, down in (("top", slice(None, side)), ("bottom", slice(-side, None))):
        for horizontal, across in (("left", slice(None, side)), ("right", slice(-side, None))):
            corner = gray[down, across]
            name = f"{vertical} {horizontal} corner"
            found[f"{name}, mean"] = float(corner.mean())
            found[f"{name}, brightest"] = float(corner.max())
            found[f"{name}, contrast"] = float(corner.std())
    return found
