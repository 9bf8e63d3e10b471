"""compare_backbones: networks times strategies on one task, with intervals."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from sktransfer._backbones import describe_backbone
from sktransfer._base import seed_from
from sktransfer._extractor import PretrainedFeatureExtractor
from sktransfer._finetune import FineTuneClassifier
from sktransfer._image_rows import backbone_of, rows_of, run_images, take_rows
from sktransfer._scoring.features import check_labels
from sktransfer._scoring.networks import (
    check_lengths,
    finetuner,
    named_networks,
    set_parameters,
)
from sktransfer._utils.identifiers import read_groups
from sktransfer._utils.notebooks import card
from sktransfer._utils.per_row import as_column
from sktransfer._utils.resampling import middle, resamples, score_held_out
from sktransfer._utils.splitting import stratified_folds
from sktransfer.exceptions import FailedRowsWarning, UnknownBackboneError
from sktransfer.metrics._labels import group_codes
from sktransfer.studies._fold_results import data_digest, recall
from sktransfer.studies._training import check_choices

BACKBONES = ("vgg19", "resnet50", "densenet121", "inception_v3")
STRATEGIES = ("extract", "finetune")
METRICS = ("accuracy", "roc_auc", "f1")
# Images that the speed of predictions is measured on.
_TIMED = 32


@dataclass(frozen=True)
class BackboneComparison:
    """Out-of-fold predictions of every network and strategy, and what follows from them.

    Parameters
    ----------
    table : DataFrame
        One row per network and strategy, best accuracy first: ``backbone``, ``strategy``; each of
        ``accuracy``, ``roc_auc``, ``f1`` with the ends of its interval (``accuracy_low``, ...);
        ``images_per_s``, predicted with nothing stored; ``fit_time_s`` and ``predict_time_s``, the
        median over folds, in which activations that are stored are not computed again;
        ``n_parameters``.
    probabilities : dict of (str, str) to ndarray of shape (n, n_classes)
        Out-of-fold probabilities of each network and strategy.
    classes : ndarray
        The class labels, sorted.
    y : ndarray of shape (n,)
        Labels of the images that could be read.
    groups : ndarray of shape (n,) or None
        Their groups.
    n_resamples : int, default=500
        Resamples for intervals.
    random_state : int, default=0
        Seed of the resamples.

    See Also
    --------
    compare_backbones : Compare networks on the same folds.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> from sktransfer.studies import BackboneComparison
    >>> y = np.tile([0, 1], 20)
    >>> probabilities = {
    ...     ("a", "extract"): np.where(y[:, None] == [0, 1], 0.9, 0.1),
    ...     ("b", "extract"): np.full((40, 2), 0.5),
    ... }
    >>> table = pd.DataFrame({"backbone": ["a", "b"], "strategy": "extract", "roc_auc": [1.0, 0.5]})
    >>> found = BackboneComparison(table, probabilities, np.array([0, 1]), y, groups=None)
    >>> found.differences("roc_auc")
      backbone strategy  difference  low  high
    0        b  extract        -0.5 -0.5  -0.5
    """

    table: pd.DataFrame
    probabilities: dict[tuple[str, str], np.ndarray] = field(repr=False)
    classes: np.ndarray = field(repr=False)
    y: np.ndarray = field(repr=False)
    groups: np.ndarray | None = field(repr=False)
    n_resamples: int = 500
    random_state: int = 0

    def differences(self, metric: str = "roc_auc", to: tuple[str, str] | None = None) -> Any:
        """Compute differences to one network and strategy on the same rows and resamples.

        Parameters
        ----------
        metric : {"accuracy", "roc_auc", "f1"}, default="roc_auc"
            Metric that is compared.
        to : tuple (backbone, strategy) or None, default=None
            Network and strategy that the others are compared with. None: those with the best
            ``metric``.

        Returns
        -------
        differences : DataFrame
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

    def _repr_html_(self) -> str:
        lines = [f"{len(self.y)} images, out of fold; differences() tells networks apart."]
        return card(type(self).__name__, lines, {"Best accuracy first": self.table})

    @property
    def _codes(self) -> np.ndarray:
        return np.searchsorted(self.classes, self.y)

    def _draws(self) -> list[np.ndarray]:
        """Return all rows, then resamples of them; of groups, where there are any."""
        state = np.random.RandomState(self.random_state)
        ids = group_codes(self.groups, len(self.y))
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
    backbones : network, sequence of networks, or mapping of names to networks, default=("vgg19", \
            "resnet50", "densenet121", "inception_v3")
        A network is a name (:func:`sktransfer.list_backbones`), a saved file, a fitted
        :class:`~sktransfer.FineTuneClassifier`, or a
        :class:`~sktransfer.PretrainedFeatureExtractor` for other weights and ways to read images:
        what it sets counts before ``extractor`` and ``finetune``. The keys of a mapping are the
        names in the table.
    strategies : sequence of {"extract", "finetune"}, default=("extract", "finetune")
        Whether networks are frozen extractors or fine-tuned.
    groups : array-like of shape (n,) or None, default=None
        Groups, such as patients, that are not divided between folds, and resampled whole.
    cv : int, default=5
        Number of stratified folds.
    extractor : PretrainedFeatureExtractor or None, default=None
        How images are read and embedded for "extract"; its network is replaced.
    classifier : estimator or None, default=None
        Classifier of the embeddings, with ``predict_proba``. None: a StandardScaler and a logistic
        regression.
    finetune : FineTuneClassifier or None, default=None
        How networks are trained for "finetune"; its network is replaced. None: its defaults.
    path : path-like or None, default=None
        Directory that keeps every fold's predictions as soon as they are computed. A call that was
        interrupted is resumed, and one with more networks computes only those. Other images,
        labels, folds or parameters are another comparison; with a parameter that cannot be
        compared (a function without a ``fingerprint``) nothing is kept, and a warning says so.
    n_resamples : int, default=500
        Resamples of rows (groups), for the intervals.
    random_state : int, RandomState instance or None, default=0
        Seed of folds, trainings and resamples.
    verbose : int, default=0
        1 prints a line per fold.

    Returns
    -------
    comparison : BackboneComparison
        The result, with ``table`` and ``differences()``.

    See Also
    --------
    sktransfer.model_selection.rank_backbones : Rank networks by one pass over the images.

    Notes
    -----
    Intervals come from resampled test rows, given the trainings; differences are computed on the
    same rows and resamples, which tells networks apart that the single intervals do not. With more
    than two classes, the area of one class against the rest and F1 of each class are averaged; with
    two, F1 is of the second class.

    Examples
    --------
    Random weights, so that nothing has to be downloaded.

    >>> from sktransfer import PretrainedFeatureExtractor
    >>> from sktransfer.datasets import load_digit_screening
    >>> from sktransfer.studies import compare_backbones
    >>> digits = load_digit_screening()
    >>> found = compare_backbones(
    ...     digits.data[:80], digits.target[:80], cv=2, strategies=["extract"],
    ...     backbones={"a": PretrainedFeatureExtractor("squeezenet1_1", weights=None)},
    ...     extractor=PretrainedFeatureExtractor(image_size=32, value_range=digits.value_range),
    ... )
    >>> found.table[["backbone", "strategy"]].values.tolist()
    [['a', 'extract']]
    """
    chosen = check_choices("strategies", strategies, STRATEGIES)
    labels = check_labels(y)
    given = None if groups is None else as_column(groups).ravel()
    ids = None if groups is None else read_groups(groups)
    seed = seed_from(random_state)
    named = named_networks(backbones)
    cases = {
        (name, strategy): _estimator(strategy, network, extractor, classifier, finetune, seed)
        for name, network in named.items()
        for strategy in chosen
    }
    reader = _reader(next(iter(cases.values())))
    n = check_lengths(reader, X, labels, ids)
    if any(_reader(each).on_error == "nan" for each in cases.values()):
        kept = _readable(reader, X, n)
        X, labels = take_rows(X, kept), labels[kept]
        ids, given = (None if each is None else each[kept] for each in (ids, given))
    classes = np.unique(check_labels(labels))
    folds = _folds(cv, labels, ids, seed)
    data = b""
    if path is not None:
        Path(path).mkdir(parents=True, exist_ok=True)
        data = data_digest(reader._image_source(X, reset=True), labels)
    probabilities: dict[tuple[str, str], np.ndarray] = {}
    records = []
    for (name, strategy), estimator in cases.items():
        probabilities[name, strategy] = np.zeros((len(labels), len(classes)))
        done = []
        for number, (train, test) in enumerate(folds):
            run = partial(_run_fold, estimator, X, labels, train, test, timed=number == 0)
            done.append(
                run() if path is None else recall(Path(path), data, estimator, train, test, run)
            )
            probabilities[name, strategy][test] = done[-1].pop("probabilities")
            if verbose:
                seconds = done[-1]["fit_time_s"]
                print(f"{name}, {strategy}, fold {number + 1} of {cv}: {seconds:.1f} s")
        times = pd.DataFrame(done, columns=["images_per_s", "fit_time_s", "predict_time_s"])
        n_parameters = _n_parameters(named[name].backbone)
        records.append((name, strategy, *times.median(), n_parameters))
    columns = ["backbone", "strategy", *times, "n_parameters"]
    table = pd.DataFrame(records, columns=columns)
    found = BackboneComparison(table, probabilities, classes, labels, given, n_resamples, seed)
    return replace(found, table=_with_scores(found))


def _estimator(
    strategy: str,
    network: PretrainedFeatureExtractor,
    extractor: PretrainedFeatureExtractor | None,
    classifier: Any,
    finetune: FineTuneClassifier | None,
    seed: int,
) -> Any:
    """Return the estimator of a network and a strategy, not fitted."""
    if strategy == "finetune":
        own = finetuner(network, finetune)
        return own.set_params(random_state=seed) if own.random_state is None else own
    features = PretrainedFeatureExtractor() if extractor is None else clone(extractor)
    features.set_params(**set_parameters(network))
    if classifier is None:
        head: Any = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    elif not hasattr(classifier, "predict_proba"):
        raise ValueError(f"classifier needs predict_proba, for the ROC curve; got {classifier!r}.")
    else:
        head = clone(classifier)
    return Pipeline([("features", features), ("classify", head)])


def _reader(estimator: Any) -> Any:
    """Return the step that reads images."""
    return estimator[0] if isinstance(estimator, Pipeline) else estimator


def _readable(reader: Any, X: Any, n: int) -> np.ndarray:
    """Find the rows that can be read, for an estimator that skips the others."""

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


def _folds(cv: int, y: np.ndarray, groups: Any, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Divide rows into stratified folds, each of which trains on every class."""
    splitter = stratified_folds(cv, grouped=groups is not None, random_state=seed)
    folds = list(splitter.split(np.zeros(len(y)), y, groups))
    for train, _ in folds:
        missing = np.setdiff1d(y, y[train]).tolist()
        if missing:
            raise ValueError(
                f"A fold would train on no row of {missing!r}: too few of them, or all of one "
                "group. Use other folds (cv), or leave the class out."
            )
    return folds


