"""Colours and markers of what shares a picture; it must not know any room."""

from __future__ import annotations

# Told apart with every kind of colour vision (Okabe & Ito, 2008), and by their markers.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")


def colour(number: int) -> str:
    """Colour of the line or class with this number, from 0."""
    return _COLOURS[number % len(_COLOURS)]


def marker(number: int) -> str:
    """Its marker, of which there are more than colours: together they repeat late."""
    return _MARKERS[number % len(_MARKERS)]
