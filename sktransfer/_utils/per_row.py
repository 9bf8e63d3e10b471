"""Arguments with a value for each row: they are positional, whatever their index says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd


def as_column(values: Any) -> Any:
    """Return values of rows as an array; what NumPy would turn into words stays missing."""
    if isinstance(values, np.ma.MaskedArray):
        column = values.data.astype(object)
        column[np.ma.getmaskarray(values)] = None
        return column
    if isinstance(values, (list, tuple)) and not all(isinstance(each, str) for each in values):
        column = np.asarray(values)
        # ["ill", nan] would be the words "ill" and "nan", and [True, "no"] "True" and "no".
        return np.asarray(values, dtype=object) if column.dtype.kind in "US" else column
    return np.asarray(values)


def check_present(labels: Any, name: str = "y") -> Any:
    """Return labels, objects that are numbers as such; refuse missing ones, and words with numbers.

    A missing one is also found among words, where NumPy makes "nan" of it.
    """
    column = as_column(labels)
    missing: np.ndarray = np.asarray(pd.isna(column))
    rows: Any = np.unique(np.nonzero(missing)[0]) if missing.ndim else []
    if len(rows):
        raise ValueError(
            f"{name}: {len(rows)} of {len(missing)} rows have no label, the first is row "
            f"{rows[0]}. Leave these rows out."
        )
    if column.dtype != object or not column.ndim:
        return labels
    kinds = {isinstance(each, str): each for each in column.flat}
    if len(kinds) > 1:
        raise TypeError(
            f"{name} has text and other labels, such as {kinds[True]!r} and {kinds[False]!r}: "
            "write all of them in one way."
        )
    found = pd.Series(column.ravel()).infer_objects()
    return found.to_numpy().reshape(column.shape) if found.dtype.kind in "biuf" else labels


def as_frame(table: Any) -> pd.DataFrame | None:
    """Return a table of pandas, polars or pyarrow as one of pandas; None if it is no table."""
    if isinstance(table, pd.DataFrame):
        return table
    if type(table).__module__.startswith("polars.") and hasattr(table, "collect"):
        table = table.collect()
    if hasattr(table, "get_columns"):
        columns = [(column.name, column.to_list()) for column in table.get_columns()]
    elif hasattr(table, "itercolumns") and hasattr(table, "schema"):
        lists = [column.to_pylist() for column in table.itercolumns()]
        columns = list(zip(table.schema.names, lists, strict=True))
    else:
        return None
    # Names may be doubled, which a dictionary would hide.
    frame = pd.DataFrame({place: _inferred(own) for place, (_, own) in enumerate(columns)})
    return frame.set_axis([name for name, _ in columns], axis=1)


def _inferred(values: list[Any]) -> pd.Series:
    """Return a column in the type that holds its values exactly."""
    column = pd.Series(values, dtype=object)
    found = column.infer_objects()
    if found.dtype.kind == "f" and found.abs().max() > 2**53:
        # Whole numbers, one of them missing, would lose digits.
        return column if any(isinstance(each, int) for each in values) else found
    return found


def as_columns(given: Any, n: int, name: str) -> pd.DataFrame:
    """Return named columns of ``n`` rows, of a table or a mapping.

    Rows are taken in their order: the indexes of a DataFrame and of Series are left aside.
    """
    if isinstance(given, pd.Series):
        given = {name if given.name is None else given.name: given}
    frame = as_frame(given)
    if frame is not None:
        columns = [(key, frame.iloc[:, place]) for place, key in enumerate(frame.columns)]
    elif isinstance(given, Mapping):
        columns = list(given.items())
    else:
        raise TypeError(
            f"{name} must be a DataFrame, or a mapping of names to columns, such as "
            f'{{"sex": sex}}; got {type(given).__name__}.'
        )
    found: dict[str, Any] = {}
    for key, own in columns:
        if str(key) in found:
            raise ValueError(f"{name} has two columns {str(key)!r}; rename or remove one.")
        column = np.atleast_1d(as_column(own))
        if column.shape not in ((n,), (n, 1)):
            raise ValueError(
                f"{name.removesuffix('s')} {str(key)!r} has {len(column)} rows for {n} rows of X; "
                f"got shape {column.shape}."
            )
        column = column.ravel()
        found[str(key)] = _inferred(list(column)) if column.dtype == object else column
    return pd.DataFrame(found, index=pd.RangeIndex(n))
