"""Scales and zero points for which every executor computes the same bits.

An int8 layer computes ``y = round(M acc) + z_y`` with ``acc = sum (x - z_x) w + b`` and ``M = s_x
s_w / s_y``. Executors differ in how they round ``M``, the bias and the ties, and some compute all
of it in float32. With

* ``s_x``, ``s_y`` powers of two and even zero points,
* ``s_w = m 2^e`` with an integer mantissa ``m``, and ``b`` an integer multiple of ``s_x s_w``,
* ``s_x s_w / s_y`` a multiple of 2^-16 where ``z_y`` is not 0: oneDNN adds ``z_y`` in float32
  before it rounds,
* ``1 / (1 / m) = m`` in float32, as oneDNN keeps reciprocals of scales: 7, 13 and 15 come back one
  bit off, and a tie then rounds the wrong way,
* ``m (max(sum of w > 0, sum of -w > 0) HIGHEST + |b|) < 2^24`` over the integer weights of an
  output channel,

every partial sum, in integers or in float32 and in any order, and its product with ``M`` is exact,
so that the one remaining rounding (half to even, of a number that all of them know exactly) gives
the same integer everywhere. If further the two largest ``|w|`` of one sign sum to at most 128 in
every channel, no pair of products can saturate the 16-bit accumulators of CPUs without VNNI
(``255 * 128 < 2^15``; products of two signs have the smaller sum), in whatever order a kernel packs
them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qstrategies.operators.base import FLOAT_EXACT, HIGHEST
from qstrategies.records.levels import LevelSet

ACCUMULATOR_BUDGET = 3 * 2**22  # three quarters of it for the products...
BIAS_BUDGET = 2**22  # ...and one for the bias
MAX_MANTISSA_BITS = 7
LARGEST_PAIR = 128  # times 255 it fits 16 bits
WIDEST_RISE = 4.0  # twice for float executors, twice to a power of two: what was clipped comes back
SMALLEST_SCALE = 2.0**-40
"""Of weights that are all zero: far from the subnormal range of float32 in any product."""
SMALLEST_STEP = 2.0**-32
"""Of activations, with which every product and quotient of three scales stays normal."""
STEP_OF_ZEROS = 2.0**-21
"""Of activations that calibration has only seen as zero: ONNX Runtime takes no Clip for needless
before it."""


def _safe_mantissas() -> Tensor:
    """The mantissas m <= 128 with fl(1 / fl(1 / m)) = m in float32, ascending."""
    candidates = torch.arange(1, 2**MAX_MANTISSA_BITS + 1, dtype=torch.float32)
    return candidates[reciprocal_safe(candidates)]


def power_of_two_above(x: Tensor) -> Tensor:
    """The smallest power of two that is at least ``x`` (> 0), elementwise and exact."""
    fraction, exponent = torch.frexp(x)  # x = fraction * 2^exponent with 1/2 <= fraction < 1
    return torch.ldexp(torch.ones_like(x), exponent - (fraction == 0.5).int())


def exact_activation_qparams(
    low: Tensor, high: Tensor, quant_min: int, quant_max: int
) -> tuple[Tensor, Tensor]:
    """Power-of-two scale and even zero point of an affine quantizer that covers [low, high] and
    zero.

    The even zero point may cost one step at one end of the range. Returns float32 and int64 tensors
    of shape [1].
    """
    low, high = low.float().clamp(max=0).reshape(1), high.float().clamp(min=0).reshape(1)
    step = (high - low) / (quant_max - quant_min)
    scale = power_of_two_above(step.clamp(min=SMALLEST_STEP))
    scale = torch.where(step == 0, STEP_OF_ZEROS, scale)
    zero_point = quant_min + 2 * torch.round(-low / scale / 2)
    return scale, zero_point.clamp(quant_min, quant_max - 1).long()


def weight_scale(
    rows: Tensor,
    step: Tensor,
    levels: LevelSet,
    *,
    per_channel: bool,
    exact: bool,
    pairs: bool = True,
) -> Tensor:
    """Scale of a quantizer to ``levels`` with zero point 0, that is ``step`` or a little more.

    Args:
        rows: the weight, [out_channels, products], float32.
        step: what is asked for, [out_channels]; weights beyond the levels are clipped.
        pairs: whether exact scales keep two products within 16 bits.

    Returns:
        Shape [out_channels], float32. With ``exact`` it is rounded up to the longest mantissa that
        the channel's accumulator bound allows (see the module's docstring); per tensor, the channel
        with the largest bound decides. Where float executors would need a step more than twice as
        coarse, it is a power of two, exact on integer kernels.
    """
    scale = step.expand(len(rows))
    if not exact:
        scale = scale if per_channel else scale.max().expand_as(scale)
        return scale.clamp(min=torch.finfo(torch.float32).eps)
    if pairs and exceeds_pair(levels):
        # of all weights: a pair that is clipped at both ends is 254 steps wide;
        # both of a pair of odd levels may be rounded up by one
        scale = torch.maximum(scale, largest_pair(rows) / (LARGEST_PAIR - 2 * levels.offset))
    rows = _clipped(rows, WIDEST_RISE * levels.largest * scale)
    one_sided = torch.maximum(rows.clamp(min=0).sum(1), -rows.clamp(max=0).sum(1))
    rounding = (
        levels.spacing * rows.shape[1] / 2
    )  # each moves by at most half of what they are apart
    room = max(ACCUMULATOR_BUDGET / HIGHEST - rounding, 1.0)
    # Very wide layers keep their bits instead: see the docstring.
    for_float = torch.minimum(one_sided / room, 2 * scale)
    scale = torch.maximum(scale, for_float).clamp(min=SMALLEST_SCALE)
    if not per_channel:
        scale = scale.max().expand_as(scale)
    bound = (one_sided / scale + rounding) * HIGHEST
    bits_left = torch.log2(ACCUMULATOR_BUDGET / bound).floor().clamp(0, MAX_MANTISSA_BITS)
    return round_up_mantissa(scale, bits_left if per_channel else bits_left.min().expand_as(scale))


def exceeds_pair(levels: LevelSet) -> bool:
    """Whether two weights of one sign may sum to more than ``LARGEST_PAIR``."""
    return 2 * levels.largest > LARGEST_PAIR


def largest(rows: Tensor) -> Tensor:
    """The largest absolute value of each row; its kernels are twenty times as fast as aminmax."""
    return torch.maximum(-rows.amin(1), rows.amax(1))


def _clipped(rows: Tensor, reach: Tensor) -> Tensor:
    """``rows``, each kept in [-reach, reach]; usually that is what they are."""
    if bool((largest(rows) <= reach).all()):
        return rows
    return torch.clamp(rows, -reach[:, None], reach[:, None])


def largest_pair(rows: Tensor) -> Tensor:
    """The largest sum of two magnitudes of one sign in each row of [out_channels, n]."""
    rows = rows.detach()
    top, bottom = _place(rows, np.argmax), _place(rows, np.argmin)
    others = rows.scatter(1, top, rows.gather(1, top).clamp(max=0))
    others.scatter_(1, bottom, others.gather(1, bottom).clamp(min=0))
    highest = _sum_above_zero(rows.gather(1, top).flatten(), others.amax(1))
    lowest = _sum_above_zero(-rows.gather(1, bottom).flatten(), -others.amin(1))
    return torch.maximum(highest, lowest)


def _sum_above_zero(one: Tensor, other: Tensor) -> Tensor:
    return one.clamp(min=0) + other.clamp(min=0)


def _place(rows: Tensor, of: Callable[..., Any]) -> Tensor:
    """Where ``np.argmax`` or ``np.argmin`` finds it in each row: [rows, 1]."""
    if rows.device.type != "cpu":
        return getattr(rows, of.__name__)(1, keepdim=True)
    return torch.from_numpy(of(rows.numpy(), 1, keepdims=True))  # a tenth of PyTorch's time


def round_up_mantissa(scale: Tensor, bits: Tensor) -> Tensor:
    """``scale`` rounded up to ``m 2^e`` with ``2^(bits-1) <= m <= 2^bits`` and m
    reciprocal-safe."""
    fraction, exponent = torch.frexp(scale)
    half = fraction == 0.5
    fraction, exponent = torch.where(half, 1.0, fraction), exponent - half.int()
    steps = torch.exp2(bits)
    safe = _safe_mantissas().to(scale.device)
    rounded = safe[torch.searchsorted(safe, torch.ceil(fraction * steps))]
    return torch.ldexp(rounded / steps, exponent)


def float_units(rows: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """The largest partial sum of each channel, in the step that float32 is to add it in, float64.

    ``rows`` [out_channels, n] and ``bias`` are integers. Exact up to ``FLOAT_EXACT``.
    """
    positive = rows.clamp(min=0).sum(1)
    one_sided = torch.maximum(positive, positive - rows.sum(1))  # whole numbers: no rounding
    return (one_sided.double() * HIGHEST + bias.abs()) * mantissa(scale)


def mantissa(scale: Tensor) -> Tensor:
    """The odd integer ``m`` in ``scale = m 2^e``, elementwise (float64 holds every float32
    mantissa)."""
    integer = torch.frexp(scale.double())[0] * FLOAT_EXACT
    lowest_bit = integer.long() & -integer.long()
    return (integer.long() // lowest_bit.clamp(min=1)).double()


def reciprocal_safe(scale: Tensor) -> Tensor:
    """Whether float32 ``1 / (1 / scale)`` is ``scale``, elementwise."""
    single = scale.float()
    return 1 / (1 / single) == single


def straight_through(value: Tensor, learned: Tensor) -> Tensor:
    """``value``, whose gradient goes to ``learned`` as it is (STE)."""
    return value + (learned - learned.detach())


def fake_quantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | int,
    quant_min: int,
    quant_max: int,
    *,
    spacing: int = 1,
) -> Tensor:
    """``clamp(round(x / scale) + zero_point)`` back in real numbers; ``round`` to levels that are
    ``spacing`` apart.

    The gradient of ``x`` is 1 inside the range and 0 outside (STE); that of ``scale``, where it is
    learned, is ``round(x / s) - x / s`` inside and the integer at the end of the range outside
    (LSQ: Esser et al., arXiv 1902.08153, equation 3).
    """
    result: Tensor = _FakeQuantize.apply(x, scale, zero_point, quant_min, quant_max, spacing)
    return result


def fake_round(x: Tensor, scale: Tensor, spacing: int = 1) -> Tensor:
    """``fake_quantize`` where nothing is clipped: the gradient is 1."""
    result: Tensor = _FakeRound.apply(x, scale, spacing)
    return result


def round_to_levels_(steps: Tensor, spacing: int) -> Tensor:
    """``steps`` rounded to integers, or to odd ones where ``spacing`` is 2, in place; ties to even
    multiples of it."""
    if spacing == 1:
        return steps.round_()
    return steps.sub_(1).div_(2).round_().mul_(2).add_(1)


class _FakeRound(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale, spacing):  # type: ignore[no-untyped-def]  # noqa: ARG004
        return round_to_levels_(x / scale, spacing).mul_(scale)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]  # noqa: ARG004
        return gradient, None, None


class _FakeQuantize(torch.autograd.Function):
    """Straight-through estimator (Bengio et al., arXiv 1308.3432) in the tensor's own dtype: exact
    scales and 8-bit integers are exact in bfloat16 too."""

    @staticmethod
    def forward(ctx, x, scale, zero_point, *ends_and_spacing):  # type: ignore[no-untyped-def]
        quant_min, quant_max, spacing = ends_and_spacing
        cast = scale.to(x.dtype)
        low, high = (quant_min - zero_point) * cast, (quant_max - zero_point) * cast
        ctx.ends = None
        if scale.numel() == 1 and x.device.type == "cpu":  # kernels are ten times as fast then
            ctx.ends = _just_outside(low, high)
            low, high = low.item(), high.item()
        rounded = round_to_levels_(torch.clamp(x, low, high).div_(cast), spacing).mul_(cast)
        if ctx.ends is None or ctx.needs_input_grad[1]:
            ctx.inside = (low <= x) & (x <= high)
        ctx.save_for_backward(x, *((scale, rounded) if ctx.needs_input_grad[1] else ()))
        return rounded

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        x, *learned = ctx.saved_tensors
        of_scale = None
        if learned:
            scale, rounded = learned
            by_element = gradient * torch.where(ctx.inside, rounded - x, rounded)
            of_scale = _summed(by_element, scale) / scale
        if ctx.ends is None:
            return gradient * ctx.inside, of_scale, None, None, None, None
        of_x = torch.ops.aten.hardtanh_backward(gradient, x, *ctx.ends)
        return of_x, of_scale, None, None, None, None


def _just_outside(low: Tensor, high: Tensor) -> tuple[float, float]:
    """The next numbers beyond [low, high]: PyTorch's kernel has no gradient at its ends."""
    beyond = torch.tensor([-torch.inf, torch.inf], dtype=low.dtype)
    ends = torch.nextafter(torch.cat([low.reshape(1), high.reshape(1)]), beyond)
    return ends[0].item(), ends[1].item()


def _summed(values: Tensor, like: Tensor) -> Tensor:
    """``values`` added up to the shape of ``like``, in its dtype."""
    if like.numel() == 1:
        return values.sum(dtype=like.dtype).reshape(like.shape)
    return values.to(like.dtype).sum_to_size(like.shape)
