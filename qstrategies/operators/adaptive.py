"""Adaptive pools: those whose windows are all of one size are pools, or means."""

from __future__ import annotations

from random import Random
from typing import Any

from torch import fx, nn
from torch.nn import functional

from qstrategies.operators.averages import AVERAGE_POOLS, Mean
from qstrategies.operators.base import Call, recognizes, recognizes_by_dimension, shape_of
from qstrategies.operators.drawing import Applied, Sizes, draws, happens
from qstrategies.operators.pooling import MAX_POOLS
from qstrategies.operators.upsampling import upsampled

ADAPTIVE_MAX: dict[int, Any] = {
    1: nn.AdaptiveMaxPool1d,
    2: nn.AdaptiveMaxPool2d,
    3: nn.AdaptiveMaxPool3d,
}
ADAPTIVE_AVERAGE: dict[int, Any] = {
    1: nn.AdaptiveAvgPool1d,
    2: nn.AdaptiveAvgPool2d,
    3: nn.AdaptiveAvgPool3d,
}


def _adaptive_max(
    dimensions: int, call: Call, input: fx.Node, output_size: Any, return_indices: bool = False
) -> fx.Node | None:
    if return_indices:
        return None
    window = _even_windows(call, input, dimensions)
    if window is None or max(window) == 1:
        return _single_values(call, input, dimensions)
    return call.emit(MAX_POOLS[dimensions](window, window, 0, 1), input)


def _adaptive_average(
    dimensions: int, call: Call, input: fx.Node, output_size: Any
) -> fx.Node | None:
    window = _even_windows(call, input, dimensions)
    if window is None or max(window) == 1:
        return _single_values(call, input, dimensions)
    if all(size == 1 for size in call.shape[2:]):
        return call.emit(Mean(tuple(range(2, 2 + dimensions))), input)
    return call.emit(AVERAGE_POOLS[dimensions](window), input)


def _single_values(call: Call, input: fx.Node, dimensions: int) -> fx.Node | None:
    """An adaptive pool whose every window is one value; None for any other."""
    return upsampled(call, input) if len(shape_of(input)) == dimensions + 2 else None


def _even_windows(call: Call, input: fx.Node, dimensions: int) -> tuple[int, ...] | None:
    """The size of the windows of an adaptive pool if they are all of one size and do not
    overlap."""
    if len(shape_of(input)) != dimensions + 2:
        return None
    found = []
    for before, after in zip(shape_of(input)[2:], call.shape[2:], strict=True):
        if before is None or after is None or before % after:
            return None
        found.append(before // after)
    return tuple(found)


recognizes_by_dimension("adaptive_max_pool", _adaptive_max)
recognizes_by_dimension("adaptive_avg_pool", _adaptive_average)


@recognizes(*ADAPTIVE_MAX.values())
def _adaptive_max_module(call: Call, pool: Any, x: fx.Node) -> fx.Node | None:
    dimensions = next(each for each, kind in ADAPTIVE_MAX.items() if isinstance(pool, kind))
    return _adaptive_max(dimensions, call, x, pool.output_size, pool.return_indices)


@recognizes(*ADAPTIVE_AVERAGE.values())
def _adaptive_average_module(call: Call, pool: Any, x: fx.Node) -> fx.Node | None:
    dimensions = next(each for each, kind in ADAPTIVE_AVERAGE.items() if isinstance(pool, kind))
    return _adaptive_average(dimensions, call, x, pool.output_size)


@draws()
def _draw_max(random: Random, shape: Sizes) -> nn.Module | None:
    return _draw(random, shape, ADAPTIVE_MAX, "max")


@draws()
def _draw_average(random: Random, shape: Sizes) -> nn.Module | None:
    return _draw(random, shape, ADAPTIVE_AVERAGE, "avg")


def _draw(random: Random, shape: Sizes, kinds: dict[int, Any], name: str) -> nn.Module | None:
    """One of ``kinds``, by the dimensions of the image, or the function ``name`` of torch, whose
    windows are even."""
    image = shape[1:]
    if len(image) not in kinds:
        return None
    windows = [
        random.choice([each for each in (1, 2, 3, size) if size % each == 0]) for size in image
    ]
    size = tuple(whole // window for whole, window in zip(image, windows, strict=True))
    if happens(random, 0.5):
        return kinds[len(image)](random.choice((1, size)))
    return Applied(getattr(functional, f"adaptive_{name}_pool{len(image)}d"), size)
