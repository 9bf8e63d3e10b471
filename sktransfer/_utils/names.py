"""Names of files as they can be shown and stored: some are not Unicode, some are not one line.

Names travel as Python has them, with a lone surrogate for each byte that is not UTF-8, so that
files can be opened. Output and columns of text would fail at such a name: both go through here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any

import pandas as pd

# Text that is no name at all may be of any length.
_LONGEST, _BEGINNING, _END = 200, 120, 70


def shown(name: str | bytes | os.PathLike[str]) -> str:
    r"""Return a name on one line of Unicode: other bytes as ``\xfc``, control characters as ``\n``.

    Long names lose their middle.
    """
    text = os.fsdecode(name)
    if not text.isprintable():
        text = "".join(letter if letter.isprintable() else _escaped(letter) for letter in text)
    return text if len(text) <= _LONGEST else f"{text[:_BEGINNING]}[...]{text[-_END:]}"


def quoted(name: str | bytes | os.PathLike[str]) -> str:
    """Return a name in quotation marks, as it can be shown."""
    return f"'{shown(name)}'"


def _escaped(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return repr(letter)[1:-1]


def path_column(paths: Iterable[Any]) -> pd.Series:
    """Return paths as a column: of text, or of objects where one of them is no Unicode."""
    values = list(paths)
    odd = any(isinstance(path, str) and re.search("[\ud800-\udfff]", path) for path in values)
    return pd.Series(values, dtype=object if odd else None)
