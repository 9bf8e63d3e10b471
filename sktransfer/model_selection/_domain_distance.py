"""domain_distance: how far images are from those a network was trained on, without those."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.utils import check_random_state
from torch import Tensor, nn

from sktransfer._backbones import Backbone
from sktransfer._base import on_host, resolve_device
from sktransfer._extractor import PretrainedFeatureExtractor
from sktransfer._image_rows import backbone_of, count_rows, rows_of, run_images, take_rows
from sktransfer._scoring.networks import one_network
from sktransfer._utils.notebooks import card
from sktransfer.exceptions import ImageDecodeError

# Of its layers, the part at either end that is read as "early" and as "late".
_END = 1 / 6


@dataclass(frozen=True)
class Threshold:
    """Where distances of one network turn from similar to dissimilar.

    ``similar_below`` is the largest distance seen for photographs of the kinds the network knows,
    ``dissimilar_above`` the smallest for other images: X-rays, digits, noise. Where these weights
    were not measured (``calibrated`` is False), it is that of EfficientNet-Lite0, or of SqueezeNet
    where embeddings are compared.
    """

    similar_below: float
    dissimilar_above: float
    calibrated: bool = True

    @property
    def value(self) -> float:
        """The middle of the two on a logarithmic scale: dissimilar from here on."""
        return float(np.sqrt(self.similar_below * self.dissimilar_above))

    def reading(self, distance: float) -> str:
        """Return ``"similar"`` or ``"dissimilar"``, with ``" (gray zone)"`` between the two."""
        side = "similar" if distance < self.value else "dissimilar"
        low, high = sorted((self.similar_below, self.dissimilar_above))
        return f"{side} (gray zone)" if low < distance < high else side


@dataclass(frozen=True)
class DomainDistance:
    """How far images are from those a network was trained on.

    Parameters
    ----------
    distance : float
        0 for images like those, about 0.3 for X-rays, towards 1 for noise. The mean over layers.
    threshold : Threshold
        Where "similar" ends for this network: ``threshold.value``, and the gray zone from
        ``threshold.similar_below`` to ``threshold.dissimilar_above``.
    profile : DataFrame
        One row per layer, in order: ``layer``, ``stage``, ``n_channels``, ``mean_part`` and
        ``spread_part`` (shift of the channels' means and of their spread) and their sum,
        ``distance``.
    backbone : str
        Name of the network.
    statistic : {"batch_norm", "embedding"}
        What is compared: BatchNorm statistics of all layers, or the embedding.
    n_images : int
        Number of images it was measured on.

    See Also
    --------
    domain_distance : Measure it.
    recommend_strategy : Recommend a strategy of transfer by it.

    Examples
    --------
    >>> from sklearn.datasets import load_sample_images
    >>> from sktransfer.model_selection import domain_distance
    >>> found = domain_distance("efficientnet_lite0", load_sample_images().images)
    >>> found.statistic, found.n_images, len(found.profile)
    ('batch_norm', 2, 49)
    >>> bool(found.distance < found.threshold.value) == found.similar
    True
    """

    distance: float
    threshold: Threshold
    profile: pd.DataFrame = field(repr=False)
    backbone: str
    statistic: str
    n_images: int

    def _repr_html_(self) -> str:
        edge = self.threshold
        low, high = sorted((edge.similar_below, edge.dissimilar_above))
        of = "" if edge.calibrated else ", of another network (none is known for this one)"
        lines = [
            f"{self.distance:.3f} from what {self.backbone} was trained on ({self.n_images} "
            f"images, {self.statistic.replace('_', ' ')}).",
            f"Threshold {edge.value:.3f}, gray zone {low:.3f} to {high:.3f}{of}.",
            f"Early layers {self.early:.3f}, late layers {self.late:.3f}.",
        ]
        return card(f"DomainDistance: {self.reading}", lines, {"By layer": self.profile})

    @property
    def similar(self) -> bool:
        """Whether the distance is below the threshold."""
        return self.distance < self.threshold.value

    @property
    def reading(self) -> str:
        """``"similar"`` or ``"dissimilar"``, with ``" (gray zone)"`` where it is close."""
        return self.threshold.reading(self.distance)

    @property
    def early(self) -> float:
        """Mean of the first sixth of the layers: sharpness, contrast, color, noise."""
        return float(self.profile["distance"].iloc[: self._end].mean())

    @property
    def late(self) -> float:
        """Mean of the last sixth of the layers: what is in the images."""
        return float(self.profile["distance"].iloc[-self._end :].mean())

    @property
    def _end(self) -> int:
        return max(1, round(len(self.profile) * _END))


def domain_distance(
    backbone: Any,
    X: Any,
    *,
    source: Any = None,
    n_images: int | None = 256,
    correction: bool = True,
    random_state: int | np.random.RandomState | None = 0,
) -> DomainDistance:
    """Measure how far images are from those a network was trained on, without those.

    Every BatchNorm layer remembers mean and variance of what it was given in training. For each
    channel of each layer, the distance between that normal distribution and the one that ``X``
    gives there (squared 2-Wasserstein, in units of the remembered variance) is
    ``(m - mu)^2 / s^2 + (sqrt(v / s^2) - 1)^2``; it is averaged over channels, then over layers.

    Parameters
    ----------
    backbone : network
        A name, a saved file, a fitted :class:`~sktransfer.FineTuneClassifier`, a
        :class:`~sktransfer.PretrainedFeatureExtractor` for other weights and ways to read images,
        or a mapping of a name of your own to one of these.
    X : array-like, DataFrame, Series or sequence of images, n rows
        In any of the :ref:`accepted forms <accepted-inputs>`.
    source : collection of images or None, default=None
        Images like those the network was trained on. If given, the embeddings of both are
        compared instead; it is what a network without BatchNorm needs, unless its embedding's
        statistics come with the library.
    n_images : int or None, default=256
        Images taken at random if there are more; None takes all.
    correction : bool, default=True
        Whether what means of few images are off by chance is subtracted. It makes distances of
        different numbers of images comparable, and may make one of a set against itself less
        than 0.
    random_state : int, RandomState instance or None, default=0
        Decides which images are taken.

    Returns
    -------
    distance : DomainDistance
        The result, with ``distance``, ``threshold``, ``reading`` and the ``profile`` over layers.

    Raises
    ------
    ValueError
        If the network has no BatchNorm and there is nothing to compare its embeddings with.
    ImageDecodeError
        For the first row that cannot be read, unless the extractor says ``on_error="nan"``.

    See Also
    --------
    recommend_strategy : Recommend a strategy of transfer by the distance.

    Notes
    -----
    Images are compared, not labels: an easy task may be far and a hard one near. Blur and low
    resolution count as distance, and so does a preprocessing that is not the weights' own. Each
    network has thresholds of its own, see :ref:`choosing`.

    References
    ----------
    .. [1] Yin, H., et al. (2020). "Dreaming to distill: data-free knowledge transfer via
       DeepInversion". CVPR. (BatchNorm statistics as a memory of the source)

    Examples
    --------
    Noise is farther than a photograph, for a network with its ImageNet weights.

    >>> import numpy as np
    >>> from sklearn.datasets import load_sample_images
    >>> from sktransfer.model_selection import domain_distance
    >>> photos = [photo[100:400, x : x + 300] for photo in load_sample_images().images
    ...           for x in (0, 120, 240, 340)]
    >>> noise = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    >>> near = domain_distance("efficientnet_lite0", photos)
    >>> far = domain_distance("efficientnet_lite0", noise)
    >>> bool(near.distance < far.distance), far.reading
    (True, 'dissimilar')
    """
    name, extractor = one_network(backbone)
    if n_images is not None and n_images < 2:
        raise ValueError(f"n_images must be at least 2 (a spread is measured); got {n_images!r}.")
    X, taken = _sample(extractor, X, n_images, random_state)
    network = backbone_of(extractor)
    layers = _norm_layers(network)
    if source is None and layers:
        device = resolve_device(extractor.device, "float32")
        network.modules().to(device).eval()
        modules = [module for *_, module in layers]
        moments = _moments(network, modules, device)
        width = 2 * sum(module.num_features for module in modules)
        with rows_of(taken):
            rows = _readable(*run_images(extractor, X, network.input_spec, moments, width))
        profile = _batch_norm_profile(rows, layers, correction)
        statistic = "batch_norm"
    else:
        if source is not None:
            source = _sample(extractor, source, n_images, random_state)
        rows, profile = _of_embeddings(extractor, X, taken, source, network.reference, correction)
        statistic = "embedding"
    return DomainDistance(
        distance=float(profile["distance"].mean()),
        threshold=_threshold_for(network.reference.digest, statistic),
        profile=profile,
        backbone=name if isinstance(backbone, Mapping) else network.name,
        statistic=statistic,
        n_images=len(rows),
    )


def _sample(
    extractor: PretrainedFeatureExtractor, X: Any, n_images: int | None, state: Any
) -> tuple[Any, np.ndarray | None]:
    """Take some of the images and tell their rows; all of them and None if they are few."""
    n = count_rows(extractor, X)
    if n < 2:
        raise ValueError(f"A distance needs at least 2 images (a spread is measured); got {n}.")
    if n_images is None or n <= n_images:
        return X, None
    rows = np.sort(check_random_state(state).permutation(n)[:n_images])
    return take_rows(X, rows), rows


def _readable(rows: np.ndarray, failures: list[ImageDecodeError]) -> np.ndarray:
    """Keep the rows of images that could be read."""
    bad = [failure.index for failure in failures if failure.index is not None]
    kept = np.delete(rows, bad, axis=0)
    if len(kept) < 2:
        raise ValueError(
            f"Only {len(kept)} of {len(rows)} images could be read. The first that could not: "
            f"{failures[0]}"
        )
    return kept


def _of_embeddings(
    extractor: PretrainedFeatureExtractor,
    X: Any,
    taken: np.ndarray | None,
    source: tuple[Any, np.ndarray | None] | None,
    reference: Any,
    correction: bool,
) -> tuple[np.ndarray, pd.DataFrame]:
    """Apply the same formula to the embedding alone."""
    extractor.set_params(layer=None, pooling="avg")

    def embed(images: Any, taken: np.ndarray | None) -> np.ndarray:
        with rows_of(taken):
            rows = on_host(extractor.fit_transform(images))
        failed = extractor.failed_rows_
        return _readable(rows, [ImageDecodeError(*r) for r in failed[["reason", "row"]].to_numpy()])

    if source is not None:
        reference_rows = embed(*source)
        mean, variance, n = reference_rows.mean(0), reference_rows.var(0), len(reference_rows)
    else:
        stored = _stored_statistics(reference.digest)
        if stored is None:
            raise ValueError(
                f"{reference.name} has no BatchNorm layers that remember their source, and the "
                "statistics of its embedding are not known. Give source= to domain_distance: "
                "some hundred images like those it was trained on (photographs, for ImageNet "
                "weights). recommend_strategy takes what comes out as distance=."
            )
        mean, variance, n = stored
    rows = embed(X, taken)
    # A unit that was never active on the source has no scale to measure by.
    used = variance > 1e-6 * variance.mean()
    rows, mean, variance = rows[:, used], mean[used], variance[used]
    mean_part, spread_part = _shift(rows, np.zeros_like(rows), mean, variance, correction)
    if correction:
        mean_part = mean_part - 1 / n
    row = ("embedding", "embedding", len(mean), mean_part.mean(), spread_part.mean())
    return rows, _profile_table([row])


def _norm_layers(backbone: Backbone) -> list[tuple[str, str, Any]]:
    """List name, stage and module of the BatchNorm layers, in the order of the network."""
    return [
        (f"{stage.name}.{name}" if name else stage.name, stage.name, module)
        for stage in backbone.stages
        for name, module in stage.module.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
    ]


def _moments(
    backbone: Backbone, modules: list[nn.Module], device: str
) -> Callable[[Tensor], np.ndarray]:
    """Return a function from a batch to each image's means, then variances, of what modules get."""

    def moments(batch: Tensor) -> np.ndarray:
        seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}

        def watch(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].flatten(2) if inputs[0].ndim > 2 else inputs[0][..., None]
            variance, mean = torch.var_mean(x, dim=2, correction=0)
            seen[module] = (mean, variance)

        hooks = [module.register_forward_pre_hook(watch) for module in modules]
        try:
            with torch.inference_mode():
                x = batch.to(device)
                for stage in backbone.stages:
                    x = stage.module(x)
        finally:
            for hook in hooks:
                hook.remove()
        means, variances = zip(*(seen[module] for module in modules), strict=True)
        return torch.cat([*means, *variances], dim=1).float().cpu().numpy()

    return moments


