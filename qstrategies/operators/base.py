"""The vocabulary of operators: quantizers, tensors, nodes, and how a file of this folder says what
it is."""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn import functional

if TYPE_CHECKING:
    from qstrategies.operators.layer import RoundedLayer

FLOAT_EXACT = 2**24  # float32 represents every integer up to this
HIGHEST = 255  # of the integers between operators

Array = NDArray[Any]
Shape = tuple[int | None, ...]
Kernel = Callable[..., Tensor]


@dataclass(frozen=True)
class Quantizer:
    """Real values as uint8: ``q = clamp(round(x / scale) + zero_point, quant_min, quant_max)``,
    ties to even."""

    scale: float
    zero_point: int = 0
    quant_min: int = 0
    quant_max: int = 255

    @property
    def whole(self) -> bool:
        """Whether it uses all that uint8 holds, so that kernels saturate at its ends."""
        return (self.quant_min, self.quant_max) == (0, 255)

    @property
    def ends(self) -> tuple[float, float]:
        """The smallest and the largest real value."""
        low, high = (end - self.zero_point for end in (self.quant_min, self.quant_max))
        return low * self.scale, high * self.scale

    def quantize(self, reals: Tensor) -> Tensor:
        """The integers, uint8."""
        steps = torch.round(reals / self.scale) + self.zero_point
        return steps.clamp(self.quant_min, self.quant_max).to(torch.uint8)

    def dequantize(self, integers: Tensor) -> Tensor:
        """The real values, float32."""
        return (integers.float() - self.zero_point) * self.scale

    def rounded(self, reals: Tensor) -> Tensor:
        """``reals`` on the grid, float32."""
        steps = torch.round(reals / self.scale) + self.zero_point
        return (steps.clamp(self.quant_min, self.quant_max) - self.zero_point) * self.scale


@dataclass(frozen=True)
class TensorSpec:
    """A tensor between two nodes. ``shape`` has None for what varies with the batch; ``quantizer``
    None: values of ``dtype``."""

    name: str
    shape: Shape
    quantizer: Quantizer | None
    dtype: torch.dtype = torch.float32

    @property
    def grid(self) -> Quantizer:
        """The quantizer, which must be there."""
        assert self.quantizer is not None, self.name
        return self.quantizer


