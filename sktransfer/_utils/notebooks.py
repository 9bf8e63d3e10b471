"""What notebooks show: results as frames of text and tables, and progress bars.

Everything is escaped, and colors are those of the page around it, light or dark.
"""

from __future__ import annotations

import html
import multiprocessing
import sys
import warnings
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

_MOST_ROWS = 20
_FRAME = "border: 1px solid rgba(127, 127, 127, .5); border-radius: 4px; padding: .6em 1em"
_ALERT = "border-left: 4px solid #d55e00; padding-left: .6em"
_SCROLLS = "overflow-x: auto"


def card(
    title: str,
    lines: Iterable[str] = (),
    tables: Mapping[str, pd.DataFrame] | None = None,
    *,
    items: Iterable[str] = (),
    alerts: Iterable[str] = (),
    rest: str = "",
) -> str:
    """Return a title, sentences, alerts, a list of items and tables (by caption) as HTML.

    ``rest`` is HTML that follows as it is.
    """
    listed = "".join(f"<li>{_text(each)}</li>" for each in items)
    parts = [
        f'<div class="sktransfer" style="{_FRAME}"><strong>{_text(title)}</strong>',
        *(f"<p>{_text(each)}</p>" for each in lines),
        *(f'<p style="{_ALERT}">{_text(each)}</p>' for each in alerts),
        f"<ul>{listed}</ul>" if listed else "",
        *(_table(caption, frame) for caption, frame in (tables or {}).items()),
        f"{rest}</div>",
    ]
    return "\n".join(part for part in parts if part)


def _table(caption: str, frame: pd.DataFrame) -> str:
    """Return a table with its caption; of a long one, the first and the last rows."""
    if any(frame.index.names):  # else rows have numbers, which say nothing
        frame = frame.reset_index()
    cells = {_text(name): [_cell(value) for value in frame[name]] for name in frame.columns}
    with pd.option_context("display.max_colwidth", None):
        body = pd.DataFrame(cells, dtype=object).to_html(
            border=0, index=False, escape=False, max_rows=_MOST_ROWS
        )
    left_out = f" ({len(frame)} rows)" if len(frame) > _MOST_ROWS else ""
    return f'<p>{_text(caption)}{left_out}</p><div style="{_SCROLLS}">{body}</div>'


def _cell(value: Any) -> str:
    """Return a value as text, numbers with about three digits."""
    if isinstance(value, (float, np.floating)):
        if np.isnan(value):
            return ""
        size = abs(float(value))
        if 0 < size < 0.01:
            return f"{value:.3g}"
        return f"{value:,.{0 if size >= 100 else 1 if size >= 10 else 3}f}"
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return f"{value:,}"
    return _text(value)


def _text(value: Any) -> str:
    """Return text with nothing in it that is markup, or no Unicode."""
    return html.escape(str(value).encode("utf-8", "backslashreplace").decode())


def progress_bar(title: str | None, **settings: Any) -> Any:
    """Return a bar of tqdm's, with further settings of it; without a title it shows nothing.

    A worker process of joblib or Dask shows none, unless ``disable=False``: several would write
    over each other in a terminal, and what a notebook's workers write does not appear in it.
    """
    silent = title is None or multiprocessing.parent_process() is not None
    if settings.get("disable", silent):
        return nullcontext(SimpleNamespace(update=lambda n: None, disable=True))
    if "tqdm.auto" not in sys.modules:  # it chooses the kind of bar that suits the place
        with warnings.catch_warnings():
            # In a notebook without ipywidgets, the import warns, and the bar is one of text.
            warnings.filterwarnings("ignore", "IProgress not found")
            import_module("tqdm.auto")
    from tqdm.auto import tqdm

    return tqdm(**{"desc": title, "dynamic_ncols": True, **settings})
