"""What "a network" may be in this module: a name, or an extractor that says more; it must not know
what the network is looked at for.
"""

from __future__ import annotations

import os
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from sklearn.base import clone

from sktransfer._base import resolve_device
from sktransfer._extractor import PretrainedFeatureExtractor
from sktransfer._image_rows import backbone_of, run_images


def as_extractor(backbone: Any, **params: Any) -> PretrainedFeatureExtractor:
    """An extractor of its own for what a caller named.

    Parameters
    ----------
    backbone : str, path-like, FrozenEstimator or PretrainedFeatureExtractor
        An extractor says what a name cannot: other weights, how images are read, the device.
    **params : dict
        Parameters that differ from the extractor's.

    Raises
    ------
    ValueError
        If it is neither.
    """
    if isinstance(backbone, PretrainedFeatureExtractor):
        return clone(backbone).set_params(**params)
    named = isinstance(backbone, str | os.PathLike)
    if isinstance(backbone, type) or not (named or hasattr(backbone, "fit")):
        raise ValueError(
            "A network is named by a str (sktransfer.list_backbones()), or is a "
            "PretrainedFeatureExtractor for other weights, sizes or ways to read images; got "
            f"{backbone!r}."
        )
    return PretrainedFeatureExtractor(backbone, **params)


def stage_names(extractor: PretrainedFeatureExtractor) -> list[str]:
    """Names of the stages of a fitted extractor's network."""
    return [stage.name for stage in extractor._info.stages]


def has_embedding(extractor: PretrainedFeatureExtractor) -> bool:
    """Whether the weights hold what makes the network's embedding."""
    return extractor._info.embedding_trained


def layer_columns(extractor: PretrainedFeatureExtractor) -> list[tuple[str | None, slice]]:
    """Layers of what a fitted extractor puts out, None for the embedding, and their columns."""
    names = [None if t.stage is None else stage_names(extractor)[t.stage] for t in _taps(extractor)]
    ends = list(accumulate(extractor._widths))
    columns = [slice(end - width, end) for end, width in zip(ends, extractor._widths, strict=True)]
    return list(zip(names, columns, strict=True))


def _taps(extractor: PretrainedFeatureExtractor) -> Any:
    return extractor._outputs


def source_probabilities(extractor: PretrainedFeatureExtractor, X: Any) -> np.ndarray | None:
    """Probabilities of the classes a network was trained on, shape (n, n_source_classes).

    None for a network without its classifier (one that was fine-tuned). A pass of its own.
    """
    network = backbone_of(extractor)
    if network.classifier is None or network.neck is None or not network.embedding_trained:
        return None
    device = resolve_device(extractor.device, "float32")
    network.modules().to(device)

    def logits(batch: torch.Tensor) -> np.ndarray:
        with torch.inference_mode():
            return network.forward(batch.to(device)).float().cpu().numpy()

    side = extractor._preprocessing_for(network.input_spec).size
    width = logits(torch.zeros(1, 3, side, side)).shape[1]
    rows, _ = run_images(extractor, X, network.input_spec, logits, width)
    return softmax(rows, axis=1)
