"""The section on novelty: which test images are not like those of training, and drift."""

from __future__ import annotations

import numpy as np

from sktransfer.metrics._labels import Interval
from sktransfer.metrics._rates import rate_of
from sktransfer.novelty import DriftReport
from sktransfer.report._scored_rows import Novelty, ScoredRows
from sktransfer.report._section import Section, interval, level

# From here on, chance is no explanation.
_UNLIKELY = 0.05
_WHAT_HAPPENS = {
    "flag": "They have a prediction all the same, and every figure of this report includes them.",
    "refer": "They are referred to a person, and no other figure of this report includes them.",
    "raise": "They have no prediction, and no other figure of this report includes them.",
}


def novelty_section(rows: ScoredRows, found: Novelty, *, random_state: int) -> Section:
    """Write the share of the test images that is novel, by class, and test for drift."""
    section = Section("novelty", "Novelty")
    own = {name: found.y == name for name in (rows.negative, rows.positive)}
    shares = {name: _share(found, rows, which) for name, which in own.items()}
    whole = _share(found, rows, np.ones(len(found.y), dtype=bool))
    drift = _drift(found, random_state)
    section.data = {
        "on_novel": found.gate.on_novel,
        "n_novel": int(found.novel.sum()),
        "novel": whole,
        "classes": shares,
        "drift": drift and {**vars(drift), "operating_point": None, "reason": None},
    }
    section.text.append(
        f"Of the {len(found.novel)} test images, {interval(whole)} are novel: not like those that "
        f"the model was trained on. {_WHAT_HAPPENS[found.gate.on_novel]}"
    )
    section.add_table(
        f"Novel images by class ({level(rows.confidence_level)} intervals)",
        ["", "Images", "Novel", "Their share"],
        [
            [str(name), str(which.sum()), str((which & found.novel).sum()), interval(shares[name])]
            for name, which in own.items()
        ],
        "A class with many novel images is one that the model mostly does not know.",
    )
    if drift is not None:
        _add_drift(section, drift)
    return section


def _share(found: Novelty, rows: ScoredRows, which: np.ndarray) -> Interval:
    groups = None if found.groups is None else found.groups[which]
    return rate_of(found.novel[which], groups, rows.confidence_level)


def _drift(found: Novelty, random_state: int) -> DriftReport | None:
    """Test for drift, where the detector can and there are images enough."""
    if not hasattr(found.gate.detector_, "drift_report") or len(found.y) < 2:
        return None
    test = found.gate.detector_.drift_report
    report: DriftReport = test(found.X, groups=found.groups, random_state=random_state)
    return report


def _add_drift(section: Section, drift: DriftReport) -> None:
    section.text.append(
        f"Among images like those of training, {drift.false_alarm_rate:.3g} would be novel (p = "
        f"{drift.novel_p_value:.3g} for as many as here). A test by permutation of whether the "
        f"test images are from where those of training are from gives p = {drift.p_value:.3g}."
    )
    if drift.novel_p_value <= _UNLIKELY:
        section.warn(
            "More test images are novel than expected: they are from elsewhere in part, such as "
            "another device or another kind of image. Look at them."
        )
    elif drift.p_value <= _UNLIKELY:
        section.remark(
            "The test images as a whole differ from those of training, which need not matter: "
            "with many images a small difference is seen."
        )
