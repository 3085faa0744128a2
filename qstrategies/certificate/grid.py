"""Exact values: what a tensor can hold, as integers times a step.

Every finite float32 is an integer times a power of two. An operator whose operands, partial results
and result are at most 2^24 such units is exact in float32, in any order, so that no executor can
compute anything else; as long as none of them leaves the range of float32's exponent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

FLOAT_EXACT = 2**24  # float32 represents every integer up to this
SMALLEST, LARGEST = 2.0**-94, 2.0**94
"""Between them a value stays normal when it is divided or multiplied by a scale of 2^-32 to 2^32.

Many processors flush what is not normal, below 2^-126, to zero.
"""


class UnprovenError(Exception):
    """An operator for which no proof is known; the message says why."""


@dataclass(frozen=True)
class Grid:
    """The values ``k * step / divisor`` with an integer ``low <= k <= high``, and ``points``.

    ``divisor`` is odd, 1 but for means; ``points`` are the bounds of a clamp that lie between two
    values. ``signed_zero``: whether a zero among them may be -0.0 in one executor, 0.0 in another.
    """

    step: float
    low: int
    high: int
    divisor: int = 1
    points: tuple[float, ...] = ()
    signed_zero: bool = False

    @classmethod
    def of(cls, array: Array) -> Grid:
        """The coarsest grid with a power of two as step that holds all of ``array``."""
        values = np.asarray(array, np.float64)
        if not np.isfinite(values).all():
            raise UnprovenError("a constant is not finite")
        step = lowest_bit(values)
        low, high = (int(bound / step) for bound in (values.min(initial=0), values.max(initial=0)))
        return cls(step, low, high, signed_zero=bool((np.signbit(values) & (values == 0)).any()))

    @property
    def units(self) -> int:
        """The largest magnitude, counted in the powers of two that ``step`` is made of."""
        return max(abs(self.low), abs(self.high)) * int(mantissa(np.array(self.step)))

    @property
    def unit(self) -> float:
        """The power of two in ``step``."""
        return self.step / float(mantissa(np.array(self.step)))

    @property
    def least(self) -> float:
        """The smallest value."""
        return min([self.low * self.step / self.divisor, *self.points])

    @property
    def most(self) -> float:
        """The largest value."""
        return max([self.high * self.step / self.divisor, *self.points])

    @property
    def unbounded(self) -> bool:
        """Whether these are real numbers of any size, as those of a float input."""
        return max(self.most, -self.least) > 2.0**127

    def on(self, unit: float) -> Grid:
        """The same values in steps of ``unit``, a power of two that divides ``step``."""
        factor = int(self.step / unit)
        return replace(self, step=unit, low=self.low * factor, high=self.high * factor)

    def relu(self) -> Grid:
        """The values that are not negative, and zero."""
        return replace(
            self,
            low=max(self.low, 0),
            high=max(self.high, 0),
            points=tuple(max(point, 0.0) for point in self.points),
        )

    def negated(self) -> Grid:
        """The values with the other sign."""
        points = tuple(-point for point in self.points)
        held = self.low <= 0 <= self.high or 0.0 in points
        return replace(self, low=-self.high, high=-self.low, points=points, signed_zero=held)

    def merged(self) -> Grid:
        """A grid without points that holds all the values."""
        if not self.points:
            return self
        bare = replace(self, points=())
        return replace(union(bare, Grid.of(np.array(self.points))), signed_zero=self.signed_zero)

    def exact(self) -> Grid:
        """Without points; raises ``UnprovenError`` for means and for what float32 cannot hold."""
        if self.divisor != 1:
            raise UnprovenError(f"a mean over {self.divisor} values is rounded before it is used")
        merged = self.merged()
        if merged.units > FLOAT_EXACT:
            bits = math.log2(merged.units)
            raise UnprovenError(f"values of {bits:.1f} bits do not fit the 24 bits of float32")
        if merged.units and (merged.unit < SMALLEST or merged.units * merged.unit > LARGEST):
            raise UnprovenError(f"steps of {merged.unit:g} leave the range of float32's exponent")
        return merged


REAL = Grid(2.0**-149, -(2**277), 2**277)
"""Any float32."""


def union(*grids: Grid) -> Grid:
    """The grid that holds the values of all ``grids``."""
    if any(grid.divisor != grids[0].divisor for grid in grids):
        raise UnprovenError("means over different numbers of values meet")
    used = [grid.unit for grid in grids if grid.low or grid.high]  # zero lies on every grid
    fine = [grid.on(min(used or [grids[0].unit])) for grid in grids]
    return replace(
        fine[0],
        low=min(grid.low for grid in fine),
        high=max(grid.high for grid in fine),
        points=tuple(dict.fromkeys(point for grid in grids for point in grid.points)),
        signed_zero=any(grid.signed_zero for grid in grids),
    )


def mantissa(scale: Array) -> Array:
    """The odd integer ``m`` in ``scale = m 2^e``, elementwise; 1 for 0."""
    fractions = np.abs(np.frexp(np.asarray(scale, np.float64))[0])
    integers = (fractions * 2.0**53).astype(np.int64)
    return integers // np.maximum(integers & -integers, 1) + (integers == 0)


def lowest_bit(values: Array) -> float:
    """The largest power of two that divides every one of ``values``; 1 if all are zero."""
    nonzero = values[values != 0]
    if not nonzero.size:
        return 1.0
    return float((np.abs(nonzero) / mantissa(nonzero)).min())


def reciprocal_safe(scale: Array) -> Array:
    """Whether float32 ``1 / (1 / scale)`` is ``scale``, elementwise."""
    with np.errstate(all="ignore"):
        single = np.asarray(scale, np.float32)
        return np.float32(1) / (np.float32(1) / single) == single
