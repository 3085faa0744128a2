"""Steps and ranges that are learned, each as a factor of a reference value.

The parameter is a logarithm that starts at 0, so that a rate that suits the weights suits it: a
step of 1e-4 that is learned as it is moves by several times its size at Adam's usual rates.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from qstrategies.quantization.activation_quantizers import ActivationQuantizer
from qstrategies.quantization.observers import on_grid
from qstrategies.quantization.quantizers import WeightQuantizer
from qstrategies.quantization.scales import (
    SMALLEST_SCALE,
    fake_quantize,
    power_of_two_above,
    straight_through,
)


def scaled_gradient(value: Tensor, factor: float) -> Tensor:
    """``value``, whose gradient is multiplied by ``factor``."""
    return value.detach() + (value - value.detach()) * factor


def lsq_step(reference: Tensor, log_factor: Tensor, elements: float) -> Tensor:
    """``reference * exp(log_factor)`` with LSQ's gradient scale 1 / sqrt(``elements``) (arXiv
    1902.08153, section 2.2), which Adam takes no notice of."""
    return scaled_gradient(reference * log_factor.exp(), 1 / math.sqrt(elements))


class LearnedStep(WeightQuantizer):
    """A step as LSQ learns it, per channel or per tensor.

    The reference is what LSQ begins with, 2 mean |w| / sqrt(q) from level to level with q levels
    above zero, but no wider than the weights, which would waste levels at 8 bits. It is that of the
    present weight, so that the step goes along with the batch normalization that is folded into it.
    """

    def __init__(self, like: WeightQuantizer, channels: int) -> None:
        super().__init__(like.bits, **like.settings)
        self.log_factor = nn.Parameter(torch.zeros(channels if like.per_channel else 1))

    def reference(self, groups: Tensor) -> Tensor:
        """The step [groups] before anything is learned, for weights [groups, weights]."""
        sizes = groups.abs()
        spacing = self.level_set.spacing
        first = 2 * sizes.mean(1) / math.sqrt(self.quant_max / spacing) / spacing
        return torch.minimum(first, sizes.amax(1) / self.quant_max).clamp(min=SMALLEST_SCALE)

    def step(self, rows: Tensor) -> Tensor:
        groups = rows.reshape(len(self.log_factor), -1)
        return lsq_step(self.reference(groups), self.log_factor, groups.shape[1] * self.quant_max)


class PowerOfTwoStep(LearnedStep):
    """A threshold learned by its base-2 logarithm: the step is the power of two above it / q (TQT,
    arXiv 1903.08066, section 3.3)."""

    def reference(self, groups: Tensor) -> Tensor:
        """Three standard deviations, the paper's first threshold, or the largest weight."""
        spread = 3 * groups.square().mean(1).sqrt()
        return (
            torch.minimum(spread, groups.abs().amax(1)).clamp(min=SMALLEST_SCALE) / self.quant_max
        )

    def step(self, rows: Tensor) -> Tensor:
        groups = rows.reshape(len(self.log_factor), -1)
        return power_of_two_step(self.reference(groups), self.log_factor)

    def exported_scale(self, weight: Tensor) -> Tensor:
        scale = super().exported_scale(weight)
        return straight_through(power_of_two_above(scale.detach()), scale)


def power_of_two_step(reference: Tensor, log2_factor: Tensor) -> Tensor:
    """The power of two above ``reference * 2^log2_factor``."""
    return along(power_of_two_above((reference * log2_factor.exp2()).detach()), log2_factor)


def along(step: Tensor, log2_factor: Tensor) -> Tensor:
    """``step``, with the gradient ln 2 * step of ``log2_factor``: rounding up is passed straight
    through."""
    return step * (log2_factor - log2_factor.detach()).exp2()


