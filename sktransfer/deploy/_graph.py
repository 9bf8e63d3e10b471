"""An ONNX graph that is put together: nodes, constants and whole models.

It must not know estimators, networks or images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sktransfer._utils.config import import_optional

# What onnxruntime 1.14 of February 2023 and everything newer runs; and of the operators for trees.
OPSET, ML_OPSET = 18, 3
_IR_VERSION = 8
_ML = "ai.onnx.ml"


def import_onnx(module: str = "onnx") -> Any:
    """Import a package of the extra ``onnx``."""
    return import_optional(module, extra="onnx", purpose="export_onnx")


def session_of(model: bytes | str, **options: Any) -> Any:
    """Return a session of onnxruntime that runs a model or file, exactly on every processor.

    Without the first setting, those that add two products of integers in 16 bits (x86 without VNNI)
    cut what is larger.
    """
    runtime = import_onnx("onnxruntime")
    settings = runtime.SessionOptions()
    settings.add_session_config_entry("session.x64quantprecision", "1")
    for name, value in options.items():
        setattr(settings, name, value)
    return runtime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])


class Graph:
    """Nodes in the order in which they are computed; values are known by their names.

    Calling it adds a node: ``graph("Mul", x, 0.5)`` returns the name of the product. Numbers and
    arrays become constants, of their own dtype; numbers are int64 or float64.
    """

    def __init__(self, prefix: str = "") -> None:
        self._onnx, self._prefix = import_onnx(), prefix
        self.nodes: list[Any] = []
        self._constants: dict[tuple, Any] = {}
        self._count = 0

    def __call__(self, kind: str, *inputs: Any, domain: str = "", **attributes: Any) -> str:
        return self.several(1, kind, *inputs, domain=domain, **attributes)[0]

    def several(
        self, n: int, kind: str, *inputs: Any, domain: str = "", **attributes: Any
    ) -> list[str]:
        """Add a node of ``n`` outputs, and return their names."""
        names = [each if isinstance(each, str) else self.constant(each) for each in inputs]
        outputs = [self._new(kind) for _ in range(n)]
        self.nodes.append(
            self._onnx.helper.make_node(
                kind, names, outputs, outputs[0], domain=domain, **attributes
            )
        )
        return outputs

    def either(self, condition: str, kind: str, value: str, *attributes: dict[str, Any]) -> str:
        """Add a node that is one of two, which differ in their attributes and in shape."""
        helper, branches = self._onnx.helper, []
        for own in attributes:
            node = helper.make_node(kind, [value], [self._new(kind)], **own)
            unknown = helper.make_tensor_value_info(
                node.output[0], self._onnx.TensorProto.UINT8, None
            )
            branches.append(helper.make_graph([node], "branch", [], [unknown]))
        return self("If", condition, then_branch=branches[0], else_branch=branches[1])

    def cast(self, value: str, dtype: Any) -> str:
        """Add a node that changes the dtype."""
        to = self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self("Cast", value, to=to)

    def constant(self, value: Any) -> str:
        """Return the name of a constant; equal ones are one."""
        array = np.ascontiguousarray(value).reshape(np.shape(value))
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = self._new("constant")
            self._constants[key] = self._onnx.numpy_helper.from_array(array, name)
        return self._constants[key].name

    def tensor(self, array: np.ndarray) -> Any:
        """Return an array as an attribute takes it."""
        return self._onnx.numpy_helper.from_array(array, self._new("tensor"))

    def insert(self, model: Any, *inputs: str, name: str) -> list[str]:
        """Add all nodes of a model under names of its own; return the names of its outputs."""
        prefix = f"{self._new(name)}/"
        inner = self._onnx.compose.add_prefix(model, prefix).graph
        constants = {each.name for each in inner.initializer}
        free = [each.name for each in inner.input if each.name not in constants]
        names = dict(zip(free, inputs, strict=True))
        for node in inner.node:
            for place, each in enumerate(node.input):
                node.input[place] = names.get(each, each)
        self.nodes += inner.node
        self._constants |= {(each.name,): each for each in inner.initializer}
        return [names.get(each.name, each.name) for each in inner.output]

    def add_to(self, model: Any) -> None:
        """Add all nodes and constants to a model, in order, and drop what it has in vain."""
        model.graph.node.extend(self.nodes)
        model.graph.initializer.extend(self._constants.values())
        made = import_onnx("onnxruntime.quantization.onnx_model").ONNXModel(model)
        made.topological_sort()
        made.clean_initializers()

    def rename(self, value: str, name: str) -> None:
        """Give a value the name that other nodes know it by."""
        self.nodes.append(self._onnx.helper.make_node("Identity", [value], [name], self._new(name)))

    def model(self, inputs: Sequence[Any], outputs: Sequence[Any], metadata: dict[str, str]) -> Any:
        """Return the model; inputs and outputs are (name, dtype, shape)."""
        helper = self._onnx.helper

        def described(name: str, dtype: Any, shape: Sequence[Any]) -> Any:
            kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
            return helper.make_tensor_value_info(name, kind, shape)

        graph = helper.make_graph(
            self.nodes,
            "sktransfer",
            [described(*each) for each in inputs],
            [described(*each) for each in outputs],
            [*self._constants.values()],
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(_ML, ML_OPSET)]
        model = helper.make_model(
            graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="sktransfer"
        )
        helper.set_model_props(model, metadata)
        return model

    def _new(self, name: str) -> str:
        self._count += 1
        return f"{self._prefix}{name}_{self._count}"
