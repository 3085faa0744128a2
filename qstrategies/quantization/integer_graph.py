"""What a quantized model is: integers, scales and operators. Every file, kernel and proof is a view
of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qstrategies.operators.base import Array, Node, TensorSpec
from qstrategies.operators.island import Island
from qstrategies.operators.layer import Layer


@dataclass(frozen=True, eq=False)
class IntegerGraph:
    """``nodes`` in the order of execution; their tensors are found by name."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    nodes: tuple[Node, ...]

    def integers(self, *inputs: Array) -> dict[str, Array]:
        """The specification: every tensor for the integers (or reals) of every input, [N, ...]
        each, by name."""
        values = {spec.name: array for spec, array in zip(self.inputs, inputs, strict=True)}
        for node in self.nodes:
            values[node.output.name] = node.integers(*(values[spec.name] for spec in node.inputs))
        return values

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The nodes with weights."""
        return tuple(node for node in self.nodes if isinstance(node, Layer))

    @property
    def islands(self) -> tuple[Island, ...]:
        """The parts that stay in float."""
        return tuple(node for node in self.nodes if isinstance(node, Island))


def real_output(spec: TensorSpec, array: Array) -> Tensor:
    """The output of ``spec`` for the array that ``IntegerGraph.integers`` gives."""
    tensor: Any = torch.from_numpy(np.ascontiguousarray(array))
    return tensor if spec.quantizer is None else spec.quantizer.dequantize(tensor)
