"""Stratified and grouped hold-out splits, for people and for the inside of ``fit``.

It must not know images or networks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import column_or_1d

# Groups looked at in all tries together: many groups need few tries to come near.
_MAX_STEPS = 30_000


def read_groups(groups: ArrayLike, *, name: str = "groups") -> np.ndarray:
    """The group of each row, such as the patient.

    Raises
    ------
    ValueError
        If one is missing: rows of nobody known would be taken for rows of one patient.
    TypeError
        If they are of types that have no order, such as numbers and strings.
    """
    column: np.ndarray = column_or_1d(groups)
    missing = np.flatnonzero(pd.isna(column))
    if len(missing):
        raise ValueError(
            f"{name}: {len(missing)} of {len(column)} rows have no group, the first is row "
            f"{missing[0]}. Leave them out, or give each a group of its own."
        )
    try:
        if column.dtype == object:  # all others have an order
            np.unique(column)
    except TypeError as error:
        kinds = sorted({type(each).__name__ for each in column})
        raise TypeError(
            f"{name} mixes {' and '.join(kinds)}: make them all strings, or all numbers."
        ) from error
    return column


def stratified_folds(
    n_splits: int, *, grouped: bool, random_state: Any
) -> StratifiedKFold | StratifiedGroupKFold:
    """Shuffled folds with the classes in their shares, groups whole where there are groups."""
    kind = StratifiedGroupKFold if grouped else StratifiedKFold
    return kind(n_splits, shuffle=True, random_state=random_state)


def holdout_split(
    y: ArrayLike, fraction: float, *, groups: ArrayLike | None = None, random_state: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of a training part and a held-out part, stratified by class.

    Parameters
    ----------
    y : array-like of shape (n,)
        Class labels.
    fraction : float
        Share of the rows held out, in (0, 1). With groups it is met as nearly as whole groups
        allow.
    groups : array-like of shape (n,) or None
        Rows of one group (a patient) stay together.
    random_state : int, RandomState instance or None

    Returns
    -------
    train, held_out : ndarray of int
        Sorted.

    Raises
    ------
    ValueError
        If one part would be empty, or a class has too few rows to be in both.
    """
    labels: np.ndarray = column_or_1d(y)
    if not 0 < fraction < 1:
        raise ValueError(f"The share held out must lie between 0 and 1; got {fraction!r}.")
    if groups is not None:
        return _grouped(labels, fraction, read_groups(groups), check_random_state(random_state))
    classes, counts = np.unique(labels, return_counts=True)
    n_held_out = int(np.ceil(fraction * len(labels)))
    if counts.min() < 2 or min(n_held_out, len(labels) - n_held_out) < len(classes):
        raise ValueError(
            f"Holding out {fraction:g} of {len(labels)} rows needs at least one row of every class "
            f"in each part, and the classes have {_counts(classes, counts)} rows. Hold out another "
            "share, or give more rows."
        )
    train, held_out = train_test_split(
        np.arange(len(labels)), test_size=fraction, stratify=labels, random_state=random_state
    )
    return np.sort(train), np.sort(held_out)


