"""Which classes remain possible for a row, what is decided, and what came of it, class by class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from sktransfer.metrics._labels import Interval, check_labels
from sktransfer.metrics._rates import rate_of

# The number of a decision that is left to somebody else.
REFER = -1


def possible_classes(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return for each row and class whether its score is at least the threshold of the class.

    A class without a threshold (NaN) is possible where it is the likeliest.
    """
    free = np.isnan(thresholds)
    likeliest = scores >= scores.max(axis=1, keepdims=True)
    return np.where(free, likeliest, scores >= np.where(free, np.inf, thresholds))


def decide(
    scores: np.ndarray, thresholds: np.ndarray, costs: np.ndarray | None = None
) -> np.ndarray:
    """Return the number of the class that each row is decided to be, or REFER.

    A row is never decided against a class that is possible and has a threshold, so that of such a
    class at most as many rows are decided otherwise as score below its threshold. That holds
    however one of the other classes is chosen.
    """
    possible = possible_classes(scores, thresholds)
    if costs is None:
        codes = np.where(possible.sum(axis=1) == 1, possible.argmax(axis=1), REFER)
        # Where no class is left, any decision keeps the rates.
        return np.where(possible.any(axis=1), codes, scores.argmax(axis=1))
    held = possible & ~np.isnan(thresholds)
    allowed = held.sum(axis=1, keepdims=True) - held == 0
    expected = scores @ costs
    n_classes = len(thresholds)
    if expected.shape[1] == n_classes:
        codes = expected.argmin(axis=1)
        return np.where(allowed[np.arange(len(codes)), codes], codes, REFER)
    of_allowed = np.where(allowed, expected[:, :n_classes], np.inf)
    codes = of_allowed.argmin(axis=1)
    return np.where(of_allowed.min(axis=1) <= expected[:, n_classes], codes, REFER)


def triage_table(
    true: np.ndarray,
    codes: np.ndarray,
    classes: Sequence[Any],
    *,
    patients: np.ndarray | None = None,
    confidence_level: float = 0.95,
) -> pd.DataFrame:
    """Count what became of the rows of each class, and of its groups, with intervals.

    ``true`` are numbers of classes, ``codes`` those of decisions, ``patients`` of groups. Released
    are rows, or groups with a row, that were decided to be of another class.
    """
    rows = []
    for number in range(len(classes)):
        own = true == number
        called = codes[own]
        referred, released = called == REFER, (called != REFER) & (called != number)
        theirs = None if patients is None else patients[own]
        units = released
        row: dict[str, Any] = {
            "n_rows": int(own.sum()),
            "n_correct": int((called == number).sum()),
            "n_referred": int(referred.sum()),
            "n_released": int(released.sum()),
        }
        if theirs is not None:
            names, place = np.unique(theirs, return_inverse=True)
            units = np.bincount(place, weights=released, minlength=len(names)) > 0
            row |= {"n_groups": len(names), "n_groups_released": int(units.sum())}
        row |= spread("referred", rate_of(referred, theirs, confidence_level))
        row |= spread("released", rate_of(units, None, confidence_level))
        rows.append(row)
    return pd.DataFrame(rows, index=pd.Index(list(classes), name="class"))


def spread(name: str, rate: Interval) -> dict[str, float]:
    """Return a rate and the limits of its interval as columns of a table."""
    return {name: rate.estimate, f"{name}_low": rate.low, f"{name}_high": rate.high}


def numbers_of(labels: Any, classes: np.ndarray, name: str, referred: Any = None) -> np.ndarray:
    """Return the numbers of labels, REFER where they are the label of rows that are referred."""
    given = check_labels(labels, name=name)
    places = {label: number for number, label in enumerate(np.asarray(classes).tolist())}
    if referred is not None:
        places[referred] = REFER
    try:
        return np.array([places[label] for label in given.tolist()], dtype=int)
    except KeyError as error:
        raise ValueError(
            f"{name} has the label {error.args[0]!r}, which is none of the classes "
            f"{np.asarray(classes).tolist()}."
        ) from None
