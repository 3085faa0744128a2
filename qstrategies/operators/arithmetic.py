"""The exact arithmetic of the specification: whole numbers in float64, one rounding, ties to
even."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from qstrategies.operators.base import Array, Quantizer


def centered(array: Array, quantizer: Quantizer) -> Array:
    """The integers without their zero point, as float64 (exact, and multiplied by BLAS)."""
    return array.astype(np.float64) - quantizer.zero_point


def rounded(total: Array, ratio: Any, quantizer: Quantizer, divisor: int = 1) -> Array:
    """``round(total * ratio / divisor)`` on ``quantizer``, uint8.

    ``ratio`` is exact in float64, and a power of two where ``divisor`` is none: such quotients are
    rounded by whole numbers.
    """
    if divisor & (divisor - 1) == 0:
        steps = np.rint(total * ratio / divisor)
    else:
        count = int(divisor * max(1 / ratio, 1.0))
        whole, rest = np.divmod((total * max(ratio, 1.0)).astype(np.int64), count)
        tie_up = (2 * rest == count) & (whole % 2 == 1)
        steps = whole + ((2 * rest > count) | tie_up)
    clipped = np.clip(steps + quantizer.zero_point, quantizer.quant_min, quantizer.quant_max)
    return clipped.astype(np.uint8)


def window_count(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """How many windows fit into a dimension of ``size``."""
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def windows(
    x: Array,
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    counts: Sequence[int],
) -> Any:
    """For every place in the kernel: that place, and what of ``x`` [N, C, ...] (padded) all windows
    have there."""
    for place in itertools.product(*(range(size) for size in kernel)):
        starts = [each * step for each, step in zip(place, dilation, strict=True)]
        ends = [
            start + (count - 1) * step + 1
            for start, count, step in zip(starts, counts, stride, strict=True)
        ]
        taken = [
            slice(start, end, step) for start, end, step in zip(starts, ends, stride, strict=True)
        ]
        yield place, x[(slice(None), slice(None), *taken)]


def padded(x: Array, padding: Sequence[int], fill: float = 0.0) -> Array:
    """``x`` [N, C, ...] with ``padding`` on both sides of every further dimension."""
    return np.pad(x, [(0, 0), (0, 0), *((each, each) for each in padding)], constant_values=fill)


def products(x: Array, weight: Array, groups: int) -> Array:
    """``weight`` [out, in / groups] times the channels of ``x`` [N, in, ...]: [N, out, ...]."""
    n, channels, *sizes = x.shape
    outputs = len(weight)
    split = x.reshape(n, groups, channels // groups, -1)
    matrices = weight.reshape(groups, outputs // groups, channels // groups)
    depthwise = channels == groups  # no sums: BLAS would be called once per channel
    result = matrices * split if depthwise else matrices @ split
    return result.reshape(n, outputs, *sizes)
