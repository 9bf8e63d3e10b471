"""The section on data: what was tested, what was trained on, and that they do not overlap."""

from __future__ import annotations

from typing import Any

import numpy as np

from sktransfer._utils.identifiers import read_groups
from sktransfer.inspection._estimator_images import image_reader
from sktransfer.model_selection import check_leakage
from sktransfer.report._scored_rows import ScoredRows
from sktransfer.report._section import NOTHING, Section, number

# Images up to which edited copies are looked for, which takes some minutes then.
_MOST_COMPARED = 5000
# What check_leakage finds, its name among the numbers, and how it is said.
_COPIES = (
    ("image", "training_images", "byte for byte"),
    ("near duplicate", "edited_training_images", "as an edited copy (cropped, mirrored, scaled)"),
)


def partition_section(
    rows: ScoredRows, *, X_train: Any = None, y_train: Any = None, groups_train: Any = None
) -> Section:
    """Write counts of each part, and whether images or patients are in both."""
    section = Section("partition", "Data")
    parts = {"test": _counts(rows, rows.y, rows.groups)}
    refused = 0 if rows.novelty is None else rows.novelty.n_refused
    parts["test"]["unreadable"] = rows.n_given - len(rows.y) - refused
    if refused:
        parts["test"]["novel"] = refused
        section.remark(
            f"{refused} test images are not like those of training, and the model does not answer "
            "for them: they are left out of everything but the section on novelty."
        )
    if groups_train is not None:
        groups_train = read_groups(groups_train, name="groups_train")
    if y_train is not None:
        labels = rows.named(y_train, "y_train")
        if groups_train is not None and len(groups_train) != len(labels):
            raise ValueError(
                f"groups_train has {len(groups_train)} entries for {len(labels)} labels of y_train."
            )
        parts = {"training": _counts(rows, labels, groups_train), **parts}
    section.data = {"parts": parts, "overlap": None}
    _add_counts(section, rows, parts)
    add_remarks(section, rows, y_train is not None, X_train, groups_train)
    return section


def add_remarks(
    section: Section, rows: Any, trained: bool, X_train: Any, groups_train: Any
) -> None:
    """Say what is not known of the parts, and what is in both; ``trained``: labels were given."""
    if rows.groups is None:
        section.remark(
            "No groups were given: if patients have several images, all intervals below are too "
            "narrow."
        )
    if trained:
        section.data["overlap"] = add_overlap(section, rows, X_train, groups_train)
    else:
        section.remark("Nothing is reported about the training data: y_train was not given.")


def _counts(rows: ScoredRows, labels: np.ndarray, groups: Any) -> dict[str, Any]:
    positive = labels == rows.positive

    def count(own: np.ndarray) -> dict[str, Any]:
        n_patients = None if groups is None else len(np.unique(np.asarray(groups)[own]))
        return {"images": int(own.sum()), "patients": n_patients}

    return {
        **count(np.ones(len(labels), bool)),
        "classes": {rows.negative: count(~positive), rows.positive: count(positive)},
        "prevalence": float(positive.mean()),
    }


def _add_counts(section: Section, rows: ScoredRows, parts: dict[str, dict[str, Any]]) -> None:
    def images(part: dict[str, Any]) -> str:
        patients = part["patients"]
        return f"{part['images']}" + ("" if patients is None else f" of {patients} patients")

    names = (rows.negative, rows.positive)
    own = parts.values()
    section.add_table(
        "What was tested" if len(parts) == 1 else "What was trained on and what was tested",
        ["", *(name.capitalize() for name in parts)],
        [
            ["Images", *map(images, own)],
            *([name, *(images(part["classes"][name]) for part in own)] for name in names),
            [f"Prevalence of {rows.positive}", *(number(part["prevalence"]) for part in own)],
            ["Unreadable, left out", *(str(part.get("unreadable", NOTHING)) for part in own)],
        ],
        "Patients are the groups that were given; one may have images of both classes.",
    )


def add_overlap(
    section: Section, rows: ScoredRows, X_train: Any, groups_train: np.ndarray | None
) -> dict[str, int]:
    """Count and report test rows whose patient, or whose image, is in training too."""
    found = {}
    if rows.groups is not None and groups_train is not None:
        shared = int(np.isin(rows.groups, groups_train).sum())
        found["rows_of_training_patients"] = shared
        if shared:
            section.warn(
                f"{shared} test images are of a patient that is in training too: scores on them "
                "are not those of new patients."
            )
        else:
            section.remark("The parts are disjoint by patient: nobody is in both.")
    else:
        section.remark(
            "Whether a patient is in both parts was not checked: groups of both are needed."
        )
    if X_train is not None:
        shape, values = _common_scale(rows, X_train)
        near = len(rows.X) + len(X_train) <= _MOST_COMPARED
        table = check_leakage(
            X_train,
            rows.X,
            image_shape=shape,
            value_range=values,
            near_duplicates=near,
            on_leak="ignore",
        )
        for what, key, how in _COPIES[: 2 if near else 1]:
            found[key] = shared = int(table.loc[table["what"] == what, "test_row"].nunique())
            if shared:
                section.warn(
                    f"{shared} test images are in training too, {how}: scores on them are not "
                    "those of new patients."
                )
            else:
                section.remark(f"No test image is in training {how}.")
        if not near:
            section.remark("Edited copies were not looked for: there are too many images.")
    return found


def _common_scale(rows: ScoredRows, X_train: Any) -> tuple[Any, Any]:
    """Return the ``image_shape`` and ``value_range`` with which both parts can be read."""
    reader = image_reader(rows.estimator)
    if reader is not None:
        return reader.image_shape, reader.value_range
    parts = [X for X in (X_train, rows.X) if isinstance(X, np.ndarray) and X.dtype.kind in "uif"]
    if not parts:
        return None, None
    low, high = min(float(X.min()) for X in parts), max(float(X.max()) for X in parts)
    return None, (low, high) if low < high else None
