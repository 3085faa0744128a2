"""The passes that turn the exporter's graph into a deployable one, each a function over ``ir.Graph``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from qstrategies.errors import InputError
from qstrategies.export.graph import Array, add_initializer, constant, insert_before, known, only_user, operand, producer, remove

WEIGHTED = ("Conv", "ConvTranspose", "Gemm")


def clean(graph: ir.Graph, pixels: str) -> None:
    """All passes, in order: afterwards the graph is minimal QDQ with int8 weights and int32 biases as initializers."""
    static_reshapes(graph)
    lift_constants(graph)
    drop_full_range_clips(graph)
    fold_constants(graph)
    plain_splits(graph)
    drop_identities(graph)
    drop_repeated_quantization(graph)
    integer_biases(graph)
    integer_tables(graph)
    drop_unused(graph)
    pixels_entry(graph, pixels)
    share_equal_constants(graph)
    drop_unused(graph)
    tidy_names(graph)


def static_reshapes(graph: ir.Graph) -> None:
    """Give every Reshape a constant shape with -1 for its one symbolic dimension, instead of computing it."""
    for node in list(graph):
        if node.op_type != "Reshape" or node.outputs[0].shape is None:
            continue
        dims = [dim if isinstance(dim, int) else -1 for dim in node.outputs[0].shape]
        if dims.count(-1) <= 1:
            shape = insert_before(graph, node, "Constant", [], f"{node.outputs[0].name}_shape", value_ints=dims)
            node.replace_input_with(1, shape)
            node.attributes["allowzero"] = ir.AttrInt64("allowzero", 0)


def lift_constants(graph: ir.Graph) -> None:
    """Turn every Constant node into an initializer."""
    for node in list(graph):
        if node.op_type == "Constant":
            (array,) = ReferenceEvaluator(ir.to_proto(node)).run(None, {})
            _become_initializer(graph, node, np.asarray(array))


def fold_constants(graph: ir.Graph) -> None:
    """Compute every node whose inputs are constant, except DequantizeLinear: integer weights stay integers."""
    for node in list(graph):
        inputs = {str(value.name): constant(value) for value in node.inputs if value is not None}
        if node.op_type == "DequantizeLinear" or any(array is None for array in inputs.values()):
            continue
        (array,) = ReferenceEvaluator(ir.to_proto(node)).run(None, inputs)
        if node.op_type == "QuantizeLinear":
            node.outputs[0].name = f"{operand(node, 0).name}_quantized"
        _become_initializer(graph, node, np.asarray(array))


def _become_initializer(graph: ir.Graph, node: ir.Node, array: Array) -> None:
    old = node.outputs[0]
    name = old.name
    old.name = f"{name}_computed"
    ir.convenience.replace_all_uses_with(old, add_initializer(graph, str(name), array))
    remove(graph, node)


def plain_splits(graph: ir.Graph) -> None:
    """Replace a sequence of parts (chunk, split), of which each reader takes one, by a Split."""
    for node in list(graph):
        readers = [user for user, _ in node.outputs[0].uses()] if node.op_type == "SplitToSequence" else []
        indices = [constant(reader.inputs[1]) for reader in readers if reader.op_type == "SequenceAt"]
        sizes = _split_sizes(node) if readers else None
        if sizes is None or len(indices) < len(readers) or any(index is None for index in indices):
            continue
        lengths = add_initializer(graph, f"{node.outputs[0].name}_sizes", np.array(sizes, np.int64))
        split = ir.node("Split", [operand(node, 0), lengths], {"axis": node.attributes["axis"].value}, num_outputs=len(sizes))
        graph.insert_before(node, split)
        for reader, index in zip(readers, indices, strict=True):
            assert index is not None
            ir.convenience.replace_all_uses_with(reader.outputs[0], split.outputs[int(index)])


def _split_sizes(node: ir.Node) -> list[int] | None:
    """The lengths that a SplitToSequence cuts its axis into, where they are known."""
    sizes, shape = constant(node.inputs[1]) if len(node.inputs) > 1 else None, operand(node, 0).shape
    whole = shape[node.attributes["axis"].as_int()] if shape is not None else None
    if sizes is None or not isinstance(whole, int):
        return None
    if sizes.ndim == 1:
        return [int(size) for size in sizes]
    return [min(int(sizes), whole - start) for start in range(0, whole, int(sizes))]


def drop_identities(graph: ir.Graph) -> None:
    """Remove what inference does not need: the traces of dropout, and casts of float32 constants to the type of real tensors."""
    for node in list(graph):
        array = constant(node.inputs[0]) if node.op_type == "CastLike" else None
        same_type = array is not None and array.dtype == np.float32 and producer(node.inputs[1], "DequantizeLinear") is not None
        if same_type or (node.op_type == "Identity" and not node.outputs[0].is_graph_output()):
            ir.convenience.replace_all_uses_with(node.outputs[0], operand(node, 0))
            remove(graph, node)


def drop_repeated_quantization(graph: ir.Graph) -> None:
    """Remove a QuantizeLinear that undoes the DequantizeLinear before it, of the same scale and zero point."""
    for node in list(graph):
        before = producer(node.inputs[0], "DequantizeLinear") if node.op_type == "QuantizeLinear" else None
        if before is not None and qparams(before) == qparams(node):
            ir.convenience.replace_all_uses_with(node.outputs[0], operand(before, 0))
            remove(graph, node)


def qparams(node: ir.Node) -> tuple[bytes, ...]:
    """Scale and zero point of a Q or DQ, to be compared with another's."""
    return tuple(array.tobytes() for value in node.inputs[1:] if (array := constant(value)) is not None)


