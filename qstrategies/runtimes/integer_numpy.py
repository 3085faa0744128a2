"""The arbiter: QDQ graphs in exact integer arithmetic; the only rounding is that of QuantizeLinear, half to even."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from qstrategies.errors import InputError
from qstrategies.runtimes import RUNTIMES
from qstrategies.runtimes.base import Runtime, input_dtypes, read_model, refused
from qstrategies.runtimes.exact import (
    Array,
    Node,
    Real,
    along,
    check,
    decompose,
    divide,
    dot,
    elementwise,
    largest,
    operand,
    shifted,
    steps,
    times,
)
from qstrategies.runtimes.exact_windows import average_pool, conv, conv_transpose, max_pool


def dequantize(node: Node, quantized: Array, scale: Array, zero_point: Array | None = None) -> Real:
    axis, rank = node.attributes.get("axis", 1), quantized.ndim
    factor = steps(scale, axis, rank)
    integers = quantized.astype(np.int64) - (0 if zero_point is None else along(zero_point.astype(np.int64), axis, rank))
    return replace(factor, integers=times(integers, factor.integers))


def quantize(node: Node, value: Any, scale: Array, zero_point: Array = np.zeros((), np.uint8)) -> Array:
    real = value if isinstance(value, Real) else decompose(value)
    axis, rank = node.attributes.get("axis", 1), real.integers.ndim
    factor = steps(scale, axis, rank)
    up = real.exponent - factor.exponent
    divisor = times(factor.integers, np.full_like(factor.integers, real.divisor))
    rounded = divide(shifted(real.integers, np.maximum(up, 0)), divisor, np.maximum(-up, 0))
    limits = np.iinfo(zero_point.dtype)
    return np.clip(rounded + along(zero_point.astype(np.int64), axis, rank), limits.min, limits.max).astype(zero_point.dtype)


def constant(node: Node) -> Array:
    (value,) = node.attributes.values()
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    kind = np.float32 if node.proto.attribute[0].name in ("value_float", "value_floats") else np.int64
    return np.array(value, kind)


def add(_: Node, a: Any, b: Any) -> Real:
    return elementwise(np.add, operand(a), operand(b))


def mul(_: Node, a: Any, b: Any) -> Real:
    a, b = operand(a), operand(b)
    return Real(times(a.integers, b.integers), a.exponent + b.exponent, a.divisor * b.divisor)


def relu(_: Node, x: Any) -> Real:
    return replace(operand(x), integers=np.maximum(operand(x).integers, 0))


def clip(_: Node, x: Any, low: Array | None = None, high: Array | None = None) -> Any:
    if isinstance(x, np.ndarray) and x.dtype != np.float32:
        return np.clip(x, low, high)
    real = operand(x)
    real = real if low is None else elementwise(np.maximum, real, operand(low))
    return real if high is None else elementwise(np.minimum, real, operand(high))


def matmul(_: Node, a: Any, b: Any) -> Real:
    a, b = operand(a).aligned(-1), operand(b).aligned(-2)
    bound = largest(a.integers) * largest(np.abs(b.integers).sum(-2))
    return Real(dot(a.integers, b.integers, bound), a.exponent + b.exponent, a.divisor * b.divisor)


def gemm(node: Node, a: Any, b: Any, c: Any = None) -> Real:
    node.require(alpha=1.0, beta=1.0, transA=0)
    product = matmul(node, a, operand(b).moved(np.transpose) if node.attributes.get("transB") else b)
    return product if c is None else add(node, product, c)


def _mean(x: Real, axes: tuple[int, ...]) -> Real:
    x = x.aligned(*axes)
    count = math.prod(x.integers.shape[axis] for axis in axes)
    check(largest(x.integers) * count)
    return replace(x, integers=x.integers.sum(axes, keepdims=True), divisor=x.divisor * count)


def global_average_pool(_: Node, x: Any) -> Real:
    return _mean(operand(x), tuple(range(2, operand(x).integers.ndim)))


def reduce_mean(node: Node, x: Any, axes: Array | None = None) -> Real:
    node.require(noop_with_empty_axes=0)
    real, given = operand(x), node.attributes.get("axes") if axes is None else axes.tolist()
    positive = tuple(axis % real.integers.ndim for axis in given or range(real.integers.ndim))
    mean = _mean(real, positive)
    return mean if node.attributes.get("keepdims", 1) else mean.moved(lambda array: array.squeeze(positive))


def concat(node: Node, *parts: Any) -> Real:
    reals = [operand(part) for part in parts]
    divisor, axis = math.lcm(*(real.divisor for real in reals)), node.attributes["axis"]
    reals = [real.aligned(*range(real.integers.ndim)) for real in reals]
    exponent = np.minimum.reduce([real.exponent for real in reals])
    whole = [shifted(real.over(divisor).integers, real.exponent - exponent) for real in reals]
    return Real(np.concatenate(whole, axis), exponent, divisor)


def resize(node: Node, x: Any, _: Any = None, scales: Array | None = None, sizes: Array | None = None) -> Any:
    """Nearest neighbour as PyTorch's: element ``floor(i / scale)`` along every axis."""
    node.require(mode=b"nearest", coordinate_transformation_mode=b"asymmetric", nearest_mode=b"floor", axes=None)
    shape = x.integers.shape if isinstance(x, Real) else x.shape
    if sizes is not None:
        ratios = [Fraction(new, old) for new, old in zip(sizes.tolist(), shape, strict=True)]
    else:
        assert scales is not None
        ratios = [Fraction(scale) for scale in scales.tolist()]
    index = np.ix_(*([int(i / ratio) for i in range(int(old * ratio))] for old, ratio in zip(shape, ratios, strict=True)))
    return x.moved(lambda array: array[index]) if isinstance(x, Real) else x[index]


