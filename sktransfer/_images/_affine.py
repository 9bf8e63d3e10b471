"""Moving an image: one affine matrix, one bilinear resampling. It must not know who drew the
numbers, nor Pillow.
"""

from __future__ import annotations

import numpy as np
import torch

FILL_MODES = ("nearest", "reflect", "constant", "wrap")

# What torch calls the rules; "wrap" it has not, so the coordinates are wrapped before.
_PADDING = {"nearest": "border", "reflect": "reflection", "constant": "zeros", "wrap": "border"}


def affine_matrix(
    *,
    rotation: float = 0.0,
    shift: tuple[float, float] = (0.0, 0.0),
    shear: float = 0.0,
    zoom: tuple[float, float] = (1.0, 1.0),
) -> np.ndarray:
    """The matrix that says where in the image each pixel of the result comes from.

    As Keras multiplies them: rotation, shift, shear, zoom. Coordinates are (x, y, 1), pixels from
    the center of the image, y downwards.

    Parameters
    ----------
    rotation : float
        Degrees counter-clockwise.
    shift : (float, float)
        Pixels (to the right, downwards) that the image moves.
    shear : float
        Degrees counter-clockwise that vertical lines lean.
    zoom : (float, float)
        Pixels of the image that one pixel of the result spans, along x and y: below 1 magnifies.

    Returns
    -------
    ndarray of shape (3, 3)
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
    """The matrix of a crop that is stretched to the size of the image.

    Parameters
    ----------
    fractions : (float, float)
        Of the width and the height that the crop has.
    place : (float, float)
        Where it lies: 0 at the left or top edge, 1 at the right or bottom edge.
    size : (int, int)
        Width and height of the image.
    """
    offsets = [
        (part - 0.5) * (1 - fraction) * side
        for part, fraction, side in zip(place, fractions, size, strict=True)
    ]
    return np.array(
        [[fractions[0], 0, offsets[0]], [0, fractions[1], offsets[1]], [0, 0, 1]], dtype=float
    )


def resample(array: np.ndarray, matrix: np.ndarray, fill_mode: str, fill: float) -> np.ndarray:
    """An image seen through an affine matrix, bilinear, the same size.

    Parameters
    ----------
    array : float32 ndarray of shape (H, W, C)
    matrix : ndarray of shape (3, 3)
        As :func:`affine_matrix` makes it.
    fill_mode : {"nearest", "reflect", "constant", "wrap"}
        What lies outside the image.
    fill : float
        The value outside, for "constant".

    Returns
    -------
    float32 ndarray of shape (H, W, C)
    """
    height, width = array.shape[:2]
    x = np.arange(width) - (width - 1) / 2
    y = np.arange(height) - (height - 1) / 2
    # Separable, so no (H, W, 3) array of coordinates is multiplied.
    columns = (matrix[0, 0] * x + matrix[0, 2])[None] + (matrix[0, 1] * y)[:, None]
    rows = (matrix[1, 0] * x + matrix[1, 2])[None] + (matrix[1, 1] * y)[:, None]
    columns += (width - 1) / 2
    rows += (height - 1) / 2
    if fill_mode == "wrap":
        columns %= width
        rows %= height
        # The neighbor of the last pixel is the first.
        array = np.pad(array, ((0, 1), (0, 1), (0, 0)), mode="wrap")
        height, width = height + 1, width + 1
    elif fill_mode == "constant" and fill:
        array = array - np.float32(fill)
    grid = np.stack(
        [(2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1], axis=-1, dtype=np.float32
    )
    planes = torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))
    # One image at a time: torch spreads this over threads by image, and decoding has its own.
    moved = torch.nn.functional.grid_sample(
        planes[None],
        torch.from_numpy(grid)[None],
        mode="bilinear",
        padding_mode=_PADDING[fill_mode],
        align_corners=False,
    )[0]
    result = np.ascontiguousarray(moved.numpy().transpose(1, 2, 0))
    if fill_mode == "constant" and fill:
        result += np.float32(fill)
    return result