def _run_fold(
    estimator: Any, X: Any, y: np.ndarray, train: np.ndarray, test: np.ndarray, *, timed: bool
) -> dict[str, Any]:
    """Fit and predict a fold; also the seconds, and the speed of predictions if ``timed``."""
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


def _images_per_s(fitted: Any, X: Any) -> float:
    """Measure the speed of predictions for images that are not in the store."""
    _reader(fitted).set_params(cache=None)
    fitted.predict_proba(take_rows(X, np.arange(1)))  # resolves the engine
    start = time.perf_counter()
    n = len(fitted.predict_proba(X))
    return n / (time.perf_counter() - start)


def _with_scores(found: BackboneComparison) -> pd.DataFrame:
    """Add scores with their intervals to the table, and sort it."""
    draws = found._draws()
    table = found.table.copy()
    for place, metric in enumerate(METRICS):
        cases = found.probabilities.values()
        values = np.array([_values(metric, found._codes, case, draws) for case in cases])
        low, high = zip(*(middle(each[1:]) for each in values), strict=True)
        columns = {metric: values[:, 0], f"{metric}_low": low, f"{metric}_high": high}
        for column, (name, each) in enumerate(columns.items()):
            table.insert(2 + 3 * place + column, name, each)
    return table.sort_values("accuracy", ascending=False, kind="stable", ignore_index=True)


def _values(
    metric: str, codes: np.ndarray, probabilities: np.ndarray, draws: list[np.ndarray]
) -> np.ndarray:
    """Compute the metric on each of the draws; NaN for an area where a class was not drawn."""
    return np.array([score_held_out(codes[rows], probabilities[rows], metric) for rows in draws])


def _n_parameters(backbone: Any) -> int | None:
    """Count parameters without the classifier; None for a network that is not in the catalog."""
    try:
        return int(describe_backbone(backbone)["n_parameters"].sum())
    except (UnknownBackboneError, TypeError, AttributeError):
        return None
