"""Max pools, and maxima over dimensions."""

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

from qstrategies.errors import InputError
from qstrategies.operators.arithmetic import windows
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
from qstrategies.operators.padding import FLOOR, LEAST, Unseen

MAX_POOLS: dict[int, Any] = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}


@dataclass(frozen=True, eq=False, kw_only=True)
class MaxPool(Node):
    """One number per dimension of the image, which is padded by ``padding`` before it and by
    ``behind`` behind it. With ``ceil_mode`` a last window may reach over the padding's end."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    behind: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil_mode: bool
    rounds = False

    def integers(self, *inputs: Array) -> Array:
        x = inputs[0].astype(np.float64)
        counts, ends = self._counts(x.shape[2:])
        pads = [(0, 0), (0, 0), *zip(self.padding, ends, strict=True)]
        x = np.pad(x, pads, constant_values=-np.inf)
        found = np.full((*x.shape[:2], *counts), -np.inf)
        for _, window in windows(x, self.size, self.stride, self.dilation, counts):
            found = np.maximum(found, window)
        return found.astype(np.uint8)

    def _counts(self, sizes: Sequence[int]) -> tuple[list[int], list[int]]:
        """How many windows each dimension has, and what is padded behind it until the last one
        ends."""
        counts, ends = [], []
        pads = zip(self.padding, self.behind, strict=True)
        geometry = zip(sizes, pads, self.size, self.stride, self.dilation, strict=True)
        for size, (before, behind), kernel, stride, dilation in geometry:
            reach = dilation * (kernel - 1) + 1
            steps, rest = divmod(size + before + behind - reach, stride)
            starts_inside = (steps + 1) * stride < size + before
            steps += int(self.ceil_mode and rest > 0 and starts_inside)
            counts.append(steps + 1)
            ends.append(max(steps * stride + reach - size - before, behind))
        return counts, ends

    def reals(self, *tensors: Tensor) -> Tensor:
        return self._pool(tensors[0])

    def _pool(self, x: Tensor) -> Tensor:
        if not self._padded_by_torch:
            return _unevenly_padded(x, self.size, self.stride, (self.padding, self.behind))
        function: Any = getattr(functional, f"max_pool{len(self.size)}d")
        y: Tensor = function(x, self.size, self.stride, self.padding, self.dilation, self.ceil_mode)
        return y

    @property
    def _padded_by_torch(self) -> bool:
        """Whether PyTorch's pool takes such a padding: both ends alike, half a window at most."""
        fits = all(2 * pad <= size for pad, size in zip(self.padding, self.size, strict=True))
        return fits and self.behind == self.padding

    def kernel(self, engine: str) -> Kernel | None:
        windows_of_one, dilated = math.prod(self.size) == 1, max(self.dilation) > 1
        if engine == "qnnpack" and (windows_of_one or dilated):
            return None  # it refuses the ones, and pads the others wrongly
        before, after = self.inputs[0].shape[2:], self.output.shape[2:]
        if set(before) == {1} and before != after:
            return None  # several values of one pixel come out in another order
        return self._pool if len(self.size) < 3 and self._padded_by_torch else None

    def write(self, to: Writer) -> None:
        _, ends = self._counts([size or 0 for size in self.inputs[0].shape[2:]])
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


def _unevenly_padded(
    x: Tensor, size: Sizes, stride: Sizes, ends: tuple[Sizes, Sizes], value: float = -math.inf
) -> Tensor:
    pairs = zip(*map(reversed, ends), strict=True)
    return _padded_pool(x, [each for pair in pairs for each in pair], size, stride, value)


def _padded_pool(
    x: Tensor, amounts: list[int], size: Sizes, stride: Sizes, value: float = -math.inf
) -> Tensor:
    function: Any = getattr(functional, f"max_pool{len(size)}d")
    y: Tensor = function(functional.pad(x, amounts, value=value), size, stride)
    return y


