"""Functions of one number: a table of 256 values, so that no executor's own approximation or
rounding is left."""

from __future__ import annotations

import copy
import functools
import operator
from collections.abc import Callable
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
    Node,
    Placing,
    Site,
    Writer,
    from_integers,
    is_number,
    recognizes,
    shape_of,
)
from qstrategies.operators.drawing import Applied, Sizes, draws, happens, spelling
from qstrategies.operators.layer import own_parameter

MODULES = (
    nn.CELU,
    nn.ELU,
    nn.GELU,
    nn.Hardshrink,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.LeakyReLU,
    nn.LogSigmoid,
    nn.Mish,
    nn.SELU,
    nn.Sigmoid,
    nn.SiLU,
    nn.Softplus,
    nn.Softshrink,
    nn.Softsign,
    nn.Tanh,
    nn.Tanhshrink,
    nn.Threshold,
)
FUNCTIONS = (
    functional.celu,
    functional.elu,
    functional.gelu,
    functional.hardshrink,
    functional.hardsigmoid,
    functional.hardswish,
    functional.leaky_relu,
    functional.logsigmoid,
    functional.mish,
    functional.selu,
    functional.sigmoid,
    functional.silu,
    functional.softplus,
    functional.softsign,
    functional.tanh,
    functional.tanhshrink,
    functional.threshold,
)
POSITIVE = ("log", "log10", "log1p", "log2", "reciprocal", "rsqrt", "sqrt")
"""What is finite for positive numbers."""
BY_NAME = (
    *("abs", "arctan", "asinh", "atan", "ceil", "cos", "cosh", "erf", "erfc", "exp", "exp2"),
    *("expm1", "floor", "frac", "neg", "round", "sigmoid", "sign", "sin", "sinh"),
    *("square", "tan", "tanh", "trunc"),
    *POSITIVE,
)
OTHER_NAMES: dict[Any, Any] = {
    functional.leaky_relu_: functional.leaky_relu,
    functional.elu_: functional.elu,
    functional.celu_: functional.celu,
    functional.selu_: functional.selu,
    torch.celu: functional.celu,
    torch.selu: functional.selu,
    operator.neg: torch.neg,
    operator.abs: torch.abs,
    "__neg__": torch.neg,
    "__abs__": torch.abs,
}


class Elementwise(nn.Module):
    """``function`` of every element, of what comes ``reads`` times and is wanted ``gives`` times as
    large: a table takes any factors."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.reads = self.gives = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x / self.reads) * self.gives


class WithNumber(nn.Module):
    """``function`` of a tensor and a number that is trained, as the user's parameter of one element
    is."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], number: nn.Parameter) -> None:
        super().__init__()
        self.function, self.number = function, own_parameter(number)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.number.reshape(()))


@dataclass(frozen=True, eq=False, kw_only=True)
class Table(Node):
    """``values``: uint8 [256], the result for every integer."""

    values: Array
    rounds = False

    def integers(self, *inputs: Array) -> Array:
        return self.values[inputs[0]]

    @property
    def constants(self) -> tuple[Array, ...]:
        grid = self.output.grid
        return (
            ((self.values.astype(np.float64) - grid.zero_point) * grid.scale).astype(np.float32),
        )

    def reals(self, *tensors: Tensor) -> Tensor:
        x, values = tensors
        grid = self.inputs[0].grid
        return values[(torch.round(x / grid.scale) + grid.zero_point).long()]

    def kernel(self, engine: str) -> Kernel | None:
        values, grid = torch.from_numpy(self.values), self.output.grid
        return lambda x: from_integers(values[x.int_repr().long()], grid)

    def write(self, to: Writer) -> None:
        name = self.name
        index = to.emit("Cast", [to.integers(self.inputs[0])], f"{name}.index", to=6)  # int32
        result = to.emit(
            "Gather",
            [to.constant(f"{name}.table", self.values), index],
            f"{name}.looked_up",
            axis=0,
        )
        to.give_integers(self.output, result)


@torch.no_grad()
def _node(site: Site) -> Node:
    entry, end = site.inputs[0].grid, site.output.grid
    reals = (torch.arange(256) - entry.zero_point) * entry.scale
    results = site.module(reals).double()
    return Table(**site.ends, values=end.quantize(torch.nan_to_num(results)).numpy())


FORMS[Elementwise] = Form(placing=Placing.OWN, node=_node)


@recognizes(*MODULES)
def _module(call: Call, module: Any, x: fx.Node) -> fx.Node:
    function = copy.deepcopy(module)
    if hasattr(function, "inplace"):
        function.inplace = False
    return call.emit(Elementwise(function), x)


