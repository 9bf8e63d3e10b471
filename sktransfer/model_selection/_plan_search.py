"""plan_search: what a grid over fine-tuning will cost, before it is run.

It must not know how a fit goes; its pieces are measured in ``_finetune``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from sktransfer._finetune import Bill, Costs, fit_bill, measure, predict_bill
from sktransfer._frozen import store_for
from sktransfer.model_selection._candidates import (
    Candidate,
    candidates,
    check_estimator_is_known,
    check_grid,
    codes_of,
    folds_of,
    n_rows,
    readable,
)
from sktransfer.model_selection._search_plan import SearchPlan
from sktransfer.model_selection._sharing import Digests, Sharing
from sktransfer.model_selection._store_model import StoreModel

# Images that costs are measured on.
_HANDFUL = 12


def plan_search(
    estimator: Any,
    param_grid: Any,
    X: Any,
    cv: Any = None,
    *,
    y: Any = None,
    groups: Any = None,
    refit: bool = True,
) -> SearchPlan:
    """Tell what a grid search over fine-tuning will cost, before it is run.

    A dozen images are decoded, run through the frozen part at every cut, trained on and
    predicted, which takes seconds; every image is read once, not decoded, to know which are
    distinct and which are in the store already. Estimates are of one process on a machine that
    does nothing else. Nothing is left behind: not in the estimator, the store, or global random
    states.

    Parameters
    ----------
    estimator : FineTuneClassifier or Pipeline
        A Pipeline ends in a FineTuneClassifier; its other steps are fitted on all of ``X``.
        Samplers of imbalanced-learn are left out: rows count as they are given.
    param_grid : dict or list of dict
        As for :class:`~sklearn.model_selection.GridSearchCV`.
    X : collection of images
        In any of the :ref:`accepted forms <accepted-inputs>`.
    cv : int, splitter, iterable or None, default=None
        As for :class:`~sklearn.model_selection.GridSearchCV`. None: five folds.
    y : array-like of shape (n,) or None, default=None
        Labels; None: two classes are assumed, and folds do not look at them.
    groups : array-like of shape (n,) or None, default=None
        For splitters that need them.
    refit : bool, default=True
        Whether the search fits once more on all rows.

    Returns
    -------
    SearchPlan
        Its ``table`` has a row per candidate; printing it shows the table and the totals;
        ``prefetch()`` runs the frozen part for all candidates at once.

    Raises
    ------
    TypeError
        If ``estimator`` is neither of the two, or ``param_grid`` is no grid.
    ValueError
        If a candidate's parameters make no sense, or ``cv`` needs ``y`` or ``groups``.

    See Also
    --------
    freeze_depth_curve : Scores over freeze depth.

    Notes
    -----
    Early stopping is not foreseen: epochs are counted as ``max_epochs``. With worker processes
    (``n_jobs=2`` in the search) divide by what they bring on your machine.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sktransfer import FineTuneClassifier
    >>> from sktransfer.model_selection import plan_search
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = FineTuneClassifier(
    ...     "squeezenet1_1", weights=None, image_size=32, value_range=(0, 16), random_state=0,
    ... )
    >>> plan = plan_search(clf, {"freeze_depth": ["all", -1]}, X[:90], cv=3, y=y[:90])
    >>> plan.table[["freeze_depth", "n_images", "kept_in"]]
      freeze_depth  n_images kept_in
    0          all        90  memory
    1           -1        90  memory
    >>> plan.prefetch().total_seconds > 0
    True
    """
    check_estimator_is_known(estimator)
    check_grid(param_grid)
    n = n_rows(X)
    classes, codes = codes_of(y, n)
    folds = folds_of(cv, n, y, groups)
    survey = _Survey(codes, folds)
    for candidate in candidates(estimator, param_grid, X, y, classes):
        survey.take(candidate, refit=refit)
    return survey.plan()


class _Survey:
    """Walks through a search, candidate by candidate and fold by fold, as the search would."""

    def __init__(self, codes: np.ndarray, folds: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
        self.codes = codes
        self.folds = folds
        self.everything = np.arange(len(codes))
        self.rows: list[dict[str, Any]] = []
        self.refits: list[float] = []
        self.memory_needed = 0
        self.memory_budget = sys.maxsize
        self._measured: dict[str, Costs] = {}
        self._stores: dict[str, StoreModel] = {}
        self._sharing = Sharing()

    def take(self, candidate: Candidate, *, refit: bool) -> None:
        """Add a candidate."""
        trial = candidate.trial
        costs = self._costs(candidate)
        digests = self._sharing.add(trial, candidate.images)
        bills: list[Bill] = []
        n_new = n_stored = 0
        for train, test in self.folds:
            new_train = self._ask(candidate, digests, train, training=True)
            new_test = self._ask(candidate, digests, test, training=False)
            n_new += new_train + new_test
            for new, rows, views in ((new_train, train, trial.n_views), (new_test, test, 0)):
                lasts = self._store(candidate, len(rows) * (1 + views)).max_bytes > 0
                n_stored += new if lasts and trial.fingerprint is not None else 0
            bills += [
                fit_bill(trial, costs, len(train), new_train),
                predict_bill(trial, costs, len(test), new_test),
            ]
        if refit:
            # Which one is best is not known: that a fit on all rows finds its images is.
            asked = digests.of_training(self.everything) if trial.frozen else []
            kept = self._store(candidate, len(asked)).max_bytes > 0 and trial.fingerprint
            last = fit_bill(trial, costs, len(self.codes), 0 if kept else len(set(asked)))
            self.refits.append(last.frozen + last.train)
        largest = max([*(len(train) for train, _ in self.folds), refit * len(self.codes)])
        if trial.frozen:
            needed = largest * (1 + trial.n_views) * trial.prefix.n_bytes
            self.memory_needed = max(self.memory_needed, needed)
        self.memory_budget = min(self.memory_budget, trial.memory_bytes)
        place = trial.place(largest * (1 + trial.n_views)).value if trial.frozen else "-"
        seconds = {
            f"seconds_{part}": sum(getattr(bill, part) for bill in bills)
            for part in ("frozen", "train", "predict")
        }
        self.rows.append(
            {
                **{name: _shown(value) for name, value in candidate.params.items()},
                "n_images": len(set(digests.of_training(self.everything))) if trial.frozen else 0,
                "n_new": n_new if trial.frozen else 0,
                "n_runs": sum(bill.n_runs for bill in bills),
                "n_bytes": n_stored * trial.prefix.n_bytes,
                "kept_in": place,
                **seconds,
                "seconds": sum(seconds.values()),
            }
        )

    def plan(self) -> SearchPlan:
        """What it all comes to."""
        holds = [model.max_bytes for model in self._stores.values()]
        return SearchPlan(
            table=pd.DataFrame(self.rows),
            refit_seconds=float(np.mean(self.refits)) if self.refits else 0.0,
            n_folds=len(self.folds),
            memory_needed=self.memory_needed,
            memory_budget=self.memory_budget,
            store_needed=self._sharing.n_bytes,
            store_bytes=min(holds, default=0),
            _sharing=self._sharing,
        )

    def _costs(self, candidate: Candidate) -> Costs:
        if candidate.kind not in self._measured:
            rows = readable(candidate.images, _HANDFUL)
            self._measured[candidate.kind] = measure(
                candidate.trial, candidate.images, self.codes, rows
            )
        return self._measured[candidate.kind]

    def _ask(
        self, candidate: Candidate, digests: Digests, rows: np.ndarray, *, training: bool
    ) -> int:
        trial = candidate.trial
        if not trial.frozen:
            return 0
        wanted = digests.of_training(rows) if training else digests.of(rows)
        model = self._store(candidate, len(rows) * (1 + trial.n_views * training))
        n_bytes = trial.prefix.n_bytes
        if not training or digests.views_last:
            return model.ask(trial.fingerprint, wanted, n_bytes)
        # Views that no other fit will ask for: all of them are new.
        plain = digests.of(rows)
        return model.ask(trial.fingerprint, plain, n_bytes) + len(set(wanted)) - len(set(plain))

    def _store(self, candidate: Candidate, n_rows: int) -> StoreModel:
        """The store that a run over so many rows uses."""
        cache = candidate.trial.clf.cache
        model = self._stores.setdefault(repr(cache), StoreModel(store_for(cache)))
        much = store_for(cache, n_rows * candidate.trial.prefix.n_bytes) is None
        return StoreModel(None) if much else model


def _shown(value: Any) -> Any:
    """A parameter as a table's cell."""
    return value if np.isscalar(value) or value is None else repr(value)
