"""Quantization, arithmetic and reductions of the arbiter, in exact integers."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from qstrategies.errors import InputError
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


def sum_over(x: Real, axes: tuple[int, ...]) -> Real:
    x = x.aligned(*axes)
    check(largest(x.integers) * math.prod(x.integers.shape[axis] for axis in axes))
    return replace(x, integers=x.integers.sum(axes, keepdims=True))


def mean_over(x: Real, axes: tuple[int, ...]) -> Real:
    count = math.prod(x.integers.shape[axis] for axis in axes)
    return replace(sum_over(x, axes), divisor=x.divisor * count)


def max_over(x: Real, axes: tuple[int, ...]) -> Real:
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
