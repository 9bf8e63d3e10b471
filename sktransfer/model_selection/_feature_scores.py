"""The scores by name, each with its spread over resamples; it must not know images."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer._utils.resampling import half_samples, middle, resamples, score_held_out
from sktransfer._utils.splitting import stratified_folds
from sktransfer.model_selection._features import LabeledFeatures, check_labeled, standardized
from sktransfer.model_selection._h_score import h_score
from sktransfer.model_selection._leep import leep_per_row
from sktransfer.model_selection._logme import logme_score
from sktransfer.model_selection._neighbors import knn_decisions
from sktransfer.model_selection._ridge import loo_ridge_decisions

# Halves of the rows that a score is computed on again for its spread; each costs a decomposition.
_N_HALVES = 20
# Inverse penalty of the logistic probe, on standardized features.
PROBE_C = 0.01


@dataclass(frozen=True)
class Scored:
    """A score, its interval, and its value in every resample (where rows were drawn again)."""

    score: float
    low: float = float("nan")
    high: float = float("nan")
    values: np.ndarray | None = None


@dataclass(frozen=True)
class Setting:
    """What all scores of one ranking share.

    Parameters
    ----------
    scoring : str
        Of predictions.
    n_resamples : int
    seed : int
        Equal for all, so that all are scored on the same resamples.
    drawn : dict
        What was drawn already.
    """

    scoring: str
    n_resamples: int
    seed: int
    drawn: dict[Any, list[np.ndarray]] = field(default_factory=dict, repr=False, compare=False)

    def draws(self, data: LabeledFeatures) -> list[np.ndarray]:
        """Rows drawn with replacement, by group where there are groups."""
        n = len(data.codes)
        key = (n, None if data.groups is None else data.groups.tobytes())
        if key not in self.drawn:  # for the first layer, and again for none
            state = np.random.RandomState(self.seed)
            self.drawn[key] = resamples(n, data.groups, self.n_resamples, state)
        return self.drawn[key]


def probe_decisions(F: Any, y: Any, *, groups: Any = None, random_state: int = 0) -> np.ndarray:
    """Probabilities of classes by five-fold cross-validated logistic regression."""
    data = check_labeled(F, y, groups)
    rarest = int(np.bincount(data.codes).min())
    if rarest < 2:
        raise ValueError("A cross-validated probe needs two rows of every class.")
    folds = stratified_folds(min(5, rarest), grouped=groups is not None, random_state=random_state)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=PROBE_C, max_iter=1000))
    return cross_val_predict(
        model, data.F, data.codes, cv=folds, groups=data.groups, method="predict_proba"
    )


def _by_predictions(decide: Callable[..., np.ndarray]) -> Callable[..., Scored]:
    def scored(data: LabeledFeatures, setting: Setting, theta: Any) -> Scored:
        decisions = decide(data.F, data.codes, groups=data.groups)
        return _spread(
            lambda rows: score_held_out(data.codes[rows], decisions[rows], setting.scoring),
            data,
            setting,
        )

    return scored


def _spread(score: Callable[[Any], float], data: LabeledFeatures, setting: Setting) -> Scored:
    values = np.array([score(rows) for rows in setting.draws(data)])
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
    "loo_ridge": _by_predictions(loo_ridge_decisions),
    "knn": _by_predictions(knn_decisions),
    "probe": _by_predictions(probe_decisions),
    "logme": _by_features(logme_score),
    "hscore": _by_features(h_score),
    "leep": _leep,
}


def metrics_named(metric: Any, columns: Collection[str]) -> list[tuple[str, Callable[..., Scored]]]:
    """Names and functions of one metric or of a list of them.

    Raises
    ------
    ValueError
        If one does not exist, or would share the name of its column with another or with one of
        the ``columns`` there are.
    """
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