class UnevenMaxPool(nn.Module):
    """A max pool that pads an image by ``padding`` before it and by ``behind`` behind it."""

    dilation, ceil_mode = 1, False

    def __init__(
        self,
        kernel_size: tuple[int, ...],
        stride: tuple[int, ...],
        padding: tuple[int, ...],
        behind: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.behind, self.value = behind, -math.inf

    def forward(self, x: Tensor) -> Tensor:
        ends = self.padding, self.behind
        return _unevenly_padded(x, self.kernel_size, self.stride, ends, self.value)


class PoolOverFloor(UnevenMaxPool):
    """One that pads with ``value``, which is meant to be below all that there is."""

    def __init__(self, value: float, *geometry: tuple[int, ...]) -> None:
        super().__init__(*geometry)
        self.value = value


def _max_node(site: Site) -> MaxPool:
    pool = site.module
    dimensions = len(site.output.shape) - 2
    return MaxPool(
        **site.ends,
        size=per_dimension(pool.kernel_size, dimensions),
        stride=per_dimension(pool.stride, dimensions),
        padding=per_dimension(pool.padding, dimensions),
        behind=per_dimension(getattr(pool, "behind", pool.padding), dimensions),
        dilation=per_dimension(pool.dilation, dimensions),
        ceil_mode=pool.ceil_mode,
    )


for _kind in (*MAX_POOLS.values(), UnevenMaxPool):
    FORMS[_kind] = Form(placing=Placing.SHARED, node=_max_node, homogeneous=True, moves=True)


def _node_over_floor(site: Site) -> MaxPool:
    """It is the lowest integer that pads: the same, as none stands for less than ``value``."""
    lowest, value = site.inputs[0].grid.ends[0], site.module.value
    if lowest < value:
        raise InputError(
            f"{site.name} pads with {value:g} for a maximum, and calibration shows values down to "
            f"{lowest:g}: use -inf, or a number below them all"
        )
    return _max_node(site)


FORMS[PoolOverFloor] = Form(placing=Placing.SHARED, node=_node_over_floor, moves=True)


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
    if "unseen" in input.meta:
        unseen: Unseen = input.meta["unseen"]
        pool = _over_unseen(call, unseen, *numbers)
        if pool is not None or unseen.value <= LEAST:
            return pool
    return call.emit(MAX_POOLS[dimensions](*numbers, ceil_mode=ceil_mode), input)


def _over_unseen(
    call: Call,
    unseen: Unseen,
    kernels: Sequence[int],
    strides: Sequence[int],
    paddings: Sequence[int],
    dilations: Sequence[int],
) -> fx.Node | None:
    """A pool over what was padded with a number below all others, which pads so itself; None where
    a window may hold nothing else."""
    x, pads, value = unseen.x, unseen.pads, unseen.value
    if any(map(any, pads[:2])) or max(dilations) > 1 or None in (*shape_of(x)[2:], *call.shape[2:]):
        return None
    ends = []
    geometry = zip(
        shape_of(x)[2:], call.shape[2:], pads[2:], kernels, strides, paddings, strict=True
    )
    for size, count, (before, _), kernel, stride, padding in geometry:
        assert size is not None and count is not None
        first = -before - padding
        last = first + (count - 1) * stride
        if first + kernel <= 0 or last >= size:
            return None
        ends.append((-first, max(last + kernel - size, 0)))
    before_all, behind_all = zip(*ends, strict=True)
    numbers = tuple(kernels), tuple(strides), before_all, behind_all
    pool = UnevenMaxPool(*numbers) if value <= LEAST else PoolOverFloor(value, *numbers)
    return call.emit(pool, x)


@recognizes(*MAX_POOLS.values())
def _max_pool_module(call: Call, pool: Any, x: fx.Node) -> fx.Node | None:
    dimensions = next(each for each, kind in MAX_POOLS.items() if isinstance(pool, kind))
    settings = (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode)
    return _max_pool(dimensions, call, x, *settings, pool.return_indices)


recognizes_by_dimension("max_pool", _max_pool)


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
def _draw_over_unseen(random: Random, shape: Sizes) -> nn.Module | None:
    dimensions = len(shape) - 1
    if dimensions not in MAX_POOLS:
        return None
    size = several(random, (2, 3), dimensions)
    amounts = [random.randint(0, each - 1) for each in reversed(size) for _ in range(2)]
    stride = several(random, (1, 2, 3), dimensions)
    return Applied(_padded_pool, amounts, size, stride, random.choice((-math.inf, FLOOR)))
