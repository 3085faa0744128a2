"""What has no weights as TFLite operators."""

from __future__ import annotations

import math

import numpy as np

from qstrategies.export.tflite.layers import RELU
from qstrategies.export.tflite.windows import VALID, Window, only_images, pad, padded
from qstrategies.export.tflite.writer import (
    IMAGE,
    OFFSET,
    PLAIN,
    Layout,
    TfliteWriter,
    axes_of_image,
    no_form,
    quantization_of,
    writes,
)
from qstrategies.operators.addition import Addition
from qstrategies.operators.averages import AveragePool, Averaging
from qstrategies.operators.base import Node, TensorSpec
from qstrategies.operators.clipping import Clip
from qstrategies.operators.concatenation import Concatenation
from qstrategies.operators.constant import Stored
from qstrategies.operators.expansion import Expanding
from qstrategies.operators.extremum import Extremum
from qstrategies.operators.island import Island
from qstrategies.operators.linear import Linear
from qstrategies.operators.movement import Permutation, Reshaping
from qstrategies.operators.padding import Padding
from qstrategies.operators.picking import Picking
from qstrategies.operators.pooling import MaxPool
from qstrategies.operators.product import Product
from qstrategies.operators.slicing import Slicing
from qstrategies.operators.table import Table
from qstrategies.operators.upsampling import Upsampling
from qstrategies.tflite_file import schema

REMEDY = "Ship the ONNX file, or write the model without it"


@writes(Island)
def _island(node: Island, _: TfliteWriter) -> None:
    raise no_form(node, f"it stays in float ({node.reason})", REMEDY)


@writes(Stored)
def _stored(node: Stored, to: TfliteWriter) -> None:
    rank = node.array.ndim
    layout = IMAGE if rank == 4 else PLAIN
    laid = node.array.transpose(axes_of_image(rank)) if layout == IMAGE else node.array
    to.keep(node.output, (laid.astype(np.int16) - OFFSET).astype(np.int8), layout)


# --- element by element ---


@writes(Addition, Product)
def _of_two(node: Addition | Product, to: TfliteWriter) -> None:
    layout = to.layout_of(*node.inputs)
    operands = [to.take(spec, layout) for spec in node.inputs]
    settings = {"FusedActivationFunction": RELU if node.relu else 0}
    name = "Mul" if isinstance(node, Product) else "Add" if node.sign > 0 else "Sub"
    made = to.give(node.output, layout)
    to.file.operator(name.upper(), 2, operands, made, f"{name}Options", **settings)


@writes(Extremum)
def _extremum(node: Extremum, to: TfliteWriter) -> None:
    layout = to.layout_of(*node.inputs)
    a, b = (to.take(spec, layout) for spec in node.inputs)
    to.chosen(a, b, to.give(node.output, layout), largest=node.largest)


@writes(Clip)
def _clip(node: Clip, to: TfliteWriter) -> None:
    spec, layout = node.output, to.layout_of(node.inputs[0])
    above = to.tensor(f"{node.name}.above", to.shape(spec, layout), spec)
    x, low, high = to.take(node.inputs[0], layout), node.low, node.high
    to.chosen(x, to.stored(spec, low), above, largest=True)
    to.chosen(above, to.stored(spec, high), to.give(spec, layout), largest=False)


@writes(Table)
def _table(node: Table, to: TfliteWriter) -> None:
    spec, name = node.inputs[0], node.name
    layout = to.layout_of(spec)
    shape = to.shape(spec, layout)
    kinds = schema().TensorType
    signed = to.file.tensor(f"{name}.signed", shape, "INT32")
    index = to.file.tensor(f"{name}.index", shape, "INT32")
    casts = {"InDataType": kinds.INT8, "OutDataType": kinds.INT32}
    to.file.operator("CAST", 1, [to.take(spec, layout)], signed, "CastOptions", **casts)
    to.file.operator("ADD", 1, [signed, to.numbers("128", [OFFSET])], index, "AddOptions")
    values = (node.values.astype(np.int16) - OFFSET).astype(np.int8)
    table = to.constant(f"{name}.table", values, quantization_of(node.output.grid))
    made = to.give(node.output, layout)
    to.file.operator("GATHER", 2, [table, index], made, "GatherOptions")


# --- windows ---


@writes(MaxPool)
def _max_pool(node: MaxPool, to: TfliteWriter) -> None:
    only_images(node, len(node.size))
    if max(node.dilation) > 1:
        raise no_form(node, "its windows are dilated", REMEDY)
    window = Window.of(node.size, node.stride, node.padding)
    x, mode = padded(node, to, window, fill=node.inputs[0].grid.quant_min)
    _pool(node, to, window, x, mode, "MAX_POOL_2D")


@writes(AveragePool)
def _average_pool(node: AveragePool, to: TfliteWriter) -> None:
    only_images(node, len(node.size))
    window = Window.of(node.size, node.stride, node.padding)
    x = to.take(node.inputs[0], IMAGE)
    pads = window.pads(to.shape(node.inputs[0], IMAGE)[1:3], to.shape(node.output, IMAGE)[1:3])
    if any(map(any, pads)):  # TFLite leaves its own padding out of a mean
        x = pad(to, node, x, [(0, 0), *pads, (0, 0)])
    _pool(node, to, window, x, VALID, "AVERAGE_POOL_2D")


@writes(Averaging)
def _averaging(node: Averaging, to: TfliteWriter) -> None:
    sizes = to.shape(node.inputs[0])[2:]
    if node.dims != tuple(range(2, 2 + len(sizes))) or len(sizes) > 2:
        raise no_form(node, f"its mean is over the dimensions {node.dims}", REMEDY)
    window = Window.of(sizes, sizes, (0,) * len(sizes))
    _pool(node, to, window, to.take(node.inputs[0], IMAGE), VALID, "AVERAGE_POOL_2D")


