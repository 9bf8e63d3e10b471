"""What 8-bit integers pass through without becoming floats, in a graph that is quantized.

It must not know images or estimators, nor how ranges are found.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sktransfer.deploy._graph import Graph, import_onnx


def shapes_of(model: Any) -> dict[str, list[int]]:
    """Return the shapes of values that can be inferred; 0 where a length cannot."""
    known = import_onnx().shape_inference.infer_shapes(model).graph
    return {
        value.name: [each.dim_value for each in value.type.tensor_type.shape.dim]
        for value in (*known.value_info, *known.output)
    }


def _users(model: Any) -> dict[str, list[Any]]:
    """Return what takes each value: nodes, and None for the outputs of the model."""
    users: dict[str, list[Any]] = {each.name: [None] for each in model.graph.output}
    for node in model.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    return users


def _behind(name: str, users: dict[str, list[Any]]) -> list[Any]:
    """Return all nodes that depend on a value."""
    found: dict[int, Any] = {}
    waiting = [name]
    while waiting:
        for node in users.get(waiting.pop(), []):
            if node is not None and id(node) not in found:
                found[id(node)] = node
                waiting += node.output
    return [*found.values()]


def pairs_of(model: Any) -> list[tuple[Any, str, Any]]:
    """Return convolutions that only a ReLU is between, and the map that comes out of it."""
    constants = {each.name: each for each in model.graph.initializer}
    users = _users(model)

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


def concatenate_integers(model: Any, floats: Any) -> None:
    """Give what is concatenated one range, that of the whole: integers are then copied.

    ``floats`` is the model before. What had a range of its own would be rounded twice.
    """
    helper, users = import_onnx().numpy_helper, _users(model)
    constants = {each.name: each for each in model.graph.initializer}
    makers = {each: node for node in model.graph.node for each in node.output}
    # Ranges bound these, not nodes: another range is another bound.
    clipped = {node.output[0] for node in floats.graph.node if node.op_type == "Clip"}

    def made_by(name: str, kind: str) -> Any:
        """Return the node of this kind whose only user takes the value."""
        maker = makers.get(name)
        fits = maker is not None and maker.op_type == kind and len(users[name]) == 1
        return maker if fits else None

    for node in [each for each in model.graph.node if each.op_type == "Concat"]:
        [behind, *others] = users[node.output[0]]
        before = [made_by(each, "DequantizeLinear") for each in node.input]
        given = [each and made_by(each.input[0], "QuantizeLinear") for each in before]
        if others or behind is None or behind.op_type != "QuantizeLinear" or not all(given):
            continue
        whole = [helper.to_array(constants[each]) for each in behind.input[1:]]
        if any(
            each.input[0] in clipped
            # What keeps its input's range, as MaxPool does, has its very scale.
            or any(len(users[name]) != 2 for name in each.input[1:])
            or helper.to_array(constants[each.input[2]]) != whole[1]
            for each in given
        ):
            continue
        for each in given:
            for name, value in zip(each.input[1:], whole, strict=True):
                constants[name].CopyFrom(helper.from_array(value, name))
        node.input[:], node.output[:] = [each.output[0] for each in given], behind.output
        makers[node.output[0]] = node
        for each in (*before, behind):
            model.graph.node.remove(each)


def average_integers(model: Any) -> None:
    """Sum integers where maps are averaged: exact, and fast with channels last.

    That is how onnxruntime has the maps, which undoes the transposition. They become floats
    together, so averages that others depend on, as in squeeze-and-excitation, stay as they are.
    """
    onnx, g, users = import_onnx(), Graph("averages/"), _users(model)
    makers = {each: node for node in model.graph.node for each in node.output}
    constants = {each.name: each for each in model.graph.initializer}
    shapes = shapes_of(model)
    sums: dict[str, str] = {}
    units = []
    for node in [each for each in model.graph.node if each.op_type == "ReduceMean"]:
        flat = before = makers.get(node.input[0])
        if flat is not None and flat.op_type == "Reshape":  # (image, channel, position)
            before = makers.get(flat.input[0])
        if before is None or before.op_type != "DequantizeLinear":
            continue
        name = node.output[0]
        size, rows = (shapes.get(each, []) for each in (before.output[0], node.input[0]))
        if len(size) != 4 or rows[:2] != size[:2] or not _over_positions(node, rows, constants):
            continue
        if any(each.op_type == "ReduceMean" for each in _behind(name, users)):
            continue
        given, scale, zero = before.input
        n = size[2] * size[3]
        last = g("Reshape", g("Transpose", given, perm=[0, 2, 3, 1]), np.array([n, size[1]]))
        sums[name] = g("MatMulInteger", np.ones((1, n), np.uint8), last, "", zero)
        unit = onnx.numpy_helper.to_array(constants[scale]) / n
        units.append(np.full(size[1], unit, np.float32))
        model.graph.node.remove(node)
        if flat is not before and len(users[node.input[0]]) == 1:
            model.graph.node.remove(flat)
    if sums:
        means = g(
            "Mul", g.cast(g("Concat", *sums.values(), axis=1), "float32"), np.concatenate(units)
        )
        lengths = np.array([len(each) for each in units])
        for name, own in zip(
            sums, g.several(len(sums), "Split", means, lengths, axis=1), strict=True
        ):
            g.rename(
                own if len(shapes[name]) == 2 else g("Reshape", own, np.array(shapes[name])), name
            )
        g.add_to(model)


def _over_positions(node: Any, shape: list[int], constants: dict[str, Any]) -> bool:
    """Return whether a mean is over all that follows image and channel, and nothing else."""
    onnx = import_onnx()
    given = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    axes = given.get("axes")
    if axes is None and len(node.input) > 1 and node.input[1] in constants:
        axes = onnx.numpy_helper.to_array(constants[node.input[1]])
    positions = set(range(2, len(shape)))
    return axes is not None and {int(each) % len(shape) for each in axes} == positions


def shift_outputs(model: Any, shifts: list[np.ndarray]) -> None:
    """Add an array to each output, in one go."""
    g, names = Graph("shifts/"), [each.name for each in model.graph.output]
    before = {each: f"{each}/before" for each in names}
    for node in model.graph.node:
        node.input[:] = [before.get(each, each) for each in node.input]
        node.output[:] = [before.get(each, each) for each in node.output]
    shifted = g("Add", g("Concat", *before.values(), axis=1), np.concatenate(shifts, axis=1))
    lengths = np.array([each.shape[1] for each in shifts])
    for own, name in zip(
        g.several(len(names), "Split", shifted, lengths, axis=1), names, strict=True
    ):
        g.rename(own, name)
    g.add_to(model)
