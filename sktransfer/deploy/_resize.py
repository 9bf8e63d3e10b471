"""What preprocessing does to a decoded image of any size, as an ONNX graph: equal to the bit.

Pillow resizes columns, rounds to eight bits, and then resizes rows. Each output pixel is a weighted
sum of some input pixels, with weights of 22 bits after the point: products of matrices, which are
made in the graph from the size of the image. In float64 these sums are exact. Few nodes that do
much are faster than many, so the blocks of rows that go together are made together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import PIL

from sktransfer._images import HUGE, Preprocessing
from sktransfer.deploy._graph import Graph

# Pillow's: bits after the point of a weight.
_BITS = 22
# Columns or rows of the result that are computed together: they depend on a part of the image only.
_BLOCK = 32


class _Axis(NamedTuple):
    """Width or height: names of numbers in float64 that the graph computes."""

    length: str  # of the image
    resized: str
    first: str  # of the crop, in the resized image
    kept: str  # length of the crop


def add_preprocessing(g: Graph, image: str, preprocessing: Preprocessing) -> str:
    """Add nodes from an image (height, width, 3) of uint8 to a normalized batch of one."""
    shape = g.cast(g("Shape", image), np.float64)
    height, width = (g("Gather", shape, number) for number in (0, 1))
    across, down = _axes(g, width, height, preprocessing)
    pixels = (g("Mul", one, other) for one, other in zip(across[:2], down[:2], strict=True))
    before, after = pixels
    huge = g("Greater", after, g("Max", float(HUGE), before))
    turned = None
    if int(PIL.__version__.split(".")[0]) >= 13:
        # Rows first where the height shrinks by more than twice as many pixels as the width.
        size = [g("Where", huge, each.kept, each.resized) for each in (across, down)]
        fewer = [g("Sub", each.length, own) for each, own in zip((across, down), size, strict=True)]
        more = g("Max", 0.0, g("Mul", fewer[0], 2.0))
        turned = g("Greater", fewer[1], more)
        names = [g("Where", turned, *pair) for pair in zip(down, across, strict=True)]
        across, down = (
            _Axis(*names),
            _Axis(*(g("Where", turned, *pair) for pair in zip(across, down, strict=True))),
        )
    columns = _weights(g, across, huge, preprocessing)
    rows = _weights(g, down, huge, preprocessing)
    first, last = np.array([0]), np.array([_n_blocks(preprocessing) - 1])
    # What is above and below is cropped away.
    top, bottom = (g("Gather", *each) for each in ((rows.first, first), (rows.end, last)))
    planes = g("Transpose", image, perm=[2, 0, 1])
    if turned is not None:
        planes = g.either(turned, "Transpose", image, {"perm": [2, 1, 0]}, {"perm": [2, 0, 1]})
    planes = g("Slice", planes, top, bottom, np.array([1]))
    columns = columns._replace(matrix=g("Transpose", columns.matrix, perm=[0, 2, 1]))
    rows = rows._replace(first=g("Sub", rows.first, top), end=g("Sub", rows.end, top))
    for axis, weights in ((2, columns), (1, rows)):
        parts = []
        for matrix, first, end in zip(
            *(_blocks(g, each, preprocessing) for each in weights), strict=True
        ):
            part = g.cast(g("Slice", planes, first, end, np.array([axis])), np.float64)
            parts.append(g("MatMul", *((part, matrix) if axis == 2 else (matrix, part))))
        planes = _as_bytes(g, g("Concat", *parts, axis=axis), axis, preprocessing)
    if turned is not None:
        planes = g("Where", turned, g("Transpose", planes, perm=[0, 2, 1]), planes)
    mean, std = (
        np.array(each, np.float32).reshape(-1, 1, 1)
        for each in (preprocessing.mean, preprocessing.std)
    )
    scaled = g("Div", g.cast(planes, np.float32), np.float32(255))
    return g("Unsqueeze", g("Div", g("Sub", scaled, mean), std), np.array([0]))


def _axes(g: Graph, width: str, height: str, pre: Preprocessing) -> tuple[_Axis, _Axis]:
    """Return what ``Preprocessing._geometry`` does for width and height."""
    side = float(pre.resize_size)
    if pre.resize_mode == "squash":
        resized = [g.constant(side)] * 2
    elif pre.resize_mode == "longest":
        longer = g("Max", width, height)
        resized = [
            g("Max", 1.0, g("Round", g("Div", g("Mul", each, side), longer)))
            for each in (width, height)
        ]
    else:
        upright = g("LessOrEqual", width, height)
        wide, high = (
            g("Floor", g("Div", g("Mul", side, one), other))
            for one, other in ((width, height), (height, width))
        )
        resized = [g("Where", upright, side, wide), g("Where", upright, high, side)]
    found = []
    for length, own in zip((width, height), resized, strict=True):
        spare = g("Max", 0.0, g("Sub", own, float(pre.size)))
        first = g("Round", g("Mul", spare, 0.5))  # half to even, as Python rounds
        found.append(_Axis(length, own, first, g("Min", own, float(pre.size))))
    return found[0], found[1]


class _Weights(NamedTuple):
    """Weights (block, row of the result, pixel), and each block's pixels: (block,) in int64."""

    matrix: str
    first: str
    end: str


