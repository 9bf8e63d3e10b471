"""The RSNA pneumonia challenge's folder as a Bunch."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils import Bunch

from sktransfer._utils.names import path_column
from sktransfer.datasets._dicom import read_headers
from sktransfer.datasets._tables import check_complete, read_table

_LABELS = "stage_2_train_labels.csv"
_CLASSES = "stage_2_detailed_class_info.csv"
_IMAGES = "stage_2_train_images"
_MAPPING = "pneumonia-challenge-dataset-mappings_2018.json"
_BOX = ["x", "y", "width", "height"]


def load_rsna_pneumonia(
    path: str | os.PathLike[str],
    *,
    columns: Sequence[str] = (),
    n_jobs: int | None = None,
    return_X_y: bool = False,
) -> Any:
    """Read the folder of the RSNA Pneumonia Detection Challenge (2018) as it was published.

    The table of labels has a row per box, so that an image with three boxes is in it three times.
    Counting rows gives 31.6 % positives; of the 26,684 images 22.5 % are (6,012).

    Parameters
    ----------
    path : path-like
        Folder with ``stage_2_train_labels.csv``, ``stage_2_detailed_class_info.csv`` and
        ``stage_2_train_images/``; and, if you have it,
        ``pneumonia-challenge-dataset-mappings_2018.json`` of the RSNA, which tells who is who.
    columns : sequence of str, default=()
        Elements of the DICOM headers read into ``data``, alongside the images: "view", "age",
        "sex" and others of :func:`dicom_table`. A few ages in this set are impossible (up to 155).
    n_jobs : int or None, default=None
        Threads that read headers. None: 1.
    return_X_y : bool, default=False
        Whether ``(data, target)`` is returned instead of the Bunch.

    Returns
    -------
    Bunch
        ``data``: DataFrame with the column "image" (paths) and ``columns``, one row per image,
        sorted by ``patientId``; ``target``: 1 for pneumonia (a lung opacity with a box), 0 for the
        others; ``target_names``; ``groups``: the NIH's patient numbers if the mapping is there,
        else None; ``frame``: "patientId", "class", "n_boxes" and "patient" of each image;
        ``boxes``: DataFrame of ``patientId``, ``x``, ``y``, ``width``, ``height``.

    Raises
    ------
    FileNotFoundError
        If a table or an image is missing; the first few are listed.
    ValueError
        If the tables contradict each other.

    See Also
    --------
    dicom_table : Tabulate any other DICOM images.

    Notes
    -----
    ``patientId`` is the number of an examination: patients have 2.3 images each on average,
    and only the mapping tells whose they are. Without it, a split mixes patients, and the
    confidence intervals of a test set are too narrow.

    "No Lung Opacity / Not Normal" in ``frame["class"]`` are the hard negatives: report the
    specificity on them by itself.

    The view (``ViewPosition``) alone gives an AUC of 0.71 on these labels, since the sicker
    patients are imaged lying down: compare with a model of the table before believing one of
    images. All images are from the NIH's ChestX-ray14, on which some networks were pretrained.

    References
    ----------
    .. [1] Shih, G., et al. (2019). "Augmenting the National Institutes of Health chest radiograph
       dataset with expert annotations of possible pneumonia". Radiology: Artificial Intelligence,
       1(1), e180041.

    Examples
    --------
    The set is not part of the library. Here, two images of the challenge's form stand for it.

    >>> import pathlib, tempfile
    >>> import pandas as pd
    >>> from sktransfer.datasets import load_rsna_pneumonia
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> labels = pd.DataFrame({
    ...     "patientId": ["a", "b"], "x": [10, None], "y": [10, None], "width": [50, None],
    ...     "height": [70, None], "Target": [1, 0],
    ... })
    >>> labels.to_csv(folder / "stage_2_train_labels.csv", index=False)
    >>> classes = pd.DataFrame({"patientId": ["a", "b"], "class": ["Lung Opacity", "Normal"]})
    >>> classes.to_csv(folder / "stage_2_detailed_class_info.csv", index=False)
    >>> (folder / "stage_2_train_images").mkdir()
    >>> for name in ("a", "b"):
    ...     (folder / "stage_2_train_images" / f"{name}.dcm").touch()
    >>> rsna = load_rsna_pneumonia(folder)
    >>> rsna.target.tolist(), rsna.frame["n_boxes"].tolist()
    ([1, 0], [1, 0])
    """
    base = Path(path)
    labels = _read(base / _LABELS, ["patientId", *_BOX, "Target"])
    classes = _read(base / _CLASSES, ["patientId", "class"])
    frame, boxes = _grouped(labels)
    frame["class"] = _class_of(classes, frame["patientId"])
    frame["patient"] = _patients(base / _MAPPING, frame["patientId"])
    files = [base / _IMAGES / f"{name}.dcm" for name in frame["patientId"]]
    if missing := [file.name for file in files if not file.is_file()]:
        raise FileNotFoundError(
            f"{len(missing)} of {len(files)} images named in {_LABELS} are not in {_IMAGES}/: "
            f"{', '.join(missing[:3])}{', ...' if missing[3:] else ''}. Unpack the whole set."
        )
    data = pd.DataFrame({"image": path_column(str(file) for file in files)})
    if columns:
        data = pd.concat([data, _header_columns(files, columns, n_jobs)], axis=1)
    target = frame.pop("Target").to_numpy()
    if return_X_y:
        return data, target
    known = frame["patient"].notna().all()
    whose = (
        f", of {frame['patient'].nunique()} patients."
        if known
        else f". Whose they are is in {_MAPPING}, which is not in the folder."
    )
    return Bunch(
        data=data,
        target=target,
        target_names=["no pneumonia", "pneumonia"],
        groups=frame["patient"].to_numpy() if known else None,
        frame=frame,
        boxes=boxes,
        DESCR=f"{len(data)} chest radiographs of the RSNA challenge, {int(target.sum())} with "
        f"pneumonia{whose}",
    )


def _read(path: Path, columns: list[str]) -> pd.DataFrame:
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no {path.name} in {str(path.parent)!r}. The folder should be that of the "
            "challenge's second stage, unpacked."
        )
    table, _ = read_table(path, as_text=["patientId"])
    if absent := [name for name in columns if name not in table.columns]:
        raise ValueError(f"{path.name} has no column {absent[0]!r}; is it the second stage's?")
    for name in [name for name in columns if name not in _BOX]:
        check_complete(table[name], f"{name} in {path.name}", "Unpack it again.")
    return table[columns]


def _grouped(labels: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a table with a row per image, and one with a row per box."""
    by_image = labels.groupby("patientId", sort=True)
    target = by_image["Target"].agg(["min", "max"])
    if (contradictory := target[target["min"] != target["max"]]).size:
        raise ValueError(f"{_LABELS} calls {contradictory.index[0]} both positive and negative.")
    boxes = labels[labels[_BOX].notna().all(axis=1)]
    n_boxes = boxes.groupby("patientId").size().reindex(target.index, fill_value=0)
    if ((n_boxes > 0) != (target["max"] == 1)).any():
        name = target.index[(n_boxes > 0) != (target["max"] == 1)][0]
        raise ValueError(f"In {_LABELS}, {name} is positive without a box, or the reverse.")
    frame = pd.DataFrame(
        {
            "patientId": target.index,
            "n_boxes": n_boxes.to_numpy(),
            "Target": target["max"].to_numpy().astype(np.int64),
        }
    )
    return frame, boxes[["patientId", *_BOX]].reset_index(drop=True)


