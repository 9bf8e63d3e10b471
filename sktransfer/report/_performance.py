"""How well the scores tell the classes apart, and what the threshold makes of them.

It must not know images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from sktransfer.metrics import ReaderStudyDisplay, operating_point
from sktransfer.metrics._operating_point import OperatingPoint
from sktransfer.metrics._rates import rate_of
from sktransfer.report._document import Section, Table, interval, level, number
from sktransfer.report._figures import scratch, themed
from sktransfer.report._rows import Rows

_RATES = [
    ("sensitivity", "Sensitivity"),
    ("specificity", "Specificity"),
    ("ppv", "Positive predictive value"),
    ("npv", "Negative predictive value"),
    ("positive_likelihood_ratio", "Positive likelihood ratio"),
    ("negative_likelihood_ratio", "Negative likelihood ratio"),
    ("group_sensitivity", "Patients with all positive images found"),
    ("group_specificity", "Patients with all negative images passed"),
]


def roc(rows: Rows, readers: Any, *, identify: bool, random_state: Any) -> Section:
    """The ROC curve with its interval, and the experts on it."""
    section = Section("roc", "Discrimination")
    named = _readers(rows, readers, identify)
    display = ReaderStudyDisplay.from_predictions(
        rows.y,
        rows.score,
        readers=named or None,
        threshold=rows.threshold,
        name="Model",
        random_state=random_state,
        ax=scratch().subplots(),
        **rows.interval_settings,
    )
    area = display.roc_auc
    experts = dict(display.readers or {})
    if display.mean_reader is not None:
        experts["Average reader"] = display.mean_reader
    section.data = {
        "roc_auc": area,
        "readers": {name: reader._asdict() for name, reader in experts.items()},
    }
    section.text.append(
        f"The area under the ROC curve is {interval(area)} ({level(rows.confidence_level)} interval"
        + (", by the bootstrap over patients)." if rows.groups is not None else ", by DeLong).")
    )
    section.figures.append(
        themed(
            lambda figure: display.plot(
                ax=figure.subplots(), plot_chance_level=True, chance_level_kwargs={"linewidth": 0.8}
            ),
            name="roc",
            alt=f"ROC curve of the model, area {interval(area, 2)}, with the point of its threshold"
            + (f" and {len(display.readers or {})} readers." if experts else "."),
            caption="ROC curve with a bootstrap band, point by point. The diamond is the "
            "threshold of the next part"
            + ("; circles are readers, the cross is their mean." if experts else "."),
            size=(5.8, 5.4),
        )
    )
    if experts:
        section.tables.append(
            Table(
                f"Readers ({level(rows.confidence_level)} intervals)",
                ["Reader", "Sensitivity", "Specificity"],
                [
                    [name, interval(reader.sensitivity), interval(reader.specificity)]
                    for name, reader in experts.items()
                ],
            )
        )
    return section


def operating(rows: Rows, thresholds: Mapping[str, float] | None) -> Section:
    """The two-by-two table and its rates, at the threshold and at further ones."""
    section = Section("operating", "Operating point")
    chosen = {"The model's threshold": rows.threshold, **(thresholds or {})}
    points = {
        name: operating_point(rows.y, rows.score, threshold, **rows.interval_settings)
        for name, threshold in chosen.items()
    }
    right = rows.called == rows.is_positive
    accuracy = rate_of(right, rows.groups, rows.confidence_level)
    section.data = {
        "threshold_source": rows.threshold_source,
        "accuracy": accuracy,
        "points": points,
    }
    section.text.append(
        f"An image is called {rows.positive} where its score is at least "
        f"{rows.threshold:.4g}. {rows.threshold_source} At it {interval(accuracy)} of the images "
        "are called correctly."
    )
    section.tables.append(_counts(rows, points))
    section.tables.append(_rates(rows, points))
    return section


def _counts(rows: Rows, points: Mapping[str, OperatingPoint]) -> Table:
    return Table(
        "Calls against the reference standard",
        [
            "",
            *(
                f"{truth} called {call}"
                for truth in (rows.positive, rows.negative)
                for call in (rows.positive, rows.negative)
            ),
        ],
        [
            [f"{name} ({point.threshold:.4g})", *map(str, (point.tp, point.fn, point.fp, point.tn))]
            for name, point in points.items()
        ],
    )


def _rates(rows: Rows, points: Mapping[str, OperatingPoint]) -> Table:
    lines = []
    for attribute, title in _RATES:
        values = [getattr(point, attribute) for point in points.values()]
        if any(value is not None for value in values):
            digits = 2 if "ratio" in attribute else 3
            lines.append([title, *(interval(value, digits) for value in values)])
    prevalence = next(iter(points.values())).prevalence
    return Table(
        f"Rates ({level(rows.confidence_level)} intervals)",
        ["", *points],
        lines,
        f"Predictive values hold where {number(100 * prevalence, 1)} % are {rows.positive}, as "
        "here."
        + (
            " Intervals take into account that images of one patient are alike."
            if rows.groups is not None
            else ""
        ),
    )


def _readers(rows: Rows, readers: Any, identify: bool) -> dict[str, np.ndarray]:
    """Readings by name; names of people stay out unless asked for."""
    if readers is None:
        return {}
    items = (
        {name: readers[name] for name in readers.columns}.items()
        if isinstance(readers, pd.DataFrame)
        else dict(readers).items()
    )
    return {
        str(name) if identify else f"Reader {place}": rows.named(rows.of(given, f"reader {place}"))
        for place, (name, given) in enumerate(items, start=1)
    }
