"""Values of DICOM elements, for headers whose elements may be empty, odd or of the wrong type.

That an element is there says nothing: its value is asked for, what cannot be one is named, and what
was decided in its place is noted.
"""

from __future__ import annotations

import math
from typing import Any

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

# What an enhanced file may say for each frame, and in which sequence.
_PER_FRAME = {
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "VOILUTFunction"),
}

_LONGEST_VALUE = 40


class UnreadableError(Exception):
    """What is wrong with the file, in words for its owner."""


class Notes:
    """What was decided where a file says nothing, nothing that helps, or two things at once."""

    def __init__(self) -> None:
        self.all: list[str] = []
        self.corrections: list[str] = []

    def add(self, text: str) -> None:
        """Note a decision that the standard, or an element's absence, leaves no doubt about."""
        if text not in self.all:
            self.all.append(text)

    def correct(self, text: str) -> None:
        """Note one by which something other than what the file says is shown."""
        self.add(text)
        if text not in self.corrections:
            self.corrections.append(text)


class Values:
    """Elements of a dataset by their keywords."""

    def __init__(self, dataset: Dataset, notes: Notes, little_endian: bool = True) -> None:
        self.dataset, self.notes, self.little_endian = dataset, notes, little_endian

    def parts(self, keyword: str) -> list[Any]:
        """Return each value of an element, as it is; empty ones are None."""
        value = _value(self.dataset, keyword)
        if isinstance(value, Sequence):
            return []
        if isinstance(value, bytes):
            value = value.decode("latin-1")
        if isinstance(value, str):
            value = value.split("\\")
        elif not (isinstance(value, (list, tuple)) or type(value).__name__ == "MultiValue"):
            value = [value]
        parts = [_stripped(part) for part in value]
        return parts if any(part is not None for part in parts) else []

    def numbers(self, keyword: str) -> list[float | None]:
        """Return each value of an element as a finite number; None for what is not one."""
        return [_number(part) for part in self.parts(keyword)]

    def number(self, keyword: str) -> float | None:
        """Return an element's one value, or None if it has none.

        Raises UnreadableError if it is no finite number, or if there are several.
        """
        parts = self.parts(keyword)
        if not parts:
            return None
        numbers = {_number(part) for part in parts}
        if len(numbers) > 1 or None in numbers:
            raise UnreadableError(
                f"damaged DICOM file: {named(keyword)} is {self.shown(keyword)}, and should be one "
                "number. Correct the header, or leave the file out."
            )
        return numbers.pop()

    def integer(self, keyword: str) -> int | None:
        """Return an element's one value, or None; raise UnreadableError if it is no integer."""
        number = self.number(keyword)
        if number is not None and number != int(number):
            raise UnreadableError(
                f"damaged DICOM file: {named(keyword)} is {number:g}, and should be an integer."
            )
        return None if number is None else int(number)

    def first(self, keyword: str) -> Any:
        """Return an element's first value, or None."""
        return next(iter(self.parts(keyword)), None)

    def text(self, keyword: str) -> str:
        """Return an element's first value as upper-case text, empty if it has none."""
        value = self.first(keyword)
        return "" if value is None else " ".join(str(value).upper().split())

    def items(self, keyword: str) -> list[Values]:
        """Return the items of a sequence."""
        value = _value(self.dataset, keyword)
        items = value if isinstance(value, (Sequence, list)) else []
        return [self._of(item) for item in items if isinstance(item, Dataset)]

    def _of(self, dataset: Dataset) -> Values:
        return Values(dataset, self.notes, self.little_endian)

    def shown(self, keyword: str) -> str:
        """Return an element's value as it stands in a message."""
        text = "\\".join("" if part is None else str(part) for part in self.parts(keyword))
        return repr(text[:_LONGEST_VALUE]) if text else "empty"

    def of_frame(self, frame: int) -> Values:
        """Return the elements with what an enhanced file says of this frame or of all of them."""
        flat = self._of(Dataset(self.dataset))
        flat.dataset.file_meta = self.dataset.file_meta
        shared = self.items("SharedFunctionalGroupsSequence")[:1]
        each = self.items("PerFrameFunctionalGroupsSequence")
        if each and frame >= len(each):
            self.notes.correct(
                f"{named('PerFrameFunctionalGroupsSequence')} ends before this frame: its window "
                "and rescaling are those of all frames"
            )
        for group in (*shared, *each[frame : frame + 1]):
            for sequence, keywords in _PER_FRAME.items():
                for item in group.items(sequence)[:1]:
                    for keyword in keywords:
                        if item.parts(keyword):
                            tag = _tag(keyword)
                            flat.dataset[tag] = item.dataset.get_item(tag)
        return flat


def named(keyword: str) -> str:
    """Return an element's name and number, as in the standard: "Rows (0028,0010)"."""
    tag = _tag(keyword)
    return f"{keyword} ({tag >> 16:04X},{tag & 0xFFFF:04X})"


def _tag(keyword: str) -> int:
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    return tag


def _value(dataset: Dataset, keyword: str) -> Any:
    try:
        return dataset.get(keyword)
    except Exception:  # pydicom refuses a value that its type cannot hold
        tag = tag_for_keyword(keyword)
        return None if tag is None else getattr(dataset.get_item(tag), "value", None)


def _stripped(part: Any) -> Any:
    if isinstance(part, bytes):
        part = part.decode("latin-1")
    if part is None or isinstance(part, (int, float, Dataset)):
        return part
    return str(part).strip(" \0\t\r\n") or None


def _number(part: Any) -> float | None:
    try:
        number = float(part)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
