"""What ``fit`` is given, read: labels as codes, weights, and which rows are for what.

It must not know networks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from sklearn.utils import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length

from sktransfer._images import ImageSource
from sktransfer._utils.sklearn_compat import _check_sample_weight, _check_y
from sktransfer._utils.splitting import holdout_split, read_groups
from sktransfer.exceptions import ImageDecodeError


@dataclass
class Rows:
    """Rows of a training set.

    Parameters
    ----------
    source : ImageSource
    y : ndarray of shape (n,), int64
        Codes of the classes.
    weight : ndarray of shape (n,), float64
        Sample weights as given, without those of classes.
    groups : ndarray of shape (n,) or None
    kept : ndarray of int
        Rows whose image can be read.
    """

    source: ImageSource
    y: np.ndarray
    weight: np.ndarray
    groups: np.ndarray | None
    kept: np.ndarray

    @cached_property
    def digests(self) -> list[bytes]:
        """Of the images of ``kept``, once no more is left out."""
        return [self.source.open(int(row)).digest for row in self.kept]

    def leave_out(self, failures: Sequence[ImageDecodeError]) -> None:
        """Keep rows whose image could be read; raise where that is none of them."""
        bad = [failure.index for failure in failures if failure.index is not None]
        self.kept = np.setdiff1d(np.arange(len(self.y)), bad)
        if not len(self.kept):
            raise failures[0]

    def weights(self, rows: np.ndarray, class_weight: Any, classes: np.ndarray) -> np.ndarray:
        """Weights of ``rows`` times those of their classes."""
        weight = self.weight[rows]
        if class_weight is not None:
            codes = self.y[rows]
            if class_weight == "balanced":
                # Of the weighted rows, so that a weight of two is the same as a row twice.
                total = np.bincount(codes, weights=weight, minlength=len(classes))
                present = total > 0
                factor = np.zeros(len(classes))
                factor[present] = weight.sum() / (present.sum() * total[present])
            else:
                factor = compute_class_weight(class_weight, classes=classes, y=classes[codes])
            weight = weight * factor[codes]
        if not weight.sum() > np.finfo(np.float64).tiny * len(weight):
            raise ValueError(
                f"The sample weights of {len(rows)} rows, trained on or held out, are all zero."
            )
        return weight


def read_labels(
    y: Any, source: ImageSource, sample_weight: Any, groups: Any, classes: Any, estimator: Any
) -> tuple[Rows, np.ndarray]:
    """Labels of any kind to codes.

    Parameters
    ----------
    classes : array-like or None
        Classes known before; None: those of ``y``.

    Returns
    -------
    rows : Rows
    classes : ndarray
        Sorted.

    Raises
    ------
    ValueError
        If labels are missing, continuous, or of one class only.
    """
    if y is None:
        raise ValueError(
            f"{type(estimator).__name__} requires y to be passed, but the target y is None."
        )
    y = _check_y(y, multi_output=False, y_numeric=False, estimator=estimator)
    check_classification_targets(y)
    if len(source) != len(y):
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: X has {len(source)} "
            f"rows, y has {len(y)}."
        )
    weight = _check_sample_weight(
        sample_weight, np.empty((len(y), 0)), dtype=np.float64, ensure_non_negative=True, copy=True
    )
    known = np.unique(y) if classes is None else np.unique(np.asarray(classes))
    unknown = np.setdiff1d(y, known)
    if len(unknown):
        raise ValueError(
            f"y contains labels that are not among the classes known so far: {unknown.tolist()}; "
            f"known are {known.tolist()}."
        )
    if len(known) < 2:
        raise ValueError(
            f"{type(estimator).__name__} needs rows of at least two classes; got 1 class: "
            f"{known.tolist()} ({len(y)} sample{'s' * (len(y) != 1)})."
        )
    if groups is not None:
        groups = np.asarray(groups)
        check_consistent_length(y, groups)
    codes = np.searchsorted(known, y).astype(np.int64)
    return Rows(source, codes, weight, groups, np.arange(len(y))), known


def split_rows(
    rows: Rows,
    fraction: float | None,
    train_split: Callable[..., Any] | None,
    seed: int,
    classes: np.ndarray,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Rows to train on, and rows to validate on or None.

    Parameters
    ----------
    fraction : float or None
        Stratified by class; groups stay whole where they are known, and copies of an image are
        one group.
    train_split : callable or None
        skorch's: takes (dataset, y[, groups]) and gives two torch Subsets, or the index arrays.
    """
    kept = rows.kept
    groups = None if rows.groups is None else rows.groups[kept]
    if train_split is not None:
        train, valid = _by_skorch(train_split, kept, classes[rows.y[kept]], groups)
        return kept[train], None if valid is None else kept[valid]
    if fraction is None:
        return kept, None
    groups = _copies(rows.digests) if rows.groups is None else read_groups(rows.groups)[kept]
    train, valid = holdout_split(rows.y[kept], fraction, groups=groups, random_state=seed)
    return kept[train], kept[valid]


def _copies(digests: list[bytes]) -> np.ndarray | None:
    """Rows of one image as one group, where there are any: over-sampling makes such rows, and a
    copy of a training row says nothing about rows that were not seen.
    """
    numbers = {digest: number for number, digest in enumerate(dict.fromkeys(digests))}
    if len(numbers) == len(digests):
        return None
    return np.array([numbers[digest] for digest in digests])


def _by_skorch(
    train_split: Callable[..., Any], kept: np.ndarray, y: np.ndarray, groups: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    extra = {} if groups is None else {"groups": groups}
    places = list(range(len(kept)))
    train, valid = train_split(places, y, **extra)

    def indices(part: Any) -> Any:
        if part is None:
            return None
        return np.asarray(getattr(part, "indices", part), dtype=np.intp)

    try:
        train, valid = indices(train), indices(valid)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"train_split gave {type(valid).__name__} as the rows to hold out, and not a part of "
            "the rows that are given (skorch's predefined_split is of that kind). Give a callable "
            "that returns two torch Subsets, or two arrays of row numbers."
        ) from error
    if valid is not None and len(valid) and valid.max() >= len(kept):
        raise ValueError("train_split gave a row that is not among those to split.")
    return train, valid
