"""https://arxiv.org/abs/2308.13504: accumulator-aware quantization (Colbert et al., 2023).

Per output channel q = clip(trunc(w / s)), w = v min(1, T s / ||v||_1), where an input of N bits and
an accumulator of P leave T = (2^(P-1) - 1) / (2^N - 1) (equations 12 to 21, without sign); a norm
beyond the bound costs penalty * max(log2 ||v||_1 - log2(T s), 0) (equation 22). Truncation is what
keeps the bound on integers. Steps are learned by their logarithms.

Here steps begin at max |w| / q or at ||v||_1 / T, the same integers at the scale of the weights;
the length of v is learned in v itself; a quarter of the accumulator is for the bias, so that
the bound is one of the whole sum (of exact scales); all layers are bounded, first and last too.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qstrategies.quantization.accumulators import BoundedStep, excess
from qstrategies.quantization.learned import learned_parameters
from qstrategies.quantization.qat import FakeQuantizedModel
from qstrategies.quantization.quantizers import QuantizerSite, WeightQuantizer
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import QAT, Option, ParameterGroup, Step, Strategy


@STRATEGIES.register("a2q")
class A2q(Strategy):
    """Weights whose sums cannot overflow an accumulator of the bits asked for."""

    summary = "QAT with weights that no accumulator of so many bits overflows on"
    group = "accumulators"
    paper = "https://arxiv.org/abs/2308.13504"
    course = QAT
    observer = "moving_average"
    refused_levels = {"no_zero": "rounding towards zero, which keeps the bound, needs a zero"}
    options = {
        "accumulator_bits": Option(16, 10, 32, "bits of every accumulator, with sign"),
        "penalty": Option(1e-3, 0, 100, "factor of what norms exceed the bound by, in octaves"),
    }
    centred = False

    def weight_quantizer(
        self, site: QuantizerSite, default: WeightQuantizer
    ) -> WeightQuantizer | None:
        bits = int(self.values["accumulator_bits"])
        return BoundedStep(default, site, bits, centred=self.centred)

    def parameter_groups(self, model: nn.Module, rate: float) -> list[ParameterGroup]:
        return [ParameterGroup(learned_parameters(model), {"weight_decay": 0.0})]

    def loss(self, model: nn.Module, step: Step) -> Tensor | None:
        assert isinstance(model, FakeQuantizedModel)
        excesses = [excess(layer) for layer in model.layers]
        if not excesses:
            return None
        return self.values["penalty"] * torch.cat(excesses).clamp(min=1).log2().sum()
