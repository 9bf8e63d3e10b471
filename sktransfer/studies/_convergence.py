"""convergence_curve: what a pretrained start is worth after how much training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from sktransfer._base import derived_seed
from sktransfer._image_rows import take_rows
from sktransfer._utils.notebooks import card
from sktransfer._utils.plotting import finish_axes, palette_color
from sktransfer._utils.splitting import stratified_order
from sktransfer.studies._random_networks import mean_and_variance, random_like
from sktransfer.studies._training import CurveDisplay, Study, check_choices, mean_scores, paired

INITS = ("pretrained", "random", "mean_var")
# All rows are trained on, once: they are as many as the budget says, some of them repeated.
_ONE_SCHEDULE: dict[str, Any] = {
    "max_epochs": 1,
    "validation_fraction": None,
    "early_stopping": None,
}
_ORDER, _NET, _FIT, _ROWS = range(1, 5)


@dataclass(frozen=True)
class ConvergenceCurve:
    """Scores by start, number of images and length of training.

    Parameters
    ----------
    table : DataFrame
        One row per training: ``init``, ``train_size`` (images), ``budget`` (steps), ``seed``,
        ``score``, ``fit_time_s``.

    See Also
    --------
    convergence_curve : Run the trainings.
    ConvergenceDisplay : Plot the curve.

    Examples
    --------
    >>> import pandas as pd
    >>> from sktransfer.studies import ConvergenceCurve
    >>> table = pd.DataFrame({
    ...     "init": ["pretrained", "random"] * 2, "train_size": 100, "budget": [10, 10, 80, 80],
    ...     "seed": 0, "score": [0.75, 0.5, 0.875, 0.875],
    ... })
    >>> ConvergenceCurve(table).catch_up().to_dict()
    {100: 80.0}
    """

    table: pd.DataFrame

    def _repr_html_(self) -> str:
        means = mean_scores(self.table, "init", ["train_size", "budget"])
        lines = [f"{len(self.table)} trainings; catch_up() says when the difference is gone."]
        return card(type(self).__name__, lines, {"Mean score by images and steps": means})

    def differences(self, first: str = "pretrained", second: str = "random") -> pd.DataFrame:
        """Compute differences of two starts within each repeat, for each size and budget.

        Parameters
        ----------
        first : str, default="pretrained"
            Start whose score counts positively.
        second : str, default="random"
            Start that is subtracted.

        Returns
        -------
        differences : DataFrame
            ``train_size``, ``budget``, ``mean``, ``lowest``, ``highest``, ``share_above``.
        """
        return paired(self.table, "init", first, second, ["train_size", "budget"])

    def catch_up(self, tolerance: float = 0.01, init: str = "random") -> pd.Series:
        """Find the smallest budget from which on a start has caught up with the pretrained one.

        Parameters
        ----------
        tolerance : float, default=0.01
            Difference in score that is no difference.
        init : str, default="random"
            The start that catches up.

        Returns
        -------
        budgets : Series
            Budgets by ``train_size``; NaN where it did not happen within the budgets.
        """
        behind = self.differences("pretrained", init)
        found = {}
        for size, rows in behind.groupby("train_size"):
            rows = rows.sort_values("budget")
            far = rows.loc[rows["mean"] > tolerance, "budget"]
            near = rows["budget"] if far.empty else rows.loc[rows["budget"] > far.max(), "budget"]
            found[size] = float(near.min()) if len(near) else float("nan")
        return pd.Series(found, name="budget", dtype=float).rename_axis("train_size")

    def time_to_reach(self, level: float) -> pd.DataFrame:
        """Find the smallest budget whose mean score reaches a level.

        Parameters
        ----------
        level : float
            Score to reach.

        Returns
        -------
        budgets : DataFrame
            Steps by ``train_size`` (rows) and ``init`` (columns); NaN where it is not reached.
        """
        mean = self.table.groupby(["train_size", "init", "budget"])["score"].mean().reset_index()
        reached = mean[mean["score"] >= level]
        first = reached.groupby(["train_size", "init"])["budget"].min().unstack("init")
        return first.reindex(
            index=sorted(self.table["train_size"].unique()), columns=pd.unique(self.table["init"])
        )


class ConvergenceDisplay(CurveDisplay):
    """Scores over steps of training, with a line for each start and number of images.

    It is recommended to use :meth:`from_curve` to create one. Plotting needs matplotlib (extra
    ``plot``).

    Parameters
    ----------
    table : DataFrame
        The table of :func:`convergence_curve`.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the scores.
    figure_ : matplotlib Figure
        Figure containing the axes.
    lines_ : dict of (str, int) to matplotlib Line2D
        The line of each start and number of images.

    See Also
    --------
    convergence_curve : Run the trainings.

    Examples
    --------
    >>> import pandas as pd
    >>> from sktransfer.studies import ConvergenceDisplay
    >>> table = pd.DataFrame({
    ...     "init": ["pretrained", "random"] * 2, "train_size": 50, "budget": [20, 20, 40, 40],
    ...     "seed": 0, "score": [0.7, 0.3, 0.8, 0.5],
    ... })
    >>> len(ConvergenceDisplay(table=table).plot().lines_)
    2
    """

    def _draw(self, ax: Any) -> dict[Any, Any]:
        styles = dict(zip(pd.unique(self.table["init"]), ("-", "--", ":"), strict=False))
        sizes = sorted(self.table["train_size"].unique())
        lines = {}
        for (init, size), rows in self.table.groupby(["init", "train_size"], sort=False):
            mean = rows.groupby("budget")["score"].mean()
            color = palette_color(sizes.index(size))
            label = f"{init}, {size} images"
            (line,) = ax.plot(mean.index, mean, styles[init], marker="o", color=color, label=label)
            ax.plot(rows["budget"], rows["score"], ".", color=color, alpha=0.3)
            lines[str(init), int(size)] = line
        ax.set_xscale("log", base=2)
        # The budgets themselves, where powers of two would stand.
        budgets = sorted({int(budget) for budget in self.table["budget"]})
        ax.set_xticks(budgets, [str(budget) for budget in budgets])
        finish_axes(ax, xlabel="steps of training", ylabel="score")
        return lines


def convergence_curve(
    estimator: Any,
    X: Any,
    y: ArrayLike,
    *,
    budgets: Sequence[int] = (20, 40, 80, 160, 320),
    inits: Sequence[str] = INITS,
    train_sizes: Sequence[float] = (1.0,),
    X_test: Any = None,
    y_test: ArrayLike | None = None,
    test_size: float = 0.25,
    groups: ArrayLike | None = None,
    n_repeats: int = 1,
    scoring: Any = "accuracy",
    random_state: int | np.random.RandomState | None = 0,
) -> ConvergenceCurve:
    """Compare a pretrained start with others after training of several lengths.

    The question of He et al. [1]_: given time, do random weights end where pretrained ones do?
    Every budget is a training of its own with its whole schedule of rates; one long training read
    at intermediate steps would make the shorter ones look worse than they need be.

    Parameters
    ----------
    estimator : FineTuneClassifier or network
        The network and how it is trained; a network (a name, a saved file, a
        :class:`~sktransfer.PretrainedFeatureExtractor`) is trained as a FineTuneClassifier trains
        by default. All stages are trained; the head is random, without epochs of its own, and
        BatchNorm learns its statistics, from every start alike. ``max_epochs``, early stopping and
        a validation part do not count, and ``lr_schedule__warmup`` is a share of the budget.
    X : array-like, DataFrame, Series or sequence of images, n rows
        In any of the :ref:`accepted forms <accepted-inputs>`.
    y : array-like of shape (n,)
        Labels.
    budgets : sequence of int, default=(20, 40, 80, 160, 320)
        Steps: batches of the estimator's ``batch_size``, whatever the number of images.
    inits : sequence of str, default=("pretrained", "random", "mean_var")
        Starts. ``"mean_var"`` draws each tensor with the mean and the variance of the pretrained
        one [2]_.
    train_sizes : sequence of float or int, default=(1.0,)
        Images trained on: shares, or numbers. Stratified; the smaller are parts of the larger.
    X_test : collection of images or None, default=None
        Images to score on. None: a stratified part of ``X`` is held out, the same in all repeats.
    y_test : array-like or None, default=None
        Labels of ``X_test``.
    test_size : float, default=0.25
        Share of the part that is held out.
    groups : array-like of shape (n,) or None, default=None
        Groups, such as patients, that are not divided between the two parts.
    n_repeats : int, default=1
        Repeats with other seeds.
    scoring : str or callable, default="accuracy"
        A scorer of scikit-learn.
    random_state : int, RandomState instance or None, default=0
        Seed of the split, of random networks and of trainings.

    Returns
    -------
    curve : ConvergenceCurve
        The result, with ``table``, ``differences()``, ``catch_up()`` and ``time_to_reach()``.

    See Also
    --------
    ConvergenceDisplay : Plot the curve.

    References
    ----------
    .. [1] He, K., Girshick, R., & Dollár, P. (2019). "Rethinking ImageNet pre-training". ICCV.
    .. [2] Raghu, M., Zhang, C., Kleinberg, J., & Bengio, S. (2019). "Transfusion: understanding
       transfer learning for medical imaging". NeurIPS.

    Examples
    --------
    Random weights stand for pretrained ones, so that nothing has to be downloaded.

    >>> from sklearn.datasets import load_digits
    >>> from sktransfer import FineTuneClassifier
    >>> from sktransfer.studies import convergence_curve
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = FineTuneClassifier(
    ...     "squeezenet1_1", weights=None, image_size=32, value_range=(0, 16),
    ... )
    >>> curve = convergence_curve(
    ...     clf, X[:60], y[:60] > 4, budgets=[1, 2], inits=["pretrained", "random"],
    ... )
    >>> curve.table[["init", "train_size", "budget", "seed"]]
             init  train_size  budget  seed
    0  pretrained          45       1     0
    1  pretrained          45       2     0
    2      random          45       1     0
    3      random          45       2     0
    """
    chosen = check_choices("inits", inits, INITS)
    steps = list(dict.fromkeys(budgets))
    if not steps or not all(isinstance(each, (int, np.integer)) and each >= 1 for each in steps):
        raise ValueError(f"budgets are numbers of steps, 1 or more; got {budgets!r}.")
    study = Study(
        *(estimator, X, y, X_test, y_test),
        test_size=test_size,
        groups=groups,
        n_repeats=n_repeats,
        scoring=scoring,
        random_state=random_state,
    )
    network = study.network()
    draws = {"pretrained": lambda b, _: b, "random": random_like, "mean_var": mean_and_variance}
    sizes = list(dict.fromkeys(_size(each, len(study.y)) for each in train_sizes))
    records = []
    for repeat in range(n_repeats):
        own = derived_seed(study.seed, repeat)
        order = stratified_order(study.y, derived_seed(own, _ORDER))
        for init in chosen:
            start = draws[init](network, derived_seed(own, _NET))
            for size, budget in product(sizes, map(int, steps)):
                rows = _rows(order[:size], budget * study.estimator.batch_size, own)
                fitted, seconds = study.train(
                    start,
                    take_rows(study.X, rows),
                    study.y[rows],
                    seed=derived_seed(own, _FIT),
                    rows=rows if study.rows is None else study.rows[rows],
                    **_ONE_SCHEDULE,
                )
                score = study.score(fitted)
                records.append((init, size, budget, repeat, score, seconds))
    columns = ["init", "train_size", "budget", "seed", "score", "fit_time_s"]
    return ConvergenceCurve(pd.DataFrame(records, columns=columns))


def _size(size: float, n: int) -> int:
    """Return a share or a number of images as a number."""
    number = round(size * n) if isinstance(size, float) and size <= 1 else int(size)
    if not 1 < number <= n:
        raise ValueError(
            f"train_sizes are shares in (0, 1] or numbers up to {n}, the images there are to "
            f"train on; got {size!r}."
        )
    return number


def _rows(rows: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Return ``n`` rows: each once before any comes again, or the first ones if ``n`` is small."""
    rng = np.random.default_rng(derived_seed(seed, _ROWS))
    if n < len(rows):
        return rng.permutation(rows[:n])
    rounds = [rng.permutation(rows) for _ in range(-(-n // len(rows)))]
    return np.concatenate(rounds)[:n]
