"""Sections on scores: discrimination, operating point, calibration, distributions, net benefit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.metrics import brier_score_loss, d2_brier_score, log_loss

from sktransfer.metrics import (
    CalibrationIntervalDisplay,
    DecisionCurveDisplay,
    ReaderStudyDisplay,
    ScoreDistributionDisplay,
    operating_point,
)
from sktransfer.metrics._rates import rate_of
from sktransfer.report._scored_rows import ScoredRows
from sktransfer.report._section import Section, interval, level, new_figure, number

_RATES = {
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ppv": "Positive predictive value",
    "npv": "Negative predictive value",
    "positive_likelihood_ratio": "Positive likelihood ratio",
    "negative_likelihood_ratio": "Negative likelihood ratio",
    "group_sensitivity": "Patients with all positive images detected",
    "group_specificity": "Patients without a false alarm on a negative image",
}
NO_PROBABILITIES = (
    "The model gives scores and no probabilities, so there is nothing to report here. "
    "CalibratedClassifierCV turns scores into probabilities."
)
# Thresholds whose net benefit is written down.
_CUTS = (0.05, 0.1, 0.2, 0.3, 0.5)


def roc_section(rows: ScoredRows, readers: Any, *, identify: bool, random_state: Any) -> Section:
    """Write the ROC curve with its interval, and the readers on it."""
    section = Section("roc", "Discrimination")
    display = ReaderStudyDisplay.from_predictions(
        rows.y,
        rows.score,
        readers=_readers(rows, readers, identify) or None,
        threshold=rows.threshold,
        name="Model",
        random_state=random_state,
        ax=new_figure().subplots(),
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
    for name, reader in experts.items():
        if reader.sensitivity.high + reader.specificity.high < 1:
            section.warn(
                f"{name} has a sensitivity of {interval(reader.sensitivity)} and a specificity of "
                f"{interval(reader.specificity)}: these readings are worse than chance, so they "
                "are probably coded the other way round."
            )
    section.text.append(
        f"The area under the ROC curve is {interval(area)} ({level(rows.confidence_level)} interval"
        + (", by the bootstrap over patients)." if rows.groups is not None else ", by DeLong).")
    )
    section.add_figure(
        lambda figure: display.plot(
            ax=figure.subplots(), plot_chance_level=True, chance_level_kwargs={"linewidth": 0.8}
        ),
        alt=f"ROC curve of the model, area {interval(area, 2)}, with the point of its threshold"
        + (f" and those of {', '.join(experts)}." if experts else "."),
        caption="ROC curve with a pointwise bootstrap band. The diamond is the threshold of the "
        "next part" + ("; circles are readers, the cross is their mean." if experts else "."),
        size=(5.8, 5.4),
    )
    if experts:
        section.add_table(
            f"Readers ({level(rows.confidence_level)} intervals)",
            ["Reader", "Sensitivity", "Specificity"],
            [
                [name, interval(reader.sensitivity), interval(reader.specificity)]
                for name, reader in experts.items()
            ],
        )
    return section


def operating_section(rows: ScoredRows, thresholds: Mapping[str, float] | None) -> Section:
    """Write the two-by-two table and its rates, at the threshold and at further ones."""
    section = Section("operating", "Operating point")
    chosen = {"The model's threshold": rows.threshold, **(thresholds or {})}
    points = {
        name: operating_point(rows.y, rows.score, threshold, **rows.interval_settings)
        for name, threshold in chosen.items()
    }
    for name, point in points.items():
        if point.warning is not None:
            section.warn(f"{name} ({point.threshold:.4g}): {point.warning}")
    right = rows.predicted == rows.is_positive
    accuracy = rate_of(right, rows.groups, rows.confidence_level)
    section.data = {
        "threshold_source": rows.threshold_source,
        "accuracy": accuracy,
        "points": points,
    }
    section.text.append(
        f"The prediction is {rows.positive} if the score is at least {rows.threshold:.4g}. "
        f"{rows.threshold_source} With it, {interval(accuracy)} of the images are predicted "
        "correctly."
    )
    names = (rows.positive, rows.negative)
    section.add_table(
        "Predictions against the reference standard",
        ["", *(f"{truth}, predicted {guess}" for truth in names for guess in names)],
        [
            [f"{name} ({point.threshold:.4g})", *map(str, (point.tp, point.fn, point.fp, point.tn))]
            for name, point in points.items()
        ],
    )
    lines = []
    for attribute, title in _RATES.items():
        values = [getattr(point, attribute) for point in points.values()]
        if any(value is not None for value in values):
            digits = 2 if "ratio" in attribute else 3
            lines.append([title, *(interval(value, digits) for value in values)])
    prevalence = next(iter(points.values())).prevalence
    note = (
        f"Predictive values hold where {number(100 * prevalence, 1)} % are {rows.positive}, as "
        "here."
    )
    if rows.groups is not None:
        note += " Intervals take into account that images of one patient are similar."
    section.add_table(
        f"Rates ({level(rows.confidence_level)} intervals)", ["", *points], lines, note
    )
    return section


def _readers(rows: ScoredRows, readers: Any, identify: bool) -> dict[str, np.ndarray]:
    """Return the readings by name; names of people are left out unless asked for."""
    if readers is None:
        return {}
    given = rows.columns(readers, "readers")
    return {
        name if identify else f"Reader {place}": rows.named(own, f"readers {name!r}")
        for place, (name, own) in enumerate(given.items(), start=1)
    }


def calibration_section(rows: ScoredRows) -> Section:
    """Write the reliability diagram, slope, intercept and proper scores."""
    section = Section("calibration", "Calibration")
    if rows.proba is None:
        section.remark(NO_PROBABILITIES)
        return section
    display = CalibrationIntervalDisplay.from_predictions(
        rows.y,
        rows.proba,
        n_bins=int(np.clip(len(rows.y) // 25, 3, 10)),
        name="Model",
        ax=new_figure().subplots(),
        **rows.interval_settings,
    )
    truth = rows.is_positive
    scores = {
        "brier": float(brier_score_loss(truth, rows.proba)),
        "d2_brier": float(d2_brier_score(truth, rows.proba)),
        "log_loss": float(log_loss(truth, rows.proba)),
    }
    section.data = {"slope": display.slope, "intercept": display.intercept, **scores}
    if display.slope.high < 0:
        section.warn(
            f"The calibration slope is {interval(display.slope, 2)}: {rows.positive} is rarer "
            "where its probability is higher. Labels or classes are probably swapped."
        )
    section.add_table(
        f"Agreement of probabilities with outcomes ({level(rows.confidence_level)} intervals)",
        ["Measure", "Value", "Ideal"],
        [
            ["Calibration slope", interval(display.slope, 2), "1"],
            ["Calibration intercept", interval(display.intercept, 2), "0"],
            ["Brier score", number(scores["brier"]), "0"],
            ["Brier score, share explained", number(scores["d2_brier"]), "1"],
            ["Log loss", number(scores["log_loss"]), "0"],
        ],
        "A slope below 1: overconfident. An intercept below 0: probabilities too high on average.",
    )
    section.add_figure(
        lambda figure: display.plot(ax=figure.subplots()),
        alt="Reliability diagram: fraction of positives against mean predicted probability in "
        f"{len(display.counts)} bins, with intervals; slope {interval(display.slope, 2)}.",
        caption="Reliability diagram with exact intervals for each bin. The dotted line is perfect "
        "calibration; the strip below shows the distribution of the probabilities.",
        size=(5.8, 4.8),
    )
    return section


def distributions_section(rows: ScoredRows) -> Section:
    """Write histograms of the scores of both classes."""
    section = Section("distributions", "Scores of each class")
    display = ScoreDistributionDisplay.from_predictions(
        rows.y, rows.score, threshold=rows.threshold, ax=new_figure().subplots(), **rows.settings
    )
    section.data = {"edges": display.edges, "shares": display.shares}
    section.add_figure(
        lambda figure: display.plot(ax=figure.subplots()),
        alt=f"Histograms of the scores of {rows.negative} and of {rows.positive}, with the "
        f"threshold at {rows.threshold:.3g}.",
        caption="Scores of each class and the threshold."
        + (" Each patient has the same weight." if rows.groups is not None else ""),
        size=(5.8, 3.6),
    )
    return section


def benefit_section(rows: ScoredRows) -> Section:
    """Write the decision curve."""
    section = Section("benefit", "Net benefit")
    if rows.proba is None:
        section.remark(NO_PROBABILITIES)
        return section
    display = DecisionCurveDisplay.from_predictions(
        rows.y, rows.proba, name="Model", ax=new_figure().subplots(), **rows.settings
    )
    section.data = {
        "thresholds": display.thresholds,
        "benefit": display.benefit,
        "benefit_of_acting_on_all": display.benefit_all,
    }
    section.text.append(
        "Whoever acts from a probability t on values one detected case as (1 - t) / t false "
        "alarms. Below the higher of the two other lines the probabilities do harm."
    )
    section.add_figure(
        lambda figure: display.plot(ax=figure.subplots()),
        alt="Decision curve: net benefit of the model, of acting on everybody and on nobody, "
        "against the threshold probability.",
        caption="Decision curve. Read it at the thresholds that somebody would choose.",
        size=(5.8, 4.2),
    )
    curves = (display.benefit, display.benefit_all)
    section.add_table(
        "Net benefit, in detected cases for each image",
        ["Acting from a probability of", "On the model", "On everybody", "On nobody"],
        [
            [
                f"{cut:g}",
                *(number(float(np.interp(cut, display.thresholds, curve))) for curve in curves),
                number(0.0),
            ]
            for cut in _CUTS
        ],
    )
    return section
