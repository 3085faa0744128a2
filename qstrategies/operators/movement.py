"""Operators that move values and compute nothing: reshape, permute, slice, and what they make
up."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from qstrategies.operators.base import (
    FORMS,
    Array,
    Call,
    Form,
    Kernel,
    Node,
    Placing,
    Shape,
    Site,
    Writer,
    from_integers,
    recognizes,
    shape_of,
)
from qstrategies.operators.drawing import Applied, Sizes, draws, spelling


class Reshape(nn.Module):
    """To ``sizes``, one of which may be -1."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.sizes = sizes

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(self.sizes)


class Permute(nn.Module):
    """Dimensions in another ``order``."""

    def __init__(self, order: tuple[int, ...]) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.order)


class Slice(nn.Module):
    """``start`` to ``stop`` by ``step`` (positive) of one dimension."""

    def __init__(self, dim: int, start: int, stop: int, step: int = 1) -> None:
        super().__init__()
        self.dim, self.start, self.stop, self.step = dim, start, stop, step

    def forward(self, x: Tensor) -> Tensor:
        taken = slice(self.start, self.stop, self.step)
        return x[(slice(None),) * self.dim + (taken,)]


@dataclass(frozen=True, eq=False, kw_only=True)
class Movement(Node):
    """What all movements share: reals and integers move alike, and the quantizer stays."""

    rounds = False

    def moved(self, x: Tensor) -> Tensor:
        """``x``, real or integer, moved."""
        raise NotImplementedError(type(self).__name__)

    def reals(self, *tensors: Tensor) -> Tensor:
        return self.moved(tensors[0])

    def kernel(self, engine: str) -> Kernel | None:
        grid = self.output.grid
        return lambda x: from_integers(self.moved(x.int_repr()), grid)

    def write_moved(self, to: Writer, op: str, *constants: str, **attributes: Any) -> None:
        """Write ``op`` between DequantizeLinear and QuantizeLinear, as all runtimes read it."""
        result = to.emit(
            op, [to.real(self.inputs[0]), *constants], f"{self.name}.moved", **attributes
        )
        to.give(self.output, result)


