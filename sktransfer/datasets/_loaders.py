"""Folders of class sub-folders, and tables with one image a row, as Bunches."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils import Bunch

from sktransfer._images import DicomFrame
from sktransfer._utils.identifiers import read_groups
from sktransfer._utils.multilabel import is_multilabel, read_indicators
from sktransfer._utils.names import answers, path_column, quoted, shown
from sktransfer.datasets._label_columns import divided_labels, label_columns
from sktransfer.datasets._tables import (
    FILE_COLUMNS,
    GROUP_COLUMNS,
    check_columns,
    check_complete,
    comparable_name,
    find_column,
    find_file,
    one_against_rest,
    read_labels,
    read_table,
)
from sktransfer.datasets._walk import Walk, class_name, class_problems, image_problems, not_an_image

# What the loaders of Keras and fastai do, and these leave to others.
_ELSEWHERE = {
    "Leave it out: images stay as they are, and estimators have image_size": "target_size "
    "image_size color_mode interpolation rescale transform preprocessing_function",
    "Leave it out: targets are names, or 0 and 1 with positive=": "class_mode label_mode",
    "Leave it out: train_test_split, a splitter or validation_fraction= of FineTuneClassifier "
    "divides the rows": "validation_split valid_pct subset seed shuffle batch_size",
}


@answers({"path": "directory root main_directory"} | _ELSEWHERE)
def load_image_folder(
    path: str | os.PathLike[str],
    *,
    labels: str | None = "inferred",
    metadata: str | os.PathLike[str] | pd.DataFrame | None = "auto",
    groups: str | None = "auto",
    positive: str | None = None,
    return_X_y: bool = False,
) -> Any:
    """Read a folder with one sub-folder a class, arranged as for torchvision's ``ImageFolder``.

    Only names are read; images are opened when they are embedded, and a broken one is reported
    then.

    Parameters
    ----------
    path : path-like
        Folder whose sub-folders are the classes. Images may lie deeper inside them, and behind
        links. Hidden files, what file servers and systems leave behind, and files that are no
        images are left out (:ref:`folders-names-links`).
    labels : "inferred" or None, default="inferred"
        Where labels come from: the sub-folders, or nowhere. With None, all images of the folder
        and its sub-folders are read, such as those to be predicted; ``target`` is None.
    metadata : path-like, DataFrame or None, default="auto"
        Table, read as in :func:`load_image_table`, with a column of file names ("file",
        "filename", ...) as they are below ``path`` (``"cat/001.jpg"``, or just ``"001.jpg"`` where
        that is unambiguous). "auto": ``metadata.csv`` in the folder, if there is one.
    groups : str or None, default="auto"
        Column of that table that tells which images belong together (a patient, a lesion).
        "auto": the first of "group", "patient_id", "patient", "patientid", "subject_id",
        "subject" and "lesion_id" that is there ("Patient ID" too), or None.
    positive : str or None, default=None
        Class that is 1 in ``target``; all others are 0. None: ``target`` has names of classes.
    return_X_y : bool, default=False
        Whether ``(data, target)`` is returned instead of the Bunch.

    Returns
    -------
    Bunch
        ``data``: DataFrame with one column, "image" (paths, as str), sorted by path; ``target``:
        ndarray of str, the sub-folder of each image (with ``positive``: of 0 and 1);
        ``target_names``: names of the classes, sorted (with ``positive``: of 0 and 1);
        ``groups``: ndarray of str or None; ``frame``: the rows of the table in the order of
        ``data``, empty for images that it does not name, or None; ``skipped``: dict of what was
        left out and how many. Paths are of dtype object where a name is not Unicode.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist or has no sub-folder with an image; with ``labels=None``, no
        image at all.
    ValueError
        If the table cannot be read, names none of the images or leaves one without a group; if
        ``positive`` is not one of the classes.

    Warns
    -----
    UserWarning
        If images may be missing or in the wrong class: folders without an image, of parts of a data
        set (train/, test/) or that cannot be opened, links that lead nowhere, files in two classes.

    See Also
    --------
    load_image_table : Read a table of images.
    check_images : Find images that cannot be read, or that are there twice.

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
    ((3, 1), ['ants', 'bees', 'bees'], ['ants', 'bees'])
    >>> bunch = load_image_folder(folder, positive="ants")
    >>> bunch.target.tolist(), bunch.target_names
    ([1, 0, 0], ['bees', 'ants'])
    >>> load_image_folder(folder / "bees", labels=None).data.shape
    (2, 1)
    """
    folder = Path(os.fsdecode(path))
    if labels is not None and labels != "inferred":
        raise ValueError(
            'labels must be "inferred" (from the sub-folders) or None (there are none); got '
            f"{labels!r}."
        )
    if labels is None and positive is not None:
        raise ValueError(f"positive={positive!r} is one of the classes; with labels=None, none is.")
    if isinstance(metadata, str) and metadata == "auto":
        own = folder / "metadata.csv"
        metadata = own if own.is_file() else None
    walk = Walk(folder)
    if isinstance(metadata, (str, os.PathLike)):  # it is read, not left out
        walk.files = [file for file in walk.files if file != Path(metadata)]
    walk.keep(not_an_image)
    classes, loose = _by_class(walk, labels)
    names: list[str] | None = list(classes)
    files = [file for inside in classes.values() for file in inside]
    data = pd.DataFrame({"image": path_column(str(file) for file in files)})
    counts = [len(inside) for inside in classes.values()]
    target: Any = np.repeat(np.array(names, dtype=object), counts)
    if labels is None:
        target = names = None
    elif positive is not None:
        target, names = one_against_rest(target, positive)
    frame = _rows_of_files(folder, files, metadata, None if groups == "auto" else groups)
    called = [shown(file.name) for file in files]
    group_values = None if frame is None else _group_values(frame, groups, called)
    if return_X_y:
        return data, target
    return Bunch(
        data=data,
        target=target,
        target_names=names,
        groups=group_values,
        frame=frame,
        skipped=dict(walk.skipped),
        DESCR=f"{len(files)} images"
        + ("" if labels is None else f" of {len(classes)} classes")
        + " from a folder."
        + _left_out(walk, loose),
    )


def _by_class(walk: Walk, labels: str | None) -> tuple[dict[str, list[Path]], int]:
    """Return the files of each class, all of them if there is none, and how many are of no class.

    Warn of what may be wrong, and raise where there is no image.
    """
    classes: dict[str, list[Path]] = {}
    loose = 0
    for file in walk.files:
        name, *inside = file.relative_to(walk.folder).parts
        loose += labels is not None and not inside
        if inside or labels is None:
            classes.setdefault("" if labels is None else class_name(name), []).append(file)
    classes = dict(sorted(classes.items()))
    problems = class_problems(walk, classes, loose) if labels else image_problems(walk)
    if problems:
        listed = "\n- ".join([f"load_image_folder({quoted(walk.folder)}):", *problems])
        warnings.warn(listed, stacklevel=3)
    if classes:
        return classes, loose
    what = _left_out(walk, loose)
    if labels is None:
        raise FileNotFoundError(f"{str(walk.folder)!r} has no image in it.{what}")
    raise FileNotFoundError(
        f"{str(walk.folder)!r} has no sub-folder with images in it. It should have one for each "
        "class, for example benign/ and malignant/. For a table of file names and labels there "
        "is load_image_table; for images without labels, as those to be predicted, "
        f"load_image_folder(path, labels=None) and `python -m sktransfer predict`.{what}"
    )


def _left_out(walk: Walk, loose: int) -> str:
    counts = {**walk.skipped, **({"images next to the classes": loose} if loose else {})}
    listed = ", ".join(f"{kind}: {n}" for kind, n in sorted(counts.items()))
    return f" Left out: {listed}." if listed else ""


def _rows_of_files(
    folder: Path,
    files: list[Path],
    metadata: str | os.PathLike[str] | pd.DataFrame | None,
    group_column: str | None,
) -> pd.DataFrame | None:
    """Return the table's rows that belong to ``files``, in their order; empty where none does."""
    if metadata is None:
        return None
    table, _ = read_table(metadata, as_text=[group_column])
    what = repr(str(metadata)) if isinstance(metadata, (str, os.PathLike)) else "The metadata"
    column = find_column(table, FILE_COLUMNS)
    if column is None:
        raise ValueError(
            f"{what} has no column of file names; it needs one called "
            f"{', '.join(FILE_COLUMNS)}, and has {list(map(str, table.columns))}."
        )
    cells = table[column].astype(object).where(table[column].notna(), "")
    relative = [comparable_name(str(file.relative_to(folder))) for file in files]
    # Files whose names differ in the way of writing alone are told apart by it.
    exact = {key for key, n in Counter(relative).items() if n > 1}

    def key(name: str) -> str:
        alike = comparable_name(name)
        return name if alike in exact else alike

    named = pd.Series([key(str(cell)) for cell in cells], dtype=object)
    named = named.str.removeprefix(f"{comparable_name(str(folder.absolute()))}/")
    relative = [key(file.relative_to(folder).as_posix()) for file in files]
    keys = relative if named.isin(relative).any() else [name.split("/")[-1] for name in relative]
    for source, values in (("table names", named), ("folder has", pd.Series(keys, dtype=object))):
        if (twice := values[values.isin(keys) & values.duplicated()]).size:
            raise ValueError(
                f"The {source} {twice.iloc[0]!r} twice, so that rows and files cannot be matched; "
                "name files by their path below the folder (class/file)."
            )
    # Rows of other files may repeat as they like.
    wanted = named.isin(keys).to_numpy()
    if not wanted.any():
        raise ValueError(
            f"{what} names none of the {len(files)} images: its column {column!r} begins with "
            f"{table[column].iloc[0]!r}, and the first image is {relative[0]!r}. Name files by "
            "their path below the folder, or pass metadata=None."
        )
    unnamed = np.flatnonzero(~np.isin(np.array(keys, object), named.to_numpy(object)))
    if len(unnamed) and not wanted.all():  # either alone may be meant
        warnings.warn(
            f"{what} does not name {len(unnamed)} of the {len(files)} images (first: "
            f"{quoted(relative[unnamed[0]])}), and {int((~wanted).sum())} of its rows name no "
            f"image (first: {quoted(named[~wanted].iloc[0])}). Do they belong together?",
            stacklevel=3,
        )
    return table[wanted].set_index(named[wanted].to_numpy()).reindex(keys).reset_index(drop=True)


