"""Gated linear units: one half times the sigmoid of the other (Dauphin et al., arXiv
1612.08083)."""

from __future__ import annotations

from random import Random

import torch
from torch import fx, nn
from torch.nn import functional

from qstrategies.operators.base import Call, recognizes, shape_of
from qstrategies.operators.drawing import Applied, Sizes, draws
from qstrategies.operators.product import Multiply
from qstrategies.operators.slicing import Slice
from qstrategies.operators.table import Elementwise


@recognizes(functional.glu)
def _glu(call: Call, input: fx.Node, dim: int = -1) -> fx.Node | None:
    shape = shape_of(input)
    dim %= len(shape)
    size = shape[dim]
    if size is None:
        return None
    halves = (*shape[:dim], size // 2, *shape[dim + 1 :])
    value, gate = (
        call.emit(Slice(dim, start, start + size // 2), input, shape=halves)
        for start in (0, size // 2)
    )
    return call.emit(Multiply(), value, call.emit(Elementwise(torch.sigmoid), gate))


@recognizes(nn.GLU)
def _glu_module(call: Call, module: nn.GLU, x: fx.Node) -> fx.Node | None:
    return _glu(call, x, module.dim)


@draws()
def _draw(random: Random, shape: Sizes) -> nn.Module | None:
    dims = [dim for dim, size in enumerate(shape, 1) if size % 2 == 0]
    if not dims:
        return None
    dim = random.choice(dims)
    return random.choice((nn.GLU(dim), Applied(functional.glu, dim)))
