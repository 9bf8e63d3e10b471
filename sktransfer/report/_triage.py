"""The section on a triage: what of the test rows was decided, referred and released."""

from __future__ import annotations

import numpy as np

from sktransfer._utils.sklearn_compat import decider
from sktransfer.metrics._labels import Interval, group_codes
from sktransfer.metrics._rates import rate_of
from sktransfer.model_selection import TriageDisplay
from sktransfer.model_selection._triage_rule import REFER, triage_table
from sktransfer.report._scored_rows import ScoredRows
from sktransfer.report._section import NOTHING, Section, interval, level, number


def triage_section(rows: ScoredRows) -> Section:
    """Write the share that is referred, and for both classes how many were released.

    With more classes, those that are not the positive one are taken together.
    """
    clf = decider(rows.estimator)
    decided = np.asarray(rows.estimator.predict(rows.X))
    codes = np.where(decided == rows.pos_label, 1, 0)
    codes[decided == clf.refer_label_] = REFER
    patients = group_codes(rows.groups, len(codes))
    table = triage_table(
        rows.is_positive.astype(int),
        codes,
        [rows.negative, rows.positive],
        patients=patients,
        confidence_level=rows.confidence_level,
    )
    referred = rate_of(codes == REFER, patients, rows.confidence_level)
    stated = clf.triage_["max_released"]
    limits = np.array([np.nan, stated[rows.pos_label]])
    if len(rows.classes) == 2:
        limits[0] = stated[next(label for label in rows.classes if label != rows.pos_label)]
    units = "images" if patients is None else "patients"
    counts = "n_released" if patients is None else "n_groups_released"
    section = Section("triage", "Triage")
    section.data = {
        "referred": referred,
        "classes": {
            name: {**table.loc[name].to_dict(), "max_released": limit}
            for name, limit in zip(table.index, limits, strict=True)
        },
    }
    section.text.append(
        f"The model refers {interval(referred)} of the images to a person. Of the {units} with "
        f"{rows.positive}, {table.loc[rows.positive, counts]:.0f} were released, that is, decided "
        "to be something else."
    )
    lines = []
    for (name, own), limit in zip(table.iterrows(), limits, strict=True):
        released = Interval(own["released"], own["released_low"], own["released_high"])
        parts = ("n_rows", "n_correct", "n_referred", "n_released", counts)
        lines.append(
            [str(name), *(f"{own[part]:.0f}" for part in parts), interval(released), number(limit)]
        )
        if own["released_low"] > limit:
            section.warn(
                f"More {units} with {name} were released than the triage guarantees, {limit:g}, "
                "even by the lower end of the interval: these are not like those it was fitted to."
            )
    section.add_table(
        f"Decisions by class ({level(rows.confidence_level)} intervals)",
        ["", "Images", "Decided correctly", "Referred", "Released", f"Released {units}"]
        + ["Their share", "Guaranteed at most"],
        lines,
        "Both shares are of one class, and do not depend on how common the finding is. "
        f"{NOTHING} means that nothing is guaranteed.",
    )
    display = {"table": table, "referred": referred, "max_released": limits}
    section.add_figure(
        lambda figure: TriageDisplay(**display).plot(ax=figure.subplots()),
        alt="A bar for each class: decided correctly, referred, and released.",
        caption="What became of the test images of each class.",
        size=(7.0, 3.6),
    )
    return section
