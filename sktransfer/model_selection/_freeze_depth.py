"""freeze_depth_curve and its display: scores and seconds over where a network is cut."""

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

from sktransfer._finetune import FrozenPart
from sktransfer._utils.identifiers import read_groups
from sktransfer._utils.plotting import new_axes, styled
from sktransfer._utils.sklearn_compat import _validate_score_name
from sktransfer.model_selection._plan_search import plan_search, split_model, stage_at

# More names of stages than these do not fit alongside each other.
_MOST_UPRIGHT = 8
_ENDS = {"-": "full\ntraining", "all": "probe"}


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
    """Compute scores over freeze depth, from the probe (everything frozen) to full training.

    Images are run through the network once for all cuts, where the store has room for that and one
    process does the fits; then each depth is fitted and scored on every fold.

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
        Folds, as for :class:`~sklearn.model_selection.GridSearchCV`. None: five folds.
    scoring : str, callable or None, default=None
        One metric. None: accuracy.
    groups : array-like of shape (n,) or None, default=None
        Groups for a splitter that needs them.
    n_jobs : int or None, default=None
        Number of processes that fit.
    confidence_level : float, default=0.95
        Confidence level of the interval of the mean.
    verbose : int, default=0
        Verbosity, as for :class:`~sklearn.model_selection.GridSearchCV`.

    Returns
    -------
    curve : DataFrame
        A row per depth, by rising ``depth`` (0 is full training, the number of stages the probe):
        ``depth``; ``stage``, the last frozen stage, ``"-"`` at 0 and ``"all"`` at the probe;
        ``split0_score``, ``split1_score``, ...; ``mean_score``; ``low`` and ``high``, the interval;
        ``seconds`` of all its fits and scores. ``attrs["shared_seconds"]`` holds the seconds of the
        pass that all depths share.

    Raises
    ------
    TypeError
        If ``estimator`` is neither of the two.
    ValueError
        If a depth is invalid, or one is named twice.

    See Also
    --------
    FreezeDepthDisplay : Plot the curve.
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
        raise ValueError(f"A curve has one metric; got scoring={scoring!r}. Name one of them.")
    network = _network_of(estimator)
    values = [*range(len(network.info.stages), -1, -1)] if depths is None else list(depths)
    found = {_depth(value, network): value for value in values}
    if len(found) < len(values):
        raise ValueError(f"depths={depths!r} names the same cut twice.")
    groups = None if groups is None else read_groups(groups, n=len(y))
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
    """Compute the curve of a fitted search over ``freeze_depth``.

    Where it went over other parameters too, the best candidate of each depth is taken; after
    halving, of those that were given most rows. ``test_to_train`` is the number of test rows for
    each training row; None: that of k folds.
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
        raise ValueError(
            f"A curve is of one network, and the grid has several networks, by {others}: search "
            "each of them alone."
        )
    network = _network_of(search.estimator)
    names = [stage.name for stage in network.info.stages]
    # Where one of several grids does not name it, it is the estimator's own.
    own = search.estimator.get_params()[name]
    depths = np.array([_depth(params.get(name, own), network) for params in results["params"]])
    table = pd.DataFrame(results).assign(depth=depths)
    if "n_resources" in table:
        # Halving: scores on few rows, which are many and may be lucky, say little.
        table = table[
            table["n_resources"] == table.groupby("depth")["n_resources"].transform("max")
        ]
    # A candidate that failed in a fold has no score, and comes last.
    table = table.sort_values("mean_test_score", ascending=False, kind="stable")
    best = table.drop_duplicates("depth").sort_values("depth", ignore_index=True)
    k = search.n_splits_
    scores = best[[f"split{i}_test_score" for i in range(k)]].to_numpy()
    ratio = 1 / (k - 1) if test_to_train is None and k > 1 else test_to_train or 0.0
    mean, half = scores.mean(axis=1), np.full(len(best), np.nan)
    if k > 1:
        deviation = np.sqrt((1 / k + ratio) * scores.var(axis=1, ddof=1))
        half = stats.t.ppf((1 + confidence_level) / 2, k - 1) * deviation
    return pd.DataFrame(
        {
            "depth": best["depth"],
            "stage": [stage_at(depth, names) for depth in best["depth"]],
            **{f"split{i}_score": scores[:, i] for i in range(k)},
            "mean_score": mean,
            "low": mean - half,
            "high": mean + half,
            "seconds": k * (best["mean_fit_time"] + best["mean_score_time"]),
        }
    )


def _depth(value: Any, network: FrozenPart) -> int:
    cut = network.cut_at(value)
    if cut.surgical and cut.trained:
        raise ValueError(
            f"freeze_depth={value!r} trains stages in the middle, which has no place on a curve "
            "over depth. Give numbers or names of stages."
        )
    return cut.depth


