"""Stratified and grouped hold-out splits, and folds for rows with several labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import column_or_1d

from sktransfer._utils.identifiers import read_groups
from sktransfer._utils.multilabel import is_multilabel, read_indicators
from sktransfer._utils.per_row import check_present

# Groups looked at in all tries together: many groups need few tries to come near.
_MAX_STEPS = 30_000


def stratified_folds(
    n_splits: int, *, grouped: bool, random_state: Any
) -> StratifiedKFold | StratifiedGroupKFold:
    """Return shuffled folds, stratified by class, and by group where there are groups."""
    kind = StratifiedGroupKFold if grouped else StratifiedKFold
    return kind(n_splits, shuffle=True, random_state=random_state)


def joined_groups(groups: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Return the group of each row as a number; groups with copies of an image become one."""
    n_groups = groups.max() + 1
    n = n_groups + images.max() + 1
    edges = coo_array((np.ones(len(groups)), (groups, n_groups + images)), shape=(n, n))
    return np.asarray(connected_components(edges, directed=False)[1][groups])


def holdout_split(
    y: ArrayLike, test_size: float, *, groups: ArrayLike | None = None, random_state: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted rows of a training and of a held-out part, stratified by class.

    ``test_size`` is the share held out, met as nearly as whole groups allow. Every class must be in
    both parts. Of rows with several labels each label has its share in both, as nearly as possible.
    """
    labels = labels_to_stratify(y)
    if not 0 < test_size < 1:
        raise ValueError(f"The share held out must lie between 0 and 1; got {test_size!r}.")
    if labels.ndim == 2 and groups is None:
        groups = np.arange(len(labels))
    if groups is not None:
        names = read_groups(groups, n=len(labels))
        return _grouped(labels, test_size, names, check_random_state(random_state))
    classes, counts = np.unique(labels, return_counts=True)
    n_held_out = int(np.ceil(test_size * len(labels)))
    if counts.min() < 2 or min(n_held_out, len(labels) - n_held_out) < len(classes):
        raise ValueError(
            f"Holding out {test_size:g} of {len(labels)} rows needs at least one row of every "
            f"class in each part, and the classes have {_counts(classes, counts)} rows. Hold out "
            "another share, or give more rows."
        )
    train, held_out = train_test_split(
        np.arange(len(labels)), test_size=test_size, stratify=labels, random_state=random_state
    )
    return np.sort(train), np.sort(held_out)


def labels_to_stratify(y: Any, name: str = "y") -> np.ndarray:
    """Return a column of classes, or the indicator matrix of several labels."""
    if is_multilabel(y):
        return read_indicators(y, name=name)[0]
    labels: np.ndarray = column_or_1d(check_present(y, name))
    return labels


def iterative_folds(
    y: np.ndarray, n_splits: int, *, groups: np.ndarray | None = None, random_state: Any = None
) -> np.ndarray:
    """Return the fold of each row, by iterative stratification (Sechidis et al., 2011).

    The label with the fewest rows left is dealt out first, each time to the fold that lacks most of
    it. Here groups are dealt out, and those with most rows of it first. ``random_state`` None: ties
    are decided by the order of rows.
    """
    group_of, counts = _by_group(y, np.arange(len(y)) if groups is None else groups)
    sizes = np.bincount(group_of)
    n_present = int((y == 1).any(axis=0).sum()) if y.ndim == 2 else counts.shape[1]
    if len(counts) < n_splits:
        raise ValueError(f"{n_splits} folds need as many groups; there are {len(counts)}.")
    order = np.arange(len(counts))
    if random_state is not None:
        order = check_random_state(random_state).permutation(order)
    wanted = np.tile(counts.sum(axis=0) / n_splits, (n_splits, 1))
    space = np.full(n_splits, len(y) / n_splits)
    fold = np.full(len(counts), -1)
    while (fold < 0).any():
        left = order[fold[order] < 0]
        totals = counts[left].sum(axis=0)
        rarest = int(np.argmin(np.where(totals > 0, totals, np.inf)))
        members = left[counts[left, rarest] > 0]
        for group in members[np.argsort(-counts[members, rarest], kind="stable")]:
            # Rows without any of the labels make folds equally large.
            lack = wanted[:, rarest] + (space if rarest >= n_present else 0)
            best = np.flatnonzero(lack == lack.max())
            fold[group] = chosen = best[np.argmax(space[best])]
            wanted[chosen] -= counts[group]
            space[chosen] -= sizes[group]
    return fold[group_of]


def stratified_order(y: np.ndarray, random_state: Any = None) -> np.ndarray:
    """Return the rows in an order each beginning of which has the classes in their shares.

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
    """Return about ``n`` of the rows, sorted, with the classes in their shares.

    Unlike :func:`holdout_split`, it asks nothing of the other rows.
    """
    if n >= len(y):
        return np.arange(len(y))
    if groups is None:
        return np.sort(stratified_order(y, random_state)[:n])
    group_of, counts = _by_group(y, groups)
    random = np.random.RandomState(random_state)
    taken, _ = _choose_groups(counts, n / len(y), random, both_parts=False)
    return np.flatnonzero(taken[group_of])


def _by_group(y: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the group of each row as a number, and the rows of each class in each group.

    Of several labels, rows with each, without it, and where it is unknown are a class each.
    """
    names, group_of = np.unique(groups, return_inverse=True)
    if y.ndim == 2:
        of_class = np.hstack([y == 1, y == 0, np.isnan(y)])
        of_class = of_class[:, of_class.any(axis=0)]
    else:
        of_class = y[:, None] == np.unique(y)
    counts = np.zeros((len(names), of_class.shape[1]))
    np.add.at(counts, group_of, of_class)
    return group_of, counts


def _grouped(
    y: np.ndarray, test_size: float, groups: np.ndarray, random_state: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Hold out whole groups so that every class has its share, as nearly as they allow."""
    group_of, counts = _by_group(y, groups)
    n_groups = len(counts)
    if n_groups < 2:
        raise ValueError("All rows are of one group: there is nothing to hold out.")
    if y.ndim == 2:  # a rare label cannot be in both parts
        part = _choose_groups(counts, test_size, random_state, both_parts=True)[0][group_of]
        return np.flatnonzero(~part), np.flatnonzero(part)
    classes = np.unique(y)
    whole = counts.sum(axis=0)
    lonely = (counts > 0).sum(axis=0) < 2
    if lonely.any():
        raise ValueError(
            f"Holding out {test_size:g} of {n_groups} groups, stratified by class, is not "
            f"possible: all rows of {classes[lonely].tolist()} are of one group. The classes have "
            f"{_counts(classes, whole.astype(int))} rows."
        )
    held, n_absent = _choose_groups(counts, test_size, random_state, both_parts=True)
    if n_absent:
        raise ValueError(
            f"Holding out {test_size:g} of {n_groups} groups leaves a class in one part only. Hold "
            f"out another share; the classes have {_counts(classes, whole.astype(int))} rows."
        )
    part = held[group_of]
    return np.flatnonzero(~part), np.flatnonzero(part)


def _choose_groups(
    counts: np.ndarray, share: float, random_state: np.random.RandomState, *, both_parts: bool
) -> tuple[np.ndarray, int]:
    """Return the groups to take for a share, and the number of classes that a part lacks.

    They are the best of several tries. Without ``both_parts`` only classes that these groups lack
    count.
    """
    whole = counts.sum(axis=0)

    def badness(taken: np.ndarray) -> tuple[int, float]:
        part = counts[taken].sum(axis=0)
        absent = (part == 0) | (both_parts & (part == whole))
        return int(absent.sum()), _distance(part / whole, part.sum() / whole.sum(), share)

    n_tries = int(np.clip(_MAX_STEPS // len(counts), 3, 30))
    tried = [_greedy(counts, share, random_state.permutation(len(counts))) for _ in range(n_tries)]
    best = min(tried, key=badness)
    return best, badness(best)[0]


def _greedy(counts: np.ndarray, test_size: float, order: np.ndarray) -> np.ndarray:
    """Return which groups are held out: each in turn, if that brings the shares nearer."""
    whole, total = counts.sum(axis=0), counts.sum()
    held = np.zeros(len(counts), dtype=bool)
    so_far = np.zeros(counts.shape[1])
    distance = _distance(so_far / whole, 0.0, test_size)
    for group in order:
        with_it = so_far + counts[group]
        nearer = _distance(with_it / whole, with_it.sum() / total, test_size)
        if nearer < distance:
            held[group], so_far, distance = True, with_it, nearer
    return held


def _distance(shares: np.ndarray, share: float, test_size: float) -> float:
    """Return how far the shares of classes, and of all rows, are from what is wanted."""
    return float(np.abs(shares - test_size).mean() + abs(share - test_size))


def _counts(classes: np.ndarray, counts: np.ndarray) -> str:
    return ", ".join(f"{c!r}: {n}" for c, n in zip(classes.tolist(), counts.tolist(), strict=True))


def units_per_class(y: np.ndarray, groups: np.ndarray | None) -> dict[Any, int]:
    """Return for each class, in order, how many of what is never split it has: rows, or groups."""
    units = np.arange(len(y)) if groups is None else groups
    return {label: len(np.unique(units[y == label])) for label in np.unique(y).tolist()}
