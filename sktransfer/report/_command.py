"""``python -m sktransfer report``: a report on a saved model and a folder or table of images."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils import Bunch

from sktransfer._moving import look_in
from sktransfer._utils.classes import fitted_steps, names_of_model, positive_class
from sktransfer._utils.identifiers import identifier
from sktransfer._utils.names import shown
from sktransfer._utils.sklearn_compat import own_positive
from sktransfer._utils.writing import new_file
from sktransfer.datasets import load_image_folder, load_image_table
from sktransfer.datasets._levels import too_many
from sktransfer.datasets._tables import find_column, read_table
from sktransfer.deploy._identity import file_digest
from sktransfer.deploy._predicting import findings_of, in_form_of
from sktransfer.model_selection import OperatingPointClassifier, TriageClassifier
from sktransfer.model_selection._saved_threshold import load_with_threshold
from sktransfer.report._class_names import given_names, labels_of, listed
from sktransfer.report._report import diagnostic_report

_FINDINGS = ("finding_labels", "findings", "all_findings", "labels")
_LABELS = ("label", "target", "class", "diagnosis", "dx")
# Usual names of columns that are no diagnosis.
_METADATA = (
    *("age", "sex", "gender", "view", "view_position", "viewposition", "site", "hospital"),
    *("device", "scanner", "manufacturer", "model_name", "follow_up", "study_date", "localization"),
)
_SUBGROUPS = ("age", "sex", "gender", "site", "hospital", "view", "view_position", "viewposition")
_WRITERS = {".html": "to_html", ".md": "to_markdown", ".json": "to_json", ".xml": "to_chai"}
# By the name that the Hugging Face Hub has for a model card.
_HUB_CARD = "readme.md"
_PICKLES = (".joblib", ".pkl", ".pickle")


def run_report(options: argparse.Namespace) -> None:
    """Load a model and data, write the report, and print what was written."""
    outputs = [Path(name) for name in options.output or ["report.html"]]
    for path in outputs:
        if path.suffix.lower() not in _WRITERS:
            raise ValueError(
                f"-o {path} has to end in {', '.join(_WRITERS)}, which determines the format."
            )
        new_file(path, "-o", "report.html")
    check_options(options, [path for path in (options.data, options.train) if path is not None])
    estimator = load_model(
        options.model, allow_pickle=options.allow_pickle, weights=options.weights
    )
    findings = findings_of(estimator)
    test = load_data(options.data, options, findings)
    print(f"{test.DESCR} Scoring and explaining takes a minute or more.", flush=True)
    names = names_of_model(estimator)
    if options.classes is not None:
        names = given_names(options.classes, np.asarray(estimator.classes_).tolist())
    y, positive = test.target, options.positive
    if findings is None:
        y, positive = _labels(estimator, test, names), _positive(positive, estimator, names)
    train: dict[str, Any] = {}
    if options.train is not None:
        known = load_data(options.train, options, findings)
        train = {
            "X_train": in_form_of(estimator, known.data["image"]),
            "y_train": known.target if findings else _labels(estimator, known, names),
            "groups_train": known.groups,
        }
    report = diagnostic_report(
        estimator,
        in_form_of(estimator, test.data["image"]),
        y,
        groups=test.groups,
        readers=_readings(_columns(test, options.readers, (), "--readers"), estimator, names),
        subgroups=_columns(test, options.subgroups, _SUBGROUPS, "--subgroups"),
        metadata=_columns(test, options.metadata, _METADATA, "--metadata"),
        target_names=names,
        pos_label=positive,
        threshold=options.threshold,
        title=options.title,
        label_audit=options.audit_labels or None,
        saliency=None if options.saliency == "none" else options.saliency,
        images=not options.no_images,
        include_identifiers=options.identifiers,
        row_names=_row_names(test) if options.identifiers else None,
        model_digest=file_digest(options.model),
        **train,
    )
    print(report.summary)
    for text in report.warnings:
        print(f"warning: {text}")
    for path in outputs:
        on_hub = path.name.lower() == _HUB_CARD
        getattr(report, "to_hugging_face" if on_hub else _WRITERS[path.suffix.lower()])(path)
        print(f"wrote {path.absolute()}")


def load_model(path: str, *, allow_pickle: bool, weights: str | None = None) -> Any:
    """Load a saved classifier, with its threshold if it has one; rows that fail are NaN.

    ``weights`` is the file of its pretrained weights, or a folder with it, if it lies elsewhere.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"There is no saved model {path!r}.")
    if file.suffix.lower() not in _PICKLES:
        options = {"on_error": "nan", "weights": weights}
        return load_with_threshold((OperatingPointClassifier, TriageClassifier), file, options)
    if not allow_pickle:
        raise ValueError(
            f"{path} is a pickle, and loading one runs whatever code is in it. If you trust its "
            "source, add --allow-pickle. `train` and TransferClassifier.save write "
            "files without code."
        )
    import joblib

    try:
        with warnings.catch_warnings():
            if weights is not None:  # what is still missing then is an error
                warnings.filterwarnings("ignore", ".*cannot compute anything yet")
            estimator = joblib.load(file)
    except Exception as error:  # a file that is no pickle may raise anything
        raise ValueError(f"{path} cannot be loaded here: {error}") from error
    if not hasattr(estimator, "classes_"):
        kind = type(estimator).__name__
        raise ValueError(f"{path} holds a {kind}, which is no classifier that was fitted.")
    if weights is not None:
        for step in fitted_steps(estimator):
            if getattr(step, "reference_", None) is not None:
                look_in(step, weights)
    return estimator


