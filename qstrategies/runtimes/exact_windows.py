"""Operators that move a kernel over spatial axes, on real tensors of ``exact.py``."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qstrategies.errors import InputError
from qstrategies.runtimes.exact import ROOM, Array, Integers, Node, Real, check, dot, elementwise, largest, operand, times


@dataclass(frozen=True)
class Window:
    """Where the taps of a kernel lie: all tuples have one entry per spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    out: tuple[int, ...]

    @staticmethod
    def of(node: Node, sizes: tuple[int, ...], kernel: tuple[int, ...]) -> Window:
        node.require(auto_pad=b"NOTSET")
        rank, get = len(kernel), node.attributes.get
        strides, dilations = tuple(get("strides", [1] * rank)), tuple(get("dilations", [1] * rank))
        begin, end = (get("pads", [0] * 2 * rank)[start:][:rank] for start in (0, rank))
        pads, out = [], []
        for size, k, stride, dilation, before, after in zip(sizes, kernel, strides, dilations, begin, end, strict=True):
            reach = dilation * (k - 1) + 1
            steps = size + before + after - reach
            count = (-(-steps // stride) if get("ceil_mode") else steps // stride) + 1
            count -= (count - 1) * stride >= size + before  # a window must not start behind the input
            pads.append((before, max(after, (count - 1) * stride + reach - size - before)))
            out.append(count)
        return Window(kernel, strides, dilations, tuple(pads), tuple(out))

    def pad(self, integers: Integers, value: int) -> Integers:
        """``integers`` [..., *spatial] with ``value`` around them."""
        return np.pad(integers, [(0, 0)] * (integers.ndim - len(self.pads)) + list(self.pads), constant_values=value)

    def taps(self, padded: Integers) -> Iterator[Integers]:
        """For every position in the kernel, the elements that it meets, as a view [..., *out]."""
        for position in np.ndindex(*self.kernel):
            grid = zip(position, self.dilations, self.out, self.strides, strict=True)
            index: tuple[Any, ...] = (..., *(slice(p * d, p * d + (n - 1) * s + 1, s) for p, d, n, s in grid))
            yield padded[index]


def _correlate(x: Real, weight: Real, bias: Any, window: Window) -> Real:
    """``x`` [N, groups * C, *sizes] with ``weight`` [groups, O, C, *kernel], plus ``bias`` [groups * O]."""
    x, weight = x.aligned(*range(1, x.integers.ndim)), weight.aligned(*range(2, weight.integers.ndim))
    groups, outputs, inputs = weight.integers.shape[:3]
    bound = largest(x.integers) * largest(np.abs(weight.integers).reshape(groups, outputs, -1).sum(2))
    total = np.zeros((len(x.integers), groups, outputs, math.prod(window.out)), np.int64)
    columns = weight.integers.reshape(groups, outputs, inputs, -1)
    for index, tap in enumerate(window.taps(window.pad(x.integers, 0))):
        total += dot(columns[..., index], tap.reshape(len(tap), groups, inputs, -1), bound)
    spread = [1] * len(window.out)
    product = Real(
        total.reshape(len(total), -1, *window.out), x.exponent + weight.exponent.reshape(1, -1, *spread), x.divisor * weight.divisor
    )
    return product if bias is None else elementwise(np.add, product, operand(bias).moved(lambda array: array.reshape(-1, *spread)))


def conv(node: Node, x: Any, weight: Any, bias: Any = None) -> Real:
    x, weight, groups = operand(x), operand(weight), node.attributes.get("group", 1)
    window = Window.of(node, x.integers.shape[2:], weight.integers.shape[2:])
    return _correlate(x, weight.moved(lambda array: array.reshape(groups, -1, *array.shape[1:])), bias, window)


def conv_transpose(node: Node, x: Any, weight: Any, bias: Any = None) -> Real:
    """The convolution of ``x``, spread out with zeros, and the mirrored kernel."""
    node.require(auto_pad=b"NOTSET", output_shape=None)
    x, weight, get = operand(x), operand(weight), node.attributes.get
    x, kernel, rank, groups = x.aligned(*range(1, x.integers.ndim)), weight.integers.shape[2:], x.integers.ndim - 2, get("group", 1)
    strides, dilations = get("strides", [1] * rank), tuple(get("dilations", [1] * rank))
    pads, extra = get("pads", [0] * 2 * rank), get("output_padding", [0] * rank)
    spread = np.zeros((*x.integers.shape[:2], *((n - 1) * s + 1 for n, s in zip(x.integers.shape[2:], strides, strict=True))), np.int64)
    every: tuple[Any, ...] = (..., *(slice(None, None, stride) for stride in strides))
    spread[every] = x.integers
    reach = [dilation * (k - 1) for dilation, k in zip(dilations, kernel, strict=True)]
    around = tuple((r - b, r - e + more) for r, b, e, more in zip(reach, pads[:rank], pads[rank:], extra, strict=True))
    if min(min(pair) for pair in around) < 0:
        raise InputError(f"pads={pads!r}, wider than the kernel")
    out = tuple(n + sum(pair) - r for n, pair, r in zip(spread.shape[2:], around, reach, strict=True))
    window = Window(kernel, (1,) * rank, dilations, around, out)

    def mirrored(array: Array) -> Array:
        return np.flip(array.reshape(groups, -1, *array.shape[1:]).swapaxes(1, 2), tuple(range(3, 3 + rank)))

    return _correlate(replace(x, integers=spread), weight.moved(mirrored), bias, window)


def max_pool(node: Node, x: Any) -> Real:
    node.require(storage_order=0)
    x = operand(x).aligned(*range(2, operand(x).integers.ndim))
    window = Window.of(node, x.integers.shape[2:], tuple(node.attributes["kernel_shape"]))
    return replace(x, integers=functools.reduce(np.maximum, window.taps(window.pad(x.integers, -(2**ROOM)))))


def average_pool(node: Node, x: Any) -> Real:
    x = operand(x).aligned(*range(2, operand(x).integers.ndim))
    sizes, get = x.integers.shape[2:], node.attributes.get
    window = Window.of(node, sizes, tuple(node.attributes["kernel_shape"]))
    ends = get("pads", [0] * 2 * len(sizes))[len(sizes) :]
    counted = window.pad(np.zeros(sizes, np.int64), 0)
    include = bool(get("count_include_pad"))
    margins = zip(window.pads, sizes, ends, strict=True)
    counted[tuple(slice((1 - include) * before, before + size + include * end) for (before, _), size, end in margins)] = 1
    counts: Integers = functools.reduce(np.add, window.taps(counted))
    common = math.lcm(*np.unique(counts).tolist())
    check(largest(x.integers) * math.prod(window.kernel))
    total: Integers = functools.reduce(np.add, window.taps(window.pad(x.integers, 0)))
    return replace(x, integers=times(total, common // counts), divisor=x.divisor * common)
