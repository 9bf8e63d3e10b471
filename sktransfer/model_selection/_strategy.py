"""recommend_strategy: the size and similarity matrix, with both sides measured."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
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
from sktransfer._scoring.features import check_labels
from sktransfer._scoring.networks import check_lengths, finetuner, one_network, stage_names
from sktransfer._utils.identifiers import read_groups
from sktransfer._utils.logistic import PROBE_C
from sktransfer._utils.notebooks import card
from sktransfer._utils.splitting import stratified_folds
from sktransfer.model_selection._domain_distance import DomainDistance, domain_distance
from sktransfer.model_selection._ranking import EMBEDDING, rank_backbones

# Images of a class from which on the matrix calls a set large.
LARGE = 1000
READINGS = {
    "extract": "keep the whole network frozen and train a new classifier on its embeddings",
    "truncate": "drop the late stages and train a linear classifier on an earlier one",
    "fine-tune part": "keep the first half of the stages frozen and train the rest",
    "train the top": "keep most stages frozen and train the last ones",
    "train everything": "start from the pretrained weights and train all stages",
}
# Of the stages, the share that "the top" is, and that "part" is.
_TOP, _PART = 1 / 5, 1 / 2
# For thousands of images; FineTuneClassifier's own default is for hundreds.
_LR_LARGE = 1e-4


@dataclass(frozen=True)
class StrategyAdvice:
    """What the size and similarity matrix says of a task, and what speaks against it.

    Parameters
    ----------
    quadrant : str
        ``"small and similar"``, ``"large and dissimilar"``, and so on.
    strategy : str
        ``"extract"``, ``"fine-tune part"``, ``"train the top"`` or ``"train everything"``; the
        first of ``readings``.
    readings : tuple of str
        What the matrix can be read as saying: two where it is read in two ways. ``"truncate"`` is
        the other reading of small and dissimilar.
    n_per_class : int
        Number of images of the smallest class.
    distance : DomainDistance
        The measured distance.
    evidence : DataFrame
        Leave-one-out score of ridge regression on each layer's frozen features: ``layer``,
        ``score``, ``low``, ``high``, in the order of the network.
    why : tuple of str
        How the quadrant was found.
    caveats : tuple of str
        What the evidence, published and measured here, says against following blindly.
    extractor : PretrainedFeatureExtractor
        The network and how images are read.
    grouped : bool, default=False
        Whether groups were given.
    random_state : int, default=0
        Seed of the estimators and folds that are made.

    See Also
    --------
    recommend_strategy : Recommend a strategy by the size and similarity of a set of images.
    domain_distance : Measure the similarity.

    Examples
    --------
    >>> from sktransfer import PretrainedFeatureExtractor
    >>> from sktransfer.datasets import load_digit_screening
    >>> from sktransfer.model_selection import recommend_strategy
    >>> digits = load_digit_screening()
    >>> extractor = PretrainedFeatureExtractor(
    ...     "efficientnet_lite0", image_size=64, value_range=digits.value_range
    ... )
    >>> advice = recommend_strategy(digits.data[:80], digits.target[:80], extractor)
    >>> advice.strategy, advice.n_per_class
    ('fine-tune part', 7)
    >>> [type(step).__name__ for _, step in advice.make_estimator("extract").steps]
    ['PretrainedFeatureExtractor', 'StandardScaler', 'LogisticRegression']
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

    def _repr_html_(self) -> str:
        readings = [f"{each}: {READINGS[each]}" for each in self.readings]
        return card(
            f"StrategyAdvice: {self.quadrant}",
            ["; or ".join(readings) + ".", *self.why, "Against following this blindly:"],
            {"Score of frozen features, by layer": self.evidence},
            items=self.caveats,
        )

    def make_estimator(self, reading: str | None = None, **params: Any) -> Any:
        """Make the estimator of a strategy, not fitted.

        Parameters
        ----------
        reading : str or None, default=None
            One of the five strategies; None is ``strategy``.
        **params : dict
            Parameters that differ, of the Pipeline or of the FineTuneClassifier.

        Returns
        -------
        estimator : Pipeline or FineTuneClassifier
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
        large = {"lr": _LR_LARGE} if self.n_per_class >= LARGE else {}
        own = {"freeze_depth": self._depth(reading), "random_state": self.random_state}
        return finetuner(self.extractor, **{**large, **own, **params})

    def make_search(
        self, reading: str | None = None, *, cv: Any = 5, scoring: Any = None, **params: Any
    ) -> GridSearchCV:
        """Make a search over freeze depth around a strategy, not fitted.

        Parameters
        ----------
        reading : str or None, default=None
            One of the five strategies; None is ``strategy``.
        cv : int or splitter, default=5
            Folds, stratified; where groups were given, they are not divided, and ``fit`` needs
            them again: ``search.fit(X, y, groups=groups)``.
        scoring : str, callable or None, default=None
            Metric, as for GridSearchCV.
        **params : dict
            Parameters of the estimator that differ.

        Returns
        -------
        search : GridSearchCV
            A search over ``freeze_depth`` of a FineTuneClassifier, with ``"all"`` (which is
            "extract") among its values; for ``"truncate"``, over ``features__layer`` of the
            Pipeline.
        """
        reading = self._known(reading)
        cv = 5 if cv is None else cv
        if isinstance(cv, Integral):
            cv = stratified_folds(int(cv), grouped=self.grouped, random_state=self.random_state)
        stages, options = self._stages, {"cv": cv, "scoring": scoring}
        if reading == "truncate":
            place = stages.index(self._shallow())
            layers = [*stages[max(0, place - 2) : place + 3], None]
            pipeline = self.make_estimator(reading, **params)
            return GridSearchCV(pipeline, {"features__layer": layers}, **options)
        # The search is over what a FineTuneClassifier calls freeze_depth; everything frozen is
        # the extractor with a classifier on it.
        base = "train the top" if reading == "extract" else reading
        center, step = self._depth(base), max(1, round(len(stages) * _TOP))
        depths = sorted({center - step, center, center + step} & {*range(len(stages))})
        estimator = self.make_estimator(base, **{"freeze_depth": "all", **params})
        grid = {"freeze_depth": [*depths, "all"]}
        return GridSearchCV(estimator, grid, **options)

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
        """Return the stage before the last one with the best evidence."""
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
    """Recommend a strategy of transfer by the size and similarity matrix.

    The matrix has two sides: how many images there are of a class (small is fewer than 1,000 of
    the smallest one), and how similar they are to those the network was trained on. The second one
    is measured here, by :func:`domain_distance`.

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
    backbone : network, default="resnet50"
        A name, a saved file, a fitted :class:`~sktransfer.FineTuneClassifier`, a
        :class:`~sktransfer.PretrainedFeatureExtractor` for other weights and ways to read images,
        or a mapping of a name of your own to one of these.
    groups : array-like of shape (n,) or None, default=None
        Groups, such as patients, that are not divided in the evidence and in the search.
    distance : DomainDistance or None, default=None
        The distance, where it was measured before. None: it is measured.
    scoring : {"accuracy", "balanced_accuracy", "f1", "roc_auc"}, default="accuracy"
        Metric of the evidence.
    n_images : int, default=1000
        Number of images that the evidence is computed on, if there are more.
    random_state : int, RandomState instance or None, default=0
        Decides which images are taken, and seeds what the advice makes.

    Returns
    -------
    advice : StrategyAdvice
        Print it to read it; ``make_estimator()`` and ``make_search()`` act on it.

    See Also
    --------
    domain_distance : Measure the similarity alone.
    freeze_depth_curve : Compute scores over the number of frozen stages.

    Notes
    -----
    It is a rule of thumb with a measured input, and no more: what was found when it was followed
    on real images is in :ref:`choosing`. ``make_search()`` lets cross-validation decide instead.

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
    name, extractor = one_network(backbone)
    extractor.set_params(pooling="avg")
    labels = check_labels(y)
    ids = None if groups is None else read_groups(groups)
    check_lengths(extractor, X, labels, ids)
    if n_images < 2:
        raise ValueError(f"n_images must be at least 2; got {n_images!r}.")
    seed = seed_from(random_state)
    _, counts = np.unique(labels, return_counts=True)
    per_class = int(counts.min())
    if distance is None:
        given = {name: extractor} if isinstance(backbone, Mapping) else extractor
        distance = domain_distance(given, X, random_state=seed)
    ranking = rank_backbones(
        X,
        labels,
        extractor,
        layers="each",
        scoring=scoring,
        n_images=n_images,
        groups=ids,
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
        why=_reasons(counts, distance),
        caveats=_caveats(size, side, readings, counts, distance, evidence, scoring),
        extractor=extractor,
        grouped=ids is not None,
        random_state=seed,
    )