@dataclass(frozen=True, eq=False, kw_only=True)
class Reshaping(Movement):
    """``sizes`` as in ``Reshape``."""

    sizes: tuple[int, ...]

    def integers(self, *inputs: Array) -> Array:
        return inputs[0].reshape(self.sizes)

    def moved(self, x: Tensor) -> Tensor:
        return x.reshape(self.sizes)

    def write(self, to: Writer) -> None:
        self.write_moved(
            to, "Reshape", to.constant(f"{self.name}.sizes", np.array(self.sizes, np.int64))
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Permutation(Movement):
    """``order`` as in ``Permute``."""

    order: tuple[int, ...]

    def integers(self, *inputs: Array) -> Array:
        return inputs[0].transpose(self.order)

    def moved(self, x: Tensor) -> Tensor:
        return x.permute(self.order)

    def write(self, to: Writer) -> None:
        self.write_moved(to, "Transpose", perm=self.order)


@dataclass(frozen=True, eq=False, kw_only=True)
class Slicing(Movement):
    """``dim``, ``start``, ``stop`` and ``step`` as in ``Slice``."""

    dim: int
    start: int
    stop: int
    step: int

    @property
    def _index(self) -> tuple[slice, ...]:
        return (slice(None),) * self.dim + (slice(self.start, self.stop, self.step),)

    def integers(self, *inputs: Array) -> Array:
        return inputs[0][self._index]

    def moved(self, x: Tensor) -> Tensor:
        return x[self._index]

    def write(self, to: Writer) -> None:
        settings = {"start": self.start, "stop": self.stop, "axis": self.dim, "step": self.step}
        constants = []
        for name, value in settings.items():
            constants.append(to.constant(f"{self.name}.{name}", np.array([value], np.int64)))
        self.write_moved(to, "Slice", *constants)


def moves(kind: type[nn.Module], node: type[Movement], *settings: str) -> None:
    """Register the form ``kind`` of ``node``, which has the attributes ``settings`` of it."""

    def build(site: Site) -> Node:
        return node(**site.ends, **{name: getattr(site.module, name) for name in settings})

    FORMS[kind] = Form(placing=Placing.SHARED, node=build, homogeneous=True, moves=True)


moves(Reshape, Reshaping, "sizes")
moves(Permute, Permutation, "order")
moves(Slice, Slicing, "dim", "start", "stop", "step")


# --- reshapes: whatever the arguments, the result's shape says all ---


@recognizes(
    torch.flatten,
    torch.reshape,
    torch.squeeze,
    torch.unsqueeze,
    torch.unflatten,
    "flatten",
    "reshape",
    "reshape_as",
    "squeeze",
    "squeeze_",
    "unflatten",
    "unsqueeze",
    "unsqueeze_",
    "view",
    "view_as",
)
def _reshape(call: Call, input: fx.Node, *_: Any, **__: Any) -> fx.Node:
    return call.reshape(input)


@recognizes(nn.Flatten, nn.Unflatten)
def _reshape_module(call: Call, _: nn.Module, x: fx.Node) -> fx.Node:
    return call.reshape(x)


@recognizes("contiguous", "clone", "detach", torch.clone, torch.detach)
def _copy(call: Call, input: fx.Node, *_: Any, **__: Any) -> fx.Node:
    return input


# --- permutations ---


@recognizes(torch.permute, "permute")
def _permute(call: Call, input: fx.Node, *dims: Any, **named: Any) -> fx.Node:
    chosen = named.get("dims", dims[0] if len(dims) == 1 else dims)
    rank = len(shape_of(input))
    return call.emit(Permute(tuple(dim % rank for dim in chosen)), input)


@recognizes(torch.transpose, torch.swapaxes, "transpose", "swapaxes", "transpose_")
def _transpose(call: Call, input: fx.Node, dim0: int, dim1: int) -> fx.Node:
    order = list(range(len(shape_of(input))))
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return call.emit(Permute(tuple(order)), input)


@recognizes("t", torch.t)
def _t(call: Call, input: fx.Node) -> fx.Node:
    return call.emit(Permute((1, 0)), input)


# --- slices ---


@recognizes(operator.getitem)
def _getitem(call: Call, x: fx.Node, index: Any) -> fx.Node | None:
    entries = _spelled_out(index, len(shape_of(x)))
    if entries is None:
        return None
    dim = 0
    for entry in entries:
        if entry is not None:
            sliced = _sliced(call, x, dim, entry)
            if sliced is None:
                return None
            x, dim = sliced, dim + 1
    return x if shape_of(x) == call.shape else call.reshape(x)


def _spelled_out(index: Any, rank: int) -> list[Any] | None:
    """One entry per dimension, and None for every new one; None for an index by anything but
    numbers and slices."""
    entries = list(index) if isinstance(index, tuple) else [index]
    if not all(
        entry is None or entry is Ellipsis or isinstance(entry, int | slice) for entry in entries
    ):
        return None
    if any(isinstance(entry, bool) for entry in entries):
        return None
    taken = sum(entry is not None and entry is not Ellipsis for entry in entries)
    whole: list[Any] = [slice(None)] * (rank - taken)
    if Ellipsis not in entries:
        return entries + whole
    place = entries.index(Ellipsis)
    return entries[:place] + whole + entries[place + 1 :]


def _sliced(call: Call, x: fx.Node, dim: int, entry: int | slice) -> fx.Node | None:
    if entry == slice(None):
        return x
    shape = shape_of(x)
    size = shape[dim]
    if size is None:
        return None
    if isinstance(entry, int):
        entry = slice(entry % size, entry % size + 1)
    start, stop, step = entry.indices(size)
    if step < 1:
        return None
    count = len(range(start, stop, step))
    return call.emit(
        Slice(dim, start, stop, step), x, shape=(*shape[:dim], count, *shape[dim + 1 :])
    )


@recognizes(torch.narrow, "narrow")
def _narrow(call: Call, input: fx.Node, dim: int, start: int, length: int) -> fx.Node | None:
    dim %= len(shape_of(input))
    return _sliced(call, input, dim, slice(start, start + length))


@recognizes(torch.select, "select")
def _select(call: Call, input: fx.Node, dim: int, index: int) -> fx.Node | None:
    sliced = _sliced(call, input, dim % len(shape_of(input)), index)
    return None if sliced is None else call.reshape(sliced)


# --- what is made of these ---


@recognizes(functional.pixel_shuffle)
def _pixel_shuffle(call: Call, input: fx.Node, upscale_factor: int) -> fx.Node | None:
    shape, factor = shape_of(input), upscale_factor
    if len(shape) != 4 or None in shape[1:]:
        return None
    n, c, h, w = shape
    assert c is not None
    split = _reshaped(call, input, (n, c // factor**2, factor, factor, h, w))
    order = (0, 1, 4, 2, 5, 3)
    return call.reshape(_permuted(call, split, order))


@recognizes(functional.pixel_unshuffle)
def _pixel_unshuffle(call: Call, input: fx.Node, downscale_factor: int) -> fx.Node | None:
    shape, factor = shape_of(input), downscale_factor
    if len(shape) != 4 or None in shape[1:]:
        return None
    n, c, h, w = shape
    assert h is not None and w is not None
    split = _reshaped(call, input, (n, c, h // factor, factor, w // factor, factor))
    return call.reshape(_permuted(call, split, (0, 1, 3, 5, 2, 4)))


@recognizes(functional.channel_shuffle)
def _channel_shuffle(call: Call, input: fx.Node, groups: int) -> fx.Node | None:
    n, c, *image = shape_of(input)
    if c is None or None in image:
        return None
    split = _reshaped(call, input, (n, groups, c // groups, *image))
    return call.reshape(_permuted(call, split, (0, 2, 1, *range(3, 3 + len(image)))))


def _reshaped(call: Call, x: fx.Node, shape: Shape) -> fx.Node:
    sizes = tuple(-1 if size is None else size for size in shape)
    return call.emit(Reshape(sizes), x, shape=shape)


def _permuted(call: Call, x: fx.Node, order: tuple[int, ...]) -> fx.Node:
    shape = shape_of(x)
    return call.emit(Permute(order), x, shape=tuple(shape[dim] for dim in order))


@recognizes(nn.PixelShuffle)
def _pixel_shuffle_module(call: Call, module: nn.PixelShuffle, x: fx.Node) -> fx.Node | None:
    return _pixel_shuffle(call, x, module.upscale_factor)


@recognizes(nn.PixelUnshuffle)
def _pixel_unshuffle_module(call: Call, module: nn.PixelUnshuffle, x: fx.Node) -> fx.Node | None:
    return _pixel_unshuffle(call, x, module.downscale_factor)


@recognizes(nn.ChannelShuffle)
def _channel_shuffle_module(call: Call, module: nn.ChannelShuffle, x: fx.Node) -> fx.Node | None:
    return _channel_shuffle(call, x, module.groups)


# --- what may be drawn ---


class _Rows(nn.Module):
    """``x.view(x.size(0), -1)``."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(x.size(0), -1)


@draws(often=2)
def _draw_shape(random: Random, shape: Sizes) -> nn.Module:
    whole = math.prod(shape)
    first = random.choice([each for each in (1, 2, 3, whole) if whole % each == 0])
    sizes = random.choice(((-1, first, whole // first), (-1, whole // first, first), (-1, whole)))
    halves = random.choice([(each, shape[0] // each) for each in (1, 2, 3) if shape[0] % each == 0])
    dim = random.randint(1, len(shape))
    return random.choice(
        (
            _Rows(),
            nn.Flatten(dim),
            nn.Unflatten(1, halves),
            Applied(random.choice((torch.flatten, "flatten")), dim),
            Applied(random.choice(("reshape", "view")), *sizes),
            Applied(torch.reshape, sizes),
            Applied(random.choice((torch.unflatten, "unflatten")), 1, halves),
            Applied(random.choice((torch.unsqueeze, "unsqueeze", "unsqueeze_")), dim),
            Applied(random.choice((torch.squeeze, "squeeze", "squeeze_")), dim),
        )
    )


@draws(inputs=2)
def _draw_alike(random: Random, shape: Sizes, other: Sizes) -> nn.Module | None:
    fits = math.prod(shape) == math.prod(other)
    return Applied(random.choice(("reshape_as", "view_as"))) if fits else None


@draws()
def _draw_copy(random: Random, _: Sizes) -> nn.Module:
    return Applied(spelling(random, _copy))


@draws()
def _draw_order(random: Random, shape: Sizes) -> nn.Module:
    order = list(range(1, len(shape) + 1))
    random.shuffle(order)
    pair = random.choice(order), random.choice(order) - len(shape) - 1
    return random.choice(
        (
            Applied(spelling(random, _permute), (0, *order)),
            Applied(spelling(random, _transpose), *pair),
            nn.Sequential(Applied(spelling(random, _t)), Applied(spelling(random, _t))),
        )
    )


@draws()
def _draw_part(random: Random, shape: Sizes) -> nn.Module:
    dim = random.randint(1, len(shape))
    size = shape[dim - 1]
    start = random.randrange(size)
    count = random.randint(1, size - start)
    taken = random.choice((start, start - size, slice(start, start + count), slice(start, None, 2)))
    before = (slice(None),) * dim
    index = random.choice(
        ((*before, taken), (..., taken), (*before, None, taken), (*before, taken, ...))
    )
    return random.choice(
        (
            Applied(operator.getitem, index),
            Applied(spelling(random, _narrow), dim, start, count),
            Applied(spelling(random, _select), dim, start),
        )
    )


@draws()
def _draw_parts(random: Random, shape: Sizes) -> nn.Module:
    dim = random.randint(1, len(shape))
    name = random.choice(("chunk", "split", "tensor_split", "unbind"))
    target = random.choice((name, getattr(torch, name)))
    return Applied(target, *(() if name == "unbind" else (random.randint(1, 3),)), dim=dim)


@draws()
def _draw_shuffle(random: Random, shape: Sizes) -> nn.Module | None:
    if len(shape) != 3:
        return None
    factor = random.choice((1, 2, 2, 3))
    return random.choice(
        (
            nn.ChannelShuffle(factor),
            nn.PixelShuffle(factor),
            nn.PixelUnshuffle(factor),
            Applied(functional.channel_shuffle, factor),
            Applied(functional.pixel_shuffle, factor),
            Applied(functional.pixel_unshuffle, factor),
        )
    )
