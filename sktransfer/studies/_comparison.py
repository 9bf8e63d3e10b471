"""compare_backbones: networks times strategies on one task, with intervals; it must not know how a
network is cut, nor how a score's interval is drawn.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d
from torch import Tensor

from sktransfer._backbones import describe_backbone
from sktransfer._base import seed_from
from sktransfer._extractor import PretrainedFeatureExtractor
from sktransfer._finetune import FineTuneClassifier
from sktransfer._image_rows import backbone_of, count_rows, rows_of, run_images, take_rows
from sktransfer._utils.resampling import middle, resamples, score_held_out
from sktransfer._utils.splitting import read_groups, stratified_folds
from sktransfer.exceptions import FailedRowsWarning, UnknownBackboneError
from sktransfer.studies._journal import Journal
from sktransfer.studies._trials import check_choices

BACKBONES = ("vgg19", "resnet50", "densenet121", "inception_v3")
STRATEGIES = ("extract", "finetune")
METRICS = ("accuracy", "roc_auc", "f1")
# Images that the speed of predictions is measured on.
_TIMED = 32


@dataclass(frozen=True)
class BackboneComparison:
    """Out-of-fold predictions of every network and strategy, and what follows from them.

    Attributes
    ----------
    table : DataFrame
        One row per network and strategy, best accuracy first: ``backbone``, ``strategy``; each of
        ``accuracy``, ``roc_auc``, ``f1`` with the ends of its interval (``accuracy_low``, ...);
        ``images_per_s``, predicted with nothing stored; ``fit_time_s`` and ``predict_time_s``, the
        median over folds, in which activations that are stored are not computed again;
        ``n_parameters``.
    probabilities : dict of (str, str) to ndarray of shape (n, n_classes)
        What each network and strategy says of every row when it was not trained on it.
    classes : ndarray
    y : ndarray of shape (n,)
        Of the images that could be read.
    groups : ndarray of shape (n,) or None
    """

    table: pd.DataFrame
    probabilities: dict[tuple[str, str], np.ndarray] = field(repr=False)
    classes: np.ndarray = field(repr=False)
    y: np.ndarray = field(repr=False)
    groups: np.ndarray | None = field(repr=False)
    n_resamples: int = 500
    random_state: int = 0

    def differences(self, metric: str = "roc_auc", to: tuple[str, str] | None = None) -> Any:
        """Differences to one network and strategy, on the same rows and the same resamples.

        Parameters
        ----------
        metric : {"accuracy", "roc_auc", "f1"}, default="roc_auc"
        to : tuple (backbone, strategy) or None, default=None
            None is the one with the best ``metric``.

        Returns
        -------
        DataFrame
            ``backbone``, ``strategy``, ``difference``, ``low``, ``high``: a 95 % interval that
            excludes 0 tells the two apart on this task.
        """
        check_choices("metric", [metric], METRICS)
        if to is None:
            best = self.table.sort_values(metric, ascending=False).iloc[0]
            to = (best["backbone"], best["strategy"])
        if to not in self.probabilities:
            raise ValueError(
                f"There is no {to!r}; there are: {', '.join(map(str, self.probabilities))}."
            )
        draws = self._draws()
        reference = _values(metric, self._codes, self.probabilities[to], draws)
        records = []
        for (backbone, strategy), own in self.probabilities.items():
            if (backbone, strategy) == to:
                continue
            gap = _values(metric, self._codes, own, draws) - reference
            low, high = middle(gap[1:])
            records.append((backbone, strategy, gap[0], low, high))
        columns = ["backbone", "strategy", "difference", "low", "high"]
        found = pd.DataFrame(records, columns=columns)
        return found.sort_values("difference", ascending=False).reset_index(drop=True)

    @property
    def _codes(self) -> np.ndarray:
        return np.searchsorted(self.classes, self.y)

    def _draws(self) -> list[np.ndarray]:
        """All rows, then resamples of them; of groups, where there are any."""
        state = np.random.RandomState(self.random_state)
        ids = None if self.groups is None else np.unique(self.groups, return_inverse=True)[1]
        n = len(self.y)
        return [np.arange(n), *resamples(n, ids, self.n_resamples, state)]


def compare_backbones(
    X: Any,
    y: ArrayLike,
    *,
    backbones: Any = BACKBONES,
    strategies: Sequence[str] = STRATEGIES,
    groups: ArrayLike | None = None,
    cv: int = 5,
    extractor: PretrainedFeatureExtractor | None = None,
    classifier: Any = None,
    finetune: FineTuneClassifier | None = None,
    path: Any = None,
    n_resamples: int = 500,
    random_state: int | np.random.RandomState | None = 0,
    verbose: int = 0,
) -> BackboneComparison:
    """Compare networks as frozen extractors and fine-tuned, on the same folds.

    Parameters
    ----------
    X : array-like, DataFrame, Series or sequence of images, n rows
        In any of the :ref:`accepted forms <accepted-inputs>`. Where an estimator says
        ``on_error="nan"``, those that cannot be read are left out of everything, with a warning.
    y : array-like of shape (n,)
        Labels.
    backbones : sequence or mapping, default=("vgg19", "resnet50", "densenet121", "inception_v3")
        Names; or a mapping from names in the table to a backbone or to a dict of the parameters
        ``backbone``, ``weights`` and any others that both kinds of estimator have.
    strategies : sequence of {"extract", "finetune"}, default=both
    groups : array-like of shape (n,) or None, default=None
        Patients, say: not divided between folds, and resampled whole.
    cv : int, default=5
        Stratified folds.
    extractor : PretrainedFeatureExtractor or None, default=None
        Of "extract", the network apart.
    classifier : estimator or None, default=None
        What stands on the embeddings, with ``predict_proba``. None: a StandardScaler and a
        logistic regression.
    finetune : FineTuneClassifier or None, default=None
        Of "finetune", the network apart. None: its defaults.
    path : path-like or None, default=None
        Where every fold's predictions are kept as soon as they are there. A call that was ended
        goes on from there, and one with more networks computes only those. Other images, labels,
        folds or parameters are another comparison; with a parameter that cannot be told from
        another one (a function without a ``fingerprint``) nothing is kept, and a warning says so.
    n_resamples : int, default=500
        Of rows (groups), for the intervals.
    random_state : int, RandomState instance or None, default=0
    verbose : int, default=0
        1 prints a line per fold.

    Returns
    -------
    BackboneComparison
        With ``table`` and ``differences()``.

    Notes
    -----
    Intervals are of the resampled test rows, given the trainings; differences are of the same rows
    and resamples, which tells networks apart that the single intervals do not. With more than two
    classes the area is one class against the rest and F1 is of each class, averaged; with two, F1
    is of the second class.

    Examples
    --------
    Random weights, so that nothing has to be downloaded.

    >>> from sktransfer import PretrainedFeatureExtractor
    >>> from sktransfer.datasets import load_digit_screening
    >>> from sktransfer.studies import compare_backbones
    >>> digits = load_digit_screening()
    >>> found = compare_backbones(
    ...     digits.data[:80], digits.target[:80], cv=2, strategies=["extract"],
    ...     backbones={"a": {"backbone": "squeezenet1_1", "weights": None}},
    ...     extractor=PretrainedFeatureExtractor(image_size=32, value_range=digits.value_range),
    ... )
    >>> found.table[["backbone", "strategy"]].values.tolist()
    [['a', 'extract']]
    """
    chosen = check_choices("strategies", strategies, STRATEGIES)
    labels = column_or_1d(y)
    ids = None if groups is None else read_groups(groups)
    seed = seed_from(random_state)
    _classes(labels)
    named = _named(backbones)
    cases = {
        (name, strategy): _estimator(strategy, params, extractor, classifier, finetune, seed)
        for name, params in named.items()
        for strategy in chosen
    }
    reader = _reader(next(iter(cases.values())))
    n = count_rows(reader, X)
    if n != len(labels) or (ids is not None and n != len(ids)):
        raise ValueError(f"X has {n} rows; y, and groups if given, must have as many.")
    if any(_reader(each).on_error == "nan" for each in cases.values()):
        kept = _readable(reader, X, n)
        X, labels = take_rows(X, kept), labels[kept]
        ids = None if ids is None else ids[kept]
        n = len(kept)
    classes, codes = _classes(labels)
    folds = list(_folds(cv, codes, ids, seed))
    for train, _ in folds:
        missing = np.setdiff1d(classes, labels[train]).tolist()
        if missing:
            raise ValueError(
                f"A fold would train on no row of {missing!r}: too few of them, or all of one "
                "group. Use other folds (cv), or leave the class out."
            )
    journal = None
    if path is not None:
        journal = Journal(Path(path), reader._image_source(X, reset=True), labels)
    probabilities: dict[tuple[str, str], np.ndarray] = {}
    records = []
    for (name, strategy), estimator in cases.items():
        out = np.zeros((n, len(classes)))
        times: list[tuple[float, float]] = []
        speed = float("nan")
        for number, (train, test) in enumerate(folds):
            run = _fold_of(estimator, X, labels, train, test, timed=number == 0)
            record = run() if journal is None else journal.recall(estimator, train, test, run)
            out[test] = record["probabilities"]
            times.append((record["fit_time_s"], record["predict_time_s"]))
            speed = record.get("images_per_s", speed)
            if verbose:
                print(f"{name}, {strategy}, fold {number + 1} of {cv}: {times[-1][0]:.1f} s")
        probabilities[name, strategy] = out
        records.append(
            {
                "backbone": name,
                "strategy": strategy,
                "images_per_s": speed,
                "fit_time_s": float(np.median([each[0] for each in times])),
                "predict_time_s": float(np.median([each[1] for each in times])),
                "n_parameters": _n_parameters(named[name]["backbone"]),
            }
        )
    found = BackboneComparison(
        pd.DataFrame(records), probabilities, classes, labels, ids, n_resamples, seed
    )
    return BackboneComparison(
        _with_scores(found), probabilities, classes, labels, ids, n_resamples, seed
    )


def _named(backbones: Any) -> dict[str, dict[str, Any]]:
    """Parameters of each network by its name in the table."""
    if isinstance(backbones, str):
        backbones = [backbones]
    if not isinstance(backbones, Mapping):
        backbones = {str(each): each for each in backbones}
    if not backbones:
        raise ValueError("backbones is empty; name at least one network.")
    return {
        str(name): {"backbone": name, **each} if isinstance(each, Mapping) else {"backbone": each}
        for name, each in backbones.items()
    }


def _estimator(
    strategy: str,
    params: dict[str, Any],
    extractor: PretrainedFeatureExtractor | None,
    classifier: Any,
    finetune: FineTuneClassifier | None,
    seed: int,
) -> Any:
    if strategy == "finetune":
        own = FineTuneClassifier() if finetune is None else clone(finetune)
        own.set_params(**params)
        return own.set_params(random_state=seed) if own.random_state is None else own
    features = PretrainedFeatureExtractor() if extractor is None else clone(extractor)
    if classifier is None:
        head: Any = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    elif not hasattr(classifier, "predict_proba"):
        raise ValueError(f"classifier needs predict_proba, for the ROC curve; got {classifier!r}.")
    else:
        head = clone(classifier)
    return Pipeline([("features", features.set_params(**params)), ("classify", head)])


def _classes(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    check_classification_targets(y)
    classes, codes = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"y holds one class only, {classes.tolist()!r}: nothing to tell apart.")
    return classes, codes


def _reader(estimator: Any) -> Any:
    """The one of a pipeline that reads images."""
    return estimator[0] if isinstance(estimator, Pipeline) else estimator


def _readable(reader: Any, X: Any, n: int) -> np.ndarray:
    """Rows that can be read, for an estimator that would go on without the others."""

    def nothing(batch: Tensor) -> np.ndarray:
        return np.zeros((len(batch), 1), dtype=np.float32)

    lenient = clone(reader).set_params(on_error="nan")
    _, failures = run_images(lenient, X, backbone_of(reader).input_spec, nothing, 1)
    if failures:
        warnings.warn(
            f"{len(failures)} of {n} rows could not be read and were left out. The first: "
            f"{failures[0]}",
            FailedRowsWarning,
            stacklevel=3,
        )
    return np.setdiff1d(np.arange(n), [failure.index for failure in failures])


def _folds(cv: int, codes: np.ndarray, groups: np.ndarray | None, seed: int) -> Any:
    folds = stratified_folds(cv, grouped=groups is not None, random_state=seed)
    return folds.split(np.zeros(len(codes)), codes, groups)


def _fold_of(
    estimator: Any, X: Any, y: np.ndarray, train: np.ndarray, test: np.ndarray, *, timed: bool
) -> Callable[[], dict[str, Any]]:
    def run() -> dict[str, Any]:
        start = time.perf_counter()
        with rows_of(train):
            fitted = clone(estimator).fit(take_rows(X, train), y[train])
        trained = time.perf_counter()
        with rows_of(test):
            probabilities = np.asarray(fitted.predict_proba(take_rows(X, test)), dtype=np.float64)
        predicted = time.perf_counter()
        record = {
            "probabilities": probabilities,
            "fit_time_s": trained - start,
            "predict_time_s": predicted - trained,
        }
        if timed:
            record["images_per_s"] = _images_per_s(fitted, take_rows(X, test[:_TIMED]))
        return record

    return run


def _images_per_s(fitted: Any, X: Any) -> float:
    """Speed of predictions for images that nothing is stored of."""
    _reader(fitted).set_params(cache=None)
    fitted.predict_proba(take_rows(X, np.arange(1)))  # resolves the engine
    start = time.perf_counter()
    n = len(fitted.predict_proba(X))
    return n / (time.perf_counter() - start)


def _with_scores(found: BackboneComparison) -> pd.DataFrame:
    draws = found._draws()
    scores: dict[str, list[float]] = {}
    for case in found.probabilities.values():
        for metric in METRICS:
            values = _values(metric, found._codes, case, draws)
            low, high = middle(values[1:])
            for name, value in ((metric, values[0]), ("low", low), ("high", high)):
                column = name if name == metric else f"{metric}_{name}"
                scores.setdefault(column, []).append(float(value))
    table = found.table
    columns = [table[["backbone", "strategy"]], pd.DataFrame(scores), table.iloc[:, 2:]]
    placed = pd.concat(columns, axis=1).sort_values("accuracy", ascending=False, kind="stable")
    return placed.reset_index(drop=True)


def _values(
    metric: str, codes: np.ndarray, probabilities: np.ndarray, draws: list[np.ndarray]
) -> np.ndarray:
    """The metric on each of the draws; NaN for an area where a class was not drawn."""
    return np.array([score_held_out(codes[rows], probabilities[rows], metric) for rows in draws])


def _n_parameters(backbone: Any) -> int | None:
    """Of the network without its classifier; None for one that is not in the catalog."""
    try:
        return int(describe_backbone(backbone)["n_parameters"].sum())
    except (UnknownBackboneError, TypeError, AttributeError):
        return None