def _pool(node: Node, to: TfliteWriter, window: Window, x: int, mode: int, code: str) -> None:
    settings = window.settings(mode) | window.filters
    to.file.operator(code, 2, [x], to.give(node.output, IMAGE), "Pool2DOptions", **settings)


# --- movements ---


@writes(Reshaping)
def _reshape(node: Reshaping, to: TfliteWriter) -> None:
    spec, rows = node.inputs[0], _rows(node, to)
    layout = PLAIN if rows is None else rows
    x = to.take(spec, PLAIN if rows is None else IMAGE)
    to.copy(node.output, x, layout)


def _rows(node: Reshaping, to: TfliteWriter) -> Layout | None:
    """The layout of the flattened image of one example that only linear layers read, whose columns
    may stand in any order."""
    before, after = to.shapes[node.inputs[0].name], to.shapes[node.output.name]
    readers = to.readers.get(node.output.name, [])
    flattens = len(before) == 4 and after == (1, math.prod(before))
    is_image = IMAGE in to.places[node.inputs[0].name]
    left = node.output in to.graph.outputs
    linear = all(isinstance(reader, Linear) for reader in readers) and not left
    return Layout("rows", before[1:]) if flattens and is_image and linear else None


@writes(Permutation)
def _permutation(node: Permutation, to: TfliteWriter) -> None:
    operands = [to.take(node.inputs[0]), to.numbers("order", node.order)]
    to.file.operator("TRANSPOSE", 2, operands, to.give(node.output), "TransposeOptions")


@writes(Concatenation)
def _concatenation(node: Concatenation, to: TfliteWriter) -> None:
    layout = to.layout_of(*node.inputs)
    operands = [to.take(spec, layout) for spec in node.inputs]
    axis = _axes(node.output, to, layout).index(node.dim)
    made = to.give(node.output, layout)
    to.file.operator("CONCATENATION", 2, operands, made, "ConcatenationOptions", Axis=axis)


@writes(Slicing)
def _slicing(node: Slicing, to: TfliteWriter) -> None:
    spec, layout = node.inputs[0], to.layout_of(node.inputs[0])
    shape, axis = to.shape(spec, layout), _axes(spec, to, layout).index(node.dim)
    begin, end, strides = [0] * len(shape), list(shape), [1] * len(shape)
    begin[axis], end[axis], strides[axis] = node.start, min(node.stop, shape[axis]), node.step
    places = [to.numbers("slice", values) for values in (begin, end, strides)]
    operands, made = [to.take(spec, layout), *places], to.give(node.output, layout)
    to.file.operator("STRIDED_SLICE", 2, operands, made, "StridedSliceOptions")


@writes(Picking)
def _picking(node: Picking, to: TfliteWriter) -> None:
    layout = to.layout_of(node.inputs[0])
    axis = _axes(node.inputs[0], to, layout).index(node.dim)
    operands = [to.take(node.inputs[0], layout), to.numbers("places", node.places)]
    made = to.give(node.output, layout)
    to.file.operator("GATHER", 2, operands, made, "GatherOptions", Axis=axis)


@writes(Padding)
def _padding(node: Padding, to: TfliteWriter) -> None:
    spec, layout = node.inputs[0], to.layout_of(node.inputs[0])
    axes = _axes(spec, to, layout)
    pads = [node.pads[axis] if axis is not None else (0, 0) for axis in axes]
    operands, made = (
        [to.take(spec, layout), to.numbers("pads", pads)],
        to.give(node.output, layout),
    )
    if node.value:
        to.file.operator("PADV2", 2, [*operands, to.stored(spec, node.fill)], made, "PadV2Options")
    elif node.mode == "constant":
        to.file.operator("PAD", 2, operands, made, "PadOptions")
    elif node.mode == "reflect":
        to.file.operator("MIRROR_PAD", 2, operands, made, "MirrorPadOptions", Mode=0)
    else:
        raise no_form(node, f"its padding is {node.mode}", "Pad with zeros or by reflection")


@writes(Expanding)
def _expanding(node: Expanding, to: TfliteWriter) -> None:
    layout = to.layout_of(node.inputs[0])
    shape = to.numbers("shape", to.shape(node.output, layout))
    operands, made = [to.take(node.inputs[0], layout), shape], to.give(node.output, layout)
    to.file.operator("BROADCAST_TO", 3, operands, made, "BroadcastToOptions")


@writes(Upsampling)
def _upsampling(node: Upsampling, to: TfliteWriter) -> None:
    only_images(node, len(node.factors))
    sizes = to.numbers("sizes", to.shape(node.output, IMAGE)[1:3])
    operands, made = [to.take(node.inputs[0], IMAGE), sizes], to.give(node.output, IMAGE)
    options = "ResizeNearestNeighborOptions"
    # the middle of a new pixel is nowhere near the edge of an old one, however kernels divide
    to.file.operator("RESIZE_NEAREST_NEIGHBOR", 3, operands, made, options, HalfPixelCenters=1)


def _axes(spec: TensorSpec, to: TfliteWriter, layout: Layout) -> list[int | None]:
    """The axis of the graph that each axis of ``spec`` in ``layout`` is; None for one of an image
    that the graph has not."""
    rank = len(to.shape(spec))
    if layout == PLAIN:
        return list(range(rank))
    batch, *others = axes_of_image(rank)
    return [batch, *[None] * (4 - rank), *others]
