"""rank_backbones: which network, or which layer of it, suits a task."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.base import clone

from sktransfer._backbones import describe_backbone, list_backbones
from sktransfer._base import on_host, seed_from
from sktransfer._extractor import PretrainedFeatureExtractor
from sktransfer._image_rows import rows_of, take_rows
from sktransfer._scoring.features import check_labeled, check_labels
from sktransfer._scoring.networks import (
    check_lengths,
    layer_columns,
    named_networks,
    on_this_machine,
    source_probabilities,
    stage_names,
)
from sktransfer._utils.identifiers import read_groups
from sktransfer._utils.notebooks import card
from sktransfer._utils.plotting import finish_axes, new_axes, palette_color, palette_marker
from sktransfer._utils.splitting import stratified_part
from sktransfer.exceptions import FailedRowsWarning, UnknownBackboneError
from sktransfer.model_selection._ranking_metrics import Scored, Setting, metrics_named

EMBEDDING, ALL = "embedding", "all"
# Of the images, the share that the speed is measured on, in numbers between these.
_TIMED_SHARE, _TIMED_LEAST, _TIMED_MOST = 1 / 25, 4, 32
# Columns of the table, besides those of further metrics.
_COLUMNS = (
    *("backbone", "layer", "n_features", "score", "low", "high"),
    *("best_share", "imagenet_top1", "images_per_s", "pareto"),
)


@dataclass(frozen=True)
class BackboneRanking:
    """Networks and layers in the order of their scores.

    Parameters
    ----------
    table : DataFrame
        One row per network and layer, best first; see :func:`rank_backbones`.
    metric : str
        Name of the metric that orders them.
    n_images : int
        Number of images it was computed on.
    extractors : dict of str to PretrainedFeatureExtractor
        The networks, by their names in ``table``.

    See Also
    --------
    rank_backbones : Compute it.
    BackboneRankingDisplay : Plot it.

    Examples
    --------
    >>> import pandas as pd
    >>> from sktransfer import PretrainedFeatureExtractor
    >>> from sktransfer.model_selection import BackboneRanking
    >>> table = pd.DataFrame({"backbone": ["resnet18"], "layer": ["layer3"], "score": [0.8]})
    >>> ranking = BackboneRanking(
    ...     table, "loo_ridge", 200, {"resnet18": PretrainedFeatureExtractor("resnet18")}
    ... )
    >>> ranking.make_extractor()
    PretrainedFeatureExtractor(backbone='resnet18', layer='layer3')
    """

    table: pd.DataFrame
    metric: str
    n_images: int
    extractors: dict[str, PretrainedFeatureExtractor] = field(repr=False)

    def _repr_html_(self) -> str:
        lines = [f"By {self.metric} on {self.n_images} images; make_extractor() gives the first."]
        return card(type(self).__name__, lines, {"Networks and layers, best first": self.table})

    def make_extractor(self, place: int = 0) -> PretrainedFeatureExtractor:
        """Return an extractor, not fitted, of the layers of a row of the table.

        Parameters
        ----------
        place : int, default=0
            Position of the row in ``table``; 0 is the best.

        Returns
        -------
        extractor : PretrainedFeatureExtractor
            The network of that row, with its ``layer``: ``"all"``, a name, or None for the
            embedding.
        """
        row = self.table.iloc[place]
        layer = None if row["layer"] == EMBEDDING else row["layer"]
        return clone(self.extractors[row["backbone"]]).set_params(layer=layer)


class BackboneRankingDisplay:
    """Scores against images per second, with a line for each network through its rows.

    It is recommended to use :meth:`from_ranking` to create one. All parameters are stored as
    attributes. Plotting needs matplotlib (extra ``plot``).

    Parameters
    ----------
    table : DataFrame
        The table of :func:`rank_backbones`.
    metric : str
        Name of the score.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the scores.
    figure_ : matplotlib Figure
        Figure containing the axes.

    See Also
    --------
    rank_backbones : Compute the table.

    Examples
    --------
    >>> import pandas as pd
    >>> from sktransfer.model_selection import BackboneRankingDisplay
    >>> table = pd.DataFrame({
    ...     "backbone": ["a", "a"], "layer": ["layer1", "embedding"], "score": [0.7, 0.8],
    ...     "low": [0.6, 0.7], "high": [0.8, 0.9], "images_per_s": [90.0, 40.0],
    ...     "pareto": [True, True],
    ... })
    >>> display = BackboneRankingDisplay(table=table, metric="loo_ridge").plot()
    >>> display.ax_.get_ylabel()
    'loo_ridge'
    """

    def __init__(self, *, table: pd.DataFrame, metric: str) -> None:
        self.table = table
        self.metric = metric

    @classmethod
    def from_ranking(cls, ranking: BackboneRanking, *, ax: Any = None) -> BackboneRankingDisplay:
        """Plot a ranking.

        Parameters
        ----------
        ranking : BackboneRanking
            Result of :func:`rank_backbones`.
        ax : matplotlib Axes or None, default=None
            Axes to plot on. None: a new figure.

        Returns
        -------
        display : BackboneRankingDisplay
            The display, plotted.
        """
        return cls(table=ranking.table, metric=ranking.metric).plot(ax=ax)

    def plot(self, *, ax: Any = None) -> BackboneRankingDisplay:
        """Plot, with a ring and a name at rows that no other beats in both score and speed.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Axes to plot on. None: a new figure.

        Returns
        -------
        display : BackboneRankingDisplay
            The display, plotted.
        """
        ax, figure = new_axes(ax, self, figsize=(7, 4.5), layout="constrained")
        table = self.table[np.isfinite(self.table["images_per_s"])]
        for number, (name, rows) in enumerate(table.groupby("backbone", sort=False)):
            rows = rows.sort_values("images_per_s")
            error = np.abs(rows[["low", "high"]].to_numpy().T - rows["score"].to_numpy())
            ax.errorbar(
                rows["images_per_s"],
                rows["score"],
                yerr=np.nan_to_num(error),
                marker=palette_marker(number),
                color=palette_color(number),
                markersize=4,
                linewidth=1,
                elinewidth=0.6,
                label=name,
            )
        front = table[table["pareto"]].sort_values("images_per_s")
        ax.plot(
            front["images_per_s"],
            front["score"],
            linestyle="none",
            marker="o",
            markersize=10,
            markerfacecolor="none",
            markeredgecolor="black",
            label="none is better and faster",
        )
        for _, row in front.iterrows():
            ax.annotate(
                row["backbone"] if row["layer"] == ALL else row["layer"],
                (row["images_per_s"], row["score"]),
                xytext=(3, 6),
                textcoords="offset points",
                rotation=40,  # so that neighbors do not write over each other
                rotation_mode="anchor",
                fontsize="x-small",
            )
        ax.margins(0.08)
        finish_axes(ax, xscale="log", xlabel="images per second", ylabel=self.metric)
        self.ax_, self.figure_ = ax, figure
        return self


def rank_backbones(
    X: Any,
    y: ArrayLike,
    backbones: Any = None,
    *,
    layers: Any = "all",
    metric: Any = "loo_ridge",
    scoring: str = "accuracy",
    n_images: int | None = None,
    groups: ArrayLike | None = None,
    n_resamples: int = 200,
    random_state: int | np.random.RandomState | None = 0,
) -> BackboneRanking:
    """Rank networks by how well their frozen features tell classes apart.

    By default a network is judged by all its layers side by side, and ``layers="each"`` ranks every
    layer on its own. They come out of one pass over the images, through the
    :ref:`store <extract-once>`; the scores are closed formulas of the features. So this costs about
    what it costs to extract features with every candidate once.

    Parameters
    ----------
    X : array-like, DataFrame, Series or sequence of images, n rows
        In any of the :ref:`accepted forms <accepted-inputs>`.
    y : array-like of shape (n,)
        Labels.
    backbones : network, sequence of networks, mapping of names to networks, or None, default=None
        A network is a name (:func:`sktransfer.list_backbones`), a saved file, a fitted
        :class:`~sktransfer.FineTuneClassifier`, or a
        :class:`~sktransfer.PretrainedFeatureExtractor` for other weights and ways to read images.
        The keys of a mapping are the names in the table. None: every network whose weights are on
        this machine.
    layers : {"all", "each"}, None, or sequence of str, int or None, default="all"
        ``"all"``: one row per network, of all its layers side by side, as
        ``PretrainedFeatureExtractor(layer="all")`` gives them. ``"each"``: one row for each stage
        and the embedding. None: the embedding alone. A sequence names stages, None for the
        embedding, or ``"all"``.
    metric : str, callable, or list of these, default="loo_ridge"
        ``"loo_ridge"``: leave-one-out ridge regression. ``"knn"``: five nearest neighbors.
        ``"probe"``: logistic regression, cross-validated. ``"logme"``, ``"hscore"`` (regularized),
        ``"leep"`` (of networks with their ImageNet classifier). A function (F, y) -> float, larger
        is better. The first of a list orders the table; the others have columns of their names.
    scoring : {"accuracy", "balanced_accuracy", "f1", "roc_auc"}, default="accuracy"
        Metric of the predictions behind ``"loo_ridge"``, ``"knn"`` and ``"probe"``.
    n_images : int or None, default=None
        Number of images that scores are computed on, if there are more: the same for all networks,
        with the shares of the classes, in whole groups. None: all of them.
    groups : array-like of shape (n,) or None, default=None
        Patients, say. Rows of one group are left out together, and drawn together.
    n_resamples : int, default=200
        Resamples for the intervals; 0 for none.
    random_state : int, RandomState instance or None, default=0
        Decides which images are taken, and which rows are drawn for resamples.

    Returns
    -------
    ranking : BackboneRanking
        Its ``table`` has the columns

        - ``backbone``, ``layer`` (``"all"``, ``"embedding"`` or a stage), ``n_features``;
        - ``score``, ``low``, ``high``: the first metric and its 95 % interval over resampled rows
          (groups), and one column for each further metric;
        - ``best_share``: the share of the resamples in which this row is the best of all;
        - ``imagenet_top1``: published accuracy of the default weights, the rival of every score;
        - ``images_per_s``: measured for the whole network, estimated from the share of
          multiply-adds where it is cut earlier;
        - ``pareto``: whether no other row is both better and faster.

    Raises
    ------
    ValueError
        If there are no networks, or labels, metrics or numbers are invalid.

    See Also
    --------
    BackboneRankingDisplay : Plot scores against speed.
    sktransfer.studies.compare_backbones : Compare networks by cross-validation.

    Notes
    -----
    A classifier of all layers is better on most sets than one of the best layer, which is a little
    lucky for being the best of many. The user guide measures what each choice loses.

    A score orders; its gaps are not gaps of accuracy after fine-tuning. No score of the literature
    is reliable on every set, and a plain ranking by published ImageNet accuracy is hard to beat
    [1]_ [2]_: look at both columns, and let a cross-validation decide between the first few.

    References
    ----------
    .. [1] Renggli, C., et al. (2022). "Which model to transfer? Finding the needle in the growing
       haystack". CVPR.
    .. [2] Agostinelli, A., et al. (2022). "How stable are transferability metrics evaluations?".
       ECCV.

    Examples
    --------
    >>> from sktransfer import PretrainedFeatureExtractor
    >>> from sktransfer.datasets import load_digit_screening
    >>> from sktransfer.model_selection import rank_backbones
    >>> digits = load_digit_screening()
    >>> extractor = PretrainedFeatureExtractor(
    ...     "efficientnet_lite0", image_size=64, value_range=digits.value_range
    ... )
    >>> X, y = digits.data[:200], digits.target[:200]
    >>> ranking = rank_backbones(X, y, [extractor], scoring="roc_auc")
    >>> ranking.make_extractor().layer
    'all'
    >>> ranking = rank_backbones(X, y, [extractor], layers=["blocks.2", None])
    >>> sorted(ranking.table["layer"])
    ['blocks.2', 'embedding']
    """
    named = named_networks(on_this_machine() if backbones is None else backbones)
    metrics = metrics_named(metric, _COLUMNS)
    if n_images is not None and n_images < 2:
        raise ValueError(f"n_images must be at least 2; got {n_images!r}.")
    if n_resamples < 0:
        raise ValueError(f"n_resamples must be 0 or more; got {n_resamples!r}.")
    setting = Setting(scoring, n_resamples, seed_from(random_state))
    labels = check_labels(y)
    group_ids = None if groups is None else read_groups(groups)
    n = check_lengths(next(iter(named.values())), X, labels, group_ids)
    rows = np.arange(n)
    if n_images is not None and n_images < n:
        rows = stratified_part(labels, n_images, groups=group_ids, random_state=setting.seed)

    passes, speeds = {}, {}
    for name, extractor in named.items():
        passes[name] = _passes(extractor, layers, X)
        speeds[name] = _seconds_per_image(extractor.set_params(layer=passes[name][0]), X, n)
    chosen = X if len(rows) == n else take_rows(X, rows)
    g_used = None if group_ids is None else group_ids[rows]

    records: list[dict[str, Any]] = []
    values: list[np.ndarray | None] = []
    used = 0
    for name, extractor in named.items():
        for each in passes[name]:
            extractor.set_params(layer=each)
            with rows_of(rows):
                own, used = _score_layers(
                    name, extractor, chosen, labels[rows], g_used, metrics, setting, speeds[name]
                )
            for record, scored in own:
                records.append(record)
                values.append(scored.values)
    table = pd.DataFrame(records)
    table.insert(6, "best_share", _best_shares(values))
    top1 = list_backbones().set_index("name")["imagenet_top1"]
    table.insert(7, "imagenet_top1", [_top1(named[name], top1) for name in table["backbone"]])
    table["pareto"] = _pareto(table["score"].to_numpy(), table["images_per_s"].to_numpy())
    table = table.sort_values("score", ascending=False, kind="stable").reset_index(drop=True)
    return BackboneRanking(table, metrics[0][0], used, named)


def _score_layers(
    name: str,
    extractor: PretrainedFeatureExtractor,
    X: Any,
    y: np.ndarray,
    groups: np.ndarray | None,
    metrics: list[tuple[str, Any]],
    setting: Setting,
    seconds: float,
) -> tuple[list[tuple[dict[str, Any], Scored]], int]:
    """Score the layers of a network; also the number of images that could be read."""
    F = on_host(extractor.fit_transform(X))
    read = np.ones(len(F), dtype=bool)
    read[extractor.failed_rows_["row"].to_numpy(dtype=int)] = False
    F, y, groups = F[read], y[read], None if groups is None else groups[read]
    costs = _cost_shares(extractor)
    theta = None
    if any(each == "leep" for each, _ in metrics):
        theta = source_probabilities(extractor, X)
    found = []
    for layer, columns in _distinct_layers(extractor, F):
        bad = int((~np.isfinite(F[:, columns])).any(axis=1).sum())
        if bad:
            raise ValueError(
                f"{name} gives numbers that are not finite at {layer}, for {bad} of {len(F)} "
                "images that can be read. Leave it out, or use precision='float32'."
            )
        data = check_labeled(F[:, columns], y, groups)
        own = theta[read] if theta is not None and layer in (EMBEDDING, ALL) else None
        scored = [score(data, setting, own) for _, score in metrics]
        names = [each for each, _ in metrics]
        share = costs.get(layer)
        record = {
            "backbone": name,
            "layer": layer,
            "n_features": data.F.shape[1],
            "score": scored[0].score,
            "low": scored[0].low,
            "high": scored[0].high,
            **{each: value.score for each, value in zip(names[1:], scored[1:], strict=True)},
            "images_per_s": float("nan") if share is None else 1 / (seconds * share),
        }
        found.append((record, scored[0]))
    return found, len(F)


def _passes(extractor: PretrainedFeatureExtractor, layers: Any, X: Any) -> list[Any]:
    """List the values of ``layer`` that give everything asked for, each in one pass."""
    if isinstance(layers, str) and layers == "auto":
        raise ValueError(
            "layers='auto' is called 'each': a row for every stage and the embedding. The default "
            "is layers='all', a row for every network."
        )
    if layers is None or (isinstance(layers, str) and layers == ALL):
        return [layers]
    if isinstance(layers, str) and layers == "each":
        first = clone(extractor).set_params(layer=0, pooling="avg").fit(X)
        return [[*stage_names(first), *([None] if first._info.embedding_trained else [])]]
    given = [layers] if isinstance(layers, str | int) else list(layers)
    single = [each for each in given if each != ALL]
    # What both have in common is computed once, through the store.
    return [ALL, *([single] if single else [])] if ALL in given else [given]


def _seconds_per_image(extractor: PretrainedFeatureExtractor, X: Any, n: int) -> float:
    """Measure what one image takes in the whole network, of which the layers may be a part.

    A first pass resolves the engine.
    """
    k = int(np.clip(round(n * _TIMED_SHARE), _TIMED_LEAST, _TIMED_MOST))
    rows = np.unique(np.linspace(0, n - 1, min(k, n)).astype(int))
    timed = clone(extractor).set_params(cache=None, on_error="nan", verbose=0)
    timed.fit(X)
    with warnings.catch_warnings():
        # Images that fail are reported by the pass that counts.
        warnings.simplefilter("ignore", FailedRowsWarning)
        timed.transform(take_rows(X, rows[:1]))
        start = time.perf_counter()
        timed.transform(take_rows(X, rows))
    seconds = (time.perf_counter() - start) / len(rows)
    if timed.layer == ALL:
        return seconds
    shares = _cost_shares(timed)
    return seconds / max(shares.get(name or EMBEDDING, 1.0) for name, _ in layer_columns(timed))


def _distinct_layers(
    extractor: PretrainedFeatureExtractor, F: np.ndarray
) -> list[tuple[str, slice]]:
    """List layers and their columns; a stage whose average is the embedding is left out."""
    if extractor.layer == ALL:
        return [(ALL, slice(None))]
    found = [(name or EMBEDDING, columns) for name, columns in layer_columns(extractor)]
    embedding = dict(found).get(EMBEDDING)
    if embedding is None:
        return found
    last = F[:, embedding]
    return [
        (name, columns)
        for name, columns in found
        if name == EMBEDDING
        or last.shape[1] != columns.stop - columns.start
        or not np.allclose(F[:, columns], last, rtol=1e-4, atol=1e-5)
    ]


def _cost_shares(extractor: PretrainedFeatureExtractor) -> dict[str, float]:
    """Return the share of the network's multiply-adds down to each stage."""
    try:
        described = describe_backbone(extractor.reference_.name)
    except UnknownBackboneError:  # one that was made by hand
        return {EMBEDDING: 1.0, ALL: 1.0}
    stages = dict(zip(described["name"], described["gmacs_share"], strict=True))
    return {**stages, EMBEDDING: 1.0, ALL: 1.0}


def _best_shares(values: list[np.ndarray | None]) -> np.ndarray:
    """Compute how often each is the best of all; ties are shared."""
    known = [each for each in values if each is not None and len(each)]
    if len(known) < len(values):
        return np.full(len(values), np.nan)
    scores = np.where(np.isfinite(known), known, -np.inf)
    best = scores == scores.max(axis=0)
    return (best / best.sum(axis=0)).mean(axis=1)


def _top1(extractor: PretrainedFeatureExtractor, published: pd.Series) -> float:
    """Return the published accuracy of a network that has published weights."""
    if not isinstance(extractor.backbone, str) or extractor.weights is None:
        return float("nan")
    return float(published.get(extractor.backbone, np.nan))


def _pareto(score: np.ndarray, speed: np.ndarray) -> np.ndarray:
    """Find rows that no other row beats in score or speed without losing in the other."""
    beaten = [
        bool(np.any((score >= s) & (speed >= v) & ((score > s) | (speed > v))))
        for s, v in zip(score, speed, strict=True)
    ]
    return ~np.array(beaten) & np.isfinite(score) & np.isfinite(speed)
