"""Max pools, and the windows of adaptive pools of both kinds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from qstrategies.operators.arithmetic import padded, window_count, windows
from qstrategies.operators.base import (
    FORMS,
    Array,
    Call,
    Form,
    Kernel,
    Node,
    Placing,
    Site,
    Writer,
    per_dimension,
    recognizes,
    recognizes_by_dimension,
    shape_of,
)
from qstrategies.operators.drawing import Applied, Sizes, draws, happens, several, spelling
from qstrategies.operators.movement import Reshape
from qstrategies.operators.upsampling import upsampled

MAX_POOLS: dict[int, Any] = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
ADAPTIVE_MAX: dict[int, Any] = {
    1: nn.AdaptiveMaxPool1d,
    2: nn.AdaptiveMaxPool2d,
    3: nn.AdaptiveMaxPool3d,
}


@dataclass(frozen=True, eq=False, kw_only=True)
class MaxPool(Node):
    """One number per dimension of the image. With ``ceil_mode`` a last window may reach over the
    padding's end."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil_mode: bool
    rounds = False

    def integers(self, *inputs: Array) -> Array:
        x = inputs[0].astype(np.float64)
        counts, beyond = self._counts(x.shape[2:])
        x = padded(x, self.padding, -np.inf)
        x = np.pad(x, [(0, 0), (0, 0), *((0, each) for each in beyond)], constant_values=-np.inf)
        found = np.full((*x.shape[:2], *counts), -np.inf)
        for _, window in windows(x, self.size, self.stride, self.dilation, counts):
            found = np.maximum(found, window)
        return found.astype(np.uint8)

    def _counts(self, sizes: Sequence[int]) -> tuple[list[int], list[int]]:
        """How many windows each dimension has, and how far the last reaches beyond the padding."""
        counts, beyond = [], []
        geometry = zip(sizes, self.size, self.stride, self.padding, self.dilation, strict=True)
        for size, kernel, stride, padding, dilation in geometry:
            count = window_count(size, kernel, stride, padding, dilation)
            rest = (size + 2 * padding - dilation * (kernel - 1) - 1) % stride
            starts_inside = count * stride < size + padding
            count += int(self.ceil_mode and rest > 0 and starts_inside)
            counts.append(count)
            reach = (count - 1) * stride + dilation * (kernel - 1) + 1
            beyond.append(max(reach - size - 2 * padding, 0))
        return counts, beyond

    def reals(self, *tensors: Tensor) -> Tensor:
        return self._pool(tensors[0])

    def _pool(self, x: Tensor) -> Tensor:
        function: Any = getattr(functional, f"max_pool{len(self.size)}d")
        y: Tensor = function(x, self.size, self.stride, self.padding, self.dilation, self.ceil_mode)
        return y

    def kernel(self, engine: str) -> Kernel | None:
        windows_of_one, dilated = math.prod(self.size) == 1, max(self.dilation) > 1
        if engine == "qnnpack" and (windows_of_one or dilated):
            return None  # it refuses the ones, and pads the others wrongly
        before, after = self.inputs[0].shape[2:], self.output.shape[2:]
        if set(before) == {1} and before != after:
            return None  # several values of one pixel come out in another order
        return self._pool if len(self.size) < 3 else None

    def write(self, to: Writer) -> None:
        _, beyond = self._counts([size or 0 for size in self.inputs[0].shape[2:]])
        ends = [pad + more for pad, more in zip(self.padding, beyond, strict=True)]
        pool = to.emit(
            "MaxPool",
            [to.real(self.inputs[0])],
            f"{self.name}.pooled",
            kernel_shape=self.size,
            strides=self.stride,
            pads=(*self.padding, *ends),  # ONNX's ceil_mode counts other windows than PyTorch's
            dilations=self.dilation,
        )
        to.give(self.output, pool)


def _max_node(site: Site) -> MaxPool:
    pool = site.module
    dimensions = len(site.output.shape) - 2
    return MaxPool(
        **site.ends,
        size=per_dimension(pool.kernel_size, dimensions),
        stride=per_dimension(pool.stride, dimensions),
        padding=per_dimension(pool.padding, dimensions),
        dilation=per_dimension(pool.dilation, dimensions),
        ceil_mode=pool.ceil_mode,
    )


for _kind in MAX_POOLS.values():
    FORMS[_kind] = Form(placing=Placing.SHARED, node=_max_node, homogeneous=True, moves=True)


