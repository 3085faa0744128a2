"""What the integers of a quantized model guarantee, per layer: the conditions of ``scales.py`` checked, not assumed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from qstrategies.quantization.convert import QuantizedModel, weighted_layer
from qstrategies.quantization.graph import called
from qstrategies.quantization.scales import FLOAT_EXACT, mantissa, reciprocal_safe


@dataclass(frozen=True)
class LayerExactness:
    """``accumulator``: largest possible |partial sum|, in integers; ``float_bound``: the same times the mantissa."""

    name: str
    accumulator: int
    float_bound: float
    largest_pair: int
    exact_scales: bool


def layer_exactness(quantized: QuantizedModel) -> list[LayerExactness]:
    """One entry per layer with weights, in the order of the graph."""
    found = []
    for node in quantized.prepared.graph.nodes:
        layer = weighted_layer(quantized.prepared, node)
        if layer is not None:
            module = called(quantized.prepared, node)
            input_scale, zero_point = _qparams(quantized.prepared, node.args[0])
            scale = module.qconfig.weight().calculate_qparams()[0].double()
            found.append(_layer(str(node.target), layer.weight, layer.bias, scale, input_scale, zero_point))
    return found


def _layer(name: str, weight: Tensor, bias: Tensor | None, scale: Tensor, input_scale: float, zero_point: int) -> LayerExactness:
    integers = torch.round(weight.detach().double().flatten(1) / scale[:, None])
    offset = torch.zeros_like(scale) if bias is None else bias.detach().double() / (scale * input_scale)
    one_sided = torch.maximum(integers.clamp(min=0).sum(1), -integers.clamp(max=0).sum(1))
    accumulator = one_sided * 255 + offset.abs()
    power_of_two = bool(mantissa(torch.tensor(input_scale)) == 1)
    pairs = integers.abs().topk(min(2, integers.shape[1])).values.sum(1)
    return LayerExactness(
        name=name,
        accumulator=int(accumulator.max()),
        float_bound=float((accumulator * mantissa(scale.float())).max()),
        largest_pair=int(pairs.max()),
        exact_scales=power_of_two and zero_point % 2 == 0 and bool((offset == offset.round()).all() and reciprocal_safe(scale).all()),
    )


def _qparams(prepared: fx.GraphModule, node: Any) -> tuple[float, int]:
    scale, zero_point = called(prepared, node).calculate_qparams()
    return float(scale), int(zero_point)


def guarantees(quantized: QuantizedModel) -> dict[str, Any]:
    """The model's promise: exact on integer kernels, exact on float executors, safe from 16-bit saturation."""
    layers = layer_exactness(quantized)
    exact = all(layer.exact_scales for layer in layers)
    return {
        "integer_kernels": exact and all(layer.accumulator < 2**31 for layer in layers),
        "float_executors": exact and all(layer.float_bound < FLOAT_EXACT for layer in layers),
        "saturation_safe": all(layer.largest_pair <= 128 for layer in layers),
        "largest_accumulator": max(layer.accumulator for layer in layers),
    }