def stratified_order(y: np.ndarray, random_state: Any = None) -> np.ndarray:
    """Rows in an order each beginning of which has the classes in their shares.

    One row of every class comes first, so that no beginning of that length or more is without one.
    """
    rng = np.random.default_rng(random_state)
    place = np.empty(len(y))
    for label in np.unique(y):
        rows = rng.permutation(np.flatnonzero(y == label))
        place[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
        place[rows[0]] -= 1
    return np.argsort(place + rng.uniform(0, 1e-9, len(y)))


def stratified_part(
    y: np.ndarray, n: int, *, groups: np.ndarray | None = None, random_state: int = 0
) -> np.ndarray:
    """About ``n`` of the rows, classes in their shares; what is left may be anything.

    Unlike :func:`holdout_split`, it asks nothing of the other part.

    Parameters
    ----------
    y : ndarray of shape (n_rows,)
    n : int
        At least 1. With groups it is met as nearly as whole groups allow.
    groups : ndarray of shape (n_rows,) or None
    random_state : int

    Returns
    -------
    ndarray of int
        Sorted.
    """
    if n >= len(y):
        return np.arange(len(y))
    if groups is None:
        return np.sort(stratified_order(y, random_state)[:n])
    group_of, counts = _by_group(y, groups)
    state = np.random.RandomState(random_state)
    tried = [
        _greedy(counts, n / len(y), state.permutation(len(counts))) for _ in range(_tries(counts))
    ]
    best = min(
        tried,
        key=lambda taken: (
            (counts[taken].sum(axis=0) == 0).sum(),
            _distance(
                counts[taken].sum(axis=0) / counts.sum(axis=0),
                counts[taken].sum() / len(y),
                n / len(y),
            ),
        ),
    )
    return np.flatnonzero(best[group_of])


def _by_group(y: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each row's group as a number, and the rows of each class in each group."""
    names, group_of = np.unique(groups, return_inverse=True)
    classes, codes = np.unique(y, return_inverse=True)
    counts = np.zeros((len(names), len(classes)))
    np.add.at(counts, (group_of, codes), 1)
    return group_of, counts


def _tries(counts: np.ndarray) -> int:
    return int(np.clip(_MAX_STEPS // len(counts), 3, 30))


def _grouped(
    y: np.ndarray, fraction: float, groups: np.ndarray, random_state: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Whole groups held out so that every class has its share, as nearly as they allow."""
    if len(groups) != len(y):
        raise ValueError(f"groups has {len(groups)} entries for {len(y)} rows.")
    group_of, counts = _by_group(y, groups)
    n_groups = len(counts)
    if n_groups < 2:
        raise ValueError("All rows are of one group: there is nothing to hold out.")
    classes = np.unique(y)
    whole = counts.sum(axis=0)
    lonely = (counts > 0).sum(axis=0) < 2
    if lonely.any():
        raise ValueError(
            f"Holding out {fraction:g} of {n_groups} groups, stratified by class, is not possible: "
            f"all rows of {classes[lonely].tolist()} are of one group. The classes have "
            f"{_counts(classes, whole.astype(int))} rows."
        )
    best: tuple[float, np.ndarray] | None = None
    for _ in range(_tries(counts)):
        held = _greedy(counts, fraction, random_state.permutation(n_groups))
        share = counts[held].sum(axis=0) / whole
        empty = (share == 0).any() or (share == 1).any()
        distance = _distance(share, counts[held].sum() / whole.sum(), fraction) + 10.0 * bool(empty)
        if best is None or distance < best[0]:
            best = (distance, held)
    assert best is not None
    if best[0] >= 10:
        raise ValueError(
            f"Holding out {fraction:g} of {n_groups} groups leaves a class in one part only. Hold "
            f"out another share; the classes have {_counts(classes, whole.astype(int))} rows."
        )
    part = best[1][group_of]
    return np.flatnonzero(~part), np.flatnonzero(part)


def _greedy(counts: np.ndarray, fraction: float, order: np.ndarray) -> np.ndarray:
    """Which groups are held out, where each in turn is if that brings the shares nearer."""
    whole, total = counts.sum(axis=0), counts.sum()
    held = np.zeros(len(counts), dtype=bool)
    so_far = np.zeros(counts.shape[1])
    distance = _distance(so_far / whole, 0.0, fraction)
    for group in order:
        with_it = so_far + counts[group]
        nearer = _distance(with_it / whole, with_it.sum() / total, fraction)
        if nearer < distance:
            held[group], so_far, distance = True, with_it, nearer
    return held


def _distance(shares: np.ndarray, share: float, fraction: float) -> float:
    """How far the shares of classes, and of all rows, are from what is wanted."""
    return float(np.abs(shares - fraction).mean() + abs(share - fraction))


def _counts(classes: np.ndarray, counts: np.ndarray) -> str:
    return ", ".join(f"{c!r}: {n}" for c, n in zip(classes.tolist(), counts.tolist(), strict=True))
