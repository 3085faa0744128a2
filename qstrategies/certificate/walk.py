"""From node to node: what every tensor of a QDQ graph can hold, and which nodes executors may round differently."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from qstrategies.certificate.grid import REAL, Array, Grid, UnprovenError, mantissa
from qstrategies.certificate.layers import WEIGHTED, Constant, certify_layer
from qstrategies.certificate.report import EXACT, GUARANTEES, Breach, Certificate, Layer
from qstrategies.certificate.rules import OPERANDS, Call, apply_rule, check_mean

PRODUCTS = (
    "Attention", "ConvInteger", "DeformConv", "Einsum", "GRU", "If", "LSTM", "Loop", "MatMulInteger", "QLinearConv",
    "QLinearMatMul", "RNN", "Scan",
)  # fmt: skip
"""Operators without a rule that may hide sums of products, which may saturate."""
SMALLEST_STEP = 2.0**-16  # float32 holds 8 bits for the result and 16 behind the point


def certify_model(model: onnx.ModelProto) -> Certificate:
    """The certificate of a valid ``model``, as ``onnx_file.load_checked`` gives it."""
    walk = _Walk(model)
    for node in model.graph.node:
        walk.visit(_named(node))
    return Certificate(tuple(walk.layers), {name: tuple(found) for name, found in walk.breaches.items()}, walk.others)


def _named(node: onnx.NodeProto) -> onnx.NodeProto:
    if node.name:
        return node
    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    copied.name = f"{node.op_type} of {next(iter(node.output), 'nothing')}"
    return copied


class _Walk:
    """``values`` holds a grid per tensor, None where its proof is broken already; ``constants`` what is fixed."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.constants = {tensor.name: Constant(numpy_helper.to_array(tensor), None, tensor.name) for tensor in model.graph.initializer}
        self.values: dict[str, Grid | None] = {entry.name: _integer_range(entry.type.tensor_type) or REAL for entry in model.graph.input}
        self.types = _types(model)
        self.opsets = list(model.opset_import)
        self.quantizers: dict[str, tuple[float, int]] = {}
        self.layers: list[Layer] = []
        self.breaches: dict[str, list[Breach]] = {name: [] for name in GUARANTEES}
        self.others = 0

    def visit(self, node: onnx.NodeProto) -> None:
        """Enter the outputs of ``node`` into ``values`` or ``constants``, and what it breaks into ``breaches``."""
        try:
            if not self._fold(node):
                self.values.update(dict.fromkeys(node.output, self._grid(node)))
        except UnprovenError as error:
            self._unproven(node, str(error))
        except Exception as error:  # a strange file may break any assumption, and is then not proven
            self._unproven(node, f"it cannot be analysed: {type(error).__name__}")

    def _unproven(self, node: onnx.NodeProto, reason: str) -> None:
        self._breach(node, reason, tuple(GUARANTEES) if node.op_type in (*WEIGHTED, *PRODUCTS) else EXACT)
        self.values.update(dict.fromkeys(node.output))

    def _breach(self, node: onnx.NodeProto, reason: str, guarantees: Sequence[str] = EXACT) -> None:
        for guarantee in guarantees:
            self.breaches[guarantee].append(Breach(node.name, reason))

    def _fold(self, node: onnx.NodeProto) -> bool:
        """Compute ``node`` if all of its inputs are constant; False if it is none of those."""
        given = {name: self.constants.get(name) for name in node.input if name}
        known = {name: constant for name, constant in given.items() if constant is not None}
        if len(known) < len(given) or node.op_type.startswith("Random") or any(item.HasField("g") for item in node.attribute):
            return False
        if node.op_type == "DequantizeLinear":
            self.constants[node.output[0]] = _dequantized(node, [known[name] for name in node.input if name])
            return True
        if any(constant.scale is not None for constant in known.values()):
            return False  # so that integer weights are never taken for float ones
        if node.op_type == "QuantizeLinear":
            self._breach(node, "it rounds its constant when the file is loaded, each executor in its own way")
        results = _evaluate(node, {name: constant.integers for name, constant in known.items()}, self.opsets)
        self.constants.update({name: Constant(array, None, name) for name, array in zip(node.output, results, strict=True)})
        return True

    def _grid(self, node: onnx.NodeProto) -> Grid | None:
        """The values of the outputs of ``node``; None if a proof is broken already before it."""
        if node.op_type == "QuantizeLinear":
            return self._quantize(node, self._value(node.input[0]))
        varying = [self._value(name) for name in node.input if name and name not in self.constants]
        if any(grid is None for grid in varying):
            return None
        operands = node.input if node.op_type in OPERANDS else node.input[:1]
        grids = [grid for name in operands if (grid := self._value(name)) is not None]
        if node.op_type == "DequantizeLinear":
            return self._dequantize(node, grids[0])
        if node.op_type in WEIGHTED:
            return self._layer(node, grids[0])
        constants = [None if constant is None else constant.integers for constant in map(self.constants.get, node.input)]
        grid = apply_rule(Call(node, grids, constants, _shape(self.types.get(node.input[0])) if node.input else None))
        limits = _integer_range(self.types.get(node.output[0]))
        if limits is not None and not limits.low <= grid.low * grid.step <= grid.high * grid.step <= limits.high:
            raise UnprovenError("its integers can overflow")
        self.others += 1
        return grid

    def _value(self, name: str) -> Grid | None:
        if name in self.constants:
            return Grid.of(self.constants[name].values)
        if name not in self.values:
            raise UnprovenError(f"its input {name!r} is not known")
        return self.values[name]

    def _layer(self, node: onnx.NodeProto, x: Grid) -> Grid:
        weight, bias = (self.constants.get(name) if name else None for name in [*node.input[1:], "", ""][:2])
        if weight is None or (bias is None and len(node.input) > 2 and node.input[2]):
            raise UnprovenError("its weight or bias is not constant")
        layer, output, breaches = certify_layer(node, x, weight, bias)
        self.layers.append(layer)
        for guarantee, reason in breaches:
            self._breach(node, reason, [guarantee])
        return output

    def _dequantize(self, node: onnx.NodeProto, integers: Grid) -> Grid:
        scale, zero_point, _ = self._quantizer(node)
        if self.quantizers.get(node.input[0]) != (scale, zero_point):
            self._check_quantizer(node, scale, zero_point)
        whole = integers.on(1.0)
        return Grid(scale, whole.low - zero_point, whole.high - zero_point)

    def _quantize(self, node: onnx.NodeProto, values: Grid | None) -> Grid:
        scale, zero_point, dtype = self._quantizer(node)
        self.quantizers[node.output[0]] = scale, zero_point
        self._check_quantizer(node, scale, zero_point)
        if values is not None and values.divisor != 1:
            try:
                check_mean(values, scale, zero_point)
            except UnprovenError as error:
                self._breach(node, str(error))
        if values is not None and values.divisor == 1 and zero_point != 0 and values.unit / scale < SMALLEST_STEP:
            steps = f"{values.unit / scale:.3g} of the output's step, less than 2^-16"
            self._breach(node, f"values in steps of {steps}: kernels that add the zero point {zero_point} before rounding lose bits")
        return Grid(1.0, int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))

    def _quantizer(self, node: onnx.NodeProto) -> tuple[float, int, np.dtype]:
        parameters = [self.constants.get(name) for name in node.input[1:]]
        if not parameters or any(constant is None or constant.integers.size != 1 for constant in parameters):
            raise UnprovenError("its scale and zero point are not one constant number each")
        scale, *zero_point = [constant.integers for constant in parameters if constant is not None]
        if not (np.isfinite(scale) & (scale > 0)).all():
            raise UnprovenError(f"its scale is {float(scale.item())}")
        if not zero_point and any(item.name == "output_dtype" for item in node.attribute):
            raise UnprovenError("its type is an attribute, not that of a zero point")
        return (
            float(scale.item()),
            int(zero_point[0].item()) if zero_point else 0,
            zero_point[0].dtype if zero_point else np.dtype(np.uint8),
        )

    def _check_quantizer(self, node: onnx.NodeProto, scale: float, zero_point: int) -> None:
        if mantissa(np.array(scale)) != 1:
            self._breach(node, f"its scale {scale:g} is no power of two")
        if zero_point % 2:
            self._breach(node, f"its zero point {zero_point} is odd")


