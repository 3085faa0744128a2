"""What fixed-point kernels round apart: ties, and sums that their first rounding moves onto one.

They multiply an int32 sum by a 31-bit number and shift the product: once or twice rounded, halves
up or away from zero. Where that number stands for ``M = m 2^-k`` with an odd ``m``, and every sum
of a channel ends in the same count ``p`` of zero bits before its last one, all agree if

* ``k <= p``, or all sums are multiples of 2^k: there is nothing to round, or
* ``k >= p + 2``, no sum is a tie, and ``m`` has at most ``p`` bits: the first of two roundings, of
  the sum times ``m`` over 2^bits, has nothing to round, or
* ``p = 0``, ``m = 1`` and ``k >= 2``, with the float32 just below the scale in the file of the
  kernels, as ``export_tflite`` writes it: the first rounding gives the sum itself, below 2^23.

Sums end alike if all weights are multiples of 2^(p + 1) and the bias is an odd multiple of 2^p,
whatever flows in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from qstrategies.certificate.grid import FLOAT_EXACT, Array, mantissa
from qstrategies.certificate.tensors import Quantizer, Tensor

LARGEST_NUDGED = 2**23
"""Up to which a float32 product with the number just below a power of two rounds on its side."""
FARTHEST = 2.0**6
"""Between the steps of a sum's operands and its result: with the zero point, 2 * 255 * 2^6 + 128
steps are what 16 bits hold, in which LiteRT's optimized kernel adds it."""


@dataclass(frozen=True, eq=False)
class Sums:
    """How the sums of a layer end, per output channel.

    Attributes:
        step: of the sums.
        zeros: how many zero bits they all end in, or -1 where that varies.
        least: how many they end in at least.
        largest: of their magnitudes, partial sums included.
        bare: whether stored integers are summed and no bias is added.
    """

    step: Array
    zeros: Array
    least: Array
    largest: Array
    bare: bool = False

    @classmethod
    def of(cls, weights: Array, bias: Array, step: Array, largest: Array) -> Sums:
        """For the ``bias`` in steps and the magnitudes of all ``weights`` of a channel, or-ed:
        int64 [out_channels]."""
        whole = np.rint(bias).astype(np.int64)
        last, coarsest = whole & -whole, weights & -weights
        alike = (whole != 0) & ((weights == 0) | (coarsest > last))
        zeros = np.where(alike, np.log2(np.maximum(last, 1)), -1)
        together = weights | whole
        shared = np.where(together == 0, 2**62, together & -together)  # nobody rounds a zero
        return cls(step, zeros, np.log2(shared.astype(np.float64)), largest)

    def breaches(self, to: Quantizer) -> Iterator[str]:
        """Why kernels may round them to other integers of ``to``."""
        ratio = self.step / to.scale
        odd, zeros = mantissa(ratio), self.zeros
        shift = -np.log2(ratio / odd)
        rounds = shift > self.least
        bits = np.floor(np.log2(odd)) + 1
        if (rounds & (odd > 1) & (bits > zeros)).any():
            yield "the mantissa of a scale is longer than its sums end in zero bits"
            return
        if (rounds & (zeros < 0)).any():
            yield "a sum may be a tie: weights and bias do not end in zero bits as they have to"
        elif (rounds & (shift < zeros + 2)).any():
            yield "a step of its result is less than two of its sums: they tie"
        most = np.where(zeros == 0, LARGEST_NUDGED, FLOAT_EXACT)
        if (rounds & (self.largest * odd > most)).any():
            yield f"its sums reach {int(self.largest.max())}: above 2^23, or even ones above 2^24"


def rounding_breaches(values: Tensor, to: Quantizer) -> Iterator[str]:
    """Why fixed-point kernels may round ``values`` to other integers of ``to`` than others do."""
    if values.sums is not None:
        yield from values.sums.breaches(to)
        return
    grid = values.grid
    if grid.unbounded:  # a real input: who gives integers has rounded it
        return
    if grid.divisor > 1:
        if grid.step != to.scale:
            yield "a mean is rounded to another step than that of its values"
        return
    if grid.unit < to.scale:
        yield "values between two steps: ties are rounded by each kernel in its own way"
    elif values.coarsest is not None and values.coarsest > FARTHEST * to.scale:
        yield "the steps of its operands and its result lie more than 2^6 apart"