def _shift(
    means: np.ndarray,
    variances: np.ndarray,
    source_mean: np.ndarray,
    source_variance: np.ndarray,
    correction: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the two parts of the squared Wasserstein distance of normals, by channel.

    They are ``(m - mu)^2 / s^2`` and ``(sqrt(v / s^2) - 1)^2``, from each image's mean and variance
    over its positions. ``correction`` subtracts what a mean of n images is off by chance.
    """
    means, variances = means.astype(np.float64), variances.astype(np.float64)
    between = means.var(axis=0)
    v = variances.mean(axis=0) + between
    mean_part = (means.mean(axis=0) - source_mean) ** 2 / source_variance
    if correction:
        mean_part = mean_part - between / (len(means) - 1) / source_variance
    return mean_part, (np.sqrt(v / source_variance) - 1) ** 2


def _batch_norm_profile(
    rows: np.ndarray, layers: list[tuple[str, str, Any]], correction: bool
) -> pd.DataFrame:
    """Compute the shift of every layer from the moments of all images."""
    means, variances = np.split(rows, 2, axis=1)
    table = []
    start = 0
    for name, stage, module in layers:
        channels = slice(start, start := start + module.num_features)
        parts = _shift(
            means[:, channels],
            variances[:, channels],
            module.running_mean.double().cpu().numpy(),
            module.running_var.double().cpu().numpy() + module.eps,
            correction,
        )
        table.append((name, stage, module.num_features, *(part.mean() for part in parts)))
    return _profile_table(table)


def _profile_table(rows: list[tuple]) -> pd.DataFrame:
    """Tabulate layers in order, with the two parts of their shift and the sum."""
    table = pd.DataFrame(rows, columns=["layer", "stage", "n_channels", "mean_part", "spread_part"])
    table["distance"] = table["mean_part"] + table["spread_part"]
    return table


@functools.cache
def _records() -> dict[str, Any]:
    """Read the thresholds and statistics that were measured, by the digest of the weights."""
    text = (
        resources.files("sktransfer.model_selection")
        .joinpath("calibration.json")
        .read_text(encoding="utf-8")
    )
    return json.loads(text)


def _threshold_for(digest: str, statistic: str) -> Threshold:
    """Return the threshold of a network, or of the network that stands for all others."""
    thresholds = _records()["thresholds"]
    for record in thresholds:
        if record["digest"] == digest and record["statistic"] == statistic:
            return Threshold(record["similar_below"], record["dissimilar_above"])
    default = next(r for r in thresholds if r.get("default_for") == statistic)
    return Threshold(default["similar_below"], default["dissimilar_above"], calibrated=False)


def _stored_statistics(digest: str) -> tuple[np.ndarray, np.ndarray, int] | None:
    """Return mean and variance of an embedding on its source, and of how many images."""
    record = _records()["embeddings"].get(digest)
    if record is None:
        return None
    return np.asarray(record["mean"]), np.asarray(record["std"]) ** 2, int(record["n"])
