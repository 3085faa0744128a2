"""Values picked by constant places of one dimension, in any order: flips, selections, lists of
indices."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from qstrategies.operators.base import Array, Call, Writer, per_dimension, recognizes, shape_of
from qstrategies.operators.drawing import Applied, Sizes, draws, spelling
from qstrategies.operators.movement import Movement, moves


class Pick(nn.Module):
    """What lies at ``places`` of one dimension."""

    def __init__(self, dim: int, places: tuple[int, ...]) -> None:
        super().__init__()
        self.dim, self.places = dim, places

    def forward(self, x: Tensor) -> Tensor:
        return picked(x, self.dim, self.places)


def picked(x: Tensor, dim: int, places: tuple[int, ...]) -> Tensor:
    """What lies at ``places`` of the dimension ``dim`` of ``x``."""
    return x.index_select(dim, torch.tensor(places, device=x.device))


@dataclass(frozen=True, eq=False, kw_only=True)
class Picking(Movement):
    """``dim`` and ``places`` as in ``Pick``."""

    dim: int
    places: tuple[int, ...]

    def integers(self, *inputs: Array) -> Array:
        return inputs[0].take(self.places, self.dim)

    def moved(self, x: Tensor) -> Tensor:
        return picked(x, self.dim, self.places)

    def write(self, to: Writer) -> None:
        places = to.constant(f"{self.name}.places", np.array(self.places, np.int64))
        self.write_moved(to, "Gather", places, axis=self.dim)


moves(Pick, Picking, "dim", "places")


def pick(call: Call, x: fx.Node, dim: int, places: Any) -> fx.Node | None:
    """``x`` [...] with what lies at ``places``, a list or a tensor of one dimension of whole
    numbers; None where they are others, or the size of the dimension is not known."""
    shape = shape_of(x)
    dim %= len(shape)
    chosen, size = torch.as_tensor(places), shape[dim]
    if chosen.dim() != 1 or chosen.dtype not in (torch.int64, torch.int32) or size is None:
        return None
    found = tuple(int(place) % size for place in chosen)
    if not found or found == tuple(range(size)):
        return x if found else None
    return call.emit(Pick(dim, found), x, shape=(*shape[:dim], len(found), *shape[dim + 1 :]))


@recognizes(torch.index_select, "index_select")
def _index_select(call: Call, input: fx.Node, dim: int, index: Any) -> fx.Node | None:
    return pick(call, input, dim, index) if isinstance(index, Tensor) else None


@recognizes(torch.flip, "flip")
def _flip(call: Call, input: fx.Node, *dims: Any) -> fx.Node | None:
    flipped: fx.Node | None = input
    for dim in per_dimension(dims[0] if len(dims) == 1 else dims, 1):
        size = shape_of(input)[dim]
        if flipped is None or size is None:
            return None
        flipped = pick(call, flipped, dim, range(size - 1, -1, -1))
    return flipped


@draws()
def _draw(random: Random, shape: Sizes) -> nn.Module:
    dim = random.randint(1, len(shape))
    places = torch.tensor([random.randrange(shape[dim - 1]) for _ in range(random.randint(1, 4))])
    return random.choice(
        (
            Applied(spelling(random, _index_select), dim, places),
            Applied(spelling(random, _flip), random.choice(([dim], [1, -1], [-1]))),
        )
    )
