"""What a report is made of: sections of text, tables, figures and numbers.

It must not know how anything is computed, nor how it is written down.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sktransfer.metrics._labels import Interval

# In a cell of a table without a value.
NOTHING = "\N{EN DASH}"
MINUS, INFINITY = "\N{MINUS SIGN}", "\N{INFINITY}"


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes
    ----------
    caption : str
    columns : list of str
        Headings; the first column names the rows.
    rows : list of list of str
    note : str
        What has to be known to read it.
    """

    caption: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """A drawing in two themes.

    Attributes
    ----------
    name : str
        Unique in the report.
    alt : str
        What is to be seen, for who cannot see it.
    caption : str
    light, dark : str
        ``data:`` addresses of the drawing.
    width, height : int
        In CSS pixels.
    """

    name: str
    alt: str
    caption: str
    light: str
    dark: str
    width: int
    height: int


@dataclass(frozen=True)
class Notice:
    """A sentence that must not be overlooked; a warning, or a remark."""

    text: str
    warning: bool = False


@dataclass
class Section:
    """One part of a report.

    Attributes
    ----------
    key : str
        Name of the part, as in ``DiagnosticReport.sections``.
    title : str
    text : list of str
        Paragraphs.
    notices : list of Notice
    tables : list of Table
    figures : list of Figure
    data : dict
        The numbers, in plain types.
    """

    key: str
    title: str
    text: list[str] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)

    def warn(self, text: str) -> None:
        """Add a warning."""
        self.notices.append(Notice(text, warning=True))

    def remark(self, text: str) -> None:
        """Add a remark."""
        self.notices.append(Notice(text))


def number(value: float, digits: int = 3) -> str:
    """A number as text; a dash where there is none."""
    if np.isnan(value):
        return NOTHING
    if np.isinf(value):
        return INFINITY if value > 0 else f"{MINUS}{INFINITY}"
    return f"{value:.{digits}f}".replace("-", MINUS)


def interval(value: Interval | None, digits: int = 3) -> str:
    """An estimate with the ends of its interval, as text."""
    if value is None or np.isnan(value.estimate):
        return NOTHING
    low, high = number(value.low, digits), number(value.high, digits)
    return f"{number(value.estimate, digits)} ({low} to {high})"


def level(confidence_level: float) -> str:
    """How an interval's level is written: "95 %"."""
    return f"{100 * confidence_level:g} %"


def plain(value: Any) -> Any:
    """A value in types that JSON has; numbers that it has not become None."""
    if isinstance(value, Interval):
        return {name: plain(own) for name, own in value._asdict().items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(plain(key)): plain(own) for key, own in value.items()}
    if isinstance(value, (list, tuple, set, np.ndarray)):
        return [plain(own) for own in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value)
