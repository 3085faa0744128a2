"""Exact stand-ins for int8 kernels of PyTorch 2.13 that compute something else than the graph says.

* Averages over other than a power of two are multiplied by the float nearest to 1 / n, in some kernels in one operation with
  adding the zero point; ties then go the wrong way.
* qnnpack's addition rounds ties away from zero, where every other executor rounds them to even; its ReLU6 writes its output in
  another memory layout than it reads, so that values change places.
* fbgemm packs wrong weights for some transposed convolutions with a 2 x 2 kernel, as with channels in multiples of 8. The engine
  x86 takes that kernel on CPUs without VNNI.

All are done in float between dequantize and quantize, which is exact under the conditions of ``scales.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.ao.nn import quantized
from torch.nn import functional


def replace_inexact_kernels(int8: fx.GraphModule, engine: str, prepared: fx.GraphModule) -> None:
    """Put the stand-ins for ``engine`` into ``int8``, which was converted from ``prepared``. In place."""
    functions, modules = (_AVERAGES[index] | own for index, own in enumerate(_STAND_INS.get(engine, ({}, {}))))
    for node in int8.graph.nodes:
        if node.op in ("call_function", "call_method") and node.target in functions:
            node.op, node.target = "call_function", functions[node.target]
        elif node.op == "call_module" and (kind := type(layer := int8.get_submodule(str(node.target)))) in modules:
            int8.set_submodule(str(node.target), modules[kind](layer, prepared.get_submodule(str(node.target))))
    int8.recompile()


def in_float(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``function`` of a quantized tensor (of any other: itself), computed in float and rounded to the same quantizer."""

    def stand_in(x: Tensor, *arguments: Any, **named: Any) -> Tensor:
        if not x.is_quantized:
            return function(x, *arguments, **named)
        return torch.quantize_per_tensor(function(x.dequantize(), *arguments, **named), x.q_scale(), x.q_zero_point(), x.dtype)

    return stand_in


class InFloat(nn.Module):
    """A layer without weights on a quantized tensor: see ``in_float``."""

    def __init__(self, layer: nn.Module, _: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return in_float(self.layer.forward)(x)


class TransposedConvolution(nn.Module):
    """``prepared``, whose weights are on their grid, and the rounding of ``layer``, the int8 layer made from it."""

    def __init__(self, layer: Any, prepared: nn.Module) -> None:
        super().__init__()
        self.prepared, self.scale, self.zero_point = prepared, layer.scale, layer.zero_point

    def forward(self, x: Tensor) -> Tensor:
        return torch.quantize_per_tensor(self.prepared(x.dequantize()), self.scale, self.zero_point, x.dtype)


def add(a: Tensor, b: Tensor, scale: float, zero_point: int) -> Tensor:
    """``torch.ops.quantized.add`` with ties rounded to even."""
    return torch.quantize_per_tensor(a.dequantize() + b.dequantize(), scale, zero_point, a.dtype)


def add_relu(a: Tensor, b: Tensor, scale: float, zero_point: int) -> Tensor:
    """``torch.ops.quantized.add_relu`` with ties rounded to even."""
    return torch.quantize_per_tensor((a.dequantize() + b.dequantize()).relu_(), scale, zero_point, a.dtype)


_AVERAGES: Any = (
    {name: in_float(torch.mean) for name in (torch.mean, "mean")}
    | {
        name: in_float(name)
        for name in (functional.avg_pool1d, functional.avg_pool2d, functional.adaptive_avg_pool1d, functional.adaptive_avg_pool2d)
    },
    dict.fromkeys((nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d), InFloat),
)
_TRANSPOSED = (quantized.ConvTranspose1d, quantized.ConvTranspose2d, quantized.ConvTranspose3d)
_FBGEMM: Any = ({}, dict.fromkeys(_TRANSPOSED, TransposedConvolution))
_STAND_INS: dict[str, Any] = {
    "qnnpack": ({torch.ops.quantized.add: add, torch.ops.quantized.add_relu: add_relu}, {nn.ReLU6: InFloat, nn.Hardtanh: InFloat}),
    "fbgemm": _FBGEMM,
    "x86": _FBGEMM,
}
