"""Exact values: what a tensor can hold, as integers times a step.

Every finite float32 is an integer times a power of two. An operator whose operands, partial results and result are at most
2^24 such units is exact in float32, in any order, so that no executor can compute anything else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

FLOAT_EXACT = 2**24  # float32 represents every integer up to this


class UnprovenError(Exception):
    """An operator for which no proof is known; the message says why."""


@dataclass(frozen=True)
class Grid:
    """The values ``k * step / divisor`` with an integer ``low <= k <= high``; ``divisor`` is odd, 1 but for means."""

    step: float
    low: int
    high: int
    divisor: int = 1

    @classmethod
    def of(cls, array: Array) -> Grid:
        """The coarsest grid with a power of two as step that holds all of ``array``."""
        values = np.asarray(array, np.float64)
        if not np.isfinite(values).all():
            raise UnprovenError("a constant is not finite")
        step = lowest_bit(values)
        return cls(step, int(values.min(initial=0) / step), int(values.max(initial=0) / step))

    @property
    def units(self) -> int:
        """The largest magnitude, counted in the powers of two that ``step`` is made of."""
        return max(abs(self.low), abs(self.high)) * int(mantissa(np.array(self.step)))

    @property
    def unit(self) -> float:
        """The power of two in ``step``."""
        return self.step / float(mantissa(np.array(self.step)))

    def on(self, unit: float) -> Grid:
        """The same values in steps of ``unit``, a power of two that divides ``step``."""
        factor = int(self.step / unit)
        return replace(self, step=unit, low=self.low * factor, high=self.high * factor)

    def relu(self) -> Grid:
        """The values that are not negative, and zero."""
        return replace(self, low=max(self.low, 0), high=max(self.high, 0))

    def exact(self) -> Grid:
        """Itself; raises ``UnprovenError`` if float32 cannot tell all values apart, or if they are means."""
        if self.divisor != 1:
            raise UnprovenError(f"a mean over {self.divisor} values is rounded before it is used")
        if self.units > FLOAT_EXACT:
            raise UnprovenError(f"values of up to {math.log2(self.units):.1f} bits do not fit the 24 bits of float32")
        return self


REAL = Grid(2.0**-149, -(2**277), 2**277)
"""Any float32."""


def union(*grids: Grid) -> Grid:
    """The grid that holds the values of all ``grids``."""
    if any(grid.divisor != grids[0].divisor for grid in grids):
        raise UnprovenError("means over different numbers of values meet")
    unit = min([grid.unit for grid in grids if grid.low or grid.high] or [grids[0].unit])  # zero lies on every grid
    fine = [grid.on(unit) for grid in grids]
    return replace(fine[0], low=min(grid.low for grid in fine), high=max(grid.high for grid in fine))


def mantissa(scale: Array) -> Array:
    """The odd integer ``m`` in ``scale = m 2^e``, elementwise; 1 for 0."""
    integers = (np.abs(np.frexp(np.asarray(scale, np.float64))[0]) * 2.0**53).astype(np.int64)
    return integers // np.maximum(integers & -integers, 1) + (integers == 0)


def lowest_bit(values: Array) -> float:
    """The largest power of two that divides every one of ``values``; 1 if all are zero."""
    nonzero = values[values != 0]
    return float((np.abs(nonzero) / mantissa(nonzero)).min(initial=np.inf)) if nonzero.size else 1.0


def reciprocal_safe(scale: Array) -> Array:
    """Whether float32 ``1 / (1 / scale)`` is ``scale``, elementwise."""
    with np.errstate(all="ignore"):
        single = np.asarray(scale, np.float32)
        return np.float32(1) / (np.float32(1) / single) == single
