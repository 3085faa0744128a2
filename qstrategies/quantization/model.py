"""``QuantizedModel``: the integer graph, how the user's model is called, and the modules that
compute it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from qstrategies.errors import InputError
from qstrategies.guest import guest
from qstrategies.operators.island import Island
from qstrategies.quantization.decide import decide
from qstrategies.quantization.executables import Deployed, Int8, Reference
from qstrategies.quantization.integer_graph import IntegerGraph
from qstrategies.quantization.interface import InputSpec
from qstrategies.quantization.prepare import Prepared
from qstrategies.quantization.structure import named_outputs
from qstrategies.records import QuantizationConfig


@dataclass(frozen=True, eq=False, repr=False)
class QuantizedModel:
    """A model whose weights and biases are integers. ``outputs`` has the places of
    ``graph.outputs`` in what it returns."""

    graph: IntegerGraph
    config: QuantizationConfig
    inputs: tuple[InputSpec, ...]
    outputs: Any = 0

    def __repr__(self) -> str:
        kinds = Counter(type(node).__name__ for node in self.graph.nodes)
        nodes = ", ".join(f"{count} {name}" for name, count in kinds.most_common())
        inputs = ", ".join(f"{each.name} {each.shape}" for each in self.inputs)
        return f"QuantizedModel({inputs}: {nodes}; weights of {self.weight_bytes} bytes)"

    @classmethod
    def of(cls, prepared: Prepared, batches: Sequence[tuple[Tensor, ...]] = ()) -> QuantizedModel:
        """What ``prepared``, calibrated or trained, becomes; ``batches`` are for recipes that
        choose integers by them. Raises ``InputError`` for a layer that cannot be rounded."""
        graph = decide(prepared, batches)
        inputs = tuple(InputSpec.of(spec, prepared.input_scale) for spec in graph.inputs)
        return cls(graph, prepared.config, inputs, prepared.outputs)

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        """Not to be called: raises ``InputError``."""
        raise InputError(
            "a QuantizedModel is not called itself: call quantized.module(), which takes and gives "
            "what your model does"
        )

    @guest
    def int8(self, engine: str | None = None) -> Int8:
        """The model with the int8 kernels of ``engine`` (default: the configured one)."""
        return Int8(self.graph, self.inputs, self.outputs, engine or self.config.engine)

    @guest
    def reference(self) -> nn.Module:
        """The same function in float32 arithmetic between roundings; it runs on any device."""
        return Reference(self.graph, self.inputs, self.outputs).eval()

    @guest
    def module(self) -> nn.Module:
        """The quantized model in the place of the float one, on any device: real inputs in the
        float model's units in, by place or name, what it returned out."""
        return Deployed(Reference(self.graph, self.inputs, self.outputs)).eval()

    @property
    def output_names(self) -> tuple[str, ...]:
        """Of the graph's outputs: "logits" if there is one."""
        places = [(place, name) for name, place in named_outputs(self.outputs)]
        return tuple(name for _, name in sorted(places))

    @property
    def output_scale(self) -> float | None:
        """The step of the (first) output; None if its last operator stays float."""
        quantizer = self.graph.outputs[0].quantizer
        return None if quantizer is None else quantizer.scale

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """The real weight of every layer, on its grid."""
        return tuple(torch.from_numpy(layer.constants[0]) for layer in self.graph.layers)

    @property
    def weight_bits(self) -> dict[str, int]:
        """The bits of every layer's weights, by its name."""
        return {layer.name: layer.rounded_layer.bits for layer in self.graph.layers}

    @property
    def weight_bytes(self) -> int:
        """What all weights take if none has more bits than its layer, in whole bytes."""
        layers = [layer.rounded_layer for layer in self.graph.layers]
        return -(-sum(layer.weight.size * layer.bits for layer in layers) // 8)

    @property
    def islands(self) -> tuple[Island, ...]:
        """The parts that stay in float, with the reason of each."""
        return self.graph.islands
