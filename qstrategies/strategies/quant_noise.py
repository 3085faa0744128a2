"""https://arxiv.org/abs/2004.07320: training with quantization noise (Fan et al., 2021).

In each forward pass of training only a random ``share`` of the weights is rounded (equation 5), so
that the others get unbiased gradients; here elementwise, with steps of the range as in qat. All
are rounded in evaluation and for export.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qstrategies.quantization.quantizers import QuantizerSite, WeightQuantizer
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import QAT, Option, Strategy


class NoisyStep(WeightQuantizer):
    """Rounds a random part of what it sees in training."""

    def __init__(self, like: WeightQuantizer, share: float) -> None:
        super().__init__(like.bits, **like.settings)
        self.share = share

    def rounded(self, weight: Tensor, scale: Tensor) -> Tensor:
        whole = super().rounded(weight, scale)
        if not self.training or self.share == 1:
            return whole
        return torch.where(torch.rand_like(weight) < self.share, whole, weight)


@STRATEGIES.register("quant_noise")
class QuantNoise(Strategy):
    """Gradients of weights that are not rounded reach the model too."""

    summary = "QAT with a random part of the weights rounded at each step"
    paper = "https://arxiv.org/abs/2004.07320"
    course = QAT
    observer = "moving_average"
    options = {"share": Option(0.5, 0, 1, "of the weights that are rounded at a step")}

    def weight_quantizer(
        self, site: QuantizerSite, default: WeightQuantizer
    ) -> WeightQuantizer | None:
        return NoisyStep(default, self.values["share"])
