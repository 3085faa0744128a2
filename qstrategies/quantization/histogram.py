"""Scales of activations by the squared error on what was observed, clipping included.

The smallest power of two that covers a range is up to twice as coarse as needed. The next smaller
ones clip what lies at the ends, and may still be the better choice.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from qstrategies.quantization.scales import (
    SMALLEST_STEP,
    exact_activation_qparams,
    power_of_two_above,
)

HALF = 2**11  # bins on either side of 0: at least 4 in the finest step that is tried
SAMPLE = 2**12  # values of a tensor that are counted, and its ends
NARROWEST = SMALLEST_STEP / HALF
CLIPPED = 32.0
"""How much worse an error of clipping is than one of rounding of the same size: it has the same
sign and place in all channels, and what comes after calibration may be larger than it."""
FINER = (1.0, 0.5, 0.25)
"""The scales that are tried, beside the one that covers the range."""


class ExactHistogramObserver(nn.Module):
    """The range of all values, and how often a sample of them came near each multiple of a power of
    two. ``calculate_qparams`` gives the power-of-two scale and even zero point of the least error.
    """

    low: Tensor
    high: Tensor
    width: Tensor
    counts: Tensor
    seen: Tensor

    def __init__(self, *, quant_min: int, quant_max: int, **_: Any) -> None:
        super().__init__()
        self.quant_min, self.quant_max = quant_min, quant_max
        for name in ("low", "high", "width"):
            self.register_buffer(name, torch.zeros(1))
        self.register_buffer("seen", torch.tensor(False))
        self.register_buffer("counts", torch.zeros(2 * HALF + 1, dtype=torch.long))

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        if not x.numel():
            return x
        self.seen.fill_(True)
        # two passes of these take less time than torch.aminmax
        low, high = x.detach().amin().float(), x.detach().amax().float()
        self.low, self.high = torch.minimum(self.low, low), torch.maximum(self.high, high)
        largest = torch.maximum(-self.low, self.high)
        if 0 < float(largest) < math.inf:
            if largest > HALF * self.width:
                self._widen(power_of_two_above((largest / HALF).clamp(min=NARROWEST)))
            values = torch.cat([sample(x.detach()).float(), low[None], high[None]])
            self.counts += self._binned(torch.round(values / self.width))
        return x

    def _widen(self, width: Tensor) -> None:
        """Let the bins be ``width`` apart, more than they are: those between are joined."""
        if self.counts.any():
            places = torch.round(self._places() * self.width / width)
            self.counts = self._binned(places, self.counts)
        self.width = width

    def _places(self) -> Tensor:
        return torch.arange(-HALF, HALF + 1, device=self.counts.device)

    def _binned(self, places: Tensor, weights: Tensor | None = None) -> Tensor:
        return torch.bincount(places.long() + HALF, weights, len(self.counts)).long()

    def filling(self) -> float:
        """The factor below 2 with which the range fills what a power of two covers; 1 for a range
        that is not finite, or smaller than the finest scale covers."""
        span = self.high - self.low
        if not torch.isfinite(span) or self.step < SMALLEST_STEP:
            return 1.0
        covering = self._covering()[0] * (self.quant_max - self.quant_min)
        return float(covering / span * (1 - 2.0**-20))  # so that no rounding leads beyond

    @property
    def step(self) -> float:
        """The scale that would cover the range and no more."""
        return float(self.high - self.low) / (self.quant_max - self.quant_min)

    def enlarge(self, factor: float) -> None:
        """From now on all values count as ``factor`` times as large."""
        for figure in (self.low, self.high, self.width):
            figure *= factor

    def _covering(self) -> tuple[Tensor, Tensor]:
        return exact_activation_qparams(self.low, self.high, self.quant_min, self.quant_max)

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point, float32 and int64 [1]."""
        limits = (self.quant_min, self.quant_max)
        covering = self._covering()
        if not self.counts.any() or not torch.isfinite(self.high - self.low):
            return covering
        filled = self.counts.nonzero().flatten()
        values, counts = self._places()[filled] * self.width, self.counts[filled]
        scales, zero_points = self._candidates(covering[0])
        errors = squared_errors(values, scales[:, None], zero_points[:, None], *limits)
        best = (errors * counts).sum(1).argmin()
        return scales[best][None], zero_points[best][None]

    def _candidates(self, covering: Tensor) -> tuple[Tensor, Tensor]:
        """Scales and even zero points [n]: those that clip nothing below, above, or both alike."""
        scales = covering * torch.tensor(FINER, device=covering.device)
        scales = scales.clamp(min=SMALLEST_STEP)
        lower = self.quant_min - self.low / scales
        upper = self.quant_max - self.high / scales
        fitting = torch.stack([lower, upper, (lower + upper) / 2])
        if self.low == 0:
            fitting = torch.full_like(fitting[:1], self.quant_min)
        zero_points = self.quant_min + 2 * torch.round((fitting - self.quant_min) / 2)
        zero_points = zero_points.clamp(self.quant_min, self.quant_max - 1)
        return scales.expand_as(zero_points).flatten(), zero_points.flatten().long()


def squared_errors(
    values: Tensor, scale: Tensor, zero_point: Tensor, quant_min: int, quant_max: int
) -> Tensor:
    """What quantization changes in ``values``, squared; where it clips, ``CLIPPED`` times that."""
    steps = torch.round(values / scale)
    kept = torch.clamp(steps, quant_min - zero_point, quant_max - zero_point)
    return (kept * scale - values).square() * torch.where(kept == steps, 1.0, CLIPPED)


def sample(x: Tensor) -> Tensor:
    """At most about ``SAMPLE`` values of ``x``, spread evenly over all its dimensions."""
    stride = max(1, x.numel() // SAMPLE)
    while math.gcd(stride, x.numel()) > 1:
        stride += 1
    return x.flatten()[::stride]
