"""What the studies share: rows to train and to test on, one training, tables of repeats."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.base import clone
from sklearn.metrics import check_scoring
from sklearn.utils.validation import column_or_1d

from sktransfer._backbones import Backbone
from sktransfer._base import derived_seed, seed_from
from sktransfer._finetune import FineTuneClassifier
from sktransfer._image_rows import backbone_of, rows_of, take_rows
from sktransfer._scoring.networks import check_lengths, finetuner
from sktransfer._utils.per_row import check_present
from sktransfer._utils.plotting import new_axes
from sktransfer._utils.splitting import holdout_split
from sktransfer.studies._random_networks import given

# The split is drawn with the first of a study's seeds.
_SPLIT = 0


class Study:
    """One estimator, images to train and to test on, and a metric, for many networks."""

    def __init__(
        self,
        estimator: Any,
        X: Any,
        y: ArrayLike,
        X_test: Any,
        y_test: Any,
        *,
        test_size: float,
        groups: Any,
        n_repeats: int,
        scoring: Any,
        random_state: Any,
    ) -> None:
        self.estimator = finetuner(estimator)
        self.scoring = scoring
        check_scoring(self.estimator, scoring=scoring)
        if n_repeats < 1:
            raise ValueError(f"n_repeats must be at least 1; got {n_repeats!r}.")
        if (X_test is None) != (y_test is None):
            raise ValueError("Give X_test and y_test together, or neither of them.")
        self.seed = seed_from(random_state)
        labels = column_or_1d(check_present(y))
        check_lengths(self.estimator, X, labels, None)
        # The rows that the parts were, if of one set, to name one that cannot be read.
        self.rows: np.ndarray | None = None
        self._rows_test: np.ndarray | None = None
        if X_test is None:
            seed = derived_seed(self.seed, _SPLIT)
            self.rows, test = holdout_split(labels, test_size, groups=groups, random_state=seed)
            self._rows_test, X_test, y_test = test, take_rows(X, test), labels[test]
            X, labels = take_rows(X, self.rows), labels[self.rows]
        self.X, self.y = X, labels
        self._X_test, self._y_test = X_test, column_or_1d(check_present(y_test, "y_test"))

    def network(self) -> Backbone:
        """Load the estimator's network; random weights without a seed are drawn with ours."""
        estimator = self.estimator
        if estimator.weights is None and estimator.random_state is None:
            estimator = clone(estimator).set_params(random_state=self.seed)
        return backbone_of(estimator)

    def train(
        self,
        backbone: Backbone,
        X: Any,
        y: np.ndarray,
        *,
        seed: int,
        freeze_depth: int = 0,
        rows: np.ndarray | None = None,
        **params: Any,
    ) -> tuple[FineTuneClassifier, float]:
        """Fit the estimator with another network, and measure the seconds.

        ``rows`` are those that ``X`` was taken from. What a pretrained start would give beyond the
        network is taken away: the head is random, sees the embedding alone and has no epochs of its
        own, and BatchNorm learns its statistics.
        """
        own = clone(self.estimator).set_params(
            **{
                "head__init": "random",
                "head__epochs": 0,
                "head__layers": "embedding",
                "module__freeze_batch_norm": False,
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

    def score(self, fitted: FineTuneClassifier) -> float:
        """Score a fitted classifier on the test part."""
        scorer = check_scoring(fitted, scoring=self.scoring)
        with rows_of(self._rows_test):
            return float(scorer(fitted, self._X_test, self._y_test))


class CurveDisplay:
    """What the displays of both studies share; ``_draw`` plots the table and returns the lines."""

    def __init__(self, *, table: pd.DataFrame) -> None:
        self.table = table

    @classmethod
    def from_curve(cls, curve: Any, *, ax: Any = None) -> Any:
        """Plot the result of a study.

        Parameters
        ----------
        curve : TransferCurve or ConvergenceCurve
            Result of the study that this display shows.
        ax : matplotlib Axes or None, default=None
            Axes to plot on. None: a new figure.

        Returns
        -------
        display : Display
            The display, plotted.
        """
        return cls(table=curve.table).plot(ax=ax)

    def plot(self, *, ax: Any = None) -> Any:
        """Plot the scores.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Axes to plot on. None: a new figure.

        Returns
        -------
        display : Display
            The display, plotted.
        """
        self.ax_, self.figure_ = new_axes(ax, self, figsize=(7, 4.5), layout="constrained")
        self.lines_ = self._draw(self.ax_)
        return self

    def _draw(self, ax: Any) -> dict[Any, Any]:
        raise NotImplementedError


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


def mean_scores(table: pd.DataFrame, column: str, by: Sequence[str]) -> pd.DataFrame:
    """Return the mean score of each case (columns), for every value of ``by`` (rows)."""
    cases = list(dict.fromkeys(table[column]))
    return table.pivot_table(index=list(by), columns=column, values="score")[cases]
