"""The section on subgroups: the same rates for parts of the test rows, such as sex, age, site."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from sktransfer._utils.identifiers import identifier
from sktransfer.datasets._dicom import is_dicom_ages
from sktransfer.metrics import operating_point, roc_auc_interval
from sktransfer.report._scored_rows import ScoredRows
from sktransfer.report._section import Section, interval, level, number

# A level of fewer rows shows nothing about a model, and may identify a person.
_LEAST_ROWS = 10
_MOST_LEVELS = 12
_BANDS = 4


def subgroups_section(rows: ScoredRows, given: Any) -> Section:
    """Write AUC, sensitivity and specificity of each level of each column."""
    section = Section("subgroups", "Subgroups")
    columns = _columns(rows, given)
    if not columns:
        section.remark(
            "No subgroups were given. Pass sex, age, site or view as subgroups=: a model that "
            "performs well overall may fail a subgroup."
        )
        section.data = {"subgroups": {}}
        return section
    found: dict[str, dict[str, Any]] = {}
    lines = []
    left_out = 0
    for column, levels in columns.items():
        found[column] = {}
        for name in _order(levels):
            own = np.flatnonzero(levels == name)
            if len(own) < _LEAST_ROWS:
                left_out += len(own)
                continue
            found[column][str(name)] = result = _of(rows, own)
            lines.append(
                [
                    f"{column}: {name}",
                    str(result["images"]),
                    number(result["prevalence"], 2),
                    interval(result["roc_auc"], 2),
                    interval(result["sensitivity"], 2),
                    interval(result["specificity"], 2),
                ]
            )
    section.data = {"subgroups": found, "rows_left_out": left_out}
    section.add_table(
        f"Each subgroup at the model's threshold ({level(rows.confidence_level)} intervals)",
        ["Subgroup", "Images", "Prevalence", "AUC", "Sensitivity", "Specificity"],
        lines,
        f"Levels of fewer than {_LEAST_ROWS} images are left out"
        + (f" ({left_out} images)." if left_out else " (there are none).")
        + " A dash: only one class is present. With many subgroups some differ by chance.",
    )
    return section


def _of(rows: ScoredRows, own: np.ndarray) -> dict[str, Any]:
    truth, score = rows.y[own], rows.score[own]
    groups = None if rows.groups is None else rows.groups[own]
    positive = truth == rows.positive
    result: dict[str, Any] = {
        "images": len(own),
        "patients": None if groups is None else len(np.unique(groups)),
        "prevalence": float(positive.mean()),
        **dict.fromkeys(("roc_auc", "sensitivity", "specificity")),
    }
    if positive.any() and not positive.all():
        settings: dict[str, Any] = {
            "pos_label": rows.positive,
            "groups": groups,
            "confidence_level": rows.confidence_level,
        }
        point = operating_point(truth, score, rows.threshold, **settings)
        result["roc_auc"] = roc_auc_interval(truth, score, **settings)
        result["sensitivity"], result["specificity"] = point.sensitivity, point.specificity
    return result


def _columns(rows: ScoredRows, given: Any) -> dict[str, np.ndarray]:
    """Return the level of each row, by the name of the column."""
    if given is None:
        return {}
    columns = rows.columns(given, "subgroups")
    return {str(name): _levels(column, str(name)) for name, column in columns.items()}


def too_many(column: pd.Series) -> bool:
    """Return whether a column has more levels than are tabulated, and no numbers to band."""
    numeric = pd.api.types.is_numeric_dtype(column) and column.dtype != bool
    return column.nunique() > _MOST_LEVELS and not (numeric or is_dicom_ages(column))


def _levels(column: pd.Series, name: str) -> np.ndarray:
    """Return bands of numbers, values of anything else, "unknown" where there is none."""
    if too_many(column):
        raise ValueError(
            f"The subgroup {name!r} has {column.nunique()} different values, but at most "
            f"{_MOST_LEVELS} are tabulated: join some, leave the column out, or pass a column of "
            "numbers, which is cut into bands."
        )
    if not pd.api.types.is_numeric_dtype(column):  # 1 and "1" are one site
        column = column.astype(object).map(identifier, na_action="ignore")
        column = column.mask(column == "")
    # Whole numbers of a few values are codes.
    if column.nunique() > _MOST_LEVELS:
        column = pd.qcut(column, _BANDS, duplicates="drop", precision=3)
    levels = column.astype(object)
    levels[column.isna().to_numpy()] = "unknown"
    return levels.to_numpy()


def _order(levels: np.ndarray) -> list[Any]:
    """Sort levels, the unknown one last."""
    distinct = pd.unique(levels)
    known = [each for each in distinct if str(each) != "unknown"]
    try:
        known.sort()
    except TypeError:
        known.sort(key=str)
    return [*known, *["unknown"] * (len(known) < len(distinct))]
