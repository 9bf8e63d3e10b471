"""Tables as people have them, read with their words kept: CSV, Parquet and DataFrames.

What pandas takes for missing, for a number or for a truth value ("None", "NA", "1e5", "007",
"TRUE") may be the name of a class, a reading, a patient or a site. Here only an empty cell is
missing, and a column is of numbers if every cell is written as programs write numbers.
"""

from __future__ import annotations

import bz2
import codecs
import contextlib
import csv
import gzip
import io
import lzma
import os
import re
import unicodedata
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sktransfer._utils.config import import_optional
from sktransfer._utils.identifiers import cleaned, identifier
from sktransfer._utils.per_row import as_frame

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

# As a table: the marks of UTF-32 begin with those of UTF-16.
_ENCODINGS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_PACKED = {b"\x1f\x8b": gzip.decompress, b"BZh": bz2.decompress, b"\xfd7zXZ": lzma.decompress}
_UNPACKING_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)
_OTHERS = {
    b"PK\x03\x04": "an Excel workbook, or an archive of several files",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"ARROW1": "a Feather file",
    b"FEA1": "a Feather file",
}
# 007 is a name, as are 1e5 (programs write 1e+05, 1.0E5 or 100000) and a number so long that it
# would lose digits as a float.
_WHOLE = r"[+-]?(?:0|[1-9][0-9]{0,14})"
_DECIMAL = r"[+-]?(?:(?:0|[1-9][0-9]*)\.[0-9]*|\.[0-9]+)"
_NUMBER = re.compile(rf"{_WHOLE}(?:[eE][+-][0-9]+)?|{_DECIMAL}(?:[eE][+-]?[0-9]+)?")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def read_table(table: Any, *, as_text: Sequence[str | None] = ()) -> tuple[pd.DataFrame, Path]:
    """Return the table, and the folder its file names are relative to.

    In a file, columns of file names and groups, by their usual names or in ``as_text``, are text.
    """
    frame, folder, what = as_frame(table), Path(), "The table"
    if frame is None:
        if not isinstance(table, (str, os.PathLike)):
            raise TypeError(
                "A table is the path of a CSV or Parquet file, or a DataFrame of pandas or polars, "
                f"or a table of pyarrow; got {type(table).__name__}."
            )
        path = Path(table)
        if not path.is_file():
            raise FileNotFoundError(f"There is no table {str(path)!r}.")
        frame, folder, what = _read_file(path, as_text), path.parent, repr(str(path))
    names = list(frame.columns)
    if doubled := [name for place, name in enumerate(names) if name in names[:place]]:
        raise ValueError(
            f"{what} has two columns {doubled[0]!r}, so that it is not clear which is meant; "
            "rename or remove one."
        )
    if not len(frame):
        raise ValueError(f"{what} has no rows, only the columns {list(map(str, names))}.")
    return frame, folder


def _read_file(path: Path, as_text: Sequence[str | None]) -> pd.DataFrame:
    content = path.read_bytes()
    if content[:4] == b"PAR1":
        parquet = import_optional("pyarrow.parquet", extra="parquet", purpose="A Parquet table")
        try:
            frame = as_frame(parquet.read_table(path))
        except (ValueError, OSError) as error:
            raise ValueError(f"{str(path)!r} cannot be read as Parquet: {error}") from error
        assert frame is not None
        return frame
    return _parsed(_text_of(path, content), repr(str(path)), as_text)


