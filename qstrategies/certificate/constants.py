"""What is computed when a file is loaded: only operators that every executor computes exactly."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from qstrategies.certificate.declarations import WIDENED, Call, Declaration, anything
from qstrategies.certificate.grid import Array, Grid, UnprovenError
from qstrategies.certificate.tensors import KNOWN, Constant


def _filled(call: Call) -> Grid:
    value = call.attributes.get("value")
    return Grid.of(np.zeros(1) if value is None else numpy_helper.to_array(value))


_FORMS = ("value", "value_float", "value_floats", "value_int", "value_ints")
MAKING: dict[str, Declaration] = {
    "Constant": Declaration(
        (9, 11, 12, 13, *WIDENED),
        (0, 0),
        attributes=dict.fromkeys(_FORMS, anything),
    ),
    "ConstantOfShape": Declaration(
        (9, 20, *WIDENED),
        (1, 1),
        _filled,
        {"value": anything},
        frozenset({TensorProto.INT64}),
    ),
    "Shape": Declaration(
        (1, 13, 15, *WIDENED),
        (1, 1),
        attributes={"start": anything, "end": anything},
        types=KNOWN,
    ),
}
"""Operators whose output depends on shapes and attributes alone."""
_GROWING = ("ConstantOfShape", "Expand", "Pad", "Tile")
LARGEST_SIZE = 2**31  # of a dimension
MOST_VALUES = 2**26  # of a constant that is computed


def shape_of(call: Call) -> Array | None:
    """The output of a Shape; None if it is not known."""
    shape = call.first.kind.shape
    if shape is None:
        return None
    part = shape[slice(call.attributes.get("start", 0), call.attributes.get("end"))]
    return None if None in part else np.array(part, np.int64)


def check_size(call: Call) -> None:
    """Raise ``UnprovenError`` for a constant that is too large to be computed here, or may be."""
    shape = call.outputs[0].shape
    if shape is not None and None not in shape:
        allowed = math.prod(size or 0 for size in shape) <= MOST_VALUES
    else:
        allowed = call.node.op_type not in _GROWING
    if not allowed:
        raise UnprovenError("its constant is too large to be computed")


def evaluate(call: Call) -> list[Array]:
    """All outputs of ``call``, all of whose inputs are constant, by the standard's own code."""
    inputs: dict[str, Any] = {}
    for name, tensor in zip(call.node.input, call.inputs, strict=True):
        if tensor is not None and tensor.constant is not None:
            inputs[name] = tensor.constant.integers
    opset = [onnx.helper.make_opsetid("", call.opset)]
    entries = [_entry(name, array) for name, array in inputs.items()]
    results = [onnx.ValueInfoProto(name=name) for name in call.node.output]
    graph = onnx.helper.make_graph([call.node], "constant", entries, results)
    evaluator = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=opset))
    outputs: Any = evaluator.run(None, inputs)
    return [np.asarray(array) for array in outputs]


def _entry(name: str, array: Array) -> onnx.ValueInfoProto:
    element = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    return onnx.helper.make_tensor_value_info(name, element, array.shape)


def moved(call: Call) -> Constant:
    """A quantized constant behind a Transpose: its integers and, one per channel, its scale."""
    constant = call.first.constant
    assert constant is not None and constant.scale is not None
    assert constant.unquantized is not None
    if call.node.op_type != "Transpose":
        raise UnprovenError("it moves quantized weights: only a Transpose is known")
    perm = call.attributes.get("perm")
    return Constant(
        constant.integers.transpose(perm),
        constant.scale.transpose(perm),
        constant.stored,
        constant.unquantized.transpose(perm),
    )
