"""What the surroundings of a layer ask of the scale of its weight: its bias, its input, its result.

Beside what the weight itself asks for (``scales.py``).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qstrategies.operators.base import HIGHEST
from qstrategies.quantization.scales import (
    BIAS_BUDGET,
    MAX_MANTISSA_BITS,
    SMALLEST_SCALE,
    mantissa,
    power_of_two_above,
    reciprocal_safe,
)

FINEST_RESULT = 2.0**-16  # 8 bits of the result leave so much of float32's 24 behind the point


def fit_layer(
    scale: Tensor,
    bias: Tensor,
    input_scale: Tensor,
    output_scale: float | None,
    largest_bias: float = math.inf,
) -> Tensor:
    """``scale`` raised to a power of two in the channels that the layer's surroundings ask for a
    coarser one.

    That are the channels whose bias would exceed ``BIAS_BUDGET`` steps of s_x s_w (nearly dead
    ones: tiny weights, a usual bias) or ``largest_bias`` steps of the accumulator, and those with
    results in finer steps than ``FINEST_RESULT`` of the output's step: a kernel that adds the zero
    point in float32 before rounding would lose them. ``output_scale`` is None where no zero point
    is added.
    """
    unit = scale / mantissa(scale)
    for_bias = bias.detach().abs() / (input_scale * BIAS_BUDGET)
    for_result = torch.full_like(
        scale, 0.0 if output_scale is None else FINEST_RESULT * output_scale / float(input_scale)
    )
    needed = torch.maximum(for_bias, for_result)
    coarser = torch.maximum(
        power_of_two_above(needed.clamp(min=SMALLEST_SCALE)), power_of_two_above(scale)
    )
    scale = torch.where(needed > unit, coarser, scale)
    for_accumulator = bias.detach().abs() / (input_scale * largest_bias)
    coarser = power_of_two_above(for_accumulator.clamp(min=SMALLEST_SCALE))
    return torch.where(for_accumulator > scale, coarser, scale)


def keep_range(scale: Tensor, zero_point: int) -> Tensor:
    """``scale`` [out_channels] on the exact grid, in channels that are not ``range_safe`` raised to
    the next mantissa that is, for a result of ``zero_point`` above the lowest integer.

    A mantissa never gets more bits: powers of two are safe.
    """
    odd = mantissa(scale)
    candidates = torch.arange(1, 2**MAX_MANTISSA_BITS + 1, dtype=torch.float32)
    safe = candidates[reciprocal_safe(candidates) & range_safe(candidates, zero_point)]
    safe = safe.to(scale.device)
    return (scale / odd * safe[torch.searchsorted(safe, odd.float())]).float()


def range_safe(multiplier: Tensor, zero_point: int) -> Tensor:
    """Whether a multiplier M of sums and the zero point z come back, elementwise, from the ends of
    the range that the result has in sums: ``low = -z / M`` and ``high = (255 - z) / M``.

    OpenVINO keeps so the requantization of layers without a bias; in float32 ``255 / (high - low)``
    has to be M, ``-255 low / (high - low)`` z. ``zero_point`` is counted from the lowest integer.
    """
    multiplier = mantissa(multiplier).float()  # powers of two change nothing
    whole, zero = multiplier.new_tensor([HIGHEST, zero_point])  # a number / x is number * (1 / x)
    low, high = -zero / multiplier, (whole - zero) / multiplier
    return (whole / (high - low) == multiplier) & (-low * whole / (high - low) == zero)
