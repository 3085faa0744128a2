"""Sums, and means: exact over a power of two, over other numbers if all divisions round alike."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qstrategies.certificate.declarations import (
    Call,
    Declaration,
    anything,
    not_negative,
    only,
    positive,
)
from qstrategies.certificate.grid import Grid, UnprovenError, mantissa, union
from qstrategies.certificate.windows import axes_of, check_room, count

MOST_SUMS = 2**22  # so many values of a mean are tried out


def _global_mean(call: Call) -> Grid:
    shape = call.first.kind.shape
    return _mean(call.first.grid, [None] if shape is None else list(shape[2:]))


def _reduced_mean(call: Call) -> Grid:
    axes, shape = axes_of(call), call.first.kind.shape
    assert shape is not None
    return _mean(call.first.grid, [shape[axis] for axis in axes])


def _reduced_sum(call: Call) -> Grid:
    axes, shape = axes_of(call), call.first.kind.shape
    assert shape is not None
    return _total(call.first.grid, [shape[axis] for axis in axes])


def _pooled_mean(call: Call) -> Grid:
    if "Pad" in call.first.through:
        raise UnprovenError("executors may take the zeros padded before it for no values at all")
    pads = call.attributes.get("pads") or [0]
    if any(pads) and not call.attributes["count_include_pad"]:
        raise UnprovenError("its means are over fewer values at the border")
    kernel = call.attributes["kernel_shape"]
    check_room(call, kernel)
    if any(pad >= size for pad, size in zip(pads, 2 * list(kernel), strict=False)):
        raise UnprovenError("its padding is wider than its windows")
    grid = call.first.grid
    return _mean(union(grid, Grid.of(np.zeros(1))) if any(pads) else grid, list(kernel))


def _total(grid: Grid, sizes: list[int | None]) -> Grid:
    number, whole = count(sizes), grid.exact()
    return replace(whole, low=whole.low * number, high=whole.high * number).exact()


def _mean(grid: Grid, sizes: list[int | None]) -> Grid:
    number, total = count(sizes), _total(grid, sizes)
    power = number & -number  # dividing by a power of two is exact
    mean = replace(total, step=total.step / power, divisor=number // power)
    return mean if mean.divisor > 1 else mean.exact()


def check_mean(mean: Grid, scale: float, zero_point: int) -> None:
    """Raise ``UnprovenError`` unless every sum gives the same integer, whichever way it is divided.

    Executors divide by the count or multiply by its float32 reciprocal, and add the zero point
    before rounding or after. All possible sums are tried out; ``scale`` is that of the output.
    """
    ratio = mean.step / scale
    alike = mantissa(np.array(ratio)) == 1 and 2.0**-20 <= ratio <= 2.0**20
    if not alike or mean.high - mean.low > MOST_SUMS:
        raise UnprovenError("a mean of too many or of unlike steps to try them all")
    sums = np.arange(mean.low, mean.high + 1)
    count = mean.divisor * int(max(1 / ratio, 1))
    whole, rest = np.divmod(sums * int(max(ratio, 1)), count)
    exact = whole + ((2 * rest > count) | ((2 * rest == count) & (whole % 2 == 1)))
    single, divisor = sums.astype(np.float32), np.float32(mean.divisor)
    for value in (single / divisor, single * (np.float32(1) / divisor)):
        for offset in (np.float32(0), np.float32(zero_point)):
            wrong = int((np.rint(value * np.float32(ratio) + offset) - offset != exact).sum())
            if wrong:
                share = f"{wrong} of {len(sums)} sums are rounded differently"
                raise UnprovenError(f"a mean for which {share} if they are divided differently")


MEANS: dict[str, Declaration] = {
    "GlobalAveragePool": Declaration((1, 22), (1, 1), _global_mean),
    "ReduceMean": Declaration(
        (11, 13, 18),
        (1, 2),
        _reduced_mean,
        {"axes": anything, "keepdims": anything, "noop_with_empty_axes": only(0)},
    ),
    "ReduceSum": Declaration(
        (11, 13),
        (1, 2),
        _reduced_sum,
        {"axes": anything, "keepdims": anything, "noop_with_empty_axes": only(0)},
    ),
    "AveragePool": Declaration(
        (7, 10, 11, 19, 22),
        (1, 1),
        _pooled_mean,
        {
            "kernel_shape": positive,
            "strides": positive,
            "dilations": lambda values: all(value == 1 for value in values),
            "pads": not_negative,
            "ceil_mode": only(0),
            "auto_pad": only(b"NOTSET"),
            "count_include_pad": only(0, 1),
        },
    ),
}
