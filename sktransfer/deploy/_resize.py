"""What preprocessing does to a decoded image of any size, as an ONNX graph.

Pillow resizes columns, rounds to eight bits, and then resizes rows. Each output pixel is a weighted
sum of some input pixels, with weights of 22 bits after the point: products of matrices, which are
made in the graph from the size of the image. In float64 these sums are exact, and so the result is
equal to the bit. Few nodes that do much are faster than many: width and height go together, and so
do blocks of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import PIL

from sktransfer._images import HUGE, Preprocessing
from sktransfer.deploy._graph import Graph

# Pillow's: bits after the point of a weight.
_BITS = 22
# Columns or rows of the result that are computed together: they depend on a part of the image only.
_BLOCK = 32
# Shape of what has a number for each axis; besides it there are blocks, their rows, and pixels.
_BOTH = (2, 1, 1, 1)


class _Axes(NamedTuple):
    """Width and height, or the other way round: numbers in float64, (2, 1, 1, 1)."""

    length: str  # of the image
    resized: str
    first: str  # of the crop, in the resized image
    kept: Any  # length of the crop: a float where it is that of all images


class _Weights(NamedTuple):
    """Weights in units of the last bit (row, pixel), and each block's pixels, (block,) in int64."""

    matrix: str
    first: str
    end: str


def add_preprocessing(
    g: Graph, image: str, preprocessing: Preprocessing, exact: bool = True
) -> str:
    """Add nodes from an image (height, width, 3) of uint8 to a normalized batch of one.

    What is not exact is faster, and may round a pixel to the value next to the nearest.
    """
    side = preprocessing.size
    axes = _axes(g, image, preprocessing)
    before, after = (g("Mul", *_each(g, own)) for own in (axes.length, axes.resized))
    huge = g("Greater", after, g("Max", float(HUGE), before))
    turned = None
    if int(PIL.__version__.split(".")[0]) >= 13:
        # Rows first where the height shrinks by more than twice as many pixels as the width.
        made = g("Where", huge, axes.kept, axes.resized)
        fewer, fewer_rows = _each(g, g("Sub", axes.length, made))
        turned = g("Greater", fewer_rows, g("Max", 0.0, g("Mul", fewer, 2.0)))
        turned = g("Reshape", turned, np.array([1]))
        order = g("Where", turned, np.array([1, 0]), np.array([0, 1]))
        axes = _Axes(*(g("Gather", own, order) if isinstance(own, str) else own for own in axes))
    dtype = np.float64 if exact else np.float32
    columns, rows = _weights(g, axes, huge, preprocessing)
    # Three planes side by side: both products are of two dimensions.
    planes = _one_of(g, turned, image, [1, 2, 0], [0, 2, 1])
    # What is above and below is cropped away.
    top = g("Gather", rows.first, np.array([0]))
    bottom = g("Gather", rows.end, np.array([-1]))
    planes = g("Flatten", g("Slice", planes, top, bottom, np.array([0])), axis=2)
    planes = g(
        "Reshape", _sums(g, planes, columns, 1, preprocessing, dtype), np.array([-1, 3 * side])
    )
    rows = rows._replace(first=g("Sub", rows.first, top), end=g("Sub", rows.end, top))
    planes = g(
        "Reshape", _sums(g, planes, rows, 0, preprocessing, dtype), np.array([side, 3, side])
    )
    planes = _one_of(g, turned, planes, [1, 2, 0], [1, 0, 2])
    mean, std = (
        np.array(each, np.float32).reshape(-1, 1, 1)
        for each in (preprocessing.mean, preprocessing.std)
    )
    planes = g.cast(planes, np.float32)
    if exact:
        planes = g("Div", g("Sub", g("Div", planes, np.float32(255)), mean), std)
    else:
        planes = g("Sub", g("Mul", planes, 1 / (255 * std)), mean / std)
    return g("Unsqueeze", planes, np.array([0]))


def _each(g: Graph, both: str) -> list[str]:
    return g.several(2, "Split", both, num_outputs=2)


def _one_of(g: Graph, turned: str | None, planes: str, one: list[int], other: list[int]) -> str:
    """Return planes with the axes in one order where they are turned, and in another if not."""
    if turned is None:
        return g("Transpose", planes, perm=other)
    return g.either(turned, "Transpose", planes, {"perm": one}, {"perm": other})


def _axes(g: Graph, image: str, pre: Preprocessing) -> _Axes:
    """Return what ``Preprocessing._geometry`` does for width and height."""
    length = g.cast(g("Gather", g("Shape", image), np.reshape([1, 0], _BOTH)), np.float64)
    side, size = float(pre.resize_size), float(pre.size)
    if pre.resize_mode == "squash":
        resized = g("Add", g("Mul", length, 0.0), side)
    elif pre.resize_mode == "longest":
        longer = g("ReduceMax", length)
        resized = g("Max", 1.0, g("Round", g("Div", g("Mul", length, side), longer)))
    else:
        resized = g("Floor", g("Div", g("Mul", length, side), g("ReduceMin", length)))
    spare = g("Max", 0.0, g("Sub", resized, size))
    first = g("Round", g("Mul", spare, 0.5))  # half to even, as Python rounds
    fills = pre.resize_mode != "longest" and side >= size
    return _Axes(length, resized, first, size if fills else g("Min", resized, size))