class LearnedRange(ActivationQuantizer):
    """A range that starts at that of the first batch and grows or shrinks by one learned factor, as
    the step of LSQ."""

    low: Tensor
    high: Tensor
    started: Tensor

    def __init__(self, like: ActivationQuantizer) -> None:
        super().__init__(like.observer)
        self.log_factor = nn.Parameter(torch.zeros(1))
        self.register_buffer("low", torch.zeros(1))
        self.register_buffer("high", torch.full((1,), float(self.quant_max)))
        self.register_buffer("started", torch.tensor(False))
        self.features = 1

    @property
    def figures(self) -> Tensor | None:
        return torch.cat([self.low, self.high, self.log_factor.detach()]) if self.started else None

    @property
    def steps(self) -> int:
        """How many steps the range has."""
        return self.quant_max - self.quant_min

    def begin(self, x: Tensor) -> None:
        """Take the range of the first batch: its ends, or LSQ's 2 mean |x| / sqrt(steps) per step
        where that is less."""
        low, high = (end.float().reshape(1) for end in torch.aminmax(x))
        low, high = low.clamp(max=0), high.clamp(min=0)
        lsq = 2 * x.abs().mean(dtype=torch.float32) * math.sqrt(self.steps)
        share = (lsq / (high - low).clamp(min=SMALLEST_SCALE)).clamp(max=1)
        self.low.copy_(low * share)
        self.high.copy_((high * share).clamp(min=SMALLEST_SCALE))
        self.started.fill_(True)

    def observe(self, x: Tensor) -> Tensor:
        seen = super().observe(x)
        if not self.started:
            self.begin(seen)
        return seen

    def forward(self, x: Tensor) -> Tensor:
        if self.training and not self.started:
            self.begin(x.detach())
        if not self.started:
            return x
        self.features = x.shape[1:].numel()
        return self.fake_quantized(x)

    def fake_quantized(self, x: Tensor) -> Tensor:
        """``x`` rounded, once the range has begun."""
        scale, zero_point = self.renewed()
        return fake_quantize(x, scale, zero_point, self.quant_min, self.highest)

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        factor = self.log_factor.detach().exp()
        scale, zero_point = on_grid(self.observer, self.low * factor, self.high * factor)
        return straight_through(scale, self.step()), zero_point

    def step(self) -> Tensor:
        """The wanted step, with its gradient."""
        reference = (self.high - self.low) / self.steps
        return lsq_step(reference, self.log_factor, self.features * self.steps)


class PowerOfTwoRange(LearnedRange):
    """A threshold learned by its base-2 logarithm, as TQT's."""

    def begin(self, x: Tensor) -> None:
        low, high = (end.float().reshape(1) for end in torch.aminmax(x))
        self.low.copy_(low.clamp(max=0))
        self.high.copy_(high.clamp(min=SMALLEST_SCALE))
        self.started.fill_(True)

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        factor = self.log_factor.detach().exp2()
        scale, zero_point = on_grid(
            self.observer, self.low * factor, self.high * factor, exact=True
        )
        return along(scale, self.log_factor), zero_point


class ClippedRange(LearnedRange):
    """PACT (arXiv 1805.06085, equations 1 to 3): values of a ReLU clipped at alpha, which starts at
    ``first`` or at the largest value of the first batch. Signed tensors keep their observed range.
    """

    def __init__(self, like: ActivationQuantizer, first: float) -> None:
        super().__init__(like)
        self.first = first

    @property
    def alpha(self) -> Tensor:
        """Where values are clipped, [1], before the grid rounds it up."""
        return self.high * self.log_factor.exp()

    def begin(self, x: Tensor) -> None:
        low, high = torch.aminmax(x)
        self.low.fill_(low)
        self.high.fill_(min(self.first, max(float(high), SMALLEST_SCALE)))
        self.started.fill_(True)

    def fake_quantized(self, x: Tensor) -> Tensor:
        if self.low < 0:
            return ActivationQuantizer.forward(self, x)
        scale, _ = self.renewed()
        clipped: Tensor = _Clipped.apply(x, self.alpha, scale, self.highest)
        return clipped

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        if self.low < 0:
            return ActivationQuantizer.calculate_qparams(self)
        return on_grid(self.observer, torch.zeros_like(self.high), self.alpha.detach())


class _Clipped(torch.autograd.Function):
    """Values in [0, high] rounded; what is cut off above passes its gradient to alpha."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, _: Tensor, scale: Tensor, quant_max: int) -> Tensor:
        cast = scale.to(x.dtype)
        high = quant_max * cast
        ctx.save_for_backward((x >= 0) & (x < high), x >= high)
        return torch.clamp(x, torch.zeros_like(high), high).div_(cast).round_().mul_(cast)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        inside, above = ctx.saved_tensors
        of_alpha = (gradients[0] * above).sum(dtype=torch.float32).reshape(1)
        return gradients[0] * inside, of_alpha, None, None


def learned_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Those of all steps and ranges of ``model``."""
    kinds = (LearnedStep, LearnedRange)
    return [each.log_factor for each in model.modules() if isinstance(each, kinds)]


def annealed(progress: float, start: float) -> float:
    """From 0 until ``start`` to 1 at the end of training, along a cosine."""
    share = (progress - start) / (1 - start) if start < 1 else 0.0
    return (1 - math.cos(math.pi * max(0.0, share))) / 2
