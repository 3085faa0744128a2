"""An integer graph as ONNX, written directly: DequantizeLinear, operator, QuantizeLinear, as every
runtime reads it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from qstrategies.export.islands import IR_VERSION, OPSET, ExportedIslands, export_islands
from qstrategies.operators.base import Array, Node, TensorSpec
from qstrategies.quantization.model import QuantizedModel


def to_onnx(quantized: QuantizedModel, pixels: str) -> onnx.ModelProto:
    """The portable file of ``quantized``; ``pixels`` "uint8" (the integers of the inputs) or
    "float32" (their real values).

    Raises:
        InputError: a float island that cannot be exported.
    """
    return OnnxWriter(quantized, pixels).model()


class OnnxWriter:
    """Nodes and constants in the order of execution; ``names`` are taken once."""

    def __init__(self, quantized: QuantizedModel, pixels: str) -> None:
        self.quantized, self.graph, self.pixels = quantized, quantized.graph, pixels
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.known_constants: dict[tuple[Any, ...], str] = {}
        self.names: set[str] = set(quantized.output_names)
        self.values: dict[str, str] = {}
        self.reals: dict[str, str] = {}
        self.islands: ExportedIslands = export_islands(self.graph)

    def model(self) -> onnx.ModelProto:
        """The whole file, with inferred shapes."""
        inputs = [self._input(spec) for spec in self.graph.inputs]
        for node in self.graph.nodes:
            node.write(self)
            if node.rounds:
                self._saturate(node.output)
        pairs = zip(self.graph.outputs, self.quantized.output_names, strict=True)
        outputs = [self._output(spec, name) for spec, name in pairs]
        graph = helper.make_graph(
            self.nodes, "qstrategies", inputs, outputs, list(self.initializers.values())
        )
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="qstrategies"
        )
        return onnx.shape_inference.infer_shapes(model)

    def constant(self, name: str, array: Array) -> str:
        """The name of an initializer; equal ones are one."""
        array = np.array(array, order="C")  # ascontiguousarray would make a vector of a scalar
        key = array.dtype.str, array.shape, array.tobytes()
        if key not in self.known_constants:
            self.known_constants[key] = self.free_name(name)
            self.add_initializer(numpy_helper.from_array(array, self.known_constants[key]))
        return self.known_constants[key]

    def add_initializer(self, tensor: onnx.TensorProto) -> None:
        """Take ``tensor`` in, under its own name."""
        self.initializers[tensor.name] = tensor

    def emit(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """A node named after its output; returns that."""
        name = self.free_name(output)
        self.nodes.append(helper.make_node(op, list(inputs), [name], name, **attributes))
        return name

    def integers(self, tensor: TensorSpec) -> str:
        """The name of the uint8 tensor, or of the real one if it has no quantizer."""
        return self.values[tensor.name]

    def real(self, tensor: TensorSpec) -> str:
        """The name of the real tensor, dequantized once."""
        if tensor.quantizer is None:
            return self.values[tensor.name]
        if tensor.name not in self.reals:
            operands = [self.values[tensor.name], *self._qparams(tensor)]
            self.reals[tensor.name] = self.emit("DequantizeLinear", operands, f"{tensor.name}.real")
        return self.reals[tensor.name]

    def give(self, tensor: TensorSpec, value: str) -> None:
        """``tensor`` is the real ``value``, rounded to its quantizer if it has one."""
        if tensor.quantizer is None:
            self.values[tensor.name] = value
            return
        operands = [value, *self._qparams(tensor)]
        self.values[tensor.name] = self.emit("QuantizeLinear", operands, f"{tensor.name}.quantized")

    def _saturate(self, tensor: TensorSpec) -> None:
        """Clip ``tensor``, which was just rounded to uint8, where its quantizer is narrower."""
        if tensor.quantizer is None or tensor.quantizer.whole:
            return
        name, wide = tensor.name, [self.values[tensor.name], *self._qparams(tensor)]
        real = self.emit("DequantizeLinear", wide, f"{name}.wide")
        low, high = (np.array(end, np.float32) for end in tensor.quantizer.ends)
        bounds = [self.constant(f"{name}.low", low), self.constant(f"{name}.high", high)]
        self.give(tensor, self.emit("Clip", [real, *bounds], f"{name}.narrow"))

    def give_integers(self, tensor: TensorSpec, value: str) -> None:
        """``tensor`` is the uint8 ``value``."""
        self.values[tensor.name] = value

    def island(self, node: Node, module: nn.Module) -> None:
        """The float part ``module``, its inputs spelled out: behind a DequantizeLinear, ONNX
        Runtime quantizes float weights itself."""
        inputs = [self._spelled_out(spec) for spec in node.inputs]
        result = self.islands.write(node.output.name, self, inputs)
        self.give(node.output, result)

    def _spelled_out(self, tensor: TensorSpec) -> str:
        """The real tensor by Cast, Sub and Mul, which no optimizer takes for a DequantizeLinear."""
        if tensor.quantizer is None:
            return self.values[tensor.name]
        grid, name = tensor.quantizer, tensor.name
        value = self.emit("Cast", [self.values[name]], f"{name}.float", to=TensorProto.FLOAT)
        if grid.zero_point:
            offset = self.constant(f"{name}.offset", np.array(grid.zero_point, np.float32))
            value = self.emit("Sub", [value, offset], f"{name}.centered")
        step = self.constant(f"{name}.step", np.array(grid.scale, np.float32))
        return self.emit("Mul", [value, step], f"{name}.spelled")

    def _qparams(self, tensor: TensorSpec) -> list[str]:
        grid = tensor.grid
        return [
            self.constant(f"{tensor.name}.scale", np.array(grid.scale, np.float32)),
            self.constant(f"{tensor.name}.zero_point", np.array(grid.zero_point, np.uint8)),
        ]

    def _input(self, spec: TensorSpec) -> onnx.ValueInfoProto:
        name = self.free_name(spec.name)
        if spec.quantizer is None:
            self.values[spec.name] = name
            return _value_info(name, spec, onnx_type(spec))
        if self.pixels == "uint8":
            self.values[spec.name] = name
            return _value_info(name, spec, TensorProto.UINT8)
        self.give(spec, name)
        return _value_info(name, spec, TensorProto.FLOAT)

    def _output(self, spec: TensorSpec, name: str) -> onnx.ValueInfoProto:
        value = self.values[spec.name]
        operands = [value] if spec.quantizer is None else [value, *self._qparams(spec)]
        op = "Identity" if spec.quantizer is None else "DequantizeLinear"
        self.nodes.append(helper.make_node(op, operands, [name], name))
        return _value_info(name, spec, onnx_type(spec))

    def free_name(self, name: str) -> str:
        """``name``, or one like it that is not taken, and take it."""
        free, number = name, 1
        while free in self.names:
            number += 1
            free = f"{name}_{number}"
        self.names.add(free)
        return free


def onnx_type(spec: TensorSpec) -> int:
    """The ONNX element type of a real tensor, or of one of integers or booleans."""
    name = str(spec.dtype).removeprefix("torch.")
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(name)))


def _value_info(name: str, spec: TensorSpec, kind: int) -> onnx.ValueInfoProto:
    dims: list[int | str] = []
    for place, size in enumerate(spec.shape):
        unknown = "batch" if place == 0 else f"{name}_{place}"
        dims.append(unknown if size is None else size)
    return helper.make_tensor_value_info(name, kind, dims)
