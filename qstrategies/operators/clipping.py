"""ReLU that no layer took, ReLU6, hardtanh and clamp: on the integers, a clip."""

from __future__ import annotations

import math
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
    Quantizer,
    Site,
    Writer,
    from_integers,
    is_number,
    recognizes,
)
from qstrategies.operators.drawing import Applied, Sizes, draws, happens, spelling


@dataclass(frozen=True, eq=False, kw_only=True)
class Clip(Node):
    """To the integers from ``low`` to ``high``. Rounding is monotone: it may come before or
    after."""

    low: int
    high: int
    rounds = False

    def integers(self, *inputs: Array) -> Array:
        return np.clip(inputs[0], self.low, self.high).astype(np.uint8)

    def reals(self, *tensors: Tensor) -> Tensor:
        low, high = self._real_bounds
        return tensors[0].clamp(low, high)

    @property
    def _real_bounds(self) -> tuple[float, float]:
        grid = self.output.grid
        return (self.low - grid.zero_point) * grid.scale, (self.high - grid.zero_point) * grid.scale

    def kernel(self, engine: str) -> Kernel | None:
        grid = self.output.grid
        return lambda x: from_integers(x.int_repr().clamp(self.low, self.high), grid)

    def write(self, to: Writer) -> None:
        name, x, grid = self.name, to.real(self.inputs[0]), self.output.grid
        if (self.low, self.high) == (grid.zero_point, grid.quant_max):
            result = to.emit("Relu", [x], f"{name}.relu")
        else:
            low, high = (np.array(bound, np.float32) for bound in self._real_bounds)
            bounds = [to.constant(f"{name}.low", low), to.constant(f"{name}.high", high)]
            result = to.emit("Clip", [x, *bounds], f"{name}.clipped")
        to.give(self.output, result)


def _relu_node(site: Site) -> Clip:
    grid = site.output.grid
    return Clip(**site.ends, low=grid.zero_point, high=grid.quant_max)


def _hardtanh_node(site: Site) -> Clip:
    low, high = (
        _on_grid(bound, site.output.grid) for bound in (site.module.min_val, site.module.max_val)
    )
    return Clip(**site.ends, low=low, high=high)


def _on_grid(bound: float, grid: Quantizer) -> int:
    if math.isinf(bound):
        return grid.quant_min if bound < 0 else grid.quant_max
    return int(grid.quantize(torch.tensor(bound, dtype=torch.float64)))


FORMS[nn.ReLU] = Form(placing=Placing.SHARED, node=_relu_node)
FORMS[nn.Hardtanh] = Form(placing=Placing.SHARED, node=_hardtanh_node)


@recognizes(nn.ReLU)
def _relu_module(call: Call, _: nn.Module, x: fx.Node) -> fx.Node:
    return call.emit(nn.ReLU(), x)


@recognizes(functional.relu, functional.relu_, torch.relu, "relu", "relu_")
def _relu(call: Call, input: fx.Node, inplace: bool = False) -> fx.Node:
    return call.emit(nn.ReLU(), input)


@recognizes(nn.ReLU6, nn.Hardtanh)
def _hardtanh_module(call: Call, module: nn.Hardtanh, x: fx.Node) -> fx.Node:
    return call.emit(_hardtanh(module.min_val, module.max_val), x)


@recognizes(functional.relu6)
def _relu6(call: Call, input: fx.Node, inplace: bool = False) -> fx.Node:
    return call.emit(_hardtanh(0.0, 6.0), input)


@recognizes(functional.hardtanh, functional.hardtanh_)
def _hardtanh_function(
    call: Call, input: fx.Node, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> fx.Node:
    return call.emit(_hardtanh(min_val, max_val), input)


@recognizes(torch.clamp, torch.clamp_, torch.clip, "clamp", "clamp_", "clip", "clip_")
def _clamp(call: Call, input: fx.Node, min: Any = None, max: Any = None) -> fx.Node | None:
    if not all(bound is None or is_number(bound) for bound in (min, max)):
        return None
    if max is None and min == 0:
        return call.emit(nn.ReLU(), input)
    low = -math.inf if min is None else float(min)
    high = math.inf if max is None else float(max)
    return call.emit(_hardtanh(low, high), input) if low < high else None


@recognizes(torch.clamp_min, torch.clamp_min_, "clamp_min", "clamp_min_")
def _clamp_min(call: Call, input: fx.Node, min: Any) -> fx.Node | None:
    return _clamp(call, input, min=min)


@recognizes(torch.clamp_max, torch.clamp_max_, "clamp_max", "clamp_max_")
def _clamp_max(call: Call, input: fx.Node, max: Any) -> fx.Node | None:
    return _clamp(call, input, max=max)


def _hardtanh(low: float, high: float) -> nn.Hardtanh:
    return nn.Hardtanh(low, high)


@draws(often=4)
def _draw(random: Random, _: Sizes) -> nn.Module:
    low = random.choice((-1.0, -0.3, 0.0, 0.1))
    high = low + random.choice((0.4, 1.0, 6.0))
    recognizer = random.choice((_relu, _hardtanh_function, _clamp, _clamp_min, _clamp_max))
    arguments: dict[Any, tuple[float, ...]] = {
        _relu: (),
        _clamp_min: (low,),
        _clamp_max: (high,),
    }
    return Applied(spelling(random, recognizer), *arguments.get(recognizer, (low, high)))


@draws()
def _draw_one_bound(random: Random, _: Sizes) -> nn.Module:
    bound = {random.choice(("min", "max")): random.choice((-0.3, 0, 0.6))}
    return Applied(spelling(random, _clamp), **bound)


@draws(often=4)
def _draw_relu6(random: Random, _: Sizes) -> nn.Module:
    inplace = happens(random, 0.5)
    low = random.choice((-1.0, -0.3, 0.0))
    return random.choice(
        (
            nn.ReLU(inplace),
            nn.ReLU6(inplace),
            nn.Hardtanh(low, low + random.choice((0.4, 6.0)), inplace),
            Applied(functional.relu6, inplace=inplace),
        )
    )
