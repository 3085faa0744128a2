"""Weights that jump between two neighbouring integers while they are trained (Nagel et al., arXiv
2203.11086)."""

from __future__ import annotations

import torch
from torch import Tensor

from qstrategies.quantization.fake_quantized import FakeQuantizedLayer
from qstrategies.quantization.learned import LearnedStep
from qstrategies.quantization.quantizers import WeightQuantizer


class FreezingStep(LearnedStep):
    """A learned step that keeps an integer of the weight for good once it oscillates too often.

    Buffers of the shape of the weight: ``latest`` integers, the ``direction`` of the last change,
    how ``often`` a change was undone and the ``average`` integer (moving averages), and which are
    ``frozen`` ``at`` which integer.
    """

    latest: Tensor
    direction: Tensor
    often: Tensor
    average: Tensor
    at: Tensor
    frozen: Tensor
    begun: Tensor

    def __init__(self, like: WeightQuantizer, channels: int, weight: Tensor) -> None:
        super().__init__(like, channels)
        for name in ("latest", "direction", "often", "average", "at"):
            self.register_buffer(name, torch.zeros(weight.shape))
        self.register_buffer("frozen", torch.zeros(weight.shape, dtype=torch.bool))
        self.register_buffer("begun", torch.tensor(False))

    def rounded(self, weight: Tensor, scale: Tensor) -> Tensor:
        return torch.where(self.frozen, self.at * scale, super().rounded(weight, scale))

    def integers(self, weight: Tensor, step: Tensor) -> Tensor:
        return torch.where(self.frozen, self.at, super().integers(weight, step))

    @torch.no_grad()
    def follow(self, layer: FakeQuantizedLayer, momentum: float, threshold: float | None) -> None:
        """Look at the weight of ``layer`` after a step: f = m o + (1 - m) f, where o says whether
        an integer changed back (equations 4 and 5); those with f > ``threshold`` are frozen at
        their average, none if it is None (algorithm 1)."""
        steps, unit = layer.steps
        now = self.integers(steps, torch.ones_like(unit))
        if not self.begun:
            self.latest.copy_(now)
            self.average.copy_(now)
            self.begun.fill_(True)
        moved = (now - self.latest).sign()
        self.often.lerp_((moved * self.direction < 0).float(), momentum)
        self.average.lerp_(now, momentum)
        self.direction.copy_(torch.where(moved == 0, self.direction, moved))
        self.latest.copy_(now)
        if threshold is None:
            return
        fresh = (self.often > threshold) & ~self.frozen
        self.at.copy_(torch.where(fresh, self.nearest(self.average), self.at))
        self.frozen |= fresh
        weight = layer.layer.weight
        weight.copy_(torch.where(self.frozen, self.at * unit, weight))
