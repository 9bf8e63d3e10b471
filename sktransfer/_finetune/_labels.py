"""Labels as a fit reads them, weights of rows, and which rows are trained on and held out.

It must not know networks.
"""

from __future__ import annotations

from collections.abc import Callable, Sized
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from sklearn.utils.multiclass import check_classification_targets

from sktransfer._finetune._targets import Findings, Target
from sktransfer._utils.identifiers import read_groups
from sktransfer._utils.multilabel import is_multilabel, read_indicators, warn_of_joined
from sktransfer._utils.per_row import check_present
from sktransfer._utils.sklearn_compat import _check_sample_weight, _check_y
from sktransfer._utils.splitting import holdout_split, joined_groups


@dataclass
class Rows:
    """Rows of a training set."""

    source: Any  # what has a length; digests need an ImageSource
    y: np.ndarray  # as the target encodes it
    weight: np.ndarray  # sample weights as given, without those of classes
    groups: np.ndarray | None  # which are not to be divided
    kept: np.ndarray  # rows whose image can be read, and of which something is known
    target: Target

    @cached_property
    def digests(self) -> list[bytes]:
        """Digests of the images of ``kept``, once no more is left out."""
        return [self.source.open(int(row)).digest for row in self.kept]

    def weights(self, rows: np.ndarray, class_weight: Any) -> np.ndarray:
        """Return the weights of ``rows`` times those of their classes."""
        weight = self.target.row_weights(self.y[rows], self.weight[rows], class_weight)
        if not weight.sum() > np.finfo(np.float64).tiny * len(weight):
            raise ValueError(
                f"The sample weights of {len(rows)} rows, trained on or held out, are all zero."
            )
        return weight


def read_labels(
    y: Any,
    source: Sized,
    sample_weight: Any,
    groups: Any,
    classes: Any,
    estimator: Any,
    *,
    several: bool = False,
) -> tuple[Rows, np.ndarray]:
    """Turn labels of any kind into codes; refuse missing, continuous and one-class labels.

    With ``several``, a row may have several labels or none: ``y`` becomes a matrix then.
    ``classes`` are all that there will be; None: those of ``y``.
    """
    if y is None:
        raise ValueError(
            f"{type(estimator).__name__} requires y to be passed, but the target y is None."
        )
    if several and is_multilabel(y):
        codes, known = read_indicators(y, classes)
        kept = np.flatnonzero(~np.isnan(codes).all(axis=1))
        if not len(kept):
            raise ValueError(f"y: nothing is known of any of the {len(codes)} rows.")
        return read_rows(codes, source, sample_weight, groups, Findings(known), kept), known
    y = _check_y(check_present(y), multi_output=False, y_numeric=False, estimator=estimator)
    if several:
        warn_of_joined(y)
    try:
        check_classification_targets(y)
    except ValueError as error:
        raise ValueError(f"{error} FineTuneRegressor predicts numbers.") from error
    known = np.unique(y) if classes is None else np.unique(np.asarray(classes))
    if len(source) == len(y):
        _check_known(y, known, estimator)
    codes = np.searchsorted(known, y).astype(np.int64)
    return read_rows(codes, source, sample_weight, groups, Target(known)), known


def read_rows(
    y: np.ndarray,
    source: Sized,
    sample_weight: Any,
    groups: Any,
    target: Target,
    kept: np.ndarray | None = None,
) -> Rows:
    """Check that there is a value of ``y``, a weight and a group for each image."""
    if np.ma.is_masked(sample_weight):
        row = np.flatnonzero(np.ma.getmaskarray(sample_weight))[0]
        raise ValueError(f"sample_weight is masked in row {row}: leave such rows out, of X too.")
    if len(source) != len(y):
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: X has {len(source)} "
            f"rows, y has {len(y)}."
        )
    weight = _check_sample_weight(
        sample_weight, np.empty((len(y), 0)), dtype=np.float64, ensure_non_negative=True, copy=True
    )
    if groups is not None:
        groups = read_groups(groups, n=len(y))
    return Rows(source, y, weight, groups, np.arange(len(y)) if kept is None else kept, target)


