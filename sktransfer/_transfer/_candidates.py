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

from sktransfer._base import derived_seed, on_host
from sktransfer._extractor import PretrainedFeatureExtractor
from sktransfer._scoring.features import cross_fitted
from sktransfer._utils.logistic import FLOOR, PROBE_C, solve_linear
from sktransfer._utils.names import quoted
from sktransfer._utils.splitting import joined_groups, stratified_folds
from sktransfer.exceptions import FailedRowsWarning

ALL, EMBEDDING, FINE_TUNED = "all layers", "embedding", "fine-tuned"
N_FOLDS = 5


@dataclass
class Task:
    """Rows to learn from: codes of their labels, weights, and which belong together.

    ``unit`` numbers images of which there are copies, or groups, which are one if they share an
    image. ``fold`` is that of a row, -1 if it is always trained on, and -2 if it is left out.
    """

    X: Any
    y: np.ndarray
    weight: np.ndarray
    groups: np.ndarray | None
    classes: np.ndarray
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
        if len(np.unique(codes)) < 2:
            raise ValueError(
                f"At least two classes are needed; the {len(kept)} rows that can be read and whose "
                f"weight is not zero are of {len(np.unique(codes))}."
            )
        # By the digest and not by the place: the same task with rows in another order, or with
        # a row twice instead of a row of weight two, has the same folds.
        key = seed.to_bytes(8, "little")
        keys = [hashlib.blake2b(each, key=key).hexdigest() for each in digests]
        units = images = np.unique(keys, return_inverse=True)[1]
        if self.groups is not None:
            units = joined_groups(np.unique(self.groups[kept], return_inverse=True)[1], images)
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
            of_unit = np.full(units.max() + 1, len(self.classes))
            np.minimum.at(of_unit, units, codes)
            found = np.empty(len(of_unit), dtype=int)
            found[np.argsort(of_unit, kind="stable")] = np.arange(len(of_unit)) % N_FOLDS
            found = found[units]
        alone = [c for c in np.unique(codes) if len(np.unique(found[codes == c])) == 1]
        for code in alone:
            found[np.isin(units, units[codes == code])] = -1
        self.fold[kept], self.unit[kept] = found, units
        if alone:
            names = ", ".join(quoted(str(label)) for label in self.classes[alone])
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

    def log_loss(self, task: Task) -> float:
        """Return the log loss of rows that the model had not seen; infinity if there are none."""
        found = log_loss(self.out_of_fold, task)
        return found if np.isfinite(found) else float("inf")


def log_loss(out_of_fold: np.ndarray, task: Task) -> float:
    """Return the mean of minus the log-probability of the class, NaN for no rows."""
    own = out_of_fold[np.arange(len(task.y)), task.y]
    rows = np.isfinite(own)
    if not task.weight[rows].any():
        return float("nan")
    return float(-np.average(own[rows], weights=task.weight[rows]))


def log_probabilities(decision: np.ndarray) -> np.ndarray:
    """Return log-probabilities of the decisions of a linear classifier of scikit-learn."""
    if decision.ndim == 1:
        decision = np.column_stack([-decision / 2, decision / 2])
    return log_softmax(decision, axis=1)


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
    n_classes = len(task.classes)
    for features, extractor in fitted.items():
        start = time.perf_counter()
        own = F[:, F.shape[1] - extractor.n_features_out_ :]
        found = cross_fitted(own, task.y, task.weight, n_classes, task.splits(usable))
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
    probe = solved_regression(task.classes, coef, intercept, PROBE_C)
    return Pipeline([("extractor", extractor), ("scaler", scaler), ("probe", probe)])


def solved_regression(
    classes: np.ndarray, coef: np.ndarray, intercept: np.ndarray, C: float
) -> LogisticRegression:
    """Return a regression that was solved elsewhere as scikit-learn's, fitted."""
    probe = LogisticRegression(C=C, max_iter=5000, tol=1e-8)
    probe.classes_, probe.coef_, probe.intercept_ = classes, coef, intercept
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
