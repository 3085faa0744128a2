"""Exact stand-ins for two of qnnpack's int8 kernels.

Its addition rounds ties away from zero, where every other executor rounds them to even; its ReLU6 writes its output in
another memory layout than it reads, so that values change places. Both are done in float between dequantize and quantize,
which is exact under the conditions of ``scales.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn


def replace_inexact_kernels(int8: fx.GraphModule) -> None:
    """Put the stand-ins into a converted model. In place."""
    for node in int8.graph.nodes:
        if node.op == "call_function" and node.target in _STAND_INS:
            node.target = _STAND_INS[node.target]
        elif node.op == "call_module" and isinstance(clamp := int8.get_submodule(str(node.target)), nn.Hardtanh):
            int8.set_submodule(str(node.target), Clamp(clamp.min_val, clamp.max_val))
    int8.recompile()


class Clamp(nn.Module):
    """A quantized tensor clamped to [low, high] (real values), in the same quantizer."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x: Tensor) -> Tensor:
        return torch.quantize_per_tensor(x.dequantize().clamp(self.low, self.high), x.q_scale(), x.q_zero_point(), x.dtype)


def add(a: Tensor, b: Tensor, scale: float, zero_point: int) -> Tensor:
    """``torch.ops.quantized.add`` with ties rounded to even."""
    return torch.quantize_per_tensor(a.dequantize() + b.dequantize(), scale, zero_point, a.dtype)


def add_relu(a: Tensor, b: Tensor, scale: float, zero_point: int) -> Tensor:
    """``torch.ops.quantized.add_relu`` with ties rounded to even."""
    return torch.quantize_per_tensor((a.dequantize() + b.dequantize()).relu_(), scale, zero_point, a.dtype)


_STAND_INS = {torch.ops.quantized.add: add, torch.ops.quantized.add_relu: add_relu}
