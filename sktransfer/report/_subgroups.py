"""The section on subgroups: the same rates for parts of the test rows, such as sex, age, site."""

from __future__ import annotations

from typing import Any

import numpy as np

from sktransfer.datasets._levels import LEAST_ROWS, levels_of
from sktransfer.metrics import operating_point, roc_auc_interval
from sktransfer.report._scored_rows import ScoredRows
from sktransfer.report._section import Section, interval, level, number


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
        for name, own in levels.items():
            if len(own) < LEAST_ROWS:
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
        f"Levels of fewer than {LEAST_ROWS} images are left out"
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


def _columns(rows: ScoredRows, given: Any) -> dict[str, dict[Any, np.ndarray]]:
    """Return the rows of each level, by the name of the column."""
    if given is None:
        return {}
    columns = rows.columns(given, "subgroups")
    return {str(name): levels_of(column, str(name)) for name, column in columns.items()}
