"""A file as a program on 8-bit integers: nodes of a dozen kinds, every number an exact one.

The one home of what is computed: the specification is this program written out, and the C form is
this program as loops.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from qstrategies.specification.ends import End

Array = NDArray[Any]


@dataclass(frozen=True)
class Tensor:
    """8-bit integers, ``low`` to ``high``, which whatever makes them does not leave."""

    name: str
    shape: tuple[int, ...]
    low: int = 0
    high: int = 255

    @property
    def size(self) -> int:
        """The number of elements, which are bytes."""
        return math.prod(self.shape)

    def reach(self, zero_point: int) -> tuple[int, int]:
        """How far its integers less ``zero_point`` get below and above 0."""
        return max(zero_point - self.low, 0), max(self.high - zero_point, 0)

    def magnitude(self, zero_point: int) -> int:
        """The largest absolute value of its integers less ``zero_point``."""
        return max(self.reach(zero_point))


@dataclass(frozen=True)
class Rounding:
    """``clamp(round(total * multiplier) + zero_point, low, high)``, ties to even.

    ``multipliers``: one for each channel (dimension 1, or the last of a linear node), or one for
    all. ``bound``: no partial sum of the total is larger in magnitude, in any order.
    """

    multipliers: tuple[Fraction, ...]
    zero_point: int
    low: int
    high: int
    bound: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Node:
    """``operators``: the names of the nodes of the file that it stands for. ``formula`` is
    normative: x and y are the input's and the output's integers, z the input's zero point, and
    ROUND what ``Rounding`` says."""

    kind: ClassVar[str] = ""
    formula: ClassVar[str] = ""
    output: Tensor
    inputs: tuple[Tensor, ...]
    operators: tuple[str, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Convolution(Node):
    """``weight``: int8 [out, in / groups, *kernel]; ``bias``: [out]. ``pads``: zeros before each
    dimension of the image."""

    kind = "convolution"
    formula = (
        "y[n, o, p] = ROUND(bias[o] + sum over c, k of weight[o, c, k] "
        "(x[n, g in/groups + c, i] - z)), g = o div (out/groups), i = stride p - pads + dilation k "
        "in each dimension; an i outside of the image adds 0"
    )
    zero_point: int
    weight: Array
    bias: Array
    stride: tuple[int, ...]
    pads: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    rounding: Rounding


@dataclass(frozen=True, eq=False, kw_only=True)
class TransposedConvolution(Convolution):
    """``weight``: int8 [in, out / groups, *kernel]; ``pads``: what is cut off before each
    dimension of the result."""

    kind = "transposed_convolution"
    formula = (
        "y[n, g out/groups + o, p] = ROUND(bias[g out/groups + o] + sum over c, k of "
        "weight[g in/groups + c, o, k] (x[n, g in/groups + c, i] - z)), "
        "stride i = p + pads - dilation k in each dimension; where no i in the image is that, it "
        "adds 0"
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class Linear(Node):
    """``weight``: int8 [out, in]; ``bias``: [out]."""

    kind = "linear"
    formula = "y[..., o] = ROUND(bias[o] + sum over i of weight[o, i] (x[..., i] - z))"
    zero_point: int
    weight: Array
    bias: Array
    rounding: Rounding


@dataclass(frozen=True, eq=False, kw_only=True)
class Addition(Node):
    """Two inputs, which broadcast as NumPy's; ``factors`` are integers."""

    kind = "addition"
    formula = "y = ROUND(factors[0] (x0 - zero_points[0]) + factors[1] (x1 - zero_points[1]))"
    zero_points: tuple[int, ...]
    factors: tuple[int, ...]
    rounding: Rounding


@dataclass(frozen=True, eq=False, kw_only=True)
class Product(Node):
    """Two inputs, which broadcast as NumPy's."""

    kind = "product"
    formula = "y = ROUND((x0 - zero_points[0]) (x1 - zero_points[1]))"
    zero_points: tuple[int, ...]
    rounding: Rounding


@dataclass(frozen=True, eq=False, kw_only=True)
class AveragePool(Node):
    """The multiplier divides by the number of places in the window, those outside included."""

    kind = "average_pool"
    formula = (
        "y[n, c, p] = ROUND(sum over k of (x[n, c, i] - z)), i = stride p - pads + k in each "
        "dimension; an i outside of the image adds 0"
    )
    zero_point: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pads: tuple[int, ...]
    rounding: Rounding


