"""acceptance_sample_size: what an acceptance test requires, and how many patients that takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import binom

from sktransfer._utils.classes import positive_class
from sktransfer.metrics import rows_needed
from sktransfer.metrics._labels import check_level

# What a rate is of, for the numbers of rows that are needed.
OF = {
    "sensitivity": "positive",
    "specificity": "negative",
    "group_sensitivity": "positive",
    "group_specificity": "negative",
    "ppv": "called positive",
    "npv": "called negative",
    "accuracy": "all",
}
_NAMES = (*OF, "roc_auc")
PER_CLASS = tuple(name for name in OF if name != "accuracy")
# A rate that is required to 0.001 may take so many rows; more are not looked for.
_MOST = 2_000_000


class Requirement(NamedTuple):
    """A rate that is required, of all rows or for one class against the rest."""

    name: str
    label: Any
    level: float


def acceptance_sample_size(
    required: Mapping[str, Any],
    *,
    expected: Mapping[str, float] | None = None,
    power: float = 0.8,
    confidence_level: float = 0.95,
    prevalence: float | None = None,
) -> pd.DataFrame:
    """Count how many patients an acceptance test needs, before there are any data.

    Parameters
    ----------
    required : mapping of str to float
        The least rate for each of "sensitivity", "specificity", "ppv", "npv", "accuracy",
        "group_sensitivity" and "group_specificity" that is required.
    expected : mapping of str to float, or None, default=None
        What each rate is thought to be, such as in the study of the model. None: halfway between
        what is required and 1.
    power : float, default=0.8
        Probability with which each rate is accepted, if it is as expected.
    confidence_level : float, default=0.95
        Level of the two-sided exact intervals that decide.
    prevalence : float or None, default=None
        Share of positive patients at the site, for the number of all patients.

    Returns
    -------
    table : DataFrame
        A row for each requirement, with ``requirement``, ``required``, ``expected``, ``of`` (which
        rows count), ``n`` (how many of them, from which number on the power is kept),
        ``most_errors`` (how many may be wrong then), ``n_without_error`` (how many it takes at
        least, none of them wrong), and ``n_patients``, to have ``n`` of them at the prevalence.

    See Also
    --------
    acceptance_test : The test itself.
    sktransfer.metrics.rows_needed : Rows for a threshold with a guarantee.

    Notes
    -----
    Numbers are of independent patients. Images of a patient count for less than as many patients.

    Examples
    --------
    >>> from sktransfer.model_selection import acceptance_sample_size
    >>> plan = acceptance_sample_size(
    ...     {"sensitivity": 0.9, "specificity": 0.7}, expected={"specificity": 0.8}, prevalence=0.3
    ... )
    >>> plan[["requirement", "expected", "n", "n_patients"]].to_dict("list")
    {'requirement': ['sensitivity', 'specificity'], 'expected': [0.95, 0.8], 'n': [255, 167], \
'n_patients': [850.0, 239.0]}
    """
    check_level(confidence_level)
    check_level(power, "power")
    shares = {"positive": prevalence, "negative": None if prevalence is None else 1 - prevalence}
    rows = []
    for each in read_required(required, None, None, ()):
        guess = expected_rate(each, expected)
        if np.isnan(guess):
            raise ValueError("roc_auc: a number of patients is computed for rates alone.")
        n = rows_for_power(each.level, guess, power, confidence_level)
        share = shares.get(OF[each.name], 1.0)
        rows.append(
            {
                "requirement": each.name,
                "required": each.level,
                "expected": guess,
                "of": OF[each.name],
                "n": n,
                "most_errors": n - _fewest_right(np.array([n]), each.level, confidence_level)[0],
                "n_without_error": least_rows(each, confidence_level),
                "n_patients": np.nan if share is None else np.ceil(n / share),
            }
        )
    return pd.DataFrame(rows)


def read_required(
    required: Mapping[str, Any],
    names: Mapping[Any, str] | None,
    classes: np.ndarray | None,
    wanted: tuple[Any, ...],
) -> list[Requirement]:
    """Return requirements one by one; ``classes`` are those of a model with more than two."""
    if not isinstance(required, Mapping) or not required:
        raise ValueError(
            f"required must name at least one rate, such as {{'sensitivity': 0.9}}; got "
            f"{required!r}."
        )
    found = []
    for name, least in required.items():
        if name not in _NAMES:
            raise ValueError(f"required: {name!r} is none of {', '.join(_NAMES)}.")
        if isinstance(least, Mapping):
            if classes is None or name not in PER_CLASS:
                raise ValueError(
                    f"required: {name!r} is one number here; several are for the rates of more "
                    "than two classes."
                )
            levels = {positive_class(classes, key, names=names): own for key, own in least.items()}
        elif name in PER_CLASS and wanted:
            levels = dict.fromkeys(wanted, least)
        else:
            levels = {wanted[0] if len(wanted) == 1 else None: least}
        for label, own in levels.items():
            found.append(Requirement(name, label, check_level(own, f"required[{name!r}]")))
    return found


def expected_rate(each: Requirement, expected: Mapping[str, float] | None) -> float:
    """Return what a rate is thought to be; NaN for an area."""
    if each.name == "roc_auc":
        return np.nan
    guess = (expected or {}).get(each.name, (1 + each.level) / 2)
    if not each.level < guess <= 1:
        raise ValueError(
            f"expected[{each.name!r}] must be more than the {each.level:g} that is required, and "
            f"at most 1; got {guess!r}. A rate that is just what is required is never shown to be "
            "so, with any number of patients."
        )
    return float(guess)


def least_rows(each: Requirement, confidence_level: float) -> float:
    """Return how many rows it takes to meet a requirement, none of them wrong; NaN of an area."""
    if each.name == "roc_auc":
        return np.nan
    return rows_needed(each.level, confidence_level=(1 + confidence_level) / 2)


def _fewest_right(n: np.ndarray, level: float, confidence_level: float) -> np.ndarray:
    """Return how many of ``n`` have to be right for the exact interval to lie above a level."""
    return np.asarray(binom.isf((1 - confidence_level) / 2, n, level), dtype=int) + 1


def rows_for_power(level: float, expected: float, power: float, confidence_level: float) -> float:
    """Return from how many rows on the power is kept; NaN for what is no rate."""
    if np.isnan(expected):
        return np.nan
    most = 256
    while True:
        n = np.arange(1, most + 1)
        kept = binom.sf(_fewest_right(n, level, confidence_level) - 1, n, expected) >= power
        # Power goes up and down with n; it has risen for good where the later half has it all.
        if kept[most // 2 :].all() or most > _MOST:
            short = np.flatnonzero(~kept)
            return int(short[-1]) + 2 if len(short) else 1
        most *= 2