def _max_pool(
    dimensions: int,
    call: Call,
    input: fx.Node,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> fx.Node | None:
    if return_indices or len(shape_of(input)) != dimensions + 2:
        return None
    settings = [kernel_size, stride or kernel_size, padding, dilation]
    numbers = [per_dimension(each, dimensions) for each in settings]
    if ceil_mode and max(numbers[3]) > 1:
        return None  # windows that reach further over the end than runtimes pad
    return call.emit(MAX_POOLS[dimensions](*numbers, ceil_mode=ceil_mode), input)


@recognizes(*MAX_POOLS.values())
def _max_pool_module(call: Call, pool: Any, x: fx.Node) -> fx.Node | None:
    dimensions = next(each for each, kind in MAX_POOLS.items() if isinstance(pool, kind))
    settings = (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode)
    return _max_pool(dimensions, call, x, *settings, pool.return_indices)


def _adaptive_max(
    dimensions: int, call: Call, input: fx.Node, output_size: Any, return_indices: bool = False
) -> fx.Node | None:
    if return_indices:
        return None
    window = even_windows(call, input, dimensions)
    if window is None or max(window) == 1:
        return single_values(call, input, dimensions)
    return call.emit(MAX_POOLS[dimensions](window, window, 0, 1), input)


def single_values(call: Call, input: fx.Node, dimensions: int) -> fx.Node | None:
    """An adaptive pool whose every window is one value; None for any other."""
    return upsampled(call, input) if len(shape_of(input)) == dimensions + 2 else None


def even_windows(call: Call, input: fx.Node, dimensions: int) -> tuple[int, ...] | None:
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


recognizes_by_dimension("max_pool", _max_pool)
recognizes_by_dimension("adaptive_max_pool", _adaptive_max)


@recognizes(*ADAPTIVE_MAX.values())
def _adaptive_max_module(call: Call, pool: Any, x: fx.Node) -> fx.Node | None:
    dimensions = next(each for each, kind in ADAPTIVE_MAX.items() if isinstance(pool, kind))
    return _adaptive_max(dimensions, call, x, pool.output_size, pool.return_indices)


@recognizes(torch.amax, "amax")
def _largest(call: Call, input: fx.Node, dim: Any = (), keepdim: bool = False) -> fx.Node | None:
    x: fx.Node | None = input
    for each in per_dimension(dim, 1):
        x = None if x is None else _largest_of(call, x, each % len(shape_of(input)))
    return x if x is None or x is input else call.reshape(x)


def _largest_of(call: Call, x: fx.Node, dim: int) -> fx.Node | None:
    """The largest along ``dim``, which stays with size 1, by a pool over [N, before, dim, behind];
    None for a size that varies."""
    batch, *sizes = shape_of(x)
    if dim == 0 or batch is not None or None in sizes:
        return None
    known = [each for each in sizes if each is not None]
    before, count, behind = math.prod(known[: dim - 1]), known[dim - 1], math.prod(known[dim:])
    image = call.emit(Reshape((-1, before, count, behind)), x, shape=(None, before, count, behind))
    pool = MAX_POOLS[2]((count, 1), (count, 1), (0, 0), (1, 1))
    found = call.emit(pool, image, shape=(None, before, 1, behind))
    after = (*known[: dim - 1], 1, *known[dim:])
    return call.emit(Reshape((-1, *after)), found, shape=(None, *after))


@draws()
def _draw_largest(random: Random, shape: Sizes) -> nn.Module:
    dims = random.sample(range(1, len(shape) + 1), random.randint(1, len(shape)))
    chosen = dims[0] if len(dims) == 1 else tuple(dims)
    return Applied(spelling(random, _largest), chosen, keepdim=happens(random, 0.6))


@draws(often=2)
def _draw_max(random: Random, shape: Sizes) -> nn.Module | None:
    dimensions = len(shape) - 1
    if dimensions not in MAX_POOLS:
        return None
    size = several(random, (1, 2, 3), dimensions)
    dilation = several(random, (1, 1, 2), dimensions)
    settings = {
        "stride": random.choice((None, several(random, (1, 2, 3), dimensions))),
        "padding": tuple(random.randint(0, each // 2) for each in size),
        "dilation": dilation,
        "ceil_mode": max(dilation) == 1 and happens(random, 0.5),
    }
    if happens(random, 0.8):
        return MAX_POOLS[dimensions](size, **settings)
    return Applied(getattr(functional, f"max_pool{dimensions}d"), size, **settings)


@draws()
def _draw_adaptive(random: Random, shape: Sizes) -> nn.Module | None:
    return draw_adaptive(random, shape, ADAPTIVE_MAX, "max")


def draw_adaptive(
    random: Random, shape: Sizes, kinds: dict[int, Any], name: str
) -> nn.Module | None:
    """One of ``kinds``, by the dimensions of the image, or the function ``name`` of torch, whose
    windows are even."""
    image = shape[1:]
    if len(image) not in kinds:
        return None
    windows_ = [
        random.choice([each for each in (1, 2, 3, size) if size % each == 0]) for size in image
    ]
    size = tuple(whole // window for whole, window in zip(image, windows_, strict=True))
    if happens(random, 0.5):
        return kinds[len(image)](random.choice((1, size)))
    return Applied(getattr(functional, f"adaptive_{name}_pool{len(image)}d"), size)
