"""Concatenations: all parts share one quantizer, so that only integers move."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

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
from qstrategies.operators.drawing import Applied, Sizes, draws, happens, spelling
from qstrategies.operators.movement import Reshape
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
    if not all(isinstance(part, fx.Node) for part in tensors):
        return None
    if len(tensors) == 1:
        return call.reshape(tensors[0])
    chosen = dim if axis is None else axis
    return call.emit(Concat(chosen % len(call.shape)), *tensors)


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


@draws()
def _draw_roll(random: Random, shape: Sizes) -> nn.Module:
    dim = random.randint(1, len(shape))
    amount = random.randint(-5, 5)
    if happens(random, 0.5):
        return Applied(spelling(random, _roll), amount, dim)
    return Applied(spelling(random, _roll), (amount, random.randint(-2, 2)), (dim, -1))
