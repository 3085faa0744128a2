"""https://arxiv.org/abs/1903.08066: trained quantization thresholds (Jain et al., 2020).

s = 2^ceil(log2 t) / 2^(b - 1) with log2 t learned (equations 2 to 8): d log2 t gets s ln 2 times
round(x / s) - x / s inside of the range and its end outside. Weights begin at three standard
deviations, thresholds have Adam's rate 0.01 (section 5.2).

Here the levels are narrow, so that s = 2^ceil(log2(t / q)); thresholds are per channel where scales
are (the paper's are per tensor), and activations begin at the ends of the first batch.
"""

from __future__ import annotations

from torch import nn

from qstrategies.quantization.activation_quantizers import ActivationQuantizer
from qstrategies.quantization.learned import PowerOfTwoRange, PowerOfTwoStep, learned_parameters
from qstrategies.quantization.quantizers import QuantizerSite, WeightQuantizer
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import QAT, Option, ParameterGroup, Strategy


@STRATEGIES.register("tqt")
class Tqt(Strategy):
    """All scales are powers of two, whose thresholds are trained."""

    summary = "QAT with learned power-of-two scales"
    group = "learned steps"
    paper = "https://arxiv.org/abs/1903.08066"
    course = QAT
    observer = "moving_average"
    options = {"threshold_rate": Option(0.01, 0, 10, "learning rate of log2 of the thresholds")}

    def weight_quantizer(
        self, site: QuantizerSite, default: WeightQuantizer
    ) -> WeightQuantizer | None:
        assert site.weight is not None
        return PowerOfTwoStep(default, len(site.weight))

    def activation_quantizer(
        self, site: QuantizerSite, default: ActivationQuantizer
    ) -> ActivationQuantizer:
        return PowerOfTwoRange(default)

    def parameter_groups(self, model: nn.Module, rate: float) -> list[ParameterGroup]:
        settings = {"lr": self.values["threshold_rate"], "weight_decay": 0.0}
        return [ParameterGroup(learned_parameters(model), settings)]
