"""What the studies share: rows to train and to test on, one training, tables of repeats."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.base import clone
from sklearn.metrics import check_scoring
from sklearn.utils.validation import column_or_1d

from sktransfer._backbones import Backbone
from sktransfer._finetune import FineTuneClassifier
from sktransfer._image_rows import backbone_of, rows_of, take_rows
from sktransfer._utils.splitting import holdout_split
from sktransfer.model_selection._networks import check_lengths, finetuner
from sktransfer.studies._random_networks import given


class Split(NamedTuple):
    """Images and labels to train and to test on, and the rows they were, if of one set."""

    X: Any
    y: np.ndarray
    X_test: Any
    y_test: np.ndarray
    rows: np.ndarray | None = None
    rows_test: np.ndarray | None = None


def as_finetuner(estimator: Any, scoring: Any, n_repeats: int) -> FineTuneClassifier:
    """Return the FineTuneClassifier that is studied, and check what would fail after a training."""
    own = finetuner(estimator)
    check_scoring(own, scoring=scoring)
    if n_repeats < 1:
        raise ValueError(f"n_repeats must be at least 1; got {n_repeats!r}.")
    return own


def network_of(estimator: FineTuneClassifier, seed: int) -> Backbone:
    """Load the estimator's network; random weights without a seed are drawn with ``seed``."""
    if estimator.weights is None and estimator.random_state is None:
        estimator = clone(estimator).set_params(random_state=seed)
    return backbone_of(estimator)


def make_split(
    estimator: FineTuneClassifier,
    X: Any,
    y: ArrayLike,
    X_test: Any,
    y_test: Any,
    test_size: float,
    groups: Any,
    seed: int,
) -> Split:
    """Take the test part as given, or hold it out: stratified, groups kept whole."""
    labels = column_or_1d(y)
    if (X_test is None) != (y_test is None):
        raise ValueError("Give X_test and y_test together, or neither of them.")
    check_lengths(estimator, X, labels, None)
    if X_test is not None:
        return Split(X, labels, X_test, column_or_1d(y_test))
    train, test = holdout_split(labels, test_size, groups=groups, random_state=seed)
    parts = take_rows(X, train), labels[train], take_rows(X, test), labels[test]
    return Split(*parts, train, test)


def train(
    estimator: FineTuneClassifier,
    backbone: Backbone,
    X: Any,
    y: np.ndarray,
    *,
    freeze_depth: int,
    seed: int,
    rows: np.ndarray | None = None,
    **params: Any,
) -> tuple[FineTuneClassifier, float]:
    """Fit the estimator with another network, and measure the seconds.

    ``rows`` are those that ``X`` was taken from, to name one that cannot be read. What a pretrained
    start would give beyond the network is taken away: the head is random, it has no epochs of its
    own, and BatchNorm learns its statistics.
    """
    own = clone(estimator).set_params(
        **{
            "head_init": "random",
            "head_epochs": 0,
            "freeze_batch_norm": False,
            **params,
            "backbone": given(backbone),
            "weights": "default",
            "freeze_depth": freeze_depth,
            "random_state": seed,
        }
    )
    start = time.perf_counter()
    with rows_of(rows):
        own.fit(X, y)
    return own, time.perf_counter() - start


def score(fitted: FineTuneClassifier, split: Split, scoring: Any) -> float:
    """Score a fitted classifier on the test part."""
    with rows_of(split.rows_test):
        return float(check_scoring(fitted, scoring=scoring)(fitted, split.X_test, split.y_test))


def n_trainable(fitted: FineTuneClassifier) -> int:
    """Count the parameters that were trained."""
    return sum(p.numel() for p in fitted.module_.parameters() if p.requires_grad)


def check_choices(what: str, given_: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return ``given_`` as a list without repetition, if all are ``known`` and there is one."""
    chosen = [given_] if isinstance(given_, str) else list(given_)
    unknown = [each for each in chosen if each not in known]
    if unknown or not chosen:
        raise ValueError(f"{what} must be some of {', '.join(map(repr, known))}; got {given_!r}.")
    return list(dict.fromkeys(chosen))


def paired(
    table: pd.DataFrame, column: str, first: str, second: str, by: Sequence[str]
) -> pd.DataFrame:
    """Summarize the difference of two cases within every repeat and every value of ``by``.

    ``column`` holds the cases; the difference is first minus second.
    """
    cases = []
    for case in (first, second):
        rows = table[table[column] == case]
        if rows.empty:
            there = ", ".join(map(repr, pd.unique(table[column])))
            raise ValueError(f"There is no {column} {case!r}; there are: {there}.")
        cases.append(rows[[*by, "seed", "score"]])
    left, right = cases
    for key in by:
        if not set(left[key]) & set(right[key]):
            # One of the two has no such thing ("base" takes over no stage): it is the same for all.
            if right[key].nunique() == 1:
                right = right.drop(columns=key)
            else:
                left = left.drop(columns=key)
    on = [key for key in (*by, "seed") if key in left and key in right]
    both = left.merge(right, on=on, suffixes=("", "_other"))
    both["difference"] = both["score"] - both["score_other"]
    keys = list(by)
    found = both.groupby(keys, sort=False)["difference"]
    return found.agg(
        mean="mean", lowest="min", highest="max", share_above=lambda d: float((d > 0).mean())
    ).reset_index()
