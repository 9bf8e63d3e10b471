"""One rule for identifiers: a patient is the same patient as a number, as text and in a file."""

from __future__ import annotations

import datetime
import re
import unicodedata
import warnings
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from sktransfer._utils.per_row import as_column

_SHORTENED = re.compile(r"[0-9](\.[0-9]+)?E\+[0-9]{2}")
# Copying from web pages and dialogs brings marks of direction and width with it.
_UNSEEN = r"[\s\0\u200b-\u200f\u202a-\u202e\u2060\ufeff]+"
_ENDS = re.compile(rf"^{_UNSEEN}|{_UNSEEN}$")


def read_groups(groups: ArrayLike, *, name: str = "groups", n: int | None = None) -> np.ndarray:
    """Return the group of each row, such as the patient, as text.

    A missing one is an error, since all such rows would be taken for rows of one patient. ``n`` is
    the number of rows there have to be.
    """
    column: np.ndarray = as_column(groups)
    if column.ndim != 1 and column.shape[1:] != (1,):
        raise ValueError(
            f"{name} has to be one column; got shape {column.shape}. To group by several, join "
            'them as text: site + "/" + patient.'
        )
    column = column.ravel()
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
    _check_digits(distinct, name)
    names = np.array([*map(identifier, distinct), ""], dtype=object)[codes]  # -1: missing
    missing = np.flatnonzero(names == "")
    if len(missing):
        raise ValueError(
            f"{name}: {len(missing)} of {len(names)} rows have no group, the first is row "
            f"{missing[0]}. Leave them out, or give each a group of its own."
        )
    return names


def _check_digits(distinct: Any, name: str) -> None:
    """Refuse floats that are too large for whole numbers; warn of what spreadsheets shorten."""
    for value in distinct:
        if isinstance(value, (float, np.floating)) and abs(np.spacing(value)) > 1:
            raise ValueError(
                f"{name} has the {type(value).__name__} {value!s}, which has too few digits for a "
                "whole number of this size, so that several groups may have become one. Read "
                "identifiers as text."
            )
        if isinstance(value, str) and _SHORTENED.fullmatch(value.strip()):
            warnings.warn(
                f"{name} has {str(value)!r}, as spreadsheets shorten long numbers: several groups "
                "may have become one. Format the column as text, and export the table again.",
                stacklevel=3,
            )
            return


def cleaned(text: str) -> str:
    """Return text in one Unicode form, without blanks and invisible characters at its ends."""
    return _ENDS.sub("", unicodedata.normalize("NFC", text))


def identifier(value: Any) -> str:
    """Return an identifier as text: stripped, in one Unicode form, 101.0 as "101".

    Tables with empty cells turn whole numbers into floats; zeros in front are part of a name.
    """
    if isinstance(value, bytes):
        text = value.decode("utf-8", "surrogateescape")
    elif isinstance(value, (float, np.floating)) and value.is_integer():
        text = str(int(value))
    elif isinstance(value, (np.datetime64, datetime.date)):
        text = str(pd.Timestamp(value)).removesuffix(" 00:00:00")
    else:
        text = str(value)
    text = cleaned(text)
    return text[:-2] if re.fullmatch(r"-?[0-9]+\.0", text) else text
