"""Max pools, average pools and means."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from qstrategies.operators.arithmetic import centered, padded, rounded, window_count, windows
from qstrategies.operators.base import (
    FORMS,
    Array,
    Call,
    Form,
    Kernel,
    Node,
    Placing,
    Recognizer,
    Shape,
    Site,
    Writer,
    per_dimension,
    recognizes,
    requantized,
    shape_of,
)
from qstrategies.operators.convolution import CONVOLUTIONS
from qstrategies.operators.drawing import Applied, Sizes, draws, happens, several, spelling
from qstrategies.operators.layer import own_copy

MAX_POOLS: dict[int, Any] = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
AVERAGE_POOLS: dict[int, Any] = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
ADAPTIVE: dict[int, Any] = {
    1: nn.AdaptiveAvgPool1d,
    2: nn.AdaptiveAvgPool2d,
    3: nn.AdaptiveAvgPool3d,
}
ADAPTIVE_MAX: dict[int, Any] = {
    1: nn.AdaptiveMaxPool1d,
    2: nn.AdaptiveMaxPool2d,
    3: nn.AdaptiveMaxPool3d,
}


class Mean(nn.Module):
    """Over ``dims``, which stay with size 1."""

    def __init__(self, dims: tuple[int, ...]) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(self.dims, keepdim=True)


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


@dataclass(frozen=True, eq=False, kw_only=True)
class AveragePool(Node):
    """Every window divided by its size, zeros of the padding counted."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]

    def integers(self, *inputs: Array) -> Array:
        x = centered(inputs[0], self.inputs[0].grid)
        geometry = zip(x.shape[2:], self.size, self.stride, self.padding, strict=True)
        counts = [window_count(*each, 1) for each in geometry]
        total = np.zeros((*x.shape[:2], *counts))
        for _, window in windows(
            padded(x, self.padding), self.size, self.stride, (1,) * len(counts), counts
        ):
            total += window
        ratio = self.inputs[0].grid.scale / self.output.grid.scale
        return rounded(total, ratio, self.output.grid, math.prod(self.size))

    def reals(self, *tensors: Tensor) -> Tensor:
        function: Any = getattr(functional, f"avg_pool{len(self.size)}d")
        y: Tensor = function(tensors[0], self.size, self.stride, self.padding)
        return y

    def kernel(self, engine: str) -> Kernel | None:
        grid = self.output.grid  # PyTorch's own multiplies by 1 / n, and rounds some ties otherwise
        return lambda x: requantized(self.reals(x.dequantize()), grid)

    def write(self, to: Writer) -> None:
        pool = to.emit(
            "AveragePool",
            [to.real(self.inputs[0])],
            f"{self.name}.pooled",
            kernel_shape=self.size,
            strides=self.stride,
            pads=(*self.padding, *self.padding),
            count_include_pad=1,
        )
        to.give(self.output, pool)


@dataclass(frozen=True, eq=False, kw_only=True)
class Averaging(Node):
    """The mean over ``dims``, kept with size 1."""

    dims: tuple[int, ...]

    def integers(self, *inputs: Array) -> Array:
        x = centered(inputs[0], self.inputs[0].grid)
        count = math.prod(x.shape[dim] for dim in self.dims)
        ratio = self.inputs[0].grid.scale / self.output.grid.scale
        return rounded(x.sum(self.dims, keepdims=True), ratio, self.output.grid, count)

    def reals(self, *tensors: Tensor) -> Tensor:
        return tensors[0].mean(self.dims, keepdim=True)

    def kernel(self, engine: str) -> Kernel | None:
        grid = self.output.grid
        return lambda x: requantized(self.reals(x.dequantize()), grid)

    def write(self, to: Writer) -> None:
        x, name = to.real(self.inputs[0]), f"{self.name}.mean"
        whole_image = self.dims == tuple(range(2, len(self.inputs[0].shape)))
        if whole_image:
            result = to.emit("GlobalAveragePool", [x], name)
        else:
            axes = to.constant(f"{self.name}.axes", np.array(self.dims, np.int64))
            result = to.emit("ReduceMean", [x, axes], name, keepdims=1)
        to.give(self.output, result)


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


def _average_node(site: Site) -> AveragePool:
    pool = site.module
    dimensions = len(site.output.shape) - 2
    return AveragePool(
        **site.ends,
        size=per_dimension(pool.kernel_size, dimensions),
        stride=per_dimension(pool.stride, dimensions),
        padding=per_dimension(pool.padding, dimensions),
    )


for _kind in MAX_POOLS.values():
    FORMS[_kind] = Form(placing=Placing.SHARED, node=_max_node, homogeneous=True, moves=True)
for _kind in AVERAGE_POOLS.values():
    FORMS[_kind] = Form(placing=Placing.SHARED, node=_average_node, homogeneous=True)
FORMS[Mean] = Form(
    placing=Placing.SHARED,
    node=lambda site: Averaging(**site.ends, dims=site.module.dims),
    homogeneous=True,
)


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


def _max_pool_module(call: Call, pool: Any, x: fx.Node) -> fx.Node | None:
    dimensions = next(each for each, kind in MAX_POOLS.items() if isinstance(pool, kind))
    settings = (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode)
    return _max_pool(dimensions, call, x, *settings, pool.return_indices)


