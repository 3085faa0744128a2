"""Ranges of activations whose step and offset are learned apart (LSQ+: Bhalgat et al., arXiv
2004.09576)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from qstrategies.quantization.activation_quantizers import ActivationQuantizer
from qstrategies.quantization.learned import LearnedRange, scaled_gradient
from qstrategies.quantization.observers import on_grid
from qstrategies.quantization.scales import SMALLEST_SCALE


class LearnedOffset(LearnedRange):
    """``x_ = clip(round((x - beta) / s), 0, p)``, ``y = s x_ + beta``; both are learned in units of
    the range of the first batch.

    What is rounded to is the exported grid: its zero point, the integer next to ``-beta / s``, even
    where scales are exact, and zero is in the range.
    """

    def __init__(self, like: ActivationQuantizer) -> None:
        super().__init__(like)
        self.offset = nn.Parameter(torch.zeros(1))

    @property
    def figures(self) -> Tensor | None:
        found = super().figures
        return None if found is None else torch.cat([found, self.offset.detach()])

    def begin(self, x: Tensor) -> None:
        low, high = (end.float().reshape(1) for end in torch.aminmax(x))
        self.low.copy_(low.clamp(max=0))
        self.high.copy_(high.clamp(min=0).maximum(self.low + SMALLEST_SCALE))
        self.started.fill_(True)

    def beta(self) -> Tensor:
        """The wanted offset [1], with the gradient scale of the step."""
        moved = self.low + self.offset * (self.high - self.low)
        return scaled_gradient(moved, (self.features * self.steps) ** -0.5)

    def fake_quantized(self, x: Tensor) -> Tensor:
        scale, zero_point = self.renewed()
        ends = (self.quant_min - zero_point, self.highest - zero_point)
        found: Tensor = _Offset.apply(x, self.step(), self.beta(), scale, ends)
        return found

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        low, step = self.beta().detach(), self.step().detach()
        return on_grid(self.observer, low.clamp(max=0), (low + self.steps * step).clamp(min=0))


class _Offset(torch.autograd.Function):
    """Values rounded to multiples of ``scale`` from ``ends[0]`` to ``ends[1]``; ``ds`` gets ``x_ -
    (x - beta) / s`` inside of the range and 0 or p outside, ``dbeta`` 0 inside and 1 outside."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, _: Tensor, __: Tensor, scale: Tensor, ends: Any) -> Tensor:
        cast = scale.to(x.dtype)
        low, high = (end * cast for end in ends)
        rounded = torch.clamp(x, low, high).div_(cast).round_().mul_(cast)
        ctx.save_for_backward(x >= low, x <= high, rounded - x, scale)
        ctx.steps = int(ends[1] - ends[0])
        return rounded

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        over, under, apart, scale = ctx.saved_tensors
        inside, g = over & under, gradients[0]
        by_step = torch.where(inside, apart / scale, torch.where(under, 0.0, float(ctx.steps)))
        sums = [(g * each).sum(dtype=torch.float32).reshape(1) for each in (by_step, ~inside)]
        return g * inside, *sums, None, None


def offsets(model: nn.Module) -> list[nn.Parameter]:
    """The learned offsets of all ranges of ``model``."""
    return [each.offset for each in model.modules() if isinstance(each, LearnedOffset)]