def cast(node: Node, x: Any) -> Any:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(node.attributes["to"])
    if isinstance(x, Real) or np.issubdtype(x.dtype, np.floating):
        if np.issubdtype(dtype, np.floating):
            return x
        raise InputError(f"a cast of real numbers to {dtype}")
    return Real(x.astype(np.int64), np.zeros((1,) * x.ndim, np.int64)) if np.issubdtype(dtype, np.floating) else x.astype(dtype)


def move(node: Node, x: Any, *others: Array) -> Any:
    """An operator that only moves elements, by the standard's own code."""
    evaluator = ReferenceEvaluator(node.proto)
    names = [name for name in node.proto.input[1:] if name]

    def part(array: Array, index: int) -> Array:
        outputs: Any = evaluator.run(None, {node.proto.input[0]: array, **dict(zip(names, others, strict=True))})
        return np.asarray(outputs[index])

    moved = [
        x.moved(functools.partial(part, index=index)) if isinstance(x, Real) else part(x, index) for index in range(len(node.proto.output))
    ]
    return moved if len(moved) > 1 else moved[0]


OPS: dict[str, Callable[..., Any]] = {
    "Constant": constant,
    "QuantizeLinear": quantize,
    "DequantizeLinear": dequantize,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Gemm": gemm,
    "MatMul": matmul,
    "Relu": relu,
    "Clip": clip,
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": global_average_pool,
    "ReduceMean": reduce_mean,
    "Add": add,
    "Mul": mul,
    "Concat": concat,
    "Resize": resize,
    "Cast": cast,
    **dict.fromkeys(("Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"), move),
}


@RUNTIMES.register("numpy-integer")
class IntegerNumpy(Runtime):
    """Runs a part of the images only."""

    summary = "integers only, in NumPy: the arbiter, on a part of the images"
    image_limit = 200

    def __init__(self, path: Path) -> None:
        model = read_model("the integer interpreter", path)
        self.path, self.inputs = path, input_dtypes(model)
        self.known: dict[str, Any] = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self.output = model.graph.output[0].name
        self.nodes = []
        for node in map(Node, model.graph.node):
            if all(name in self.known for name in node.proto.input if name):
                self._compute(node, self.known)
            else:
                self.nodes.append(node)

    def run(self, *inputs: NDArray[Any]) -> NDArray[np.float32]:
        values: dict[str, Any] = dict(self.known)
        for (name, dtype), array in zip(self.inputs.items(), inputs, strict=True):
            values[name] = array.astype(dtype, copy=False)
        for node in self.nodes:
            self._compute(node, values)
        output = values[self.output]
        if isinstance(output, Real):
            output = np.ldexp(output.integers / output.divisor, output.exponent)
        return output.astype(np.float32)

    def _compute(self, node: Node, values: dict[str, Any]) -> None:
        """Add the outputs of ``node`` to ``values``."""
        operands = [values[name] if name else None for name in node.proto.input]
        name = f"{node.proto.op_type} {node.proto.name!r}"
        if node.proto.op_type not in OPS:
            raise refused("the integer interpreter", self.path, ValueError(f"no operator {name}. Valid: {', '.join(OPS)}"))
        try:
            outputs = OPS[node.proto.op_type](node, *operands)
        except (InputError, TypeError) as error:  # TypeError: other operands than the ones supported
            raise refused("the integer interpreter", self.path, ValueError(f"{name}: {error}")) from None
        values.update(zip(node.proto.output, outputs if isinstance(outputs, list) else [outputs], strict=True))
