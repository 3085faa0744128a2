"""Observed FX graph -> real int8 kernels, and the same numbers as a reference graph for export."""

from __future__ import annotations

import copy
import functools
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.ao.quantization import QConfig
from torch.ao.quantization.quantize_fx import _convert_to_reference_decomposed_fx, convert_fx

from qstrategies.quantization.observers import FixedQuantizer, FixedWeightObserver, WeightFakeQuantize
from qstrategies.quantization.prepare import backend_config, called, input_quantizers, is_quantizer
from qstrategies.quantization.scales import fit_bias
from qstrategies.records import QuantizationConfig


@dataclass(frozen=True)
class QuantizedModel:
    """A calibrated model whose weights and biases lie on their integer grids; takes raw pixels 0...255 as floats.

    ``prepared`` is the FX graph with every quantizer decided; ``input_shape`` is that of one image.
    """

    prepared: fx.GraphModule
    config: QuantizationConfig
    input_shape: tuple[int, ...]

    def int8(self, engine: str | None = None) -> nn.Module:
        """The model with the int8 kernels of ``engine`` (default: the configured one)."""
        torch.backends.quantized.engine = engine or self.config.engine
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return convert_fx(copy.deepcopy(self.prepared), backend_config=backend_config())

    def reference(self) -> fx.GraphModule:
        """The same function in float arithmetic between quantize / dequantize pairs."""
        return _convert_to_reference_decomposed_fx(copy.deepcopy(self.prepared), backend_config=backend_config())

    @property
    def output_scale(self) -> float:
        """The step of the logits."""
        (output,) = next(node for node in self.prepared.graph.nodes if node.op == "output").all_input_nodes
        return float(called(self.prepared, output).calculate_qparams()[0])


@torch.no_grad()
def calibrate(prepared: fx.GraphModule, batches: list[Tensor]) -> None:
    """Run ``batches`` (real-valued inputs) through the observers."""
    for batch in batches:
        prepared(batch)


@torch.no_grad()
def finalize(prepared: fx.GraphModule, config: QuantizationConfig, input_shape: tuple[int, ...]) -> QuantizedModel:
    """Fold BN and the pixel scale, then put every weight and bias on the integer grid that is exported.

    ``prepared`` is calibrated (PTQ) or trained (QAT) and is changed in place.
    """
    prepared.cpu().eval()
    _freeze_ranges(prepared)
    _fold_batch_norm(prepared)
    _fold_input_scale(prepared)
    for node in prepared.graph.nodes:
        layer = weighted_layer(prepared, node)
        if layer is not None:
            input_scale = called(prepared, node.args[0]).calculate_qparams()[0]
            _snap(called(prepared, node), layer, input_scale, config.exact)
    return QuantizedModel(prepared, config, input_shape)


def _freeze_ranges(prepared: fx.GraphModule) -> None:
    for node in prepared.graph.nodes:
        if is_quantizer(prepared, node):
            observer = called(prepared, node)
            scale, zero_point = observer.calculate_qparams()
            fixed = FixedQuantizer(scale.item(), zero_point.item(), observer.quant_min, observer.quant_max)
            prepared.set_submodule(str(node.target), fixed)


def _fold_batch_norm(prepared: fx.GraphModule) -> None:
    modules: list[tuple[str, Any]] = list(prepared.named_modules())
    for name, module in modules:
        if hasattr(module, "weight_fake_quant"):
            plain = module.to_float().eval()
            plain.qconfig = module.qconfig
            prepared.set_submodule(name, plain)


def _fold_input_scale(prepared: fx.GraphModule) -> None:
    for entry in input_quantizers(prepared):
        quantizer = called(prepared, entry)
        assert isinstance(quantizer, FixedQuantizer)
        for user in entry.users:
            layer = weighted_layer(prepared, user)
            if layer is not None:
                layer.weight.mul_(quantizer.scale)
        quantizer.scale = 1.0


def weighted_layer(prepared: fx.GraphModule, node: fx.Node) -> Any | None:
    """The layer with the weight behind ``node``, looking into fused modules; None if there is none."""
    if node.op != "call_module":
        return None
    module = called(prepared, node)
    inner = module[0] if isinstance(module, nn.Sequential) else module
    return inner if isinstance(getattr(inner, "weight", None), nn.Parameter) else None


def _snap(module: Any, layer: Any, input_scale: Tensor, exact: bool) -> None:
    quantizer: WeightFakeQuantize = module.qconfig.weight()
    scale = quantizer.scale(layer.weight)
    if exact and layer.bias is not None:
        scale = fit_bias(scale, layer.bias, input_scale)
    column = scale.reshape(-1, *[1] * (layer.weight.dim() - 1))
    layer.weight.copy_(torch.round(layer.weight / column) * column)
    if layer.bias is not None and exact:
        step = scale * input_scale
        layer.bias.copy_(torch.round(layer.bias / step) * step)
    fixed = functools.partial(FixedWeightObserver, scale)
    layer.qconfig = module.qconfig = QConfig(activation=module.qconfig.activation, weight=fixed)