def _text_of(path: Path, content: bytes) -> str:
    """Return the text of a CSV file, which may be compressed."""
    try:
        for mark, unpack in _PACKED.items():
            if content.startswith(mark):
                content = unpack(content)
        if content.startswith(b"PK\x03\x04"):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                inside = [name for name in archive.namelist() if not name.startswith("__MACOSX")]
                content = archive.read(inside[0]) if len(inside) == 1 else content
    except _UNPACKING_ERRORS as error:
        raise ValueError(f"{str(path)!r} cannot be unpacked: {error}") from error
    what = next((what for mark, what in _OTHERS.items() if content.startswith(mark)), None)
    encoding = next((own for mark, own in _ENCODINGS.items() if content.startswith(mark)), None)
    text = None
    with suppress(UnicodeDecodeError):
        text = content.decode(encoding or "utf-8")
    if what is None and text is None and encoding is None:
        if not content.decode("utf-8", "ignore").isascii():
            raise ValueError(
                f"{str(path)!r} has lines in UTF-8 and lines in another encoding, so that names "
                "would be misread; save all of it in UTF-8."
            )
        with suppress(UnicodeDecodeError):
            text = content.decode("cp1252")
            first = next(line for line in text.splitlines() if not line.isascii())
            warnings.warn(
                f"{str(path)!r} is not in UTF-8 and was read as Windows-1252 (Western European). "
                f"If {first.strip()[:60]!r} looks wrong, save the table in UTF-8.",
                stacklevel=5,
            )
    if what is not None or text is None or "\0" in text:
        raise ValueError(
            f"{str(path)!r} is {what or 'no text in UTF-8, UTF-16 with a mark, or Windows-1252'}; "
            "tables are read from CSV and Parquet. Save it as CSV in UTF-8, or read it with pandas "
            "and pass the DataFrame."
        )
    return text.lstrip("\ufeff")  # files that were joined have more than one mark


def _parsed(text: str, where: str, as_text: Sequence[str | None]) -> pd.DataFrame:
    """Return the columns of a CSV; a row that is longer than the heading is an error."""
    told = re.match(r'\s*"?sep=(.)"?\s*?(?:\r\n?|\n)', text)  # a line of Excel's
    if told:
        text = text[told.end() :]
    start = re.sub(r'"(?:[^"]|"")*"', "", text[:65536]).strip().splitlines() or [""]
    separator = told[1] if told else max(",;\t|", key=start[0].count)
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True
    )
    names: list[str] | None = None
    rows: list[list[str]] = []
    try:
        for row in reader:
            if not any(map(str.strip, row)):
                continue  # a blank line
            if names is None:
                names = [name.strip() for name in row]
                continue
            if any(map(str.strip, row[len(names) :])):
                raise ValueError(
                    f"{where}: row {len(rows)} (line {reader.line_num}) has {len(row)} cells, but "
                    f"the heading has {len(names)}: {names}. Quote cells that contain "
                    f"{separator!r}, and give every column a name."
                )
            rows.append([*row, *[""] * (len(names) - len(row))])
    except csv.Error as error:
        raise ValueError(
            f"{where}, line {reader.line_num}: {error}. Quotation marks have to be in pairs."
        ) from error
    if names is None:
        raise ValueError(f"{where} is empty; the first line has to name the columns.")
    columns: dict[int, pd.Series] = {}
    for place, name in enumerate(names):
        cells = [row[place] for row in rows]
        known = _usual(name) in (*FILE_COLUMNS, *GROUP_COLUMNS) or name in as_text
        if name or any(map(str.strip, cells)):
            columns[place] = _column(cells, text=known, comma=separator != ",")
    titles = [names[place] or f"Unnamed: {place}" for place in columns]
    return pd.DataFrame(columns).set_axis(titles, axis=1)


def _column(cells: list[str], *, text: bool, comma: bool) -> pd.Series:
    """Return cells as text, or as numbers if all that are not empty are written so."""
    if text:  # names of files may end in blanks
        return pd.Series([cell if cell.strip() else None for cell in cells])
    words = [cell.strip() or None for cell in cells]
    there = [word for word in words if word is not None]
    if comma and not any("." in word for word in there):
        there = [word.replace(",", ".") for word in there]
    if not all(map(_NUMBER.fullmatch, there)):
        return pd.Series(words)
    numbers = pd.to_numeric(pd.Series(there, dtype=object)).to_numpy()
    if len(there) < len(words):
        column = np.full(len(words), np.nan)
        column[[word is not None for word in words]] = numbers
        numbers = column
    return pd.Series(words if np.isinf(numbers).any() else numbers)


def find_column(frame: pd.DataFrame, candidates: Sequence[str]) -> Any:
    """Return the first of ``candidates`` that is a column; "Patient ID" is "patient_id"."""
    for candidate in candidates:
        same = [name for name in frame.columns if _usual(str(name)) == candidate]
        if len(same) > 1:
            raise ValueError(
                f"The columns {' and '.join(map(repr, same))} have names that mean the "
                "same, so that it is not clear which to use; rename or remove one."
            )
        if same:
            return same[0]
    return None


