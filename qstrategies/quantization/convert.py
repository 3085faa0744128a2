"""Observed FX graph -> real int8 kernels, and the same numbers as a reference graph for export."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.ao.quantization import QConfig
from torch.ao.quantization.quantize_fx import _convert_to_reference_decomposed_fx, convert_fx

from qstrategies.errors import InputError
from qstrategies.guest import guest, selected_engine
from qstrategies.quantization.exact_forms import TRANSPOSED, tabulate
from qstrategies.quantization.graph import called, input_quantizers, is_quantizer, moved_from
from qstrategies.quantization.observers import FixedTensorWeightObserver, FixedWeightObserver, PixelQuantizer, WeightFakeQuantize
from qstrategies.quantization.prepare import backend_config
from qstrategies.quantization.ranges import freeze_ranges
from qstrategies.quantization.scales import fit_layer
from qstrategies.quantization.stand_ins import replace_inexact_kernels
from qstrategies.records import QuantizationConfig


@dataclass(frozen=True)
class InputSpec:
    """One input: its name, the shape of one example, and its quantizer; ``scale`` None for one that stays float.

    Raw pixels have scale 1 and zero point 0: the quantizer's integers are the values themselves.
    """

    name: str
    shape: tuple[int, ...]
    scale: float | None
    zero_point: int

    def integers(self, values: Tensor) -> Tensor:
        """Real ``values`` as the uint8 that the exported file takes; uint8 is taken to be that already."""
        if self.scale is None:
            return values.float()
        if values.dtype == torch.uint8:
            return values
        return torch.clamp(torch.round(values / self.scale) + self.zero_point, 0, 255).to(torch.uint8)

    def reals(self, integers: Tensor) -> Tensor:
        """The inverse of ``integers`` on the grid: what the int8 module takes."""
        if self.scale is None:
            return integers
        return (integers.float() - self.zero_point) * self.scale


class Int8Module(fx.GraphModule):
    """A graph of int8 kernels that runs with the engine it was packed for, ``meta["engine"]``, whatever is selected.

    Some kernels (additions, activations, pools) ask for the engine each time they run. It belongs to the whole process, so
    that calls of several threads take turns, and wait for every other call into this package. What no lock can prevent:
    a thread that sets ``torch.backends.quantized.engine`` itself during a call changes the kernels of that call, and an int8
    module from elsewhere that runs meanwhile meets the engine of this one. ``forward`` alone, which TorchScript compiles,
    selects nothing.
    """

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        with selected_engine(self.meta["engine"]):
            return super().__call__(*arguments, **named)


@dataclass(frozen=True)
class QuantizedModel:
    """A calibrated model whose weights and biases lie on their integer grids.

    ``prepared`` is the FX graph with every quantizer decided.
    """

    prepared: fx.GraphModule
    config: QuantizationConfig
    inputs: tuple[InputSpec, ...]

    @guest
    def int8(self, engine: str | None = None) -> Int8Module:
        """The model with the int8 kernels of ``engine`` (default: the configured one), which it selects whenever it is called."""
        engine = engine or self.config.engine
        with selected_engine(engine), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            int8 = convert_fx(copy.deepcopy(self.prepared), backend_config=backend_config())
        if self.config.exact:
            replace_inexact_kernels(int8, engine, self.prepared)
        module = Int8Module(int8, int8.graph)
        module.meta["engine"] = engine
        return module

    @guest
    def reference(self) -> fx.GraphModule:
        """The same function in float arithmetic between quantize / dequantize pairs."""
        prepared = copy.deepcopy(self.prepared)
        transposed: list[Any] = [
            module for module in prepared.modules() if isinstance(module, TRANSPOSED) and getattr(module, "qconfig", None)
        ]
        for layer in transposed:  # ONNX has no form with one scale that is a tensor
            scale = layer.qconfig.weight().scale.expand(layer.weight.shape[1])
            layer.qconfig = QConfig(activation=layer.qconfig.activation, weight=functools.partial(FixedWeightObserver, scale, 1))
        return _convert_to_reference_decomposed_fx(prepared, backend_config=backend_config())

    @property
    def output_scale(self) -> float | None:
        """The step of the output; None if its last operator stays float."""
        quantizer = self.prepared.graph.output_node().all_input_nodes[0]
        return float(called(self.prepared, quantizer).calculate_qparams()[0]) if is_quantizer(self.prepared, quantizer) else None


@torch.no_grad()
def calibrate(prepared: fx.GraphModule, batches: Iterable[Tensor | tuple[Tensor, ...]]) -> None:
    """Run ``batches`` (real-valued inputs) through the observers. Raises ``InputError`` if there are none."""
    seen = False
    for batch in batches:
        prepared(*(batch if isinstance(batch, tuple) else (batch,)))
        seen = True
    if not seen:
        raise InputError("calibration needs at least one batch: got none")


@torch.no_grad()
def finalize(prepared: fx.GraphModule, config: QuantizationConfig, shapes: Sequence[tuple[int, ...]]) -> QuantizedModel:
    """Fold BN and the pixel scale, then put every weight and bias on the integer grid that is exported.

    ``prepared`` is calibrated (PTQ) or trained (QAT) and is changed in place; ``shapes`` are those of one example.
    """
    fold(prepared, config)
    for node in prepared.graph.nodes:
        layer = weighted_layer(prepared, node)
        if layer is not None and is_rounded(prepared, node):
            input_scale = called(prepared, node.args[0]).calculate_qparams()[0]
            outputs = [called(prepared, user) for user in node.users if is_quantizer(prepared, user)]
            shifted = [quantizer.scale for quantizer in outputs if quantizer.zero_point != 0]
            _snap(called(prepared, node), layer, input_scale, shifted[0] if shifted else None, config.exact)
    tabulate(prepared)
    return QuantizedModel(prepared, config, _inputs(prepared, shapes))


@torch.no_grad()
def fold(prepared: fx.GraphModule, config: QuantizationConfig) -> None:
    """The float model that ``finalize`` rounds: ranges decided, BN and the pixel scale in the weights. In place."""
    prepared.cpu().eval()
    freeze_ranges(prepared, config)
    _fold_batch_norm(prepared)
    _fold_input_scale(prepared)


def _inputs(prepared: fx.GraphModule, shapes: Sequence[tuple[int, ...]]) -> tuple[InputSpec, ...]:
    placeholders = prepared.graph.find_nodes(op="placeholder")
    specs = []
    for node, shape in zip(placeholders, shapes, strict=True):
        quantizers = [called(prepared, user) for user in node.users if is_quantizer(prepared, user)]
        scale, zero_point = (quantizers[0].scale, quantizers[0].zero_point) if quantizers else (None, 0)
        specs.append(InputSpec(node.name, tuple(shape), scale, zero_point))
    return tuple(specs)


def _fold_batch_norm(prepared: fx.GraphModule) -> None:
    modules: list[tuple[str, Any]] = list(prepared.named_modules())
    for name, module in modules:
        if hasattr(module, "weight_fake_quant"):
            plain = module.to_float().eval()
            plain.qconfig = module.qconfig
            prepared.set_submodule(name, plain)


def _fold_input_scale(prepared: fx.GraphModule) -> None:
    """Multiply the known step of the input (the pixel scale) into the layers that read it, if only layers do."""
    for entry in input_quantizers(prepared):
        quantizer, moved = called(prepared, entry), moved_from(prepared, entry)
        layers = [weighted_layer(prepared, reader) for reader in moved.readers]
        if not isinstance(quantizer, PixelQuantizer) or any(layer is None for layer in layers):
            continue
        for layer in layers:
            layer.weight.mul_(quantizer.scale)  # type: ignore[union-attr]
        for node in (entry, *moved.quantizers):
            called(prepared, node).scale = 1.0


def weighted_layer(prepared: fx.GraphModule, node: fx.Node) -> Any | None:
    """The layer with the weight behind ``node``, looking into fused modules; None if there is none."""
    if node.op != "call_module":
        return None
    module = called(prepared, node)
    inner = module[0] if isinstance(module, nn.Sequential) else module
    return inner if isinstance(getattr(inner, "weight", None), nn.Parameter) else None


def is_rounded(prepared: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the weighted layer at ``node`` is quantized: not left in float, and fed by a quantizer."""
    source: Any = node.args[0]
    return getattr(called(prepared, node), "qconfig", None) is not None and is_quantizer(prepared, source)


