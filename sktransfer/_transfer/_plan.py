"""What a time budget buys: measured on a few images, printed beforehand, recorded and kept.

It must not know how candidates are judged or combined.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.base import clone

from sktransfer._base import derived_seed
from sktransfer._extractor import PretrainedFeatureExtractor
from sktransfer._image_rows import rows_of, take_rows
from sktransfer._scoring.networks import finetuner
from sktransfer._transfer._candidates import (
    FINE_TUNED,
    N_FOLDS,
    Candidate,
    Task,
    embed,
    outputs_of,
)
from sktransfer._utils.splitting import stratified_part

# Images that the speed of a network is measured on, and rows and epochs that training is.
_TIMED_IMAGES, _TIMED_ROWS, _TIMED_EPOCHS = 8, 64, 2
# A step is begun if this many times what it is expected to take is left, and what the end of a fit
# takes: scores, intervals and the choice.
_CAUTION, _END_SHARE, _END_SECONDS = 1.2, 0.03, 1.5
# Folds that a network is judged on at least, and what a fit on all rows takes, in folds.
_FEWEST_FOLDS, _ALL_ROWS = 2, 1.25


@dataclass
class Plan:
    """The steps of a fit: given by an earlier one, or taken as long as there is time."""

    seed: int
    budget: float | None  # seconds; None: frozen networks only
    given: dict[str, Any] | None = None
    verbose: int = 0
    started: float = field(default_factory=lambda: time.perf_counter())
    steps: dict[str, Any] = field(default_factory=dict)
    images: dict[str, float] = field(default_factory=dict)  # seconds for all images, by network

    @classmethod
    def read(cls, time_budget: Any, seed: int, verbose: int) -> Plan:
        """Return the plan that a time budget means: None, seconds, or ``plan_`` of another fit."""
        if not isinstance(time_budget, dict):
            return cls(seed, time_budget, verbose=verbose)
        _check_plan(time_budget)
        return cls(int(time_budget["random_state"]), None, time_budget, verbose)

    @property
    def left(self) -> float:
        """Seconds that further steps may take."""
        if self.budget is None:
            return float("inf")
        end = self.budget * _END_SHARE + _END_SECONDS
        return self.budget - end - (time.perf_counter() - self.started)

    def say(self, text: str) -> None:
        """Print what happens, if that is wanted."""
        if self.verbose:
            print(f"TransferClassifier: {text}", flush=True)

    def networks(
        self, named: dict[str, PretrainedFeatureExtractor], X: Any, n: int
    ) -> dict[str, PretrainedFeatureExtractor]:
        """Return the networks to embed images with, the fastest first if time is limited."""
        if self.given is not None:
            unknown = [name for name in self.given["backbones"] if name not in named]
            if unknown:
                raise ValueError(
                    f"The plan has networks that backbones lack: {', '.join(unknown)}. These "
                    f"are {', '.join(named)}."
                )
            named = {name: named[name] for name in self.given["backbones"]}
        if self.budget is not None:
            self.images = {name: n * _seconds(each, X, n) for name, each in named.items()}
            named = {name: named[name] for name in sorted(named, key=self.images.__getitem__)}
        about = [f"{name} (about {self.images[name]:.0f} s)" for name in self.images]
        self.say(f"{n} images, networks {', '.join(about or named)}")
        if self.budget is not None:
            fastest = min(self.images, key=self.images.__getitem__)
            if self.images[fastest] > max(0.0, self.left):
                warnings.warn(
                    f"time_budget={self.budget:g} is exceeded: {fastest}, the fastest network, "
                    f"takes about {self.images[fastest]:.1f} s for {n} images, and its probes come "
                    "after that. It is used alone.",
                    stacklevel=3,
                )
            rest = max(0.0, self.left - sum(self.images.values()))
            self.say(
                f"of {self.budget:.0f} s, about {rest:.0f} s are left for fine-tuning the best of "
                "them."
            )
        self.steps = {"backbones": [], "fine_tuned": [], "random_state": self.seed}
        return named

    def affords(self, name: str, done: list[Candidate]) -> bool:
        """Return whether there is time for the images and the probes of a network."""
        spent: dict[str, float] = {}
        for each in done:
            spent[each.backbone] = spent.get(each.backbone, 0.0) + each.seconds
        probes = max(spent.values(), default=0.0)
        if done and _CAUTION * (self.images.get(name, 0.0) + probes) > self.left:
            self.say(f"{name} is left out: there is no time for it.")
            return False
        self.steps["backbones"].append(name)
        return True

    def fine_tuned(
        self, networks: dict[str, PretrainedFeatureExtractor], done: list[Candidate], task: Task
    ) -> list[Candidate]:
        """Return fine-tuned networks, the best probes first, as long as there is time.

        ``done`` are their probes, best first.
        """
        kept = np.flatnonzero(task.fold > -2)
        several = task.y.ndim == 2
        whole = several or len(np.unique(task.y[kept])) == task.target.n_outputs
        steps = []
        if self.given is not None:
            steps = [(each["backbone"], each["folds"]) for each in self.given["fine_tuned"]]
        elif self.budget is not None and whole and task.fold.max() > 0:
            steps = [(name, None) for name in dict.fromkeys(each.backbone for each in done)]
        found: list[Candidate] = []
        for name, n_folds in steps:
            if self.left <= 0:
                self.say("there is no time for fine-tuning.")
                break
            # Half way: what is held out judges it here, and whether it joins the probes.
            verbose = max(0, self.verbose - 1)
            tuner = finetuner(networks[name], weight_interpolation=0.5, verbose=verbose)
            expected = 0.0
            if n_folds is None:
                expected = _fold_seconds(tuner, task, kept, self.left)
                if expected == float("inf"):
                    self.say(f"{name} is not fine-tuned: there is no time for it.")
                    continue
                first = self.images[name]  # all images are brought to the cut
                n_folds = int((self.left - first) / (_CAUTION * expected) - _ALL_ROWS)
                n_folds = min(n_folds, task.fold.max() + 1)
                if n_folds < _FEWEST_FOLDS:
                    lacking = first + _CAUTION * expected * (_FEWEST_FOLDS + _ALL_ROWS) - self.left
                    needed = (self.budget or 0.0) + lacking / (1 - _END_SHARE)
                    self.say(
                        f"{name} is not fine-tuned: about {expected:.0f} s a fold; a time budget "
                        f"of {needed:.0f} s would do here."
                    )
                    continue
                self.say(
                    f"fine-tuning {name}: {n_folds} folds of {task.fold.max() + 1} and all rows, "
                    f"about {first + (n_folds + _ALL_ROWS) * expected:.0f} s."
                )
            candidate, n_done = self._cross_fitted(name, tuner, task, n_folds, len(found))
            if candidate is not None:
                found.append(candidate)
                self.steps["fine_tuned"].append({"backbone": name, "folds": n_done})
        return found

    def _cross_fitted(
        self, name: str, tuner: Any, task: Task, n_folds: int, number: int
    ) -> tuple[Candidate | None, int]:
        """Return a network fine-tuned on all rows, and how many folds it was judged on.

        None where so few were done that there is no time for more.
        """
        start = time.perf_counter()
        found = np.full((len(task.y), task.target.n_outputs), np.nan)
        slowest, n_done = 0.0, 0
        for fold, (train, test) in enumerate(task.splits()):
            begun = time.perf_counter()
            if fold == n_folds or self.left < _CAUTION * (1 + _ALL_ROWS) * slowest:
                break
            fitted = _fitted(tuner, task, train, derived_seed(self.seed, 1, number, fold))
            decision = fitted.decision_function(take_rows(task.X, test))
            found[test] = outputs_of(decision, task.target)
            slowest, n_done = max(slowest, time.perf_counter() - begun), fold + 1
        if n_done < min(_FEWEST_FOLDS, n_folds):
            self.say(f"{name} is not fine-tuned: a fold took {slowest:.0f} s.")
            return None, n_done
        kept = np.flatnonzero(task.fold > -2)
        model = _fitted(tuner, task, kept, derived_seed(self.seed, 1, number, N_FOLDS))
        return Candidate(name, FINE_TUNED, found, model, time.perf_counter() - start), n_done

    def record(self) -> dict[str, Any]:
        """Return the steps that were taken, for another fit and for JSON."""
        return {
            **self.steps,
            "time_budget": self.budget,
            "expected_seconds": {name: round(each, 2) for name, each in self.images.items()},
            "seconds": round(time.perf_counter() - self.started, 2),
        }


def _check_plan(plan: dict[str, Any]) -> None:
    """Raise ValueError where a dict is no plan."""
    missing = {"backbones", "fine_tuned", "random_state"} - plan.keys()
    if missing:
        raise ValueError(
            "time_budget is a number of seconds, or plan_ of a fitted TransferClassifier; got "
            f"a dict without {', '.join(sorted(missing))}."
        )
    names, steps, seed = plan["backbones"], plan["fine_tuned"], plan["random_state"]
    known = names if isinstance(names, list) else []

    def is_step(each: Any) -> bool:
        whole = isinstance(each, dict) and isinstance(each.get("folds"), int)
        return whole and each["folds"] > 0 and each.get("backbone") in known

    rules = {
        "backbones": (len(known) > 0, "a list of names, one or more"),
        "fine_tuned": (
            isinstance(steps, list) and all(map(is_step, steps)),
            'a list of {"backbone": one of its backbones, "folds": whole number above 0}',
        ),
        "random_state": (isinstance(seed, int) and seed >= 0, "a whole number"),
    }
    for name, (sound, wanted) in rules.items():
        if not sound:
            raise ValueError(f"The plan's {name} has to be {wanted}; got {plan[name]!r}.")


def _seconds(extractor: PretrainedFeatureExtractor, X: Any, n: int) -> float:
    """Measure the seconds of one image, after one that finds the network and its engine.

    What is in the store already is as fast as it will be. Rows are others each time: of a network
    that was left out before, the store has those that were timed, and no others.
    """
    rows = np.random.default_rng().permutation(n)[: _TIMED_IMAGES + 1]
    timed = clone(extractor).set_params(on_error="nan", verbose=0, layer="all").fit(X)
    with rows_of(rows):
        embed(timed, take_rows(X, rows[:1]))
        start = time.perf_counter()
        embed(timed, take_rows(X, rows[1:] if len(rows) > 1 else rows))
    return (time.perf_counter() - start) / max(1, len(rows) - 1)


def _fold_seconds(tuner: Any, task: Task, kept: np.ndarray, left: float) -> float:
    """Predict what it takes to fine-tune on the rows of a fold, by an epoch of a few rows.

    Infinity where that would take more than is ``left``: to measure takes time, too.
    """
    spent: list[float] = []
    # The first two times bring images to the cut.
    for n_rows, epochs in (
        (_TIMED_ROWS // 4, 1),
        *((_TIMED_ROWS, each) for each in (1, 1, 1 + _TIMED_EPOCHS)),
    ):
        part = _few(task.y, kept, n_rows)
        begun = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what so few rows lack
            _fitted(clone(tuner).set_params(max_epochs=epochs), task, part, 0)
        spent.append(time.perf_counter() - begun)
        # The first one may take longer than all others.
        next_one = spent[-1] if len(spent) == 1 else _CAUTION * _FEWEST_FOLDS * spent[-1]
        if next_one > left - sum(spent):
            return float("inf")
    n_train = len(kept) * (1 - 1 / (task.fold.max() + 1))
    row = max(0.0, spent[3] - spent[2]) / (_TIMED_EPOCHS * len(part))
    return spent[2] + row * (tuner.max_epochs * n_train + len(kept))


def _few(y: np.ndarray, kept: np.ndarray, n: int) -> np.ndarray:
    """Return about ``n`` rows with all classes, or with and without each of several findings."""
    if y.ndim == 1:
        return kept[stratified_part(y[kept], n)]
    first = [np.flatnonzero(each == value)[:1] for each in y[kept].T for value in (0, 1)]
    some = np.unique(np.concatenate(first))
    others = np.setdiff1d(np.arange(len(kept)), some)
    return kept[np.union1d(some, others[: max(0, n - len(some))])]


def _fitted(tuner: Any, task: Task, rows: np.ndarray, seed: int) -> Any:
    groups = None if task.groups is None else task.unit[rows]
    return (
        clone(tuner)
        .set_params(random_state=seed)
        .fit(take_rows(task.X, rows), task.target.as_given(task.y[rows]), task.weight[rows], groups)
    )