def _weights(g: Graph, axes: _Axes, huge: str, pre: Preprocessing) -> list[_Weights]:
    """Return the weights of the pixels along each axis, for blocks of rows of the result."""
    # Of a strip that would become huge, Pillow is given the crop alone, in float32.
    ends = [
        g.cast(g("Div", g("Mul", place, axes.length), axes.resized), np.float32)
        for place in (axes.first, g("Add", axes.first, axes.kept))
    ]
    cropped = g("Div", g.cast(g("Sub", ends[1], ends[0]), np.float64), axes.kept)
    scale = g("Where", huge, cropped, g("Div", axes.length, axes.resized))
    start = g("Where", huge, g.cast(ends[0], np.float64), 0.0)
    skipped = g("Where", huge, 0.0, axes.first)
    row = np.arange(_n_blocks(pre) * _BLOCK, dtype=np.float64).reshape(1, -1, _BLOCK, 1)
    place: Any = np.minimum(row, float(pre.size) - 1)
    inside: list[Any] = [None, None]
    if isinstance(axes.kept, str):
        padding = g("Floor", g("Mul", g("Sub", float(pre.size), axes.kept), 0.5))
        place = g("Sub", row, padding)
        inside = _each(g, g("And", g("GreaterOrEqual", place, 0.0), g("Less", place, axes.kept)))
        place = g("Max", 0.0, g("Min", place, g("Sub", axes.kept, 1.0)))  # those outside are 0
    place = g("Add", place, skipped)
    make = _nearest if pre.interpolation == "nearest" else _filtered
    matrices, first, end = make(g, place, scale, start, axes.length, pre.interpolation)
    found = []
    for own, matrix, *limits in zip(inside, matrices, _each(g, first), _each(g, end), strict=True):
        whole = matrix if own is None else g("Where", own, matrix, 0.0)
        # Flattened to (row, pixel).
        flat = (g("Reshape", g.cast(each, np.int64), np.array([-1])) for each in limits)
        found.append(_Weights(g("Flatten", whole, axis=3), *flat))
    return found


