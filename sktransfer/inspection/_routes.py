"""From images to a classifier's scores as one torch function; it must not know what a map is.

The frozen part is the network as it was published, whole and in torch: engines, folded BatchNorm
and stored activations have no gradient.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from sktransfer._extractor import PretrainedFeatureExtractor
from sktransfer._finetune import FineTuneClassifier
from sktransfer._frozen import NetworkSource, Plan, TappedChain
from sktransfer._images import ImageSource, Preprocessing
from sktransfer._persistence import found_source
from sktransfer.inspection._images import images_of
from sktransfer.inspection._torch_steps import (
    Classify,
    Scores,
    as_calibrated,
    as_classifier,
    as_transform,
    no_gradient,
    of_logits,
)


@dataclass(frozen=True)
class Part:
    """A stage of a network, its neck or its head.

    Attributes
    ----------
    name : str
        Of the stage; ``"neck"`` or ``"classifier"``.
    module : nn.Module
    layout : str or None
        Of what a stage gives, such as ``"NCHW"``; None for the others.
    """

    name: str
    module: nn.Module
    layout: str | None


@dataclass(frozen=True)
class Route:
    """What takes a network's input to scores.

    Attributes
    ----------
    front : PretrainedFeatureExtractor or FineTuneClassifier
        What reads images.
    network : nn.Module
        From normalized images to features or logits, in evaluation mode.
    parts : tuple of Part
        Of the network, in its order.
    classify : callable
        From these to scores.
    classes : ndarray of shape (n_classes,)
    preprocessing : Preprocessing
    """

    front: Any
    network: nn.Module
    parts: tuple[Part, ...]
    classify: Classify
    classes: np.ndarray
    preprocessing: Preprocessing

    @property
    def name(self) -> str:
        """Of the network."""
        tuned = isinstance(self.front, FineTuneClassifier)
        return (self.front._prefix if tuned else self.front._plan).info.reference.name

    @property
    def dtype(self) -> torch.dtype:
        """What is computed in: half precision has no gradients worth a look."""
        return torch.float64 if self.front.precision == "float64" else torch.float32

    @property
    def device(self) -> str:
        """Where it is computed."""
        return _device(self.front)

    def scores(self, batch: Tensor) -> Scores:
        """Scores of a normalized batch, shape (n, 3, S, S)."""
        return self.classify(self.network(batch))

    def decision(self, batch: Tensor, codes: Tensor) -> Tensor:
        """The decision for one class of each row; of two, minus that for the other."""
        decision = self.scores(batch).decision
        if decision.ndim == 1:
            return decision * (2 * codes - 1)
        return decision.gather(1, codes[:, None])[:, 0]

    def images(self, X: Any) -> ImageSource:
        """``X`` as the front reads it."""
        return images_of(self.front, X)

    def batch(self, source: ImageSource, rows: Sequence[int]) -> Tensor:
        """Rows as the network is given them."""
        side = self.preprocessing.min_decode_side
        arrays = [self.preprocessing(source.open(row).decode(side)) for row in rows]
        return self.preprocessing.to_batch(arrays).to(device=self.device, dtype=self.dtype)


def route_of(estimator: Any) -> Route:
    """The way from images to the scores of a fitted classifier.

    Raises
    ------
    TypeError
        If something on the way is not differentiable; the message says what.
    """
    front, classify = _split(estimator)
    tuned = isinstance(front, FineTuneClassifier)
    network, parts = _tuned_network(front) if tuned else _frozen_network(front)
    dtype = torch.float64 if front.precision == "float64" else torch.float32
    network = network.to(device=_device(front), dtype=dtype).eval().requires_grad_(False)
    for module in network.modules():
        if hasattr(module, "inplace"):
            # Would write over what the gradient needs.
            setattr(module, "inplace", False)  # noqa: B010 - torch types attributes as tensors
    classes = np.asarray(estimator.classes_)
    return Route(front, network, parts, classify, classes, _preprocessing(front))


def _split(estimator: Any) -> tuple[Any, Classify]:
    """What reads images, and what comes after it."""
    check_is_fitted(estimator)
    if isinstance(estimator, FineTuneClassifier):
        return estimator, of_logits
    if isinstance(estimator, CalibratedClassifierCV):
        parts = [_split(each.estimator) for each in estimator.calibrated_classifiers_]
        front = _same([each for each, _ in parts], estimator)
        return front, as_calibrated(estimator, [classify for _, classify in parts])
    if isinstance(estimator, Pipeline):
        steps = _steps(estimator)
        if isinstance(steps[0], PretrainedFeatureExtractor):
            return steps[0], _after(steps[1:])
        if len(steps) == 1:
            return _split(steps[0])
        raise no_gradient(steps[0], "a Pipeline has to begin with the extractor")
    inner = _inner(estimator)
    if inner is None:
        raise no_gradient(estimator)
    return _split(inner)


def _inner(estimator: Any) -> Any:
    """What a wrapper that leaves scores alone holds: a frozen estimator, a threshold, a search."""
    if isinstance(estimator, FrozenEstimator):
        return estimator.estimator
    for name in ("best_estimator_", "estimator_"):
        # Forests keep an unfitted tree there.
        if hasattr(getattr(estimator, name, None), "classes_"):
            return getattr(estimator, name)
    return None


def _after(steps: list[Any]) -> Classify:
    """Steps on features, the last of which is a classifier."""
    transforms = [as_transform(step) for step in steps[:-1]]
    if not steps:
        raise no_gradient(None, "the Pipeline ends in the extractor: there is no classifier")
    last = _on_features(steps[-1])

    def classify(x: Tensor) -> Scores:
        for transform in transforms:
            x = transform(x)
        return last(x)

    return classify


def _on_features(classifier: Any) -> Classify:
    if isinstance(classifier, Pipeline):
        return _after(_steps(classifier))
    if isinstance(classifier, CalibratedClassifierCV):
        inner = [_on_features(each.estimator) for each in classifier.calibrated_classifiers_]
        return as_calibrated(classifier, inner)
    inner_estimator = _inner(classifier)
    return as_classifier(classifier) if inner_estimator is None else _on_features(inner_estimator)


def _steps(pipeline: Pipeline) -> list[Any]:
    """Steps, those of pipelines inside in their place; what does nothing is left out."""
    found: list[Any] = []
    for _, step in pipeline.steps:
        if isinstance(step, Pipeline):
            found += _steps(step)
        elif step is not None and not (isinstance(step, str) and step == "passthrough"):
            found.append(step)
    return found


def _same(fronts: list[Any], owner: Any) -> Any:
    """The one front of several models; an ensemble of networks has no single one."""
    first = fronts[0]
    for other in fronts[1:]:
        alike = (
            isinstance(first, PretrainedFeatureExtractor)
            and isinstance(other, PretrainedFeatureExtractor)
            and first._plan == other._plan
            and _preprocessing(first) == _preprocessing(other)
        )
        if not alike and other is not first:
            raise no_gradient(owner, "its members have networks of their own; use ensemble=False")
    return first


def _preprocessing(front: Any) -> Preprocessing:
    if isinstance(front, FineTuneClassifier):
        return front._prefix.preprocessing
    return front._preprocessing_for(front._plan.info.input_spec)


def _device(front: Any) -> str:
    return front.device_ if isinstance(front, FineTuneClassifier) else front._recipe().device


def _frozen_network(extractor: PretrainedFeatureExtractor) -> tuple[nn.Module, tuple[Part, ...]]:
    plan = extractor._plan
    source = found_source(plan.info.reference, extractor._packed, extractor._found_as)
    chain = _chain(source, plan)
    return _SideBySide(chain), _parts_of_chain(chain)


def _tuned_network(classifier: FineTuneClassifier) -> tuple[nn.Module, tuple[Part, ...]]:
    prefix = classifier._prefix
    suffix = copy.deepcopy(classifier.module_)
    stages = zip(suffix.stage_names.items(), suffix.stages.values(), strict=True)
    parts = [Part(name, own, prefix.info.stages[i].layout) for (i, name), own in stages]
    if suffix.neck is not None:
        parts.append(Part("neck", suffix.neck, None))
    parts.append(Part("classifier", suffix.head, None))
    if prefix.cut.depth == 0:
        return suffix, tuple(parts)
    chain = _chain(prefix.source, Plan(prefix.info, (prefix.tap,)))
    return nn.Sequential(_SideBySide(chain), suffix), (*_parts_of_chain(chain), *parts)


def _parts_of_chain(chain: TappedChain) -> tuple[Part, ...]:
    parts = [
        Part(stage.name, piece, stage.layout)
        for stage, piece in zip(chain.info.stages, chain.pieces, strict=False)
    ]
    return (*parts, Part("neck", chain.neck, None)) if len(chain.neck) else tuple(parts)


def _chain(source: NetworkSource, plan: Plan) -> TappedChain:
    """A copy of the leading part of a network, as it was published."""
    backbone = source.checked()
    neck = backbone.neck
    ends = None if neck is None else (neck.norm, nn.Sequential(neck.pool, neck.post))
    pieces = [stage.module for stage in backbone.stages]
    return copy.deepcopy(TappedChain(plan.info, pieces, ends, plan.taps))


class _SideBySide(nn.Module):
    """Several taps as the columns of one tensor, as extractors give them."""

    def __init__(self, chain: TappedChain) -> None:
        super().__init__()
        self.chain = chain

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(self.chain(x), dim=1)
