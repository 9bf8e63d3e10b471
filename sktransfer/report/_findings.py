"""The parts of a report on several labels a row: every label by itself, none by argmax."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from sklearn.exceptions import UndefinedMetricWarning

from sktransfer._utils.identifiers import read_groups
from sktransfer._utils.multilabel import read_indicators
from sktransfer.metrics import (
    MultilabelRocDisplay,
    calibration_intercept,
    calibration_slope,
    operating_point,
)
from sktransfer.metrics._multilabel import MACRO, MEASURES
from sktransfer.metrics._rates import rate_of
from sktransfer.report._baselines import compared_with, interpret, property_tables
from sktransfer.report._failures_and_maps import failures_section
from sktransfer.report._findings_rows import Findings
from sktransfer.report._model import model_section
from sktransfer.report._partition import add_remarks
from sktransfer.report._scored_rows import ScoredRows
from sktransfer.report._scores import NO_PROBABILITIES
from sktransfer.report._section import Section, interval, level, new_figure, number
from sktransfer.report._subgroups import subgroups_section


def findings_parts(
    found: Findings,
    *,
    training: Mapping[str, Any],
    metadata: Any,
    subgroups: Any,
    digest: str | None,
    n_failures: int,
    images: bool,
    names: Any,
    random_state: int,
) -> tuple[str, list[Section]]:
    """Return the title and the parts; ``names`` of rows are None where nobody is identified."""
    identify = names is not None
    parts = [
        _data_section(found, **training),
        model_section(found.all.estimator, identify=identify, file_digest=digest),
        _curves_section(found),
        _decisions_section(found),
        _probabilities_section(found),
        _groups_section(found, subgroups),
        _shortcuts_section(found, metadata, random_state),
        _errors_section(found, n_failures, images=images, identify=names),
    ]
    listed = list(found.each)
    more = f" and {len(listed) - 4} more" if len(listed) > 4 else ""
    return f"Diagnostic report: {', '.join(listed[:4])}{more}", parts


def _data_section(found: Findings, *, X_train: Any, y_train: Any, groups_train: Any) -> Section:
    """Write counts of each label, and whether images or patients are in both parts."""
    section, rows = Section("partition", "Data"), found.all
    parts = {"test": _counts(found.truth, rows.groups)}
    parts["test"]["unreadable"] = rows.n_given - len(found.truth)
    whose = None if groups_train is None else read_groups(groups_train, name="groups_train")
    if y_train is not None:
        matrix, _ = read_indicators(y_train, found.labels, name="y_train")
        trained = pd.DataFrame(matrix, columns=found.truth.columns)
        parts = {"training": _counts(trained, whose), **parts}
    section.data = {"parts": parts, "overlap": None}
    for name, part in parts.items():
        people = "" if part["patients"] is None else f" of {part['patients']} patients"
        section.add_table(
            f"The {part['images']} {name} images{people}",
            ["Finding", "Present", "Absent", "Unknown", "Patients with it", "Prevalence"],
            [
                [
                    *(label, *(str(own[key]) for key in ("images", "absent", "unknown"))),
                    "" if own["patients"] is None else str(own["patients"]),
                    number(own["prevalence"]),
                ]
                for label, own in part["classes"].items()
            ],
            "An image may have several findings, or none. Where one is unknown, the image does not "
            "count for it, and counts for the others.",
        )
    add_remarks(section, rows, y_train is not None, X_train, whose)
    return section


def _counts(truth: pd.DataFrame, groups: np.ndarray | None) -> dict[str, Any]:
    def patients(own: np.ndarray) -> int | None:
        return None if groups is None else len(np.unique(groups[own]))

    return {
        "images": len(truth),
        "patients": patients(np.ones(len(truth), dtype=bool)),
        "classes": {
            str(label): {
                "images": int((own == 1).sum()),
                "absent": int((own == 0).sum()),
                "unknown": int(own.isna().sum()),
                "patients": patients((own == 1).to_numpy()),
                "prevalence": float(own.mean()),
            }
            for label, own in truth.items()
        },
    }


def _curves_section(found: Findings) -> Section:
    """Write the ROC curve of each label, areas and average precisions."""
    section, rows = Section("roc", "Discrimination"), found.all
    area = found.measured(MACRO, "roc_auc")
    curves = MultilabelRocDisplay.from_predictions(
        found.truth,
        np.column_stack([_score_of(found, own) for own in found.each.values()]),
        threshold=found.table["threshold"].to_numpy()[:-1],
        groups=rows.groups,
        confidence_level=rows.confidence_level,
        ax=new_figure().subplots(),
    )
    section.data = {
        "roc_auc": area,
        "labels": {
            label: {name: found.measured(label, name) for name in MEASURES} for label in found.each
        },
    }
    section.text.append(
        f"The mean area under the ROC curve over {len(found.judged)} findings is {interval(area)} "
        f"({level(rows.confidence_level)} interval)."
    )
    for label in found.judged:
        own = found.measured(label, "roc_auc")
        if own.high < 0.5:
            section.warn(
                f"The AUC of {label} is {interval(own)}, below 0.5 with its whole interval: "
                "probably its labels, or columns, are swapped."
            )
    section.add_figure(
        lambda figure: curves.plot(ax=figure.subplots(), plot_chance_level=True),
        alt=f"ROC curves of {', '.join(curves.curves)}; mean area {interval(area, 2)}.",
        caption="ROC curve of each finding, with the point of its threshold.",
        size=(6.4, 6.0),
    )
    section.add_table(
        f"Each finding ({level(rows.confidence_level)} intervals)",
        ["Finding", "Present", "AUC", "Average precision"],
        [
            [
                "Mean" if label == MACRO else label,
                str(int(found.table.loc[label, "n_positive"])),
                interval(found.measured(label, "roc_auc")),
                interval(found.measured(label, "average_precision")),
            ]
            for label in found.table.index
        ],
        "A dash: all images with a known label are alike. Such a finding is not in the means. The "
        "average precision of chance is the prevalence.",
    )
    return section


def _score_of(found: Findings, own: ScoredRows) -> np.ndarray:
    """Return the scores of a label on all rows; 0 where it is unknown, which counts nowhere."""
    score = np.zeros(own.n_given)
    score[own.kept] = own.score
    return score[found.all.kept]


def _decisions_section(found: Findings) -> Section:
    """Write the two-by-two table and the rates of each label at its threshold."""
    section, rows = Section("operating", "Operating points"), found.all
    points = {
        label: operating_point(own.y, own.score, own.threshold, **own.interval_settings)
        for label, own in found.judged.items()
    }
    for label, point in points.items():
        if point.warning is not None:
            section.warn(f"{label} ({point.threshold:.4g}): {point.warning}")
    right = np.concatenate([own.predicted == own.is_positive for own in found.each.values()])
    units = [own.kept if own.groups is None else own.groups for own in found.each.values()]
    accuracy = rate_of(right, np.concatenate(units), rows.confidence_level)
    mean = {name: found.measured(MACRO, name) for name in ("sensitivity", "specificity")}
    section.data = {
        "threshold_source": found.threshold_source,
        "accuracy": accuracy,
        "points": points,
        "mean": mean,
    }
    section.text.append(
        "A finding is predicted where its score is at least its threshold, whatever the others "
        f"are. {found.threshold_source} {interval(accuracy)} of all findings are predicted "
        "correctly, present or absent."
    )
    section.add_table(
        f"Each finding at its threshold ({level(rows.confidence_level)} intervals)",
        ["Finding", "Threshold", "TP, FN, FP, TN", "Sensitivity", "Specificity", "PPV", "NPV"],
        [
            [
                *(label, f"{point.threshold:.4g}"),
                ", ".join(map(str, (point.tp, point.fn, point.fp, point.tn))),
                *map(interval, (point.sensitivity, point.specificity, point.ppv, point.npv)),
            ]
            for label, point in points.items()
        ]
        + [["Mean", "", "", *map(interval, mean.values()), "", ""]],
        "Predictive values hold where findings are as frequent as here.",
    )
    return section


def _probabilities_section(found: Findings) -> Section:
    """Write calibration slopes and intercepts, and proper scores, of each label."""
    section = Section("calibration", "Calibration")
    if found.all.proba is None:
        section.remark(NO_PROBABILITIES)
        return section
    lines, data = [], {}
    for label, rows in found.judged.items():
        assert rows.proba is not None
        with warnings.catch_warnings():  # the table has it: the slope is infinite
            warnings.simplefilter("ignore", UndefinedMetricWarning)
            slope = calibration_slope(rows.y, rows.proba, **rows.interval_settings)
        intercept = calibration_intercept(rows.y, rows.proba, **rows.interval_settings)
        loss, brier = (found.measured(label, name) for name in ("log_loss", "brier_score"))
        data[label] = {"slope": slope, "intercept": intercept, "log_loss": loss, "brier": brier}
        cells = [interval(slope, 2), interval(intercept, 2), interval(brier), interval(loss)]
        lines.append([label, *cells])
        if slope.high < 0:
            section.warn(f"{label} is rarer where its probability is higher: swapped columns?")
    means = [found.measured(MACRO, name) for name in ("brier_score", "log_loss")]
    section.data = {"labels": data, "brier": means[0], "log_loss": means[1]}
    section.add_table(
        f"Agreement of probabilities with outcomes ({level(found.all.confidence_level)} intervals)",
        ["Finding", "Slope (ideal 1)", "Intercept (ideal 0)", "Brier score", "Log loss"],
        [*lines, ["Mean", "", "", *map(interval, means)]],
        "A slope below 1: overconfident. An intercept below 0: probabilities too high on average. "
        "Probabilities of findings are independent of each other, and do not sum to 1.",
    )
    return section


def _groups_section(found: Findings, given: Any) -> Section:
    """Write AUC, sensitivity and specificity of each label in each subgroup."""
    merged: Section | None = None
    subgroups: dict[str, Any] = {}
    for label, rows in found.judged.items():
        own = subgroups_section(rows, given)
        if merged is None:
            merged = Section(own.key, own.title, notices=own.notices)
        subgroups |= {f"{label}, {name}": each for name, each in own.data["subgroups"].items()}
        merged.tables += [
            table._replace(caption=f"{label}: {table.caption[0].lower()}{table.caption[1:]}")
            for table in own.tables
        ]
    merged = Section("subgroups", "Subgroups") if merged is None else merged
    merged.data = {"subgroups": subgroups}
    return merged


def _shortcuts_section(found: Findings, metadata: Any, random_state: int) -> Section:
    """Write what image properties and metadata alone reach for each label."""
    section = Section("baselines", "Baselines and shortcuts")
    section.text.append(
        "The same findings are predicted by models that do not see what the images show: a random "
        "forest each, cross-validated on the test rows."
    )
    lines = []
    section.data = {"labels": {label: {} for label in found.judged}}
    for name, (sees, table) in property_tables(section, found.all, metadata).items():
        for label, rows in found.judged.items():
            own = table.iloc[np.searchsorted(found.all.kept, rows.kept)].reset_index(drop=True)
            result = compared_with(own, rows, random_state)
            if result is None:
                continue
            section.data["labels"][label][name] = result
            model = found.measured(label, "roc_auc")
            cells = [interval(model), interval(result["roc_auc"])]
            lines.append([label, f"{name} ({sees})", *cells])
            said = Section("baselines", "")
            interpret(said, name, result, model)
            section.notices += [
                each._replace(text=f"{label}. {each.text}")
                for each in said.notices
                if result["verdict"] != "none"
            ]
    section.add_table(
        f"AUC of each finding ({level(found.all.confidence_level)} intervals)",
        ["Finding", "What the other model sees", "AUC of the model", "AUC of the other"],
        lines,
    )
    return section


def _errors_section(found: Findings, n_images: int, *, images: bool, identify: Any) -> Section:
    """Write the errors of each label, with a few images."""
    merged = Section("failures", "Failures", data={"labels": {}})
    share = min(n_images, max(2, n_images // max(1, len(found.judged))))
    for label, rows in found.judged.items():
        own = failures_section(rows, share, images=images, identify=identify)
        merged.text += [f"{label}: {text}" for text in own.text[:1]]
        merged.figures += [
            each._replace(caption=f"{label}. {each.caption}", alt=f"{label}. {each.alt}")
            for each in own.figures
        ]
        merged.data["labels"][label] = own.data
    return merged