def with_number(
    call: Call, function: Callable[[Tensor, Any], Tensor], x: fx.Node, number: Any
) -> fx.Node | None:
    """``function`` of ``x`` and a number, or a tensor of one element; None for anything else."""
    if isinstance(number, Tensor):
        fits = number.numel() == 1 and number.is_floating_point() and shape_of(x) == call.shape
        if not fits:
            return None
        if isinstance(number, nn.Parameter):
            return call.emit(Elementwise(WithNumber(function, number)), x)
        number = number.item()
    if not is_number(number):
        return None
    return call.emit(Elementwise(lambda value: function(value, number)), x, shape=shape_of(x))


@recognizes(nn.PReLU)
def _prelu(call: Call, module: nn.PReLU, x: fx.Node) -> fx.Node | None:
    return with_number(call, functional.prelu, x, module.weight)


def _function(
    function: Any, call: Call, input: Any, *settings: Any, **named: Any
) -> fx.Node | None:
    named.pop("inplace", None)
    numbers = (*settings, *named.values())
    if not isinstance(input, fx.Node) or any(
        isinstance(each, fx.Node | Tensor) for each in numbers
    ):
        return None
    return call.emit(Elementwise(functools.partial(_apply, function, settings, named)), input)


def _apply(function: Any, settings: tuple[Any, ...], named: dict[str, Any], x: Tensor) -> Tensor:
    result: Tensor = function(x, *settings, **named)
    return result


def _power(call: Call, input: Any, exponent: Any) -> fx.Node | None:
    if isinstance(input, fx.Node) and isinstance(exponent, Tensor):
        return with_number(call, torch.pow, input, exponent)
    return _function(torch.pow, call, input, exponent)


recognizes(torch.pow, "pow", "pow_", operator.pow, "__pow__")(_power)
for _each in FUNCTIONS:
    recognizes(_each)(functools.partial(_function, _each))
for _target, _each in OTHER_NAMES.items():
    recognizes(_target)(functools.partial(_function, _each))
for _name in BY_NAME:
    _each = getattr(torch, _name)
    _spellings = [each for each in (_each, _name, f"{_name}_") if each not in FUNCTIONS]
    recognizes(*_spellings)(functools.partial(_function, _each))


SETTINGS: dict[Any, tuple[Any, ...]] = {
    nn.CELU: (0.5,),
    nn.ELU: (0.5,),
    nn.GELU: ("tanh",),
    nn.Hardshrink: (0.1,),
    nn.LeakyReLU: (0.3,),
    nn.Softplus: (2.0, 1.0),
    nn.Softshrink: (0.1,),
    nn.Threshold: (0.1, 0.2),
    functional.threshold: (0.1, -0.2),
}


@draws(often=3)
def _draw_module(random: Random, _: Sizes) -> nn.Module:
    kind = random.choice(MODULES)
    always = kind is nn.Threshold
    module: Any = kind(*SETTINGS.get(kind, ()) if always or happens(random, 0.5) else ())
    if hasattr(module, "inplace"):
        module.inplace = happens(random, 0.3)
    return module


@draws()
def _draw_trained(random: Random, _: Sizes) -> nn.Module:
    number = nn.Parameter(torch.full((1,) * random.randint(0, 2), random.choice((0.7, -3.0))))
    arithmetic = Applied(random.choice((torch.add, "sub", "__rsub__", torch.mul, "div")), number)
    return random.choice((arithmetic, nn.PReLU(), nn.PReLU(init=-0.5)))


@draws()
def _draw_function(random: Random, _: Sizes) -> nn.Module:
    target = random.choice([*FUNCTIONS, *OTHER_NAMES])
    return Applied(target, *SETTINGS.get(target, ()))


@draws()
def _draw_function_of_torch(random: Random, _: Sizes) -> nn.Module:
    name = random.choice(BY_NAME)
    return _named(name, getattr(torch, name))


@draws()
def _draw_method(random: Random, _: Sizes) -> nn.Module:
    name = random.choice(BY_NAME)
    return _named(name, name)


@draws()
def _draw_method_in_place(random: Random, _: Sizes) -> nn.Module:
    name = random.choice(BY_NAME)
    return _named(name, f"{name}_")


def _named(name: str, target: Any) -> nn.Module:
    applied = Applied(target)
    if name not in POSITIVE:
        return applied
    return nn.Sequential(Applied(torch.abs), Applied(torch.add, 0.5), applied)


@draws()
def _draw_power(random: Random, _: Sizes) -> nn.Module:
    exponent = random.choice((2, 3, nn.Parameter(torch.tensor(2.0))))
    return Applied(spelling(random, _power), exponent)