def check_options(options: argparse.Namespace, paths: list[str]) -> None:
    """Refuse options for tables where none is given."""
    for name, what in (("target", "labels"), ("image", "names")):
        if getattr(options, name) is not None and all(Path(path).is_dir() for path in paths):
            raise ValueError(
                f"--{name} is for tables; the {what} of a folder are its "
                f"{'sub-folders' if name == 'target' else 'files'}."
            )


def load_data(
    path: str,
    options: argparse.Namespace,
    findings: list[Any] | None = None,
    *,
    several: bool = False,
) -> Bunch:
    """Load a folder or a table of images with labels; of a model of ``findings``, with these.

    With ``several``, labels such as "Effusion|Mass", or columns that ``--target`` joins by commas,
    are several a row.
    """
    groups = None if options.groups == "none" else options.groups
    if Path(path).is_dir():
        if findings is not None:
            raise ValueError(
                f"The model is for several findings, {listed(findings)}: give a table."
            )
        return load_image_folder(path, groups=groups)
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no folder and no table {path!r}.")
    frame, folder = read_table(path, as_text=[options.image, groups])
    settings = {"image": options.image, "root": folder, "groups": groups}
    if findings is not None and options.target is None and set(findings) <= set(frame.columns):
        return load_image_table(frame, target=findings, **settings)
    usual = _LABELS if findings is None else (*_FINDINGS, *_LABELS)
    target = find_column(frame, usual) if options.target is None else options.target
    if target is None:
        raise ValueError(
            f"{path} has no column {', '.join(_LABELS)}; say where the labels are with --target. "
            f"Its columns are {list(map(str, frame.columns))}."
        )
    if findings is None:
        if several and target in frame:
            if frame[target].map(str).str.contains("|", regex=False).any():
                settings["separator"] = "|"
        elif several and set(target.split(",")) <= set(frame.columns):
            target = target.split(",")
        return load_image_table(frame, target=target, **settings)
    data = load_image_table(frame, target=target, separator="|", **settings)
    known = data.target.notna().any(axis=1)
    if set(findings).isdisjoint(data.target):
        raise ValueError(
            f"Column {target!r} names none of the model's findings, {listed(findings)}. Where each "
            "has a column of its own, leave --target out."
        )
    if others := [name for name in data.target if name not in findings]:
        print(f"left out, since the model does not know them: {listed(others)}")
    absent = pd.DataFrame({name: known.map({True: 0.0}) for name in findings})
    data.target = absent.mask(data.target.reindex(columns=findings) == 1, 1)
    return data


