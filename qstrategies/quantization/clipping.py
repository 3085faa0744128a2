"""Quantizers that clip the largest values, for strategies that choose ranges without training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from qstrategies.quantization.activation_quantizers import ActivationQuantizer
from qstrategies.quantization.quantizers import WeightQuantizer

SMALLEST = 1 / 32

Threshold = Callable[[Tensor, float], Tensor]
"""The absolute value [rows] to clip each row of weights [rows, n] at, for so many levels on either
side of zero: q of narrow sets, half of one more of the others."""


class LikeAnother(WeightQuantizer):
    """With the settings of ``like``."""

    def __init__(self, like: WeightQuantizer) -> None:
        super().__init__(like.bits, **like.settings)


class ClippingQuantizer(LikeAnother):
    """Its outermost levels at a ``threshold`` instead of the largest weight; per tensor at that of
    all weights together."""

    def __init__(self, like: WeightQuantizer, threshold: Threshold) -> None:
        super().__init__(like)
        self.threshold = threshold

    def step(self, rows: Tensor) -> Tensor:
        sets = rows if self.per_channel else rows.reshape(1, -1)
        levels = self.level_set
        found = self.threshold(sets, levels.reach / levels.spacing)
        return (torch.minimum(found, sets.abs().amax(1)) / levels.reach).expand(len(rows))


class LeastSquaresQuantizer(LikeAnother):
    """The step of least squared error among ``candidates`` that go down to ``SMALLEST`` of the one
    that clips nothing, each put on the grid that is exported."""

    def __init__(self, like: WeightQuantizer, candidates: int) -> None:
        super().__init__(like)
        self.ratios = torch.logspace(0, math.log2(SMALLEST), candidates, base=2.0).tolist()

    def step(self, rows: Tensor) -> Tensor:
        whole = super().step(rows)
        whole = whole if self.per_channel else whole.max().expand_as(whole)
        best, least = whole, self._errors(rows, whole)
        for ratio in self.ratios[1:]:
            errors = self._errors(rows, ratio * whole)
            best = torch.where(errors < least, ratio * whole, best)
            least = torch.minimum(errors, least)
        return best

    def _errors(self, rows: Tensor, step: Tensor) -> Tensor:
        """The squared error [out_channels], that of the whole tensor per tensor."""
        scale = self.on_grid(rows, step)[:, None]
        errors = self.nearest(rows / scale).mul_(scale).sub_(rows).square_().sum(1)
        return errors if self.per_channel else errors.sum().expand_as(errors)


class PercentileQuantizer(ActivationQuantizer):
    """Clips every batch to the range of so many ``percent`` of its values from either end before it
    is observed."""

    def __init__(self, observer: Any, percent: float) -> None:
        super().__init__(observer)
        self.percent = percent

    def observe(self, x: Tensor) -> Tensor:
        values = x.flatten()
        place = math.ceil(self.percent / 100 * len(values))
        low, high = (values.kthvalue(each).values for each in (len(values) + 1 - place, place))
        return super().observe(x.clamp(low, high))
