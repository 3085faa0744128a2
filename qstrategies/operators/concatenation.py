"""Concatenations: all parts share one quantizer, so that only integers move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from qstrategies.operators.addition import Add
from qstrategies.operators.base import (
    FORMS,
    Array,
    Call,
    Form,
    Kernel,
    Node,
    Placing,
    Writer,
    from_integers,
    recognizes,
    shape_of,
)
from qstrategies.operators.constant import with_constant
from qstrategies.operators.drawing import Applied, Sizes, draws, happens, spelling
from qstrategies.operators.movement import Reshape
from qstrategies.operators.picking import pick
from qstrategies.operators.product import Multiply
from qstrategies.operators.slicing import Slice


class Concat(nn.Module):
    """Tensors one behind another along ``dim``."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, *parts: Tensor) -> Tensor:
        return torch.cat(parts, self.dim)


@dataclass(frozen=True, eq=False, kw_only=True)
class Concatenation(Node):
    """Along ``dim``."""

    dim: int
    rounds = False

    def integers(self, *inputs: Array) -> Array:
        return np.concatenate(inputs, self.dim)

    def reals(self, *tensors: Tensor) -> Tensor:
        return torch.cat(tensors, self.dim)

    def kernel(self, engine: str) -> Kernel | None:
        grid = self.output.grid
        return lambda *parts: from_integers(
            torch.cat([part.int_repr() for part in parts], self.dim), grid
        )

    def write(self, to: Writer) -> None:
        parts = [to.real(spec) for spec in self.inputs]
        to.give(self.output, to.emit("Concat", parts, f"{self.name}.joined", axis=self.dim))


FORMS[Concat] = Form(
    placing=Placing.SHARED,
    node=lambda site: Concatenation(**site.ends, dim=site.module.dim),
    homogeneous=True,
)


@recognizes(torch.cat, torch.concat, torch.concatenate)
def _cat(call: Call, tensors: Any, dim: int = 0, axis: int | None = None) -> fx.Node | None:
    place = (dim if axis is None else axis) % len(call.shape)
    if not all(isinstance(part, fx.Node) for part in tensors):
        return _with_constants(call, tensors, place)
    if len(tensors) == 1:
        return call.reshape(tensors[0])
    return call.emit(Concat(place), *tensors)


def _with_constants(call: Call, parts: Sequence[Any], dim: int) -> fx.Node | None:
    """What varies among ``parts`` at its places, times 0 where constants are, and a sum with each
    of these between zeros.

    It is no padding with zeros: OpenVINO exchanges that with the sum.
    """
    sizes = [(part.shape if isinstance(part, Tensor) else shape_of(part))[dim] for part in parts]
    lengths = [size for size in sizes if size is not None]
    constants = [part for part in parts if isinstance(part, Tensor)]
    if len(lengths) < len(parts) or not all(torch.isfinite(part).all() for part in constants):
        return None
    places: list[int] = []
    keep: list[int] = []
    for part, length in zip(parts, lengths, strict=True):
        varies = isinstance(part, fx.Node)
        places += range(sum(keep), sum(keep) + length) if varies else [0] * length
        keep += [int(varies)] * length
    nodes = [part for part in parts if isinstance(part, fx.Node)]
    shape = (*call.shape[:dim], sum(keep), *call.shape[dim + 1 :])
    joined = nodes[0] if len(nodes) == 1 else call.emit(Concat(dim), *nodes, shape=shape)
    behind = len(call.shape) - 1 - dim
    kept = torch.tensor(keep).reshape(-1, *[1] * behind)
    result = with_constant(call, Multiply(), pick(call, joined, dim, places), kept)
    for place, part in enumerate(parts):
        if isinstance(part, Tensor):
            around = (*[0] * 2 * behind, sum(lengths[:place]), sum(lengths[place + 1 :]))
            result = with_constant(call, Add(), result, part, pads=around)
    return result


@recognizes(torch.stack)
def _stack(call: Call, tensors: Any, dim: int = 0) -> fx.Node | None:
    if not all(isinstance(part, fx.Node) for part in tensors):
        return None
    place = dim % len(call.shape)
    parts = []
    for part in tensors:
        shape = (*shape_of(part)[:place], 1, *shape_of(part)[place:])
        sizes = tuple(-1 if size is None else size for size in shape)
        parts.append(call.emit(Reshape(sizes), part, shape=shape))
    return call.emit(Concat(place), *parts) if len(parts) > 1 else parts[0]


@recognizes(torch.roll, "roll")
def _roll(call: Call, input: fx.Node, shifts: Any, dims: Any = None) -> fx.Node | None:
    amounts = shifts if isinstance(shifts, tuple | list) else (shifts,)
    chosen = dims if isinstance(dims, tuple | list) else (dims,)
    for amount, dim in zip(amounts, chosen, strict=True):
        size = None if dim is None else call.shape[dim]
        if size is None:
            return None
        cut, place = -amount % size, dim % len(call.shape)
        if cut == 0:
            continue
        shape = list(call.shape)
        shape[place] = size - cut
        tail = call.emit(Slice(place, cut, size), input, shape=tuple(shape))
        shape[place] = cut
        head = call.emit(Slice(place, 0, cut), input, shape=tuple(shape))
        input = call.emit(Concat(place), tail, head, shape=call.shape)
    return input


class _Joined(nn.Module):
    """``function`` of a list of tensors along ``dim``."""

    def __init__(self, function: Any, dim: int) -> None:
        super().__init__()
        self.function, self.dim = function, dim

    def forward(self, *parts: Tensor) -> Any:
        return self.function(list(parts), self.dim)

    def extra_repr(self) -> str:
        return f"{self.function.__name__}, dim={self.dim}"


def _draw(random: Random, shape: Sizes, *_: Sizes) -> nn.Module:
    recognizer = random.choice((_cat, _cat, _stack))
    place = random.randint(1, len(shape))
    return _Joined(spelling(random, recognizer), random.choice((1, place, place - len(shape) - 1)))


for _count in (1, 2, 3):
    draws(inputs=_count)(_draw)


class _Surrounded(nn.Module):
    """Constants before and behind a tensor along ``dim``, for every example."""

    def __init__(self, first: Tensor, last: Tensor, dim: int) -> None:
        super().__init__()
        self.first, self.last, self.dim = nn.Parameter(first), last, dim

    def forward(self, x: Tensor) -> Tensor:
        first, last = (each.expand(len(x), *each.shape) for each in (self.first, self.last))
        return torch.cat([first, x, last], self.dim)


@draws()
def _draw_around(random: Random, shape: Sizes) -> nn.Module:
    generator = torch.Generator().manual_seed(random.getrandbits(32))
    first, last = (torch.randn(shape, generator=generator) for _ in range(2))
    return _Surrounded(first, last.narrow(0, 0, 1), 1)


@draws()
def _draw_roll(random: Random, shape: Sizes) -> nn.Module:
    dim = random.randint(1, len(shape))
    amount = random.randint(-5, 5)
    if happens(random, 0.5):
        return Applied(spelling(random, _roll), amount, dim)
    return Applied(spelling(random, _roll), (amount, random.randint(-2, 2)), (dim, -1))
