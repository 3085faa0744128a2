"""Operators that move a kernel over spatial axes, on real tensors of ``exact.py``."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qstrategies.errors import InputError
from qstrategies.runtimes.exact import (
    ROOM,
    Array,
    Integers,
    Node,
    Real,
    check,
    dot,
    elementwise,
    largest,
    operand,
    times,
)
from qstrategies.runtimes.exact_movement import padded

Pads = tuple[tuple[int, int], ...]
NOTHING = -(2**ROOM)  # what a maximum meets in the padding


@dataclass(frozen=True)
class Kernel:
    """The attributes that convolutions and pools share, one entry per spatial axis."""

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]

    @staticmethod
    def of(node: Node, sizes: tuple[int, ...]) -> Kernel:
        ones = [1] * len(sizes)
        node.require(kernel_shape=list(sizes))
        strides = node.attributes.get("strides", ones)
        dilations = node.attributes.get("dilations", ones)
        return Kernel(sizes, tuple(strides), tuple(dilations))

    @property
    def reach(self) -> tuple[int, ...]:
        """How many elements one window spans."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.sizes, self.dilations, strict=True))


@dataclass(frozen=True)
class Window:
    """Where the taps of a kernel lie: ``pads`` around the input, and ``out`` windows along each
    axis."""

    kernel: Kernel
    pads: Pads
    out: tuple[int, ...]

    @staticmethod
    def of(node: Node, sizes: tuple[int, ...], kernel: Kernel) -> Window:
        """The windows of a convolution or a pool over an input of the spatial ``sizes``."""
        around = _padding(node, sizes, kernel)
        pads, out = [], []
        for size, reach, stride, (before, after) in zip(
            sizes, kernel.reach, kernel.strides, around, strict=True
        ):
            count = (size + before + after - reach) // stride + 1
            if node.attributes.get("ceil_mode"):
                count = -((reach - size - before - after) // stride) + 1
                # The last window of a pool must not start behind the input.
                count -= (count - 1) * stride >= size + before
            if count < 1:
                raise InputError(f"a kernel that spans {reach} of {size + before + after} elements")
            pads.append((before, max(after, (count - 1) * stride + reach - size - before)))
            out.append(count)
        return Window(kernel, tuple(pads), tuple(out))

    def pad(self, integers: Integers, value: int) -> Integers:
        """``integers`` [..., *spatial] with ``value`` around them, or cropped where a pad is
        negative."""
        still = [(0, 0)] * (integers.ndim - len(self.pads))
        wide = np.pad(integers, np.maximum([*still, *self.pads], 0), constant_values=value)
        return padded(wide, np.minimum([*still, *self.pads], 0))

    def taps(self, elements: Integers) -> Iterator[Integers]:
        """For every position in the kernel, the elements that it meets, as a view [..., *out]."""
        kernel = self.kernel
        for position in np.ndindex(*kernel.sizes):
            axes = zip(position, kernel.dilations, self.out, kernel.strides, strict=True)
            index: tuple[Any, ...] = (
                ...,
                *(slice(p * d, p * d + (n - 1) * s + 1, s) for p, d, n, s in axes),
            )
            yield elements[index]


def _padding(node: Node, sizes: tuple[int, ...], kernel: Kernel) -> Pads:
    """What ``pads`` or ``auto_pad`` put before and behind each axis of a convolution's or pool's
    input."""
    mode, rank = node.attributes.get("auto_pad", b"NOTSET"), len(sizes)
    if mode == b"NOTSET":
        pads = node.attributes.get("pads", [0] * 2 * rank)
        return tuple(zip(pads[:rank], pads[rank:], strict=True))
    if mode == b"VALID":
        return ((0, 0),) * rank
    axes = zip(sizes, kernel.reach, kernel.strides, strict=True)
    missing = [(-(-size // stride) - 1) * stride + reach - size for size, reach, stride in axes]
    return tuple(_halves(mode, max(total, 0)) for total in missing)


def _halves(mode: bytes, total: int) -> tuple[int, int]:
    """``total`` split in two, its odd element behind for SAME_UPPER and before for all else."""
    less, more = total // 2, total - total // 2
    return (less, more) if mode == b"SAME_UPPER" else (more, less)


def _correlate(x: Real, weight: Real, bias: Any, window: Window) -> Real:
    """``x`` [N, groups * C, *sizes] with ``weight`` [groups, O, C, *kernel], plus ``bias`` [groups
    * O]."""
    x = x.aligned(*range(1, x.integers.ndim))
    weight = weight.aligned(*range(2, weight.integers.ndim))
    groups, outputs, inputs = weight.integers.shape[:3]
    sums = np.abs(weight.integers).reshape(groups, outputs, -1).sum(2)
    bound = largest(x.integers) * largest(sums)
    total = np.zeros((len(x.integers), groups, outputs, math.prod(window.out)), np.int64)
    columns = weight.integers.reshape(groups, outputs, inputs, -1)
    for index, tap in enumerate(window.taps(window.pad(x.integers, 0))):
        total += dot(columns[..., index], tap.reshape(len(tap), groups, inputs, -1), bound)
    spread = [1] * len(window.out)
    integers = total.reshape(len(total), -1, *window.out)
    exponent = x.exponent + weight.exponent.reshape(1, -1, *spread)
    product = Real(integers, exponent, x.divisor * weight.divisor)
    if bias is None:
        return product
    return elementwise(
        np.add, product, operand(bias).moved(lambda array: array.reshape(-1, *spread))
    )


def conv(node: Node, x: Any, weight: Any, bias: Any = None) -> Real:
    x, weight, groups = operand(x), operand(weight), node.attributes.get("group", 1)
    kernel = Kernel.of(node, weight.integers.shape[2:])
    window = Window.of(node, x.integers.shape[2:], kernel)
    grouped = weight.moved(lambda array: array.reshape(groups, -1, *array.shape[1:]))
    return _correlate(x, grouped, bias, window)


def conv_transpose(node: Node, x: Any, weight: Any, bias: Any = None) -> Real:
    """The convolution of ``x``, spread out with zeros, and the mirrored kernel."""
    x, weight, groups = operand(x), operand(weight), node.attributes.get("group", 1)
    x = x.aligned(*range(1, x.integers.ndim))
    kernel = Kernel.of(node, weight.integers.shape[2:])
    rank = len(kernel.sizes)
    wide = tuple((n - 1) * s + 1 for n, s in zip(x.integers.shape[2:], kernel.strides, strict=True))
    spread = np.zeros((*x.integers.shape[:2], *wide), np.int64)
    every: tuple[Any, ...] = (..., *(slice(None, None, stride) for stride in kernel.strides))
    spread[every] = x.integers
    around = _transposed_padding(node, x.integers.shape[2:], kernel)
    out = tuple(
        n + sum(pair) - r + 1 for n, pair, r in zip(wide, around, kernel.reach, strict=True)
    )
    window = Window(replace(kernel, strides=(1,) * rank), around, out)

    def mirrored(array: Array) -> Array:
        grouped = array.reshape(groups, -1, *array.shape[1:]).swapaxes(1, 2)
        return np.flip(grouped, tuple(range(3, 3 + rank)))

    return _correlate(replace(x, integers=spread), weight.moved(mirrored), bias, window)


def _transposed_padding(node: Node, sizes: tuple[int, ...], kernel: Kernel) -> Pads:
    """What lies around the spread input of a transposed convolution: the kernel's reach, less the
    node's pads."""
    get, rank = node.attributes.get, len(sizes)
    mode, extra = get("auto_pad", b"NOTSET"), get("output_padding", [0] * rank)
    axes = list(zip(sizes, kernel.strides, kernel.reach, extra, strict=True))
    pads = get("pads", [0] * 2 * rank)
    pairs = tuple(zip(pads[:rank], pads[rank:], strict=True))
    if mode == b"VALID":
        pairs = ((0, 0),) * rank
    target = get("output_shape")
    if mode in (b"SAME_UPPER", b"SAME_LOWER"):
        target = target or [size * stride for size, stride, *_ in axes]
    if target:
        whole = [(size - 1) * stride + reach + more for size, stride, reach, more in axes]
        missing = [full - wanted for full, wanted in zip(whole, target[-rank:], strict=True)]
        if mode not in (b"SAME_UPPER", b"SAME_LOWER") and min(missing) < 0:
            raise InputError(f"output_shape={target!r}, larger than all that the kernel reaches")
        pairs = tuple(_halves(mode, max(total, 0)) for total in missing)
    ends = zip(kernel.reach, pairs, extra, strict=True)
    return tuple(
        (reach - 1 - before, reach - 1 - after + more) for reach, (before, after), more in ends
    )


def max_pool(node: Node, x: Any) -> Any:
    """Of real numbers or of integers as they are; a window must meet an element."""
    node.require(storage_order=0)
    if isinstance(x, np.ndarray) and np.issubdtype(x.dtype, np.integer):
        real = Real(x.astype(np.int64), np.zeros((1,) * x.ndim, np.int64))
        return max_pool(node, real).integers.astype(x.dtype)
    x = operand(x).aligned(*range(2, operand(x).integers.ndim))
    kernel = Kernel.of(node, tuple(node.attributes["kernel_shape"]))
    window = Window.of(node, x.integers.shape[2:], kernel)
    most: Integers = functools.reduce(np.maximum, window.taps(window.pad(x.integers, NOTHING)))
    if (most == NOTHING).any():
        raise InputError("a window that lies in the padding")
    return replace(x, integers=most)


def average_pool(node: Node, x: Any) -> Real:
    x = operand(x).aligned(*range(2, operand(x).integers.ndim))
    sizes, include = x.integers.shape[2:], bool(node.attributes.get("count_include_pad"))
    kernel = Kernel.of(node, tuple(node.attributes["kernel_shape"]))
    window = Window.of(node, sizes, kernel)
    # Padding may count, but never what a last window reaches behind it.
    counted = window.pad(np.zeros(sizes, np.int64), 0)
    margins = zip(window.pads, sizes, _padding(node, sizes, kernel), strict=True)
    counted[
        tuple(
            slice((1 - include) * before, before + size + include * end)
            for (before, _), size, (_, end) in margins
        )
    ] = 1
    counts: Integers = functools.reduce(np.add, window.taps(counted))
    if not counts.all():
        raise InputError("a window that lies in the padding")
    common = math.lcm(*np.unique(counts).tolist())
    check(largest(x.integers) * math.prod(kernel.sizes))
    total: Integers = functools.reduce(np.add, window.taps(window.pad(x.integers, 0)))
    return replace(x, integers=times(total, common // counts), divisor=x.divisor * common)
