"""TransferClassifier: images and labels in, the best answer that the networks at hand can give.

It must not know how probes are solved or networks are trained.
"""

from __future__ import annotations

import os
import time
from numbers import Real
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.pipeline import Pipeline
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from sktransfer._base import NO_FAILED_ROWS, ImageInputMixin, derived_seed, seed_from
from sktransfer._extractor import PretrainedFeatureExtractor
from sktransfer._finetune._labels import read_labels
from sktransfer._scoring.networks import named_networks, on_this_machine
from sktransfer._transfer._candidates import (
    ALL,
    Candidate,
    Task,
    assign_folds,
    embed,
    fitted_extractors,
    frozen_candidates,
    log_probabilities,
)
from sktransfer._transfer._ensemble import choose, combine, leaderboard, scoring_of
from sktransfer._transfer._saving import SETTINGS, SavingMixin
from sktransfer._utils.sklearn_compat import HasMethods, Interval, _fit_context
from sktransfer.exceptions import ImageDecodeError

# Parameters of networks that are given by name; an extractor that is given has its own.
_SHARED = (
    *("preprocessing", "image_size", "image_shape", "value_range"),
    *("device", "cache", "n_jobs"),
)


class TransferClassifier(SavingMixin, ImageInputMixin, ClassifierMixin, BaseEstimator):
    """Classify images with the networks at hand."""

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **{
            name: ImageInputMixin._image_parameter_constraints[name]
            for name in (*_SHARED, "on_error", "random_state", "verbose")
        },
        "backbones": [
            *(None, str, os.PathLike, list, tuple, dict, HasMethods("fit"), torch.nn.Module),
        ],
        "time_budget": [Interval(Real, 0, None, closed="neither"), dict, None],
    }
    dicom = None
    scaled_decoding = False

    def __init__(
        self,
        backbones: Any = None,
        *,
        time_budget: float | dict[str, Any] | None = None,
        preprocessing: Any = "weights",
        image_size: int | None = None,
        image_shape: tuple[int, ...] | None = None,
        value_range: Any = None,
        device: str | torch.device = "auto",
        cache: Any = True,
        on_error: str = "raise",
        n_jobs: int | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.backbones = backbones
        self.time_budget = time_budget
        self.preprocessing = preprocessing
        self.image_size = image_size
        self.image_shape = image_shape
        self.value_range = value_range
        self.device = device
        self.cache = cache
        self.on_error = on_error
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None
    ) -> TransferClassifier:
        """Choose, fit and combine."""
        start = time.perf_counter()
        seed = seed_from(self.random_state)
        networks = self._networks()
        rows, self.classes_ = read_labels(
            y, self._image_source(X, reset=True), sample_weight, groups, None, self
        )
        task = Task(X, rows.y, rows.weight, rows.groups, self.classes_, seed)
        self._failed_rows, self._class_names = NO_FAILED_ROWS, None
        candidates: list[Candidate] = []
        for name, extractor in networks.items():
            fitted = fitted_extractors(extractor, X)
            F = embed(fitted[ALL], X)
            if not len(task.fold):
                failed = fitted[ALL].failed_rows_
                rows.kept = np.setdiff1d(np.flatnonzero(rows.weight > 0), failed["row"])
                self._note_failed_rows(failed, len(F), "left out of fit")
                task.fold = assign_folds(
                    rows.y, rows.kept, rows.groups, rows.digests, derived_seed(seed, 0)
                )
            candidates += frozen_candidates(name, fitted, F, task)
        ensemble = choose(candidates, task)
        self.scoring_ = scoring_of(len(self.classes_))
        self.temperature_ = ensemble.temperature
        self._out_of_fold = ensemble.out_of_fold
        members = np.flatnonzero(ensemble.weights)
        self.estimators_ = [candidates[each].model for each in members]
        self.weights_ = ensemble.weights[members]
        self.plan_ = {"networks": list(networks), "random_state": seed}
        seconds = time.perf_counter() - start
        self.leaderboard_ = leaderboard(candidates, ensemble, task, seconds)
        best = self.leaderboard_["candidate"][1]
        self.best_estimator_ = next(each.model for each in candidates if each.name == best)
        return self

    def _networks(self) -> dict[str, PretrainedFeatureExtractor]:
        """Return an extractor of every network, with the parameters of this estimator."""
        named = named_networks(on_this_machine() if self.backbones is None else self.backbones)
        usual = PretrainedFeatureExtractor().get_params(deep=False)
        for extractor in named.values():
            for name in _SHARED:
                if repr(getattr(extractor, name)) == repr(usual[name]):
                    extractor.set_params(**{name: getattr(self, name)})
            extractor.set_params(on_error=self.on_error, verbose=max(0, int(self.verbose) - 1))
        return named

    def _note_failed_rows(self, failed: Any, n: int, what: str) -> None:
        listed = failed[["reason", "row", "source"]].itertuples(index=False, name=None)
        self._note_failures([ImageDecodeError(*each) for each in listed], n, what)

    def _log_probabilities(self, X: Any) -> np.ndarray:
        """Return tempered log-probabilities; NaN for rows that cannot be read."""
        check_is_fitted(self)
        parts: list[np.ndarray] = []
        embedded: dict[str, np.ndarray] = {}
        failed = NO_FAILED_ROWS
        n = len(self._image_source(X, reset=False))
        for model in self.estimators_:
            reader = model[0] if isinstance(model, Pipeline) else model
            reader.set_params(**{name: getattr(self, name) for name in SETTINGS})
            assert isinstance(model, Pipeline)
            extractor = model[0]
            key = f"{extractor.reference_.digest} {extractor.get_params()}"
            if key not in embedded:
                embedded[key] = embed(extractor, X)
                failed = extractor.failed_rows_ if len(extractor.failed_rows_) else failed
            F = embedded[key]
            read = np.isfinite(F).all(axis=1)
            found = np.full((n, len(self.classes_)), np.nan)
            if read.any():
                found[read] = log_probabilities(model[1:].decision_function(F[read]))
            parts.append(found)
        self._note_failed_rows(failed, n, "given NaN")
        return combine(parts, self.weights_, self.temperature_)

    def decision_function(self, X: Any) -> np.ndarray:
        """Compute logits."""
        logits = self._log_probabilities(X)
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def predict_proba(self, X: Any) -> np.ndarray:
        """Predict probabilities."""
        return softmax(self._log_probabilities(X), axis=1)

    def predict(self, X: Any) -> np.ndarray:
        """Predict the likeliest class of each row."""
        logits = self._log_probabilities(X)
        lost = np.flatnonzero(np.isnan(logits).any(axis=1))
        if len(lost):
            failed = self._failed_rows[self._failed_rows["row"] == lost[0]]
            first = failed.iloc[0] if len(failed) else None
            raise ImageDecodeError(
                f"{len(lost)} row(s) have no prediction"
                + ("" if first is None else f" ({first['reason']})")
                + "; predict_proba gives NaN for them. Leave them out, or repair the files.",
                int(lost[0]),
                None if first is None else first["source"],
            )
        return self.classes_[logits.argmax(axis=1)]

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags
