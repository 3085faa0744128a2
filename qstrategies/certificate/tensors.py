"""What is known of a tensor: type and shape by inference, its values, and how they came about."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto

from qstrategies.certificate.grid import Array, Grid

if TYPE_CHECKING:
    from qstrategies.certificate.fixed_point import Sums

FLOAT: int = TensorProto.FLOAT
QUANTIZED: frozenset[int] = frozenset({TensorProto.UINT8, TensorProto.INT8})
INTEGERS: frozenset[int] = QUANTIZED | {TensorProto.INT32, TensorProto.INT64}
KNOWN: frozenset[int] = INTEGERS | {FLOAT, TensorProto.BOOL}

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Kind:
    """The type of a tensor (of ``TensorProto``; 0 if unknown), and its shape.

    The shape is None if not even its rank is known, as is a dimension that is unknown or symbolic.
    """

    element: int = 0
    shape: Shape | None = None

    @classmethod
    def of(cls, declared: onnx.TypeProto) -> Kind:
        """What ``declared`` says; a type of no tensor is an unknown one."""
        tensor = declared.tensor_type
        if not tensor.HasField("shape"):
            return cls(tensor.elem_type)
        return cls(tensor.elem_type, tuple(_size(dim) for dim in tensor.shape.dim))

    def __str__(self) -> str:
        sizes = "?" if self.shape is None else ", ".join(str(size or "?") for size in self.shape)
        return f"{self.name} [{sizes}]"

    @property
    def name(self) -> str:
        """The type for a message."""
        return str(TensorProto.DataType.Name(self.element)).lower()

    @property
    def limits(self) -> Grid | None:
        """All values of an integer type; None for any other type."""
        if self.element not in INTEGERS:
            return None
        found = np.iinfo(onnx.helper.tensor_dtype_to_np_dtype(self.element))
        return Grid(1.0, int(found.min), int(found.max))

    def contradicts(self, other: Kind) -> bool:
        """Whether no tensor is of both kinds."""
        if self.element and other.element and self.element != other.element:
            return True
        if self.shape is None or other.shape is None:
            return False
        if len(self.shape) != len(other.shape):
            return True
        pairs = zip(self.shape, other.shape, strict=True)
        return any(a is not None and b is not None and a != b for a, b in pairs)


def _size(dim: onnx.TensorShapeProto.Dimension) -> int | None:
    return dim.dim_value if dim.HasField("dim_value") else None


@dataclass(frozen=True)
class Constant:
    """A constant tensor: its ``integers`` times ``scale``, which broadcasts to them.

    ``scale`` is None for a constant in float: its values are then in ``integers``. ``stored``: the
    name of what the file holds; ``unquantized``: the integers there, with the zero point.
    """

    integers: Array
    scale: Array | None
    stored: str
    unquantized: Array | None = None

    @property
    def values(self) -> Array:
        """The real values in float64."""
        return self.integers.astype(np.float64) * (1.0 if self.scale is None else self.scale)


@dataclass(frozen=True)
class Quantizer:
    """The parameters of a QuantizeLinear or DequantizeLinear per tensor."""

    scale: float
    zero_point: int
    element: int


@dataclass(frozen=True)
class Tensor:
    """A tensor in the graph. ``known``: the grid of one that varies; None if its proof is broken.

    ``through``: the operators that its values passed since they were last quantized or summed up;
    ``moved_from``: the quantizer of the DequantizeLinear among them, if its values were only moved;
    ``apart``: whether one of them separates it for good from that; ``steps``: of the sums of a
    layer, one per output channel; ``sums``: how those end, also behind a Relu or Clip;
    ``coarsest``: of the steps that met in an addition.
    """

    kind: Kind
    known: Grid | None = None
    constant: Constant | None = None
    through: frozenset[str] = frozenset()
    moved_from: Quantizer | None = None
    apart: bool = False
    steps: Array | None = None
    sums: Sums | None = None
    coarsest: float | None = None

    @property
    def proven(self) -> bool:
        """Whether its values are known."""
        return self.constant is not None or self.known is not None

    @property
    def quantized(self) -> bool:
        """Whether it is a constant of stored integers with a scale."""
        return self.constant is not None and self.constant.scale is not None

    @functools.cached_property
    def grid(self) -> Grid:
        """What it can hold; raises ``UnprovenError`` for a constant that is not finite."""
        if self.constant is not None:
            return Grid.of(self.constant.values)
        assert self.known is not None
        return self.known
