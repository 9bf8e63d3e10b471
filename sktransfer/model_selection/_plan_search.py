"""plan_search: one pass over the images for all that a search over fine-tuning needs frozen."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.model_selection import ParameterGrid, ParameterSampler, check_cv
from sklearn.pipeline import Pipeline

from sktransfer._base import n_decoding_threads
from sktransfer._finetune import FineTuneClassifier, FrozenPart, as_size
from sktransfer._frozen import ROW_OVERHEAD, FrozenExtractor, store_for, store_together
from sktransfer._images import ImageSource
from sktransfer._utils.notebooks import card
from sktransfer._utils.sklearn_compat import _safe_indexing


def plan_search(search: Any, X: Any, y: Any = None, *, groups: Any = None) -> SearchPlan:
    """Plan a search over fine-tuning: bytes to keep, one pass for every cut, an estimated time.

    Nothing is run or trained until a method of the plan is called.

    Parameters
    ----------
    search : GridSearchCV, RandomizedSearchCV or their like
        An unfitted search with ``param_grid`` or ``param_distributions``. Its estimator is a
        :class:`~sktransfer.FineTuneClassifier` or a Pipeline that ends in one; the other steps of
        a Pipeline are fitted on all of ``X``, and samplers of imbalanced-learn are left out.
    X : collection of images
        In any of the :ref:`accepted forms <accepted-inputs>`.
    y : array-like of shape (n,), default=None
        Labels, as for the search's ``fit``; a plan that only calls ``prefetch`` needs none.
    groups : array-like of shape (n,), default=None
        Groups for a splitter that needs them.

    Returns
    -------
    plan : SearchPlan
        ``plan.cuts`` is a DataFrame with a row per cut and set of images that candidates share:
        ``stage``, the last frozen one (``"all"`` at the embedding), ``n_images``, kept views among
        them, and ``n_bytes`` of the store. ``plan.n_bytes`` is their sum, ``plan.n_candidates`` and
        ``plan.n_fits`` count what the search fits. ``plan.prefetch(progress=False)`` runs every
        distinct image once through the frozen stages for all cuts, and returns the plan.
        ``plan.estimate_seconds()`` fits and scores one candidate on one fold and returns the
        seconds that the whole search would take at that rate.

    Raises
    ------
    TypeError
        If ``search`` is no search, or its estimator is neither of the two.
    ValueError
        If a candidate's parameters are invalid.

    See Also
    --------
    freeze_depth_curve : Scores over freeze depth.

    Notes
    -----
    What the store has already is not run again, and an interrupted ``prefetch`` resumes where it
    was. Images that cannot be read are left to the search. Worker processes (``n_jobs=2`` in the
    search) find what was prefetched only if ``cache`` is a directory.

    The candidate that is timed is the one with the fewest frozen stages: it is the slowest of a
    search over freeze depth, so that the estimate is an upper bound there. Call ``prefetch`` first,
    or the pass over the images is part of the time of every fit. The estimate is of one process.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.model_selection import GridSearchCV
    >>> from sktransfer import FineTuneClassifier
    >>> from sktransfer.model_selection import plan_search
    >>> X, y = load_digits(return_X_y=True)
    >>> X, y = X[:90], y[:90]
    >>> clf = FineTuneClassifier(
    ...     "squeezenet1_1", weights=None, image_size=32, value_range=(0, 16), max_epochs=1,
    ...     random_state=0,
    ... )
    >>> search = GridSearchCV(clf, {"freeze_depth": ["all", -1]}, cv=3)
    >>> plan = plan_search(search, X, y)
    >>> plan.cuts
             stage  n_images  n_bytes
    0          all        90  1187640
    1  features.11        90   119160
    >>> plan.prefetch().estimate_seconds() > 0
    True
    """
    candidates = _candidates(search)
    split_model(search.estimator)
    return SearchPlan(search, candidates, X, y, groups)


class _Shared(NamedTuple):
    """Images to run through one network, and the cuts whose activations are stored."""

    clf: FineTuneClassifier
    images: ImageSource
    cuts: dict[tuple[bytes, ...], FrozenExtractor]


class SearchPlan:
    """What candidates of a search share; see :func:`plan_search`."""

    def __init__(
        self, search: Any, candidates: Iterable[dict[str, Any]], X: Any, y: Any, groups: Any
    ) -> None:
        self._search, self._X, self._y, self._groups = search, X, y, groups
        self._shared: dict[tuple, _Shared] = {}
        self._models: list[tuple[int, int, Any]] = []
        self.any_frozen = False
        images: dict[tuple, ImageSource] = {}
        prepared: dict[str, Any] = {}
        rows = []
        for params in candidates:
            model = clone(search.estimator)
            model.set_params(**{name: clone(each, safe=False) for name, each in params.items()})
            steps, clf = split_model(model)
            part = FrozenPart(clf)
            self._models.append((part.depth, -clf.max_epochs, model))
            self.any_frozen |= part.depth > 0
            frozen = part.extractor()
            fingerprint = None if frozen is None else frozen.fingerprints()
            if frozen is None or fingerprint is None:
                continue
            if repr(steps) not in prepared:
                prepared[repr(steps)] = X if steps is None else steps.fit_transform(X, y)
            form = (repr(steps), repr((clf.image_shape, clf.value_range, clf.dicom)))
            if form not in images:
                images[form] = part.images(prepared[repr(steps)])
            how = (frozen.precision, frozen.device, frozen.engine)
            where = (repr(clf.cache), frozen.info.reference, *how)
            n_images, n_bytes = 0, 0
            for name, source in part.sources(images[form]).items():
                key = (*form, *where, frozen.preprocessing.fingerprint, *name)
                shared = self._shared.setdefault(key, _Shared(clf, source, {}))
                if fingerprint not in shared.cuts:
                    stored = {each for cut in shared.cuts for each in cut}
                    shared.cuts[fingerprint] = frozen
                    n_images += len(source)
                    sizes = zip(fingerprint, frozen.widths, frozen.dtypes, strict=True)
                    new = [w * d.itemsize for each, w, d in sizes if each not in stored]
                    n_bytes += len(source) * sum(size + ROW_OVERHEAD for size in new)
            if n_images:
                stage = stage_at(part.depth, [stage.name for stage in part.info.stages])
                rows.append((stage, n_images, n_bytes))
        self.cuts = pd.DataFrame(rows, columns=["stage", "n_images", "n_bytes"])
        self.n_candidates = len(self._models)
        self.n_bytes = int(self.cuts["n_bytes"].sum())

    def __repr__(self) -> str:
        return f"SearchPlan(n_candidates={self.n_candidates}, n_bytes={self.n_bytes})"

    def _repr_html_(self) -> str:
        room = f", of {as_size(self.store_bytes)} that the store may hold" if self._shared else ""
        lines = [
            f"{self.n_candidates} candidates; {as_size(self.n_bytes)} of activations{room}.",
            "prefetch() runs every image once for all of them; estimate_seconds() times one.",
        ]
        return card(type(self).__name__, lines, {"Cuts that candidates share": self.cuts})

    @property
    def n_fits(self) -> int:
        """Fits of the search, its refit included."""
        n_folds = self._cv().get_n_splits(self._X, self._y, self._groups)
        return self.n_candidates * n_folds + bool(self._search.refit)

    @property
    def lasting(self) -> bool:
        """Whether other processes find what this one stores."""
        return all(isinstance(each.clf.cache, (str, os.PathLike)) for each in self._shared.values())

    @property
    def store_bytes(self) -> int:
        """Bytes that the smallest of the stores may hold."""
        stores = [store_for(each.clf.cache) for each in self._shared.values()]
        return min((0 if store is None else store.max_bytes for store in stores), default=0)

    def prefetch(self, *, progress: bool = False) -> SearchPlan:
        """Run every distinct image once through the frozen stages, for all cuts of the search.

        Parameters
        ----------
        progress : bool, default=False
            Whether to show a progress bar.

        Returns
        -------
        self : SearchPlan
            This plan.

        Raises
        ------
        ValueError
            If the store cannot hold what is run, or nothing of it can be stored.
        """
        if self.any_frozen and not self._shared:
            raise ValueError(
                "Nothing that the search runs can be stored for it: cache is False, preprocessing "
                "is a callable without a fingerprint, or weights are random and random_state is "
                "None. Set cache, give the callable a fingerprint, or set random_state."
            )
        if self._shared and self.n_bytes > self.store_bytes:
            raise ValueError(
                f"The search needs {as_size(self.n_bytes)} of activations, and the store may "
                f"hold {as_size(self.store_bytes)}: pass cache='a/directory' to the estimator, or "
                "raise SKTRANSFER_MEMORY_BYTES (memory) or SKTRANSFER_CACHE_BYTES (a directory) "
                "before sktransfer is imported."
            )
        for each in self._shared.values():
            store_together(
                list(each.cuts.values()),
                each.images,
                cache=each.clf.cache,
                n_threads=n_decoding_threads(each.clf.n_jobs),
                progress=progress,
            )
        return self

    def estimate_seconds(self) -> float:
        """Fit and score the slowest candidate on one fold, and multiply by the number of fits.

        Returns
        -------
        seconds : float
            Estimated seconds of the search in one process.
        """
        if self._y is None:
            raise ValueError("An estimate fits a candidate: give y to plan_search.")
        train, test = next(iter(self._cv().split(np.zeros(len(self._y)), self._y, self._groups)))
        slowest = min(self._models, key=lambda each: each[:2])[2]
        model = clone(slowest)
        _, clf = split_model(model)
        clf.set_params(verbose=0, callbacks=None, checkpoint__dir=None)
        start = time.perf_counter()
        model.fit(_safe_indexing(self._X, train), _safe_indexing(self._y, train))
        model.predict(_safe_indexing(self._X, test))
        return (time.perf_counter() - start) * self.n_fits

    def _cv(self) -> Any:
        if hasattr(self._search.cv, "__next__"):
            raise ValueError(
                "cv is an iterator, which gives its folds once: pass list(cv) to the search, so "
                "that the plan leaves them to it."
            )
        return check_cv(self._search.cv, self._y, classifier=True)


def _candidates(search: Any) -> Iterable[dict[str, Any]]:
    """Return the parameters of every candidate of a search, without running it."""
    if hasattr(search, "param_grid"):
        return ParameterGrid(search.param_grid)
    if hasattr(search, "param_distributions") and isinstance(search.random_state, int):
        n = getattr(search, "n_iter", None) or search.n_candidates
        return ParameterSampler(search.param_distributions, n, random_state=search.random_state)
    if hasattr(search, "param_distributions"):
        raise ValueError(
            f"The candidates of {type(search).__name__} are drawn again by its fit: set its "
            "random_state to a number, so that the plan sees the same ones."
        )
    raise TypeError(
        "plan_search needs a search with param_grid or param_distributions, such as GridSearchCV; "
        f"got {type(search).__name__}."
    )


def split_model(model: Any) -> tuple[Pipeline | None, FineTuneClassifier]:
    """Return what comes before the FineTuneClassifier, and it."""
    steps, last = None, model
    if isinstance(model, Pipeline):
        last = model.steps[-1][1]
        # imbalanced-learn's samplers are for training alone: they choose among the images.
        before = [
            (name, each)
            for name, each in model.steps[:-1]
            if each not in (None, "passthrough") and not hasattr(each, "fit_resample")
        ]
        steps = Pipeline(before, memory=model.memory) if before else None
    if not isinstance(last, FineTuneClassifier):
        raise TypeError(
            "A search over freeze depth needs a FineTuneClassifier, or a Pipeline whose last step "
            f"is one; got {type(model).__name__}"
            + (f" that ends in {type(last).__name__}." if last is not model else ".")
        )
    return steps, last


def stage_at(depth: int, names: list[str]) -> str:
    """Return the name of the last frozen stage: ``"all"`` for all of them, ``"-"`` for none."""
    if depth == len(names):
        return "all"
    return names[depth - 1] if depth else "-"
