"""An integer graph as PyTorch modules: float32 on the grid (any device), and the int8 kernels of
PyTorch's engines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qstrategies.guest import hear_of_quantized_tensors, selected_engine
from qstrategies.operators.base import Kernel, Node, TensorSpec, from_integers, requantized
from qstrategies.quantization.integer_graph import IntegerGraph
from qstrategies.quantization.interface import InputSpec, in_order
from qstrategies.quantization.pairs import saturates
from qstrategies.quantization.structure import mapped


class Executable(nn.Module):
    """Takes the inputs by place or name, and returns what the float model returns.

    An input is uint8, the integers of its quantizer, or real. Where pixels are the integers, real
    means raw pixels 0...255: scaled ones are refused.
    """

    def __init__(self, graph: IntegerGraph, inputs: Sequence[InputSpec], outputs: Any) -> None:
        super().__init__()
        self.graph, self.inputs, self.outputs = graph, tuple(inputs), outputs

    @torch.no_grad()
    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Run the graph. Raises ``InputError`` for another number, name, shape or unit of the
        inputs than the model's."""
        tensors = in_order(self.inputs, inputs, named)
        values = {}
        for spec, entry, tensor in zip(self.graph.inputs, self.inputs, tensors, strict=True):
            values[spec.name] = self.entered(spec, entry.checked(tensor))
        for index, node in enumerate(self.graph.nodes):
            arguments = [values[spec.name] for spec in node.inputs]
            values[node.output.name] = self.step(index, node, arguments)
        results = [self.left(spec, values[spec.name]) for spec in self.graph.outputs]
        return mapped(self.outputs, lambda _, place: None if place is None else results[place])

    def entered(self, spec: TensorSpec, tensor: Tensor) -> Tensor:
        """An input (integers, or reals if it has no quantizer) as the nodes take it."""
        raise NotImplementedError

    def step(self, index: int, node: Node, arguments: list[Tensor]) -> Tensor:
        """What ``node`` gives."""
        raise NotImplementedError

    def left(self, spec: TensorSpec, value: Tensor) -> Tensor:
        """An output in real numbers."""
        raise NotImplementedError


class Reference(Executable):
    """Float32 arithmetic between roundings. Exact graphs (docs/exactness.md) give the bits of the
    specification."""

    def __init__(self, graph: IntegerGraph, inputs: Sequence[InputSpec], outputs: Any) -> None:
        super().__init__(graph, inputs, outputs)
        self._counts = []
        for index, node in enumerate(graph.nodes):
            arrays = node.constants
            self._counts.append(len(arrays))
            for number, array in enumerate(arrays):
                self.register_buffer(f"constant_{index}_{number}", torch.from_numpy(array))
        self.islands = nn.ModuleList(
            node.module for node in graph.islands
        )  # so that they move to a device too

    def entered(self, spec: TensorSpec, tensor: Tensor) -> Tensor:
        return tensor if spec.quantizer is None else spec.quantizer.dequantize(tensor)

    def step(self, index: int, node: Node, arguments: list[Tensor]) -> Tensor:
        y = node.reals(*arguments, *self.constants(index))
        grid = node.output.quantizer
        return grid.rounded(y) if node.rounds and grid is not None else y

    def constants(self, index: int) -> list[Tensor]:
        """The constants of a node, where this module lies."""
        return [
            getattr(self, f"constant_{index}_{number}") for number in range(self._counts[index])
        ]

    def left(self, spec: TensorSpec, value: Tensor) -> Tensor:
        return value


class Deployed(nn.Module):
    """``reference`` behind the quantization of its inputs.

    Raises:
        InputError: inputs that are not finite or, where pixels are expected, no scaled pixels.
    """

    def __init__(self, reference: Reference) -> None:
        super().__init__()
        self.reference = reference

    @torch.no_grad()
    def forward(self, *inputs: Any, **named: Any) -> Any:
        specs = self.reference.inputs
        pairs = zip(specs, in_order(specs, inputs, named), strict=True)
        return self.reference(*(spec.integers(tensor) for spec, tensor in pairs))


class Int8(Executable):
    """The kernels of one engine; what it does not compute exactly as the specification is done in
    float.

    Some kernels (additions, pools) ask for the engine each time they run. It belongs to the whole
    process, so that calls of several threads take turns, and wait for every other call into this
    package. What no lock can prevent: a thread that sets ``torch.backends.quantized.engine`` itself
    during a call changes the kernels of that call.
    """

    def __init__(
        self, graph: IntegerGraph, inputs: Sequence[InputSpec], outputs: Any, engine: str
    ) -> None:
        super().__init__(graph, inputs, outputs)
        self.engine = engine
        hear_of_quantized_tensors()
        with selected_engine(engine):
            self.kernels = [_kernel(node, engine) for node in graph.nodes]
        for layer in graph.layers:  # so that its state is what it weighs
            for name in ("weight", "scale", "bias"):
                array = torch.from_numpy(getattr(layer.rounded_layer, name))
                self.register_buffer(f"{layer.output.name}_{name}", array)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        with selected_engine(self.engine):
            return super().forward(*inputs, **named)

    def entered(self, spec: TensorSpec, tensor: Tensor) -> Tensor:
        return tensor if spec.quantizer is None else from_integers(tensor, spec.quantizer)

    def step(self, index: int, node: Node, arguments: list[Tensor]) -> Tensor:
        return self.kernels[index](*arguments)

    def left(self, spec: TensorSpec, value: Tensor) -> Tensor:
        return value.dequantize() if value.is_quantized else value


def _kernel(node: Node, engine: str) -> Kernel:
    own, grid = None if saturates(node, engine) else node.kernel(engine), node.output.quantizer
    if own is None:
        return _in_float(node)
    if not node.rounds or grid is None or grid.whole:
        return own

    def run(*tensors: Tensor) -> Tensor:  # kernels know 255 as the only end
        return from_integers(own(*tensors).int_repr().clamp(grid.quant_min, grid.quant_max), grid)

    return run


def _in_float(node: Node) -> Kernel:
    """``node`` in float arithmetic between a dequantization and a quantization."""
    constants = [torch.from_numpy(array) for array in node.constants]

    def run(*tensors: Tensor) -> Tensor:
        reals = (tensor.dequantize() if tensor.is_quantized else tensor for tensor in tensors)
        return requantized(node.reals(*reals, *constants), node.output.grid)

    return run
