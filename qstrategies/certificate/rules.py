"""Nodes without weights: what their output can hold, or why no proof is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from qstrategies.certificate.grid import Array, Grid, UnprovenError, lowest_bit, mantissa, union

MOST_SUMS = 2**22  # so many values of a mean are tried out
INTEGERS = (onnx.TensorProto.UINT8, onnx.TensorProto.INT8, onnx.TensorProto.INT32, onnx.TensorProto.INT64)


@dataclass(frozen=True)
class Call:
    """A node and what is known of its inputs.

    ``grids``: of the first input, or of all for an operator in ``OPERANDS``; ``constants``: of each that is one; ``shape``:
    of the first input, None where it is not known, as is the size of a symbolic dimension.
    """

    node: onnx.NodeProto
    grids: list[Grid]
    constants: list[Array | None]
    shape: tuple[int | None, ...] | None

    def attribute(self, name: str, default: Any = None) -> Any:
        """The value of the attribute ``name``."""
        found = [onnx.helper.get_attribute_value(item) for item in self.node.attribute if item.name == name]
        return found[0] if found else default

    def constant(self, index: int) -> Array | None:
        """The constant behind input ``index``; None where that is left out. A computed one is unproven."""
        if index >= len(self.node.input) or not self.node.input[index]:
            return None
        array = self.constants[index]
        if array is None:
            raise UnprovenError(f"its input {index} is not constant")
        return array


def apply_rule(call: Call) -> Grid:
    """The values of the output of ``call``; raises ``UnprovenError``."""
    rule = RULES.get(call.node.op_type)
    if rule is None:
        raise UnprovenError(f"no proof is known for {call.node.op_type}: each executor may compute it in its own way")
    return rule(call)


def _move(call: Call) -> Grid:
    return call.grids[0]


def _relu(call: Call) -> Grid:
    return call.grids[0].relu()


def _concat(call: Call) -> Grid:
    return union(*call.grids)


def _add(call: Call) -> Grid:
    return _sum(*call.grids)


def _subtract(call: Call) -> Grid:
    first, second = call.grids
    return _sum(first, Grid(second.step, -second.high, -second.low, second.divisor))


def _sum(*operands: Grid) -> Grid:
    unit = min(grid.exact().unit for grid in operands)
    fine = [grid.on(unit).exact() for grid in operands]
    return Grid(unit, sum(grid.low for grid in fine), sum(grid.high for grid in fine)).exact()


def _multiply(call: Call) -> Grid:
    first, second = (grid.exact() for grid in call.grids)
    corners = [a * b for a in (first.low, first.high) for b in (second.low, second.high)]
    return Grid(first.step * second.step, min(corners), max(corners)).exact()


def _clip(call: Call) -> Grid:
    grid = call.grids[0]
    if grid.divisor != 1 or call.attribute("min") is not None or call.attribute("max") is not None:
        raise UnprovenError("it clips a mean, or has its bounds as attributes, as before opset 11")
    low, high = call.constant(1), call.constant(2)
    bounds = [float(bound) for bound in (low, high) if bound is not None and math.isfinite(bound)]
    inside = [bound for bound in bounds if grid.low * grid.step <= bound <= grid.high * grid.step]
    fine = grid.on(min(grid.unit, lowest_bit(np.array(inside))) if inside else grid.unit)
    least = fine.low if low is None else max(fine.low, _steps(float(low), fine.step))
    most = fine.high if high is None else min(fine.high, _steps(float(high), fine.step))
    return Grid(fine.step, min(least, most), most)


def _steps(bound: float, step: float) -> int:
    return int(max(min(bound / step, 2.0**300), -(2.0**300)))


def _pad(call: Call) -> Grid:
    mode = call.attribute("mode", b"constant")
    if mode != b"constant":
        return call.grids[0]
    value = call.constant(2)
    return union(call.grids[0], Grid.of(np.zeros(1) if value is None else value))


def _resize(call: Call) -> Grid:
    mode = call.attribute("mode", b"nearest")
    if mode != b"nearest":
        raise UnprovenError(f"its mode {mode.decode()!r} interpolates in float")
    return call.grids[0]


def _cast(call: Call) -> Grid:
    grid, to = call.grids[0], call.attribute("to")
    whole = grid.step >= 1 and grid.divisor == 1
    if to == onnx.TensorProto.FLOAT:
        return grid.exact()
    if to in INTEGERS and whole:
        return grid
    raise UnprovenError(f"a cast to {onnx.TensorProto.DataType.Name(to)} rounds")


def _shape(_: Call) -> Grid:
    return Grid(1.0, 0, 2**31)


def _global_mean(call: Call) -> Grid:
    return _mean(call.grids[0], [None] if call.shape is None else list(call.shape[2:]))


def _reduced_mean(call: Call) -> Grid:
    axes = call.attribute("axes")
    given = call.constant(1) if axes is None else np.array(axes)
    if call.shape is None or given is None:
        raise UnprovenError("the number of values in a mean is not known")
    return _mean(call.grids[0], [call.shape[int(axis)] for axis in given])


def _pooled_mean(call: Call) -> Grid:
    padded = any(call.attribute("pads", [])) or call.attribute("auto_pad", b"NOTSET") != b"NOTSET"
    if call.attribute("ceil_mode", 0) or (padded and not call.attribute("count_include_pad", 0)):
        raise UnprovenError("its means are over fewer values at the border")
    return _mean(union(call.grids[0], Grid.of(np.zeros(1))), call.attribute("kernel_shape"))


def _mean(grid: Grid, dims: list[int | None]) -> Grid:
    known = [dim for dim in dims if dim is not None]
    if len(known) < len(dims) or 0 in known:
        raise UnprovenError("the number of values in a mean is not known")
    count = math.prod(known)
    total = Grid(grid.step, grid.low * count, grid.high * count, grid.divisor).exact()
    power = count & -count  # dividing by a power of two is exact
    return Grid(total.step / power, total.low, total.high, count // power)


def check_mean(mean: Grid, scale: float, zero_point: int) -> None:
    """Raise ``UnprovenError`` unless every sum gives the integer of exact arithmetic, whichever way it is divided.

    Executors divide by the count or multiply by its float32 reciprocal, and add the zero point before rounding or after. All
    sums that can occur are tried out; ``scale`` is that of the output.
    """
    ratio = mean.step / scale
    if mantissa(np.array(ratio)) != 1 or not 2.0**-20 <= ratio <= 2.0**20 or mean.high - mean.low > MOST_SUMS:
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
                raise UnprovenError(f"a mean for which {wrong} of {len(sums)} sums are rounded differently if they are divided differently")


MOVING = (
    "Identity", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Expand", "Tile", "Gather",
    "DepthToSpace", "SpaceToDepth", "MaxPool", "GlobalMaxPool", "ReduceMax",
)  # fmt: skip
OPERANDS = ("Add", "Concat", "Mul", "Sub")
RULES: dict[str, Callable[[Call], Grid]] = {
    **dict.fromkeys(MOVING, _move),
    "Relu": _relu,
    "Concat": _concat,
    "Add": _add,
    "Sub": _subtract,
    "Mul": _multiply,
    "Clip": _clip,
    "Pad": _pad,
    "Resize": _resize,
    "Cast": _cast,
    "Shape": _shape,
    "GlobalAveragePool": _global_mean,
    "ReduceMean": _reduced_mean,
    "AveragePool": _pooled_mean,
}
