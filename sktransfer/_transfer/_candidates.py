"""Candidates: models of one network, judged by rows that they have not seen.

It must not know how candidates are combined, nor how long they may take.
"""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import log_softmax
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer._extractor import PretrainedFeatureExtractor
from sktransfer._scoring.networks import stage_names
from sktransfer._utils.logistic import FLOOR, solve_linear
from sktransfer._utils.splitting import stratified_folds
from sktransfer.exceptions import FailedRowsWarning

# Inverse strength of the penalty of every probe, on standardized features.
PROBE_C = 0.01
ALL, EMBEDDING, FINE_TUNED = "all layers", "embedding", "fine-tuned"
_N_FOLDS = 5


@dataclass
class Task:
    """Rows to learn from: codes of their labels, weights, groups, and the fold of each.

    ``fold`` is -1 for rows that are always trained on, and -2 for rows that are left out.
    """

    X: Any
    y: np.ndarray
    weight: np.ndarray
    groups: np.ndarray | None
    classes: np.ndarray
    seed: int
    fold: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=int))

    def splits(self, usable: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield rows to train on and rows to predict, of those that are usable."""
        usable = self.fold > -2 if usable is None else usable & (self.fold > -2)
        for number in range(self.fold.max() + 1):
            held_out = self.fold == number
            yield np.flatnonzero(usable & ~held_out), np.flatnonzero(usable & held_out)


@dataclass
class Candidate:
    """A model of one network, and its log-probabilities for rows that it had not seen.

    Rows are NaN where there are none.
    """

    backbone: str
    features: str
    out_of_fold: np.ndarray
    model: Any
    seconds: float

    @property
    def name(self) -> str:
        """Name in tables."""
        return f"{self.backbone}, {self.features}"


def assign_folds(
    y: np.ndarray, kept: np.ndarray, groups: np.ndarray | None, digests: list[bytes], seed: int
) -> np.ndarray:
    """Return the fold of each row, stratified by class; what belongs together is in one fold.

    That is a group; without groups, the copies of an image (``digests`` are those of ``kept``). A
    class that would be in one fold only is never held out: -1. Rows that are not kept are -2.
    """
    fold = np.full(len(y), -2)
    codes = y[kept]
    if groups is not None:
        units = np.unique(groups[kept], return_inverse=True)[1]
        n_folds = min(_N_FOLDS, units.max() + 1, np.bincount(codes).max())
        found = np.full(len(kept), -1)
        if n_folds > 1:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="The least populated class")
                splitter = stratified_folds(n_folds, grouped=True, random_state=seed)
                for number, (_, test) in enumerate(splitter.split(kept, codes, units)):
                    found[test] = number
    else:
        # By the digest and not by the place: rows in another order, or a row twice instead of a
        # row of weight two, are the same task.
        keys = [hashlib.blake2b(each, key=str(seed).encode()).digest() for each in digests]
        _, first, units = np.unique(np.array(keys, dtype=object), True, True)
        of_unit = np.full(len(first), codes.max())
        np.minimum.at(of_unit, units, codes)
        found = np.empty(len(first), dtype=int)
        found[np.argsort(of_unit, kind="stable")] = np.arange(len(first)) % _N_FOLDS
        found = found[units]
    for code in np.unique(codes):
        own = np.unique(found[codes == code])
        if len(own) == 1:
            found[np.isin(units, units[codes == code])] = -1
    fold[kept] = found
    return fold


def log_probabilities(decision: np.ndarray) -> np.ndarray:
    """Return log-probabilities of the decisions of a linear classifier of scikit-learn."""
    if decision.ndim == 1:
        decision = np.column_stack([-decision / 2, decision / 2])
    return log_softmax(decision, axis=1)


def embed(extractor: PretrainedFeatureExtractor, X: Any) -> np.ndarray:
    """Return features; rows that cannot be read are NaN, and no warning is given."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FailedRowsWarning)
        return np.asarray(extractor.transform(X))


def frozen_candidates(
    backbone: str, fitted: dict[str, PretrainedFeatureExtractor], F: np.ndarray, task: Task
) -> Iterator[Candidate]:
    """Yield probes of a network's features, refitted on all rows.

    ``fitted`` are extractors by the name of their features; ``F`` are the columns of the widest.
    """
    usable = np.isfinite(F).all(axis=1)
    n_classes = len(task.classes)
    for features, extractor in fitted.items():
        start = time.perf_counter()
        own = F[:, F.shape[1] - extractor.n_features_out_ :]
        found = np.full((len(F), n_classes), np.nan)
        for train, test in task.splits(usable):
            coef, intercept = solve_linear(
                own[train], task.y[train], task.weight[train], n_classes, PROBE_C, floor=FLOOR
            )
            found[test] = log_softmax(own[test] @ coef.T + intercept, axis=1)
        rows = np.flatnonzero(usable & (task.fold > -2))
        model = _probe(extractor, own[rows], task, rows)
        yield Candidate(backbone, features, found, model, time.perf_counter() - start)


def _probe(
    extractor: PretrainedFeatureExtractor, F: np.ndarray, task: Task, rows: np.ndarray
) -> Pipeline:
    """Return a fitted pipeline: the extractor, a scaler, and the regression solved to the end."""
    y, weight = task.y[rows], task.weight[rows]
    scaler = StandardScaler().fit(F.astype(np.float64), sample_weight=weight)
    coef, intercept = solve_linear(F, y, weight, len(task.classes), PROBE_C, floor=FLOOR)
    intercept = intercept + coef @ scaler.mean_
    coef = coef * scaler.scale_
    if len(task.classes) == 2:
        coef, intercept = np.diff(coef, axis=0), np.diff(intercept)
    probe = LogisticRegression(C=PROBE_C, max_iter=5000, tol=1e-8)
    probe.classes_, probe.coef_, probe.intercept_ = task.classes, coef, intercept
    probe.n_features_in_, probe.n_iter_ = F.shape[1], np.zeros(1, dtype=np.int32)
    return Pipeline([("extractor", extractor), ("scaler", scaler), ("probe", probe)])


def fitted_extractors(
    extractor: PretrainedFeatureExtractor, X: Any
) -> dict[str, PretrainedFeatureExtractor]:
    """Return extractors of a network by the name of their features, the widest first."""
    first = clone(extractor).set_params(layer=0).fit(X)
    widest = clone(extractor).set_params(layer=[*stage_names(first), None]).fit(X)
    found = {ALL: widest}
    if widest._info.embedding_trained:
        found[EMBEDDING] = clone(extractor).set_params(layer=None).fit(X)
    return found
