"""recommend_strategy: the size and similarity matrix of the course notes, with both sides measured.

It must not know how distances and scores are computed.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer._base import seed_from
from sktransfer._extractor import PretrainedFeatureExtractor
from sktransfer._finetune import FineTuneClassifier
from sktransfer._image_rows import count_rows, rows_of, take_rows
from sktransfer._utils.splitting import read_groups, stratified_folds, stratified_part
from sktransfer.model_selection._advice import LARGE, READINGS, caveats, reasons
from sktransfer.model_selection._distance import DomainDistance, domain_distance
from sktransfer.model_selection._extractors import as_extractor, stage_names
from sktransfer.model_selection._feature_scores import PROBE_C
from sktransfer.model_selection._features import check_labels
from sktransfer.model_selection._ranking import EMBEDDING, rank_backbones

# Of the stages, the share that "the top" is, and that "part" is.
_TOP, _PART = 1 / 5, 1 / 2
# For thousands of images; FineTuneClassifier's own default is for hundreds.
_LR_LARGE = 1e-4
# What an extractor and a FineTuneClassifier call by the same name.
_SHARED = (
    *("backbone", "weights", "preprocessing", "image_size", "image_shape", "value_range"),
    *("dicom", "scaled_decoding", "device", "precision", "engine", "cache", "on_error"),
    *("n_jobs", "store_weights"),
)


@dataclass(frozen=True)
class StrategyAdvice:
    """What the size and similarity matrix says of a task, and what speaks against it.

    Attributes
    ----------
    quadrant : str
        ``"small and similar"``, ``"large and dissimilar"``, and so on.
    strategy : str
        In the terms of the notes: ``"extract"``, ``"fine-tune part"``, ``"train the top"`` or
        ``"train everything"``; the first of ``readings``.
    readings : tuple of str
        What the notes can be read as saying: two where they disagree. ``"truncate"`` is the other
        reading of small and dissimilar.
    n_per_class : int
        Images of the smallest class.
    distance : DomainDistance
    evidence : DataFrame
        Leave-one-out score of ridge regression on each layer's frozen features: ``layer``,
        ``score``, ``low``, ``high``, in the order of the network.
    why : tuple of str
        How the quadrant was found.
    caveats : tuple of str
        What the evidence, published and measured here, says against following blindly.
    """

    quadrant: str
    strategy: str
    readings: tuple[str, ...]
    n_per_class: int
    distance: DomainDistance
    evidence: pd.DataFrame = field(repr=False)
    why: tuple[str, ...] = field(repr=False)
    caveats: tuple[str, ...] = field(repr=False)
    extractor: PretrainedFeatureExtractor = field(repr=False)
    grouped: bool = False
    random_state: int = 0

    def __str__(self) -> str:
        other = "".join(f"\n  or: {each}: {READINGS[each]}" for each in self.readings[1:])
        lines = [
            f"{self.quadrant}\n  {self.strategy}: {READINGS[self.strategy]}{other}",
            *self.why,
            "Against following this blindly:",
            *(f"- {each}" for each in self.caveats),
        ]
        return "\n".join(
            line if line.startswith(self.quadrant) else textwrap.fill(line, 88) for line in lines
        )

    def make_estimator(self, reading: str | None = None, **params: Any) -> Any:
        """What the strategy comes to, not fitted.

        Parameters
        ----------
        reading : str or None, default=None
            One of the five strategies; None is ``strategy``.
        **params : dict
            Parameters that differ, of the Pipeline or of the FineTuneClassifier.

        Returns
        -------
        Pipeline or FineTuneClassifier
            ``"extract"`` and ``"truncate"`` are a Pipeline of an extractor (``features``), a
            StandardScaler (``scale``) and a logistic regression (``classify``).
        """
        reading = self._known(reading)
        if reading in ("extract", "truncate"):
            layer = None if reading == "extract" else self._shallow()
            steps = [
                ("features", clone(self.extractor).set_params(layer=layer, pooling="avg")),
                ("scale", StandardScaler()),
                ("classify", LogisticRegression(C=PROBE_C, max_iter=1000)),
            ]
            return Pipeline(steps).set_params(**params)
        extractor = clone(self.extractor)  # its nested parameters are the new estimator's own
        shared = {name: getattr(extractor, name) for name in _SHARED}
        if self.n_per_class >= LARGE:
            shared["lr"] = _LR_LARGE
        return FineTuneClassifier(
            **{
                **shared,
                "freeze_depth": self._depth(reading),
                "random_state": self.random_state,
                **params,
            }
        )

    def make_search(
        self, reading: str | None = None, *, cv: Any = 5, scoring: Any = None, **params: Any
    ) -> GridSearchCV:
        """A search over freeze depth around the strategy, not fitted.

        Parameters
        ----------
        reading : str or None, default=None
            As for :meth:`make_estimator`.
        cv : int or splitter, default=5
            Folds, stratified; where groups were given, they are not divided, and ``fit`` wants
            them again: ``search.fit(X, y, groups=groups)``.
        scoring : str, callable or None, default=None
            As for GridSearchCV.
        **params : dict
            Parameters of the estimator that differ.

        Returns
        -------
        GridSearchCV
            Over ``freeze_depth`` of a FineTuneClassifier, ``"all"`` (which is "extract") among
            its values; for ``"truncate"``, over ``features__layer`` of the Pipeline.
        """
        reading = self._known(reading)
        cv = 5 if cv is None else cv
        if isinstance(cv, Integral):
            cv = stratified_folds(int(cv), grouped=self.grouped, random_state=self.random_state)
        stages = self._stages
        if reading == "truncate":
            place = stages.index(self._shallow())
            layers = stages[max(0, place - 2) : place + 3]
            grid: dict[str, list[Any]] = {"features__layer": [*layers, None]}
            return GridSearchCV(
                self.make_estimator(reading, **params), grid, cv=cv, scoring=scoring
            )
        n = len(stages)
        step = max(1, round(n * _TOP))
        if reading == "extract":
            depths: list[Any] = [n - 2 * step, n - step]
        else:
            center = self._depth(reading)
            depths = [center - step, center, center + step]
        depths = sorted({each for each in depths if 0 <= each < n})
        # The search is over what a FineTuneClassifier calls freeze_depth; everything frozen is
        # the extractor with a classifier on it.
        base = "train the top" if reading == "extract" else reading
        estimator = self.make_estimator(base, **{"freeze_depth": "all", **params})
        return GridSearchCV(estimator, {"freeze_depth": [*depths, "all"]}, cv=cv, scoring=scoring)

    @property
    def _stages(self) -> list[str]:
        return [layer for layer in self.evidence["layer"] if layer != EMBEDDING]

    def _known(self, reading: str | None) -> str:
        if reading is None:
            return self.strategy
        if reading not in READINGS:
            raise ValueError(
                f"reading must be one of {', '.join(map(repr, READINGS))}; got {reading!r}."
            )
        return reading

    def _depth(self, reading: str) -> int:
        n = len(self._stages)
        trained = {"train everything": n, "fine-tune part": n * _PART, "train the top": n * _TOP}
        return n - max(1, round(trained[reading]))

    def _shallow(self) -> str:
        """Of the stages before the last one, that with the best evidence."""
        stages = self.evidence[self.evidence["layer"].isin(self._stages[:-1] or self._stages)]
        return str(stages.loc[stages["score"].idxmax(), "layer"])


def recommend_strategy(
    X: Any,
    y: ArrayLike,
    backbone: Any = "resnet50",
    *,
    groups: ArrayLike | None = None,
    distance: DomainDistance | None = None,
    scoring: str = "accuracy",
    n_images: int = 1000,
    random_state: int | np.random.RandomState | None = 0,
) -> StrategyAdvice:
    """Say which strategy of transfer fits a task by the size and similarity matrix.

    The matrix of the course notes has two sides: how many images there are of a class (small is
    fewer than 1,000 of the smallest one), and how similar they are to those the network was
    trained on. The second one is measured here, by :func:`domain_distance`.

    ============================ ===================================================
    small and similar            ``"extract"``: frozen network, new classifier
    small and dissimilar         ``"fine-tune part"``, or ``"truncate"``: a classifier on an
                                 earlier stage
    large and similar            ``"train the top"``, or ``"train everything"``
    large and dissimilar         ``"train everything"``, from the pretrained weights
    ============================ ===================================================

    Parameters
    ----------
    X : array-like, DataFrame, Series or sequence of images, n rows
        In any of the :ref:`accepted forms <accepted-inputs>`.
    y : array-like of shape (n,)
        Labels.
    backbone : str or PretrainedFeatureExtractor, default="resnet50"
        A name, or an extractor that says more (other weights, how images are read).
    groups : array-like of shape (n,) or None, default=None
        Patients, say: not divided in the evidence and in the search.
    distance : DomainDistance or None, default=None
        If it was measured before.
    scoring : {"accuracy", "balanced_accuracy", "f1", "roc_auc"}, default="accuracy"
        Of the evidence.
    n_images : int, default=1000
        Images that the evidence is computed on, if there are more.
    random_state : int, RandomState instance or None, default=0

    Returns
    -------
    StrategyAdvice
        Print it to read it; ``make_estimator()`` and ``make_search()`` act on it.

    Notes
    -----
    It is a rule of thumb with a measured input, and no more: what was found when it was followed
    on real images is in :ref:`choosing`. ``make_search()`` asks your data instead.

    Examples
    --------
    >>> from sktransfer import PretrainedFeatureExtractor
    >>> from sktransfer.datasets import load_digit_screening
    >>> from sktransfer.model_selection import recommend_strategy
    >>> digits = load_digit_screening()
    >>> extractor = PretrainedFeatureExtractor(
    ...     "efficientnet_lite0", image_size=64, value_range=digits.value_range
    ... )
    >>> advice = recommend_strategy(digits.data[:150], digits.target[:150], extractor)
    >>> advice.quadrant, advice.readings
    ('small and dissimilar', ('fine-tune part', 'truncate'))
    >>> advice.make_estimator()
    FineTuneClassifier(backbone='efficientnet_lite0', freeze_depth=5, ...)
    """
    extractor = as_extractor(backbone, pooling="avg")
    labels = check_labels(y)
    ids = None if groups is None else read_groups(groups)
    n = count_rows(extractor, X)
    if n != len(labels) or (ids is not None and len(ids) != n):
        raise ValueError(
            f"X has {n} rows, y {len(labels)}"
            f"{'' if ids is None else f' and groups {len(ids)}'}; they must be as many."
        )
    if n_images < 2:
        raise ValueError(f"n_images must be at least 2; got {n_images!r}.")
    seed = seed_from(random_state)
    _, counts = np.unique(labels, return_counts=True)
    per_class = int(counts.min())
    if distance is None:
        distance = domain_distance(extractor, X, random_state=seed)
    rows = np.arange(n)
    if n > n_images:
        rows = stratified_part(labels, n_images, groups=ids, random_state=seed)
    with rows_of(rows):
        ranking = rank_backbones(
            X if len(rows) == n else take_rows(X, rows),
            labels[rows],
            [extractor],
            scoring=scoring,
            groups=None if ids is None else ids[rows],
            random_state=seed,
        )
    evidence = _in_order(ranking.table, extractor, X)
    size = "large" if per_class >= LARGE else "small"
    side = "similar" if distance.similar else "dissimilar"
    readings = {
        "small and similar": ("extract",),
        "small and dissimilar": ("fine-tune part", "truncate"),
        "large and similar": ("train the top", "train everything"),
        "large and dissimilar": ("train everything",),
    }[f"{size} and {side}"]
    return StrategyAdvice(
        quadrant=f"{size} and {side}",
        strategy=readings[0],
        readings=readings,
        n_per_class=per_class,
        distance=distance,
        evidence=evidence,
        why=reasons(counts, distance),
        caveats=caveats(size, side, readings, counts, distance, evidence, scoring),
        extractor=extractor,
        grouped=ids is not None,
        random_state=seed,
    )


def _in_order(table: pd.DataFrame, extractor: PretrainedFeatureExtractor, X: Any) -> pd.DataFrame:
    """Scores of the layers as they follow each other in the network."""
    fitted = clone(extractor).set_params(layer=0).fit(X)
    order = [*stage_names(fitted), EMBEDDING]
    kept = table.set_index("layer")[["n_features", "score", "low", "high"]]
    last = order[-2]
    if last not in kept.index:  # its average is the embedding, and was scored as such
        kept.loc[last] = kept.loc[EMBEDDING]
    return kept.loc[[name for name in order if name in kept.index]].reset_index()
