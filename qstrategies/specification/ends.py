"""Inputs and outputs of a file, and the integers that they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from qstrategies.errors import InputError
from qstrategies.typed_json import Count, Range

Integer = Annotated[int, Range(-128, 255)]
Constants = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class End:
    """An input or output of the file, of ``dtype``, and the ``tensor`` of integers that it stands
    for: itself if its dtype is uint8."""

    name: str
    shape: tuple[Count, ...]
    dtype: Literal["uint8", "float32"]
    tensor: str
    scale: Annotated[float, Range(2.0**-126)]
    zero_point: Integer


def ends_of(model: onnx.ModelProto) -> tuple[tuple[End, ...], tuple[End, ...]]:
    """The inputs of ``model`` that something reads, and its outputs, whose shapes are not known
    yet."""
    constants = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    quantizing = ("QuantizeLinear", "DequantizeLinear")
    found = [node for node in model.graph.node if node.op_type in quantizing]
    readers = {node.input[0]: node for node in reversed(found)}
    makers = {node.output[0]: node for node in found}
    read = [each for each in model.graph.input if each.name not in unread_of(model)]
    inputs = [_input(each, readers, constants) for each in read]
    outputs = [_output(each, makers, constants) for each in model.graph.output]
    return tuple(inputs), tuple(outputs)


def unread_of(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    """Zeros for the inputs that nothing reads: an executor wants them all the same."""
    read = {name for node in model.graph.node for name in node.input}
    zeros = {}
    for value in model.graph.input:
        if value.name not in read:
            kind = value.type.tensor_type
            dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
            zeros[value.name] = np.zeros([dim.dim_value or 1 for dim in kind.shape.dim], dtype)
    return zeros


def _input(
    value: onnx.ValueInfoProto, readers: Mapping[str, onnx.NodeProto], constants: Constants
) -> End:
    shape = tuple(dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim)
    reader, kind = readers.get(value.name), value.type.tensor_type.elem_type
    if kind not in (TensorProto.UINT8, TensorProto.FLOAT):
        raise InputError(f"input {value.name!r} must be uint8 or float32")
    if kind == TensorProto.UINT8:
        qparams = (1.0, 0) if reader is None else _qparams(reader, constants)
        return End(value.name, shape, "uint8", value.name, *qparams)
    if reader is None:
        raise InputError(f"input {value.name!r} must be quantized")
    return End(value.name, shape, "float32", reader.output[0], *_qparams(reader, constants))


def _output(
    value: onnx.ValueInfoProto, makers: Mapping[str, onnx.NodeProto], constants: Constants
) -> End:
    maker = makers.get(value.name)
    if maker is None or maker.op_type != "DequantizeLinear":
        raise InputError(f"output {value.name!r} must be a tensor of 8-bit integers")
    return End(value.name, (), "float32", maker.input[0], *_qparams(maker, constants))


def _qparams(node: onnx.NodeProto, constants: Constants) -> tuple[float, int]:
    values = [constants.get(name) for name in node.input[1:3]]
    if len(values) != 2 or any(value is None or value.size != 1 for value in values):
        raise InputError(f"{node.name!r} must have one scale and zero point for the whole tensor")
    scale, zero_point = (value.item() for value in values if value is not None)
    return float(scale), int(zero_point)
