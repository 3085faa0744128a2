"""What convolutions, transposed convolutions and linear layers share: integer weights, scales and
biases."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qstrategies.operators.arithmetic import rounded
from qstrategies.operators.base import Array, Node, Site, Writer, column


@dataclass(frozen=True, eq=False)
class RoundedLayer:
    """A layer's integers.

    Attributes:
        weight: int8, in the layout of the torch module.
        scale: float32 [out_channels]; all equal where ``per_tensor``.
        bias: int32 [out_channels], in steps of the input's scale times ``scale``.
        per_tensor: whether kernels take one scale.
        bits: that the weights were rounded to.
        factor: of which all weights are multiples (``quantization/fixed_point.py``).
    """

    weight: Array
    scale: Array
    bias: Array
    per_tensor: bool = False
    bits: int = 8
    factor: int = 1

    @property
    def levels(self) -> Array:
        """What the weight was rounded to, int8."""
        return self.weight // np.int8(self.factor)

    @property
    def step(self) -> Array:
        """The real value of one of ``levels``, float32 [out_channels]."""
        return self.scale * np.float32(self.factor)


@dataclass(frozen=True, eq=False, kw_only=True)
class Layer(Node):
    """``relu``: whether negative results become zero before they are rounded. ``axis`` of the
    weight has the scales."""

    rounded_layer: RoundedLayer
    relu: bool = False

    @property
    def bias_scale(self) -> Array:
        """The step of the accumulator per channel, float32: exact for exact scales."""
        return (self.rounded_layer.scale * np.float32(self.inputs[0].grid.scale)).astype(np.float32)

    @property
    def weight_axis(self) -> int:
        """The dimension of the weight that ``scale`` belongs to."""
        return 0

    @property
    def weight_scale(self) -> Array:
        """The scale along ``weight_axis``."""
        return self.rounded_layer.scale

    @property
    def constants(self) -> tuple[Array, ...]:
        """The real weight and bias."""
        weight = self.rounded_layer.weight
        shape = [1] * weight.ndim
        shape[self.weight_axis] = -1
        real = weight.astype(np.float32) * self.weight_scale.reshape(shape)
        return real, self.rounded_layer.bias.astype(np.float32) * self.bias_scale

    def finish(self, total: Array) -> Array:
        """The accumulators [N, out_channels, ...] with bias, ReLU and rounding."""
        total = total + column(self.rounded_layer.bias, total.ndim)
        if self.relu:
            total = np.maximum(total, 0)
        ratio = self.rounded_layer.scale.astype(np.float64) * self.inputs[0].grid.scale
        return rounded(total, column(ratio, total.ndim) / self.output.grid.scale, self.output.grid)

    def packed_weight(self) -> Tensor:
        """The weight as PyTorch's kernels take it."""
        weight = torch.from_numpy(self.rounded_layer.weight)
        scale = torch.from_numpy(self.weight_scale).double()
        if self.rounded_layer.per_tensor:
            return torch._make_per_tensor_quantized_tensor(weight, float(scale[0]), 0)
        zero_points = torch.zeros(len(scale), dtype=torch.long)
        return torch._make_per_channel_quantized_tensor(
            weight, scale, zero_points, self.weight_axis
        )

    def packed_bias(self) -> Tensor:
        """The real bias, which PyTorch's kernels put on their grid: it lies there."""
        return torch.from_numpy(self.constants[1])

    def write_layer(self, to: Writer, op: str, **attributes: Any) -> None:
        """Write DequantizeLinear of weight and bias, ``op``, ReLU and QuantizeLinear."""
        name, layer = self.name, self.rounded_layer
        zero_point = np.zeros(
            len(self.weight_scale), np.int8
        )  # without it ONNX Runtime makes no QGemm
        weight = [
            to.constant(f"{name}.weight", layer.weight),
            to.constant(f"{name}.weight_scale", self.weight_scale),
            to.constant(f"{name}.weight_zero_point", zero_point),
        ]
        bias = [
            to.constant(f"{name}.bias", layer.bias),
            to.constant(f"{name}.bias_scale", self.bias_scale),
        ]
        operands = [
            to.real(self.inputs[0]),
            to.emit("DequantizeLinear", weight, f"{name}.weight_real", axis=self.weight_axis),
            to.emit("DequantizeLinear", bias, f"{name}.bias_real", axis=0),
        ]
        result = to.emit(op, operands, f"{name}.accumulated", **attributes)
        if self.relu:
            result = to.emit("Relu", [result], f"{name}.relu")
        to.give(self.output, result)


def layer_fields(site: Site) -> dict[str, Any]:
    """The fields of a ``Layer`` at ``site``."""
    assert site.layer is not None
    return {**site.ends, "rounded_layer": site.layer, "relu": site.relu}


def own_copy(
    weight: Tensor, bias: Tensor | None, kind: type[nn.Module], *arguments: Any, **named: Any
) -> nn.Module:
    """A layer of ``kind`` with copies of these parameters, in eval mode; no others are drawn."""
    layer: Any = kind(*arguments, bias=bias is not None, device="meta", **named)
    layer.weight = own_parameter(weight)
    if bias is not None:
        layer.bias = own_parameter(bias)
    evaluated: nn.Module = layer.eval()
    return evaluated


def own_parameter(value: Tensor) -> nn.Parameter:
    """A copy of ``value`` to be trained as it is (``take``)."""
    own = nn.Parameter(torch.empty_like(value, memory_format=torch.contiguous_format))
    take(own, value)
    return own


def own_module(module: nn.Module) -> nn.Module:
    """A copy of ``module`` to be trained as it is: what both have remembers its ``origin``."""
    own: Any = copy.deepcopy(module)
    for kind in ("named_parameters", "named_buffers"):
        origins = dict(getattr(module, kind)())
        for name, each in getattr(own, kind)():
            each.origin = origins[name]
    return own


@torch.no_grad()
def take(own: Tensor, value: Tensor) -> None:
    """Let ``own`` be as ``value``, which it remembers as its ``origin``, and a parameter be trained
    if that is, or is computed from what is."""
    own.copy_(value)
    own.origin = value  # type: ignore[attr-defined]
    if isinstance(own, nn.Parameter):
        own.requires_grad_(value.requires_grad)
