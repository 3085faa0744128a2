"""Parts of a dimension: slices, single places, and what indexing makes of them."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from qstrategies.operators.base import Array, Call, Writer, recognizes, shape_of
from qstrategies.operators.drawing import Applied, Sizes, draws, spelling
from qstrategies.operators.movement import Movement, moves
from qstrategies.operators.picking import pick


class Slice(nn.Module):
    """``start`` to ``stop`` by ``step`` (positive) of one dimension."""

    def __init__(self, dim: int, start: int, stop: int, step: int = 1) -> None:
        super().__init__()
        self.dim, self.start, self.stop, self.step = dim, start, stop, step

    def forward(self, x: Tensor) -> Tensor:
        taken = slice(self.start, self.stop, self.step)
        return x[(slice(None),) * self.dim + (taken,)]


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


moves(Slice, Slicing, "dim", "start", "stop", "step")


@recognizes(operator.getitem)
def _getitem(call: Call, x: fx.Node, index: Any) -> fx.Node | None:
    entries = _spelled_out(index, len(shape_of(x)))
    if entries is None:
        return None
    dim = 0
    for entry in entries:
        if entry is not None:
            by_list = isinstance(entry, list | Tensor)
            sliced = pick(call, x, dim, entry) if by_list else _sliced(call, x, dim, entry)
            if sliced is None:
                return None
            x, dim = sliced, dim + 1
    return x if shape_of(x) == call.shape else call.reshape(x)


def _spelled_out(index: Any, rank: int) -> list[Any] | None:
    """One entry per dimension, and None for every new one; None for an index by anything but
    numbers and slices, or slices and one list."""
    entries = list(index) if isinstance(index, tuple) else [index]
    lists = [entry for entry in entries if isinstance(entry, list | Tensor)]
    plain = (int, slice, type(None), type(Ellipsis)) if not lists else (slice, type(Ellipsis))
    others = [entry for entry in entries if not isinstance(entry, list | Tensor)]
    if len(lists) > 1 or not all(isinstance(each, plain) for each in others):
        return None
    if any(isinstance(entry, bool) for entry in entries):
        return None
    taken = sum(entry is not None and entry is not Ellipsis for entry in entries)
    whole: list[Any] = [slice(None)] * (rank - taken)
    places = [place for place, entry in enumerate(entries) if entry is Ellipsis]
    if not places:
        return entries + whole
    return entries[: places[0]] + whole + entries[places[0] + 1 :]


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
    count = len(range(start, stop, step))
    if step < 1 or not count:
        return None
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


@draws()
def _draw_part(random: Random, shape: Sizes) -> nn.Module:
    dim = random.randint(1, len(shape))
    size = shape[dim - 1]
    start = random.randrange(size)
    count = random.randint(1, size - start)
    taken = random.choice((start, start - size, slice(start, start + count), slice(start, None, 2)))
    before = (slice(None),) * dim
    index = random.choice(
        (
            (*before, taken),
            (..., taken),
            (*before, None, taken),
            (*before, taken, ...),
            (*before, [start, size - 1, start]),
        )
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
