"""Several labels a row: an indicator matrix of 0 and 1, NaN where a label is unknown.

Labels of a row are independent of each other: a row may have none, one or all of them.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import issparse

from sktransfer._utils.per_row import as_frame

_SETS = (set, frozenset, list, tuple, np.ndarray)


def is_multilabel(y: Any) -> bool:
    """Return whether ``y`` has several labels a row: columns, or a collection of names each."""
    frame = as_frame(y)
    if frame is not None or issparse(y):
        return bool((y if frame is None else frame).shape[1] > 1)
    if hasattr(y, "ndim") and y.ndim != 1:
        return bool(y.ndim == 2 and y.shape[1] > 1)
    rows = [
        row
        for row in (y if isinstance(y, Iterable) else ())
        if isinstance(row, _SETS)
        and getattr(row, "ndim", 1) != 0  # a masked label is an array of one
    ]
    named = any(isinstance(row, (set, frozenset)) for row in rows)
    return named or any(len(row) > 1 or any(isinstance(n, str) for n in row) for row in rows)


def read_indicators(
    y: Any, labels: Sequence[Any] | None = None, *, name: str = "y"
) -> tuple[np.ndarray, np.ndarray]:
    """Return a float matrix of 0, 1 and NaN, and the names of its columns.

    ``y`` is a table, a matrix (also sparse), or a collection of names for each row, None where
    nothing is known of it. ``labels`` are the names wanted, in their order; columns of a table are
    found by them, those of a matrix have them. None: the columns of the table, the names in the
    collections, sorted, or the numbers of the columns.
    """
    wanted = None if labels is None else list(labels)
    frame = as_frame(y)
    if frame is None and not issparse(y) and getattr(y, "ndim", 1) == 1 and not _is_nested(y):
        frame = _of_sets(y, wanted, name)
    if frame is None:
        matrix = y.toarray() if issparse(y) else y
        if isinstance(matrix, np.ma.MaskedArray):
            matrix = np.ma.filled(matrix.astype(float), np.nan)
        frame = pd.DataFrame(np.asarray(matrix))
        if wanted is not None and len(wanted) == frame.shape[1]:
            frame.columns = pd.Index(wanted, dtype=object)
    names = list(frame.columns)
    wanted = list(dict.fromkeys(names)) if wanted is None else wanted
    absent = [label for label in wanted if label not in names]
    if absent or len(set(names)) < len(names) or len(names) > len(wanted):
        raise ValueError(
            f"{name} has the labels {names}, and they should be {wanted}, each once: name the "
            "columns so, or leave out those that are not among them."
        )
    table = frame[wanted]
    plain = all(isinstance(dtype, np.dtype) and dtype.kind in "biuf" for dtype in table.dtypes)
    matrix = table.to_numpy(dtype=float) if plain else None
    if matrix is None or not (np.isnan(matrix) | (matrix == 0) | (matrix == 1)).all():
        matrix = np.column_stack([_column(table[label], label, name) for label in wanted])
    known = np.empty(len(wanted), dtype=object)
    known[:] = wanted
    found = pd.Series(known).infer_objects().to_numpy()
    return matrix, found if found.dtype.kind in "iu" else known


def warn_of_joined(y: np.ndarray) -> None:
    """Warn if classes are names of labels joined by "|", such as "Effusion" and "Effusion|Mass"."""
    if y.dtype.kind not in "OU":
        return
    classes = [name for name in set(y.tolist()) if isinstance(name, str)]
    joined = sorted(name for name in classes if "|" in name)
    if joined and max(Counter(part for name in classes for part in name.split("|")).values()) > 1:
        warnings.warn(
            f"y has classes such as {joined[0]!r}, which are learned as one class each. For "
            "several labels a row, give the names in sets, or read the table with "
            'sktransfer.datasets.load_image_table(..., separator="|").',
            stacklevel=3,
        )


def _is_nested(y: Any) -> bool:
    """Return whether rows are lists of numbers, a matrix as scikit-learn takes it."""
    rows = [row for row in y if isinstance(row, (list, tuple, np.ndarray))]
    return bool(len(rows)) and all(
        len(row) and not any(isinstance(each, str) for each in row) for row in rows
    )


def _of_sets(y: Any, labels: list[Any] | None, name: str) -> pd.DataFrame:
    rows = list(y)
    for place, row in enumerate(rows):
        if not isinstance(row, _SETS) and row is not None and row is not pd.NA and row == row:
            raise ValueError(
                f"{name} has {row!r} in row {place}, and labels are the names in a set "
                '({"Effusion", "Mass"}), or columns of 0 and 1. load_image_table(separator="|") '
                "divides text."
            )
    found = {each for row in rows if isinstance(row, _SETS) for each in row}
    names = sorted(found, key=str) if labels is None else labels
    if unknown := sorted(map(repr, found.difference(names))):
        raise ValueError(f"{name} has labels that are not among {names}: {', '.join(unknown)}.")
    matrix = [
        [float(label in row) for label in names]
        if isinstance(row, _SETS)
        else [np.nan] * len(names)
        for row in rows
    ]
    return pd.DataFrame(matrix, columns=pd.Index(names, dtype=object))


def _column(cells: pd.Series, label: Any, name: str) -> np.ndarray:
    """Return a column as 0, 1 and NaN."""
    try:
        values = cells.astype(object).where(cells.notna(), np.nan).to_numpy().astype(float)
    except (TypeError, ValueError):
        values = np.full(len(cells), np.inf)
    odd = np.flatnonzero(~(np.isnan(values) | (values == 0) | (values == 1)))
    if len(odd):
        value = cells.iloc[odd[0]]
        hint = {
            -1: " -1 stands for uncertain in some tables: load_image_table(uncertain=) reads it.",
            2: " scikit-learn's cross_val_predict makes 2 of NaN, except with method='predict'.",
        }.get(values[odd[0]], "")
        raise ValueError(
            f"{name}: the label {label!r} is {value!s} in row {odd[0]}; it must be 1 (present), 0 "
            f"(absent) or NaN (unknown).{hint}"
        )
    return values


def share_correct(
    y: Any, predicted: np.ndarray, labels: Sequence[Any], sample_weight: Any = None
) -> float:
    """Return the share of rows all of whose known labels are predicted correctly."""
    truth, _ = read_indicators(y, labels)
    known = ~np.isnan(truth)
    told = known.any(axis=1)
    if not told.any():
        raise ValueError(f"y: nothing is known of any of the {len(truth)} rows.")
    correct = ((truth == predicted) | ~known).all(axis=1)
    weight = None if sample_weight is None else np.asarray(sample_weight)[told]
    return float(np.average(correct[told], weights=weight))


def label_scores(values: Any, n_labels: int, *, name: str = "y_score") -> np.ndarray:
    """Return scores with a column for each label, also where they are a list of pairs."""
    if isinstance(values, list) and values and np.ndim(values[0]) == 2:
        values = np.column_stack([np.asarray(own)[:, -1] for own in values])
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 2 or scores.shape[1] != n_labels:
        raise ValueError(
            f"{name} must have a column for each of {n_labels} labels; got shape {scores.shape}."
        )
    return scores


def estimator_scores(
    estimator: Any, X: Any, n_labels: int, methods: Sequence[str] = ("predict_proba",)
) -> np.ndarray:
    """Return the scores of each label by the first of the methods that the estimator has."""
    for method in methods:
        if hasattr(estimator, method):
            return label_scores(getattr(estimator, method)(X), n_labels, name=method)
    raise TypeError(f"{type(estimator).__name__} has no {' and no '.join(methods)}: no scores.")


def names_of_labels(estimator: Any, n_labels: int) -> list[Any] | None:
    """Return the names of labels that a fitted estimator knows; None where it has numbers only."""
    classes = getattr(estimator, "classes_", None)
    if not isinstance(classes, np.ndarray) or classes.shape != (n_labels,):
        return None
    return None if classes.tolist() == list(range(n_labels)) else classes.tolist()