@answers(
    {
        "table": "dataframe df csv",
        "image": "x_col fn_col image_column",
        "target": "y_col label_col label label_column",
        "root": "directory folder path",
    }
    | _ELSEWHERE
)
def load_image_table(
    table: Any,
    *,
    image: str | None = None,
    target: str | Sequence[str] | None = None,
    groups: str | None = "auto",
    columns: Sequence[str] = (),
    root: str | os.PathLike[str] | None = None,
    positive: Any = None,
    separator: str | None = None,
    none_label: str = "No Finding",
    uncertain: str | Mapping[str, str] | None = None,
    return_X_y: bool = False,
) -> Any:
    """Read a table of images, each row with the file's name in one column.

    Parameters
    ----------
    table : path-like or DataFrame
        A CSV or Parquet file (extra ``parquet``), or a DataFrame of pandas or polars, or a table
        of pyarrow. See Notes.
    image : str or None, default=None
        Column of file names. None: the first of "file", "filename", "file_name", "path",
        "filepath", "image" and "image_path" that is there, in upper or lower case.
    target : str, sequence of str, or None, default=None
        Column of labels, which are the target as they are: text (an ndarray of str), numbers or
        booleans. Several columns are labels that a row may have together: 1 (present), 0 (absent),
        -1 (uncertain), or empty (unknown). None: ``target`` is None.
    groups : str or None, default="auto"
        Column that tells which rows belong together (a patient, a lesion), to be given to a
        grouped splitter. "auto": the first of "group", "patient_id", "patient", "patientid",
        "subject_id", "subject" and "lesion_id" that is there, or None.
    columns : sequence of str, default=()
        Further columns to keep alongside the images in ``data`` (age, sex, ...), for a
        ``ColumnTransformer``.
    root : path-like or None, default=None
        Folder that file names are relative to. None: that of the table's file, or the working
        directory.
    positive : str, int, float, bool or None, default=None
        Label that is 1 in ``target``; all others are 0. None: ``target`` has the labels themselves.
    separator : str or None, default=None
        What divides several labels in one cell: "|" for "Effusion|Mass". An empty cell is unknown.
    none_label : str, default="No Finding"
        Word in such a cell for none of the labels.
    uncertain : {"unknown", "positive", "negative"}, mapping of columns to these, or None, \
            default=None
        What -1 in one of several columns means; required where there is one.
    return_X_y : bool, default=False
        Whether ``(data, target)`` is returned instead of the Bunch.

    Returns
    -------
    Bunch
        ``data``: DataFrame with the column "image" (paths, as str) and ``columns``; ``target``,
        with several labels a row a DataFrame of 0, 1 and NaN (unknown) with a column for each;
        ``target_names``: the words in it, sorted, or None for numbers (with ``positive``: names of
        0 and 1; of several labels, their names); ``groups``: ndarray of str or None; ``frame``: the
        whole table.

    Raises
    ------
    FileNotFoundError
        If the table, or an image it names, does not exist; the first few are listed.
    ValueError
        If the table cannot be read, a row has more cells than the heading, or two columns have one
        name; if a column or ``positive`` is not there, or a file name, group or label is missing.
    TypeError
        If ``table`` is neither a path nor a table.

    See Also
    --------
    load_image_folder : Read a folder with a sub-folder for each class.
    dicom_table : Tabulate the DICOM images in a folder.

    Notes
    -----
    Words are kept: only an empty cell is missing, so that a class may be called "None" or "NA", and
    "007", "1e5", "inf" and "True" are words as well. Columns of files and groups are text. A CSV in
    UTF-8, UTF-16 with a mark or Windows-1252 is read, with commas, semicolons, tabs or vertical
    bars; :ref:`what-can-go-wrong` has the rest.

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
    (['nv', 'mel'], ['mel', 'nv'], ['01', '02'])
    >>> bunch = load_image_table(folder / "t.csv", target="dx", positive="mel")
    >>> bunch.target.tolist(), bunch.target_names
    ([0, 1], ['nv', 'mel'])
    >>> several = pd.DataFrame({"file": ["a.png", "b.png"], "findings": ["Edema|Mass", "Mass"]})
    >>> load_image_table(several, target="findings", separator="|", root=folder).target
       Edema  Mass
    0      1     1
    1      0     1
    """
    frame, folder = read_table(table, as_text=[image, None if groups == "auto" else groups])
    base = folder if root is None else Path(root)
    image = find_column(frame, FILE_COLUMNS) if image is None else image
    if image is None:
        raise ValueError(
            f"No column of file names found among {list(map(str, frame.columns))}; pass its name "
            "as image= (--image)."
        )
    columns = [columns] if isinstance(columns, str) else list(columns)
    check_columns(frame, [image, *columns, *([] if groups in (None, "auto") else [groups])])
    files = _named_files(frame, image, base)
    if "image" in columns and image != "image":
        raise ValueError("A column 'image' cannot be kept alongside the images; rename it.")
    data = frame[[name for name in columns if name != "image"]].copy()
    data.insert(0, "image", path_column(files).set_axis(data.index))
    labels, names = _target(frame, target, separator, none_label, uncertain)
    if labels is not None:
        _warn_of_contradictions(files, labels, target)
    if positive is not None:
        if labels is None or isinstance(labels, pd.DataFrame):
            raise ValueError("positive needs target, the name of a column with a label a row.")
        labels, names = one_against_rest(labels, positive)
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