def _depth_parameter(estimator: Any) -> str:
    """Return what ``freeze_depth`` is called in a grid over ``estimator``."""
    split_model(estimator)
    if isinstance(estimator, Pipeline):
        return f"{estimator.steps[-1][0]}__freeze_depth"
    return "freeze_depth"


def _network_of(estimator: Any) -> FrozenPart:
    """Return the network that is fine-tuned, frozen."""
    _, clf = split_model(clone(estimator))
    return FrozenPart(clf.set_params(freeze_depth="all"))


class FreezeDepthDisplay:
    """Scores and seconds over where a network is cut.

    It is recommended to use :meth:`from_estimator` or :meth:`from_cv_results` to create one. All
    parameters are stored as attributes. Plotting needs matplotlib (extra ``plot``).

    Read more in the :ref:`User Guide <depth-search>`.

    Parameters
    ----------
    curve : DataFrame
        The result of :func:`freeze_depth_curve`.
    score_name : str, default=None
        The name of the score. None: ``"Score"``.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the scores.
    seconds_ax_ : matplotlib Axes or None
        Axes with the seconds, on the right; None without them.
    figure_ : matplotlib Figure
        Figure containing the curve.
    line_ : matplotlib Line2D
        Mean scores.
    errorbar_ : matplotlib ErrorbarContainer or None
        Intervals, with ``interval_style="errorbar"``.
    fill_between_ : matplotlib PolyCollection or None
        Intervals, with ``interval_style="fill_between"``.
    bars_ : matplotlib BarContainer or None
        Seconds.

    See Also
    --------
    freeze_depth_curve : Compute the curve.

    Examples
    --------
    >>> import pandas as pd
    >>> from sktransfer.model_selection import FreezeDepthDisplay
    >>> curve = pd.DataFrame(
    ...     {
    ...         "depth": [0, 1, 2], "stage": ["-", "stem", "all"],
    ...         "mean_score": [0.7, 0.9, 0.8], "low": [0.6, 0.8, 0.7], "high": [0.8, 1.0, 0.9],
    ...         "seconds": [9.0, 4.0, 0.1],
    ...     }
    ... )
    >>> FreezeDepthDisplay(curve=curve, score_name="Accuracy").plot()
    <...>
    """

    def __init__(self, *, curve: pd.DataFrame, score_name: str | None = None) -> None:
        self.curve = curve
        self.score_name = score_name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        *,
        scoring: Any = None,
        negate_score: bool = False,
        score_name: str | None = None,
        ax: Any = None,
        plot_kwargs: dict[str, Any] | None = None,
        **curve_kwargs: Any,
    ) -> FreezeDepthDisplay:
        """Fit and score at several freeze depths, and plot.

        Parameters
        ----------
        estimator : FineTuneClassifier or Pipeline
            A Pipeline ends in a FineTuneClassifier.
        X : collection of images
            In any of the :ref:`accepted forms <accepted-inputs>`.
        y : array-like of shape (n,)
            Labels.
        scoring : str, callable or None, default=None
            One metric. None: accuracy.
        negate_score : bool, default=False
            Whether to negate the scores, for metrics named ``neg_*``.
        score_name : str or None, default=None
            Name on the y-axis. None: that of ``scoring``.
        ax : matplotlib Axes or None, default=None
            Axes to plot on. None: a new figure.
        plot_kwargs : dict or None, default=None
            Further parameters of :meth:`plot`.
        **curve_kwargs : dict
            Further parameters of :func:`freeze_depth_curve`, such as ``depths`` and ``cv``.

        Returns
        -------
        display : FreezeDepthDisplay
            The display, plotted.
        """
        curve = freeze_depth_curve(estimator, X, y, scoring=scoring, **curve_kwargs)
        name = _validate_score_name(score_name, scoring, negate_score)
        display = cls(curve=curve, score_name=name)
        return display.plot(ax, negate_score=negate_score, **(plot_kwargs or {}))

    @classmethod
    def from_cv_results(
        cls,
        search: Any,
        *,
        confidence_level: float = 0.95,
        negate_score: bool = False,
        score_name: str | None = None,
        ax: Any = None,
        plot_kwargs: dict[str, Any] | None = None,
    ) -> FreezeDepthDisplay:
        """Plot a search over ``freeze_depth`` that was run already.

        Parameters
        ----------
        search : GridSearchCV or its like, fitted
            Where it went over other parameters too, the best candidate of each depth is shown.
        confidence_level : float, default=0.95
            Confidence level of the interval of the mean; test parts are taken to be as large as
            those of k folds.
        negate_score : bool, default=False
            Whether to negate the scores, for metrics named ``neg_*``.
        score_name : str or None, default=None
            Name on the y-axis. None: that of the search's metric.
        ax : matplotlib Axes or None, default=None
            Axes to plot on. None: a new figure.
        plot_kwargs : dict or None, default=None
            Further parameters of :meth:`plot`.

        Returns
        -------
        display : FreezeDepthDisplay
            The display, plotted.
        """
        curve = curve_of_search(search, confidence_level=confidence_level)
        name = _validate_score_name(score_name, search.scoring, negate_score)
        display = cls(curve=curve, score_name=name)
        return display.plot(ax, negate_score=negate_score, **(plot_kwargs or {}))

    def plot(
        self,
        ax: Any = None,
        *,
        negate_score: bool = False,
        score_name: str | None = None,
        interval_style: str | None = "errorbar",
        show_seconds: bool = True,
        line_kwargs: dict[str, Any] | None = None,
        fill_between_kwargs: dict[str, Any] | None = None,
        errorbar_kwargs: dict[str, Any] | None = None,
        bar_kwargs: dict[str, Any] | None = None,
    ) -> FreezeDepthDisplay:
        """Plot the curve.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to plot on. None: a new figure.
        negate_score : bool, default=False
            Whether to negate the scores, for metrics named ``neg_*``.
        score_name : str, default=None
            The name of the score on the y-axis, instead of ``self.score_name``.
        interval_style : {"errorbar", "fill_between"} or None, default="errorbar"
            Style of the intervals of the means. None: they are not shown.
        show_seconds : bool, default=True
            Whether to show the seconds of each depth, as bars with an axis of their own.
        line_kwargs : dict, default=None
            Keyword arguments for ``plot`` of matplotlib's axes.
        fill_between_kwargs : dict, default=None
            Keyword arguments for ``fill_between``.
        errorbar_kwargs : dict, default=None
            Keyword arguments for ``errorbar``.
        bar_kwargs : dict, default=None
            Keyword arguments for ``bar``.

        Returns
        -------
        display : FreezeDepthDisplay
            The display, plotted.
        """
        if interval_style not in ("errorbar", "fill_between", None):
            raise ValueError(
                f"Unknown interval_style: {interval_style!r}. Should be one of 'errorbar', "
                "'fill_between', or None."
            )
        ax, figure = new_axes(ax, self, layout="constrained")
        curve = self.curve.sort_values("depth")
        # Places, not depths: what lies between two stages does not exist.
        places = np.arange(len(curve))
        sign = -1 if negate_score else 1
        means, low, high = (sign * curve[name].to_numpy() for name in ("mean_score", "low", "high"))
        low, high = np.minimum(low, high), np.maximum(low, high)

        self.ax_, self.figure_ = ax, figure
        self.seconds_ax_ = self.bars_ = self.errorbar_ = self.fill_between_ = None
        if show_seconds:
            self._plot_seconds(places, curve["seconds"].to_numpy(), bar_kwargs)
        (self.line_,) = ax.plot(
            places, means, **styled(line_kwargs, marker="o", color="C0", label="score")
        )
        color = self.line_.get_color()
        if interval_style == "errorbar":
            settings = styled(errorbar_kwargs, fmt="none", ecolor=color, capsize=4)
            self.errorbar_ = ax.errorbar(places, means, [means - low, high - means], **settings)
        elif interval_style == "fill_between":
            settings = styled(fill_between_kwargs, alpha=0.3, color=color, linewidth=0)
            self.fill_between_ = ax.fill_between(places, low, high, **settings)
        labels = [
            f"{_ENDS.get(stage, stage)}\n({depth})"
            for depth, stage in zip(curve["depth"], curve["stage"], strict=True)
        ]
        ax.set_xticks(places, labels)
        if len(labels) > _MOST_UPRIGHT:
            ax.tick_params("x", rotation=60)
        ax.set_xlabel("Frozen up to and including")
        name = self.score_name if score_name is None else score_name
        ax.set_ylabel("Score" if name is None else name)
        ax.set_xlim(-0.6, len(curve) - 0.4)
        if show_seconds:
            low_end, high_end = ax.get_ylim()
            ax.set_ylim(low_end - 0.45 * (high_end - low_end), high_end)
        return self

    def _plot_seconds(self, places: np.ndarray, seconds: np.ndarray, bar_kwargs: Any) -> None:
        ax = self.seconds_ax_ = self.ax_.twinx()
        self.bars_ = ax.bar(
            places, seconds, **styled(bar_kwargs, color="0.85", width=0.6, label="seconds")
        )
        written = [f"{each:.2g} s" if each < 99.5 else f"{each:,.0f} s" for each in seconds]
        ax.bar_label(self.bars_, written, fontsize="small", color="0.4")
        # Bars stand behind the scores, in the lower third that is kept free for them.
        ax.set_zorder(self.ax_.get_zorder() - 1)
        self.ax_.patch.set_visible(False)
        largest = max(seconds.max(), 1e-9)
        ax.set_ylim(0, 4 * largest)
        ax.set_yticks([tick for tick in ax.get_yticks() if tick <= 1.2 * largest])
        ax.set_ylabel("Seconds", loc="bottom")
