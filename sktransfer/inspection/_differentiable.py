"""From images to a classifier's scores as one torch function.

The frozen part is the whole network as it was published, run in torch: engines, folded BatchNorm
and stored activations have no gradient.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.base import is_regressor
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from sktransfer._base import resolve_device
from sktransfer._extractor import PretrainedFeatureExtractor
from sktransfer._finetune import FineTuneClassifier, FineTuneRegressor
from sktransfer._finetune._targets import Findings
from sktransfer._frozen import LayerOutput, LayerOutputs, NetworkInfo, NetworkSource
from sktransfer._images import ImageSource, Preprocessing
from sktransfer._transfer import TransferClassifier
from sktransfer.inspection._estimator_images import class_codes, images_of
from sktransfer.inspection._torch_classifiers import (
    Classify,
    Scores,
    as_calibrated,
    as_classifier,
    as_number,
    as_share,
    as_transform,
    no_gradient,
    of_findings,
    of_logits,
)

_TUNED = (FineTuneClassifier, FineTuneRegressor)
# Where a search and a threshold keep what has scores.
_KEPT = ("best_estimator_", "estimator_")


class Part(NamedTuple):
    """A stage of a network with the layout of its output; ``"neck"`` and head have no layout."""

    name: str
    module: nn.Module
    layout: str | None


@dataclass(frozen=True)
class DifferentiableClassifier:
    """A fitted classifier of images as a torch function.

    ``reader`` is the estimator that reads images. ``network``, of which ``parts`` are the parts in
    order, takes what ``preprocessing`` makes of them to features or logits, and ``classify`` these
    to scores of the ``classes``; None: to the number that a regressor predicts.
    """

    reader: Any
    network: nn.Module
    parts: tuple[Part, ...]
    classify: Classify
    classes: np.ndarray | None
    preprocessing: Preprocessing

    @property
    def name(self) -> str:
        """Return the name of the backbone."""
        tuned = isinstance(self.reader, _TUNED)
        return (self.reader._prefix.info if tuned else self.reader._info).reference.name

    def scores(self, batch: Tensor) -> Scores:
        """Return the scores of a normalized batch, (n, 3, side, side)."""
        return self.classify(self.network(batch))

    def decision(self, batch: Tensor, codes: Tensor) -> Tensor:
        """Return the decision for one class of each row; of two, the first has the opposite one."""
        decision, _ = self.scores(batch)
        if decision.ndim == 1:
            return decision * (2 * codes - 1)
        return decision.gather(1, codes[:, None])[:, 0]

    def batch(self, source: ImageSource, rows: Sequence[int]) -> Tensor:
        """Return the network's input for these rows."""
        arrays = [source.open(row).prepare(self.preprocessing) for row in rows]
        batch = self.preprocessing.to_batch(arrays)
        return batch.to(device=_device(self.reader), dtype=_dtype(self.reader))

    def batches(self, X: Any, y: Any, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the network's inputs with the positions of the classes ``y``, or the predicted."""
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more; got {batch_size!r}.")
        source = images_of(self.reader, X)
        codes = None
        if self.classes is None:
            if y is not None:
                raise ValueError("y contains classes, but a regressor has none; use y=None.")
            codes = np.ones(len(source), dtype=np.int64)  # the number itself, not its opposite
        elif y is not None:
            codes = class_codes(self.classes, y, len(source))
        for low in range(0, len(source), batch_size):
            rows = range(low, min(low + batch_size, len(source)))
            batch = self.batch(source, rows)
            if codes is not None:
                yield batch, torch.from_numpy(codes[low : rows.stop]).to(batch.device)
                continue
            with torch.no_grad():
                decision, _ = self.scores(batch)
            yield batch, (decision > 0).long() if decision.ndim == 1 else decision.argmax(1)


# From a classifier, a batch (n, 3, side, side) and the positions of the classes (n,) to what is
# attributed to the numbers or the pixels of the batch.
Explain = Callable[[DifferentiableClassifier, Tensor, Tensor], Tensor]


def explained(
    classifier: DifferentiableClassifier, X: Any, y: Any, explain: Explain, *, batch_size: int
) -> np.ndarray:
    """Return what ``explain`` gives for every row, in the frame of the network."""
    batches = classifier.batches(X, y, batch_size)
    return np.concatenate([explain(classifier, *each).cpu().numpy() for each in batches])


def differentiable_shares(estimator: Any) -> tuple[Any, list[DifferentiableClassifier]]:
    """Return what averages, and its members, whose decisions add up to its own.

    An estimator that does not average is its only member.
    """
    check_is_fitted(estimator)
    inner = estimator
    while not isinstance(inner, TransferClassifier):
        if isinstance(inner, FrozenEstimator):
            inner = inner.estimator
        elif isinstance(inner, Pipeline):
            steps = _steps(inner)
            inner = steps[0] if len(steps) == 1 else None
        else:
            inner = next((getattr(inner, n) for n in _KEPT if hasattr(inner, n)), None)
        if inner is None:
            return estimator, [differentiable(estimator)]
    members = []
    for member, weight in zip(inner.estimators_, inner.weights_, strict=True):
        own = differentiable(member)
        share = as_share(own.classify, float(weight) / inner.temperature_)
        members.append(replace(own, classify=share))
    return inner, members


def differentiable(estimator: Any) -> DifferentiableClassifier:
    """Return a fitted estimator as a torch function; a TypeError names what has no gradient."""
    check_is_fitted(estimator)
    reader, classify = _as_torch(estimator)
    if reader is None:
        raise no_gradient(estimator, "the first step of a Pipeline must be the extractor")
    tuned = isinstance(reader, _TUNED)
    network, parts = _tuned_network(reader) if tuned else _frozen_network(reader)
    network = network.to(device=_device(reader), dtype=_dtype(reader)).eval().requires_grad_(False)
    for module in network.modules():
        if hasattr(module, "inplace"):
            # Would write over what the gradient needs.
            setattr(module, "inplace", False)  # noqa: B010 - torch types attributes as tensors
    classes = None if is_regressor(estimator) else np.asarray(estimator.classes_)
    return DifferentiableClassifier(
        reader, network, parts, classify, classes, _preprocessing(reader)
    )


def _as_torch(estimator: Any) -> tuple[Any, Classify]:
    """Return what reads images in an estimator, or None, and the scores from its output."""
    if isinstance(estimator, FineTuneClassifier):
        several = isinstance(estimator._target, Findings)
        return estimator, of_findings if several else of_logits
    if isinstance(estimator, FineTuneRegressor):
        return estimator, as_number(estimator)
    if isinstance(estimator, TransferClassifier):
        if len(estimator.estimators_) > 1:
            raise _several_networks(estimator)
        reader, classify = _as_torch(estimator.estimators_[0])
        return reader, as_share(classify, 1 / estimator.temperature_)
    if isinstance(estimator, CalibratedClassifierCV):
        parts = [_as_torch(each.estimator) for each in estimator.calibrated_classifiers_]
        reader = _common_reader([each for each, _ in parts], estimator)
        return reader, as_calibrated(estimator, [classify for _, classify in parts])
    if isinstance(estimator, Pipeline):
        return _pipeline_as_torch(estimator)
    if isinstance(estimator, FrozenEstimator):
        return _as_torch(estimator.estimator)
    for name in _KEPT:
        # Forests keep an unfitted tree there.
        inner = getattr(estimator, name, None)
        if hasattr(inner, "classes_") or (is_regressor(estimator) and hasattr(inner, "predict")):
            return _as_torch(getattr(estimator, name))
    return None, (as_number if is_regressor(estimator) else as_classifier)(estimator)


def _several_networks(clf: TransferClassifier) -> TypeError:
    return TypeError(
        f"This {type(clf).__name__} averages {len(clf.estimators_)} models, so there is no single "
        "network whose input could be explained. saliency_maps and SaliencyDisplay add up the maps "
        "of all on the image, and occlusion explains any estimator; for one network, give its "
        "best_estimator_ or one of its estimators_."
    )


def _pipeline_as_torch(pipeline: Pipeline) -> tuple[Any, Classify]:
    *steps, classifier = _steps(pipeline)
    if isinstance(classifier, PretrainedFeatureExtractor):
        raise TypeError(
            "The Pipeline ends with the extractor: there is no classifier whose score could be "
            "differentiated. Add one, such as LogisticRegression."
        )
    first = steps.pop(0) if steps and isinstance(steps[0], PretrainedFeatureExtractor) else None
    transforms = [as_transform(step) for step in steps]
    reader, last = _as_torch(classifier)
    if reader is not None and (transforms or first is not None):
        raise no_gradient(pipeline, "something precedes the step that reads images")

    def classify(x: Tensor) -> Scores:
        for transform in transforms:
            x = transform(x)
        return last(x)

    return first or reader, classify


def _steps(pipeline: Pipeline) -> list[Any]:
    """Return the steps that do anything, those of inner pipelines in their place."""
    found: list[Any] = []
    for _, step in pipeline.steps:
        if isinstance(step, Pipeline):
            found += _steps(step)
        elif step is not None and not (isinstance(step, str) and step == "passthrough"):
            found.append(step)
    return found


def _common_reader(readers: list[Any], owner: Any) -> Any:
    """Return the reader that members share; an ensemble of several networks has none."""
    first = readers[0]
    for other in readers[1:]:
        alike = (
            isinstance(first, PretrainedFeatureExtractor)
            and isinstance(other, PretrainedFeatureExtractor)
            and (first._info, first._outputs) == (other._info, other._outputs)
            and _preprocessing(first) == _preprocessing(other)
        )
        if not alike and other is not first:
            raise no_gradient(owner, "its members have different networks; use ensemble=False")
    return first


def _preprocessing(reader: Any) -> Preprocessing:
    if isinstance(reader, _TUNED):
        return reader._prefix.preprocessing
    return reader._preprocessing_for(reader._info.input_spec)


def _device(reader: Any) -> str:
    if isinstance(reader, _TUNED):
        return reader.device_
    return resolve_device(reader.device, reader.precision)


def _dtype(reader: Any) -> torch.dtype:
    # Half precision has no gradients worth a look.
    return torch.float64 if reader.precision == "float64" else torch.float32


def _frozen_network(extractor: PretrainedFeatureExtractor) -> tuple[nn.Module, tuple[Part, ...]]:
    info = extractor._info
    chain = _chain(extractor._found(), info, extractor._outputs)
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
    chain = _chain(prefix.source, prefix.info, prefix.outputs)
    return nn.Sequential(_SideBySide(chain), suffix), (*_parts_of_chain(chain), *parts)


def _parts_of_chain(chain: LayerOutputs) -> tuple[Part, ...]:
    parts = [
        Part(stage.name, module, stage.layout)
        for stage, module in zip(chain.info.stages, chain.stages, strict=False)
    ]
    return (*parts, Part("neck", chain.neck, None)) if len(chain.neck) else tuple(parts)


def _chain(
    source: NetworkSource, info: NetworkInfo, outputs: tuple[LayerOutput, ...]
) -> LayerOutputs:
    """Return a copy of the leading part of a network as it was published."""
    backbone = source.load()
    neck = backbone.neck
    ends = None if neck is None else (neck.norm, nn.Sequential(neck.pool, neck.post))
    stages = [stage.module for stage in backbone.stages]
    return copy.deepcopy(LayerOutputs(info, stages, ends, outputs))


class _SideBySide(nn.Module):
    """Several outputs as the columns of one tensor, as extractors return them."""

    def __init__(self, chain: LayerOutputs) -> None:
        super().__init__()
        self.chain = chain

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(self.chain(x), dim=1)