def _weights(g: Graph, axis: _Axis, huge: str, pre: Preprocessing) -> _Weights:
    """Return the weights of the pixels along an axis, for blocks of rows of the result."""
    # Of a strip that would become huge, Pillow is given the crop alone, in float32.
    ends = [
        g.cast(g("Div", g("Mul", place, axis.length), axis.resized), np.float32)
        for place in (axis.first, g("Add", axis.first, axis.kept))
    ]
    cropped = g("Div", g.cast(g("Sub", ends[1], ends[0]), np.float64), axis.kept)
    scale = g("Where", huge, cropped, g("Div", axis.length, axis.resized))
    start = g("Where", huge, g.cast(ends[0], np.float64), 0.0)
    skipped = g("Where", huge, 0.0, axis.first)
    padding = g("Floor", g("Mul", g("Sub", float(pre.size), axis.kept), 0.5))
    n_rows = _n_blocks(pre) * _BLOCK
    place = g("Sub", np.arange(n_rows, dtype=np.float64).reshape(-1, _BLOCK, 1), padding)
    inside = g("And", g("GreaterOrEqual", place, 0.0), g("Less", place, axis.kept))
    place = g("Max", 0.0, g("Min", place, g("Sub", axis.kept, 1.0)))  # those outside are 0
    place = g("Add", place, skipped)
    make = _nearest if pre.interpolation == "nearest" else _filtered
    matrix, first, end = make(g, place, scale, start, axis.length, pre.interpolation)
    limits = [g.cast(g("Reshape", each, np.array([-1])), np.int64) for each in (first, end)]
    return _Weights(g("Where", inside, matrix, 0.0), *limits)


def _n_blocks(pre: Preprocessing) -> int:
    return -(-pre.size // _BLOCK)


def _pixels(g: Graph, lowest: str, highest: str, length: str) -> tuple[str, str, str]:
    """Return the pixels that blocks need, equally many each, and the first and the end of them."""
    first = g("ReduceMin", lowest, np.array([1]))
    n = g("ReduceMax", g("Sub", g("ReduceMax", highest, np.array([1])), first), keepdims=0)
    first = g("Min", first, g("Sub", length, n))
    return g("Add", first, g("Range", 0.0, n, 1.0)), first, g("Add", first, n)


def _filtered(
    g: Graph, place: str, scale: str, start: str, length: str, interpolation: str
) -> tuple[str, str, str]:
    """Return the weights of a filter, of pixels from the first to the end."""
    reach, shape = _FILTERS[interpolation]
    stretch = g("Max", scale, 1.0)
    support = g("Mul", stretch, reach)
    center = g("Add", start, g("Mul", g("Add", place, 0.5), scale))
    lowest = g("Max", 0.0, g("Floor", g("Add", g("Sub", center, support), 0.5)))
    highest = g("Min", length, g("Floor", g("Add", g("Add", center, support), 0.5)))
    pixels, first, end = _pixels(g, lowest, highest, length)
    away = g("Mul", g("Add", g("Sub", pixels, center), 0.5), g("Div", 1.0, stretch))
    seen = g("And", g("GreaterOrEqual", pixels, lowest), g("Less", pixels, highest))
    weights = g("Where", seen, shape(g, away), 0.0)
    weights = g("Div", weights, g("ReduceSum", weights, np.array([2]), keepdims=1))
    # To the nearest of 22 bits, halves away from zero.
    size = g("Floor", g("Add", g("Mul", g("Abs", weights), float(2**_BITS)), 0.5))
    return g("Mul", g("Mul", g("Sign", weights), size), 2.0**-_BITS), first, end


def _nearest(
    g: Graph, place: str, scale: str, start: str, length: str, _: str
) -> tuple[str, str, str]:
    """Return weights of which one in each row is not zero."""
    # Pillow adds up steps, and their rounding errors.
    count = g("Reshape", g.cast(g("ReduceMax", place, keepdims=0), np.int64), np.array([1]))
    begin = g("Reshape", g("Add", start, g("Mul", scale, 0.5)), np.array([1]))
    steps = g("CumSum", g("Concat", begin, g("Expand", scale, count), axis=0), 0)
    seen = g("Floor", g("Gather", steps, g.cast(place, np.int64)))
    seen = g("Min", seen, g("Sub", length, 1.0))
    pixels, first, end = _pixels(g, seen, g("Add", seen, 1.0), length)
    return g("Where", g("Equal", pixels, seen), 1.0, 0.0), first, end


def _blocks(g: Graph, values: str, pre: Preprocessing) -> list[str]:
    """Return the blocks of an array."""
    n = _n_blocks(pre)
    return g.several(n, "Split", values, num_outputs=n) if n > 1 else [values]


def _as_bytes(g: Graph, sums: str, axis: int, pre: Preprocessing) -> str:
    """Return sums of pixels times weights as Pillow rounds and bounds them."""
    if pre.size % _BLOCK:
        sums = g("Slice", sums, np.array([0]), np.array([pre.size]), np.array([axis]))
    # A cast cuts what is behind the point.
    return g.cast(g("Clip", g("Add", sums, 0.5), 0.0, 255.0), np.uint8)


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
    cosine = g("Cos", g("Mul", g("Abs", x), np.pi))
    both = g("Mul", _sinc(g, g("Abs", x)), g("Add", _float(0.54), g("Mul", _float(0.46), cosine)))
    return g("Where", g("Less", g("Abs", x), 1.0), both, 0.0)


def _box(g: Graph, x: str) -> str:
    inside = g("And", g("Greater", x, -0.5), g("LessOrEqual", x, 0.5))
    return g("Where", inside, 1.0, 0.0)


_FILTERS: dict[str, tuple[float, Callable[[Graph, str], str]]] = {
    "bilinear": (1.0, _triangle),
    "bicubic": (2.0, _cubic),
    "lanczos": (3.0, _lanczos),
    "hamming": (1.0, _hamming),
    "box": (0.5, _box),
}
