"""The arbiter: QDQ graphs in exact integer arithmetic; the only rounding is that of QuantizeLinear,
half to even."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from qstrategies.errors import InputError
from qstrategies.runtimes import RUNTIMES
from qstrategies.runtimes.base import Runtime, input_dtypes, joined, read_model, refused
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
    opset_of,
    shifted,
    steps,
    times,
)
from qstrategies.runtimes.exact_movement import MOVING, cast, concat, dropout, move, pad, resize
from qstrategies.runtimes.exact_windows import average_pool, conv, conv_transpose, max_pool


def dequantize(node: Node, quantized: Array, scale: Array, zero_point: Array | None = None) -> Real:
    axis, rank = node.attributes.get("axis", 1), quantized.ndim
    factor = steps(scale, axis, rank)
    integers = quantized.astype(np.int64) - (
        0 if zero_point is None else along(zero_point.astype(np.int64), axis, rank)
    )
    return replace(factor, integers=times(integers, factor.integers))


def quantize(
    node: Node, value: Any, scale: Array, zero_point: Array = np.zeros((), np.uint8)
) -> Array:
    real = value if isinstance(value, Real) else decompose(value)
    axis, rank = node.attributes.get("axis", 1), real.integers.ndim
    factor = steps(scale, axis, rank)
    up = real.exponent - factor.exponent
    divisor = times(factor.integers, np.full_like(factor.integers, real.divisor))
    rounded = divide(shifted(real.integers, np.maximum(up, 0)), divisor, np.maximum(-up, 0))
    limits = np.iinfo(zero_point.dtype)
    return np.clip(
        rounded + along(zero_point.astype(np.int64), axis, rank), limits.min, limits.max
    ).astype(zero_point.dtype)


def constant(node: Node) -> Array:
    (value,) = node.attributes.values()
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    kind = (
        np.float32 if node.proto.attribute[0].name in ("value_float", "value_floats") else np.int64
    )
    return np.array(value, kind)


def add(_: Node, a: Any, b: Any) -> Real:
    return elementwise(np.add, operand(a), operand(b))


def subtract(node: Node, a: Any, b: Any) -> Real:
    return add(node, a, negate(node, b))


def mul(_: Node, a: Any, b: Any) -> Real:
    a, b = operand(a), operand(b)
    return Real(times(a.integers, b.integers), a.exponent + b.exponent, a.divisor * b.divisor)


def div(_: Node, a: Any, b: Any) -> Real:
    """By positive or negative powers of two."""
    a, b = operand(a), operand(b)
    if (np.abs(b.integers) != 1).any() or b.divisor != 1:
        raise InputError("a division by what is no power of two")
    return Real(times(a.integers, b.integers), a.exponent - b.exponent, a.divisor)


def negate(_: Node, x: Any) -> Real:
    return replace(operand(x), integers=-operand(x).integers)


def absolute(_: Node, x: Any) -> Real:
    return replace(operand(x), integers=np.abs(operand(x).integers))


def relu(_: Node, x: Any) -> Real:
    return replace(operand(x), integers=np.maximum(operand(x).integers, 0))


def maximum(_: Node, *operands: Any) -> Real:
    return functools.reduce(functools.partial(elementwise, np.maximum), map(operand, operands))


def minimum(_: Node, *operands: Any) -> Real:
    return functools.reduce(functools.partial(elementwise, np.minimum), map(operand, operands))


def clip(node: Node, x: Any, low: Array | None = None, high: Array | None = None) -> Any:
    """The upper bound counts where it is below the lower one; bounds are attributes before operator
    set 11."""
    if node.opset < 11:
        low, high = (node.float_attribute(name) for name in ("min", "max"))
    real = operand(x)
    if low is not None and low != -np.inf:
        real = elementwise(np.maximum, real, operand(low))
    if high is not None and high != np.inf:
        real = elementwise(np.minimum, real, operand(high))
    return real


def matmul(_: Node, a: Any, b: Any) -> Real:
    a, b = operand(a).aligned(-1), operand(b).aligned(-2)
    bound = largest(a.integers) * largest(np.abs(b.integers).sum(-2))
    return Real(dot(a.integers, b.integers, bound), a.exponent + b.exponent, a.divisor * b.divisor)


def gemm(node: Node, a: Any, b: Any, c: Any = None) -> Real:
    node.require(alpha=1.0, beta=1.0)
    left, right = operand(a), operand(b)
    left = left.moved(np.transpose) if node.attributes.get("transA") else left
    right = right.moved(np.transpose) if node.attributes.get("transB") else right
    product = matmul(node, left, right)
    return product if c is None else add(node, product, c)


def _axes(node: Node, rank: int, given: Array | None) -> tuple[int, ...]:
    """The axes that a reduction is over, which are an input or an attribute; all if there are
    none."""
    axes = node.attributes.get("axes", []) if given is None else given.tolist()
    if not axes and node.attributes.get("noop_with_empty_axes"):
        return ()
    return tuple(axis % rank for axis in axes or range(rank))


def _kept(node: Node, reduced: Real, axes: tuple[int, ...]) -> Real:
    if node.attributes.get("keepdims", 1):
        return reduced
    return reduced.moved(lambda array: array.squeeze(axes))


def _sum(x: Real, axes: tuple[int, ...]) -> Real:
    x = x.aligned(*axes)
    check(largest(x.integers) * math.prod(x.integers.shape[axis] for axis in axes))
    return replace(x, integers=x.integers.sum(axes, keepdims=True))


def _mean(x: Real, axes: tuple[int, ...]) -> Real:
    count = math.prod(x.integers.shape[axis] for axis in axes)
    return replace(_sum(x, axes), divisor=x.divisor * count)


def _largest(x: Real, axes: tuple[int, ...]) -> Real:
    x = x.aligned(*axes)
    return replace(x, integers=x.integers.max(axes, keepdims=True))


def reduction(function: Callable[[Real, tuple[int, ...]], Real]) -> Callable[..., Real]:
    """The operator that applies ``function`` over the axes that a node names."""

    def compute(node: Node, x: Any, given: Array | None = None) -> Real:
        real = operand(x)
        axes = _axes(node, real.integers.ndim, given)
        return _kept(node, function(real, axes) if axes else real, axes)

    return compute


def over_space(function: Callable[[Real, tuple[int, ...]], Real]) -> Callable[..., Real]:
    """The operator that applies ``function`` over all spatial axes."""
    return lambda _, x: function(operand(x), tuple(range(2, operand(x).integers.ndim)))


def integers_too(function: Callable[..., Real]) -> Callable[..., Any]:
    """``function`` of real numbers, for tensors of integers as well; refuses a result that their
    type does not hold."""

    def compute(node: Node, *operands: Any) -> Any:
        first = operands[0]
        if isinstance(first, Real) or np.issubdtype(first.dtype, np.floating):
            return function(node, *operands)
        whole = [
            None
            if value is None
            else Real(value.astype(np.int64), np.zeros((1,) * value.ndim, np.int64))
            for value in operands
        ]
        result, limits = function(node, *whole).integers, np.iinfo(first.dtype)
        if result.min(initial=0) < limits.min or result.max(initial=0) > limits.max:
            raise InputError(f"integers that do not fit {first.dtype}")
        return result.astype(first.dtype)

    return compute


OF_INTEGERS_TOO: dict[str, Callable[..., Real]] = {
    "Abs": absolute,
    "Add": add,
    "Clip": clip,
    "Concat": concat,
    "GlobalMaxPool": over_space(_largest),
    "Max": maximum,
    "Min": minimum,
    "Neg": negate,
    "ReduceMax": reduction(_largest),
    "Relu": relu,
    "Sub": subtract,
}
OPS: dict[str, Callable[..., Any]] = {
    "Constant": constant,
    "QuantizeLinear": quantize,
    "DequantizeLinear": dequantize,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Gemm": gemm,
    "MatMul": matmul,
    "Div": div,
    "Mul": mul,
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": over_space(_mean),
    "ReduceMean": reduction(_mean),
    "ReduceSum": reduction(_sum),
    "Resize": resize,
    "Cast": cast,
    "Pad": pad,
    "Dropout": dropout,
    **{name: integers_too(function) for name, function in OF_INTEGERS_TOO.items()},
    **dict.fromkeys(MOVING, move),
}


@RUNTIMES.register("numpy-integer")
class IntegerNumpy(Runtime):
    """Runs a part of the images only."""

    summary = "integers only, in NumPy: the arbiter, on a part of the images"
    image_limit = 200

    def __init__(self, path: Path) -> None:
        model = read_model("the integer interpreter", path)
        self.path, self.inputs = path, input_dtypes(model)
        self.known: dict[str, Any] = {
            tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer
        }
        self.ends = [output.name for output in model.graph.output]
        self.nodes = []
        for node in (Node(proto, opset_of(model)) for proto in model.graph.node):
            if all(name in self.known for name in node.proto.input if name):
                self._compute(node, self.known)
            else:
                self.nodes.append(node)

    def run(self, *inputs: NDArray[Any]) -> NDArray[np.float32]:
        return joined(self.outputs(*inputs))

    def outputs(self, *inputs: NDArray[Any]) -> list[NDArray[np.float32]]:
        """Every output of the file by itself."""
        values: dict[str, Any] = dict(self.known)
        for (name, dtype), array in zip(self.inputs.items(), inputs, strict=True):
            values[name] = array.astype(dtype, copy=False)
        for node in self.nodes:
            self._compute(node, values)
        return [_in_floats(values[name]) for name in self.ends]

    def _compute(self, node: Node, values: dict[str, Any]) -> None:
        """Add the outputs of ``node`` to ``values``."""
        operands = [values[name] if name else None for name in node.proto.input]
        name = f"{node.proto.op_type} {node.proto.name!r}"
        if node.proto.op_type not in OPS:
            raise refused(
                "the integer interpreter",
                self.path,
                ValueError(f"no operator {name}. Valid: {', '.join(OPS)}"),
            )
        try:
            outputs = OPS[node.proto.op_type](node, *operands)
        except Exception as error:  # a strange node may break any assumption
            raise refused(
                "the integer interpreter", self.path, ValueError(f"{name}: {error}")
            ) from None
        values.update(
            zip(node.proto.output, outputs if isinstance(outputs, list) else [outputs], strict=True)
        )


def _in_floats(output: Any) -> NDArray[np.float32]:
    if isinstance(output, Real):
        output = np.ldexp(output.integers / output.divisor, output.exponent)
    return output.astype(np.float32)