def _row_names(data: Bunch) -> list[str]:
    """Return the names of files; images that are in the table itself have none."""
    return [
        shown(Path(each).name) if isinstance(each, str) else f"row {row}"
        for row, each in enumerate(data.data["image"])
    ]


def _labels(estimator: Any, data: Bunch, names: dict[Any, str] | None) -> np.ndarray:
    """Return labels as the model has them; folders and words are matched by name."""
    classes = np.asarray(estimator.classes_)
    words = np.asarray(data.target)
    known = [*map(str, classes.tolist()), *(names or {}).values()]
    for name in known:  # of a model that tells one class from all others
        # What only differs in the way of writing is none of the others; below it is refused.
        plain = {_plain(each) for each in known}
        others = [word for word in pd.unique(words).tolist() if _plain(str(word)) not in plain]
        if others and f"not {name}" in known:
            print(f"not {name}: {listed(others)}")
            words = np.where(np.isin(words, others), f"not {name}", words).astype(object)
    there = pd.unique(words).tolist()
    found = labels_of(sorted(there, key=str), classes.tolist(), names)
    if names is not None:
        print("classes: " + ", ".join(f"{label} is {name}" for label, name in names.items()))
    codes = {word: classes.tolist().index(label) for word, label in found.items()}
    return classes[[codes[word] for word in words.tolist()]]


def _plain(name: str) -> str:
    """Return letters and digits of a name, so that "COVID-19" is "covid19"."""
    return "".join(filter(str.isalnum, name.casefold())) or name


def _readings(
    readers: pd.DataFrame | None, estimator: Any, names: dict[Any, str] | None
) -> pd.DataFrame | None:
    """Return readings, which are names of classes or labels as text, as the model's labels."""
    if readers is None:
        return None
    labels = np.asarray(estimator.classes_).tolist()

    def read(given: Any) -> Any:
        word = identifier(given)
        try:
            return labels_of([word], labels, names)[word]
        except ValueError:  # which reader it is, the report says
            return given

    return readers.map(read, na_action="ignore")


def _positive(given: str | None, estimator: Any, names: dict[Any, str] | None) -> Any:
    """Return the positive class by its name, or None for that of the model's threshold."""
    labels = np.asarray(estimator.classes_).tolist()
    if given is None:
        if own_positive(estimator) is None:
            return positive_class(labels, names=names, option="--positive ")
        return None
    try:
        return labels_of([given], labels, names)[given]
    except ValueError as error:
        known = list((names or {}).values()) or [str(label) for label in labels]
        raise ValueError(
            f"--positive {given!r} is not one of the classes {listed(known)}."
        ) from error


def _columns(
    data: Bunch, given: list[str] | None, usual: tuple[str, ...], option: str
) -> pd.DataFrame | None:
    """Return columns that were asked for, or those with usual names; None without any."""
    frame = data.frame
    if given == ["none"] and (frame is None or "none" not in frame.columns):
        return None
    if given is None:
        if frame is None:
            return None
        given = [name for name in frame.columns if str(name).lower() in usual]
        given = [name for name in given if frame[name].notna().any()]
        for name in [name for name in given if option == "--subgroups" and too_many(frame[name])]:
            print(f"subgroups: {name} is left out, since it has {frame[name].nunique()} values")
            given.remove(name)
    elif frame is None:
        raise ValueError(f"{option}: there is no table alongside the images to take columns from.")
    absent = [name for name in given if name not in frame.columns]
    if absent:
        raise ValueError(
            f"{option}: the table has no column {absent[0]!r}; its columns are "
            f"{list(map(str, frame.columns))}."
        )
    return frame[given].reset_index(drop=True) if given else None
