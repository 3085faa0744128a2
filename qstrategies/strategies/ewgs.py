"""https://arxiv.org/abs/2104.00903: network quantization with element-wise gradient scaling (Lee et
al., 2021).

The gradient that passes the rounding of weights is g * (1 + delta * sign(g) * (v - round(v)))
(equation 6), v in steps: a weight moves faster towards the middle of its bin than away from it.
delta is fixed, as in the code of arXiv 2203.11086 (the paper takes Hessian traces on a range of 1).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, autograd

from qstrategies.quantization.quantizers import QuantizerSite, WeightQuantizer
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import QAT, Option, Strategy


class _Scaled(autograd.Function):
    """What is rounded already, with the gradient above for the weight in steps."""

    @staticmethod
    def forward(ctx: Any, rounded: Tensor, apart: Tensor, delta: float) -> Tensor:
        ctx.save_for_backward(apart)
        ctx.delta = delta
        return rounded.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (apart,), (g,) = ctx.saved_tensors, gradients
        return g * (1 + ctx.delta * g.sign() * apart), None, None


class ScaledStep(WeightQuantizer):
    """Rounds as the plain quantizer does, with the scaled gradient."""

    def __init__(self, like: WeightQuantizer, delta: float) -> None:
        super().__init__(like.bits, **like.settings)
        self.delta = delta

    def rounded(self, weight: Tensor, scale: Tensor) -> Tensor:
        whole = super().rounded(weight, scale)
        apart: Tensor = ((weight - whole) / (scale * self.level_set.spacing)).detach()
        scaled: Tensor = _Scaled.apply(whole, apart.clamp(-0.5, 0.5), self.delta)
        return scaled


@STRATEGIES.register("ewgs")
class Ewgs(Strategy):
    """Gradients that know how far rounding has moved a weight."""

    summary = "QAT with gradients scaled by how far each weight is rounded"
    paper = "https://arxiv.org/abs/2104.00903"
    course = QAT
    observer = "moving_average"
    options = {"delta": Option(0.2, 0, 10, "how much a whole step apart scales the gradient")}

    def weight_quantizer(self, site: QuantizerSite, default: WeightQuantizer) -> WeightQuantizer:
        return ScaledStep(default, self.values["delta"])
