"""Padding: with a number, by reflection, by the edge, or around."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
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
    Placing,
    Shape,
    Site,
    Writer,
    from_integers,
    recognizes,
    shape_of,
)
from qstrategies.operators.drawing import Applied, Sizes, draws
from qstrategies.operators.island import Float
from qstrategies.operators.movement import Movement
from qstrategies.operators.slicing import Slice

LARGEST = torch.finfo(torch.float32).max
LEAST = -LARGEST
FLOOR = -1e4
"""What is written for a number below all others."""
Pads = tuple[tuple[int, int], ...]
REACH = {"reflect": 1, "circular": 0, "replicate": -math.inf}
MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


class Pad(nn.Module):
    """``pads``: how many values before and behind, per dimension; ``mode`` as in
    ``torch.nn.functional.pad``, zeros if constant."""

    def __init__(self, pads: tuple[tuple[int, int], ...], mode: str = "constant") -> None:
        super().__init__()
        self.pads, self.mode = pads, mode

    def forward(self, x: Tensor) -> Tensor:
        return _pad_reals(x, self.pads, self.mode)


class Fill(nn.Module):
    """``pads`` as in ``Pad``, of any one number ``value``."""

    def __init__(self, pads: tuple[tuple[int, int], ...], value: float) -> None:
        super().__init__()
        self.pads, self.value = pads, value

    def forward(self, x: Tensor) -> Tensor:
        return _pad_reals(x, self.pads, "constant", self.value)


@dataclass(frozen=True)
class Unseen:
    """``x`` padded by ``pads`` with a ``value`` that no maximum shows: max pools read ``x``, with
    these pads."""

    x: fx.Node
    pads: Pads
    value: float


def _pad_reals(
    x: Tensor, pads: tuple[tuple[int, int], ...], mode: str, value: float = 0.0
) -> Tensor:
    constant, channels_stay = mode == "constant", len(pads) > 2 and pads[1] == (0, 0)
    inner = pads if constant else pads[1 + channels_stay :]
    amounts = [each for pair in reversed(inner) for each in pair]
    return functional.pad(x, amounts, mode, value if constant else None)


@dataclass(frozen=True, eq=False, kw_only=True)
class Padding(Movement):
    """``pads`` and ``mode`` as in ``Pad``; ``value``: the constant, a real number on the grid."""

    pads: tuple[tuple[int, int], ...]
    mode: str
    value: float = 0.0

    @property
    def fill(self) -> int:
        """``value`` as an integer."""
        return round(self.value / self.output.grid.scale) + self.output.grid.zero_point

    def integers(self, *inputs: Array) -> Array:
        if self.mode == "constant":
            return np.pad(inputs[0], self.pads, constant_values=self.fill)
        mode: Any = MODES[self.mode]
        return np.pad(inputs[0], self.pads, mode)

    def reals(self, *tensors: Tensor) -> Tensor:
        return _pad_reals(tensors[0], self.pads, self.mode, self.value)

    def kernel(self, engine: str) -> Kernel | None:
        grid = self.output.grid

        def pad(x: Tensor) -> Tensor:
            moved = _pad_reals(x.int_repr().float(), self.pads, self.mode, self.fill)
            return from_integers(moved.to(torch.uint8), grid)

        return pad

    def write(self, to: Writer) -> None:
        flat = [low for low, _ in self.pads] + [high for _, high in self.pads]
        constants = [to.constant(f"{self.name}.pads", np.array(flat, np.int64))]
        if self.value:
            constants.append(to.constant(f"{self.name}.value", np.array(self.value, np.float32)))
        self.write_moved(to, "Pad", *constants, mode=MODES[self.mode])


def _node(site: Site) -> Padding:
    mode, value = getattr(site.module, "mode", "constant"), getattr(site.module, "value", 0.0)
    on_grid = float(site.output.grid.rounded(torch.tensor(float(value))))
    return Padding(**site.ends, pads=site.module.pads, mode=mode, value=on_grid)


FORMS[Pad] = Form(placing=Placing.SHARED, node=_node, homogeneous=True, moves=True)
FORMS[Fill] = Form(placing=Placing.SHARED, node=_node)


def padded_image(call: Call, x: fx.Node, pads: Sequence[tuple[int, int]], mode: str) -> fx.Node:
    """``x`` [N, C, ...] with ``pads`` values before and behind each dimension of the image."""
    everywhere = ((0, 0), (0, 0), *pads)
    sizes = zip(shape_of(x), everywhere, strict=True)
    shape = tuple(None if size is None else size + low + high for size, (low, high) in sizes)
    return call.emit(Pad(everywhere, mode), x, shape=shape)


@recognizes(functional.pad)
def _pad(
    call: Call, input: fx.Node, pad: Any, mode: str = "constant", value: Any = None
) -> fx.Node | None:
    rank = len(shape_of(input))
    known = mode in MODES and all(isinstance(each, int) for each in pad)
    if not known or not (value or 0) < LARGEST:
        return None
    pairs = [(pad[place], pad[place + 1]) for place in range(0, len(pad), 2)]
    pads = ((0, 0),) * (rank - len(pairs)) + tuple(reversed(pairs))
    cut = _cut(call, input, pads)
    pads = tuple((max(low, 0), max(high, 0)) for low, high in pads)
    if cut is None or not any(itertools.chain(*pads)):
        return cut
    if mode in REACH and not _within(shape_of(cut), pads, REACH[mode]):
        return None  # it reads what is cut away
    if (value or 0) <= FLOOR:
        return _below_all(call, Unseen(cut, pads, value))
    return call.emit(Fill(pads, value) if value else Pad(pads, mode), cut)


def _below_all(call: Call, unseen: Unseen) -> fx.Node:
    filled: nn.Module = Fill(unseen.pads, unseen.value)
    if unseen.value <= LEAST:  # which no quantizer has
        reason = "pad with a number below all others has an exact integer form for max pools only"
        filled = Float(filled, "pad", reason)
    node = call.emit(filled, unseen.x)
    node.meta["unseen"] = unseen
    return node


def _within(shape: Shape, pads: Pads, short: float) -> bool:
    """Whether all dimensions have values, and none is padded by more than its size less
    ``short``."""
    pairs = zip(shape, pads, strict=True)
    return all(size is None or 0 < size >= max(amounts) + short for size, amounts in pairs)


def _cut(call: Call, x: fx.Node, pads: Sequence[tuple[int, int]]) -> fx.Node | None:
    """``x`` without what negative ``pads`` take away: what is left is padded, and runtimes do not
    agree on negative padding. None where a size is not known, or nothing is left."""
    for dim, (low, high) in enumerate(pads):
        size = shape_of(x)[dim]
        if low >= 0 and high >= 0:
            continue
        if size is None:
            return None
        start, stop = max(-low, 0), size - max(-high, 0)
        if start >= stop:
            return None
        shape = (*shape_of(x)[:dim], stop - start, *shape_of(x)[dim + 1 :])
        x = call.emit(Slice(dim, start, stop), x, shape=shape)
    return x


_PADS: dict[Any, str] = {
    **dict.fromkeys((nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d), "constant"),
    **dict.fromkeys((nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d), "constant"),
    **dict.fromkeys((nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d), "reflect"),
    **dict.fromkeys((nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d), "replicate"),
    **dict.fromkeys((nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d), "circular"),
}


@recognizes(*_PADS)
def _pad_module(call: Call, module: Any, x: fx.Node) -> fx.Node | None:
    return _pad(call, x, module.padding, _PADS[type(module)], getattr(module, "value", None))


@draws(often=2)
def _draw(random: Random, shape: Sizes) -> nn.Module:
    count = 2 * random.randint(1, len(shape))
    amounts = [random.choice((-1, 0, 1, 2)) for _ in range(count)]
    mode = random.choice(list(MODES))
    value = random.choice((None, 0.3, -5)) if mode == "constant" else None
    sides = list(zip(amounts[::2], amounts[1::2], reversed(shape), strict=False))
    left = [size + min(low, 0) + min(high, 0) for low, high, size in sides]
    pads = tuple((max(low, 0), max(high, 0)) for low, high, _ in sides)
    if not _within(tuple(left), pads, REACH.get(mode, -math.inf)):
        amounts = [max(each, 0) for each in amounts]  # nothing is left to pad with
    return Applied(functional.pad, amounts, mode, value)


@draws()
def _draw_module(random: Random, shape: Sizes) -> nn.Module | None:
    dimensions = len(shape) - 1
    kinds = [kind for kind in _PADS if kind.__name__.endswith(f"Pad{dimensions}d")]
    if not kinds:
        return None
    kind = random.choice(kinds)
    amounts = tuple(random.randint(0, 2) for _ in range(2 * dimensions))
    constant = "Constant" in kind.__name__
    return kind(amounts, random.choice((0.0, 0.3, -5.0))) if constant else kind(amounts)
