"""Layers of a file as sums of integers, and what all windows share."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from qstrategies.errors import InputError
from qstrategies.specification.program import (
    Array,
    Convolution,
    Linear,
    TransposedConvolution,
)
from qstrategies.specification.values import Call, Constant, Real, Summed


def pads_of(call: Call, rank: int) -> tuple[int, ...]:
    """What is padded before each dimension of the image."""
    call.node.require(auto_pad=b"NOTSET", ceil_mode=0)
    return tuple(call.get("pads", [0] * 2 * rank)[:rank])


def per_dimension(call: Call, name: str, rank: int) -> tuple[int, ...]:
    return tuple(call.get(name, [1] * rank))


def convolution(call: Call) -> Summed:
    (x,) = call.reals(1)
    weight = _weight(call)
    groups, rank = call.get("group", 1), weight.integers.ndim - 2
    transposed = call.kind == "ConvTranspose"
    build = functools.partial(
        TransposedConvolution if transposed else Convolution,
        stride=per_dimension(call, "strides", rank),
        pads=pads_of(call, rank),
        dilation=per_dimension(call, "dilations", rank),
        groups=groups,
    )
    if not transposed:
        return _layer(call, x, weight, weight.integers.reshape(len(weight.integers), -1), build)
    per_group = weight.integers.reshape(groups, -1, *weight.integers.shape[1:])
    rows = per_group.swapaxes(1, 2).reshape(groups * weight.integers.shape[1], -1)
    scales = weight.scales if len(weight.scales) == 1 else weight.scales * groups
    return _layer(call, x, Constant(weight.integers, scales, weight.axis), rows, build)


def gemm(call: Call) -> Summed:
    call.node.require(alpha=1.0, beta=1.0, transA=0)
    return linear(call, turned=not call.get("transB", 0))


def linear(call: Call, *, turned: bool) -> Summed:
    (x,) = call.reals(1)
    weight = _weight(call)
    if weight.integers.ndim != 2:
        raise InputError(f"a weight of {weight.integers.ndim} dimensions")
    rows = weight.integers.T if turned else weight.integers
    return _layer(call, x, Constant(rows, weight.scales, 0), rows, functools.partial(Linear))


def _weight(call: Call) -> Constant:
    weight = call.dequantized(1)
    if weight is None or weight.integers.dtype != np.int8:
        raise InputError("its weight is no dequantized int8")
    return weight


def _layer(
    call: Call,
    x: Real,
    weight: Constant,
    rows: Array,
    build: functools.partial[Convolution] | functools.partial[Linear],
) -> Summed:
    """``rows``: the weights of each output channel."""
    scales = weight.scales * (len(rows) if len(weight.scales) == 1 else 1)
    steps = tuple(scale * x.grid.scale for scale in scales)
    bias = _bias(call, steps)
    zero_point = x.grid.zero_point
    below, above = x.tensor.reach(zero_point)
    wide = rows.astype(np.int64)
    positive, negative = np.maximum(wide, 0).sum(1), np.maximum(-wide, 0).sum(1)
    up = positive * above + negative * below + np.maximum(bias, 0)
    down = positive * below + negative * above + np.maximum(-bias, 0)
    return Summed(
        functools.partial(build, zero_point=zero_point, weight=weight.integers, bias=bias),
        (x.tensor,),
        steps,
        int(max(up.max(), down.max())),
        call.operators(x),
    )


def _bias(call: Call, steps: Sequence[Fraction]) -> Array:
    """int64, in steps of the accumulator."""
    bias = call.dequantized(2)
    if bias is None:
        return np.zeros(len(steps), np.int64)
    scales = bias.scales * (len(steps) if len(bias.scales) == 1 else 1)
    if tuple(scales) != tuple(steps) or bias.integers.shape != (len(steps),):
        raise InputError("its bias is not in steps of its weight and input")
    return bias.integers.astype(np.int64)
