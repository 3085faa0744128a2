"""Weights and biases of a layer -> the integers that are exported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qstrategies.errors import InputError
from qstrategies.operators.base import Quantizer
from qstrategies.operators.convolution import is_transposed
from qstrategies.operators.layer import RoundedLayer
from qstrategies.quantization.balance import balanced
from qstrategies.quantization.exact_forms import from_kernels, kernels_of, output_rows
from qstrategies.quantization.quantizers import WeightQuantizer
from qstrategies.quantization.scales import FLOAT_EXACT, LARGEST_PAIR, fit_layer, float_units

LARGEST_BIAS = 2**31 - 1


Round = Callable[[Tensor, Tensor], Tensor]
"""The integers of a real weight for a scale that is shaped to go with it."""


@torch.no_grad()
def rounded_layer(
    layer: Any, name: str, quantizer: WeightQuantizer, ends: tuple[Quantizer, Quantizer], to: Round
) -> RoundedLayer:
    """The integers of ``layer`` between tensors of the quantizers ``ends``, ``to`` rounding its
    weight.

    Raises:
        InputError: weights that are not finite, or a bias that does not fit int32.
    """
    weight = layer.weight.detach() * quantizer.unit
    bias = (
        torch.zeros(len(output_rows(layer))) if layer.bias is None else layer.bias.detach().clone()
    )
    if not (torch.isfinite(weight).all() and torch.isfinite(bias).all()):
        raise InputError(f"the weights of {name!r} are not finite: the model cannot be quantized")
    entry, output = ends
    scale = quantizer.exported_scale(output_rows(layer)).detach()
    entry_scale = torch.tensor([entry.scale])
    if quantizer.exact:
        shifted = output.scale if output.zero_point != 0 else None
        scale = fit_layer(scale, bias, entry_scale, shifted)
        scale = scale if quantizer.per_channel else scale.max().expand_as(scale)
    per_tensor = is_transposed(layer)  # their kernels take one scale
    column = scale[0] if per_tensor else scale.reshape(-1, *[1] * (weight.dim() - 1))
    return RoundedLayer(
        to(weight, column).to(torch.int8).numpy(),
        scale.contiguous().numpy(),
        _bias_steps(name, bias, scale, entry_scale, quantizer).numpy().astype(np.int32),
        per_tensor=per_tensor,
    )


def _bias_steps(
    name: str, bias: Tensor, scale: Tensor, entry_scale: Tensor, quantizer: WeightQuantizer
) -> Tensor:
    steps = torch.round(bias.double() / (scale.double() * entry_scale.double()))
    if not quantizer.exact:
        steps = steps.clamp(-LARGEST_BIAS, LARGEST_BIAS)
    if steps.abs().max() > LARGEST_BIAS:
        raise InputError(
            f"the bias of {name!r} does not fit int32: its input's range is too small beside it"
        )
    return steps


@torch.no_grad()
def balanced_layer(rounded: RoundedLayer, layer: Any, quantizer: WeightQuantizer) -> RoundedLayer:
    """``rounded``, which ``layer`` is to nearest, with weights moved so that their errors cancel.

    Channels that a move would take beyond what float32 adds exactly stay as they are.
    """
    kernels = kernels_of(layer, layer.weight.detach() * quantizer.unit)
    scale = torch.from_numpy(rounded.scale)
    largest = float(quantizer.quant_max)
    steps = (kernels / scale[:, None, None]).clamp(-largest, largest)
    nearest = torch.round(steps)
    moved = balanced(steps, *_room(nearest.flatten(1), quantizer))
    bias = torch.from_numpy(rounded.bias)
    before, after = (float_units(integers.flatten(1), scale, bias) for integers in (nearest, moved))
    exact = after <= before.clamp(min=FLOAT_EXACT)
    integers = torch.where(exact[:, None, None], moved, nearest)
    weight = from_kernels(layer, integers).to(torch.int8)
    return replace(rounded, weight=weight.numpy())


def _room(nearest: Tensor, quantizer: WeightQuantizer) -> tuple[Tensor, Tensor]:
    """How far weights of every row of ``nearest`` may be moved away from zero, below and above."""
    largest = torch.full((len(nearest),), float(quantizer.quant_max))
    if not quantizer.pairs or quantizer.bits < 8 or nearest.shape[1] < 2:
        return -largest, largest
    # beside the largest weight, and beside each other
    lowest, highest = (end.clamp(max=LARGEST_PAIR) for end in (-nearest.amin(1), nearest.amax(1)))
    low, high = (
        torch.minimum(LARGEST_PAIR - end, torch.tensor(LARGEST_PAIR / 2))
        for end in (lowest, highest)
    )
    return -low, high
