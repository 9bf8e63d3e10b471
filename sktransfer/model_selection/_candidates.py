"""Candidates of a search: what each fine-tunes, on which images, over which folds.

It must not know what anything costs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import ParameterGrid, check_cv
from sklearn.pipeline import Pipeline

from sktransfer._finetune import FineTuneClassifier, Trial
from sktransfer._frozen import NetworkInfo
from sktransfer._images import ImageSource
from sktransfer.exceptions import ImageDecodeError

# Parameters that change neither the seconds of a step nor what runs through the frozen part.
_FREE = frozenset(
    {
        *("lr", "head_lr", "lr_schedule", "lr_final", "warmup_epochs", "layer_decay"),
        *("weight_decay", "max_epochs", "early_stopping", "restore_best"),
        *("class_weight", "validation_fraction", "train_split", "checkpoint_dir", "callbacks"),
        *("checkpoint_every", "verbose", "memory_budget", "disk_budget", "head_C", "warm_start"),
    }
)


@dataclass
class Candidate:
    """One combination of parameters, ready to be measured.

    Parameters
    ----------
    params : dict
        As the grid has them.
    trial : Trial
    images : ImageSource
    kind : str
        The same for candidates whose pieces take the same time.
    """

    params: dict[str, Any]
    trial: Trial
    images: ImageSource
    kind: str


def candidates(
    estimator: Any, param_grid: Any, X: Any, y: Any, classes: np.ndarray
) -> Iterator[Candidate]:
    """Those of a grid, in the order in which GridSearchCV fits them."""
    prepared: dict[str, Any] = {}
    read: dict[str, ImageSource] = {}
    known: dict[str, Trial] = {}
    for params in ParameterGrid(param_grid):
        model = clone(estimator).set_params(**{k: clone(v, safe=False) for k, v in params.items()})
        steps, last = _parts(model)
        before = repr(steps)
        if before not in prepared:
            prepared[before] = X if steps is None else steps.fit_transform(X, y)
        telling = {k: v for k, v in last.get_params().items() if k not in _FREE}
        network = last.backbone
        network = network if isinstance(network, (str, os.PathLike)) else id(network)
        kind = repr((before, network, sorted(telling.items(), key=lambda item: item[0])))
        if kind in known:
            trial = known[kind].like(last)
        else:
            trial = known[kind] = Trial.of(last, classes)
        form = repr((before, last.image_shape, last.value_range, last.dicom))
        if form not in read:
            read[form] = trial.read(prepared[before])
        yield Candidate(params, trial, read[form], kind)


def check_estimator_is_known(estimator: Any) -> None:
    """Raise TypeError for what is neither a FineTuneClassifier nor a Pipeline that ends in one."""
    _parts(estimator)


def depth_parameter(estimator: Any) -> str:
    """What ``freeze_depth`` is called in a grid over ``estimator``."""
    check_estimator_is_known(estimator)
    if isinstance(estimator, Pipeline):
        return f"{estimator.steps[-1][0]}__freeze_depth"
    return "freeze_depth"


def network_of(estimator: Any) -> NetworkInfo:
    """What is known of the network that is fine-tuned."""
    _, last = _parts(clone(estimator))
    return Trial.of(last.set_params(freeze_depth="all"), np.arange(2)).prefix.info


def _parts(model: Any) -> tuple[Pipeline | None, FineTuneClassifier]:
    """What comes before the FineTuneClassifier, and it."""
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


def folds_of(cv: Any, n: int, y: Any, groups: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows of the training and test parts.

    Raises
    ------
    ValueError
        If ``cv`` needs labels or groups that were not given.
    """
    try:
        splitter = check_cv(cv, y, classifier=y is not None)
        parts = splitter.split(np.zeros(n), y, groups)
        folds = [(_rows(train, n), _rows(test, n)) for train, test in parts]
    except (TypeError, ValueError) as error:
        if groups is None and "groups" in str(error):
            lacking = "groups"
        elif y is None:
            lacking = "y"
        else:
            raise
        raise ValueError(
            f"cv={cv!r} could not divide {n} rows without {lacking}: {error} Pass {lacking}= as to "
            "the search's fit."
        ) from error
    if not folds:
        raise ValueError(f"cv={cv!r} gives no folds (an iterator gives them once).")
    return folds


def _rows(part: Any, n: int) -> np.ndarray:
    part = np.asarray(part)
    return np.flatnonzero(part) if part.dtype == bool and len(part) == n else part


def n_rows(X: Any) -> int:
    """Rows of a collection of images."""
    if isinstance(X, (str, bytes)) or not (hasattr(X, "__len__") or hasattr(X, "shape")):
        raise TypeError(f"X has to be a collection of images, one per row; got {type(X).__name__}.")
    return X.shape[0] if hasattr(X, "shape") else len(X)


def codes_of(y: Any, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Classes and codes of labels; two classes in turn where there are no labels."""
    if y is None:
        return np.arange(2), np.arange(n) % 2
    y = np.asarray(y)
    if len(y) != n:
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: X has {n} rows, y has "
            f"{len(y)}."
        )
    return np.unique(y, return_inverse=True)


def readable(images: ImageSource, n: int) -> list[int]:
    """Up to ``n`` rows that can be decoded, from all over.

    Raises
    ------
    ImageDecodeError
        If there is none.
    """
    step = max(1, len(images) // n)
    order = sorted(range(len(images)), key=lambda row: (row % step, row))
    found: list[int] = []
    failure: ImageDecodeError | None = None
    for row in order:
        try:
            images.open(row).decode()
        except ImageDecodeError as error:
            failure = error
            continue
        found.append(row)
        if len(found) == n:
            break
    if not found:
        assert failure is not None
        raise failure
    return found


def check_grid(param_grid: Any) -> None:
    """Raise TypeError for what is no grid, ValueError for an empty one, with scikit-learn's own
    words where it has any.
    """
    if not isinstance(param_grid, (Mapping, list, tuple)):
        raise TypeError(
            "param_grid is a dict of lists, or a list of such dicts, as GridSearchCV takes it; "
            f"got {param_grid!r} of type {type(param_grid).__name__}."
        )
    if not len(ParameterGrid(param_grid)):
        raise ValueError(
            f"param_grid={param_grid!r} has no candidates; {{}} is the estimator as it is."
        )
