"""What "a network" may be in this room: a name, or an extractor that says more; it must not know
what the network is looked at for.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

from sklearn.base import clone

from sktransfer._extractor import PretrainedFeatureExtractor


def as_extractor(backbone: Any, **params: Any) -> PretrainedFeatureExtractor:
    """An extractor of its own for what a caller named.

    Parameters
    ----------
    backbone : str, path-like, FrozenEstimator or PretrainedFeatureExtractor
        An extractor says what a name cannot: other weights, how pictures are read, the device.
    **params : dict
        Parameters that differ from the extractor's.

    Raises
    ------
    ValueError
        If it is neither.
    """
    if isinstance(backbone, PretrainedFeatureExtractor):
        return clone(backbone).set_params(**params)
    if isinstance(backbone, type) or backbone is None:
        raise ValueError(
            "A network is named by a str (sktransfer.list_backbones()), or is a "
            "PretrainedFeatureExtractor for other weights, sizes or ways to read pictures; got "
            f"{backbone!r}."
        )
    return PretrainedFeatureExtractor(backbone, **params)


def stage_names(extractor: PretrainedFeatureExtractor) -> list[str]:
    """Names of the stages of a fitted extractor's network."""
    return [stage.name for stage in extractor._plan.info.stages]


def has_embedding(extractor: PretrainedFeatureExtractor) -> bool:
    """Whether the weights hold what makes the network's embedding."""
    return extractor._plan.info.embedding_trained


def layer_columns(extractor: PretrainedFeatureExtractor) -> list[slice]:
    """Columns of each layer in what a fitted extractor puts out."""
    ends = list(accumulate(extractor._widths))
    return [slice(end - width, end) for end, width in zip(ends, extractor._widths, strict=True)]
