"""transfer_curve: how transferable the features of each stage are; it must not know how networks
are put together, nor how a curve is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.utils.validation import column_or_1d

from sktransfer._backbones import Backbone
from sktransfer._base import derived_seed, seed_from
from sktransfer._image_rows import rows_of
from sktransfer.studies._networks import first_stages, random_like, recalibrated
from sktransfer.studies._trials import (
    Split,
    check_choices,
    check_trials,
    make_split,
    n_trainable,
    network_of,
    paired,
    score,
    train,
)

TREATMENTS = ("base", "AnB", "AnB+", "BnB", "BnB+", "random")
# What is drawn in a repeat.
_SPLIT, _BASE, _BASE_NET, _A, _A_NET, _REST, _RANDOM, _FIT = range(8)


@dataclass(frozen=True)
class TransferCurve:
    """Scores of networks that share their first stages with another one.

    Attributes
    ----------
    table : DataFrame
        One row per training: ``treatment``, ``depth`` (stages that were copied), ``stage`` (the
        last of them), ``seed``, ``n_trainable``, ``score``, ``fit_time_s``; and, of the same depth
        and seed, ``coadaptation`` (base - BnB) and ``specificity`` (BnB - AnB), where those were
        run.
    """

    table: pd.DataFrame

    def differences(self, first: str, second: str = "base") -> pd.DataFrame:
        """Difference of two treatments within each repeat.

        Parameters
        ----------
        first, second : str
            The difference is first minus second.

        Returns
        -------
        DataFrame
            For each depth: ``mean``, ``lowest``, ``highest``, ``share_above`` (of the repeats, in
            how many the first is better).
        """
        return paired(self.table, "treatment", first, second, ["depth", "stage"])


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
    estimator : FineTuneClassifier
        Its network and how it is trained. It has to be trained well enough for random weights to
        learn: a rate and a number of epochs that suit ``base``. The head is random, without epochs
        of its own, and BatchNorm learns its statistics, in all treatments alike.
    X : array-like, DataFrame, Series or sequence of images, n rows
        In any of the :ref:`accepted forms <accepted-inputs>`.
    y : array-like of shape (n,)
        Labels.
    X_base, y_base : default=None
        Images and labels of task A. None: A is the pretrained network.
    base_params : dict or None, default=None
        Parameters of the estimator that differ when it is trained on task A.
    X_test, y_test : default=None
        To score on. None: a stratified part of ``X`` is held out, the same in all repeats.
    test_size : float, default=0.25
        Share of that part.
    groups : array-like of shape (n,) or None, default=None
        Patients, say: not divided between the two parts.
    depths : "stages" or sequence of int or str, default="stages"
        Numbers of stages that are taken over, or names of the last of them.
    treatments : sequence of str, default=all
    n_repeats : int, default=1
        Repeats with other seeds; A and ``base`` are trained again.
    scoring : str or callable, default="accuracy"
        A scorer of scikit-learn.
    random_state : int, RandomState instance or None, default=0

    Returns
    -------
    TransferCurve

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
    check_trials(estimator, scoring, n_repeats)
    chosen = check_choices("treatments", treatments, TREATMENTS)
    if (X_base is None) != (y_base is None):
        raise ValueError("Give X_base and y_base together, or neither of them.")
    seed = seed_from(random_state)
    split = make_split(
        estimator, X, y, X_test, y_test, test_size, groups, derived_seed(seed, _SPLIT)
    )
    network = network_of(estimator, seed)
    at = _depths(network, depths)
    records: list[dict[str, Any]] = []
    for repeat in range(n_repeats):
        trial = _Trial(estimator, network, split, scoring, derived_seed(seed, repeat), repeat)
        if X_base is not None and {"AnB", "AnB+"} & set(chosen):
            trial.learn_a(X_base, column_or_1d(y_base), base_params or {})
        records += trial.run(chosen, at)
    return TransferCurve(_with_losses(pd.DataFrame(records)))


class _Trial:
    """One repeat: networks A and base, and what is made of them."""

    def __init__(
        self,
        estimator: Any,
        network: Backbone,
        split: Split,
        scoring: Any,
        seed: int,
        repeat: int,
    ) -> None:
        self.estimator = estimator
        self.a = network
        self.split = split
        self.scoring = scoring
        self.seed = seed
        self.repeat = repeat

    def _seed(self, *parts: int) -> int:
        return derived_seed(self.seed, *parts)

    def learn_a(self, X: Any, y: np.ndarray, params: dict[str, Any]) -> None:
        """Train A on its own task, from random weights."""
        start = random_like(self.a, self._seed(_A_NET))
        fitted, _ = train(
            self.estimator, start, X, y, freeze_depth=0, seed=self._seed(_A), **params
        )
        self.a = fitted.to_backbone()

    def run(self, treatments: list[str], depths: list[int]) -> list[dict[str, Any]]:
        """All trainings of the repeat, base first."""
        records = []
        base: Backbone | None = None
        if {"base", "BnB", "BnB+"} & set(treatments):
            start = random_like(self.a, self._seed(_BASE_NET))
            record, base = self._train("base", 0, start, 0, self._seed(_BASE))
            if "base" in treatments:
                records.append(record)
        sources: dict[str, Backbone | None] = {"A": self.a, "B": base, "r": None}
        if "random" in treatments:
            drawn = random_like(self.a, self._seed(_RANDOM))
            with rows_of(self.split.rows):
                sources["r"] = recalibrated(drawn, self.estimator, self.split.X)
        for treatment in treatments:
            if treatment == "base":
                continue
            source = sources[treatment[0]]
            assert source is not None
            for depth in depths:
                # The same random rest for all treatments of a depth: it is no part of them.
                rest = random_like(self.a, self._seed(_REST, depth))
                label = f"{treatment} {self.repeat} {self.seed}"
                mixed = first_stages(source, depth, rest, label)
                frozen = 0 if treatment.endswith("+") else depth
                records.append(
                    self._train(treatment, depth, mixed, frozen, self._seed(_FIT, depth))[0]
                )
        return records

    def _train(
        self, treatment: str, depth: int, network: Backbone, frozen: int, seed: int
    ) -> tuple[dict[str, Any], Backbone]:
        fitted, seconds = train(
            self.estimator,
            network,
            self.split.X,
            self.split.y,
            freeze_depth=frozen,
            seed=seed,
            rows=self.split.rows,
        )
        record = {
            "treatment": treatment,
            "depth": depth,
            "stage": network.stage_names[depth - 1] if depth else "",
            "seed": self.repeat,
            "n_trainable": n_trainable(fitted),
            "score": score(fitted, self.split, self.scoring),
            "fit_time_s": seconds,
        }
        return record, fitted.to_backbone()


def _depths(network: Backbone, depths: Any) -> list[int]:
    """Numbers of leading stages."""
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
    """Co-adaptation and specificity alongside the rows of the same depth and repeat."""
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