def _class_of(classes: pd.DataFrame, names: pd.Series) -> np.ndarray:
    once = classes.drop_duplicates().set_index("patientId")["class"]
    if not once.index.is_unique:
        name = once.index[once.index.duplicated()][0]
        raise ValueError(f"{_CLASSES} gives {name} two classes.")
    if absent := [name for name in names if name not in once.index]:
        raise ValueError(f"{_CLASSES} has no row for {absent[0]} ({len(absent)} are missing).")
    return once.reindex(names).to_numpy()


def _patients(path: Path, names: pd.Series) -> list[Any]:
    """Return the NIH's number of each image's patient: what its file name there begins with."""
    if not path.is_file():
        return [None] * len(names)
    entries = json.loads(path.read_text())
    patients = {entry["subset_img_id"]: entry["img_id"].split("_")[0] for entry in entries}
    if absent := [name for name in names if name not in patients]:
        raise ValueError(f"{path.name} does not know {absent[0]} ({len(absent)} are missing).")
    return [patients[name] for name in names]


def _header_columns(files: list[Path], columns: Sequence[str], n_jobs: int | None) -> pd.DataFrame:
    headers, failures = read_headers(files, columns, n_jobs)
    if failures:
        raise ValueError(f"{failures[0][0].name} cannot be read: {failures[0][1]}")
    return pd.DataFrame([header or {} for header in headers], columns=list(columns))
