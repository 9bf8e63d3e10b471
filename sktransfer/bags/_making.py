"""make_bags: rows of images in, bags with one label each out.

It must not know estimators.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils import Bunch

from sktransfer._images import DicomFrame, is_dicom, read_dicom_header, read_file
from sktransfer._utils.identifiers import read_groups
from sktransfer._utils.names import quoted
from sktransfer._utils.per_row import as_column, as_frame, check_present
from sktransfer.bags._reading import cells_of, images_of, views_of
from sktransfer.datasets._walk import Walk, first_bytes, not_an_image
from sktransfer.exceptions import ImageDecodeError


def make_bags(X: Any, y: Any = None, groups: Any = None, *, frames: str = "first") -> Bunch:
    """Gather the images of each patient into a bag, with the patient's label.

    Nothing is decoded: a bag is a list of what the rows of ``X`` are.

    Read more in the :ref:`User Guide <bags>`.

    Parameters
    ----------
    X : array-like, DataFrame, Series or sequence, n rows
        Images in any of the :ref:`accepted forms <accepted-inputs>`, or vectors. A row may also be
        a list of images, one column of them for each view, or a folder, which stands for the
        images in it and in its sub-folders.
    y : array-like of shape (n,), default=None
        Labels of the rows. All rows of a bag must have the same.
    groups : array-like of shape (n,), default=None
        Which bag a row belongs to: the patient, the study, or the series. None: each row is a bag.
    frames : {"first", "all"}, default="first"
        With ``"all"``, a DICOM file stands for all its frames.

    Returns
    -------
    Bunch
        ``data``: Series of lists, a bag each, in the order in which they first occur; ``target``:
        ndarray of their labels, or None; ``groups``: ndarray of the names of the groups (str), or
        None; ``rows``: list of arrays, the rows of ``X`` that a bag was made of.

    Raises
    ------
    ValueError
        If a label is missing, or rows of one group differ in theirs; or if ``groups`` or ``y`` has
        another length than ``X``.
    FileNotFoundError
        If a folder has no image in it.

    See Also
    --------
    BagClassifier : Classify bags.
    BagTransformer : Pool the embeddings of the images of a bag.
    sktransfer.datasets.dicom_table : Tabulate DICOM files, with their patients, studies and series.

    Examples
    --------
    >>> from sktransfer.bags import make_bags
    >>> bags = make_bags(
    ...     ["a1.png", "b1.png", "a2.png"], ["ill", "well", "ill"], groups=["Ann", "Bob", "Ann"]
    ... )
    >>> bags.data.tolist()
    [['a1.png', 'a2.png'], ['b1.png']]
    >>> bags.target.tolist(), bags.groups.tolist()
    (['ill', 'well'], ['Ann', 'Bob'])
    """
    if frames not in ("first", "all"):
        raise ValueError(f'frames must be "first" or "all"; got {frames!r}.')
    items = cells_of(X) or views_of(X)
    if items is None:
        frame = as_frame(X)
        items = list(X if frame is None else frame.to_numpy())
    n = len(items)
    names = None
    codes = np.arange(n)
    if groups is not None:
        codes, names = pd.factorize(read_groups(groups, n=n))
    order = np.argsort(codes, kind="stable")
    rows = np.split(order, np.cumsum(np.bincount(codes))[:-1]) if n else []
    expanded = [_images(item, frames) for item in items]
    bags = [[image for row in own for image in expanded[row]] for own in rows]
    return Bunch(
        data=pd.Series(bags, name="images", dtype=object),
        target=None if y is None else _labels(y, rows, names, n),
        groups=names,
        rows=rows,
    )


def _labels(y: Any, rows: list[np.ndarray], names: Any, n: int) -> np.ndarray:
    """Return the label of each bag."""
    labels = as_column(check_present(y))
    if labels.shape not in ((n,), (n, 1)):
        raise ValueError(f"y has shape {labels.shape} for {n} rows of X; expected ({n},).")
    labels = labels.ravel()
    mixed = [bag for bag, own in enumerate(rows) if (labels[own] != labels[own[0]]).any()]
    if mixed:
        found = ", ".join(map(repr, dict.fromkeys(labels[rows[mixed[0]]].tolist())))
        raise ValueError(
            f"{len(mixed)} of {len(rows)} groups have rows with different labels; the first is "
            f"{quoted(names[mixed[0]])}, with {found}. Leave them out, or say what a patient's "
            "label is, for example that of the worst image: "
            'pd.Series(y).groupby(np.asarray(groups)).transform("max").'
        )
    return labels[[own[0] for own in rows]]


def _images(item: Any, frames: str) -> list[Any]:
    """Return the images that a row of ``X`` stands for."""
    if isinstance(item, (list, tuple)) or hasattr(item, "to_list"):
        return [image for each in images_of(item, 0) for image in _images(each, frames)]
    if not isinstance(item, (str, os.PathLike)) or isinstance(item, DicomFrame):
        return [item]
    if os.path.isdir(item):
        return _images_in_folder(Path(item), frames)
    return _frames(item, frames) if frames == "all" else [item]


def _images_in_folder(folder: Path, frames: str) -> list[Any]:
    """Return the images in a folder, in the order of their paths."""
    walk = Walk(folder)
    walk.keep(not_an_image)
    if problems := walk.problems():
        listed = "\n- ".join([f"make_bags, folder {quoted(folder)}:", *problems])
        warnings.warn(listed, stacklevel=4)
    found: list[Any] = []
    for file in walk.files:
        found += _frames(str(file), frames) if is_dicom(first_bytes(file)) else [str(file)]
    if not found:
        raise FileNotFoundError(f"The folder {quoted(folder)} has no image in it.")
    return found


def _frames(path: str | os.PathLike[str], frames: str) -> list[Any]:
    """Return the frames of a DICOM file; none if it has no image; what fails now fails later."""
    try:
        data = read_file(path)
        header = read_dicom_header(data, ()) if is_dicom(data) else {"": 1}
    except ImageDecodeError:
        return [path]
    if header is None:
        return []
    n = header[""]
    if frames == "first" or not isinstance(n, int) or n == 1:
        return [path]
    return [DicomFrame(os.fspath(path), frame) for frame in range(n)]
