"""The operating point of a classifier on images without labels, where only classes' shares moved.

It must not know images or classifiers, only predicted labels and distances.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import nnls
from sklearn.utils import check_random_state

from sktransfer._utils.resampling import members, middle, resamples
from sktransfer.novelty._drift import UNKNOWN, energy

# Below these, "unknown": labeled rows of a class, new rows, the smallest singular value of the
# rates of predictions by class; above this, the width of a prevalence's interval.
_FEWEST_OF_CLASS, _FEWEST_NEW, _LEAST_APART, _WIDEST = 20, 30, 0.2, 0.5
LEVEL = 0.05
_N_RESAMPLES = 400


def operating_point_without_labels(
    codes: np.ndarray,
    called: np.ndarray,
    units: np.ndarray,
    called_new: np.ndarray,
    units_new: np.ndarray,
    between: np.ndarray,
    *,
    classes: np.ndarray,
    random_state: Any,
) -> tuple[pd.DataFrame | str, str]:
    """Estimate prevalence, recall and precision of each class, or say why they are unknown.

    ``codes`` and ``called`` are true and predicted classes of labeled rows, ``called_new`` those of
    the others, and ``between`` distances of all. It is black-box shift estimation: Lipton, Wang,
    Smola: Detecting and correcting for label shift with black box predictors. ICML (2018).
    """
    n_classes, n, n_new = len(classes), len(codes), len(called_new)
    least = np.bincount(codes, minlength=n_classes).min()
    if least < _FEWEST_OF_CLASS or n_new < _FEWEST_NEW:
        return UNKNOWN, (
            f"it takes {_FEWEST_OF_CLASS} labeled images of each class and {_FEWEST_NEW} new ones; "
            f"there are {least} of one class, and {n_new}."
        )
    rates = _rates(codes, called, n_classes)
    apart = np.linalg.svd(rates, compute_uv=False)[-1]
    if apart < _LEAST_APART:
        return UNKNOWN, "the classifier does not tell the classes apart well enough."
    random = check_random_state(random_state)
    found = _estimates(rates, called_new)
    drawn = []
    for rows, new in zip(
        resamples(n, units, _N_RESAMPLES, random),
        resamples(n_new, units_new, _N_RESAMPLES, random),
        strict=True,
    ):
        if len(np.unique(codes[rows])) == n_classes:
            own = _rates(codes[rows], called[rows], n_classes)
            drawn.append(_estimates(own, called_new[new]))
    table = pd.DataFrame(index=pd.Index(classes, name="class"))
    for name in found:
        ends = [middle(column) for column in np.transpose([each[name] for each in drawn])]
        table[name] = found[name]
        table[[f"{name}_low", f"{name}_high"]] = ends
    if (table["prevalence_high"] - table["prevalence_low"]).max() > _WIDEST:
        return UNKNOWN, "the classes' shares among the new images are too uncertain."
    p = _same_within_classes(codes, units, found["prevalence"], between, random)
    if p <= LEVEL:
        return UNKNOWN, (
            f"images of a class look different (p = {p:.3g}): it is not only the classes' shares "
            "that have changed."
        )
    return table, f"if nothing but the classes' shares has changed (p = {p:.3g})."


def _estimates(rates: np.ndarray, called: np.ndarray) -> dict[str, np.ndarray]:
    """Return shares of classes for which these predictions are expected, and what follows."""
    found = np.bincount(called, minlength=len(rates)) / len(called)
    heavy = 1e3  # they add up to one
    shares = nnls(np.vstack([rates, np.full(len(rates), heavy)]), np.append(found, heavy))[0]
    shares /= shares.sum()
    right, expected = np.diag(rates), rates @ shares
    nothing = np.full(len(rates), np.nan)
    precision = np.divide(right * shares, expected, out=nothing, where=expected > 0)
    return {"prevalence": shares, "recall": right, "precision": precision}


def _rates(codes: np.ndarray, called: np.ndarray, n_classes: int) -> np.ndarray:
    """Return how often each class (column) is called each class (row)."""
    table = np.zeros((n_classes, n_classes))
    np.add.at(table, (called, codes), 1)
    return table / table.sum(axis=0)


def _same_within_classes(
    codes: np.ndarray, units: np.ndarray, shares: np.ndarray, between: np.ndarray, random: Any
) -> float:
    """Return the p value of the test that classes look as before, in whatever shares.

    The new rows are compared with one half of the labeled units, weighted to the shares, and so are
    rows that are drawn from the other half in these shares.
    """
    n, n_all = len(codes), len(between)
    size = min(n_all - n, n // 4)
    first, drawn, new = (np.zeros((n_all, _N_RESAMPLES)) for _ in range(3))
    parts = members(units)
    for column in range(_N_RESAMPLES):
        order = random.permutation(len(parts))
        half = np.concatenate([parts[i] for i in order[: len(parts) // 2]])
        rest = np.concatenate([parts[i] for i in order[len(parts) // 2 :]])
        for code, count in enumerate(random.multinomial(size, shares)):
            own, others = half[codes[half] == code], rest[codes[rest] == code]
            if len(own):
                first[own, column] = shares[code] / len(own)
            if len(others) and count:
                np.add.at(
                    drawn[:, column],
                    random.choice(others, count, replace=count > len(others)),
                    1.0,
                )
        new[n + random.permutation(n_all - n)[:size], column] = 1.0
    kept = (drawn.sum(axis=0) > 0) & (first.sum(axis=0) > 0)
    usual = energy(between, drawn[:, kept], first[:, kept])
    found = energy(between, new[:, kept], first[:, kept]).mean()
    return float((1 + (usual >= found).sum()) / (1 + len(usual)))
