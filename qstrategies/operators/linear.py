"""Linear layers. On more than two dimensions they work on rows, so that one integer kernel does for
all."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from qstrategies.operators.arithmetic import centered
from qstrategies.operators.base import (
    FORMS,
    Array,
    Call,
    Form,
    Kernel,
    Placing,
    Writer,
    recognizes,
    shape_of,
)
from qstrategies.operators.drawing import Applied, Sizes, draws, happens
from qstrategies.operators.layer import Layer, layer_fields, own_copy
from qstrategies.operators.movement import Reshape


@dataclass(frozen=True, eq=False, kw_only=True)
class Linear(Layer):
    """[N, in_features] to [N, out_features]."""

    def integers(self, *inputs: Array) -> Array:
        weight = self.rounded_layer.weight.astype(np.float64)
        return self.finish(centered(inputs[0], self.inputs[0].grid) @ weight.T)

    def reals(self, *tensors: Tensor) -> Tensor:
        y = functional.linear(*tensors)
        return y.relu() if self.relu else y

    def kernel(self, engine: str) -> Kernel | None:
        packed = torch.ops.quantized.linear_prepack(self.packed_weight(), self.packed_bias())
        function = torch.ops.quantized.linear_relu if self.relu else torch.ops.quantized.linear
        grid = self.output.grid
        return lambda x: function(x, packed, grid.scale, grid.zero_point)

    def write(self, to: Writer) -> None:
        self.write_layer(to, "Gemm", transB=1)


FORMS[nn.Linear] = Form(
    placing=Placing.OWN,
    node=lambda site: Linear(**layer_fields(site)),
    takes_relu=True,
    weighted=True,
)


@recognizes(nn.Linear)
def _module(call: Call, layer: nn.Linear, x: fx.Node) -> fx.Node | None:
    return _functional(call, x, layer.weight, layer.bias)


@recognizes(functional.linear)
def _functional(call: Call, input: fx.Node, weight: Any, bias: Any = None) -> fx.Node | None:
    shape = shape_of(input)
    if not isinstance(weight, Tensor) or not isinstance(bias, Tensor | None) or len(shape) < 2:
        return None
    outputs, features = weight.shape
    layer = own_copy(weight, bias, nn.Linear, features, outputs)
    if len(shape) == 2:
        return call.emit(layer, input)
    flat = rows_of(call, input, features)
    return call.reshape(call.emit(layer, flat, shape=(shape_of(flat)[0], outputs)))


@recognizes(torch.addmm)
def _addition_of_product(call: Call, input: Any, mat1: fx.Node, mat2: Any) -> fx.Node | None:
    """``mat1 @ mat2 + input``, where only ``mat1`` depends on the input of the model."""
    bias = isinstance(input, Tensor) and input.dim() == 1
    if not isinstance(mat2, Tensor) or mat2.dim() != 2 or not bias:
        return None
    return _functional(call, mat1, mat2.t(), input)


def rows_of(call: Call, x: fx.Node, features: int) -> fx.Node:
    """``x`` [..., features] as [rows, features]."""
    leading = shape_of(x)[:-1]
    rows = None if None in leading else math.prod(each for each in leading if each is not None)
    return call.emit(Reshape((-1, features)), x, shape=(rows, features))


class _Added(nn.Module):
    """``torch.addmm``."""

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(features, outputs).uniform_(-1, 1))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-1, 1))
        self.target = torch.addmm

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight)


@draws()
def _draw_added(random: Random, shape: Sizes) -> nn.Module:
    return _Added(shape[-1], random.randint(1, 7))


@draws(often=4)
def _draw(random: Random, shape: Sizes) -> nn.Module:
    layer = nn.Linear(shape[-1], random.randint(1, 7), happens(random, 0.7))
    if happens(random, 0.8):
        return layer
    return Applied(functional.linear, layer.weight, layer.bias)
