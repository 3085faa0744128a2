"""Integers that survive the rounding of fixed-point kernels: without ties, and safe to round twice.

Microcontrollers multiply a sum by a fixed-point number and shift it: they round halves up, or away
from zero, and most of them twice (docs/exactness.md has the rules). All of them give what ONNX
Runtime gives where no sum is a tie and the first of two roundings has nothing to round. So weights
are rounded to 7 bits at most and stored twice or four times as large, and the bias lies half-way
between two steps of the smaller weights: with ``f`` of 2 or 4, ``w = f u`` and ``b = f k + f / 2``.

* With ``f`` of 4 and ``M = 2^-k``, ``k >= 3``, all sums are even, so that halving them rounds
  nothing, and no multiple of four, so that none is a tie.
* With ``f`` of 2 and ``k >= 2`` sums are odd, never a tie, and the TFLite file has the float32 just
  below the scale: the multiplier is 2^31 - 2^7, whose first product rounds to the sum itself.

Both need sums below 2^22 in steps of ``u``. Where such a step is one of the result, or several, the
bias is whole, and there is nothing to round.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from qstrategies.operators.averages import AVERAGE_POOLS, Mean
from qstrategies.operators.base import per_dimension, shape_of
from qstrategies.operators.convolution import CONVOLUTIONS
from qstrategies.quantization.exact_forms import folded_norm, is_layer, module_at, output_rows
from qstrategies.quantization.scales import (
    HIGHEST,
    LARGEST_PAIR,
    SMALLEST_SCALE,
    power_of_two_above,
)
from qstrategies.records.levels import LevelSet

LARGEST_SUM = 2**22
"""In steps of the smaller weights: 2^24 stored four times as large, which float32 holds, and 2^23
twice as large, up to which the float32 just below a power of two rounds on the right side."""
LARGEST_PRODUCTS = 3 * 2**20
LARGEST_BIAS = 2**20


def stored_factor(levels: LevelSet, *, pairs: bool) -> int:
    """How many times as large as ``levels`` weights are stored: 4 where they then fit 8 bits (with
    ``pairs``, two of them 128), or else 2; 2 also where only that fits 4 bits."""
    fits = 4 * levels.largest <= 128 and not (pairs and 8 * levels.largest > LARGEST_PAIR)
    packs = 2 * levels.largest < 8 < 4 * levels.largest
    return 4 if fits and not packs else 2


def tie_free_scale(
    rows: Tensor, step: Tensor, levels: LevelSet, largest_pair: Tensor | None, *, per_channel: bool
) -> Tensor:
    """The power of two from ``step`` on with which no sum exceeds ``LARGEST_PRODUCTS``.

    Args:
        rows: the weight [out_channels, products].
        step: what is asked for, [out_channels].
        largest_pair: the least step [out_channels] with which two weights fit; None for any.

    Returns:
        Shape [out_channels].
    """
    scale = step.expand(len(rows)).clamp(min=SMALLEST_SCALE)
    if largest_pair is not None:
        scale = torch.maximum(scale, largest_pair)
    scale = power_of_two_above(scale)
    while True:
        scale = scale if per_channel else scale.max().expand_as(scale)
        steps = (rows / scale[:, None]).round_().clamp_(levels.quant_min, levels.quant_max)
        one_sided = torch.maximum(steps.clamp(min=0).sum(1), -steps.clamp(max=0).sum(1))
        exceeds = one_sided * HIGHEST > LARGEST_PRODUCTS
        if not exceeds.any():
            return scale
        scale = torch.where(exceeds, 2 * scale, scale)


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
