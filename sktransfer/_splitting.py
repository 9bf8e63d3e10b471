"""Stratified and grouped hold-out splits, for people and for the inside of ``fit``.

It must not know pictures or networks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.model_selection import StratifiedGroupKFold, train_test_split
from sklearn.utils import _safe_indexing, check_random_state, indexable
from sklearn.utils.validation import column_or_1d

# More folds are tried only where they come nearer to the share by so much.
_MOST_FOLDS = 20
_CLOSE = 0.01


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
        return _grouped(labels, fraction, column_or_1d(groups), check_random_state(random_state))
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


def _grouped(
    y: np.ndarray, fraction: float, groups: np.ndarray, random_state: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """The fold, of several shuffles and sizes, that is nearest to the share, also by class."""
    if len(groups) != len(y):
        raise ValueError(f"groups has {len(groups)} entries for {len(y)} rows.")
    n_groups = len(np.unique(groups))
    if n_groups < 2:
        raise ValueError("All rows are of one group: there is nothing to hold out.")
    classes, codes = np.unique(y, return_inverse=True)
    whole = np.bincount(codes, minlength=len(classes))
    # Folds are of equal size; a share above a half is the other side of one below.
    small = min(fraction, 1 - fraction)
    n_splits, n_held = _folds_for(small, max(2, min(n_groups, int(whole.min()))))
    best: tuple[float, np.ndarray] | None = None
    for _ in range(5):
        splitter = StratifiedGroupKFold(
            n_splits, shuffle=True, random_state=random_state.randint(2**31 - 1)
        )
        try:
            folds = [test for _, test in splitter.split(np.zeros(len(y)), y, groups)]
        except ValueError as error:
            raise ValueError(
                f"Holding out {fraction:g} of {n_groups} groups, stratified by class, is not "
                f"possible: {error} The classes have {_counts(classes, whole)} rows."
            ) from error
        for first in range(n_splits):
            test = np.concatenate([folds[(first + i) % n_splits] for i in range(n_held)])
            held = np.bincount(codes[test], minlength=len(classes))
            empty = (held == 0).any() or (held == whole).any()
            distance = float(np.abs(held / whole - small).max()) + 10.0 * bool(empty)
            if best is None or distance < best[0]:
                best = (distance, np.sort(test))
    assert best is not None
    part = best[1]
    other = np.setdiff1d(np.arange(len(y)), part)
    if not len(part) or not len(other):
        raise ValueError(f"Holding out {fraction:g} of {n_groups} groups leaves one part empty.")
    return (other, part) if fraction <= 0.5 else (part, other)


def _folds_for(share: float, most: int) -> tuple[int, int]:
    """How many folds, and how many of them together are nearest to a share; few are better."""
    best = (1.0, 2, 1)
    for n in range(2, min(most, _MOST_FOLDS) + 1):
        k = max(1, round(share * n))
        distance = abs(k / n - share)
        if distance < best[0] - _CLOSE:
            best = (distance, n, k)
    if round(1 / share) > _MOST_FOLDS:
        n = min(most, round(1 / share))
        best = min(best, (abs(1 / n - share), n, 1))
    return best[1:]


def _counts(classes: np.ndarray, counts: np.ndarray) -> str:
    return ", ".join(f"{c!r}: {n}" for c, n in zip(classes.tolist(), counts.tolist(), strict=True))


def grouped_train_test_split(
    *arrays: Any,
    y: ArrayLike,
    groups: ArrayLike | None = None,
    test_size: float = 0.25,
    random_state: Any = None,
) -> list[Any]:
    """Split arrays into train and test parts, stratified by class, groups kept whole.

    What :func:`sklearn.model_selection.train_test_split` does, for patients with several images.

    Parameters
    ----------
    *arrays : indexables with the same length
        Lists, arrays, DataFrames or Series.
    y : array-like of shape (n,)
        Class labels to stratify by; not among what is returned unless given in ``arrays`` too.
    groups : array-like of shape (n,) or None, default=None
        Rows of one group are in one part.
    test_size : float, default=0.25
        Share of the rows in the test part, as nearly as whole groups allow.
    random_state : int, RandomState instance or None, default=None

    Returns
    -------
    list
        Train and test part of each array, in turn.

    Examples
    --------
    >>> import numpy as np
    >>> from sktransfer.model_selection import grouped_train_test_split
    >>> patients = np.repeat(np.arange(20), 2)
    >>> y = np.repeat(np.arange(20) % 2, 2)
    >>> train, test = grouped_train_test_split(
    ...     np.arange(40), y=y, groups=patients, test_size=0.25, random_state=0
    ... )
    >>> len(train), len(test), bool(set(patients[train]) & set(patients[test]))
    (30, 10, False)
    """
    if not arrays:
        raise ValueError("At least one array to split is needed.")
    arrays = tuple(indexable(*arrays))
    train, test = holdout_split(y, test_size, groups=groups, random_state=random_state)
    return [_safe_indexing(array, part) for array in arrays for part in (train, test)]
