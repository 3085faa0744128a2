"""A layer as a linear regression: what its weight multiplies at sampled places of calibration
batches, for strategies that choose integers by what the layer gives."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from qstrategies.operators.transposed import is_transposed
from qstrategies.quantization.exact_forms import output_rows
from qstrategies.quantization.propagate import RoundingProblem

ROWS = 8192
"""How many places are sampled, over all batches."""


@dataclass(frozen=True, eq=False)
class Regression:
    """``rows`` times ``weight_rows`` of the right weight is ``wanted``, in each group; places in
    random order.

    Attributes:
        rows: [groups, places, products], inputs in the network rounded so far.
        wanted: [groups, places, out_channels / groups], outputs of the float network less the bias.
    """

    rows: Tensor
    wanted: Tensor


@torch.no_grad()
def sampled(problem: RoundingProblem, places: int = ROWS) -> Regression:
    """The regression of ``problem`` at so many random places at most, equally many per example."""
    batches = list(problem.batches())
    layer, each = problem.layer, max(1, places // sum(len(x) for x, _ in batches))
    generator = torch.Generator().manual_seed(0)
    rows, wanted = [], []
    for x, y in batches:
        place = _places(y, each, generator)
        rows.append(_windows(layer, x)[place])
        wanted.append(y[place] - problem.bias)
    together, order = torch.cat(rows), torch.randperm(sum(map(len, rows)), generator=generator)
    return Regression(_by_group(layer, together[order]), _by_group(layer, torch.cat(wanted)[order]))


def weight_rows(layer: Any, weight: Tensor) -> Tensor:
    """``weight`` of ``layer`` as [groups, out_channels / groups, products], as ``rows`` go."""
    groups = getattr(layer, "groups", 1)
    return output_rows(layer, weight).reshape(groups, -1, _products(layer))


def from_rows(layer: Any, rows: Tensor) -> Tensor:
    """The inverse of ``weight_rows``."""
    shape = layer.weight.shape
    if not is_transposed(layer):
        return rows.reshape(shape)
    inputs = shape[0] // layer.groups
    grouped = rows.reshape(layer.groups, shape[1], inputs, *shape[2:])
    return grouped.transpose(1, 2).reshape(shape)


def _products(layer: Any) -> int:
    """How many products an output sums up."""
    shape = layer.weight.shape
    inputs = shape[0] // layer.groups if is_transposed(layer) else shape[1]
    return int(inputs * math.prod(shape[2:]))


def _places(y: Tensor, each: int, generator: torch.Generator) -> tuple[Any, ...]:
    """An index of ``each`` places per example of ``y`` [N, out_channels, ...], all if there are no
    more."""
    space = y.shape[2:]
    count = math.prod(space)
    flat = torch.arange(count).repeat(len(y))
    if each < count:
        flat = torch.randint(count, (len(y) * each,), generator=generator)
    examples = torch.arange(len(y)).repeat_interleave(min(each, count))
    inside = torch.unravel_index(flat, space) if space else ()
    return (examples, slice(None), *inside)


def _windows(layer: Any, x: Tensor) -> Tensor:
    """A view of ``x`` [N, in_channels, ...] with the places of the output behind the channels, then
    the window that each reads."""
    if x.dim() == 2:
        return x
    stride, padding = layer.stride, [(pad, pad) for pad in layer.padding]
    if is_transposed(layer):
        x, padding = _spread(x, layer.stride), _transposed_padding(layer)
        stride = (1,) * len(layer.stride)
    ends = [end for pair in reversed(padding) for end in pair]
    x = functional.pad(x, ends)
    for dim, step in enumerate(stride):
        dilation = layer.dilation[dim]
        reach = dilation * (layer.kernel_size[dim] - 1) + 1
        x = x.unfold(dim + 2, reach, step)[..., ::dilation]
    return x.flip(list(range(-len(stride), 0))) if is_transposed(layer) else x


def _spread(x: Tensor, stride: tuple[int, ...]) -> Tensor:
    """``x`` with ``stride - 1`` zeros between its values."""
    sizes = [(size - 1) * step + 1 for size, step in zip(x.shape[2:], stride, strict=True)]
    spread = x.new_zeros(*x.shape[:2], *sizes)
    every: Any = [slice(None, None, step) for step in stride]
    spread[(slice(None), slice(None), *every)] = x
    return spread


def _transposed_padding(layer: Any) -> list[tuple[int, int]]:
    reaches = zip(layer.dilation, layer.kernel_size, layer.padding, strict=True)
    inner = [dilation * (size - 1) - pad for dilation, size, pad in reaches]
    return [(low, low + extra) for low, extra in zip(inner, layer.output_padding, strict=True)]


def _by_group(layer: Any, rows: Tensor) -> Tensor:
    """[places, channels, ...] as [groups, places, channels / groups * ...]."""
    groups = getattr(layer, "groups", 1)
    return rows.reshape(len(rows), groups, -1).transpose(0, 1).contiguous()
