"""What a tensor of a file is while the file is read: a constant, integers, their real values, or a
result that is not rounded yet."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import onnx

from qstrategies.errors import InputError
from qstrategies.runtimes.exact import Node as FileNode
from qstrategies.specification.program import Array, Node, Rounding, Tensor

Bounds = tuple[Fraction | None, Fraction | None]
"""Real ones, of what is cut; None where it is not."""


@dataclass(frozen=True)
class Grid:
    """``real = (integer - zero_point) scale``."""

    scale: Fraction
    zero_point: int

    def integer(self, real: Fraction) -> int:
        """The integer of ``real``, ties to even, on 8 bits."""
        return min(max(round(real / self.scale) + self.zero_point, 0), 255)

    def ends(self, bounds: Bounds) -> tuple[int, int]:
        """The integers of ``bounds``."""
        low, high = bounds
        return (
            0 if low is None else self.integer(low),
            255 if high is None else self.integer(high),
        )


@dataclass(frozen=True)
class Real:
    """The real values of ``tensor``; ``operators``: the nodes of the file that give them."""

    tensor: Tensor
    grid: Grid
    operators: tuple[str, ...] = ()


@dataclass(frozen=True)
class Constant:
    """A dequantized constant: ``integers`` [...] in steps of ``scales``, one or one for each place
    along ``axis``."""

    integers: Array
    scales: tuple[Fraction, ...]
    axis: int


@dataclass(frozen=True)
class Index:
    """``tensor`` as the index of a table."""

    tensor: Tensor
    operators: tuple[str, ...]


@dataclass(frozen=True)
class Moved:
    """Values of ``inputs``, which have one ``grid``, picked and placed: ``build`` makes the node.
    ``span``: the least and the largest that may come out, if not those of the inputs."""

    build: Callable[..., Node]
    inputs: tuple[Tensor, ...]
    grid: Grid
    operators: tuple[str, ...]
    span: tuple[int, int] | None = None

    def node(self, output: str, shape: tuple[int, ...], grid: Grid) -> Node:
        """The node, whose output has the ``grid`` that it must have."""
        if grid != self.grid:
            raise InputError("its values are only moved, but quantized by another scale or offset")
        low = min(tensor.low for tensor in self.inputs)
        high = max(tensor.high for tensor in self.inputs)
        tensor = Tensor(output, shape, *(self.span or (low, high)))
        return self.build(output=tensor, inputs=self.inputs, operators=self.operators)


@dataclass(frozen=True)
class Summed:
    """Totals in steps of ``steps`` (one, or one for each channel), none of whose partial sums
    exceeds ``bound``, cut to the real ``bounds`` before they are rounded."""

    build: Callable[..., Node]
    inputs: tuple[Tensor, ...]
    steps: tuple[Fraction, ...]
    bound: int
    operators: tuple[str, ...]
    bounds: Bounds = (None, None)

    def node(self, output: str, shape: tuple[int, ...], grid: Grid) -> Node:
        """The node. Rounding is monotone: what is cut before it is cut behind it as well."""
        low, high = grid.ends(self.bounds)
        multipliers = tuple(step / grid.scale for step in self.steps)
        if len(set(multipliers)) == 1:
            multipliers = multipliers[:1]
        return self.build(
            output=Tensor(output, shape, low, high),
            inputs=self.inputs,
            operators=self.operators,
            rounding=Rounding(multipliers, grid.zero_point, low, high, self.bound),
        )


@dataclass(frozen=True)
class Call:
    """A node of the file with what its inputs are, None for one that is left out."""

    node: FileNode
    operands: tuple[Any, ...]

    @property
    def kind(self) -> str:
        """The operator."""
        return self.node.proto.op_type

    @property
    def name(self) -> str:
        """Of the node."""
        return self.node.proto.name

    def get(self, name: str, default: Any) -> Any:
        """An attribute, or its default."""
        return self.node.attributes.get(name, default)

    def reals(self, count: int | None = None) -> list[Real]:
        """All operands (the first ``count``), which must be dequantized tensors."""
        found = list(self.operands[:count])
        if not found or not all(isinstance(each, Real) for each in found):
            raise InputError("an input is no dequantized tensor")
        return found

    def constant(self, place: int) -> Array | None:
        """Operand ``place``, an array of the file; None if it is left out."""
        value = self.operands[place] if place < len(self.operands) else None
        if value is not None and not isinstance(value, np.ndarray):
            raise InputError(f"its input {place} is not constant")
        return value

    def dequantized(self, place: int) -> Constant | None:
        """Operand ``place``, a dequantized constant; None if it is left out."""
        value = self.operands[place] if place < len(self.operands) else None
        if value is not None and not isinstance(value, Constant):
            raise InputError(f"its input {place} is no dequantized constant")
        return value

    def operators(self, *reals: Real) -> tuple[str, ...]:
        """The nodes that end in this one."""
        before = [name for real in reals for name in real.operators]
        return (*dict.fromkeys(before), self.name)

    def one_grid(self, reals: list[Real]) -> Grid:
        """That of all ``reals``."""
        if len({real.grid for real in reals}) > 1:
            raise InputError("its inputs have several scales or offsets")
        return reals[0].grid


def fraction(value: Any) -> Fraction:
    """A finite float, exactly."""
    number = float(value)
    if not math.isfinite(number):
        raise InputError(f"the number {number}")
    return Fraction(number)


def fractions(values: Array) -> tuple[Fraction, ...]:
    """Finite floats, exactly."""
    return tuple(fraction(each) for each in values.reshape(-1))


def file_nodes(model: onnx.ModelProto, opset: int) -> list[FileNode]:
    """The nodes of ``model`` in their order."""
    return [FileNode(proto, opset) for proto in model.graph.node]
