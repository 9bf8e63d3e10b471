"""What "a network" is wherever one is taken, and what rankings and distances read off it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from sklearn.base import clone
from torch import nn

from sktransfer._backbones import list_backbones
from sktransfer._base import resolve_device
from sktransfer._extractor import PretrainedFeatureExtractor
from sktransfer._finetune import FineTuneClassifier
from sktransfer._image_rows import backbone_of, count_rows, run_images
from sktransfer._persistence import is_name
from sktransfer._utils.config import how_to_install


def named_networks(backbones: Any, *, name: str = "backbones") -> dict[str, Any]:
    """Return an extractor of its own for every network, by the name it has in tables.

    ``backbones`` is a network, a sequence of networks, or a mapping of names to networks. A network
    is a name, a saved file, a fine-tuned network, or a PretrainedFeatureExtractor, which says what
    a name cannot: other weights, how images are read, the device. ``name`` is for messages.
    """
    if isinstance(backbones, Mapping):
        named = {str(key): _as_extractor(each) for key, each in backbones.items()}
    else:
        whole = isinstance(backbones, str | os.PathLike | nn.Module)
        single = whole or not isinstance(backbones, Iterable)
        named = {}
        for each in [backbones] if single else backbones:
            extractor = _as_extractor(each)
            network = extractor.backbone
            base = "fine-tuned"
            if isinstance(network, str | os.PathLike):  # of a saved file its name, and no folder
                base = str(network) if is_name(network) else Path(network).name
            base = type(network).__name__ if isinstance(network, nn.Module) else base
            key, number = base, 1
            while key in named:
                number += 1
                key = f"{base} ({number})"
            named[key] = extractor
    if not named:
        raise ValueError(f"{name} is empty; name at least one network.")
    return named


def on_this_machine() -> list[str]:
    """Return the names of networks whose weights are on this machine."""
    catalog = list_backbones()
    names = catalog.loc[catalog["available_offline"], "name"].tolist()
    if not names:
        raise ValueError(
            "No pretrained weights are on this machine, so there is nothing to choose from by "
            "default. Name backbones (their weights are downloaded). Or: "
            f"{how_to_install('offline')}"
        )
    return names


def one_network(backbone: Any) -> tuple[str, PretrainedFeatureExtractor]:
    """Return the name and an extractor of a single network; forms are as in named_networks."""
    named = named_networks(backbone, name="backbone")
    if len(named) > 1:
        raise ValueError(
            f"One network is needed; got {len(named)}: {', '.join(named)}. Call the function once "
            "for each of them."
        )
    return next(iter(named.items()))


def finetuner(
    network: Any, template: FineTuneClassifier | None = None, **params: Any
) -> FineTuneClassifier:
    """Return a FineTuneClassifier of a network, trained as ``template`` is, with other ``params``.

    A FineTuneClassifier is its own template. What an extractor sets counts where both kinds of
    estimator have the parameter and mean the same thing by it.
    """
    if isinstance(network, FineTuneClassifier):
        return clone(network).set_params(**params)
    _, extractor = one_network(network)
    own = FineTuneClassifier() if template is None else clone(template)
    shared = {*own.get_params(deep=False)} - {"batch_size", "verbose"}
    if extractor.weights is not None:
        shared.discard("random_state")
    given = set_parameters(extractor)
    return own.set_params(**{**{key: given[key] for key in shared & {*given}}, **params})


def set_parameters(extractor: PretrainedFeatureExtractor) -> dict[str, Any]:
    """Return the network and all parameters that are not the defaults."""
    given = clone(extractor).get_params(deep=False)  # nested ones are the new estimator's own
    usual = PretrainedFeatureExtractor().get_params(deep=False)
    network = {"backbone"}
    if not is_name(extractor.backbone):  # a fine-tuned network comes with its weights
        network.add("weights")
    return {
        name: value
        for name, value in given.items()
        if name in network or repr(value) != repr(usual[name])
    }


def _as_extractor(backbone: Any) -> PretrainedFeatureExtractor:
    if isinstance(backbone, PretrainedFeatureExtractor):
        return clone(backbone)
    named = isinstance(backbone, str | os.PathLike | nn.Module)
    if isinstance(backbone, type) or not (named or hasattr(backbone, "fit")):
        raise ValueError(
            "A network is named by a str (sktransfer.list_backbones()), or is a saved file, a "
            "fitted FineTuneClassifier, or a PretrainedFeatureExtractor for other weights, sizes "
            f"or ways to read images; got {backbone!r}."
        )
    return PretrainedFeatureExtractor(backbone)


def check_lengths(extractor: Any, X: Any, y: np.ndarray, groups: np.ndarray | None) -> int:
    """Return the number of images, and raise ValueError if labels or groups are not as many."""
    n = count_rows(extractor, X)
    for what, column in (("y", y), ("groups", groups)):
        if column is not None and len(column) != n:
            raise ValueError(f"X has {n} rows and {what} has {len(column)}; they must be as many.")
    return n


def stage_names(extractor: PretrainedFeatureExtractor) -> list[str]:
    """Return the names of the stages of a fitted extractor's network."""
    return [stage.name for stage in extractor._info.stages]


def layer_columns(extractor: PretrainedFeatureExtractor) -> list[tuple[str | None, slice]]:
    """Return the layers that a fitted extractor puts out (None: embedding) and their columns."""
    stages = stage_names(extractor)
    names = [None if tap.stage is None else stages[tap.stage] for tap in extractor._outputs]
    ends = list(accumulate(extractor._widths))
    columns = [slice(end - width, end) for end, width in zip(ends, extractor._widths, strict=True)]
    return list(zip(names, columns, strict=True))


def source_probabilities(extractor: PretrainedFeatureExtractor, X: Any) -> np.ndarray | None:
    """Compute probabilities of the classes a network was trained on, shape (n, n_source_classes).

    None for a network without its classifier (one that was fine-tuned). It is a pass of its own.
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
