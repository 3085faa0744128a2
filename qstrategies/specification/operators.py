"""What each operator of a file is on integers."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np

from qstrategies.errors import InputError
from qstrategies.runtimes.exact_movement import MOVING, move, pad, resize
from qstrategies.specification import layers
from qstrategies.specification.layers import pads_of, per_dimension
from qstrategies.specification.program import (
    Addition,
    Array,
    AveragePool,
    Clip,
    Concatenation,
    Extremum,
    MaxPool,
    Mean,
    Move,
    Product,
    Reshape,
    offsets_of,
)
from qstrategies.specification.values import Bounds, Call, Grid, Moved, Real, Summed, fraction

Result = Moved | Summed


# --- arithmetic ---


def _added(call: Call, *, sign: int) -> Summed:
    a, b = call.reals()
    unit = _common(a.grid.scale, b.grid.scale)
    factors = (int(a.grid.scale / unit), sign * int(b.grid.scale / unit))
    zero_points = (a.grid.zero_point, b.grid.zero_point)
    largest = [x.tensor.magnitude(x.grid.zero_point) for x in (a, b)]
    return Summed(
        functools.partial(Addition, zero_points=zero_points, factors=factors),
        (a.tensor, b.tensor),
        (unit,),
        factors[0] * largest[0] + abs(factors[1]) * largest[1],
        call.operators(a, b),
    )


def _common(a: Fraction, b: Fraction) -> Fraction:
    """The largest step of which both are multiples."""
    common = a.denominator * b.denominator
    return Fraction(math.gcd(int(a * common), int(b * common)), common)


def _product(call: Call) -> Summed:
    a, b = call.reals()
    return Summed(
        functools.partial(Product, zero_points=(a.grid.zero_point, b.grid.zero_point)),
        (a.tensor, b.tensor),
        (a.grid.scale * b.grid.scale,),
        a.tensor.magnitude(a.grid.zero_point) * b.tensor.magnitude(b.grid.zero_point),
        call.operators(a, b),
    )


# --- averages ---


def _average_pool(call: Call) -> Summed:
    (x,) = call.reals()
    kernel = tuple(call.get("kernel_shape", ()))
    if any(call.get("pads", ())) and not call.get("count_include_pad", 0):
        raise InputError("its padding does not count")
    build = functools.partial(
        AveragePool,
        kernel=kernel,
        stride=per_dimension(call, "strides", len(kernel)),
        pads=pads_of(call, len(kernel)),
    )
    return _averaged(call, x, build, math.prod(kernel))


def _global_average(call: Call) -> Summed:
    (x,) = call.reals()
    return _over(call, x, tuple(range(2, len(x.tensor.shape))))


def _reduced(call: Call, *, divides: bool) -> Summed:
    (x,) = call.reals(1)
    given = call.constant(1)
    axes = call.get("axes", None) if given is None else given.tolist()
    rank = len(x.tensor.shape)
    chosen = tuple(sorted(axis % rank for axis in axes or range(rank)))
    return _over(call, x, chosen, divides=divides)


def _over(call: Call, x: Real, axes: tuple[int, ...], *, divides: bool = True) -> Summed:
    count = math.prod(x.tensor.shape[axis] for axis in axes)
    return _averaged(call, x, functools.partial(Mean, axes=axes), count, divides=divides)


def _averaged(
    call: Call,
    x: Real,
    build: functools.partial[AveragePool] | functools.partial[Mean],
    count: int,
    *,
    divides: bool = True,
) -> Summed:
    zero_point = x.grid.zero_point
    return Summed(
        functools.partial(build, zero_point=zero_point),
        (x.tensor,),
        (x.grid.scale / (count if divides else 1),),
        count * x.tensor.magnitude(zero_point),
        call.operators(x),
    )


# --- what picks and places ---


def _max_pool(call: Call) -> Moved:
    (x,) = call.reals()
    call.node.require(storage_order=0)
    kernel = tuple(call.get("kernel_shape", ()))
    build = functools.partial(
        MaxPool,
        kernel=kernel,
        stride=per_dimension(call, "strides", len(kernel)),
        pads=pads_of(call, len(kernel)),
        dilation=per_dimension(call, "dilations", len(kernel)),
    )
    return Moved(build, (x.tensor,), x.grid, call.operators(x))


def _chosen(call: Call, *, largest: bool) -> Moved:
    reals = call.reals()
    if len(reals) != 2:
        raise InputError(f"{len(reals)} inputs; only 2 are supported")
    build = functools.partial(Extremum, largest=largest)
    tensors = tuple(real.tensor for real in reals)
    return Moved(build, tensors, call.one_grid(reals), call.operators(*reals))


def _concatenated(call: Call) -> Moved:
    reals = call.reals()
    axis = call.node.attributes["axis"] % len(reals[0].tensor.shape)
    build = functools.partial(Concatenation, axis=axis)
    tensors = tuple(real.tensor for real in reals)
    return Moved(build, tensors, call.one_grid(reals), call.operators(*reals))


def _moved(call: Call) -> Moved:
    """The operator moves the places themselves, counted from 1: what it adds is 0."""
    (x,) = call.reals(1)
    others = [call.constant(place) for place in range(1, len(call.operands))]
    fill = x.grid.zero_point
    if call.kind == "Pad" and len(others) > 1:
        fill, others[1] = _fill(x.grid, others[1]), None
    places = np.arange(1, x.tensor.size + 1).reshape(x.tensor.shape)
    movement = MOVEMENTS.get(call.kind, move)
    index = movement(call.node, places, *others)
    if np.array_equal(index.reshape(-1), places.reshape(-1)):
        return Moved(Reshape, (x.tensor,), x.grid, call.operators(x))
    try:
        base, offsets = offsets_of(index)
    except ValueError as error:
        raise InputError(str(error)) from None
    build = functools.partial(Move, operator=call.kind, base=base, offsets=offsets, fill=fill)
    span = (min(x.tensor.low, fill), max(x.tensor.high, fill))
    return Moved(build, (x.tensor,), x.grid, call.operators(x), span)


def _fill(grid: Grid, value: Array | None) -> int:
    """The integer that a Pad fills with."""
    real = Fraction(0) if value is None else fraction(value.item())
    integer = grid.integer(real)
    if (integer - grid.zero_point) * grid.scale != real:
        raise InputError(f"it pads {float(real):g}, which is no value of its quantizer")
    return integer


MOVEMENTS: dict[str, Callable[..., Array]] = {"Pad": pad, "Resize": resize}
"""Those that are more than picking elements."""


def _cut(call: Call) -> Result:
    """Relu or Clip: of real values on integers, of a sum when it is rounded."""
    value = call.operands[0]
    bounds = _bounds(call)
    if isinstance(value, Summed):
        if value.bounds != (None, None):
            raise InputError("it cuts what was cut already")
        operators = (*value.operators, call.name)
        return replace(value, operators=operators, bounds=bounds)
    (x,) = call.reals(1)
    low, high = x.grid.ends(bounds)
    build = functools.partial(Clip, low=low, high=high)
    span = (min(max(x.tensor.low, low), high), min(max(x.tensor.high, low), high))
    return Moved(build, (x.tensor,), x.grid, call.operators(x), span)


def _bounds(call: Call) -> Bounds:
    if call.kind == "Relu":
        return Fraction(0), None
    low, high = (call.constant(place) for place in (1, 2))
    return (
        None if low is None else fraction(low.item()),
        None if high is None else fraction(high.item()),
    )


OPERATORS: dict[str, Callable[[Call], Result]] = {
    "Conv": layers.convolution,
    "ConvTranspose": layers.convolution,
    "Gemm": layers.gemm,
    "MatMul": functools.partial(layers.linear, turned=True),
    "Add": functools.partial(_added, sign=1),
    "Sub": functools.partial(_added, sign=-1),
    "Mul": _product,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_average,
    "ReduceMean": functools.partial(_reduced, divides=True),
    "ReduceSum": functools.partial(_reduced, divides=False),
    "MaxPool": _max_pool,
    "Max": functools.partial(_chosen, largest=True),
    "Min": functools.partial(_chosen, largest=False),
    "Concat": _concatenated,
    "Relu": _cut,
    "Clip": _cut,
    **dict.fromkeys((*MOVING, "Pad", "Resize"), _moved),
}
"""On dequantized tensors, before they are quantized again."""