def _n_blocks(pre: Preprocessing) -> int:
    return -(-pre.size // _BLOCK)


def _pixels(g: Graph, lowest: str, highest: str, length: str) -> tuple[list[str], str, str]:
    """Return the pixels that blocks need, equally many each, and the first and the end of them."""
    first = g("ReduceMin", lowest, np.array([2]))
    n = g("ReduceMax", g("Sub", g("ReduceMax", highest, np.array([2])), first), np.array([1]))
    first = g("Min", first, g("Sub", length, n))
    pixels = [
        g("Add", begin, g("Range", 0.0, g("Squeeze", own), 1.0))
        for begin, own in zip(_each(g, first), _each(g, n), strict=True)
    ]
    return pixels, first, g("Add", first, n)


def _filtered(
    g: Graph, place: str, scale: str, start: str, length: str, interpolation: str
) -> tuple[list[str], str, str]:
    """Return the weights of a filter, of pixels from the first to the end."""
    reach, shape = _FILTERS[interpolation]
    stretch = g("Max", scale, 1.0)
    support = g("Mul", stretch, reach)
    center = g("Add", start, g("Mul", g("Add", place, 0.5), scale))
    lowest = g("Max", 0.0, g("Floor", g("Add", g("Sub", center, support), 0.5)))
    highest = g("Min", length, g("Floor", g("Add", g("Add", center, support), 0.5)))
    every, first, end = _pixels(g, lowest, highest, length)
    own = (_each(g, both) for both in (center, g("Div", 1.0, stretch), lowest, highest))
    found = []
    for pixels, middle, shrunk, low, high in zip(every, *own, strict=True):
        weights = shape(g, g("Mul", g("Add", g("Sub", pixels, middle), 0.5), shrunk))
        if interpolation == "box":  # other filters are 0 at their ends
            seen = g("And", g("GreaterOrEqual", pixels, low), g("Less", pixels, high))
            weights = g("Where", seen, weights, 0.0)
        total = g("ReduceSum", weights, np.array([3]), keepdims=1)
        weights = g("Div", weights, g("Mul", total, 2.0**-_BITS))
        # To the nearest of 22 bits, halves away from zero.
        if interpolation in _BELOW_ZERO:
            size = g("Floor", g("Add", g("Abs", weights), 0.5))
            found.append(g("Mul", g("Sign", weights), size))
        else:
            found.append(g("Floor", g("Add", weights, 0.5)))
    return found, first, end


def _nearest(
    g: Graph, place: str, scale: str, start: str, length: str, _: str
) -> tuple[list[str], str, str]:
    """Return weights of which one in each row is not zero."""
    # Pillow adds up steps, and their rounding errors.
    count = g("Reshape", g.cast(g("ReduceMax", place, keepdims=0), np.int64), np.array([1]))
    begin = g("Add", start, g("Mul", scale, 0.5))
    shape = g("Concat", np.array(_BOTH[:3]), count, axis=0)
    steps = g("CumSum", g("Concat", begin, g("Expand", scale, shape), axis=3), 3)
    where = g("Expand", g.cast(place, np.int64), np.array(_BOTH))
    wanted = g("Reshape", where, np.array([2, 1, 1, -1]))
    seen = g("Floor", g("GatherElements", steps, wanted, axis=3))
    seen = g("Min", g("Reshape", seen, np.array([2, -1, _BLOCK, 1])), g("Sub", length, 1.0))
    every, first, end = _pixels(g, seen, g("Add", seen, 1.0), length)
    found = [
        g("Where", g("Equal", pixels, own), 2.0**_BITS, 0.0)
        for pixels, own in zip(every, _each(g, seen), strict=True)
    ]
    return found, first, end


def _sums(
    g: Graph, planes: str, weights: _Weights, axis: int, pre: Preprocessing, dtype: Any
) -> str:
    """Return sums of pixels times weights as Pillow rounds and bounds them."""
    n, parts = _n_blocks(pre), []
    if dtype != np.float64:
        weights = weights._replace(matrix=g.cast(weights.matrix, dtype))
    blocks = (g.several(n, "Split", own, num_outputs=n) if n > 1 else [own] for own in weights)
    for matrix, first, end in zip(*blocks, strict=True):
        part = g.cast(g("Slice", planes, first, end, np.array([axis])), dtype)
        pair = (part, matrix) if axis else (matrix, part)
        # Both are whole numbers: all but the weights' bits are behind the point.
        parts.append(g("Gemm", *pair, dtype(0.5), alpha=2.0**-_BITS, transB=axis))
    sums = g("Concat", *parts, axis=axis)
    if pre.size % _BLOCK:
        sums = g("Slice", sums, np.array([0]), np.array([pre.size]), np.array([axis]))
    if pre.interpolation in _BELOW_ZERO:
        sums = g("Clip", sums, dtype(0), dtype(255))
    return g.cast(sums, np.uint8)  # cuts what is behind the point


# --- Pillow's filters -----------------------------------------------------------------------------


def _triangle(g: Graph, x: str) -> str:
    return g("Max", 0.0, g("Sub", 1.0, g("Abs", x)))


def _cubic(g: Graph, x: str) -> str:
    a, x = -0.5, g("Abs", x)
    near = g("Mul", g("Mul", g("Sub", g("Mul", a + 2.0, x), a + 3.0), x), x)
    far = g("Mul", g("Add", g("Mul", g("Sub", x, 5.0), x), 8.0), x)
    far = g("Where", g("Less", x, 2.0), g("Mul", g("Sub", far, 4.0), a), 0.0)
    return g("Where", g("Less", x, 1.0), g("Add", near, 1.0), far)


def _sinc(g: Graph, x: str) -> str:
    turned = g("Mul", x, np.pi)
    return g("Where", g("Equal", x, 0.0), 1.0, g("Div", g("Sin", turned), turned))


def _lanczos(g: Graph, x: str) -> str:
    both = g("Mul", _sinc(g, x), _sinc(g, g("Div", x, 3.0)))
    return g("Where", g("Less", g("Abs", x), 3.0), both, 0.0)


def _float(number: float) -> float:
    return float(np.float32(number))


def _hamming(g: Graph, x: str) -> str:
    # Older onnxruntime has no cosine of float64.
    cosine = g("Sin", g("Add", g("Mul", g("Abs", x), np.pi), np.pi / 2))
    both = g("Mul", _sinc(g, g("Abs", x)), g("Add", _float(0.54), g("Mul", _float(0.46), cosine)))
    return g("Where", g("Less", g("Abs", x), 1.0), both, 0.0)


def _box(g: Graph, x: str) -> str:
    inside = g("And", g("Greater", x, -0.5), g("LessOrEqual", x, 0.5))
    return g("Where", inside, 1.0, 0.0)


# Some of their weights are negative.
_BELOW_ZERO = ("bicubic", "lanczos")
_FILTERS: dict[str, tuple[float, Callable[[Graph, str], str]]] = {
    "bilinear": (1.0, _triangle),
    "bicubic": (2.0, _cubic),
    "lanczos": (3.0, _lanczos),
    "hamming": (1.0, _hamming),
    "box": (0.5, _box),
}
