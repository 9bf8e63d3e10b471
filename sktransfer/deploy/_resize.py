"""What preprocessing does to a decoded image of any size, as an ONNX graph: equal to the bit.

Pillow resizes columns, rounds to eight bits, and then resizes rows. Each output pixel is a weighted
sum of some input pixels, with weights of 22 bits after the point: products of matrices, which are
made in the graph from the size of the image. In float64 these sums are exact.
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
    top, bottom = rows[0].first, rows[-1].end  # what is above and below is cropped away
    planes = g("Transpose", image, perm=[2, 0, 1])
    if turned is not None:
        planes = g.either(turned, "Transpose", image, {"perm": [2, 1, 0]}, {"perm": [2, 0, 1]})
    planes = g("Slice", planes, top, bottom, np.array([1]))
    parts = []
    for block in columns:
        part = g("Slice", planes, block.first, block.end, np.array([2]))
        by_column = g("Transpose", block.matrix, perm=[1, 0])
        parts.append(g("MatMul", g.cast(part, np.float64), by_column))
    planes = _as_bytes(g, g("Concat", *parts, axis=2))
    parts = []
    for block in rows:
        first, end = (g("Sub", each, top) for each in (block.first, block.end))
        parts.append(g("MatMul", block.matrix, g("Slice", planes, first, end, np.array([1]))))
    planes = _as_bytes(g, g("Concat", *parts, axis=1))
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


class _Block(NamedTuple):
    """Weights (rows of the result, pixels of the image), and which pixels: (1,) in int64."""

    matrix: str
    first: str
    end: str


def _weights(g: Graph, axis: _Axis, huge: str, pre: Preprocessing) -> list[_Block]:
    """Return the weights of the pixels along an axis, some rows of the result at a time."""
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
    make = _nearest if pre.interpolation == "nearest" else _filtered
    blocks = []
    for low in range(0, pre.size, _BLOCK):
        rows = np.arange(low, min(low + _BLOCK, pre.size), dtype=np.float64)[:, None]
        place = g("Sub", rows, padding)
        inside = g("And", g("GreaterOrEqual", place, 0.0), g("Less", place, axis.kept))
        place = g("Max", 0.0, g("Min", place, g("Sub", axis.kept, 1.0)))  # those outside are 0
        place = g("Add", place, skipped)
        matrix, first, end = make(g, place, scale, start, axis.length, pre.interpolation)
        limits = [g("Reshape", g.cast(each, np.int64), np.array([1])) for each in (first, end)]
        blocks.append(_Block(g("Where", inside, matrix, 0.0), *limits))
    return blocks


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
    first, end = g("ReduceMin", lowest, keepdims=0), g("ReduceMax", highest, keepdims=0)
    pixels = g("Range", first, end, 1.0)
    away = g("Mul", g("Add", g("Sub", pixels, center), 0.5), g("Div", 1.0, stretch))
    seen = g("And", g("GreaterOrEqual", pixels, lowest), g("Less", pixels, highest))
    weights = g("Where", seen, shape(g, away), 0.0)
    weights = g("Div", weights, g("ReduceSum", weights, np.array([1]), keepdims=1))
    # To the nearest of 22 bits, halves away from zero.
    size = g("Floor", g("Add", g("Mul", g("Abs", weights), float(2**_BITS)), 0.5))
    return g("Mul", g("Sign", weights), size), first, end


def _nearest(
    g: Graph, place: str, scale: str, start: str, length: str, _: str
) -> tuple[str, str, str]:
    """Return weights of which one in each row is not zero."""
    # Pillow adds up steps, and their rounding errors.
    count = g("Reshape", g.cast(g("ReduceMax", place, keepdims=0), np.int64), np.array([1]))
    begin = g("Reshape", g("Add", start, g("Mul", scale, 0.5)), np.array([1]))
    steps = g("CumSum", g("Concat", begin, g("Expand", scale, count), axis=0), 0)
    seen = g("Floor", g("Gather", steps, g.cast(place, np.int64)))
    first = g("Min", g("ReduceMin", seen, keepdims=0), g("Sub", length, 1.0))
    end = g("Min", length, g("Add", g("ReduceMax", seen, keepdims=0), 1.0))
    equal = g("Equal", g("Range", first, end, 1.0), seen)
    return g("Where", equal, float(2**_BITS), 0.0), first, end


def _as_bytes(g: Graph, sums: str) -> str:
    """Return sums of pixels times weights as Pillow rounds and bounds them, in float64."""
    rounded = g("Floor", g("Add", g("Mul", sums, 2.0**-_BITS), 0.5))
    return g("Min", g("Max", rounded, 0.0), 255.0)


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
