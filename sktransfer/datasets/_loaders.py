"""Folders of class sub-folders, and tables with one image a row, as Bunches."""

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
_FILE_COLUMNS = ("file", "filename", "file_name", "path", "filepath", "image", "image_path")
_GROUP_COLUMNS = (
    "group",
    "patient_id",
    "patient",
    "patientid",
    "subject_id",
    "subject",
    "lesion_id",
)

# What to pick up in a folder that also holds notes and tables. What a file really is, its content
# says when it is read.
_SUFFIXES = frozenset(
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
        if sub.is_dir() and not sub.name.startswith(".") and (files := _image_files(sub))
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
    frame = _rows_of_files(folder, files, metadata, None if groups == "auto" else groups)
    called = [file.name for file in files]
    group_values = None if frame is None else _group_values(frame, groups, called)
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


def _image_files(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in _SUFFIXES
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )


def _rows_of_files(
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
    table, _ = _read_table(metadata, as_text=[group_column])
    column = _find_column(table, _FILE_COLUMNS)
    if column is None:
        raise ValueError(
            f"{str(metadata)!r} has no column of file names; it needs one called "
            f"{', '.join(_FILE_COLUMNS)}, and has {list(map(str, table.columns))}."
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
    frame, folder = _read_table(table, as_text=[image, None if groups == "auto" else groups])
    base = folder if root is None else Path(root)
    image = image or _find_column(frame, _FILE_COLUMNS)
    if image is None:
        raise ValueError(
            f"No column of file names found among {list(map(str, frame.columns))}; pass its name "
            "as image=."
        )
    named = (target, None if groups == "auto" else groups)
    _check_columns(frame, [image, *columns, *(name for name in named if name is not None)])
    _check_complete(frame[image], f"file name in column {image!r}", "Drop them, or add the names.")
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
    return Bunch(
        data=data,
        target=labels,
        target_names=names,
        groups=_group_values(frame, groups),
        frame=frame,
        DESCR=f"{len(frame)} images from a table.",
    )


def _check_columns(frame: pd.DataFrame, names: Sequence[str]) -> None:
    if absent := [name for name in names if name not in frame.columns]:
        raise ValueError(
            f"The table has no column {absent[0]!r}; its columns are "
            f"{list(map(str, frame.columns))}."
        )


def _group_values(
    frame: pd.DataFrame, groups: str | None, names: Sequence[str] | None = None
) -> np.ndarray | None:
    """Return what each row belongs to, or None where no column says it."""
    column = _find_column(frame, _GROUP_COLUMNS) if groups == "auto" else groups
    if column is None:
        return None
    _check_columns(frame, [column])
    advice = "Complete the table, or pass groups=None."
    _check_complete(frame[column], repr(column), advice, names)
    return frame[column].to_numpy()


def _check_complete(
    column: pd.Series, what: str, advice: str, names: Sequence[str] | None = None
) -> None:
    """Refuse a column with empty cells; ``names`` are what its rows are called in the error."""
    empty = np.flatnonzero(column.isna())
    if len(empty):
        rows = "rows" if names is None else "images"
        first = f"row {empty[0]}" if names is None else repr(names[empty[0]])
        raise ValueError(f"{len(empty)} {rows} have no {what}; the first is {first}. {advice}")


def _read_table(
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
    usual = (*_FILE_COLUMNS, *_GROUP_COLUMNS)
    kinds = {name: str for name in heading if str(name).lower() in usual or name in as_text}
    return pd.read_csv(path, dtype=kinds), path.parent


def _find_column(frame: pd.DataFrame, candidates: Sequence[str]) -> str | None:
    """Return the first of ``candidates`` that is a column, in upper or lower case."""
    by_lower = {str(name).lower(): name for name in frame.columns}
    return next((by_lower[name] for name in candidates if name in by_lower), None)


def _encode_labels(labels: pd.Series) -> tuple[np.ndarray, list[Any] | None]:
    """Return text as 0, 1, ... with the names in sorted order; numbers and booleans as they are."""
    _check_complete(labels, f"label in column {labels.name!r}", "Drop them before.")
    if pd.api.types.is_numeric_dtype(labels):
        return labels.to_numpy(), None
    names, codes = np.unique(labels.astype(str).to_numpy(dtype=object), return_inverse=True)
    return codes.astype(np.int64), names.tolist()
