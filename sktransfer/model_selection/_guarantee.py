"""What a rate that is to be guaranteed takes, and what is said where it cannot be."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from sktransfer.metrics import rows_needed
from sktransfer.metrics._operating_point import doubt_about

# Level of intervals where none is asked for.
USUAL = 0.95


def refuse_certainty(clf: Any, rows: np.ndarray, groups: np.ndarray | None) -> None:
    """Raise an error that says why no threshold keeps a rate of 1, and what can be asked for.

    ``clf`` is an OperatingPointClassifier; ``rows`` are those of the class whose rate it keeps.
    """
    if clf.target_level != 1 or clf.constraint == "cost":
        return
    n = len(rows if groups is None else np.unique(groups[rows]))
    rows_of_class = f"{n} {whose(clf, groups)}"
    reason = no_certainty(clf.constraint, rows_of_class, n, clf.confidence_level)
    raise ValueError(f"target_level=1: {reason}")


def no_certainty(constraint: str, rows: str, n: int, confidence_level: float | None) -> str:
    """Return why a rate of 1 cannot be guaranteed with ``n`` ``rows``, and what can."""
    sure = confidence_level or USUAL
    missed = 1 - (1 - sure) ** (1 / n)
    found, lost = "found", "missed"
    if constraint == "specificity":
        found, lost = "called negative", "called positive"
    return (
        f"that none is ever {lost} cannot be guaranteed with any number of cases. With {rows}, all "
        f"of them {found}, up to {missed:.1%} of those to come may still be {lost}, with "
        f"confidence {sure:g} (the rule of three: about 3 / {n} with 0.95). The most that they can "
        f"guarantee is {highest_level(n, sure):g}."
    )


def trivial_threshold(clf: Any, n: int, groups: np.ndarray | None) -> float:
    """Return the threshold that calls every row the same; where nobody asked for it, an error.

    ``n`` rows or groups of the class are too few for the rate that ``clf`` is to keep.
    """
    units = whose(clf, groups)
    shortfall = (
        f"A {clf.constraint} of at least {clf.target_level:g} "
        f"{takes(clf.target_level, clf.confidence_level, n, units)}"
    )
    above = clf.constraint == "sensitivity"
    refuse_or_warn(
        clf.unattainable,
        shortfall,
        f"lower target_level (these can guarantee {highest_level(n, clf.confidence_level):g})",
        ("call every row the same", f"Every row is called {clf._called[above]}."),
    )
    return -np.inf if above else np.inf


def takes(level: float, confidence_level: float, n: int, units: str) -> str:
    """Return that a rate of ``level`` cannot be guaranteed, how many units it takes, and has."""
    needed = rows_needed(level, confidence_level=confidence_level)
    return (
        f"cannot be guaranteed with confidence {confidence_level:.4g}: that takes {needed} "
        f"{units}, and {n} were scored."
    )


def refuse_or_warn(
    unattainable: str, shortfall: str, lower: str, trivially: tuple[str, str]
) -> None:
    """Raise an error that says what else could be asked for, or warn of what is done instead."""
    if unattainable == "raise":
        raise ValueError(
            f"{shortfall} Give more of them, {lower} or confidence_level, ask for a point estimate "
            f"with confidence_level=None, or {trivially[0]} with unattainable='trivial'."
        )
    warnings.warn(f"{shortfall} {trivially[1]}", stacklevel=6)


def warn_of_no_use(clf: Any) -> None:
    """Warn of a threshold that tells nothing, unless it was said that every row is called alike."""
    doubt = doubt_about(clf.operating_point_, clf._called[1])
    if doubt is not None and (np.isfinite(clf.threshold_) or clf.constraint == "cost"):
        warnings.warn(
            f"{doubt} See the ROC curve and the scores of each class first: a better model, more "
            "images or another target_level may help.",
            stacklevel=4,
        )


def whose(clf: Any, groups: np.ndarray | None) -> str:
    """Return what counts as one in the rate that a classifier keeps, with its class."""
    above = clf.constraint != "specificity"
    unit = "rows" if groups is None else "groups"
    return f"{'positive' if above else 'negative'} {unit} (class {clf._called[above]})"


def highest_level(n: int, confidence_level: float) -> float:
    """Return the highest rate that ``n`` rows without a miss can guarantee, rounded down."""
    digits = 10 ** max(3, len(str(n)))
    return math.floor((1 - confidence_level) ** (1 / n) * digits) / digits
