"""domain_distance: how far images are from those a network was trained on; it must not know
labels, nor what should follow from the answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils import check_random_state

from sktransfer._base import resolve_device
from sktransfer._extractor import PretrainedFeatureExtractor
from sktransfer._image_rows import backbone_of, count_rows, rows_of, run_images, take_rows
from sktransfer.exceptions import ImageDecodeError
from sktransfer.model_selection._batch_norm import (
    MomentRecorder,
    batch_norm_profile,
    norm_layers,
    profile_table,
    shift,
)
from sktransfer.model_selection._distance_thresholds import (
    Threshold,
    stored_statistics,
    threshold_for,
)
from sktransfer.model_selection._extractors import as_extractor

# Of its layers, the part at either end that is read as "early" and as "late".
_END = 1 / 6


@dataclass(frozen=True)
class DomainDistance:
    """How far images are from those a network was trained on.

    Attributes
    ----------
    distance : float
        0 for images like those, about 0.3 for X-rays, towards 1 for noise. The mean over layers.
    threshold : Threshold
        Where "similar" ends for this network: ``value``, and the gray zone from ``similar_below``
        to ``dissimilar_above``.
    profile : DataFrame
        One row per layer, in order: ``layer``, ``stage``, ``n_channels``, ``mean_part`` and
        ``spread_part`` (shift of the channels' means and of their spread) and their sum,
        ``distance``.
    backbone : str
        Name of the network.
    statistic : {"batch_norm", "embedding"}
        What the distance is of.
    n_images : int
        Images it was measured on.
    """

    distance: float
    threshold: Threshold
    profile: pd.DataFrame = field(repr=False)
    backbone: str
    statistic: str
    n_images: int

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
    backbone : str or PretrainedFeatureExtractor
        A name, or an extractor that says more (other weights, how images are read).
    X : array-like, DataFrame, Series or sequence of images, n rows
        In any of the :ref:`accepted forms <accepted-inputs>`.
    source : collection of images or None, default=None
        Images like those the network was trained on. If given, the embeddings of both are
        compared instead; it is what a network without BatchNorm needs, unless its embedding's
        statistics are among those kept here.
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
    DomainDistance
        With ``distance``, ``threshold``, ``reading`` and the ``profile`` over the layers.

    Raises
    ------
    ValueError
        If the network has no BatchNorm and there is nothing to compare its embeddings with.
    ImageDecodeError
        For the first row that cannot be read, unless the extractor says ``on_error="nan"``.

    Notes
    -----
    It is of the images, not of the labels: an easy task may be far and a hard one near. Blur and
    low resolution count as distance, and so does a preprocessing that is not the weights' own. The
    thresholds are of single networks, see :ref:`choosing`.

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
    extractor = as_extractor(backbone)
    if n_images is not None and n_images < 2:
        raise ValueError(f"n_images must be at least 2 (a spread is measured); got {n_images!r}.")
    X, taken = _sample(extractor, X, n_images, random_state)
    network = backbone_of(extractor)
    layers = norm_layers(network)
    if source is None and layers:
        device = resolve_device(extractor.device, "float32")
        network.modules().to(device).eval()
        recorder = MomentRecorder(network, layers, device)
        with rows_of(taken):
            found = run_images(extractor, X, network.input_spec, recorder, recorder.width)
        rows = _readable(*found)
        profile = batch_norm_profile(rows, layers, correction=correction)
        statistic = "batch_norm"
    else:
        if source is not None:
            source = _sample(extractor, source, n_images, random_state)
        rows, profile = _of_embeddings(extractor, X, taken, source, network.reference, correction)
        statistic = "embedding"
    return DomainDistance(
        distance=float(profile["distance"].mean()),
        threshold=threshold_for(network.reference.digest, statistic),
        profile=profile,
        backbone=network.name,
        statistic=statistic,
        n_images=len(rows),
    )


def _sample(
    extractor: PretrainedFeatureExtractor, X: Any, n_images: int | None, state: Any
) -> tuple[Any, np.ndarray | None]:
    """Some of the images and which rows they are; all of them and None if they are few."""
    n = count_rows(extractor, X)
    if n < 2:
        raise ValueError(f"A distance needs at least 2 images (a spread is measured); got {n}.")
    if n_images is None or n <= n_images:
        return X, None
    rows = np.sort(check_random_state(state).permutation(n)[:n_images])
    return take_rows(X, rows), rows


def _readable(rows: np.ndarray, failures: list[ImageDecodeError]) -> np.ndarray:
    """Rows of images that could be read."""
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
    """The same formula on the embedding alone."""
    extractor.set_params(layer=None, pooling="avg")

    def embed(images: Any, taken: np.ndarray | None) -> np.ndarray:
        with rows_of(taken):
            rows = np.asarray(extractor.fit_transform(images))
        failed = extractor.failed_rows_
        return _readable(rows, [ImageDecodeError(*r) for r in failed[["reason", "row"]].to_numpy()])

    if source is not None:
        reference_rows = embed(*source)
        mean, variance, n = reference_rows.mean(0), reference_rows.var(0), len(reference_rows)
    else:
        stored = stored_statistics(reference.digest)
        if stored is None:
            raise ValueError(
                f"{reference.name} has no BatchNorm layers that remember their source, and the "
                "statistics of its embedding are not kept here. Give source= to domain_distance: "
                "some hundred images like those it was trained on (photographs, for ImageNet "
                "weights). recommend_strategy takes what comes out as distance=."
            )
        mean, variance, n = stored
    rows = embed(X, taken)
    # A unit that was never active on the source has no scale to measure by.
    used = variance > 1e-6 * variance.mean()
    rows, mean, variance = rows[:, used], mean[used], variance[used]
    mean_part, spread_part = shift(rows, np.zeros_like(rows), mean, variance, correction=correction)
    if correction:
        mean_part = mean_part - 1 / n
    row = ("embedding", "embedding", len(mean), mean_part.mean(), spread_part.mean())
    return rows, profile_table([row])