def _snap(module: Any, layer: Any, input_scale: Tensor, output_scale: float | None, exact: bool) -> None:
    quantizer: WeightFakeQuantize = module.qconfig.weight()
    rows = output_rows(layer)
    if layer.bias is None:  # integer kernels add one anyway, and the exporter would compute the zeros in the graph
        layer.bias = nn.Parameter(torch.zeros(len(rows)), requires_grad=False)
    per_tensor = isinstance(layer, TRANSPOSED)  # the kernels of transposed convolutions take one scale
    per_channel = quantizer.per_channel and not per_tensor
    scale = quantizer.scale(rows, per_channel=per_channel)
    if exact:
        scale = fit_layer(scale, layer.bias, input_scale, output_scale)
        scale = scale if per_channel else scale.max().expand_as(scale)
    column = scale[0] if per_tensor else scale.reshape(-1, *[1] * (layer.weight.dim() - 1))
    layer.weight.copy_(torch.round(layer.weight / column) * column)
    if exact:
        step = scale * input_scale
        layer.bias.copy_(torch.round(layer.bias / step) * step)
    fixed = functools.partial(FixedTensorWeightObserver, scale[:1]) if per_tensor else functools.partial(FixedWeightObserver, scale)
    layer.qconfig = module.qconfig = QConfig(activation=module.qconfig.activation, weight=fixed)


def output_rows(layer: Any) -> Tensor:
    """The weight with one row of products per output channel, shape [out_channels, ...]."""
    if not isinstance(layer, TRANSPOSED):
        return layer.weight
    inputs, outputs, *window = layer.weight.shape  # [in_channels, out_channels / groups, ...]
    grouped = layer.weight.reshape(layer.groups, inputs // layer.groups, outputs, *window)
    return grouped.transpose(1, 2).reshape(layer.groups * outputs, -1)
