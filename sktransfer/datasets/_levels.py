"""Columns that describe rows, such as sex and age, as levels to tabulate by."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from sktransfer._utils.identifiers import identifier
from sktransfer._utils.per_row import as_columns
from sktransfer.datasets._dicom import is_dicom_ages, years

# A level of fewer rows shows nothing about a model, and may identify a person.
LEAST_ROWS = 10
_MOST_LEVELS = 12
_BANDS = 4


def read_columns(given: Any, n: int, what: str) -> pd.DataFrame:
    """Return named columns of ``n`` rows; infinite numbers are missing, ages of DICOM are years."""
    columns = as_columns(given, n, what)
    for name, column in columns.items():
        if column.dtype.kind == "f":
            columns[name] = column.where(np.isfinite(column))
        elif is_dicom_ages(column):
            columns[name] = column.map(years, na_action="ignore").astype(float)
    return columns


def too_many(column: pd.Series) -> bool:
    """Return whether a column has more levels than are tabulated, and no numbers to band."""
    numeric = pd.api.types.is_numeric_dtype(column) and column.dtype != bool
    return column.nunique() > _MOST_LEVELS and not (numeric or is_dicom_ages(column))


def levels_of(column: pd.Series, name: str) -> dict[Any, np.ndarray]:
    """Return the rows of each level: bands of numbers, values of anything else.

    They are sorted; "unknown", where there is none, comes last.
    """
    levels = _levels(column, name)
    return {level: np.flatnonzero(levels == level) for level in _order(levels)}


def _levels(column: pd.Series, name: str) -> np.ndarray:
    """Return bands of numbers, values of anything else, "unknown" where there is none."""
    if too_many(column):
        raise ValueError(
            f"The subgroup {name!r} has {column.nunique()} different values, but at most "
            f"{_MOST_LEVELS} are tabulated: join some, leave the column out, or pass a column of "
            "numbers, which is cut into bands."
        )
    if not pd.api.types.is_numeric_dtype(column):  # 1 and "1" are one site
        column = column.astype(object).map(identifier, na_action="ignore")
        column = column.mask(column == "")
    # Whole numbers of a few values are codes.
    if column.nunique() > _MOST_LEVELS:
        column = pd.qcut(column, _BANDS, duplicates="drop", precision=3)
    levels = column.astype(object)
    levels[column.isna().to_numpy()] = "unknown"
    return levels.to_numpy()


def _order(levels: np.ndarray) -> list[Any]:
    """Sort levels, the unknown one last."""
    distinct = pd.unique(levels)
    known = [each for each in distinct if str(each) != "unknown"]
    try:
        known.sort()
    except TypeError:
        known.sort(key=str)
    return [*known, *["unknown"] * (len(known) < len(distinct))]
