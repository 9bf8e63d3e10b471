"""One rule for identifiers: a patient is the same patient as a number, as text and in a file."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.utils.validation import column_or_1d

from sktransfer._utils.per_row import as_column


def read_groups(groups: ArrayLike, *, name: str = "groups", n: int | None = None) -> np.ndarray:
    """Return the group of each row, such as the patient, as text.

    A missing one is an error, since all such rows would be taken for rows of one patient. ``n`` is
    the number of rows there have to be.
    """
    column: np.ndarray = column_or_1d(as_column(groups))
    if n is not None and len(column) != n:
        raise ValueError(f"{name} has {len(column)} entries for {n} rows.")
    try:
        codes, distinct = pd.factorize(column)
    except TypeError as error:
        kinds = sorted({type(each).__name__ for each in column})
        raise TypeError(
            f"{name} has to name a group for each row, as text or as a number; got "
            f"{' and '.join(kinds)}."
        ) from error
    names = np.array([*map(identifier, distinct), ""], dtype=object)[codes]  # -1: missing
    missing = np.flatnonzero(names == "")
    if len(missing):
        raise ValueError(
            f"{name}: {len(missing)} of {len(names)} rows have no group, the first is row "
            f"{missing[0]}. Leave them out, or give each a group of its own."
        )
    return names


def identifier(value: Any) -> str:
    """Return an identifier as text: stripped, in one Unicode form, 101.0 as "101".

    Tables with empty cells turn whole numbers into floats; zeros in front are part of a name.
    """
    if isinstance(value, bytes):
        text = value.decode("utf-8", "surrogateescape")
    elif isinstance(value, (float, np.floating)) and value.is_integer():
        text = str(int(value))
    else:
        text = str(value)
    text = unicodedata.normalize("NFC", text.strip("\0 ")).strip()
    return text[:-2] if re.fullmatch(r"-?[0-9]+\.0", text) else text
