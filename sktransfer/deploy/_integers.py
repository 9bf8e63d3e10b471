"""Networks in 8-bit integers, as onnxruntime runs them.

It must not know estimators. Ranges come from images; the mean error that is left in each output on
them is subtracted.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
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
# As for the library's own integers: depthwise convolutions sum few products, and networks of them
# enlarge what was rounded on maps wider than this share of the image's side.
_WIDE = 0.125
# Ranges hardly change beyond these.
_MOST_IMAGES = 128


def quantized(model: Any, images: Tensor, name: str) -> Any:
    """Return a model of one normalized image in integers, with ranges from such images."""
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

    def outputs(made: Any) -> list[np.ndarray]:
        session = runtime.InferenceSession(
            made.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        found = [session.run(None, {given: row[None]}) for row in rows]
        return [np.concatenate(each) for each in zip(*found, strict=True)]

    try:
        with tempfile.TemporaryDirectory(prefix="sktransfer-onnx-") as folder, _quiet():
            whole, prepared, made = (str(Path(folder) / f"{n}.onnx") for n in ("a", "b", "c"))
            onnx.save(model, whole)
            shapes.quant_pre_process(whole, prepared, skip_symbolic_shape=True)
            quantization.quantize_static(
                prepared,
                made,
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=list(_KINDS),
                nodes_to_exclude=_left_as_they_are(onnx.load(prepared), images.shape[2]),
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
            integers = onnx.load(made)
        errors = [
            right.mean(axis=0) - own.mean(axis=0)
            for right, own in zip(outputs(model), outputs(integers), strict=True)
        ]
    except Exception as error:  # whatever it raises
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{name} cannot be quantized: onnxruntime says {said}") from error
    for output, shift in zip(integers.graph.output, errors, strict=True):
        constant = onnx.numpy_helper.from_array(shift[None], f"{output.name}/shift")
        integers.graph.initializer.append(constant)
        before = f"{output.name}/before"
        for node in integers.graph.node:
            node.output[:] = [before if each == output.name else each for each in node.output]
            node.input[:] = [before if each == output.name else each for each in node.input]
        integers.graph.node.append(
            onnx.helper.make_node("Add", [before, constant.name], [output.name])
        )
    return integers


def _left_as_they_are(model: Any, side: int) -> list[str]:
    """Return the names of convolutions that are not quantized."""
    known = {
        value.name: [each.dim_value for each in value.type.tensor_type.shape.dim]
        for value in import_onnx().shape_inference.infer_shapes(model).graph.value_info
    }
    constants = {each.name: list(each.dims) for each in model.graph.initializer}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    depthwise = {node.name for node in convolutions if constants.get(node.input[1], [0, 0])[1] == 1}
    if not depthwise:
        return []
    wide = {n.name for n in convolutions if known.get(n.output[0], [0] * 4)[2] > _WIDE * side}
    return sorted(depthwise | wide)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep onnxruntime from logging advice."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