def _average_pool(
    dimensions: int,
    call: Call,
    input: fx.Node,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> fx.Node | None:
    shape = shape_of(input)
    if len(shape) != dimensions + 2 or shape[1] is None:
        return None
    kernel = per_dimension(kernel_size, dimensions)
    stride = per_dimension(stride or kernel_size, dimensions)
    padding = per_dimension(padding, dimensions)
    counts = [
        window_count(*each, 1) for each in zip(_sizes(shape), kernel, stride, padding, strict=True)
    ]
    ceil_mode = ceil_mode and counts != list(
        call.shape[2:]
    )  # it changes nothing where the windows fit
    if ceil_mode or (any(padding) and not count_include_pad and divisor_override is None):
        return None  # means over fewer values at the border
    if divisor_override is None:
        return call.emit(AVERAGE_POOLS[dimensions](kernel, stride, padding), input)
    channels = shape[1]  # a sum by another number than the window's: a depthwise layer
    layer = CONVOLUTIONS[dimensions](
        channels, channels, kernel, stride, padding, groups=channels, bias=False
    )
    return call.emit(
        own_copy(layer, torch.full_like(layer.weight, 1 / divisor_override), None), input
    )


def _sizes(shape: Shape) -> list[int]:
    """The dimensions of the image; 0 for one that varies."""
    return [size or 0 for size in shape[2:]]


def _average_pool_module(call: Call, pool: Any, x: fx.Node) -> fx.Node | None:
    dimensions = next(each for each, kind in AVERAGE_POOLS.items() if isinstance(pool, kind))
    settings = (pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode, pool.count_include_pad)
    return _average_pool(dimensions, call, x, *settings, getattr(pool, "divisor_override", None))


def _adaptive_average(
    dimensions: int, call: Call, input: fx.Node, output_size: Any
) -> fx.Node | None:
    window = _even_windows(call, input, dimensions)
    if window is None:
        return None
    if all(size == 1 for size in call.shape[2:]):
        return call.emit(Mean(tuple(range(2, 2 + dimensions))), input)
    return call.emit(AVERAGE_POOLS[dimensions](window), input)


def _adaptive_max(
    dimensions: int, call: Call, input: fx.Node, output_size: Any, return_indices: bool = False
) -> fx.Node | None:
    window = None if return_indices else _even_windows(call, input, dimensions)
    return None if window is None else call.emit(MAX_POOLS[dimensions](window, window, 0, 1), input)


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


for _dimensions in (1, 2, 3):
    recognizes(MAX_POOLS[_dimensions])(_max_pool_module)
    recognizes(AVERAGE_POOLS[_dimensions])(_average_pool_module)
    _functions: dict[str, Recognizer] = {
        "max_pool": _max_pool,
        "avg_pool": _average_pool,
        "adaptive_avg_pool": _adaptive_average,
        "adaptive_max_pool": _adaptive_max,
    }
    for _name, _function in _functions.items():
        recognizes(getattr(functional, f"{_name}{_dimensions}d"))(
            functools.partial(_function, _dimensions)
        )


@recognizes(*ADAPTIVE.values())
def _adaptive_average_module(call: Call, pool: Any, x: fx.Node) -> fx.Node | None:
    dimensions = next(each for each, kind in ADAPTIVE.items() if isinstance(pool, kind))
    return _adaptive_average(dimensions, call, x, pool.output_size)


@recognizes(*ADAPTIVE_MAX.values())
def _adaptive_max_module(call: Call, pool: Any, x: fx.Node) -> fx.Node | None:
    dimensions = next(each for each, kind in ADAPTIVE_MAX.items() if isinstance(pool, kind))
    return _adaptive_max(dimensions, call, x, pool.output_size, pool.return_indices)


@recognizes(torch.mean, "mean")
def _mean(
    call: Call, input: fx.Node, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> fx.Node | None:
    shape = shape_of(input)
    chosen = range(len(shape)) if dim is None else per_dimension(dim, 1)
    dims = tuple(sorted(each % len(shape) for each in chosen))
    if dtype is not None or any(shape[each] is None for each in dims):
        return None
    kept = tuple(1 if each in dims else size for each, size in enumerate(shape))
    mean = call.emit(Mean(dims), input, shape=kept)
    return mean if kept == call.shape else call.reshape(mean)


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


@draws(often=2)
def _draw_average(random: Random, shape: Sizes) -> nn.Module | None:
    dimensions = len(shape) - 1
    if dimensions not in AVERAGE_POOLS:
        return None
    size = several(random, (1, 2, 3), dimensions)
    stride = random.choice((None, several(random, (1, 2, 3), dimensions)))
    padding = tuple(random.randint(0, each // 2) for each in size)
    settings: dict[str, Any] = {"count_include_pad": any(padding) or happens(random, 0.5)}
    if dimensions > 1 and happens(random, 0.3):
        settings["divisor_override"] = random.randint(1, 7)
    if happens(random, 0.8):
        return AVERAGE_POOLS[dimensions](size, stride, padding, **settings)
    function = getattr(functional, f"avg_pool{dimensions}d")
    return Applied(function, size, stride, padding, **settings)


@draws()
def _draw_adaptive(random: Random, shape: Sizes) -> nn.Module | None:
    image = shape[1:]
    if len(image) not in ADAPTIVE:
        return None
    windows_ = [
        random.choice([each for each in (1, 2, 3, size) if size % each == 0]) for size in image
    ]
    size = tuple(whole // window for whole, window in zip(image, windows_, strict=True))
    kind, name = random.choice(((ADAPTIVE, "avg"), (ADAPTIVE_MAX, "max")))
    if happens(random, 0.5):
        return kind[len(image)](random.choice((1, size)))
    return Applied(getattr(functional, f"adaptive_{name}_pool{len(image)}d"), size)


@draws(often=2)
def _draw_mean(random: Random, shape: Sizes) -> nn.Module:
    dims = random.sample(range(1, len(shape) + 1), random.randint(1, len(shape)))
    dim = dims[0] if len(dims) == 1 else tuple(dims)
    return Applied(spelling(random, _mean), dim, keepdim=happens(random, 0.6))
