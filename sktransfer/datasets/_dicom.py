"""A folder of DICOM files as a table, one row per image, and how one of them is read."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from joblib import effective_n_jobs

from sktransfer._images import (
    DicomFrame,
    DicomOptions,
    as_image_source,
    is_dicom,
    read_dicom_decisions,
    read_dicom_header,
    read_file,
)
from sktransfer._utils.identifiers import identifier
from sktransfer._utils.names import path_column, quoted, shown
from sktransfer._utils.threads import DecodingThreads
from sktransfer.datasets._walk import Walk, first_bytes
from sktransfer.exceptions import FailedRowsWarning, ImageDecodeError

# What each column is called in the standard.
KEYWORDS = {
    "patient": "PatientID",
    "study": "StudyInstanceUID",
    "series": "SeriesInstanceUID",
    "view": "ViewPosition",
    "age": "PatientAge",
    "sex": "PatientSex",
    "height": "Rows",
    "width": "Columns",
}
_FRAMES = ""  # the header's name for how many frames there are
_YEARS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}


def dicom_table(
    path: str | os.PathLike[str],
    *,
    columns: Sequence[str] = tuple(KEYWORDS),
    frames: str = "first",
    n_jobs: int | None = None,
) -> pd.DataFrame:
    """Tabulate the DICOM images in a folder, a row each, with elements of their headers.

    Files are recognized by content, whatever their names, in sub-folders too. Those without an
    image (reports, plans) are left out; so are those that cannot be read, with one warning.

    Nothing is de-identified, here or anywhere in sktransfer: there are tools made for that, and the
    pixels themselves may show a name. The table holds the columns asked for and no others.

    Parameters
    ----------
    path : path-like
        Folder in which files are looked for.
    columns : sequence of str
        Any of "patient", "study", "series", "view", "age", "sex", "height" and "width", which are
        the default, and keywords of the standard ("BodyPartExamined", "Manufacturer").
    frames : {"first", "all"}, default="first"
        With "all", each frame of files that have several has a row. The column "image" then holds
        objects that name a file and a frame (rows of ``X`` like paths), and a column "frame" says
        which it is.
    n_jobs : int or None, default=None
        Threads, each with a process of its own that reads headers. None: 1.

    Returns
    -------
    DataFrame
        The column "image" (str), then ``columns``, sorted by path. ``attrs["skipped"]`` counts what
        was left out. Ages are in years; what a file
        does not say is None or NaN.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or no DICOM image in it.
    MissingDependencyError
        If the extra ``medical`` is not installed.

    See Also
    --------
    load_image_table : Such a table with labels as X and y.
    describe_dicom : Describe how one DICOM image is read.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from pydicom.data import get_testdata_file
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for name in ("CT_small.dcm", "MR_small.dcm", "rtplan.dcm"):
    ...     _ = (folder / name).write_bytes(pathlib.Path(get_testdata_file(name)).read_bytes())
    >>> table = dicom_table(folder, columns=["sex", "height", "Modality"])
    >>> table.drop(columns="image")
      sex  height Modality
    0   O     128       CT
    1   F      64       MR
    """
    if frames not in ("first", "all"):
        raise ValueError(f'frames must be "first" or "all"; got {frames!r}.')
    if isinstance(columns, str):
        raise TypeError(f"columns is a list of names; got {columns!r}. Pass [{columns!r}].")
    base = Path(os.fsdecode(path))
    walk = Walk(base)
    walk.keep(lambda file: "" if is_dicom(first_bytes(file)) else "files that are no DICOM")
    files = walk.files
    if problems := walk.problems():
        listed = "\n- ".join([f"dicom_table({quoted(base)}):", *problems])
        warnings.warn(listed, stacklevel=2)
    headers, failures = read_headers(files, columns, n_jobs)
    if frames == "all":  # a number of them that cannot be is no matter to who wants the first
        for i, header in enumerate(headers):
            if header is not None and isinstance(header[_FRAMES], str):
                failures.append((files[i], header[_FRAMES]))
                headers[i] = None
    if failures:
        file, reason = failures[0]
        warnings.warn(
            f"{len(failures)} of {len(files)} DICOM files cannot be read and are not in the table. "
            f"The first: {shown(file.name)}: {reason}",
            FailedRowsWarning,
            stacklevel=2,
        )
    rows = []
    for file, header in zip(files, headers, strict=True):
        if header is None:
            continue
        n = header.pop(_FRAMES)
        for frame in range(n if frames == "all" else 1):
            place: dict[str, Any] = {"image": str(file)}
            if frames == "all":
                place = {"image": DicomFrame(str(file), frame), "frame": frame}
            rows.append({**place, **header})
    if not rows:
        raise FileNotFoundError(f"{str(base)!r} holds no DICOM file with an image in it.")
    paths = path_column(row.pop("image") for row in rows)
    table = pd.DataFrame(rows)
    table.insert(0, "image", paths)
    table.attrs["skipped"] = dict(walk.skipped)
    return table


def describe_dicom(
    image: str | os.PathLike[str] | bytes | Any, *, dicom: DicomOptions | None = None
) -> pd.Series:
    """Describe how one DICOM image is read: what its file says, and what was decided.

    Headers may be empty, odd, or contradict the compressed image. What is then shown
    follows the standard's defaults, and the compressed image before the header; each such decision
    is in "notes". Estimators decide the same, and warn of what contradicts a header at the first
    file that does.

    Parameters
    ----------
    image : path-like, bytes, pydicom Dataset or object of the column "image" of dicom_table
        What a row of ``X`` may be.
    dicom : DicomOptions or None, default=None
        As passed to the estimator.

    Returns
    -------
    Series
        "transfer_syntax", "compressed_image" (what it says of itself) and "decoder", both empty if
        there is none; "rows", "columns", "frames" and "frame" (the one shown); "photometric" (as
        the file labels it) and "shown_as"; "bits" and "signed"; "rescale", "window" and "inverted"
        (white and black exchanged); "notes", a list of text.

    Raises
    ------
    ImageDecodeError
        If it cannot be read, as with an estimator, or if it is no DICOM file.
    MissingDependencyError
        If the extra ``medical`` is not installed.

    See Also
    --------
    dicom_table : Tabulate the DICOM images in a folder.
    check_images : Decode every image once and list what is wrong.

    Examples
    --------
    >>> from pydicom.data import get_testdata_file
    >>> from sktransfer.preprocessing import DicomOptions
    >>> scan = get_testdata_file("CT_small.dcm")
    >>> soft_tissue = DicomOptions(window=(40, 400))
    >>> describe_dicom(scan, dicom=soft_tissue)[["bits", "rescale", "window"]]
    bits                                               16
    rescale                     slope 1, intercept -1024
    window     center 40, width 400, LINEAR, as asked for
    dtype: object
    """
    encoded = as_image_source([image], dicom=dicom).open(0)
    if not isinstance(encoded.content, bytes) or not is_dicom(encoded.content):
        raise ImageDecodeError("this is no DICOM file.", source=encoded.source)
    try:
        decided = read_dicom_decisions(encoded.content, encoded.dicom)
    except ImageDecodeError as error:
        raise ImageDecodeError(error.reason, source=encoded.source) from error
    return pd.Series(decided, dtype=object)


def read_headers(
    files: Sequence[Path], columns: Sequence[str], n_jobs: int | None = None
) -> tuple[list[dict[str, Any] | None], list[tuple[Path, str]]]:
    """Return each file's columns and number of frames, and the files that cannot be read.

    A file without an image has None; one that cannot be read comes with the reason.
    """
    keywords = {name: KEYWORDS.get(name, name) for name in columns}
    failures: list[tuple[Path, str]] = []

    def read(path: Path) -> dict[str, Any] | None:
        try:
            found = read_dicom_header(read_file(path), keywords.values())
        except ImageDecodeError as error:
            failures.append((path, error.reason))
            return None
        if found is None:
            return None
        values = {name: _value(found[keyword]) for name, keyword in keywords.items()}
        for name, keyword in keywords.items():
            if keyword == "PatientID" and values[name] is not None:
                values[name] = identifier(values[name]) or None
        if "age" in values:
            values["age"] = years(values["age"])
        for name in {"height", "width"} & values.keys():
            number = identifier(values[name])
            values[name] = int(number) if number.isdecimal() else None
        return {**values, _FRAMES: found[_FRAMES]}

    with DecodingThreads(effective_n_jobs(n_jobs)) as pool:
        headers = list(pool.map(read, files))
    return headers, sorted(failures)


def is_dicom_ages(column: pd.Series) -> bool:
    """Return whether all that is in a column are ages as DICOM writes them ("058Y")."""
    there = column.dropna()
    return len(there) > 0 and all(
        isinstance(age, str) and re.fullmatch(r"\s*(\d{3}[MWD]|\d{1,3}Y)\s*", age) for age in there
    )


def years(age: Any) -> float:
    """Return a DICOM age ("045Y", "018M", "003W", "010D") in years; NaN for anything else."""
    found = re.fullmatch(r"(\d{1,3})([YMWD])?", "" if age is None else str(age).strip().upper())
    return float(found[1]) * _YEARS[found[2] or "Y"] if found else np.nan


def _value(value: Any) -> Any:
    """Return empty text as None, and several values as one text, as the standard writes them."""
    if isinstance(value, list):
        return "\\".join(map(str, value))
    return None if value == "" else value
