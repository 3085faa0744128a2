"""A calibrated model with any part of it quantized: the rest computes in float."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from qstrategies.quantization.convert import QuantizedModel, finalize, fold, is_rounded, output_rows, weighted_layer
from qstrategies.quantization.graph import is_quantizer
from qstrategies.quantization.observers import PixelQuantizer
from qstrategies.quantization.scales import fake_quantize
from qstrategies.records import QuantizationConfig

Inputs = tuple[Tensor, ...]
Watch = Callable[[str, Tensor], None]


class Simulation:
    """``calibrated`` is a PTQ graph with observers; it is not changed.

    ``layers`` are the names of the layers with weights, ``quantizers`` those of the places where activations are rounded,
    each with the name of the node whose output it rounds. With all of them quantized the output has the bits of the int8
    kernels, by docs/exactness.md.
    """

    def __init__(self, calibrated: fx.GraphModule, config: QuantizationConfig, shapes: Sequence[tuple[int, ...]]) -> None:
        self.floating = copy.deepcopy(calibrated)
        fold(self.floating, config)
        self.quantized: QuantizedModel = finalize(copy.deepcopy(calibrated), config, shapes)
        nodes = [node for node in self.floating.graph.nodes if weighted_layer(self.floating, node) is not None]
        self.layers = [str(node.target) for node in nodes if is_rounded(self.floating, node)]
        self.quantizers = {
            str(node.target): node.all_input_nodes[0].name for node in self.floating.graph.nodes if is_quantizer(self.floating, node)
        }
        self.input_scales = [_step(calibrated, name) for name in self.entries]

    @property
    def entries(self) -> list[str | None]:
        """The quantizer of every input; None for one that stays float."""
        found = {source: target for target, source in self.quantizers.items()}
        return [found.get(node.name) for node in self.floating.graph.find_nodes(op="placeholder")]

    def weights(self, layer: str) -> tuple[Tensor, Tensor, Tensor]:
        """The weight of ``layer`` in float and rounded, one row per output channel, and the scale of every channel."""
        floating, rounded = (_inner(model.get_submodule(layer)) for model in (self.floating, self.quantized.prepared))
        rows = [output_rows(inner).detach().flatten(1) for inner in (floating, rounded)]
        return rows[0], rows[1], rounded.qconfig.weight().scale.expand(len(rows[0]))

    def range(self, quantizer: str) -> tuple[Tensor, Tensor, int]:
        """Lowest and highest real value of an activation quantizer, and how many values it has."""
        fixed: Any = self.floating.get_submodule(quantizer)
        ends = (torch.tensor((end - fixed.zero_point) * fixed.scale) for end in (fixed.quant_min, fixed.quant_max))
        return *ends, fixed.quant_max - fixed.quant_min + 1

    def rounded(self, quantizer: str, x: Tensor) -> Tensor:
        """``x`` as the activation quantizer leaves it."""
        fixed: Any = self.floating.get_submodule(quantizer)
        return fake_quantize(x, torch.tensor(fixed.scale), int(fixed.zero_point), fixed.quant_min, fixed.quant_max)

    @torch.no_grad()
    def run(self, batches: Sequence[Inputs], layers: Collection[str], quantizers: Collection[str], watch: Watch | None = None) -> Tensor:
        """The outputs for ``batches`` of real inputs with the named layers and quantizers rounded, all else in float.

        ``watch`` gets the name of every quantizer and what reaches it.
        """
        runner = _Runner(self, set(layers), set(quantizers), watch)
        scaled = [tuple(x / scale for x, scale in zip(batch, self.input_scales, strict=True)) for batch in batches]
        return torch.cat([runner.run(*batch) for batch in scaled])


class _Runner(fx.Interpreter):
    def __init__(self, simulation: Simulation, layers: set[str], quantizers: set[str], watch: Watch | None) -> None:
        super().__init__(simulation.floating)
        self.simulation, self.layers, self.quantizers, self.watch = simulation, layers, quantizers, watch

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        name = str(target)
        if name in self.layers:
            return self.simulation.quantized.prepared.get_submodule(name)(*args, **kwargs)
        if name not in self.simulation.quantizers:
            return super().call_module(target, args, kwargs)
        if self.watch is not None:
            self.watch(name, args[0])
        return self.simulation.rounded(name, args[0]) if name in self.quantizers else args[0]


def _inner(module: nn.Module) -> Any:
    return module[0] if isinstance(module, nn.Sequential) else module


def _step(calibrated: fx.GraphModule, quantizer: str | None) -> float:
    """What one unit of the folded model's input is worth: the pixel step where that was folded into the weights."""
    module = None if quantizer is None else calibrated.get_submodule(quantizer)
    return module.scale if isinstance(module, PixelQuantizer) else 1.0
