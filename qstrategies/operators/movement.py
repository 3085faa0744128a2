"""Operators that move values and compute nothing: what they share, reshapes and permutations."""

from __future__ import annotations

import math
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
    shape_of,
)
from qstrategies.operators.drawing import Applied, Sizes, draws, spelling


class Reshape(nn.Module):
    """To ``sizes``, one of which may be -1."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.sizes = sizes

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(self.sizes)


class Permute(nn.Module):
    """Dimensions in another ``order``."""

    def __init__(self, order: tuple[int, ...]) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.order)


@dataclass(frozen=True, eq=False, kw_only=True)
class Movement(Node):
    """What all movements share: reals and integers move alike, and the quantizer stays."""

    rounds = False

    def moved(self, x: Tensor) -> Tensor:
        """``x``, real or integer, moved."""
        raise NotImplementedError(type(self).__name__)

    def reals(self, *tensors: Tensor) -> Tensor:
        return self.moved(tensors[0])

    def kernel(self, engine: str) -> Kernel | None:
        grid = self.output.grid
        return lambda x: from_integers(self.moved(x.int_repr()), grid)

    def write_moved(self, to: Writer, op: str, *constants: str, **attributes: Any) -> None:
        """Write ``op`` between DequantizeLinear and QuantizeLinear, as all runtimes read it."""
        result = to.emit(
            op, [to.real(self.inputs[0]), *constants], f"{self.name}.moved", **attributes
        )
        to.give(self.output, result)


@dataclass(frozen=True, eq=False, kw_only=True)
class Reshaping(Movement):
    """``sizes`` as in ``Reshape``."""

    sizes: tuple[int, ...]

    def integers(self, *inputs: Array) -> Array:
        return inputs[0].reshape(self.sizes)

    def moved(self, x: Tensor) -> Tensor:
        return x.reshape(self.sizes)

    def write(self, to: Writer) -> None:
        self.write_moved(
            to, "Reshape", to.constant(f"{self.name}.sizes", np.array(self.sizes, np.int64))
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Permutation(Movement):
    """``order`` as in ``Permute``."""

    order: tuple[int, ...]

    def integers(self, *inputs: Array) -> Array:
        return inputs[0].transpose(self.order)

    def moved(self, x: Tensor) -> Tensor:
        return x.permute(self.order)

    def write(self, to: Writer) -> None:
        self.write_moved(to, "Transpose", perm=self.order)


def moves(kind: type[nn.Module], node: type[Movement], *settings: str) -> None:
    """Register the form ``kind`` of ``node``, which has the attributes ``settings`` of it."""

    def build(site: Site) -> Node:
        return node(**site.ends, **{name: getattr(site.module, name) for name in settings})

    FORMS[kind] = Form(placing=Placing.SHARED, node=build, homogeneous=True, moves=True)


moves(Reshape, Reshaping, "sizes")
moves(Permute, Permutation, "order")


# --- reshapes: whatever the arguments, the result's shape says all ---


@recognizes(
    torch.flatten,
    torch.reshape,
    torch.squeeze,
    torch.unsqueeze,
    torch.unflatten,
    "flatten",
    "reshape",
    "reshape_as",
    "squeeze",
    "squeeze_",
    "unflatten",
    "unsqueeze",
    "unsqueeze_",
    "view",
    "view_as",
)
def _reshape(call: Call, input: fx.Node, *_: Any, **__: Any) -> fx.Node:
    return call.reshape(input)


@recognizes(nn.Flatten, nn.Unflatten)
def _reshape_module(call: Call, _: nn.Module, x: fx.Node) -> fx.Node:
    return call.reshape(x)


@recognizes("contiguous", "clone", torch.clone)
def _copy(call: Call, input: fx.Node, *_: Any, **__: Any) -> fx.Node:
    return input


# --- permutations ---


@recognizes(torch.permute, "permute")
def _permute(call: Call, input: fx.Node, *dims: Any, **named: Any) -> fx.Node:
    chosen = named.get("dims", dims[0] if len(dims) == 1 else dims)
    rank = len(shape_of(input))
    return call.emit(Permute(tuple(dim % rank for dim in chosen)), input)


@recognizes(torch.transpose, torch.swapaxes, "transpose", "swapaxes", "transpose_")
def _transpose(call: Call, input: fx.Node, dim0: int, dim1: int) -> fx.Node:
    order = list(range(len(shape_of(input))))
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return call.emit(Permute(tuple(order)), input)


@recognizes(torch.movedim, torch.moveaxis, "movedim", "moveaxis")
def _movedim(call: Call, input: fx.Node, source: Any, destination: Any) -> fx.Node:
    rank = len(shape_of(input))
    moved, places = (
        [dim % rank for dim in ((dims,) if isinstance(dims, int) else dims)]
        for dims in (source, destination)
    )
    order = [dim for dim in range(rank) if dim not in moved]
    for place, dim in sorted(zip(places, moved, strict=True)):
        order.insert(place, dim)
    return call.emit(Permute(tuple(order)), input)


@recognizes(getattr)
def _attribute(call: Call, input: fx.Node, name: str) -> fx.Node | None:
    return _transpose(call, input, -2, -1) if name == "mT" else None


@recognizes("t", torch.t)
def _t(call: Call, input: fx.Node) -> fx.Node:
    return call.emit(Permute((1, 0)), input)


# --- what may be drawn ---


class _Rows(nn.Module):
    """``x.view(x.size(0), -1)``."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(x.size(0), -1)


@draws(often=2)
def _draw_shape(random: Random, shape: Sizes) -> nn.Module:
    whole = math.prod(shape)
    first = random.choice([each for each in (1, 2, 3, whole) if whole % each == 0])
    sizes = random.choice(((-1, first, whole // first), (-1, whole // first, first), (-1, whole)))
    halves = random.choice([(each, shape[0] // each) for each in (1, 2, 3) if shape[0] % each == 0])
    dim = random.randint(1, len(shape))
    return random.choice(
        (
            _Rows(),
            nn.Flatten(dim),
            nn.Unflatten(1, halves),
            Applied(random.choice((torch.flatten, "flatten")), dim),
            Applied(random.choice(("reshape", "view")), *sizes),
            Applied(torch.reshape, sizes),
            Applied(random.choice((torch.unflatten, "unflatten")), 1, halves),
            Applied(random.choice((torch.unsqueeze, "unsqueeze", "unsqueeze_")), dim),
            Applied(random.choice((torch.squeeze, "squeeze", "squeeze_")), dim),
        )
    )


@draws(inputs=2)
def _draw_alike(random: Random, shape: Sizes, other: Sizes) -> nn.Module | None:
    fits = math.prod(shape) == math.prod(other)
    return Applied(random.choice(("reshape_as", "view_as"))) if fits else None


@draws()
def _draw_copy(random: Random, _: Sizes) -> nn.Module:
    return Applied(spelling(random, _copy))


@draws()
def _draw_order(random: Random, shape: Sizes) -> nn.Module:
    order = list(range(1, len(shape) + 1))
    random.shuffle(order)
    pair = random.choice(order), random.choice(order) - len(shape) - 1
    times = 1 if len(shape) > 1 else 2
    return random.choice(
        (
            Applied(spelling(random, _permute), (0, *order)),
            Applied(spelling(random, _transpose), *pair),
            Applied(spelling(random, _movedim), *pair),
            nn.Sequential(*[Applied(getattr, "mT")] * times),  # and examples before all else again
            nn.Sequential(Applied(spelling(random, _t)), Applied(spelling(random, _t))),
        )
    )
