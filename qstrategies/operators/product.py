"""Products of two tensors, and quotients."""

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
    Writer,
    recognizes,
)
from qstrategies.operators.constant import drawn, with_constant
from qstrategies.operators.drawing import Applied, Sizes, draws, happens, spelling
from qstrategies.operators.island import Float
from qstrategies.operators.normalization import affine, channels
from qstrategies.operators.table import with_number

NO_QUOTIENT = "a quotient of two tensors has no exact integer form"


class Divide(nn.Module):
    """``a / b``."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a / b


class Multiply(nn.Module):
    """``a * b``, with broadcasting."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a * b


@dataclass(frozen=True, eq=False, kw_only=True)
class Product(Node):
    """``a * b``; ``relu`` as in a layer."""

    relu: bool = False

    def integers(self, *inputs: Array) -> Array:
        a, b = (centered(x, spec.grid) for x, spec in zip(inputs, self.inputs, strict=True))
        total = a * b
        if self.relu:
            total = np.maximum(total, 0)
        ratio = self.inputs[0].grid.scale * self.inputs[1].grid.scale / self.output.grid.scale
        return rounded(total, ratio, self.output.grid)

    def reals(self, *tensors: Tensor) -> Tensor:
        y = tensors[0] * tensors[1]
        return y.relu() if self.relu else y

    def kernel(self, engine: str) -> Kernel | None:
        function = torch.ops.quantized.mul_relu if self.relu else torch.ops.quantized.mul
        grid = self.output.grid
        return lambda a, b: function(a, b, grid.scale, grid.zero_point)

    def write(self, to: Writer) -> None:
        operands = [to.real(spec) for spec in self.inputs]
        result = to.emit("Mul", operands, f"{self.name}.product")
        if self.relu:
            result = to.emit("Relu", [result], f"{self.name}.relu")
        to.give(self.output, result)


FORMS[Multiply] = Form(
    placing=Placing.OWN,
    node=lambda site: Product(**site.ends, relu=site.relu),
    takes_relu=True,
)


@recognizes(
    operator.mul,
    operator.imul,
    torch.mul,
    torch.multiply,
    "mul",
    "mul_",
    "__mul__",
    "__rmul__",
    "__imul__",
)
def _multiply(call: Call, input: Any, other: Any) -> fx.Node | None:
    if isinstance(input, fx.Node) and isinstance(other, fx.Node):
        return call.emit(Multiply(), input, other)
    x, number = (input, other) if isinstance(input, fx.Node) else (other, input)
    found = affine(call, x, number, 0.0) if isinstance(number, Tensor) else None
    found = with_number(call, torch.mul, x, number) if found is None else found
    return with_constant(call, Multiply(), x, number) if found is None else found


@recognizes(
    operator.truediv,
    operator.itruediv,
    torch.div,
    torch.divide,
    "div",
    "div_",
    "__truediv__",
    "__itruediv__",
)
def _divide(
    call: Call, input: Any, other: Any, *, rounding_mode: str | None = None
) -> fx.Node | None:
    if rounding_mode is not None:
        return None
    if isinstance(input, fx.Node) and isinstance(other, fx.Node):
        return call.emit(Float(Divide(), "divide", NO_QUOTIENT), input, other)
    if isinstance(input, fx.Node):
        if not isinstance(other, Tensor):
            return with_number(call, torch.div, input, other)
        return _multiply(call, input, 1 / other)
    return with_number(call, _reversed_division, other, input)


def _reversed_division(x: Tensor, number: Any) -> Tensor:
    return number / x


@draws(inputs=2, often=3)
def _draw_two(random: Random, shape: Sizes, other: Sizes) -> nn.Module | None:
    if len(shape) != len(other):
        return None
    return Applied(spelling(random, _multiply))


@draws()
def _draw_number(random: Random, _: Sizes) -> nn.Module:
    recognizer = random.choice((_multiply, _divide))
    return Applied(spelling(random, recognizer), random.choice((0.1, -0.5, 3, -200.0)))


@draws()
def _draw_constant(random: Random, shape: Sizes) -> nn.Module:
    constant = drawn(random, shape)
    return Applied(spelling(random, _multiply), constant)


@draws()
def _draw_channels(random: Random, shape: Sizes) -> nn.Module:
    numbers = channels(random, shape)
    if happens(random, 0.3):
        return Applied(spelling(random, _divide), numbers)
    return Applied(spelling(random, _multiply), nn.Parameter(numbers))
