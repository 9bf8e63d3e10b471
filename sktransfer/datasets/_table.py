"""A table with one image a row (a CSV of file names and labels) as a Bunch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils import Bunch

# Usual names of columns, most telling first. A lesion is photographed several times, a patient has
# several lesions: the coarser unit is the one to split by.
FILE_COLUMNS = ("file", "filename", "file_name", "path", "filepath", "image", "image_path")
GROUP_COLUMNS = (
    "group",
    "patient_id",
    "patient",
    "patientid",
    "subject_id",
    "subject",
    "lesion_id",
)
GROUPS_ADVICE = "Complete the table, or pass groups=None."


def load_image_table(
    table: str | os.PathLike[str] | pd.DataFrame,
    *,
    image: str | None = None,
    target: str | None = None,
    groups: str | None = "auto",
    columns: Sequence[str] = (),
    root: str | os.PathLike[str] | None = None,
    return_X_y: bool = False,
) -> Any:
    """Read a table of images, each row with the file's name in one column.

    Parameters
    ----------
    table : path-like or DataFrame
        A CSV file or its content. Group columns are read as text, so that a patient id keeps its
        leading zeros.
    image : str or None, default=None
        Column of file names. None: the first of "file", "filename", "file_name", "path",
        "filepath", "image" and "image_path" that is there, in upper or lower case.
    target : str or None, default=None
        Column of labels. Text becomes 0, 1, ... in sorted order, with ``target_names``; numbers
        stay as they are. None: ``target`` is None.
    groups : str or None, default="auto"
        Column that tells which rows belong together (a patient, a lesion), to be given to a
        grouped splitter. "auto": the first of "group", "patient_id", "patient", "patientid",
        "subject_id", "subject" and "lesion_id" that is there, or None.
    columns : sequence of str, default=()
        Further columns to keep alongside the images in ``data`` (age, sex, ...), for a
        ``ColumnTransformer``.
    root : path-like or None, default=None
        Folder that file names are relative to. None: that of the CSV, or the working directory.
    return_X_y : bool, default=False
        Whether ``(data, target)`` is returned instead of the Bunch.

    Returns
    -------
    Bunch
        ``data``: DataFrame with the column "image" (paths, as str) and ``columns``; ``target``;
        ``target_names``; ``groups``: ndarray or None; ``frame``: the whole table.

    Raises
    ------
    FileNotFoundError
        If the table, or an image it names, does not exist; the first few are listed.
    ValueError
        If a column is not there, or a label is missing.

    Examples
    --------
    >>> import pandas as pd, tempfile, pathlib
    >>> from PIL import Image
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for name in ("a.png", "b.png"):
    ...     Image.new("L", (8, 8)).save(folder / name)
    >>> pd.DataFrame(
    ...     {"file": ["a.png", "b.png"], "dx": ["nv", "mel"], "patient": ["01", "02"]}
    ... ).to_csv(folder / "t.csv", index=False)
    >>> bunch = load_image_table(folder / "t.csv", target="dx")
    >>> bunch.target.tolist(), bunch.target_names, bunch.groups.tolist()
    ([1, 0], ['mel', 'nv'], ['01', '02'])
    """
    frame, folder = read_table(table, as_text=[image, None if groups == "auto" else groups])
    base = folder if root is None else Path(root)
    image = image or find_column(frame, FILE_COLUMNS)
    if image is None:
        raise ValueError(
            f"No column of file names found among {list(map(str, frame.columns))}; pass its name "
            "as image=."
        )
    group_column = find_column(frame, GROUP_COLUMNS) if groups == "auto" else groups
    wanted = [image, *columns, *(name for name in (target, group_column) if name is not None)]
    if absent := [name for name in wanted if name not in frame.columns]:
        raise ValueError(
            f"The table has no column {absent[0]!r}; its columns are "
            f"{list(map(str, frame.columns))}."
        )
    check_complete(frame[image], f"file name in column {image!r}", "Drop them, or add the names.")
    paths = [base / str(name) for name in frame[image]]
    if missing := [(row, path) for row, path in enumerate(paths) if not path.is_file()]:
        listed = "; ".join(f"row {row}: {str(path)!r}" for row, path in missing[:5])
        raise FileNotFoundError(
            f"{len(missing)} of {len(paths)} files named in the table do not exist ({listed}"
            f"{'; ...' if len(missing) > 5 else ''}). root= says what names are relative to."
        )
    data = frame[list(columns)].copy()
    data.insert(0, "image", [str(path) for path in paths])
    labels, names = (None, None) if target is None else _encode_labels(frame[target])
    if return_X_y:
        return data, labels
    if group_column is not None:
        check_complete(frame[group_column], repr(group_column), GROUPS_ADVICE)
    return Bunch(
        data=data,
        target=labels,
        target_names=names,
        groups=None if group_column is None else frame[group_column].to_numpy(),
        frame=frame,
        DESCR=f"{len(frame)} images from a table.",
    )


def check_complete(
    column: pd.Series, what: str, advice: str, names: Sequence[str] | None = None
) -> None:
    """Refuse a column with empty cells; ``names`` are what its rows are called in the error."""
    empty = np.flatnonzero(column.isna())
    if len(empty):
        rows = "rows" if names is None else "images"
        first = f"row {empty[0]}" if names is None else repr(names[empty[0]])
        raise ValueError(f"{len(empty)} {rows} have no {what}; the first is {first}. {advice}")


def read_table(
    table: str | os.PathLike[str] | pd.DataFrame, as_text: Sequence[str | None] = ()
) -> tuple[pd.DataFrame, Path]:
    """Return the table, and the folder its file names are relative to.

    Columns of file names and groups, by their usual names or in ``as_text``, are read as text.
    """
    if isinstance(table, pd.DataFrame):
        return table, Path()
    path = Path(table)
    if not path.is_file():
        raise FileNotFoundError(f"There is no table {str(path)!r}.")
    heading = pd.read_csv(path, nrows=0).columns
    usual = (*FILE_COLUMNS, *GROUP_COLUMNS)
    kinds = {name: str for name in heading if str(name).lower() in usual or name in as_text}
    return pd.read_csv(path, dtype=kinds), path.parent


def find_column(frame: pd.DataFrame, candidates: Sequence[str]) -> str | None:
    """Return the first of ``candidates`` that is a column, in upper or lower case."""
    by_lower = {str(name).lower(): name for name in frame.columns}
    return next((by_lower[name] for name in candidates if name in by_lower), None)


def _encode_labels(labels: pd.Series) -> tuple[np.ndarray, list[Any] | None]:
    """Return text as 0, 1, ... with the names in sorted order; numbers and booleans as they are."""
    check_complete(labels, f"label in column {labels.name!r}", "Drop them before.")
    if pd.api.types.is_numeric_dtype(labels):
        return labels.to_numpy(), None
    names, codes = np.unique(labels.astype(str).to_numpy(dtype=object), return_inverse=True)
    return codes.astype(np.int64), names.tolist()
