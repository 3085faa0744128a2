"""Average pools, means and sums."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from qstrategies.operators.arithmetic import centered, padded, rounded, window_count, windows
from qstrategies.operators.base import (
    FLOAT_EXACT,
    FORMS,
    HIGHEST,
    Array,
    Call,
    Form,
    Kernel,
    Node,
    Placing,
    Shape,
    Site,
    Writer,
    per_dimension,
    recognizes,
    recognizes_by_dimension,
    requantized,
    shape_of,
)
from qstrategies.operators.convolution import CONVOLUTIONS
from qstrategies.operators.drawing import Applied, Sizes, draws, happens, several, spelling
from qstrategies.operators.layer import own_copy

AVERAGE_POOLS: dict[int, Any] = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}


class Reduced(nn.Module):
    """Over ``dims``, which stay with size 1."""

    def __init__(self, dims: tuple[int, ...]) -> None:
        super().__init__()
        self.dims = dims


class Mean(Reduced):
    """The mean."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(self.dims, keepdim=True)


class Sum(Reduced):
    """The sum."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(self.dims, keepdim=True)


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
class Reduction(Node):
    """One value of all over ``dims``, kept with size 1."""

    dims: tuple[int, ...]

    def total(self, x: Array) -> tuple[Array, float]:
        """The sums of the steps of ``x`` from its zero point, and the steps of the output that one
        is worth."""
        entry = self.inputs[0].grid
        sums = centered(x, entry).sum(self.dims, keepdims=True)
        return sums, entry.scale / self.output.grid.scale

    def kernel(self, engine: str) -> Kernel | None:
        grid = self.output.grid
        return lambda x: requantized(self.reals(x.dequantize()), grid)

    def reduce(self, to: Writer, kind: str) -> str:
        """Write the operator Reduce``kind`` over ``dims``; the name of its result."""
        axes = to.constant(f"{self.name}.axes", np.array(self.dims, np.int64))
        operands, name = [to.real(self.inputs[0]), axes], f"{self.name}.{kind.lower()}"
        return to.emit(f"Reduce{kind}", operands, name, keepdims=1)


@dataclass(frozen=True, eq=False, kw_only=True)
class Averaging(Reduction):
    """The mean."""

    def integers(self, *inputs: Array) -> Array:
        count = math.prod(inputs[0].shape[dim] for dim in self.dims)
        return rounded(*self.total(inputs[0]), self.output.grid, count)

    def reals(self, *tensors: Tensor) -> Tensor:
        return tensors[0].mean(self.dims, keepdim=True)

    def write(self, to: Writer) -> None:
        x = self.inputs[0]
        if self.dims == tuple(range(2, len(x.shape))):  # a whole image
            result = to.emit("GlobalAveragePool", [to.real(x)], f"{self.name}.mean")
        else:
            result = self.reduce(to, "Mean")
        to.give(self.output, result)


@dataclass(frozen=True, eq=False, kw_only=True)
class Summing(Reduction):
    """The sum; the steps of all values stay below ``FLOAT_EXACT``."""

    def integers(self, *inputs: Array) -> Array:
        return rounded(*self.total(inputs[0]), self.output.grid)

    def reals(self, *tensors: Tensor) -> Tensor:
        return tensors[0].sum(self.dims, keepdim=True)

    def write(self, to: Writer) -> None:
        to.give(self.output, self.reduce(to, "Sum"))


def _average_node(site: Site) -> AveragePool:
    pool = site.module
    dimensions = len(site.output.shape) - 2
    return AveragePool(
        **site.ends,
        size=per_dimension(pool.kernel_size, dimensions),
        stride=per_dimension(pool.stride, dimensions),
        padding=per_dimension(pool.padding, dimensions),
    )


for _kind in AVERAGE_POOLS.values():
    FORMS[_kind] = Form(placing=Placing.SHARED, node=_average_node, homogeneous=True)
FORMS[Mean] = Form(
    placing=Placing.SHARED,
    node=lambda site: Averaging(**site.ends, dims=site.module.dims),
    homogeneous=True,
)
FORMS[Sum] = Form(
    placing=Placing.OWN, node=lambda site: Summing(**site.ends, dims=site.module.dims)
)


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
    weight = torch.full((channels, 1, *kernel), 1 / divisor_override)
    sizes = (channels, channels, kernel, stride, padding)
    layer = own_copy(weight, None, CONVOLUTIONS[dimensions], *sizes, groups=channels)
    return call.emit(layer, input)


def _sizes(shape: Shape) -> list[int]:
    """The dimensions of the image; 0 for one that varies."""
    return [size or 0 for size in shape[2:]]


@recognizes(*AVERAGE_POOLS.values())
def _average_pool_module(call: Call, pool: Any, x: fx.Node) -> fx.Node | None:
    dimensions = next(each for each, kind in AVERAGE_POOLS.items() if isinstance(pool, kind))
    settings = (pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode, pool.count_include_pad)
    return _average_pool(dimensions, call, x, *settings, getattr(pool, "divisor_override", None))


recognizes_by_dimension("avg_pool", _average_pool)


@recognizes(torch.mean, "mean")
def _mean(
    call: Call, input: fx.Node, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> fx.Node | None:
    dims = _dims(input, dim)
    return None if dims is None or dtype is not None else _reduced(call, input, Mean(dims))


@recognizes(torch.sum, "sum")
def _sum(
    call: Call, input: fx.Node, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> fx.Node | None:
    dims = _dims(input, dim)
    if dims is None or dtype is not None:
        return None
    count = math.prod(shape_of(input)[each] or 1 for each in dims)
    return _reduced(call, input, Sum(dims)) if count * HIGHEST <= FLOAT_EXACT else None


def _dims(input: fx.Node, dim: Any) -> tuple[int, ...] | None:
    """The dimensions that a reduction over ``dim`` is over, in order; None if the batch is one."""
    shape = shape_of(input)
    chosen = range(len(shape)) if dim is None else per_dimension(dim, 1)
    dims = tuple(sorted(each % len(shape) for each in chosen or range(len(shape))))
    return None if any(shape[each] is None for each in dims) else dims


def _reduced(call: Call, input: fx.Node, form: Mean | Sum) -> fx.Node:
    kept = tuple(1 if each in form.dims else size for each, size in enumerate(shape_of(input)))
    result = call.emit(form, input, shape=kept)
    return result if kept == call.shape else call.reshape(result)


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


@draws(often=3)
def _draw_reduction(random: Random, shape: Sizes) -> nn.Module:
    dims = random.sample(range(1, len(shape) + 1), random.randint(1, len(shape)))
    dim = dims[0] if len(dims) == 1 else tuple(dims)
    recognizer = random.choice((_mean, _mean, _sum))
    return Applied(spelling(random, recognizer), dim, keepdim=happens(random, 0.6))
