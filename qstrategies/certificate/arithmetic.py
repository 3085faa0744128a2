"""Operators that compute: exact as long as float32, or their integer type, holds the results."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import onnx

from qstrategies.certificate.declarations import (
    FLOATS,
    NUMBERS,
    WIDENED,
    Call,
    Declaration,
    anything,
    only,
)
from qstrategies.certificate.grid import Grid, UnprovenError, mantissa, union
from qstrategies.certificate.tensors import FLOAT, INTEGERS, KNOWN


def _relu(call: Call) -> Grid:
    return call.first.grid.relu()


def _negative(call: Call) -> Grid:
    return _exact(call, call.first.grid).negated()


def _absolute(call: Call) -> Grid:
    grid = _exact(call, call.first.grid)
    low = 0 if grid.low <= 0 <= grid.high else min(abs(grid.low), abs(grid.high))
    return replace(grid, low=low, high=max(abs(grid.low), abs(grid.high)), signed_zero=False)


def _largest(call: Call) -> Grid:
    grids = _operands(call)
    whole, least = union(*grids), max(grid.least for grid in grids)
    return replace(whole, low=max(whole.low, math.floor(least / whole.step)))


def _smallest(call: Call) -> Grid:
    grids = _operands(call)
    whole, most = union(*grids), min(grid.most for grid in grids)
    return replace(whole, high=min(whole.high, math.ceil(most / whole.step)))


def _add(call: Call) -> Grid:
    _refuse_bias(call)
    first, second = _operands(call)
    signed = first.signed_zero and second.signed_zero
    return _exact(call, replace(_sum(call, first, second), signed_zero=signed))


def _subtract(call: Call) -> Grid:
    first, second = _operands(call)
    total = _sum(call, first, second.negated())
    return _exact(call, replace(total, signed_zero=first.signed_zero))


def _sum(call: Call, *operands: Grid) -> Grid:
    unit = min(grid.unit for grid in operands)
    fine = [_exact(call, grid.on(unit)) for grid in operands]
    return Grid(unit, sum(grid.low for grid in fine), sum(grid.high for grid in fine))


def _multiply(call: Call) -> Grid:
    first, second = _operands(call)
    corners = [a * b for a in (first.low, first.high) for b in (second.low, second.high)]
    # 0 times a negative number is -0.0
    signed = min(first.low, second.low) < 0 or first.signed_zero or second.signed_zero
    step = first.step * second.step
    return _exact(call, Grid(step, min(corners), max(corners), signed_zero=signed))


def _refuse_bias(call: Call) -> None:
    """ONNX Runtime makes a MatMul and an addition one QGemm, which reads an int32 bias without its
    scale."""
    for tensor, other in zip(call.tensors, reversed(call.tensors), strict=True):
        constant = tensor.constant
        if (
            constant is None
            or constant.unquantized is None
            or constant.unquantized.dtype != np.int32
        ):
            continue
        steps = np.array([other.grid.step]) if other.steps is None else other.steps
        scale = constant.scale
        if (
            scale is None
            or scale.size not in (1, steps.size)
            or (scale.ravel() != steps.astype(np.float32)).any()
        ):
            raise UnprovenError(
                "it adds an int32 constant of another scale than what it is added to: "
                "kernels may leave it unread"
            )


def _operands(call: Call) -> list[Grid]:
    return [_exact(call, tensor.grid) for tensor in call.tensors]


def _exact(call: Call, grid: Grid) -> Grid:
    """``grid``, if float32 holds it; integers are exact as long as they do not overflow."""
    return grid if call.first.kind.element in INTEGERS else grid.exact()


def _divide(call: Call) -> Grid:
    """By powers of two, which divide as exactly as they multiply."""
    divisor = call.constant(1)
    if divisor is None or not divisor.size or not (np.isfinite(divisor) & (divisor != 0)).all():
        raise UnprovenError("it divides by zero or by nothing")
    if (mantissa(divisor) != 1).any():
        reason = "some executors multiply by the reciprocal"
        raise UnprovenError(f"it divides by what is no power of two: {reason}")
    factor, grid = Grid.of(1 / divisor.astype(np.float64)).exact(), call.first.grid.exact()
    corners = [a * b for a in (grid.low, grid.high) for b in (factor.low, factor.high)]
    signed = factor.low < 0 or grid.signed_zero
    quotient = Grid(grid.step * factor.step, min(corners), max(corners), signed_zero=signed)
    return quotient.exact()


def _remainder(call: Call) -> Grid:
    """Of integers by positive ones: it is not negative then, by the standard."""
    divisor = call.constant(1)
    if divisor is None or not (divisor > 0).all():
        raise UnprovenError("its divisor is not constant and positive")
    return Grid(1.0, 0, int(divisor.max(initial=1)) - 1)


def _clip(call: Call) -> Grid:
    """Bounds between two values become points, so that they may lie off the grid."""
    grid = call.first.grid
    if grid.divisor != 1:
        raise UnprovenError("it clips a mean, which is rounded before")
    low, high = (_bound(call, index, sign) for index, sign in ((1, -math.inf), (2, math.inf)))
    if low > high or low > grid.most or high < grid.least:
        raise UnprovenError("its bounds exclude each other or all that flows in")
    inside = tuple(point for point in grid.points if low < point < high)
    bounds = tuple(bound for bound in (low, high) if grid.least < bound < grid.most)
    signed = grid.signed_zero or any(map(_negative_zero, (low, high)))
    least, most = max(grid.low, _steps(low, grid.step)), min(grid.high, -_steps(-high, grid.step))
    if least > most:  # nothing but the bounds is left
        return replace(Grid.of(np.array([low, high])), signed_zero=signed)
    off = tuple(bound for bound in bounds if bound / grid.step != math.floor(bound / grid.step))
    points = tuple(dict.fromkeys((*inside, *off)))
    return replace(grid, low=least, high=most, points=points, signed_zero=signed)


def _negative_zero(value: float) -> bool:
    return value == 0 and math.copysign(1, value) < 0


def _bound(call: Call, index: int, absent: float) -> float:
    array = call.constant(index)
    if array is None:
        return absent
    if array.size != 1 or np.isnan(array).any():
        raise UnprovenError("its bounds are no single numbers")
    return float(array.item())


def _steps(bound: float, step: float) -> int:
    """The first whole number of steps that is not below ``bound``."""
    return math.ceil(Fraction(bound) / Fraction(step)) if math.isfinite(bound) else -(2**400)


def _cast(call: Call) -> Grid:
    grid, to = call.first.grid, call.attributes["to"]
    whole = grid.divisor == 1 and not grid.points and (grid.unit >= 1 or not grid.units)
    if to == FLOAT:
        return grid.exact()
    if to in INTEGERS and whole:
        return replace(grid, signed_zero=False)
    raise UnprovenError(f"a cast to {onnx.TensorProto.DataType.Name(to)} rounds")


ARITHMETIC: dict[str, Declaration] = {
    "Relu": Declaration((6, 13, 14), (1, 1), _relu, types=NUMBERS, moves=True),
    "Clip": Declaration((11, 12, 13), (1, 3), _clip, types=NUMBERS, moves=True),
    "Neg": Declaration((6, 13), (1, 1), _negative, types=NUMBERS),
    "Abs": Declaration((6, 13), (1, 1), _absolute, types=NUMBERS),
    "Max": Declaration((8, 12, 13), (2, math.inf), _largest, types=NUMBERS),
    "Min": Declaration((8, 12, 13), (2, math.inf), _smallest, types=NUMBERS),
    "Add": Declaration((7, 13, 14), (2, 2), _add, types=NUMBERS),
    "Sub": Declaration((7, 13, 14), (2, 2), _subtract, types=NUMBERS),
    "Mul": Declaration((7, 13, 14), (2, 2), _multiply, types=NUMBERS),
    "Div": Declaration((7, 13, 14), (2, 2), _divide, types=FLOATS),
    "Mod": Declaration((10, 13), (2, 2), _remainder, {"fmod": only(0)}, INTEGERS),
    "Cast": Declaration(
        (9, 13, *WIDENED),
        (1, 1),
        _cast,
        {"to": anything, "saturate": only(1)},
        KNOWN,
        moves=True,
    ),
}
