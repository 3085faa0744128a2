"""Tensors that depend on no input (positions, coordinates, masks): uint8 on a grid of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

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
    Site,
    Writer,
    from_integers,
)
from qstrategies.operators.drawing import Sizes, happens
from qstrategies.operators.island import hold

MOST = 4.0
"""How many times as large as a tensor a constant may be that is added to it: the sum keeps two bits
less of the tensor."""


class Constant(nn.Module):
    """``value`` with ``rank`` dimensions, float32, times ``gives``; trained if it is a parameter.
    ``pads``: zeros around it, as ``torch.nn.functional.pad`` takes their numbers."""

    value: Tensor

    def __init__(self, value: Tensor, rank: int, pads: Sequence[int] = ()) -> None:
        super().__init__()
        self.rank, self.pads, self.gives = rank, tuple(pads), 1.0
        computed = value.requires_grad and not isinstance(value, nn.Parameter)
        hold(self, "value", nn.Parameter(value) if computed else value)

    def forward(self) -> Tensor:
        missing = self.rank - self.value.dim()
        return functional.pad(self.value[(None,) * missing].float(), self.pads) * self.gives


@dataclass(frozen=True, eq=False, kw_only=True)
class Stored(Node):
    """``array``: uint8, or float32 where what reads it computes in float."""

    array: Array
    rounds = False

    @property
    def constants(self) -> tuple[Array, ...]:
        if self.output.quantizer is None:
            return (self.array,)
        return (self.output.grid.dequantize(torch.from_numpy(self.array)).numpy(),)

    def integers(self, *inputs: Array) -> Array:
        return self.array

    def reals(self, *tensors: Tensor) -> Tensor:
        return tensors[0]

    def kernel(self, engine: str) -> Kernel | None:
        tensor, grid = torch.from_numpy(self.array), self.output.quantizer
        stored = tensor if grid is None else from_integers(tensor, grid)
        return lambda: stored

    def write(self, to: Writer) -> None:
        to.give_integers(self.output, to.constant(f"{self.name}.stored", self.array))


def _node(site: Site) -> Node:
    value, grid = site.module().detach().contiguous(), site.output.quantizer
    return Stored(**site.ends, array=(value if grid is None else grid.quantize(value)).numpy())


FORMS[Constant] = Form(placing=Placing.OWN, node=_node)


def _stored(call: Call, value: Tensor, pads: Sequence[int]) -> fx.Node | None:
    """``value``, of as many dimensions as the result, with ``pads`` around it; None if it is not
    finite."""
    if not torch.isfinite(value).all():
        return None
    form = Constant(value, len(call.shape), pads)
    return call.emit(form, shape=tuple(form().shape))


def with_constant(
    call: Call, form: nn.Module, *operands: Any, pads: Sequence[int] = ()
) -> fx.Node | None:
    """``form`` of ``operands``, constants (with ``pads`` around them) among them; None where these
    are no finite tensors."""
    nodes = []
    for each in operands:
        node = _stored(call, each, pads) if isinstance(each, Tensor) else each
        if not isinstance(node, fx.Node):
            return None
        nodes.append(node)
    return call.emit(form, *nodes)


def outweighs(call: Call, value: Tensor, sign: int = 1) -> bool:
    """Whether the result, of which ``sign value`` is a term, is as good as nothing but that: what
    is left of the rest on one grid with it would be less than that has by itself."""
    rest = call.example - sign * value
    return bool(value.abs().amax() > MOST * rest.abs().amax())


def drawn(random: Random, shape: Sizes) -> Tensor:
    """A constant for tensors of ``shape``, trained or not, of as many dimensions or with a 1 for
    the batch; some of them are 1."""
    generator = torch.Generator().manual_seed(random.getrandbits(32))
    sizes = [1 if happens(random, 0.2) else size for size in shape]
    value = torch.randn([1, *sizes][random.choice((0, 1)) :], generator=generator) / 2
    return nn.Parameter(value) if happens(random, 0.5) else value
