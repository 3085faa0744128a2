"""Real tensors as ``integers * 2^exponent / divisor``: nothing is rounded, and what could leave
int64 is refused, not wrapped.

A scale ``m 2^e`` puts its mantissa into the integers and ``e`` into the exponent; an average puts
its count into the divisor.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from qstrategies.errors import InputError

Array = NDArray[Any]
Integers = NDArray[np.int64]
ROOM = 62  # bits that no integer exceeds: two of them still add up in int64
MANTISSA_BITS = (
    16  # of a scale: an 8-bit integer times it is exact in the float32 of the standard, too
)
FLOAT_BITS = 24  # of float32, and so of an integer behind a float constant


@dataclass(frozen=True)
class Real:
    """``integers * 2^exponent / divisor``; ``exponent`` has the rank of ``integers`` and broadcasts
    to it."""

    integers: Integers
    exponent: Integers
    divisor: int = 1

    def aligned(self, *axes: int) -> Real:
        """The same numbers with an exponent that is constant along ``axes``."""
        lowest = self.exponent.min(axis=axes, keepdims=True)
        return Real(shifted(self.integers, self.exponent - lowest), lowest, self.divisor)

    def over(self, divisor: int) -> Real:
        """The same numbers over ``divisor``, a multiple of the own one."""
        factor = divisor // self.divisor
        return (
            self
            if factor == 1
            else Real(times(self.integers, np.array(factor)), self.exponent, divisor)
        )

    def moved(self, movement: Callable[[Array], Array]) -> Real:
        """``movement``, which only picks and places elements, applied to all that an element
        has."""
        integers = movement(self.integers)
        if self.exponent.size == 1:
            return replace(
                self, integers=integers, exponent=self.exponent.reshape((1,) * integers.ndim)
            )
        return replace(
            self,
            integers=integers,
            exponent=movement(np.broadcast_to(self.exponent, self.integers.shape)),
        )


def largest(integers: Integers) -> int:
    """The largest absolute value, as an integer of Python."""
    return max(int(integers.max(initial=0)), -int(integers.min(initial=0)))


def check(bound: int) -> None:
    """Refuse integers that could be as large as ``bound`` if that leaves too little room in
    int64."""
    if bound.bit_length() > ROOM:
        raise InputError(
            f"exact integers of {bound.bit_length()} bits; at most {ROOM} are supported"
        )


def shifted(integers: Integers, bits: Integers) -> Integers:
    """``integers * 2^bits`` for ``bits`` >= 0."""
    if not bits.any():
        return integers
    check(largest(integers) << int(bits.max()))
    return np.left_shift(integers, bits)


def times(a: Integers, b: Integers) -> Integers:
    """``a * b`` of two arrays that broadcast."""
    check(largest(a) * largest(b))
    return a * b


def dot(a: Integers, b: Integers, bound: int) -> Integers:
    """``a @ b``, no partial sum of which exceeds ``bound``. BLAS, much faster, gives the same
    integers up to 2^53."""
    check(bound)
    carrier: Any = np.float64 if bound < 2**53 else np.int64
    return (a.astype(carrier) @ b.astype(carrier)).astype(np.int64)


def decompose(values: Array) -> Real:
    """Floats as odd integers (or 0) times powers of two, exactly."""
    if not np.isfinite(values).all():
        raise InputError("a constant or an input that is not finite")
    fractions, exponents = np.frexp(values.astype(np.float64))
    integers = np.ldexp(fractions, 53).astype(np.int64)
    zeros = np.where(integers == 0, 0, np.frexp((integers & -integers).astype(np.float64))[1] - 1)
    return Real(
        integers >> zeros, np.where(integers == 0, 0, exponents.astype(np.int64) - 53 + zeros)
    )


def along(values: Array, axis: int, rank: int) -> Array:
    """Per-tensor or per-channel ``values`` in the shape that broadcasts along ``axis`` of a tensor
    of ``rank``."""
    return values.reshape(
        [-1 if index == axis % rank and values.size > 1 else 1 for index in range(rank)]
    )


def steps(scale: Array, axis: int, rank: int) -> Real:
    """The steps of a quantizer, in the shape that broadcasts along ``axis`` of a tensor of
    ``rank``."""
    real = decompose(scale)
    for value in scale[(real.integers >= 2**MANTISSA_BITS) | (real.integers <= 0)]:
        raise InputError(
            f"the scale {value:.9g}, which is no positive integer of at most "
            f"{MANTISSA_BITS} bits times a power of two"
        )
    return Real(along(real.integers, axis, rank), along(real.exponent, axis, rank))


def operand(value: Any) -> Real:
    """A real operand. A float constant must hold integers times a power of two that is one per
    index of its first axis."""
    if isinstance(value, Real):
        return value
    if not np.issubdtype(value.dtype, np.floating):
        raise InputError(f"an operand of type {value.dtype}; real numbers are supported")
    real = decompose(value).aligned(*range(1, value.ndim))
    if largest(real.integers) >= 2**FLOAT_BITS:
        raise InputError(
            f"a float constant that holds no integers of at most {FLOAT_BITS} bits times a "
            "power of two"
        )
    return real


def divide(numerator: Integers, divisor: Integers, bits: Integers) -> Integers:
    """``numerator / (divisor * 2^bits)``, rounded half to even."""
    room = ROOM - largest(divisor).bit_length()
    if bits.max() > room:  # the smaller shift rounds to the same 0
        check(largest(numerator) << (ROOM - room + 1))
    denominator = np.left_shift(divisor, np.minimum(bits, room))
    quotient, rest = np.divmod(numerator, denominator)
    return quotient + ((2 * rest > denominator) | ((2 * rest == denominator) & (quotient % 2 == 1)))


def elementwise(function: Callable[[Integers, Integers], Integers], a: Real, b: Real) -> Real:
    """``function``, which commutes with scaling (sum, maximum, minimum), of two tensors that
    broadcast."""
    divisor, exponent = math.lcm(a.divisor, b.divisor), np.minimum(a.exponent, b.exponent)
    pair = (shifted(real.over(divisor).integers, real.exponent - exponent) for real in (a, b))
    return Real(function(*pair), exponent, divisor)


@dataclass(frozen=True)
class Node:
    """A node with its attributes as Python values, and the operator set that says what they
    mean."""

    proto: onnx.NodeProto
    opset: int

    @functools.cached_property
    def attributes(self) -> dict[str, Any]:
        return {
            attribute.name: onnx.helper.get_attribute_value(attribute)
            for attribute in self.proto.attribute
        }

    def require(self, **expected: Any) -> None:
        """Refuse the node if an attribute is set to another value than the one supported."""
        for name, value in expected.items():
            if (found := self.attributes.get(name, value)) != value:
                raise InputError(f"{name}={found!r}; only {value!r} is supported")

    def expect(self, **expected: Any) -> None:
        """Refuse the node if an attribute is not set to the value supported, which is not its
        default."""
        for name, value in expected.items():
            if (found := self.attributes.get(name)) != value:
                raise InputError(f"{name}={found!r}; only {value!r} is supported")

    def float_attribute(self, name: str) -> Array | None:
        """The attribute ``name`` as a tensor; None if it is not set."""
        value = self.attributes.get(name)
        return None if value is None else np.array(value, np.float32)


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the standard operators in ``model``."""
    return next(opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx"))