def _target(
    frame: pd.DataFrame, target: Any, separator: str | None, none_label: str, uncertain: Any
) -> tuple[Any, list[Any] | None]:
    """Return the labels of rows and their names; of several labels a row, a table of indicators."""
    if target is None:
        return None, None
    if isinstance(target, (list, tuple)):
        labels = label_columns(frame, target, uncertain)
    else:
        check_columns(frame, [target])
        cells = frame[target]
        if separator is not None:
            labels = divided_labels(cells, separator, none_label)
        elif is_multilabel(cells):  # lists in a Parquet file
            matrix, found = read_indicators(cells, name=f"Column {target!r}")
            labels = pd.DataFrame(matrix, columns=found.tolist(), index=frame.index)
        else:
            return read_labels(cells)
    return labels, labels.columns.tolist()


def _named_files(frame: pd.DataFrame, image: str, base: Path) -> list[Any]:
    """Return the path of each row's file; encoded images in the table stay as they are."""
    cells = frame[image]
    check_complete(cells, f"file name in column {image!r}", "Drop them, or add the names.")
    # As data sets in Parquet and dicom_table have them.
    if all(isinstance(cell, (bytes, dict, DicomFrame)) for cell in cells):
        return cells.tolist()
    paths = [find_file(base, name, row) for row, name in enumerate(cells)]
    if missing := [(row, path) for row, path in enumerate(paths) if not path.is_file()]:
        listed = "; ".join(
            f"row {row}: {str(path)!r}{' is a folder' if path.is_dir() else ''}"
            for row, path in missing[:5]
        )
        raise FileNotFoundError(
            f"{len(missing)} of {len(paths)} files named in the table do not exist ({listed}"
            f"{'; ...' if len(missing) > 5 else ''}). root= says what names are relative to."
        )
    return [str(path) for path in paths]


def _warn_of_contradictions(files: list[Any], labels: Any, target: Any) -> None:
    """Warn of files that are in several rows with different labels."""
    if isinstance(labels, pd.DataFrame):
        labels = [str(row) for row in labels.to_numpy().tolist()]
    first: dict[str, int] = {}
    found: dict[str, int] = {}
    for row, file in enumerate(files):
        if isinstance(file, str) and labels[first.setdefault(file, row)] != labels[row]:
            found.setdefault(file, row)
    if found:
        file, row = next(iter(found.items()))
        warnings.warn(
            f"{len(found)} files are in several rows with different labels in column {target!r}; "
            f"the first is {quoted(file)}, in rows {first[file]} and {row}.",
            stacklevel=3,
        )


def _group_values(
    frame: pd.DataFrame, groups: str | None, names: Sequence[str] | None = None
) -> np.ndarray | None:
    """Return what each row belongs to, or None where no column says it."""
    column = find_column(frame, GROUP_COLUMNS) if groups == "auto" else groups
    if column is None:
        return None
    check_columns(frame, [column])
    advice = "Complete the table, or pass groups=None (--groups none)."
    check_complete(frame[column], repr(column), advice, names)
    return read_groups(frame[column], name=f"column {column!r}")
