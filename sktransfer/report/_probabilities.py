"""Whether probabilities mean what they say, where they lie, and whether acting on them does good.

It must not know images.
"""

from __future__ import annotations

import numpy as np
from sklearn.metrics import brier_score_loss, d2_brier_score, log_loss

from sktransfer.metrics import (
    CalibrationIntervalDisplay,
    DecisionCurveDisplay,
    ScoreDistributionDisplay,
)
from sktransfer.report._document import Section, Table, interval, level, number
from sktransfer.report._figures import scratch, themed
from sktransfer.report._rows import Rows

_NO_PROBABILITIES = (
    "The model gives scores and no probabilities, so there is nothing to say here. "
    "CalibratedClassifierCV makes probabilities of scores."
)
# Thresholds whose net benefit is written down.
_CUTS = (0.05, 0.1, 0.2, 0.3, 0.5)


def calibration(rows: Rows) -> Section:
    """Reliability diagram, slope, intercept and proper scores."""
    section = Section("calibration", "Calibration")
    if rows.proba is None:
        section.remark(_NO_PROBABILITIES)
        return section
    display = CalibrationIntervalDisplay.from_predictions(
        rows.y,
        rows.proba,
        n_bins=int(np.clip(len(rows.y) // 25, 3, 10)),
        name="Model",
        ax=scratch().subplots(),
        **rows.interval_settings,
    )
    truth = rows.is_positive
    scores = {
        "brier": float(brier_score_loss(truth, rows.proba)),
        "d2_brier": float(d2_brier_score(truth, rows.proba)),
        "log_loss": float(log_loss(truth, rows.proba)),
    }
    section.data = {"slope": display.slope, "intercept": display.intercept, **scores}
    section.tables.append(
        Table(
            f"Agreement of probabilities with outcomes ({level(rows.confidence_level)} intervals)",
            ["Measure", "Value", "Ideal"],
            [
                ["Calibration slope", interval(display.slope, 2), "1"],
                ["Calibration intercept", interval(display.intercept, 2), "0"],
                ["Brier score", number(scores["brier"]), "0"],
                ["Brier score, share explained", number(scores["d2_brier"]), "1"],
                ["Log loss", number(scores["log_loss"]), "0"],
            ],
            "A slope below 1: too sure of itself. An intercept below 0: probabilities too high on "
            "the whole.",
        )
    )
    section.figures.append(
        themed(
            lambda figure: display.plot(ax=figure.subplots()),
            name="calibration",
            alt="Reliability diagram: fraction of positives against mean predicted probability in "
            f"{len(display.counts)} bins, with intervals; slope {interval(display.slope, 2)}.",
            caption="Reliability diagram with exact intervals for each bin. On the dotted line "
            "probabilities are right; the strip below shows where they lie.",
            size=(5.8, 4.8),
        )
    )
    return section


def distributions(rows: Rows) -> Section:
    """Histograms of the scores of both classes."""
    section = Section("distributions", "Scores of each class")
    display = ScoreDistributionDisplay.from_predictions(
        rows.y, rows.score, threshold=rows.threshold, ax=scratch().subplots(), **rows.settings
    )
    section.data = {"edges": display.edges, "shares": display.shares}
    section.figures.append(
        themed(
            lambda figure: display.plot(ax=figure.subplots()),
            name="distributions",
            alt=f"Histograms of the scores of {rows.negative} and of {rows.positive}, with the "
            f"threshold at {rows.threshold:.3g}.",
            caption="Scores of each class and the threshold. "
            + ("Each patient weighs the same." if rows.groups is not None else ""),
            size=(5.8, 3.6),
        )
    )
    return section


def benefit(rows: Rows) -> Section:
    """The decision curve."""
    section = Section("benefit", "Net benefit")
    if rows.proba is None:
        section.remark(_NO_PROBABILITIES)
        return section
    display = DecisionCurveDisplay.from_predictions(
        rows.y, rows.proba, name="Model", ax=scratch().subplots(), **rows.settings
    )
    at = {
        cut: (
            float(np.interp(cut, display.thresholds, display.benefit)),
            float(np.interp(cut, display.thresholds, display.benefit_all)),
        )
        for cut in _CUTS
    }
    section.data = {
        "thresholds": display.thresholds,
        "benefit": display.benefit,
        "benefit_of_acting_on_all": display.benefit_all,
    }
    section.text.append(
        "Who acts from a probability t on takes one case found to be worth (1 - t) / t false "
        "alarms. Below the higher of the two other lines the probabilities do harm."
    )
    section.figures.append(
        themed(
            lambda figure: display.plot(ax=figure.subplots()),
            name="benefit",
            alt="Decision curve: net benefit of the model, of acting on everybody and on nobody, "
            "against the threshold probability.",
            caption="Decision curve. Read it at the thresholds that somebody would choose.",
            size=(5.8, 4.2),
        )
    )
    section.tables.append(
        Table(
            "Net benefit, in cases found for each image",
            ["Acting from a probability of", "On the model", "On everybody", "On nobody"],
            [
                [f"{cut:g}", number(own), number(everybody), number(0.0)]
                for cut, (own, everybody) in at.items()
            ],
        )
    )
    return section
