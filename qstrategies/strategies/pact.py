"""https://arxiv.org/abs/1805.06085: parameterized clipping activation (Choi et al., 2018).

y = clip(x, 0, alpha), rounded to uint8 (equations 1 and 2); dalpha is the sum of the gradients
where x >= alpha (equation 3), and ``decay`` * alpha^2 is added to the loss (section 3). Only for
ReLU-like tensors; signed ones keep their observed range. Weights are rounded as in qat.

Here alpha is learned as a factor of its first value, by its logarithm; that is 6, or the largest
value of the first batch where this is less, as 8 bits need no clipping to begin with.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qstrategies.quantization.activation_quantizers import ActivationQuantizer
from qstrategies.quantization.learned import ClippedRange
from qstrategies.quantization.quantizers import QuantizerSite
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import QAT, Option, Step, Strategy


@STRATEGIES.register("pact")
class Pact(Strategy):
    """Learned clipping of activations."""

    summary = "QAT with activations clipped at a learned value"
    group = "learned steps"
    paper = "https://arxiv.org/abs/1805.06085"
    course = QAT
    observer = "moving_average"
    options = {
        "alpha": Option(6.0, 1e-3, 1e6, "where activations are clipped at first"),
        "decay": Option(1e-4, 0, 10, "factor of the squares of alpha in the loss"),
    }

    def activation_quantizer(
        self, site: QuantizerSite, default: ActivationQuantizer
    ) -> ActivationQuantizer:
        return ClippedRange(default, self.values["alpha"])

    def loss(self, model: nn.Module, step: Step) -> Tensor | None:
        ranges = [each for each in model.modules() if isinstance(each, ClippedRange)]
        alphas = [each.alpha for each in ranges if each.low >= 0]
        return self.values["decay"] * torch.cat(alphas).square().sum() if alphas else None
