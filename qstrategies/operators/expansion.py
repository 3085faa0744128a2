"""Values repeated along a dimension: expand, repeat and their like."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from qstrategies.operators.base import Array, Call, Shape, Writer, recognizes, shape_of
from qstrategies.operators.concatenation import Concat
from qstrategies.operators.drawing import Applied, Sizes, draws, spelling
from qstrategies.operators.movement import Movement, Reshape, moves


class Expand(nn.Module):
    """Dimensions of size 1 to ``sizes``; -1 for what stays as it is."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.sizes = sizes

    def forward(self, x: Tensor) -> Tensor:
        return x.expand(self.sizes)


@dataclass(frozen=True, eq=False, kw_only=True)
class Expanding(Movement):
    """``sizes`` as in ``Expand``."""

    sizes: tuple[int, ...]

    @property
    def _whole(self) -> tuple[int, ...]:
        """1 for what stays as it is."""
        return tuple(max(size, 1) for size in self.sizes)

    def integers(self, *inputs: Array) -> Array:
        x = inputs[0]
        return np.broadcast_to(x, np.broadcast_shapes(x.shape, self._whole))

    def moved(self, x: Tensor) -> Tensor:
        return x.expand(self.sizes).contiguous()

    def write(self, to: Writer) -> None:
        sizes = to.constant(f"{self.name}.sizes", np.array(self._whole, np.int64))
        self.write_moved(to, "Expand", sizes)


moves(Expand, Expanding, "sizes")


@recognizes(
    "expand",
    "expand_as",
    "broadcast_to",
    torch.broadcast_to,
)
def _expand(call: Call, input: fx.Node, *_: Any, **__: Any) -> fx.Node | None:
    return _expanded(call, input, call.shape)


def _expanded(call: Call, x: fx.Node, shape: Shape) -> fx.Node | None:
    """``x`` in ``shape``, where only sizes of 1 are others in that; None if there are more."""
    before = shape_of(x)
    if len(before) != len(shape):
        return None
    changed = [old != new for old, new in zip(before, shape, strict=True)]
    if not any(changed):
        return x
    sizes = [new if differs else -1 for new, differs in zip(shape, changed, strict=True)]
    ones = all(old == 1 for old, differs in zip(before, changed, strict=True) if differs)
    if not ones or None in sizes:
        return None
    return call.emit(Expand(tuple(size for size in sizes if size is not None)), x, shape=shape)


@recognizes("repeat", "tile", torch.tile)
def _repeat(call: Call, input: fx.Node, *_: Any, **__: Any) -> fx.Node | None:
    shape = shape_of(input)
    if len(shape) != len(call.shape):
        return None
    x: fx.Node | None = input
    for dim, (old, new) in enumerate(zip(shape, call.shape, strict=True)):
        if x is None or old == new:
            continue
        if old is None or new is None:
            return None
        grown = (*shape_of(x)[:dim], new, *shape_of(x)[dim + 1 :])
        if old == 1:
            x = _expanded(call, x, grown)
        else:
            x = call.emit(Concat(dim), *[x] * (new // old), shape=grown)
    return x


@recognizes("repeat_interleave", torch.repeat_interleave)
def _repeat_interleave(
    call: Call, input: fx.Node, repeats: Any, dim: int | None = None
) -> fx.Node | None:
    shape = shape_of(input)
    place = None if dim is None else dim % len(shape)
    if not isinstance(repeats, int) or place is None or shape[place] is None:
        return None
    before, after = shape[: place + 1], shape[place + 1 :]
    split = tuple(-1 if size is None else size for size in (*before, 1, *after))
    column = call.emit(Reshape(split), input, shape=(*before, 1, *after))
    wide = _expanded(call, column, (*before, repeats, *after))
    return None if wide is None else call.reshape(wide)


@draws(inputs=2)
def _draw_as(random: Random, shape: Sizes, other: Sizes) -> nn.Module | None:
    fits = len(shape) == len(other) and all(
        size in (1, whole) for size, whole in zip(shape, other, strict=True)
    )
    return Applied("expand_as") if fits else None


class _Widened(nn.Module):
    """The mean over ``dim``, as wide as before."""

    def __init__(self, dim: int, target: Any) -> None:
        super().__init__()
        self.dim, self.target = dim, target

    def forward(self, x: Tensor) -> Tensor:
        narrow = x[(slice(None),) * self.dim + (slice(1),)]
        if isinstance(self.target, str):
            return getattr(narrow, self.target)(x.shape)
        return self.target(narrow, x.shape)


@draws()
def _draw_widened(random: Random, shape: Sizes) -> nn.Module:
    targets = ("expand", "broadcast_to", torch.broadcast_to)
    return _Widened(random.randint(1, len(shape)), random.choice(targets))


@draws()
def _draw_repeated(random: Random, shape: Sizes) -> nn.Module | None:
    if math.prod(shape) > 300:
        return None
    dim = random.randint(1, len(shape))
    counts = [1] * (len(shape) + 1)
    counts[dim] = random.choice((2, 3))
    return random.choice(
        (
            Applied(spelling(random, _repeat), tuple(counts)),
            Applied(spelling(random, _repeat_interleave), counts[dim], dim),
        )
    )