@dataclass(frozen=True, eq=False, kw_only=True)
class Mean(Node):
    """The multiplier divides by the number of elements, but for a sum."""

    kind = "mean"
    formula = "y = ROUND(sum over axes of (x - z))"
    zero_point: int
    axes: tuple[int, ...]
    rounding: Rounding


@dataclass(frozen=True, eq=False, kw_only=True)
class MaxPool(Node):
    """A window has an element of the image."""

    kind = "max_pool"
    formula = (
        "y[n, c, p] = max over k of x[n, c, i], i = stride p - pads + dilation k in each "
        "dimension; an i outside of the image does not count"
    )
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pads: tuple[int, ...]
    dilation: tuple[int, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Clip(Node):
    """ReLU and its like on integers."""

    kind = "clip"
    formula = "y = min(max(x, low), high)"
    low: int
    high: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Extremum(Node):
    """Two inputs, which broadcast as NumPy's."""

    kind = "extremum"
    formula = "y = max(x0, x1) if largest, else min(x0, x1)"
    largest: bool


@dataclass(frozen=True, eq=False, kw_only=True)
class Concatenation(Node):
    """Any number of inputs."""

    kind = "concatenation"
    formula = "y = the inputs one behind another along axis"
    axis: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Reshape(Node):
    """The elements stay in their order."""

    kind = "reshape"
    formula = "y = flat x in the shape of y, both flattened with their last dimension fastest"


@dataclass(frozen=True, eq=False, kw_only=True)
class Move(Node):
    """Transpose, slice, expand, pad, upsample: ``offsets`` has a list for each dimension of the
    output, of an integer for each index, None for what lies outside."""

    kind = "move"
    formula = (
        "y[i, j, ...] = flat x[base + offsets[0][i] + offsets[1][j] + ...], x flattened with its "
        "last dimension running fastest; fill where any of the offsets is null"
    )
    operator: str
    base: int
    offsets: tuple[tuple[int | None, ...], ...]
    fill: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Table(Node):
    """``values``: uint8 [256]."""

    kind = "table"
    formula = "y = values[x]"
    values: Array


@dataclass(frozen=True, eq=False, kw_only=True)
class Stored(Node):
    """``values``: uint8, flat; there is no input."""

    kind = "stored"
    formula = "y = values in the shape of y, the last dimension running fastest"
    values: Array


@dataclass(frozen=True, eq=False)
class Program:
    """``nodes`` in the order of execution; what varies with the batch has size 1.

    ``file_sha256``: of the bytes of the file.
    """

    file_sha256: str
    inputs: tuple[End, ...]
    outputs: tuple[End, ...]
    nodes: tuple[Node, ...]


def offsets_of(index: Array) -> tuple[int, tuple[tuple[int | None, ...], ...]]:
    """``base`` and ``offsets`` of the ``Move`` that takes element ``index`` [...] - 1 of its flat
    input, and fills where that is -1.

    Raises ``ValueError`` for one that is no sum of an offset for each dimension.
    """
    inside = np.argwhere(index)
    first = tuple(inside[0]) if len(inside) else (0,) * index.ndim
    base = int(index[first]) - 1
    offsets = []
    for dim in range(index.ndim):
        place: tuple[Any, ...] = (*first[:dim], slice(None), *first[dim + 1 :])
        line = [int(each) - 1 for each in index[place]]
        offsets.append(tuple(None if each < 0 else each - base for each in line))
    if not np.array_equal(_moved(base, offsets, index.shape) + 1, index):
        raise ValueError("it is no sum of an offset for each dimension")
    return base, tuple(offsets)


def _moved(base: int, offsets: list[tuple[int | None, ...]], shape: tuple[int, ...]) -> Array:
    """The elements that a ``Move`` takes; -1 where it fills."""
    total, outside = np.full(shape, base, np.int64), np.zeros(shape, bool)
    for dim, line in enumerate(offsets):
        column = [1] * len(shape)
        column[dim] = -1
        total += np.array([each or 0 for each in line], np.int64).reshape(column)
        outside |= np.array([each is None for each in line]).reshape(column)
    return np.where(outside, -1, total)
