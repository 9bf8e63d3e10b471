"""The section on labels: which of them are probably wrong, and copies whose labels differ."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd

from sktransfer._extractor import PretrainedFeatureExtractor
from sktransfer._images import as_image_source
from sktransfer._utils.classes import fitted_steps, names_of_model
from sktransfer.datasets import audit_labels
from sktransfer.datasets._audit import LabelAudit, audit_probabilities
from sktransfer.inspection._estimator_images import image_reader
from sktransfer.report._class_names import check_names
from sktransfer.report._section import Section, number

_COLUMNS = 4
# What benchmarks/audit.py finds, least and most over its sets of images.
_PRECISION = "56 to 94 %"


def labels_section(
    estimator: Any,
    given: Any,
    X: Any,
    y: Any,
    groups: Any,
    *,
    target_names: Any,
    n_images: int,
    images: bool,
) -> Section:
    """Write the most suspicious labels; ``given`` is an audit, probabilities, or True to audit."""
    audit = given if isinstance(given, LabelAudit) else _audited(estimator, given, X, y, groups)
    table = _with_names(audit.table, estimator, target_names)
    section = Section("labels", "Labels")
    conflicts = int(audit.duplicates["conflict"].sum())
    first = table.head(n_images)
    section.data = {
        "audited": len(table),
        "suspected": audit.n_suspected,
        "left_out": len(audit.left_out),
        "copies": len(audit.duplicates),
        "conflicting_copies": conflicts,
        "shown": first.drop(columns="source").to_dict("records"),
    }
    section.text.append(
        f"Of {len(table)} labels, {audit.n_suspected} are suspected to be wrong: for models that "
        "have not seen the image, another label is at least as probable as it usually is where it "
        "is given (Northcutt et al., 2021)."
    )
    section.remark(
        "Suspected is not wrong. Where a tenth of the labels of natural sets had been changed, "
        f"{_PRECISION} of those suspected were changed ones; where fewer are wrong, most of those "
        "suspected are right, of images that are hard to tell. Somebody who knows the images "
        "decides. Test labels that are corrected wherever a model disagrees make it look better "
        "than it is."
    )
    if conflicts:
        section.warn(
            f"{conflicts} pairs of images that are copies of one another have different labels: at "
            "least one of each two is wrong."
        )
    if not len(first):
        return section
    section.add_table(
        "The most suspicious labels",
        ["Row", "Given", "More probable", "Score", "Neighbors", "Suspected"],
        [
            [
                *(str(each.row), str(each.given), str(each.suggested), number(each.score, 2)),
                *(number(each.neighbors, 1), "yes" if each.suspected else "no"),
            ]
            for each in first.itertuples()
        ],
        "Row: position among the images audited. Score: 1 minus the probability of the given "
        "label. Neighbors: part of the ten most similar images that have the given label.",
    )
    if images and audit.images is not None:
        shown = dataclasses.replace(audit, table=table)
        lines = -(-len(first) // _COLUMNS)
        section.add_figure(
            lambda figure: shown.plot(n_images, figure=figure, n_columns=_COLUMNS),
            alt=f"{len(first)} images with the given and the more probable label.",
            caption="The images whose labels are the most suspicious: the label that is given, the "
            "more probable one, and the score.",
            size=(7.0, 2.3 * lines + 0.4),
            photographs=True,
        )
    return section


def _with_names(table: pd.DataFrame, estimator: Any, target_names: Any) -> pd.DataFrame:
    """Return the table of an audit with names of classes for labels."""
    classes = np.asarray(estimator.classes_).tolist()
    known = check_names(target_names, classes, names_of_model(estimator) or {})
    names = dict(zip(classes, known, strict=True))
    return table.assign(
        **{
            column: [names.get(label, label) for label in table[column]]
            for column in ("given", "suggested")
        }
    )


def _audited(estimator: Any, given: Any, X: Any, y: Any, groups: Any) -> LabelAudit:
    """Audit the rows of the report, with the networks of the model or with probabilities."""
    reader = image_reader(estimator)
    form = {}
    if reader is not None:
        form = {"image_shape": reader.image_shape, "value_range": reader.value_range}
    if given is not True:
        images = None if reader is None else as_image_source(X, **form)
        return audit_probabilities(given, np.asarray(y), estimator.classes_, images)
    networks = [s for s in fitted_steps(estimator) if isinstance(s, PretrainedFeatureExtractor)]
    return audit_labels(X, y, groups, backbone=networks or None, **form)
