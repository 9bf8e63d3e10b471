"""Several labels a row as tables have them: a column for each, or all of them in one cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from sktransfer._utils.identifiers import cleaned
from sktransfer._utils.multilabel import read_indicators
from sktransfer.datasets._tables import check_columns

_MEANING = {"unknown": np.nan, "positive": 1.0, "negative": 0.0}
_POLICIES = (
    'uncertain="unknown" (NaN: no estimator learns from them, and no metric counts them), '
    '"positive" or "negative", or a dict with one of these for each label'
)


def check_policy(uncertain: Any, *, required: str | None = None) -> None:
    """Refuse what says nothing of uncertain labels; ``required`` is why something has to."""
    given = uncertain.values() if isinstance(uncertain, Mapping) else [uncertain]
    if uncertain is None and required is not None:
        raise ValueError(f"{required}, and what that means is for you to say: {_POLICIES}.")
    for each in given:
        if each is not None and each not in _MEANING:
            raise ValueError(f"uncertain={each!r} is none of the ways to read -1: {_POLICIES}.")


def label_columns(frame: pd.DataFrame, names: Sequence[Any], uncertain: Any) -> pd.DataFrame:
    """Return columns of 1 (present), 0 (absent), -1 (uncertain) and empty cells as indicators."""
    check_policy(uncertain)
    check_columns(frame, names)
    labels = frame[list(names)].copy()
    for name in names:
        own = pd.to_numeric(labels[name], errors="coerce") == -1
        if not own.any():
            continue
        policy: Any = uncertain.get(name) if isinstance(uncertain, Mapping) else uncertain
        check_policy(policy, required=f"{int(own.sum())} rows have -1 (uncertain) in {name!r}")
        labels[name] = labels[name].mask(own, _MEANING[policy])
    return _indicators(labels)


def divided_labels(
    cells: pd.Series, separator: str, none_label: str, names: Sequence[str] | None = None
) -> pd.DataFrame:
    """Return "Effusion|Mass" as indicators of ``names``; None: of the words there are, sorted.

    A cell that has nothing but ``none_label`` has none of them, and an empty one is unknown.
    """
    sets: list[set[str] | None] = []
    for row, cell in enumerate(cells):
        words = set() if pd.isna(cell) else {cleaned(word) for word in str(cell).split(separator)}
        words.discard("")
        none = {word for word in words if word.casefold() == none_label.casefold()}
        if none and words != none:
            raise ValueError(
                f"Row {row} of column {cells.name!r} is {cell!r}: {none_label!r} with a finding."
            )
        sets.append(words - none if words else None)
    matrix, labels = read_indicators(sets, names, name=f"Column {cells.name!r}")
    return _indicators(pd.DataFrame(matrix, columns=labels.tolist(), index=cells.index))


def _indicators(labels: pd.DataFrame) -> pd.DataFrame:
    """Return a table of 0 and 1, with NaN only where something is unknown."""
    matrix, _ = read_indicators(labels, name="The table")
    kind = np.float64 if np.isnan(matrix).any() else np.int64
    return pd.DataFrame(matrix.astype(kind), columns=labels.columns, index=labels.index)
