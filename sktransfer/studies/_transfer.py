"""transfer_curve: how transferable the features of each stage are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.utils.validation import column_or_1d

from sktransfer._backbones import Backbone
from sktransfer._base import derived_seed
from sktransfer._image_rows import rows_of
from sktransfer._utils.notebooks import card
from sktransfer._utils.per_row import check_present
from sktransfer._utils.plotting import finish_axes, palette_color, palette_marker
from sktransfer.studies._random_networks import first_stages, random_like, recalibrated
from sktransfer.studies._training import CurveDisplay, Study, check_choices, mean_scores, paired

TREATMENTS = ("base", "AnB", "AnB+", "BnB", "BnB+", "random")
# What is drawn in a repeat.
_BASE, _BASE_NET, _A, _A_NET, _REST, _RANDOM, _FIT = range(1, 8)


@dataclass(frozen=True)
class TransferCurve:
    """Scores of networks that share their first stages with another one.

    Parameters
    ----------
    table : DataFrame
        One row per training: ``treatment``, ``depth`` (stages that were copied), ``stage`` (the
        last of them), ``seed``, ``n_trainable``, ``score``, ``fit_time_s``; and, of the same depth
        and seed, ``coadaptation`` (base - BnB) and ``specificity`` (BnB - AnB), where those were
        run.

    See Also
    --------
    transfer_curve : Run the trainings.
    TransferCurveDisplay : Plot the curve.

    Examples
    --------
    >>> import pandas as pd
    >>> from sktransfer.studies import TransferCurve
    >>> table = pd.DataFrame({
    ...     "treatment": ["base", "AnB", "AnB"], "depth": [0, 1, 2], "seed": [0, 0, 0],
    ...     "stage": ["", "layer1", "layer2"], "score": [0.5, 0.75, 0.625],
    ... })
    >>> TransferCurve(table).differences("AnB")
       depth   stage   mean  lowest  highest  share_above
    0      1  layer1  0.250   0.250    0.250          1.0
    1      2  layer2  0.125   0.125    0.125          1.0
    """

    table: pd.DataFrame

    def _repr_html_(self) -> str:
        means = mean_scores(self.table, "treatment", ["depth", "stage"])
        lines = [f"{len(self.table)} trainings; differences() compares treatments."]
        return card(type(self).__name__, lines, {"Mean score by stages taken over": means})

    def differences(self, first: str, second: str = "base") -> pd.DataFrame:
        """Compute differences of two treatments within each repeat.

        Parameters
        ----------
        first : str
            Treatment whose score counts positively.
        second : str, default="base"
            Treatment that is subtracted.

        Returns
        -------
        differences : DataFrame
            For each depth: ``mean``, ``lowest``, ``highest``, ``share_above`` (the share of the
            repeats in which the first is better).
        """
        return paired(self.table, "treatment", first, second, ["depth", "stage"])


class TransferCurveDisplay(CurveDisplay):
    """Scores over the number of stages taken over, with a line for each treatment.

    It is recommended to use :meth:`from_curve` to create one. Plotting needs matplotlib (extra
    ``plot``). Points are single trainings, lines are their means.

    Parameters
    ----------
    table : DataFrame
        The table of :func:`transfer_curve`.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the scores.
    figure_ : matplotlib Figure
        Figure containing the axes.
    lines_ : dict of str to matplotlib Line2D
        The line of each treatment.

    See Also
    --------
    transfer_curve : Run the trainings.

    Examples
    --------
    >>> import pandas as pd
    >>> from sktransfer.studies import TransferCurveDisplay
    >>> table = pd.DataFrame({
    ...     "treatment": ["base", "AnB", "AnB"], "depth": [0, 1, 2], "seed": [0, 0, 0],
    ...     "stage": ["", "layer1", "layer2"], "score": [0.6, 0.7, 0.65],
    ... })
    >>> sorted(TransferCurveDisplay(table=table).plot().lines_)
    ['AnB', 'base']
    """

    def _draw(self, ax: Any) -> dict[Any, Any]:
        lines = {}
        for number, (treatment, rows) in enumerate(self.table.groupby("treatment", sort=False)):
            mean = rows.groupby("depth")["score"].mean()
            if treatment == "base":
                line = ax.axhline(mean.iloc[0], color="black", linestyle=":", label="base")
            else:
                style = "-" if treatment.endswith("+") else "--"
                marker, color = palette_marker(number), palette_color(number)
                looks = {"marker": marker, "color": color, "label": treatment}
                (line,) = ax.plot(mean.index, mean, style, **looks)
                ax.plot(rows["depth"], rows["score"], ".", color=color, alpha=0.35)
            lines[str(treatment)] = line
        stages = self.table[self.table["depth"] > 0].drop_duplicates("depth").sort_values("depth")
        ax.set_xticks(stages["depth"], stages["stage"], rotation=45, ha="right")
        finish_axes(ax, xlabel="stages taken over, up to", ylabel="score")
        return lines


def transfer_curve(
    estimator: Any,
    X: Any,
    y: ArrayLike,
    *,
    X_base: Any = None,
    y_base: ArrayLike | None = None,
    base_params: dict[str, Any] | None = None,
    X_test: Any = None,
    y_test: ArrayLike | None = None,
    test_size: float = 0.25,
    groups: ArrayLike | None = None,
    depths: Any = "stages",
    treatments: Sequence[str] = TREATMENTS,
    n_repeats: int = 1,
    scoring: Any = "accuracy",
    random_state: int | np.random.RandomState | None = 0,
) -> TransferCurve:
    """Measure how well the first n stages of a network serve another task, for every n.

    The experiment of Yosinski et al. [1]_. Task B is ``X, y``. Network A is the pretrained one of
    the estimator, or one that is trained here on ``X_base, y_base``. Of each network that is
    trained on B, the first n stages are taken from elsewhere and the rest is random:

    ============ =========================================== ==========================
    treatment    first n stages                              and then
    ============ =========================================== ==========================
    ``base``     random, like all others                     everything is trained on B
    ``AnB``      of A                                        they stay frozen
    ``AnB+``     of A                                        everything is trained on B
    ``BnB``      of ``base``, trained on B already           they stay frozen
    ``BnB+``     of ``base``                                 everything is trained on B
    ``random``   random, BatchNorm statistics of B           they stay frozen
    ============ =========================================== ==========================

    ``base`` - ``BnB`` is what is lost because neighboring stages that learned together are parted
    (co-adaptation); ``BnB`` - ``AnB`` what is lost because the stages are specific to A.

    Parameters
    ----------
    estimator : FineTuneClassifier or network
        The network and how it is trained; a network (a name, a saved file, a
        :class:`~sktransfer.PretrainedFeatureExtractor`) is trained as a FineTuneClassifier trains
        by default. It has to be trained well enough for random weights to learn: a rate and a
        number of epochs that suit ``base``. The head is random, without epochs of its own, and
        BatchNorm learns its statistics, in all treatments alike.
    X : array-like, DataFrame, Series or sequence of images, n rows
        In any of the :ref:`accepted forms <accepted-inputs>`.
    y : array-like of shape (n,)
        Labels.
    X_base : collection of images or None, default=None
        Images of task A. None: A is the pretrained network.
    y_base : array-like or None, default=None
        Labels of task A.
    base_params : dict or None, default=None
        Parameters of the estimator that differ when it is trained on task A.
    X_test : collection of images or None, default=None
        Images to score on. None: a stratified part of ``X`` is held out, the same in all repeats.
    y_test : array-like or None, default=None
        Labels of ``X_test``.
    test_size : float, default=0.25
        Share of the part that is held out.
    groups : array-like of shape (n,) or None, default=None
        Groups, such as patients, that are not divided between the two parts.
    depths : "stages" or sequence of int or str, default="stages"
        Numbers of stages that are taken over, or names of the last of them.
    treatments : sequence of str, default=("base", "AnB", "AnB+", "BnB", "BnB+", "random")
        The treatments to run.
    n_repeats : int, default=1
        Repeats with other seeds; A and ``base`` are trained again.
    scoring : str or callable, default="accuracy"
        A scorer of scikit-learn.
    random_state : int, RandomState instance or None, default=0
        Seed of the split, of random networks and of trainings.

    Returns
    -------
    curve : TransferCurve
        The result, with ``table`` and ``differences()``.

    See Also
    --------
    TransferCurveDisplay : Plot the curve.

    Notes
    -----
    The activations of a frozen prefix are computed once for all epochs, and for all networks that
    share it. The score is of the last epoch; the paper's is the best ten of the validation curve.
    In small networks and with few images, the dip of ``BnB`` of the paper need not appear.

    References
    ----------
    .. [1] Yosinski, J., Clune, J., Bengio, Y., & Lipson, H. (2014). "How transferable are features
       in deep neural networks?". NeurIPS.

    Examples
    --------
    Random weights stand for pretrained ones, so that nothing has to be downloaded.

    >>> from sklearn.datasets import load_digits
    >>> from sktransfer import FineTuneClassifier
    >>> from sktransfer.studies import transfer_curve
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = FineTuneClassifier(
    ...     "squeezenet1_1", weights=None, image_size=32, value_range=(0, 16), max_epochs=1,
    ... )
    >>> curve = transfer_curve(clf, X[:60], y[:60] > 4, depths=[2], treatments=["base", "AnB"])
    >>> curve.table[["treatment", "depth", "stage", "seed"]]
      treatment  depth       stage  seed
    0      base      0                 0
    1       AnB      2  features.3     0
    """
    chosen = check_choices("treatments", treatments, TREATMENTS)
    if (X_base is None) != (y_base is None):
        raise ValueError("Give X_base and y_base together, or neither of them.")
    study = Study(
        *(estimator, X, y, X_test, y_test),
        test_size=test_size,
        groups=groups,
        n_repeats=n_repeats,
        scoring=scoring,
        random_state=random_state,
    )
    network = study.network()
    at = _depths(network, depths)
    records: list[dict[str, Any]] = []
    for repeat in range(n_repeats):
        seed = derived_seed(study.seed, repeat)
        a = network
        if X_base is not None and {"AnB", "AnB+"} & set(chosen):
            start = random_like(network, derived_seed(seed, _A_NET))
            task = X_base, column_or_1d(check_present(y_base, "y_base"))
            fitted, _ = study.train(
                start, *task, seed=derived_seed(seed, _A), **(base_params or {})
            )
            a = fitted.to_backbone()
        records += _repeat(study, a, chosen, at, seed, repeat)
    return TransferCurve(_with_losses(pd.DataFrame(records)))


def _repeat(
    study: Study, a: Backbone, treatments: list[str], depths: list[int], seed: int, repeat: int
) -> list[dict[str, Any]]:
    """Run all trainings of a repeat, base first."""

    def train(treatment: str, depth: int, network: Backbone, frozen: int, own: int) -> Backbone:
        fitted, seconds = study.train(
            network, study.X, study.y, seed=own, freeze_depth=frozen, rows=study.rows
        )
        if treatment in treatments:
            trained = [p.numel() for p in fitted.module_.parameters() if p.requires_grad]
            records.append(
                {
                    "treatment": treatment,
                    "depth": depth,
                    "stage": network.stage_names[depth - 1] if depth else "",
                    "seed": repeat,
                    "n_trainable": sum(trained),
                    "score": study.score(fitted),
                    "fit_time_s": seconds,
                }
            )
        return fitted.to_backbone()

    records: list[dict[str, Any]] = []
    sources = {"A": a}
    if {"base", "BnB", "BnB+"} & set(treatments):
        start = random_like(a, derived_seed(seed, _BASE_NET))
        sources["B"] = train("base", 0, start, 0, derived_seed(seed, _BASE))
    if "random" in treatments:
        drawn = random_like(a, derived_seed(seed, _RANDOM))
        with rows_of(study.rows):
            sources["r"] = recalibrated(drawn, study.estimator, study.X)
    for treatment in treatments:
        for depth in depths if treatment != "base" else []:
            # The same random rest for all treatments of a depth: it is no part of them.
            rest = random_like(a, derived_seed(seed, _REST, depth))
            label = f"{treatment} {repeat} {seed}"
            mixed = first_stages(sources[treatment[0]], depth, rest, label)
            frozen = 0 if treatment.endswith("+") else depth
            train(treatment, depth, mixed, frozen, derived_seed(seed, _FIT, depth))
    return records


def _depths(network: Backbone, depths: Any) -> list[int]:
    """Return numbers of leading stages."""
    if isinstance(depths, str) and depths == "stages":
        return list(range(1, network.n_stages + 1))
    given = [depths] if isinstance(depths, (str, int, np.integer)) else list(depths)
    found = [network.stage_index(each) + 1 if isinstance(each, str) else each for each in given]
    whole = all(isinstance(each, (int, np.integer)) for each in found)
    if not (found and whole and all(1 <= each <= network.n_stages for each in found)):
        raise ValueError(
            f"depths are numbers of leading stages, from 1 to {network.n_stages} for "
            f"{network.name}, or their names ({', '.join(network.stage_names)}); got {depths!r}."
        )
    return list(dict.fromkeys(map(int, found)))


def _with_losses(table: pd.DataFrame) -> pd.DataFrame:
    """Add co-adaptation and specificity to the rows of the same depth and repeat."""
    wide = table[table["depth"] > 0].pivot_table(
        index=["seed", "depth"], columns="treatment", values="score"
    )
    base = table[table["treatment"] == "base"].set_index("seed")["score"]
    nothing = pd.Series(np.nan, index=wide.index)
    bnb, anb = wide.get("BnB", nothing), wide.get("AnB", nothing)
    losses = pd.DataFrame(
        {
            "coadaptation": base.reindex(wide.index.get_level_values("seed")).to_numpy() - bnb,
            "specificity": bnb - anb,
        }
    )
    return table.join(losses, on=["seed", "depth"])