class Writer(Protocol):
    """What a node needs to write itself as ONNX; see ``export/onnx_writer.py``."""

    def constant(self, name: str, array: Array) -> str: ...

    def emit(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str: ...

    def real(self, tensor: TensorSpec) -> str: ...

    def island(self, node: Node, module: nn.Module) -> None: ...

    def integers(self, tensor: TensorSpec) -> str: ...

    def give_integers(self, tensor: TensorSpec, value: str) -> None: ...

    def give(self, tensor: TensorSpec, value: str) -> None: ...


@dataclass(frozen=True, eq=False, kw_only=True)
class Node:
    """One operator of an integer graph, ``name``d after the module or call of the user's model that
    it comes from.

    Subclasses are frozen values of NumPy arrays and numbers.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    output: TensorSpec
    rounds: ClassVar[bool] = True
    """Whether its results have to be rounded to the output's quantizer; False where they lie on it
    already."""

    @property
    def constants(self) -> tuple[Array, ...]:
        """The float32 arrays that ``reals`` takes after its inputs: weights, kept on the device of
        whoever runs it."""
        return ()

    def integers(self, *inputs: Array) -> Array:
        """The specification: uint8 arrays in, the uint8 array out, exact."""
        raise NotImplementedError(type(self).__name__)

    def reals(self, *tensors: Tensor) -> Tensor:
        """Real inputs (then ``constants``), float32, to the real result before it is rounded."""
        raise NotImplementedError(type(self).__name__)

    def kernel(self, engine: str) -> Kernel | None:
        """The int8 kernel of PyTorch's ``engine`` on quantized tensors; None where it has none that
        computes this."""
        return None

    def write(self, to: Writer) -> None:
        """Write the ONNX operators."""
        raise NotImplementedError(type(self).__name__)


class Placing(enum.Enum):
    """Where the quantizer of a form's output comes from."""

    OWN = "a quantizer of its own"
    SHARED = "the quantizer of its inputs, which then is one"
    FLOAT = "none: the form computes in float"


@dataclass(frozen=True, kw_only=True)
class Site:
    """A form at its place, quantizers decided: what its node is made from."""

    name: str
    module: Any
    inputs: tuple[TensorSpec, ...]
    output: TensorSpec
    relu: bool = False
    layer: RoundedLayer | None = None

    @property
    def ends(self) -> dict[str, Any]:
        """The fields that all nodes have."""
        return {"name": self.name, "inputs": self.inputs, "output": self.output}


@dataclass(frozen=True, kw_only=True)
class Form:
    """What the road knows of a module of the normalized graph.

    ``node`` makes the integer node. ``takes_relu``: a ReLU that is its only reader joins it.
    ``homogeneous``: ``f(c x) = c f(x)`` for c > 0, so that factors pass through it. ``weighted``: a
    layer, whose real inputs are worth quantizing. ``moves``: all that it gives are numbers of its
    one input (or zero), so that it commutes with what is monotone and does not round.
    """

    placing: Placing
    node: Callable[[Site], Node]
    takes_relu: bool = False
    homogeneous: bool = False
    weighted: bool = False
    moves: bool = False


FORMS: dict[type[nn.Module], Form] = {}


def form_of(module: nn.Module | None) -> Form | None:
    """The form that ``module`` is; None for modules that stay in float."""
    return None if module is None else FORMS.get(type(module))


class Call(Protocol):
    """A call of the user's graph, for its recognizer; see ``quantization/call.py``."""

    @property
    def shape(self) -> Shape:
        """The shape of the result, None for what varies with the batch."""

    @property
    def example(self) -> Any:
        """The result in the observed run of two examples."""

    def emit(self, module: nn.Module, *inputs: fx.Node, shape: Shape | None = None) -> fx.Node:
        """Call ``module`` in the normalized graph; ``shape`` where it is not that of the whole
        result."""

    def reshape(self, x: fx.Node) -> fx.Node:
        """``x`` in the shape of the result."""


Recognizer = Callable[..., fx.Node | None]
RECOGNIZERS: dict[Any, Recognizer] = {}


def recognizes(*targets: Any) -> Callable[[Recognizer], Recognizer]:
    """Register the function that says what calls of ``targets`` are: module types, functions or
    names of methods.

    It gets the ``Call``, then the arguments as the user gave them (for a module type: the module
    first), graph nodes in the place of tensors; it returns the node of the result, or None if this
    call has no exact form.
    """

    def register(function: Recognizer) -> Recognizer:
        for target in targets:
            assert target not in RECOGNIZERS, target
            RECOGNIZERS[target] = function
        return function

    return register


def recognizes_by_dimension(name: str, function: Recognizer) -> None:
    """Register ``function(dimensions, call, ...)`` for torch's ``name``1d to ``name``3d."""
    for dimensions in (1, 2, 3):
        target = getattr(functional, f"{name}{dimensions}d")
        recognizes(target)(functools.partial(function, dimensions))


def shape_of(node: fx.Node) -> Shape:
    """The shape of a node of the normalized graph."""
    shape: Shape = node.meta["shape"]
    return shape


def is_number(value: Any) -> bool:
    """Whether ``value`` is a plain number of Python."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def per_dimension(value: Any, dimensions: int) -> tuple[int, ...]:
    """A setting of torch (one number, or one per dimension) as one number per dimension."""
    if isinstance(value, int):
        return (value,) * dimensions
    numbers = tuple(int(each) for each in value)
    return numbers * dimensions if len(numbers) == 1 else numbers


def requantized(real: Tensor, quantizer: Quantizer) -> Tensor:
    """A real tensor as a quantized one of PyTorch, whose own kernel adds the zero point in float32
    before it rounds."""
    return from_integers(quantizer.quantize(real), quantizer)


def from_integers(integers: Tensor, quantizer: Quantizer) -> Tensor:
    """uint8 integers as a quantized tensor of PyTorch."""
    return torch._make_per_tensor_quantized_tensor(integers, quantizer.scale, quantizer.zero_point)


def column(values: Array, dimensions: int) -> Array:
    """One number per channel, shaped to go with an array [N, channels, ...] of so many dimensions,
    float64."""
    return values.astype(np.float64).reshape(-1, *[1] * (dimensions - 2))
