"""The sections of a report, with their tables and figures, and how numbers are written in them."""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from sktransfer._utils.config import import_optional
from sktransfer.metrics._labels import Interval

# In a cell of a table without a value.
NOTHING = "\N{EN DASH}"
MINUS, INFINITY = "\N{MINUS SIGN}", "\N{INFINITY}"
# The style sheet has the same colors of paper and ink.
PAPER = {"light": "#ffffff", "dark": "#1a1d23"}
INK = {"light": "#1b1f24", "dark": "#e4e7eb"}
# Okabe and Ito's colors, which color-blind readers distinguish; lighter on dark paper.
_CYCLE = {
    "light": ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"],
    "dark": ["#56b4e9", "#ffa04d", "#2fd0a5", "#e7a3c8", "#9bd0f5", "#f0c04d"],
}
# What replaces colors that displays choose themselves, on dark paper.
_LIGHTER = {
    "#000000": INK["dark"],
    "#ffffff": PAPER["dark"],
    "#5d3a9b": "#c3a6ff",
    "#d55e00": "#ff8f4d",
}
_CSS_PIXELS = 96  # per inch
_WEBP_QUALITY = 88
_PHOTOGRAPH_SCALE = 2  # pixels of a photograph for each CSS pixel


class Table(NamedTuple):
    """A table of text whose first column names the rows."""

    caption: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""


class Figure(NamedTuple):
    """A drawing as ``data:`` addresses for light and dark paper; its size is in CSS pixels."""

    name: str
    alt: str
    caption: str
    light: str
    dark: str
    width: int
    height: int


class Notice(NamedTuple):
    """A warning or a remark that must not be overlooked."""

    text: str
    warning: bool = False


@dataclass
class Section:
    """One part of a report: paragraphs, notices, tables, figures, and the numbers in ``data``."""

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

    def add_table(
        self, caption: str, columns: list[str], rows: list[list[str]], note: str = ""
    ) -> None:
        """Add a table."""
        self.tables.append(Table(caption, columns, rows, note))

    def add_figure(
        self,
        draw: Callable[[Any], Any],
        *,
        alt: str,
        caption: str,
        size: tuple[float, float],
        photographs: bool = False,
    ) -> None:
        """Draw a figure in both themes and add it.

        ``draw`` fills an empty matplotlib figure of ``size`` in inches. Photographs are kept as
        pixels (WebP), other figures as lines (SVG).
        """
        matplotlib = import_optional("matplotlib", extra="report", purpose="diagnostic_report")
        drawn = {}
        for theme in ("light", "dark"):
            with matplotlib.rc_context(_theme(matplotlib, theme)):
                figure = new_figure(figsize=size, layout="constrained")
                draw(figure)
                drawn[theme] = _webp(figure) if photographs else _svg(figure, theme)
        width, height = (round(side * _CSS_PIXELS) for side in size)
        self.figures.append(
            Figure(self.key, alt, caption, drawn["light"], drawn["dark"], width, height)
        )


def number(value: float, digits: int = 3) -> str:
    """Write a number; a dash where there is none."""
    if np.isnan(value):
        return NOTHING
    if np.isinf(value):
        return INFINITY if value > 0 else f"{MINUS}{INFINITY}"
    return f"{value:.{digits}f}".replace("-", MINUS)


def interval(value: Any, digits: int = 3) -> str:
    """Write an estimate with the limits of its interval."""
    if value is None or np.isnan(value.estimate):
        return NOTHING
    low, high = number(value.low, digits), number(value.high, digits)
    return f"{number(value.estimate, digits)} ({low} to {high})"


def level(confidence_level: float) -> str:
    """Write the level of intervals: "95 %"."""
    return f"{100 * confidence_level:g} %"


def plain(value: Any) -> Any:
    """Convert a value to types that JSON has; other numbers become None."""
    if isinstance(value, Interval):
        value = value._asdict()
    elif dataclasses.is_dataclass(value):
        value = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
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


def new_figure(**settings: Any) -> Any:
    """Return a figure that no window shows.

    Displays plot when they are created: a first figure is thrown away.
    """
    module = import_optional("matplotlib.figure", extra="report", purpose="diagnostic_report")
    return module.Figure(**settings)


def _theme(matplotlib: Any, theme: str) -> dict[str, Any]:
    """Return matplotlib's settings for light or dark paper, whatever the user's settings are."""
    ink, paper = INK[theme], PAPER[theme]
    defaults = matplotlib.rcParamsDefault.items()
    inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    papered = ("figure.facecolor", "axes.facecolor", "savefig.facecolor", "legend.facecolor")
    return {
        **{name: value for name, value in defaults if not name.startswith("backend")},
        **dict.fromkeys((*inked, "legend.edgecolor"), ink),
        **dict.fromkeys(papered, paper),
        "legend.framealpha": 0.85,
        "axes.prop_cycle": matplotlib.cycler(color=_CYCLE[theme]),
        "font.size": 10,
        "text.parse_math": False,  # names with $ are no formulas
        "svg.hashsalt": "sktransfer",  # the same figure twice is the same file twice
    }


def _webp(figure: Any) -> str:
    buffer = io.BytesIO()
    # A tenth of the size of PNG.
    settings = {"dpi": _CSS_PIXELS * _PHOTOGRAPH_SCALE, "pil_kwargs": {"quality": _WEBP_QUALITY}}
    figure.savefig(buffer, format="webp", **settings)
    return _data_address("image/webp", buffer.getvalue())


def _svg(figure: Any, theme: str) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    if theme == "dark":
        for color, lighter in _LIGHTER.items():
            text = text.replace(color, lighter)
        # Black is the default of SVG, which matplotlib therefore does not write.
        text = text.replace("<svg ", f'<svg fill="{INK["dark"]}" ', 1)
    return _data_address("image/svg+xml", text.encode())


def _data_address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
