"""A calibrated model with any part of it quantized: the rest computes in float."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from qstrategies.operators.base import Quantizer
from qstrategies.quantization.exact_forms import is_layer, module_at, output_rows
from qstrategies.quantization.model import QuantizedModel
from qstrategies.quantization.prepare import Prepared
from qstrategies.quantization.saturation import saturation_top

Inputs = tuple[Tensor, ...]
Watch = Callable[[str, Tensor], None]


class Simulation:
    """``prepared`` is calibrated; it is not changed.

    ``layers`` are the names of the layers with weights, ``quantizers`` those of the tensors that
    are rounded, each with the name of what gives it. With all of them quantized the output has the
    bits of the int8 kernels, by docs/exactness.md.
    """

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self.quantized = QuantizedModel.of(prepared)
        graph = self.quantized.graph
        self.nodes = {layer.name: layer for layer in graph.layers}
        self.layers = list(self.nodes)
        makers = {spec.name: spec.name for spec in graph.inputs}
        makers |= {node.output.name: node.name for node in graph.nodes}
        self.quantizers = {name: makers[name] for name in prepared.placement.groups}
        specs = (*graph.inputs, *(node.output for node in graph.nodes))
        self.grids: dict[str, Quantizer] = {
            spec.name: spec.grid for spec in specs if spec.name in self.quantizers
        }

    @property
    def entries(self) -> list[str | None]:
        """The quantizer of every input; None for one that stays float."""
        return [
            spec.name if spec.quantizer is not None else None
            for spec in self.quantized.graph.inputs
        ]

    def weights(self, layer: str) -> tuple[Tensor, Tensor, Tensor]:
        """The weight of ``layer`` in float and rounded, one row per output channel, and the step of
        every channel."""
        node = self.nodes[layer]
        module: Any = self.prepared.graph.get_submodule(layer)
        unit = self.pixel_step(node.inputs[0].name)
        floating = output_rows(module).detach().flatten(1) * unit
        rounded = output_rows(module, torch.from_numpy(node.constants[0])).flatten(1)
        return floating, rounded, torch.from_numpy(node.rounded_layer.step).expand(len(floating))

    def integers(self, layer: str) -> Tensor:
        """The integer weights of ``layer``, one row per output channel."""
        module: Any = self.prepared.graph.get_submodule(layer)
        return output_rows(
            module, torch.from_numpy(self.nodes[layer].rounded_layer.weight)
        ).flatten(1)

    def range(self, quantizer: str) -> tuple[Tensor, Tensor, int]:
        """Lowest and highest real value of an activation quantizer, and how many values it has."""
        grid = self.grids[quantizer]
        low, high = map(torch.tensor, grid.ends)
        return low, high, grid.quant_max - grid.quant_min + 1

    def rounded(self, quantizer: str, x: Tensor) -> Tensor:
        """``x`` as the activation quantizer leaves it."""
        return self.grids[quantizer].rounded(x)

    def admitted(self, inputs: Inputs) -> Inputs:
        """Real ``inputs``, brought where they are pixels to those that the integer model can
        take."""
        specs = zip(inputs, self.quantized.inputs, strict=True)
        return tuple(
            Quantizer(spec.unit or 1.0).rounded(x) if spec.pixels else x for x, spec in specs
        )

    def saturates(self, name: str) -> bool:
        """Whether the quantizer of the tensor ``name`` stands for a ReLU6."""
        group = self.prepared.placement.groups.get(name, -1)
        return self.prepared.saturates(group)

    def pixel_step(self, name: str) -> float:
        """What one unit of the tensor ``name`` is worth: the pixel step, if it holds raw pixels."""
        group = self.prepared.placement.groups.get(name, -1)
        return self.prepared.input_scale or 1.0 if group in self.prepared.pixel_groups else 1.0

    @torch.no_grad()
    def run(
        self,
        batches: Sequence[Inputs],
        layers: Collection[str],
        quantizers: Collection[str],
        watch: Watch | None = None,
    ) -> Tensor:
        """The outputs for ``batches`` of real inputs with the named layers and quantizers rounded,
        all else in float.

        ``watch`` gets the name of every quantizer and what reaches it.
        """
        runner = _Runner(self, set(layers), set(quantizers), watch)
        return torch.cat([runner.run(*batch)[0] for batch in batches])


class _Runner(fx.Interpreter):
    def __init__(
        self, simulation: Simulation, layers: set[str], quantizers: set[str], watch: Watch | None
    ) -> None:
        super().__init__(simulation.prepared.graph)
        self.simulation, self.layers, self.quantizers, self.watch = (
            simulation,
            layers,
            quantizers,
            watch,
        )

    def run_node(self, n: fx.Node) -> Any:
        value = self._computed(n)
        if n.name not in self.simulation.quantizers:
            return value
        if self.watch is not None:
            self.watch(n.name, value)
        if n.name in self.quantizers:
            return self.simulation.rounded(n.name, value)
        top = saturation_top(self.simulation.prepared.config.activation_bits)
        return value.clamp(max=top) if self.simulation.saturates(n.name) else value

    def _computed(self, n: fx.Node) -> Any:
        if n.op == "placeholder":
            return super().run_node(n) / self.simulation.pixel_step(n.name)
        if (
            not is_layer(self.simulation.prepared.graph, n)
            or str(n.target) not in self.simulation.nodes
        ):
            return super().run_node(n)
        source: Any = n.args[0]
        x, name = self.env[source], str(n.target)
        if name in self.layers:
            node = self.simulation.nodes[name]
            return node.reals(x, *(torch.from_numpy(array) for array in node.constants))
        return module_at(self.simulation.prepared.graph, n)(
            x * self.simulation.pixel_step(source.name)
        )
