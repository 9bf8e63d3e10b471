"""The partition table: what was tested, what was trained on, and that they are apart.

It must not know scores.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sktransfer._utils.splitting import read_groups
from sktransfer.inspection._estimator_images import image_reader
from sktransfer.model_selection import check_leakage
from sktransfer.report._document import NOTHING, Section, Table, number
from sktransfer.report._rows import Rows, class_names


def partition(
    rows: Rows, *, X_train: Any = None, y_train: Any = None, groups_train: Any = None
) -> Section:
    """Counts of each part, and whether images or patients are in both."""
    section = Section("partition", "Data")
    parts = {"test": _counts(rows, rows.y, rows.groups)}
    parts["test"]["unreadable"] = rows.n_given - len(rows.y)
    if y_train is not None:
        labels = class_names(y_train, rows.labels, rows.label, rows.negative, rows.positive)
        groups = None if groups_train is None else read_groups(groups_train, name="groups_train")
        if groups is not None and len(groups) != len(labels):
            raise ValueError(
                f"groups_train has {len(groups)} entries for {len(labels)} labels of y_train."
            )
        parts = {"training": _counts(rows, labels, groups), **parts}
    section.data = {"parts": parts, "overlap": None}
    section.tables.append(_table(rows, parts))
    if rows.groups is None:
        section.remark(
            "No groups were given: if patients have several images, all intervals below are too "
            "short."
        )
    if y_train is None:
        section.remark("Nothing is said about the training data: y_train was not given.")
        return section
    overlap = _overlap(rows, X_train, groups_train)
    section.data["overlap"] = overlap
    _say(section, overlap, X_train is not None, rows.groups is not None, groups_train is not None)
    return section


def _counts(rows: Rows, labels: np.ndarray, groups: Any) -> dict[str, Any]:
    positive = labels == rows.positive
    return {
        "images": len(labels),
        "patients": None if groups is None else len(np.unique(groups)),
        "classes": {
            name: {
                "images": int(own.sum()),
                "patients": None if groups is None else len(np.unique(np.asarray(groups)[own])),
            }
            for name, own in ((rows.negative, ~positive), (rows.positive, positive))
        },
        "prevalence": float(positive.mean()),
    }


def _table(rows: Rows, parts: dict[str, dict[str, Any]]) -> Table:
    def line(name: str, value: Any) -> list[str]:
        return [name, *(value(part) for part in parts.values())]

    def both(part: dict[str, Any]) -> str:
        patients = part["patients"]
        return f"{part['images']}" + ("" if patients is None else f" of {patients} patients")

    return Table(
        "What was tested" if len(parts) == 1 else "What was trained on and what was tested",
        ["", *(name.capitalize() for name in parts)],
        [
            line("Images", both),
            *(
                line(name, lambda part, name=name: both(part["classes"][name]))
                for name in (rows.negative, rows.positive)
            ),
            line(f"Prevalence of {rows.positive}", lambda part: number(part["prevalence"])),
            line("Could not be read, left out", lambda part: str(part.get("unreadable", NOTHING))),
        ],
        "Patients are the groups that were given; one may have images of both classes.",
    )


def _overlap(rows: Rows, X_train: Any, groups_train: Any) -> dict[str, int]:
    """Test rows whose image, or whose patient, is in training too."""
    found = {}
    if rows.groups is not None and groups_train is not None:
        shared = np.isin(rows.groups, read_groups(groups_train, name="groups_train"))
        found["rows_of_training_patients"] = int(shared.sum())
    if X_train is not None:
        shape, values = _scale(rows, X_train)
        table = check_leakage(
            X_train, rows.X, image_shape=shape, value_range=values, on_leak="ignore"
        )
        found["training_images"] = int(table["test_row"].nunique())
    return found


def _scale(rows: Rows, X_train: Any) -> tuple[Any, Any]:
    """``image_shape`` and ``value_range`` that both parts can be read with."""
    reader = image_reader(rows.estimator)
    if reader is not None:
        return reader.image_shape, reader.value_range
    parts = [X for X in (X_train, rows.X) if isinstance(X, np.ndarray) and X.dtype.kind in "uif"]
    if not parts:
        return None, None
    low, high = min(float(X.min()) for X in parts), max(float(X.max()) for X in parts)
    return None, (low, high) if low < high else None


def _say(
    section: Section, overlap: dict[str, int], images: bool, groups: bool, train_groups: bool
) -> None:
    names = {
        "rows_of_training_patients": "images are of a patient that is in training too",
        "training_images": "images are in training too, byte for byte",
    }
    for key, count in overlap.items():
        if count:
            section.warn(
                f"{count} test {names[key]}: scores on them are not those of new patients."
            )
    clean = [key for key, count in overlap.items() if not count]
    if "rows_of_training_patients" in clean:
        section.remark("The parts are disjoint by patient: nobody is in both.")
    elif not (groups and train_groups):
        section.remark(
            "Whether a patient is in both parts was not checked: groups of both are needed."
        )
    if "training_images" in clean:
        section.remark("No test image is in training byte for byte; edited copies are not found.")