def _usual(name: str) -> str:
    """Return a column's name in lower case, with underscores for blanks and hyphens."""
    return re.sub(r"[\s_-]+", "_", name.strip().lower())


def check_columns(frame: pd.DataFrame, names: Sequence[Any]) -> None:
    """Refuse names that are not of columns."""
    if absent := [name for name in names if name not in frame.columns]:
        raise ValueError(
            f"The table has no column {absent[0]!r}; its columns are "
            f"{list(map(str, frame.columns))}."
        )


def check_complete(
    column: pd.Series, what: str, advice: str, names: Sequence[str] | None = None
) -> None:
    """Refuse a column with empty cells; ``names`` are what its rows are called in the error."""
    blank = [isinstance(each, str) and not each.strip() for each in column]
    empty = np.flatnonzero(column.isna().to_numpy() | blank)
    if len(empty):
        rows = "rows" if names is None else "images"
        first = f"row {empty[0]}" if names is None else repr(names[empty[0]])
        raise ValueError(f"{len(empty)} {rows} have no {what}; the first is {first}. {advice}")


def read_labels(labels: pd.Series) -> tuple[np.ndarray, list[Any] | None]:
    """Return text cleaned, with its names in sorted order; numbers and booleans as they are."""
    check_complete(labels, f"label in column {labels.name!r}", "Drop them before.")
    values = labels
    if not isinstance(labels.dtype, np.dtype) or labels.dtype == object:
        # Categories and objects that are numbers are numbers.
        values = pd.Series(list(labels), dtype=object).infer_objects()
    if pd.api.types.is_numeric_dtype(values):
        return values.to_numpy(), None
    words = np.array(
        [cleaned(each) if isinstance(each, str) else identifier(each) for each in values], object
    )
    return words, np.unique(words).tolist()


def one_against_rest(labels: np.ndarray, positive: Any) -> tuple[np.ndarray, list[str]]:
    """Return 1 for the rows of one class and 0 for all others, with the names of 0 and 1."""
    classes = np.unique(labels).tolist()
    wanted = identifier(positive)
    others = [each for each in classes if each != positive and identifier(each) != wanted]
    if len(others) == len(classes):
        listed = ", ".join(map(repr, classes[:10])) + (", ..." if classes[10:] else "")
        raise ValueError(f"positive={positive!r} is not one of the classes, which are {listed}.")
    (chosen,) = (each for each in classes if each not in others)
    rest = str(others[0]) if len(others) == 1 else f"not {chosen}"
    return (labels == chosen).astype(np.int64), [rest, str(chosen)]


def find_file(base: Path, name: Any, row: int) -> Path:
    """Return the file that a row names, if need be in another way of writing its name.

    These are tried if there is no such file: blanks at the ends, the backslashes of Windows, the
    other forms of Unicode, and the bytes of Windows-1252.
    """
    text = os.fsdecode(name) if isinstance(name, (bytes, os.PathLike)) else str(name)
    if _ADDRESS.match(text):
        raise ValueError(f"Row {row}: {text!r} is an address; a table names files by their path.")
    for way in dict.fromkeys((text, text.strip(), text.strip().replace("\\", "/"))):
        if os.path.isfile(base / way):
            return base / way
        place = base  # folders and files may be written in different ways
        for part in Path(way).parts:
            forms = [part, *(unicodedata.normalize(form, part) for form in ("NFC", "NFD"))]
            for code in ("cp1252", "utf-8"):
                with contextlib.suppress(UnicodeEncodeError):
                    forms.append(os.fsdecode(part.encode(code)))
            place /= next((form for form in forms if os.path.exists(place / form)), part)
        if os.path.isfile(place):
            return place
    return base / text


def comparable_name(name: str) -> str:
    """Return a file's name below a folder so that all ways of writing it are equal."""
    parts = []
    for part in name.strip().replace("\\", "/").split("/"):
        try:
            parts.append(os.fsencode(part).decode())
        except UnicodeEncodeError:  # a table's name where the system's names are ASCII
            parts.append(part)
        except UnicodeDecodeError:
            parts.append(os.fsencode(part).decode("cp1252", "replace"))
    text = "/".join(parts)
    return unicodedata.normalize("NFC", text).removeprefix("./")
