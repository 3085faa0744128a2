"""A QDQ file -> ``Program``: what stands between a DequantizeLinear and a QuantizeLinear becomes
one node on integers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from qstrategies.certificate import certify_model
from qstrategies.certificate.report import EXACT, GUARANTEES
from qstrategies.errors import InputError
from qstrategies.files import read_bytes, sha256
from qstrategies.onnx_file import load_checked
from qstrategies.runtimes.exact import opset_of
from qstrategies.specification.ends import ends_of
from qstrategies.specification.operators import OPERATORS
from qstrategies.specification.program import Array, Node, Program, Stored, Table, Tensor
from qstrategies.specification.values import (
    Call,
    Constant,
    Grid,
    Index,
    Moved,
    Real,
    Summed,
    file_nodes,
    fraction,
    fractions,
)


def program_of(path: Path | str) -> Program:
    """The program of the ONNX file ``path``.

    Raises:
        InputError: a broken file; one that is not certified to give the same bits on all executors,
            so that no integers say what it computes; or an operator without integer semantics.
    """
    path = Path(path)
    return lowered(load_checked(path), sha256(read_bytes(path)))


def lowered(model: onnx.ModelProto, digest: str = "") -> Program:
    """The program of ``model``, whose file has the SHA-256 ``digest``; raises as
    ``program_of``."""
    certificate = certify_model(model)
    for guarantee in EXACT:
        for breach in certificate.breaches[guarantee]:
            text = f"it is not {GUARANTEES[guarantee]}: {breach.node}: {breach.reason}"
            raise InputError(
                f"no integers say what the file computes: {text}; export it with exact scales, and "
                "without parts in float"
            )
    return _Lowering(_of_one_example(model)).program(digest)


def _of_one_example(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` where whatever varies with the batch has size 1, with the shapes of all tensors."""
    one = onnx.ModelProto()
    one.CopyFrom(model)
    del one.graph.value_info[:]
    for value in (*one.graph.input, *one.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if not dim.dim_value:
                dim.dim_value = 1
    for value in one.graph.output:
        value.type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(one, data_prop=True)


class _Lowering:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.shapes = {
            value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
            for value in (*model.graph.input, *model.graph.value_info, *model.graph.output)
        }
        self.values: dict[str, Any] = {
            tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer
        }
        self.nodes: list[Node] = []

    def program(self, digest: str) -> Program:
        inputs, outputs = ends_of(self.model)
        for end in inputs:
            if end.dtype == "uint8":
                self.values[end.name] = Tensor(end.name, end.shape)
        entries = {end.name: end for end in inputs if end.dtype == "float32"}
        for node in file_nodes(self.model, opset_of(self.model)):
            if node.proto.op_type == "QuantizeLinear" and node.proto.input[0] in entries:
                name = node.proto.output[0]
                self.values[name] = Tensor(name, entries[node.proto.input[0]].shape)
                continue
            operands = tuple(self.values.get(name) for name in node.proto.input)
            call = Call(node, operands)
            try:
                self.values[node.proto.output[0]] = self._value(call)
            except InputError as error:
                raise InputError(
                    f"{call.kind} {call.name!r} has no integer semantics here: {error}; write the "
                    "model without it"
                ) from None
        shaped = [replace(end, shape=self.shapes[end.tensor]) for end in outputs]
        return Program(digest, inputs, tuple(shaped), tuple(self.nodes))

    def _value(self, call: Call) -> Any:
        if call.kind == "DequantizeLinear":
            return self._dequantized(call)
        if call.kind == "QuantizeLinear":
            return self._quantized(call)
        if call.kind == "Cast" and isinstance(call.operands[0], Tensor):
            if call.get("to", 0) not in (TensorProto.INT32, TensorProto.INT64):
                raise InputError("its integers become no index")
            return Index(call.operands[0], (call.name,))
        if call.kind == "Gather" and isinstance(call.operands[-1], Index):
            return self._looked_up(call)
        if call.kind not in OPERATORS:
            raise InputError(f"operators that have: {', '.join(OPERATORS)}")
        return OPERATORS[call.kind](call)

    def _dequantized(self, call: Call) -> Real | Constant:
        value = call.operands[0]
        if isinstance(value, np.ndarray) and value.dtype == np.uint8:
            value = self._stored(call.node.proto.input[0], value)
        if isinstance(value, Tensor):
            return Real(value, _grid(call), (call.name,))
        return _weight(call)

    def _stored(self, name: str, array: Array) -> Tensor:
        tensor = Tensor(name, array.shape, int(array.min()), int(array.max()))
        self.values[name] = tensor
        return self._append(
            Stored(output=tensor, inputs=(), operators=(), values=array.reshape(-1))
        )

    def _quantized(self, call: Call) -> Tensor:
        value, grid = call.operands[0], _grid(call)
        name = call.node.proto.output[0]
        if not isinstance(value, Moved | Summed):
            raise InputError("it quantizes what is no result of an operator on integers")
        node = value.node(name, self.shapes[name], grid)
        return self._append(replace(node, operators=(*node.operators, call.name)))

    def _looked_up(self, call: Call) -> Tensor:
        table, index = call.operands
        if not isinstance(table, np.ndarray) or table.shape != (256,) or table.dtype != np.uint8:
            raise InputError("its table is no constant of 256 uint8 values")
        name = call.node.proto.output[0]
        return self._append(
            Table(
                output=Tensor(name, self.shapes[name], int(table.min()), int(table.max())),
                inputs=(index.tensor,),
                operators=(*index.operators, call.name),
                values=table,
            )
        )

    def _append(self, node: Node) -> Tensor:
        self.nodes.append(node)
        return node.output


def _grid(call: Call) -> Grid:
    """Of a QuantizeLinear or DequantizeLinear of a whole tensor of uint8."""
    scale, zero_point = call.constant(1), call.constant(2)
    if scale is None or zero_point is None or scale.size != 1 or zero_point.dtype != np.uint8:
        raise InputError("it has no uint8 zero point and scale for the whole tensor")
    return Grid(fraction(scale.item()), int(zero_point.item()))


def _weight(call: Call) -> Constant:
    value = call.operands[0]
    if not isinstance(value, np.ndarray):
        raise InputError("it dequantizes no tensor of integers")
    scale, zero_point = call.constant(1), call.constant(2)
    if scale is None or (zero_point is not None and zero_point.any()):
        raise InputError("a constant with a zero point")
    return Constant(value, fractions(scale), call.get("axis", 1))
