"""Weights and biases of a layer -> the integers that are exported."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from qstrategies.errors import InputError
from qstrategies.operators.base import TensorSpec
from qstrategies.operators.convolution import is_transposed
from qstrategies.operators.layer import RoundedLayer
from qstrategies.quantization.observers import WeightFakeQuantize
from qstrategies.quantization.scales import fit_layer

LARGEST_BIAS = 2**31 - 1


@torch.no_grad()
def rounded_layer(
    layer: Any,
    name: str,
    quantizer: WeightFakeQuantize,
    entry: TensorSpec,
    output: TensorSpec,
    unit: float,
) -> RoundedLayer:
    """The integers of ``layer``, whose weight is first multiplied by ``unit`` (the pixel step that
    is folded into it).

    Raises:
        InputError: weights that are not finite, or a bias that does not fit int32.
    """
    weight = layer.weight.detach() * unit
    bias = (
        torch.zeros(len(output_rows(layer))) if layer.bias is None else layer.bias.detach().clone()
    )
    if not (torch.isfinite(weight).all() and torch.isfinite(bias).all()):
        raise InputError(f"the weights of {name!r} are not finite: the model cannot be quantized")
    per_tensor = is_transposed(layer)  # their kernels take one scale
    per_channel = quantizer.per_channel and not per_tensor
    rows = output_rows(layer) * unit
    scale = quantizer.scale(rows, per_channel=per_channel)
    entry_scale = torch.tensor([entry.grid.scale])
    if quantizer.exact:
        shifted = output.grid.scale if output.grid.zero_point != 0 else None
        scale = fit_layer(scale, bias, entry_scale, shifted)
        scale = scale if per_channel else scale.max().expand_as(scale)
    column = scale[0] if per_tensor else scale.reshape(-1, *[1] * (weight.dim() - 1))
    steps = torch.round(bias.double() / (scale.double() * entry_scale.double()))
    if not quantizer.exact:
        steps = steps.clamp(-LARGEST_BIAS, LARGEST_BIAS)
    if steps.abs().max() > LARGEST_BIAS:
        raise InputError(
            f"the bias of {name!r} does not fit int32: its input's range is too small beside it"
        )
    integers = torch.round(weight / column).to(torch.int8)
    return RoundedLayer(
        integers.numpy(),
        scale.contiguous().numpy(),
        steps.numpy().astype(np.int32),
        per_tensor=per_tensor,
    )


def output_rows(layer: Any, weight: Tensor | None = None) -> Tensor:
    """``weight`` (default: that of ``layer``) with one row of products per output channel,
    [out_channels, ...]."""
    chosen: Tensor = layer.weight if weight is None else weight
    if not is_transposed(layer):
        return chosen
    inputs, outputs, *window = chosen.shape  # [in_channels, out_channels / groups, ...]
    grouped = chosen.reshape(layer.groups, inputs // layer.groups, outputs, *window)
    return grouped.transpose(1, 2).reshape(layer.groups * outputs, -1)
