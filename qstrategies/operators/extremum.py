"""The larger and the smaller of two tensors, each element from one of them."""

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
    Site,
    Writer,
    from_integers,
    recognizes,
)
from qstrategies.operators.drawing import Applied, Sizes, draws, spelling


class Maximum(nn.Module):
    """The larger of ``a`` and ``b``, with broadcasting."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.maximum(a, b)


class Minimum(nn.Module):
    """The smaller of ``a`` and ``b``, with broadcasting."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.minimum(a, b)


@dataclass(frozen=True, eq=False, kw_only=True)
class Extremum(Node):
    """On one quantizer rounding is monotone, so that the integers are compared themselves."""

    largest: bool
    rounds = False

    def integers(self, *inputs: Array) -> Array:
        return (np.maximum if self.largest else np.minimum)(*inputs)

    def reals(self, *tensors: Tensor) -> Tensor:
        return self._chosen(*tensors)

    def _chosen(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.maximum(a, b) if self.largest else torch.minimum(a, b)

    def kernel(self, engine: str) -> Kernel | None:
        grid = self.output.grid
        return lambda a, b: from_integers(self._chosen(a.int_repr(), b.int_repr()), grid)

    def write(self, to: Writer) -> None:
        operands = [to.real(spec) for spec in self.inputs]
        to.give(
            self.output, to.emit("Max" if self.largest else "Min", operands, f"{self.name}.chosen")
        )


def _form(*, largest: bool) -> Form:
    def node(site: Site) -> Node:
        return Extremum(**site.ends, largest=largest)

    return Form(placing=Placing.SHARED, node=node)


FORMS[Maximum] = _form(largest=True)
FORMS[Minimum] = _form(largest=False)


@recognizes(torch.maximum, torch.max, "maximum", "max")
def _maximum(call: Call, input: fx.Node, other: Any) -> fx.Node | None:
    return call.emit(Maximum(), input, other) if isinstance(other, fx.Node) else None


@recognizes(torch.minimum, torch.min, "minimum", "min")
def _minimum(call: Call, input: fx.Node, other: Any) -> fx.Node | None:
    return call.emit(Minimum(), input, other) if isinstance(other, fx.Node) else None


@draws(inputs=2)
def _draw(random: Random, shape: Sizes, other: Sizes) -> nn.Module | None:
    if len(shape) != len(other):
        return None
    return Applied(spelling(random, random.choice((_maximum, _minimum))))
