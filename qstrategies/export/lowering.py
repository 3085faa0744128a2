"""A second form of the same file for one runtime: at each place the form that its kernels compute
fastest.

With exact scales float and integer kernels give the same bits, so that the choice is free. The
rules come from measurements of single nodes (docs/benchmark_*.md have the outcome,
``experiments/benchmark.py`` measures it again).

ONNX Runtime:

- Its integer convolution copies single bytes when there are few input channels, and its max pooling
  of int8 in NCHW order is slow; the float kernels are several times faster there, unless the kernel
  is so large that the products outweigh the copies.
- It computes a Clip between DequantizeLinear and QuantizeLinear in float, which takes longer than
  the convolution before it.
- Its Gather copies the entries of a table one by one, with a division for each; GatherElements
  takes a third of the time, and is several times as fast as the float function.
- Its integer convolutions keep channels last. A linear layer on a flattened image can take its
  features in that order as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from qstrategies.export.graph import (
    add_initializer,
    constant,
    drop_unused,
    insert_before,
    known,
    only_user,
    operand,
    producer,
    qparams,
)

# of one output: 3 x 3 x 1 took a fifth of the time in float, 3 x 3 x 3 gained nothing, 7 x 7 x 3
# lost a half
FEW_PRODUCTS = 16


def lower(graph: ir.Graph, runtime: str) -> bool:
    """Rewrite ``graph`` for ``runtime``, one of ``LOWERINGS``. False if there is nothing to
    gain."""
    changed = [rewrite(graph) for rewrite in LOWERINGS[runtime]]
    drop_unused(graph)
    return any(changed)


def float_first_layer(graph: ir.Graph) -> bool:
    """Rewrite conv, ReLU, Q, DQ, pool, Q at the pixels' entry to float conv, pool, ReLU, Q. False
    if not applicable."""
    image = graph.inputs[0]
    entry = only_user(image)
    convolution = only_user(entry.outputs[0]) if entry is not None else None
    if entry is None or convolution is None or convolution.op_type != "Conv":
        return False
    if not _raw_pixels(entry) or not _small_kernel(convolution):
        return False
    pixels = insert_before(
        graph, convolution, "Cast", [image], f"{image.name}_as_float", to=int(ir.DataType.FLOAT)
    )
    convolution.replace_input_with(0, pixels)
    for index in range(1, len(convolution.inputs)):
        convolution.replace_input_with(index, _dequantized(graph, convolution.inputs[index]))
    _pool_first(graph, convolution)
    return True


def integer_clips(graph: ir.Graph) -> bool:
    """Rewrite DQ, Clip, Q of one scale and zero point to a Clip of the integers, or to nothing
    where it clips nothing.

    Rounding is monotone, and the integers are on the grid already: Q(clip(DQ(q), a, b)) = clip(q,
    Q(a), Q(b)).
    """
    clips = [node for node in graph if node.op_type == "Clip"]
    return sum(_integer_clip(graph, node) for node in clips) > 0


def channels_last_flatten(graph: ir.Graph) -> bool:
    """Rewrite the flattening of [N, C, H, W] in front of a Gemm to one of [N, H, W, C], and its
    weights to the same order."""
    flattens = [node for node in graph if node.op_type == "Reshape"]
    return sum(_flatten_channels_last(graph, node) for node in flattens) > 0


def flat_tables(graph: ir.Graph) -> bool:
    """Rewrite Gather from a table to GatherElements, which asks for indices of one dimension: of
    images in the order of the convolutions, so that no layout has to change for it."""
    gathers = [node for node in graph if node.op_type == "Gather"]
    return sum(_flat_table(graph, node) for node in gathers) > 0


LOWERINGS: dict[str, tuple[Callable[[ir.Graph], bool], ...]] = {
    "onnxruntime": (float_first_layer, integer_clips, channels_last_flatten, flat_tables),
}


def _integer_clip(graph: ir.Graph, clip: ir.Node) -> bool:
    before, after = producer(clip.inputs[0], "DequantizeLinear"), only_user(clip.outputs[0])
    if (
        before is None
        or after is None
        or after.op_type != "QuantizeLinear"
        or qparams(before) != qparams(after)
    ):
        return False
    scale, zero_point = (known(value) for value in after.inputs[1:])
    type_range = np.iinfo(zero_point.dtype)
    bounds = [constant(value) for value in clip.inputs[1:]]
    if scale.size > 1 or len(bounds) != 2 or any(bound is None for bound in bounds):
        return False
    low, high = (
        np.clip(np.rint(known(value) / scale) + zero_point, type_range.min, type_range.max)
        for value in clip.inputs[1:]
    )
    clipped = operand(before, 0)
    if (low, high) != (type_range.min, type_range.max):
        limits = {"low": low, "high": high}
        values = [
            add_initializer(graph, f"{clip.name}_{name}", limit.astype(zero_point.dtype))
            for name, limit in limits.items()
        ]
        clipped = insert_before(graph, after, "Clip", [clipped, *values], f"{clip.name}_integers")
    ir.convenience.replace_all_uses_with(after.outputs[0], clipped)
    return True


def _flatten_channels_last(graph: ir.Graph, flatten: ir.Node) -> bool:
    node = only_user(flatten.outputs[0])
    while node is not None and node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        node = only_user(node.outputs[0])
    shape, target = operand(flatten, 0).shape, constant(flatten.inputs[1])
    if node is None or node.op_type != "Gemm" or not node.attributes["transB"].as_int():
        return False
    if shape is None or len(shape) != 4 or target is None:
        return False
    weights = producer(node.inputs[1], "DequantizeLinear")
    channels, *image = (dim if isinstance(dim, int) else 0 for dim in shape[1:])
    if (
        weights is None
        or len(target) != 2
        or channels * math.prod(image) != target[1]
        or 1 in (channels, math.prod(image))
    ):
        return False
    integers = known(weights.inputs[0])
    ordered = integers.reshape(-1, channels, *image).transpose(0, 2, 3, 1).reshape(integers.shape)
    shared = "" if len(list(operand(weights, 0).uses())) == 1 else f"_of_{node.name}"
    name = f"{operand(weights, 0).name}_channels_last{shared}"
    weights.replace_input_with(0, add_initializer(graph, name, ordered))
    flatten.replace_input_with(
        0,
        insert_before(
            graph,
            flatten,
            "Transpose",
            [operand(flatten, 0)],
            f"{flatten.name}_channels_last",
            perm=[0, 2, 3, 1],
        ),
    )
    return True


def _flat_table(graph: ir.Graph, gather: ir.Node) -> bool:
    table, index = constant(gather.inputs[0]), operand(gather, 1)
    if table is None or table.ndim != 1 or index.shape is None:
        return False
    sizes = [dim if isinstance(dim, int) else 0 for dim in index.shape[1:]]
    if not sizes or 0 in sizes:
        return False

    def added(op: str, *inputs: ir.Value, name: str, **attributes: Any) -> ir.Value:
        return insert_before(graph, gather, op, [*inputs], f"{gather.name}_{name}", **attributes)

    def reshaped(value: ir.Value, name: str, *shape: int) -> ir.Value:
        target = add_initializer(graph, f"{gather.name}_{name}_shape", np.array(shape, np.int64))
        return added("Reshape", value, target, name=name)

    channels, *image = sizes
    last = [0, *range(2, len(sizes) + 1), 1]
    turned = bool(image) and _from_convolution(index)
    if turned:
        index = added("Transpose", index, name="channels_last", perm=last)
        sizes = [*image, channels]
    flat = reshaped(index, "flat", -1)
    elements = added("GatherElements", operand(gather, 0), flat, name="elements", axis=0)
    result = reshaped(elements, "image", -1, *sizes)
    if turned:
        result = added("Transpose", result, name="channels_first", perm=np.argsort(last).tolist())
    ir.convenience.replace_all_uses_with(gather.outputs[0], result)
    return True


def _from_convolution(value: ir.Value) -> bool:
    node = value.producer()
    while node is not None and node.op_type in ("Cast", "QuantizeLinear", "Relu", "Clip"):
        node = operand(node, 0).producer()
    return node is not None and node.op_type == "Conv"


def _raw_pixels(entry: ir.Node) -> bool:
    """Whether the first node only casts: a real DequantizeLinear would have ONNX Runtime quantize
    the float weights behind it, to scales of its own (seen in 1.32)."""
    return (
        entry.op_type == "DequantizeLinear"
        and known(entry.inputs[1]) == 1
        and not known(entry.inputs[2]).any()
    )


def _small_kernel(convolution: ir.Node) -> bool:
    weight = producer(convolution.inputs[1], "DequantizeLinear")
    array = constant(weight.inputs[0]) if weight is not None else None
    return array is not None and math.prod(array.shape[1:]) <= FEW_PRODUCTS


def _dequantized(graph: ir.Graph, value: ir.Value | None) -> ir.Value:
    """The float initializer that the DequantizeLinear behind ``value`` computes; exact, as |w| m <
    2^24."""
    node = producer(value, "DequantizeLinear")
    assert node is not None
    integers, scale = known(node.inputs[0]), known(node.inputs[1])
    column = scale.reshape(-1, *[1] * (integers.ndim - 1))
    return add_initializer(
        graph, f"{operand(node, 0).name}_float", (integers * column).astype(np.float32)
    )


def _pool_first(graph: ir.Graph, convolution: ir.Node) -> None:
    """conv, ReLU, Q, DQ, pool, Q -> conv, pool, ReLU, Q: rounding and ReLU are monotone, so pooling
    may come first."""
    relu = only_user(convolution.outputs[0])
    quantize = only_user(relu.outputs[0]) if relu is not None else None
    dequantize = only_user(quantize.outputs[0]) if quantize is not None else None
    pool = only_user(dequantize.outputs[0]) if dequantize is not None else None
    chain = [
        node.op_type if node is not None else None for node in (relu, quantize, dequantize, pool)
    ]
    if chain != ["Relu", "QuantizeLinear", "DequantizeLinear", "MaxPool"]:
        return
    assert relu is not None and pool is not None
    pool.replace_input_with(0, convolution.outputs[0])
    again = insert_before(graph, relu, "Relu", [pool.outputs[0]], f"{relu.name}_after_pool")
    for user, index in list(pool.outputs[0].uses()):
        if user is not again.producer():
            user.replace_input_with(index, again)
    graph.sort()
