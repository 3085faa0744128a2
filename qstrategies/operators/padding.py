"""Padding: with the number 0, by reflection, by the edge, or around."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from qstrategies.operators.base import (
    Array,
    Call,
    Kernel,
    Writer,
    from_integers,
    recognizes,
    shape_of,
)
from qstrategies.operators.drawing import Applied, Sizes, draws
from qstrategies.operators.movement import Movement, moves
from qstrategies.operators.slicing import Slice

MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


class Pad(nn.Module):
    """``pads``: how many values before and behind, per dimension; ``mode`` as in
    ``torch.nn.functional.pad``, zeros if constant."""

    def __init__(self, pads: tuple[tuple[int, int], ...], mode: str = "constant") -> None:
        super().__init__()
        self.pads, self.mode = pads, mode

    def forward(self, x: Tensor) -> Tensor:
        return _pad_reals(x, self.pads, self.mode)


def _pad_reals(x: Tensor, pads: tuple[tuple[int, int], ...], mode: str) -> Tensor:
    channels_stay = len(pads) > 2 and pads[1] == (0, 0)
    inner = pads if mode == "constant" else pads[1 + channels_stay :]
    return functional.pad(x, [each for pair in reversed(inner) for each in pair], mode)


@dataclass(frozen=True, eq=False, kw_only=True)
class Padding(Movement):
    """``pads`` and ``mode`` as in ``Pad``; a constant is the real number 0."""

    pads: tuple[tuple[int, int], ...]
    mode: str

    def integers(self, *inputs: Array) -> Array:
        if self.mode == "constant":
            return np.pad(inputs[0], self.pads, constant_values=self.output.grid.zero_point)
        mode: Any = MODES[self.mode]
        return np.pad(inputs[0], self.pads, mode)

    def reals(self, *tensors: Tensor) -> Tensor:
        return _pad_reals(tensors[0], self.pads, self.mode)

    def kernel(self, engine: str) -> Kernel | None:
        grid = self.output.grid

        def pad(x: Tensor) -> Tensor:
            steps = x.int_repr().float() - grid.zero_point
            moved = _pad_reals(steps, self.pads, self.mode) + grid.zero_point
            return from_integers(moved.to(torch.uint8), grid)

        return pad

    def write(self, to: Writer) -> None:
        flat = [low for low, _ in self.pads] + [high for _, high in self.pads]
        amounts = to.constant(f"{self.name}.pads", np.array(flat, np.int64))
        self.write_moved(to, "Pad", amounts, mode=MODES[self.mode])


moves(Pad, Padding, "pads", "mode")


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
    if value or mode not in MODES or not all(isinstance(each, int) for each in pad):
        return None
    pairs = [(pad[place], pad[place + 1]) for place in range(0, len(pad), 2)]
    pads = ((0, 0),) * (rank - len(pairs)) + tuple(reversed(pairs))
    cut = _cut(call, input, pads)
    pads = tuple((max(low, 0), max(high, 0)) for low, high in pads)
    if cut is None or not any(itertools.chain(*pads)):
        return cut
    return call.emit(Pad(pads, mode), cut)


def _cut(call: Call, x: fx.Node, pads: Sequence[tuple[int, int]]) -> fx.Node | None:
    """``x`` without what negative ``pads`` take away, None where a size is not known: what is left
    is padded, and runtimes do not agree on negative padding."""
    for dim, (low, high) in enumerate(pads):
        size = shape_of(x)[dim]
        if low >= 0 and high >= 0:
            continue
        if size is None:
            return None
        start, stop = max(-low, 0), size - max(-high, 0)
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


@draws()
def _draw(random: Random, shape: Sizes) -> nn.Module:
    count = 2 * random.randint(1, len(shape))
    amounts = [random.choice((-1, 0, 1, 2)) for _ in range(count)]
    return Applied(functional.pad, amounts, random.choice(list(MODES)))


@draws()
def _draw_module(random: Random, shape: Sizes) -> nn.Module | None:
    dimensions = len(shape) - 1
    kinds = [kind for kind in _PADS if kind.__name__.endswith(f"Pad{dimensions}d")]
    if not kinds:
        return None
    kind = random.choice(kinds)
    amounts = tuple(random.randint(0, 2) for _ in range(2 * dimensions))
    return kind(amounts, 0.0) if "Constant" in kind.__name__ else kind(amounts)
