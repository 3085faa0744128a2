"""https://arxiv.org/abs/1902.08153: learned step size quantization (Esser et al., 2020).

v = s * clip(round(v / s), -q, q) with s learned (equations 1 to 3): ds gets round(v / s) - v / s
inside of the range and -q or q outside, times 1 / sqrt(N q) (section 2.2), for weights and for
activations; s begins at 2 mean |v| / sqrt(q) (section 2.1), for activations of the first batch.

Here the levels are narrow, the last layers have as many bits as the others, and s is a factor that
is learned by its logarithm (``quantization/learned.py``), as its size says nothing of its rate.
"""

from __future__ import annotations

from torch import nn

from qstrategies.quantization.activation_quantizers import ActivationQuantizer
from qstrategies.quantization.learned import LearnedRange, LearnedStep, learned_parameters
from qstrategies.quantization.quantizers import QuantizerSite, WeightQuantizer
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import QAT, Option, ParameterGroup, Strategy


@STRATEGIES.register("lsq")
class Lsq(Strategy):
    """The steps of weights and activations are trained with the weights."""

    summary = "QAT with learned steps of weights and activations"
    group = "learned steps"
    paper = "https://arxiv.org/abs/1902.08153"
    course = QAT
    observer = "moving_average"
    options = {"step_rate": Option(1.0, 0, 100, "rate of the steps over that of the weights")}

    def weight_quantizer(
        self, site: QuantizerSite, default: WeightQuantizer
    ) -> WeightQuantizer | None:
        assert site.weight is not None
        return LearnedStep(default, len(site.weight))

    def activation_quantizer(
        self, site: QuantizerSite, default: ActivationQuantizer
    ) -> ActivationQuantizer:
        return LearnedRange(default)

    def parameter_groups(self, model: nn.Module, rate: float) -> list[ParameterGroup]:
        settings = {"lr": rate * self.values["step_rate"], "weight_decay": 0.0}
        return [ParameterGroup(learned_parameters(model), settings)]
