"""A second form of the same file for ONNX Runtime: the first layer in float, where its integer kernel is slow.

ONNX Runtime's integer convolution copies single bytes when there are few input channels, and its max pooling of int8 in
NCHW order is slow; the float kernels are several times faster there. With exact scales both give the same bits.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qstrategies.export.graph import add_initializer, constant, insert_before, known, only_user, operand, producer
from qstrategies.export.passes import drop_unused, tidy_names

FEW_CHANNELS = 4


def float_first_layer(graph: ir.Graph) -> bool:
    """Rewrite conv, ReLU, Q, DQ, pool, Q at the pixels' entry to float conv, pool, ReLU, Q. False if not applicable."""
    image = graph.inputs[0]
    entry = only_user(image)
    convolution = only_user(entry.outputs[0]) if entry is not None else None
    if entry is None or convolution is None or convolution.op_type != "Conv":
        return False
    if not _raw_pixels(entry) or not _few_channels(convolution):
        return False
    pixels = insert_before(graph, convolution, "Cast", [image], "pixels", to=int(ir.DataType.FLOAT))
    convolution.replace_input_with(0, pixels)
    for index in range(1, len(convolution.inputs)):
        convolution.replace_input_with(index, _dequantized(graph, convolution.inputs[index]))
    _pool_first(graph, convolution)
    drop_unused(graph)
    tidy_names(graph)
    return True


def _raw_pixels(entry: ir.Node) -> bool:
    """Whether the first node only casts: a real DequantizeLinear would have ONNX Runtime quantize the float weights
    behind it, to scales of its own (seen in 1.32)."""
    return entry.op_type == "DequantizeLinear" and known(entry.inputs[1]) == 1 and not known(entry.inputs[2]).any()


def _few_channels(convolution: ir.Node) -> bool:
    weight = producer(convolution.inputs[1], "DequantizeLinear")
    array = constant(weight.inputs[0]) if weight is not None else None
    return array is not None and array.shape[1] <= FEW_CHANNELS


def _dequantized(graph: ir.Graph, value: ir.Value | None) -> ir.Value:
    """The float initializer that the DequantizeLinear behind ``value`` computes; exact, as |w| m < 2^24."""
    node = producer(value, "DequantizeLinear")
    assert node is not None
    integers, scale = known(node.inputs[0]), known(node.inputs[1])
    column = scale.reshape(-1, *[1] * (integers.ndim - 1))
    return add_initializer(graph, f"{operand(node, 0).name}_float", (integers * column).astype(np.float32))


def _pool_first(graph: ir.Graph, convolution: ir.Node) -> None:
    """conv, ReLU, Q, DQ, pool, Q -> conv, pool, ReLU, Q: rounding and ReLU are monotone, so pooling may come first."""
    relu = only_user(convolution.outputs[0])
    quantize = only_user(relu.outputs[0]) if relu is not None else None
    dequantize = only_user(quantize.outputs[0]) if quantize is not None else None
    pool = only_user(dequantize.outputs[0]) if dequantize is not None else None
    chain = [node.op_type if node is not None else None for node in (relu, quantize, dequantize, pool)]
    if chain != ["Relu", "QuantizeLinear", "DequantizeLinear", "MaxPool"]:
        return
    assert relu is not None and pool is not None
    pool.replace_input_with(0, convolution.outputs[0])
    again = insert_before(graph, relu, "Relu", [pool.outputs[0]], "relu_after_pool")
    for user, index in list(pool.outputs[0].uses()):
        if user is not again.producer():
            user.replace_input_with(index, again)
    graph.sort()
