"""Weights and biases of a layer -> the integers that are exported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qstrategies.errors import InputError
from qstrategies.operators.base import Quantizer
from qstrategies.operators.layer import RoundedLayer
from qstrategies.operators.transposed import is_transposed
from qstrategies.quantization.balance import balanced
from qstrategies.quantization.exact_forms import from_kernels, kernels_of, output_rows
from qstrategies.quantization.propagate import RoundingProblem
from qstrategies.quantization.quantizers import WeightQuantizer, check_finite
from qstrategies.quantization.recipe import Recipe, overrides
from qstrategies.quantization.scales import (
    BIAS_BUDGET,
    float_units,
    largest_pair,
    mantissa,
)

LARGEST_BIAS = 2**31 - 1
CHUNK = 2**17  # weights at a time, so that what is computed of them stays in the caches


@dataclass(frozen=True)
class Way:
    """Who chooses integers: ``chooses``, if there is one; else they are those nearest to the
    weights, moved so that their errors cancel where ``balances``. ``recipe`` corrects biases."""

    recipe: Recipe
    balances: bool
    chooses: Callable[[RoundingProblem], Tensor] | None = None


@dataclass(frozen=True, eq=False)
class Scaled:
    """A layer's real weight and bias as they are exported, and its scale [out_channels].

    ``step`` is the scale, shaped to go with the weight; ``result`` that of what is made of it.
    """

    weight: Tensor
    bias: Tensor
    scale: Tensor
    step: Tensor
    result: float


@torch.no_grad()
def scaled(
    layer: Any, name: str, quantizer: WeightQuantizer, ends: tuple[Quantizer, Quantizer]
) -> Scaled:
    """The scale of ``layer`` between tensors of the quantizers ``ends``. Raises ``InputError`` for
    weights that are not finite."""
    weight = layer.weight.detach() * quantizer.unit
    bias = (
        torch.zeros(len(output_rows(layer))) if layer.bias is None else layer.bias.detach().clone()
    )
    check_finite(bias, f"the bias of {name!r}")
    entry, output = ends
    scale = quantizer.exported_scale(output_rows(layer)).detach()
    entry_scale = torch.tensor([entry.scale])
    scale = quantizer.fitted(scale, bias, entry_scale, (output.scale, output.zero_point))
    per_tensor = is_transposed(layer)  # their kernels take one scale
    step = scale[0] if per_tensor else scale.reshape(-1, *[1] * (weight.dim() - 1))
    return Scaled(weight, bias, scale, step, output.scale)


@torch.no_grad()
def rounded_layer(
    found: Scaled, entry: Quantizer, quantizer: WeightQuantizer, way: Way, problem: RoundingProblem
) -> RoundedLayer:
    """The integers of the layer of ``problem``, which reads a tensor of the quantizer ``entry``.

    Raises:
        InputError: a bias that does not fit int32.
    """
    scale = found.scale
    steps = _bias_steps(found, found.bias, entry, problem.name, quantizer)
    integers = _integers(way, problem, scale, steps, quantizer)
    if overrides(way.recipe, "correct_bias"):
        corrected = way.recipe.correct_bias(problem, integers * found.step)
        room = torch.maximum(steps.abs(), (BIAS_BUDGET / mantissa(scale)).floor())
        room = room.clamp(max=quantizer.largest_bias)
        steps = _bias_steps(found, corrected, entry, problem.name, quantizer)
        steps = steps.clamp(-room, room) if quantizer.exact else steps
    factor = quantizer.factor
    return RoundedLayer(
        (integers * factor).to(torch.int8).numpy(),
        (scale / factor).contiguous().numpy(),
        (steps * factor).numpy().astype(np.int32),
        per_tensor=is_transposed(problem.layer),
        bits=quantizer.bits,
        factor=factor,
    )


def _integers(
    way: Way, problem: RoundingProblem, scale: Tensor, bias: Tensor, quantizer: WeightQuantizer
) -> Tensor:
    """The integers of a weight; ``scale`` and the steps of ``bias`` are [out_channels]."""
    if way.chooses is not None:
        chosen = way.chooses(problem)
        return kept_exact(problem, chosen, scale, bias, quantizer) if quantizer.exact else chosen
    to_nearest = type(quantizer).integers is WeightQuantizer.integers
    if way.balances and to_nearest:
        return balanced_integers(problem.layer, problem.weight, scale, bias, quantizer)
    return quantizer.integers(problem.weight, problem.step)


def kept_exact(
    problem: RoundingProblem,
    integers: Tensor,
    scale: Tensor,
    bias: Tensor,
    quantizer: WeightQuantizer,
) -> Tensor:
    """``integers``, but the nearest ones in the channels that these would take beyond what kernels
    add exactly (``scales.py``), for the ``scale`` and the steps of ``bias`` [out_channels]."""
    nearest = problem.nearest()
    sums = [_exact(problem.layer, each, scale, bias, quantizer) for each in (integers, nearest)]
    keeps = sums[0] | ~sums[1]
    if is_transposed(problem.layer):
        return integers if bool(keeps.all()) else nearest
    return torch.where(keeps.reshape(-1, *[1] * (integers.dim() - 1)), integers, nearest)


def _exact(
    layer: Any, integers: Tensor, scale: Tensor, bias: Tensor, quantizer: WeightQuantizer
) -> Tensor:
    """Whether kernels add up each channel exactly, [out_channels]."""
    rows = output_rows(layer, integers).flatten(1)
    fits = float_units(rows, scale, bias) < quantizer.largest_sum
    return fits & (largest_pair(rows) <= quantizer.largest_pair) if quantizer.pairs else fits


def balanced_integers(
    layer: Any, weight: Tensor, scale: Tensor, bias: Tensor, quantizer: WeightQuantizer
) -> Tensor:
    """The integers of the real ``weight``, rounded so that the errors of a channel cancel.

    Channels that this would take beyond what float32 adds exactly are rounded to nearest.
    """
    kernels = kernels_of(layer, weight)
    channels = max(1, CHUNK // max(1, kernels[0].numel()))
    rounded = [
        _balanced_channels(rows, scales, biases, quantizer)
        for rows, scales, biases in zip(
            kernels.split(channels), scale.split(channels), bias.split(channels), strict=True
        )
    ]
    return from_kernels(layer, torch.cat(rounded))


def _balanced_channels(
    kernels: Tensor, scale: Tensor, bias: Tensor, quantizer: WeightQuantizer
) -> Tensor:
    """The integers of ``kernels`` [out_channels, in_channels, window]."""
    levels = quantizer.level_set
    steps = (kernels / scale[:, None, None]).clamp_(levels.quant_min, levels.quant_max)
    nearest = quantizer.nearest(steps)
    room = [(end - levels.offset) / levels.spacing for end in _room(nearest.flatten(1), quantizer)]
    places = balanced((steps - levels.offset) / levels.spacing, room[0].ceil(), room[1].floor())
    moved = places * levels.spacing + levels.offset
    after = float_units(moved.flatten(1), scale, bias)
    if bool((after <= quantizer.largest_sum).all()):
        return moved
    exact = after <= float_units(nearest.flatten(1), scale, bias).clamp(min=quantizer.largest_sum)
    return torch.where(exact[:, None, None], moved, nearest)


def _bias_steps(
    found: Scaled, bias: Tensor, entry: Quantizer, name: str, quantizer: WeightQuantizer
) -> Tensor:
    step = found.scale.double() * entry.scale
    steps = quantizer.bias_steps(bias.double(), step, found.result)
    if not quantizer.exact:
        steps = steps.clamp(-LARGEST_BIAS, LARGEST_BIAS)
    if steps.abs().max() > LARGEST_BIAS:
        raise InputError(f"the bias of {name!r} does not fit int32: leave the layer in float")
    return steps


def _room(nearest: Tensor, quantizer: WeightQuantizer) -> tuple[Tensor, Tensor]:
    """How far weights of every row of ``nearest`` may be moved away from zero, below and above."""
    if not quantizer.limits_pairs or nearest.shape[1] < 2:
        ends = torch.tensor([quantizer.quant_min, quantizer.quant_max], dtype=nearest.dtype)
        return ends[0].expand(len(nearest)), ends[1].expand(len(nearest))
    # beside the largest weight, and beside each other
    most = quantizer.largest_pair
    lowest, highest = (end.clamp(max=most) for end in (-nearest.amin(1), nearest.amax(1)))
    low, high = (torch.minimum(most - end, torch.tensor(most / 2)) for end in (lowest, highest))
    return -low, high
