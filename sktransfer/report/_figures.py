"""Drawings as ``data:`` addresses, for light and for dark paper; it must not know what is drawn."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

from sktransfer._utils.config import import_optional
from sktransfer.report._document import Figure

# The style sheet has the same colors of paper and ink.
PAPER = {"light": "#ffffff", "dark": "#1a1d23"}
INK = {"light": "#1b1f24", "dark": "#e4e7eb"}
# Okabe and Ito's, which differ for color-blind eyes too; lighter where the paper is dark.
_CYCLE = {
    "light": ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"],
    "dark": ["#56b4e9", "#ffa04d", "#2fd0a5", "#e7a3c8", "#9bd0f5", "#f0c04d"],
}
# What displays draw in colors of their own, for dark paper.
_LIGHTER = {
    "#000000": INK["dark"],
    "#ffffff": PAPER["dark"],
    "#5d3a9b": "#c3a6ff",
    "#d55e00": "#ff8f4d",
}
_CSS_PIXELS = 96  # per inch
_QUALITY = 88  # of WebP
_SHARP = 2  # pixels of a photograph for each of those


def scratch() -> Any:
    """A figure to throw away: displays draw when they are made."""
    return _figure_class()()


def _figure_class() -> Any:
    """Of figures that no window shows."""
    return import_optional("matplotlib.figure", extra="report", purpose="diagnostic_report").Figure


def themed(
    draw: Callable[[Any], Any],
    *,
    name: str,
    alt: str,
    caption: str,
    size: tuple[float, float],
    photographs: bool = False,
) -> Figure:
    """Draw twice and keep both.

    Parameters
    ----------
    draw : callable
        Given an empty matplotlib Figure, fills it.
    name, alt, caption : str
        As of :class:`Figure`.
    size : (width, height)
        In inches.
    photographs : bool, default=False
        Whether pixels are drawn (WebP) rather than lines (SVG).
    """
    matplotlib = import_optional("matplotlib", extra="report", purpose="diagnostic_report")
    addresses = {}
    for theme in ("light", "dark"):
        with matplotlib.rc_context(_settings(matplotlib, theme)):
            figure = _figure_class()(figsize=size, layout="constrained")
            draw(figure)
            if theme == "dark":
                _lighten(figure)
            addresses[theme] = _address(figure, photographs)
    width, height = (round(side * _CSS_PIXELS) for side in size)
    return Figure(name, alt, caption, addresses["light"], addresses["dark"], width, height)


def _settings(matplotlib: Any, theme: str) -> dict[str, Any]:
    ink, paper = INK[theme], PAPER[theme]
    usual = matplotlib.rcParamsDefault.items()
    return {
        **{name: value for name, value in usual if not name.startswith("backend")},
        "figure.facecolor": paper,
        "axes.facecolor": paper,
        "savefig.facecolor": paper,
        "legend.facecolor": paper,
        "legend.edgecolor": ink,
        "legend.framealpha": 0.85,
        "axes.prop_cycle": matplotlib.cycler(color=_CYCLE[theme]),
        **dict.fromkeys(
            ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), ink
        ),
        "font.size": 10,
        "svg.hashsalt": "sktransfer",  # the same figure twice is the same file twice
    }


def _address(figure: Any, photographs: bool) -> str:
    buffer = io.BytesIO()
    if photographs:
        # A tenth of what PNG takes.
        figure.savefig(
            buffer, format="webp", dpi=_CSS_PIXELS * _SHARP, pil_kwargs={"quality": _QUALITY}
        )
        kind = "image/webp"
    else:
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        kind = "image/svg+xml"
    return f"data:{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _lighten(figure: Any) -> None:
    """Turn colors that a display chose whatever the settings, and that dark paper swallows."""
    artists, lines, patches, collections, texts = (
        import_optional(f"matplotlib.{module}", extra="report", purpose="diagnostic_report")
        for module in ("artist", "lines", "patches", "collections", "text")
    )
    kinds = [
        (lines.Line2D, ("color", "markeredgecolor", "markerfacecolor")),
        (patches.Patch, ("edgecolor", "facecolor")),
        (collections.Collection, ("edgecolor", "facecolor")),
        (texts.Text, ("color",)),
    ]
    for artist in figure.findobj(artists.Artist):
        for kind, names in kinds:
            for name in names if isinstance(artist, kind) else ():
                turned = _turned(getattr(artist, f"get_{name}")())
                if turned is not None:
                    getattr(artist, f"set_{name}")(turned)


def _turned(colors: Any) -> Any:
    """Colors with those of ``_LIGHTER`` replaced; None if there are none of them."""
    from matplotlib.colors import to_hex, to_rgb, to_rgba_array

    if isinstance(colors, str) and colors in ("none", "auto"):
        return None
    given = to_rgba_array(colors)
    new = given.copy()
    for own in new:
        lighter = _LIGHTER.get(to_hex(own[:3]))
        if lighter is not None and own[3] > 0:
            own[:3] = to_rgb(lighter)
    if not len(given) or (new == given).all():
        return None
    return new if len(new) > 1 else tuple(new[0])