def _in_order(table: pd.DataFrame, extractor: PretrainedFeatureExtractor, X: Any) -> pd.DataFrame:
    """Order the scores of the layers as they follow each other in the network."""
    fitted = clone(extractor).set_params(layer=0).fit(X)
    order = [*stage_names(fitted), EMBEDDING]
    kept = table.set_index("layer")[["n_features", "score", "low", "high"]]
    last = order[-2]
    if last not in kept.index:  # its average is the embedding, and was scored as such
        kept.loc[last] = kept.loc[EMBEDDING]
    return kept.loc[[name for name in order if name in kept.index]].reset_index()


def _reasons(counts: np.ndarray, distance: DomainDistance) -> tuple[str, ...]:
    """Say how the quadrant was found."""
    threshold = distance.threshold
    size = "large" if counts.min() >= LARGE else "small"
    of = "these weights" if threshold.calibrated else "another network (none is known for this one)"
    return (
        f"Size: {counts.min()} images of the smallest class, against {LARGE:,}: {size}.",
        f"Similarity: distance {distance.distance:.3f} from what {distance.backbone} was trained "
        f"on, against {threshold.value:.3f} of {of}: {distance.reading}.",
    )


def _caveats(
    size: str,
    side: str,
    readings: tuple[str, ...],
    counts: np.ndarray,
    distance: DomainDistance,
    evidence: pd.DataFrame,
    scoring: str,
) -> tuple[str, ...]:
    """List what the evidence says against following the matrix blindly."""
    threshold = distance.threshold
    low, high = threshold.similar_below, threshold.dissimilar_above
    names = " and ".join(map(repr, readings))
    found = {
        _of_the_layers(evidence, scoring): True,
        f"The distance lies in the gray zone of this network ({low:.3f} to {high:.3f}): the other "
        "side of the matrix is as good a guess.": "gray zone" in distance.reading,
        "The threshold was not measured with these weights.": not threshold.calibrated,
        f"Classes are uneven ({counts.min()} to {counts.max()} images), and the size is that of "
        "the smallest.": counts.max() > 3 * counts.min(),
        f"The matrix can be read in two ways here: {names}.": len(readings) > 1,
        "The distance compares images, not labels: an easy task may be far away, and a hard one "
        "near.": True,
        "That 1,000 images of a class are few is about training from scratch: on ImageNet, a "
        "network from scratch loses 1.1 points of accuracy from 1,300 to 1,000 a class and 16.8 to "
        "250 (logs of Yosinski et al., 2014). Pretrained weights need far fewer.": size == "small",
        "With much data and long training, a network from random weights catches up (He, Girshick "
        "& Dollar, 2019), on medical images too (Raghu et al., 2019): what pretraining still gives "
        "is speed.": size == "large",
        "Fine-tuning is usually at least as accurate as frozen features (Kornblith et al., 2019), "
        "and on shifted data less so (Kumar et al., 2022).": readings[0] == "extract",
        "Frozen late layers lose most where the tasks are far apart: 25 points against 8 in the "
        "halves of Yosinski et al. (2014). Fine-tuned ones lost nothing.": side == "dissimilar",
    }
    return tuple(text for text, holds in found.items() if holds)


def _of_the_layers(evidence: pd.DataFrame, scoring: str) -> str:
    best, end = evidence.loc[evidence["score"].idxmax()], evidence.iloc[-1]
    text = (
        f"Measured here, leave-one-out {scoring.replace('_', ' ')} of frozen features: "
        f"{end['score']:.3f} at the {end['layer']} ({end['low']:.3f} to {end['high']:.3f})"
    )
    if best["layer"] == end["layer"]:
        return f"{text}, which is the best place to cut."
    return (
        f"{text}; best at {best['layer']}, {best['score']:.3f} "
        f"({best['low']:.3f} to {best['high']:.3f})."
    )
