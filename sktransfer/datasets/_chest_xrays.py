"""Published sets of chest X-rays with several findings each: ChestX-ray14 and CheXpert."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils import Bunch

from sktransfer._utils.names import path_column
from sktransfer.datasets._dicom import years
from sktransfer.datasets._label_columns import check_policy, divided_labels, label_columns
from sktransfer.datasets._tables import check_columns, read_table

# In the order of the publication.
_NIH_FINDINGS = (
    *("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia"),
    *("Pneumothorax", "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening"),
    "Hernia",
)
_NIH_TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv", "sample_labels.csv")
_NIH_LISTS = {"train": "train_val_list.txt", "test": "test_list.txt"}
_NIH_COLUMNS = {
    "age": "Patient Age",
    "sex": "Patient Gender",
    "view": "View Position",
    "follow_up": "Follow-up #",
}
_CHEXPERT_FINDINGS = (
    *("Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema"),
    *("Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion"),
    *("Pleural Other", "Fracture", "Support Devices"),
)
_CHEXPERT_COLUMNS = {"age": "Age", "sex": "Sex", "view": "Frontal/Lateral", "projection": "AP/PA"}


def load_nih_chestxray14(
    path: str | os.PathLike[str],
    *,
    subset: str | None = None,
    columns: Sequence[str] = (),
    uncertain: str | Mapping[str, str] | None = None,
    on_missing: str = "raise",
    return_X_y: bool = False,
) -> Any:
    """Read the folder of the NIH's ChestX-ray14 (2017) as it was published.

    Each of 112,120 X-rays has none, one or several of 14 findings: "Effusion|Mass".

    Read more in the :ref:`User Guide <findings>`.

    Parameters
    ----------
    path : path-like
        Folder with ``Data_Entry_2017.csv`` (or ``Data_Entry_2017_v2020.csv``, or the
        ``sample_labels.csv`` of the published sample), and the images in folders whose names begin
        with ``images``, as the archives unpack. An image may be a copy of another format.
    subset : {"train", "test"} or None, default=None
        Rows of ``train_val_list.txt`` or ``test_list.txt``, the official split by patient, whose
        file must be in the folder. None: all rows.
    columns : sequence of {"age", "sex", "view", "follow_up"}, default=()
        What is kept in ``data`` alongside the images. A few ages are impossible (up to 414).
    uncertain : {"unknown", "positive", "negative"} or mapping of findings to these
        What an uncertain label means. It is required, as by :func:`load_chexpert`, so that a study
        states it for every set; this table as published has none, so that all give the same here.
    on_missing : {"raise", "drop"}, default="raise"
        What to do where images of the table are not in the folder: an error, or those rows are left
        out, for a part of the archives.
    return_X_y : bool, default=False
        Whether ``(data, target)`` is returned instead of the Bunch.

    Returns
    -------
    Bunch
        ``data``: DataFrame with the column "image" (paths) and ``columns``; ``target``: DataFrame
        of 0 and 1 with a column for each of the 14 findings; "No Finding" is none of them;
        ``target_names``; ``groups``: patients, as the names of images begin ("00000001"), so that
        they can be compared with those of :func:`load_rsna_pneumonia`, whose images are from here;
        ``frame``: the table, with the column "subset" where the lists are in the folder.

    Raises
    ------
    FileNotFoundError
        If a table, a list or an image is missing; the first few are listed.
    ValueError
        If ``uncertain`` is not given, the table is not as published, or a parameter is invalid.

    See Also
    --------
    load_chexpert : Read a set with uncertain labels.
    load_image_table : Read any other table with several labels a row.

    Notes
    -----
    The labels were taken from radiologists' reports by a program. A finding that the report does
    not mention is 0, and the authors estimate that a tenth of the labels are wrong [1]_.

    References
    ----------
    .. [1] Wang, X., et al. (2017). "ChestX-ray8: Hospital-scale chest X-ray database and benchmarks
       on weakly-supervised classification and localization of common thorax diseases". CVPR.

    Examples
    --------
    The set is not part of the library. Here, two images of its form stand for it.

    >>> import pathlib, tempfile
    >>> import pandas as pd
    >>> from sktransfer.datasets import load_nih_chestxray14
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> pd.DataFrame({
    ...     "Image Index": ["00000001_000.png", "00000002_000.png"],
    ...     "Finding Labels": ["Effusion|Mass", "No Finding"], "Patient ID": [1, 2],
    ...     "Patient Age": [58, 81], "Patient Gender": ["M", "F"], "View Position": ["PA", "AP"],
    ... }).to_csv(folder / "Data_Entry_2017.csv", index=False)
    >>> (folder / "images").mkdir()
    >>> for name in ("00000001_000.png", "00000002_000.png"):
    ...     (folder / "images" / name).touch()
    >>> nih = load_nih_chestxray14(folder, uncertain="unknown", columns=["age"])
    >>> nih.target.shape, nih.target[["Effusion", "Mass", "Nodule"]].to_numpy().tolist()
    ((2, 14), [[1, 1, 0], [0, 0, 0]])
    """
    check_policy(uncertain, required="Tables of findings may have labels that are uncertain")
    _check_choice(subset, (None, *_NIH_LISTS), "subset")
    base = Path(path)
    table = next((base / name for name in _NIH_TABLES if (base / name).is_file()), None)
    if table is None:
        raise FileNotFoundError(f"There is no {' or '.join(_NIH_TABLES)} in {str(base)!r}.")
    frame, _ = read_table(table, as_text=["Image Index", "Finding Labels"])
    check_columns(frame, ["Image Index", "Finding Labels"])
    frame["subset"] = _subsets(base, frame["Image Index"], subset)
    if subset is not None:
        frame = frame[frame["subset"] == subset]
    there = {file.stem: file for folder in base.glob("images*") for file in folder.rglob("*.*")}
    found = [there.get(Path(name).stem) for name in frame["Image Index"]]
    frame, files = _existing(frame, found, frame["Image Index"], on_missing)
    target = divided_labels(frame["Finding Labels"], "|", "No Finding", _NIH_FINDINGS)
    patients = frame["Image Index"].str.split("_").str[0]
    named = {name: _NIH_COLUMNS[name] for name in _checked(columns, _NIH_COLUMNS)}
    return _bunch(frame, files, target, patients, named, return_X_y)


def load_chexpert(
    path: str | os.PathLike[str],
    *,
    uncertain: str | Mapping[str, str] | None = None,
    blank: str = "negative",
    subset: str = "train",
    columns: Sequence[str] = (),
    on_missing: str = "raise",
    return_X_y: bool = False,
) -> Any:
    """Read the folder of CheXpert (2019), or of its small version, as it was published.

    Each X-ray has a column for each of 13 findings: 1, 0, -1 (uncertain) or empty (not mentioned).

    Read more in the :ref:`User Guide <findings>`.

    Parameters
    ----------
    path : path-like
        Folder with ``train.csv``, ``valid.csv`` and the folders ``train`` and ``valid``.
    uncertain : {"unknown", "positive", "negative"} or mapping of findings to these
        What -1 means. It is required, since results depend on it: "unknown" (NaN: no estimator
        learns from it and no metric counts it), 1, or 0. What is best differs between findings
        [1]_: a mapping has one for each.
    blank : {"negative", "unknown"}, default="negative"
        What an empty cell means, a finding that the report does not mention. "unknown": NaN, unless
        the row has "No Finding"; then all findings but "Support Devices" are absent.
    subset : {"train", "valid", "test"}, default="train"
        Which table is read.
    columns : sequence of {"age", "sex", "view", "projection"}, default=()
        What is kept in ``data`` alongside the images; "view" is frontal or lateral, "projection" AP
        or PA.
    on_missing : {"raise", "drop"}, default="raise"
        What to do where images of the table are not in the folder: an error, or those rows are left
        out.
    return_X_y : bool, default=False
        Whether ``(data, target)`` is returned instead of the Bunch.

    Returns
    -------
    Bunch
        ``data``: DataFrame with the column "image" (paths) and ``columns``; ``target``: DataFrame
        of 0, 1 and NaN with a column for each finding ("No Finding" is none of them);
        ``target_names``; ``groups``: patients; ``frame``: the table.

    Raises
    ------
    FileNotFoundError
        If the table or an image is missing; the first few are listed.
    ValueError
        If nothing says what -1 means, the table is not as published, or a parameter is invalid.

    See Also
    --------
    load_nih_chestxray14 : Read a set whose findings are words in one column.
    load_image_table : Read any other table with several labels a row.

    References
    ----------
    .. [1] Irvin, J., et al. (2019). "CheXpert: A large chest radiograph dataset with uncertainty
       labels and expert comparison". AAAI.

    Examples
    --------
    The set is not part of the library. Here, one image of its form stands for it.

    >>> import pathlib, tempfile
    >>> import pandas as pd
    >>> from sktransfer.datasets import load_chexpert
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> (folder / "train" / "patient00001" / "study1").mkdir(parents=True)
    >>> (folder / "train" / "patient00001" / "study1" / "view1_frontal.jpg").touch()
    >>> findings = ["Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion",
    ...     "Edema", "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax",
    ...     "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices"]
    >>> row = {"Path": "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg",
    ...     **dict.fromkeys(findings), "Cardiomegaly": 1, "Lung Opacity": -1}
    >>> pd.DataFrame([row]).to_csv(folder / "train.csv", index=False)
    >>> chexpert = load_chexpert(folder, uncertain="unknown")
    >>> chexpert.target[["Cardiomegaly", "Lung Opacity", "Edema"]].to_numpy().tolist()
    [[1.0, nan, 0.0]]
    """
    check_policy(uncertain, required="CheXpert has -1 where a report is uncertain of a finding")
    _check_choice(blank, ("negative", "unknown"), "blank")
    _check_choice(subset, ("train", "valid", "test"), "subset")
    base = Path(path)
    table = base / f"{subset}.csv"
    if not table.is_file():
        raise FileNotFoundError(f"There is no {table.name} in {str(base)!r}.")
    frame, _ = read_table(table, as_text=["Path"])
    check_columns(frame, ["Path"])
    # The names begin with that of the folder as it was published, which may be another here.
    parts = frame["Path"].str.replace("\\", "/").str.split("/")
    inside = [Path(*names[names.index(subset) if subset in names else 0 :]) for names in parts]
    found = [base / name if (base / name).is_file() else None for name in inside]
    frame, files = _existing(frame, found, frame["Path"], on_missing)
    patients = frame["Path"].str.extract(r"(patient\d+)", expand=False)
    labels = label_columns(frame, _CHEXPERT_FINDINGS, uncertain)
    empty = frame[list(_CHEXPERT_FINDINGS)].isna()
    if blank == "unknown":
        nothing = frame["No Finding"].eq(1) if "No Finding" in frame else False
        empty = empty.apply(lambda own: own & nothing).assign(**{"Support Devices": False})
    labels = labels.mask(empty, 0)
    if not labels.isna().any(axis=None):
        labels = labels.astype(np.int64)
    named = {name: _CHEXPERT_COLUMNS[name] for name in _checked(columns, _CHEXPERT_COLUMNS)}
    return _bunch(frame, files, labels, patients, named, return_X_y)


def _check_choice(given: Any, options: tuple[Any, ...], name: str) -> None:
    if given not in options:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, options))}; got {given!r}.")


def _checked(columns: Sequence[str], known: Mapping[str, str]) -> list[str]:
    names = [columns] if isinstance(columns, str) else list(columns)
    for name in names:
        _check_choice(name, tuple(known), "Each of columns")
    return names


def _subsets(base: Path, names: pd.Series, wanted: str | None) -> list[str | None]:
    """Return the part of the official split that each image is in."""
    part: dict[str, str] = {}
    for subset, listed in _NIH_LISTS.items():
        if (base / listed).is_file():
            part.update(dict.fromkeys((base / listed).read_text().split(), subset))
        elif subset == wanted:
            raise FileNotFoundError(f"subset={subset!r} needs {listed}, not in {str(base)!r}.")
    return [part.get(name) for name in names]


def _existing(
    frame: pd.DataFrame, files: list[Path | None], names: pd.Series, on_missing: str
) -> tuple[pd.DataFrame, list[Path]]:
    """Return the rows whose images there are, and their files."""
    _check_choice(on_missing, ("raise", "drop"), "on_missing")
    there = np.array([file is not None for file in files], dtype=bool)
    if not there.any() or (not there.all() and on_missing == "raise"):
        missing = names[~there].tolist()
        raise FileNotFoundError(
            f"{len(missing)} of {len(files)} images named in the table are not in the folder: "
            f"{', '.join(missing[:3])}{', ...' if missing[3:] else ''}. Unpack all of the images, "
            "or leave the rows of the others out with on_missing='drop'."
        )
    kept = [file for file in files if file is not None]
    return frame[there].reset_index(drop=True), kept


def _bunch(
    frame: pd.DataFrame,
    files: list[Path],
    target: pd.DataFrame,
    patients: pd.Series,
    columns: Mapping[str, str],
    return_X_y: bool,
) -> Any:
    check_columns(frame, list(columns.values()))
    data = pd.DataFrame({"image": path_column(str(file) for file in files)})
    for name, own in columns.items():
        data[name] = frame[own].map(years) if name == "age" else frame[own]
    if return_X_y:
        return data, target
    return Bunch(
        data=data,
        target=target,
        target_names=target.columns.tolist(),
        groups=patients.to_numpy(dtype=object),
        frame=frame,
        DESCR=f"{len(data)} chest radiographs of {patients.nunique()} patients with "
        f"{target.shape[1]} findings, of which {int((target == 1).any(axis=1).sum())} have one.",
    )
