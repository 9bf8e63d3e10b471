"""freeze_depth_curve: scores and seconds over where a network is cut.

It must not know how a fit goes, nor how a curve is drawn.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from joblib import effective_n_jobs
from scipy import stats
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, check_cv
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from sktransfer._finetune import FrozenPart, resolve_freeze_depth
from sktransfer._frozen import NetworkInfo
from sktransfer.model_selection._plan_search import plan_search, split_model, stage_at


def freeze_depth_curve(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    depths: Sequence[Any] | None = None,
    cv: Any = None,
    scoring: Any = None,
    groups: Any = None,
    n_jobs: int | None = None,
    confidence_level: float = 0.95,
    verbose: int = 0,
) -> pd.DataFrame:
    """Scores over freeze depth, from the probe (everything frozen) to full training.

    Images are brought to all cuts in one pass, where the store has room for that and one process
    does the fits; then each depth is fitted and scored on every fold.

    Parameters
    ----------
    estimator : FineTuneClassifier or Pipeline
        A Pipeline ends in a FineTuneClassifier.
    X : collection of images
        In any of the :ref:`accepted forms <accepted-inputs>`.
    y : array-like of shape (n,)
        Labels.
    depths : sequence or None, default=None
        Values of ``freeze_depth``: numbers of stages, names of stages, ``"all"``. None: all of
        them, from ``"all"`` to 0.
    cv : int, splitter, iterable or None, default=None
        As for :class:`~sklearn.model_selection.GridSearchCV`. None: five folds.
    scoring : str, callable or None, default=None
        One metric. None: accuracy.
    groups : array-like of shape (n,) or None, default=None
        For splitters that need them.
    n_jobs : int or None, default=None
        Processes that fit.
    confidence_level : float, default=0.95
        Of the interval of the mean.
    verbose : int, default=0
        As for :class:`~sklearn.model_selection.GridSearchCV`.

    Returns
    -------
    DataFrame
        A row per depth, by rising ``depth`` (0 is full training, the number of stages the probe):
        ``depth``; ``stage``, the last frozen stage, ``"-"`` at 0 and ``"all"`` at the probe;
        ``split0_score``, ``split1_score``, ...; ``mean_score``; ``low`` and ``high``, the interval;
        ``seconds`` of all its fits and scores. ``attrs["shared_seconds"]`` holds those of the one
        pass over the images.

    Raises
    ------
    TypeError
        If ``estimator`` is neither of the two.
    ValueError
        If a depth makes no sense, or one is named twice.

    See Also
    --------
    sktransfer.model_selection.FreezeDepthDisplay : The curve as an image.
    plan_search : Prefetch for a search, and estimate its time.

    Notes
    -----
    Training parts of folds overlap, so that scores of folds are not independent: the interval is
    Student's with the correction of [1]_, which takes the variance of the mean for
    ``1 / n_folds + n_test / n_train`` times that of the scores. With one fold there is none.

    References
    ----------
    .. [1] Nadeau, C., & Bengio, Y. (2003). "Inference for the generalization error". Machine
       Learning, 52, 239-281.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sktransfer import FineTuneClassifier
    >>> from sktransfer.model_selection import freeze_depth_curve
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = FineTuneClassifier(
    ...     "resnet18", weights=None, image_size=32, value_range=(0, 16), max_epochs=1,
    ...     random_state=0,
    ... )
    >>> curve = freeze_depth_curve(clf, X[:60], y[:60], depths=["layer3", "all"], cv=2)
    >>> curve[["depth", "stage"]]
       depth   stage
    0      4  layer3
    1      5     all
    """
    name = _depth_parameter(estimator)
    if isinstance(scoring, (list, tuple, set, dict)):
        raise ValueError(f"A curve has one metric; got scoring={scoring!r}.")
    info = _network_of(estimator)
    values = [*range(len(info.stages), -1, -1)] if depths is None else list(depths)
    found = {_depth(value, info): value for value in values}
    if len(found) < len(values):
        raise ValueError(f"depths={depths!r} names the same cut twice.")
    folds = list(check_cv(cv, y, classifier=True).split(X, y, groups))
    search = GridSearchCV(
        estimator,
        # Deepest first: what is quick is known soon.
        {name: [found[depth] for depth in sorted(found, reverse=True)]},
        cv=folds,
        scoring=scoring,
        n_jobs=n_jobs,
        refit=False,
        error_score="raise",
        verbose=verbose,
    )
    start = time.perf_counter()
    plan = plan_search(search, X, y)
    # Where those who fit will see what it leaves in the store.
    if 0 < plan.n_bytes <= plan.store_bytes and (plan.lasting or effective_n_jobs(n_jobs) == 1):
        plan.prefetch()
    shared_seconds = time.perf_counter() - start
    search.fit(X, y)
    curve = curve_of_search(
        search,
        confidence_level=confidence_level,
        test_to_train=float(np.mean([len(test) / len(train) for train, test in folds])),
    )
    curve.attrs["shared_seconds"] = shared_seconds
    return curve


def curve_of_search(
    search: Any, *, confidence_level: float = 0.95, test_to_train: float | None = None
) -> pd.DataFrame:
    """The curve of a search over ``freeze_depth`` that was run already.

    Parameters
    ----------
    search : GridSearchCV or its like, fitted
        Where it went over other parameters too, the best candidate of each depth is taken; after
        halving, of those that were given most rows.
    confidence_level : float, default=0.95
    test_to_train : float or None, default=None
        Rows of a test part for each row of a training part. None: that of k folds.

    Returns
    -------
    DataFrame
        As :func:`freeze_depth_curve` gives it.

    Raises
    ------
    NotFittedError
        If the search was not fitted.
    ValueError
        If it did not go over ``freeze_depth``, or went over several networks or metrics.
    """
    check_is_fitted(search, "cv_results_")
    if not 0 < confidence_level < 1:
        raise ValueError(f"confidence_level must lie between 0 and 1; got {confidence_level!r}.")
    results, name = search.cv_results_, _depth_parameter(search.estimator)
    for needed, what in ((f"param_{name}", name), ("mean_test_score", "a single metric")):
        if needed not in results:
            raise ValueError(
                f"A curve over freeze depth needs a search over {name!r} with a single metric; "
                f"this one has no {what}. Its parameters: {list(results['params'][0])}."
            )
    searched = sorted({key for params in results["params"] for key in params})
    others = [key for key in searched if key.rpartition("__")[2] in ("backbone", "weights")]
    if others:
        raise ValueError(f"The depths of several networks are no curve: the grid has {others}.")
    info = _network_of(search.estimator)
    # Where one of several grids does not name it, it is the estimator's own.
    own = search.estimator.get_params()[name]
    depths = np.array([_depth(params.get(name, own), info) for params in results["params"]])
    rows = []
    for depth in np.unique(depths):
        among = np.flatnonzero(depths == depth)
        if "n_resources" in results:
            # Halving: scores on few rows, which are many and may be lucky, say little.
            spent = results["n_resources"][among]
            among = among[spent == spent.max()]
        # A candidate that failed in a fold has no score.
        means = np.nan_to_num(results["mean_test_score"][among], nan=-np.inf)
        best = among[np.argmax(means)]
        k = search.n_splits_
        scores = np.array([results[f"split{i}_test_score"][best] for i in range(k)])
        seconds = k * (results["mean_fit_time"][best] + results["mean_score_time"][best])
        ratio = 1 / (k - 1) if test_to_train is None and k > 1 else test_to_train or 0.0
        half = _half_interval(scores, ratio, confidence_level)
        mean = float(scores.mean())
        rows.append(
            {
                "depth": int(depth),
                "stage": stage_at(int(depth), [stage.name for stage in info.stages]),
                **{f"split{i}_score": score for i, score in enumerate(scores)},
                "mean_score": mean,
                "low": mean - half,
                "high": mean + half,
                "seconds": float(seconds),
            }
        )
    return pd.DataFrame(rows)


def _half_interval(scores: np.ndarray, test_to_train: float, level: float) -> float:
    k = len(scores)
    if k < 2:
        return float("nan")
    variance = (1 / k + test_to_train) * scores.var(ddof=1)
    return float(stats.t.ppf((1 + level) / 2, k - 1) * np.sqrt(variance))


def _depth(value: Any, info: NetworkInfo) -> int:
    cut = resolve_freeze_depth(value, info)
    if cut.surgical and not cut.head_only:
        raise ValueError(
            f"freeze_depth={value!r} trains stages in the middle, which has no place on a curve "
            "over depth; give numbers or names of stages."
        )
    return cut.depth


def _depth_parameter(estimator: Any) -> str:
    """Return what ``freeze_depth`` is called in a grid over ``estimator``."""
    split_model(estimator)
    if isinstance(estimator, Pipeline):
        return f"{estimator.steps[-1][0]}__freeze_depth"
    return "freeze_depth"


def _network_of(estimator: Any) -> NetworkInfo:
    """Return what is known of the network that is fine-tuned."""
    _, clf = split_model(clone(estimator))
    return FrozenPart(clf.set_params(freeze_depth="all")).info
