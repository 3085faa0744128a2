"""Arithmetic, activations and moving of values, as functions of PyTorch."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from qstrategies.onnx_model.layers import reads
from qstrategies.onnx_model.node import Node, Step, number

SELU = {"alpha": 1.6732632423543772, "gamma": 1.0507009873554805}
"""The numbers of Klambauer et al., arXiv 1706.02515."""
END = 2**31 - 1
"""What stands for the end of any dimension."""
PLAIN: dict[str, Callable[[], nn.Module]] = {
    "Relu": nn.ReLU,
    "Sigmoid": nn.Sigmoid,
    "Tanh": nn.Tanh,
    "HardSwish": nn.Hardswish,
    "Softplus": nn.Softplus,
    "Softsign": nn.Softsign,
    "Mish": nn.Mish,
    "Identity": nn.Identity,
    "Dropout": nn.Identity,
}
UNARY: dict[str, Step] = {
    "Sqrt": torch.sqrt,
    "Exp": torch.exp,
    "Log": torch.log,
    "Neg": operator.neg,
    "Abs": torch.abs,
    "Erf": torch.erf,
    "Sign": torch.sign,
    "Floor": torch.floor,
    "Ceil": torch.ceil,
    "Round": torch.round,
    "Reciprocal": torch.reciprocal,
}
BINARY: dict[str, Step] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Div": operator.truediv,
    "Pow": torch.pow,
    "Equal": operator.eq,
    "Greater": operator.gt,
    "GreaterOrEqual": operator.ge,
    "Less": operator.lt,
    "LessOrEqual": operator.le,
}
MERGED: dict[str, Step] = {"Max": torch.maximum, "Min": torch.minimum, "Sum": operator.add}
"""Of any number of inputs."""


REDUCTIONS: dict[str, Step] = {
    "ReduceMean": torch.mean,
    "ReduceSum": torch.sum,
    "ReduceMax": torch.amax,
    "ReduceMin": torch.amin,
    "ReduceL2": lambda x, axes, keepdim: torch.linalg.vector_norm(x, 2, axes, keepdim),
}


class Filled(nn.Module):
    """``function`` with some of its arguments from the file, and the others given."""

    def __init__(self, function: Step, constants: Sequence[Tensor | None]) -> None:
        super().__init__()
        self.function, self.names = function, list[str | None]()
        for place, value in enumerate(constants):
            self.names.append(None if value is None else f"constant{place}")
            if value is not None:
                self.register_buffer(f"constant{place}", value)

    def forward(self, *computed: Tensor) -> Any:
        given = iter(computed)
        stored = [None if name is None else getattr(self, name) for name in self.names]
        return self.function(*[next(given) if value is None else value for value in stored])


def binary(node: Node) -> Step:
    """An operation of two inputs, one of which may be a constant."""
    function = BINARY[node.proto.op_type]
    first, second = node.constants
    if first is None and second is None:
        return function
    constant = second if first is None else first
    assert constant is not None
    value = number(constant)
    if value is None or constant.dim() > (node.rank or 0) > 0:
        return Filled(function, node.constants)
    if first is None:
        return lambda x: function(x, value)
    return lambda x: function(value, x)


def merged(node: Node) -> Step:
    """One value of all inputs, computed two by two."""
    function = MERGED[node.proto.op_type]
    return Filled(lambda *values: functools.reduce(function, values), node.constants)


@reads("Where")
def where(node: Node) -> Step:
    return Filled(torch.where, node.constants)


@reads("LeakyRelu")
def leaky(node: Node) -> Step:
    return nn.LeakyReLU(node.get("alpha", 0.01))


@reads("Celu")
def celu(node: Node) -> Step:
    return nn.CELU(node.get("alpha", 1.0))


@reads("Selu")
def selu(node: Node) -> Step:
    given = [node.get(name, usual) for name, usual in SELU.items()]
    node.require(np.allclose(given, list(SELU.values())), f"with alpha and gamma {given}")
    return nn.SELU()


@reads("Elu")
def elu(node: Node) -> Step:
    return nn.ELU(node.get("alpha", 1.0))


@reads("Gelu")
def gelu(node: Node) -> Step:
    return nn.GELU(node.get("approximate", "none"))


@reads("LogSoftmax")
@reads("Softmax")
def softmax(node: Node) -> Step:
    axis = node.get("axis", -1 if node.opset >= 13 else 1)
    last = node.rank is not None and axis in (-1, node.rank - 1)
    node.require(node.opset >= 13 or last, f"of opset {node.opset} over several dimensions")
    kind = {"Softmax": nn.Softmax, "LogSoftmax": nn.LogSoftmax}[node.proto.op_type]
    return kind(axis)


@reads("Concat")
def concat(node: Node) -> Step:
    node.require(all(value is None for value in node.constants), "of constants")
    axis = node.get("axis")
    return lambda *parts: torch.cat(parts, axis)


@reads("Flatten")
def flatten(node: Node) -> Step:
    axis = node.get("axis", 1)
    node.require(axis == 1 and (node.rank or 0) > 1, f"from axis {axis} of {node.rank}")
    return nn.Flatten()


@reads("Reshape")
def reshape(node: Node) -> Step:
    wanted = node.numbers("shape", 1) or []
    node.require(not node.get("allowzero", 0) or 0 not in wanted, "to no values")
    if wanted.count(-1) == 2 and wanted[0] == -1:  # the batch, and one that is to be found
        wanted[0] = 0

    def apply(x: Tensor) -> Tensor:
        sizes = [x.shape[place] if size == 0 else size for place, size in enumerate(wanted)]
        return x.reshape(sizes)

    return apply


@reads("Cast")
def cast(node: Node) -> Step:
    node.require(node.get("to") == onnx.TensorProto.FLOAT, "to another type than float32")
    return nn.Identity()


@reads("Gather")
def gather(node: Node) -> Step:
    index, axis = node.constant(1, "an index"), node.get("axis", 0)
    node.require(index.dim() < 2, f"of {list(index.shape)} indices")
    if index.dim() == 0:
        return lambda x: torch.select(x, axis, int(index))
    axis += (node.rank or 0) if axis < 0 else 0
    size = (node.shape or ())[axis]
    return lambda x: x[(slice(None),) * axis + ((index % size).tolist(),)]


@reads("Tile")
def tile(node: Node) -> Step:
    repeats = node.constant(1, "repeats").tolist()
    return lambda x: x.repeat(repeats)


@reads("Transpose")
def transpose(node: Node) -> Step:
    order = node.get("perm")
    node.require(order is not None, "without perm")
    return lambda x: x.permute(order)


@reads("Squeeze")
def squeeze(node: Node) -> Step:
    axes = node.numbers("axes", 1)
    node.require(axes is not None, "without axes")
    return lambda x: torch.squeeze(x, tuple(axes or ()))


@reads("Unsqueeze")
def unsqueeze(node: Node) -> Step:
    axes = node.numbers("axes", 1) or []
    rank = (node.rank or 0) + len(axes)
    places = sorted(axis % rank for axis in axes)
    return lambda x: functools.reduce(torch.unsqueeze, places, x)


def reduction(node: Node) -> Step:
    """One number of all along some dimensions."""
    function = REDUCTIONS[node.proto.op_type]
    axes, keep = node.numbers("axes", 1), bool(node.get("keepdims", 1))
    node.require(bool(axes), "over all dimensions")
    return lambda x: function(x, axes, keepdim=keep)


def parts(node: Node) -> list[Step]:
    """One step for each output of a Split."""
    axis, count = node.get("axis", 0), len(node.proto.output)
    axis += (node.rank or 0) if axis < 0 else 0
    node.require(node.shape is not None and axis > 0, f"along dimension {axis}")
    size = (node.shape or ())[axis]
    equal = [-(-size // count)] * count
    ends = np.cumsum(node.numbers("split", 1) or equal).tolist()  # beyond the size there is nothing
    places = map(slice, [0, *ends[:-1]], ends)
    return [_part((slice(None),) * axis + (place,)) for place in places]


def _part(index: tuple[slice, ...]) -> Step:
    return lambda x: x[index]


@reads("Slice")
def cut(node: Node) -> Step:
    starts, ends = node.numbers("starts", 1) or [], node.numbers("ends", 2) or []
    axes = node.numbers("axes", 3) or list(range(len(starts)))
    steps = node.numbers("steps", 4) or [1] * len(starts)
    node.require(min(steps) > 0, f"with steps {steps}")
    parts = {
        axis + (node.rank or 0) if axis < 0 else axis: slice(
            start, None if end >= END else end, step
        )
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True)
    }
    index = tuple(parts.get(place, slice(None)) for place in range(max(parts) + 1))
    return lambda x: x[index]
