"""Candidates: models of one network, judged by rows that they have not seen.

It must not know how candidates are combined, nor how long they may take.
"""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer._base import derived_seed, on_host
from sktransfer._extractor import PretrainedFeatureExtractor
from sktransfer._finetune._targets import Findings, Target
from sktransfer._multilabel import MultiLabelLogisticRegression
from sktransfer._scoring.features import cross_fitted
from sktransfer._utils.logistic import PROBE_C
from sktransfer._utils.names import quoted
from sktransfer._utils.splitting import iterative_folds, joined_groups, stratified_folds
from sktransfer.exceptions import FailedRowsWarning

ALL, EMBEDDING, FINE_TUNED = "all layers", "embedding", "fine-tuned"
N_FOLDS = 5


@dataclass
class Task:
    """Rows to learn from: encoded labels, weights, and which belong together.

    ``unit`` numbers images of which there are copies, or groups, which are one if they share an
    image. ``fold`` is that of a row, -1 if it is always trained on, and -2 if it is left out.
    """

    X: Any
    y: np.ndarray
    weight: np.ndarray
    groups: np.ndarray | None
    target: Target
    seed: int
    unit: np.ndarray = field(init=False)
    fold: np.ndarray = field(init=False)

    def assign_folds(self, kept: np.ndarray, digests: list[bytes]) -> None:
        """Assign every row that is kept to a fold, stratified by class, with all of its unit.

        That is the copies of an image, whose ``digests`` are given, and with groups all groups that
        share an image. A class that would be in one fold only is never held out.
        """
        self.unit, self.fold = np.arange(len(self.y)), np.full(len(self.y), -2)
        codes, seed = self.y[kept], derived_seed(self.seed, 0)
        lacking = self.target.lacking(codes)
        if lacking:
            raise ValueError(
                f"At least two classes are needed; the {len(kept)} rows that can be read and whose "
                f"weight is not zero are of {lacking}."
            )
        # By the digest and not by the place: the same task with rows in another order, or with
        # a row twice instead of a row of weight two, has the same folds.
        key = seed.to_bytes(8, "little")
        keys = [hashlib.blake2b(each, key=key).hexdigest() for each in digests]
        units = images = np.unique(keys, return_inverse=True)[1]
        if self.groups is not None:
            units = joined_groups(np.unique(self.groups[kept], return_inverse=True)[1], images)
        if codes.ndim == 2:
            _, first, once = np.unique(
                np.column_stack([units, images]), axis=0, return_index=True, return_inverse=True
            )
            n_folds = min(N_FOLDS, units.max() + 1)
            self.fold[kept], self.unit[kept] = -1, units
            if n_folds > 1:  # else nothing can be held out
                found = iterative_folds(codes[first], n_folds, groups=units[first])
                self.fold[kept] = found[once.ravel()]
            return
        if self.groups is not None:
            distinct = np.column_stack([units, images, codes])
            _, first, once = np.unique(distinct, axis=0, return_index=True, return_inverse=True)
            strata = codes[first]
            n_folds = min(N_FOLDS, units.max() + 1, np.bincount(strata).max())
            found = np.zeros(len(first), dtype=int)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="The least populated class")
                splitter = stratified_folds(max(n_folds, 2), grouped=True, random_state=seed)
                parts = splitter.split(strata, strata, units[first]) if n_folds > 1 else ()
                for number, (_, test) in enumerate(parts):
                    found[test] = number
            found = found[once.ravel()]
        else:
            of_unit = np.full(units.max() + 1, self.target.n_outputs)
            np.minimum.at(of_unit, units, codes)
            found = np.empty(len(of_unit), dtype=int)
            found[np.argsort(of_unit, kind="stable")] = np.arange(len(of_unit)) % N_FOLDS
            found = found[units]
        alone = [c for c in np.unique(codes) if len(np.unique(found[codes == c])) == 1]
        for code in alone:
            found[np.isin(units, units[codes == code])] = -1
        self.fold[kept], self.unit[kept] = found, units
        if alone:
            names = ", ".join(quoted(str(label)) for label in self.target.classes[alone])
            warnings.warn(
                f"No score counts {names}: all images of such a class are in one fold (they are "
                "of one group, say, or copies of each other), so that it is always trained on and "
                "never held out. Add images, or leave the class out.",
                stacklevel=2,
            )

    def splits(self, usable: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield rows to train on and rows to predict, of those that are usable."""
        usable = self.fold > -2 if usable is None else usable & (self.fold > -2)
        for number in range(max(self.fold) + 1):
            held_out = self.fold == number
            yield np.flatnonzero(usable & ~held_out), np.flatnonzero(usable & held_out)

    def losses(self, out_of_fold: np.ndarray) -> np.ndarray:
        """Return the log loss of each row, NaN where it is not predicted.

        The mean of several findings' is the mean over findings of that of their known rows.
        """
        if self.y.ndim == 1:
            return -out_of_fold[np.arange(len(self.y)), self.y]
        share = np.average(~np.isnan(self.y), axis=0, weights=self.weight * (self.fold > -2))
        with np.errstate(invalid="ignore"):  # of rows without outputs
            each = np.logaddexp(0, np.where(self.y == 1, -out_of_fold, out_of_fold))
        each = np.where(np.isnan(self.y), 0 * out_of_fold, each)
        return (each / np.maximum(share, 1e-12)).mean(axis=1)


@dataclass
class Candidate:
    """A model of one network, and its outputs for rows that it had not seen.

    They are log-probabilities of classes or logits of findings, NaN where there are none.
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

    def log_loss(self, task: Task) -> float:
        """Return the log loss of rows that the model had not seen; infinity if there are none."""
        found = log_loss(self.out_of_fold, task)
        return found if np.isfinite(found) else float("inf")


def log_loss(out_of_fold: np.ndarray, task: Task) -> float:
    """Return the weighted mean of the losses of rows, NaN for no rows."""
    own = task.losses(out_of_fold)
    rows = np.isfinite(own)
    if not task.weight[rows].any():
        return float("nan")
    return float(np.average(own[rows], weights=task.weight[rows]))


def outputs_of(decision: np.ndarray, target: Target) -> np.ndarray:
    """Return outputs, as a candidate has them, of the decisions of a classifier."""
    if decision.ndim == 1:
        decision = np.column_stack([-decision / 2, decision / 2])
    return target.normalized(decision)


def embed(extractor: PretrainedFeatureExtractor, X: Any) -> np.ndarray:
    """Return features; rows that cannot be read are NaN, and no warning is given."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FailedRowsWarning)
        return on_host(extractor.transform(X))


def frozen_candidates(
    backbone: str, fitted: dict[str, PretrainedFeatureExtractor], F: np.ndarray, task: Task
) -> Iterator[Candidate]:
    """Yield probes of a network's features, refitted on all rows.

    ``fitted`` are extractors by the name of their features; ``F`` are the columns of the widest.
    """
    usable = np.isfinite(F).all(axis=1)
    for features, extractor in fitted.items():
        start = time.perf_counter()
        own = F[:, F.shape[1] - extractor.n_features_out_ :]
        found = _cross_fitted(own, task, usable)
        rows = np.flatnonzero(usable & (task.fold > -2))
        model = _probe(extractor, own[rows], task, rows)
        yield Candidate(backbone, features, found, model, time.perf_counter() - start)


def _cross_fitted(F: np.ndarray, task: Task, usable: np.ndarray) -> np.ndarray:
    """Return outputs of rows by probes of other folds; untested rows are NaN."""
    target, y, weight = task.target, task.y, task.weight
    if y.ndim == 1:
        return cross_fitted(F, y, weight, target.n_outputs, task.splits(usable))
    found = np.full((len(F), target.n_outputs), np.nan)
    for train, test in task.splits(usable):
        given = (F[train], y[train], weight[train], PROBE_C)
        coef, intercept = target.solve(*given, partial(task.unit.__getitem__, train))
        found[test] = F[test] @ coef.T + intercept
    return found


def _probe(
    extractor: PretrainedFeatureExtractor, F: np.ndarray, task: Task, rows: np.ndarray
) -> Pipeline:
    """Return a fitted pipeline: the extractor, a scaler, and the regression solved to the end."""
    y, weight = task.y[rows], task.weight[rows]
    scaler = StandardScaler().fit(F.astype(np.float64), sample_weight=weight)
    coef, intercept = task.target.solve(F, y, weight, PROBE_C, lambda: task.unit[rows])
    intercept = intercept + coef @ scaler.mean_
    coef = coef * scaler.scale_
    if y.ndim == 1 and len(coef) == 2:
        coef, intercept = np.diff(coef, axis=0), np.diff(intercept)
    probe = solved_regression(task.target, coef, intercept, PROBE_C)
    return Pipeline([("extractor", extractor), ("scaler", scaler), ("probe", probe)])


def solved_regression(
    target: Target, coef: np.ndarray, intercept: np.ndarray, C: float
) -> LogisticRegression | MultiLabelLogisticRegression:
    """Return a regression that was solved elsewhere as an estimator, fitted."""
    if isinstance(target, Findings):
        several = MultiLabelLogisticRegression(C=C)
        several.coef_, several.intercept_, several._target = coef, intercept, target
        several.classes_, several.n_features_in_ = target.classes, coef.shape[1]
        return several
    probe = LogisticRegression(C=C, max_iter=5000, tol=1e-8)
    probe.classes_, probe.coef_, probe.intercept_ = target.classes, coef, intercept
    probe.n_features_in_, probe.n_iter_ = coef.shape[1], np.zeros(1, dtype=np.int32)
    return probe


def fitted_extractors(
    extractor: PretrainedFeatureExtractor, X: Any
) -> dict[str, PretrainedFeatureExtractor]:
    """Return extractors of a network by the name of their features, the widest first.

    One that is given with a layer gives that and no more.
    """
    if extractor.layer not in (None, "all"):
        return {f"layer={extractor.layer!r}": clone(extractor).fit(X)}
    widest = clone(extractor).set_params(layer="all").fit(X)
    found = {ALL: widest}
    if widest._info.embedding_trained and extractor.layer is None:
        found[EMBEDDING] = clone(extractor).fit(X)
    return found
