"""Products with a constant matrix on either side, and sums of products spelled by letters: a linear
layer between permutations."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor, fx, nn

from qstrategies.operators.base import Call, recognizes, shape_of
from qstrategies.operators.drawing import Applied, Sizes, draws, happens, spelling
from qstrategies.operators.layer import own_copy
from qstrategies.operators.linear import rows_of
from qstrategies.operators.movement import Permute, Reshape

UNUSED = "ABCDEFGH"
"""Letters for an ellipsis."""


@dataclass(frozen=True)
class Letters:
    """Of the dimensions of a tensor, of a constant and of what is made of both."""

    x: str
    weight: str
    result: str

    @property
    def summed(self) -> list[str]:
        """Those that are summed over, in the order of the constant."""
        return [each for each in self.weight if each not in self.result]

    @property
    def made(self) -> list[str]:
        """Those that come from the constant."""
        return [each for each in self.weight if each in self.result]

    @property
    def rows(self) -> list[str]:
        """Those that stay, in the order of the tensor."""
        return [each for each in self.x if each not in self.summed]

    @property
    def is_layer(self) -> bool:
        """Whether each is in two of the three, once: no diagonal, no batch of matrices."""
        behind = sorted([*self.rows, *self.made])
        before = sorted([*self.rows, *self.summed])
        return bool(self.summed) and behind == sorted(self.result) and before == sorted(self.x)


@recognizes(torch.matmul, torch.mm, operator.matmul, "matmul", "mm", "__matmul__")
def _product(call: Call, input: Any, mat2: Any) -> fx.Node | None:
    if isinstance(mat2, Tensor) and mat2.dim() in (1, 2):
        rows = UNUSED[: len(shape_of(input)) - 1]
        columns = "o" * (mat2.dim() - 1)
        return _as_layer(call, input, mat2, Letters(f"{rows}k", f"k{columns}", rows + columns))
    if isinstance(input, Tensor) and input.dim() == 2:
        rows = UNUSED[: len(shape_of(mat2)) - 2]
        return _as_layer(call, mat2, input, Letters(f"{rows}kn", "ok", f"{rows}on"))
    return None


@recognizes(torch.einsum)
def _einsum(call: Call, equation: Any, *operands: Any) -> fx.Node | None:
    given = operands[0] if len(operands) == 1 else operands
    varying = [isinstance(each, fx.Node) for each in given]
    if len(given) != 2 or sum(varying) != 1 or "->" not in equation:
        return None
    place = varying.index(True)
    x, weight = given[place], given[1 - place]
    terms, result = equation.replace(" ", "").split("->")
    parts = terms.split(",")
    of_x, of_weight = parts[place], parts[1 - place]
    between = UNUSED[: len(shape_of(x)) - len(of_x.replace("...", ""))]
    of_x, result = (each.replace("...", between) for each in (of_x, result))
    return _as_layer(call, x, weight, Letters(of_x, of_weight, result))


def _as_layer(call: Call, x: fx.Node, weight: Tensor, letters: Letters) -> fx.Node | None:
    if not letters.is_layer:
        return None
    of_weight = dict(zip(letters.weight, weight.shape, strict=True))
    of_x = dict(zip(letters.x, shape_of(x), strict=True))
    if any(of_weight[each] != of_x[each] for each in letters.summed):
        return None  # a 1 expands
    size = of_weight | of_x
    after = [*letters.rows, *letters.made]
    shape = tuple(size[each] for each in after)
    if shape.count(None) > 1:
        return None
    order = [letters.weight.index(each) for each in (*letters.made, *letters.summed)]
    outputs = math.prod(weight.shape[letters.weight.index(each)] for each in letters.made)
    matrix = weight.permute(order).reshape(outputs, -1)
    features = matrix.shape[1]
    rows = rows_of(call, _ordered(call, x, letters.x, [*letters.rows, *letters.summed]), features)
    layer = own_copy(matrix, None, nn.Linear, features, outputs)
    y = call.emit(layer, rows, shape=(shape_of(rows)[0], outputs))
    sizes = tuple(-1 if each is None else each for each in shape)
    whole = call.emit(Reshape(sizes), y, shape=shape)
    return _ordered(call, whole, after, letters.result)


def _ordered(call: Call, x: fx.Node, before: Sequence[str], after: Sequence[str]) -> fx.Node:
    """``x``, whose dimensions have the letters ``before``, with them in the order ``after``."""
    order = tuple(before.index(each) for each in after)
    if order == tuple(range(len(order))):
        return x
    shape = tuple(shape_of(x)[each] for each in order)
    return call.emit(Permute(order), x, shape=shape)


@draws()
def _draw_product(random: Random, shape: Sizes) -> nn.Module | None:
    outputs, target = random.randint(1, 7), spelling(random, _product)
    if happens(random, 0.3) and len(shape) > 1:
        return _FromTheLeft(random.choice((torch.matmul, operator.matmul)), outputs, shape[-2])
    sizes = (shape[-1],) if happens(random, 0.2) else (shape[-1], outputs)
    return Applied(target, nn.Parameter(torch.empty(sizes).uniform_(-1, 1)))


class _FromTheLeft(nn.Module):
    """A parameter times the matrices that it is given."""

    def __init__(self, target: Any, *sizes: int) -> None:
        super().__init__()
        self.target, self.weight = target, nn.Parameter(torch.empty(sizes).uniform_(-1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.target(self.weight, x)


class _Contracted(nn.Module):
    """``torch.einsum`` with a parameter. ``summed``: the dimension that is summed over, of a
    tensor and of the parameter."""

    def __init__(self, equation: str, summed: tuple[int, int], *sizes: int) -> None:
        super().__init__()
        self.summed = summed
        self.target, self.equation = torch.einsum, equation
        self.weight = nn.Parameter(torch.empty(sizes).uniform_(-1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[self.summed[0]] != self.weight.shape[self.summed[1]]:
            raise ValueError("a 1 would expand, and the contraction be no layer")
        return torch.einsum(self.equation, x, self.weight)

    def extra_repr(self) -> str:
        return f"{self.equation!r}, {list(self.weight.shape)}"


@draws()
def _draw(random: Random, shape: Sizes) -> nn.Module:
    outputs = random.randint(1, 5)
    if happens(random, 0.5):
        return _Contracted("...c,oc->...o", (-1, 1), outputs, shape[-1])
    others = "xyz"[: len(shape) - 1]
    equation = f"nc{others},coh->no{others}h"
    return _Contracted(equation, (1, 0), shape[0], outputs, random.randint(1, 2))
