"""What a graph holds around its nodes: inputs, constants, operator set, the kinds of tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from qstrategies.certificate.grid import REAL, Array, Grid, UnprovenError
from qstrategies.certificate.tensors import FLOAT, Constant, Kind, Tensor
from qstrategies.errors import first_line

LARGE = 1024  # so many values that a constant cannot be a shape


def contradictions(model: onnx.ModelProto, kinds: Mapping[str, Kind]) -> Iterator[tuple[str, Kind]]:
    """What the file says of its tensors that cannot be."""
    for value in (*model.graph.value_info, *model.graph.output):
        claimed = Kind.of(value.type)
        if claimed.contradicts(kinds.get(value.name, Kind())):
            yield value.name, claimed


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the standard's operator set; 0 if the file names none, or several."""
    found = {entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")}
    return found.pop() if len(found) == 1 else 0


def readers_of(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that read each tensor; an empty one for an output of the graph."""
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            found.setdefault(name, []).append(node)
    for output in model.graph.output:
        found.setdefault(output.name, []).append(onnx.NodeProto())
    return found


def entries_of(model: onnx.ModelProto) -> dict[str, Tensor]:
    """The inputs and the constants of the graph."""
    found = {entry.name: _entry(Kind.of(entry.type)) for entry in model.graph.input}
    for tensor in fixed_tensors(model):
        constant = Constant(numpy_helper.to_array(tensor), None, tensor.name)
        kind = Kind(tensor.data_type, tuple(tensor.dims))
        found[tensor.name] = Tensor(kind, constant=constant)
    return found


def _entry(kind: Kind) -> Tensor:
    """An input of the graph, which may hold all values of its type."""
    if kind.element == TensorProto.BOOL:
        return Tensor(kind, Grid(1.0, 0, 1))
    return Tensor(kind, kind.limits or (REAL if kind.element == FLOAT else None))


def inferred_kinds(model: onnx.ModelProto, known: Mapping[str, Array]) -> dict[str, Kind]:
    """Type and shape of every tensor by inputs and operators alone, whatever the file says.

    ``known``: constants that nodes make, which may be shapes.

    Raises:
        UnprovenError: the nodes do not fit together.
    """
    bare = onnx.ModelProto(ir_version=max(model.ir_version, 4))
    bare.opset_import.extend(model.opset_import)
    graph, fixed = bare.graph, fixed_tensors(model)
    graph.name = "inferred"
    graph.node.extend(node for node in model.graph.node if not set(node.output) <= known.keys())
    graph.output.extend(onnx.ValueInfoProto(name=value.name) for value in model.graph.output)
    names = {tensor.name for tensor in fixed}
    graph.input.extend(entry for entry in model.graph.input if entry.name not in names)
    for tensor in fixed:
        if np.prod(tensor.dims) <= LARGE:
            graph.initializer.append(tensor)
        else:
            graph.input.append(_described(tensor))
    for name, array in known.items():
        graph.initializer.append(numpy_helper.from_array(array, name))
    # where no size is computed, nothing is gained by following constants, however large they get
    computed = any(node.op_type == "Shape" for node in graph.node)
    try:
        inferred = onnx.shape_inference.infer_shapes(bare, True, True, computed).graph
    except Exception as error:  # of the checker's own kinds
        reason = first_line(error)
        raise UnprovenError(f"its types and shapes do not fit together: {reason}") from None
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    found = {value.name: Kind.of(value.type) for value in values}
    for tensor in (*fixed, *graph.initializer):
        found[tensor.name] = Kind(tensor.data_type, tuple(tensor.dims))
    return found


def fixed_tensors(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """The initializers without those that are an input too, which a caller may override.

    Before version 4 of the format, every initializer had to be an input.
    """
    entries = {entry.name for entry in model.graph.input} if model.ir_version >= 4 else set()
    return [tensor for tensor in model.graph.initializer if tensor.name not in entries]


def _described(tensor: onnx.TensorProto) -> onnx.ValueInfoProto:
    described = onnx.helper.make_tensor_type_proto(tensor.data_type, tuple(tensor.dims))
    return onnx.ValueInfoProto(name=tensor.name, type=described)
