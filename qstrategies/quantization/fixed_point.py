"""Integers that survive the rounding of fixed-point kernels: without ties, and safe to round twice.

Microcontrollers multiply a sum by a fixed-point number and shift it: they round halves up, or away
from zero, and most of them twice (docs/exactness.md has the rules). All of them give what ONNX
Runtime gives where no sum is a tie and the first of two roundings has nothing to round. So weights
are rounded to 7 bits at most and stored ``f`` times as large, a power of two, and the bias lies
half-way between two steps of the smaller weights: ``w = f u`` and ``b = f k + f / 2``.

* With ``f`` of 4 or more all sums are odd multiples of 2^p = f / 2. ``M = m 2^-k`` with an odd
  ``m`` of at most ``p`` bits stands for the multiplier ``m 2^(31 - bits)``, whose first product is
  a whole number; the second rounding meets no tie, as ``m`` and the rest of the sum are odd.
* With ``f`` of 2 sums are odd, never a tie, and ``M = 2^-k``; the TFLite file has the float32 just
  below the scale: the multiplier is 2^31 - 2^7, whose first product rounds to the sum itself.

Sums times ``m`` stay below 2^24, or 2^23 with ``f`` of 2. Where a step of ``u`` is a multiple of
the result's, the bias is whole, and there is nothing to round.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from qstrategies.operators.averages import AVERAGE_POOLS, Mean
from qstrategies.operators.base import HIGHEST, per_dimension, shape_of
from qstrategies.operators.convolution import CONVOLUTIONS
from qstrategies.quantization.exact_forms import folded_norm, is_layer, module_at, output_rows
from qstrategies.quantization.scales import (
    LARGEST_PAIR,
    SMALLEST_SCALE,
    mantissa,
    power_of_two_above,
    round_up_mantissa,
)
from qstrategies.records.levels import LevelSet

FACTORS = (16, 8, 4, 2)
LARGEST_OF_FOUR_BITS = 7


def stored_factor(levels: LevelSet, *, pairs: bool) -> int:
    """How many times as large as ``levels`` weights are stored: the most that fits 4 bits; where
    none does, the most that fits 8 (with ``pairs``, two of them 128), which leaves the longest
    mantissas; at least 2."""
    most = LARGEST_PAIR // 2 if pairs else LARGEST_PAIR
    for limit in (LARGEST_OF_FOUR_BITS, most):
        fitting = [factor for factor in FACTORS if factor * levels.largest <= limit]
        if fitting:
            return fitting[0]
    return 2


def mantissa_bits(factor: int) -> int:
    """How many bits the mantissa of a scale may have where weights are stored ``factor`` times as
    large."""
    return max(factor.bit_length() - 2, 1)


def largest_sum(factor: int) -> int:
    """What a sum times its mantissa may be, in steps of the smaller weights."""
    return 2**22 if factor == 2 else 2**24 // factor


def tie_free_scale(
    rows: Tensor, step: Tensor, levels: LevelSet, factor: int, *, per_channel: bool
) -> Tensor:
    """The scale from ``step`` on with a mantissa that ``factor`` allows, and with sums of products
    that leave a quarter of ``largest_sum`` for the bias.

    Args:
        rows: the weight [out_channels, products].
        step: what is asked for, [out_channels].

    Returns:
        Shape [out_channels].
    """
    wanted = step.expand(len(rows)).clamp(min=SMALLEST_SCALE)
    bits = torch.full_like(wanted, mantissa_bits(factor))
    while True:
        scale = round_up_mantissa(wanted, bits)
        scale = scale if per_channel else scale.max().expand_as(scale)
        steps = (rows / scale[:, None]).round_().clamp_(levels.quant_min, levels.quant_max)
        one_sided = torch.maximum(steps.clamp(min=0).sum(1), -steps.clamp(max=0).sum(1))
        most = 3 / 4 * largest_sum(factor) / HIGHEST
        exceeds = one_sided.double() * mantissa(scale) > most
        if not exceeds.any():
            return scale
        # a power of two first, then twice as coarse
        wanted = torch.where(exceeds & (bits == 0), 2 * wanted, wanted)
        bits = torch.where(exceeds, 0, bits)


def short_bias(scale: Tensor, bias: Tensor, entry_scale: Tensor, factor: int) -> Tensor:
    """``scale``, but the power of two above in channels whose ``bias`` times the mantissa would
    take more than a quarter of ``largest_sum``."""
    units = bias.abs().double() / (scale.double() * entry_scale.double()) * mantissa(scale)
    return torch.where(units > largest_sum(factor) / 4, power_of_two_above(scale), scale)


@torch.no_grad()
def averages_to_layers(graph: fx.GraphModule) -> None:
    """Means of an even number of values, which tie, to depthwise convolutions; of an odd number
    they never do. In place."""
    for node in graph.graph.nodes:
        window = _averaged(graph, node)
        if window is None:
            continue
        source: Any = node.args[0]
        channels, module = shape_of(source)[1], module_at(graph, node)
        kind = CONVOLUTIONS[len(window)]
        if isinstance(module, Mean):
            layer = kind(channels, channels, window, groups=channels)
        else:
            layer = kind(channels, channels, window, module.stride, module.padding, groups=channels)
        layer.weight.fill_(1 / torch.tensor(window).prod())
        layer.bias.zero_()
        graph.set_submodule(str(node.target), layer.eval().requires_grad_(False))


def _averaged(graph: fx.GraphModule, node: fx.Node) -> tuple[int, ...] | None:
    """The window of the average at ``node`` of an even number of values; None for anything else."""
    module: Any = module_at(graph, node)
    if type(module) in AVERAGE_POOLS.values():
        window = per_dimension(module.kernel_size, len(shape_of(node)) - 2)
    elif isinstance(module, Mean):
        shape = shape_of(node.args[0])  # type: ignore[arg-type]
        sizes = shape[2:]
        if module.dims != tuple(range(2, len(shape))) or None in sizes:
            return None
        window = tuple(size for size in sizes if size is not None)
    else:
        return None
    even = any(size % 2 == 0 for size in window)
    return window if even and len(window) in CONVOLUTIONS else None


@torch.no_grad()
def give_biases(graph: fx.GraphModule) -> None:
    """A bias of zeros, which rounding moves, to layers that have none. In place."""
    for node in graph.graph.nodes:
        layer = module_at(graph, node)
        if not is_layer(graph, node) or layer.bias is not None:
            continue
        if folded_norm(graph, node) is None:
            zeros = layer.weight.new_zeros(len(output_rows(layer)))
            layer.bias = nn.Parameter(zeros, requires_grad=False)
