"""Networks in 8-bit integers, as onnxruntime runs them.

It must not know estimators. Ranges come from images; the mean error that is left in each output on
them is subtracted. Channels are brought to one range before (Nagel et al. 2019, "Data-free
quantization through weight equalization and bias correction").
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

from sktransfer.deploy._graph import import_onnx

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
    onnx, runtime = import_onnx(), import_onnx("onnxruntime")
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
        options = runtime.SessionOptions()
        options.intra_op_num_threads = 1
        return runtime.InferenceSession(
            made.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    try:
        with tempfile.TemporaryDirectory(prefix="sktransfer-onnx-") as folder, _quiet():
            whole, prepared, made = (str(Path(folder) / f"{n}.onnx") for n in ("a", "b", "c"))
            onnx.save(model, whole)
            shapes.quant_pre_process(whole, prepared, skip_symbolic_shape=True)
            equal = onnx.load(prepared)
            _equalize(equal, rows, session)
            onnx.save(equal, prepared)
            quantization.quantize_static(
                prepared,
                made,
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=list(_KINDS),
                nodes_to_exclude=_left_as_they_are(equal, images.shape[2]),
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
            integers = onnx.load(made)
        errors, faster = _compared(session(model), session(integers), rows)
    except Exception as error:  # whatever it raises
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{name} cannot be quantized: onnxruntime says {said}") from error
    for output, shift in zip(integers.graph.output, errors, strict=True):
        constant = onnx.numpy_helper.from_array(shift, f"{output.name}/shift")
        integers.graph.initializer.append(constant)
        before = f"{output.name}/before"
        for node in integers.graph.node:
            node.output[:] = [before if each == output.name else each for each in node.output]
            node.input[:] = [before if each == output.name else each for each in node.input]
        integers.graph.node.append(
            onnx.helper.make_node("Add", [before, constant.name], [output.name])
        )
    return integers, faster


def _compared(floats: Any, integers: Any, rows: np.ndarray) -> tuple[list[np.ndarray], float]:
    """Return the mean error of each output, and how many times as fast the integers are."""
    given = floats.get_inputs()[0].name
    errors, spent = [np.zeros(1, np.float32)] * len(floats.get_outputs()), []
    for row in rows:
        start = time.thread_time()  # others may use the machine
        right = floats.run(None, {given: row[None]})
        middle = time.thread_time()
        own = integers.run(None, {given: row[None]})
        spent.append((middle - start, time.thread_time() - middle))
        errors = [e + (a - b) / len(rows) for e, a, b in zip(errors, right, own, strict=True)]
    own_time, other_time = np.median(spent, axis=0)
    return errors, float(own_time / other_time)


def _equalize(model: Any, rows: np.ndarray, session: Callable[[Any], Any]) -> None:
    """Enlarge channels between two convolutions that use little of the range of their map.

    A map has one range in integers. Its channels are multiplied before a ReLU, which lets a factor
    pass, and divided in the next convolution: by all of it if each channel has weights of its own,
    by the root otherwise, or the weights would lose what the map gains.
    """
    onnx = import_onnx()
    pairs = _pairs(model)
    if not pairs:
        return
    watched = copy.deepcopy(model)
    maps = [onnx.helper.make_tensor_value_info(each, 1, None) for _, each, _ in pairs]
    watched.graph.output.extend(maps)
    runs, names = session(watched), [each.name for each in maps]
    largest = [np.zeros(1, np.float32)] * len(pairs)
    for row in rows:
        found = runs.run(names, {model.graph.input[0].name: row[None]})
        largest = [
            np.maximum(a, b.max(axis=(0, 2, 3))) for a, b in zip(largest, found, strict=True)
        ]
    constants = {each.name: each for each in model.graph.initializer}

    def multiply(name: str, factor: np.ndarray, axis: int) -> None:
        weights = onnx.numpy_helper.to_array(constants[name])
        shape = [-1 if k == axis else 1 for k in range(weights.ndim)]
        made = weights * factor.reshape(shape).astype(np.float32)
        constants[name].CopyFrom(onnx.numpy_helper.from_array(made, name))

    for (before, _, behind), most in zip(pairs, largest, strict=True):
        own = constants[behind.input[1]].dims[1] == 1
        wanted = most.max() / np.maximum(_MARGIN * most, 1e-30)
        factor = np.clip(wanted, 1, _MOST) ** (1 if own else 0.5)
        for name in before.input[1:]:
            multiply(name, factor, 0)
        multiply(behind.input[1], 1 / factor, 0 if own else 1)


def _pairs(model: Any) -> list[tuple[Any, str, Any]]:
    """Return convolutions that only a ReLU is between, and the map that comes out of it."""
    constants = {each.name: each for each in model.graph.initializer}
    users: dict[str, list[Any]] = {each.name: [None] for each in model.graph.output}
    for node in model.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)

    def only(node: Any, *kinds: str) -> Any:
        """Return the node that alone takes what comes out of this one, if it is of these kinds."""
        following = [] if node is None else users.get(node.output[0], [])
        fits = len(following) == 1 and following[0] is not None and following[0].op_type in kinds
        return following[0] if fits else None

    found = []
    for before in model.graph.node:
        middle = only(before, "Relu", "Clip") if before.op_type == "Conv" else None
        behind = only(middle, "Conv")
        if middle is None or behind is None:
            continue
        weights = [*before.input[1:], behind.input[1]]
        if any(name not in constants or len(users[name]) > 1 for name in weights):
            continue
        low = constants.get(middle.input[1]) if middle.op_type == "Clip" else None
        from_zero = low is None or not import_onnx().numpy_helper.to_array(low).any()
        width, shape = constants[weights[0]].dims[0], constants[behind.input[1]].dims
        if from_zero and (shape[1] == width or (shape[0], shape[1]) == (width, 1)):
            found.append((before, middle.output[0], behind))
    return found


def _left_as_they_are(model: Any, side: int) -> list[str]:
    """Return the names of convolutions that are not quantized."""
    known = {
        value.name: [each.dim_value for each in value.type.tensor_type.shape.dim]
        for value in import_onnx().shape_inference.infer_shapes(model).graph.value_info
    }
    constants = {each.name: list(each.dims) for each in model.graph.initializer}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    if all(constants.get(node.input[1], [0, 0])[1] != 1 for node in convolutions):
        return []
    wide = {n.name for n in convolutions if known.get(n.output[0], [0] * 4)[2] > _WIDE * side}
    # Where floats become integers, or the other way, costs least on a map of few channels.
    widening = {
        before.name
        for before, _, behind in _pairs(model)
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
