"""Metrics of rank_backbones: each scores labeled features, with an interval over resamples."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import numpy as np

from sktransfer._scoring.features import (
    LabeledFeatures,
    cross_fitted,
    ridge_decisions,
    standardized,
)
from sktransfer._utils.resampling import half_samples, middle, resamples, score_held_out
from sktransfer._utils.splitting import stratified_folds
from sktransfer.model_selection._feature_scores import (
    h_score,
    knn_decisions,
    leep_per_row,
    logme_score,
)

# Halves of the rows that a score is computed on again for its spread; each costs a decomposition.
_N_HALVES = 20


class Scored(NamedTuple):
    """A score, its interval, and its value in every resample (where rows were drawn again)."""

    score: float
    low: float = float("nan")
    high: float = float("nan")
    values: np.ndarray | None = None


class Setting(NamedTuple):
    """What all scores of one ranking share, so that all are computed on the same resamples."""

    scoring: str
    n_resamples: int
    seed: int


def _probe_decisions(data: LabeledFeatures) -> np.ndarray:
    """Predict probabilities by five-fold cross-validated logistic regression."""
    rarest = int(np.bincount(data.codes).min())
    if rarest < 2:
        raise ValueError(
            "metric='probe' cross-validates and needs two rows of every class; the rarest class "
            "has 1. Leave it out, or use another metric."
        )
    folds = stratified_folds(min(5, rarest), grouped=data.groups is not None, random_state=0)
    splits = folds.split(data.F, data.codes, data.groups)
    weight = np.ones(len(data.codes))
    return np.exp(cross_fitted(data.F, data.codes, weight, len(data.classes), splits))


def _by_predictions(decide: Callable[[LabeledFeatures], np.ndarray]) -> Callable[..., Scored]:
    def scored(data: LabeledFeatures, setting: Setting, theta: Any) -> Scored:
        decisions = decide(data)
        return _spread(
            lambda rows: score_held_out(data.codes[rows], decisions[rows], setting.scoring),
            data,
            setting,
        )

    return scored


def _spread(score: Callable[[Any], float], data: LabeledFeatures, setting: Setting) -> Scored:
    state = np.random.RandomState(setting.seed)
    draws = resamples(len(data.codes), data.groups, setting.n_resamples, state)
    values = np.array([score(rows) for rows in draws])
    return Scored(score(slice(None)), *middle(values), values)


def _by_features(score: Callable[..., float]) -> Callable[..., Scored]:
    def scored(data: LabeledFeatures, setting: Setting, theta: Any) -> Scored:
        features = standardized(data.F)
        whole = score(features, data.codes)
        if setting.n_resamples == 0:
            return Scored(whole)
        state = np.random.RandomState(setting.seed)
        halves = half_samples(data.codes, data.groups, _N_HALVES, state)
        values = np.array(
            [
                score(features[rows], data.codes[rows])
                for rows in halves
                if len(np.unique(data.codes[rows])) > 1
            ]
        )
        if not len(values):
            return Scored(whole)
        # A half is scored lower or higher for being a half: only the spread is taken from it.
        low, high = middle(values - values.mean())
        return Scored(whole, whole + low, whole + high)

    return scored


def _leep(data: LabeledFeatures, setting: Setting, theta: Any) -> Scored:
    if theta is None:
        return Scored(float("nan"))
    rows = leep_per_row(theta, data.codes)
    return _spread(lambda chosen: float(rows[chosen].mean()), data, setting)


METRICS: dict[str, Callable[..., Scored]] = {
    "loo_ridge": _by_predictions(ridge_decisions),
    "knn": _by_predictions(knn_decisions),
    "probe": _by_predictions(_probe_decisions),
    "logme": _by_features(logme_score),
    "hscore": _by_features(h_score),
    "leep": _leep,
}


def metrics_named(metric: Any, columns: Collection[str]) -> list[tuple[str, Callable[..., Scored]]]:
    """Return names and functions of one metric or a list of them, none named like a column."""
    metrics = [_metric_named(each) for each in (metric if isinstance(metric, list) else [metric])]
    if not metrics:
        raise ValueError(f"metric is an empty list; name one of {', '.join(METRICS)}.")
    names = [name for name, _ in metrics]
    taken = [name for name in names[1:] if name in columns or names.count(name) > 1]
    if taken:
        raise ValueError(
            f"Every metric but the first has a column of its name, and {taken[0]!r} is the name of "
            "another one. Give functions names of their own (def, or their __name__)."
        )
    return metrics


def _metric_named(metric: Any) -> tuple[str, Callable[..., Scored]]:
    if isinstance(metric, str) and metric in METRICS:
        return metric, METRICS[metric]
    if callable(metric):
        return getattr(metric, "__name__", "score"), lambda data, setting, theta: Scored(
            float(metric(data.F, data.classes[data.codes]))
        )
    known = ", ".join(map(repr, METRICS))
    raise ValueError(
        f"metric must be one of {known}, a function (F, y) -> float, or a list of these; got "
        f"{metric!r}."
    )
