"""Sums and differences of two tensors."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from qstrategies.operators.arithmetic import centered, rounded
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
    recognizes,
)
from qstrategies.operators.constant import drawn, outweighs, with_constant
from qstrategies.operators.drawing import Applied, Sizes, draws, happens, spelling
from qstrategies.operators.normalization import affine, channels
from qstrategies.operators.table import with_number


class Add(nn.Module):
    """``a + b``."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b


class Subtract(nn.Module):
    """``a - b``."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a - b


@dataclass(frozen=True, eq=False, kw_only=True)
class Addition(Node):
    """``a + sign b``, each with its own scale; ``relu`` as in a layer."""

    sign: int = 1
    relu: bool = False

    def integers(self, *inputs: Array) -> Array:
        a, b = (
            centered(x, spec.grid) * spec.grid.scale
            for x, spec in zip(inputs, self.inputs, strict=True)
        )
        total = a + self.sign * b
        if self.relu:
            total = np.maximum(total, 0)
        return rounded(total, 1 / self.output.grid.scale, self.output.grid)

    def reals(self, *tensors: Tensor) -> Tensor:
        a, b = tensors
        y = a + b if self.sign > 0 else a - b
        return y.relu() if self.relu else y

    def kernel(self, engine: str) -> Kernel | None:
        same_shape = self.inputs[0].shape == self.inputs[1].shape
        if engine == "qnnpack" or self.sign < 0 or not same_shape:
            # qnnpack's rounds ties away from zero; the others neither subtract nor broadcast
            return None
        function = torch.ops.quantized.add_relu if self.relu else torch.ops.quantized.add
        grid = self.output.grid
        return lambda a, b: function(a, b, grid.scale, grid.zero_point)

    def write(self, to: Writer) -> None:
        operands = [to.real(spec) for spec in self.inputs]
        result = to.emit("Add" if self.sign > 0 else "Sub", operands, f"{self.name}.sum")
        if self.relu:
            result = to.emit("Relu", [result], f"{self.name}.relu")
        to.give(self.output, result)


def _form(sign: int) -> Form:
    def node(site: Site) -> Node:
        return Addition(**site.ends, sign=sign, relu=site.relu)

    return Form(placing=Placing.OWN, node=node, takes_relu=True, homogeneous=True)


FORMS[Add] = _form(1)
FORMS[Subtract] = _form(-1)


def _times(call: Call, x: Any, alpha: float) -> Any:
    """``alpha x``, of a tensor of the graph, another or a number."""
    if alpha == 1 or not isinstance(x, fx.Node):
        return x if alpha == 1 else alpha * x
    return with_number(call, torch.mul, x, alpha)


def sum_with_constant(call: Call, form: nn.Module, *terms: Any) -> fx.Node | None:
    """``form``, a sum or difference, of ``terms``, one of which may be a constant; None where that
    is too large beside the other (``outweighs``)."""
    for place, each in enumerate(terms):
        sign = -1 if place and isinstance(form, Subtract) else 1
        if isinstance(each, Tensor) and outweighs(call, each, sign):
            return None
    return with_constant(call, form, *terms)


@recognizes(
    operator.add, operator.iadd, torch.add, "add", "add_", "__add__", "__radd__", "__iadd__"
)
def _add(call: Call, input: Any, other: Any, *, alpha: float = 1) -> fx.Node | None:
    other = _times(call, other, alpha)
    if other is None:
        return None
    if isinstance(input, fx.Node) and isinstance(other, fx.Node):
        return call.emit(Add(), input, other)
    x, number = (input, other) if isinstance(input, fx.Node) else (other, input)
    found = affine(call, x, 1.0, number) if isinstance(number, Tensor) else None
    found = with_number(call, torch.add, x, number) if found is None else found
    return sum_with_constant(call, Add(), x, number) if found is None else found


@recognizes(
    operator.sub, operator.isub, torch.sub, torch.subtract, "sub", "sub_", "__sub__", "__isub__"
)
def _subtract(call: Call, input: Any, other: Any, *, alpha: float = 1) -> fx.Node | None:
    other = _times(call, other, alpha)
    if other is None:
        return None
    if isinstance(input, fx.Node) and isinstance(other, fx.Node):
        return call.emit(Subtract(), input, other)
    if isinstance(input, fx.Node):
        found = affine(call, input, 1.0, -other) if isinstance(other, Tensor) else None
        found = with_number(call, torch.sub, input, other) if found is None else found
    else:
        found = affine(call, other, -1.0, input) if isinstance(input, Tensor) else None
        found = with_number(call, torch.rsub, other, input) if found is None else found
    return sum_with_constant(call, Subtract(), input, other) if found is None else found


@recognizes(torch.rsub, "__rsub__")
def _reversed(call: Call, input: Any, other: Any, *, alpha: float = 1) -> fx.Node | None:
    return _subtract(call, other, input, alpha=alpha)


@recognizes(torch.lerp, "lerp")
def _between(call: Call, input: Any, end: Any, weight: Any) -> fx.Node | None:
    if not isinstance(weight, int | float):
        return None
    parts = _times(call, input, 1 - weight), _times(call, end, weight)
    return None if None in parts else _add(call, *parts)


@draws(inputs=2, often=6)
def _draw_two(random: Random, shape: Sizes, other: Sizes) -> nn.Module | None:
    if len(shape) != len(other):
        return None
    if happens(random, 0.2):
        return Applied(random.choice((torch.add, torch.sub, "add", "sub")), alpha=0.5)
    if shape == other and happens(random, 0.2):
        return Applied(spelling(random, _between), random.choice((0.3, 1, -0.5)))
    return Applied(spelling(random, random.choice((_add, _subtract))))


@draws()
def _draw_number(random: Random, _: Sizes) -> nn.Module:
    recognizer = random.choice((_add, _subtract, _reversed))
    return Applied(spelling(random, recognizer), random.choice((3, -0.5, 0.001, 200.0)))


@draws(exact=False)  # beside it the rest may be little
def _draw_constant(random: Random, shape: Sizes) -> nn.Module:
    constant = drawn(random, shape)
    return Applied(spelling(random, random.choice((_add, _subtract, _reversed))), constant)


@draws()
def _draw_channels(random: Random, shape: Sizes) -> nn.Module:
    numbers = nn.Parameter(channels(random, shape))
    return Applied(spelling(random, random.choice((_add, _subtract))), numbers)
