"""Weights whose sums fit an accumulator of few bits, whatever flows in (A2Q, arXiv 2308.13504)."""

from __future__ import annotations

import torch
from torch import Tensor

from qstrategies.errors import InputError
from qstrategies.operators.base import HIGHEST
from qstrategies.operators.transposed import is_transposed
from qstrategies.quantization.fake_quantized import FakeQuantizedLayer
from qstrategies.quantization.learned import LearnedStep
from qstrategies.quantization.quantizers import QuantizerSite, WeightQuantizer
from qstrategies.quantization.scales import SMALLEST_SCALE, straight_through

SHARE_OF_BIAS = 1 / 4
"""Of the largest accumulator; products have the rest."""
BELOW = 1 - 2.0**-20
"""Keeps float32's rounding of norms within the bound."""


class BoundedStep(LearnedStep):
    """A learned step; weights are scaled down to an l1 norm of at most ``largest_norm`` steps, then
    rounded towards zero, which keeps it.

    Partial sums of products in any order, and the bias with them,
    stay within [-largest, largest], ``largest`` = 2^(accumulator_bits - 1) - 1. ``centred`` takes
    the mean from each output channel, so that either sign has half of the norm: twice the norm fits
    (A2Q+, arXiv 2401.10432, section 3.1).

    Raises:
        InputError: a transposed convolution, whose kernels have no scale per output channel.
    """

    def __init__(
        self, like: WeightQuantizer, site: QuantizerSite, accumulator_bits: int, *, centred: bool
    ) -> None:
        assert site.weight is not None
        if is_transposed(site.layer):
            raise InputError(
                f"{site.name!r} is a transposed convolution, which has no bound: leave it in float"
            )
        super().__init__(like, len(site.weight))
        largest = 2 ** (accumulator_bits - 1) - 1
        bias = int(SHARE_OF_BIAS * largest)
        self.centred = centred
        self.largest_bias = min(self.largest_bias, bias - 1)  # steps are rounded
        self.largest_norm = BELOW * (2 if centred else 1) * (largest - bias) / HIGHEST

    def step(self, rows: Tensor) -> Tensor:
        """From max |w| / q on, or from where the norm fits: a finer step has the same integers
        there, of a weight that is scaled down."""
        rows = self._centred(rows)
        largest = rows.abs().amax(1) / self.quant_max
        fitting = rows.abs().sum(1) / self.largest_norm
        wanted = torch.maximum(largest, fitting).clamp(min=SMALLEST_SCALE)
        reference = wanted if self.per_channel else wanted.max().reshape(1)
        return reference * self.log_factor.exp()

    def on_grid(self, rows: Tensor, step: Tensor) -> Tensor:
        return super().on_grid(self._centred(rows), step)

    def excess(self, weight: Tensor, scale: Tensor | float) -> Tensor:
        """The l1 norm of each output channel [out_channels] over the largest that is allowed."""
        norm = (self._centred(weight) / scale).flatten(1).abs().sum(1)
        return norm / self.largest_norm

    def bounded(self, weight: Tensor, scale: Tensor) -> Tensor:
        """The real weight that fits; ``scale`` is shaped to go with it."""
        shrink = 1 / self.excess(weight, scale).clamp(min=1)
        return self._centred(weight) * shrink.reshape(-1, *[1] * (weight.dim() - 1))

    def rounded(self, weight: Tensor, scale: Tensor) -> Tensor:
        steps = self.bounded(weight, scale) / scale
        inside = steps.clamp(self.quant_min, self.quant_max)
        return straight_through(inside.detach().trunc(), inside) * scale

    def integers(self, weight: Tensor, step: Tensor) -> Tensor:
        steps = self.bounded(weight.double(), step.double()) / step
        return steps.trunc().clamp(self.quant_min, self.quant_max)

    def _centred(self, weight: Tensor) -> Tensor:
        if not self.centred:
            return weight
        return weight - weight.mean(tuple(range(1, weight.dim())), keepdim=True)


def bounded_step(layer: FakeQuantizedLayer) -> BoundedStep:
    """The quantizer of ``layer``, which is one of these."""
    assert isinstance(layer.quantizer, BoundedStep)
    return layer.quantizer


def excess(layer: FakeQuantizedLayer) -> Tensor:
    """The l1 norms [out_channels] of the weights of ``layer`` over the largest that is allowed."""
    return bounded_step(layer).excess(layer.steps[0], 1.0)


def onto_ball(rows: Tensor, radius: float) -> Tensor:
    """The points nearest to ``rows`` [n, k] with an l1 norm of at most ``radius`` (Duchi et al.,
    ICML 2008, figure 1)."""
    sizes = rows.abs()
    descending = sizes.sort(1, descending=True).values
    counts = torch.arange(1, rows.shape[1] + 1, device=rows.device)
    thresholds = (descending.cumsum(1) - radius) / counts
    last = (descending > thresholds).sum(1, keepdim=True).clamp(min=1) - 1
    threshold = thresholds.gather(1, last).clamp(min=0)
    return rows.sign() * (sizes - threshold).clamp(min=0)
