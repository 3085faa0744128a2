"""https://arxiv.org/abs/2503.15748: piecewise-affine regularized quantization (Jin et al., 2025).

w = prox(u) is used, u is what the optimizer moves by the gradient at w (AProx). Between two levels
prox is clip(c + (u - c) / r, lower, upper) with c their middle; the inverse slope r falls from 1 to
0 along a sigmoid between ``start`` and ``end`` of training, (f(x) - f(1)) / (f(0) - f(1)) with f(x)
= 1 / (1 + exp(steepness (x - 1 / 2))): read in the authors' code. In the end it is rounding with
the straight-through estimator. Published: steepness 10; the end is a setting of each training.

Levels are those of qat. Where the loop does not say how long it trains, r is 0 after one step.
"""

from __future__ import annotations

from torch import nn

from qstrategies.quantization.proximal import ProximalStep, falling
from qstrategies.quantization.quantizers import QuantizerSite, WeightQuantizer
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import QAT, Option, Step, Strategy


@STRATEGIES.register("parq")
class Parq(Strategy):
    """Weights that become discrete on the way."""

    summary = "QAT whose weights are drawn to their levels more and more, rounded in the end"
    paper = "https://arxiv.org/abs/2503.15748"
    course = QAT
    observer = "moving_average"
    options = {
        "steepness": Option(10.0, 0.1, 100, "of the sigmoid that the inverse slope falls along"),
        "start": Option(0.0, 0, 0.99, "part of the training before it begins to fall"),
        "end": Option(0.75, 0, 1, "part of the training after which weights are rounded"),
    }

    def weight_quantizer(self, site: QuantizerSite, default: WeightQuantizer) -> WeightQuantizer:
        return ProximalStep(default)

    def after_step(self, model: nn.Module, step: Step) -> None:
        span = max(self.values["end"] - self.values["start"], 1e-9)
        done = min(max((step.progress - self.values["start"]) / span, 0.0), 1.0)
        for each in model.modules():
            if isinstance(each, ProximalStep):
                each.inverse_slope.fill_(falling(done, self.values["steepness"]))