def _check_known(y: np.ndarray, known: np.ndarray, estimator: Any) -> None:
    """Raise ValueError for labels beyond the known classes, and for one class."""
    unknown = np.setdiff1d(y, known)
    if len(unknown):
        raise ValueError(
            f"y contains labels that are not among the known classes {known.tolist()}: "
            f"{unknown.tolist()}. Give all classes at the first call, as partial_fit(X, y, "
            "classes=...), or fit from scratch."
        )
    if len(known) < 2:
        raise ValueError(
            f"{type(estimator).__name__} needs rows of at least two classes; got 1 class: "
            f"{known.tolist()} ({len(y)} sample{'s' * (len(y) != 1)})."
        )


def split_rows(rows: Rows, split: Any, seed: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Choose rows to train on, and rows to validate on or None.

    A share (``split``) is stratified by class; groups stay whole where they are known, and copies
    of an image are one group. A callable is one of skorch's: it takes (dataset, y[, groups]) and
    returns two torch Subsets, or two arrays of row numbers.
    """
    kept = rows.kept
    y = rows.target.strata(rows.y[kept])  # errors are to name labels, not codes
    if callable(split):
        groups = None if rows.groups is None else rows.groups[kept]
        train, valid = _by_skorch(split, len(kept), y, groups)
        return kept[train], None if valid is None else kept[valid]
    groups = _undivided(rows, kept)
    train, valid = holdout_split(y, split, groups=groups, random_state=seed)
    return kept[train], kept[valid]


def halves(
    rows: Rows, train: np.ndarray, class_weight: Any, seed: int
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]] | None:
    """Divide rows into halves; return for each its rows, their weights, and the other rows.

    They are stratified, and groups or copies of an image stay together. Rows of a class that a half
    lacks are left out of the rest; None if fewer than two classes remain.
    """
    y, parts = rows.y[train], []
    for first, judged in rows.target.halves(y, independent_units(rows, train), seed) or ():
        lacking = rows.target.lacking(y[first])
        if lacking or not rows.weight[train[first]].any() or not len(judged):
            return None
        parts.append((first, rows.weights(train[first], class_weight), judged))
    return parts or None


def a_fifth(_: Any, y: np.ndarray, groups: Any = None) -> tuple[np.ndarray, np.ndarray | None]:
    """Hold out a fifth of the rows, 256 at most; none if there are too few of a class or group."""
    try:
        return holdout_split(y, min(0.2, 256 / len(y)), groups=groups, random_state=0)
    except ValueError:
        return np.arange(len(y)), None


def independent_units(rows: Rows, chosen: np.ndarray) -> np.ndarray:
    """Return what rows belong to that are independent of all others: numbers from 0 on."""
    groups = _undivided(rows, chosen)
    return np.arange(len(chosen)) if groups is None else np.unique(groups, return_inverse=True)[1]


def _undivided(rows: Rows, chosen: np.ndarray) -> np.ndarray | None:
    """Return groups of rows, those that share an image as one; None if each row is by itself.

    Over-sampling makes copies, and a copy of a training row says nothing about unseen ones.
    """
    digests = [rows.digests[place] for place in np.searchsorted(rows.kept, chosen)]
    groups = None if rows.groups is None else rows.groups[chosen]
    images = np.unique(digests, return_inverse=True)[1]
    if images.max() + 1 == len(images):
        return groups
    return (
        images
        if groups is None
        else joined_groups(np.unique(groups, return_inverse=True)[1], images)
    )


def _by_skorch(
    split: Callable[..., Any], n: int, y: np.ndarray, groups: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    extra = {} if groups is None else {"groups": groups}
    train, valid = split(list(range(n)), y, **extra)

    def indices(part: Any) -> Any:
        if part is None:
            return None
        return np.asarray(getattr(part, "indices", part), dtype=np.intp)

    try:
        train, valid = indices(train), indices(valid)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"The splitter given as validation_fraction returned {type(valid).__name__} as the "
            "rows to hold out, and not a part of the rows it was given (skorch's predefined_split "
            "is of that kind). Give a callable that returns two torch Subsets, or two arrays of "
            "row numbers."
        ) from error
    if valid is not None and len(valid) and valid.max() >= n:
        raise ValueError(
            f"The splitter given as validation_fraction returned row {valid.max()}, but there are "
            f"{n} rows to split."
        )
    return train, valid
