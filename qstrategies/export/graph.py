"""Small helpers over onnx_ir that the passes share."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Array = NDArray[Any]


def constant(value: ir.Value | None) -> Array | None:
    """The array that ``value`` always has (an initializer or the output of a Constant node), else
    None."""
    if value is None or value.const_value is None:
        return None
    return value.const_value.numpy()


def add_initializer(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    """A new initializer; an equal name is an error."""
    value = ir.Value(name=name, const_value=ir.tensor(np.array(array, order="C"), name=name))
    value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.from_numpy(array.dtype)
    graph.register_initializer(value)
    return value


def operand(node: ir.Node, index: int) -> ir.Value:
    """Input ``index`` of ``node``, which must not be left out."""
    value = node.inputs[index]
    assert value is not None
    return value


def known(value: ir.Value | None) -> Array:
    """The constant behind ``value``, which must be one."""
    array = constant(value)
    assert array is not None
    return array


def insert_before(
    graph: ir.Graph, at: ir.Node, op: str, inputs: list[ir.Value], name: str, **attributes: Any
) -> ir.Value:
    """The output of a new node ``op`` placed before ``at``."""
    node = ir.node(op, inputs, attributes=attributes, name=name)
    node.outputs[0].name = name
    graph.insert_before(at, node)
    return node.outputs[0]


def only_user(value: ir.Value) -> ir.Node | None:
    """The one node that reads ``value``; None if there are several or it is a graph output."""
    users = {node for node, _ in value.uses()}
    return users.pop() if len(users) == 1 and not value.is_graph_output() else None


def producer(value: ir.Value | None, op: str) -> ir.Node | None:
    """The node that makes ``value`` if it is an ``op``, else None."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op else None


def remove(graph: ir.Graph, node: ir.Node) -> None:
    """Delete a node whose outputs nobody reads."""
    graph.remove(node, safe=True)


def qparams(node: ir.Node) -> tuple[bytes, ...]:
    """Scale and zero point of a Q or DQ, to be compared with another's."""
    return tuple(
        array.tobytes() for value in node.inputs[1:] if (array := constant(value)) is not None
    )


def drop_unused(graph: ir.Graph) -> None:
    """Remove nodes and initializers that nothing reads."""
    for node in reversed(list(graph)):
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            remove(graph, node)
    for name, value in list(graph.initializers.items()):
        if not value.uses():
            del graph.initializers[name]
