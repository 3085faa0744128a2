"""Weights that are drawn to their levels instead of rounded (PARQ: Jin et al., arXiv
2503.15748)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qstrategies.quantization.quantizers import WeightQuantizer
from qstrategies.quantization.scales import straight_through


class ProximalStep(WeightQuantizer):
    """``clip(c + (u - c) / r, lower, upper)`` between two levels with the middle ``c`` in training,
    with the gradient 1; rounded in evaluation, and where the inverse slope ``r`` is 0."""

    inverse_slope: Tensor

    def __init__(self, like: WeightQuantizer) -> None:
        super().__init__(like.bits, **like.settings)
        self.register_buffer("inverse_slope", torch.ones(()))

    def rounded(self, weight: Tensor, scale: Tensor) -> Tensor:
        if not self.training or self.inverse_slope == 0:
            return super().rounded(weight, scale)
        spacing, offset = self.level_set.spacing, self.level_set.offset
        steps = (weight / scale).detach()
        middle = ((steps - offset) / spacing).floor() * spacing + offset + spacing / 2
        away = ((steps - middle) / self.inverse_slope).clamp(-spacing / 2, spacing / 2)
        drawn = (middle + away).clamp(self.quant_min, self.quant_max)
        return straight_through(drawn * scale, weight)


def falling(done: float, steepness: float) -> float:
    """The inverse slope, from 1 to 0 as ``done`` goes from 0 to 1."""
    first, last, now = (1 / (1 + math.exp(steepness * (x - 0.5))) for x in (0, 1, done))
    return (now - last) / (first - last)
