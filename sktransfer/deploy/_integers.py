"""Networks in 8-bit integers, as onnxruntime runs them.

It must not know estimators. Ranges come from images. Channels are brought to one range before, and
each convolution's bias makes up for its rounded weights (Nagel et al. 2019, "Data-free quantization
through weight equalization and bias correction"). The mean error that is left in each output on the
images is subtracted.
"""

from __future__ import annotations

import copy
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from sktransfer.deploy._graph import import_onnx, session_of
from sktransfer.deploy._integer_graph import (
    average_integers,
    concatenate_integers,
    pairs_of,
    shapes_of,
    shift_outputs,
)

# Between two of them that are quantized, onnxruntime need not leave the integers.
_KINDS = (
    *("Conv", "Gemm", "MatMul", "Add", "Mul", "Concat"),
    *("Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool"),
)
# Networks of depthwise convolutions, which sum few products, enlarge what was rounded on maps wider
# than this share of the image's side, and gain no time there.
_WIDE = 0.25
# A channel is enlarged at most so much; what was seen may be exceeded by a quarter.
_MOST, _MARGIN = 8.0, 1.25
# Ranges hardly change beyond these.
_MOST_IMAGES = 128


def quantized(model: Any, images: Tensor, name: str) -> tuple[Any, float]:
    """Return a model of one normalized image in integers, and how many times as fast it is here.

    Ranges come from such images.
    """
    onnx = import_onnx()
    quantization = import_onnx("onnxruntime.quantization")
    shapes = import_onnx("onnxruntime.quantization.shape_inference")
    rows = images[:_MOST_IMAGES].numpy()
    given = model.graph.input[0].name

    class Reader(quantization.CalibrationDataReader):  # type: ignore[name-defined]
        def __init__(self) -> None:
            self._rows = iter(rows)

        def get_next(self) -> dict[str, np.ndarray] | None:
            row = next(self._rows, None)
            return None if row is None else {given: row[None]}

    def session(made: Any) -> Any:
        return session_of(made.SerializeToString(), intra_op_num_threads=1)

    try:
        with tempfile.TemporaryDirectory(prefix="sktransfer-onnx-") as folder, _quiet():
            whole, prepared, made = (str(Path(folder) / f"{n}.onnx") for n in ("a", "b", "c"))
            onnx.save(model, whole)
            shapes.quant_pre_process(whole, prepared, skip_symbolic_shape=True)
            equal = onnx.load(prepared)
            _equalize(equal, rows, session)
            left = _left_as_they_are(equal, images.shape[2])
            _correct_biases(equal, rows, session, left)
            onnx.save(equal, prepared)
            quantization.quantize_static(
                prepared,
                made,
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=list(_KINDS),
                nodes_to_exclude=left,
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
            integers = onnx.load(made)
            concatenate_integers(integers, equal)
            average_integers(integers)
        errors, faster = _compared(session(model), session(integers), rows)
    except Exception as error:  # whatever it raises
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{name} cannot be quantized: {said}") from error
    shift_outputs(integers, errors)
    return integers, faster


def _compared(floats: Any, integers: Any, rows: np.ndarray) -> tuple[list[np.ndarray], float]:
    """Return the mean error of each output, and how many times as fast the integers are."""
    (right, slower), (own, faster) = (_ran(each, rows) for each in (floats, integers))
    errors = [
        np.mean([a - b for a, b in zip(*pair, strict=True)], axis=0, dtype=np.float64)
        for pair in zip(zip(*right, strict=True), zip(*own, strict=True), strict=True)
    ]
    return [np.asarray(each, np.float32) for each in errors], slower / faster


def _ran(session: Any, rows: np.ndarray) -> tuple[list[list[np.ndarray]], float]:
    """Return the outputs for each image, and the time for one."""
    given, made, spent = session.get_inputs()[0].name, [], []
    for row in rows:
        start = time.thread_time()  # others may use the machine
        made.append(session.run(None, {given: row[None]}))
        spent.append(time.thread_time() - start)
    return made, float(np.median(spent))


def _seen(
    model: Any, names: list[str], rows: np.ndarray, session: Callable[[Any], Any], what: Any
) -> list[np.ndarray]:
    """Return the mean or maximum of the channels of each map over all images."""
    given = model.graph.input[0].name
    watched = copy.deepcopy(model)
    asked = [each for each in dict.fromkeys(names) if each != given]
    known = {each.name for each in watched.graph.output}
    watched.graph.output.extend(
        import_onnx().helper.make_tensor_value_info(each, 1, None)
        for each in asked
        if each not in known
    )
    runs, found = session(watched), []
    for row in rows:
        made = runs.run(asked, {given: row[None]}) if asked else []
        maps = {given: row[None], **dict(zip(asked, made, strict=True))}
        found.append(
            {
                name: what(each[0], axis=tuple(range(1, each.ndim - 1)))
                for name, each in maps.items()
            }
        )
    return [what([each[name] for each in found], axis=0) for name in names]


def _equalize(model: Any, rows: np.ndarray, session: Callable[[Any], Any]) -> None:
    """Enlarge channels between two convolutions that use little of the range of their map.

    A map has one range in integers. Its channels are multiplied before a ReLU, which lets a factor
    pass, and divided in the next convolution: by all of it if each channel has weights of its own,
    by the root otherwise, or the weights would lose what the map gains.
    """
    onnx = import_onnx()
    pairs = pairs_of(model)
    maps = _seen(model, [name for _, name, _ in pairs], rows, session, np.max)
    constants = {each.name: each for each in model.graph.initializer}

    def multiply(name: str, factor: np.ndarray, axis: int) -> None:
        weights = onnx.numpy_helper.to_array(constants[name])
        shape = [-1 if k == axis else 1 for k in range(weights.ndim)]
        made = weights * factor.reshape(shape).astype(np.float32)
        constants[name].CopyFrom(onnx.numpy_helper.from_array(made, name))

    for (before, _, behind), most in zip(pairs, maps, strict=True):
        own = constants[behind.input[1]].dims[1] == 1
        wanted = most.max() / np.maximum(_MARGIN * most, 1e-30)
        factor = np.clip(wanted, 1, _MOST) ** (1 if own else 0.5)
        for name in before.input[1:]:
            multiply(name, factor, 0)
        multiply(behind.input[1], 1 / factor, 0 if own else 1)


def _correct_biases(
    model: Any, rows: np.ndarray, session: Callable[[Any], Any], left: list[str]
) -> None:
    """Take from each bias what the rounding of weights adds on average."""
    helper = import_onnx().numpy_helper
    constants = {each.name: each for each in model.graph.initializer}
    nodes = [
        node
        for node in model.graph.node
        if node.op_type == "Conv"
        and node.name not in left
        and all(name in constants for name in node.input[1:])
    ]
    maps = _seen(model, [node.input[0] for node in nodes], rows, session, np.mean)
    for node, mean in zip(nodes, maps, strict=True):
        weights, *bias = (helper.to_array(constants[name]) for name in node.input[1:])
        # As onnxruntime rounds them: -127 to 127 for each channel.
        unit = np.abs(weights).reshape(len(weights), -1).max(axis=1) / 127
        unit = np.where(unit > 0, unit, 1).reshape(-1, *[1] * (weights.ndim - 1))
        added = np.round(weights / unit) * unit - weights
        added = added.reshape(*weights.shape[:2], -1).sum(axis=2)
        groups = mean.reshape(-1, weights.shape[1])
        seen = np.repeat(groups, len(weights) // len(groups), axis=0)
        less = (added * seen).sum(axis=1, dtype=np.float32)
        name = f"{node.output[0]}/bias"
        model.graph.initializer.append(helper.from_array(sum(bias) - less, name))
        node.input[:] = [*node.input[:2], name]
    import_onnx("onnxruntime.quantization.onnx_model").ONNXModel(model).clean_initializers()


def _left_as_they_are(model: Any, side: int) -> list[str]:
    """Return the names of convolutions that are not quantized."""
    known = shapes_of(model)
    constants = {each.name: list(each.dims) for each in model.graph.initializer}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    if all(constants.get(node.input[1], [0, 0])[1] != 1 for node in convolutions):
        return []
    wide = {n.name for n in convolutions if known.get(n.output[0], [0] * 4)[2] > _WIDE * side}
    # Where floats become integers, or the other way, costs least on a map of few channels.
    widening = {
        before.name
        for before, _, behind in pairs_of(model)
        if behind.name not in wide and constants[before.input[1]][0] > constants[before.input[1]][1]
    }
    return sorted(wide - widening)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep onnxruntime from logging advice."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