def drop_full_range_clips(graph: ir.Graph) -> None:
    """Remove Clips of quantized tensors. Integer kernels saturate at the type's range, as torch's int8 kernels do;
    a reduced range (0...127) only chose the scale."""
    for node in list(graph):
        if node.op_type == "Clip" and producer(node.inputs[0], "QuantizeLinear") is not None:
            ir.convenience.replace_all_uses_with(node.outputs[0], operand(node, 0))
            remove(graph, node)


def integer_biases(graph: ir.Graph) -> None:
    """Store every bias as int32 with scale s_x * s_w and no zero point: what integer kernels add to the accumulator.

    Raises ``InputError`` if a bias does not fit int32.
    """
    for node in list(graph):
        if node.op_type not in WEIGHTED or len(node.inputs) < 3:
            continue
        entry, weight = (producer(value, "DequantizeLinear") for value in node.inputs[:2])
        bias = constant(node.inputs[2])
        if bias is None or entry is None or weight is None:
            continue
        scale = np.asarray(known(entry.inputs[1]) * known(weight.inputs[1]), np.float32)
        if node.op_type == "ConvTranspose":  # one scale, listed for each output channel of a group
            scale = scale.reshape(-1)[0]
        steps = np.rint(bias.astype(np.float64) / scale)
        if np.abs(steps).max() >= 2**31:
            raise InputError(f"the bias of {node.name!r} does not fit int32: its weights are too small for its bias")
        name = str(operand(node, 2).name)
        integers = add_initializer(graph, f"{name}_quantized", steps.astype(np.int32))
        scales = add_initializer(graph, f"{name}_scale", np.broadcast_to(scale, bias.shape))
        node.replace_input_with(2, insert_before(graph, node, "DequantizeLinear", [integers, scales], f"{name}_real", axis=0))


def integer_tables(graph: ir.Graph) -> None:
    """Make every table of 256 real values, between DequantizeLinear and QuantizeLinear, one of 256 integers."""
    for node in list(graph):
        table = constant(node.inputs[0]) if node.op_type == "Gather" else None
        quantize = next((user for user in _after(node) if user.op_type == "QuantizeLinear"), None)
        entry = _before(node.inputs[1], "DequantizeLinear") if table is not None and table.size == 256 else None
        if table is None or quantize is None or entry is None:
            continue
        scale, zero_point = (known(value) for value in quantize.inputs[1:])
        integers = np.rint(table.reshape(256) / scale) + zero_point
        values = add_initializer(graph, f"{node.outputs[0].name}_table", integers.astype(zero_point.dtype))
        index = insert_before(graph, quantize, "Cast", [operand(entry, 0)], f"{node.outputs[0].name}_index", to=int(ir.DataType.INT32))
        looked_up = insert_before(graph, quantize, "Gather", [values, index], f"{node.outputs[0].name}_value", axis=0)
        ir.convenience.replace_all_uses_with(quantize.outputs[0], looked_up)


def _before(value: ir.Value | None, op: str) -> ir.Node | None:
    """The nearest ``op`` up the chain of first inputs."""
    while value is not None and (node := value.producer()) is not None:
        if node.op_type == op:
            return node
        value = node.inputs[0] if node.inputs else None
    return None


def _after(node: ir.Node) -> Iterator[ir.Node]:
    """The nodes down a chain of only users."""
    user = only_user(node.outputs[0])
    while user is not None:
        yield user
        user = only_user(user.outputs[0])


def pixels_entry(graph: ir.Graph, pixels: str) -> None:
    """Let the graph take the integers of its inputs' quantizers (raw pixels): uint8 straight into DequantizeLinear, or
    (``pixels`` "float32") their real values. An input that stays float is left as it is."""
    if pixels == "float32":
        return
    for entry in graph.inputs:
        users = [node for node, _ in entry.uses()]
        if not all(node.op_type == "QuantizeLinear" for node in users):
            continue
        entry.dtype = ir.DataType.UINT8
        for node in users:
            ir.convenience.replace_all_uses_with(node.outputs[0], entry)
            remove(graph, node)


def share_equal_constants(graph: ir.Graph) -> None:
    """Let equal initializers (the scale and zero point of Q and DQ, mostly) be one."""
    seen: dict[tuple[object, ...], ir.Value] = {}
    for value in list(graph.initializers.values()):
        array = known(value)
        first = seen.setdefault((array.dtype.str, array.shape, array.tobytes()), value)
        if first is not value:
            ir.convenience.replace_all_uses_with(value, first)


def drop_unused(graph: ir.Graph) -> None:
    """Remove nodes and initializers that nothing reads."""
    for node in reversed(list(graph)):
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            remove(graph, node)
    for name, value in list(graph.initializers.items()):
        if not value.uses():
            del graph.initializers[name]


def tidy_names(graph: ir.Graph) -> None:
    """Readable names: nodes after their operator and order, parameters without the traces of fusing and folding."""
    for count, node in enumerate(graph):
        node.name = f"{node.op_type}_{count}"
        for index, output in enumerate(node.outputs):
            if not output.is_graph_output():
                output.name = f"{node.name}_output" + (f"_{index}" if len(node.outputs) > 1 else "")
    for node in graph:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            base = operand(node, 0).name if constant(node.inputs[0]) is not None else node.name
            for value, role in zip(node.inputs, ("", "_scale", "_zero_point"), strict=False):
                if value is not None and constant(value) is not None:
                    _rename(graph, value, f"{base}{role}".replace(".0.", "."))


def _rename(graph: ir.Graph, value: ir.Value, name: str) -> None:
    if name not in graph.initializers:
        del graph.initializers[str(value.name)]
        value.name = name
        graph.register_initializer(value)
