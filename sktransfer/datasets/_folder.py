"""A folder of class sub-folders as a Bunch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils import Bunch

from sktransfer.datasets._table import (
    FILE_COLUMNS,
    GROUP_COLUMNS,
    GROUPS_ADVICE,
    check_complete,
    find_column,
    read_table,
)

# What to pick up in a folder that also holds notes and tables. What a file really is, its content
# says when it is read.
SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
        *(".webp", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico", ".jp2", ".j2k", ".jpf", ".jpx"),
        *(".dcm", ".dicom"),
    }
)


def load_image_folder(
    path: str | os.PathLike[str],
    *,
    metadata: str | os.PathLike[str] | None = "auto",
    groups: str | None = "auto",
    return_X_y: bool = False,
) -> Any:
    """Read a folder with one sub-folder a class, arranged as for torchvision's ``ImageFolder``.

    Only names are read; images are opened when they are embedded, and a broken one is reported
    then.

    Parameters
    ----------
    path : path-like
        Folder whose sub-folders are the classes. Images may lie deeper inside them; hidden
        files and files without the suffix of an image are left out.
    metadata : path-like or None, default="auto"
        CSV with a column of file names ("file", "filename", ...) as they are below ``path``
        (``"cat/001.jpg"``, or just ``"001.jpg"`` where that is unambiguous). "auto":
        ``metadata.csv`` in the folder, if there is one.
    groups : str or None, default="auto"
        Column of that table that tells which images belong together (a patient, a lesion).
        "auto": the first of "group", "patient_id", "patient", "patientid", "subject_id",
        "subject" and "lesion_id" that is there, or None.
    return_X_y : bool, default=False
        Whether ``(data, target)`` is returned instead of the Bunch.

    Returns
    -------
    Bunch
        ``data``: DataFrame with one column, "image" (paths, as str), sorted by path; ``target``:
        ndarray of int, position in ``target_names``; ``target_names``: sub-folder names, sorted;
        ``groups``: ndarray or None; ``frame``: the rows of the table in the order of ``data``, or
        None.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist or has no sub-folder with an image.
    ValueError
        If the table leaves an image without a group.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from PIL import Image
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for name in ("ants/1.png", "bees/1.png", "bees/2.png"):
    ...     (folder / name).parent.mkdir(exist_ok=True)
    ...     Image.new("RGB", (8, 8)).save(folder / name)
    >>> bunch = load_image_folder(folder)
    >>> bunch.data.shape, bunch.target.tolist(), bunch.target_names
    ((3, 1), [0, 1, 1], ['ants', 'bees'])
    """
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {str(folder)!r}.")
    classes = {
        sub.name: files
        for sub in sorted(folder.iterdir())
        if sub.is_dir() and not sub.name.startswith(".") and (files := _images(sub))
    }
    if not classes:
        raise FileNotFoundError(
            f"{str(folder)!r} has no sub-folder with images in it. It should have one for each "
            "class, for example benign/ and malignant/. For a table of file names and labels there "
            "is load_image_table."
        )
    names = list(classes)
    files = [file for inside in classes.values() for file in inside]
    data = pd.DataFrame({"image": [str(file) for file in files]})
    target = np.repeat(np.arange(len(names)), [len(inside) for inside in classes.values()])
    frame = _rows(folder, files, metadata, None if groups == "auto" else groups)
    group_values = None if frame is None else _groups(frame, files, groups)
    if return_X_y:
        return data, target
    return Bunch(
        data=data,
        target=target,
        target_names=names,
        groups=group_values,
        frame=frame,
        DESCR=f"{len(files)} images of {len(names)} classes from a folder.",
    )


def _images(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in SUFFIXES
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )


def _rows(
    folder: Path,
    files: list[Path],
    metadata: str | os.PathLike[str] | None,
    group_column: str | None,
) -> pd.DataFrame | None:
    """Return the table's rows that belong to ``files``, in their order; empty where none does."""
    if metadata is None:
        return None
    if metadata == "auto":
        metadata = folder / "metadata.csv"
        if not metadata.is_file():
            return None
    table, _ = read_table(metadata, as_text=[group_column])
    column = find_column(table, FILE_COLUMNS)
    if column is None:
        raise ValueError(
            f"{str(metadata)!r} has no column of file names; it needs one called "
            f"{', '.join(FILE_COLUMNS)}, and has {list(map(str, table.columns))}."
        )
    named = table[column].str.replace("\\", "/", regex=False).str.removeprefix("./")
    relative = [file.relative_to(folder).as_posix() for file in files]
    keys = relative if named.isin(relative).any() else [file.name for file in files]
    for what, values in (("table names", named), ("folder has", pd.Series(keys))):
        if (twice := values[values.isin(keys) & values.duplicated()]).size:
            raise ValueError(
                f"The {what} {twice.iloc[0]!r} twice, so that rows and files cannot be matched; "
                "name files by their path below the folder (class/file)."
            )
    # Rows of other files may repeat as they like.
    wanted = named.isin(keys)
    return table[wanted].set_index(named[wanted]).reindex(keys).reset_index(drop=True)


def _groups(frame: pd.DataFrame, files: list[Path], groups: str | None) -> np.ndarray | None:
    column = find_column(frame, GROUP_COLUMNS) if groups == "auto" else groups
    if column is None:
        return None
    if column not in frame.columns:
        raise ValueError(
            f"The table has no column {column!r}; its columns are {list(map(str, frame.columns))}."
        )
    names = [file.name for file in files]
    check_complete(frame[column], f"{column!r} in the table", GROUPS_ADVICE, names)
    return frame[column].to_numpy()