def _types(model: onnx.ModelProto) -> dict[str, onnx.TypeProto.Tensor]:
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    return {value.name: value.type.tensor_type for value in (*graph.input, *graph.value_info, *graph.output)}


def _shape(kind: onnx.TypeProto.Tensor | None) -> tuple[int | None, ...] | None:
    """The dimensions, None for symbolic ones; None if not even their number is known."""
    if kind is None or not kind.HasField("shape"):
        return None
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim)


def _integer_range(kind: onnx.TypeProto.Tensor | None) -> Grid | None:
    """All values of an integer type; None for any other type."""
    try:
        limits = np.iinfo(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)) if kind is not None else None
    except (ValueError, KeyError):
        return None
    return None if limits is None else Grid(1.0, int(limits.min), int(limits.max))


def _dequantized(node: onnx.NodeProto, inputs: list[Constant]) -> Constant:
    stored, scale = inputs[0].integers, inputs[1].integers
    if inputs[0].scale is not None or not np.issubdtype(stored.dtype, np.integer) or scale.ndim > 1:
        raise UnprovenError("it is no table of integers with one scale per channel")
    axis = next((item.i for item in node.attribute if item.name == "axis"), 1)
    shape = [1] * stored.ndim
    if scale.size > 1:
        shape[axis] = scale.size
    zero_point = inputs[2].integers.astype(np.int64) if len(inputs) > 2 else np.zeros(1, np.int64)
    integers = stored.astype(np.int64) - zero_point.reshape(shape if zero_point.size > 1 else [1] * stored.ndim)
    return Constant(integers, scale.reshape(shape), inputs[0].stored)


def _evaluate(node: onnx.NodeProto, inputs: dict[str, Array], opsets: Sequence[onnx.OperatorSetIdProto]) -> list[Array]:
    entries = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in inputs.items()
    ]
    results = [onnx.ValueInfoProto(name=name) for name in node.output]
    graph = onnx.helper.make_graph([node], "constant", entries, results)
    return [np.asarray(array) for array in ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=opsets)).run(None, inputs)]
