"""Colors and markers of what shares an image; it must not know any module."""

from __future__ import annotations

# Told apart with every kind of color vision (Okabe & Ito, 2008), and by their markers.
_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")


def palette_color(number: int) -> str:
    """Color of the line or class with this number, from 0."""
    return _COLORS[number % len(_COLORS)]


def palette_marker(number: int) -> str:
    """Its marker, of which there are more than colors: together they repeat late."""
    return _MARKERS[number % len(_MARKERS)]
