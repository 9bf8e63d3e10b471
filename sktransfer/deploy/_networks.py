"""The networks of an estimator in an ONNX graph: from an image to features or logits.

What several steps take out of one network on the same input is computed in one pass.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sktransfer._extractor import PretrainedFeatureExtractor
from sktransfer._finetune import FineTuneClassifier
from sktransfer._finetune._adapters import merge
from sktransfer._frozen import REGISTRY, Calibration, LayerOutput, LayerOutputs, calibration_on
from sktransfer._images import Preprocessing
from sktransfer.deploy._graph import OPSET, Graph, import_onnx
from sktransfer.deploy._integers import quantized
from sktransfer.deploy._resize import add_preprocessing

READERS = (PretrainedFeatureExtractor, FineTuneClassifier)


class _Tuned(nn.Module):
    """A network that was fine-tuned, from a normalized batch to logits."""

    def __init__(self, classifier: FineTuneClassifier) -> None:
        super().__init__()
        prefix = classifier._prefix
        self.suffix = copy.deepcopy(classifier.module_).cpu().eval()
        merge(self.suffix)
        self.suffix.requires_grad_(False)
        self.chain = _chain(prefix, prefix.outputs) if prefix.cut.depth else None
        self.halved = [dtype.itemsize == 2 for dtype in prefix.dtypes]

    def forward(self, x: Tensor) -> tuple[Tensor]:
        if self.chain is None:
            return (self.suffix(x.flatten(1)),)
        parts = []
        for part, halved in zip(self.chain(x), self.halved, strict=True):
            if halved:  # as the store keeps it, but for what does not fit
                stored = part.half().float()
                part = torch.where(stored.isinf().any(), part, stored)
            parts.append(part)
        return (self.suffix(torch.cat(parts, dim=1)),)


@dataclass
class _Network:
    """A network, what it is given, and what is taken out of it by which name."""

    reader: Any
    preprocessing: Preprocessing
    integers: bool = False
    outputs: dict[LayerOutput | None, str] = field(default_factory=dict)

    def module(self) -> nn.Module:
        """Return what computes all outputs, as a tuple."""
        if isinstance(self.reader, FineTuneClassifier):
            return _Tuned(self.reader)
        frozen = self.reader._frozen(self.reader._found(), self.reader._info)
        return _chain(frozen, tuple(each for each in self.outputs if each is not None))


class Networks:
    """The networks that a graph needs; they are added when all that is taken out is known.

    ``precision`` is "float32" or "int8", or "auto" for that of each extractor. ``calibration``
    returns what a network of this preprocessing is quantized on, or None for that of its extractor.
    """

    def __init__(
        self,
        g: Graph,
        precision: str,
        calibration: Callable[[Preprocessing], Calibration] | None,
    ) -> None:
        self._g, self._precision, self._calibration = g, precision, calibration
        self._networks: dict[Any, _Network] = {}
        self.readers: list[Any] = []
        self.faster: list[float] = []  # of networks in integers, how many times

    def rows(self, reader: Any) -> str:
        """Return the name of what a reader makes of the image: features or logits, in float64."""
        self.readers.append(reader)
        key: Any
        if isinstance(reader, FineTuneClassifier):
            _check_views(reader)
            wanted: tuple[LayerOutput | None, ...] = (None,)
            preprocessing, key = reader._prefix.preprocessing, ("tuned", id(reader))
            integers = self._precision == "int8"
        else:
            wanted = reader._outputs
            preprocessing = reader._preprocessing_for(reader._info.input_spec)
            asked = reader.precision if self._precision == "auto" else self._precision
            integers = asked == "int8"
            key = (reader.reference_, preprocessing, integers)
        _check_preprocessing(preprocessing, reader)
        network = self._networks.setdefault(key, _Network(reader, preprocessing, integers))
        for output in wanted:
            network.outputs.setdefault(
                output, f"output_{len(self._networks)}_{len(network.outputs)}"
            )
        names = [network.outputs[output] for output in wanted]
        joined = self._g("Concat", *names, axis=1) if len(names) > 1 else names[0]
        return self._g.cast(joined, "float64")

    @property
    def precision(self) -> str:
        """What is computed in: "int8" if any network is."""
        return "int8" if any(each.integers for each in self._networks.values()) else "float32"

    @property
    def preprocessings(self) -> list[Preprocessing]:
        """What is made of an image, in different ways if there are several networks."""
        return list(dict.fromkeys(each.preprocessing for each in self._networks.values()))

    def add(self, image: str) -> None:
        """Put preprocessing and networks in front of what is in the graph."""
        g = self._g
        behind, g.nodes = g.nodes, []
        floats = {each.preprocessing for each in self._networks.values() if not each.integers}
        batches = {
            each: add_preprocessing(g, image, each, exact=each in floats)
            for each in self.preprocessings
        }
        for network in self._networks.values():
            name = network.reader.reference_.name
            model = exported(network.module(), network.preprocessing.size, name)
            if network.integers:
                model, faster = quantized(model, self._images_for(network), name)
                self.faster.append(faster)
            made = g.insert(model, batches[network.preprocessing], name=name.replace("/", "_"))
            for found, expected in zip(made, network.outputs.values(), strict=True):
                g.rename(found, expected)
        g.nodes += behind

    def _images_for(self, network: _Network) -> Tensor:
        """Return normalized images to quantize on."""
        reader = network.reader
        if self._calibration is not None:
            own = self._calibration(network.preprocessing)
        elif getattr(reader, "precision", "") == "int8":
            own = reader._calibration(network.preprocessing)
        else:
            own = calibration_on(None, "", network.preprocessing)
        return own.load()[0]


def _chain(frozen: Any, outputs: tuple[LayerOutput, ...]) -> LayerOutputs:
    """Return the frozen part of a network as it runs in torch, in float32."""
    network = REGISTRY.get(frozen.source, frozen.info.depth(outputs))
    return LayerOutputs(network.info, network.stages, network.neck, outputs)


def exported(module: nn.Module, side: int, name: str) -> Any:
    """Return a module that takes one normalized image, and returns a tuple, as an ONNX model."""
    import_onnx("onnxscript")
    batch = torch.zeros(1, 3, side, side)
    try:
        with torch.no_grad(), _quiet():
            program = torch.onnx.export(
                module.eval(), (batch,), dynamo=True, opset_version=OPSET, verbose=False
            )
        assert program is not None
        model = program.model_proto
        found = {each.domain: each.version for each in model.opset_import}
    except Exception as error:  # whatever its passes raise
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{name} cannot be exported to ONNX: torch.onnx says {said}") from error
    if found.get("") != OPSET:
        raise ValueError(
            f"{name} cannot be exported to ONNX in opset {OPSET}; torch needs {found}."
        )
    return model


@contextmanager
def _quiet() -> Any:
    """Keep the exporter from talking: what goes wrong is raised, or found when it is compared."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _check_preprocessing(preprocessing: Preprocessing, reader: Any) -> None:
    if preprocessing.function is not None:
        raise ValueError(
            f"The preprocessing of {type(reader).__name__} is a callable, code that cannot be "
            "exported to ONNX. Use preprocessing='weights', 'resize' or 'pad'."
        )
    if preprocessing.min_decode_side is not None:
        warnings.warn(
            f"scaled_decoding=True of {type(reader).__name__} is about decoding, which is not in "
            "the ONNX file: given images decoded in full, it will differ by what that changes.",
            stacklevel=2,
        )


def _check_views(classifier: FineTuneClassifier) -> None:
    n_views = classifier.augmentation__test_time_views or 1
    if n_views > 1:
        raise ValueError(
            f"{type(classifier).__name__} averages {n_views} augmented views of an image "
            "(augmentation__test_time_views), which cannot be exported to ONNX. Set it to None."
        )
